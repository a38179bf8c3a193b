// Rows: shapes of every kind, prompts that are implied, files and their formats, and rows that try to do harm.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { sft } from '../ts/loss/sft.js'
import type { WhetstoneError } from '../ts/src/base/errors.js'
import { encodeFor } from '../ts/train/data/encode.js'
import { preview } from '../ts/train/data/preview.js'
import { checkRow, extraFieldWarnings, type RowKinds, readData } from '../ts/train/data/rows.js'
import { temporaryFolder } from './support.js'
import { bot, qwen, refuses, user as said } from './support-data.js'

const user = said('Hi')

const good: readonly (readonly [keyof RowKinds, object])[] = [
  ['completion', { text: 'a' }],
  ['completion', { text: '', weight: -0.5 }],
  ['completion', { messages: [user, bot('a')] }],
  ['completion', { messages: [user, bot('a')], weight: 2, tools: [{ name: 'f' }] }],
  ['completion', { prompt: 'a', completion: 'b' }],
  ['completion', { prompt: [user], completion: [bot('b')], chat_template_kwargs: { enable_thinking: false } }],
  ['preference', { prompt: 'a', chosen: 'b', rejected: 'c', margin: 0.5, preference: 1 }],
  ['preference', { prompt: [user], chosen: [bot('b')], rejected: [bot('c')] }],
  ['preference', { prompt: 'a', chosen: 'b', rejected: 'c', score_chosen: 8, score_rejected: 2.5, onPolicy: 1 }],
  ['unpaired', { prompt: 'a', completion: 'b', label: false }],
  ['unpaired', { prompt: [user], completion: [bot('b')], label: true }],
  ['prompt', { prompt: 'a' }],
  ['prompt', { prompt: [user], answer: 7, deep: { more: [1, null] } }],
  ['stepwise', { prompt: 'a', completions: ['b', 'c'], labels: [true, false] }],
]

t.test('rows of every kind come out as they went in', async (t) => {
  for (const [kind, row] of good) t.strictSame(checkRow(row, 'row 1', kind), row, `${kind} ${Object.keys(row)}`)
})

t.test('a conversation as a prompt: its last answer is the completion', async (t) => {
  const row = { messages: [user, bot('a'), user, bot('b')], source: 'x' }
  const parts = { prompt: row.messages.slice(0, 3), completion: [bot('b')] }
  t.strictSame(checkRow(row, 'row 1', 'prompt'), { ...row, ...parts })
  const open = { messages: [user, bot('a'), user], source: 'x' }
  t.strictSame(checkRow(open, 'row 1', 'prompt'), { ...open, prompt: open.messages }, 'without an answer: all of it')
})

t.test('fields that are no part of a row are left out and counted', async (t) => {
  const rows = [
    { text: 'a', source: 'x' },
    { text: 'b', source: 'y', id: 1, tools: [] },
    { prompt: 'a', completion: 'b', text: 'c', weight: null },
  ]
  const data = await readData(rows, 'completion')
  t.strictSame(
    data.rows.map(({ row }) => row),
    [{ text: 'a' }, { text: 'b' }, { prompt: 'a', completion: 'b' }],
  )
  t.strictSame([...data.extraFields], Object.entries({ source: 2, id: 1, tools: 1, text: 1, weight: 1 }))
  t.match(extraFieldWarnings(data.extraFields, 3)[0], "field 'source' (in 2 of 3 rows) is not used")
  const pair = { prompt: 'a', chosen: 'b', rejected: 'c', target: 'a word', weight: 'heavy' }
  t.strictSame(checkRow(pair, 'row 1', 'preference'), { prompt: 'a', chosen: 'b', rejected: 'c' })
  const mixed = [
    { messages: null, prompt: 'a', completion: 'b', text: undefined },
    { messages: undefined, conversations: null, text: 'a', prompt: null },
    { messages: [user, { ...bot('b'), content: null, tool_calls: [{ name: 'f' }] }], prompt: null },
  ].map((row) => Object.keys(checkRow(row, 'row 1', 'completion')))
  t.strictSame(mixed, [['prompt', 'completion'], ['text'], ['messages']], 'null and undefined are missing')
  const json = { messages: [user], tools: '[{"name":"f"}]' }
  t.strictSame(checkRow(json, 'row 1', 'completion'), { messages: [user], tools: [{ name: 'f' }] }, 'tools as text')
})

