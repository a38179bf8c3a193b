// Rows -> token ids with a mark on every token that is trained, as TRL 1.13 does it: whole texts, assistant turns of
// conversations, completions behind prompts, each with its end token. A row that would train nothing is refused, or
// skipped and counted on request, never passed over in silence.

import { WhetstoneError } from '../../src/base/errors.js'
import { type ChatMessage, encodeChat } from '../../src/tokenizer/template.js'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import type { EncodedSequence } from './example.js'
import type { PlacedRow, Row } from './rows.js'

/** How rows become tokens. */
export interface EncodeRowOptions {
  /** Longer rows are cut at the end. */
  readonly maxLength: number
  readonly completionOnlyLoss: boolean
  readonly assistantOnlyLoss: boolean
  /** What a row that trains no token does. Default `refuse`. */
  readonly untrainedRows?: 'refuse' | 'skip'
}

/** Encoded rows and what happened to them. */
export interface EncodedData {
  readonly rows: readonly EncodedSequence[]
  /** Rows that were cut to maxLength. */
  readonly truncated: number
  /** Rows left out because they train no token. */
  readonly skipped: number
  /** Rows whose last trained token is no special token: they do not teach the model to end. */
  readonly withoutEnd: number
  /** Text rows in which a token spans prompt and completion: the mark lies where the prompt alone would end. */
  readonly straddling: number
}

/** A row before any cut. */
interface WholeRow extends EncodedSequence {
  readonly straddles?: boolean
}

/** The first token is never a target: nothing predicts it. */
const marks = (length: number, from: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => Number(i >= Math.max(1, from)))

/** Appends the end token unless it is there. */
const ended = (ids: readonly number[], { eosId }: Tokenizer): number[] =>
  eosId === undefined || ids[ids.length - 1] === eosId ? [...ids] : [...ids, eosId]

function encodeText(tokenizer: Tokenizer, text: string): WholeRow {
  const ids = ended(tokenizer.encode(text), tokenizer)
  return { ids, trained: marks(ids.length, 1) }
}

/** Ids at the end of both lists that the tokenizer puts behind every text. */
function tailLength(tokenizer: Tokenizer, head: readonly number[], whole: readonly number[]): number {
  const edges = tokenizer.encode('')
  const same = (back: number): boolean => {
    const id = edges[edges.length - back]
    return id !== undefined && head[head.length - back] === id && whole[whole.length - back] === id
  }
  let tail = 0
  while (same(tail + 1)) tail++
  return tail
}

function encodePair(tokenizer: Tokenizer, prompt: string, completion: string, completionOnly: boolean): WholeRow {
  const head = tokenizer.encode(prompt)
  const whole = tokenizer.encode(prompt + completion)
  const promptLength = head.length - tailLength(tokenizer, head, whole)
  const ids = ended(whole, tokenizer)
  return {
    ids,
    trained: marks(ids.length, completionOnly ? promptLength : 1),
    straddles: head.slice(0, promptLength).some((id, i) => ids[i] !== id),
  }
}

function encodeTurns(
  tokenizer: Tokenizer,
  prompt: readonly ChatMessage[],
  completion: readonly ChatMessage[],
  completionOnly: boolean,
): WholeRow {
  const { ids } = encodeChat(tokenizer, [...prompt, ...completion])
  if (!completionOnly) return { ids, trained: marks(ids.length, 1) }
  const head = encodeChat(tokenizer, prompt, { addGenerationPrompt: true }).ids
  if (head.some((id, i) => ids[i] !== id))
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      'the prompt alone is rendered differently than the prompt with its answer: the trained tokens cannot be told apart',
    )
  return { ids, trained: marks(ids.length, head.length) }
}

/** Which turns are the assistant's is the template's to say: by its generation blocks, or by where turns begin. */
function encodeMessages(tokenizer: Tokenizer, messages: readonly ChatMessage[], assistantOnly: boolean): WholeRow {
  const { ids, assistantMask } = encodeChat(tokenizer, messages, { returnAssistantTokensMask: assistantOnly })
  const trained = assistantMask ?? marks(ids.length, 1)
  return { ids, trained: trained.map((mark, i) => (i === 0 ? 0 : mark)) }
}

function wholeRow(tokenizer: Tokenizer, row: Row, options: Omit<EncodeRowOptions, 'maxLength'>): WholeRow {
  if ('text' in row) return encodeText(tokenizer, row.text)
  if ('messages' in row) return encodeMessages(tokenizer, row.messages, options.assistantOnlyLoss)
  const { prompt, completion } = row
  if (typeof prompt === 'string') return encodePair(tokenizer, prompt, String(completion), options.completionOnlyLoss)
  return encodeTurns(tokenizer, prompt, completion as readonly ChatMessage[], options.completionOnlyLoss)
}

/** Tokens and marks of one row, before any cut. */
export function encodeRow(
  tokenizer: Tokenizer,
  row: Row,
  options: Omit<EncodeRowOptions, 'maxLength'>,
): EncodedSequence {
  const { ids, trained } = wholeRow(tokenizer, row, options)
  return { ids, trained }
}

/** Names the row in what its encoding throws. */
function atRow<R>(where: string, work: () => R): R {
  try {
    return work()
  } catch (error) {
    if (!WhetstoneError.isInstance(error)) throw error
    throw new WhetstoneError(error.code, where, error.message, { cause: error, details: { ...error.details } })
  }
}

const refuseUntrained = ({ ids, trained }: EncodedSequence, where: string, maxLength: number): never => {
  const message = trained.includes(1)
    ? `all trained tokens lie behind maxLength = ${maxLength} (the row has ${ids.length} tokens): raise maxLength or shorten the prompt`
    : 'the row trains no token: expected a completion, or an assistant turn'
  throw new WhetstoneError('E_FORMAT', where, message)
}

/**
 * Encodes all rows.
 *
 * @throws WhetstoneError naming the row: E_FORMAT when it trains no token or is no Unicode, E_TEMPLATE; E_CONFIG when
 *   no row is left
 */
export function encodeRows(tokenizer: Tokenizer, rows: readonly PlacedRow[], options: EncodeRowOptions): EncodedData {
  const { maxLength, untrainedRows = 'refuse' } = options
  const specials = new Set(tokenizer.specialTokens.values())
  const encoded: EncodedSequence[] = []
  const counts = { truncated: 0, skipped: 0, withoutEnd: 0, straddling: 0 }
  for (const { row, where } of rows) {
    const whole = atRow(where, () => wholeRow(tokenizer, row, options))
    const trained = whole.trained.slice(0, maxLength)
    const last = trained.lastIndexOf(1)
    if (last < 0) {
      if (untrainedRows === 'refuse') refuseUntrained(whole, where, maxLength)
      counts.skipped++
      continue
    }
    counts.truncated += Number(whole.ids.length > maxLength)
    counts.withoutEnd += Number(!specials.has(whole.ids[last]))
    counts.straddling += Number(whole.straddles === true)
    encoded.push({ ids: whole.ids.slice(0, maxLength), trained })
  }
  if (encoded.length > 0 || rows.length === 0) return { rows: encoded, ...counts }
  throw new WhetstoneError('E_CONFIG', 'data', `none of the ${rows.length} rows trains a token within maxLength`)
}
