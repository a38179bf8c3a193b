// Settings of objectives: zod schemas with described fields and defaults, checked strictly. Kinds of numbers that
// several objectives share are here; the fields themselves are next to each formula.

import * as z from 'zod'
import { refuseUnknown, shownValue } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'

/** A number above 0. */
export const positive = (initial: number) => z.number().positive().default(initial)

/** A number of at least 0. */
export const nonNegative = (initial: number) => z.number().min(0).default(initial)

/** A share of wrong labels: 0 to below one half. */
export const smoothing = (initial = 0) => z.number().min(0).lt(0.5).default(initial)

/** One of some words; the first one is the default. */
export const oneOf = <const T extends readonly [string, ...string[]]>(...words: T) => z.enum(words).default(words[0])

/** The same settings with other defaults: a method that is another one with its own numbers. */
export function withDefaults<S extends z.ZodRawShape>(
  schema: z.ZodObject<S>,
  defaults: Partial<z.output<z.ZodObject<S>>>,
): z.ZodObject<S> {
  const shape: Record<string, z.core.$ZodType> = { ...schema.shape }
  for (const [name, value] of Object.entries(defaults)) {
    const field = shape[name] as z.ZodType
    shape[name] = field.default(value).describe(field.description ?? '')
  }
  return z.strictObject(shape) as unknown as z.ZodObject<S>
}

/** Refuses a setting of an objective. */
export function refuse(objective: string, option: string, message: string): never {
  throw new WhetstoneError('E_CONFIG', `${objective}.${option}`, message)
}

/** What zod says was expected, without its prefix and without what it received; of a union, by each of its parts. */
export function expectationOf(issue: z.core.$ZodIssue): string {
  if (issue.code !== 'invalid_union' || issue.errors.length === 0)
    return issue.message.replace(/^Invalid (input|option): /, '').replace(/, received .*$/, '')
  const first = issue.errors.map(([one]) => one)
  // A part that found its fault inside the value is the one that was meant.
  const inside = first.filter(({ path }) => path.length > 0)
  if (inside.length > 0) return inside.map((one) => `at ${one.path.join('.')}: ${expectationOf(one)}`).join(', or ')
  return `expected ${first.map((one) => expectationOf(one).replace(/^expected /, '')).join(', or ')}`
}

/**
 * Settings with their defaults.
 *
 * @throws WhetstoneError E_CONFIG naming the objective and the option
 */
export function readConfig<S extends z.ZodRawShape>(
  objective: string,
  schema: z.ZodObject<S>,
  input: unknown,
): z.output<z.ZodObject<S>> {
  const checked = schema.safeParse(input)
  if (checked.success) return checked.data
  const [issue] = checked.error.issues
  if (issue.code === 'unrecognized_keys')
    return refuseUnknown(`${objective}.${issue.keys[0]}`, issue.keys[0], Object.keys(schema.shape))
  const option = issue.path.join('.') || 'config'
  const value = issue.path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown>)[key], input)
  return refuse(objective, option, `${expectationOf(issue)}, got ${shownValue(value)}`)
}
