// Learning curves: what accuracy will come to, and when there is little left to gain (early prediction for POS tagging, Vilares
// et al.; the definitions are recalled, not read). Accuracies at growing sizes, samples or rounds, are fitted by
//   A(x) = c - a x^-b,  a, b, c > 0: increasing, concave, bounded by c
// The asymptote that is fitted to the first l points is that of level l, from 4 on.
//   working level      from it on the asymptote changes by less than `slope` per step, for `lookAhead` steps
//   prediction level   from it on the asymptote is possible as well: at most `ceiling`
//   proximity          |asymptote - curve at the last point|: what more data can bring at most; stop at `tolerance` or less
// Ours differs: the authors anchor each fit by a point at the last asymptote, against noise; their slope of 2e-5 points per
// word, at steps of 5,000 words, is 0.001 per step here. A curve that is not concave yet (a late jump) is told by its best
// exponent, which then is not positive: such levels predict nothing.

import { checkArgument, checkOptions, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'

/** An accuracy that was measured. */
export interface CurvePoint {
  /** Samples, tokens, rounds: any unit. */
  readonly size: number
  readonly accuracy: number
}

/** A curve c - a x^-b. */
export interface LearningCurve {
  readonly a: number
  readonly b: number
  /** The asymptote c. */
  readonly asymptote: number
  /** Root of the mean squared residual, in accuracy. */
  readonly residual: number
  /** Is it of the pattern: a, b, c > 0? If not, the asymptote is no prediction. */
  readonly fits: boolean
  /** Accuracy at a size. */
  readonly at: (size: number) => number
}

/** Exponents that are looked at: those below zero are curves that grow without bound. */
const [leastExponent, mostExponent, exponentSteps] = [-3, 6, 180]

/** Exponents below it are a logarithm's: the asymptote is as good as endless. */
const leastSlope = 1e-3

/** Least points of a fit. */
const leastPoints = 4

function checkPoints(where: string, points: readonly CurvePoint[]): void {
  checkArgument(`${where}.points`, points, listOf(kinds.object))
  for (const [i, point] of points.entries())
    checkOptions(`${where}.points[${i}]`, point, { size: kinds.number, accuracy: kinds.number })
  const bad = points.findIndex(({ size }, i) => !(size > (i === 0 ? 0 : points[i - 1].size)))
  if (bad >= 0)
    throw new WhetstoneError('E_CONFIG', where, `expected sizes above 0 that grow, got ${points[bad].size} at ${bad}`)
}

/** (x^-b - 1) / b, which goes over into -log x at b = 0. */
const powerOf = (x: number, b: number): number => (Math.abs(b) < 1e-9 ? -Math.log(x) : (x ** -b - 1) / b)

/** The best line c - a powerOf(x, b) for an exponent, x in units of the last size; with its squared residuals. */
function lineAt(points: readonly CurvePoint[], b: number) {
  const unit = points[points.length - 1].size
  const powers = points.map(({ size }) => powerOf(size / unit, b))
  const [mx, my] = [mean(powers), mean(points.map(({ accuracy }) => accuracy))]
  const spread = powers.reduce((sum, x) => sum + (x - mx) ** 2, 0)
  const a = -powers.reduce((sum, x, i) => sum + (x - mx) * (points[i].accuracy - my), 0) / spread
  const c = my + a * mx
  const squares = points.reduce((sum, { accuracy }, i) => sum + (c - a * powers[i] - accuracy) ** 2, 0)
  return { a, b, c, unit, squares }
}

/**
 * Fits a power law to accuracies by least squares. The exponent is searched, also below zero, where the curve is not of the
 * pattern; the rest follows from it.
 *
 * @param points with growing sizes, at least 4
 * @throws WhetstoneError E_CONFIG for fewer points, or sizes that do not grow
 */
export function fitLearningCurve(points: readonly CurvePoint[]): LearningCurve {
  checkPoints('fitLearningCurve', points)
  if (points.length < leastPoints)
    throw new WhetstoneError(
      'E_CONFIG',
      'fitLearningCurve',
      `expected at least ${leastPoints} points, got ${points.length}`,
    )
  const step = (mostExponent - leastExponent) / exponentSteps
  const grid = Array.from({ length: exponentSteps + 1 }, (_, i) => lineAt(points, leastExponent + i * step))
  const coarse = grid.reduce((best, next) => (next.squares < best.squares ? next : best))
  let [low, high] = [coarse.b - step, coarse.b + step]
  // Golden section: the interval shrinks by 0.618 a turn.
  const golden = (Math.sqrt(5) - 1) / 2
  for (let turn = 0; turn < 60; turn++) {
    const [left, right] = [high - golden * (high - low), low + golden * (high - low)]
    if (lineAt(points, left).squares <= lineAt(points, right).squares) high = right
    else low = left
  }
  const { a, b, c, unit, squares } = lineAt(points, (low + high) / 2)
  return {
    a: (a / b) * unit ** b,
    b,
    asymptote: c + a / b,
    residual: Math.sqrt(squares / points.length),
    fits: a > 0 && b > leastSlope && c + a / b > 0,
    at: (size) => c - a * powerOf(size / unit, b),
  }
}

/** When to stop. */
export interface StopOptions {
  /** Accuracy that may be left to gain. */
  readonly tolerance: number
  /** Largest change of the asymptote from one level to the next; default 0.001. */
  readonly slope?: number
  /** Levels for which it holds; default 5. */
  readonly lookAhead?: number
  /** Largest possible accuracy, default 1; 100 for percent. */
  readonly ceiling?: number
}

/** What a learning curve says so far. Levels are numbers of points; those not reached are undefined. */
export interface StopDecision {
  readonly stop: boolean
  readonly workingLevel: number | undefined
  readonly predictionLevel: number | undefined
  /** Accuracy that the last level expects of endless data, from the prediction level on. */
  readonly asymptote: number | undefined
  readonly proximity: number | undefined
}

const stopKinds = {
  tolerance: kinds.number,
  slope: optional(kinds.number),
  lookAhead: optional(kinds.count),
  ceiling: optional(kinds.number),
}

/**
 * Decides by the accuracies so far whether more data is worth it. Ask again with each new point; fewer than
 * `4 + lookAhead` points never stop.
 *
 * @param points with growing sizes, evenly spaced
 * @throws WhetstoneError E_CONFIG for sizes that do not grow
 */
export function stopRule(points: readonly CurvePoint[], options: StopOptions): StopDecision {
  checkPoints('stopRule', points)
  checkOptions('stopRule', options, stopKinds)
  const { tolerance, slope = 0.001, lookAhead = 5, ceiling = 1 } = options
  const levels = points.map((_, i) => i + 1).filter((level) => level >= leastPoints)
  const curves = new Map(levels.map((level) => [level, fitLearningCurve(points.slice(0, level))]))
  const isCalm = (level: number) => {
    const [own, next] = [curves.get(level), curves.get(level + 1)]
    return own?.fits === true && next?.fits === true && Math.abs(next.asymptote - own.asymptote) < slope
  }
  const workingLevel = levels.find((level) => Array.from({ length: lookAhead }, (_, i) => level + i).every(isCalm))
  const isPossible = (level: number) => (curves.get(level)?.asymptote ?? Number.POSITIVE_INFINITY) <= ceiling
  const predictionLevel = levels.find(
    (level) => workingLevel !== undefined && level >= workingLevel && isPossible(level),
  )
  const last = points.length
  const curve = predictionLevel === undefined ? undefined : curves.get(last)
  if (curve?.fits !== true)
    return { stop: false, workingLevel, predictionLevel, asymptote: undefined, proximity: undefined }
  const proximity = Math.abs(curve.asymptote - curve.at(points[last - 1].size))
  return { stop: proximity <= tolerance, workingLevel, predictionLevel, asymptote: curve.asymptote, proximity }
}
