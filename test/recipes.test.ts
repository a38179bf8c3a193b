// Online recipes on a model of two letters: the reward rises, a second run has the same bits, a run that was killed goes
// on to the same weights, bad inputs are refused before anything is sampled.

import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import type { TrainEvent } from '../ts/train/events.js'
import type { RewardFunction } from '../ts/train/loop/rewards.js'
import { onlineOptions, recipes } from '../ts/train/recipes/index.js'
import { createTask } from '../ts/train/tasks/index.js'
import { liveBytes, temporaryFolder } from './support.js'
import { filesOf } from './support-loop.js'
import {
  later,
  makeTeacher,
  makeTwoLetters,
  prompts,
  type RecipeName,
  runRecipe,
  settings,
  share,
} from './support-recipes.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)
await makeTeacher(base)

const names = Object.keys(settings) as RecipeName[]
const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const steps = (events: readonly TrainEvent[]) => events.filter((event) => event.type === 'step')
const rounds = (events: readonly TrainEvent[]) => events.filter((event) => event.type === 'round')
const evaluations = (events: readonly TrainEvent[]) => events.filter((event) => event.type === 'eval')

for (const name of names)
  t.test(`${name} learns, and to the same bits`, async (t) => {
    const before = await liveBytes()
    const whole = join(folder, name)
    const first = await runRecipe(name, { base, options: { output: whole } })
    t.equal(await liveBytes(), before, 'a run leaves no memory behind')
    const [early, late] = [mean(first.rewards.slice(0, 3)), mean(first.rewards.slice(-3))]
    // What these learn is in recipe-rules.test.ts and recipe-turns.test.ts: they have no rewards, two steps from the base
    // in each round, refusals, or strategies that the loop begins.
    const isElsewhere = ['sharpening', 'still', 'autoCei', 'smart'].includes(name)
    t.ok(isElsewhere || late > early + 0.5, `the reward rises from ${early.toFixed(2)} to ${late.toFixed(2)}`)
    t.match(first, { step: 24, stepsDone: 24, stopped: false })
    t.match(first.events[0], { type: 'start', totalSteps: 24, notes: [`model ${base}`, '6 prompts', 'rewards: share'] })
    t.equal(first.events.filter(({ type }) => type === 'sample').length, 24, 'two samples of each round are shown')
    t.equal(first.events.at(-1)?.type, 'end')
    const again = await runRecipe(name, { base, options: { rewardFuncs: [later], rewardWeights: [1] } })
    t.equal(again.hash, first.hash, 'without files, with an asynchronous reward: the same weights')
    const other = await runRecipe(name, { base, options: { seed: 4, rounds: 2 } })
    t.not(other.hash, first.hash, 'another seed has others')

    const output = join(folder, `${name}-killed`)
    const program = join(import.meta.dirname, 'support-recipes.js')
    const child = spawn(process.execPath, [program, name, base, output, '5'], { stdio: 'inherit' })
    t.equal(await new Promise((resolve) => child.once('exit', (_, signal) => resolve(signal))), 'SIGKILL')
    const stopped = new AbortController()
    const half = runRecipe(name, {
      base,
      options: { output, resume: true, signal: stopped.signal },
      onEvent: (event) => {
        if (event.type === 'step' && event.step >= 15) stopped.abort(new Error('enough'))
      },
    })
    await t.rejects(half, { code: 'E_ABORTED' }, 'stopped in the middle of a round')
    await t.rejects(runRecipe(name, { base, options: { output } }), { code: 'E_CONFIG' }, 'nothing starts over')
    const ended = await runRecipe(name, { base, options: { output, resume: true } })
    t.ok(ended.stepsDone < 14, `${ended.stepsDone} steps were left`)
    t.equal(ended.hash, first.hash, 'killed, stopped and resumed: the same weights')
    t.same(await filesOf(output), await filesOf(whole), 'the same samples, moments and state')
    const log = await readFile(join(output, 'metrics.jsonl'), 'utf8')
    t.match(log, /"rewards\/share\/mean"/)
  })

