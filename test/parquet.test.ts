// Parquet: files that PyArrow and Hugging Face's datasets wrote (test/parquet) hold the rows that Python reads from them; what
// JSON does not have, and files that are damaged, are refused with their place.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { WhetstoneError } from '../ts/src/index.js'
import { readData } from '../ts/train/data/rows.js'
import { type PlacedValue, readSource } from '../ts/train/data/sources.js'
import { temporaryFolder } from './support.js'

const fileOf = (name: string): string => join('test/parquet', `${name}.parquet`)

async function valuesOf(path: string): Promise<PlacedValue[]> {
  const values: PlacedValue[] = []
  for await (const value of readSource(path)) values.push(value)
  return values
}

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'none',
    (error: unknown) => (WhetstoneError.isInstance(error) ? error.code : `not ours: ${String(error)}`),
  )

for (const [name, about] of [
  ['preference', 'of datasets, with Snappy'],
  ['messages.zstd', 'conversations in groups of two rows, nulls, with zstd'],
  ['unpaired.gzip', 'large and dictionary texts, truths, dates, with gzip'],
] as const)
  t.test(`${name}: ${about}`, async (t) => {
    const want = JSON.parse(await readFile(join('test/parquet', `${name}.json`), 'utf8')) as unknown[]
    const got = await valuesOf(fileOf(name))
    t.same(
      got.map(({ value }) => value),
      want,
    )
    t.same(
      got.map(({ where }) => where),
      want.map((_, i) => `${fileOf(name)}[${i}]`),
    )
  })

t.test('rows of every shape go through the same checks', async (t) => {
  const { rows, extraFields } = await readData(fileOf('preference'), 'preference')
  t.match(rows[3].row, { prompt: 'What is 3 + 3? ü€', chosen: ' 6', rejected: ' 7', margin: 1.5 })
  t.same([...extraFields.keys()].sort(), ['id', 'source'])
  t.equal((await readData(fileOf('messages.zstd'), 'completion')).rows.length, 5)
  t.equal((await readData(fileOf('unpaired.gzip'), 'unpaired')).rows.length, 3)
  t.equal((await readData(fileOf('preference'), 'unpaired')).rows.length, 2 * rows.length)
  const wrong = readData(fileOf('preference'), 'stepwise')
  await t.rejects(wrong, { code: 'E_FORMAT', where: /preference\.parquet\[0\]/ })
})

t.test('what JSON does not have is refused', async (t) => {
  await t.rejects(valuesOf(fileOf('big')), {
    code: 'E_FORMAT',
    where: `${fileOf('big')}[2].big`,
    message: /got the whole number 1152921504606846976/,
  })
  await t.rejects(valuesOf(fileOf('bytes')), { code: 'E_FORMAT', where: fileOf('bytes') })
  await t.rejects(valuesOf('test/parquet/none.parquet'), { code: 'E_IO' })
  await t.rejects(valuesOf('test/parquet'), { code: 'E_PATH' })
})

t.test('damaged files end in an error of ours, or in rows', async (t) => {
  const folder = await temporaryFolder(t)
  const whole = await readFile(fileOf('preference'))
  const path = join(folder, 'damaged.parquet')
  const read = async (bytes: Uint8Array) => {
    await writeFile(path, bytes)
    return codeOf(valuesOf(path))
  }
  for (const length of [0, 3, 8, 100, whole.length >> 1, whole.length - 1])
    t.match(await read(whole.subarray(0, length)), /^E_(FORMAT|TORN)$/, `${length} bytes of it`)
  t.equal(await read(Buffer.from('{"text": "no Parquet"}\n')), 'E_FORMAT')
  const codes = new Set<string>()
  for (let at = 0; at < whole.length; at += 7) {
    const bytes = Uint8Array.from(whole)
    bytes[at] ^= 0xff
    codes.add(await read(bytes))
  }
  for (const code of codes) t.match(code, /^(none|E_FORMAT|E_TORN|E_LIMIT)$/)
  t.ok(codes.has('E_FORMAT') || codes.has('E_TORN'), 'most are noticed')
})
