// Statistics of the policy's distribution at the trained tokens, under TRL's names. No loss depends on them; where a batch
// does not bring the numbers they are left out. Sums over tokens, so that they add up over micro-batches:
//   entropy                  in nats
//   mean_token_accuracy      share of the answers' (of pairs: the chosen answers') tokens that no other is more probable than
//   logits/chosen, rejected  mean logit over the vocabulary

import type { Needs, Observed, SequenceTerms, Statistic } from './define.js'

type Side = 'answer' | 'chosen' | 'rejected'

/** What a sequence is to the statistics; prompts and answers to other prompts are nothing. */
function sideOf({ rows }: Needs, { role, scores }: SequenceTerms): Side | undefined {
  if (role === 'chosen' || role === 'rejected') return role
  if (role !== 'completion') return undefined
  if (rows !== 'unpaired') return 'answer'
  return scores?.label === 0 ? 'rejected' : 'chosen'
}

interface Measure {
  readonly from: Observed
  readonly sides: readonly Side[]
  /** Number of a token from what was observed and its log-prob; default the former. */
  readonly of?: (observed: number, logp: number) => number
}

const measures: Readonly<Record<string, Measure>> = {
  entropy: { from: 'entropy', sides: ['answer', 'chosen', 'rejected'] },
  mean_token_accuracy: { from: 'topLogps', sides: ['answer', 'chosen'], of: (top, logp) => Number(logp >= top) },
  'logits/chosen': { from: 'meanLogits', sides: ['chosen'] },
  'logits/rejected': { from: 'meanLogits', sides: ['rejected'] },
}

/** The statistics of a batch that its objective observes. */
export function observedStatistics(needs: Needs, sequences: readonly SequenceTerms[]): Record<string, Statistic> {
  const stats: Record<string, Statistic> = {}
  for (const [name, { from, sides, of = (observed: number) => observed }] of Object.entries(measures)) {
    if (!needs.observes?.includes(from)) continue
    let [sum, count] = [0, 0]
    for (const terms of sequences) {
      const side = sideOf(needs, terms)
      if (side === undefined || !sides.includes(side)) continue
      terms[from]?.forEach((observed, t) => {
        sum += of(observed, terms.logps[t])
        count++
      })
    }
    if (count > 0) stats[name] = { sum, count }
  }
  return stats
}
