// Settings of sampling in online methods, online DPO by TRL's formula, and reward models and models of pairs that judge samples:
// given by folder they do what the same model does by hand.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { pairReward, reward as rewardObjective } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { type Options, readFlags } from '../ts/train/cli/flags.js'
import { onlineCatalogue, onlineTrainers, resolveOnline } from '../ts/train/config/online-settings.js'
import type { StepEvent, TrainEvent } from '../ts/train/events.js'
import { judgeByReward, type PairInput, type PairJudge } from '../ts/train/loop/judges.js'
import {
  cosineScaledReward,
  repetitionPenaltyReward,
  softOverlongReward,
  thinkFormatReward,
} from '../ts/train/loop/ready-rewards.js'
import { pairJudge, rewardModel } from '../ts/train/loop/reward-model.js'
import type { RewardFunction, RewardInput } from '../ts/train/loop/rewards.js'
import { recipes } from '../ts/train/recipes/index.js'
import { train } from '../ts/train/train.js'
import { golden, liveBytes } from './support.js'
import { makeTiny, rowsOf, tinyFolder, weightsHash } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const judge = join(folder, 'judge')
const prompts = ['ab', 'cd', 'ef', 'gh'].map((prompt) => ({ prompt: `say ${prompt}: ` }))

/** Trains a reward model, as a user would. */
async function trainJudge(output: string, objective = rewardObjective()): Promise<string> {
  using policy = await loadModel(base, { scoreLabels: 1, seed: 2 })
  const data = rowsOf.preference as never
  const { checkpoint } = await train({ policy, objective, data, learningRate: 1e-2, maxSteps: 4, output }).result
  return checkpoint ?? ''
}
const judgeFolder = await trainJudge(judge)

type Recipe = 'grpo' | 'onlineDpo' | 'bestOfN' | 'score'

/** A short run with everything that it told. */
async function run(recipe: Recipe, options: Readonly<Record<string, unknown>>) {
  using policy = await loadModel(base)
  const short = { rounds: 2, promptsPerRound: 2, numGenerations: 3, maxCompletionLength: 12, learningRate: 1e-2 }
  const job = recipes[recipe]({ policy, prompts, ...short, ...options } as never)
  const events: TrainEvent[] = []
  for await (const event of job) events.push(event)
  await job.result
  return { events, hash: await weightsHash(policy) }
}

t.test('every online method stops its samples at stop strings', async (t) => {
  const stopStrings = ['a', 'e', 'I', 'x', '7', ' ', '}', 'Q', '%']
  for (const recipe of ['grpo', 'onlineDpo', 'bestOfN', 'score'] as const) {
    const seen: RewardInput[] = []
    const look: RewardFunction = function look(input) {
      seen.push(input)
      return input.completions.map((text) => text.length)
    }
    const free = await run(recipe, { rewardFuncs: [look], maxRows: 2 })
    t.ok(seen.some(({ completions }) => completions.some((text) => stopStrings.some((stop) => text.includes(stop)))))
    seen.length = 0
    const { events, hash } = await run(recipe, { rewardFuncs: [look], stopStrings })
    const texts = seen.flatMap(({ completions }) => completions)
    t.notOk(
      texts.some((text) => stopStrings.some((stop) => text.includes(stop))),
      `${recipe}: none is in a text`,
    )
    const ends = seen.flatMap(({ finishReasons, completionIds, completions }) =>
      finishReasons.map((reason, i) => reason === 'stop' && completionIds[i].length === completions[i].length + 1),
    )
    t.ok(ends.includes(true), 'they end samples, and their tokens are kept')
    t.not(hash, free.hash)
    t.ok(events.some(({ type }) => type === 'round'))
    await t.rejects(run(recipe, { rewardFuncs: [look], stopStrings: [''] }), {
      code: 'E_CONFIG',
      message: /stopStrings/,
    })
  }
})

