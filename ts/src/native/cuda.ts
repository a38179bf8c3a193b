// Is there a GPU that this addon can use? Answered without opening the driver where that can be, else by a child process
// with a time limit (cuda-child.ts), once per GPU and process. Nothing here opens a device.

import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { deserialize } from 'node:v8'
import { messageOf } from '../base/errors.js'
import { type CudaDriver, type CudaKernels, loadAddon } from './addon.js'
import { opTable } from './ops.gen.js'

/** What a child process found out about the driver and one GPU. */
export interface CudaProbe {
  /** What the driver says; undefined when the child did not live to tell. */
  readonly driver: CudaDriver | undefined
  /** Free memory of the GPU; null when it was not looked at. */
  readonly freeBytes: number | null
  /** Why the GPU cannot be used; empty when it can. */
  readonly problem: string
}

/** Whether a GPU will do, and why (not). */
export interface CudaVerdict {
  readonly usable: boolean
  readonly reason: string
}

/**
 * Seconds that the child may take; `WHETSTONE_CUDA_PROBE_SECONDS` changes them. A machine with eight GPUs that nobody uses
 * takes some twenty to wake up, and a GPU that is newer than the kernels compiles them from PTX once, in a minute or more.
 */
const defaultSeconds = 120

const programFile = join(dirname(fileURLToPath(import.meta.url)), 'cuda-child.js')

/** The objects that the child told, as far as they came whole. */
function parseAnswers(bytes: Buffer | null): object[] {
  const answers: object[] = []
  for (let at = 0; bytes !== null && at + 4 <= bytes.length; ) {
    const end = at + 4 + bytes.readUInt32LE(at)
    if (end > bytes.length) break
    answers.push(deserialize(bytes.subarray(at + 4, end)) as object)
    at = end
  }
  return answers
}

/** How the child ended, when that was not well. */
function describeEnd(child: ReturnType<typeof spawnSync>, seconds: number): string {
  const code = (child.error as NodeJS.ErrnoException | undefined)?.code
  if (code === 'ETIMEDOUT') return `the CUDA driver did not answer within ${seconds} s (WHETSTONE_CUDA_PROBE_SECONDS)`
  if (child.error !== undefined) return `the CUDA driver could not be tried: ${messageOf(child.error)}`
  if (child.signal !== null) return `the CUDA driver ended the process that tried it by ${child.signal}`
  const lines = String(child.stderr).trim().split('\n')
  const said = lines.find((line) => /Error/.test(line)) ?? lines[0]
  return child.status === 0 ? '' : `the CUDA driver could not be tried: ${said || `exit code ${child.status}`}`
}

function runChild(ordinal: number): CudaProbe {
  const seconds = Number(process.env.WHETSTONE_CUDA_PROBE_SECONDS) || defaultSeconds
  const child = spawnSync(process.execPath, [programFile, String(ordinal)], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    timeout: seconds * 1000,
    killSignal: 'SIGKILL',
    env: { ...process.env, NODE_OPTIONS: '', ELECTRON_RUN_AS_NODE: '1' },
  })
  const [driver, trial] = parseAnswers((child.output?.[3] ?? null) as Buffer | null) as [
    CudaDriver?,
    Pick<CudaProbe, 'problem' | 'freeBytes'>?,
  ]
  const ended = describeEnd(child, seconds)
  const gpu = driver?.gpus[ordinal]
  const absent = `there is no GPU ${ordinal}; the driver shows ${driver?.gpus.length ?? 0}`
  const silent = 'the CUDA driver could not be tried'
  const told = driver?.problem || (gpu === undefined ? absent : gpu.problem || (trial?.problem ?? silent))
  return { driver, freeBytes: trial?.freeBytes ?? null, problem: ended || told }
}

const probes = new Map<number, CudaProbe>()

/** Tries the driver and GPU `ordinal` in a child process; the answer is kept for the life of this one. */
export function probeCuda(ordinal: number): CudaProbe {
  const known = probes.get(ordinal)
  if (known !== undefined) return known
  let probe: CudaProbe
  try {
    probe = runChild(ordinal)
  } catch (error) {
    probe = { driver: undefined, freeBytes: null, problem: `the CUDA driver could not be tried: ${messageOf(error)}` }
  }
  probes.set(ordinal, probe)
  return probe
}

/** Number of ops of the package. */
export const opCount = Object.keys(opTable).length

/** Where Linux shows one; the first use of the driver may make its device files. */
const deviceFiles = ['/dev/nvidiactl', '/dev/nvidia0', '/dev/dxg', '/proc/driver/nvidia/version']

/** Does the system show an NVIDIA GPU (or has a driver been named)? */
export const seesGpu = (): boolean => Boolean(process.env.WHETSTONE_CUDA_LIBRARY) || deviceFiles.some(existsSync)

const withoutKernels = 'this build has no CUDA kernels'

/** For a GPU that was asked for by name. */
export function judgeNamed(ordinal: number): CudaVerdict {
  if (loadAddon().cudaKernels().bytes === 0) return { usable: false, reason: withoutKernels }
  const { problem } = probeCuda(ordinal)
  return problem === '' ? { usable: true, reason: 'asked for' } : { usable: false, reason: problem }
}

/** For `device: 'auto'`: nothing is tried where it cannot help, and a GPU must have kernels for every op. */
export function judgeAuto(ordinal: number): CudaVerdict {
  const kernels: CudaKernels = loadAddon().cudaKernels()
  if (kernels.bytes === 0) return { usable: false, reason: withoutKernels }
  if (!seesGpu()) return { usable: false, reason: 'no NVIDIA GPU is visible' }
  if (kernels.ops < opCount)
    return { usable: false, reason: `${opCount - kernels.ops} of ${opCount} ops have no CUDA kernel` }
  const { problem } = probeCuda(ordinal)
  return problem === '' ? { usable: true, reason: 'the fastest device here' } : { usable: false, reason: problem }
}
