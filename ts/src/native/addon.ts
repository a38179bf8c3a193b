// The typed contract of the native addon, and how it is found: node-gyp-build looks for a local build first, then
// in prebuilds/, where a binary must have its digest in SHA256SUMS. The only file that loads native code; nothing is
// loaded before the first use.

import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, relative, sep } from 'node:path'
import { fileURLToPath } from 'node:url'
import { messageOf, WhetstoneError } from '../base/errors.js'
import { opTable } from './ops.gen.js'

/** Bytes that a device holds. */
export interface MemoryStats {
  /** In use by tensors. */
  readonly liveBytes: number
  /** Largest `liveBytes` since the start or the last `resetPeak`. */
  readonly peakBytes: number
  /** Taken from the system, idle blocks and kernel scratch included. */
  readonly poolBytes: number
  /** The budget that was set, 0 for none. */
  readonly limitBytes: number
}

/** Element values as they cross the boundary. bf16 travels as its bits. */
export type NumberArray = Float32Array | Uint16Array | Int32Array | Uint8Array

/** Kinds of command of the record, as native/binding/addon.cpp knows them. */
export const commands = { create: 0, view: 1, release: 2, run: 3 } as const

/** One device with its queue (native/binding/addon.cpp). Calls only push commands, except the one that returns a promise. */
export interface NativeDevice {
  /** Where `submit` finds commands, one after another: kind, then
   * create: id, dtype, rank, dims; view: id, source, offset in elements, dtype, rank, dims; release: id;
   * run: op, operand count, ids (-1 absent), parameter count, parameters. */
  readonly record: Float64Array
  readonly level: string
  readonly threads: number
  readonly tokenAlignment: number
  /** Queues the commands in the first `length` numbers of the record. */
  submit(length: number): void
  write(id: number, values: NumberArray): void
  /** Fills arrays with the elements of tensors when everything before has run; gives the error at the place of each that
   * failed. Null in place of an array only waits. */
  read(ids: readonly number[], into: readonly (NumberArray | null)[]): Promise<unknown[]>
  setThreads(count: number): void
  memory(): MemoryStats
  resetPeak(): void
  hasKernel(op: number): boolean
  /** Starts or ends taking times; op, begin, end, waited (nanoseconds) of every op since the last call. */
  profile(on: boolean): Float64Array
  close(): void
}

/** The CUDA kernels that the addon was built with. */
export interface CudaKernels {
  /** Size of their code; 0 when there are none. */
  readonly bytes: number
  /** Version of nvcc; empty for kernels from a file (`WHETSTONE_CUDA_KERNELS`). */
  readonly toolkit: string
  /** Blank-separated: `sm_80 sm_90a compute_80`. */
  readonly targets: string
  /** How many ops have kernels. */
  readonly ops: number
}

/** A GPU as the driver shows it. */
export interface CudaGpu {
  readonly ordinal: number
  readonly name: string
  /** Compute capability, `9.0`. */
  readonly capability: string
  readonly multiprocessors: number
  readonly totalBytes: number
  /** Null when it was not looked at. */
  readonly freeBytes: number | null
  /** Which of the targets it would run; empty when none. */
  readonly target: string
  /** Why this addon cannot use it; empty when it can. */
  readonly problem: string
}

/** What the CUDA driver says of itself. */
export interface CudaDriver {
  /** What was opened. */
  readonly file: string
  /** Newest CUDA version that it speaks; empty when it did not say. */
  readonly version: string
  /** Why it cannot be used; empty when it can. */
  readonly problem: string
  /** Functions that it lacks and that can be done without. */
  readonly missing: readonly string[]
  readonly gpus: readonly CudaGpu[]
}

/** What the addon says of the processor. */
export interface NativeCpu {
  /** Instruction-set levels, separated by blanks, from low to high. */
  readonly levels: string
  /** The level that is taken when none is named. */
  readonly best: string
  /** Why `amx` is not among the levels; empty when it is. */
  readonly amx: string
  readonly threads: number
}

/** What the addon exports. */
export interface Addon {
  /** level: an instruction set, '' for the best, or `cuda:N`. */
  readonly Device: new (
    level: string,
    threads: number,
    limitBytes: number,
  ) => NativeDevice
  ops(): { name: string; family: string; signature: string; parameters: string }[]
  cpu(): NativeCpu
  /** FLOP/s of a level's densest arithmetic, on registers alone; for benchmarks: the call returns when it has been measured. */
  cpuPeak(level: string, bf16: boolean, threads: number, turns: number): number
  /** Looks at no driver. */
  cudaKernels(): CudaKernels
  /** Opens the driver, which may end the process: child processes only. Looks at the free memory of one GPU. */
  cudaDriver(ordinal: number): CudaDriver
}

