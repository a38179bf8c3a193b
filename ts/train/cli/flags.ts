// Command-line flags made from a zod schema: one `--name value` per setting, with its description and default in the
// help. Values are read by the setting's type; everything else about them is the schema's business.

import type { Command } from 'commander'
import { z } from 'zod'
import { WhetstoneError } from '../../src/base/errors.js'

interface JsonField {
  readonly type?: string
  readonly enum?: readonly unknown[]
  readonly default?: unknown
  readonly description?: string
}

const fieldsOf = (schema: z.ZodObject): Record<string, JsonField> =>
  (z.toJSONSchema(schema, { io: 'input' }) as { properties: Record<string, JsonField> }).properties

/** Adds a flag for every setting of the schema. */
export function addFlags(command: Command, schema: z.ZodObject): Command {
  for (const [name, field] of Object.entries(fieldsOf(schema))) {
    const choices = field.enum === undefined ? '' : ` (${field.enum.join(', ')})`
    const fallback = field.default === undefined ? '' : ` [${String(field.default)}]`
    const value = field.type === 'boolean' ? `--${name} [value]` : `--${name} <value>`
    command.option(value, `${field.description ?? ''}${choices}${fallback}`)
  }
  return command
}

const readers: Readonly<Record<string, (text: string) => unknown>> = {
  number: Number,
  integer: Number,
  boolean: (text) => (text === 'true' ? true : text === 'false' ? false : text),
}

/**
 * The settings that were given as flags, in their types.
 *
 * @throws WhetstoneError E_CONFIG for text where a number must stand
 */
export function readFlags(schema: z.ZodObject, options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const given: Record<string, unknown> = {}
  for (const [name, { type = 'string' }] of Object.entries(fieldsOf(schema))) {
    const text = options[name]
    if (text === undefined) continue
    const value = typeof text === 'string' ? (readers[type]?.(text) ?? text) : text
    if (typeof value === 'number' && Number.isNaN(value))
      throw new WhetstoneError('E_CONFIG', `--${name}`, `expected a number, got '${String(text)}'`)
    given[name] = value
  }
  return given
}
