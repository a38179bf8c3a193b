// Agent-R: which ends are paired, where the first error is, what a splice is made of and trains; and a run in a world of two letters.

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { createRandom, deriveKey } from '../ts/src/base/rng.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import type { TrainEvent } from '../ts/train/events.js'
import {
  actGiven,
  beginEpisodes,
  type Episode,
  episodeStatistics,
  episodeTrace,
  randomBeginning,
  sampleRecovery,
} from '../ts/train/loop/episodes.js'
import { sequenceOf } from '../ts/train/loop/examples.js'
import { splice } from '../ts/train/loop/recast.js'
import type { RewardFunction } from '../ts/train/loop/rewards.js'
import { errorByEnv, errorByVerdict, firstErrors, pairLeaves, spliceOf } from '../ts/train/loop/splices.js'
import type { Trace } from '../ts/train/loop/trace.js'
import { type AgentROptions, agentRSelect } from '../ts/train/recipes/agent-r.js'
import { recipes } from '../ts/train/recipes/index.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { grid } from '../ts/train/tasks/grid.js'
import type { Env, TaskSource } from '../ts/train/tasks/index.js'
import { train } from '../ts/train/train.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters } from './support-recipes.js'
import { trace, trainedOf } from './support-traces.js'

const folder = await temporaryFolder(t)
const [base, rooms] = [join(folder, 'base'), join(folder, 'rooms')]
await makeTwoLetters(base)
const five = grid({ seed: 1, difficulty: 5 })
await makeTaskModel(rooms, five, { seed: 5, hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32 })

const env = five.env?.() as Env
const room = { id: 'room', prompt: 'a00k11d|23g24t21:', answer: '' }
const policy = await loadModel(rooms)
t.teardown(() => policy.dispose())
const context = { policy, seed: 1, round: 1 }

/** An episode of the policy, made of these actions. */
async function episode(actions: string, maxSteps = 20): Promise<Episode> {
  let [one] = await beginEpisodes(context, env, [room])
  for (const action of actions) one = await actGiven(context, one, `${action}=`, { env, maxSteps, role: 'completion' })
  return { ...one, place: actions }
}
const trained = (one: Trace) => {
  const { ids, trained } = sequenceOf(one)
  return policy.tokenizer.decode(ids.filter((_, i) => trained[i] === 1))
}
const whole = ({ segments }: Trace) => segments.map(({ text }) => text).join('')
const good = await episode('rdrdrr')
const bad = await episode('rduuul', 6)

t.test('pairs of ends: alpha and beta', async (t) => {
  const leaves = [
    { episode: good, value: 1 },
    { episode: await episode('drurdrdr'), value: 0.75 },
    { episode: await episode('rduulrdrdrr'), value: 0.5 },
    { episode: bad, value: 0 },
  ]
  const pairs = (alpha: number, beta: number, perTask = 9, round = 1) =>
    pairLeaves(leaves, { alpha, beta, perTask, seed: 1, round }).map(({ bad: b, good: g, shared }) => {
      const worth = (one: Episode) => leaves.find((leaf) => leaf.episode === one)?.value
      return `${worth(g)} > ${worth(b)} behind ${shared}`
    })
  const [first, second, third] = ['1 > 0.75 behind 0', '1 > 0.5 behind 2', '1 > 0 behind 2']
  const others = ['0.75 > 0.5 behind 0', '0.75 > 0 behind 0', '0.5 > 0 behind 4']
  t.same(pairs(0.5, 0.2), [first, second, third, ...others])
  t.same(pairs(0.7, 0.2), [first, second, third, ...others.slice(0, 2)], 'good ones from alpha on')
  t.same(pairs(1, 0.25), [second, third], 'a gap of beta is none')
  t.same(pairs(1, 1), [])
  const drawn = [1, 2, 3, 4, 5, 6].map((round) => pairs(0.5, 0.2, 2, round))
  t.ok(drawn.every((some) => some.length === 2 && new Set(some).size === 2))
  t.ok(new Set(drawn.map(String)).size > 1, 'a draw of the round')
  t.same(drawn[0], pairs(0.5, 0.2, 2))
})

