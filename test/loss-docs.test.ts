// docs/objectives.md agrees with the registry: a row for every objective with what it needs, and the settings with their
// defaults as the schemas have them.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import * as z from 'zod'
import { objectives } from '../ts/loss/index.js'
import { make } from './golden-judges/losses-run.js'
import { required } from './loss-toys.js'

const path = join('docs', 'objectives.md')
const [begin, end] = ['<!-- settings -->\n', '<!-- end -->\n']

/** What JSON schema says of a setting. */
interface Field {
  readonly type?: string
  readonly default?: unknown
  readonly description?: string
  readonly enum?: readonly string[]
  readonly anyOf?: readonly Field[]
  readonly minimum?: number
  readonly maximum?: number
  readonly exclusiveMinimum?: number
  readonly exclusiveMaximum?: number
}

const fieldsOf = (name: string): [string, Field][] =>
  Object.entries((z.toJSONSchema(objectives[name].settings, { io: 'input' }).properties ?? {}) as Record<string, Field>)

function boundsOf({ minimum, maximum = Infinity, exclusiveMinimum, exclusiveMaximum }: Field): string {
  const low =
    exclusiveMinimum !== undefined ? `above ${exclusiveMinimum}` : minimum !== undefined ? `from ${minimum}` : ''
  const high = exclusiveMaximum !== undefined ? `below ${exclusiveMaximum}` : ''
  return [low, maximum < Number.MAX_SAFE_INTEGER ? `to ${maximum}` : high].filter((part) => part !== '').join(' ')
}

function valuesOf(field: Field): string {
  if (field.anyOf !== undefined) return `${valuesOf(field.anyOf[0])}; or a list`
  if (field.enum !== undefined) return field.enum.map((word) => `\`${word}\``).join(' ')
  return [field.type === 'array' ? 'a list' : field.type, boundsOf(field)].filter((part) => part !== '').join(' ')
}

const shown = (value: unknown): string =>
  value === undefined ? '' : `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``

/** The value that most of them have; the first one at a tie. */
const usual = (values: readonly string[]): string =>
  values.reduce((best, value) => {
    const count = (own: string) => values.filter((other) => other === own).length
    return count(value) > count(best) ? value : best
  })

/** Settings of objectives with the same ones: a table, and where their defaults differ from it. */
function section(names: readonly string[]): string {
  const all = names.map((name) => new Map(fieldsOf(name)))
  const defaults = (option: string) => all.map((fields) => shown(fields.get(option)?.default))
  const options = [...all[0].keys()]
  const rows = options.map((option) => {
    const field = all[0].get(option) ?? {}
    return `| \`${option}\` | ${usual(defaults(option))} | ${valuesOf(field)} | ${field.description?.replaceAll('|', '\\|')} |`
  })
  const others = names.flatMap((name, i) => {
    const own = options.filter((option) => defaults(option)[i] !== usual(defaults(option)))
    return own.length === 0
      ? []
      : [`- \`${name}\`: ${own.map((option) => `\`${option}\` ${defaults(option)[i]}`).join(', ')}`]
  })
  const table =
    options.length === 0 ? ['None.'] : ['| setting | default | values | meaning |', '|---|---|---|---|', ...rows]
  const differing = others.length === 0 ? [] : ['', 'Other defaults:', '', ...others]
  return [`### ${names.map((name) => `\`${name}\``).join(', ')}`, '', ...table, ...differing, ''].join('\n')
}

const groups = new Map<string, string[]>()
for (const name of Object.keys(objectives)) {
  const key = fieldsOf(name)
    .map(([option, { description }]) => `${option}: ${description}`)
    .join()
  groups.set(key, [...(groups.get(key) ?? []), name])
}
const expected = [...groups.values()].map(section).join('\n')

if (process.env.WHETSTONE_UPDATE_SNAPSHOTS === '1') {
  const old = await readFile(path, 'utf8')
  await writeFile(
    path,
    `${old.slice(0, old.indexOf(begin) + begin.length)}\n${expected}\n${old.slice(old.indexOf(end))}`,
  )
}
const text = await readFile(path, 'utf8')

t.test('a row for every objective', (t) => {
  const rows = [...text.matchAll(/^\| `(\w+)` \| [^|]+ \| (\w+) \| (yes|no) \| (yes|no) \|$/gm)]
  t.same(
    rows.map(([, name, ...needs]) => [name, ...needs]),
    Object.entries(objectives).map(([name, maker]) => {
      const { needs } = make(maker, required[name] ?? {})
      return [name, needs.rows, needs.reference ? 'yes' : 'no', needs.wholeStep === true ? 'yes' : 'no']
    }),
  )
  t.end()
})

t.test('settings with their defaults', (t) => {
  const [from, to] = [text.indexOf(begin) + begin.length, text.indexOf(end)]
  t.equal(text.slice(from, to), `\n${expected}\n`)
  t.end()
})
