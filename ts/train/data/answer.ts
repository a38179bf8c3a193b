// Texts and conversations -> token ids with a mark on what is trained, before any cut, as TRL 1.x does it. Text: prompt,
// completion and end token are encoded as one string with the begin token, and the mark begins where the prompt alone
// would end. Conversations: the chat template renders the whole, and the prompt with the header of the answer.
// Where a token spans both, the text stays whole (TRL 1.x puts the prompt's own tokens before the rest, and loses characters).
// A text that ends by spelling the end token has it once, as in TRL; what else spells special tokens stays text unless
// the data is trusted, and is counted. Which sequences a row gives is the business of encoders.ts.

import { WhetstoneError } from '../../src/base/errors.js'
import { type ChatMessage, encodeChat } from '../../src/tokenizer/template.js'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import type { EncodeSettings } from './encode-options.js'
import type { Side } from './fields.js'
import type { ChatFields } from './rows.js'

/** A sequence before any cut. */
export interface WholeSequence {
  readonly ids: readonly number[]
  /** 1 for each token that is a target. */
  readonly trained: Uint8Array
  /** Tokens of the prompt; 0 where nothing is a prompt. */
  readonly promptLength: number
  /** A token spans prompt and completion. */
  readonly straddles?: boolean
  /** Its text spells special tokens that stayed text. */
  readonly spells?: boolean
}

/** What encoding needs to know of a tokenizer and the settings, found once. */
export interface Codec {
  readonly tokenizer: Tokenizer
  readonly settings: EncodeSettings
  readonly isSpecial: (id: number) => boolean
  /** Does a text spell a special token that stays text? */
  readonly spells: (text: string) => boolean
  /** Ids of a prompt alone; the last one asked for is remembered, as both sides of a pair ask for the same. */
  readonly promptIds: (prompt: Side, chat: ChatFields) => readonly number[]
}

const escaped = (text: string): string => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')

/** What both settings of special tokens mean for the template. */
const chatOptions = (
  { settings }: Pick<Codec, 'settings'>,
  { tools, chat_template_kwargs: variables }: ChatFields,
) => ({
  contentSpecials: settings.specialTokens,
  tools,
  variables,
})

/** Prepares a tokenizer for encoding rows. */
export function createCodec(tokenizer: Tokenizer, settings: EncodeSettings): Codec {
  const { specialTokens } = settings
  const names = [...tokenizer.specialTokens.keys()]
  const spelled = names.length === 0 || specialTokens === 'parse' ? undefined : new RegExp(names.map(escaped).join('|'))
  const specialIds = new Set(tokenizer.specialTokens.values())
  let last: { prompt: Side; chat: ChatFields; ids: readonly number[] } | undefined
  const encodePrompt = (prompt: Side, chat: ChatFields): readonly number[] =>
    typeof prompt === 'string'
      ? tokenizer.encode(prompt, { specialTokens })
      : encodeChat(tokenizer, prompt, { ...chatOptions({ settings }, chat), addGenerationPrompt: true }).ids
  return {
    tokenizer,
    settings,
    isSpecial: (id) => specialIds.has(id),
    spells: (text) => spelled?.test(text) ?? false,
    promptIds: (prompt, chat) => {
      if (last?.prompt !== prompt || last.chat !== chat) last = { prompt, chat, ids: encodePrompt(prompt, chat) }
      return last.ids
    },
  }
}

/** Marks of everything from a token on; the first token is never a target, as nothing predicts it. */
export const marksFrom = (length: number, from: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => Number(i >= Math.max(1, from)))

/** A text without the end token that it spells. */
export const unended = (text: string, { eosToken }: Tokenizer): string =>
  eosToken !== undefined && text.endsWith(eosToken) ? text.slice(0, text.length - eosToken.length) : text

/** Ids with the end token, once. */
const ended = (ids: readonly number[], { eosId }: Tokenizer): number[] =>
  eosId === undefined || ids[ids.length - 1] === eosId ? [...ids] : [...ids, eosId]

/** Tokens of a text that is learned as a whole. */
export function encodeText(codec: Codec, text: string): WholeSequence {
  const { tokenizer, settings } = codec
  const body = unended(text, tokenizer)
  const ids = ended(tokenizer.encode(body, { specialTokens: settings.specialTokens }), tokenizer)
  return { ids, trained: marksFrom(ids.length, 1), promptLength: 0, spells: codec.spells(body) }
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

/** Tokens of a prompt alone, ready for an answer: what the tokenizer puts behind texts is not there. */
export function promptOf(codec: Codec, prompt: Side, chat: ChatFields): readonly number[] {
  const ids = codec.promptIds(prompt, chat)
  if (typeof prompt !== 'string' || prompt === '') return ids
  return ids.slice(0, ids.length - tailLength(codec.tokenizer, ids, ids))
}

function encodePair(codec: Codec, prompt: string, completion: string): WholeSequence {
  const { tokenizer, settings } = codec
  const text = prompt + unended(completion, tokenizer)
  const head = codec.promptIds(prompt, noChat)
  const whole = tokenizer.encode(text, { specialTokens: settings.specialTokens })
  const promptLength = head.length - tailLength(tokenizer, head, whole)
  const ids = ended(whole, tokenizer)
  return {
    ids,
    trained: marksFrom(ids.length, promptLength),
    promptLength,
    straddles: head.slice(0, promptLength).some((id, i) => ids[i] !== id),
    spells: codec.spells(text),
  }
}

const noChat: ChatFields = {}

const contentSpells = ({ spells }: Codec, list: readonly ChatMessage[]): boolean =>
  list.some(({ content }) => typeof content === 'string' && spells(content))

function encodeTurns(
  codec: Codec,
  prompt: readonly ChatMessage[],
  answer: readonly ChatMessage[],
  chat: ChatFields,
): WholeSequence {
  const turns = [...prompt, ...answer]
  const { ids } = encodeChat(codec.tokenizer, turns, chatOptions(codec, chat))
  const head = codec.promptIds(prompt, chat)
  if (head.some((id, i) => ids[i] !== id))
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      'the prompt alone is rendered differently than the prompt with its answer: the trained tokens cannot be told apart',
    )
  return {
    ids,
    trained: marksFrom(ids.length, head.length),
    promptLength: head.length,
    spells: contentSpells(codec, turns),
  }
}

/**
 * Tokens of an answer behind its prompt, both texts or both conversations; the answer is trained, its end included.
 *
 * @throws WhetstoneError E_TEMPLATE when the template does not show where the answer begins
 */
export const encodeAnswer = (codec: Codec, prompt: Side, answer: Side, chat: ChatFields = noChat): WholeSequence =>
  typeof prompt === 'string'
    ? encodePair(codec, prompt, String(answer))
    : encodeTurns(codec, prompt, answer as readonly ChatMessage[], chat)

/** Tokens of a conversation. Which turns are the assistant's is the template's to say. */
export function encodeMessages(codec: Codec, messages: readonly ChatMessage[], chat: ChatFields): WholeSequence {
  const returnAssistantTokensMask = codec.settings.assistantOnlyLoss
  const options = { ...chatOptions(codec, chat), returnAssistantTokensMask }
  const { ids, assistantMask } = encodeChat(codec.tokenizer, messages, options)
  const trained = assistantMask ?? marksFrom(ids.length, 1)
  return {
    ids,
    trained: trained.map((mark, i) => (i === 0 ? 0 : mark)),
    promptLength: 0,
    spells: contentSpells(codec, messages),
  }
}