t.test('the first error behind the parting', async (t) => {
  const asked: string[] = []
  const isError = (words: string) => async (episodes: readonly Episode[]) => {
    asked.push(episodes.map(({ steps }) => steps.map(({ action }) => action.text[0]).join('')).join(' '))
    return episodes.map(({ steps }) => words.includes(steps.at(-1)?.action.text[0] ?? ''))
  }
  const pair = { bad, good, shared: 2 }
  t.same(await firstErrors([pair], isError('u')), [3])
  t.same(asked.splice(0), ['rdu'], 'shared steps are not asked about, nor those behind the first error')
  t.same(await firstErrors([pair], isError('rd')), [6], 'none: the end')
  t.same(asked.splice(0), ['rdu', 'rduu', 'rduuu'], 'the cut is there in any case')
  const other = { bad: await episode('lull', 4), good, shared: 0 }
  t.same(await firstErrors([pair, other], isError('u')), [3, 2])
  t.same(asked.splice(0), ['rdu l', 'lu'], 'side by side')
  const done = { bad: good, good: bad, shared: 5 }
  t.same(await firstErrors([done, { ...done, shared: 4 }], isError('')), [undefined, 5], 'nothing follows an end')
  t.same(
    await firstErrors([pair, other], errorByEnv(env)),
    [3, 1],
    'by the world: up is farther away, a wall no nearer',
  )
  await t.rejects(firstErrors([pair], errorByEnv({ ...env, stepsLeft: undefined } as Env)), { code: 'E_CONFIG' })
})

t.test('the actor’s own verdict: which of three answers is the most probable', async (t) => {
  const episodes: Episode[] = []
  for (const actions of ['r', 'rd', 'u', 'ddd', 'x', 'rdrd', 'llul', '!']) episodes.push(await episode(actions))
  const answers = { good: '4', bad: '7', uncertain: 'k' }
  const said = await errorByVerdict(policy, { question: '?', ...answers })(episodes)
  const expected = []
  for (const one of episodes) {
    const ids = policy.tokenizer.encode(`${whole(episodeTrace(one, 0))}?`)
    const logits = (await policy.logits(ids)).slice(-policy.decoder.config.vocabSize)
    const [g, b, u] = Object.values(answers).map((text) => logits[policy.tokenizer.encode(text)[0]])
    expected.push(b > g && b > u)
  }
  t.same(said, expected)
  const turned = [
    { good: '7', bad: 'k', uncertain: '4' },
    { good: 'k', bad: '4', uncertain: '7' },
  ]
  const others = await Promise.all(turned.map((one) => errorByVerdict(policy, { question: '?', ...one })(episodes)))
  const errors = episodes.map((_, i) => [said, ...others].filter((some) => some[i]).length)
  t.same(errors, Array(8).fill(1), 'just one of three answers is the most probable')
})

