// What the texts of a table stand for, by the names of columns: CSV has no types. A cell that does not spell what its column
// holds stays text, for the checks of rows to refuse. Columns of prompts, answers and texts, and those that no shape knows,
// are texts as they stand: a completion `5` is no number. An empty cell of a typed column is a field that is missing.

import { parseJson } from '../../src/io/json.js'
import type { Fields } from './refuse.js'

type Reader = (cell: string, where: string) => unknown

const decimal = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i

const number: Reader = (cell) => (decimal.test(cell) ? Number(cell) : cell)

const truths: Readonly<Record<string, boolean>> = { true: true, false: false }
const truth: Reader = (cell) => truths[cell.toLowerCase()] ?? cell

const json: Reader = (cell, where) => parseJson(cell, where)

const numbers = [
  'weight',
  'margin',
  'preference',
  'labelSmoothing',
  'target',
  'onPolicy',
  'score_chosen',
  'score_rejected',
]
const lists = ['messages', 'conversations', 'completions', 'labels', 'scores', 'tools', 'chat_template_kwargs']

const readers: Readonly<Record<string, Reader>> = {
  label: truth,
  ...Object.fromEntries(numbers.map((name) => [name, number])),
  ...Object.fromEntries(lists.map((name) => [name, json])),
}

/**
 * A row of texts with what its typed columns stand for.
 *
 * @param fields names that shapes of its kind know
 * @throws WhetstoneError E_FORMAT, E_LIMIT for a cell of lists or objects that is no JSON
 */
export const readCells = (row: Fields, fields: ReadonlySet<string>, where: string): Fields =>
  Object.fromEntries(
    Object.entries(row).map(([name, cell]) => {
      if (typeof cell !== 'string' || !fields.has(name) || !Object.hasOwn(readers, name)) return [name, cell]
      return [name, cell === '' ? null : readers[name](cell, `${where}, field '${name}'`)]
    }),
  )
