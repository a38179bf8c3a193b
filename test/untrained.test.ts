// Loops and online methods that train nothing: rounds, reports, samples on disk, going on after a stop.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import * as z from 'zod'
import * as api from '../ts/src/index.js'
import { settingsFrom, startOnline } from '../ts/train/loop/online.js'
import { onlineShape } from '../ts/train/loop/online-shape.js'
import { temporaryFolder } from './support.js'
import { weightsHash } from './support-kinds.js'
import { makeTwoLetters, prompts, share } from './support-recipes.js'

const folder = await temporaryFolder(t)
const letters = join(folder, 'letters')
await makeTwoLetters(letters)
const tasks: readonly api.Task[] = prompts.map((row, i) => ({ id: `${i}`, prompt: row.prompt, answer: '', row }))

/** Rounds of two letters, without an update. */
async function run(policy: api.LanguageModel, options: Partial<api.IterateOptions> = {}) {
  const rewards: number[] = []
  const monitored: number[] = []
  const result = await api.iterate({
    policy,
    tasks: (round) => tasks.map((task) => ({ ...task, id: `${task.id} in ${round}` })),
    explore: api.sampleGroup({ numGenerations: 4, maxNewTokens: 4 }),
    score: api.scoreRewards(api.nameRewards([share])),
    select: () => [],
    rounds: 4,
    seed: 3,
    monitor: async (round) => void monitored.push(round),
    emit: (event) => event.type === 'round' && rewards.push(event.values.reward),
    ...options,
  })
  return { result, rewards, monitored }
}

t.test('rounds report and train nothing, though nothing was selected', async (t) => {
  using policy = await api.loadModel(letters)
  const before = await weightsHash(policy)
  const { result, rewards, monitored } = await run(policy)
  t.same(result, { step: 4, stepsDone: 4, stopped: false, last: undefined, checkpoint: undefined })
  t.same(monitored, [1, 2, 3, 4])
  t.equal(new Set(rewards).size, 4, `other samples in every round: ${rewards}`)
  t.equal(await weightsHash(policy), before)
})

t.test('a run that was stopped goes on', async (t) => {
  using policy = await api.loadModel(letters)
  const whole = await run(policy, { output: join(folder, 'whole') })
  const output = join(folder, 'cut')
  const stop = new AbortController()
  const first = await run(policy, {
    output,
    signal: stop.signal,
    monitor: async (round) => (round === 2 ? stop.abort() : undefined),
  })
  t.match(first.result, { step: 2, stepsDone: 2, stopped: true })
  const rest = await run(policy, { output, resume: true })
  t.match(rest.result, { step: 4, stepsDone: 2, stopped: false })
  t.same([...first.rewards, ...rest.rewards], whole.rewards, 'the same rounds')
  t.same(rest.monitored, [3, 4], 'each once')
  const shards = (name: string) =>
    readdirSync(join(folder, name), { recursive: true, encoding: 'utf8' }).filter((file) => /samples/.test(file))
  t.equal(shards('cut').length, 4)
  for (const shard of shards('cut'))
    t.equal(readFileSync(join(output, shard), 'utf8'), readFileSync(join(folder, 'whole', shard), 'utf8'), shard)
  t.same((await run(policy, { output, resume: true })).rewards, [], 'it is done')
  await t.rejects(run(policy, { output, resume: true, seed: 4 }), { code: 'E_MISMATCH', where: 'seed' })
  await t.rejects(run(policy, { output }), { code: 'E_CONFIG', message: /resume/ })
  using other = await api.loadModel(letters, { lora: { r: 2 } })
  await t.rejects(run(other, { output, resume: true }), { code: 'E_MISMATCH', where: /policySha256/ })
})

t.test('an online method without an objective', async (t) => {
  using policy = await api.loadModel(letters)
  const before = await weightsHash(policy)
  const output = join(folder, 'online')
  const schema = z.strictObject(onlineShape)
  const start = (resume: boolean) =>
    startOnline(
      { policy, prompts, evalData: prompts.slice(0, 2), rewardFuncs: [share], output, resume, ...settings } as never,
      (sources) => settingsFrom(schema, sources),
      () => ({}),
    )
  const settings = {
    rounds: 2,
    promptsPerRound: 4,
    numGenerations: 4,
    maxCompletionLength: 4,
    evalRounds: 1,
    samples: 0,
    seed: 3,
  }
  const run = start(false)
  const seen: string[] = []
  for await (const event of run) seen.push(`${event.type} ${'step' in event ? event.step : ''}`.trim())
  t.same(seen, ['start 0', 'round', 'eval 1', 'round', 'eval 2', 'end 2'])
  t.match(await run.result, { step: 2, stepsDone: 2, stopped: false })
  t.equal(await weightsHash(policy), before)
  t.notOk(existsSync(join(output, 'rounds/checkpoints')))
  t.match(await start(true).result, { step: 2, stepsDone: 0 })
})