t.test('a splice: bad steps without a loss, the way back and the good way with one', async (t) => {
  const options = { env, revisions: ['!='] }
  const spliced = async (pair: { bad: Episode; good: Episode; shared: number }, cut: number) => {
    const one = await spliceOf(context, pair, cut, options)
    if (one === undefined) return undefined
    await env.reset(room)
    const [prompt, ...steps] = one.segments
    t.equal(prompt.text, room.prompt)
    let paid = 0
    for (let i = 0; i < steps.length; i += 2) {
      const step = await env.step(steps[i].text)
      t.equal(step.observation, steps[i + 1].text, 'it is an episode that can happen')
      paid += step.reward
    }
    t.ok(paid > 0 && paid === one.scores.reward, 'and that reaches the goal')
    t.same(
      policy.tokenizer.encode(whole(one)),
      one.segments.flatMap(({ ids }) => ids),
    )
    return one
  }
  const one = (await spliced({ bad, good, shared: 2 }, 4)) as Trace
  const behind = '!=01,x=01,x=11k,r=12k,d=22k,r=23k,r=24k,'
  t.equal(whole(one), `${room.prompt}r=01,d=11k,u=01k,u=01k,${behind.replaceAll('01,', '01k,')}`)
  t.equal(trained(one), '!=x=x=r=d=r=r=', 'observations have no loss, nor what led astray')
  t.match(one, { finishReason: 'stop', scores: { splice: 1, errors: 2, onPolicy: 0, steps: 11 } })
  const lost = await episode('rdu!xuu', 7)
  const two = (await spliced({ bad: lost, good, shared: 2 }, 7)) as Trace
  t.equal(trained(two), '!=x=x=r=d=r=r=', 'what the bad episode has undone itself needs no undoing')
  t.equal(
    await spliced({ bad: await episode('rdxxu', 5), good, shared: 2 }, 5),
    undefined,
    'gone back behind the parting',
  )
  const other = await spliceOf(context, { bad, good, shared: 2 }, 4, { env, revisions: ['u='] })
  t.equal(other, undefined, 'a word that does something leads elsewhere')
  await t.rejects(
    spliceOf(context, { bad, good, shared: 2 }, 4, { env: { ...env, undo: undefined } as Env, revisions: ['!='] }),
    {
      code: 'E_CONFIG',
    },
  )
})

t.test('recast', async (t) => {
  const [a, b] = [trace('a', 0, ['x', 'y', 'z', 'w'], { reward: 0 }), trace('a', 1, ['x', 'G', 'H'], { reward: 1 })]
  const back = [
    { role: 'completion' as const, text: '!', ids: [33] },
    { role: 'injected' as const, text: '?', ids: [63] },
  ]
  const one = splice(a, back, b, { cut: 3, shared: 1 })
  t.equal(whole(one), 'a=x?y?z?!?G?H')
  t.equal(trainedOf(sequenceOf(one)), '!GH')
  t.match(one, { sample: 1, scores: { reward: 1 } })
  t.equal(whole(splice(a, back, b, { cut: 4, shared: 0 })), 'a=x?y?z?w!?x?G?H', 'to the end, and from the beginning')
})

t.test('what is trained: splices, and the best good episodes', async (t) => {
  const some = [
    trace('a', 0, ['x'], { value: 0.8, good: 1 }),
    trace('a', 1, ['y'], { value: 1, good: 1 }),
    trace('a', 2, ['z'], { value: 0, good: 0 }),
    trace('a', 3, ['s'], { splice: 1 }),
    trace('b', 0, ['w'], { value: 0, good: 0 }),
  ]
  const kept = (count: number) => agentRSelect(count)(some).map(({ task: { id }, sample }) => `${id}${sample}`)
  t.same([kept(0), kept(1), kept(2)], [['a3'], ['a3', 'a1'], ['a3', 'a1', 'a0']])
})

/** A ladder of three rungs: `b` climbs, `a` falls into a pit, out of which only undoing (`aa`) leads; `ab` does nothing. */
function ladder(): Env {
  let trail: readonly number[] = [0]
  let steps = 0
  return {
    actionEnd: '=',
    actions: ['a=', 'b='],
    undo: 'aa=',
    reset: ({ prompt }) => {
      trail = [0]
      steps = 0
      return prompt
    },
    step: (action) => {
      const at = trail[trail.length - 1]
      steps++
      if (action === 'aa=') trail = trail.slice(0, Math.max(1, trail.length - 1))
      else if (action !== 'ab=') trail = [...trail, action === 'b=' && at >= 0 ? at + 1 : action === 'a=' ? -1 : at]
      const now = trail[trail.length - 1]
      return { observation: now < 0 ? 'a' : 'b', reward: now === 3 ? 3 / steps : 0, done: now === 3 }
    },
    snapshot: () => ({ trail, steps }),
    restore: (kept) => {
      ;({ trail, steps } = kept as { trail: readonly number[]; steps: number })
    },
  }
}
const tasks = ['a=', 'b=', 'aa=', 'ab=', 'ba=', 'bb='].map((prompt) => ({ id: prompt, prompt, answer: '' }))
const some = (count: number) => tasks.slice(0, count)
const climbing: TaskSource = {
  ...{ name: 'ladder', description: 'a ladder', characters: 'ab=', maxPromptTokens: 3, maxNewTokens: 99 },
  ...{ warmup: some, train: some, heldOut: some, check: () => ({ correct: false }), env: ladder },
}

