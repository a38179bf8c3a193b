// Text <-> token ids, from the tokenizer.json of a Hugging Face folder: byte-pair models, byte-level or by characters
// (GPT-2, Llama, Qwen, Mistral, Gemma and their kin). The file is checked before anything is built, and text never
// becomes a control token unless the caller asks for it. Chat templates are template.ts.

import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkArgument, checkOptions, having, kinds, optional, word } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { attempt, exists } from '../io/files.js'
import { isJsonObject, loneSurrogate, readJson, readJsonObject, readText } from '../io/json.js'
import { modelFile, modelFolder } from '../io/model-folder.js'
import type { Allow } from './added.js'
import { checkTemplateTokens, readTemplate, templateLimit } from './chat-template.js'
import { createDecoder } from './decode.js'
import { createEncoder } from './encode.js'
import { optionalPart } from './fields.js'
import { type AddedToken, checkTokenizer, fileLimit, type TokenizerFile } from './file.js'
import { frameOf } from './frame.js'
import { type ChatMessage, type ChatOptions, type ChatTokenizer, type EncodedChat, encodeChat } from './template.js'

/** How to encode. */
export interface EncodeOptions {
  /** Add what the post-processor adds, such as a begin token. Default true. */
  readonly addSpecialTokens?: boolean
  /**
   * What text that spells a special token becomes: `text` (default) encodes it like any other text, so that content
   * can never produce a control token; `parse` gives the token, as Transformers does.
   */
  readonly specialTokens?: 'text' | 'parse'
}

/** How to decode. */
export interface DecodeOptions {
  /** Leave special tokens out. Default false. */
  readonly skipSpecialTokens?: boolean
}

/** Turns ids into text as they come, never half a character. All pieces and the end joined are what `decode` gives. */
export interface StreamDecoder {
  /** The text that is certain once this id is known; may be empty. */
  push(id: number): string
  /** What was held back, after the last id. */
  end(): string
}

/** How to load a tokenizer. */
export interface TokenizerOptions {
  /** Jinja file, or folder of a tokenizer, whose chat template is used in place of the tokenizer's own. */
  readonly chatTemplatePath?: string
}

/** A tokenizer loaded from a folder. */
export interface Tokenizer extends ChatTokenizer {
  /** Number of ids, added tokens included. */
  readonly vocabSize: number
  readonly bosToken: string | undefined
  readonly eosToken: string | undefined
  readonly padToken: string | undefined
  readonly bosId: number | undefined
  readonly eosId: number | undefined
  readonly padId: number | undefined
  /** @throws WhetstoneError E_FORMAT for text that is not Unicode, or holds a character that has no token */
  encode(text: string, options?: EncodeOptions): number[]
  /** Ids that the vocabulary does not have give no text; invalid UTF-8 gives U+FFFD. Spaces are not cleaned up. */
  decode(ids: readonly number[], options?: DecodeOptions): string
  idOf(token: string): number | undefined
  tokenOf(id: number): string | undefined
  createDecoder(options?: DecodeOptions): StreamDecoder
  /** The same as `encodeChat(tokenizer, messages, options)`. */
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatOptions): EncodedChat
}

/** A {@link Tokenizer} among arguments. */
export const tokenizerKind = having('what loadTokenizer() gives', 'encode', 'encodeSpans', 'decode', 'createDecoder')

const encodeKinds = { addSpecialTokens: optional(kinds.flag), specialTokens: optional(word('text', 'parse')) }
const tokenizerKinds = { chatTemplatePath: optional(kinds.path) }
const decodeKinds = { skipSpecialTokens: optional(kinds.flag) }

/** A chat template beside tokenizer_config.json, and before the one in it. */
export const templateFile = 'chat_template.jinja'

/** Files that make up a tokenizer. */
const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', templateFile]

async function objectIn(folder: string, name: string): Promise<Record<string, unknown>> {
  const path = join(folder, name)
  return (await exists(path)) ? readJsonObject(path, fileLimit) : {}
}

