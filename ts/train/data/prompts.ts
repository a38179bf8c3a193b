// Prompts for the policy to answer: their tokens, with the header of the answer in conversations, and whatever else their
// rows hold, for reward functions. Nothing in them is trained. TRL 1.x cuts no prompt; `maxPromptLength`, where it is set,
// keeps the last tokens, as its GRPO trainer did.

import { checkArgument } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type Tokenizer, tokenizerKind } from '../../src/tokenizer/tokenizer.js'
import { createCodec, promptOf } from './answer.js'
import { atRow } from './encode.js'
import { type EncodeOptions, encodeSettings } from './encode-options.js'
import { checkPlaced, type PlacedRow, type PromptRow } from './rows.js'

/** A prompt as the policy gets it. */
export interface EncodedPrompt {
  readonly ids: readonly number[]
  readonly where: string
  /** The row: its prompt, and every other field as it came. */
  readonly row: PromptRow
}

/** Encoded prompts. */
export interface EncodedPrompts {
  readonly prompts: readonly EncodedPrompt[]
  /** Prompts that lost their beginning. */
  readonly truncated: number
}

/**
 * Encodes prompts.
 *
 * @throws WhetstoneError naming the row: E_FORMAT for one without tokens or Unicode, E_TEMPLATE
 */
export function encodePrompts(
  tokenizer: Tokenizer,
  rows: readonly PlacedRow<PromptRow>[],
  options: EncodeOptions = {},
): EncodedPrompts {
  checkArgument('encodePrompts.tokenizer', tokenizer, tokenizerKind)
  const checked = checkPlaced('encodePrompts.rows', rows, 'prompt')
  const settings = encodeSettings(options)
  const codec = createCodec(tokenizer, settings)
  const most = settings.maxPromptLength ?? Number.POSITIVE_INFINITY
  let truncated = 0
  const prompts = checked.map(({ row, where }) => {
    const ids = atRow(where, () => promptOf(codec, row.prompt, row))
    if (ids.length === 0)
      throw new WhetstoneError('E_FORMAT', where, "field 'prompt': expected at least one token, got none")
    truncated += Number(ids.length > most)
    return { ids: ids.slice(Math.max(0, ids.length - most)), where, row }
  })
  return { prompts, truncated }
}