t.test('content in parts of text', async (t) => {
  const parts = (...texts: string[]) => texts.map((text) => ({ type: 'text', text }))
  const row = {
    messages: [
      { role: 'user', content: parts('H', 'i') },
      { ...bot('a'), content: parts('a') },
    ],
  }
  t.strictSame(checkRow(row, 'row 1', 'completion'), { messages: [user, bot('a')] })
})

/** Both sides, and the prompt that TRL's extract_prompt finds. */
const implied: readonly (readonly [chosen: string, rejected: string, prompt: string])[] = [
  ['The sky is blue.', 'The sky is green.', 'The sky is'],
  ['Q: 1+1? A: 2', 'Q: 1+1? A: 3', 'Q: 1+1? A:'],
  ['abc', 'abd', 'ab'],
  ['ab', 'ab', 'a'],
  ['ab', 'abcd', 'a'],
  ['x', 'y', ''],
  ['', 'y', ''],
  [' x', ' y', ''],
  ['a  x', 'a  y', 'a '],
  ['\u{1f600}', '\u{1f601}', ''],
  ['a\u{1f600}b', 'a\u{1f600}c', 'a\u{1f600}'],
]

t.test('a prompt that is implied', async (t) => {
  for (const [chosen, rejected, prompt] of implied) {
    const rest = (side: string) => side.slice(prompt.length)
    const row = { prompt, chosen: rest(chosen), rejected: rest(rejected) }
    t.strictSame(checkRow({ chosen, rejected }, 'row 1', 'preference'), row, JSON.stringify([chosen, rejected]))
  }
  const chosen = [user, bot('yes'), user, bot('a')]
  const rejected = [{ content: 'Hi', role: 'user' }, bot('yes'), user, bot('b')]
  const apart = { prompt: chosen.slice(0, 3), chosen: [bot('a')], rejected: [bot('b')] }
  t.strictSame(checkRow({ chosen, rejected }, 'row 1', 'preference'), apart)
  t.strictSame(
    checkRow({ prompt: ' Hi\n', chosen, rejected }, 'row 1', 'preference'),
    apart,
    'the prompt again as text',
  )
  t.strictSame(checkRow({ chosen: [user, bot('a')], rejected: chosen, margin: 1 }, 'row 1', 'preference'), {
    ...{ prompt: [user], chosen: [bot('a')], rejected: chosen.slice(1), margin: 1 },
  })
  refuses(t, () => checkRow({ prompt: 'Ho', chosen, rejected }, 'r', 'preference'), 'E_FORMAT', "field 'prompt'")
  refuses(t, () => checkRow({ chosen, rejected: [bot('b')] }, 'r', 'preference'), 'E_FORMAT', "field 'rejected'")
})

const lone = 'a\ud800b'
const cyclic: Record<string, unknown> = {}
cyclic.self = cyclic

