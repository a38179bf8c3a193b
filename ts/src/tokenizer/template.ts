// Chat templates: rendering under limits (jinja.ts), and encoding in which only the template's own text can produce
// control tokens (content.ts). What the assistant wrote is marked on request, so that training can be limited to it.

import { checkArgument, checkOptions, having, kinds, listOf, optional, word } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { type Disguise, disguises, freeCharacters } from './content.js'
import type { EncodedText } from './encode.js'
import { compileTemplate, type GenerationMarks, runTemplate, type Template } from './jinja.js'

/** What chat templates need of a tokenizer. */
export interface ChatTokenizer {
  /** Special tokens by text. */
  readonly specialTokens: ReadonlyMap<string, number>
  /** Every special string of tokenizer_config.json, for templates. */
  readonly variables: Readonly<Record<string, string>>
  /** Jinja source of the chat template, if the folder has one. */
  readonly chatTemplate: string | undefined
  /**
   * Ids with their places in the text; a special token is read only where `allow` says so. Adds nothing around the text.
   */
  encodeSpans(text: string, allow: (from: number, to: number) => boolean): EncodedText
}

/** One turn of a conversation, as in Hugging Face data sets. */
export interface ChatMessage {
  readonly role: string
  readonly content?: string | null
  readonly [key: string]: unknown
}

/** How to render and encode. */
export interface ChatOptions {
  /** End with the header of an assistant turn. Default false. */
  readonly addGenerationPrompt?: boolean
  /** `text` (default): content that spells special tokens stays text; `parse`: it becomes tokens, as in Transformers. */
  readonly contentSpecials?: 'text' | 'parse'
  /**
   * Mark the tokens that the assistant wrote: what the template puts into generation blocks, or without such blocks
   * what each assistant turn adds behind its header, up to its last special token. Default false.
   */
  readonly returnAssistantTokensMask?: boolean
  /** Descriptions of tools, for templates that know them. */
  readonly tools?: readonly unknown[]
  /** Further variables of the template, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>
  /** Jinja source to use instead of the tokenizer's own. */
  readonly chatTemplate?: string
}

/** A conversation among arguments. */
export const messagesKind = listOf(having('a message with a role', 'role'))

/** Kinds of {@link ChatOptions}. */
const chatKinds = {
  addGenerationPrompt: optional(kinds.flag),
  contentSpecials: optional(word('text', 'parse')),
  returnAssistantTokensMask: optional(kinds.flag),
  tools: optional(kinds.list),
  variables: optional(kinds.object),
  chatTemplate: optional(kinds.text),
}

/** A rendered and encoded conversation. */
export interface EncodedChat {
  readonly text: string
  readonly ids: number[]
  /** 1 for tokens that the assistant wrote, its end-of-turn token included; present if it was asked for. */
  readonly assistantMask: Uint8Array | undefined
}

/** UTF-16 units [from, to) of a rendering. */
type Span = readonly [from: number, to: number]

/** A template with what stays the same for all renderings of a conversation. */
interface Session {
  readonly template: Template
  readonly messages: readonly ChatMessage[]
  readonly variables: Readonly<Record<string, unknown>>
}

const where = 'chat_template'

const refuse = (message: string): never => {
  throw new WhetstoneError('E_TEMPLATE', where, message)
}

function sessionOf(tokenizer: ChatTokenizer, messages: readonly ChatMessage[], options: ChatOptions): Session {
  checkArgument('applyChatTemplate.messages', messages, messagesKind)
  checkOptions('applyChatTemplate', options, chatKinds)
  const source =
    options.chatTemplate ??
    tokenizer.chatTemplate ??
    refuse('the tokenizer has no chat template: add chat_template to tokenizer_config.json')
  const variables = {
    ...tokenizer.variables,
    tools: options.tools ?? null,
    documents: null,
    ...options.variables,
    add_generation_prompt: options.addGenerationPrompt ?? false,
  }
  return { template: compileTemplate(source), messages, variables }
}

const render = ({ template, messages, variables }: Session, marks?: GenerationMarks): string =>
  runTemplate(template, { ...variables, messages }, marks)

/**
 * Renders a conversation, as Transformers' `apply_chat_template(tokenize=False)`. The date is never given to templates:
 * a rendering does not change from day to day.
 *
 * @throws WhetstoneError E_TEMPLATE with the template's own message when it refuses
 */
export const renderChat = (
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): string => render(sessionOf(tokenizer, messages, options))

