// SimPO (Meng et al. 2024, arXiv 2405.14734; code princeton-nlp/SimPO): no reference, log-probs averaged over tokens.
//   loss = logistic(beta (a_w - a_l) - gamma, e) + sftWeight NLL(chosen),  a = mean log-prob of a side
// AlphaPO (2501.03884; `alpha` not 0): a is replaced by (1 - e^(-alpha a)) / alpha, its defaults: alpha 0.25, beta 2.5, gamma 0.1.
// `gamma` is absolute, as in TRL; the authors' code gives gamma / beta. The NLL is off by default, where TRL's CPOTrainer,
// which hosts SimPO, adds it with weight 1; it is a mean over the chosen tokens of the step.

import * as z from 'zod'
import { add, div, exp, mul, sub, type Vector } from './autodiff.js'
import { nonNegative, positive, smoothing } from './config.js'
import { logistic } from './log-ratio.js'
import { defineObjective, statistic } from './objective.js'
import { byMean, nllOf, pairFormula, pairOf, pairRoles, type Side } from './pair.js'

const settings = z.strictObject({
  beta: positive(2).describe('scale of the mean log-probs'),
  gamma: z.number().default(1).describe('margin that the chosen side must win by'),
  alpha: z.number().default(0).describe('AlphaPO: shape of the reward; 0: the log-prob itself'),
  labelSmoothing: smoothing().describe('share of wrong labels'),
  sftWeight: nonNegative(0).describe('weight of the NLL of the chosen side'),
})

/** Settings of SimPO. */
export type SimpoConfig = z.input<typeof settings>

/** The SimPO objective. */
export const simpo = defineObjective('simpo.v1', settings, ({ beta, gamma, alpha, labelSmoothing, sftWeight }) => ({
  needs: { rows: 'preference', reference: false, roles: pairRoles, observes: ['meanLogits'] },
  formula: (view) => {
    const pair = pairOf(view)
    const shaped = (x: Vector): Vector => (alpha === 0 ? x : div(sub(1, exp(mul(x, -alpha))), alpha))
    const score = ({ mean }: Side): Vector => shaped(mean)
    const margin = sub(score(pair.chosen), score(pair.rejected))
    const losses = logistic(sub(mul(margin, beta), gamma), labelSmoothing)
    if (sftWeight === 0) return pairFormula(view, losses, pair, beta, { ...byMean, score })
    const nll = nllOf(view, 'chosen')
    const logged = { ...byMean, score, stats: { nll_loss: statistic(nll.value) } }
    return pairFormula(view, add(losses, mul(nll, sftWeight)), pair, beta, logged)
  },
}))
