// The part of the doctor that looks for a GPU: the kernels in the addon, the driver (tried by a child process), and what
// `device: 'auto'` makes of both.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type CudaDriver, type CudaGpu, type CudaKernels, loadAddon } from './addon.js'
import { judgeAuto, opCount, probeCuda, seesGpu } from './cuda.js'

/** Why there is a CUDA device or none. */
export interface CudaReport {
  /** Can `device: 'cuda'` be opened here? */
  readonly usable: boolean
  /** Would `device: 'auto'` take the GPU? Why (not)? */
  readonly auto: { readonly taken: boolean; readonly reason: string }
  /** The driver's library by its name, and the newest CUDA version that it speaks; null where there is none. */
  readonly driver: string | null
  readonly driverVersion: string | null
  /** Functions that the driver lacks and that can be done without. */
  readonly missing: readonly string[]
  readonly gpus: readonly CudaGpu[]
  /** What the addon was built with; null when it did not load. */
  readonly kernels: (CudaKernels & { readonly allOps: number }) | null
  /** The target of the kernels that the first GPU would run; null when none. */
  readonly level: string | null
  readonly reasons: readonly string[]
}

const driverFile = 'libcuda.so.1'
const driverFolders = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/lib64',
  '/usr/lib/wsl/lib',
  '/usr/local/nvidia/lib64',
  '/usr/local/cuda/compat',
  '/run/opengl-driver/lib',
]

/** The file that the driver would be, without opening it. */
function findDriver(): string | null {
  if (process.env.WHETSTONE_CUDA_LIBRARY) return process.env.WHETSTONE_CUDA_LIBRARY
  const searched = [...(process.env.LD_LIBRARY_PATH ?? '').split(':').filter(Boolean), ...driverFolders]
  return searched.map((folder) => join(folder, driverFile)).find((file) => existsSync(file)) ?? null
}

/** The driver's word on the first GPU, with its free memory. */
function askDriver(): { driver: CudaDriver | undefined; gpus: readonly CudaGpu[]; problem: string } {
  const { driver, freeBytes, problem } = probeCuda(0)
  const gpus = (driver?.gpus ?? []).map((gpu) => (gpu.ordinal === 0 ? { ...gpu, freeBytes } : gpu))
  return { driver, gpus, problem }
}

const nothing = { driverVersion: null, missing: [], gpus: [], level: null }

/** Looks at the addon, then at the system, then at the driver where there is one. Never throws. */
export function examineCuda(addonLoaded: boolean): CudaReport {
  const driver = findDriver()
  if (!addonLoaded) {
    const reasons = ['unknown without the addon']
    return { usable: false, auto: { taken: false, reason: reasons[0] }, driver, ...nothing, kernels: null, reasons }
  }
  const kernels = { ...loadAddon().cudaKernels(), allOps: opCount }
  const reasons = kernels.bytes === 0 ? ['this build has no CUDA kernels'] : []
  if (driver === null && !seesGpu()) {
    reasons.push(`${driverFile} is not in the usual folders`, 'no NVIDIA device is visible')
    const { usable: taken, reason } = judgeAuto(0)
    return { usable: false, auto: { taken, reason }, driver, ...nothing, kernels, reasons }
  }
  const asked = askDriver()
  if (asked.problem !== '' && !reasons.includes(asked.problem)) reasons.push(asked.problem)
  const { usable: taken, reason } = judgeAuto(0)
  return {
    usable: reasons.length === 0,
    auto: { taken, reason },
    driver: asked.driver?.file ?? driver,
    driverVersion: asked.driver?.version || null,
    missing: asked.driver?.missing ?? [],
    gpus: asked.gpus,
    kernels,
    level: asked.gpus[0]?.target || null,
    reasons,
  }
}

/** Bytes as people read them. */
export const gigabytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

function describeGpu(gpu: CudaGpu): string {
  const free = gpu.freeBytes === null ? '' : `, ${gigabytes(gpu.freeBytes)} free`
  const runs = gpu.target === '' ? 'no kernels for it' : `runs ${gpu.target}`
  return `${gpu.name}, compute capability ${gpu.capability}, ${gigabytes(gpu.totalBytes)}${free}; ${runs}`
}

/** The report as names and texts, one per line. */
export function cudaFacts({ usable, auto, driver, driverVersion, missing, gpus, kernels, reasons }: CudaReport) {
  const facts: [string, string][] = [['cuda', usable ? 'usable' : `not usable (${reasons.join('; ')})`]]
  if (kernels !== null && kernels.bytes > 0) {
    const by = kernels.toolkit === '' ? '' : ` by nvcc ${kernels.toolkit}`
    const size = Math.ceil(kernels.bytes / 1024)
    facts.push(['kernels', `${kernels.ops} of ${kernels.allOps} ops, ${size} KB for ${kernels.targets}${by}`])
  }
  if (driverVersion !== null) {
    const lacks = missing.length === 0 ? '' : `, lacks ${missing.join(', ')}`
    facts.push(['driver', `CUDA ${driverVersion} (${driver}${lacks})`])
  }
  for (const gpu of gpus) facts.push([`cuda:${gpu.ordinal}`, describeGpu(gpu)])
  if (usable) facts.push(['auto', `${auto.taken ? 'takes the GPU' : 'takes the CPU'} (${auto.reason})`])
  return facts
}
