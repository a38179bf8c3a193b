// The checks that every op entry gets from its cases: forward against the reference, gradients against central
// differences, equal bits however the work is cut. Refusals are in ops-refusals.ts. Knows no op by name.

import type { Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import type { NumberArray } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import { opTable } from '../ts/src/native/ops.gen.js'
import { call, type Host, type OpEntry, operandsOf } from '../ts/src/ops/define.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { bytesPerElement, sizeOf } from '../ts/src/tensor/shape.js'
import { empty, type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import {
  decode,
  difference,
  distance,
  dtypeOf,
  type Example,
  emulated,
  examplesOf,
  execute,
  executeInParts,
  expected,
  generator,
  passed,
  poison,
  type Result,
  resultsOf,
  toleranceOf,
  upload,
  type Value,
  value,
} from './ops-cases.js'

type T = Pick<Test, 'ok' | 'equal' | 'same' | 'fail' | 'match'>

const isProduct = ({ name }: OpEntry): boolean => ['matmul', 'head'].includes(opTable[name].family)

/** Where tokens may be cut: gradients of weights by products in bf16 take several at once. */
const grainOf = (device: Device, { entry, float }: Example): number =>
  float === 'bf16' && isProduct(entry) && opTable[entry.name].operands[0].role === 'inPlace' ? device.tokenAlignment : 1

// Forward -------------------------------------------------------------------------------------------------------------

/** Results equal the reference to rounding; integers exactly. */
export async function checkForward(t: T, device: Device, entry: OpEntry): Promise<void> {
  for (const example of examplesOf(entry)) {
    const want = expected(example)
    const got = await execute(device, example)
    t.equal(got.length, want.length, `${example.text}: number of results`)
    got.forEach((result, i) => {
      const off = distance(decode(result.bits, result.dtype), want[i].data)
      t.ok(off <= toleranceOf(example, result), `${example.text}: ${result.name} is off by ${off}`)
    })
  }
}

// Bits ----------------------------------------------------------------------------------------------------------------

/** A second run and every thread count give the same bits. A GPU has one number of threads. */
export async function checkThreads(t: T, device: Device, entry: OpEntry): Promise<void> {
  const examples = examplesOf(entry)
  const before = device.threads
  const first = await Promise.all(examples.map((example) => execute(device, example)))
  for (const threads of device.kind === 'cpu' ? [before, 1, 2, 3, 8] : [before]) {
    device.threads = threads
    const again = await Promise.all(examples.map((example) => execute(device, example)))
    again.forEach((results, i) => {
      t.equal(difference(first[i], results), undefined, `${examples[i].text}: ${threads} threads`)
    })
  }
  device.threads = before
}

/** Each token alone, and halves one after another, give the bits of one call. On an emulated GPU one cut has to do. */
export async function checkSplits(t: T, device: Device, entry: OpEntry): Promise<void> {
  for (const example of examplesOf(entry)) {
    const [name] = example.case.rows ?? []
    if (name === undefined) continue
    const n = example.case.in[name][0]
    if (n === 0) continue
    const whole = await execute(device, example)
    const grain = grainOf(device, example)
    const singles = Array.from({ length: Math.ceil(n / grain) + 1 }, (_, i) => Math.min(n, i * grain))
    const middle = Math.min(n, Math.ceil(n / 2 / grain) * grain)
    const all = emulated ? [[0, singles[1], middle, n]] : [singles, [0, middle, n], [0, 0, n]]
    for (const cuts of all) {
      const parts = await executeInParts(device, example, cuts)
      t.equal(difference(whole, parts), undefined, `${example.text}: cut at ${cuts.join(', ').slice(0, 40)}`)
    }
  }
}

/** The same value with NaN in row r, if it holds floats. */
function spoilRow(v: Value, r: number): Value {
  if (v.dtype !== 'f32' && v.dtype !== 'bf16') return v
  const width = sizeOf(v.host.shape.slice(1))
  return value(
    v.host.shape,
    v.dtype,
    v.host.data.map((x, i) => (Math.floor(i / width) === r ? Number.NaN : x)),
  )
}

/** The result without the elements of row r. */
const withoutRow = ({ bits, ...rest }: Result, rows: number, r: number): Result => ({
  ...rest,
  bits: (bits as Float32Array).filter((_, i) => Math.floor((i * rows) / bits.length) !== r),
})

/** NaN in one token leaves the outputs of all others alone. */
export async function checkSpoiltRows(t: T, device: Device, entry: OpEntry): Promise<void> {
  const outputs = operandsOf(entry.name).filter((operand) => operand.role === 'output')
  for (const example of examplesOf(entry)) {
    const { rows = [], in: shapes } = example.case
    if (outputs.length === 0 || rows.length === 0 || shapes[rows[0]][0] < 2) continue
    const n = shapes[rows[0]][0]
    const row = n >> 1
    const spoilt = rows.map((name) => [name, spoilRow(example.values[name], row)])
    const clean = (await execute(device, example)).slice(-outputs.length)
    const values = { ...example.values, ...Object.fromEntries(spoilt) }
    const dirty = (await execute(device, { ...example, values })).slice(-outputs.length)
    for (const [i, { name }] of outputs.entries()) {
      const [one, other] = [dirty, clean].map((results) => [withoutRow(results[i], n, row)])
      t.equal(difference(one, other), undefined, `${example.text}: ${name}`)
    }
  }
}

/** Operands that begin anywhere in a larger tensor give the same bits, and nothing around them is written. */
export async function checkOffsets(t: T, device: Device, entry: OpEntry): Promise<void> {
  const margin = 3
  for (const example of examplesOf(entry)) {
    const scope = new Scope()
    const [results, around] = scope.run(() => {
      const larger = upload(device, entry, example.values, (v) => widen(v, margin))
      const views = larger.map((x, i) => x?.view(example.values[passed(entry)[i].name].host.shape, margin))
      const made = resultsOf(entry, views, call(entry, views, example.case.p))
      const reads = made.map(async ({ name, t }) => ({ name, dtype: t.dtype, bits: await t.bits() }))
      return [reads, larger.map((x) => x?.bits())]
    })
    scope.dispose()
    const got = await Promise.all(results)
    t.equal(difference(await execute(device, example), got), undefined, example.text)
    for (const bits of await Promise.all(around)) {
      const edges = bits && [...bits.slice(0, margin), ...bits.slice(bits.length - margin)]
      t.ok(edges === undefined || edges.every((x) => x === 7), `${example.text}: nothing around is written`)
    }
  }
}

/** Memory of a GPU comes in blocks of 512 bytes: what lies behind an output in its block stays as it was, poisoned. */
export async function checkBehind(t: T, device: Device, entry: OpEntry): Promise<void> {
  const outputs = operandsOf(entry.name).filter((operand) => operand.role === 'output')
  for (const example of examplesOf(entry)) {
    const shapes = entry.shapes(example.case.in, example.case.p ?? {})
    const sizes = outputs.map((o, i) => sizeOf(shapes[i]) * bytesPerElement(dtypeOf(o, example.case, example.float)))
    if (sizes.length === 0 || sizes.includes(0)) continue
    const scope = new Scope()
    const tensors = scope.run(() => upload(device, entry, example.values))
    const blocks = sizes.map((size) => Math.ceil(size / 512) * 512)
    poison(device, blocks)
    const made = scope.run(() => call(entry, tensors, example.case.p))
    const bits = await Promise.all(made.map((x) => x.bits()))
    for (const x of made) x.dispose()
    const again = scope.run(() => blocks.map((size) => empty(device, [size], 'u8')))
    for (const [i, bytes] of (await Promise.all(again.map((x) => x.bits()))).entries()) {
      const name = `${example.text}: ${outputs[i].name}`
      const { buffer, byteOffset, byteLength } = bits[i]
      const written = new Uint8Array(buffer, byteOffset, byteLength)
      t.ok(
        written.every((x, at) => x === bytes[at]),
        `${name}: its block`,
      )
      t.ok(
        bytes.slice(sizes[i]).every((x) => x === 0xff),
        `${name}: nothing behind is written`,
      )
    }
    scope.dispose()
  }
}

/** Stored elements with sevens before and after, as one dimension. */
function widen({ bits, dtype }: Value, margin: number): Value {
  const larger = new (bits.constructor as new (length: number) => NumberArray)(bits.length + 2 * margin).fill(7)
  larger.set(bits, margin)
  return { host: { shape: [larger.length], data: new Float64Array(0) }, dtype, bits: larger }
}

// Gradients -----------------------------------------------------------------------------------------------------------

const gradientTolerances = { f32: 1e-5, bf16: 2e-2 } as const
const largestForDifferences = 260

const isReal = (type: string): boolean => ['T', 'F', 'f32', 'bf16'].includes(type)

/** Inputs and outputs that carry a gradient. */
function differentiable(entry: OpEntry): { inputs: string[]; outputs: string[] } {
  const free = operandsOf(entry.name).filter((o) => isReal(o.type) && !entry.fixed?.includes(o.name))
  return {
    inputs: free.filter((o) => o.role === 'input').map((o) => o.name),
    outputs: free.filter((o) => o.role === 'output').map((o) => o.name),
  }
}

/** A weight per output element, in the output's type. */
function weightsOf(example: Example, names: readonly string[]): Record<string, Value> {
  const outputs = operandsOf(example.entry.name).filter((operand) => operand.role === 'output')
  const shapes = example.entry.shapes(example.case.in, example.case.p ?? {})
  const pairs = outputs.flatMap((operand, i) => {
    if (!names.includes(operand.name)) return []
    const random = generator(`${example.text} ${operand.name}`)
    const numbers = Float64Array.from({ length: sizeOf(shapes[i]) }, () => 2 * random() - 1)
    return [[operand.name, value(shapes[i], dtypeOf(operand, example.case, example.float), numbers)] as const]
  })
  return Object.fromEntries(pairs)
}

/** Gradients of sum(weights * outputs) by the tape, for the watched inputs. */
async function tapeGradients(
  device: Device,
  example: Example,
  weights: Record<string, Value>,
  watched: readonly string[],
): Promise<(Float64Array | undefined)[]> {
  const { entry } = example
  const names = passed(entry).map((operand) => operand.name)
  const outputNames = operandsOf(entry.name)
    .filter((o) => o.role === 'output')
    .map((o) => o.name)
  const scope = new Scope()
  const reads = scope.run(() => {
    const tape = new Tape()
    const tensors = upload(device, entry, example.values)
    const leaves = watched.map((name) => tensors[names.indexOf(name)] as Tensor)
    for (const leaf of leaves) tape.watch(leaf)
    const outputs = tape.record(() => call(entry, tensors, example.case.p))
    const roots = Object.entries(weights).map(([name, w]) => {
      return [outputs[outputNames.indexOf(name)], tensor(device, w.bits, w.host.shape)] as const
    })
    tape.backward(roots)
    return leaves.map(async (leaf) => {
      const gradient = tape.gradientOf(leaf)
      const bits = await gradient?.bits()
      gradient?.release()
      return bits && gradient && decode(bits, gradient.dtype)
    })
  })
  scope.dispose()
  return Promise.all(reads)
}

/** d sum(weights * reference) / d input by central differences. */
function differences(example: Example, weights: Record<string, Value>, name: string): Float64Array {
  const outputs = operandsOf(example.entry.name)
    .filter((o) => o.role === 'output')
    .map((o) => o.name)
  const hosts = Object.fromEntries(Object.entries(example.values).map(([key, v]) => [key, v.host])) as Record<
    string,
    Host
  >
  const loss = (): number => {
    const results = example.entry.reference(hosts, example.case.p ?? {})
    const made = results.slice(results.length - outputs.length)
    return Object.entries(weights).reduce((total, [output, w]) => {
      const { data } = made[outputs.indexOf(output)]
      return total + data.reduce((sum, x, i) => sum + x * w.host.data[i], 0)
    }, 0)
  }
  const x = hosts[name].data
  const step = 1e-5
  return x.map((before, i) => {
    x[i] = before + step
    const high = loss()
    x[i] = before - step
    const low = loss()
    x[i] = before
    return (high - low) / (2 * step)
  })
}

async function checkExampleGradients(t: T, device: Device, example: Example): Promise<void> {
  const { inputs, outputs } = differentiable(example.entry)
  const limit = gradientTolerances[example.float]
  const rootSets = outputs.length > 1 ? [outputs, ...outputs.map((name) => [name])] : [outputs]
  for (const roots of rootSets) {
    const weights = weightsOf(example, roots)
    const got = await tapeGradients(device, example, weights, inputs)
    inputs.forEach((name, i) => {
      const off = distance(got[i] ?? [], differences(example, weights, name))
      t.ok(off <= limit, `${example.text}: d${name} from ${roots.join(', ')} is off by ${off}`)
    })
    for (const [i, name] of inputs.entries()) {
      const [alone] = await tapeGradients(device, example, weights, [name])
      t.same(alone, got[i], `${example.text}: d${name} alone has the same bits`)
    }
  }
}

/** Tape gradients equal central differences of the reference, for the small cases. Returns how many were checked. */
export async function checkGradients(t: T, device: Device, entry: OpEntry): Promise<number> {
  if (entry.gradient === undefined) return 0
  const { inputs } = differentiable(entry)
  const small = examplesOf(entry).filter((example) => {
    const size = inputs.reduce((sum, name) => sum + sizeOf(example.case.in[name]), 0)
    return size > 0 && size <= largestForDifferences
  })
  for (const example of small) await checkExampleGradients(t, device, example)
  return small.length
}