const bad: readonly (readonly [keyof RowKinds, unknown, ...string[]])[] = [
  ['completion', 7, 'a row object', 'got 7'],
  ['completion', null, 'got null'],
  ['completion', [], 'a row object'],
  ['completion', {}, 'text', 'got none'],
  ['completion', { prompt: 'a' }, 'prompt + completion', 'got prompt'],
  ['completion', { text: 1 }, "field 'text'", 'got 1'],
  ['completion', { text: undefined }, 'got nothing'],
  ['completion', { text: 10n }, 'got the bigint 10'],
  ['completion', { text: cyclic }, 'got an object with self'],
  ['completion', { text: lone }, "field 'text'", 'surrogate', '1'],
  ['completion', { text: 'a', weight: '2' }, "field 'weight'", 'a number'],
  ['completion', { text: 'a', weight: Number.NaN }, "field 'weight'"],
  ['completion', { messages: [] }, "field 'messages'"],
  ['completion', { messages: [user, 'a'] }, "field 'messages[1]'"],
  ['completion', { messages: [{ content: 'a' }] }, "field 'messages[0].role'", 'nothing'],
  ['completion', { messages: [{ role: 'user', content: [{ type: 'image' }] }] }, "field 'messages[0].content'"],
  ['completion', { messages: [{ role: 'user', content: [{ type: 'text' }] }] }, "field 'messages[0].content[0].text'"],
  ['completion', { messages: [{ role: 'user', content: [] }] }, "field 'messages[0].content'"],
  ['completion', { messages: [{ role: 'user', content: lone }] }, "field 'messages[0].content'", 'surrogate'],
  ['completion', { messages: [user], tools: '[' }, "field 'tools'"],
  ['completion', { messages: [user], tools: '{}' }, "field 'tools'", 'a list of tools'],
  ['completion', { messages: [user], chat_template_kwargs: [] }, 'template variables'],
  ['completion', { messages: [user], chat_template_kwargs: { messages: 1 } }, 'chat_template_kwargs.messages'],
  ['completion', { messages: [user], chat_template_kwargs: { bos_token: '<|eot_id|>' } }, 'bos_token', 'plain words'],
  ['completion', { messages: [user, { role: 'assistant', content: null }] }, "'messages[1].content'", 'text', 'null'],
  ['completion', { messages: [user, { role: 'assistant' }] }, "'messages[1].content'", 'calls of tools', 'nothing'],
  ['completion', { messages: [{ role: 'user', name: 'Ann', content: null, tool_calls: [] }] }, 'messages[0].content'],
  ['completion', { messages: null }, "field 'messages'", 'got null'],
  ['completion', { prompt: 'a', completion: [bot('b')] }, "field 'completion'", 'text'],
  ['completion', { prompt: [user], completion: 'b' }, "field 'completion'", 'a list of messages'],
  ['completion', { prompt: 7, completion: 'b' }, "field 'prompt'", 'text or a list of messages'],
  ['preference', { prompt: 'a', chosen: 'b' }, 'chosen + rejected'],
  ['preference', { chosen: 'b', rejected: [bot('c')] }, "field 'rejected'"],
  ['preference', { prompt: [user], chosen: 'b', rejected: 'c' }, "field 'chosen'"],
  ['preference', { prompt: 'a', chosen: 'b', rejected: 'c', margin: 'much' }, "field 'margin'"],
  ['preference', { prompt: 'a', chosen: 'b', rejected: 'c', preference: 1.5 }, 'from 0 to 1', 'got 1.5'],
  ['unpaired', { prompt: 'a', completion: 'b', label: 1 }, "field 'label'", 'true or false'],
  ['unpaired', { prompt: 'a', completion: 'b' }, 'label'],
  ['prompt', { text: 'a' }, 'prompt'],
  ['prompt', { messages: [bot('a')] }, "field 'messages'", 'for the assistant to answer'],
  ['stepwise', { prompt: 'a', completions: [], labels: [] }, "field 'completions'"],
  ['stepwise', { prompt: 'a', completions: ['b', 1], labels: [true, true] }, "field 'completions[1]'"],
  ['stepwise', { prompt: 'a', completions: ['b'], labels: [true, true] }, "field 'labels'", '1 completions'],
  ['stepwise', { prompt: [user], completions: ['b'], labels: [true] }, "field 'prompt'"],
  ['completion', { ['x'.repeat(1e6)]: 'y'.repeat(1e6) }, 'expected the fields'],
  ['completion', { messages: 'z'.repeat(1e7) }, "field 'messages'"],
]

t.test('bad rows say where, what was expected and what came', async (t) => {
  for (const [kind, row, ...words] of bad)
    refuses(t, () => checkRow(row, 'rows.jsonl:12', kind), 'E_FORMAT', '[rows.jsonl:12', ...words)
})

/** Rows as a spreadsheet keeps them; lists as JSON. */
const cell = (value: unknown): string =>
  `"${(typeof value === 'string' ? value : JSON.stringify(value)).replaceAll('"', '""')}"`

