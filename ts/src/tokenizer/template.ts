// Chat templates: rendering by @huggingface/jinja with limits, and encoding in which only the template's own text can
// produce control tokens. What the assistant wrote is marked, so that training can be limited to it.

import { Template } from '@huggingface/jinja'
import { messageOf, WhetstoneError } from '../base/errors.js'
import type { Tokenizer } from './tokenizer.js'

/** One turn of a conversation, as in Hugging Face data sets. */
export interface ChatMessage {
  readonly role: string
  readonly content?: string | null
  readonly [key: string]: unknown
}

/** How to render. */
export interface ChatOptions {
  /** End with the header of an assistant turn. Default false. */
  readonly addGenerationPrompt?: boolean
  /** `text` (default): content that spells special tokens stays text; `parse`: it becomes tokens, as in Transformers. */
  readonly contentSpecials?: 'text' | 'parse'
  readonly tools?: readonly unknown[]
}

/** A rendered and encoded conversation. */
export interface EncodedChat {
  readonly text: string
  readonly ids: number[]
  /** 1 for tokens that the assistant wrote, its end-of-turn token included; absent if the template cannot tell. */
  readonly assistantMask: Uint8Array | undefined
}

const sourceLimit = 256 * 1024
const outputLimit = 16 * 2 ** 20

interface Node {
  type?: string
  value?: unknown
  [key: string]: unknown
}

interface Compiled {
  readonly template: Template
  /** The template has generation blocks. */
  readonly marks: boolean
}

const compiled = new Map<string, Compiled>()

/** Characters for marks: private use, chosen so that neither template nor messages contain them. */
function freshMarks(source: string, messages: readonly ChatMessage[]): [begin: string, end: string, guard: string] {
  const used = source + JSON.stringify(messages)
  const free: string[] = []
  for (let code = 0xe000; free.length < 3 && code < 0xf8ff; code++) {
    const mark = String.fromCharCode(code)
    if (!used.includes(mark)) free.push(mark)
  }
  return [free[0], free[1], free[2]]
}

/**
 * Parses a template once. Generation blocks become `if` blocks, so that whitespace control treats them as the block
 * tags they are, and their bodies are then framed by marks in the syntax tree.
 */
function compile(source: string): Compiled {
  const known = compiled.get(source)
  if (known !== undefined) return known
  if (source.length > sourceLimit)
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      `expected at most ${sourceLimit} characters, got ${source.length}`,
    )
  const tagged = source
    .replace(/\{%(-?)\s*generation\s*(-?)%\}/g, '{%$1 if __generation $2%}')
    .replace(/\{%(-?)\s*endgeneration\s*(-?)%\}/g, '{%$1 endif $2%}')
  try {
    const template = new Template(tagged)
    const result = { template, marks: frameGenerations(template.parsed as unknown as Node) }
    if (compiled.size > 16) compiled.clear()
    compiled.set(source, result)
    return result
  } catch (cause) {
    throw new WhetstoneError('E_TEMPLATE', 'chat_template', `cannot parse it: ${messageOf(cause)}`, { cause })
  }
}

/** Puts `__begin` and `__end` around the body of every generation block; true when there was one. */
function frameGenerations(node: unknown): boolean {
  if (Array.isArray(node)) return node.map(frameGenerations).includes(true)
  if (typeof node !== 'object' || node === null) return false
  const { type, test, body } = node as Node
  const inner = Object.values(node).map(frameGenerations).includes(true)
  if (type !== 'If' || (test as Node)?.value !== '__generation') return inner
  const variable = (value: string): Node => ({ type: 'Identifier', value })
  ;(node as Node).body = [variable('__begin'), ...(body as Node[]), variable('__end')]
  return true
}

function renderWith(
  source: string,
  messages: readonly ChatMessage[],
  variables: Readonly<Record<string, unknown>>,
): string {
  const { template } = compile(source)
  let text: string
  try {
    text = template.render({ ...variables, messages, __generation: true })
  } catch (cause) {
    throw new WhetstoneError('E_TEMPLATE', 'chat_template', messageOf(cause), { cause })
  }
  if (text.length > outputLimit)
    throw new WhetstoneError(
      'E_TEMPLATE',
      'chat_template',
      `expected at most ${outputLimit} characters of output, got ${text.length}`,
    )
  return text
}

