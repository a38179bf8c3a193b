// What a judge says of one golden entry, and comparisons with tolerances.

/** One comparison. */
export interface Finding {
  readonly entry: string
  readonly ok: boolean
  readonly detail: string
}

/** Largest absolute difference; infinite when lengths differ or a number is NaN. */
export function largestDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length) return Number.POSITIVE_INFINITY
  let largest = 0
  for (let i = 0; i < got.length; i++) {
    const difference = Math.abs(got[i] - expected[i])
    if (!(difference <= largest)) largest = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference
  }
  return largest
}

/** Mean absolute difference. */
export function meanDifference(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < got.length; i++) sum += Math.abs(got[i] - expected[i])
  return sum / got.length
}

/** Largest absolute value. */
export const largest = (values: ArrayLike<number>): number =>
  Array.prototype.reduce.call(values, (most, value) => Math.max(most as number, Math.abs(value as number)), 0) as number

/** A finding that an error stays within its bound. */
export const within = (entry: string, error: number, bound: number): Finding => ({
  entry,
  ok: error <= bound,
  detail: `error ${error.toExponential(2)}, allowed ${bound.toExponential(2)}`,
})