t.test('settings of sampling on the command line', async (t) => {
  for (const name of Object.keys(onlineTrainers)) {
    const catalogue = onlineCatalogue(name)
    const valuesOf = (options: Options) =>
      resolveOnline(name, catalogue, readFlags(catalogue, { model: 'm', ...options })).values
    t.same(valuesOf({ stopStrings: ' was' }).stopStrings, [' was'], `${name}: blanks stay`)
    t.same(valuesOf({ stopStrings: '["\\n\\n", "a, b"]' }).stopStrings, ['\n\n', 'a, b'], 'a list as JSON')
    t.match(valuesOf({ stopStrings: 'END,STOP', stopIds: '3,4' }), { stopStrings: ['END', 'STOP'], stopIds: [3, 4] })
    const variables = { chatTemplateKwargs: '{"enable_thinking": false}' }
    t.same(valuesOf(variables).chatTemplateKwargs, { enable_thinking: false }, 'variables of the template')
    for (const bad of ['{"messages": 1}', '{"mood": "<|im_end|>"}', '{"mood": null}'])
      t.throws(() => valuesOf({ chatTemplateKwargs: bad }), { code: 'E_CONFIG', where: '--chatTemplateKwargs' })
    t.match(valuesOf({ minP: '0.1', maxRows: '8' }), { minP: 0.1, maxRows: 8, stopIds: undefined })
  }
})

t.test('a reward model by folder is the same model by hand', async (t) => {
  const before = await liveBytes()
  using model = await loadModel(judgeFolder)
  const byHand: RewardFunction = async function byHand({ prompts, completions }) {
    const { tokenizer } = model
    const sequences = prompts.map((prompt, i) => [...tokenizer.encode(prompt + completions[i]), tokenizer.eosId ?? 0])
    return (await model.scores(sequences)).map((scores) => scores[0])
  }
  for (const recipe of ['grpo', 'onlineDpo'] as const) {
    const hand = await run(recipe, { rewardFuncs: [byHand] })
    const path = await run(recipe, { rewardFuncs: [judgeFolder] })
    const made = await run(recipe, { rewardFuncs: [rewardModel(model, { name: 'made' })] })
    t.equal(path.hash, hand.hash, `${recipe}: the same weights`)
    t.equal(made.hash, hand.hash)
    const names = (events: readonly TrainEvent[]) =>
      events.flatMap((event) => (event.type === 'round' ? Object.keys(event.values) : []))
    t.ok(names(path.events).includes('rewards/judge/mean'), 'named as its folder')
    t.ok(names(made.events).includes('rewards/made/mean'))
  }
  const both = await run('grpo', { rewardFuncs: [judgeFolder, byHand], rewardWeights: [1, 0] })
  t.equal(both.hash, (await run('grpo', { rewardFuncs: [byHand] })).hash, 'beside functions, with weights')
  model.dispose()
  t.equal(await liveBytes(), before, 'a run frees what it loaded')
})

t.test('a reward model reads conversations by its own template', async (t) => {
  using model = await loadModel(golden('qwen2'), { scoreLabels: 1 })
  const messages = [{ role: 'user', content: 'Hello' }] as const
  const answer = { role: 'assistant', content: 'there' } as const
  const input = { tasks: [{ id: '1', prompt: 'unused', answer: '', messages }], completions: ['there'] }
  const [value] = await rewardModel(model)(input as never)
  const { ids } = model.tokenizer.applyChatTemplate([...messages, answer])
  t.equal(value, (await model.scores([ids]))[0][0])
})

t.test('what is no reward model is refused, and leaves nothing behind', async (t) => {
  const before = await liveBytes()
  const refused = (rewardFuncs: readonly unknown[], expected: { code: string; message?: RegExp; where?: string }) =>
    t.rejects(run('grpo', { rewardFuncs }), expected, String(rewardFuncs))
  await refused([base], { code: 'E_CONFIG', message: /expected a reward model .* got a language model/ })
  await refused([judgeFolder, join(folder, 'none')], { code: 'E_IO' })
  await refused([judgeFolder, judgeFolder], { code: 'E_CONFIG', message: /different names/ })
  await refused([7], { code: 'E_CONFIG', where: 'recipe.rewardFuncs' })
  using three = await loadModel(base, { scoreLabels: 3 })
  t.throws(() => rewardModel(three), { code: 'E_CONFIG', message: /got a head of 3 numbers/ })
  three.dispose()
  t.equal(await liveBytes(), before)
})

