// The loss types of DPO and its relatives, one formula each (objectives.md 4.2; TRL's dpo_trainer.py, in its words).
// r: log-ratio of the summed log-probs, b = beta r; f: score of a side, equal to r unless an f-divergence is chosen;
// u = beta (f_chosen - f_rejected); n: tokens of a side; e: labelSmoothing. Which data they get is in dpo.ts.
//
//   sigmoid       logistic(u, e)                  DPO 2305.18290; e > 0 is cDPO, which TRL 1.13 no longer has
//   sigmoidNorm   -log s(beta (f_w/n_w - f_l/n_l))  Tulu 3 2411.15124
//   hinge         max(0, 1 - u)                   SLiC 2305.10425, RSO 2309.06657
//   ipo, ipoSum   (f_w/n_w - f_l/n_l - 1/(2 beta))^2; the paper 2310.12036 and its first code sum: ipoSum
//   robust        2403.00409   exoPair  2402.00856   ncaPair  2402.05369   bcoPair  2404.04656, without running mean
//   sppoHard      2405.00675   aot, aotUnpaired  2406.05882   apoZero, apoDown  2408.06266   discopop  2406.08414

import { add, div, exp, logSigmoid, mul, neg, sigmoid, sort, square, sub, type Vector } from './autodiff.js'
import { hinge, logistic, squareTo } from './log-ratio.js'
import type { Pair } from './pair.js'

/** Scores of both sides. */
export interface Scores {
  readonly chosen: Vector
  readonly rejected: Vector
}

/** What the formulas read besides the pair. */
export interface DpoSettings {
  readonly beta: number
  readonly labelSmoothing: number
  readonly discopopTau: number
}

/** One number per pair. */
export type DpoLoss = (pair: Pair, scores: Scores, settings: DpoSettings) => Vector

/** beta (f_w - f_l) */
const scaledMargin = ({ chosen, rejected }: Scores, { beta }: DpoSettings): Vector => mul(sub(chosen, rejected), beta)

/** f_w/n_w - f_l/n_l */
const meanMargin = ({ chosen, rejected }: Pair, scores: Scores): Vector =>
  sub(div(scores.chosen, chosen.length), div(scores.rejected, rejected.length))

/** b_w and b_l */
const rewardsOf = ({ chosen, rejected }: Pair, { beta }: DpoSettings): [Vector, Vector] => [
  mul(chosen.ratio, beta),
  mul(rejected.ratio, beta),
]

/** [-(1-e) log s(u) + e log s(-u)] / (1 - 2e) */
function robust(_: Pair, scores: Scores, settings: DpoSettings): Vector {
  const u = scaledMargin(scores, settings)
  const e = settings.labelSmoothing
  return div(sub(mul(logSigmoid(neg(u)), e), mul(logSigmoid(u), 1 - e)), 1 - 2 * e)
}

/** s(u) [log s(u) - log(1-e)] + s(-u) [log s(-u) - log e]: the reverse KL to the smoothed label, e > 0. */
function exoPair(_: Pair, scores: Scores, settings: DpoSettings): Vector {
  const u = scaledMargin(scores, settings)
  const e = settings.labelSmoothing
  const part = (v: Vector, share: number): Vector => mul(sigmoid(v), sub(logSigmoid(v), Math.log(share)))
  return add(part(u, 1 - e), part(neg(u), e))
}

/** -log s(b_w) - log s(-b_w) / 2 - log s(-b_l) / 2 */
function ncaPair(pair: Pair, _: Scores, settings: DpoSettings): Vector {
  const [won, lost] = rewardsOf(pair, settings)
  return sub(neg(logSigmoid(won)), mul(add(logSigmoid(neg(won)), logSigmoid(neg(lost))), 0.5))
}

/** -log s(b_w) - log s(-b_l) */
function bcoPair(pair: Pair, _: Scores, settings: DpoSettings): Vector {
  const [won, lost] = rewardsOf(pair, settings)
  return sub(neg(logSigmoid(won)), logSigmoid(neg(lost)))
}

