// The text of samples while their tokens come. What may be the beginning of a stop string is held back until it is
// decided, so that the pieces which are given out, joined, are the text of the completion: no piece is ever taken back.

import type { Tokenizer } from '../tokenizer/tokenizer.js'

/** What ends a sample, and who listens. */
export interface TextOptions {
  readonly stopIds: ReadonlySet<number>
  readonly stopStrings: readonly string[]
  readonly maxNewTokens: number
  readonly onText?: (prompt: number, sample: number, text: string) => void
}

/** Texts of samples by prompt and sample. */
export interface TextFollower {
  /** Takes a token; true when a stop string has appeared. */
  readonly follow: (prompt: number, sample: number, id: number) => boolean
  /** The text without end tokens and stop strings; of a sample that ended. */
  readonly textOf: (prompt: number, sample: number) => string
  /** The next token begins a text of its own: a further turn. */
  readonly restart: (prompt: number, sample: number) => void
}

/** Where the first of the stop strings begins; -1 where none does. */
function firstStop(text: string, stops: readonly string[]): number {
  const places = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0)
  return places.length === 0 ? -1 : Math.min(...places)
}

/** Where the longest end of the text begins that is the beginning of a stop string; its length where none is. */
function openStop(text: string, stops: readonly string[]): number {
  const longest = stops.reduce((most, stop) => Math.max(most, stop.length), 0)
  for (let at = Math.max(0, text.length - longest + 1); at < text.length; at++)
    if (stops.some((stop) => stop.startsWith(text.slice(at)))) return at
  return text.length
}

/** Cuts a text that comes in pieces at the first stop string. */
function createCut(stops: readonly string[]) {
  let held = ''
  let stopped = false
  /** What is certain now; behind the last piece nothing is held back. */
  const take = (piece: string, last: boolean): string => {
    if (stopped) return ''
    const text = held + piece
    const at = firstStop(text, stops)
    stopped = at >= 0
    const end = stopped ? at : last ? text.length : openStop(text, stops)
    held = text.slice(end)
    return text.slice(0, end)
  }
  return { take, stopped: () => stopped }
}

/** Follows the texts of samples. A sample's last token gives out all that was held back. */
export function followTexts(tokenizer: Tokenizer, options: TextOptions): TextFollower {
  const { stopIds, stopStrings, maxNewTokens, onText } = options
  const createSample = (prompt: number, sample: number) => {
    const decoder = tokenizer.createDecoder()
    const cut = createCut(stopStrings)
    let text = ''
    let tokens = 0
    const give = (piece: string): void => {
      text += piece
      if (piece !== '') onText?.(prompt, sample, piece)
    }
    const push = (id: number): boolean => {
      const ends = stopIds.has(id)
      if (!ends) give(cut.take(decoder.push(id), false))
      const stopped = cut.stopped()
      if (ends || ++tokens === maxNewTokens) give(cut.take(decoder.end(), true))
      return stopped
    }
    return { push, text: () => text }
  }
  const samples = new Map<string, ReturnType<typeof createSample>>()
  const keyOf = (prompt: number, sample: number) => `${prompt} ${sample}`
  return {
    follow: (prompt, sample, id) => {
      const key = keyOf(prompt, sample)
      const found = samples.get(key) ?? createSample(prompt, sample)
      samples.set(key, found)
      return found.push(id)
    },
    textOf: (prompt, sample) => samples.get(keyOf(prompt, sample))?.text() ?? '',
    restart: (prompt, sample) => void samples.delete(keyOf(prompt, sample)),
  }
}
