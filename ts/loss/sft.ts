// SFT: negative log-likelihood of the trained tokens. objectives.md 3.
//   loss = -sum_t w_t [(1 - e) l_t + e mean_v log p_t(v)] / N,  e = labelSmoothing,
//   N = trained tokens of the whole optimizer step (Transformers' num_items_in_batch)
// so that accumulation gives the value of one big batch. Weights default to 1 and may be negative (an exploration bonus);
// a row's weight is the weight of its tokens. `weights` divides by the sum of the step's weights instead.
// `dft` (arXiv 2508.05629; TRL's loss_type): w_t is multiplied by the token's own probability, without gradient.
// Differs from TRL, where label smoothing is divided by the batch's own tokens, and silently ignored by dft.

import * as z from 'zod'
import { add, detach, div, exp, mul, neg, sum } from './autodiff.js'
import { oneOf, refuse } from './config.js'
import { defineObjective, statistic } from './objective.js'
import { countedBy, overTokens, weightsOf } from './view.js'

const settings = z.strictObject({
  lossType: oneOf('nll', 'dft').describe('nll: -l; dft: -p l, with the probability p held fixed'),
  normalisation: oneOf('tokens', 'weights').describe(
    "divide by the step's trained tokens, or by the sum of their weights",
  ),
  labelSmoothing: z.number().min(0).lt(1).default(0).describe('nll: share of the label spread over the vocabulary'),
})

/** Settings of SFT. */
export type SftConfig = z.input<typeof settings>

/** The SFT objective. */
export const sft = defineObjective('sft.v1', settings, ({ lossType, normalisation, labelSmoothing }) => {
  const smoothed = labelSmoothing > 0
  if (smoothed && lossType === 'dft')
    refuse(
      'sft',
      'labelSmoothing',
      'cannot be combined with dft, whose weights are those of the label alone; expected 0',
    )
  return {
    needs: {
      rows: 'completion',
      reference: false,
      terms: smoothed ? ['meanLogps'] : [],
      observes: ['entropy', 'topLogps'],
    },
    formula: (view) => {
      const { logps, meanLogps } = view
      const scale = lossType === 'dft' ? mul(weightsOf(view), exp(detach(logps))) : weightsOf(view)
      const target = smoothed ? add(mul(logps, 1 - labelSmoothing), mul(meanLogps, labelSmoothing)) : logps
      const nll = neg(mul(scale, target))
      return {
        loss: normalisation === 'tokens' ? overTokens(view, nll) : div(sum(nll), countedBy(view, 'weight')),
        stats: { 'logps/token': statistic(logps.value) },
      }
    },
  }
})
