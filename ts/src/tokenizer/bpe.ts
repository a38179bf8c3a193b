// The byte-pair model: a word becomes symbols (bytes, or characters with bytes as a fallback), symbols are merged.
// Merging itself is pairs.ts.

import { WhetstoneError } from '../base/errors.js'
import { byteCharacters, utf8 } from './bytes.js'
import type { BpeSpec } from './file.js'
import { createPairTable, mergePairs, type PairTable } from './pairs.js'

/** Ids of a word, and the UTF-16 units of the word that each covers: [starts, ends). Tokens of one character overlap. */
export interface WordTokens {
  readonly ids: ArrayLike<number>
  readonly starts: ArrayLike<number>
  readonly ends: ArrayLike<number>
}

/** A byte-pair model. */
export interface Bpe {
  readonly encode: (word: string) => ArrayLike<number>
  readonly encodeSpans: (word: string) => WordTokens
}

/** Symbols of a word. */
interface Symbols {
  readonly ids: Int32Array
  /** Index of the UTF-16 unit where the character of each symbol begins, and the unit behind it. */
  readonly starts: (symbol: number) => number
  readonly ends: (symbol: number) => number
}

const cachedWords = 20_000
const cachedLength = 64

const refuse = (character: string): never => {
  const code = (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')
  throw new WhetstoneError(
    'E_FORMAT',
    'encode',
    `the tokenizer has no token for ${JSON.stringify(character)} (U+${code}) and no unknown token`,
  )
}

/** Units of each byte, found when somebody asks: bytes of one character share its place. */
function byteSpans(word: string): Pick<Symbols, 'starts' | 'ends'> {
  let spans: { starts: number[]; ends: number[] } | undefined
  const made = () => {
    const [starts, ends]: [number[], number[]] = [[], []]
    let at = 0
    for (const character of word) {
      for (let i = utf8(character).length; i > 0; i--) {
        starts.push(at)
        ends.push(at + character.length)
      }
      at += character.length
    }
    return { starts, ends }
  }
  const get = () => {
    spans ??= made()
    return spans
  }
  return { starts: (symbol) => get().starts[symbol], ends: (symbol) => get().ends[symbol] }
}

/** Symbols of byte-level models: one per UTF-8 byte. */
function byteSymbols(spec: BpeSpec): (word: string) => Symbols {
  const unknown = spec.unkToken === undefined ? -1 : (spec.vocab.get(spec.unkToken) ?? -1)
  const idOfByte = Int32Array.from(byteCharacters, (character) => spec.vocab.get(character) ?? unknown)
  return (word) => {
    const bytes = utf8(word)
    const ids = new Int32Array(bytes.length)
    for (let i = 0; i < bytes.length; i++) {
      ids[i] = idOfByte[bytes[i]]
      if (ids[i] < 0) refuse(byteCharacters[bytes[i]])
    }
    return { ids, ...byteSpans(word) }
  }
}

/** Ids of the 256 byte tokens `<0x00>` to `<0xFF>`, -1 where the vocabulary has none. */
const fallbackIds = (vocab: ReadonlyMap<string, number>): Int32Array =>
  Int32Array.from(
    { length: 256 },
    (_, byte) => vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`) ?? -1,
  )

/** Symbols of other models: one per character; unknown ones as bytes if the model has them, else the unknown token. */
function characterSymbols(spec: BpeSpec): (word: string) => Symbols {
  const idOfByte = fallbackIds(spec.vocab)
  const unknown = spec.unkToken === undefined ? undefined : spec.vocab.get(spec.unkToken)
  const bytesOf = (character: string): number[] | undefined => {
    const ids = spec.byteFallback ? Array.from(utf8(character), (byte) => idOfByte[byte]) : [-1]
    return ids.includes(-1) ? undefined : ids
  }
  return (word) => {
    const [ids, starts, ends]: [number[], number[], number[]] = [[], [], []]
    let at = 0
    let afterUnknown = false
    for (const character of word) {
      const id = spec.vocab.get(character)
      const known = id === undefined ? bytesOf(character) : [id]
      const fused = known === undefined && afterUnknown && spec.fuseUnk
      if (fused) ends[ends.length - 1] = at + character.length
      else
        for (const symbol of known ?? [unknown ?? refuse(character)]) {
          ids.push(symbol)
          starts.push(at)
          ends.push(at + character.length)
        }
      afterUnknown = known === undefined
      at += character.length
    }
    return { ids: Int32Array.from(ids), starts: (symbol) => starts[symbol], ends: (symbol) => ends[symbol] }
  }
}

/** Merges by ids, from merges by text. */
function pairTable({ vocab, merges }: BpeSpec): PairTable {
  const idOf = (piece: string): number => vocab.get(piece) as number
  return createPairTable(merges.map(([left, right]) => [idOf(left), idOf(right), idOf(left + right)]))
}

/** Builds the model. */
export function createBpe(spec: BpeSpec, byteLevel: boolean): Bpe {
  const table = pairTable(spec)
  const symbolsOf = byteLevel ? byteSymbols(spec) : characterSymbols(spec)
  let longest = 0
  for (const token of spec.vocab.keys()) longest = Math.max(longest, token.length)
  /** Models that ignore merges take a word whole when the vocabulary has it. */
  const whole = (word: string): number | undefined => {
    if (!spec.ignoreMerges || word.length > longest) return undefined
    return spec.vocab.get(byteLevel ? Array.from(utf8(word), (byte) => byteCharacters[byte]).join('') : word)
  }
  const spansAnew = (word: string): WordTokens => {
    const id = whole(word)
    if (id !== undefined) return { ids: [id], starts: [0], ends: [word.length] }
    const symbols = symbolsOf(word)
    const { ids, firsts } = mergePairs(symbols.ids, table)
    const [starts, ends] = [new Int32Array(ids.length), new Int32Array(ids.length)]
    for (let k = 0; k < ids.length; k++) {
      starts[k] = symbols.starts(firsts[k])
      ends[k] = symbols.ends((k + 1 < ids.length ? firsts[k + 1] : symbols.ids.length) - 1)
    }
    return { ids, starts, ends }
  }
  const idsAnew = (word: string): ArrayLike<number> => {
    const id = whole(word)
    return id === undefined ? mergePairs(symbolsOf(word).ids, table).ids : [id]
  }
  return { encode: remembered(idsAnew), encodeSpans: remembered(spansAnew) }
}

/** Keeps the results for short words; when too many are kept, all are dropped. */
function remembered<R>(make: (word: string) => R): (word: string) => R {
  const kept = new Map<string, R>()
  return (word) => {
    if (word.length > cachedLength) return make(word)
    const known = kept.get(word)
    if (known !== undefined) return known
    const made = make(word)
    if (kept.size >= cachedWords) kept.clear()
    kept.set(word, made)
    return made
  }
}
