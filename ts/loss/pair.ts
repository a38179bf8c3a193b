// What losses of (chosen, rejected) pairs are made of: sums and means of log-probs, log-ratios to the reference, the
// likelihood of the chosen side, and the statistics that TRL logs under the same names. No loss lives here.

import { add, div, gather, leaf, mul, sub, type Vector } from './autodiff.js'
import type { Role } from './define.js'
import { type Formula, statistic } from './objective.js'
import { ofRole, overExamples, sequenceSums, stepTokensOf, tokensOf, type View, weightsOf } from './view.js'

/** One side of every pair, one number per pair. */
export interface Side {
  /** Sum over the tokens of weight x log-prob, policy and reference. */
  readonly sum: Vector
  readonly reference: Vector
  /** sum - reference */
  readonly ratio: Vector
  /** Tokens. */
  readonly length: Vector
  /** sum / length */
  readonly mean: Vector
}

/** Both sides. */
export interface Pair {
  readonly chosen: Side
  readonly rejected: Side
}

/** The roles of a pair. */
export const pairRoles = ['chosen', 'rejected'] as const satisfies readonly Role[]

/** Both sides of the pairs of a batch; `weights` of the tokens are the batch's own unless they are given. */
export function pairOf(view: View, weights: Vector = weightsOf(view)): Pair {
  const policy = sequenceSums(view, mul(weights, view.logps))
  const reference = sequenceSums(view, mul(weights, tokensOf(view, 'reference')))
  const side = (role: Role): Side => {
    const [sum, base, length] = [policy, reference, leaf(view.lengths)].map((x) => ofRole(view, role, x))
    return { sum, reference: base, ratio: sub(sum, base), length, mean: div(sum, length) }
  }
  return { chosen: side('chosen'), rejected: side('rejected') }
}

/**
 * Weights of LD-DPO (arXiv 2409.06411): tokens beyond the length of the shorter side count `alpha`.
 */
export function lengthWeights(view: View, alpha: number): Vector {
  const { examples, lengths, sequenceOf, logps } = view
  const shared = lengths.slice()
  for (const own of examples) {
    const sides = pairRoles.map((role) => own.get(role) ?? 0)
    const shorter = Math.min(...sides.map((i) => lengths[i]))
    for (const i of sides) shared[i] = shorter
  }
  let position = -1
  const factors = logps.value.map((_, t) => {
    position = sequenceOf[t] === sequenceOf[t - 1] ? position + 1 : 0
    return position < shared[sequenceOf[t]] ? 1 : alpha
  })
  return mul(weightsOf(view), leaf(factors))
}

/**
 * Negative log-likelihood of the tokens with some roles, as one number per example whose mean over the examples of the
 * step is the mean over those tokens of the step.
 */
export function nllOf(view: View, ...roles: readonly Role[]): Vector {
  const sums = sequenceSums(view, mul(weightsOf(view), view.logps))
  const perExample = roles.map((role) => ofRole(view, role, sums)).reduce((all, part) => add(all, part))
  return mul(perExample, -view.batch.step.examples / stepTokensOf(view, ...roles))
}

/** The mean over the tokens of a whole step, once per example. */
export const spreadMean = (view: View, perExample: Vector): Vector =>
  gather(overExamples(view, perExample), new Int32Array(view.examples.length))

/** What a loss logs where it does not compare sums. */
export interface Logged {
  /** Log-prob of a side; default the sum over its tokens. */
  readonly logps?: (side: Side) => Vector
  /** Reward of a side before beta; default its log-ratio, or without a reference its log-prob. */
  readonly score?: (side: Side) => Vector
  readonly stats?: Formula['stats']
}

/** Losses that compare means over tokens. */
export const byMean: Logged = { logps: ({ mean }) => mean }

/** A loss that is the mean of one number per pair, with TRL's statistics; rewards are beta x log-ratio. */
export function pairFormula(
  view: View,
  losses: Vector,
  { chosen, rejected }: Pair,
  beta: number,
  { logps = ({ sum }) => sum, score, stats }: Logged = {},
): Formula {
  const reference = view.batch.sequences.some((terms) => terms.reference !== undefined)
  const scoreOf = score ?? (reference ? ({ ratio }: Side) => ratio : logps)
  const reward = (side: Side): Float64Array => scoreOf(side).value.map((r) => beta * r)
  const [won, lost] = [reward(chosen), reward(rejected)]
  const margins = won.map((r, i) => r - lost[i])
  return {
    loss: overExamples(view, losses),
    stats: {
      'rewards/chosen': statistic(won),
      'rewards/rejected': statistic(lost),
      'rewards/margins': statistic(margins),
      'rewards/accuracies': statistic(margins.map((margin) => Number(margin > 0))),
      'logps/chosen': statistic(logps(chosen).value),
      'logps/rejected': statistic(logps(rejected).value),
      ...stats,
    },
    perExample: { loss: losses.value, 'rewards/chosen': won, 'rewards/rejected': lost },
  }
}
