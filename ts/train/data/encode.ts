// Rows -> token ids with a mark on every token that is trained, as TRL 1.13 does it: whole texts, assistant turns of
// conversations, completions behind prompts. A row that would train nothing is refused, never passed over in silence.

import { WhetstoneError } from '../../src/base/errors.js'
import { type ChatMessage, encodeChat } from '../../src/tokenizer/template.js'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import type { EncodedRow } from './micro-batch.js'
import type { PlacedRow, Row } from './rows.js'

/** How rows become tokens. */
export interface EncodeRowOptions {
  /** Longer rows are cut at the end. */
  readonly maxLength: number
  readonly completionOnlyLoss: boolean
  readonly assistantOnlyLoss: boolean
}

/** Encoded rows and what happened to them. */
export interface EncodedData {
  readonly rows: readonly EncodedRow[]
  /** Rows that were cut to maxLength. */
  readonly truncated: number
}

const marks = (length: number, from: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => Number(i >= Math.max(1, from)))

/** Appends the end token unless it is there. */
function ended(ids: readonly number[], tokenizer: Tokenizer): number[] {
  const end = tokenizer.eosToken === undefined ? undefined : tokenizer.idOf(tokenizer.eosToken)
  return end === undefined || ids[ids.length - 1] === end ? [...ids] : [...ids, end]
}

function encodeText(tokenizer: Tokenizer, text: string): EncodedRow {
  const ids = ended(tokenizer.encode(text), tokenizer)
  return { ids, trained: marks(ids.length, 1) }
}

function encodePair(tokenizer: Tokenizer, prompt: string, completion: string, completionOnly: boolean): EncodedRow {
  const ids = ended(tokenizer.encode(prompt + completion), tokenizer)
  return { ids, trained: marks(ids.length, completionOnly ? tokenizer.encode(prompt).length : 1) }
}

function encodeTurns(
  tokenizer: Tokenizer,
  prompt: readonly ChatMessage[],
  completion: readonly ChatMessage[],
  completionOnly: boolean,
): EncodedRow {
  const head = encodeChat(tokenizer, prompt, { addGenerationPrompt: true }).ids
  const { ids } = encodeChat(tokenizer, [...prompt, ...completion])
  checkPrefix(head, ids)
  return { ids, trained: marks(ids.length, completionOnly ? head.length : 1) }
}

function checkPrefix(head: readonly number[], ids: readonly number[]): void {
  if (head.some((id, i) => ids[i] !== id))
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      'the prompt alone is rendered differently than the prompt with its answer: the trained tokens cannot be told apart',
    )
}

/** Marks by the template's generation blocks; without them, by rendering every prefix of the conversation. */
function encodeMessages(tokenizer: Tokenizer, messages: readonly ChatMessage[], assistantOnly: boolean): EncodedRow {
  const { ids, assistantMask } = encodeChat(tokenizer, messages)
  if (!assistantOnly) return { ids, trained: marks(ids.length, 1) }
  return { ids, trained: assistantMask ?? prefixMask(tokenizer, messages, ids) }
}

function prefixMask(tokenizer: Tokenizer, messages: readonly ChatMessage[], ids: readonly number[]): Uint8Array {
  const mask = new Uint8Array(ids.length)
  messages.forEach(({ role }, i) => {
    if (role !== 'assistant') return
    const before = encodeChat(tokenizer, messages.slice(0, i), { addGenerationPrompt: true }).ids
    const through = encodeChat(tokenizer, messages.slice(0, i + 1)).ids
    checkPrefix(before, ids)
    checkPrefix(through, ids)
    mask.fill(1, before.length, through.length)
  })
  return mask
}

/** Tokens and marks of one row, before any cut. */
export function encodeRow(tokenizer: Tokenizer, row: Row, options: Omit<EncodeRowOptions, 'maxLength'>): EncodedRow {
  if ('text' in row) return encodeText(tokenizer, row.text)
  if ('messages' in row) return encodeMessages(tokenizer, row.messages, options.assistantOnlyLoss)
  const { prompt, completion } = row
  if (typeof prompt === 'string') return encodePair(tokenizer, prompt, String(completion), options.completionOnlyLoss)
  return encodeTurns(tokenizer, prompt, completion as readonly ChatMessage[], options.completionOnlyLoss)
}

/**
 * Encodes all rows.
 *
 * @throws WhetstoneError E_FORMAT naming a row that trains no token, E_TEMPLATE
 */
export function encodeRows(tokenizer: Tokenizer, rows: readonly PlacedRow[], options: EncodeRowOptions): EncodedData {
  let truncated = 0
  const encoded = rows.map(({ row, where }) => {
    const whole = encodeRow(tokenizer, row, options)
    if (whole.ids.length > options.maxLength) truncated++
    const cut = { ids: whole.ids.slice(0, options.maxLength), trained: whole.trained.slice(0, options.maxLength) }
    if (!cut.trained.includes(1, 1))
      throw new WhetstoneError(
        'E_FORMAT',
        where,
        whole.trained.includes(1, 1)
          ? `all trained tokens lie behind maxLength = ${options.maxLength} (the row has ${whole.ids.length} tokens): raise maxLength or shorten the prompt`
          : 'the row trains no token: expected a completion, or an assistant turn',
      )
    return cut
  })
  return { rows: encoded, truncated }
}
