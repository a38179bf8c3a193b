// The contents of tokenizer.json, checked whole before anything is built from them: sizes, ids, merges, added tokens.
// The components (normaliser, splitter, decoder) are checked where they are built.

import { WhetstoneError } from '../base/errors.js'
import { isJsonObject } from '../io/json.js'
import { countOf, flagOf, listOf, type Part, partOf, partsOf, refuse, textOf } from './fields.js'

/** A token that is looked for in the text before it is split. */
export interface AddedToken {
  readonly id: number
  readonly content: string
  /** A control token: text spells it only when the caller asks for that. */
  readonly special: boolean
  /** Looked for in the normalised text. */
  readonly normalized: boolean
  readonly singleWord: boolean
  readonly lstrip: boolean
  readonly rstrip: boolean
}

/** A byte-pair model. */
export interface BpeSpec {
  readonly vocab: ReadonlyMap<string, number>
  /** Pairs from the first to the last to be merged. */
  readonly merges: readonly (readonly [string, string])[]
  readonly unkToken: string | undefined
  readonly fuseUnk: boolean
  readonly byteFallback: boolean
  readonly ignoreMerges: boolean
}

/** A checked file. */
export interface TokenizerFile {
  readonly root: Part
  readonly added: readonly AddedToken[]
  readonly model: BpeSpec
  /** Text of each id. */
  readonly tokens: readonly string[]
}

/** Largest tokenizer.json, in bytes. */
export const fileLimit = 64 * 2 ** 20

const entryLimit = 1_000_000
const contentLimit = 1024

/**
 * Checks the contents of a tokenizer.json.
 *
 * @throws WhetstoneError E_FORMAT, E_LIMIT with the part, what was expected and what came
 */
export function checkTokenizer(value: unknown, file: string): TokenizerFile {
  if (!isJsonObject(value)) throw new WhetstoneError('E_FORMAT', file, 'expected a JSON object')
  const root: Part = { value, path: '', file }
  const part = partOf(root, 'model')
  const model = checkModel(part)
  const added = root.value.added_tokens === undefined ? [] : partsOf(root, 'added_tokens').map(addedToken)
  return { root, added, model, tokens: tokensOf(model.vocab, added, root) }
}

function limitEntries(count: number, what: string, file: string): void {
  if (count > entryLimit)
    throw new WhetstoneError('E_LIMIT', file, `expected at most ${entryLimit} ${what}, got ${count}`)
}

function checkModel(part: Part): BpeSpec {
  const type = part.value.type ?? (Array.isArray(part.value.merges) ? 'BPE' : undefined)
  if (type !== 'BPE') refuse(part, 'type', 'BPE (Unigram, WordPiece and WordLevel models are not supported)')
  for (const key of ['continuing_subword_prefix', 'end_of_word_suffix'])
    if ((part.value[key] ?? '') !== '') refuse(part, key, 'none')
  if ((part.value.dropout ?? 0) !== 0) refuse(part, 'dropout', 'none: encoding must not be random')
  const vocab = vocabOf(partOf(part, 'vocab'))
  const unkToken = (part.value.unk_token ?? undefined) === undefined ? undefined : textOf(part, 'unk_token')
  if (unkToken !== undefined && !vocab.has(unkToken)) refuse(part, 'unk_token', 'a token of the vocabulary')
  return {
    vocab,
    merges: mergesOf(part, vocab),
    unkToken,
    fuseUnk: flagOf(part, 'fuse_unk', false),
    byteFallback: flagOf(part, 'byte_fallback', false),
    ignoreMerges: flagOf(part, 'ignore_merges', false),
  }
}

function vocabOf(part: Part): Map<string, number> {
  const entries = Object.entries(part.value)
  limitEntries(entries.length, 'vocabulary entries', part.file)
  for (const [token] of entries) {
    countOf(part, token)
    if (token === '') refuse(part, token, 'no empty token')
  }
  return new Map(entries as [string, number][])
}

/** The two pieces of a merge: a list of two, or in older files text with one space between them. */
function pairOf(merge: unknown): readonly [string, string] | undefined {
  const pieces: unknown[] = typeof merge === 'string' ? merge.split(' ') : Array.isArray(merge) ? merge : []
  const [left, right] = pieces
  const whole = pieces.length === 2 && typeof left === 'string' && typeof right === 'string'
  return whole && left !== '' && right !== '' ? [left, right] : undefined
}

function mergesOf(part: Part, vocab: ReadonlyMap<string, number>): (readonly [string, string])[] {
  const merges = listOf(part, 'merges')
  limitEntries(merges.length, 'merges', part.file)
  return merges.map((merge, i) => {
    const place: Part = { ...part, value: { [`merges[${i}]`]: merge } }
    const pair = pairOf(merge) ?? refuse(place, `merges[${i}]`, 'two pieces')
    if (!vocab.has(pair[0]) || !vocab.has(pair[1]) || !vocab.has(pair[0] + pair[1]))
      refuse(place, `merges[${i}]`, 'two pieces whose text and joined text are in the vocabulary')
    return pair
  })
}

function addedToken(part: Part): AddedToken {
  const content = textOf(part, 'content')
  if (content === '' || content.length > contentLimit) refuse(part, 'content', `1 to ${contentLimit} characters`)
  return {
    id: countOf(part, 'id'),
    content,
    special: flagOf(part, 'special', false),
    normalized: flagOf(part, 'normalized', true),
    singleWord: flagOf(part, 'single_word', false),
    lstrip: flagOf(part, 'lstrip', false),
    rstrip: flagOf(part, 'rstrip', false),
  }
}

/** Text by id. Each id has one token, each token one id, and no id is left out. */
function tokensOf(vocab: ReadonlyMap<string, number>, added: readonly AddedToken[], root: Part): string[] {
  const tokens = new Map<number, string>()
  const ids = new Map<string, number>()
  const fail = (text: string): never => {
    throw new WhetstoneError('E_FORMAT', root.file, text)
  }
  const claim = (token: string, id: number, place: string) => {
    const [other, otherId] = [tokens.get(id) ?? token, ids.get(token) ?? id]
    if (other !== token) fail(`${place}: expected one token per id, ${id} is '${other}' and '${token}'`)
    if (otherId !== id) fail(`${place}: expected one id per token, '${token}' has ${otherId} and ${id}`)
    tokens.set(id, token)
    ids.set(token, id)
  }
  for (const [token, id] of vocab) claim(token, id, 'model.vocab')
  for (const { content, id } of added) claim(content, id, 'added_tokens')
  return Array.from(
    { length: tokens.size },
    (_, id) => tokens.get(id) ?? fail(`expected ids without holes, none of ${tokens.size} tokens has ${id}`),
  )
}
