// Two configurations of a run: the one that it was started with and the one that it is resumed with. Whatever changes
// arithmetic must agree; a difference is named with both values. What is compared is the caller's choice.

import { isDeepStrictEqual } from 'node:util'
import { WhetstoneError } from '../../src/base/errors.js'
import { isJsonObject } from '../../src/io/json.js'

/** A field in which two configurations differ; undefined: absent there. */
export interface Difference {
  /** Name, with dots between the levels. */
  readonly field: string
  readonly was: unknown
  readonly is: unknown
}

type Config = Readonly<Record<string, unknown>>

/** A value as a file would give it back. */
const stored = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map((item) => stored(item) ?? null)
  if (!isJsonObject(value)) return typeof value === 'number' && !Number.isFinite(value) ? null : value
  const present = Object.entries(value).filter(([, item]) => item !== undefined)
  return Object.fromEntries(present.map(([key, item]) => [key, stored(item)]))
}

/** Fields that differ, in the order of `now`, then those that only `then` has. Objects are compared field by field. */
export function differences(then: Config, now: Config, prefix = ''): Difference[] {
  return [...new Set([...Object.keys(now), ...Object.keys(then)])].flatMap((key) => {
    const [a, b] = [then, now].map((config) => (Object.hasOwn(config, key) ? stored(config[key]) : undefined))
    const field = prefix + key
    if (isJsonObject(a) && isJsonObject(b)) return differences(a, b, `${field}.`)
    // -0 is written as 0.
    const same = isDeepStrictEqual(a, b) || (a === 0 && b === 0)
    return same ? [] : [{ field, was: a, is: b }]
  })
}

const shown = (value: unknown): string => (value === undefined ? 'nothing' : JSON.stringify(value))

/**
 * Refuses to resume with other settings.
 *
 * @param allowed fields that may differ: those that change no arithmetic, and those that the user overrides. A name
 *   covers what lies below it
 * @throws WhetstoneError E_MISMATCH naming every field with its old and new value; `where` is the first
 */
export function checkSameConfig(then: Config, now: Config, allowed: Iterable<string> = []): void {
  const free = [...allowed]
  const isFree = (field: string): boolean => free.some((name) => field === name || field.startsWith(`${name}.`))
  const found = differences(then, now).filter(({ field }) => !isFree(field))
  if (found.length === 0) return
  const list = found.map(({ field, was, is }) => `${field} was ${shown(was)}, is now ${shown(is)}`).join('; ')
  throw new WhetstoneError(
    'E_MISMATCH',
    found[0].field,
    `the run was started with other settings: ${list}. Resume with the same settings, or start a new run`,
    { details: { differences: found } },
  )
}
