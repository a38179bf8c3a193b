// Reward models as objectives: numbers of a score head in place of log-probs. objectives.md 5; formulas in rewards.ts.
//   reward           -log s(R_w - R_l - margin) + c (R_w + R_l)^2           TRL's RewardTrainer; SuperHF's without options
//   pointwiseReward  bce or mse of R and the score `label`
//   listwiseReward   mean over pairs (i, j) of a prompt's answers with label_i > label_j of -log s(R_i - R_j): with ranks
//                    InstructGPT's K-wise (2203.02155), with labels 1 and 0 Qwen2.5-Math's (2409.12122)
//   pairReward       g(a | b): logit that an answer is better than the one it is shown: mean of -log s(g(w | l)), -log s(-g(l | w))
//   gapReward        PIT (2310.00898): g(w,l) >= g(w,w) ~ g(l,l) >= g(l,w), the sum of five Bradley-Terry terms
//   processReward    cross-entropy of two classes at the end of each step, no shift: TRL's PRMTrainer; `labels` per position
//                    are 0 or 1, or the share of roll-outs that succeeded (Math-Shepherd, 2312.08935)
// Means are over the examples of the step; of processReward over its labelled positions. All but that one read one number
// per sequence: that of its single trained position. Instead of the least and largest reward, statistics are means.

import * as z from 'zod'
import { add, div, gather, leaf, mul, segmentSum, type Vector } from './autodiff.js'
import { nonNegative, oneOf } from './config.js'
import type { Role } from './define.js'
import { defineObjective, type Formula, statistic } from './objective.js'
import { pairRoles } from './pair.js'
import { bradleyTerryOf, crossEntropyOf, type GapNames, gapOf, pointwiseLosses, prefer } from './rewards.js'
import {
  ofRole,
  overExamples,
  overTokens,
  refuseBatch,
  scoresOf,
  sequenceScoresOf,
  tokensOf,
  type View,
} from './view.js'

const rewardSettings = z.strictObject({
  centerRewardsCoefficient: nonNegative(0).describe('weight of the squared sum of both scores; 0.01 is usual'),
})
const pointwiseSettings = z.strictObject({
  lossType: oneOf('bce', 'mse').describe('probability s(score) of the label, or squared error'),
})
const noSettings = z.strictObject({})

/** Settings of Bradley-Terry reward models. */
export type RewardConfig = z.input<typeof rewardSettings>

/** Settings of pointwise reward models. */
export type PointwiseRewardConfig = z.input<typeof pointwiseSettings>

/** The one number of each sequence. */
function sequenceValues(view: View): Vector {
  const wrong = view.lengths.findIndex((length) => length !== 1)
  if (wrong < 0) return view.values
  const { role, example, logps } = view.batch.sequences[wrong]
  return refuseBatch(view, example, `expected one scored position in the ${role} sequence, got ${logps.length}`)
}

/** A loss that is the mean of one number per example, with TRL's statistics of better and worse scores. */
function comparison(view: View, losses: Vector, better: Float64Array, worse: Float64Array): Formula {
  const margins = better.map((score, i) => score - worse[i])
  return {
    loss: overExamples(view, losses),
    stats: {
      accuracy: statistic(margins.map((margin) => Number(margin > 0))),
      margin: statistic(margins),
      mean_reward: statistic(view.values.value),
    },
    perExample: { loss: losses.value, margin: margins },
  }
}

/** Bradley-Terry over pairs; the score `margin` of an example (Llama 2) is subtracted. */
export const reward = defineObjective('reward.v1', rewardSettings, ({ centerRewardsCoefficient }) => ({
  needs: { rows: 'preference', reference: false, values: 1, roles: pairRoles },
  formula: (view) => {
    const values = sequenceValues(view)
    const [chosen, rejected] = pairRoles.map((role) => ofRole(view, role, values))
    const margin = leaf(scoresOf(view, 'margin', 0))
    const losses = bradleyTerryOf(chosen, rejected, margin, centerRewardsCoefficient)
    return comparison(view, losses, chosen.value, rejected.value)
  },
}))

