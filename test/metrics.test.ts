// What step events say: means over the steps since the event before, passes over the data, tokens so far; the same in
// metrics.jsonl, and going on where a run was stopped.

import { join } from 'node:path'
import t from 'tap'
import type { Objective } from '../ts/loss/define.js'
import { dpo, sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import type { StepEvent, TrainEvent } from '../ts/train/events.js'
import { recipes } from '../ts/train/recipes/index.js'
import { readMetrics } from '../ts/train/run-folder.js'
import { type TrainOptions, train } from '../ts/train/train.js'
import { rowsOf, tinyFolder } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const data = rowsOf.completion as never[]
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const stepsOf = (events: readonly TrainEvent[]): StepEvent[] => events.flatMap((e) => (e.type === 'step' ? [e] : []))

/** The step events of a run: 8 rows, 2 a step. */
async function run(options: Partial<TrainOptions> = {}): Promise<StepEvent[]> {
  using policy = await loadModel(base)
  const settings = { learningRate: 1e-2, perDeviceTrainBatchSize: 2, maxSteps: 8, policy, data, objective: sft() }
  const job = train({ ...settings, ...options } as TrainOptions)
  const events: TrainEvent[] = []
  for await (const event of job) events.push(event)
  await job.result
  return stepsOf(events)
}

t.test('an event between several steps has their means', async (t) => {
  const output = join(folder, 'windows')
  const every = await run()
  const third = await run({ loggingSteps: 3, output })
  t.same(
    third.map(({ step }) => step),
    [3, 6, 8],
    'and the last step has one',
  )
  for (const event of third) {
    const own = every.filter(({ step }) => step <= event.step && step > event.step - (event.step === 8 ? 2 : 3))
    const last = own[own.length - 1]
    t.equal(event.loss, mean(own.map(({ loss }) => loss)), `step ${event.step}: the mean of ${own.length} losses`)
    t.not(event.loss, last.loss)
    for (const [name, value] of Object.entries(event.stats))
      t.equal(value, mean(own.map(({ stats }) => stats[name])), name)
    for (const name of ['gradNorm', 'learningRate', 'numTokens', 'epoch', 'trainedTokens'] as const)
      t.equal(event[name], last[name], `${name} is the last step's`)
  }
  const logged = stepsOf(await readMetrics(output))
  t.same(
    logged.map(({ loss, stats, epoch, numTokens }) => ({ loss, stats, epoch, numTokens })),
    third.map(({ loss, stats, epoch, numTokens }) => ({ loss, stats, epoch, numTokens })),
    'the same in the log',
  )
})

t.test('epochs and tokens', async (t) => {
  const events = await run()
  t.same(
    events.map(({ epoch }) => epoch),
    [0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2],
  )
  t.same(
    events.map(({ numTokens }) => numTokens),
    events.map((_, i) => events.slice(0, i + 1).reduce((sum, { tokens }) => sum + tokens, 0)),
    'where nothing is shared they are those that went through the model',
  )
  t.equal(events[7].numTokens, 2 * events[3].numTokens, 'each pass has the same')
  const pairs = { data: rowsOf.preference as never[], objective: dpo(), maxSteps: 4 }
  const [shared, whole] = [await run(pairs), await run({ ...pairs, sharePrompts: false })]
  t.same(
    shared.map(({ numTokens }) => numTokens),
    whole.map(({ numTokens }) => numTokens),
    'what sequences share counts for each of them',
  )
  t.ok(shared[0].tokens < whole[0].tokens)
  const [packed] = (await run({ packing: true, maxLength: 512, perDeviceTrainBatchSize: 1, maxSteps: 1 })).slice(-1)
  t.match(packed, { epoch: 1, numTokens: events[3].numTokens })
})

t.test('a step that changed nothing is in no mean', async (t) => {
  let looks = 0
  const plain = sft()
  const spoilt: Objective = {
    ...plain,
    evaluate: (batch) => (++looks === 2 ? { ...plain.evaluate(batch), loss: Number.NaN } : plain.evaluate(batch)),
  }
  const every = await run({ objective: spoilt, nonFinite: 'skip', maxSteps: 3 })
  looks = 0
  const [event] = await run({ objective: spoilt, nonFinite: 'skip', maxSteps: 3, loggingSteps: 3 })
  t.ok(Number.isNaN(every[1].loss), 'by itself it is told')
  t.equal(event.loss, mean([every[0].loss, every[2].loss]))
})

t.test('counts go on where a run was stopped', async (t) => {
  const whole = await run()
  const output = join(folder, 'stopped')
  const stop = new AbortController()
  let looks = 0
  const objective: Objective = {
    ...sft(),
    evaluate: (batch) => {
      if (++looks === 5) stop.abort(new Error('enough'))
      return sft().evaluate(batch)
    },
  }
  await t.rejects(run({ objective, output, signal: stop.signal }), { code: 'E_ABORTED' })
  const rest = await run({ output, resume: true })
  t.ok(rest.length > 0 && rest.length < 8)
  const pick = ({ step, epoch, numTokens, loss, stats }: StepEvent) => ({ step, epoch, numTokens, loss, stats })
  t.same(rest.map(pick), whole.slice(-rest.length).map(pick))

  looks = 0
  const windows = { loggingSteps: 3, output: join(folder, 'stopped-between') }
  const again = new AbortController()
  const stops: Objective = {
    ...sft(),
    evaluate: (batch) => {
      if (++looks === 5) again.abort(new Error('enough'))
      return sft().evaluate(batch)
    },
  }
  await t.rejects(run({ ...windows, objective: stops, signal: again.signal }), { code: 'E_ABORTED' })
  const resumed = await run({ ...windows, resume: true })
  t.same(resumed.map(pick), (await run({ loggingSteps: 3 })).slice(1).map(pick), 'and so do the means between events')
})

t.test('online methods: passes over the prompts', async (t) => {
  using policy = await loadModel(base)
  const prompts = ['ab', 'cd', 'ef', 'gh'].map((prompt) => ({ prompt }))
  const rewardFuncs = [({ completions }: { completions: readonly string[] }) => completions.map((text) => text.length)]
  const sizes = { rounds: 3, promptsPerRound: 2, numGenerations: 2, maxCompletionLength: 3 }
  const job = recipes.grpo({ policy, prompts, rewardFuncs, ...sizes, perDeviceTrainBatchSize: 2 })
  const events: TrainEvent[] = []
  for await (const event of job) events.push(event)
  t.same(
    stepsOf(events).map(({ epoch }) => epoch),
    [0.25, 0.5, 0.75, 1, 1.25, 1.5],
  )
  t.ok(stepsOf(events).every(({ numTokens }, i, all) => numTokens > (all[i - 1]?.numTokens ?? 0)))
})
