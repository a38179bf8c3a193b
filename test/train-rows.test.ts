// Rows on their way through train(): conversations, rows held out, packing, adapters, bf16 and recomputation for every
// objective; rows that a model has no positions for; the first rows of a file.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { dpo, kto, listwiseReward, logRatio, type Objective, orpo, reward, sft, srpo } from '../ts/src/index.js'
import { readJsonObject } from '../ts/src/io/json.js'
import { trainingOptions } from '../ts/train/config/options.js'
import { rowKindOf } from '../ts/train/data/encode.js'
import { checkRow, readData } from '../ts/train/data/rows.js'
import { estimateMemory } from '../ts/train/estimate.js'
import type { TrainEvent } from '../ts/train/events.js'
import { recipes } from '../ts/train/recipes/index.js'
import { train } from '../ts/train/train.js'
import { golden, wordsOf } from './support.js'
import {
  makeObjective,
  putRows,
  rowObjectives,
  rowsFor,
  rowsOf,
  runKind,
  teacherOf,
  tinyFolder,
} from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const finite = (values: Readonly<Record<string, number>>): boolean => Object.values(values).every(Number.isFinite)

/** The numbers of a model for a fixed text. */
async function numbersOf(model: Awaited<ReturnType<typeof loadModel>>): Promise<number[]> {
  const ids = [40, 41, 42, 43, 44]
  const [numbers] =
    model.decoder.config.scoreLabels === undefined ? await model.logProbs([ids]) : await model.scores([ids])
  return wordsOf(numbers)
}

t.test('every objective with adapters', async (t) => {
  for (const name of rowObjectives)
    for (const dtype of ['f32', 'bf16'] as const) {
      const objective = makeObjective(name)
      let kept: number[] = []
      const { losses, result } = await runKind({
        base,
        objective,
        output: join(folder, `lora-${name}-${dtype}`),
        load: { dtype, lora: { r: 4, loraAlpha: 8, loraDropout: 0.1 } },
        after: async (policy) => {
          kept = await numbersOf(policy)
        },
      })
      t.ok(losses.every(Number.isFinite), `${name} ${dtype}: ${losses.at(-1)}`)
      using again = await loadModel(result.checkpoint ?? '', { dtype })
      t.ok(again.decoder.adapter !== undefined, 'the checkpoint is an adapter')
      t.same(await numbersOf(again), kept, `${name} ${dtype}: with the same bits`)
    }
})

t.test('every objective recomputed, packed and with rows held out', async (t) => {
  for (const name of rowObjectives) {
    const objective = makeObjective(name)
    const plain = await runKind({ base, objective })
    t.equal((await runKind({ base, objective, gradientCheckpointing: true })).hash, plain.hash, `${name}: recomputed`)
    const apart = await runKind({ base, objective, sharePrompts: false })
    t.equal(apart.losses[0], plain.losses[0], `${name}: prompts apart`)
    const packed = await runKind({ base, objective, packing: true, maxLength: 200, perDeviceTrainBatchSize: 1 })
    t.ok(packed.losses.every(Number.isFinite), `${name}: packed`)
    using policy = await loadModel(base, { scoreLabels: objective.needs.values })
    const data = rowsFor(objective)
    using teacher = await teacherOf(objective, base)
    const settings = { evalRows: 3, evalSteps: 2, maxSteps: 3, perDeviceTrainBatchSize: 2 }
    const run = train({ policy, objective, data, reference: teacher?.decoder, ...settings })
    const events: TrainEvent[] = []
    for await (const event of run) events.push(event)
    const held = events.flatMap((event) => (event.type === 'eval' ? [event] : []))
    t.same(
      held.map(({ step }) => step),
      [2, 3],
      `${name}: evaluated behind steps 2 and 3`,
    )
    t.ok(held.every(({ values }) => finite(values) && values.loss !== undefined))
  }
})

