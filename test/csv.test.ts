// Tables as text: what RFC 4180 has, what it does not have, and files of any size. Rows of tables are in data.test.ts.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { readCsv } from '../ts/src/io/csv.js'
import { temporaryFolder } from './support.js'

const folder = await temporaryFolder(t)
let files = 0

async function put(content: string | Uint8Array): Promise<string> {
  const path = join(folder, `${files++}.csv`)
  await writeFile(path, content)
  return path
}

/** Texts with the rows that RFC 4180 has them hold, and the lines where these begin. */
const tables: readonly (readonly [about: string, text: string, rows: readonly string[][], lines: readonly number[]])[] =
  [
    [
      'CRLF and LF',
      'a,b\r\n1,2\n3,4\r\n',
      [
        ['1', '2'],
        ['3', '4'],
      ],
      [2, 3],
    ],
    ['no line end, empty fields, spaces', 'a,b\n, x ', [['', ' x ']], [2]],
    [
      'quotes',
      'a,b\n"1,""2""",""\n"""","x"',
      [
        ['1,"2"', ''],
        ['"', 'x'],
      ],
      [2, 3],
    ],
    [
      'line breaks in quotes',
      'a,b\n"1\r\n\n2",3\n"\n",5\n',
      [
        ['1\r\n\n2', '3'],
        ['\n', '5'],
      ],
      [2, 5],
    ],
    ['byte-order mark and empty lines', '\uFEFF"a",b\r\n\r\n1,2\n\n', [['1', '2']], [3]],
    ['a header in lines', '"a",b\n1,2', [['1', '2']], [2]],
    ['one column', 'a\n1\n""\n', [['1'], ['']], [2, 3]],
    ['a header alone', 'a,b\n', [], []],
    ['nothing', '', [], []],
  ]

const badTables: readonly (readonly [text: string | Uint8Array, line: number, words: string])[] = [
  ['a,b\n1\n', 2, 'expected 2 fields, as in the header, got 1'],
  ['a,b\n1,2\n\n1,2,3\n', 4, 'got 3'],
  ['a,b\n1,2,', 2, 'got 3'],
  ['a,b\n1,x"y"\n', 2, 'a quote inside a field without quotes'],
  ['a,b\n"1\n2"x,3\n', 3, 'expected a separator behind a closing quote, got "x,3"'],
  ['a,b\n"1""2,3\n4,5\n', 2, 'not closed before the file ends'],
  ['a,b\r1,2\r', 1, 'a carriage return without a line feed'],
  ['a,b,a\n1,2,3\n', 1, 'expected a header of different names, got "a" twice'],
  [Buffer.from([0x61, 0x0a, 0xff, 0x0a]), 2, 'expected UTF-8 text'],
  [Buffer.from('\uFEFFa,b\n1,2\n', 'utf16le'), 1, 'expected UTF-8 text'],
]

const csvRows = async (path: string, separator = ',', rowLimit?: number) => {
  const rows: { value: Readonly<Record<string, string>>; line: number }[] = []
  for await (const row of readCsv(path, separator, { rowLimit })) rows.push(row)
  return rows
}

t.test('tables of RFC 4180', async (t) => {
  for (const [about, text, rows, lines] of tables)
    for (const separator of [',', '\t']) {
      const path = await put(text.replaceAll(',', separator))
      const got = await csvRows(path, separator)
      const values = rows.map((row) => row.map((field) => field.replaceAll(',', separator)))
      t.strictSame(
        got.map(({ value }) => Object.values(value)),
        values,
        about,
      )
      t.strictSame(
        got.map(({ line }) => line),
        lines,
        about,
      )
    }
  for (const [text, line, words] of badTables) {
    const path = await put(text)
    const error = await csvRows(path).catch((error: unknown) => error)
    t.match(error, { code: 'E_FORMAT', where: `${path}:${line}` })
    t.match(String(error), words)
  }
  const [{ value }] = await csvRows(await put('__proto__,\n1,2\n'))
  t.strictSame(
    Object.entries(value),
    [
      ['__proto__', '1'],
      ['', '2'],
    ],
    'any name is a name, the empty one too',
  )
})

t.test('tables across pieces of the file, and their limits', async (t) => {
  const fields = Array.from({ length: 3000 }, (_, i) => ['é"\n,', 'x', '\r\n'][i % 3].repeat((i * 7919) % 500))
  const quoted = (field: string) => `"${field.replaceAll('"', '""')}"`
  const text = `a,b\n${fields.map((field, i) => `${i},${quoted(field)}\r\n`).join('')}`
  const path = await put(text)
  let [line, count] = [2, 0]
  for (const row of await csvRows(path)) {
    const field = fields[count]
    if (row.value.a !== String(count) || row.value.b !== field || row.line !== line) t.fail(`row ${count}`)
    line += field.split('\n').length
    count++
  }
  t.equal(count, 3000)
  const open = await put(`a\n"${'x\n'.repeat(1000)}`)
  await t.rejects(csvRows(open, ',', 100), {
    code: 'E_LIMIT',
    where: `${open}:2`,
    message: /a row of at most 100 characters/,
  })
  const wide = await put(`a\n${'x'.repeat(1000)}`)
  await t.rejects(csvRows(wide, ',', 100), {
    code: 'E_LIMIT',
    where: `${wide}:2`,
    message: /a line of at most 100 bytes/,
  })
})