/** Random walks on the ladder, so that the policy knows what actions look like. */
async function walks(): Promise<{ prompt: string; completion: string }[]> {
  const random = createRandom(deriveKey(1, 'walks'))
  const rows = []
  for (const { prompt } of [...tasks, ...tasks, ...tasks, ...tasks]) {
    const env = ladder()
    await env.reset({ id: '', prompt, answer: '' })
    let completion = ''
    for (let i = 0; i < 5; i++) {
      const action = ['a=', 'b=', 'b=', 'aa='][random.integer(4)]
      const { observation, done } = await env.step(action)
      completion += `${action}${observation}`
      if (done) break
    }
    rows.push({ prompt, completion })
  }
  return rows
}
const walking = join(folder, 'walking')

async function climb(options: Partial<AgentROptions>) {
  using learner = await loadModel(walking)
  const run = recipes.agentR({
    policy: learner,
    prompts: climbing,
    ...{
      learningRate: 1e-2,
      lrSchedulerType: 'constant',
      rounds: 4,
      numIterations: 6,
      promptsPerRound: 6,
      trainTasks: 6,
      seed: 3,
    },
    ...{ maxCompletionLength: 3, maxEpisodeSteps: 6, simulations: 6, alphas: [0.1], revisions: ['ab='] },
    ...{
      question: '=',
      good: 'b',
      bad: 'a',
      uncertain: '=',
      perDeviceTrainBatchSize: 6,
      beginningSteps: 1,
      samples: 0,
    },
    ...options,
  })
  const events: TrainEvent[] = []
  for await (const event of run) events.push(event)
  await run.result
  const hash = createHash('sha256')
  for (const flat of Object.values(learner.decoder.parameters.flat)) hash.update((await flat.bits()) as Float32Array)
  return { hash: hash.digest('hex'), events }
}
const valuesOf = (events: readonly TrainEvent[], type: 'round' | 'eval') =>
  events.flatMap((event) => (event.type === type ? [event.values as Record<string, number>] : []))

t.test('a run learns to climb and to come out of the pit, and goes on to the same bits', async (t) => {
  {
    using learner = await loadModel(base)
    const settings = { learningRate: 1e-2, maxSteps: 200, lrSchedulerType: 'constant', output: walking } as const
    await train({ policy: learner, objective: sft(), data: await walks(), ...settings }).result
  }
  using walker = await loadModel(walking)
  const sampling = { numGenerations: 16, maxNewTokens: 3 }
  const tried = { env: ladder(), sampling, maxSteps: 6, beginning: randomBeginning(ladder(), 1, 3) }
  const before = episodeStatistics(await sampleRecovery(tried)({ policy: walker, seed: 3, round: 0 }, tasks))
  const longer = { learningRate: 5e-3, rounds: 6, numIterations: 4, splicesPerPrompt: 1, goodPerPrompt: 2 }
  const { events } = await climb({ ...longer, evalTasks: 6, numGenerationsEval: 16 })
  const [rounds, [after]] = [valuesOf(events, 'round'), valuesOf(events, 'eval')]
  t.comment(JSON.stringify({ before, after }))
  t.ok(rounds.some((values) => values.splices > 0 && values['splices/errors'] >= 1 && values['search/found'] > 0))
  t.ok(after['episodes/success'] > before['episodes/success'] + 0.2, 'it climbs')
  t.ok(after['episodes/recovery'] > before['episodes/recovery'] + 0.15, 'it comes out of the pit')
  const output = join(folder, 'stopped')
  const stop = new AbortController()
  const monitor = async (round: number) => {
    if (round === 1) stop.abort()
  }
  await t.rejects(climb({ output, signal: stop.signal, monitor }))
  const [resumed, whole] = [await climb({ output, resume: true }), await climb({})]
  t.equal(resumed.hash, whole.hash)
})

