// SFT: negative log-likelihood of the trained tokens. objectives.md 3.
//   loss = -sum_t w_t l_t / N,  N = trained tokens of the whole optimizer step (Transformers' num_items_in_batch)
// so that accumulation gives the value of one big batch. Weights default to 1 and may be negative (an exploration bonus);
// a row's weight is the weight of its tokens. `weights` divides by the sum of the step's weights instead.
// `dft` (arXiv 2508.05629; TRL's loss_type): w_t is multiplied by the token's own probability, without gradient.
// Differs from TRL in nothing else. Label smoothing needs the whole vocabulary: its float64 reference is vocabulary.ts.

import { z } from 'zod'
import { detach, div, exp, mul, neg, sum } from './autodiff.js'
import { oneOf } from './config.js'
import { defineObjective, statistic } from './objective.js'
import { countedBy, overTokens, weightsOf } from './view.js'

const settings = z.strictObject({
  lossType: oneOf('nll', 'dft').describe('nll: -l; dft: -p l, with the probability p held fixed'),
  normalisation: oneOf('tokens', 'weights').describe(
    "divide by the step's trained tokens, or by the sum of their weights",
  ),
})

/** Settings of SFT. */
export type SftConfig = z.input<typeof settings>

/** The SFT objective. */
export const sft = defineObjective('sft.v1', settings, ({ lossType, normalisation }) => ({
  needs: { rows: 'completion', reference: false },
  formula: (view) => {
    const scale = lossType === 'dft' ? mul(weightsOf(view), exp(detach(view.logps))) : weightsOf(view)
    const nll = neg(mul(scale, view.logps))
    return {
      loss: normalisation === 'tokens' ? overTokens(view, nll) : div(sum(nll), countedBy(view, 'weight')),
      stats: { 'logps/token': statistic(view.logps.value) },
    }
  },
}))
