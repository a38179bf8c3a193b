// CPO (Xu et al. 2024, arXiv 2401.08417): DPO with a uniform reference, next to likelihood of the chosen side.
//   loss = contrast + cpoAlpha NLL(chosen),  contrast of the summed log-probs: sigmoid: logistic(beta (s_w - s_l), e);
//   hinge: max(0, 1 - beta (s_w - s_l));  ipo: (a_w - a_l - 1/(2 beta))^2 with means a over tokens
// The NLL is a mean over the chosen tokens of the step (TRL: of the batch; the paper: a sum per sequence).
// SLiC-HF (Zhao et al. 2023, arXiv 2305.10425, in the form of HALOs): max(0, beta - s_w + s_l) + weight NLL(chosen).

import * as z from 'zod'
import { add, mul, relu, sub, type Vector } from './autodiff.js'
import { nonNegative, oneOf, positive, smoothing } from './config.js'
import { hinge, logistic, squareTo } from './log-ratio.js'
import { defineObjective, type Formula, statistic } from './objective.js'
import { byMean, type Logged, nllOf, type Pair, pairFormula, pairOf, pairRoles } from './pair.js'
import type { View } from './view.js'

const settings = z.strictObject({
  beta: positive(0.1).describe('scale of the log-probs'),
  lossType: oneOf('sigmoid', 'hinge', 'ipo').describe('how the sides are contrasted'),
  labelSmoothing: smoothing().describe('sigmoid: share of wrong labels'),
  cpoAlpha: nonNegative(1).describe('weight of the NLL of the chosen side'),
})

const slicSettings = z.strictObject({
  beta: positive(1).describe('margin of the summed log-probs'),
  weight: nonNegative(0.1).describe('weight of the NLL of the chosen side'),
})

/** Settings of CPO. */
export type CpoConfig = z.input<typeof settings>

/** Settings of SLiC. */
export type SlicConfig = z.input<typeof slicSettings>

const sums = ({ chosen, rejected }: Pair): Vector => sub(chosen.sum, rejected.sum)

type Contrast = (pair: Pair, config: { readonly beta: number; readonly labelSmoothing: number }) => Vector

const contrasts: Readonly<Record<z.output<typeof settings>['lossType'], Contrast>> = {
  sigmoid: (pair, { beta, labelSmoothing }) => logistic(mul(sums(pair), beta), labelSmoothing),
  hinge: (pair, { beta }) => hinge(mul(sums(pair), beta)),
  ipo: ({ chosen, rejected }, { beta }) => squareTo(sub(chosen.mean, rejected.mean), 1 / (2 * beta)),
}

/** The contrast next to the likelihood of the chosen side. */
function withNll(view: View, losses: Vector, weight: number, pair: Pair, beta: number, logged: Logged = {}): Formula {
  if (weight === 0) return pairFormula(view, losses, pair, beta, logged)
  const nll = nllOf(view, 'chosen')
  const stats = { nll_loss: statistic(nll.value) }
  return pairFormula(view, add(losses, mul(nll, weight)), pair, beta, { ...logged, stats })
}

/** The CPO objective. */
export const cpo = defineObjective('cpo.v1', settings, (config) => ({
  needs: { rows: 'preference', reference: false, roles: pairRoles, observes: ['meanLogits'] },
  formula: (view) => {
    const pair = pairOf(view)
    const losses = contrasts[config.lossType](pair, config)
    return withNll(view, losses, config.cpoAlpha, pair, config.beta, config.lossType === 'ipo' ? byMean : {})
  },
}))

/** The SLiC objective. */
export const slic = defineObjective('slic.v1', slicSettings, ({ beta, weight }) => ({
  needs: { rows: 'preference', reference: false, roles: pairRoles, observes: ['meanLogits'] },
  formula: (view) => {
    const pair = pairOf(view)
    return withNll(view, relu(sub(beta, sums(pair))), weight, pair, 1)
  },
}))
