// The sequences that objectives ask for: roles, numbers, answers to other prompts, prompts that show answers, score heads.

import t from 'tap'
import { countStep, kto, objectives, orpo, srpo } from '../ts/loss/index.js'
import { encodeChat } from '../ts/src/tokenizer/template.js'
import { encodeFor, rowKindOf } from '../ts/train/data/encode.js'
import { type EncodedKind, kindOf } from '../ts/train/data/encoders.js'
import { readData } from '../ts/train/data/rows.js'
import { splitRows } from '../ts/train/data/split.js'
import {
  bos,
  bot,
  encode,
  encodeBy,
  eos,
  llama,
  refuses,
  restIds,
  restText,
  trainedIds,
  trainedText,
  user,
} from './support-data.js'

const pair = { prompt: 'Say it:', chosen: ' yes', rejected: ' never' }

/** Numbers that rows of a file bring for the objectives that look at them. */
const numbers = { onPolicy: 1, score_chosen: 2, score_rejected: 1 }

const samples: Readonly<Record<EncodedKind, readonly object[]>> = {
  completion: [{ text: 'a b c' }, { prompt: 'a', completion: ' b', weight: 2 }],
  preference: [pair, { ...pair, prompt: 'Do it:' }].map((row) => ({ ...row, ...numbers })),
  unpaired: [true, false].map((label, i) => ({ prompt: `Go ${i}:`, completion: ' yes', label })),
  stepwise: [{ prompt: 'a', completions: ['b', 'c'], labels: [true, false] }],
  ranked: [{ prompt: 'a', completions: ['b', 'c', 'd'], scores: [0.5, 2, 0.5] }],
}

t.test('every objective gets the sequences that it asks for', async (t) => {
  const settings: Readonly<Record<string, object>> = { drGrpo: { maxCompletionLength: 8 } }
  const all = Object.entries(objectives).map(([name, make]) => [name, make(settings[name] as never)] as const)
  const made = [...all, ['orpo over prompts', orpo({ nllOver: 'all' })] as const]
  let tried = 0
  for (const [name, objective] of made) {
    if (kindOf(objective.needs) === undefined) {
      refuses(t, () => rowKindOf(objective), 'E_CONFIG', objective.name, 'samples of the policy')
      continue
    }
    const { examples } = encodeBy(objective, samples[rowKindOf(objective)])
    const sequences = examples.flatMap((example, number) =>
      example.map(({ ids, trained, role = 'completion', scores, inputs }) => {
        const logps = Float64Array.from(trainedIds({ ids, trained }), () => -1)
        const [reference, kl] = [logps.map((l) => l / 2), logps.map((l) => -l)]
        const values = new Float64Array((objective.needs.values ?? 1) * logps.length)
        const labels = inputs?.labels && Float64Array.from(inputs.labels).filter((_, i) => trained[i] === 1)
        return { logps, reference, kl, values, labels, role, scores, example: number, tokens: logps.length }
      }),
    )
    const { loss } = objective.evaluate({ sequences, step: countStep(sequences) })
    t.ok(Number.isFinite(loss), `${name}: ${loss}`)
    tried++
  }
  t.ok(tried > 10)
})

t.test('numbers of rows', async (t) => {
  const [[weighted], [plain]] = encode('completion', [{ text: 'a b', weight: 0.5 }, { text: 'a b' }]).examples
  t.strictSame(
    Array.from(weighted.weights ?? []),
    weighted.ids.map(() => 0.5),
  )
  t.equal(plain.weights, undefined)
  const scored = { ...pair, margin: 0.25, preference: 0.75, score_chosen: 9, score_rejected: 4 }
  const [[chosen, rejected]] = encode('preference', [scored]).examples
  t.strictSame(chosen.scores, { margin: 0.25, preference: 0.75, reward: 9 })
  t.strictSame(rejected.scores, { margin: 0.25, preference: 0.75, reward: 4 })
  const labels = encode('unpaired', samples.unpaired).examples.map(([{ scores }]) => scores)
  t.strictSame(labels, [{ label: 1 }, { label: 0 }])
  refuses(t, () => encodeBy(objectives.xpo(), [pair]), 'E_FORMAT', 'rows:1', "'onPolicy'", 'xpo')
})

