// Settings of sampling in online methods, and reward models that judge samples: given by folder they do what the same
// model does by hand.

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { reward as rewardObjective } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { type Options, readFlags } from '../ts/train/cli/flags.js'
import { onlineCatalogue, onlineTrainers, resolveOnline } from '../ts/train/config/online-settings.js'
import type { TrainEvent } from '../ts/train/events.js'
import { rewardModel } from '../ts/train/loop/reward-model.js'
import type { RewardFunction, RewardInput } from '../ts/train/loop/rewards.js'
import { recipes } from '../ts/train/recipes/index.js'
import { train } from '../ts/train/train.js'
import { golden, liveBytes } from './support.js'
import { rowsOf, tinyFolder, weightsHash } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const judge = join(folder, 'judge')
const prompts = ['ab', 'cd', 'ef', 'gh'].map((prompt) => ({ prompt: `say ${prompt}: ` }))

/** Trains a reward model, as a user would, into `judge`. */
async function trainJudge(): Promise<string> {
  using policy = await loadModel(base, { scoreLabels: 1, seed: 2 })
  const data = rowsOf.preference as never
  const { checkpoint } = await train({
    policy,
    objective: rewardObjective(),
    data,
    learningRate: 1e-2,
    maxSteps: 4,
    output: judge,
  }).result
  return checkpoint ?? ''
}
const judgeFolder = await trainJudge()

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
