// Cuts normalised text into the words that byte-pair merging works on, and puts in the marks that some families write
// before a word. What a file may ask for is a table; unknown splitters and patterns are refused.

import { chosen, flagOf, type Part, partOf, partsOf, refuse, textOf } from './fields.js'
import { gpt2Pattern, knownPatterns } from './patterns.js'

/** A word, and where it stands in the section: its first `lead` units were put in, the rest begins at `at`. */
export interface Word {
  readonly text: string
  readonly at: number
  readonly lead: number
}

/** @param first the section begins the whole text */
type Splitter = (word: Word, first: boolean) => Word[]

/** A chain of splitters. */
export interface PreTokenizer {
  readonly split: (text: string, first: boolean) => Word[]
  /** Words are encoded as bytes, each standing for a character of the byte alphabet. */
  readonly byteLevel: boolean
}

/** A stretch of a word: a match of the pattern or what lies between. */
interface Stretch {
  from: number
  to: number
  readonly match: boolean
}

type Find = (text: string) => Iterable<[from: number, to: number]>

const findRegex = (pattern: RegExp): Find =>
  function* (text) {
    // Matches of the known patterns are never empty, so lastIndex moves on.
    pattern.lastIndex = 0
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      const to = pattern.lastIndex
      yield [match.index, to]
      pattern.lastIndex = to
    }
  }

const findText = (pattern: string): Find =>
  function* (text) {
    for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + pattern.length))
      yield [at, at + pattern.length]
  }

function stretches(text: string, find: Find, invert: boolean): Stretch[] {
  const all: Stretch[] = []
  let done = 0
  for (const [from, to] of find(text)) {
    if (done < from) all.push({ from: done, to: from, match: invert })
    all.push({ from, to, match: !invert })
    done = to
  }
  if (done < text.length) all.push({ from: done, to: text.length, match: invert })
  return all
}

/** Gives each match to the stretch before it; the second of two matches in a row stays alone. */
function mergePrevious(all: readonly Stretch[]): Stretch[] {
  const merged: Stretch[] = []
  let previous = false
  for (const stretch of all) {
    if (stretch.match && !previous && merged.length > 0) merged[merged.length - 1].to = stretch.to
    else merged.push({ ...stretch })
    previous = stretch.match
  }
  return merged
}

function mergeNext(all: readonly Stretch[]): Stretch[] {
  const merged: Stretch[] = []
  let previous = false
  for (const stretch of [...all].reverse()) {
    if (stretch.match && !previous && merged.length > 0) merged[merged.length - 1].from = stretch.from
    else merged.push({ ...stretch })
    previous = stretch.match
  }
  return merged.reverse()
}

function contiguous(all: readonly Stretch[]): Stretch[] {
  const merged: Stretch[] = []
  for (const stretch of all) {
    const last = merged[merged.length - 1]
    if (last?.match === stretch.match) last.to = stretch.to
    else merged.push({ ...stretch })
  }
  return merged
}

const behaviors: Readonly<Record<string, (all: Stretch[]) => Stretch[]>> = {
  Isolated: (all) => all,
  Removed: (all) => all.filter((stretch) => !stretch.match),
  MergedWithPrevious: mergePrevious,
  MergedWithNext: mergeNext,
  Contiguous: contiguous,
}

/** A part of a word; what was put in at its front belongs to the first part. */
function cut(word: Word, from: number, to: number): Word {
  const lead = Math.max(0, Math.min(word.lead, to) - from)
  return { text: word.text.slice(from, to), at: word.at + Math.max(0, from - word.lead), lead }
}

const splitBy =
  (find: Find, behavior: (all: Stretch[]) => Stretch[], invert = false): Splitter =>
  (word) =>
    behavior(stretches(word.text, find, invert)).map(({ from, to }) => cut(word, from, to))

const put = (word: Word, prefix: string): Word => ({
  text: prefix + word.text,
  at: word.at,
  lead: word.lead + prefix.length,
})

function splitPattern(part: Part): Splitter {
  const pattern = partOf(part, 'pattern')
  const isText = Object.hasOwn(pattern.value, 'String')
  if (isText && textOf(pattern, 'String') === '') refuse(pattern, 'String', 'text')
  const find = isText ? findText(textOf(pattern, 'String')) : findRegex(chosen(pattern, 'Regex', knownPatterns)())
  return splitBy(find, chosen(part, 'behavior', behaviors), flagOf(part, 'invert', false))
}

function byteLevel(part: Part): Splitter {
  const prefix = flagOf(part, 'add_prefix_space', true)
  const split = flagOf(part, 'use_regex', true)
    ? splitBy(findRegex(knownPatterns[gpt2Pattern]()), behaviors.Isolated)
    : (word: Word) => [word]
  return (word, first) => split(prefix && !word.text.startsWith(' ') ? put(word, ' ') : word, first)
}

const numeric = /\p{N}/gu

const digits = (part: Part): Splitter =>
  splitBy(findRegex(numeric), behaviors[flagOf(part, 'individual_digits', false) ? 'Isolated' : 'Contiguous'])

const whitespace = /\p{White_Space}/gu

const whitespaceSplit = (): Splitter => splitBy(findRegex(whitespace), behaviors.Removed)

/** Older files say `add_prefix_space` instead of `prepend_scheme`. */
function metaspaceScheme(part: Part): string {
  if (part.value.prepend_scheme === undefined) return flagOf(part, 'add_prefix_space', true) ? 'always' : 'never'
  return chosen(part, 'prepend_scheme', { always: 'always', never: 'never', first: 'first' })
}

function metaspace(part: Part): Splitter {
  const mark = part.value.replacement === undefined ? '\u2581' : textOf(part, 'replacement')
  if (mark.length !== 1) refuse(part, 'replacement', 'one character')
  const scheme = metaspaceScheme(part)
  const split = flagOf(part, 'split', true) ? splitBy(findText(mark), behaviors.MergedWithNext) : (word: Word) => [word]
  return (word, first) => {
    const marked = { ...word, text: word.text.replaceAll(' ', mark) }
    const wanted = scheme === 'always' || (scheme === 'first' && first && word.at === 0)
    return split(wanted && !marked.text.startsWith(mark) ? put(marked, mark) : marked, first)
  }
}

const kinds: Readonly<Record<string, (part: Part) => Splitter>> = {
  Split: splitPattern,
  ByteLevel: byteLevel,
  Digits: digits,
  Metaspace: metaspace,
  WhitespaceSplit: whitespaceSplit,
}

const partsInOrder = (part: Part): Part[] =>
  part.value.type === 'Sequence' ? partsOf(part, 'pretokenizers').flatMap(partsInOrder) : [part]

/** Builds the splitter of a file; without one each section is a word. */
export function createPreTokenizer(part: Part | undefined): PreTokenizer {
  const parts = part === undefined ? [] : partsInOrder(part)
  const splitters = parts.map((one) => chosen(one, 'type', kinds)(one))
  const isBytes = parts.map((one) => one.value.type === 'ByteLevel')
  if (isBytes.slice(0, -1).includes(true)) refuse(parts[isBytes.indexOf(true)], 'type', 'ByteLevel to come last')
  const split = (text: string, first: boolean): Word[] => {
    let words: Word[] = text === '' ? [] : [{ text, at: 0, lead: 0 }]
    for (const splitter of splitters) words = words.flatMap((word) => splitter(word, first))
    return words
  }
  return { split, byteLevel: isBytes.includes(true) }
}
