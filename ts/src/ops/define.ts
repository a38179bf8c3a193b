// defineOp() and call(): the one path from an op function to its kernel. An entry holds everything about an op that
// is not arithmetic on a device: shape rule, gradient, float64 reference and test cases. Tests, gradient checks and
// bench rows are made from the entries (test/ops.test.ts, bench/kernels.ts).

import { activeTape, type GradientRule } from '../autograd/tape.js'
import { WhetstoneError } from '../base/errors.js'
import type { Device } from '../native/device.js'
import { type OpName, opTable } from '../native/ops.gen.js'
import { type DType, type Shape, shapeText } from '../tensor/shape.js'
import { checkAlive, empty, type Tensor } from '../tensor/tensor.js'

/** A tensor of a reference: float64 numbers on the host. */
export interface Host {
  readonly shape: Shape
  readonly data: Float64Array
}

/** Parameters of an op by name; booleans are 0 or 1. */
export type Parameters = Readonly<Record<string, number>>

/** How a test case fills an input. */
export type Fill =
  | 'normal'
  | 'positive'
  | 'zeros'
  | 'ones'
  /** A function of the element's index. */
  | ((index: number) => number)

/** One test case: shapes of the inputs in signature order, or the code that it must fail with. */
export interface OpCase {
  readonly in: Readonly<Record<string, Shape>>
  readonly p?: Parameters
  readonly fill?: Readonly<Record<string, Fill>>
  /** The T and F of the call; default: the case stands for both f32 and bf16. */
  readonly dtype?: 'f32' | 'bf16'
  /** Types of single F operands, where they differ. */
  readonly dtypes?: Readonly<Record<string, 'f32' | 'bf16'>>
  /** Largest error against the reference, relative to its largest value; default 1e-5 in f32, 4e-3 in bf16. */
  readonly tolerance?: number
  /** Times that a kernel may round to bf16 on the way to a result of that type, the last included; default 1. */
  readonly roundings?: number
  /**
   * The first dimension of these operands counts tokens: calls with any split of them, one after another, give the
   * bits of one call. Output rows are the same; in-place operands gather to the same.
   */
  readonly rows?: readonly string[]
  /** A typical size: timed by the bench, not run by the tests. */
  readonly bench?: boolean
  readonly fails?: 'E_SHAPE' | 'E_DTYPE' | 'E_CONFIG'
}

/** Everything about an op but its kernels. */
export interface OpEntry {
  readonly name: OpName
  /** Shapes of the outputs; throws E_SHAPE. */
  readonly shapes: (s: Readonly<Record<string, Shape>>, p: Parameters) => readonly Shape[]
  /** Float operands that carry no gradient: statistics among the outputs, constants among the inputs. */
  readonly fixed?: readonly string[]
  /** Operands that the gradient reads. */
  readonly saves?: readonly string[]
  /** Saved operands that only one input's gradient reads: without that gradient they are let go. */
  readonly savesFor?: Readonly<Record<string, string>>
  /** Absent: the op has no gradient, and gives none to its inputs. */
  readonly gradient?: GradientRule
  /** New values of the in-place operands that are present, then outputs, in signature order. f64, for clarity. */
  readonly reference: (t: Readonly<Record<string, Host>>, p: Parameters) => readonly Host[]
  readonly cases: readonly OpCase[]
  /** Largest error of f32 results too when T is bf16, for ops that round on the way; relative as in a case. */
  readonly bf16Tolerance?: number
}

interface Operand {
  readonly name: string
  readonly type: string
  readonly role: 'input' | 'inPlace' | 'output'
  readonly optional: boolean
}

/** Operands of an op in signature order. */
export const operandsOf = (name: OpName): readonly Operand[] => opTable[name].operands

/** Checks an entry against its line in ops.def, and guards its gradient against outputs that carry none. */
export function defineOp(entry: OpEntry): OpEntry {
  if (opTable[entry.name] === undefined)
    throw new WhetstoneError('E_INTERNAL', entry.name, 'expected an op of native/ops.def')
  const { gradient, fixed } = entry
  if (gradient === undefined || fixed === undefined) return entry
  const guarded: GradientRule = (g) => {
    const name = fixed.find((operand) => g.d[operand] !== undefined)
    if (name !== undefined)
      throw new WhetstoneError('E_CONFIG', entry.name, `${name} carries no gradient: use another output in the loss`)
    return gradient(g)
  }
  return { ...entry, gradient: guarded }
}

