// Where rows come from: files by their ending, or rows of a program. Gives values with the place that errors name, and
// judges none of them. A further format is a line of `readers`.

import { extname } from 'node:path'
import { either, having, kinds, listOf } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { readCsv } from '../../src/io/csv.js'
import { readJson, readJsonLines } from '../../src/io/json.js'
import { readParquet } from './parquet.js'
import { shown } from './refuse.js'

/** Where rows come from: a file, or rows themselves. */
export type DataSource<R = unknown> = string | readonly R[]

/** A {@link DataSource} among arguments. */
export const dataKind = either(
  { ...kinds.path, expected: 'a file name' },
  { ...kinds.list, expected: 'a list of rows' },
)

/** Rows with their places among arguments. */
export const placedKind = listOf(having('a row with its place, as readData() gives', 'row', 'where'))

/** A value and its place. */
export interface PlacedValue {
  readonly value: unknown
  readonly where: string
  /** Its fields are texts, whatever they stand for. */
  readonly isTexts?: true
}

type Reader = (path: string) => AsyncIterable<PlacedValue>

async function* jsonLines(path: string): AsyncGenerator<PlacedValue> {
  for await (const { value, line } of readJsonLines(path)) yield { value, where: `${path}:${line}` }
}

async function* jsonList(path: string): AsyncGenerator<PlacedValue> {
  const list = await readJson(path)
  if (!Array.isArray(list)) throw new WhetstoneError('E_FORMAT', path, 'expected a list of rows')
  for (const [i, value] of list.entries()) yield { value, where: `${path}[${i}]` }
}

const tableBy = (separator: string): Reader =>
  async function* table(path) {
    for await (const { value, line } of readCsv(path, separator))
      yield { value, where: `${path}:${line}`, isTexts: true }
  }

/** Readers by the ending of the file; a name without an ending holds JSON lines. */
const readers: Readonly<Record<string, Reader>> = {
  '': jsonLines,
  '.jsonl': jsonLines,
  '.ndjson': jsonLines,
  '.json': jsonList,
  '.parquet': readParquet,
  '.csv': tableBy(','),
  '.tsv': tableBy('\t'),
}

/**
 * The values of a source, in order.
 *
 * @throws WhetstoneError E_IO, E_FORMAT; E_CONFIG for a format without a reader
 */
export async function* readSource(source: DataSource): AsyncGenerator<PlacedValue> {
  if (Array.isArray(source)) {
    for (const [i, value] of source.entries()) yield { value, where: `row ${i + 1}` }
    return
  }
  if (typeof source !== 'string')
    throw new WhetstoneError('E_CONFIG', 'data', `expected a file name or a list of rows, got ${shown(source)}`)
  const ending = extname(source).toLowerCase()
  if (!Object.hasOwn(readers, ending)) {
    const known = Object.keys(readers).filter((name) => name !== '')
    throw new WhetstoneError('E_CONFIG', source, `expected a file of rows (${known.join(', ')}), got ${ending}`)
  }
  yield* readers[ending](source)
}
