// Text to ids: added tokens are cut out, the rest is normalised, split into words and merged. Optionally with the place
// in the text of each token.

import { type Allow, createMatcher } from './added.js'
import { createBpe } from './bpe.js'
import { optionalPart } from './fields.js'
import type { AddedToken, TokenizerFile } from './file.js'
import { createNormalizer, type Origins } from './normalize.js'
import { createPreTokenizer } from './split.js'

/** Ids, and the UTF-16 units of the text that each covers: [starts, ends). */
export interface EncodedText {
  readonly ids: number[]
  readonly starts: number[]
  readonly ends: number[]
}

/** Encodes without what a post-processor adds. */
export interface Encoder {
  readonly ids: (text: string, allow: Allow) => number[]
  readonly spans: (text: string, allow: Allow) => EncodedText
}

/** A stretch between added tokens of the first kind. */
interface Stretch {
  readonly text: string
  /** Where it begins in the whole text. */
  readonly from: number
  readonly allow: Allow
}

/** Where ids and places are collected; places only when they are wanted. */
interface Sink {
  readonly ids: number[]
  readonly starts: number[] | undefined
  readonly ends: number[] | undefined
}

/** Maps units of a normalised stretch to units of the whole text. */
type Places = (unit: number, end: boolean) => number

const placesBy = (origins: Origins | undefined, from: number): Places => {
  if (origins === undefined) return (unit) => from + unit
  const { starts, ends } = origins
  const last = starts.length - 1
  return (unit, end) => from + (end ? (unit > 0 ? ends[unit - 1] : 0) : unit <= last ? starts[unit] : ends[last])
}

const entryOf = (token: AddedToken): readonly [string, AddedToken] => [token.content, token]

/** Builds the encoder of a checked file. */
export function createEncoder(file: TokenizerFile, added: readonly AddedToken[]): Encoder {
  const normalizer = createNormalizer(optionalPart(file.root, 'normalizer'))
  const splitter = createPreTokenizer(optionalPart(file.root, 'pre_tokenizer'))
  const bpe = createBpe(file.model, splitter.byteLevel)
  const normalize = normalizer?.apply ?? ((text: string) => text)
  const direct = createMatcher(added.filter((token) => !token.normalized).map(entryOf))
  const late = added.filter((token) => token.normalized)
  const matchNormalized = createMatcher(late.map((token) => [normalize(token.content), token] as const))

  const pushToken = (sink: Sink, id: number, from: number, to: number) => {
    sink.ids.push(id)
    sink.starts?.push(from)
    sink.ends?.push(to)
  }
  const encodeWords = (text: string, first: boolean, places: Places, sink: Sink) => {
    for (const { text: word, at, lead } of splitter.split(text, first)) {
      if (sink.starts === undefined) {
        const ids = bpe.encode(word)
        for (let k = 0; k < ids.length; k++) sink.ids.push(ids[k])
        continue
      }
      const tokens = bpe.encodeSpans(word)
      // What the splitter put in before a word counts as part of the word's first character.
      const place = (unit: number, end: boolean) => places(at + Math.max(end ? 1 : 0, unit - lead), end)
      for (let k = 0; k < tokens.ids.length; k++)
        pushToken(sink, tokens.ids[k], place(tokens.starts[k], false), place(tokens.ends[k], true))
    }
  }
  const encodeStretch = ({ text, from, allow }: Stretch, sink: Sink) => {
    const normalized = normalize(text)
    const traced = normalizer !== undefined && normalized !== text && (sink.starts !== undefined || late.length > 0)
    const places = placesBy(traced ? normalizer.origins(text) : undefined, from)
    const inText: Allow = (token, a, b) => allow(token, places(a, false), places(b, true))
    for (const section of matchNormalized(normalized, inText)) {
      const inner: Places = (unit, end) => places(section.from + unit, end)
      if (section.token === undefined)
        encodeWords(normalized.slice(section.from, section.to), from + section.from === 0, inner, sink)
      else pushToken(sink, section.token.id, places(section.from, false), places(section.to, true))
    }
  }
  const encodeInto = (text: string, allow: Allow, sink: Sink) => {
    for (const { from, to, token } of direct(text, allow)) {
      if (token === undefined) encodeStretch({ text: text.slice(from, to), from, allow }, sink)
      else pushToken(sink, token.id, from, to)
    }
  }
  return {
    ids: (text, allow) => {
      const sink: Sink = { ids: [], starts: undefined, ends: undefined }
      encodeInto(text, allow, sink)
      return sink.ids
    },
    spans: (text, allow) => {
      const sink = { ids: [], starts: [], ends: [] }
      encodeInto(text, allow, sink)
      return sink
    },
  }
}
