// Checks of tokenizer.json before any library sees it: sizes, ids, merges, and patterns. A pattern from a file is a
// program for V8's regular expressions, which can be made to hang; so only the patterns of known families pass.

import { WhetstoneError } from '../base/errors.js'

/** The parts of tokenizer.json that are looked at here. */
export interface TokenizerFile {
  readonly model: {
    readonly type?: string
    readonly vocab: Readonly<Record<string, number>> | readonly unknown[]
    readonly merges?: readonly (string | readonly [string, string])[]
  }
  readonly added_tokens?: readonly { readonly id: number; readonly content: string; readonly special: boolean }[]
  readonly pre_tokenizer?: unknown
  readonly normalizer?: unknown
}

const entryLimit = 1_000_000

/** Splitting patterns of GPT-2, Llama 3 and Qwen 2 (and their digit variants), as their files spell them. */
const letters = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|`
const rest = String.raw`| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const knownPatterns = new Set([
  String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
  `${letters}${String.raw`\p{N}{1,3}`}${rest}`,
  `${letters}${String.raw`\p{N}`}${rest}`,
  `${letters}${String.raw`\p{N}+`}${rest}`,
  String.raw`\p{N}{1,3}`,
  String.raw`\p{N}`,
  '[0-9][0-9][0-9]',
  ' {2,}',
  ' ',
  '.',
  '(?s:.)',
  '[\\s\\S]',
])

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/**
 * Checks the contents of a tokenizer.json.
 *
 * @throws WhetstoneError E_FORMAT, E_LIMIT with the part and what was expected
 */
export function checkTokenizer(value: unknown, where: string): TokenizerFile {
  const refuse = (part: string, expected: string, got: unknown): never => {
    throw new WhetstoneError(
      'E_FORMAT',
      where,
      `${part}: expected ${expected}, got ${String(JSON.stringify(got)).slice(0, 120)}`,
    )
  }
  if (!isObject(value) || !isObject(value.model))
    return refuse('model', 'an object', isObject(value) ? value.model : value)
  const { vocab, merges = [] } = value.model
  if (!isObject(vocab) && !Array.isArray(vocab)) return refuse('model.vocab', 'an object or a list', vocab)
  const size = Array.isArray(vocab) ? vocab.length : Object.keys(vocab).length
  if (size > entryLimit)
    throw new WhetstoneError('E_LIMIT', where, `expected at most ${entryLimit} vocabulary entries, got ${size}`)
  const taken = new Map<number, string>()
  const claim = (token: string, id: unknown, part: string) => {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= 2 ** 24)
      refuse(part, `a token id for '${token}'`, id)
    const other = taken.get(id as number)
    if (other !== undefined && other !== token) refuse(part, `one token per id, '${other}' has ${id}`, token)
    taken.set(id as number, token)
  }
  if (isObject(vocab)) for (const [token, id] of Object.entries(vocab)) claim(token, id, 'model.vocab')
  const added = value.added_tokens ?? []
  if (!Array.isArray(added)) return refuse('added_tokens', 'a list', added)
  for (const token of added) {
    if (!isObject(token) || typeof token.content !== 'string' || token.content === '')
      refuse('added_tokens', 'a token with content', token)
    claim(token.content, token.id, 'added_tokens')
  }
  if (!Array.isArray(merges)) return refuse('model.merges', 'a list', merges)
  if (isObject(vocab)) checkMerges(vocab, merges, refuse)
  checkPatterns(value.pre_tokenizer, 'pre_tokenizer', refuse)
  checkPatterns(value.normalizer, 'normalizer', refuse)
  return value as unknown as TokenizerFile
}

type Refuse = (part: string, expected: string, got: unknown) => never

function checkMerges(vocab: Record<string, unknown>, merges: readonly unknown[], refuse: Refuse): void {
  for (const merge of merges) {
    const split = typeof merge === 'string' ? merge.split(' ') : merge
    const pair: unknown[] =
      Array.isArray(split) && split.length === 2 ? split : refuse('model.merges', 'two pieces', merge)
    for (const piece of [...pair, pair.join('')])
      if (!Object.hasOwn(vocab, String(piece))) refuse('model.merges', 'pieces and results of the vocabulary', merge)
  }
}

/** Walks a component and refuses regular expressions that are not on the list. */
function checkPatterns(component: unknown, part: string, refuse: Refuse): void {
  if (Array.isArray(component)) for (const inner of component) checkPatterns(inner, part, refuse)
  if (!isObject(component)) return
  if (typeof component.Regex === 'string' && !knownPatterns.has(component.Regex))
    refuse(part, 'the splitting pattern of a known family', component.Regex)
  for (const inner of Object.values(component)) checkPatterns(inner, part, refuse)
}
