// Finds added tokens in text: leftmost first, and the longest of those that begin at the same place, as the tokenizers
// library does. Written as a table walk, so no pattern is ever made from a file.

import type { AddedToken } from './file.js'

/** A stretch of text: an added token, or what lies between two of them. */
export interface Section {
  readonly from: number
  readonly to: number
  readonly token: AddedToken | undefined
}

/** May this token be read at this place? Text that is refused stays ordinary text. */
export type Allow = (token: AddedToken, from: number, to: number) => boolean

/** Cuts text into sections. Empty stretches are left out. */
export type Matcher = (text: string, allow: Allow) => Section[]

interface Node {
  readonly next: Map<number, Node>
  token: AddedToken | undefined
}

const wordEnd = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u
const wordStart = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u
const space = /\p{White_Space}/u

function buildTrie(tokens: readonly (readonly [text: string, token: AddedToken])[]): Node {
  const root: Node = { next: new Map(), token: undefined }
  for (const [text, token] of tokens) {
    let node = root
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i)
      const next = node.next.get(code) ?? { next: new Map(), token: undefined }
      node.next.set(code, next)
      node = next
    }
    node.token = token
  }
  return root
}

/** The longest token that begins at `at`. */
function longest(root: Node, text: string, at: number): { token: AddedToken; to: number } | undefined {
  let found: { token: AddedToken; to: number } | undefined
  let node = root.next.get(text.charCodeAt(at))
  for (let to = at + 1; node !== undefined; to++) {
    if (node.token !== undefined) found = { token: node.token, to }
    node = to < text.length ? node.next.get(text.charCodeAt(to)) : undefined
  }
  return found
}

/** Is a match that must be a word of its own one? */
const standsAlone = (text: string, from: number, to: number): boolean =>
  !wordEnd.test(text.slice(Math.max(0, from - 2), from)) && !wordStart.test(text.slice(to, to + 2))

/** Takes in the space around a match that the token's flags ask for. */
function widen(text: string, token: AddedToken, match: { from: number; to: number }, floor: number) {
  let { from, to } = match
  if (token.lstrip) while (from > floor && space.test(text[from - 1])) from--
  if (token.rstrip) while (to < text.length && space.test(text[to])) to++
  return { from, to }
}

/** Makes a matcher for tokens by the text that spells them. */
export function createMatcher(tokens: readonly (readonly [text: string, token: AddedToken])[]): Matcher {
  const root = buildTrie(tokens)
  // Most characters begin no token: one look at a flat table settles it.
  const begins = new Uint8Array(2 ** 16)
  for (const code of root.next.keys()) begins[code] = 1
  return (text, allow) => {
    const sections: Section[] = []
    let done = 0
    const push = (from: number, to: number, token?: AddedToken) => {
      if (from < to) sections.push({ from, to, token })
    }
    for (let at = 0; tokens.length > 0 && at < text.length; ) {
      const match = begins[text.charCodeAt(at)] === 0 ? undefined : longest(root, text, at)
      if (match === undefined) {
        at++
        continue
      }
      const { token } = match
      const place = { from: at, to: match.to }
      at = match.to
      if (!allow(token, place.from, place.to)) continue
      if (token.singleWord && !standsAlone(text, place.from, place.to)) continue
      const wide = widen(text, token, place, done)
      push(done, wide.from)
      push(wide.from, wide.to, token)
      done = wide.to
    }
    push(done, text.length)
    return sections
  }
}
