// Op cases made concrete: values for every operand, rounded to their element types, the call on a device, and the
// reference on the host. Used by ops.test.ts and its other helpers; knows no op by name.

import type { NumberArray } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import { call, type Fill, type Host, type OpCase, type OpEntry, operandsOf } from '../ts/src/ops/define.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { bytesPerElement, type DType, type Shape, sizeOf } from '../ts/src/tensor/shape.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'

/** On an emulated GPU, which is slow, some checks take less. */
export const emulated = process.env.WHETSTONE_CUDA_LIBRARY !== undefined

/** The T and F of a run. */
export type Float = 'f32' | 'bf16'

/** An operand's values: on the host in double precision, and as they are stored. */
export interface Value {
  readonly host: Host
  readonly dtype: DType
  readonly bits: NumberArray
}

export type Values = Readonly<Record<string, Value>>

/** A case with values, for one element type. */
export interface Example {
  readonly entry: OpEntry
  readonly case: OpCase
  readonly float: Float
  readonly values: Values
  readonly text: string
}

/** One result of an op: an in-place operand or an output. */
export interface Result {
  readonly name: string
  readonly dtype: DType
  readonly bits: NumberArray
}

// Numbers -------------------------------------------------------------------------------------------------------------

/** A small generator (mulberry32), so that a case has the same values in every run. */
export function generator(seed: string): () => number {
  let state = [...seed].reduce((hash, letter) => Math.imul(hash ^ letter.charCodeAt(0), 16777619), 2166136261)
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let z = Math.imul(state ^ (state >>> 15), 1 | state)
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32
  }
}

const normal = (random: () => number): number =>
  Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())

const single = new Float32Array(1)
const pattern = new Uint32Array(single.buffer)

