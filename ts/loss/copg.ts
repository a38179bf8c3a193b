// Contrastive policy gradient (Flet-Berliac et al. 2024, arXiv 2406.19185; used in Command A): off-policy, no clipping.
//   loss = ((R_w - beta r_w) - (R_l - beta r_l))^2 for two answers to one prompt, r = log-ratio of the summed log-probs
// The score `reward` of each sequence is R; which answer is called chosen does not matter. k answers are k - 1 pairs each.

import * as z from 'zod'
import { leaf, mul, square, sub } from './autodiff.js'
import { positive } from './config.js'
import { defineObjective } from './objective.js'
import { pairFormula, pairOf, pairRoles } from './pair.js'
import { ofRole, sequenceScoresOf } from './view.js'

const settings = z.strictObject({ beta: positive(0.1).describe('strength of the tie to the reference') })

/** Settings of contrastive policy gradient. */
export type CopgConfig = z.input<typeof settings>

/** The contrastive policy gradient. */
export const copg = defineObjective('copg.v1', settings, ({ beta }) => ({
  needs: {
    rows: 'preference',
    reference: true,
    roles: pairRoles,
    observes: ['meanLogits'],
    sequenceScores: ['reward'],
  },
  formula: (view) => {
    const pair = pairOf(view)
    const rewards = leaf(sequenceScoresOf(view, 'reward'))
    const shaped = pairRoles.map((role) => sub(ofRole(view, role, rewards), mul(pair[role].ratio, beta)))
    return pairFormula(view, square(sub(shaped[0], shaped[1])), pair, beta)
  },
}))
