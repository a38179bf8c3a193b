// Settings with their origins: defaults, then a config file, then the command line or the caller's object. A schema is
// a strict zod object whose fields are described; unknown keys are refused with the nearest known name.

import type * as z from 'zod'
import { expectationOf } from '../../loss/config.js'
import { checkArgument, having, type Kind, kinds, listOf, refuseUnknown, shownValue } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'

/** Where a value came from: `default`, a file's name, `command line` or `argument`. */
export interface Source {
  readonly origin: string
  readonly values: Readonly<Record<string, unknown>>
}

/** Every setting with its value and origin. */
export interface Resolved<T> {
  readonly values: T
  readonly origins: Readonly<Record<string, string>>
}

/** A {@link Resolved} among arguments. */
export const resolvedKind: Kind = {
  expected: 'settings with their origins',
  fits: (value) => {
    const { values, origins } = (value ?? {}) as Partial<Resolved<unknown>>
    return kinds.object.fits(values) && kinds.object.fits(origins)
  },
}

/** Several {@link Source} among arguments. */
export const sourcesKind = listOf(having('settings with their origin', 'values', 'origin'))

/** The origin of what was typed. */
export const commandLine = 'command line'

/** A setting as the place that it came from spells it. */
const placeOf = (key: string, origin: string | undefined): string => (origin === commandLine ? `--${key}` : key)

/**
 * Merges sources, later ones winning, and checks the result.
 *
 * @param nameOf how errors call a key, where that is not its name: `lora.r`
 * @param others names that are given in the same place and are no settings, for suggestions
 * @throws WhetstoneError E_CONFIG naming the option, where it came from, what was expected and what came
 */
export function resolveConfig<S extends z.ZodRawShape>(
  schema: z.ZodObject<S>,
  sources: readonly Source[],
  nameOf = (key: string): string => key,
  others: readonly string[] = [],
): Resolved<z.output<z.ZodObject<S>>> {
  const known = Object.keys(schema.shape)
  const merged: Record<string, unknown> = {}
  const origins: Record<string, string> = Object.fromEntries(known.map((key) => [key, 'default']))
  for (const { origin, values } of sources) {
    checkArgument(`settings (from ${origin})`, values, kinds.object)
    for (const [key, value] of Object.entries(values)) {
      if (!known.includes(key)) refuseUnknown(placeOf(key, origin), key, [...others, ...known], ` (from ${origin})`)
      if (value === undefined) continue
      merged[key] = value
      origins[key] = origin
    }
  }
  const checked = schema.safeParse(merged)
  if (checked.success) return { values: checked.data, origins }
  const [issue] = checked.error.issues
  const key = String(issue.path[0])
  if (merged[key] === undefined)
    throw new WhetstoneError('E_CONFIG', `--${nameOf(key)}`, 'expected a value, got none; a config file may give it')
  throw new WhetstoneError(
    'E_CONFIG',
    placeOf(nameOf(key), origins[key]),
    `${expectation(issue)}, got ${shownValue(merged[key])} (from ${origins[key]})`,
  )
}

/** What was expected, and where in the setting. */
const expectation = (issue: z.core.$ZodIssue): string =>
  issue.path.length > 1 ? `at ${issue.path.slice(1).join('.')}: ${expectationOf(issue)}` : expectationOf(issue)

/** A value as people write it: 1e-6, not 0.000001. */
export const valueText = (value: unknown): string =>
  typeof value === 'number' && value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential() : JSON.stringify(value)

/** Lines `name = value  (origin)`, aligned, for logs. */
export function describeConfig({ values, origins }: Resolved<Readonly<Record<string, unknown>>>): string {
  const width = Math.max(...Object.keys(origins).map((key) => key.length))
  return Object.entries(values)
    .map(([key, value]) => `${key.padEnd(width)} = ${valueText(value)}  (${origins[key]})`)
    .join('\n')
}
