// Settings as their schemas describe them, for the tests that hold documentation and types against them, and the parts of
// pages that are made from them: WHETSTONE_UPDATE_SNAPSHOTS=1 writes those anew.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as z from 'zod'
import { valueText } from '../ts/train/config/resolve.js'
import { root } from './layers-scan.js'

/** Write what is made instead of comparing with it? */
export const updates = process.env.WHETSTONE_UPDATE_SNAPSHOTS === '1'

/** What JSON schema says of a setting. */
export interface Field {
  readonly type?: string
  readonly default?: unknown
  readonly description?: string
  readonly enum?: readonly string[]
  readonly const?: string
  readonly items?: Field
  readonly properties?: Readonly<Record<string, Field>>
  readonly additionalProperties?: Field | boolean
  readonly anyOf?: readonly Field[]
  readonly minimum?: number
  readonly maximum?: number
  readonly exclusiveMinimum?: number
  readonly exclusiveMaximum?: number
}

/** The settings of a schema in order. */
export const fieldsOfSchema = (schema: z.ZodObject): [string, Field][] =>
  Object.entries(
    (z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }).properties ?? {}) as Record<string, Field>,
  )

/** What a number may be: `from 0`, `above 0 to 1`; empty for other fields. */
export function boundsOf({ minimum, maximum = Infinity, exclusiveMinimum, exclusiveMaximum }: Field): string {
  const low =
    exclusiveMinimum !== undefined
      ? `above ${exclusiveMinimum}`
      : minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER
        ? `from ${minimum}`
        : ''
  const high = exclusiveMaximum !== undefined ? `below ${exclusiveMaximum}` : ''
  return [low, maximum < Number.MAX_SAFE_INTEGER ? `to ${maximum}` : high].filter((part) => part !== '').join(' ')
}

/** What a setting may be, in words. */
export function valuesOf(field: Field): string {
  if (field.anyOf !== undefined) return [...new Set(field.anyOf.map(valuesOf))].join('; or ')
  if (field.enum !== undefined) return field.enum.map((word) => `\`${word}\``).join(' ')
  return [field.type === 'array' ? 'a list' : field.type, boundsOf(field)].filter((part) => part !== '').join(' ')
}

/** A default as code. */
export const shown = (value: unknown): string =>
  value === undefined ? '' : `\`${typeof value === 'string' ? value.replaceAll('\n', '\\n') : valueText(value)}\``

/** Head of a table of settings. */
export const tableHead = ['| setting | default | values | meaning |', '|---|---|---|---|']

/** A row of a table of settings. */
export const settingRow = (name: string, fallback: string, field: Field): string =>
  `| \`${name}\` | ${fallback} | ${valuesOf(field)} | ${field.description?.replaceAll('|', '\\|')} |`

/** The part of a page that stands between `<!-- NAME -->` and `<!-- end -->`. */
export async function madePart(page: string, name: string, expected: string): Promise<{ text: string; made: string }> {
  const path = join(root, page)
  const begin = `<!-- ${name} -->\n\n`
  const old = await readFile(path, 'utf8')
  const from = old.indexOf(begin) + begin.length
  if (from < begin.length) throw new Error(`${page} has no <!-- ${name} -->`)
  const to = old.indexOf('\n<!-- end -->', from - 1)
  if (!updates) return { text: old, made: old.slice(from, to) }
  const text = old.slice(0, from) + expected + old.slice(to)
  await writeFile(path, text)
  return { text, made: expected }
}
