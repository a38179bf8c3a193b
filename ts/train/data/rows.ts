// Rows of a data set in TRL's shapes: `text`, `messages`, `prompt` + `completion`. Every row is checked; a bad one is
// refused with its file and line, the field, what was expected and what came. Other fields are allowed and ignored.

import { WhetstoneError } from '../../src/base/errors.js'
import { readJson, readJsonLines } from '../../src/io/json.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'

/** A row of one of the shapes. */
export type Row =
  | { readonly text: string }
  | { readonly messages: readonly ChatMessage[] }
  | { readonly prompt: string; readonly completion: string }
  | { readonly prompt: readonly ChatMessage[]; readonly completion: readonly ChatMessage[] }

/** A row with the place that errors name. */
export interface PlacedRow {
  readonly row: Row
  readonly where: string
}

/** Where rows come from: a .jsonl or .json file, or rows themselves. */
export type DataSource = string | readonly Row[]

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

function refuse(where: string, field: string, expected: string, got: unknown): never {
  const shown = got === undefined ? 'nothing' : String(JSON.stringify(got)).slice(0, 80)
  throw new WhetstoneError('E_FORMAT', where, `field '${field}': expected ${expected}, got ${shown}`)
}

function checkText(value: unknown, field: string, where: string): string {
  return typeof value === 'string' ? value : refuse(where, field, 'text', value)
}

function checkMessages(value: unknown, field: string, where: string): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0) return refuse(where, field, 'a list of messages', value)
  value.forEach((message, i) => {
    if (!isRecord(message) || typeof message.role !== 'string')
      refuse(where, `${field}[${i}].role`, 'text', isRecord(message) ? message.role : message)
    const { content } = message
    if (content !== undefined && content !== null && typeof content !== 'string')
      refuse(where, `${field}[${i}].content`, 'text', content)
  })
  return value
}

/** Shapes by the fields that mark them, in the order they are tried. */
const shapes: readonly {
  readonly fields: readonly string[]
  readonly read: (value: Record<string, unknown>, where: string) => Row
}[] = [
  { fields: ['messages'], read: (value, where) => ({ messages: checkMessages(value.messages, 'messages', where) }) },
  {
    fields: ['prompt', 'completion'],
    read: (value, where) =>
      typeof value.prompt === 'string'
        ? { prompt: value.prompt, completion: checkText(value.completion, 'completion', where) }
        : {
            prompt: checkMessages(value.prompt, 'prompt', where),
            completion: checkMessages(value.completion, 'completion', where),
          },
  },
  { fields: ['text'], read: (value, where) => ({ text: checkText(value.text, 'text', where) }) },
]

/**
 * Checks one row.
 *
 * @throws WhetstoneError E_FORMAT with the place, the field, what was expected and what came
 */
export function checkRow(value: unknown, where: string): Row {
  if (!isRecord(value)) throw new WhetstoneError('E_FORMAT', where, 'expected a row object')
  const shape = shapes.find(({ fields }) => fields.every((field) => Object.hasOwn(value, field)))
  if (shape !== undefined) return shape.read(value, where)
  const known = shapes.map(({ fields }) => fields.join(' + ')).join('; ')
  throw new WhetstoneError(
    'E_FORMAT',
    where,
    `expected the fields of a row (${known}), got ${Object.keys(value).join(', ') || 'none'}`,
  )
}

async function* readSource(source: DataSource): AsyncGenerator<{ value: unknown; where: string }> {
  if (typeof source !== 'string') {
    for (const [i, value] of source.entries()) yield { value, where: `row ${i + 1}` }
  } else if (source.endsWith('.json')) {
    const list = await readJson(source)
    if (!Array.isArray(list)) throw new WhetstoneError('E_FORMAT', source, 'expected a list of rows')
    for (const [i, value] of list.entries()) yield { value, where: `${source}[${i}]` }
  } else for await (const { value, line } of readJsonLines(source)) yield { value, where: `${source}:${line}` }
}

/**
 * All rows of a source.
 *
 * @throws WhetstoneError E_IO, E_FORMAT naming the row, E_CONFIG when there is none
 */
export async function readRows(source: DataSource): Promise<PlacedRow[]> {
  const rows: PlacedRow[] = []
  for await (const { value, where } of readSource(source)) rows.push({ row: checkRow(value, where), where })
  if (rows.length === 0)
    throw new WhetstoneError(
      'E_CONFIG',
      typeof source === 'string' ? source : 'data',
      'expected at least one row, got none',
    )
  return rows
}
