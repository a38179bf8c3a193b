// Text <-> token ids, from a Hugging Face tokenizer.json. The arithmetic of BPE is @huggingface/tokenizers'; what lies
// here is the guard around it: files are checked before the library sees them, and text never becomes a control token
// unless the caller asks for it.

import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import { messageOf, WhetstoneError } from '../base/errors.js'
import { attempt, exists, readBytes } from '../io/files.js'
import { decodeUtf8, readJson, readJsonObject } from '../io/json.js'
import { checkTokenizer, type TokenizerFile } from './check.js'

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

/** Turns ids into text as they come, never half a character. */
export interface StreamDecoder {
  /** The text that is certain once this id is known; may be empty. */
  push(id: number): string
}

/** A tokenizer loaded from a folder. */
export interface Tokenizer {
  /** Number of ids, added tokens included. */
  readonly vocabSize: number
  readonly bosToken: string | undefined
  readonly eosToken: string | undefined
  readonly padToken: string | undefined
  /** Special tokens by text. */
  readonly specialTokens: ReadonlyMap<string, number>
  /** Every special string of tokenizer_config.json, for templates. */
  readonly variables: Readonly<Record<string, string>>
  /** Jinja source of the chat template, if the folder has one. */
  readonly chatTemplate: string | undefined
  encode(text: string, options?: EncodeOptions): number[]
  decode(ids: readonly number[], options?: { skipSpecialTokens?: boolean }): string
  idOf(token: string): number | undefined
  createDecoder(): StreamDecoder
}

/** Files that make up a tokenizer. */
const tokenizerFiles = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja']

/**
 * Loads tokenizer.json and tokenizer_config.json (and chat_template.jinja) of a folder.
 *
 * @throws WhetstoneError E_IO, E_FORMAT, E_LIMIT
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, 'tokenizer.json')
  const file = checkTokenizer(await readJson(path, 64 * 2 ** 20), path)
  const configPath = join(folder, 'tokenizer_config.json')
  const config = (await exists(configPath)) ? await readJsonObject(configPath) : {}
  const templatePath = join(folder, 'chat_template.jinja')
  if (await exists(templatePath)) config.chat_template = decodeUtf8(await readBytes(templatePath), templatePath)
  return createTokenizer(file, config, path)
}

/** Copies the tokenizer's files byte for byte. */
export async function copyTokenizer(from: string, to: string): Promise<void> {
  for (const name of tokenizerFiles) {
    const source = join(from, name)
    if (await exists(source)) await attempt('copy', source, () => copyFile(source, join(to, name)))
  }
}

/** Names of the tokenizer's files that a folder has. */
export async function tokenizerFilesOf(folder: string): Promise<string[]> {
  const present = await Promise.all(tokenizerFiles.map((name) => exists(join(folder, name))))
  return tokenizerFiles.filter((_, i) => present[i])
}

/** The text of a special token, which a config gives as a string or as an object. */
const tokenText = (value: unknown): string | undefined =>
  typeof value === 'string' ? value : (value as { content?: string } | null | undefined)?.content

function variablesOf(config: Readonly<Record<string, unknown>>): Record<string, string> {
  const variables: Record<string, string> = {}
  for (const [key, value] of Object.entries(config)) {
    const text = key.endsWith('_token') ? tokenText(value) : undefined
    if (text !== undefined) variables[key] = text
  }
  return variables
}

function templateOf(config: Readonly<Record<string, unknown>>): string | undefined {
  const template = config.chat_template
  if (typeof template === 'string') return template
  if (!Array.isArray(template)) return undefined
  const named = template.find((entry) => entry?.name === 'default') as { template?: unknown } | undefined
  return typeof named?.template === 'string' ? named.template : undefined
}

/** Makes a tokenizer from checked contents. */
export function createTokenizer(
  file: TokenizerFile,
  config: Readonly<Record<string, unknown>>,
  where: string,
): Tokenizer {
  const make = (contents: object): LibraryTokenizer => {
    try {
      return new LibraryTokenizer(contents, { ...config, clean_up_tokenization_spaces: false })
    } catch (cause) {
      throw new WhetstoneError('E_FORMAT', where, `cannot use this tokenizer: ${messageOf(cause)}`, { cause })
    }
  }
  const added = file.added_tokens ?? []
  const parsing = make(file)
  // The same tokenizer without special tokens: what spells one stays text.
  const plain = make({ ...file, added_tokens: added.filter((token) => !token.special) })
  const specialTokens = new Map(added.filter((token) => token.special).map((token) => [token.content, token.id]))
  const variables = variablesOf(config)
  const begins = parsing.encode('', { add_special_tokens: true }).ids
  const decode = (ids: readonly number[], skip: boolean): string =>
    ids.length === 0 ? '' : parsing.decode([...ids], { skip_special_tokens: skip, clean_up_tokenization_spaces: false })
  return {
    vocabSize: vocabularySize(file),
    bosToken: variables.bos_token,
    eosToken: variables.eos_token,
    padToken: variables.pad_token,
    specialTokens,
    variables,
    chatTemplate: templateOf(config),
    encode: (text, options = {}) => {
      const { addSpecialTokens = true, specialTokens: specials = 'text' } = options
      if (specials === 'parse') return parsing.encode(text, { add_special_tokens: addSpecialTokens }).ids
      const ids = plain.encode(text, { add_special_tokens: false }).ids
      return addSpecialTokens && begins.length > 0 ? framed(ids, parsing) : ids
    },
    decode: (ids, { skipSpecialTokens = false } = {}) => decode(ids, skipSpecialTokens),
    idOf: (token) => parsing.token_to_id(token) ?? specialTokens.get(token),
    createDecoder: () => streamDecoder((ids) => decode(ids, false)),
  }
}

/** Puts around `ids` what the post-processor puts around any text, found by encoding a letter. */
function framed(ids: readonly number[], parsing: LibraryTokenizer): number[] {
  const bare: number[] = parsing.encode('a', { add_special_tokens: false }).ids
  const whole: number[] = parsing.encode('a', { add_special_tokens: true }).ids
  const at = whole.findIndex((_, i) => bare.every((id, j) => whole[i + j] === id))
  return [...whole.slice(0, at), ...ids, ...whole.slice(at + bare.length)]
}

function vocabularySize(file: TokenizerFile): number {
  let largest = -1
  const { vocab } = file.model
  if (Array.isArray(vocab)) largest = vocab.length - 1
  else for (const id of Object.values(vocab as Readonly<Record<string, number>>)) if (id > largest) largest = id
  for (const { id } of file.added_tokens ?? []) if (id > largest) largest = id
  return largest + 1
}

/** Decodes a growing window of ids and gives out what later ids cannot change. */
function streamDecoder(decode: (ids: readonly number[]) => string): StreamDecoder {
  let pending: number[] = []
  let given = ''
  return {
    push: (id) => {
      pending.push(id)
      const text = decode(pending)
      if (text.endsWith('\uFFFD')) return ''
      const piece = text.slice(given.length)
      // Keep the last id as context: some decoders treat the first token differently.
      pending = pending.slice(-1)
      given = decode(pending)
      return piece
    },
  }
}
