// Distillation from a teacher (the reference model) over the whole vocabulary, at the positions of given completions.
//   loss = sum_t w_t KL_t / N,  N = trained tokens of the optimizer step;  objectives.md 6
// priorToPolicy is KL(teacher || student), classical distillation (1503.02531) and GKD (2306.13649) at beta 0; policyToPrior
// is KL(student || teacher), GKD at beta 1. Whose completions they are, the teacher's, a data set's or the student's own
// (on-policy GKD), is a matter of the data. The Jensen-Shannon mixtures between have a reference in vocabulary.ts alone.

import { z } from 'zod'
import { mul } from './autodiff.js'
import { oneOf } from './config.js'
import { defineObjective, statistic } from './objective.js'
import { overTokens, weightsOf } from './view.js'

const settings = z.strictObject({
  direction: oneOf('priorToPolicy', 'policyToPrior').describe('KL(teacher || student), or KL(student || teacher)'),
})

/** Settings of distillation. */
export type DistillConfig = z.input<typeof settings>

/** The distillation objective. */
export const distill = defineObjective('distill.v1', settings, ({ direction }) => ({
  needs: { rows: 'completion', reference: true, kl: direction },
  formula: (view) => ({
    loss: overTokens(view, mul(weightsOf(view), view.kl)),
    stats: { kl: statistic(view.kl.value), 'logps/token': statistic(view.logps.value) },
  }),
}))