/** The same conversation with the texts that come from outside in disguise. */
const inDisguise = (session: Session, disguise: Disguise): Session => ({
  ...session,
  messages: disguise.apply(session.messages) as ChatMessage[],
  variables: { ...session.variables, tools: disguise.apply(session.variables.tools) },
})

/**
 * Where the template itself wrote: a rendering in which characters that came from messages differ from `text` wherever
 * a special token could stand is laid beside it.
 *
 * @throws WhetstoneError E_TEMPLATE when the template does not copy its content through
 */
function ownPlaces(session: Session, specials: readonly string[], text: string): (from: number, to: number) => boolean {
  if (!specials.some((special) => text.includes(special))) return () => false
  for (const disguise of disguises(specials, text)) {
    const other = tryRender(inDisguise(session, disguise))
    if (other !== undefined && disguise.remove(other) === text)
      return (from, to) => other.slice(from, to) === text.slice(from, to)
  }
  return refuse(
    'cannot tell the content from the template: it changes with the characters of control tokens in the content; ' +
      "use contentSpecials 'parse' if the content is trusted",
  )
}

/** A rendering, or undefined if the template refuses this one. */
function tryRender(session: Session, marks?: GenerationMarks): string | undefined {
  try {
    return render(session, marks)
  } catch (error) {
    if (WhetstoneError.isInstance(error) && error.code === 'E_TEMPLATE') return undefined
    throw error
  }
}

/** Where generation blocks wrote, from a rendering with marks around them. */
function generationSpans(session: Session, text: string): Span[] {
  const free = freeCharacters(text)
  const marks = { begin: free(), end: free() }
  const marked = render(session, marks)
  const spans: Span[] = []
  let [at, from] = [0, -1]
  for (const c of marked) {
    if (c === marks.begin) from = at
    else if (c === marks.end) spans.push([from, at])
    else at += c.length
  }
  if (at !== text.length || from < 0 !== (spans.length === 0)) refuse('its generation blocks change what it writes')
  return spans
}

/** Where assistant turns stand, from renderings of the conversation's beginnings. */
function prefixSpans(session: Session, text: string, specialEnds: (from: number, to: number) => number): Span[] {
  const upTo = (count: number, prompt: boolean): string => {
    const variables = { ...session.variables, add_generation_prompt: prompt }
    return render({ ...session, messages: session.messages.slice(0, count), variables })
  }
  return session.messages.flatMap(({ role }, i) => {
    if (role !== 'assistant') return []
    const [header, whole] = [upTo(i, true), upTo(i + 1, false)]
    if (!whole.startsWith(header) || !text.startsWith(whole))
      return refuse(
        `message ${i}: cannot tell what the assistant wrote: the template renders the beginning of the conversation ` +
          'differently from the whole; put {% generation %} blocks into it',
      )
    return [[header.length, specialEnds(header.length, whole.length)] as const]
  })
}

/** The end of the last special token within a stretch, or the stretch's own. */
const lastSpecialEnd =
  ({ ids, ends }: EncodedText, specials: ReadonlySet<number>) =>
  (from: number, to: number): number => {
    let last = -1
    ids.forEach((id, k) => {
      if (specials.has(id) && ends[k] > from && ends[k] <= to) last = ends[k]
    })
    return last < 0 ? to : last
  }

function maskOf({ ids, starts, ends }: EncodedText, spans: readonly Span[]): Uint8Array {
  const mask = new Uint8Array(ids.length)
  let k = 0
  for (const [from, to] of spans) {
    while (k < ids.length && ends[k] <= from) k++
    for (; k < ids.length && starts[k] < to; k++) mask[k] = 1
  }
  return mask
}

/**
 * Renders and encodes a conversation. No begin token is added beyond what the template writes.
 *
 * A token belongs to the assistant when one of its characters does.
 *
 * @throws WhetstoneError E_TEMPLATE
 */
export function encodeChat(
  tokenizer: ChatTokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): EncodedChat {
  const session = sessionOf(tokenizer, messages, options)
  const text = render(session)
  const parse = options.contentSpecials === 'parse'
  const allow = parse ? () => true : ownPlaces(session, [...tokenizer.specialTokens.keys()], text)
  const encoded = tokenizer.encodeSpans(text, allow)
  if (options.returnAssistantTokensMask !== true) return { text, ids: encoded.ids, assistantMask: undefined }
  const spans = session.template.marksGeneration
    ? generationSpans(session, text)
    : prefixSpans(session, text, lastSpecialEnd(encoded, new Set(tokenizer.specialTokens.values())))
  return { text, ids: encoded.ids, assistantMask: maskOf(encoded, spans) }
}
