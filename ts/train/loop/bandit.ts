// Control: which setting to try next when each try is noisy and costs a round. Pure functions of what was tried, so that a run
// which goes on makes the same choices: no state beside the list.

import { checkArgument, checkOptions, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import { checkTried, type Tuned } from './tuner.js'

/**
 * UCB1 (Auer et al. 2002): every setting once, in order, then the one with the largest mean + c sqrt(2 ln n / n_i); of equals the
 * first. With values in [0, 1] and c = 1 the regret grows like log n.
 *
 * @param tried values by setting, in any order
 * @param settings that there are, told apart by Object.is
 * @throws WhetstoneError E_CONFIG for no settings, a try of another one, and a value that is no number
 */
export function bandit<S>(tried: readonly Tuned<S>[], settings: readonly S[], { exploration = 1 } = {}): S {
  checkTried('bandit', tried)
  checkArgument('bandit.settings', settings, kinds.list)
  checkArgument('bandit.exploration', exploration, kinds.number)
  if (settings.length === 0) throw new WhetstoneError('E_CONFIG', 'bandit.settings', 'expected at least one, got none')
  const other = tried.findIndex((one) => !settings.some((setting) => Object.is(setting, one.setting)))
  if (other >= 0)
    throw new WhetstoneError(
      'E_CONFIG',
      `bandit.tried[${other}]`,
      'expected one of the settings, by identity, got another',
    )
  const valuesOf = (setting: S) => tried.flatMap((one) => (Object.is(one.setting, setting) ? [one.value] : []))
  const arms = settings.map((setting) => ({ setting, values: valuesOf(setting) }))
  const total = arms.reduce((sum, { values }) => sum + values.length, 0)
  const boundOf = ({ values }: (typeof arms)[number]): number =>
    values.length === 0
      ? Number.POSITIVE_INFINITY
      : mean(values) + exploration * Math.sqrt((2 * Math.log(total)) / values.length)
  return arms.reduce((best, next) => (boundOf(next) > boundOf(best) ? next : best)).setting
}

/** What a Gaussian process expects of settings. */
export interface Posterior {
  readonly mean: number
  readonly deviation: number
}

/** How smooth the values are thought to be. */
export interface ProcessOptions {
  /** Distance over which values are alike, in units of the settings; default 0.3, for settings scaled to [0, 1]. */
  readonly lengthScale?: number
  /** Deviation of a value that is measured again, in deviations of the values; default 0.1. */
  readonly noise?: number
}

const processKinds = { lengthScale: optional(kinds.number), noise: optional(kinds.number) }

const distance = (a: readonly number[], b: readonly number[]): number =>
  Math.sqrt(a.reduce((sum, x, i) => sum + (x - b[i]) ** 2, 0))

/** Matern 5/2. */
function kernel(r: number, lengthScale: number): number {
  const s = (Math.sqrt(5) * r) / lengthScale
  return (1 + s + s ** 2 / 3) * Math.exp(-s)
}

/** Lower factor of a positive definite matrix. */
function cholesky(matrix: readonly (readonly number[])[]): number[][] {
  const lower: number[][] = []
  for (const [i, row] of matrix.entries()) {
    const own: number[] = []
    for (let j = 0; j <= i; j++) {
      const above = j === i ? own : lower[j]
      const rest = row[j] - own.slice(0, j).reduce((sum, x, k) => sum + x * above[k], 0)
      if (j === i && !(rest > 0))
        throw new WhetstoneError('E_CONFIG', 'bayesian.noise', 'expected more noise: values at equal settings differ')
      own.push(j === i ? Math.sqrt(rest) : rest / lower[j][j])
    }
    lower.push(own)
  }
  return lower
}

/** Solves L x = b. */
function forwards(lower: readonly (readonly number[])[], b: readonly number[]): number[] {
  const x: number[] = []
  for (const [i, row] of lower.entries()) x.push((b[i] - x.reduce((sum, value, k) => sum + row[k] * value, 0)) / row[i])
  return x
}

/**
 * The posterior of a Gaussian process with mean 0, variance 1 and the Matern 5/2 kernel, at some settings, given values at others.
 *
 * @param noise deviation of a measurement, above 0
 */
export function posteriorOf(
  tried: readonly Tuned<readonly number[]>[],
  at: readonly (readonly number[])[],
  { lengthScale, noise }: Required<ProcessOptions>,
): Posterior[] {
  const alike = (a: readonly number[], b: readonly number[]) => kernel(distance(a, b), lengthScale)
  const covariance = tried.map((a, i) => tried.map((b, j) => alike(a.setting, b.setting) + (i === j ? noise ** 2 : 0)))
  const lower = cholesky(covariance)
  const values = forwards(
    lower,
    tried.map(({ value }) => value),
  )
  return at.map((setting) => {
    const weights = forwards(
      lower,
      tried.map((one) => alike(one.setting, setting)),
    )
    const explained = weights.reduce((sum, w) => sum + w ** 2, 0)
    return {
      mean: weights.reduce((sum, w, i) => sum + w * values[i], 0),
      deviation: Math.sqrt(Math.max(0, 1 - explained)),
    }
  })
}

/** Normal distribution up to z, to 1e-7 (Abramowitz and Stegun 26.2.17). */
function normalBelow(z: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(z))
  const coefficients = [0.31938153, -0.356563782, 1.781477937, -1.821255978, 1.330274429]
  const tail = density(z) * coefficients.reduce((sum, c, i) => sum + c * t ** (i + 1), 0)
  return z >= 0 ? 1 - tail : tail
}

