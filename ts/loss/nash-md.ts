// Nash-MD (Munos et al. 2023, arXiv 2312.00886; TRL's nash_md_trainer.py): policy gradient on a preference model.
//   loss = mean over examples of beta sum_t sg(l_t - ref_t) l_t - (p - 1/2) sum_t l_t
// p, the score `preference`, is the probability that the answer beats one of the mixture policy. As in TRL each token's
// score function is weighted with its own log-ratio; the paper weights with the sequence's.

import * as z from 'zod'
import { detach, leaf, mul, sub } from './autodiff.js'
import { positive } from './config.js'
import { defineObjective, statistic } from './objective.js'
import { ofRole, overExamples, scoresOf, sequenceSums, tokensOf, weightsOf } from './view.js'

const settings = z.strictObject({ beta: positive(0.1).describe('weight of the KL to the reference') })

/** Settings of Nash-MD. */
export type NashMdConfig = z.input<typeof settings>

/** The Nash-MD objective. */
export const nashMd = defineObjective('nashMd.v1', settings, ({ beta }) => ({
  needs: { rows: 'group', reference: true, roles: ['completion'], scores: ['preference'] },
  formula: (view) => {
    const preference = scoresOf(view, 'preference')
    const drift = detach(sub(view.logps, tokensOf(view, 'reference')))
    const weighted = mul(weightsOf(view), view.logps)
    const penalty = ofRole(view, 'completion', sequenceSums(view, mul(drift, weighted)))
    const own = ofRole(view, 'completion', sequenceSums(view, weighted))
    const losses = sub(mul(penalty, beta), mul(sub(leaf(preference), 0.5), own))
    return {
      loss: overExamples(view, losses),
      stats: { preference: statistic(preference), 'logps/completion': statistic(own.value) },
      perExample: { loss: losses.value },
    }
  },
}))
