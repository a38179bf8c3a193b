// Rows to examples: TRL's batches bit for bit, marks that decode to what is to be learned, cuts, special tokens in texts,
// rows that train nothing, and what is counted.

import { join } from 'node:path'
import t from 'tap'
import { objectives, sft } from '../ts/loss/index.js'
import { encodeChat } from '../ts/src/tokenizer/template.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { encodeExamples, encodeFor } from '../ts/train/data/encode.js'
import type { EncodeOptions } from '../ts/train/data/encode-options.js'
import type { EncodedSequence } from '../ts/train/data/example.js'
import { warningsOf } from '../ts/train/data/findings.js'
import { encodePrompts } from '../ts/train/data/prompts.js'
import { compareBatch, readTrace } from './golden-judges/rows.js'
import { randomOf } from './support.js'
import {
  bos,
  bot,
  encode,
  eos,
  llama,
  placed,
  qwen,
  refuses,
  restIds,
  trainedIds,
  trainedText,
  user,
} from './support-data.js'

const shifted = (marks: Uint8Array, by: number): Uint8Array => Uint8Array.from(marks, (_, i) => marks[i - by] ?? 0)

for (const name of ['sft', 'dpo'])
  t.test(`a mask that is shifted by one is no batch of TRL's: ${name}`, async (t) => {
    const objective = objectives[name]()
    const { examples, batches } = await readTrace(join('test', 'golden'), name, objective)
    const first = examples.slice(0, 4)
    const agree = (by: number): number => {
      const moved = first.map((example) => example.map((s) => ({ ...s, trained: shifted(s.trained, by) })))
      return compareBatch('', moved, batches[0]).filter(({ ok }) => ok).length
    }
    t.equal(agree(0), batches[0].input_ids.length, 'as they are, all rows agree')
    for (const by of [-1, 1]) t.equal(agree(by), 0, `by ${by}, none does`)
    t.ok(
      compareBatch('', [...first.slice(1), first[0]], batches[0]).some(({ ok }) => !ok),
      'in another order',
    )
  })

/** Text with a bit of everything that a tokenizer may stumble on. */
function randomText(name: string): string {
  const random = randomOf(name)
  const pieces = [
    'a',
    'the ',
    ' word',
    '\n',
    '  ',
    '9',
    'é',
    '語',
    '\u{1f600}',
    '<|',
    '|>',
    '.',
    'İ',
    '\t',
    '한',
    '{answer}',
  ]
  return Array.from({ length: 1 + random.integer(30) }, () => pieces[random.integer(pieces.length)]).join('')
}

/** Tokenizers of other models; those without an end token add none. */
const styles = ['gpt2', 'llama3', 'qwen'].map((style) => loadTokenizer(join('test', 'golden', 'tokenizers', style)))

for (const tokenizer of [llama, qwen, ...(await Promise.all(styles))])
  t.test(`trained tokens are exactly the completion and its end: ${tokenizer.vocabSize} tokens`, async (t) => {
    const { eosToken = '', bosId } = tokenizer
    const names = Array.from({ length: 60 }, (_, i) => `text ${i}`)
    const pairs = names.map((name) => ({ prompt: `${randomText(name)}\n:`, completion: ` x${randomText(`${name}.`)}` }))
    const encoded = (values: readonly unknown[], options?: EncodeOptions) =>
      encodeExamples(tokenizer, placed('completion', values), { rows: 'completion' }, options)
    const textOf = (ids: readonly number[]): string => tokenizer.decode(ids)
    const { examples, summary } = encoded(pairs)
    t.equal(summary.findings.straddling.count, 0)
    examples.forEach(([sequence], i) => {
      t.equal(textOf(trainedIds(sequence)), `${pairs[i].completion}${eosToken}`)
      t.equal(textOf(restIds(sequence)), textOf(tokenizer.encode(pairs[i].prompt)))
      t.equal(sequence.trained[sequence.ids.length - 1], 1, 'the end is trained')
    })
    const whole = encoded(pairs, { completionOnlyLoss: false }).examples
    for (const [{ ids, trained }] of whole)
      t.strictSame(
        Array.from(trained),
        Array.from(ids, (_, i) => Number(i > 0)),
      )
    const texts = encoded(pairs.map(({ prompt }) => ({ text: prompt }))).examples
    texts.forEach(([{ ids }], i) => {
      t.equal(textOf(ids.slice(ids[0] === bosId ? 1 : 0)), `${pairs[i].prompt}${eosToken}`)
    })
  })