const density = (z: number): number => Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)

/** Expected improvement over the best so far. */
function improvement({ mean: centre, deviation }: Posterior, best: number): number {
  if (deviation === 0) return Math.max(0, centre - best)
  const z = (centre - best) / deviation
  return (centre - best) * normalBelow(z) + deviation * density(z)
}

/**
 * Bayesian optimisation: the candidate with the largest expected improvement (Jones et al. 1998) under a Gaussian process over the
 * values so far, which are scaled to mean 0 and deviation 1; of equals the first. It is the improvement over the best mean of a
 * candidate, not over the best value: one lucky value is beyond the reach of every mean. Without values the first candidate.
 *
 * @param candidates points of equal length, each number scaled to about [0, 1]
 * @throws WhetstoneError E_CONFIG for no candidates, points of unequal lengths, a length scale or noise that is not above 0, a value that
 *   is no number, and noise too small for what was tried
 */
export function bayesian(
  tried: readonly Tuned<readonly number[]>[],
  candidates: readonly (readonly number[])[],
  options: ProcessOptions = {},
): readonly number[] {
  checkTried('bayesian', tried)
  checkArgument('bayesian.candidates', candidates, listOf(kinds.numbers))
  checkOptions('bayesian', options, processKinds)
  const { lengthScale = 0.3, noise = 0.1 } = options
  const refuse = (where: string, text: string): never => {
    throw new WhetstoneError('E_CONFIG', `bayesian.${where}`, text)
  }
  if (!(lengthScale > 0 && noise > 0))
    refuse('noise', `expected length scale and noise above 0, got ${lengthScale}, ${noise}`)
  if (candidates.length === 0) refuse('candidates', 'expected at least one, got none')
  const widths = new Set([...candidates, ...tried.map(({ setting }) => setting)].map(({ length }) => length))
  const odd = candidates.find((point) => !point.every(Number.isFinite))
  if (odd !== undefined) refuse('candidates', `expected finite numbers, got ${odd.join(', ')}`)
  if (widths.size > 1) refuse('candidates', `expected points of one length, got ${[...widths].join(', ')}`)
  if (tried.length === 0) return candidates[0]
  const values = tried.map(({ value }) => value)
  const centre = mean(values)
  const scale = Math.sqrt(mean(values.map((value) => (value - centre) ** 2))) || 1
  const scaled = tried.map(({ setting, value }) => ({ setting, value: (value - centre) / scale }))
  const expected = posteriorOf(scaled, candidates, { lengthScale, noise })
  const best = Math.max(...expected.map((one) => one.mean))
  const gains = expected.map((one) => improvement(one, best))
  return candidates[gains.indexOf(Math.max(...gains))]
}
