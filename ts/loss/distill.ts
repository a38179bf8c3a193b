// Distillation from a teacher (the reference model) over the whole vocabulary, at the positions of given completions.
//   loss = sum_t w_t D_t / N,  N = trained tokens of the optimizer step;  objectives.md 6
//   priorToPolicy  KL(teacher || student), classical distillation (1503.02531)
//   policyToPrior  KL(student || teacher)
//   jensenShannon  b KL(teacher || M) + (1-b) KL(student || M), M = b teacher + (1-b) student, b = `beta`: GKD (2306.13649)
// As in TRL's GKDTrainer beta 0 is priorToPolicy and beta 1 policyToPrior, though the mixture itself tends to 0 there.
// Whose completions they are, the teacher's, a data set's or the student's own (GKD's lmbda), is a matter of the data.

import * as z from 'zod'
import { mul } from './autodiff.js'
import { oneOf, withDefaults } from './config.js'
import type { Needs } from './define.js'
import { defineObjective, type Method, statistic } from './objective.js'
import { overTokens, weightsOf } from './view.js'

const settings = z.strictObject({
  direction: oneOf('priorToPolicy', 'policyToPrior', 'jensenShannon').describe(
    'KL(teacher || student), KL(student || teacher), or the mixture of both by beta',
  ),
  beta: z.number().min(0).max(1).default(0.5).describe('jensenShannon: weight of the teacher; 0 and 1 are the two KLs'),
})

type Settings = z.output<typeof settings>

/** Settings of distillation. */
export type DistillConfig = z.input<typeof settings>

function divergenceOf({ direction, beta }: Settings): Pick<Needs, 'kl' | 'klMixture'> {
  if (direction !== 'jensenShannon') return { kl: direction }
  if (beta === 0) return { kl: 'priorToPolicy' }
  return beta === 1 ? { kl: 'policyToPrior' } : { kl: 'jensenShannon', klMixture: beta }
}

const method = (config: Settings): Method => ({
  needs: { rows: 'completion', reference: true, teacher: true, ...divergenceOf(config) },
  formula: (view) => ({
    loss: overTokens(view, mul(weightsOf(view), view.kl)),
    stats: { kl: statistic(view.kl.value), 'logps/token': statistic(view.logps.value) },
  }),
})

/** Distillation by one of the two KLs. */
export const distill = defineObjective('distill.v1', settings, method)

/** Generalised knowledge distillation: the mixture of both. */
export const gkd = defineObjective('gkd.v1', withDefaults(settings, { direction: 'jensenShannon' }), method)
