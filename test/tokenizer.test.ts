// Text to ids and back: golden cases, every component against the tokenizers library's results, long runs, streams, bad
// files. Chat templates are in template.test.ts.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type ErrorCode, WhetstoneError } from '../ts/src/base/errors.js'
import { parseJson } from '../ts/src/io/json.js'
import { characterTokenizer } from '../ts/src/tokenizer/character.js'
import { copyTokenizer, createTokenizer, loadTokenizer, tokenizerFilesOf } from '../ts/src/tokenizer/tokenizer.js'
import { judgeTokenizer } from './golden-judges/tokenizers.js'
import { goodTokenizer, hostileTokenizers } from './hostile/tokenizer.js'
import { componentCases, fileOf } from './tokenizer-cases.js'

const golden = join(process.cwd(), 'test/golden/tokenizers')
const styles = ['gpt2', 'llama3', 'qwen']
const load = (style: string) => loadTokenizer(join(golden, style))

const codeOf = async (work: () => unknown): Promise<string> => {
  try {
    await work()
    return 'legal'
  } catch (error) {
    return WhetstoneError.isInstance(error) ? error.code : String(error)
  }
}

const fails = async (t: Test, code: ErrorCode, work: () => unknown, text = ''): Promise<void> => {
  try {
    await work()
    t.fail(`expected ${code}`)
  } catch (error) {
    t.ok(WhetstoneError.isInstance(error) && error.code === code && error.message.includes(text), String(error))
  }
}

for (const style of styles)
  t.test(`golden ${style}`, async (t) => {
    const findings = await judgeTokenizer(join(golden, style), style)
    t.equal(findings.length, 1 + 200 * 5 + 40 * 2)
    t.same(
      findings.filter((finding) => !finding.ok),
      [],
    )
  })

t.test('components', async (t) => {
  for (const [name, parts, cases] of componentCases) {
    const tokenizer = createTokenizer(fileOf(parts), {}, name)
    for (const [text, ids, plain, framed, decoded, skipped] of cases) {
      const expected = [ids, plain === '=' ? ids : plain, framed === '=' ? ids : framed]
      const got = [
        tokenizer.encode(text, { addSpecialTokens: false, specialTokens: 'parse' }),
        tokenizer.encode(text, { addSpecialTokens: false }),
        tokenizer.encode(text, { specialTokens: 'parse' }),
      ]
      t.same(got, expected, `${name}: ${JSON.stringify(text)}`)
      t.equal(tokenizer.decode(ids), decoded)
      t.equal(tokenizer.decode(ids, { skipSpecialTokens: true }), skipped === '=' ? decoded : skipped)
    }
  }
})

t.test('long runs take time in proportion, and come back', async (t) => {
  const runs = [
    'a',
    'A',
    ' ',
    '^',
    '1',
    '\n',
    '\t',
    '\0',
    'é',
    '中',
    '🙂',
    '\u0301',
    '\u200b',
    'ab',
    'a ',
    "'s",
    '<|im_end|>',
  ]
  for (const style of styles) {
    const tokenizer = await load(style)
    for (const unit of style === 'gpt2' ? runs : [' ', '🙂']) {
      const text = unit.repeat(Math.ceil(1_000_000 / [...unit].length))
      const before = process.cpuUsage()
      const ids = tokenizer.encode(text, { addSpecialTokens: false })
      const { user, system } = process.cpuUsage(before)
      const ms = (user + system) / 1000
      t.ok(ms < 2000 && tokenizer.decode(ids) === text, `${style} ${JSON.stringify(unit)}: ${ms.toFixed(0)} ms`)
    }
  }
})

/** Text of random characters of all kinds, the same every time. */
function randomTexts(count: number): string[] {
  let state = 1
  const next = (below: number) => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const ranges = [0x80, 0x250, 0x3000, 0xd800, 0x110000]
  const character = () => {
    const code = next(ranges[next(ranges.length)])
    return code >= 0xd800 && code < 0xe000 ? ' ' : String.fromCodePoint(code)
  }
  return Array.from({ length: count }, () => Array.from({ length: next(30) }, character).join(''))
}