const require = createRequire(import.meta.url)

/** The folder that holds package.json: a few levels up, whether this file runs from dist/ or elsewhere. */
export function packageRoot(from = dirname(fileURLToPath(import.meta.url))): string {
  if (existsSync(join(from, 'package.json'))) return from
  const parent = dirname(from)
  if (parent === from) throw new WhetstoneError('E_NATIVE', 'load', 'cannot find the folder of the package')
  return packageRoot(parent)
}

let loaded: Addon | undefined

/** Where an addon lies, and what put it there. */
export interface FoundAddon {
  readonly kind: 'local build' | 'prebuilt' | 'WHETSTONE_ADDON'
  readonly path: string
}

/**
 * The file that {@link loadAddon} takes: node-gyp-build prefers a local build to a prebuilt binary.
 *
 * @throws Error when there is none
 */
export function findAddon(): FoundAddon {
  const forced = process.env.WHETSTONE_ADDON
  if (forced !== undefined) return { kind: 'WHETSTONE_ADDON', path: forced }
  const root = packageRoot()
  const path = (require('node-gyp-build') as { path(root: string): string }).path(root)
  return { kind: path.startsWith(join(root, 'build') + sep) ? 'local build' : 'prebuilt', path }
}

/**
 * Refuses a prebuilt binary that is not the one that was packed: damaged on its way or changed since. Takes some
 * milliseconds.
 *
 * @throws WhetstoneError E_MISMATCH
 */
function checkPrebuilt(path: string): void {
  const folder = join(packageRoot(), 'prebuilds')
  const name = relative(folder, path).split(sep).join('/')
  const sums = join(folder, 'SHA256SUMS')
  const lines = existsSync(sums) ? readFileSync(sums, 'utf8').split('\n') : []
  const expected = lines.find((line) => line.endsWith(`  ${name}`))?.split(' ')[0]
  const got = createHash('sha256').update(readFileSync(path)).digest('hex')
  if (expected === got) return
  const text = `expected the digest ${expected ?? `of ${name} in SHA256SUMS`}, got ${got}: the binary is not the one that was packed, reinstall the package`
  throw new WhetstoneError('E_MISMATCH', path, text, { details: { expected, got } })
}

const opText = (name: string, signature: string, parameters: string): string =>
  `${name}(${signature}${parameters === '' ? '' : `; ${parameters}`})`

/**
 * Refuses an addon with other ops than this package speaks of: ops cross by number, so that work would go wrong later.
 *
 * @throws WhetstoneError E_MISMATCH naming the first op that differs
 */
function checkOps(addon: Partial<Pick<Addon, 'ops'>>, path: string): void {
  const expected = Object.values(opTable).map((op) => opText(op.name, op.signature, op.parameters.join(' ')))
  const got = (addon.ops?.() ?? []).map((op) => opText(op.name, op.signature, op.parameters))
  const at = Array.from({ length: Math.max(expected.length, got.length) }).findIndex((_, i) => expected[i] !== got[i])
  if (at < 0) return
  const [wanted, found] = [expected[at] ?? 'no further op', got[at] ?? 'no further op']
  const text = `expected ${wanted} as op ${at}, got ${found}: the addon belongs to another version; reinstall the package, or build it from a clone with \`npm run build\``
  throw new WhetstoneError('E_MISMATCH', path, text, { details: { op: at, expected: wanted, got: found } })
}

/**
 * The native addon, loaded on first use.
 *
 * @throws WhetstoneError E_NATIVE with the platform, what was tried, and the two ways out; E_MISMATCH for a prebuilt
 *   binary that is not the one that was packed, and for an addon with other ops than this package's
 */
export function loadAddon(): Addon {
  loaded ??= load()
  return loaded
}

function load(): Addon {
  const root = packageRoot()
  try {
    const { kind, path } = findAddon()
    if (kind === 'prebuilt') checkPrebuilt(path)
    const addon = require(path) as Addon
    checkOps(addon, path)
    return addon
  } catch (cause) {
    if (WhetstoneError.isInstance(cause)) throw cause
    throw new WhetstoneError(
      'E_NATIVE',
      'load',
      `no native addon for ${process.platform}-${process.arch} (Node ${process.version}): ${messageOf(cause)}\n` +
        '  Reinstall the package to get its prebuilt binary, or build it from a clone with `npm run build`\n' +
        '  (needs cmake and g++ or clang++; on Debian: apt-get install build-essential cmake).',
      { cause, details: { root } },
    )
  }
}

/** The version of this package. */
export const readPackageVersion = (): string =>
  (require(join(packageRoot(), 'package.json')) as { version: string }).version