t.test(
  'one row held out has a loss under every objective: the answer to another prompt is a trained row’s',
  async (t) => {
    for (const name of rowObjectives) {
      const objective = makeObjective(name)
      using policy = await loadModel(base, { scoreLabels: objective.needs.values })
      using teacher = await teacherOf(objective, base)
      const reference = teacher?.decoder
      const data = rowsFor(objective)
      for (const held of [
        { data, evalRows: 1 },
        { data, evalData: data.slice(0, 1) },
      ]) {
        const events: TrainEvent[] = []
        for await (const event of train({ policy, objective, reference, ...held, maxSteps: 1 })) events.push(event)
        const [values] = events.flatMap((event) => (event.type === 'eval' ? [event.values] : []))
        t.ok(finite(values), `${name}: ${values.loss}`)
      }
    }
    using policy = await loadModel(base)
    const alike = [0, 1, 2].map((i) => ({ prompt: 'a', completion: `${i}`, label: true }))
    const refused = train({ policy, objective: kto(), data: alike, evalRows: 1 }).result
    await t.rejects(refused, { code: 'E_CONFIG', message: /two different prompts/ })
  },
)

// Conversations ---------------------------------------------------------------------------------------------------------

const turn = (role: string, content: string) => ({ role, content })
const asks = (i: number) => [turn('user', `What is ${i}?`)]
const answers = (text: string) => [turn('assistant', text)]
const four = [0, 1, 2, 3]

const chats: Readonly<Record<string, readonly object[]>> = {
  completion: four.map((i) => ({ messages: [...asks(i), ...answers(`It is ${i}.`)] })),
  preference: four.map((i) => ({ prompt: asks(i), chosen: answers(`${i}`), rejected: answers('No.') })),
  ranked: four.map((i) => ({ prompt: asks(i), completions: [answers(`${i}`), answers('No.')], scores: [1, 0] })),
  unpaired: four.map((i) => ({ prompt: asks(i), completion: answers(`${i}`), label: i % 2 === 0 })),
}

t.test('conversations', async (t) => {
  for (const objective of [sft(), dpo(), orpo({ nllOver: 'all' }), kto(), srpo(), reward(), listwiseReward()]) {
    const data = chats[rowKindOf(objective)]
    const { losses, warnings } = await runKind({ base: golden('qwen2'), objective, data, learningRate: 3e-4 })
    t.ok(losses[5] < losses[0], `${objective.name}: ${losses[0].toFixed(4)} -> ${losses[5].toFixed(4)}`)
    t.same(warnings, [], 'nothing to warn of')
  }
})

t.test('ranked rows', async (t) => {
  const row = { prompt: 'a', completions: ['b', 'c'], scores: [1, 0] }
  t.same(checkRow({ ...row, model: 'm' }, 'row 1', 'ranked'), row)
  const refused: readonly (readonly [change: object, message: RegExp])[] = [
    [{ scores: [1] }, /'scores': expected at least two that differ/],
    [{ scores: [1, 1] }, /'scores': expected at least two that differ/],
    [{ scores: [1, 0, 2] }, /'scores': expected one for each of the 2 completions/],
    [{ scores: [1, Number.NaN] }, /'scores\[1\]': expected a number/],
    [{ completions: ['b', 5] }, /'completions\[1\]': expected text/],
    [{ completions: [answers('b'), answers('c')] }, /'completions\[0\]': expected text/],
    [{ prompt: asks(1) }, /'completions\[0\]': expected a list of messages/],
    [{ completions: [] }, /'completions': expected a list/],
  ]
  for (const [change, message] of refused)
    t.throws(() => checkRow({ ...row, ...change }, 'row 1', 'ranked'), { code: 'E_FORMAT', where: 'row 1', message })
})

// Numbers of rows ------------------------------------------------------------------------------------------------------

t.test('numbers of rows reach the objective', async (t) => {
  const cases: readonly (readonly [Objective, object])[] = [
    [logRatio({ link: 'logistic' }), { labelSmoothing: 0.4 }],
    [logRatio({ link: 'logistic' }), { weight: 0.5 }],
    [logRatio({ link: 'logistic' }), { margin: 1 }],
    [logRatio({ link: 'square' }), { target: 0.25 }],
    [srpo(), { preference: 0.6 }],
    [reward(), { margin: 2 }],
    [makeObjective('copg'), { score_chosen: 3 }],
    [makeObjective('xpo', { alpha: 0.1 }), { onPolicy: 1 }],
  ]
  for (const [objective, numbers] of cases) {
    const run = (data: readonly object[]) => runKind({ base, objective, data, maxSteps: 2, shuffle: false })
    const plain = await run(rowsOf.preference)
    const changed = await run(rowsOf.preference.map((row) => ({ ...row, ...numbers })))
    t.not(changed.hash, plain.hash, `${objective.name} looks at ${Object.keys(numbers)}`)
    const said = changed.warnings.filter((text) => Object.keys(numbers).some((field) => text.includes(`'${field}'`)))
    t.same(said, [], 'and nobody says that it is not used')
  }
})

