// docs/objectives.md agrees with the registry: a row for every objective with what it needs, and the settings with their
// defaults as the schemas have them.

import t from 'tap'
import { objectives } from '../ts/loss/index.js'
import { make } from './golden-judges/losses-run.js'
import { required } from './loss-toys.js'
import { type Field, fieldsOfSchema, madePart, settingRow, shown, tableHead } from './support-settings.js'

const fieldsOf = (name: string): [string, Field][] => fieldsOfSchema(objectives[name].settings)

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
    return settingRow(option, usual(defaults(option)), all[0].get(option) ?? {})
  })
  const others = names.flatMap((name, i) => {
    const own = options.filter((option) => defaults(option)[i] !== usual(defaults(option)))
    return own.length === 0
      ? []
      : [`- \`${name}\`: ${own.map((option) => `\`${option}\` ${defaults(option)[i]}`).join(', ')}`]
  })
  const table = options.length === 0 ? ['None.'] : [...tableHead, ...rows]
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

const { text, made } = await madePart('docs/objectives.md', 'settings', expected)

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
  t.equal(made, expected)
  t.end()
})
