// What this machine offers and what the package makes of it, as plain data and as text: for `whetstone doctor` and bug
// reports. Works when the addon cannot be loaded, and says why. Nothing is changed. GPUs are in doctor-cuda.ts.

import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism, cpus, freemem, release, totalmem } from 'node:os'
import { join } from 'node:path'
import { checkArgument, having } from '../base/arguments.js'
import { messageOf } from '../base/errors.js'
import { type FoundAddon, findAddon, loadAddon, type NativeCpu, packageRoot } from './addon.js'
import { type CudaReport, cudaFacts, examineCuda, gigabytes } from './doctor-cuda.js'
import { allowedCpus, physicalCores, quotaCpus } from './machine.js'

/** The CPU and the instruction-set level that kernels will use. */
export interface CpuReport {
  readonly model: string
  /** Levels that this machine and build have, from low to high; empty when the addon did not load. */
  readonly levels: readonly string[]
  /** Why the highest level, `amx`, is not among them; empty when it is, or when the addon did not load. */
  readonly amx: string
  /** The level that will be used; null when none can be. */
  readonly level: string | null
  readonly reason: string
}

/** The number of threads that a device gets when nobody says otherwise. */
export interface ThreadsReport {
  readonly count: number
  readonly reason: string
  /** Hardware threads that this process may run on. */
  readonly allowedCpus: number
  /** Cores that those belong to. */
  readonly physicalCores: number
  /** CPUs that the cgroup pays for; null without a quota. */
  readonly quotaCpus: number | null
}

/** Which addon was found, and whether it loads. */
export interface AddonReport {
  readonly loaded: boolean
  readonly kind: FoundAddon['kind'] | null
  readonly path: string | null
  readonly error: string | null
}

/** Everything that `whetstone doctor` tells. */
export interface DoctorReport {
  readonly whetstone: string
  readonly node: string
  readonly platform: string
  readonly arch: string
  /** Release of the operating system's kernel. */
  readonly kernel: string
  readonly libc: { readonly name: 'glibc' | 'musl' | 'unknown'; readonly version: string | null }
  readonly cpu: CpuReport
  readonly threads: ThreadsReport
  readonly addon: AddonReport
  readonly cuda: CudaReport
  readonly memory: {
    readonly totalBytes: number
    readonly freeBytes: number
    /** What the cgroup allows this process; null without a limit. */
    readonly limitBytes: number | null
  }
  /** The WHETSTONE_* variables that are set. */
  readonly environment: Readonly<Record<string, string>>
  /** What keeps the package from working here; empty when all is well. */
  readonly problems: readonly string[]
}

function libc(): DoctorReport['libc'] {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined
  const version = report?.header?.glibcVersionRuntime
  if (version !== undefined) return { name: 'glibc', version }
  return { name: existsSync('/etc/alpine-release') ? 'musl' : 'unknown', version: null }
}