t.test('round trips', async (t) => {
  const every = Array.from({ length: 0x110000 }, (_, code) => code).filter((code) => code < 0xd800 || code > 0xdfff)
  const texts = [
    ...randomTexts(2000),
    String.fromCodePoint(...every.slice(0, 60_000)),
    String.fromCodePoint(...every.slice(60_000, 120_000)),
  ]
  for (const style of ['gpt2', 'llama3']) {
    const tokenizer = await load(style)
    const odd = texts.filter((text) => tokenizer.decode(tokenizer.encode(text, { addSpecialTokens: false })) !== text)
    t.same(odd, [], style)
  }
  const qwen = await load('qwen')
  const odd = texts.filter((text) => qwen.decode(qwen.encode(text)) !== text.normalize('NFC'))
  t.same(odd, [], 'qwen, in normal form C')
})

t.test('streams', async (t) => {
  for (const style of styles) {
    const tokenizer = await load(style)
    for (const skipSpecialTokens of [false, true])
      for (const text of [...randomTexts(300), 'a <|im_end|> 👩‍👩‍👧 é 中']) {
        const ids = tokenizer.encode(text, { specialTokens: 'parse' })
        const decoder = tokenizer.createDecoder({ skipSpecialTokens })
        const pieces = [...ids.map((id) => decoder.push(id)), decoder.end()]
        const whole = tokenizer.decode(ids, { skipSpecialTokens })
        if (pieces.join('') !== whole || pieces.join('\n').includes('\ufffd') !== whole.includes('\ufffd'))
          t.fail(`${style}: ${JSON.stringify(text)} came as ${JSON.stringify(pieces)}`)
      }
  }
  const gpt2 = await load('gpt2')
  const smile = gpt2.encode('🙂')
  const decoder = gpt2.createDecoder()
  t.ok(smile.length > 1)
  t.same(
    smile.map((id) => decoder.push(id)).slice(0, -1),
    smile.slice(1).map(() => ''),
    'no half characters',
  )
  const cut = gpt2.createDecoder()
  t.equal(cut.push(smile[0]) + cut.end(), '\ufffd', 'what never becomes whole comes at the end')
  for (const [name, parts, cases] of componentCases) {
    const tokenizer = createTokenizer(fileOf(parts), {}, name)
    for (const [, ids] of cases) {
      const stream = tokenizer.createDecoder()
      t.equal(ids.map((id) => stream.push(id)).join('') + stream.end(), tokenizer.decode(ids), name)
    }
  }
})

t.test('what a tokenizer knows', async (t) => {
  const qwen = await load('qwen')
  t.match(qwen, { vocabSize: 365, bosId: undefined, eosToken: '<|im_end|>', eosId: 362, padId: 360 })
  t.same(
    [...qwen.specialTokens],
    [
      ['<|endoftext|>', 360],
      ['<|im_start|>', 361],
      ['<|im_end|>', 362],
    ],
  )
  t.equal(qwen.idOf('<think>'), 363)
  t.equal(qwen.tokenOf(363), '<think>')
  t.equal(qwen.idOf('no such token'), undefined)
  t.equal(qwen.tokenOf(365), undefined)
  t.equal(qwen.decode([365, 1e9, -1, 0.5]), '', 'ids that it does not have give no text')
  const text = 'a <|im_end|> <think>e</think>'
  const spans = qwen.encodeSpans(text, (from) => text[from] === '<')
  t.same(spans.ids, qwen.encode(text, { specialTokens: 'parse' }))
  t.same(spans.starts.map((from, k) => text.slice(from, spans.ends[k])).join(''), text)
  t.same(qwen.encodeSpans(text, () => false).ids, qwen.encode(text))
  await fails(t, 'E_FORMAT', () => qwen.encode('ab\ud83d'), 'half of a surrogate pair at 2')
})

t.test('hostile files', async (t) => {
  for (const [name, change, expected] of hostileTokenizers) {
    const text = JSON.stringify(change(goodTokenizer()))
    t.equal(
      await codeOf(() => createTokenizer(parseJson(text, 'tokenizer.json'), {}, 'tokenizer.json')),
      expected,
      name,
    )
  }
  const wide = t.testdir({ 'tokenizer.json': `{"x":"${'x'.repeat(64 * 2 ** 20)}"}` })
  await fails(t, 'E_LIMIT', () => loadTokenizer(wide))
  await fails(
    t,
    'E_FORMAT',
    () => loadTokenizer(t.testdir({ 'tokenizer.json': '{"model":{"vocab":{"a":0,"a":1}}}' })),
    'twice',
  )
  await fails(t, 'E_IO', () => loadTokenizer(t.testdir({})), 'tokenizer.json')
  const own = createTokenizer(
    { ...goodTokenizer(), model: { type: 'BPE', vocab: JSON.parse('{"__proto__":0,"a":1,"b":2}'), merges: [] } },
    {},
    'x',
  )
  t.equal(own.tokenOf(0), '__proto__', 'names of the language are tokens like others')
  await fails(t, 'E_FORMAT', () => own.encode('abc'), 'no token for "c" (U+0063)')
  const bytes = { ...goodTokenizer(), pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true } }
  await fails(t, 'E_FORMAT', () => createTokenizer(bytes, {}, 'x').encode('é'), 'no token for')
})