/** Single answers with a label. */
export const pointwiseReward = defineObjective('pointwiseReward.v1', pointwiseSettings, ({ lossType }) => ({
  needs: { rows: 'unpaired', reference: false, values: 1, roles: ['completion'], scores: ['label'] },
  formula: (view) => {
    const scores = ofRole(view, 'completion', sequenceValues(view))
    const labels = scoresOf(view, 'label')
    const losses = pointwiseLosses[lossType](scores, leaf(labels))
    const middle = lossType === 'bce' ? 0 : 0.5
    const right = scores.value.map((score, i) => Number(score > middle === labels[i] > 0.5))
    return {
      loss: overExamples(view, losses),
      stats: { accuracy: statistic(right), mean_reward: statistic(scores.value) },
      perExample: { loss: losses.value },
    }
  },
}))

/** Pairs of sequences of one example, the first with the larger label: their places, and the place of the example. */
function rankedPairs(view: View, labels: Float64Array) {
  const { sequences } = view.batch
  const numbers = [...new Set(sequences.map(({ example }) => example))]
  const pairs = numbers.map((example) => {
    const own = sequences.flatMap((terms, i) => (terms.example === example ? [i] : []))
    const found = own.flatMap((i) => own.filter((j) => labels[i] > labels[j]).map((j) => [i, j] as const))
    return found.length > 0 ? found : refuseBatch(view, example, 'expected answers with different labels to compare')
  })
  return { pairs: pairs.flat(), of: Int32Array.from(pairs.flatMap((own, e) => own.map(() => e))), count: pairs.length }
}

/** All answers to a prompt by their labels; the larger label is better. */
export const listwiseReward = defineObjective('listwiseReward.v1', noSettings, () => ({
  needs: { rows: 'group', reference: false, values: 1, scores: ['label'] },
  formula: (view) => {
    const values = sequenceValues(view)
    const { pairs, of, count } = rankedPairs(view, sequenceScoresOf(view, 'label'))
    const [better, worse] = [0, 1].map((side) =>
      gather(
        values,
        pairs.map((pair) => pair[side]),
      ),
    )
    const sizes = segmentSum(leaf(new Float64Array(of.length).fill(1)), of, count)
    const losses = div(segmentSum(prefer(better, worse), of, count), sizes)
    const { stats } = comparison(view, losses, better.value, worse.value)
    return { loss: overExamples(view, losses), stats, perExample: { loss: losses.value } }
  },
}))

/** Pairs of which the model sees both sides, in both orders. */
export const pairReward = defineObjective('pairReward.v1', noSettings, () => ({
  needs: {
    rows: 'preference',
    reference: false,
    values: 1,
    roles: ['chosenGivenRejected', 'rejectedGivenChosen'],
  },
  formula: (view) => {
    const values = sequenceValues(view)
    const won = ofRole(view, 'chosenGivenRejected', values)
    const lost = ofRole(view, 'rejectedGivenChosen', values)
    const zero = leaf(new Float64Array(view.examples.length))
    return comparison(view, mul(add(prefer(won, zero), prefer(zero, lost)), 0.5), won.value, lost.value)
  },
}))

const gapRoles = {
  wl: 'chosenGivenRejected',
  ww: 'chosenGivenChosen',
  ll: 'rejectedGivenRejected',
  lw: 'rejectedGivenChosen',
} as const satisfies Record<GapNames, Role>

/** PIT's gap of an answer over the one that its prompt shows. */
export const gapReward = defineObjective('gapReward.v1', noSettings, () => ({
  needs: { rows: 'preference', reference: false, values: 1, roles: Object.values(gapRoles) },
  formula: (view) => {
    const values = sequenceValues(view)
    const of = (name: GapNames) => ofRole(view, gapRoles[name], values)
    const scores = { wl: of('wl'), ww: of('ww'), ll: of('ll'), lw: of('lw') }
    return comparison(view, gapOf(scores), scores.wl.value, scores.lw.value)
  },
}))

/** Two classes at each labelled position, wrong and right in this order. */
export const processReward = defineObjective('processReward.v1', noSettings, () => ({
  needs: { rows: 'stepwise', reference: false, values: 2, tokens: ['labels'] },
  formula: (view) => {
    const labels = tokensOf(view, 'labels').value
    const logits = view.values.value
    const targets = logits.map((_, i) => (i % 2 === 1 ? labels[i >> 1] : 1 - labels[i >> 1]))
    const scores = labels.map((_, t) => logits[2 * t + 1] - logits[2 * t])
    return {
      loss: overTokens(view, crossEntropyOf(view.values, leaf(targets), 2)),
      stats: { accuracy: statistic(scores.map((score, t) => Number(score > 0 === labels[t] > 0.5))) },
    }
  },
}))
