// Losses of reward and value models: functions of scores, not of log-probs. objectives.md 5. First the formulas, then plain
// functions that return the mean over their items and the gradient by every score. The same formulas as objectives, for
// training a score head, are in reward-models.ts.

import { WhetstoneError } from '../src/base/errors.js'
import {
  add,
  clamp,
  gather,
  gradientsOf,
  leaf,
  logSigmoid,
  maximum,
  mean,
  mul,
  neg,
  type Operand,
  segmentLogSumExp,
  segmentSum,
  square,
  sub,
  type Vector,
} from './autodiff.js'

type Numbers = ArrayLike<number>

/** A loss of scores. */
export interface ScoreEvaluation<Names extends string = string> {
  readonly loss: number
  /** dL/d score, by input and in its order. */
  readonly gradients: Readonly<Record<Names, Float64Array>>
  /** The items that the loss is the mean of: pairs, answers, positions. */
  readonly perExample: Float64Array
}

/** The mean of a formula's items, differentiated by its scores. */
function evaluateScores<Names extends string>(
  scores: Readonly<Record<Names, Numbers>>,
  items: (scores: Readonly<Record<Names, Vector>>) => Vector,
): ScoreEvaluation<Names> {
  const names = Object.keys(scores) as Names[]
  const leaves = names.map((name) => leaf(scores[name]))
  const of = Object.fromEntries(names.map((name, i) => [name, leaves[i]])) as Record<Names, Vector>
  const values = items(of)
  if (values.value.length === 0) throw new WhetstoneError('E_SHAPE', 'scores', 'expected at least one item, got none')
  const loss = mean(values)
  const gradients = gradientsOf(loss, leaves)
  return {
    loss: loss.value[0],
    gradients: Object.fromEntries(names.map((name, i) => [name, gradients[i]])) as Record<Names, Float64Array>,
    perExample: values.value,
  }
}

// Formulas, one number per item ----------------------------------------------------------------------------------------

/** -log s(difference) */
export const prefer = (better: Vector, worse: Vector): Vector => neg(logSigmoid(sub(better, worse)))

/** -log s(R_w - R_l - margin) + c (R_w + R_l)^2 */
export function bradleyTerryOf(chosen: Vector, rejected: Vector, margin: Operand, c: number): Vector {
  const losses = prefer(sub(chosen, margin), rejected)
  return c === 0 ? losses : add(losses, mul(square(add(chosen, rejected)), c))
}

/** What a score is compared with its target by. */
export const pointwiseLosses = {
  /** -t log s(R) - (1-t) log s(-R) */
  bce: (scores: Vector, targets: Vector): Vector =>
    neg(add(mul(targets, logSigmoid(scores)), mul(sub(1, targets), logSigmoid(neg(scores))))),
  /** (R - t)^2 */
  mse: (scores: Vector, targets: Vector): Vector => square(sub(scores, targets)),
} as const

/** The scores g(answer, reference answer) of a pair. */
export type GapNames = 'wl' | 'ww' | 'll' | 'lw'

/** g(w,l) >= g(w,w) ~ g(l,l) >= g(l,w), each as a Bradley-Terry term: the sum of the five of a pair. */
export const gapOf = ({ wl, ww, ll, lw }: Readonly<Record<GapNames, Vector>>): Vector =>
  [prefer(wl, lw), prefer(wl, ww), prefer(wl, ll), prefer(ww, lw), prefer(ll, lw)].reduce((all, part) => add(all, part))

/**
 * Cross-entropy of classes: log sum_c e^z_c - sum_c t_c z_c.
 *
 * @param logits `classes` for each position, end to end
 * @param targets probability of each class, the same shape; they sum to 1 at each position
 */
export function crossEntropyOf(logits: Vector, targets: Vector, classes: number): Vector {
  const position = Int32Array.from(logits.value, (_, i) => Math.floor(i / classes))
  const count = logits.value.length / classes
  return sub(segmentLogSumExp(logits, position, count), segmentSum(mul(targets, logits), position, count))
}

// Plain functions ------------------------------------------------------------------------------------------------------

/**
 * Bradley-Terry over pairs: -log s(R_w - R_l - margin) + c (R_w + R_l)^2.
 *
 * @param margin per pair (Llama 2, 2307.09288)
 * @param centerRewardsCoefficient c (2312.09244): keeps scores around 0; 0.01 is usual
 */
export const bradleyTerry = (
  scores: { readonly chosen: Numbers; readonly rejected: Numbers },
  {
    margin,
    centerRewardsCoefficient = 0,
  }: { readonly margin?: Numbers; readonly centerRewardsCoefficient?: number } = {},
): ScoreEvaluation<'chosen' | 'rejected'> =>
  evaluateScores(scores, ({ chosen, rejected }) =>
    bradleyTerryOf(chosen, rejected, margin === undefined ? 0 : leaf(margin), centerRewardsCoefficient),
  )

/** A score against a target per answer: bce with the probability s(score), or squared error. */
export const pointwise = (
  scores: Numbers,
  targets: Numbers,
  lossType: keyof typeof pointwiseLosses = 'bce',
): ScoreEvaluation<'scores'> =>
  evaluateScores({ scores }, ({ scores: s }) => pointwiseLosses[lossType](s, leaf(targets)))

/** Right answers against wrong ones of one problem: mean over all k (n - k) pairs (Qwen2.5-Math, 2409.12122). */
export const listwise = (scores: {
  readonly positive: Numbers
  readonly negative: Numbers
}): ScoreEvaluation<'positive' | 'negative'> =>
  evaluateScores(scores, ({ positive, negative }) => {
    const [k, rest] = [positive.value.length, negative.value.length]
    const index = Array.from({ length: k * rest }, (_, i) => i)
    return prefer(
      gather(
        positive,
        index.map((i) => Math.floor(i / rest)),
      ),
      gather(
        negative,
        index.map((i) => i % rest),
      ),
    )
  })

/** Ranked answers of one prompt: mean over pairs, answer above[i] being better than below[i] (InstructGPT, 2203.02155). */
export const kWise = (scores: Numbers, above: Numbers, below: Numbers): ScoreEvaluation<'scores'> =>
  evaluateScores({ scores }, ({ scores: s }) => prefer(gather(s, above), gather(s, below)))

/** PIT's gap reward g(answer, reference answer) (2310.00898): mean over pairs of the sum of its five terms. */
export const gap = (scores: Readonly<Record<GapNames, Numbers>>): ScoreEvaluation<GapNames> =>
  evaluateScores(scores, gapOf)

/**
 * Process rewards (TRL's PRM trainer): cross-entropy of the classes at labelled positions, no shift.
 *
 * @param logits classes of each position, end to end
 * @param labels class of each position
 */
export const stepwise = (logits: Numbers, labels: Numbers, classes = 2): ScoreEvaluation<'logits'> =>
  evaluateScores({ logits }, ({ logits: z }) => {
    const targets = z.value.map((_, i) => Number(labels[Math.floor(i / classes)] === i % classes))
    return crossEntropyOf(z, leaf(targets), classes)
  })

/** PPO's value loss: max((V - R)^2, (V clipped to old +- range - R)^2) / 2. */
export const clippedValueLoss = (
  values: Numbers,
  oldValues: Numbers,
  returns: Numbers,
  clipRange = 0.2,
): ScoreEvaluation<'values'> =>
  evaluateScores({ values }, ({ values: v }) => {
    const [old, target] = [leaf(oldValues), leaf(returns)]
    const near = add(old, clamp(sub(v, old), -clipRange, clipRange))
    return mul(maximum(square(sub(v, target)), square(sub(near, target))), 0.5)
  })