t.test('methods with two models do not look at the number of threads', async (t) => {
  const device = getDevice()
  const { threads } = device
  for (const name of ['onlineXpo', 'onlineNashMd', 'onlineGkd'] as const) {
    const hashes = new Set<string>()
    for (const count of [1, 2]) {
      device.threads = count
      hashes.add((await runRecipe(name, { base, options: { rounds: 3 } })).hash)
    }
    t.equal(hashes.size, 1, name)
  }
  device.threads = threads
})

t.test('every method of policy gradients learns', async (t) => {
  for (const method of onlineOptions.grpo.shape.method.unwrap().options) {
    const options = { method, gradientAccumulationSteps: 4, rounds: 24, beta: 0.001, maskTruncatedCompletions: false }
    const { rewards, events } = await runRecipe('grpo', { base, options })
    const [early, late] = [mean(rewards.slice(0, 3)), mean(rewards.slice(-3))]
    t.ok(late > early + 0.3, `${method}: from ${early.toFixed(2)} to ${late.toFixed(2)}`)
    const [first, second] = steps(events)
    t.match(first.stats, { ratio: 1, kl: 0 }, 'on policy, at the reference: exactly')
    const clips = Object.entries(first.stats).filter(([name]) => name.includes('clip_ratio'))
    t.equal(
      clips.length,
      { reinforce: 0, sapo: 0, vespo: 0, cispo: 1 }[method as string] ?? 3,
      `${method}: what it clips`,
    )
    t.ok(clips.every(([, share]) => share === 0))
    t.ok(second.stats.kl > 0, 'then the policy leaves the reference')
  }
})

t.test('the first ratio of a round is exactly 1', async (t) => {
  const cases = {
    plain: {},
    warm: { temperature: 1.5 },
    cold: { temperature: 0.6 },
    cut: { temperature: 0.8, topK: 3 },
  }
  for (const [name, options] of Object.entries(cases)) {
    const passes = { ...options, numIterations: 3, rounds: 3, gradientAccumulationSteps: 4 }
    const { events } = await runRecipe('grpo', { base, options: passes })
    const ratios = steps(events).map(({ stats }) => stats.ratio)
    t.equal(ratios.length, 9)
    t.same([ratios[0], ratios[3], ratios[6]], [1, 1, 1], `${name}: the log-probs are the sampler's, bit for bit`)
    t.notOk(
      [1, 2, 4, 5, 7, 8].some((step) => ratios[step] === 1),
      `${name}: later passes look back`,
    )
  }
  const ratioOf = async (disableDropout?: boolean) => {
    const load = { lora: { r: 2, loraDropout: 0.5 }, seed: 1 }
    const options = { rounds: 2, gradientAccumulationSteps: 4, disableDropout }
    return steps((await runRecipe('grpo', { base, load, options })).events)[1].stats.ratio
  }
  t.equal(await ratioOf(), 1, 'dropout of an adapter is not there')
  t.not(await ratioOf(false), 1, 'unless it is asked for')
})

t.test('settings of the objective reach it', async (t) => {
  const usual = { rounds: 2, beta: 0.5, numIterations: 3, learningRate: 3e-2 }
  const hashOf = async (options: Readonly<Record<string, unknown>>) =>
    (await runRecipe('grpo', { base, options: { ...usual, ...options } })).hash
  const plain = await hashOf({})
  for (const changed of [
    { klEstimator: 'rhoK3' },
    { entropyCoef: 0.1 },
    { dualClip: 1.001 },
    { offPolicyMaskThreshold: -1 },
    { delta: 1.001 },
    { lossType: 'luspo' },
    { lossType: 'drGrpo' },
    { topEntropyQuantile: 0.5 },
    { normalizeAdvantages: true },
    { rewardClipRange: [0, 0.2] },
    { multiObjectiveAggregation: 'normalizeThenSum' },
  ])
    t.not(await hashOf(changed), plain, JSON.stringify(changed))
  t.equal(await hashOf({ lossType: 'grpo' }), plain)
  t.equal(await hashOf({ lossType: 'bnpo' }), await hashOf({ lossType: 'dapo' }), 'over a whole step they are one')
  const sapo = await hashOf({ method: 'sapo' })
  for (const temperature of ['sapoTemperaturePos', 'sapoTemperatureNeg'])
    t.not(await hashOf({ method: 'sapo', [temperature]: 2 }), sapo, temperature)
  const vespo = await hashOf({ method: 'vespo' })
  for (const setting of ['vespoKPos', 'vespoLambdaPos', 'vespoKNeg', 'vespoLambdaNeg'])
    t.not(await hashOf({ method: 'vespo', [setting]: 1 }), vespo, setting)
})

