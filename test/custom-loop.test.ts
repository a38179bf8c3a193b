// A loop of one's own from what the package exports: the parts fit together, settings that are left out are the trainer's,
// and evaluation outside of a run.

import { join } from 'node:path'
import t from 'tap'
import * as api from '../ts/src/index.js'
import { liveBytes, temporaryFolder } from './support.js'
import { rowsOf, tinyFolder, weightsHash } from './support-kinds.js'
import { makeTwoLetters, prompts, share } from './support-recipes.js'

const folder = await temporaryFolder(t)
const letters = join(folder, 'letters')
await makeTwoLetters(letters)
const { base } = await tinyFolder(t)

const tasks: readonly api.Task[] = prompts.map((row, i) => ({ id: `${i}`, prompt: row.prompt, answer: '', row }))

/** Runs a loop of policy gradients, or of pairs, on two letters. */
async function run(update: Partial<api.UpdateOptions>, select?: api.Select, pairs = false) {
  using policy = await api.loadModel(letters)
  using prior = await api.loadModel(letters)
  const rewards: number[] = []
  const emit: api.Emit = (event) => {
    if (event.type === 'round') rewards.push(event.values.reward)
  }
  const explore: api.Explore = api.sampleGroup({ numGenerations: 8, maxNewTokens: 4 })
  const score: api.Score = api.scoreRewards(api.nameRewards([share]))
  const own = pairs
    ? { objective: api.dpo({ beta: 0.1 }), toExamples: api.pairExamples() }
    : { objective: api.grpo(), toExamples: api.policyExamples }
  const result: api.PhaseResult = await api.iterate({
    policy,
    reference: prior.decoder,
    tasks: (round) => tasks.map((task) => ({ ...task, id: `${task.id} in ${round}` })),
    explore,
    score,
    select: select ?? (pairs ? (traces) => [...traces] : api.credit(api.advantages.grpo)),
    update: { schedule: { learningRate: 1e-2 }, stepsPerRound: 2, batchSize: pairs ? 3 : 24, ...own, ...update },
    rounds: 12,
    seed: 3,
    emit,
  })
  return { result, rewards, hash: await weightsHash(policy) }
}

t.test('a loop of public parts learns', async (t) => {
  for (const pairs of [false, true]) {
    const { rewards, result } = await run({}, undefined, pairs)
    t.equal(result.step, 24)
    t.ok(rewards[11] > rewards[0] + 0.3, `${pairs ? 'pairs' : 'advantages'}: from ${rewards[0]} to ${rewards[11]}`)
  }
})

t.test('settings that are left out are those of the trainer', async (t) => {
  const { hash } = await run({})
  const optimizer = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 }
  const schedule = { learningRate: 1e-2, lrSchedulerType: 'linear', warmupSteps: 0 } as const
  t.equal((await run({ optimizer, schedule })).hash, hash, 'all of them written out: the same bits')
  t.equal((await run({ optimizer: { adamBeta1: 0.9 } })).hash, hash)
  t.not((await run({ optimizer: { adamBeta2: 0.9 } })).hash, hash, 'and they count')
  const refused: readonly (readonly [update: object, where: string, message: RegExp])[] = [
    [
      { optimizer: { learningRate: 1 } },
      'iterate.update.optimizer.learningRate',
      /expected one of adamBeta1, .*maxGrad/,
    ],
    [{ optimizer: { adamBeta1: 2 } }, 'iterate.update.optimizer.adamBeta1', /got 2/],
    [{ schedule: {} }, 'iterate.update.schedule.learningRate', /expected number/],
    [{ schedule: { learningRate: 1, warmup: 3 } }, 'iterate.update.schedule.warmup', /warmupSteps/],
  ]
  for (const [update, where, message] of refused)
    await t.rejects(run(update), { code: 'E_CONFIG', where, message }, where)
})

t.test('scores that are missing are named', async (t) => {
  const all: api.Select = (traces) => [...traces]
  await t.rejects(run({}, all), { code: 'E_CONFIG', message: /sample 0\] expected the score 'advantage', got rewards/ })
  await t.rejects(run({ toExamples: api.pairExamples('gain') }, all, true), { message: /expected the score 'gain'/ })
  t.throws(() => api.scoreRewards([share] as never), { code: 'E_CONFIG', message: /nameRewards/ })
})

t.test('an evaluation is the one of a run', async (t) => {
  const before = await liveBytes()
  const cases = { sft: api.sft(), dpo: api.dpo(), kto: api.kto(), reward: api.reward() }
  for (const [name, objective] of Object.entries(cases)) {
    const rows = rowsOf[api.rowKindOf(objective)] as never[]
    using policy = await api.loadModel(base, { scoreLabels: objective.needs.values, seed: 2 })
    using prior = await api.loadModel(base, { scoreLabels: objective.needs.values, seed: 2 })
    const reference = objective.needs.reference ? prior.decoder : undefined
    const [data, evalData] = [rows.slice(0, 3), rows.slice(3)]
    const options = { policy, objective, reference }
    const job = api.train({ ...options, data, evalData, maxSteps: 3, learningRate: 1e-2, perDeviceTrainBatchSize: 2 })
    let seen: Readonly<Record<string, number>> = {}
    for await (const event of job) if (event.type === 'eval') seen = event.values
    const { loss, stats, rows: count, trainedTokens } = await api.evaluateLoss({ ...options, data: evalData })
    t.same({ loss, ...stats }, seen, `${name}: loss ${loss}, to the bit`)
    t.equal(count, evalData.length)
    t.ok(trainedTokens > 0)
    const apart = await api.evaluateLoss({ ...options, data: evalData, perDeviceEvalBatchSize: 1, sharePrompts: false })
    t.equal(apart.loss, loss, 'however it is cut')
    const [first, rest] = [await api.evaluateLoss({ ...options, data: rows, limit: 3 }), await job.result]
    t.equal(first.rows, 3)
    t.ok(Object.values(rest.metrics).every(Number.isFinite))
  }
  t.equal(await liveBytes(), before, 'nothing stays behind')
})

t.test('the reference of an evaluation', async (t) => {
  const data = rowsOf.preference as never[]
  using policy = await api.loadModel(base, { lora: { r: 2 } })
  using plain = await api.loadModel(base)
  await api.train({ policy, objective: api.dpo(), data, maxSteps: 3, learningRate: 1e-2 }).result
  const { loss } = await api.evaluateLoss({ policy, objective: api.dpo(), data })
  t.ok(loss < Math.log(2), 'without one it is the policy without its adapter')
  t.equal((await api.evaluateLoss({ policy, objective: api.dpo(), data, reference: plain.decoder })).loss, loss)
  const refused = (options: object, expected: { code: string; message?: RegExp; where?: string }) =>
    t.rejects(api.evaluateLoss({ policy: plain, objective: api.dpo(), data, ...options }), expected)
  await refused({}, { code: 'E_CONFIG', where: 'reference', message: /compare with: dpo\S* looks at one/ })
  await refused({ reference: plain.decoder }, { code: 'E_CONFIG', where: 'reference' })
  await refused({ policy, batchSize: 2 }, { code: 'E_CONFIG', message: /perDeviceEvalBatchSize|did you mean/ })
  await refused({ policy, data: [{ prompt: 'a' }] }, { code: 'E_FORMAT' })
})
