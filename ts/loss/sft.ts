// SFT: negative log-likelihood of the trained tokens. objectives.md 3.
//   loss = -sum_t w_t l_t / (trained tokens of the whole optimizer step)
// The denominator counts all micro-batches, so accumulation gives the value of one big batch (Transformers'
// num_items_in_batch). Differs from TRL in nothing; weights default to 1 and may be negative.

import type { Evaluation, Objective, SequenceTerms } from './define.js'

const weightOf = (terms: SequenceTerms, t: number): number => terms.weights?.[t] ?? 1

/** The SFT objective. */
export function sft(): Objective {
  return {
    name: 'sft.v1',
    needs: { rows: 'completion', reference: false },
    config: {},
    evaluate: ({ sequences, step }): Evaluation => {
      let loss = 0
      let logps = 0
      let tokens = 0
      const gradients = sequences.map((terms) => {
        const gradient = new Float64Array(terms.logps.length)
        terms.logps.forEach((logp, t) => {
          loss -= (weightOf(terms, t) * logp) / step.tokens
          gradient[t] = -weightOf(terms, t) / step.tokens
          logps += logp
        })
        tokens += terms.logps.length
        return { logps: gradient }
      })
      return { loss, gradients, stats: { 'logps/token': { sum: logps, count: tokens } } }
    },
  }
}