t.test('a run is resumed with the same reward model', async (t) => {
  const output = join(folder, 'resumed')
  const rewardFuncs = [judgeFolder]
  const whole = await run('grpo', { rewardFuncs })
  await run('grpo', { rewardFuncs, output })
  const again = await run('grpo', { rewardFuncs, output, resume: true })
  t.equal(again.hash, whole.hash)
  t.match(await readFile(join(output, 'metrics.jsonl'), 'utf8'), 'rewards: judge')
  using other = await loadModel(base, { scoreLabels: 1, seed: 9 })
  const named = rewardModel(other, { name: 'judge' })
  await t.rejects(run('grpo', { rewardFuncs: [named], output, resume: true }), { code: 'E_MISMATCH' })
})

const close = (got: readonly (number | null)[], wanted: readonly (number | null)[]): boolean =>
  got.length === wanted.length &&
  wanted.every((value, i) => got[i] === value || Math.abs((got[i] ?? Number.NaN) - (value ?? Number.NaN)) < 1e-14)

t.test('ready-made rewards give TRL’s numbers', async (t) => {
  const open = [
    '<think>\na\n</think>\nb',
    '<think>a',
    'a<think>b</think>',
    '<think>a<think>b</think>',
    '<think></think>',
  ]
  const more = ['<think>a</think>b</think>c', ' <think>a</think>', '<think>a\n</think>\n<think>b</think>']
  t.same(await thinkFormatReward({ completions: [...open, ...more] } as never), [1, 0, 0, 0, 1, 1, 0, 0])
  const completionIds = [[1, 2, 3, 4], [5, 5, 5, 5, 5], [1, 2, 1, 2, 1, 2], [1], [], [7, 7, 7]]
  for (const [ngramSize, maxPenalty, wanted] of [
    [2, -1, [0, -0.75, -0.6, 0, 0, -0.5]],
    [3, -0.5, [0, -1 / 3, -0.25, 0, 0, 0]],
    [1, -2, [0, -1.6, -4 / 3, 0, 0, -4 / 3]],
  ] as const) {
    const got = await repetitionPenaltyReward({ ngramSize, maxPenalty })({ completionIds } as never)
    t.ok(close(got, wanted), `${ngramSize}: ${got}`)
  }
  t.same(await repetitionPenaltyReward()({ completionIds: [[1, 1, 1, 1]] } as never), [-0.5])
  t.throws(() => repetitionPenaltyReward({ maxPenalty: 1 }), { code: 'E_CONFIG' })
  const long = [5, 6, 7, 9, 10, 11].map((length) => new Array<number>(length).fill(1))
  t.ok(close(await softOverlongReward(10, 4)({ completionIds: long } as never), [0, 0, -0.25, -0.75, -1, -1]))
  const right: RewardFunction = () => [1, 0, null, 1, 0, 1]
  const ids = [50, 50, 3, 10, 10, 130].map((length) => new Array<number>(length).fill(1))
  const input = { completionIds: ids, tasks: ids.map((_, i) => ({ id: `t${i}` })) } as never
  const usual = await cosineScaledReward(right, { maxLength: 100 })(input)
  t.ok(close(usual, [0.75, -0.75, null, 0.9877641290737884, -0.9877641290737884, 0.5]), String(usual))
  const other = { minValueWrong: -2, maxValueWrong: -0.25, minValueCorrect: 0.1, maxValueCorrect: 3 }
  const scaled = await cosineScaledReward(right, { maxLength: 100, ...other })(input)
  t.ok(close(scaled, [1.55, -1.125, null, 2.929031948627973, -1.9571744517582594, 0.1]), String(scaled))
  t.throws(() => cosineScaledReward(right, {} as never), { code: 'E_CONFIG', message: /maxLength/ })
  await t.rejects(async () => cosineScaledReward(() => [1], { maxLength: 9 })(input), { code: 'E_VERIFIER' })
})

