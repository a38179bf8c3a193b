// Typed access to the parts of tokenizer.json. Every refusal names the file, the path of the field, what was expected
// and what came. Knows nothing of what the fields mean.

import { WhetstoneError } from '../base/errors.js'
import { isJsonObject } from '../io/json.js'

/** An object of the file with its place. */
export interface Part {
  readonly value: Readonly<Record<string, unknown>>
  /** As in `pre_tokenizer.pretokenizers[0]`. */
  readonly path: string
  readonly file: string
}

/** Refuses a field. */
export function refuse(part: Part, key: string, expected: string): never {
  const got = key === '' ? part.value : part.value[key]
  const place = key === '' ? part.path : `${part.path}.${key}`
  const text = `${place}: expected ${expected}, got ${String(JSON.stringify(got)).slice(0, 120)}`
  throw new WhetstoneError('E_FORMAT', part.file, text, { details: { field: place } })
}

/** A field that holds an object. */
export function partOf(parent: Part, key: string): Part {
  const value = parent.value[key]
  return isJsonObject(value)
    ? { value, path: parent.path === '' ? key : `${parent.path}.${key}`, file: parent.file }
    : refuse(parent, key, 'an object')
}

/** A field that holds an object or null (also when absent). */
export const optionalPart = (parent: Part, key: string): Part | undefined =>
  parent.value[key] === null || parent.value[key] === undefined ? undefined : partOf(parent, key)

/** A field that holds a list; null and absent are refused. */
export function listOf(part: Part, key: string): readonly unknown[] {
  const value = part.value[key]
  return Array.isArray(value) ? value : refuse(part, key, 'a list')
}

/** A field that holds a list of objects. */
export const partsOf = (part: Part, key: string): Part[] =>
  listOf(part, key).map((value, i) =>
    isJsonObject(value)
      ? { value, path: `${part.path}.${key}[${i}]`, file: part.file }
      : refuse(part, key, 'a list of objects'),
  )

/** A field that holds text. */
export function textOf(part: Part, key: string): string {
  const value = part.value[key]
  return typeof value === 'string' ? value : refuse(part, key, 'text')
}

/** A field that holds true or false, or is absent. */
export function flagOf(part: Part, key: string, fallback: boolean): boolean {
  const value = part.value[key] ?? fallback
  return typeof value === 'boolean' ? value : refuse(part, key, 'true or false')
}

/** A field that holds a whole number from 0. */
export function countOf(part: Part, key: string): number {
  const value = part.value[key]
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : refuse(part, key, 'a whole number')
}

/** The entry of a table that a text field names. */
export function chosen<T>(part: Part, key: string, table: Readonly<Record<string, T>>): T {
  const name = textOf(part, key)
  return Object.hasOwn(table, name) ? table[name] : refuse(part, key, `one of ${Object.keys(table).join(', ')}`)
}
