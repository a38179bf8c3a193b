// What bounds a row, timed beside it in the same rounds: for arithmetic a loop of the level's densest instructions on
// registers (native/cpu/peak.cpp), for memory a copy of as many bytes. A GPU has no such loop: there the fastest of some
// large products by our own kernel stands for it, and a share says how much of our best arithmetic a row keeps.

import { loadAddon } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import { copy, linear } from '../ts/src/ops/index.js'
import { tidy } from '../ts/src/tensor/scope.js'
import type { Tensor } from '../ts/src/tensor/tensor.js'
import { type BenchOptions, type Float, type Run, race, type Side, timed } from './harness.js'
import { normalTensor } from './normals.js'

/** A loop with its tensors. `amount` is in 1e9 FLOP or 1e9 bytes per run. */
export interface Probe extends Side {
  readonly shape: string
  dispose(): void
}

/** Shortest run: below it, waking the queue and the pool would be part of the figure. */
const shortestRunSeconds = 0.01

/** Seconds per call of queued work, many calls at a time. */
const perCall = (device: Device, work: () => void, calls: number): Run => {
  const run = timed(() => {
    for (let i = 0; i < calls; i++) tidy(work)
    return device.sync()
  })
  return async () => (await run()) / calls
}

const mostCalls = 4000

/**
 * A run of `work`, repeated until it takes long enough to be timed; resolves with the seconds of one call. One call alone
 * says little of many: the wait for it may be longer than what it does.
 */
export async function callsOf(device: Device, work: () => void): Promise<{ run: Run; calls: number }> {
  await perCall(device, work, 1)()
  for (let calls = 1; ; ) {
    const run = perCall(device, work, calls)
    const seconds = calls * (await run())
    if (seconds >= shortestRunSeconds || calls === mostCalls) return { run, calls }
    const wanted = Math.ceil((calls * shortestRunSeconds) / seconds)
    calls = Math.min(mostCalls, Math.max(2 * calls, wanted))
  }
}

const probeOf = (run: Run, amount: number, shape: string, tensors: readonly Tensor[]): Probe => ({
  run,
  amount,
  shape,
  dispose: () => {
    for (const t of tensors) t.dispose()
  },
})

type Product = readonly [n: number, c: number, o: number]

/** Products that fit a CPU's caches, or fill a GPU, well; which one is fastest depends on the level and the machine. */
const products: Readonly<Record<Device['kind'], readonly Product[]>> = {
  cpu: [
    [512, 512, 512],
    [1024, 1024, 1024],
    [2048, 512, 1024],
  ],
  cuda: [
    [4096, 4096, 4096],
    [8192, 4096, 4096],
    [8192, 2048, 8192],
  ],
}

async function productProbe(device: Device, dtype: Float, [n, c, o]: Product): Promise<Probe> {
  const [x, w] = [normalTensor(device, [n, c], dtype), normalTensor(device, [o, c], dtype)]
  const work = () => {
    linear(x, w)
  }
  const { run } = await callsOf(device, work)
  return probeOf(run, (2 * n * c * o) / 1e9, `x [${n}, ${c}] w [${o}, ${c}]`, [x, w])
}

const fastest = new Map<string, Product>()

/** The fastest of the products for this type and number of threads, found once. */
async function findFastest(device: Device, dtype: Float): Promise<Product> {
  const key = `${dtype} ${device.threads}`
  const known = fastest.get(key)
  if (known !== undefined) return known
  const rates = new Map<Product, number>()
  for (const product of products[device.kind]) {
    const probe = await productProbe(device, dtype, product)
    rates.set(product, (await race({ ours: probe }, 3)).ours.max)
    probe.dispose()
  }
  const [[best]] = [...rates].sort(([, a], [, b]) => b - a)
  fastest.set(key, best)
  return best
}

/** Turns of the loop of instructions: tens of milliseconds. */
const peakTurns = 1.6e7

/** The loop of instructions, as long as it takes for 1e9 FLOP. */
function loopProbe(device: Device, dtype: Float): Probe {
  const rate = () => loadAddon().cpuPeak(device.level, dtype === 'bf16', device.threads, peakTurns)
  return probeOf(async () => 1e9 / rate(), 1, 'registers', [])
}

/** The ceiling of arithmetic in a type, with the device's present number of threads. */
export const peakProbe = async (device: Device, dtype: Float): Promise<Probe> =>
  device.kind === 'cpu' ? loopProbe(device, dtype) : productProbe(device, dtype, await findFastest(device, dtype))

/** The ceiling of memory: reads half of `bytes` and writes the other half, wherever in caches so many bytes lie. */
export async function copyProbe(device: Device, bytes: number): Promise<Probe> {
  const size = Math.max(1, Math.floor(bytes / 8))
  const [to, from] = [normalTensor(device, [size], 'f32'), normalTensor(device, [size], 'f32')]
  const { run } = await callsOf(device, () => copy(to, from))
  return probeOf(run, (8 * size) / 1e9, `[${size}]`, [to, from])
}

/** Larger than caches of today. */
const largeCopyBytes: Readonly<Record<Device['kind'], number>> = { cpu: 2 ** 28, cuda: 2 ** 30 }

/** Rows of the ceilings themselves, first in every run. */
export async function benchCeilings(device: Device, options: BenchOptions): Promise<void> {
  const add = async (name: string, dtype: Float, unit: string, probe: Probe) => {
    const { shape } = probe
    const subject = { suite: 'ceilings', name, shape, dtype, isa: device.level, threads: device.threads, unit }
    options.report({ ...subject, ...(await race({ ours: probe }, options.rounds)) })
    probe.dispose()
  }
  for (const threads of options.threads) {
    device.threads = threads
    for (const dtype of options.dtypes) {
      if (device.kind === 'cpu') await add('peak loop', dtype, 'GFLOP/s', await peakProbe(device, dtype))
      await add('peak product', dtype, 'GFLOP/s', await productProbe(device, dtype, await findFastest(device, dtype)))
    }
    await add('copy', 'f32', 'GB/s', await copyProbe(device, largeCopyBytes[device.kind]))
  }
}
