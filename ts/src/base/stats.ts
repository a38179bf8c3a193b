// Statistics of results: intervals and comparisons of proportions, pass@k, and summaries of small samples. Pure
// functions of numbers; samples are expected to be finite.

import { WhetstoneError } from './errors.js'

/** A share of successes with its 95% interval. */
export interface Proportion {
  readonly accuracy: number
  readonly low: number
  readonly high: number
}

/** Two-sided 95% point of the normal distribution. */
const z95 = 1.959963984540054

function checkCounts(successes: number, total: number, where: string): void {
  if (Number.isInteger(successes) && Number.isInteger(total) && successes >= 0 && successes <= total) return
  throw new WhetstoneError(
    'E_CONFIG',
    where,
    `expected whole numbers with 0 <= successes <= total, got ${successes} of ${total}`,
  )
}

/**
 * Wilson's 95% interval for k successes of n (Wilson 1927): sound near 0 and 1, where k/n +- 2 sd is not. Of nothing the
 * interval is 0 to 1.
 *
 * @throws WhetstoneError E_CONFIG unless 0 <= successes <= total
 */
export function proportionInterval(successes: number, total: number): Proportion {
  checkCounts(successes, total, 'proportionInterval')
  if (total === 0) return { accuracy: 0, low: 0, high: 1 }
  const share = successes / total
  const shrink = 1 + z95 ** 2 / total
  const centre = (share + z95 ** 2 / (2 * total)) / shrink
  const half = (z95 / shrink) * Math.sqrt((share * (1 - share)) / total + z95 ** 2 / (4 * total ** 2))
  return {
    accuracy: share,
    low: successes === 0 ? 0 : Math.max(0, centre - half),
    high: successes === total ? 1 : Math.min(1, centre + half),
  }
}

/** Successes of a number of tries. */
export interface Count {
  readonly correct: number
  readonly total: number
}

/** How far two shares lie apart, with a 95% interval. */
export interface Difference {
  readonly difference: number
  readonly low: number
  readonly high: number
}

/**
 * Share of `a` minus share of `b` for independent samples, with Newcombe's 95% interval (Newcombe 1998, method 10): the
 * two Wilson intervals combined. Two models on the same tasks are not independent; for them it is a little too wide.
 *
 * @throws WhetstoneError E_CONFIG for impossible counts
 */
export function proportionDifference(a: Count, b: Count): Difference {
  const p = proportionInterval(a.correct, a.total)
  const q = proportionInterval(b.correct, b.total)
  const difference = p.accuracy - q.accuracy
  return {
    difference,
    low: difference - Math.hypot(p.accuracy - p.low, q.high - q.accuracy),
    high: difference + Math.hypot(p.high - p.accuracy, q.accuracy - q.low),
  }
}

/**
 * z of the pooled two-proportion test: the difference of the shares over its standard deviation if both were equal.
 * Beyond +-1.96 the difference is significant at 5%. 0 when all tries, or none, were successes.
 *
 * @throws WhetstoneError E_CONFIG for impossible or empty counts
 */
export function proportionZ(a: Count, b: Count): number {
  checkCounts(a.correct, a.total, 'proportionZ')
  checkCounts(b.correct, b.total, 'proportionZ')
  if (a.total === 0 || b.total === 0)
    throw new WhetstoneError('E_CONFIG', 'proportionZ', 'expected two samples with at least one try each, got none')
  const pooled = (a.correct + b.correct) / (a.total + b.total)
  const deviation = Math.sqrt(pooled * (1 - pooled) * (1 / a.total + 1 / b.total))
  return deviation === 0 ? 0 : (a.correct / a.total - b.correct / b.total) / deviation
}

/** Arithmetic mean; 0 of nothing. */
export const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length

/** Sample variance (divided by n - 1); 0 of fewer than two values. */
export function variance(values: readonly number[]): number {
  if (values.length < 2) return 0
  const centre = mean(values)
  return values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1)
}

/** Sample standard deviation; 0 of fewer than two values. */
export const deviation = (values: readonly number[]): number => Math.sqrt(variance(values))

/** 1 / (1 + exp(-x)). */
export const logistic = (x: number): number => 1 / (1 + Math.exp(-x))

/** The q-quantile (0..1), linearly interpolated; NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const low = Math.floor(at)
  const high = Math.ceil(at)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
}

/** The p-th percentile (0..100), linearly interpolated; NaN of nothing. */
export const percentile = (values: readonly number[], p: number): number => quantile(values, p / 100)

/** The middle value; NaN of nothing. */
export const median = (values: readonly number[]): number => quantile(values, 0.5)

/**
 * pass@k: the chance that k of n samples hold a success, estimated without bias (Chen et al. 2021, equation 1).
 *
 * @param correct number of successes among the n samples
 * @throws WhetstoneError E_CONFIG unless 0 <= correct <= n and 1 <= k <= n: fewer samples than k cannot tell
 */
export function passAtK(n: number, correct: number, k: number): number {
  checkCounts(correct, n, 'passAtK')
  if (!Number.isInteger(k) || k < 1 || k > n)
    throw new WhetstoneError('E_CONFIG', 'passAtK', `expected k from 1 to the ${n} samples, got ${k}`)
  if (n - correct < k) return 1
  let miss = 1
  for (let i = n - correct + 1; i <= n; i++) miss *= 1 - k / i
  return 1 - miss
}
