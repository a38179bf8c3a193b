// Float64 tensors on the host, in which the references of the ops are written: making them, and the two sums that
// many references share. For tests and documentation; no kernel runs here.

import { rowsOf, type Shape, sizeOf } from '../tensor/shape.js'
import type { Host } from './define.js'

/** A host tensor from a function of the element's index. */
export const host = (shape: Shape, at: (index: number) => number): Host => ({
  shape,
  data: Float64Array.from({ length: sizeOf(shape) }, (_, i) => at(i)),
})

/** Zeros of a shape. */
export const hostZeros = (shape: Shape): Host => ({ shape, data: new Float64Array(sizeOf(shape)) })

/** A copy that may be changed. */
export const hostCopy = (t: Host): Host => ({ shape: t.shape, data: t.data.slice() })

/** Row r when all dimensions but the last are joined; shares the memory. */
export function hostRow(t: Host, r: number): Float64Array {
  const width = t.shape[t.shape.length - 1]
  return t.data.subarray(r * width, (r + 1) * width)
}

/** All rows; shares the memory. */
export const hostRows = (t: Host): Float64Array[] => Array.from({ length: rowsOf(t.shape) }, (_, r) => hostRow(t, r))

/** Sum of f(i) for i below n. */
export function sum(n: number, f: (i: number) => number): number {
  let total = 0
  for (let i = 0; i < n; i++) total += f(i)
  return total
}

/** Inner product of two vectors of the same length. */
export const dot = (a: Float64Array, b: Float64Array): number => sum(a.length, (i) => a[i] * b[i])

/** y += factor * x. */
export function addScaled(y: Float64Array, factor: number, x: Float64Array): void {
  for (let i = 0; i < y.length; i++) y[i] += factor * x[i]
}

/** log sum exp of a vector; -Infinity when it is empty. */
export function logSumExp(z: Float64Array): number {
  const top = z.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  if (top === Number.NEGATIVE_INFINITY) return top
  return top + Math.log(sum(z.length, (i) => Math.exp(z[i] - top)))
}
