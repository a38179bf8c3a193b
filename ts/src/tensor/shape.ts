// Element types and shapes as plain data. No tensors, no arithmetic.

import { WhetstoneError } from '../base/errors.js'

/** Lengths of the dimensions, outermost first; at most four. */
export type Shape = readonly number[]

const widths = { f32: 4, bf16: 2, i32: 4, u8: 1 } as const

/** Element types: f32, bf16 (upper half of f32), i32, u8. */
export type DType = keyof typeof widths

/** Names of the element types in the order of native/core/view.h. */
export const dtypes = Object.keys(widths) as DType[]

/** Bytes of one element. */
export const bytesPerElement = (dtype: DType): number => widths[dtype]

/** Number of elements of a shape; 1 for a scalar `[]`. */
export const sizeOf = (shape: Shape): number => shape.reduce((product, length) => product * length, 1)

/** A shape as text: `[2, 3]`. */
export const shapeText = (shape: Shape): string => `[${shape.join(', ')}]`

/** Equal rank and lengths? */
export const sameShape = (a: Shape, b: Shape): boolean =>
  a.length === b.length && a.every((length, i) => length === b[i])

/** The length of the last dimension. */
export const lastOf = (shape: Shape): number => shape[shape.length - 1]

/** Number of rows when all dimensions but the last are joined. */
export const rowsOf = (shape: Shape): number => sizeOf(shape.slice(0, -1))

/** Throws E_SHAPE with the op, what was expected and what came, unless the condition holds. */
export function checkShape(
  condition: boolean,
  where: string,
  expected: string,
  got: Shape | number,
): asserts condition {
  if (condition) return
  const text = typeof got === 'number' ? String(got) : shapeText(got)
  throw new WhetstoneError('E_SHAPE', where, `expected ${expected}, got ${text}`, { details: { expected, got } })
}
