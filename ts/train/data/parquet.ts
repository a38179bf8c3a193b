// Rows of Parquet files, as the Hub keeps data sets. hyparquet reads them; it is loaded with the first file, and one group of
// rows at a time is in memory. Values become what JSON has: numbers that a double holds, texts of UTF-8, dates as ISO text,
// null. Bytes, and whole numbers beyond 2^53, are refused.

import type { AsyncBuffer } from 'hyparquet'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { type OpenFile, openRegular, readExactly } from '../../src/io/files.js'

/** Most bytes that a group of rows may have unpacked, by its own account. */
const groupLimitBytes = 2 ** 31

const packages = 'hyparquet hyparquet-compressors'

/** The packages, which an installation may have left out. */
async function loadReader(path: string) {
  try {
    const [reader, { compressors }] = await Promise.all([import('hyparquet'), import('hyparquet-compressors')])
    return { ...reader, compressors }
  } catch (cause) {
    const text = `Parquet is read by optional packages that are not installed: npm install ${packages}`
    throw new WhetstoneError('E_CONFIG', path, text, { cause })
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Texts that are none are no reason to guess. */
const parsers = {
  stringFromBytes: (bytes: Uint8Array | undefined) => bytes && utf8.decode(bytes),
  dateFromDays: (days: number) => new Date(days * 86_400_000).toISOString().slice(0, 10),
}

async function pieceOf({ handle }: OpenFile, path: string, start: number, end: number): Promise<ArrayBuffer> {
  const bytes = new Uint8Array(end - start)
  await readExactly(handle, path, bytes, start)
  return bytes.buffer
}

/**
 * The file as its reader wants it. What a file says of its pieces may be wrong: one beyond its end is refused at once, before
 * there is memory for it. Pieces are asked for together and awaited in order, so that the failure of a later one is seen here.
 */
const bufferOf = (file: OpenFile, path: string): AsyncBuffer => ({
  byteLength: file.size,
  slice: (start, end = file.size) => {
    if (!(start >= 0 && start <= end && end <= file.size))
      throw new WhetstoneError(
        'E_TORN',
        path,
        `it names bytes ${start} to ${end} of ${file.size}: it was cut off or replaced`,
      )
    const piece = pieceOf(file, path, start, end)
    piece.catch(() => {})
    return piece
  },
})

async function reading<R>(path: string, work: () => Promise<R>): Promise<R> {
  try {
    return await work()
  } catch (cause) {
    if (WhetstoneError.isInstance(cause)) throw cause
    throw new WhetstoneError('E_FORMAT', path, `cannot be read as Parquet: ${messageOf(cause)}`, { cause })
  }
}

/** A value as JSON would have it. */
function plain(value: unknown, where: string): unknown {
  const refuse = (what: string): never => {
    throw new WhetstoneError('E_FORMAT', where, `expected texts, numbers, lists and objects, got ${what}`)
  }
  if (value === undefined) return null
  if (typeof value === 'bigint')
    return Number.isSafeInteger(Number(value)) ? Number(value) : refuse(`the whole number ${value}`)
  if (value === null || typeof value !== 'object') return value
  if (value instanceof Date) return value.toISOString()
  if (ArrayBuffer.isView(value)) return refuse('bytes')
  if (Array.isArray(value)) return value.map((entry) => plain(entry, where))
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, plain(entry, `${where}.${name}`)]))
}

/**
 * Rows of a file, in order.
 *
 * @throws WhetstoneError E_IO, E_PATH; E_CONFIG without the packages; E_FORMAT, E_TORN, E_LIMIT for a file that is not whole or
 *   no Parquet
 */
export async function* readParquet(path: string): AsyncGenerator<{ readonly value: unknown; readonly where: string }> {
  const { parquetMetadataAsync, parquetReadObjects, compressors } = await loadReader(path)
  const opened = await openRegular(path)
  try {
    const file = bufferOf(opened, path)
    const metadata = await reading(path, () => parquetMetadataAsync(file))
    let rowStart = 0
    for (const { num_rows: count, total_byte_size: bytes } of metadata.row_groups) {
      if (bytes > groupLimitBytes)
        throw new WhetstoneError(
          'E_LIMIT',
          path,
          `expected groups of rows of at most ${groupLimitBytes} bytes, got ${bytes}: write it with a smaller row_group_size`,
        )
      const rowEnd = rowStart + Number(count)
      const rows = await reading(path, () =>
        parquetReadObjects({ file, metadata, rowStart, rowEnd, compressors, parsers, utf8: false }),
      )
      if (rows.length !== rowEnd - rowStart)
        throw new WhetstoneError('E_TORN', path, `expected ${rowEnd - rowStart} rows, got ${rows.length}`)
      for (const [i, row] of rows.entries()) {
        const where = `${path}[${rowStart + i}]`
        yield { value: plain(row, where), where }
      }
      rowStart = rowEnd
    }
  } finally {
    await opened.handle.close()
  }
}
