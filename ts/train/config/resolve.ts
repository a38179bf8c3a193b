// Settings with their origins: defaults, then a config file, then the command line or the caller's object. A schema is
// a strict zod object whose fields are described; unknown keys are refused with the nearest known name.

import type { z } from 'zod'
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

function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(
        row[j] + 1,
        next[j - 1] + 1,
        row[j - 1] + (a[i - 1].toLowerCase() === b[j - 1].toLowerCase() ? 0 : 1),
      )
    row = next
  }
  return row[b.length]
}

function refuseUnknown(key: string, known: readonly string[], origin: string): never {
  const [nearest] = [...known].sort((a, b) => distance(key, a) - distance(key, b))
  throw new WhetstoneError('E_CONFIG', key, `unknown option (from ${origin}); did you mean '${nearest}'?`, {
    details: { known },
  })
}

/**
 * Merges sources, later ones winning, and checks the result.
 *
 * @throws WhetstoneError E_CONFIG naming the option, where it came from, what was expected and what came
 */
export function resolveConfig<S extends z.ZodRawShape>(
  schema: z.ZodObject<S>,
  sources: readonly Source[],
): Resolved<z.output<z.ZodObject<S>>> {
  const known = Object.keys(schema.shape)
  const merged: Record<string, unknown> = {}
  const origins: Record<string, string> = Object.fromEntries(known.map((key) => [key, 'default']))
  for (const { origin, values } of sources)
    for (const [key, value] of Object.entries(values)) {
      if (!known.includes(key)) refuseUnknown(key, known, origin)
      if (value === undefined) continue
      merged[key] = value
      origins[key] = origin
    }
  const checked = schema.safeParse(merged)
  if (checked.success) return { values: checked.data, origins }
  const { path, message } = checked.error.issues[0]
  const key = String(path[0])
  throw new WhetstoneError('E_CONFIG', key, `${message}; got ${JSON.stringify(merged[key])} (from ${origins[key]})`)
}

/** Lines `name = value  (origin)`, aligned, for logs and `--help`. */
export function describeConfig({ values, origins }: Resolved<Readonly<Record<string, unknown>>>): string {
  const width = Math.max(...Object.keys(origins).map((key) => key.length))
  return Object.entries(values)
    .map(([key, value]) => `${key.padEnd(width)} = ${JSON.stringify(value)}  (${origins[key]})`)
    .join('\n')
}