t.test('micro-batches change nothing', async (t) => {
  for (const topEntropyQuantile of [1, 0.4]) {
    const cut = (perDeviceTrainBatchSize: number, gradientAccumulationSteps: number) =>
      runRecipe('grpo', {
        base,
        options: { rounds: 3, perDeviceTrainBatchSize, gradientAccumulationSteps, topEntropyQuantile },
      })
    const [one, four, all] = [await cut(16, 1), await cut(4, 4), await cut(1, 16)]
    t.equal(four.hash, one.hash)
    t.equal(all.hash, one.hash)
  }
})

t.test('groups without a difference', async (t) => {
  const same: RewardFunction = function same({ tasks }) {
    return tasks.map(() => 0.25)
  }
  const options = { rewardFuncs: [same], rounds: 1, weightDecay: 0 }
  for (const name of ['grpo', 'onlineDpo'] as const) {
    const { events, hash } = await runRecipe(name, { base, options })
    t.match(rounds(events)[0].values, { reward: 0.25, reward_std: 0, frac_reward_zero_std: 1 })
    t.ok(
      steps(events).every(({ gradNorm }) => gradNorm === 0),
      `${name}: no gradient`,
    )
    const still = await runRecipe(name, { base, options: { ...options, learningRate: 0 } })
    t.equal(hash, still.hash, `${name}: no change`)
  }
})

t.test('dynamic sampling', async (t) => {
  // Prompts that begin with b have one reward for all samples, others the share of b.
  const half: RewardFunction = function half(input) {
    const shares = input.completions.map((text) => [...text].filter((c) => c === 'b').length / 4)
    return shares.map((value, i) => (input.prompts[i].startsWith('b') ? 0.5 : value))
  }
  const options = { method: 'dapo', rewardFuncs: [half], rounds: 2, maskTruncatedCompletions: false } as const
  const { events, hash, step } = await runRecipe('grpo', { base, options })
  const [{ values }] = rounds(events)
  t.ok(values.tasks > 4 && values.tasks % 4 === 0, `${values.tasks} prompts were tried, four at a time`)
  t.equal(values.kept, 32, 'four groups of eight remain')
  t.equal(step, 4)
  const output = join(folder, 'dynamic')
  const stopped = new AbortController()
  const onEvent = (event: TrainEvent) => {
    if (event.type === 'step') stopped.abort()
  }
  const first = runRecipe('grpo', { base, options: { ...options, output, signal: stopped.signal }, onEvent })
  await t.rejects(first, { code: 'E_ABORTED' })
  const resumed = await runRecipe('grpo', { base, options: { ...options, output, resume: true } })
  t.equal(resumed.hash, hash, 'resumed: the same weights')
  const other = runRecipe('grpo', { base, options: { ...options, output, resume: true, prompts: prompts.slice(1) } })
  await t.rejects(other, { code: 'E_MISMATCH', message: /prompts/ }, 'with other prompts it does not go on')
  const none = { ...options, rewardFuncs: [(input: { tasks: readonly unknown[] }) => input.tasks.map(() => 1)] }
  const tied = await runRecipe('grpo', { base, options: none })
  t.match(rounds(tied.events)[0].values, { tasks: 16, kept: 32 }, 'nothing differs: tied groups take the places')
})

