// ORPO (Hong et al. 2024, arXiv 2403.07691; code xfactlab/orpo): likelihood of the chosen side and the odds ratio.
//   loss = NLL - beta log s(o),  o = log odds_w - log odds_l,  log odds = a - log(1 - e^a),  a = mean log-prob of a side
// beta is TRL's name of the paper's lambda. The NLL is a mean over tokens of the step: of the chosen completions, or with
// `nllOver: 'all'` of prompts too, as in TRL and (by default) the authors' code; then each example brings its prompt as a
// sequence of its own. A mean log-prob above -1e-12 (float32 rounds a certain answer to 0) counts as that, without gradient.

import * as z from 'zod'
import { clamp, log1mExp, logSigmoid, mul, sub, type Vector } from './autodiff.js'
import { nonNegative, oneOf } from './config.js'
import { defineObjective, statistic } from './objective.js'
import { byMean, nllOf, pairFormula, pairOf, pairRoles } from './pair.js'

const settings = z.strictObject({
  beta: nonNegative(0.1).describe('weight of the odds ratio'),
  nllOver: oneOf('completion', 'all').describe('tokens of the NLL: completions, or prompts too'),
})

/** Settings of ORPO. */
export type OrpoConfig = z.input<typeof settings>

const largestMean = -1e-12

function logOdds(mean: Vector): Vector {
  const a = clamp(mean, Number.NEGATIVE_INFINITY, largestMean)
  return sub(a, log1mExp(a))
}

/** The ORPO objective. */
export const orpo = defineObjective('orpo.v1', settings, ({ beta, nllOver }) => {
  const prompt = nllOver === 'all' ? (['prompt'] as const) : []
  return {
    needs: { rows: 'preference', reference: false, roles: [...pairRoles, ...prompt], observes: ['meanLogits'] },
    formula: (view) => {
      const pair = pairOf(view)
      const odds = sub(logOdds(pair.chosen.mean), logOdds(pair.rejected.mean))
      const nll = nllOf(view, 'chosen', ...prompt)
      const ratio = logSigmoid(odds)
      const stats = {
        nll_loss: statistic(nll.value),
        log_odds_ratio: statistic(ratio.value),
        log_odds_chosen: statistic(odds.value),
      }
      return pairFormula(view, sub(nll, mul(ratio, beta)), pair, beta, { ...byMean, stats })
    },
  }
})
