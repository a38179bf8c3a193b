// Tokens back to text, as a stream: each stage takes tokens as they come, holds back what later ones may change, and
// gives up the rest at the end. A whole list is decoded by the same stages, so both give the same text.

import { bytesOfToken } from './bytes.js'
import { chosen, countOf, type Part, partOf, partsOf, refuse, textOf } from './fields.js'

/** One step of a decoder in the middle of a text. */
interface Stage {
  readonly push: (tokens: readonly string[]) => readonly string[]
  /** What was held back. */
  readonly end: () => readonly string[]
}

/** Text from tokens as they come. */
export interface TokenDecoder {
  push(tokens: readonly string[]): string
  end(): string
}

/** Starts a fresh text. */
export type DecoderFactory = () => TokenDecoder

type StageFactory = () => Stage

const nothing = (): readonly string[] => []

const eachToken = (change: (token: string) => string): StageFactory => {
  const stage: Stage = { push: (tokens) => tokens.map(change), end: nothing }
  return () => stage
}

/** Bytes to text; what is not UTF-8 becomes U+FFFD, one per maximal invalid prefix. */
function byteLevel(): StageFactory {
  const known = new Map<string, Uint8Array>()
  const bytesOf = (token: string): Uint8Array => {
    const found = known.get(token)
    if (found !== undefined) return found
    const bytes = bytesOfToken(token)
    known.set(token, bytes)
    return bytes
  }
  return () => {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    const push = (tokens: readonly string[]): string[] => {
      const parts = tokens.map(bytesOf)
      const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
      let at = 0
      // Tokens are a few bytes long: copying them one by one is faster than a call of `set`.
      for (const part of parts) for (let i = 0; i < part.length; i++) bytes[at++] = part[i]
      return [decoder.decode(bytes, { stream: true })]
    }
    return { push, end: () => [decoder.decode()] }
  }
}

const byteToken = /^<0x([0-9A-Fa-f]{2})>$/

/** Runs of byte tokens become a text if they are UTF-8 as a whole, else one U+FFFD per byte. */
function byteFallback(): Stage {
  let run: number[] = []
  const finish = (): string[] => {
    const bytes = Uint8Array.from(run)
    run = []
    if (bytes.length === 0) return []
    try {
      return [new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)]
    } catch {
      return Array.from(bytes, () => '\uFFFD')
    }
  }
  const push = (tokens: readonly string[]): string[] => {
    const out: string[] = []
    for (const token of tokens) {
      const match = byteToken.exec(token)
      if (match === null) out.push(...finish(), token)
      else run.push(Number.parseInt(match[1], 16))
    }
    return out
  }
  return { push, end: finish }
}

/** Marks become spaces; those of the first token are dropped if the splitter had put them in. */
function metaspace(part: Part): StageFactory {
  const mark = part.value.replacement === undefined ? '\u2581' : textOf(part, 'replacement')
  const keepsFirst = part.value.prepend_scheme === 'never' || part.value.add_prefix_space === false
  return () => {
    let first = true
    const push = (tokens: readonly string[]) =>
      tokens.map((token) => {
        const space = first && !keepsFirst ? '' : ' '
        first = false
        return token.replaceAll(mark, space)
      })
    return { push, end: nothing }
  }
}

function replace(part: Part): StageFactory {
  const [pattern, content] = [textOf(partOf(part, 'pattern'), 'String'), textOf(part, 'content')]
  if (pattern === '') refuse(part, 'pattern', 'text')
  return eachToken((token) => token.replaceAll(pattern, () => content))
}

/** How many of the first `most` characters, from one end, are `content`. */
function run(characters: readonly string[], content: string, most: number): number {
  let count = 0
  while (count < most && characters[count] === content) count++
  return count
}

/** Cuts `content` from both ends of each token. */
function strip(part: Part): StageFactory {
  const [content, start, stop] = [textOf(part, 'content'), countOf(part, 'start'), countOf(part, 'stop')]
  return eachToken((token) => {
    const characters = [...token]
    const from = run(characters, content, start)
    const to = characters.length - run([...characters].reverse(), content, stop)
    return characters.slice(from, Math.max(from, to)).join('')
  })
}

/** The same over the whole text: behind `Fuse` all tokens are one. */
function stripFused(part: Part): StageFactory {
  const [content, start, stop] = [textOf(part, 'content'), countOf(part, 'start'), countOf(part, 'stop')]
  return () => {
    let left = start
    let held = ''
    const push = (tokens: readonly string[]): string[] => {
      const characters = [...held, ...tokens.join('')]
      const cut = run(characters, content, left)
      left = cut < characters.length ? 0 : left - cut
      const body = characters.slice(cut)
      const keep = run([...body].reverse(), content, stop)
      held = body.slice(body.length - keep).join('')
      return [body.slice(0, body.length - keep).join('')]
    }
    return { push, end: nothing }
  }
}

const kinds: Readonly<Record<string, (part: Part) => StageFactory>> = {
  ByteLevel: byteLevel,
  ByteFallback: () => byteFallback,
  Metaspace: metaspace,
  Replace: replace,
  Strip: strip,
  Fuse: () => eachToken((token) => token),
}

/** Decoders that give one text instead of tokens. */
const fusing: ReadonlySet<unknown> = new Set(['Fuse', 'ByteLevel'])

const partsInOrder = (part: Part): Part[] =>
  part.value.type === 'Sequence' ? partsOf(part, 'decoders').flatMap(partsInOrder) : [part]

function stagesOf(part: Part): StageFactory[] {
  let fused = false
  return partsInOrder(part).map((one) => {
    const { type } = one.value
    if (fused && type !== 'Strip' && type !== 'Fuse') refuse(one, 'type', 'Strip or nothing behind Fuse and ByteLevel')
    const stage = fused && type === 'Strip' ? stripFused(one) : chosen(one, 'type', kinds)(one)
    fused ||= fusing.has(type)
    return stage
  })
}

/** Without a decoder tokens are joined by spaces. */
function joinBySpaces(): Stage {
  let first = true
  const push = (tokens: readonly string[]) =>
    tokens.map((token) => {
      const text = first ? token : ` ${token}`
      first = false
      return text
    })
  return { push, end: nothing }
}

/** Builds the decoder of a file. */
export function createDecoder(part: Part | undefined): DecoderFactory {
  const factories: readonly StageFactory[] = part === undefined ? [joinBySpaces] : stagesOf(part)
  return () => {
    const stages = factories.map((factory) => factory())
    const through = (tokens: readonly string[], from: number): readonly string[] =>
      stages.slice(from).reduce((done, stage) => stage.push(done), tokens)
    return {
      push: (tokens) => through(tokens, 0).join(''),
      end: () => stages.map((stage, i) => through(stage.end(), i + 1).join('')).join(''),
    }
  }
}