/** The 16 bits of the nearest bf16, ties to even. */
export function bf16Bits(x: number): number {
  single[0] = x
  const bits = pattern[0]
  if (Number.isNaN(x)) return 0x7fc0
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

/** The number that 16 bits of bf16 stand for. */
export function fromBf16(bits: number): number {
  pattern[0] = bits << 16
  return single[0]
}

const encoders: Readonly<Record<DType, (x: Float64Array) => NumberArray>> = {
  f32: (x) => new Float32Array(x),
  bf16: (x) => {
    const bits = new Uint16Array(x.length)
    for (let i = 0; i < x.length; i++) bits[i] = bf16Bits(x[i])
    return bits
  },
  i32: (x) => new Int32Array(x),
  u8: (x) => new Uint8Array(x),
}

/** Stored elements as double-precision numbers. */
export function decode(bits: NumberArray, dtype: DType): Float64Array {
  const numbers = new Float64Array(bits as ArrayLike<number>)
  if (dtype === 'bf16') for (let i = 0; i < numbers.length; i++) numbers[i] = fromBf16(bits[i])
  return numbers
}

/** Numbers rounded to an element type. */
export function value(shape: Shape, dtype: DType, numbers: Float64Array): Value {
  const bits = encoders[dtype](numbers)
  return { host: { shape, data: decode(bits, dtype) }, dtype, bits }
}

function numbersOf(shape: Shape, fill: Fill, seed: string): Float64Array {
  const random = generator(seed)
  const at: Readonly<Record<string, (i: number) => number>> = {
    normal: () => normal(random),
    positive: () => 0.2 + random(),
    zeros: () => 0,
    ones: () => 1,
  }
  const draw = typeof fill === 'function' ? fill : at[fill]
  const numbers = new Float64Array(sizeOf(shape))
  for (let i = 0; i < numbers.length; i++) numbers[i] = draw(i)
  return numbers
}

// Cases ---------------------------------------------------------------------------------------------------------------

const isFloat = (type: string): boolean => type === 'T' || type === 'F'

/** The element type of an operand in a run. */
export const dtypeOf = (operand: { name: string; type: string }, c: OpCase, float: Float): DType =>
  operand.type === 'F' ? (c.dtypes?.[operand.name] ?? float) : isFloat(operand.type) ? float : (operand.type as DType)

/** Fills one operand of a case; integers must say what they hold. */
function fillOperand(entry: OpEntry, index: number, float: Float, name: string, shape: Shape): Value {
  const c = entry.cases[index]
  const operand = operandsOf(entry.name).find((o) => o.name === name)
  if (operand === undefined) throw new Error(`${entry.name} case ${index}: there is no operand ${name}`)
  const fill = c.fill?.[name]
  const dtype = dtypeOf(operand, c, float)
  if (fill === undefined && dtype === 'i32' && sizeOf(shape) > 0)
    throw new Error(`${entry.name} case ${index}: say what ${name} holds`)
  return value(shape, dtype, numbersOf(shape, fill ?? 'normal', `${entry.name} ${index} ${name}`))
}

/** A case with values. */
export function exampleOf(entry: OpEntry, index: number, float: Float): Example {
  const c = entry.cases[index]
  const values = Object.fromEntries(
    Object.entries(c.in).map(([name, shape]) => [name, fillOperand(entry, index, float, name, shape)]),
  )
  const shapes = Object.entries(c.in).map(([name, shape]) => `${name} [${shape.join(', ')}]`)
  const parameters = Object.entries(c.p ?? {}).map(([name, number]) => `${name} ${number}`)
  return { entry, case: c, float, values, text: `${index} ${float}: ${[...shapes, ...parameters].join(', ')}` }
}

const made = new Map<OpEntry, readonly Example[]>()

/** The cases that must work, each in every element type that it stands for. Made once: no check changes a value. */
export function examplesOf(entry: OpEntry): readonly Example[] {
  const examples = made.get(entry) ?? makeExamples(entry)
  made.set(entry, examples)
  return examples
}

function makeExamples(entry: OpEntry): Example[] {
  const generic = operandsOf(entry.name).some((operand) => isFloat(operand.type))
  return entry.cases.flatMap((c, index) => {
    if (c.bench || c.fails !== undefined) return []
    const floats: readonly Float[] =
      c.dtype !== undefined ? [c.dtype] : generic && c.dtypes === undefined ? ['f32', 'bf16'] : ['f32']
    return floats.map((float) => exampleOf(entry, index, float))
  })
}

/** Operands that a caller passes, in signature order. */
export const passed = (entry: OpEntry): ReturnType<typeof operandsOf> =>
  operandsOf(entry.name).filter((operand) => operand.role !== 'output')

/** Uploads operands, changed on the way if asked; an absent one is undefined. */
export const upload = (
  device: Device,
  entry: OpEntry,
  values: Values,
  change = (v: Value): Value => v,
): (Tensor | undefined)[] =>
  passed(entry).map(({ name }) => {
    if (values[name] === undefined) return undefined
    const v = change(values[name])
    return tensor(device, v.bits, v.host.shape)
  })

// Runs ----------------------------------------------------------------------------------------------------------------

/** Leaves NaN (and -1) in the blocks that the next outputs of these sizes get: an unwritten element shows. */
export function poison(device: Device, bytes: readonly number[]): void {
  const blocks = bytes.map((length) => tensor(device, new Uint8Array(length).fill(0xff)))
  for (const block of blocks) block.dispose()
}

function poisonOutputs(device: Device, { entry, case: c, float }: Example): void {
  const outputs = operandsOf(entry.name).filter((operand) => operand.role === 'output')
  const shapes = entry.shapes(c.in, c.p ?? {})
  poison(
    device,
    outputs.map((operand, i) => sizeOf(shapes[i]) * bytesPerElement(dtypeOf(operand, c, float))),
  )
}

/** What a call changed or made, with names, in signature order. */
export function resultsOf(entry: OpEntry, tensors: readonly (Tensor | undefined)[], outputs: readonly Tensor[]) {
  const all = operandsOf(entry.name)
  const inPlace = passed(entry).flatMap(({ name, role }, i) => {
    const t = tensors[i]
    return role === 'inPlace' && t !== undefined ? [{ name, t }] : []
  })
  const names = all.filter((operand) => operand.role === 'output').map((operand) => operand.name)
  return [...inPlace, ...outputs.map((t, i) => ({ name: names[i], t }))]
}

/** Runs an example and reads everything that it changed or made. */
export async function execute(device: Device, example: Example): Promise<Result[]> {
  const { entry, values, case: c } = example
  const scope = new Scope()
  const reads = scope.run(() => {
    const tensors = upload(device, entry, values)
    poisonOutputs(device, example)
    return resultsOf(entry, tensors, call(entry, tensors, c.p)).map(async ({ name, t }) => {
      return { name, dtype: t.dtype, bits: await t.bits() }
    })
  })
  scope.dispose()
  return Promise.all(reads)
}

/** Rows [from, to) of a value. */
export function rowsOfValue(v: Value, from: number, to: number): Value {
  const width = sizeOf(v.host.shape.slice(1))
  const shape = [to - from, ...v.host.shape.slice(1)]
  const [begin, end] = [from * width, to * width]
  return { host: { shape, data: v.host.data.slice(begin, end) }, dtype: v.dtype, bits: v.bits.slice(begin, end) }
}

/** Joins the stored elements of several reads. */
function join(parts: readonly NumberArray[]): NumberArray {
  const kind = parts[0].constructor as new (from: number[]) => NumberArray
  return new kind(parts.flatMap((part) => Array.from(part)))
}

/** Runs an example in parts: tokens `cuts[i] .. cuts[i + 1]` one call after another over the same in-place operands. */
export async function executeInParts(device: Device, example: Example, cuts: readonly number[]): Promise<Result[]> {
  const { entry, values, case: c } = example
  const rows = new Set(c.rows)
  const scope = new Scope()
  const parts = scope.run(() => {
    const whole = upload(device, entry, values)
    return cuts.slice(1).map((end, i) => {
      const tensors = passed(entry).map(({ name }, at) => {
        if (!rows.has(name)) return whole[at]
        const part = rowsOfValue(values[name], cuts[i], end)
        return tensor(device, part.bits, part.host.shape)
      })
      return resultsOf(entry, tensors, call(entry, tensors, c.p))
    })
  })
  const inPlace = new Set(
    passed(entry)
      .filter((o) => o.role === 'inPlace')
      .map((o) => o.name),
  )
  const reads = parts[parts.length - 1].map(async ({ name, t }, at) => {
    const bits = inPlace.has(name) ? await t.bits() : join(await Promise.all(parts.map((part) => part[at].t.bits())))
    return { name, dtype: t.dtype, bits }
  })
  scope.dispose()
  return Promise.all(reads)
}

/** The reference's results, named as {@link execute} names them. */
export const expected = ({ entry, values, case: c }: Example): readonly Host[] =>
  entry.reference(Object.fromEntries(Object.entries(values).map(([name, v]) => [name, v.host])), c.p ?? {})

// Comparison ----------------------------------------------------------------------------------------------------------

/** The rounding of a result's own type and a short chain's before it; for bf16 also that of a product's operand. */
const tolerances = { f32: 1e-5, bf16: 8e-3 } as const

/** How far a result may be from the reference, as `distance` counts. Whole numbers are exact. */
export function toleranceOf(
  { entry, float, case: { tolerance = 0, roundings = 1 } }: Example,
  { dtype }: Result,
): number {
  if (dtype === 'i32' || dtype === 'u8') return 0
  const rounded = (float === 'bf16' ? entry.bf16Tolerance : undefined) ?? 0
  return Math.max(tolerances[dtype] * (dtype === 'bf16' ? roundings : 1), tolerance, rounded)
}

/** Largest difference relative to the largest finite wanted number; Infinity when NaN or infinities differ. */
export function distance(got: ArrayLike<number>, want: Float64Array): number {
  if (got.length !== want.length) return Number.POSITIVE_INFINITY
  const scale = want.reduce((top, x) => (Number.isFinite(x) ? Math.max(top, Math.abs(x)) : top), 0) || 1
  return want.reduce((worst, x, i) => {
    if (Object.is(got[i], x) || got[i] === x) return worst
    const off = Math.abs(got[i] - x) / scale
    return Number.isNaN(off) ? Number.POSITIVE_INFINITY : Math.max(worst, off)
  }, 0)
}

/** The same stored bits? NaN equals NaN of the same bits. */
export const sameBits = (a: NumberArray, b: NumberArray): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))

/** Same results, bit for bit; names the first that differs. */
export function difference(a: readonly Result[], b: readonly Result[]): string | undefined {
  const at = a.findIndex((result, i) => !sameBits(result.bits, b[i].bits))
  if (at < 0) return undefined
  const [x, y] = [decode(a[at].bits, a[at].dtype), decode(b[at].bits, b[at].dtype)]
  const element = x.findIndex((number, i) => !Object.is(number, y[i]))
  return `${a[at].name}[${element}]: ${x[element]} and ${y[element]}`
}
