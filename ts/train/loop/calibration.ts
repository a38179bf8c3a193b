// Monitors of confidence: how far it keeps what it promises, and whether who is more confident is more often right
// (consistency and correctness, arXiv 2407.14507). Pure functions of numbers.

import { checkArgument, checkOptions, kinds, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'

/** How probabilities are put into bins. */
export interface CalibrationOptions {
  /** Number of bins, default 10. */
  readonly bins?: number
  /** `width`: bins of equal width over [0, 1] (Guo et al. 2017), the default; `mass`: of equally many, in order. */
  readonly binning?: 'width' | 'mass'
}

function checkLists(where: string, names: readonly [string, string], lists: readonly (readonly number[])[]): void {
  for (const [i, name] of names.entries()) checkArgument(`${where}.${name}`, lists[i], kinds.numbers)
  if (lists[0].length === lists[1].length) return
  const text = `expected a number for each of ${lists[0].length}, got ${lists[1].length}`
  throw new WhetstoneError('E_SHAPE', `${where}.${names[1]}`, text)
}

/**
 * Expected calibration error: the mean over bins, by their sizes, of |mean probability - share that is right|.
 *
 * @param probabilities each that of being right
 * @param right 1 or 0 each, or a share
 * @throws WhetstoneError E_CONFIG for a probability outside [0, 1], E_SHAPE for lists of different lengths
 */
export function calibrationError(
  probabilities: readonly number[],
  right: readonly number[],
  options: CalibrationOptions = {},
): number {
  checkLists('calibrationError', ['probabilities', 'right'], [probabilities, right])
  checkOptions('calibrationError', options, { bins: optional(kinds.count), binning: optional(word('width', 'mass')) })
  const { bins = 10, binning = 'width' } = options
  const bad = probabilities.find((p) => !(p >= 0 && p <= 1))
  if (bad !== undefined)
    throw new WhetstoneError('E_CONFIG', 'calibrationError.probabilities', `expected numbers from 0 to 1, got ${bad}`)
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[a] - probabilities[b] || a - b)
  const binOf = {
    width: (i: number) => Math.min(bins - 1, Math.floor(probabilities[i] * bins)),
    mass: (_: number, rank: number) => Math.floor((rank * bins) / order.length),
  }[binning]
  const gaps = new Float64Array(bins)
  for (const [rank, i] of order.entries()) gaps[binOf(i, rank)] += probabilities[i] - right[i]
  return gaps.reduce((sum, gap) => sum + Math.abs(gap), 0) / Math.max(1, order.length)
}

/** Ranks from 1; of equal values each the mean of theirs. */
function ranksOf(values: readonly number[]): number[] {
  const sorted = values.toSorted((a, b) => a - b)
  return values.map((value) => (sorted.indexOf(value) + sorted.lastIndexOf(value)) / 2 + 1)
}

/**
 * Spearman's rank correlation of two lists, ties at their mean rank; undefined where one of them is constant.
 *
 * @throws WhetstoneError E_SHAPE for lists of different lengths
 */
export function rankCorrelation(a: readonly number[], b: readonly number[]): number | undefined {
  checkLists('rankCorrelation', ['a', 'b'], [a, b])
  const [x, y] = [ranksOf(a), ranksOf(b)]
  const centre = mean(x)
  const product = (u: readonly number[], v: readonly number[]) =>
    u.reduce((sum, value, i) => sum + (value - centre) * (v[i] - centre), 0)
  const scale = Math.sqrt(product(x, x) * product(y, y))
  return scale === 0 ? undefined : product(x, y) / scale
}