const requireTemplate = (tokenizer: Tokenizer): string => {
  if (tokenizer.chatTemplate !== undefined) return tokenizer.chatTemplate
  throw new WhetstoneError(
    'E_TEMPLATE',
    'chat_template',
    'the tokenizer has no chat template: add chat_template to tokenizer_config.json',
  )
}

const contextOf = (tokenizer: Tokenizer, options: ChatOptions, begin = '', end = ''): Record<string, unknown> => ({
  ...tokenizer.variables,
  add_generation_prompt: options.addGenerationPrompt ?? false,
  ...(options.tools === undefined ? {} : { tools: options.tools }),
  __begin: begin,
  __end: end,
})

/**
 * Renders a conversation with the tokenizer's chat template, as Transformers' `apply_chat_template(tokenize=False)`.
 *
 * @throws WhetstoneError E_TEMPLATE with the template's own message when it refuses
 */
export const renderChat = (tokenizer: Tokenizer, messages: readonly ChatMessage[], options: ChatOptions = {}): string =>
  renderWith(requireTemplate(tokenizer), messages, contextOf(tokenizer, options))

/** A deep copy of messages in which every special token's spelling is broken by a guard character. */
function guarded<T>(value: T, specials: readonly string[], guard: string): T {
  if (typeof value === 'string') {
    let text: string = value
    for (const special of specials) text = text.replaceAll(special, special[0] + guard + special.slice(1))
    return text as T
  }
  if (Array.isArray(value)) return value.map((inner) => guarded(inner, specials, guard)) as T
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, guarded(inner, specials, guard)])) as T
}

/** Special tokens from longest to shortest: a longer one must not be cut by a shorter. */
const specialsOf = (tokenizer: Tokenizer): string[] =>
  [...tokenizer.specialTokens.keys()].sort((a, b) => b.length - a.length)

/**
 * Renders and encodes a conversation. No begin token is added beyond what the template writes.
 *
 * @throws WhetstoneError E_TEMPLATE
 */
export function encodeChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): EncodedChat {
  const source = requireTemplate(tokenizer)
  const [begin, end, guard] = freshMarks(source, messages)
  const specials = specialsOf(tokenizer)
  const parse = options.contentSpecials === 'parse'
  const safe = parse ? messages : guarded(messages, specials, guard)
  const marked = renderWith(source, safe, contextOf(tokenizer, options, begin, end))
  const { ids, mask } = encodeMarked(tokenizer, marked, specials, { begin, end, guard })
  const text = [...marked].filter((c) => c !== begin && c !== end && c !== guard).join('')
  return { text, ids, assistantMask: compile(source).marks ? mask : undefined }
}

interface Marks {
  readonly begin: string
  readonly end: string
  readonly guard: string
}

/** Splits at the template's special tokens, as tokenizers do with added tokens, and encodes what lies between. */
function encodeMarked(tokenizer: Tokenizer, marked: string, specials: readonly string[], marks: Marks) {
  const ids: number[] = []
  const mask: number[] = []
  let inside = false
  let stretch = ''
  // Characters of the stretch that the assistant wrote, by the UTF-16 unit.
  let flags: boolean[] = []
  const flush = () => {
    const encoded = tokenizer.encode(stretch, { addSpecialTokens: false })
    ids.push(...encoded)
    mask.push(...maskOf(tokenizer, encoded, flags))
    stretch = ''
    flags = []
  }
  for (let at = 0; at < marked.length; ) {
    const special = specials.find((text) => marked.startsWith(text, at))
    const c = marked[at]
    if (special !== undefined) {
      flush()
      ids.push(tokenizer.specialTokens.get(special) as number)
      mask.push(Number(inside))
      at += special.length
      continue
    }
    if (c === marks.begin) inside = true
    else if (c === marks.end) inside = false
    else if (c !== marks.guard) {
      stretch += c
      flags.push(inside)
    }
    at++
  }
  flush()
  return { ids, mask: Uint8Array.from(mask) }
}

/** Marks the tokens of a stretch: a token belongs to the assistant when its first character does. */
function maskOf(tokenizer: Tokenizer, ids: readonly number[], flags: readonly boolean[]): number[] {
  if (!flags.includes(true)) return ids.map(() => 0)
  if (!flags.includes(false)) return ids.map(() => 1)
  let at = 0
  const decoder = tokenizer.createDecoder()
  const mask = ids.map((id) => {
    const flag = Number(flags[Math.min(at, flags.length - 1)])
    at += decoder.push(id).length
    return flag
  })
  return mask
}
