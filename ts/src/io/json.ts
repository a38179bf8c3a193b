// JSON that is read strictly: valid UTF-8, no duplicate keys, bounded depth and size, numbers that are numbers; whole
// documents, and JSON lines as a stream of any size. The only file that calls JSON.parse on file content. The scan
// itself is json-scan.ts.

import { WhetstoneError } from '../base/errors.js'
import { readBytes } from './files.js'
import { findJsonFault } from './json-scan.js'
import { rawLines } from './lines.js'

/** Deepest nesting. */
const depthLimit = 64
/** Largest JSON document, in bytes. */
const documentLimit = 256 * 2 ** 20

const isHigh = (code: number): boolean => code >= 0xd800 && code < 0xdc00

function placeOf(text: string, at: number): { line: number; column: number } {
  const before = text.slice(0, at)
  const line = before.split('\n').length
  return { line, column: at - (before.lastIndexOf('\n') + 1) + 1 }
}

/** How a file begins that stands for another one in a git repository. */
export const lfsStart = 'version https://git-lfs'
export const lfsAdvice = 'it is a Git LFS pointer, not the file that it stands for: run `git lfs pull` in its folder'

/** An object on a line of its own, and another behind it. */
const objectLines = /^\s*\{[^\n]*\}\s*\n\s*\{/

/** Words for a text that is no JSON at all. */
function hint(text: string): string {
  if (text.startsWith(lfsStart)) return `; ${lfsAdvice}`
  if (text.startsWith('\uFEFF')) return '; the text begins with a byte-order mark: save it as plain UTF-8'
  if (text.trim() === '') return '; the text is empty'
  if (objectLines.test(text)) return '; one object per line are JSON lines: give the file the ending .jsonl'
  return ''
}

/**
 * Parses one document.
 *
 * @param where file (and line) for errors
 * @throws WhetstoneError E_FORMAT with line and column; E_LIMIT for nesting above 64
 */
export function parseJson(text: string, where: string): unknown {
  const fault = findJsonFault(text, depthLimit)
  if (fault === undefined) return JSON.parse(text)
  const { line, column } = placeOf(text, fault.at)
  const place = text.includes('\n') ? `line ${line}, column ${column}` : `column ${column}`
  throw new WhetstoneError(
    fault.kind === 'limit' ? 'E_LIMIT' : 'E_FORMAT',
    where,
    `expected JSON; ${place}: ${fault.message}${hint(text)}`,
    { details: { line, column } },
  )
}

const createDecoder = () => new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** For whole texts alone, so that none leaves anything behind. */
const whole = createDecoder()

const decode = (bytes: Uint8Array, more = false): string =>
  more ? createDecoder().decode(bytes, { stream: true }) : whole.decode(bytes)

/** Index just behind the first bytes that no UTF-8 text can begin with. */
function firstInvalid(bytes: Uint8Array): number {
  let [valid, invalid] = [0, bytes.byteLength]
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >> 1
    try {
      decode(bytes.subarray(0, middle), true)
      valid = middle
    } catch {
      invalid = middle
    }
  }
  return invalid
}

/** First bytes of what is taken for text. */
const otherEncodings: readonly (readonly [first: number, second: number, text: string])[] = [
  [0x1f, 0x8b, '; it looks like gzip: decompress it first'],
  [0xff, 0xfe, '; it looks like UTF-16: save it as UTF-8'],
  [0xfe, 0xff, '; it looks like UTF-16: save it as UTF-8'],
]

const encodingOf = (bytes: Uint8Array): string =>
  otherEncodings.find(([first, second]) => bytes[0] === first && bytes[1] === second)?.[2] ?? ''

/**
 * Decodes UTF-8. A byte-order mark stays in the text.
 *
 * @throws WhetstoneError E_FORMAT with the place of the first invalid byte
 */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return decode(bytes)
  } catch (cause) {
    const text = `expected UTF-8 text, byte ${firstInvalid(bytes) - 1} does not fit${encodingOf(bytes)}`
    throw new WhetstoneError('E_FORMAT', where, text, { cause })
  }
}