const variables = (): Record<string, string> =>
  Object.fromEntries(
    Object.entries(process.env)
      .filter((entry): entry is [string, string] => entry[0].startsWith('WHETSTONE_') && entry[1] !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  )

function whereAddon(): Pick<AddonReport, 'kind' | 'path'> {
  try {
    return findAddon()
  } catch {
    return { kind: null, path: null }
  }
}

/** Loads the addon: its report, and what it says of the CPU. */
function examineAddon(): { addon: AddonReport; native: NativeCpu | null } {
  const found = whereAddon()
  try {
    return { addon: { loaded: true, ...found, error: null }, native: loadAddon().cpu() }
  } catch (error) {
    return { addon: { loaded: false, ...found, error: messageOf(error) }, native: null }
  }
}

function examineCpu(native: NativeCpu | null): CpuReport {
  const levels = native?.levels.split(' ').filter(Boolean) ?? []
  const machine = { model: cpus()[0]?.model.trim() || 'unknown', levels, amx: native?.amx ?? '' }
  const wanted = process.env.WHETSTONE_ISA ?? ''
  if (native === null) return { ...machine, level: null, reason: 'unknown without the addon' }
  if (wanted === '') return { ...machine, level: native.best, reason: 'the best of this machine' }
  if (levels.includes(wanted)) return { ...machine, level: wanted, reason: 'WHETSTONE_ISA' }
  return { ...machine, level: null, reason: `WHETSTONE_ISA asks for '${wanted}', which this machine does not have` }
}

function examineThreads(native: number | null): ThreadsReport {
  const allowed = allowedCpus()
  const facts = {
    allowedCpus: allowed.length || availableParallelism(),
    physicalCores: allowed.length > 0 ? physicalCores(allowed) : availableParallelism(),
    quotaCpus: quotaCpus(),
  }
  const wanted = Number(process.env.WHETSTONE_THREADS || 0)
  if (wanted > 0) return { count: wanted, reason: 'WHETSTONE_THREADS', ...facts }
  const limited = facts.quotaCpus !== null && facts.quotaCpus < facts.physicalCores
  const count = native ?? (limited ? Math.max(1, facts.quotaCpus ?? 1) : facts.physicalCores)
  return { count, reason: limited ? 'the quota of the cgroup' : 'physical cores that affinity allows', ...facts }
}

function memoryLimit(): number | null {
  const limit = process.constrainedMemory?.() ?? 0
  return limit > 0 && limit < totalmem() ? limit : null
}

function findProblems(addon: AddonReport, cpu: CpuReport): string[] {
  const problems: string[] = []
  if (addon.error !== null) problems.push(addon.error)
  if (addon.loaded && cpu.level === null) problems.push(cpu.reason)
  for (const name of ['WHETSTONE_THREADS', 'WHETSTONE_MEMORY_LIMIT']) {
    const text = process.env[name] ?? ''
    const value = Number(text || 0)
    if (!Number.isSafeInteger(value) || value < 0) problems.push(`${name} must be a whole number, got '${text}'`)
  }
  return problems
}

function packageVersion(): string {
  try {
    const text = readFileSync(join(packageRoot(), 'package.json'), 'utf8')
    return /"version":\s*"([^"]+)"/.exec(text)?.[1] ?? 'unknown'
  } catch {
    return 'unknown'
  }
}

/** Examines this machine and installation. Never throws: what is wrong is listed under `problems`. */
export function doctor(): DoctorReport {
  const { addon, native } = examineAddon()
  const cpu = examineCpu(native)
  return {
    whetstone: packageVersion(),
    node: process.version,
    platform: process.platform,
    arch: process.arch,
    kernel: release(),
    libc: libc(),
    cpu,
    threads: examineThreads(native?.threads ?? null),
    addon,
    cuda: examineCuda(addon.loaded),
    memory: { totalBytes: totalmem(), freeBytes: freemem(), limitBytes: memoryLimit() },
    environment: variables(),
    problems: findProblems(addon, cpu),
  }
}

const reportParts = ['cpu', 'threads', 'addon', 'cuda', 'memory', 'libc', 'environment', 'problems'] as const

/** The report as text, one fact per line. */
export function formatDoctor(report: DoctorReport): string {
  checkArgument('formatDoctor.report', report, having('what doctor() gives', ...reportParts))
  const { cpu, threads, addon, cuda, memory, libc, environment, problems } = report
  const quota = threads.quotaCpus === null ? 'no quota' : `quota of ${threads.quotaCpus}`
  const limit = memory.limitBytes === null ? '' : `, limited to ${gigabytes(memory.limitBytes)}`
  const set = Object.entries(environment).map(([name, value]) => `${name}=${value}`)
  const facts: [string, string][] = [
    ['whetstone', report.whetstone],
    ['node', report.node],
    [
      'platform',
      `${report.platform}-${report.arch}, kernel ${report.kernel}, ${libc.name} ${libc.version ?? ''}`.trim(),
    ],
    ['addon', addon.loaded ? `${addon.kind}: ${addon.path}` : 'not loaded'],
    ['cpu', cpu.model],
    ['level', `${cpu.level ?? 'none'} (${cpu.reason}; available: ${cpu.levels.join(', ') || 'unknown'})`],
    ...(cpu.amx === '' ? [] : ([['', `no amx: ${cpu.amx}`]] satisfies [string, string][])),
    [
      'threads',
      `${threads.count} (${threads.reason}; ${threads.allowedCpus} CPUs allowed on ${threads.physicalCores} cores, ${quota})`,
    ],
    ...cudaFacts(cuda),
    ['memory', `${gigabytes(memory.totalBytes)}, ${gigabytes(memory.freeBytes)} free${limit}`],
    ['environment', set.join(' ') || 'no WHETSTONE_* variables'],
    ...problems.map((problem): [string, string] => ['PROBLEM', problem]),
  ]
  return facts.map(([name, text]) => `${name.padEnd(12)} ${text}`).join('\n')
}