t.test('tables hold rows of every kind', async (t) => {
  const folder = await temporaryFolder(t)
  const isPlain = (row: object) =>
    !['prompt', 'completion', 'chosen'].some((name) => Array.isArray((row as Record<string, unknown>)[name]))
  for (const [i, [kind, row]] of good.filter(([, row]) => isPlain(row)).entries()) {
    const lines = [Object.keys(row).map(cell), Object.values(row).map(cell)]
    for (const [ending, separator] of [
      ['.csv', ','],
      ['.TSV', '\t'],
    ]) {
      const path = join(folder, `${i}${ending}`)
      await writeFile(path, `\uFEFF${lines.map((fields) => fields.join(separator)).join('\r\n')}`)
      t.strictSame((await readData(path, kind)).rows, [{ row, where: `${path}:2` }], `${kind} ${Object.keys(row)}`)
    }
  }
  const path = join(folder, 'rows.csv')
  await writeFile(path, 'id,prompt,completion,label,weight\n1,2,3,True,\n4,5,"6\n",FALSE,+1.5e1\n')
  const unpaired = await readData(path, 'unpaired')
  t.strictSame(
    unpaired.rows.map(({ row }) => row),
    [
      { prompt: '2', completion: '3', label: true },
      { prompt: '5', completion: '6\n', label: false },
    ],
  )
  t.strictSame([...unpaired.extraFields], Object.entries({ id: 2, weight: 2 }))
  const weighed = (await readData(path, 'completion')).rows.map(({ row }) => row)
  t.strictSame(weighed, [
    { prompt: '2', completion: '3' },
    { prompt: '5', completion: '6\n', weight: 15 },
  ])
  const [{ row }] = (await readData(path, 'prompt')).rows
  t.strictSame(
    row,
    { id: '1', prompt: '2', completion: '3', label: 'True', weight: '' },
    'columns for rewards are texts',
  )
})

const human = (value: string) => ({ from: 'human', value })
const gpt = (value: string) => ({ from: 'gpt', value })
const rule = { role: 'system', content: 'Be brief.' }

/** Rows of ShareGPT's form, and what they are in TRL's. */
const shared: readonly (readonly [keyof RowKinds, object, object])[] = [
  [
    'prompt',
    { conversations: [human('Hi'), gpt('a')], system: 'Be brief.', answer: 7 },
    {
      conversations: [user, bot('a')],
      system: 'Be brief.',
      answer: 7,
      messages: [rule, user, bot('a')],
      prompt: [rule, user],
      completion: [bot('a')],
    },
  ],
  ['prompt', { conversations: [human('Hi')] }, { conversations: [user], messages: [user], prompt: [user] }],
  ['completion', { conversations: [human('Hi'), gpt('a')] }, { messages: [user, bot('a')] }],
  [
    'completion',
    { conversations: [user, bot('a')], weight: 2, tools: '[]' },
    { messages: [user, bot('a')], weight: 2, tools: [] },
  ],
  ['completion', { conversations: [human('Hi'), gpt('a')], system: 'Be brief.' }, { messages: [rule, user, bot('a')] }],
  [
    'completion',
    { conversations: [{ from: 'system', value: 'Be brief.' }, human('Hi')], system: '' },
    { messages: [rule, user] },
  ],
  ['completion', { messages: [human('Hi'), { ...gpt('a'), id: 7 }] }, { messages: [user, { ...bot('a'), id: 7 }] }],
  ['completion', { prompt: [human('Hi')], completion: [gpt('b')] }, { prompt: [user], completion: [bot('b')] }],
  [
    'completion',
    {
      conversations: [
        human('Hi'),
        { from: 'function_call', value: '{"name":"f","arguments":{"x":1}}' },
        { from: 'observation', value: '2' },
      ],
    },
    {
      messages: [
        user,
        { ...bot(''), tool_calls: [{ type: 'function', function: { name: 'f', arguments: { x: 1 } } }] },
        { role: 'tool', content: '2' },
      ],
    },
  ],
  [
    'preference',
    { prompt: [human('Hi')], chosen: [gpt('a')], rejected: [gpt('b')] },
    { prompt: [user], chosen: [bot('a')], rejected: [bot('b')] },
  ],
  [
    'preference',
    { chosen: [human('Hi'), gpt('a')], rejected: [user, gpt('b')] },
    { prompt: [user], chosen: [bot('a')], rejected: [bot('b')] },
  ],
  [
    'preference',
    { conversations: [human('Hi')], chosen: gpt('a'), rejected: gpt('b'), system: 'Be brief.', margin: 1 },
    { prompt: [rule, user], chosen: [bot('a')], rejected: [bot('b')], margin: 1 },
  ],
  [
    'unpaired',
    { prompt: [human('Hi')], completion: [gpt('b')], label: true },
    { prompt: [user], completion: [bot('b')], label: true },
  ],
  ['prompt', { prompt: [human('Hi')], answer: 1 }, { prompt: [user], answer: 1 }],
  [
    'ranked',
    { prompt: [human('Hi')], completions: [[gpt('a')], [gpt('b')]], scores: [1, 0] },
    { prompt: [user], completions: [[bot('a')], [bot('b')]], scores: [1, 0] },
  ],
]

