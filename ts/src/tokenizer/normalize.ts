// What happens to text before it is split: Unicode normal forms, replacements, a prefix. Each step can also say where
// each of its characters comes from, which masks over chat templates need.

import { chosen, flagOf, type Part, partOf, partsOf, refuse, textOf } from './fields.js'

/** A stretch of the result and the stretch of the input that it was made of, or that it was put before. */
interface Piece {
  readonly text: string
  readonly from: number
  readonly to: number
}

interface Step {
  readonly apply: (text: string) => string
  /** The same result in pieces. */
  readonly pieces: (text: string) => Piece[]
}

/** Where in the input each UTF-16 unit of a result comes from: [starts, ends). */
export interface Origins {
  readonly starts: Int32Array
  readonly ends: Int32Array
}

/** A chain of steps. */
export interface Normalizer {
  readonly apply: (text: string) => string
  readonly origins: (text: string) => Origins
}

/** Characters that may join with the one before them under a normal form: marks, and the later letters of Hangul. */
const clusters = /[\s\S][\p{M}\u1160-\u11ff\ud7b0-\ud7fb]*/gu

/** A step that works on each cluster alone; should it not for some text, the text is one piece. */
function clusterStep(apply: (text: string) => string): Step {
  const pieces = (text: string): Piece[] => {
    const parts = Array.from(text.matchAll(clusters), ({ 0: cluster, index }) => ({
      text: apply(cluster),
      from: index,
      to: index + cluster.length,
    }))
    const whole = apply(text)
    return parts.map((part) => part.text).join('') === whole ? parts : [{ text: whole, from: 0, to: text.length }]
  }
  return { apply, pieces }
}

const form = (name: 'NFC' | 'NFD' | 'NFKC' | 'NFKD') => () => clusterStep((text) => text.normalize(name))

/** Character by character: JavaScript's own would give a sigma at the end of a word another form. */
const lowercase = (): Step => clusterStep((text) => text.replace(/[\s\S]/gu, (c) => c.toLowerCase()))

function prepend(part: Part): Step {
  const prefix = textOf(part, 'prepend')
  return {
    apply: (text) => (text === '' ? '' : prefix + text),
    pieces: (text) =>
      text === ''
        ? []
        : [
            { text: prefix, from: 0, to: 1 },
            { text, from: 0, to: text.length },
          ],
  }
}

/** Patterns that a replacement may name. */
const replacePatterns: Readonly<Record<string, RegExp>> = {
  ' {2,}': / {2,}/gu,
  '\\s+': /\p{White_Space}+/gu,
}

function* stringMatches(text: string, pattern: string): Generator<[from: number, to: number]> {
  for (let at = text.indexOf(pattern); at >= 0; at = text.indexOf(pattern, at + pattern.length))
    yield [at, at + pattern.length]
}

function* regexMatches(text: string, pattern: RegExp): Generator<[from: number, to: number]> {
  for (const { 0: match, index } of text.matchAll(pattern)) yield [index, index + match.length]
}

function replace(part: Part): Step {
  const content = textOf(part, 'content')
  const pattern = partOf(part, 'pattern')
  const isText = Object.hasOwn(pattern.value, 'String')
  const find = isText ? textOf(pattern, 'String') : chosen(pattern, 'Regex', replacePatterns)
  if (find === '') refuse(pattern, 'String', 'text')
  return {
    apply: (text) => text.replaceAll(find, () => content),
    pieces: (text) => {
      const pieces: Piece[] = []
      let done = 0
      for (const [from, to] of typeof find === 'string' ? stringMatches(text, find) : regexMatches(text, find)) {
        pieces.push({ text: text.slice(done, from), from: done, to: from }, { text: content, from, to })
        done = to
      }
      return [...pieces, { text: text.slice(done), from: done, to: text.length }]
    },
  }
}

const space = /\p{White_Space}/u

function strip(part: Part): Step {
  const ends = { left: flagOf(part, 'strip_left', true), right: flagOf(part, 'strip_right', true) }
  const bounds = (text: string): [number, number] => {
    let [from, to] = [0, text.length]
    while (ends.left && from < to && space.test(text[from])) from++
    while (ends.right && to > from && space.test(text[to - 1])) to--
    return [from, to]
  }
  return {
    apply: (text) => text.slice(...bounds(text)),
    pieces: (text) => {
      const [from, to] = bounds(text)
      return [{ text: text.slice(from, to), from, to }]
    },
  }
}

const kinds: Readonly<Record<string, (part: Part) => Step>> = {
  NFC: form('NFC'),
  NFD: form('NFD'),
  NFKC: form('NFKC'),
  NFKD: form('NFKD'),
  Lowercase: lowercase,
  Prepend: prepend,
  Replace: replace,
  Strip: strip,
}

const stepsOf = (part: Part): Step[] =>
  part.value.type === 'Sequence' ? partsOf(part, 'normalizers').flatMap(stepsOf) : [chosen(part, 'type', kinds)(part)]

const identity = (length: number): Origins => ({
  starts: Int32Array.from({ length }, (_, i) => i),
  ends: Int32Array.from({ length }, (_, i) => i + 1),
})

/** Origins of a step's result, given those of its input. A piece as long as its source is taken unit by unit. */
function follow(before: Origins, pieces: readonly Piece[], inputLength: number): Origins {
  const length = pieces.reduce((sum, piece) => sum + piece.text.length, 0)
  const [starts, ends] = [new Int32Array(length), new Int32Array(length)]
  const last = inputLength - 1
  const edge = inputLength === 0 ? 0 : before.ends[last]
  let at = 0
  for (const { text, from, to } of pieces)
    for (let i = 0; i < text.length; i++, at++) {
      const [a, b] = text.length === to - from ? [from + i, from + i + 1] : [from, to]
      starts[at] = a <= last ? before.starts[a] : edge
      ends[at] = b > a ? before.ends[b - 1] : starts[at]
    }
  return { starts, ends }
}

/** Builds the normaliser of a file; undefined for none. */
export function createNormalizer(part: Part | undefined): Normalizer | undefined {
  if (part === undefined) return undefined
  const steps = stepsOf(part)
  const apply = (text: string): string => steps.reduce((done, step) => step.apply(done), text)
  const origins = (text: string): Origins => {
    let [current, places] = [text, identity(text.length)]
    for (const step of steps) {
      places = follow(places, step.pieces(current), current.length)
      current = step.apply(current)
    }
    return places
  }
  return { apply, origins }
}