t.test('checkpoints now and then, layers computed twice', async (t) => {
  const whole = await runRecipe('grpo', { base, options: { rounds: 5 } })
  const output = join(folder, 'now-and-then')
  const options = { rounds: 5, output, saveRounds: 3, saveTotalLimit: 1, gradientCheckpointing: true }
  const { hash, events } = await runRecipe('grpo', { base, options })
  t.equal(hash, whole.hash, 'the same weights')
  t.same(
    events.flatMap((event) => (event.type === 'checkpoint' ? event.step : [])),
    [6, 10],
  )
  const kl = await runRecipe('bestOfN', { base, options: { kappa: 0.5, rounds: 2 } })
  t.ok(steps(kl.events)[1].stats.kl > 0, 'best of n with a KL term')
})

t.test('what was cut off', async (t) => {
  const mask = { maskTruncatedCompletions: true, rounds: 1 }
  const { events } = await runRecipe('grpo', { base, options: mask })
  const [{ values }] = rounds(events)
  const trained = steps(events).reduce((sum, { trainedTokens }) => sum + trainedTokens, 0)
  const ended = Math.round(32 * (1 - values['completions/clipped_ratio']))
  t.ok(ended > 0 && ended < 32, `${ended} of 32 ended by themselves`)
  t.equal(trained, Math.round(ended * values['completions/mean_terminated_length']), 'they alone are trained')
  const short = runRecipe('grpo', { base, options: { ...mask, maxCompletionLength: 1, prompts: [{ prompt: 'a=b' }] } })
  await short.catch((error: unknown) => t.match(error, { code: 'E_VERIFIER' }))
  const soft = await runRecipe('grpo', { base, options: { rounds: 1, softPunishCache: 2 } })
  t.ok(rounds(soft.events)[0].values['rewards/overlong/mean'] < 0, 'long samples are punished')
})

t.test('two attempts', async (t) => {
  const { events } = await runRecipe('score', { base })
  const [first] = rounds(events)
  t.equal(first.values.kl, 0, 'the policy begins at the reference')
  for (const name of ['reward/1/mean', 'reward/2/mean', 'turns/gain', 'turns/mended', 'turns/broken', 'turns/changed'])
    t.type(first.values[name], 'number', name)
  t.ok((rounds(events).at(-1)?.values.kl ?? 0) > 0, 'and leaves it')
  const only = await runRecipe('score', { base, options: { stageOneRounds: 1, rounds: 1, beta1: 0, beta2: 0 } })
  const both = await runRecipe('score', { base, options: { stageOneRounds: 0, rounds: 1, beta1: 0, beta2: 0 } })
  t.not(only.hash, both.hash, 'the stages differ')
})

t.test('the reference is the start unless another is given', async (t) => {
  for (const [name, options] of [
    ['grpo', { beta: 0.1 }],
    ['onlineDpo', {}],
    ['onlineXpo', {}],
    ['onlineNashMd', {}],
    ['score', {}],
  ] as const) {
    const given = await runRecipe(name, { base, options: { ...options, rounds: 2 } })
    const started = await runRecipe(name, { base, options: { ...options, rounds: 2, reference: undefined } })
    t.equal(started.hash, given.hash, name)
    const follows = { syncRefModel: true, refModelSyncSteps: 1 }
    const moved = await runRecipe(name, { base, options: { ...options, ...follows, rounds: 2 } })
    t.not(moved.hash, given.hash, `${name}: a reference that follows is another`)
    const again = await runRecipe(name, { base, options: { ...options, ...follows, rounds: 2, reference: undefined } })
    t.equal(again.hash, moved.hash, `${name}: and the one that was given stays as it is`)
  }
})