const badShared: readonly (readonly [keyof RowKinds, object, ...string[]])[] = [
  ['completion', { conversations: 'a' }, "field 'conversations'", 'a list of messages'],
  [
    'completion',
    { conversations: [{ from: 'bing', value: 'a' }] },
    "field 'conversations[0].from'",
    'human, user, gpt',
    'got "bing"',
  ],
  ['completion', { conversations: [{ from: 'toString', value: 'a' }] }, "field 'conversations[0].from'"],
  ['completion', { conversations: [human('Hi'), { from: 'gpt' }] }, "field 'conversations[1].value'", 'got nothing'],
  ['completion', { conversations: [{ from: 7, value: 'a' }] }, "field 'conversations[0].from'", 'text'],
  [
    'completion',
    { conversations: [{ from: 'function_call', value: 'f()' }] },
    "field 'conversations[0].value'",
    'JSON',
  ],
  ['completion', { conversations: [{ from: 'function_call', value: '{}' }] }, 'name and arguments'],
  ['completion', { conversations: [rule, user], system: 'Be long.' }, "field 'system'", 'no second system prompt'],
  [
    'preference',
    { conversations: [user], chosen: [user, bot('a')], rejected: gpt('b') },
    "field 'chosen'",
    "assistant's answer",
  ],
  ['preference', { conversations: [user], chosen: 'a', rejected: 'b' }, "field 'chosen'", 'a list of messages'],
]

t.test("rows in ShareGPT's form", async (t) => {
  for (const [kind, row, plain] of shared) {
    t.strictSame(checkRow(row, 'row 1', kind), plain, `${kind} ${JSON.stringify(row).slice(0, 80)}`)
    t.strictSame([...(await readData([row], kind)).extraFields.keys()], [])
  }
  for (const [kind, row, ...words] of badShared)
    refuses(t, () => checkRow(row, 'rows.jsonl:12', kind), 'E_FORMAT', '[rows.jsonl:12', ...words)
  const rows = [{ row: { conversations: [human('Hi'), gpt('a')] }, where: 'row 1' }]
  const same = [{ row: { messages: [user, bot('a')] }, where: 'row 1' }]
  const encoded = (of: readonly unknown[]) => encodeFor(sft(), qwen, of as typeof same, { assistantOnlyLoss: false })
  t.strictSame(encoded(rows), encoded(same), 'rows that a program brings with places, too')
  const shown = (of: readonly unknown[]) => preview(qwen, sft(), of as typeof same, { assistantOnlyLoss: false })
  t.strictSame(shown(rows), shown(same))
})

