// Score: what another model makes of the traces. `referenceLogps` notes its log-probs of every token that the policy
// wrote, from one forward pass over the whole trace; penalties by turn are made of them.

import { type LanguageModel, languageModel } from '../../src/generate/language-model.js'
import type { Decoder } from '../../src/models/decoder.js'
import type { Score } from './score.js'
import type { Segment, Trace } from './trace.js'

/** Traces per forward pass. */
const tracesAtOnce = 32

function withReference(trace: Trace, logps: Float32Array): Trace {
  let at = 0
  const segments = trace.segments.map((segment): Segment => {
    const own = logps.subarray(at, at + segment.ids.length)
    at += segment.ids.length
    return segment.role === 'completion' ? { ...segment, reference: [...own] } : segment
  })
  return { ...trace, segments }
}

/** Notes log p of each completion token under the reference, at temperature 1. */
export const referenceLogps =
  (reference: Decoder, { tokenizer, directory }: LanguageModel): Score =>
  async (traces) => {
    const model = languageModel(reference, tokenizer, directory)
    const noted: Trace[] = []
    for (let begin = 0; begin < traces.length; begin += tracesAtOnce) {
      const part = traces.slice(begin, begin + tracesAtOnce)
      const logps = await model.logProbs(part.map(({ segments }) => segments.flatMap(({ ids }) => ids)))
      noted.push(...part.map((trace, i) => withReference(trace, logps[i])))
    }
    return noted
  }