t.test('conversations: the answer behind the header, the end of the turn included', async (t) => {
  const row = { prompt: [user('Hi <|eot_id|>')], completion: [bot('yes no')] }
  const [[sequence]] = encode('completion', [row]).examples
  const head = encodeChat(llama, row.prompt, { addGenerationPrompt: true }).ids
  t.strictSame(sequence.ids, encodeChat(llama, [...row.prompt, ...row.completion]).ids)
  t.strictSame(sequence.ids.slice(0, head.length), head)
  t.equal(trainedText(sequence), `yes no${llama.eosToken}`)
  const talk = { messages: [user('a'), bot('b'), user('c'), bot('d')] }
  const [[turns]] = encode('completion', [talk]).examples
  t.equal(trainedText(turns), `b${llama.eosToken}d${llama.eosToken}`)
  const [[all]] = encode('completion', [talk], { assistantOnlyLoss: false }).examples
  t.equal(trainedIds(all).length, all.ids.length - 1)
  const chatml = encodeExamples(qwen, placed('completion', [row]), { rows: 'completion' })
  t.equal(chatml.summary.findings.withoutEnd.count, 0, 'white space behind the end of a turn is no missing end')
  refuses(t, () => encode('completion', [{ messages: [user('a')] }]), 'E_FORMAT', 'rows:1', 'trains no token')
})

t.test('tools and variables reach the template', async (t) => {
  const tools = [{ type: 'function', function: { name: 'look_up' } }]
  const row = { prompt: [user('a')], completion: [bot('b')], tools, chat_template_kwargs: { enable_thinking: true } }
  const variables = row.chat_template_kwargs
  const rows = placed('completion', [row])
  const { ids } = encodeChat(qwen, [...row.prompt, ...row.completion], { tools, variables })
  t.strictSame(encodeExamples(qwen, rows, { rows: 'completion' }).examples[0][0].ids, ids)
})

t.test('cuts', async (t) => {
  const row = { prompt: 'abcdefgh', completion: ' 123456', weight: 3 }
  const [[whole]] = encode('completion', [row]).examples
  const promptLength = whole.trained.indexOf(1)
  const cut = (options: EncodeOptions): EncodedSequence => encode('completion', [row], options).examples[0][0]
  const slice = (from: number, to?: number) => [whole.ids.slice(from, to), Array.from(whole.trained).slice(from, to)]
  const seen = ({ ids, trained, weights }: EncodedSequence) => [
    ids,
    Array.from(trained),
    weights?.length === ids.length,
  ]
  const size = whole.ids.length
  t.strictSame(seen(cut({ maxLength: size })), [...slice(0), true])
  t.strictSame(seen(cut({ maxLength: size - 2 })), [...slice(0, size - 2), true], 'the start stays')
  t.strictSame(seen(cut({ maxLength: size - 2, truncationMode: 'keepEnd' })), [...slice(2), true], 'the end stays')
  t.strictSame(seen(cut({ maxPromptLength: 2 })), [...slice(promptLength - 2), true], 'the last tokens of the prompt')
  t.strictSame(seen(cut({ maxPromptLength: 2, maxLength: 5 })), [...slice(promptLength - 2, promptLength + 3), true])
  const end = cut({ maxLength: 3, truncationMode: 'keepEnd' })
  t.strictSame(Array.from(end.trained), [0, 1, 1], 'nothing predicts the first token that is left')
  refuses(t, () => cut({ maxLength: promptLength }), 'E_FORMAT', `maxLength = ${promptLength}`, `${size} tokens`)
  refuses(t, () => cut({ maxLength: 1 }), 'E_CONFIG', 'data.maxLength')
  refuses(t, () => cut({ truncationMode: 'middle' as 'keepEnd' }), 'E_CONFIG', 'data.truncationMode')
})

