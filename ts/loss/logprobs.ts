// From whole sequences to the scored tokens that objectives take: the only masking code. A mask belongs to tokens, a
// log-prob to the token that it scores: entry t of `logps` is log p(token t+1 | tokens up to t), so a sequence of T tokens
// has T masks and T - 1 log-probs. A mask that was shifted before it comes here does not fit, and is refused.

import { checkArgument, checkOptions, kinds, optional } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import type { SequenceTerms } from './define.js'
import { tokenArrays } from './view.js'

/** Numbers per predicted token, T - 1 each, of a sequence of T tokens. */
export type AlignedTerms = Readonly<
  { logps: ArrayLike<number> } & Partial<Record<(typeof tokenArrays)[number], ArrayLike<number>>>
>

/** What does not depend on tokens. */
export type SequenceLabels = Pick<SequenceTerms, 'role' | 'example' | 'scores'>

const termKinds = {
  ...Object.fromEntries(tokenArrays.map((name) => [name, optional(kinds.numbers)])),
  logps: kinds.numbers,
}
const labelKinds = { role: kinds.text, example: kinds.number, scores: optional(kinds.object) }

/**
 * The trained tokens of one sequence.
 *
 * @param mask 1 for each token to train, 0 for prompt and padding, [T]; the first token cannot be trained
 * @param terms numbers per predicted token, [T - 1]
 * @throws WhetstoneError E_SHAPE when a length does not fit or the mask holds something else
 */
export function maskSequence(mask: ArrayLike<number>, terms: AlignedTerms, labels: SequenceLabels): SequenceTerms {
  checkArgument('maskSequence.mask', mask, kinds.numbers)
  checkOptions('maskSequence.terms', terms, termKinds)
  checkOptions('maskSequence.labels', labels, labelKinds)
  const where = `${labels.role} of example ${labels.example}`
  const kept = trainedPositions(mask, where)
  const parts = tokenArrays.flatMap((name) => {
    const values = terms[name]
    if (values === undefined) return []
    if (values.length !== mask.length - 1)
      throw new WhetstoneError(
        'E_SHAPE',
        where,
        `expected ${mask.length - 1} numbers in '${name}' for ${mask.length} masked tokens (none scores the first), got ${values.length}`,
      )
    return [[name, Float64Array.from(kept, (t) => values[t])] as const]
  })
  return { logps: new Float64Array(0), ...Object.fromEntries(parts), ...labels }
}

/** Positions in arrays of predicted tokens. */
function trainedPositions(mask: ArrayLike<number>, where: string): number[] {
  const bits = Array.from(mask)
  if (bits.some((bit) => bit !== 0 && bit !== 1))
    throw new WhetstoneError('E_SHAPE', where, 'expected a mask of 0 and 1')
  if (bits[0] === 1)
    throw new WhetstoneError(
      'E_SHAPE',
      where,
      'expected 0 for the first token, which nothing predicts: the mask may be shifted by one',
    )
  return bits.flatMap((bit, t) => (bit === 1 ? [t - 1] : []))
}
