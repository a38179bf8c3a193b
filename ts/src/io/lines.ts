// The lines of a file of any size, as bytes, within a limit. What they say is for those who read them: json.ts, csv.ts.

import { concatUint8Arrays } from 'typed-array-utils'
import { WhetstoneError } from '../base/errors.js'
import { readPieces } from './files.js'

/** A line as it lies in its file. */
export interface RawLine {
  /** Without the line feed. */
  readonly bytes: Uint8Array
  /** 1-based. */
  readonly line: number
  /** Byte of the file where it begins. */
  readonly byteOffset: number
}

const newline = 0x0a
/** Longest line in bytes when nobody says so. */
export const defaultLimit = 16 * 2 ** 20
const largestLimit = 256 * 2 ** 20

/**
 * The lines of a file, in order, each ended by a line feed or by the end of the file.
 *
 * @param limitBytes longest line; at most 256 MiB
 * @throws WhetstoneError E_IO, E_PATH; E_LIMIT with `file:line`
 */
export async function* rawLines(path: string, limitBytes = defaultLimit): AsyncGenerator<RawLine> {
  const limit = Math.min(limitBytes, largestLimit)
  let parts: Uint8Array[] = []
  let [held, line, byteOffset] = [0, 1, 0]
  const take = (last: Uint8Array): RawLine => {
    const bytes = parts.length === 0 ? last : concatUint8Arrays(...parts, last)
    const row = { bytes, line, byteOffset }
    parts = []
    held = 0
    line++
    byteOffset += bytes.byteLength + 1
    return row
  }
  for await (const piece of readPieces(path)) {
    let from = 0
    for (let at = piece.indexOf(newline); at >= 0; at = piece.indexOf(newline, from)) {
      checkLength(held + at - from, limit, path, line)
      yield take(piece.subarray(from, at))
      from = at + 1
    }
    held += piece.byteLength - from
    checkLength(held, limit, path, line)
    if (from < piece.byteLength) parts.push(piece.subarray(from))
  }
  if (held > 0) yield take(new Uint8Array(0))
}

function checkLength(bytes: number, limit: number, path: string, line: number): void {
  if (bytes > limit)
    throw new WhetstoneError(
      'E_LIMIT',
      `${path}:${line}`,
      `expected a line of at most ${limit} bytes, got ${bytes} or more: if it is one row, put it in a .json list or in Parquet`,
    )
}
