// Suite `kernels`: every op on the cases that its entry marks for the bench, on a GPU also on those of gpu-cases.ts. An op is compared with the arithmetic
// ceiling when it does much arithmetic per byte, else with a copy of as many bytes.

import { WhetstoneError } from '../ts/src/base/errors.js'
import type { Device } from '../ts/src/native/device.js'
import { getDevice } from '../ts/src/native/device.js'
import { call, type Fill, type OpCase, type OpEntry, operandsOf } from '../ts/src/ops/define.js'
import { opEntries } from '../ts/src/ops/index.js'
import { keep } from '../ts/src/tensor/scope.js'
import { type Shape, shapeText, sizeOf } from '../ts/src/tensor/shape.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { callsOf, copyProbe, peakProbe } from './ceilings.js'
import { gpuCases } from './gpu-cases.js'
import { type BenchOptions, type BenchRow, type Float, race, type Sides } from './harness.js'
import { floatTensor, normals } from './normals.js'
import type { Peer } from './peer.js'
import { dtypeOf, type Integers, type Work, workOf } from './work.js'

/** FLOP per byte from which an op counts as arithmetic; below, it waits for memory. A GPU's tensor cores want more. */
const arithmeticIntensity = { cpu: { f32: 8, bf16: 8 }, cuda: { f32: 14, bf16: 180 } } as const

/** A case in one element type. */
interface Job {
  readonly entry: OpEntry
  readonly case: OpCase
  readonly float: Float
  readonly integers: Integers
  readonly work: Work
}

function integersOf(shape: Shape, fill: Fill | undefined): Int32Array {
  const at = typeof fill === 'function' ? fill : () => (fill === 'ones' ? 1 : 0)
  return Int32Array.from({ length: sizeOf(shape) }, (_, i) => at(i))
}

function floatsOf(shape: Shape, fill: Fill = 'normal'): Float32Array {
  if (fill === 'normal') return normals(sizeOf(shape))
  if (fill === 'positive') return normals(sizeOf(shape)).map((x) => 0.2 + Math.abs(x))
  const at = typeof fill === 'function' ? fill : () => (fill === 'ones' ? 1 : 0)
  return Float32Array.from({ length: sizeOf(shape) }, (_, i) => at(i))
}

const isFloat = (type: string): boolean => type === 'T' || type === 'F'
const isWhole = (type: string): boolean => type === 'i32' || type === 'u8'

/** The types in which a case runs: its own, or all that were asked for; f32 for ops that know no other. */
function floatsFor(entry: OpEntry, c: OpCase, asked: readonly Float[]): readonly Float[] {
  if (c.dtype !== undefined) return asked.filter((dtype) => dtype === c.dtype)
  const free = c.dtypes === undefined && operandsOf(entry.name).some((operand) => isFloat(operand.type))
  return free ? asked : asked.filter((dtype) => dtype === 'f32')
}

function jobsOf(entry: OpEntry, device: Device, asked: readonly Float[]): Job[] {
  const larger = device.kind === 'cuda' ? (gpuCases[entry.name] ?? []) : []
  return [...entry.cases.filter((c) => c.bench), ...larger].flatMap((c) => {
    const whole = operandsOf(entry.name).filter(({ name, type }) => isWhole(type) && c.in[name] !== undefined)
    const integers = Object.fromEntries(whole.map(({ name }) => [name, integersOf(c.in[name], c.fill?.[name])]))
    return floatsFor(entry, c, asked).map((float) => {
      return { entry, case: c, float, integers, work: workOf(entry, c, float, integers) }
    })
  })
}

/** The operands that a caller passes, on the device, in signature order. They live until they are disposed. */
const upload = (device: Device, { entry, case: c, float, integers }: Job): (Tensor | undefined)[] =>
  operandsOf(entry.name)
    .filter((operand) => operand.role !== 'output')
    .map((operand) => {
      const shape = c.in[operand.name]
      if (shape === undefined) return undefined
      if (operand.type === 'i32') return keep(tensor(device, integers[operand.name], shape))
      if (operand.type === 'u8') return keep(tensor(device, Uint8Array.from(integers[operand.name]), shape))
      const dtype = dtypeOf(operand, c, float) as Float
      return floatTensor(device, floatsOf(shape, c.fill?.[operand.name]), shape, dtype)
    })

/** What a peer is told of a case. */
function orderOf({ entry, case: c, float, integers }: Job) {
  const dtypes = operandsOf(entry.name).map((operand) => [operand.name, dtypeOf(operand, c, float)])
  return {
    op: entry.name,
    threads: getDevice().threads,
    shapes: c.in,
    dtypes: Object.fromEntries(dtypes),
    parameters: c.p ?? {},
    integers: Object.fromEntries(Object.entries(integers).map(([name, values]) => [name, Array.from(values)])),
  }
}

/** The work of a case that a peer was told of, for a peer that is another build of this package. */
export function callOrdered(
  device: Device,
  order: Readonly<Record<string, unknown>>,
): { run: () => void; dispose: () => void } {
  device.threads = Number(order.threads)
  const text = JSON.stringify(order)
  const jobs = opEntries
    .filter(({ name }) => name === order.op)
    .flatMap((entry) => jobsOf(entry, device, ['f32', 'bf16']))
  const job = jobs.find((known) => JSON.stringify(orderOf(known)) === text)
  if (job === undefined) throw new WhetstoneError('E_MISMATCH', 'build', `no such case: ${text.slice(0, 200)}`)
  const tensors = upload(device, job)
  return {
    run: () => void call(job.entry, tensors, job.case.p),
    dispose: () => {
      for (const t of tensors) t?.dispose()
    },
  }
}

/** The peer's side of a case; undefined where the peer has no such op. */
async function peerSide(peer: Peer | undefined, job: Job, calls: number, amount: number): Promise<Sides['peer']> {
  const ready = await peer?.prepare(orderOf(job))
  if (peer === undefined || ready === undefined) return undefined
  return { name: peer.name, run: () => peer.run(calls), amount }
}

async function measure(device: Device, job: Job, { rounds, peer }: BenchOptions): Promise<BenchRow> {
  const { entry, case: c, float, work } = job
  const arithmetic = work.flops >= arithmeticIntensity[device.kind][float] * work.bytes
  const amount = (arithmetic ? work.flops : work.bytes) / 1e9
  const tensors = upload(device, job)
  const { run, calls } = await callsOf(device, () => {
    call(entry, tensors, c.p)
  })
  const ceiling = arithmetic ? await peakProbe(device, float) : await copyProbe(device, work.bytes)
  try {
    const result = await race(
      { ours: { run, amount }, peer: await peerSide(peer, job, calls, amount), ceiling },
      rounds,
    )
    const shape = Object.entries(c.in).map(([name, lengths]) => `${name} ${shapeText(lengths)}`)
    const subject = { suite: 'kernels', name: entry.name, shape: shape.join(' '), dtype: float, isa: device.level }
    return { ...subject, threads: device.threads, unit: arithmetic ? 'GFLOP/s' : 'GB/s', ...result }
  } finally {
    ceiling.dispose()
    for (const t of tensors) t?.dispose()
  }
}

/** Times every op in every type and with every number of threads. */
export async function benchKernels(options: BenchOptions): Promise<void> {
  const device = getDevice()
  for (const entry of opEntries.filter(({ name }) => options.only(name)))
    for (const job of jobsOf(entry, device, options.dtypes))
      for (const threads of options.threads) {
        device.threads = threads
        options.report(await measure(device, job, options))
      }
}