t.test('a task source brings its checker', async (t) => {
  const source = createTask('arithmetic', { seed: 1, difficulty: 1 })
  t.throws(() => source.train(100_000), { code: 'E_CONFIG' })
  const { makeTaskModel } = await import('../ts/train/task-model.js')
  const sums = join(folder, 'sums')
  await makeTaskModel(sums, source, { seed: 1, hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32 })
  const options = { prompts: source, rewardFuncs: undefined, rounds: 2, trainTasks: 10 }
  const { events } = await runRecipe('grpo', { base: sums, options })
  t.match(events[0], { notes: [`model ${sums}`, '10 prompts', 'rewards: correct'] })
  const held = await runRecipe('grpo', { base: sums, options: { ...options, evalTasks: 5, numGenerationsEval: 2 } })
  t.match(evaluations(held.events), [{ round: 2, values: { tasks: 5, samples: 10, 'rewards/correct/mean': Number } }])
})

t.test('held-out prompts are evaluated on, and change nothing', async (t) => {
  const evalData = ['aab=', 'bba='].map((prompt) => ({ prompt, wanted: 'b' }))
  const usual = { rounds: 4, evalData, evalRounds: 2, numGenerationsEval: 3 }
  /** Evaluations explore as rounds do: a search ends in one answer of a prompt, and first answers of RISE, ILF and LeDex branch. */
  const samplesOf: Partial<Record<RecipeName, number>> = { mctsDpo: 2, rise: 24, ilf: 18, ledex: 24 }
  for (const name of names) {
    const plain = await runRecipe(name, { base, options: { rounds: 4 } })
    const { events, hash, step } = await runRecipe(name, { base, options: usual })
    t.equal(hash, plain.hash, `${name}: the same weights`)
    const evals = evaluations(events)
    t.match(evals, [
      { step: step / 2, round: 2, values: { tasks: 2, samples: samplesOf[name] ?? 6, reward: Number } },
      { step, round: 4, values: { 'rewards/share/std': Number, 'completions/mean_length': Number } },
    ])
    const [{ values }] = rounds(events)
    t.same(
      Object.keys(evals[0].values).filter((key) => values[key] === undefined),
      [],
      'under the names that rounds have',
    )
  }
  using policy = await loadModel(base)
  const keys = evalData.map((_, i) => `round 0 task held-out prompt ${i + 1}`)
  const drawing = { numGenerations: 3, maxNewTokens: 4, seed: 3, promptKeys: keys }
  const groups = await policy.generate(
    evalData.map(({ prompt }) => prompt),
    drawing,
  )
  const completions = groups.flat().map(({ text }) => text)
  const shares = (await share({ completions, rows: completions.map(() => evalData[0]) } as never)) as number[]
  const still = evaluations((await runRecipe('grpo', { base, options: { ...usual, learningRate: 0 } })).events)
  t.ok(Math.abs(still[0].values.reward - mean(shares)) < 1e-12, 'the reward of its samples')
  t.same(still[0].values, still[1].values, 'the same random numbers again')
  for (const name of ['grpo', 'bstar'] as const) {
    const output = join(folder, `evaluated-${name}`)
    const whole = await runRecipe(name, { base, options: usual })
    const stopped = new AbortController()
    const onEvent = ({ type }: TrainEvent) => {
      if (type === 'eval') stopped.abort()
    }
    const first = runRecipe(name, { base, options: { ...usual, output, signal: stopped.signal }, onEvent })
    await t.rejects(first, { code: 'E_ABORTED' })
    const resumed = await runRecipe(name, { base, options: { ...usual, output, resume: true } })
    t.equal(resumed.hash, whole.hash, `${name}, resumed: the same weights`)
    t.same(evaluations(resumed.events).at(-1), evaluations(whole.events).at(-1), 'and the same evaluation')
  }
})