/** What a folder says of its tokenizer, besides tokenizer.json. */
async function configIn(directory: string): Promise<Record<string, unknown>> {
  const map = await objectIn(directory, 'special_tokens_map.json')
  const config = { ...map, ...(await objectIn(directory, 'tokenizer_config.json')) }
  const path = join(directory, templateFile)
  return (await exists(path)) ? { ...config, chat_template: await readText(path, templateLimit) } : config
}

/**
 * Loads the tokenizer of a folder: tokenizer.json, and where they exist tokenizer_config.json, special_tokens_map.json
 * and chat_template.jinja. Of a run's folder: that of its newest checkpoint.
 *
 * @throws WhetstoneError E_IO, E_PATH; E_CONFIG for a run without a checkpoint; E_FORMAT, E_LIMIT with the field, what
 *   was expected and what came; of `chatTemplatePath` E_CONFIG without a template, E_TEMPLATE, and E_MISMATCH when it spells
 *   special tokens of its own tokenizer that this one lacks
 */
export async function loadTokenizer(folder: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
  checkArgument('loadTokenizer.folder', folder, kinds.path)
  checkOptions('loadTokenizer', options, tokenizerKinds)
  const directory = await modelFolder(folder)
  const path = await modelFile(directory, 'tokenizer.json')
  const contents = await readJson(path, fileLimit)
  const config = await configIn(directory)
  if (options.chatTemplatePath === undefined) return createTokenizer(contents, config, path)
  const template = await readTemplate(options.chatTemplatePath, loadTokenizer)
  const tokenizer = createTokenizer(contents, { ...config, chat_template: template.source }, path)
  checkTemplateTokens(template, tokenizer)
  return tokenizer
}

/** The chat template of a folder, if it has one. */
export const templateIn = async (directory: string): Promise<string | undefined> =>
  templateOf(await configIn(directory))

/** Copies the tokenizer's files byte for byte. */
export async function copyTokenizer(from: string, to: string): Promise<void> {
  for (const name of await tokenizerFilesOf(from)) {
    const source = join(from, name)
    await attempt('copy', source, () => copyFile(source, join(to, name)))
  }
}

/** Names of the tokenizer's files that a folder has. */
export async function tokenizerFilesOf(folder: string): Promise<string[]> {
  const present = await Promise.all(tokenizerFiles.map((name) => exists(join(folder, name))))
  return tokenizerFiles.filter((_, i) => present[i])
}

/** The text of a special token, which a config gives as a string or as an object. */
const tokenText = (value: unknown): string | undefined => {
  const text = isJsonObject(value) ? value.content : value
  return typeof text === 'string' && text !== '' ? text : undefined
}

function variablesOf(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const named = Object.entries(config).flatMap(([key, value]) => {
    const text = key.endsWith('_token') ? tokenText(value) : undefined
    return text === undefined ? [] : [[key, text] as const]
  })
  return Object.fromEntries(named)
}

function templateOf(config: Readonly<Record<string, unknown>>): string | undefined {
  const template = config.chat_template
  if (typeof template === 'string') return template
  if (!Array.isArray(template)) return undefined
  const named: unknown = template.find((entry) => isJsonObject(entry) && entry.name === 'default')
  return isJsonObject(named) && typeof named.template === 'string' ? named.template : undefined
}

/** The added tokens, and those that the config alone calls special: they count as special too. */
function addedTokens(file: TokenizerFile, config: Readonly<Record<string, unknown>>): AddedToken[] {
  const extra = config.additional_special_tokens
  const listed = Array.isArray(extra) ? extra.map(tokenText) : []
  const added = new Map(file.added.map((token) => [token.content, token]))
  for (const content of [...Object.values(variablesOf(config)), ...listed]) {
    if (content === undefined || added.has(content)) continue
    const id = file.tokens.indexOf(content)
    if (id < 0)
      throw new WhetstoneError(
        'E_FORMAT',
        file.root.file,
        `tokenizer_config.json names the special token '${content}', which has no id: add it to tokenizer.json`,
      )
    const flags = { special: true, normalized: false, singleWord: false, lstrip: false, rstrip: false }
    added.set(content, { id, content, ...flags })
  }
  return [...added.values()]
}