t.test('folders', async (t) => {
  const config = (fields: object) =>
    t.testdir({ 'tokenizer.json': JSON.stringify(goodTokenizer()), 'tokenizer_config.json': JSON.stringify(fields) })
  const special = await loadTokenizer(
    config({ eos_token: { content: 'ab' }, additional_special_tokens: ['b'], pad_token: null }),
  )
  t.same(
    [...special.specialTokens],
    [
      ['<s>', 3],
      ['ab', 2],
      ['b', 1],
    ],
    'the config makes tokens special',
  )
  t.same([special.eosId, special.padId], [2, undefined])
  t.same(special.encode('ab', { specialTokens: 'parse' }), [2])
  await fails(
    t,
    'E_FORMAT',
    () => loadTokenizer(config({ eos_token: '<none>' })),
    "special token '<none>', which has no id",
  )
  const templates = [
    { name: 'tool_use', template: 't' },
    { name: 'default', template: 'd' },
  ]
  t.equal((await loadTokenizer(config({ chat_template: templates }))).chatTemplate, 'd')
  t.equal((await loadTokenizer(config({ chat_template: [] }))).chatTemplate, undefined)
  const folder = config({ chat_template: 'c' })
  writeFileSync(join(folder, 'special_tokens_map.json'), '{"eos_token":"a"}')
  writeFileSync(join(folder, 'chat_template.jinja'), 'j')
  const merged = await loadTokenizer(folder)
  t.same([merged.chatTemplate, merged.eosToken], ['j', 'a'], 'further files')
  mkdirSync(join(folder, 'copy'))
  await copyTokenizer(folder, join(folder, 'copy'))
  t.same(readdirSync(join(folder, 'copy')), [
    'chat_template.jinja',
    'special_tokens_map.json',
    'tokenizer.json',
    'tokenizer_config.json',
  ])
  t.same(readFileSync(join(folder, 'copy/tokenizer.json')), readFileSync(join(folder, 'tokenizer.json')))
  t.same(await tokenizerFilesOf(t.testdir({ 'tokenizer.json': '{}', other: '' })), ['tokenizer.json'])
})

t.test('character tokenizers', async (t) => {
  const alphabet = '0123456789+- =\né中🙂<|>_imstarend'
  const options = { specials: ['<|im_start|>', '<|im_end|>'], chatTemplate: '{{ messages[0].content }}' }
  const made = characterTokenizer([...new Set(alphabet)].join(''), options)
  const contents = JSON.parse(JSON.stringify([made.tokenizerJson, made.tokenizerConfigJson]))
  const tokenizer = createTokenizer(contents[0], contents[1], 'x')
  t.equal(tokenizer.vocabSize, made.vocabSize)
  t.match(tokenizer, { eosId: made.eosId, padId: made.padId, eosToken: '<end>', chatTemplate: options.chatTemplate })
  for (const text of ['12 + 3 = 15\n', 'é中🙂', '<|im_start|>1<|im_end|>', '<|im_', '<end>'.repeat(3)]) {
    const ids = tokenizer.encode(text, { specialTokens: 'parse' })
    t.equal(tokenizer.decode(ids), text)
    t.same(
      tokenizer.encode(text),
      Array.from(text, (c) => tokenizer.idOf(c)),
      'one token per character',
    )
  }
  t.same(tokenizer.encode('<|im_start|>1<end>', { specialTokens: 'parse' }), [2, 5, 1])
  await fails(t, 'E_FORMAT', () => tokenizer.encode('1 * 2'), '"*"')
  for (const bad of ['aa', 'a\ud800']) await fails(t, 'E_CONFIG', () => characterTokenizer(bad))
  await fails(t, 'E_CONFIG', () => characterTokenizer('a', { specials: ['<pad>'] }))
})