t.test('numbers that an objective cannot do without', async (t) => {
  const without = (row: object, ...columns: string[]) =>
    Object.fromEntries(Object.entries(row).filter(([name]) => !columns.includes(name)))
  const [first, second] = rowsOf.preference
  const file = await putRows(folder, 'unscored.jsonl', [first, without(second, 'score_chosen', 'score_rejected')])
  const cases: readonly (readonly [name: string, data: string | readonly object[], where: string, message: RegExp])[] =
    [
      [
        'copg',
        file,
        `${file}:2`,
        /columns score_chosen, score_rejected, .*copg.v1.* none in score_chosen, score_rejected$/,
      ],
      [
        'copg',
        [without(first, 'score_rejected')],
        'row 1',
        /score_chosen, score_rejected, .*got none in score_rejected$/,
      ],
      ['copg', [first, { ...second, score_chosen: 'high' }], 'row 2', /got none in score_chosen$/],
      ['xpo', [without(first, 'onPolicy')], 'row 1', /'onPolicy'/],
    ]
  for (const [name, data, where, message] of cases)
    await t.rejects(runKind({ base, objective: makeObjective(name), data: data as never }), {
      code: 'E_FORMAT',
      where,
      message,
    })
})

// Lengths and places ---------------------------------------------------------------------------------------------------

t.test('rows that the model has no positions for', async (t) => {
  const model = golden('gpt2')
  const text = 'never ending story '.repeat(20)
  const rows = [
    { prompt: 'a', completion: 'b' },
    { prompt: 'c', completion: text },
  ]
  const data = await putRows(folder, 'long.jsonl', rows)
  const where = `${data}:2`
  const refused = { code: 'E_LIMIT', where, message: /at most 64 tokens, got \d+: gpt2.*set maxLength to 64/ }
  using policy = await loadModel(model)
  const run = (options: object) => train({ policy, objective: sft(), data, maxSteps: 1, ...options }).result
  await t.rejects(run({}), refused, 'by file and line, before the first step')
  await t.rejects(run({ data: rows.slice(0, 1), evalData: data }), refused, 'rows to evaluate on too')
  t.equal((await run({ maxLength: 64 })).step, 1, 'cut as the error says')
  const training = trainingOptions.parse({})
  await t.rejects(estimateMemory({ model, objective: sft(), training, data }), refused, 'an estimate says so as well')
  const { batch } = await estimateMemory({ model, objective: sft(), training })
  t.equal(batch.tokens, 8 * 64, 'without rows there are none longer')
  const pairs = [0, 1].map((i) => ({
    prompt: i === 0 ? 'a' : text.slice(0, 60),
    completion: i === 1 ? 'b' : text.slice(0, 60),
    label: true,
  }))
  const { length } = policy.tokenizer.encode(text.slice(0, 60))
  t.ok(length < 64 && 2 * length > 64)
  await t.rejects(run({ objective: kto(), data: pairs }), { code: 'E_LIMIT', where: 'row 2' }, "another row's answer")
})

t.test('prompts that leave no positions for a completion', async (t) => {
  using policy = await loadModel(golden('gpt2'))
  const prompts = [{ prompt: 'short' }, { prompt: 'word '.repeat(10) }]
  const { length } = policy.tokenizer.encode(prompts[1].prompt)
  const rewardFuncs = [({ completions }: { completions: readonly string[] }) => completions.map((text) => text.length)]
  const run = (maxCompletionLength: number) =>
    recipes.grpo({
      policy,
      prompts,
      rewardFuncs,
      rounds: 2,
      promptsPerRound: 1,
      numGenerations: 2,
      maxCompletionLength,
    }).result
  const refused = { code: 'E_LIMIT', where: 'prompt 2', message: /within the 64 positions/ }
  await t.rejects(run(65 - length), refused, 'whichever round would have met it')
  t.equal((await run(64 - length)).step, 2)
})

