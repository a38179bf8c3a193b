// Trainers on samples over a tiny model: what they learn from, and from whom, must be the same when a run goes on.

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { languageModel, loadModel } from '../ts/src/generate/language-model.js'
import { withAdapter } from '../ts/src/models/adapter.js'
import type { RewardFunction } from '../ts/train/loop/rewards.js'
import { recipes } from '../ts/train/recipes/index.js'
import { train } from '../ts/train/train.js'
import { makeTiny, rowsFor, tinyFolder, weightsHash } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const larger = await makeTiny(join(folder, 'larger'), 48)
const prompts = ['ab', 'cd', 'ef', 'gh'].map((prompt) => ({ prompt, wanted: prompt }))
const lora = { r: 4, loraDropout: 0.2 }

/** How much of a completion is of the wanted letters. */
const reward: RewardFunction = function share({ completions, rows }) {
  return completions.map((text, i) => [...text].filter((c) => String(rows[i].wanted).includes(c)).length)
}

/** Counts rounds, and stops in the one given. */
const stopping = (controller: AbortController, round: number): RewardFunction => {
  let calls = 0
  return Object.defineProperty(
    (input: Parameters<RewardFunction>[0]) => {
      if (++calls === round) controller.abort(new Error('enough'))
      return reward(input)
    },
    'name',
    { value: 'share' },
  )
}

/** How a run differs from the usual one. */
interface Change {
  readonly model?: string
  readonly lora?: object
  readonly reference?: string
  readonly prompts?: readonly { prompt: string; wanted: string }[]
  readonly resume?: boolean
  readonly stopAt?: number
}

async function run(recipe: 'grpo' | 'onlineDpo' | 'bestOfN', output: string | undefined, change: Change = {}) {
  using policy = await loadModel(change.model ?? base, { lora: change.lora ?? lora, seed: 3 })
  using prior = await loadModel(change.reference ?? base)
  const stop = new AbortController()
  const { result } = recipes[recipe]({
    policy,
    reference: change.reference === undefined ? undefined : prior.decoder,
    prompts: change.prompts ?? prompts,
    rewardFuncs: [change.stopAt === undefined ? reward : stopping(stop, change.stopAt)],
    rounds: 4,
    promptsPerRound: 2,
    numGenerations: 4,
    maxCompletionLength: 5,
    learningRate: 1e-2,
    ...(recipe === 'bestOfN' ? {} : { beta: 0.1 }),
    output,
    resume: change.resume,
    signal: stop.signal,
  })
  const { stepsDone } = await result
  return { stepsDone, hash: await weightsHash(policy) }
}

t.test('adapters with dropout: stopped and resumed', async (t) => {
  for (const recipe of ['grpo', 'onlineDpo', 'bestOfN'] as const) {
    const whole = await run(recipe, undefined)
    const output = join(folder, recipe)
    await t.rejects(run(recipe, output, { stopAt: 3 }), { code: 'E_ABORTED' })
    const rest = await run(recipe, output, { resume: true })
    t.ok(rest.stepsDone > 0 && rest.stepsDone < whole.stepsDone, `${recipe}: ${rest.stepsDone} of ${whole.stepsDone}`)
    t.equal(rest.hash, whole.hash, `${recipe}: the bits of the run that went through`)
  }
})

t.test('what decides the numbers must be the same', async (t) => {
  const output = join(folder, 'changed')
  await t.rejects(run('onlineDpo', output, { stopAt: 3 }), { code: 'E_ABORTED' })
  const changes: readonly (readonly [where: string, change: Change])[] = [
    ['baseSha256', { model: larger }],
    ['lora', { lora: { ...lora, loraAlpha: 3 } }],
    ['prompts', { prompts: prompts.map((row) => ({ ...row, wanted: 'x' })) }],
  ]
  for (const [where, change] of changes)
    await t.rejects(run('onlineDpo', output, { ...change, resume: true }), { code: 'E_MISMATCH', where }, where)
  const other = { reference: larger, resume: true }
  await t.rejects(run('onlineDpo', output, other), { code: 'E_MISMATCH', where: 'referenceSha256' }, 'the reference')
  t.ok((await run('onlineDpo', output, { resume: true })).stepsDone > 0)
})

t.test('one training of a policy at a time', async (t) => {
  using policy = await loadModel(base)
  const busy = { code: 'E_CONFIG', where: 'policy', message: /got one that is in training: await/ }
  const rows = { policy, objective: sft(), data: rowsFor(sft()), maxSteps: 2 }
  const samples = { policy, prompts, rewardFuncs: [reward], rounds: 1, maxCompletionLength: 4, numGenerations: 2 }
  const starts = [
    (output?: string) => train({ ...rows, output }).result,
    (output?: string) => recipes.grpo({ ...samples, output }).result,
  ]
  for (const first of starts)
    for (const second of starts) {
      const running = first()
      const output = join(folder, 'second')
      await t.rejects(second(output), busy)
      await t.rejects(stat(output), 'the second has made nothing')
      await running
    }
  t.equal((await train(rows).result).step, 2, 'it can be trained again when the first has ended')
  await t.rejects(train({ ...rows, data: [] }).result)
  const stopped = train({ ...rows, signal: AbortSignal.abort() }).result
  await t.rejects(stopped, { code: 'E_ABORTED' })
  const alone = await train(rows).result
  t.equal(alone.step, 2, 'also when it ended badly')

  const [one, other] = [1, 2].map((seed) => withAdapter(policy.decoder, { r: 2 }, seed))
  const results = await Promise.all(
    [one, other].map((decoder) => train({ ...rows, policy: languageModel(decoder, policy.tokenizer, base) }).result),
  )
  t.same(
    results.map(({ step }) => step),
    [2, 2],
    'two adapters over one base do not meet',
  )
})