t.test('preferences as answers with labels', async (t) => {
  const said = user('Hi')
  const chat = { tools: [{ name: 'f' }], chat_template_kwargs: { enable_thinking: false } }
  const labelsOf = async (row: object) => {
    const { rows } = await readData([row], 'unpaired')
    t.strictSame(
      rows.map(({ where }) => where),
      ['row 1', 'row 1'],
    )
    return rows.map(({ row }) => row)
  }
  const texts = [
    { prompt: 'a', completion: 'b', label: true },
    { prompt: 'a', completion: 'c', label: false },
  ]
  t.strictSame(await labelsOf({ prompt: 'a', chosen: 'b', rejected: 'c' }), texts)
  t.strictSame(await labelsOf({ chosen: 'ab', rejected: 'ac' }), texts, 'the prompt may be implied')
  const turns = [bot('b'), bot('c')].map((answer, i) => ({
    prompt: [said],
    ...chat,
    completion: [answer],
    label: i === 0,
  }))
  t.strictSame(await labelsOf({ prompt: [said], chosen: [bot('b')], rejected: [bot('c')], ...chat }), turns)
  const shared = { conversations: [{ from: 'human', value: 'Hi' }], chosen: bot('b'), rejected: bot('c') }
  t.strictSame(await labelsOf({ ...shared, ...chat }), turns)
  const pairs = Array.from({ length: 9 }, (_, i) => ({ prompt: `${i}`, chosen: 'b', rejected: 'c', margin: i }))
  const data = [...pairs, { prompt: 'x', completion: 'y', label: false }]
  const { rows, extraFields } = await readData(data, 'unpaired')
  t.equal(rows.length, 19)
  t.strictSame([...extraFields], [['margin', 18]])
  t.equal((await readData(data, 'unpaired', 4)).rows.length, 8, 'the limit is of rows as they come')
  const { train, held } = await splitRows({ objective: kto(), data }, { evalRows: 4, seed: 1 })
  const promptsOf = (part: typeof train) => new Set(part.map(({ where }) => where))
  t.equal(promptsOf(held).size, 4)
  t.equal(train.length + held.length, 19)
  t.equal(promptsOf(train).size, 6, 'both sides of a pair are held out, or none')
})

t.test("KTO: each prompt with the next row's answer to another prompt", async (t) => {
  const rows = ['a', 'a', 'b', 'c', 'a'].map((prompt, i) => ({
    prompt: `${prompt}:`,
    completion: ` ${i}`,
    label: true,
  }))
  const { examples } = encodeBy(kto(), rows)
  const [prompts, answers] = [rows.map(({ prompt }) => prompt), [2, 2, 3, 4, 2]]
  examples.forEach(([own, other], i) => {
    t.strictSame([own.role, other.role], ['completion', 'mismatch'])
    t.equal(restText(other), `${llama.bosToken}${prompts[i]}`)
    t.equal(trainedText(other), ` ${answers[i]}${llama.eosToken}`)
  })
  const long = { prompt: 'x'.repeat(400), completion: 'y', label: true }
  const skipped = encodeBy(kto(), [...rows.slice(1, 3), long], { maxLength: 20, untrainedRows: 'skip' })
  t.equal(trainedText(skipped.examples[1][1]), ` 1${llama.eosToken}`, 'rows that are left out lend no answer')
  refuses(t, () => encodeBy(kto(), rows.slice(0, 2)), 'E_CONFIG', 'two different prompts')
  const placed = rows.map((row, i) => ({ row, where: `rows:${i + 1}` }))
  const alone = encodeFor(kto(), llama, placed.slice(0, 1), {}, placed.slice(1))
  t.equal(trainedText(alone.examples[0][1]), ` 2${llama.eosToken}`, 'from further rows where there is no other prompt')
  const among = encodeFor(kto(), llama, placed.slice(2, 4), {}, placed)
  t.equal(trainedText(among.examples[1][1]), ` 2${llama.eosToken}`, 'and only there')
  t.equal(encodeBy(kto({ lossType: 'apoZeroUnpaired' }), rows.slice(0, 2)).examples[0].length, 1)
})

t.test('ORPO: prompt and chosen answer make up the chosen sequence', async (t) => {
  for (const options of [{}, { maxLength: 10 }, { maxLength: 10, truncationMode: 'keepEnd' as const }]) {
    const [[chosen, , prompt]] = encodeBy(
      orpo({ nllOver: 'all' }),
      [{ ...pair, prompt: 'Say it, say:' }],
      options,
    ).examples
    t.equal(prompt.role, 'prompt')
    t.strictSame([...trainedIds(prompt), ...trainedIds(chosen)], chosen.ids.slice(1))
    t.strictSame(prompt.ids, chosen.ids.slice(0, prompt.ids.length), 'its beginning can be shared')
  }
  refuses(t, () => encodeBy(orpo({ nllOver: 'all' }), [{ ...pair, prompt: '' }]), 'E_FORMAT', 'prompt trains no token')
})