t.test('special tokens in the text', async (t) => {
  const row = { prompt: 'a:', completion: ' b<|eot_id|>' }
  const once = encode('completion', [row])
  t.equal(trainedText(once.examples[0][0]), ` b${llama.eosToken}`)
  t.equal(once.summary.findings.spelled.count, 0, 'an end token that is spelled at the end is the end')
  const inside = { prompt: 'a<|eot_id|>:', completion: ' b' }
  const text = encode('completion', [inside])
  t.equal(text.examples[0][0].ids.filter((id) => id === eos).length, 1, 'it stays text')
  t.strictSame(text.summary.findings.spelled, { count: 1, first: ['rows:1'] })
  const parsed = encode('completion', [inside, { text: `${llama.bosToken}a` }], { specialTokens: 'parse' })
  t.equal(parsed.examples[0][0].ids.filter((id) => id === eos).length, 2, 'trusted data has its tokens')
  t.equal(parsed.summary.findings.spelled.count, 0)
  t.strictSame(parsed.summary.findings.doubleBegin, { count: 1, first: ['rows:2'] })
})

t.test('rows that train nothing are refused, or left out and counted', async (t) => {
  const rows = [
    { text: 'a b c d e f' },
    { messages: [user('a')] },
    { prompt: 'x'.repeat(60), completion: ' b' },
    { text: 'g' },
  ]
  refuses(t, () => encode('completion', rows, { maxLength: 5 }), 'E_FORMAT', 'rows:2')
  const { examples, places, summary } = encode('completion', rows, { maxLength: 5, untrainedRows: 'skip' })
  t.strictSame(places, ['rows:1', 'rows:4'])
  t.equal(examples.length, 2)
  const { findings, ...counts } = summary
  t.strictSame(counts, { rows: 4, examples: 2, sequences: 2, tokens: 8, trainedTokens: 6 })
  t.strictSame(findings.untrained, { count: 1, first: ['rows:2'] })
  t.strictSame(findings.overlong, { count: 1, first: ['rows:3'] })
  t.strictSame(findings.truncated, { count: 1, first: ['rows:1'] })
  const lines = warningsOf(summary)
  t.equal(lines.length, 3)
  t.match(lines[0], /^1 of 4 rows were cut .*\(rows:1\)$/)
  const straddling = encode(
    'completion',
    Array.from({ length: 5 }, () => ({ prompt: 'th', completion: 'e' })),
  )
  t.strictSame(straddling.summary.findings.straddling, { count: 5, first: ['rows:1', 'rows:2', 'rows:3'] })
  t.match(warningsOf(straddling.summary).join(), /rows:3, \.\.\.\)/)
  refuses(
    t,
    () => encode('completion', rows.slice(1, 3), { maxLength: 5, untrainedRows: 'skip' }),
    'E_CONFIG',
    'none of the 2',
  )
  t.strictSame(encode('completion', []).examples, [])
  refuses(
    t,
    () => encodeFor({ ...sft(), needs: { ...sft().needs, roles: ['chosen'] } }, llama, []),
    'E_CONFIG',
    'chosen',
  )
})

t.test('prompts keep their rows', async (t) => {
  const rows = placed('prompt', [{ prompt: 'abc def', answer: 7 }, { prompt: [user('a')] }, { prompt: '' }])
  const { prompts, truncated } = encodePrompts(llama, rows)
  t.strictSame(prompts[0].ids, llama.encode('abc def'))
  t.equal(prompts[0].row.answer, 7)
  t.strictSame(prompts[1].ids, encodeChat(llama, [user('a')], { addGenerationPrompt: true }).ids)
  t.strictSame(prompts[2].ids, [bos])
  t.equal(truncated, 0)
  const short = encodePrompts(llama, rows, { maxPromptLength: 2 })
  t.strictSame(short.prompts[0].ids, llama.encode('abc def').slice(-2))
  t.equal(short.truncated, 2)
})
