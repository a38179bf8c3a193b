// What shape rules are written with: checks of an operand's rank, shape and of a parameter's range, with errors that
// name the op and the operand. Native code checks again; here the stack is the caller's.

import { WhetstoneError } from '../base/errors.js'
import type { OpName } from '../native/ops.gen.js'
import { checkShape, type Shape, sameShape, shapeText } from '../tensor/shape.js'
import type { Parameters } from './define.js'

/** Throws E_SHAPE unless the operand has exactly this shape. */
export function expectShape(op: OpName, name: string, got: Shape, expected: Shape): void {
  if (!sameShape(got, expected)) checkShape(false, op, `${name} of shape ${shapeText(expected)}`, got)
}

/** Throws E_SHAPE unless the operand has this rank; `glossary` names its dimensions, as in `[N, C]`. */
export function expectRank(op: OpName, name: string, got: Shape, glossary: string): void {
  checkShape(got.length === glossary.split(',').length, op, `${name} of shape ${glossary}`, got)
}

/** Throws E_SHAPE unless the operand has at least one dimension. */
export function expectRows(op: OpName, name: string, got: Shape): void {
  checkShape(got.length >= 1, op, `${name} with at least one dimension`, got)
}

/** Throws E_CONFIG unless the condition holds of a parameter. */
export function expectParameter(condition: boolean, op: OpName, p: Parameters, name: string, expected: string): void {
  if (!condition) throw new WhetstoneError('E_CONFIG', op, `expected ${name} to be ${expected}, got ${p[name]}`)
}

/** Throws E_CONFIG unless the parameter is a finite number of at least `low`. */
export function expectAtLeast(op: OpName, p: Parameters, name: string, low: number): void {
  expectParameter(Number.isFinite(p[name]) && p[name] >= low, op, p, name, `a finite number of at least ${low}`)
}

/** Throws E_CONFIG unless the parameter is a finite number above zero. */
export function expectPositive(op: OpName, p: Parameters, name: string): void {
  expectParameter(Number.isFinite(p[name]) && p[name] > 0, op, p, name, 'a finite number above 0')
}

/** Throws E_CONFIG unless the parameter is a whole number of at least `low`. */
export function expectWhole(op: OpName, p: Parameters, name: string, low: number): void {
  expectParameter(Number.isSafeInteger(p[name]) && p[name] >= low, op, p, name, `a whole number of at least ${low}`)
}