/**
 * Runs an op: checks operands and shapes, makes the outputs, queues the kernel, records it on the active tape.
 *
 * @param tensors inputs and in-place operands in signature order; undefined for an absent optional one
 * @param p every parameter of the op by name
 * @returns the outputs in signature order
 * @throws WhetstoneError E_SHAPE, E_DTYPE, E_DEVICE, E_DISPOSED, E_CONFIG
 */
export function call(entry: OpEntry, tensors: readonly (Tensor | undefined)[], p: Parameters = {}): Tensor[] {
  const operands = operandsOf(entry.name)
  const inputs: Record<string, Tensor> = {}
  const shapes: Record<string, Shape> = {}
  const ids: number[] = []
  for (let i = 0; i < operands.length && operands[i].role !== 'output'; i++) {
    const t = tensors[i]
    ids.push(t === undefined ? -1 : t.id)
    if (!isGiven(entry.name, operands[i], t)) continue
    inputs[operands[i].name] = t
    shapes[operands[i].name] = t.shape
    if (operands[i].role === 'inPlace') t.changed()
  }
  const { device, dtype } = commonOf(entry.name, operands, inputs)
  const outputShapes = entry.shapes(shapes, p)
  const parameters = parametersOf(entry.name, p)
  const outputs = outputShapes.map((shape, i) => {
    const { type } = operands[ids.length + i]
    return empty(device, shape, type === 'T' || type === 'F' ? dtype : (type as DType))
  })
  const given = ids.length
  for (const output of outputs) ids.push(output.id)
  device.run(entry.name, ids, parameters)
  record(entry, inputs, operands.slice(given), outputs, p)
  return outputs
}

/** Is the operand there? One that must be and is not, or no longer, is an error. */
function isGiven(op: OpName, { name, optional }: Operand, t: Tensor | undefined): t is Tensor {
  if (t !== undefined) {
    checkAlive(t, op)
    return true
  }
  if (optional) return false
  throw new WhetstoneError('E_SHAPE', op, `expected a tensor for ${name}, got none`)
}

/** The device of the operands and the element type that they share as T. */
function commonOf(op: OpName, operands: readonly Operand[], inputs: Record<string, Tensor>) {
  let device: Device | undefined
  let shared: Tensor | undefined
  for (const { name, type } of operands) {
    const t = inputs[name]
    if (t === undefined) continue
    device ??= t.device
    if (t.device !== device)
      throw new WhetstoneError('E_DEVICE', op, `${name} lies on another device than the operands before it`)
    if (type === 'T') shared ??= t
    checkDtype(op, name, type, t, shared)
  }
  if (device === undefined) throw new WhetstoneError('E_INTERNAL', op, 'expected at least one operand')
  return { device, dtype: shared?.dtype ?? 'f32' }
}

function checkDtype(op: OpName, name: string, type: string, t: Tensor, shared: Tensor | undefined): void {
  const isFloat = t.dtype === 'f32' || t.dtype === 'bf16'
  const fits = type === 'F' ? isFloat : type === 'T' ? isFloat && t.dtype === shared?.dtype : t.dtype === type
  if (fits) return
  const expected =
    type === 'F' ? 'f32 or bf16' : type === 'T' ? `${shared === t ? 'f32 or bf16' : shared?.dtype}` : type
  throw new WhetstoneError('E_DTYPE', op, `${name} ${shapeText(t.shape)}: expected ${expected}, got ${t.dtype}`)
}

function parametersOf(op: OpName, p: Parameters): number[] {
  return opTable[op].parameters.map((name: string) => {
    const value = p[name]
    if (typeof value !== 'number')
      throw new WhetstoneError('E_CONFIG', op, `expected a number for ${name}, got ${value}`)
    return value
  })
}

/** Adds the call to the active tape; `operands` are those of the outputs. */
function record(
  entry: OpEntry,
  inputs: Record<string, Tensor>,
  operands: readonly Operand[],
  outputs: Tensor[],
  p: Parameters,
): void {
  const tape = activeTape()
  if (tape === undefined || entry.gradient === undefined) return
  const named = Object.fromEntries(operands.map((operand, i) => [operand.name, outputs[i]]))
  const isRead = (name: string): boolean => {
    const reader = entry.savesFor?.[name]
    return reader === undefined || tape.tracks(inputs[reader])
  }
  const saves = (entry.saves ?? []).filter((name) => (inputs[name] ?? named[name]) !== undefined && isRead(name))
  tape.add({ name: entry.name, inputs, outputs: named, saves, p, rule: entry.gradient })
}
