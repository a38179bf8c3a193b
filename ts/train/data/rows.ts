// Rows of a data set in TRL's shapes. Every row is checked; a bad one is refused with its file and line, the field, what
// was expected and what came. Fields that a shape does not know are allowed, and counted so that a run can say so.
// How rows become tokens is encode.ts.

import { WhetstoneError } from '../../src/base/errors.js'
import { isJsonObject, readJson, readJsonLines } from '../../src/io/json.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'

type Messages = readonly ChatMessage[]

/** A row to learn by heart: a text, a conversation, or an answer to a prompt. */
export type Row =
  | { readonly text: string }
  | { readonly messages: Messages }
  | { readonly prompt: string; readonly completion: string }
  | { readonly prompt: Messages; readonly completion: Messages }

/** Two answers to a prompt, the first of which is better. */
export type PreferenceRow =
  | { readonly prompt: string; readonly chosen: string; readonly rejected: string }
  | { readonly prompt: Messages; readonly chosen: Messages; readonly rejected: Messages }

/** An answer to a prompt that is good (`label` true) or bad. */
export type UnpairedRow =
  | { readonly prompt: string; readonly completion: string; readonly label: boolean }
  | { readonly prompt: Messages; readonly completion: Messages; readonly label: boolean }

/** Kinds of rows, by the names that objectives ask for. */
export interface RowKinds {
  completion: Row
  preference: PreferenceRow
  unpaired: UnpairedRow
}

/** A row with the place that errors name. */
export interface PlacedRow<R = Row> {
  readonly row: R
  readonly where: string
}

/** Where rows come from: a .jsonl or .json file, or rows themselves. */
export type DataSource<R = Row> = string | readonly R[]

/** All rows of a source. */
export interface DataRows<R> {
  readonly rows: readonly PlacedRow<R>[]
  /** Fields that no shape knows, and in how many rows each was. */
  readonly extraFields: ReadonlyMap<string, number>
}

type Fields = Readonly<Record<string, unknown>>

/** A value as an error shows it; rows of a program may hold what JSON cannot. */
function shown(value: unknown): string {
  if (value === undefined) return 'nothing'
  try {
    return String(JSON.stringify(value)).slice(0, 80)
  } catch {
    return `a ${typeof value}`
  }
}

function refuse(where: string, field: string, expected: string, got: unknown): never {
  throw new WhetstoneError('E_FORMAT', where, `field '${field}': expected ${expected}, got ${shown(got)}`, {
    details: { field, expected },
  })
}

function checkMessages(value: unknown, field: string, where: string): Messages {
  if (!Array.isArray(value) || value.length === 0) return refuse(where, field, 'a list of messages', value)
  for (const [i, message] of value.entries()) {
    if (!isJsonObject(message)) return refuse(where, `${field}[${i}]`, 'a message with role and content', message)
    const { role, content } = message
    if (typeof role !== 'string') refuse(where, `${field}[${i}].role`, 'text', role)
    if (content !== undefined && content !== null && typeof content !== 'string')
      refuse(where, `${field}[${i}].content`, 'text', content)
  }
  return value
}

type Check = (row: Fields, field: string, where: string) => unknown

const text: Check = (row, field, where) =>
  typeof row[field] === 'string' ? row[field] : refuse(where, field, 'text', row[field])

const messages: Check = (row, field, where) => checkMessages(row[field], field, where)

const truth: Check = (row, field, where) =>
  typeof row[field] === 'boolean' ? row[field] : refuse(where, field, 'true or false', row[field])

const prompt: Check = (row, field, where) => {
  if (typeof row[field] === 'string') return row[field]
  return Array.isArray(row[field])
    ? messages(row, field, where)
    : refuse(where, field, 'text or a list of messages', row[field])
}

/** An answer is of the prompt's kind: text behind text, messages behind messages. */
const answer: Check = (row, field, where) =>
  typeof row.prompt === 'string' ? text(row, field, where) : messages(row, field, where)

/** Shapes by their fields, in the order they are tried. */
const shapes: Readonly<Record<keyof RowKinds, readonly Readonly<Record<string, Check>>[]>> = {
  completion: [{ messages }, { prompt, completion: answer }, { text }],
  preference: [{ prompt, chosen: answer, rejected: answer }],
  unpaired: [{ prompt, completion: answer, label: truth }],
}

/**
 * Checks one row of a kind. The result holds the fields of its shape and no others.
 *
 * @throws WhetstoneError E_FORMAT with the place, the field, what was expected and what came
 */
export function checkRow<K extends keyof RowKinds>(value: unknown, where: string, kind: K): RowKinds[K] {
  if (!isJsonObject(value)) throw new WhetstoneError('E_FORMAT', where, `expected a row object, got ${shown(value)}`)
  const shape = shapes[kind].find((fields) => Object.keys(fields).every((field) => Object.hasOwn(value, field)))
  if (shape !== undefined) {
    const entries = Object.entries(shape).map(([field, check]) => [field, check(value, field, where)])
    return Object.fromEntries(entries) as RowKinds[K]
  }
  const known = shapes[kind].map((fields) => Object.keys(fields).join(' + ')).join('; ')
  throw new WhetstoneError(
    'E_FORMAT',
    where,
    `expected the fields of a row (${known}), got ${Object.keys(value).join(', ').slice(0, 200) || 'none'}`,
  )
}

async function* readSource(source: DataSource<unknown>): AsyncGenerator<{ value: unknown; where: string }> {
  if (Array.isArray(source)) {
    for (const [i, value] of source.entries()) yield { value, where: `row ${i + 1}` }
  } else if (typeof source !== 'string') {
    throw new WhetstoneError('E_CONFIG', 'data', `expected a file name or a list of rows, got ${shown(source)}`)
  } else if (source.endsWith('.json')) {
    const list = await readJson(source)
    if (!Array.isArray(list)) throw new WhetstoneError('E_FORMAT', source, 'expected a list of rows')
    for (const [i, value] of list.entries()) yield { value, where: `${source}[${i}]` }
  } else for await (const { value, line } of readJsonLines(source)) yield { value, where: `${source}:${line}` }
}

/**
 * All rows of a source, with a summary of what they hold besides.
 *
 * @throws WhetstoneError E_IO, E_FORMAT naming the row, E_CONFIG when there is none
 */
export async function readData<K extends keyof RowKinds>(
  source: DataSource<RowKinds[K]>,
  kind: K,
): Promise<DataRows<RowKinds[K]>> {
  const rows: PlacedRow<RowKinds[K]>[] = []
  const extraFields = new Map<string, number>()
  for await (const { value, where } of readSource(source)) {
    const row = checkRow(value, where, kind)
    rows.push({ row, where })
    for (const field of Object.keys(value as object))
      if (!Object.hasOwn(row, field)) extraFields.set(field, (extraFields.get(field) ?? 0) + 1)
  }
  if (rows.length === 0)
    throw new WhetstoneError(
      'E_CONFIG',
      typeof source === 'string' ? source : 'data',
      'expected at least one row, got none',
    )
  return { rows, extraFields }
}

/** The rows alone, of the kind that is trained by heart; see {@link readData}. */
export const readRows = async (source: DataSource): Promise<readonly PlacedRow[]> =>
  (await readData(source, 'completion')).rows
