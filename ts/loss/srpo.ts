// SRPO (Choi et al. 2024, arXiv 2406.01660; constants of TRL's unmerged pull request 1772). objectives.md 2.
// One model answers x, and improves an answer y1 that its prompt shows. Log-ratios to the reference, with w preferred:
//   a = (w | x, l)   b = (l | x, l)   c = (w | x, w)   d = (l | x, w)   e = (w | x)   f = (l | x)
//   loss = (1 - alpha) (2p - 1 - beta (a + e - d - f))^2 + alpha [(p - 1/2 - beta (a - b))^2 + (p - 1/2 - beta (c - d))^2]
// p, the score `preference`, is the probability that w is better: 1 unless given. Log-ratios are summed over the scored
// answer's tokens; `reduction: 'mean'` is ours, for answers of very different lengths. The paper's alpha and beta are not
// known to us; the pull request uses alpha 0.8 and in effect beta 0.01. Roles: chosenGivenRejected is a, and so on.

import * as z from 'zod'
import { add, leaf, mul, sub } from './autodiff.js'
import { oneOf, positive } from './config.js'
import type { Role } from './define.js'
import { type RatioTerm, squareTo, weightedRatios } from './log-ratio.js'
import { defineObjective, statistic } from './objective.js'
import { overExamples, scoresOf } from './view.js'

const settings = z.strictObject({
  beta: positive(0.1).describe('strength of the tie to the reference'),
  alpha: z.number().min(0).max(1).default(0.8).describe('share of the self-improvement part; the rest is generative'),
  reduction: oneOf('sum', 'mean').describe('of log-ratios over tokens'),
})

/** Settings of SRPO. */
export type SrpoConfig = z.input<typeof settings>

const roles = {
  a: 'chosenGivenRejected',
  b: 'rejectedGivenRejected',
  c: 'chosenGivenChosen',
  d: 'rejectedGivenChosen',
  e: 'chosen',
  f: 'rejected',
} as const satisfies Record<string, Role>

type Letter = keyof typeof roles

/** The SRPO objective. */
export const srpo = defineObjective('srpo.v1', settings, ({ beta, alpha, reduction }) => ({
  needs: { rows: 'preference', reference: true, roles: Object.values(roles) },
  formula: (view) => {
    const term = (coefficient: number) => (letter: Letter) => ({ role: roles[letter], coefficient, reduction })
    const scaled = (plus: readonly Letter[], minus: readonly Letter[]) => {
      const terms: RatioTerm[] = [...plus.map(term(1)), ...minus.map(term(-1))]
      return mul(weightedRatios(view, terms), beta)
    }
    const half = sub(leaf(scoresOf(view, 'preference', 1)), 0.5)
    const generative = squareTo(scaled(['a', 'e'], ['d', 'f']), mul(half, 2))
    const improving = add(squareTo(scaled(['a'], ['b']), half), squareTo(scaled(['c'], ['d']), half))
    const losses = add(mul(generative, 1 - alpha), mul(improving, alpha))
    return {
      loss: overExamples(view, losses),
      stats: { generative: statistic(generative.value), selfImprovement: statistic(improving.value) },
      perExample: { loss: losses.value },
    }
  },
}))
