// XPO (Xie et al. 2024, arXiv 2405.21046; TRL's xpo_trainer.py): online DPO that explores.
//   loss = -log s(beta (r_w - r_l)) + alpha s_ref,  or with ipo (r_w - r_l - 1/(2 beta))^2 + alpha s_ref
// s_ref is the summed log-prob of whichever answer the reference wrote: lowering it is the exploration bonus. The score
// `onPolicy` says that the chosen answer is the policy's own sample (1) or the reference's (0); the optional score `contrast`
// multiplies the first term, so that pairs which tie can explore only. As in TRL, ipo sums.

import * as z from 'zod'
import { add, leaf, mul, sub, where } from './autodiff.js'
import { nonNegative, oneOf, positive } from './config.js'
import { logistic, squareTo } from './log-ratio.js'
import { defineObjective } from './objective.js'
import { pairFormula, pairOf, pairRoles } from './pair.js'
import { scoresOf } from './view.js'

const settings = z.strictObject({
  beta: positive(0.1).describe('strength of the tie to the reference'),
  alpha: nonNegative(1e-5).describe('weight of the exploration bonus'),
  lossType: oneOf('sigmoid', 'ipo').describe('link of the margin'),
})

/** Settings of XPO. */
export type XpoConfig = z.input<typeof settings>

/** The XPO objective. */
export const xpo = defineObjective('xpo.v1', settings, ({ beta, alpha, lossType }) => ({
  needs: { rows: 'preference', reference: true, roles: pairRoles, observes: ['meanLogits'], scores: ['onPolicy'] },
  formula: (view) => {
    const pair = pairOf(view)
    const margin = sub(pair.chosen.ratio, pair.rejected.ratio)
    const link = lossType === 'sigmoid' ? logistic(mul(margin, beta)) : squareTo(margin, 1 / (2 * beta))
    const contrast = mul(link, leaf(scoresOf(view, 'contrast', 1)))
    const own = Array.from(scoresOf(view, 'onPolicy'), (flag) => flag !== 0)
    const bonus = where(own, pair.rejected.sum, pair.chosen.sum)
    return pairFormula(view, add(contrast, mul(bonus, alpha)), pair, beta)
  },
}))