/**
 * Reads a JSON file.
 *
 * @throws WhetstoneError E_IO, E_PATH, E_FORMAT, E_LIMIT
 */
export const readJson = async (path: string, limitBytes = documentLimit): Promise<unknown> =>
  parseJson(decodeUtf8(await readBytes(path, limitBytes), path), path)

/** Is it a JSON object? */
export const isJsonObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Reads a JSON file that must hold an object. */
export async function readJsonObject(path: string, limitBytes = documentLimit): Promise<Record<string, unknown>> {
  const value = await readJson(path, limitBytes)
  if (isJsonObject(value)) return value
  throw new WhetstoneError('E_FORMAT', path, 'expected a JSON object')
}

/** Reads a text file. */
export const readText = async (path: string, limitBytes = documentLimit): Promise<string> =>
  decodeUtf8(await readBytes(path, limitBytes), path)

/** Index of the first half of a surrogate pair that stands alone, or -1: such text has no UTF-8. */
export function loneSurrogate(text: string): number {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if ((code & 0xf800) !== 0xd800) continue
    if (!isHigh(code) || (text.charCodeAt(i + 1) & 0xfc00) !== 0xdc00) return i
    i++
  }
  return -1
}

const jsonTokens = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s"{}[\],:]+/g

/** The members of an object as they are spelled. */
function memberSources(text: string): Map<string, string> {
  const members = new Map<string, string>()
  let [depth, begin] = [0, 0]
  let key: string | undefined
  for (const { 0: token, index } of text.matchAll(jsonTokens)) {
    if (depth === 1 && key === undefined && token.startsWith('"')) key = String(JSON.parse(token))
    else if (depth === 1 && token === ':') begin = index + 1
    else if (depth === 1 && key !== undefined && (token === ',' || token === '}')) {
      members.set(key, text.slice(begin, index).trim())
      key = undefined
    }
    if (token === '{' || token === '[') depth++
    if (token === '}' || token === ']') depth--
  }
  return members
}

/**
 * The text of an object with some members set, or left out where the change is undefined. The others keep their spelling: 10.0 read and written again would be 10,
 * which readers with types take for an integer.
 *
 * @param text an object that {@link parseJson} accepts
 */
export function replaceMembers(text: string, changes: Readonly<Record<string, unknown>>): string {
  const members = memberSources(text)
  for (const [key, value] of Object.entries(changes))
    if (value === undefined) members.delete(key)
    else members.set(key, JSON.stringify(value))
  return `{\n${Array.from(members, ([key, source]) => `  ${JSON.stringify(key)}: ${source}`).join(',\n')}\n}\n`
}

/** One row. */
export interface JsonLine {
  readonly value: unknown
  /** 1-based line of the file. */
  readonly line: number
  /** Byte of the file where the line begins. */
  readonly byteOffset: number
}

/** Limits of a reader. */
export interface JsonLinesOptions {
  /** Longest line in bytes. Default 16 MiB, at most 256 MiB. */
  readonly lineLimitBytes?: number
}

/** JSON knows no other space within a line; the carriage return of CRLF is one of them. */
const isBlank = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d)

/**
 * Rows of a JSON-lines file, in order. Lines end with LF or CRLF. A line of spaces and tabs alone holds no row and is
 * passed over; every other line must be one strict JSON value.
 *
 * @throws WhetstoneError E_IO, E_PATH; E_FORMAT with `file:line` and column (also for a byte-order mark, compressed
 * data and invalid UTF-8); E_LIMIT for a line or nesting beyond the limit
 */
export async function* readJsonLines(path: string, options: JsonLinesOptions = {}): AsyncGenerator<JsonLine> {
  for await (const { bytes, line, byteOffset } of rawLines(path, options.lineLimitBytes)) {
    if (isBlank(bytes)) continue
    const where = `${path}:${line}`
    const value = parseJson(decodeUtf8(bytes, where), where)
    yield { value, line, byteOffset }
  }
}