t.test('the first rows of a file', async (t) => {
  const rows = [...rowsOf.completion.slice(0, 3), { prompt: 'x', completion: 5 }]
  const data = await putRows(folder, 'first.jsonl', rows)
  const { rows: first } = await readData(data, 'completion', 2)
  t.same(
    first.map(({ where }) => where),
    [`${data}:1`, `${data}:2`],
  )
  const run = (limit: number) => runKind({ base, objective: sft(), data, limit, maxSteps: 1 })
  t.equal((await run(3)).result.step, 1, 'what lies behind them is not looked at')
  await t.rejects(run(4), { code: 'E_FORMAT', where: `${data}:4` }, 'an error names file and line')
  const named = await putRows(folder, 'long2.jsonl', [
    rowsOf.completion[0],
    { prompt: 'a'.repeat(2000), completion: 'b' },
  ])
  await t.rejects(runKind({ base, objective: sft(), data: named, limit: 2 }), { code: 'E_FORMAT', where: `${named}:2` })
  for (const limit of [0, -1, Number.NaN]) await t.rejects(run(limit), { code: 'E_CONFIG', where: 'limit' })
})

t.test('a checkpoint says of what type its weights are', async (t) => {
  for (const [name, key] of [
    ['mistral', 'torch_dtype'],
    ['qwen3', 'dtype'],
  ] as const)
    for (const [dtype, type] of [
      ['f32', 'float32'],
      ['bf16', 'bfloat16'],
    ] as const) {
      const output = join(folder, `type-${name}-${dtype}`)
      const options = { base: golden(name), objective: sft(), load: { dtype }, output, maxSteps: 1 }
      const { checkpoint = '' } = (await runKind(options)).result
      const config = await readJsonObject(join(checkpoint, 'config.json'))
      t.equal(config[key], type, `${name} in ${dtype}`)
      const { [key]: _, ...others } = await readJsonObject(join(golden(name), 'config.json'))
      t.match(config, others, 'nothing else has changed')
      using again = await loadModel(checkpoint)
      t.equal(again.decoder.parameters.dtype, dtype)
    }
})

t.test('evaluations without rows, and a run to go on with that is none', async (t) => {
  const objective = makeObjective('sft')
  using policy = await loadModel(base)
  const options = { policy, objective, data: rowsFor(objective), maxSteps: 1 }
  const output = join(folder, 'no-run')
  await t.rejects(train({ ...options, evalSteps: 2, output }).result, { code: 'E_CONFIG', where: 'evalSteps' })
  await t.rejects(train({ ...options, output, resume: true }).result, { code: 'E_CONFIG', where: output })
  t.notOk(existsSync(output), 'nothing is made')
  const stop = AbortSignal.abort(new Error('at once'))
  await t.rejects(train({ ...options, output, signal: stop }).result, { code: 'E_ABORTED' })
  const messages: string[] = []
  for await (const event of train({ ...options, output, resume: true }))
    if (event.type === 'warning') messages.push(event.message)
  t.match(messages.join(), 'the run has no checkpoint yet: it begins at step 0 again')
  const { stepsDone } = await train({ ...options, evalSteps: 2, evalData: rowsFor(objective) }).result
  t.equal(stepsDone, 1)
})

t.test('a signal while rows become tokens', async (t) => {
  using policy = await loadModel(base)
  const rows = Array.from({ length: 20_000 }, (_, i) => ({ prompt: `say ${i}: `, completion: 'abcdefgh'.repeat(8) }))
  const stop = new AbortController()
  setTimeout(() => stop.abort(new Error('enough')), 1)
  const run = train({ policy, objective: sft(), data: rows, maxSteps: 1, signal: stop.signal })
  const events: string[] = []
  await t.rejects(
    async () => {
      for await (const { type } of run) events.push(type)
    },
    { code: 'E_ABORTED' },
  )
  t.same(events, [], 'the timer had its turn long before the last row')
})
