// JSON that is read strictly: valid UTF-8, no duplicate keys, bounded depth, numbers that are numbers. The only file
// that calls JSON.parse on file content. Also JSON lines, one value per line, with the line in every error.

import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { messageOf, WhetstoneError } from '../base/errors.js'
import { attempt, fileSize, readBytes } from './files.js'

/** Deepest nesting. */
const depthLimit = 64
/** Longest line of a JSON-lines file, in characters. */
const lineLimit = 16 * 2 ** 20
/** Largest JSON document, in bytes. */
const documentLimit = 256 * 2 ** 20

/** One row of a JSON-lines file. */
export interface JsonLine {
  readonly value: unknown
  /** 1-based. */
  readonly line: number
}

/**
 * Parses one document.
 *
 * @param where file (and line) for errors
 * @throws WhetstoneError E_FORMAT, E_LIMIT
 */
export function parseJson(text: string, where: string): unknown {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new WhetstoneError('E_FORMAT', where, `expected JSON: ${messageOf(cause)}`, { cause })
  }
  checkText(text, where)
  return value
}

interface Level {
  readonly keys: Set<string> | undefined
}

/** Walks valid JSON once for what JSON.parse lets pass: duplicate keys, depth, numbers that overflow. */
function checkText(text: string, where: string): void {
  const levels: Level[] = []
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[^\s"{}[\]:,]+/g
  let previous = ''
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const [word] = match
    if (word === '{' || word === '[') {
      levels.push({ keys: word === '{' ? new Set() : undefined })
      if (levels.length > depthLimit)
        throw new WhetstoneError('E_LIMIT', where, `expected at most ${depthLimit} levels of nesting`)
    } else if (word === '}' || word === ']') levels.pop()
    else if (word === ':') addKey(levels[levels.length - 1].keys, previous, where)
    else if (/^-?\d/.test(word) && !Number.isFinite(Number(word)))
      throw new WhetstoneError('E_FORMAT', where, `expected a finite number, got ${word}`)
    previous = word
  }
}

function addKey(keys: Set<string> | undefined, quoted: string, where: string): void {
  const key = String(JSON.parse(quoted))
  if (keys?.has(key)) throw new WhetstoneError('E_FORMAT', where, `the key ${quoted} stands there twice`)
  keys?.add(key)
}

/**
 * Decodes UTF-8.
 *
 * @throws WhetstoneError E_FORMAT for invalid bytes
 */
export function decodeUtf8(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new WhetstoneError('E_FORMAT', where, 'expected UTF-8 text', { cause })
  }
}

/**
 * Reads a JSON file.
 *
 * @throws WhetstoneError E_IO, E_FORMAT, E_LIMIT
 */
export async function readJson(path: string, limitBytes = documentLimit): Promise<unknown> {
  const size = await fileSize(path)
  if (size > limitBytes) throw new WhetstoneError('E_LIMIT', path, `expected at most ${limitBytes} bytes, got ${size}`)
  return parseJson(decodeUtf8(await readBytes(path), path), path)
}

/** Reads a JSON file that must hold an object. */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  const value = await readJson(path)
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new WhetstoneError('E_FORMAT', path, 'expected a JSON object')
}

/**
 * Rows of a JSON-lines file, one at a time. Empty lines are skipped; U+FFFD from invalid UTF-8 is refused.
 *
 * @throws WhetstoneError E_IO, E_FORMAT naming `file:line`, E_LIMIT
 */
export async function* readJsonLines(path: string): AsyncGenerator<JsonLine> {
  await fileSize(path)
  const lines = createInterface({ input: createReadStream(path, 'utf8'), crlfDelay: Number.POSITIVE_INFINITY })
  let line = 0
  for await (const text of lines) {
    line++
    const where = `${path}:${line}`
    if (text.length > lineLimit)
      throw new WhetstoneError('E_LIMIT', where, `expected at most ${lineLimit} characters in a line`)
    if (line === 1 && text.startsWith('\uFEFF'))
      throw new WhetstoneError('E_FORMAT', where, 'the file begins with a byte-order mark: save it as plain UTF-8')
    if (text.includes('\uFFFD'))
      throw new WhetstoneError('E_FORMAT', where, 'expected UTF-8 text, found invalid bytes (or U+FFFD)')
    if (text.trim() !== '') yield { value: parseJson(text, where), line }
  }
  await attempt('close', path, async () => lines.close())
}
