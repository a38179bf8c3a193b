// Statistics of results: intervals for proportions, and summaries of small samples.

/** A share of successes with its 95% interval. */
export interface Proportion {
  readonly accuracy: number
  readonly low: number
  readonly high: number
}

/** Two-sided 95% point of the normal distribution. */
const z95 = 1.959963984540054

/** Wilson's 95% interval for k successes of n (Wilson 1927): sound near 0 and 1, where k/n +- 2 sd is not. */
export function proportionInterval(successes: number, total: number): Proportion {
  if (total === 0) return { accuracy: 0, low: 0, high: 1 }
  const share = successes / total
  const shrink = 1 + z95 ** 2 / total
  const centre = (share + z95 ** 2 / (2 * total)) / shrink
  const half = (z95 / shrink) * Math.sqrt((share * (1 - share)) / total + z95 ** 2 / (4 * total ** 2))
  return { accuracy: share, low: Math.max(0, centre - half), high: Math.min(1, centre + half) }
}

/** Arithmetic mean; 0 of nothing. */
export const mean = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length

/** The q-quantile (0..1), linearly interpolated; NaN of nothing. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (sorted.length - 1) * q
  const low = Math.floor(at)
  const high = Math.ceil(at)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
}

/** The middle value; NaN of nothing. */
export const median = (values: readonly number[]): number => quantile(values, 0.5)

/**
 * pass@k: the chance that k of n samples hold a success, estimated without bias (Chen et al. 2021, equation 1).
 *
 * @param correct number of successes among the n samples
 */
export function passAtK(n: number, correct: number, k: number): number {
  if (n - correct < k) return 1
  let miss = 1
  for (let i = n - correct + 1; i <= n; i++) miss *= 1 - k / i
  return 1 - miss
}
