// KTO (Ethayarajh et al. 2024, arXiv 2402.01306; TRL's kto_trainer.py): single answers with a label. objectives.md 4.5.
//   desirable:   w_D (1 - s(beta (r - KL)))      undesirable: w_U (1 - s(beta (KL - r)))      loss = mean over examples
//   KL = max(0, mean of r over answers paired with other prompts), no gradient: the mean first, then the clamp
// `apoZeroUnpaired` (2408.06266) is the same with KL = 0. Each example is a completion with the score `label` (1 or 0) and,
// for KTO, a `mismatch` sequence: another example's completion behind this one's prompt. The KL is that of the whole step,
// where TRL takes each device batch's own. Keep w_D n_D / (w_U n_U) in [1, 1.33], and change one of the weights only.

import * as z from 'zod'
import { leaf, mul, sigmoid, sub, type Vector } from './autodiff.js'
import { nonNegative, oneOf, positive } from './config.js'
import { defineObjective, statistic } from './objective.js'
import { ofRole, overExamples, scoresOf, sequenceSums, tokensOf, type View, weightsOf } from './view.js'

const settings = z.strictObject({
  beta: positive(0.1).describe('strength of the tie to the reference'),
  lossType: oneOf('kto', 'apoZeroUnpaired').describe('with a reference point, or with 0'),
  desirableWeight: nonNegative(1).describe('weight of examples with label 1'),
  undesirableWeight: nonNegative(1).describe('weight of examples with label 0'),
})

/** Settings of KTO. */
export type KtoConfig = z.input<typeof settings>

/** Log-ratios of the summed log-probs of all sequences. */
export const sequenceRatios = (view: View): Vector =>
  sequenceSums(view, mul(weightsOf(view), sub(view.logps, tokensOf(view, 'reference'))))

/** TRL's statistics of good and bad answers; the margin of their means only where the batch is the whole step. */
export function labelledStatistics(view: View, labels: Float64Array, rewards: Float64Array, whole: boolean) {
  const logps = ofRole(view, 'completion', sequenceSums(view, mul(weightsOf(view), view.logps))).value
  const split = (values: Float64Array) =>
    [true, false].map((good) => statistic(values.filter((_, i) => (labels[i] !== 0) === good)))
  const [won, lost] = split(rewards)
  const [likely, unlikely] = split(logps)
  const both = whole && won.count > 0 && lost.count > 0
  return {
    'rewards/chosen': won,
    'rewards/rejected': lost,
    ...(both && { 'rewards/margins': { sum: won.sum / won.count - lost.sum / lost.count, count: 1 } }),
    'logps/chosen': likely,
    'logps/rejected': unlikely,
  }
}

/** max(0, mean log-ratio of the mismatched answers) */
function referencePoint(view: View, ratios: Vector): number {
  const { value } = ofRole(view, 'mismatch', ratios)
  return Math.max(0, value.reduce((sum, r) => sum + r, 0) / value.length)
}

/** The KTO objective. */
export const kto = defineObjective('kto.v1', settings, (config) => {
  const withPoint = config.lossType === 'kto'
  return {
    needs: {
      rows: 'unpaired',
      reference: true,
      roles: withPoint ? ['completion', 'mismatch'] : ['completion'],
      observes: ['entropy', 'meanLogits'],
      scores: ['label'],
      wholeStep: withPoint,
    },
    formula: (view) => {
      const ratios = sequenceRatios(view)
      const kl = withPoint ? referencePoint(view, ratios) : 0
      const own = ofRole(view, 'completion', ratios)
      const labels = scoresOf(view, 'label')
      const sign = leaf(labels.map((label) => (label !== 0 ? 1 : -1)))
      const weight = leaf(labels.map((label) => (label !== 0 ? config.desirableWeight : config.undesirableWeight)))
      // 1 - s(z) = s(-z)
      const losses = mul(weight, sigmoid(mul(mul(sub(kl, own), sign), config.beta)))
      const rewards = own.value.map((r) => config.beta * r)
      return {
        loss: overExamples(view, losses),
        stats: {
          ...labelledStatistics(view, labels, rewards, withPoint),
          ...(withPoint && { kl: { sum: kl, count: 1 } }),
        },
        perExample: { loss: losses.value, rewards },
      }
    },
  }
})