/** Refuses text that no UTF-8 stands for: replacing half a character would go unseen. */
function checkText(text: string): void {
  checkArgument('encode.text', text, kinds.text)
  const at = loneSurrogate(text)
  if (at >= 0)
    throw new WhetstoneError('E_FORMAT', 'encode', `expected Unicode text, got half of a surrogate pair at ${at}`)
}

const always: Allow = () => true
const ordinaryOnly: Allow = (token) => !token.special

/**
 * Makes a tokenizer from the contents of tokenizer.json and tokenizer_config.json.
 *
 * @throws WhetstoneError E_FORMAT, E_LIMIT
 */
export function createTokenizer(
  contents: unknown,
  config: Readonly<Record<string, unknown>>,
  where: string,
): Tokenizer {
  const file = checkTokenizer(contents, where)
  const added = addedTokens(file, config)
  const encoder = createEncoder(file, added)
  const frame = frameOf(optionalPart(file.root, 'post_processor'))
  const isFramed = frame.before.length + frame.after.length > 0
  const startText = createDecoder(optionalPart(file.root, 'decoder'))
  const ids = new Map(file.tokens.map((token, id) => [token, id]))
  const special = added.filter((token) => token.special)
  const specialIds = new Set(special.map((token) => token.id))
  const variables = variablesOf(config)
  const { bos_token: bosToken, eos_token: eosToken, pad_token: padToken } = variables
  const idOf = (token: string | undefined): number | undefined => (token === undefined ? undefined : ids.get(token))
  const tokensOf = (list: readonly number[], { skipSpecialTokens = false }: DecodeOptions): string[] => {
    const tokens: string[] = []
    for (const id of list) {
      const token: string | undefined = file.tokens[id]
      if (token !== undefined && !(skipSpecialTokens && specialIds.has(id))) tokens.push(token)
    }
    return tokens
  }
  const tokenizer: Tokenizer = {
    vocabSize: file.tokens.length,
    ...{ bosToken, eosToken, padToken, bosId: idOf(bosToken), eosId: idOf(eosToken), padId: idOf(padToken) },
    specialTokens: new Map(special.map((token) => [token.content, token.id])),
    variables,
    chatTemplate: templateOf(config),
    encode: (text, options = {}) => {
      checkText(text)
      checkOptions('encode', options, encodeKinds)
      const { addSpecialTokens = true, specialTokens = 'text' } = options
      const list = encoder.ids(text, specialTokens === 'parse' ? always : ordinaryOnly)
      return addSpecialTokens && isFramed ? [...frame.before, ...list, ...frame.after] : list
    },
    encodeSpans: (text, allow) => {
      checkText(text)
      checkArgument('encodeSpans.allow', allow, kinds.call)
      return encoder.spans(text, (token, from, to) => !token.special || allow(from, to))
    },
    decode: (list, options = {}) => {
      checkArgument('decode.ids', list, kinds.numbers)
      checkOptions('decode', options, decodeKinds)
      const decoder = startText()
      return decoder.push(tokensOf(list, options)) + decoder.end()
    },
    idOf,
    tokenOf: (id) => file.tokens[id],
    createDecoder: (options = {}) => {
      checkOptions('createDecoder', options, decodeKinds)
      const decoder = startText()
      return { push: (id) => decoder.push(tokensOf([id], options)), end: () => decoder.end() }
    },
    applyChatTemplate: (messages, options) => encodeChat(tokenizer, messages, options),
  }
  return tokenizer
}