const shownAndScored = {
  chosenGivenRejected: ['rejected', 'chosen'],
  rejectedGivenRejected: ['rejected', 'rejected'],
  chosenGivenChosen: ['chosen', 'chosen'],
  rejectedGivenChosen: ['chosen', 'rejected'],
  chosen: [undefined, 'chosen'],
  rejected: [undefined, 'rejected'],
} as const

t.test('SRPO: which answer is shown and which is scored', async (t) => {
  const row = { prompt: 'Q {answer} $& {prompt}:', chosen: ' yes', rejected: ' never<|eot_id|>' }
  const texts = { chosen: ' yes', rejected: ' never' }
  const [example] = encodeBy(srpo(), [row], { revisionText: 'A:{answer}\n{prompt}\nB:' }).examples
  t.equal(example.length, 6)
  for (const sequence of example) {
    const [shown, scored] = shownAndScored[sequence.role as keyof typeof shownAndScored]
    t.equal(trainedText(sequence), `${texts[scored]}${llama.eosToken}`, `${sequence.role}`)
    const before = shown === undefined ? row.prompt : `A:${texts[shown]}\n${row.prompt}\nB:`
    t.equal(restText(sequence), `${llama.bosToken}${before}`)
  }
  const talk = { prompt: [user('Q')], chosen: [bot('yes')], rejected: [bot('never')] }
  const [turns] = encodeBy(srpo(), [talk], { revisionRequest: 'Again.' }).examples
  const [first] = turns
  const shown = [user('Q'), bot('never'), user('Again.')]
  t.strictSame(restIds(first), encodeChat(llama, shown, { addGenerationPrompt: true }).ids)
  t.equal(trainedText(first), `yes${llama.eosToken}`)
  refuses(t, () => encodeBy(srpo(), [row], { revisionText: 'no {answer}' }), 'E_CONFIG', 'revisionText', '{prompt}')
  refuses(t, () => encodeBy(srpo(), [row], { maxPromptLength: 4 }), 'E_CONFIG', 'maxPromptLength')
  refuses(t, () => encodeBy(srpo(), [row], { maxLength: 20 }), 'E_FORMAT', 'rows:1', 'maxLength = 20')
})

t.test('score heads read the last token; long pairs are not cut', async (t) => {
  const reward = { roles: ['chosen', 'rejected'], values: 1 } as const
  const [sides] = encode('preference', [pair], {}, reward).examples
  for (const { ids, trained } of sides) {
    t.equal(ids[ids.length - 1], eos)
    t.strictSame(
      Array.from(trained),
      Array.from(ids, (_, i) => Number(i === ids.length - 1)),
    )
  }
  refuses(t, () => encode('preference', [pair], { maxLength: 6 }, reward), 'E_FORMAT', 'maxLength = 6')
  const { examples, summary } = encode(
    'preference',
    [pair, { ...pair, chosen: ' y'.repeat(40) }],
    { maxLength: 30, untrainedRows: 'skip' },
    reward,
  )
  t.equal(examples.length, 1)
  t.strictSame(summary.findings.overlong, { count: 1, first: ['rows:2'] })
})

t.test('process rewards: the label at the last token of each step', async (t) => {
  const row = { prompt: 'Which?', completions: ['one two', 'then', 'so'], labels: [true, false, true] }
  const bare = (text: string) => llama.encode(text, { addSpecialTokens: false })
  const steps = row.completions.map((step) => [...bare(step), ...bare('\n')])
  const [[sequence]] = encode('stepwise', [row], {}, { values: 2 }).examples
  t.strictSame(sequence.ids, [bos, ...bare('Which?'), ...steps.flat()])
  const ends = sequence.ids.flatMap((_, i) => (sequence.trained[i] === 1 ? [i] : []))
  const lengths = steps.map((step) => step.length)
  const from = sequence.ids.length - steps.flat().length
  t.strictSame(ends, [from + lengths[0] - 1, from + lengths[0] + lengths[1] - 1, sequence.ids.length - 1])
  t.strictSame(
    ends.map((i) => sequence.inputs?.labels?.[i]),
    [1, 0, 1],
  )
  const [[last]] = encode('stepwise', [row], { trainOnLastStepOnly: true }, { values: 2 }).examples
  t.strictSame(last.trained.indexOf(1), last.ids.length - 1)
  const [[cut]] = encode('stepwise', [row], { maxLength: ends[1] + 1 }, { values: 2 }).examples
  t.equal(trainedIds(cut).length, 2, 'steps beyond maxLength are cut')
  t.equal(cut.inputs?.labels?.length, cut.ids.length)
  const empty = { ...row, completions: ['', 'a', 'b'] }
  refuses(t, () => encode('stepwise', [empty], { stepSeparator: '' }), 'E_FORMAT', 'rows:1', 'completions[0]')
})