// Online DPO -------------------------------------------------------------------------------------------------------------

/** The number of letters, and what it was asked about. */
function watching() {
  const seen: RewardInput[] = []
  const letters: RewardFunction = function letters(input) {
    seen.push(input)
    return input.completions.map((text) => [...text].filter((c) => c > 'Z').length)
  }
  return { seen, letters }
}

const sum = (values: Iterable<number>): number => [...values].reduce((all, value) => all + value, 0)
const mean = (values: readonly number[]): number => sum(values) / values.length
const logistic = (x: number): number => 1 / (1 + Math.exp(-x))

/** What the policy and a wider model have gained apart on each sample: log pi - log ref. */
async function ratiosOf(wide: string, { prompts, completionIds }: RewardInput): Promise<number[]> {
  using policy = await loadModel(base)
  using other = await loadModel(wide)
  const ratios: number[] = []
  for (const [i, ids] of completionIds.entries()) {
    const all = [...policy.tokenizer.encode(prompts[i]), ...ids]
    const [own, ref] = [await policy.logProbs(all), await other.logProbs(all)]
    ratios.push(sum(own.slice(-ids.length)) - sum(ref.slice(-ids.length)))
  }
  return ratios
}

t.test('the first loss of online DPO is that of TRL’s formula', async (t) => {
  const wide = await makeTiny(join(folder, 'wide'), 48)
  using other = await loadModel(wide)
  // TRL's ipo sums, as ipoSum does here.
  const links = { sigmoid: (x: number) => -Math.log(logistic(0.3 * x)), ipoSum: (x: number) => (x - 1 / 0.6) ** 2 }
  for (const [lossType, link] of Object.entries(links)) {
    const { seen, letters } = watching()
    const settings = { rewardFuncs: [letters], missingEosPenalty: 0.25, reference: other.decoder, rounds: 1 }
    const own = { numGenerations: 2, promptsPerRound: 4, beta: 0.3, lossType, stopStrings: ['e', 'x', ' '] }
    const { events } = await run('onlineDpo', { ...settings, ...own })
    const [input] = seen
    const ended = input.finishReasons.map((reason) => reason === 'stop')
    t.ok(ended.includes(true) && ended.includes(false))
    const texts = input.completions.map((text) => [...text].filter((c) => c > 'Z').length)
    const rewards = texts.map((reward, i) => reward - (ended[i] ? 0 : 0.25))
    const ratios = await ratiosOf(wide, input)
    const pairs = [0, 2, 4, 6].map((i) => (rewards[i] >= rewards[i + 1] ? [i, i + 1] : [i + 1, i]))
    t.ok(pairs.every(([best, worst]) => rewards[best] > rewards[worst]))
    const loss = mean(pairs.map(([best, worst]) => link(ratios[best] - ratios[worst])))
    const step = events.find(({ type }) => type === 'step') as StepEvent
    t.ok(Math.abs(step.loss - loss) < 1e-5, `${lossType}: ${step.loss} for ${loss}`)
    const round = events.find(({ type }) => type === 'round') as { values: Record<string, number> } | undefined
    t.match(round?.values, {
      'objective/scores': mean(rewards),
      'objective/scores_margin': mean(pairs.map(([best, worst]) => rewards[best] - rewards[worst])),
      'val/contain_eos_token': mean(ended.map(Number)),
      'rewards/missingEos/mean': mean(ended.map((end) => (end ? 0 : -0.25))),
    })
  }
})

