// Sequences for score heads, whose numbers are read at tokens themselves. Reward models (TRL's RewardTrainer): the last
// token of the answer, its end. Process rewards (TRL's PRM trainer): the prompt behind a begin token, then each step with the
// separator behind it, each encoded by itself; the label stands at the last token of its step, that of the separator.

import { WhetstoneError } from '../../src/base/errors.js'
import type { Codec, WholeSequence } from './answer.js'
import type { Part } from './cut.js'
import type { StepwiseRow } from './rows.js'

/** The sequence with its last token alone marked. */
export const scoredAtEnd = <P extends WholeSequence>(sequence: P): P & Pick<Part, 'readsOwn'> => ({
  ...sequence,
  trained: Uint8Array.from(sequence.ids, (_, i) => Number(i === sequence.ids.length - 1)),
  readsOwn: true,
})

/**
 * Tokens of an answer in steps; `inputs.labels` is 1 at the end of a right step.
 *
 * @throws WhetstoneError E_FORMAT for a step without a token
 */
export function encodeSteps({ tokenizer, settings, spells }: Codec, row: StepwiseRow): Omit<Part, 'role'> {
  const { specialTokens, stepSeparator, trainOnLastStepOnly } = settings
  const idsOf = (text: string): number[] => tokenizer.encode(text, { addSpecialTokens: false, specialTokens })
  const begin = tokenizer.bosId === undefined ? [] : [tokenizer.bosId]
  const separator = idsOf(stepSeparator)
  const prompt = [...begin, ...idsOf(row.prompt)]
  const ids = [...prompt]
  const ends = row.completions.map((step, i) => {
    const own = [...idsOf(step), ...separator]
    if (own.length === 0)
      throw new WhetstoneError('E_FORMAT', 'data', `field 'completions[${i}]': expected a step with text, got none`)
    ids.push(...own)
    return ids.length - 1
  })
  const [trained, labels] = [new Uint8Array(ids.length), new Uint8Array(ids.length)]
  ends.forEach((end, i) => {
    trained[end] = Number(!trainOnLastStepOnly || i === ends.length - 1)
    labels[end] = Number(row.labels[i])
  })
  const spelled = [row.prompt, ...row.completions].some(spells)
  return { ids, trained, promptLength: prompt.length, inputs: { labels }, readsOwn: true, spells: spelled }
}
