// How a field of a row is refused: with the row's place, the field, what was expected and what came.

import { shownValue } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { loneSurrogate } from '../../src/io/json.js'

/** A row as it came, known to be an object. */
export type Fields = Readonly<Record<string, unknown>>

/** Most characters of a value that an error shows. */
export const shownLength = 80

/** A value as an error shows it; rows of a program may hold what JSON cannot. */
export const shown = (value: unknown): string =>
  shownValue(typeof value === 'string' ? value.slice(0, shownLength) : value, shownLength)

/** Refuses a field of a row. */
export function refuseField(where: string, field: string, expected: string, got: unknown): never {
  throw new WhetstoneError('E_FORMAT', where, `field '${field}': expected ${expected}, got ${shown(got)}`, {
    details: { field, expected },
  })
}

/** Text that UTF-8 has. */
export function checkText(value: unknown, field: string, where: string): string {
  if (typeof value !== 'string') return refuseField(where, field, 'text', value)
  const at = loneSurrogate(value)
  if (at < 0) return value
  const message = `field '${field}': expected Unicode text, got half of a surrogate pair at ${at}`
  throw new WhetstoneError('E_FORMAT', where, message, { details: { field, at } })
}
