// SuperHF (Mukobi et al. 2023, arXiv 2310.16763; code openfeedback/superhf, src/superhf/training.py). objectives.md 1.
//   loss = NLL + kappa * KL, with KL = sum_v p0 (log p0 - log p) per position: prior || policy, full vocabulary.
// `tokenMean` (default) averages both terms over the trained tokens of the step. `authors` is the published reduction:
// the KL is a mean over the tokens of each sequence, then a SUM over the sequences of the step.
// The authors clamp the KL of a sequence at 0 against rounding; `clamp` does the same, per sequence.

import { z } from 'zod'
import type { Evaluation, Objective } from './define.js'

const settings = z.strictObject({
  /** Weight of the KL term. */
  kappa: z.number().min(0).default(0.35),
  normalisation: z.enum(['tokenMean', 'authors']).default('tokenMean'),
  clamp: z.boolean().default(true),
})

/** Settings of SuperHF. */
export type SuperHfConfig = z.input<typeof settings>

/** The SuperHF objective. */
export function superhf(input: SuperHfConfig = {}): Objective {
  const config = settings.parse(input)
  return {
    name: 'superhf.v1',
    needs: { rows: 'completion', reference: true, kl: 'priorToPolicy' },
    config,
    evaluate: ({ sequences, step }): Evaluation => {
      let nll = 0
      let divergence = 0
      let klSum = 0
      let tokens = 0
      const gradients = sequences.map((terms) => {
        const kl = terms.kl ?? new Float64Array(terms.logps.length)
        const total = kl.reduce((sum, value) => sum + value, 0)
        // Weight of each token's KL in the loss.
        const weight = config.normalisation === 'authors' ? 1 / Math.max(1, kl.length) : 1 / step.tokens
        const active = config.clamp && total < 0 ? 0 : config.kappa * weight
        divergence += active * total
        nll -= terms.logps.reduce((sum, logp) => sum + logp, 0) / step.tokens
        klSum += total
        tokens += kl.length
        return {
          logps: new Float64Array(kl.length).fill(-1 / step.tokens),
          kl: new Float64Array(kl.length).fill(active),
        }
      })
      return {
        loss: nll + divergence,
        gradients,
        stats: { nll: { sum: nll * step.tokens, count: tokens }, kl: { sum: klSum, count: tokens } },
      }
    },
  }
}