t.test('refused', async (t) => {
  const refuse = async (
    name: RecipeName,
    options: object,
    expected: { code: string; where?: string; message?: RegExp },
  ) => {
    let sampled = 0
    const counting: RewardFunction = function share_(input) {
      sampled++
      return share(input)
    }
    await t.rejects(runRecipe(name, { base, options: { rewardFuncs: [counting], ...options } }), expected)
    t.equal(sampled, 0, 'before anything is sampled')
  }
  await refuse('grpo', { method: 'grop' }, { code: 'E_CONFIG', where: 'method' })
  await refuse('grpo', { numGeneration: 4 }, { code: 'E_CONFIG', message: /did you mean 'numGenerations'/ })
  await refuse('grpo', { numGenerations: 1 }, { code: 'E_CONFIG', where: 'numGenerations' })
  await refuse('grpo', { temperature: 0 }, { code: 'E_CONFIG', where: 'temperature' })
  await refuse('grpo', { rewardFuncs: [] }, { code: 'E_CONFIG', where: 'rewardFuncs' })
  await refuse('grpo', { rewardFuncs: undefined }, { code: 'E_CONFIG', where: 'rewardFuncs' })
  await refuse('grpo', { rewardFuncs: [share, share] }, { code: 'E_CONFIG', message: /'share' twice/ })
  const entries = /expected a list, each entry a function, or a path/
  await refuse('grpo', { rewardFuncs: [{ share }] }, { code: 'E_CONFIG', message: entries })
  await refuse('grpo', { rewardFuncs: ['share'] }, { code: 'E_IO', where: 'share', message: /there is no such folder/ })
  await refuse('grpo', { evalRounds: 2 }, { code: 'E_CONFIG', where: 'evalRounds', message: /evalData/ })
  await refuse('grpo', { evalTasks: 2 }, { code: 'E_CONFIG', where: 'evalTasks' })
  const two = { prompts: createTask('arithmetic', { seed: 1 }), trainTasks: 4, evalData: prompts }
  await refuse('grpo', two, { code: 'E_CONFIG', where: 'evalData', message: /evalTasks/ })
  await refuse('grpo', { evalData: [{ text: 'a' }] }, { code: 'E_FORMAT', where: 'row 1' })
  const source = createTask('countdown', { seed: 1 })
  await refuse('grpo', { evalData: source }, { code: 'E_CONFIG', where: 'recipe.evalData' })
  const unrewarded = { rewardFuncs: undefined, missingEosPenalty: 1 }
  await refuse('onlineGkd', unrewarded, { code: 'E_CONFIG', where: 'rewardFuncs' })
  await refuse('grpo', { rewardWeights: [1, 2] }, { code: 'E_CONFIG', where: 'rewardWeights' })
  await refuse('grpo', { rewardClipRange: [1] }, { code: 'E_CONFIG', where: 'rewardClipRange' })
  await refuse('grpo', { rewardClipRange: [1, 0] }, { code: 'E_CONFIG', where: 'rewardClipRange' })
  const each = { multiObjectiveAggregation: 'normalizeThenSum' }
  for (const other of [{ scaleRewards: 'none' }, { rewardClipRange: [0, 1] }, { normalizeAdvantages: true }])
    await refuse('grpo', { ...each, ...other }, { code: 'E_CONFIG', where: Object.keys(other)[0] })
  await refuse('grpo', { prompts: [] }, { code: 'E_CONFIG', where: 'data' })
  await refuse('grpo', { prompts: [...prompts, { promt: 'a' }] }, { code: 'E_FORMAT', where: 'row 7' })
  await refuse('grpo', { prompts: [{ prompt: [{ role: 'user', content: 'a' }] }] }, { code: 'E_TEMPLATE' })

  const judged = (reward: RewardFunction) => runRecipe('grpo', { base, options: { rewardFuncs: [reward] } })
  const nan: RewardFunction = function nan({ tasks }) {
    return tasks.map((_, i) => (i === 9 ? Number.NaN : 1))
  }
  await t.rejects(judged(nan), { code: 'E_VERIFIER', where: 'reward nan', message: /sample 1 of task prompt/ })
  const broken: RewardFunction = async function broken() {
    throw new Error('no judge today')
  }
  await t.rejects(judged(broken), { code: 'E_VERIFIER', message: /no judge today/ })
  t.same(Object.keys(onlineOptions), Object.keys(recipes).slice(1), 'every recipe but superhf has settings')
})