/** A method on episodes of its own. */
async function act(name: 'grpo' | 'bestOfN' | 'onlineDpo', options: object = {}) {
  using learner = await loadModel(walking)
  const run = recipes[name]({
    policy: learner,
    prompts: tasks,
    env: ladder,
    ...{ learningRate: 5e-3, lrSchedulerType: 'constant', rounds: 8, promptsPerRound: 6, seed: 3, samples: 0 },
    ...{ numGenerations: 16, perDeviceTrainBatchSize: 24 },
    ...{ maxCompletionLength: 3, maxEpisodeSteps: 6, temperature: 0.9, ...options },
  })
  const events: TrainEvent[] = []
  for await (const event of run) events.push(event)
  await run.result
  const hash = createHash('sha256')
  for (const flat of Object.values(learner.decoder.parameters.flat)) hash.update((await flat.bits()) as Float32Array)
  return {
    hash: hash.digest('hex'),
    rounds: valuesOf(events, 'round'),
    steps: events.filter(({ type }) => type === 'step'),
  }
}

t.test('methods of samples act in an environment too', async (t) => {
  const { hash, rounds, steps } = await act('grpo')
  t.equal((await act('grpo')).hash, hash)
  const rise = (some: readonly Record<string, number>[]) =>
    some.map((values) => values['episodes/success'].toFixed(2)).join(' ')
  t.comment(rise(rounds))
  t.ok(rounds[7]['episodes/success'] > rounds[0]['episodes/success'] + 0.2, 'it climbs')
  t.match(rounds[0], { reward: rounds[0]['rewards/env/mean'], 'episodes/steps': Number })
  t.match(steps[0], { stats: { ratio: 1, kl: 0 } }, 'actions were drawn by the bits that train')
  for (const [name, options] of [
    ['bestOfN', { threshold: 0.1 }],
    ['onlineDpo', { learningRate: 2e-3 }],
  ] as const) {
    const own = await act(name, options)
    t.comment(rise(own.rounds))
    t.ok(own.rounds[7]['episodes/success'] > own.rounds[0]['episodes/success'] + 0.1, name)
  }
  const short: RewardFunction = ({ returns, completions }) =>
    completions.map((text, i) => Number(text.length < 3) + Number(returns?.[i]))
  const both = await act('grpo', { rounds: 1, rewardFuncs: [short] })
  const [{ reward, ...named }] = both.rounds
  t.ok(Math.abs(reward - named['rewards/short/mean'] - named['rewards/env/mean']) < 1e-6)
  await t.rejects(act('grpo', { stopStrings: ['b'] }), { code: 'E_CONFIG', message: /actionEnd/ })
  await t.rejects(act('grpo', { env: () => ({}) }), { code: 'E_CONFIG', message: /environment/ })
  await t.rejects(recipes.rise({ policy, prompts: tasks, env: ladder }).result, {
    code: 'E_CONFIG',
    message: /episodes/,
  })
})

t.test('refused', async (t) => {
  await t.rejects(climb({ prompts: [{ prompt: 'a=' }] }), { code: 'E_CONFIG', message: /tasks that have one/ })
  await t.rejects(climb({ rewardFuncs: [() => [1]] }), { code: 'E_CONFIG', message: /rewards are those/ })
  await t.rejects(climb({ exactVerdicts: true }), { code: 'E_CONFIG', message: /stepsLeft/ })
})
