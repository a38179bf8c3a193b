// `npm run test:gpu`: everything that needs a GPU, section by section, each in a process of its own, inside eight minutes.
// Prints a table and writes JSON. `--device cpu` is a rehearsal without a GPU; `--json FILE` names the file. Exit codes:
// 0 all passed, 1 something failed or ran out of time, 77 there is no GPU that can be used.

import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { delimiter, dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { runLimited } from '../../bench/limited.js'
import { writeAtomic } from '../../ts/src/io/files.js'
import { packageRoot } from '../../ts/src/native/addon.js'
import { doctor, formatDoctor } from '../../ts/src/native/doctor.js'
import { opFamilies } from '../../ts/src/ops/index.js'
import type { Findings } from './section.js'

const noGpu = 77
const totalSeconds = 465
const root = packageRoot()

/** A row of the table. */
interface Row {
  readonly section: string
  readonly passed: number
  readonly failed: number
  readonly seconds: number
  readonly failures: readonly string[]
  readonly facts: Readonly<Record<string, unknown>>
}

/** How a section is run: the command, its time limit, and how its output is understood. */
interface Section {
  readonly name: string
  readonly command: readonly string[]
  readonly seconds: number
  readonly env?: Readonly<Record<string, string>>
  readonly read: (output: string, code: number | null) => Findings
}

/** The JSON line of section.ts. */
function readFindings(output: string, code: number | null): Findings {
  const line = output
    .trim()
    .split('\n')
    .findLast((text) => text.startsWith('{"passed"'))
  if (line !== undefined && code === 0) return JSON.parse(line) as Findings
  return { passed: 0, failures: [output.trim().split('\n').slice(-8).join('\n')], facts: {} }
}

/** The totals of a tap program. */
function readTap(output: string, code: number | null): Findings {
  const totals = output.match(/^# \{ total: (\d+)(?:, pass: (\d+))?(?:, fail: (\d+))?/m)
  const failures = [...output.matchAll(/^ *not ok \d+ - (.*)$/gm)].map(([, text]) => text)
  if (totals === null || (code !== 0 && failures.length === 0)) failures.push(output.trim().slice(-600))
  return { passed: Number(totals?.[2] ?? 0), failures, facts: {} }
}

/** compute-sanitizer's own count, and the section's. Some virtual machines have a GPU that it cannot watch. */
function readSanitizer(output: string, code: number | null): Findings {
  if (/Device not supported/.test(output))
    return { passed: 0, failures: [], facts: { skipped: 'Device not supported' } }
  const findings = readFindings(output, 0)
  const summary = output.match(/ERROR SUMMARY: .*|RACECHECK SUMMARY: .*/)?.[0]
  const clean = code === 0 && summary !== undefined && / 0 (errors|hazards)/.test(summary)
  if (!clean) findings.failures.push(summary ?? output.trim().slice(-600))
  return { ...findings, facts: { summary } }
}

const own = (name: string, seconds: number): Section => ({
  name,
  command: [process.execPath, 'dist/test/gpu/section.js', ...name.split(' ')],
  seconds,
  read: readFindings,
})

/** A section by the kernels that any GPU from sm_80 on has, which one of sm_90 leaves alone otherwise. */
const atLevel80 = (section: Section): Section => ({
  ...section,
  name: `${section.name}, level 80`,
  env: { ...section.env, WHETSTONE_CUDA_LEVEL: '80' },
})

const suite = (name: string, seconds: number): Section => ({
  name: `suite ${name}`,
  command: [process.execPath, `dist/test/${name}.test.js`],
  seconds,
  env: { TAP_TIMEOUT: String(seconds) },
  read: readTap,
})

/** The sanitizer of the toolkit, where it is installed. */
function findSanitizer(): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/cuda/bin', '/opt/cuda/bin']
  return folders.map((folder) => join(folder, 'compute-sanitizer')).find((file) => existsSync(file))
}

function sectionsOf(rehearsal: boolean): Section[] {
  const sanitizer = rehearsal ? undefined : findSanitizer()
  const watched = (['memcheck', 'racecheck'] as const).map((tool): Section => {
    // Not the child that tries the driver: its summary would come first.
    const alone = ['--target-processes', 'application-only', '--error-exitcode', '9']
    const command = [sanitizer ?? '', '--tool', tool, ...alone, ...own('once', 0).command]
    return { name: tool, command, seconds: 75, env: { WHETSTONE_CUDA_EXACT: '1' }, read: readSanitizer }
  })
  // A process per family: a GPU that one loses is whole for the next.
  const families = Object.keys(opFamilies).map((family) => own(`compare ${family}`, 30))
  return [
    own('memory', 60),
    ...families,
    own('tiles', 60),
    suite('ops', 120),
    atLevel80(suite('ops', 90)),
    own('sampler', 45),
    atLevel80(own('sampler', 45)),
    own('trace', 45),
    { ...own('trace', 45), name: 'trace on the CPU', env: { WHETSTONE_DEVICE: 'cpu' } },
    own('resume', 45),
    own('cuts', 45),
    suite('golden', 90),
    own('repeat', 90),
    // Sanitizers have been wrong about wgmma: what they say at the lower level comes first.
    ...(sanitizer === undefined ? [] : [...watched.map(atLevel80), ...watched]),
  ]
}

/** The last that a program said. */
const tail = (output: string): string => output.trim().split('\n').slice(-4).join('\n').slice(-1000)

/** Runs a section; one that takes too long is ended and has failed, and so has one for which no time is left. */
async function runSection(section: Section, device: string, left: number): Promise<Row> {
  const start = performance.now()
  const limit = Math.min(section.seconds, left)
  if (limit < 5) {
    const failures = ['not run: no time is left']
    return { section: section.name, passed: 0, failed: 1, seconds: 0, failures, facts: {} }
  }
  const env = { ...process.env, WHETSTONE_DEVICE: device, ...section.env }
  const { code, late, output } = await runLimited(section.command, limit, { cwd: root, env })
  const seconds = (performance.now() - start) / 1000
  const { passed, failures, facts } = late
    ? { passed: 0, failures: [`not done within ${limit.toFixed(0)} s:\n${tail(output)}`], facts: {} }
    : section.read(output, code)
  return { section: section.name, passed, failed: failures.length, seconds, failures, facts }
}

/** How far losses of the two devices may be apart, relative to the CPU's. */
const traceTolerance = { f32: 1e-3, bf16: 1e-2 } as const

function compareTraces(rows: readonly Row[]): Row | undefined {
  const [ours, cpu] = ['trace', 'trace on the CPU'].map((name) => rows.find(({ section }) => section === name)?.facts)
  if (ours?.bf16 === undefined || cpu?.bf16 === undefined) return undefined
  const facts = Object.fromEntries(
    (['f32', 'bf16'] as const).map((dtype) => {
      const want = cpu[dtype] as number[]
      return [dtype, Math.max(...(ours[dtype] as number[]).map((loss, i) => Math.abs(loss / want[i] - 1)))]
    }),
  )
  const failures = Object.entries(traceTolerance).flatMap(([dtype, most]) =>
    facts[dtype] <= most ? [] : [`${dtype}: losses differ by ${facts[dtype]} relative to the CPU's`],
  )
  const row = { section: 'trace, both devices', seconds: 0, facts }
  return { ...row, passed: 2 - failures.length, failed: failures.length, failures }
}

const print = (line: string): void => {
  process.stdout.write(`${line}\n`)
}

function printRow({ section, passed, failed, seconds, failures }: Row): void {
  print(
    `${section.padEnd(30)} ${String(passed).padStart(7)} passed ${String(failed).padStart(5)} failed ${seconds.toFixed(1).padStart(7)} s`,
  )
  for (const failure of failures.slice(0, 8)) print(`    ${failure.replaceAll('\n', '\n    ')}`)
}

async function main(): Promise<number> {
  const options = { device: { type: 'string', default: 'cuda' }, json: { type: 'string' } } as const
  const { values } = parseArgs({ options })
  const report = doctor()
  print(formatDoctor(report))
  if (values.device !== 'cpu' && !report.cuda.usable) {
    print(`\nno GPU test: ${report.cuda.reasons.join('; ')}`)
    return noGpu
  }
  print('')
  const start = performance.now()
  const rows: Row[] = []
  const file = values.json ?? join(root, 'build', 'test-gpu.json')
  await mkdir(dirname(file), { recursive: true })
  const save = () => {
    const all = { date: new Date().toISOString(), device: values.device, report, rows }
    return writeAtomic(file, `${JSON.stringify(all, null, 2)}\n`)
  }
  for (const section of sectionsOf(values.device === 'cpu')) {
    const left = totalSeconds - (performance.now() - start) / 1000
    rows.push(await runSection(section, values.device, left))
    printRow(rows[rows.length - 1])
    await save()
  }
  const both = compareTraces(rows)
  if (both !== undefined) rows.push(both)
  if (both !== undefined) printRow(both)
  const [passed, failed] = [rows.reduce((n, row) => n + row.passed, 0), rows.reduce((n, row) => n + row.failed, 0)]
  await save()
  print(`${((performance.now() - start) / 1000).toFixed(0)} s; all figures: ${file}`)
  print(`${passed} passed, ${failed} failed`)
  return failed === 0 && passed > 0 ? 0 : 1
}

process.exitCode = await main()