/** (r_w - 1/(2 beta))^2 + (r_l + 1/(2 beta))^2 */
function sppoHard({ chosen, rejected }: Pair, _: Scores, { beta }: DpoSettings): Vector {
  return add(square(sub(chosen.ratio, 0.5 / beta)), square(add(rejected.ratio, 0.5 / beta)))
}

/** Logistic of sorted policy margins against sorted reference margins: k-th smallest with k-th smallest. */
function aot({ chosen, rejected }: Pair, _: Scores, { beta, labelSmoothing }: DpoSettings): Vector {
  const gap = sub(sort(sub(chosen.sum, rejected.sum)), sort(sub(chosen.reference, rejected.reference)))
  return logistic(mul(gap, beta), labelSmoothing)
}

/** Logistic of sorted chosen log-ratios against sorted rejected ones. */
function aotUnpaired({ chosen, rejected }: Pair, _: Scores, { beta, labelSmoothing }: DpoSettings): Vector {
  return logistic(mul(sub(sort(chosen.ratio), sort(rejected.ratio)), beta), labelSmoothing)
}

/** 1 - s(b_w) + s(b_l) */
function apoZero(pair: Pair, _: Scores, settings: DpoSettings): Vector {
  const [won, lost] = rewardsOf(pair, settings)
  return sub(add(sigmoid(lost), 1), sigmoid(won))
}

/** s(b_w) + 1 - s(b_w - b_l) */
function apoDown(pair: Pair, _: Scores, settings: DpoSettings): Vector {
  const [won, lost] = rewardsOf(pair, settings)
  return sub(add(sigmoid(won), 1), sigmoid(sub(won, lost)))
}

/** (1-m) (-log s(u)) + m e^-u with m = s(u / tau). Not convex: it rises between u = -0.12 and 0.07 at tau 0.05. */
function discopop(_: Pair, scores: Scores, settings: DpoSettings): Vector {
  const u = scaledMargin(scores, settings)
  const modulation = sigmoid(div(u, settings.discopopTau))
  return add(mul(neg(logSigmoid(u)), sub(1, modulation)), mul(exp(neg(u)), modulation))
}

/** Loss types by name. */
export const dpoLosses = {
  sigmoid: (_, scores, settings) => logistic(scaledMargin(scores, settings), settings.labelSmoothing),
  sigmoidNorm: (pair, scores, { beta }) => logistic(mul(meanMargin(pair, scores), beta)),
  hinge: (_, scores, settings) => hinge(scaledMargin(scores, settings)),
  ipo: (pair, scores, { beta }) => squareTo(meanMargin(pair, scores), 1 / (2 * beta)),
  ipoSum: (_, { chosen, rejected }, { beta }) => squareTo(sub(chosen, rejected), 1 / (2 * beta)),
  robust,
  exoPair,
  ncaPair,
  bcoPair,
  sppoHard,
  aot,
  aotUnpaired,
  apoZero,
  apoDown,
  discopop,
} as const satisfies Record<string, DpoLoss>

/** Loss types that look at a side's score, and so take an f-divergence (TRL's list, with ipoSum). */
export const scoredLosses: readonly string[] = [
  'sigmoid',
  'sigmoidNorm',
  'hinge',
  'ipo',
  'ipoSum',
  'robust',
  'exoPair',
  'discopop',
  'sft',
]

/**
 * Scores of a log-ratio r under f-divergences (2309.16240), with TRL's constants: they cancel in differences of sums, not
 * where the sides are divided by different lengths. Exponents are cut at 80.
 */
export const fDivergences = {
  reverseKl: (r: Vector): Vector => r,
  /** 1 - e^-r */
  forwardKl: (r: Vector): Vector => sub(1, exp(neg(r))),
  /** ln 2 + log s(r) */
  jsDivergence: (r: Vector): Vector => add(logSigmoid(r), Math.LN2),
  /** (e^((c-1) r) - 1) / (c-1), r at c = 1. TRL before 0.29 had another c: c_old = 1 - c. */
  alphaDivergence: (r: Vector, c: number): Vector => (c === 1 ? r : div(sub(exp(mul(r, c - 1)), 1), c - 1)),
} as const