t.test('keys of prototypes are keys like any other', async (t) => {
  const names = ['__proto__', 'constructor', 'toString', 'hasOwnProperty']
  const text = `{"prompt":"a",${names.map((name) => `"${name}":{"chosen":"x"}`).join(',')}}`
  const [{ row }] = (await readData([JSON.parse(text)], 'prompt')).rows
  t.strictSame(Object.keys(row).sort(), ['prompt', ...names].sort(), 'kept for reward functions')
  t.equal(Object.getPrototypeOf(row), Object.prototype)
  t.equal((row as { chosen?: unknown }).chosen, undefined)
  const { extraFields } = await readData([JSON.parse(text.replace('prompt', 'text'))], 'completion')
  t.strictSame([...extraFields.keys()].sort(), [...names].sort(), 'or counted')
  const inherited = Object.create({ text: 'from afar' })
  refuses(t, () => checkRow(inherited, 'row 1', 'completion'), 'E_FORMAT', 'got none')
  t.equal(({} as { chosen?: unknown }).chosen, undefined)
})

t.test('files', async (t) => {
  const folder = await temporaryFolder(t)
  const write = async (name: string, text: string | Buffer): Promise<string> => {
    await writeFile(join(folder, name), text)
    return join(folder, name)
  }
  const lines = '{"text":"a"}\n\n{"text":"b"}\n'
  for (const name of ['rows.jsonl', 'rows.NDJSON', 'rows']) {
    const path = await write(name, lines)
    const { rows } = await readData(path, 'completion')
    t.strictSame(rows, [
      { row: { text: 'a' }, where: `${path}:1` },
      { row: { text: 'b' }, where: `${path}:3` },
    ])
  }
  const list = await write('rows.json', '[{"text":"a"},{"text":"b"}]')
  t.equal((await readData(list, 'completion')).rows[1].where, `${list}[1]`)
  const cases: readonly (readonly [string, string | Buffer, string, ...string[]])[] = [
    ['bad.jsonl', '{"text":"a"}\n{"text":1}\n', 'E_FORMAT', 'bad.jsonl:2]', "field 'text'"],
    ['torn.jsonl', '{"text":"a"}\n{"text":', 'E_FORMAT', 'torn.jsonl:2'],
    ['half.jsonl', '{"text":"\\ud800"}\n', 'E_FORMAT', 'half.jsonl:1', 'surrogate'],
    ['bad.json', '{"text":"a"}', 'E_FORMAT', 'a list of rows'],
    ['lines.json', '{"text":"a"}\n{"text":"b"}\n', 'E_FORMAT', 'line 2', 'give the file the ending .jsonl'],
    ['wide.jsonl', Buffer.from('\ufefftext', 'utf16le'), 'E_FORMAT', 'wide.jsonl:1', 'it looks like UTF-16'],
    ['long.jsonl', `{"text":"${'a'.repeat(2 ** 24)}"}`, 'E_LIMIT', 'long.jsonl:1', 'a .json list or in Parquet'],
    ['empty.jsonl', '\n', 'E_CONFIG', 'at least one row'],
    ['rows.parquet', 'PAR1', 'E_FORMAT', 'cannot be read as Parquet'],
    ['rows.txt', 'a,b', 'E_CONFIG', '.jsonl', '.parquet', '.csv', 'got .txt'],
    ['names.csv', 'prompt;completion\na;b\n', 'E_FORMAT', 'names.csv:2]', 'got prompt;completion'],
    ['short.csv', 'text,weight\n"a\nb",1\nc\n', 'E_FORMAT', 'short.csv:4]', 'expected 2 fields'],
    ['word.csv', 'text,weight\na,\nb,heavy\n', 'E_FORMAT', 'word.csv:3]', "field 'weight'", 'got "heavy"'],
    ['list.csv', `messages\n"[{'role': 'user'}]"\n`, 'E_FORMAT', "list.csv:2, field 'messages'", 'expected JSON'],
    ['none.csv', 'text\n', 'E_CONFIG', 'at least one row'],
  ]
  for (const [name, text, code, ...words] of cases) {
    const path = await write(name, text)
    await t.rejects(readData(path, 'completion'), { code }, name)
    const error = await readData(path, 'completion').then(
      () => undefined,
      (e: WhetstoneError) => e,
    )
    for (const word of words) t.ok(error?.message.includes(word), `'${word}' in ${error?.message}`)
  }
  await t.rejects(readData(7 as never, 'completion'), { code: 'E_CONFIG' })
})
