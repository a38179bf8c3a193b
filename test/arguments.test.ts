// Public functions called from plain JavaScript: each argument of a call that works, and each of its options, is replaced
// in turn by values of other kinds. What comes out is a WhetstoneError that says what was expected and what came, or a
// result where the value is a fair one: those are listed in arguments-table.ts. Nothing else, and nothing hangs.

import { rmSync } from 'node:fs'
import t from 'tap'
import * as api from '../ts/src/index.js'
import { table } from './arguments-table.js'
import type { Entry } from './support-arguments.js'

t.setTimeout(280_000)

/** What plain JavaScript may pass by mistake. */
const wrong: Readonly<Record<string, unknown>> = {
  undefined,
  null: null,
  object: {},
  list: [],
  number: 7,
  nan: Number.NaN,
  text: 'x',
  true: true,
  function: () => undefined,
}

/** What comes of a call, in a word; a hang is `hangs`. */
async function outcome(call: Entry['call'], args: readonly unknown[]): Promise<string> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<string>((done) => {
    timer = setTimeout(() => done('hangs'), 20_000)
  })
  const work = async (): Promise<string> => {
    try {
      await call(...(args as never[]))
      return 'fair'
    } catch (error) {
      if (api.WhetstoneError.isInstance(error) && error.code === 'E_ABORTED') return 'fair'
      if (!api.WhetstoneError.isInstance(error)) return `throws ${String(error)}`
      const told =
        error.where !== '' && error.code in api.errorCodes && !/undefined is not|Cannot read/.test(error.message)
      if (!told || error.code === 'E_INTERNAL') return `says ${error.code} ${error.message}`
      return 'refused'
    }
  }
  return Promise.race([work(), late]).finally(() => {
    clearTimeout(timer)
    rmSync('x', { recursive: true, force: true })
  })
}

/** Arguments with one place replaced. */
function replaced(args: readonly unknown[], place: string, value: unknown): unknown[] {
  const [index, member] = place.split('.')
  return args.map((arg, i) => {
    if (i !== Number(index)) return arg
    return member === undefined ? value : { ...(arg as object), [member]: value }
  })
}

/** Every place that is replaced, with the kinds that are fair there. */
function* placesOf({ args, fair = {}, options = {} }: Entry): Generator<[place: string, fair: string]> {
  for (const i of args.keys()) {
    yield [`${i}`, fair[i] ?? '']
    for (const [name, kinds] of Object.entries(options[i] ?? {}))
      yield [`${i}.${name.replace('!', '')}`, name.endsWith('!') ? kinds : `undefined ${kinds}`]
  }
}

for (const [name, entry] of Object.entries(table))
  t.test(name, async (t) => {
    t.equal(await outcome(entry.call, entry.args), 'fair', 'the call of the table works')
    const failures: string[] = []
    for (const [place, fair] of placesOf(entry))
      for (const [kind, value] of Object.entries(wrong)) {
        const found = await outcome(entry.call, replaced(entry.args, place, value))
        if (found !== (fair.split(' ').includes(kind) ? 'fair' : 'refused'))
          failures.push(`${place} = ${kind}: ${found}`)
      }
    t.same(failures, [])
  })

t.test('the table has every public function', async (t) => {
  const called = new Set(Object.keys(table).map((name) => name.split(/[ .(]/)[0]))
  const without = ['WhetstoneError', 'doctor', 'memory']
  const missing = Object.entries(api).filter(
    ([name, value]) => typeof value === 'function' && !called.has(name) && !without.includes(name),
  )
  t.same(
    missing.map(([name]) => name),
    [],
  )
})