t.test('a judge of pairs in online DPO', async (t) => {
  const inputs: PairInput[] = []
  const longer: PairJudge = function longer(input) {
    inputs.push(input)
    return input.completions.map(([a, b]) => (a.length === b.length ? 0.5 : Number(a.length > b.length)))
  }
  const length: RewardFunction = function length({ completions }) {
    return completions.map((text) => text.length)
  }
  const rewarded = await run('onlineDpo', { rewardFuncs: [length], stopStrings: ['e', ' '] })
  const judged = await run('onlineDpo', { judge: longer, stopStrings: ['e', ' '] })
  t.equal(judged.hash, rewarded.hash, 'who wins most of three is the longest')
  t.equal(inputs[0].completions.length, 6, 'all pairs of both prompts')
  t.match(inputs[0], { completionIds: [[Array, Array]], finishReasons: [[String, String]], rows: [{ prompt: String }] })
  const byReward = await run('onlineDpo', { judge: judgeByReward(length), stopStrings: ['e', ' '] })
  t.equal(byReward.hash, rewarded.hash, 'a judge by a reward function')
  t.match(byReward.events[0], { notes: [String, String, 'judge: length'] })
  const silent = judgeByReward(({ completions }) => completions.map((text) => (text === 'b' ? null : text.length)))
  const side = (a: string, b: string) => ({ completions: [[a, b]], completionIds: [[[], []]], finishReasons: [[]] })
  const say = (a: string, b: string) => silent({ ...side(a, b), tasks: [{ id: '1' }], prompts: [''] } as never)
  t.same(
    [await say('aa', 'c'), await say('c', 'aa'), await say('c', 'd'), await say('aa', 'b')],
    [[1], [0], [0.5], [0.5]],
  )
  const broken = judgeByReward(() => [Number.NaN])
  await t.rejects(run('onlineDpo', { judge: broken }), { code: 'E_VERIFIER', where: 'judge', message: /list of 6/ })
  await t.rejects(run('onlineDpo', { judge: longer, missingEosPenalty: 1 }), {
    code: 'E_CONFIG',
    where: 'missingEosPenalty',
  })
  await t.rejects(run('grpo', { judge: longer }), { code: 'E_CONFIG', where: 'judge' })
})

t.test('a model of pairs judges as it was trained, by folder too', async (t) => {
  const trained = await trainJudge(join(folder, 'pairs'), pairReward())
  const before = await liveBytes()
  using model = await loadModel(trained)
  const { tokenizer } = model
  const shown = (prompt: string, other: string, own: string) =>
    `${prompt}\n\nAn answer:\n${other}\n\nA better answer:\n${own}`
  const byHand: PairJudge = async function pairs({ prompts, completions }) {
    const better = async (i: number, own: string, other: string) => {
      const ids = [...tokenizer.encode(shown(prompts[i], other, own)), tokenizer.eosId ?? 0]
      return logistic((await model.scores([ids]))[0][0])
    }
    return Promise.all(
      completions.map(async ([a, b], i) => ((await better(i, a, b)) + 1 - (await better(i, b, a))) / 2),
    )
  }
  const hand = await run('onlineDpo', { judge: byHand })
  t.equal((await run('onlineDpo', { judge: pairJudge(model) })).hash, hand.hash)
  const path = await run('onlineDpo', { judge: trained })
  t.equal(path.hash, hand.hash, 'by folder')
  t.match(path.events[0], { notes: [String, String, 'judge: pairs'] }, 'named as its run')
  const chosen = rowsOf.preference.map((row) => row as { prompt: string; chosen: string; rejected: string })
  const input = {
    prompts: chosen.map(({ prompt }) => prompt),
    tasks: chosen.map(({ prompt }, i) => ({ id: String(i), prompt, answer: '' })),
    completions: chosen.map((row) => [row.chosen, row.rejected]),
  }
  const said = await pairJudge(model)(input as never)
  t.ok(mean(said.map(Number)) > 0.5, 'it prefers what it was shown as better')
  const swapped = { ...input, completions: chosen.map((row) => [row.rejected, row.chosen]) }
  const other = await pairJudge(model)(swapped as never)
  t.ok(
    said.every((p, i) => Math.abs(p + other[i] - 1) < 1e-12),
    'in both orders the same',
  )
  await t.rejects(run('onlineDpo', { judge: base }), { code: 'E_CONFIG', message: /got a language model/ })
  model.dispose()
  t.equal(await liveBytes(), before, 'a run frees what it loaded')
})
