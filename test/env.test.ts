// Environments: the laws of snapshots, the rooms of the task `grid` and their checker, episodes of a policy, search of episodes.

import { join } from 'node:path'
import t from 'tap'
import { createRandom, deriveKey } from '../ts/src/base/rng.js'
import {
  type Completion,
  type GenerateOptions,
  type LanguageModel,
  loadModel,
} from '../ts/src/generate/language-model.js'
import {
  beginEpisodes,
  type EpisodeOptions,
  episodeStatistics,
  randomBeginning,
  sampleEpisodes,
  sampleRecovery,
} from '../ts/train/loop/episodes.js'
import { searchEpisodes } from '../ts/train/loop/search-episodes.js'
import type { Trace } from '../ts/train/loop/trace.js'
import { growTrees, nodesOf, type World } from '../ts/train/loop/tree.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { grid } from '../ts/train/tasks/grid.js'
import { createTask, type Env, type Task } from '../ts/train/tasks/index.js'
import { temporaryFolder } from './support.js'

const source = grid({ seed: 1 })
const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTaskModel(base, source, { seed: 5, hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32 })

const world = (): Env => source.env?.() as Env
const room = (prompt: string): Task => ({ id: prompt, prompt, answer: '' })
/** What is seen behind each of these actions. */
const seen = async (env: Env, actions: string): Promise<string[]> => {
  const texts: string[] = []
  for (const action of actions) texts.push((await env.step(`${action}=`)).observation)
  return texts
}

t.test('the laws of snapshots: what follows a state is what followed it before', async (t) => {
  const random = createRandom(deriveKey(1, 'laws'))
  const draw = (count: number) => Array.from({ length: count }, () => `${'udlrx!q'[random.integer(7)]}=`)
  const play = async (env: Env, actions: readonly string[]) => {
    const steps = []
    for (const action of actions) {
      const step = await env.step(action)
      steps.push({ ...step, left: env.stepsLeft?.() })
      if (step.done) break
    }
    return steps
  }
  let ended = 0
  for (const task of source.train(60)) {
    const [env, other] = [world(), world()]
    await env.reset(task)
    const before = await play(env, draw(6))
    if (before.at(-1)?.done) continue
    const kept = env.snapshot()
    const [ways, copies] = [[draw(12), draw(12)], [] as unknown[]]
    for (const way of ways) {
      await env.restore(kept)
      copies.push(await play(env, way))
    }
    await env.reset(source.train(1)[0])
    await play(env, draw(3))
    for (const [i, way] of ways.entries()) {
      await env.restore(kept)
      t.same(await play(env, way), copies[i], 'after other ways and another episode')
      await other.restore(kept)
      t.same(await play(other, way), copies[i], 'in another environment of the kind')
    }
    await env.reset(task)
    const again = world()
    await again.reset(task)
    t.same(await play(env, ways[0]), await play(again, ways[0]), 'reset forgets')
    // The worked way ends from any state that undoing has led back to the start.
    await env.reset(task)
    const astray = draw(5).filter((action) => action !== 'x=')
    if ((await play(env, astray)).at(-1)?.done) continue
    const undone = astray.filter((action) => action !== '!=')
    for (const _ of undone) await env.step('x=')
    const steps = await play(env, [...task.answer.matchAll(/\w=/g)].map(String))
    const fewest = task.answer.split('=').length - 1
    t.match(steps.at(-1), { done: true, reward: fewest / (fewest + astray.length + undone.length), left: 0 })
    ended++
  }
  t.ok(ended > 40, `${ended} episodes`)
})

// a . . | .      in a room of side 5
// . k . | .
// . t . D g
const prompt = 'a00k11d|23g24t21:'
const five = grid({ seed: 1, difficulty: 5 })

t.test('a room', async (t) => {
  const env = five.env?.() as Env
  t.equal(await env.reset(room(prompt)), prompt)
  t.equal(env.stepsLeft?.(), 6, 'two to the key, three round the trap to the door, one to the goal')
  t.same(await seen(env, 'ul'), ['00,', '00,'], 'walls around')
  t.same(await seen(env, 'rd'), ['01,', '11k,'], 'the key is taken')
  t.same(await seen(env, 'd'), ['00k,'], 'the trap leads back to the beginning')
  t.same(await seen(env, 'xx!'), ['11k,', '01,', '01,'], 'undone one by one, the key given back')
  t.same(await seen(env, 'xxxxx'), Array(5).fill('00,'), 'walls are steps too; before the first there is none')
  t.same(await seen(env, 'rrr'), ['01,', '02,', '02,'], 'the wall')
  t.same(await seen(env, 'ddr'), ['12,', '22,', '22,'], 'the door without the key')
  t.same(await seen(env, 'uldrdr'), ['12,', '11k,', '00k,', '01k,', '11k,', '12k,'])
  t.same(await seen(env, 'dr'), ['22k,', '23k,'], 'the door with it')
  t.same(await env.step('rr='), { observation: '?,', reward: 0, done: false })
  t.same(await env.step('r'), { observation: '?,', reward: 0, done: false })
  const end = await env.step('r=')
  t.match(end, { observation: '24k,', done: true })
  t.ok(Math.abs(end.reward - 6 / 30) < 1e-12, '6 steps would have done, these were 30')
  t.throws(() => env.step('r='), { code: 'E_CONFIG' })
  t.throws(() => world().step('r='), { code: 'E_CONFIG' })
  t.throws(() => world().restore({}), { code: 'E_CONFIG' })
  for (const text of [prompt, 'a00k11d|13g22t31', 'a00k13d|02g03t10:', 'x'])
    t.throws(() => world().reset(room(text)), { code: 'E_FORMAT' }, text)
})

t.test('the checker: any line of right observations that ends at the goal', async (t) => {
  const check = (completion: string) => five.check(room(prompt), completion)
  const way = 'r=01,d=11k,r=12k,d=22k,r=23k,r=24k,'
  t.same(check(way), { correct: true, score: 1 })
  t.same(check(`u=00,!=00,d=10,x=00,${way}`), { correct: true, score: 1 }, 'a detour, and back')
  t.match(check(''), { correct: false, reason: 'not at the goal', score: 0 })
  t.match(check(way.slice(0, 11)), { correct: false, reason: 'not at the goal', score: 2 / 6 })
  t.match(check(way.slice(0, -1)), { correct: false, firstError: 5 })
  t.match(check(way.replace('d=22k', 'd=21k')), { correct: false, reason: 'expected 22k, to be seen', firstError: 3 })
  t.match(check(`${way}x=23k,`), { correct: false, reason: 'steps behind the goal', firstError: 6 })
  t.match(check('r01,'), { correct: false, reason: 'malformed', firstError: 0 })
  t.match(check('r=01,d=11,'), { correct: false, firstError: 1 }, 'the key is seen')
})

/** A policy that does what it is told, action by action. */
const scripted = (policy: LanguageModel, act: (text: string, index: number) => string, calls: string[][] = []) => {
  const encode = (text: string) => policy.tokenizer.encode(text, { addSpecialTokens: false })
  const write = (ids: readonly number[], index: number): Completion => {
    const text = act(policy.tokenizer.decode(ids), index)
    const logps = encode(text).map(() => -1)
    return { text: text.slice(0, -1), ids: encode(text), logps, samplingLogps: logps, finishReason: 'stop' }
  }
  const generate = async (prompts: readonly number[][], options: GenerateOptions) => {
    const { numGenerations = 1, promptKeys = [], reply } = options
    calls.push([...promptKeys].map(String))
    const all: Completion[][] = prompts.map(() => [])
    for (const [p, prompt] of prompts.entries())
      for (let index = 0; index < numGenerations; index++) {
        let ids: readonly number[] | undefined = prompt
        for (let before: readonly number[] = []; ids !== undefined; ) {
          const sequence: readonly number[] = [...before, ...ids]
          const turn = write(sequence, index)
          all[p][index] = turn
          before = [...sequence, ...turn.ids]
          ids = await reply?.(p, index, turn)
        }
      }
    return all
  }
  return { ...policy, generate }
}
const asPolicy = (one: unknown) => one as LanguageModel
const textOf = ({ segments }: Trace) => segments.map(({ text }) => text).join('')

t.test('episodes: actions of the policy, observations of the world', async (t) => {
  using policy = await loadModel(base)
  const tasks = source.train(8)
  const answerOf = (text: string) => tasks.find((task) => text.startsWith(task.prompt)) as Task
  const knows = scripted(policy, (text) => {
    const { prompt, answer } = answerOf(text)
    return answer.slice(text.length - prompt.length).slice(0, 2)
  })
  const options: EpisodeOptions = { env: world(), sampling: { numGenerations: 2, maxNewTokens: 4 }, maxSteps: 30 }
  const context = { policy: asPolicy(knows), seed: 1, round: 1 }
  const solved = await sampleEpisodes(options)(context, tasks)
  t.equal(solved.length, 16)
  for (const trace of solved) {
    const { prompt, answer } = trace.task
    const steps = answer.split('=').length - 1
    t.equal(textOf(trace), prompt + answer)
    t.match(trace, {
      finishReason: 'stop',
      scores: { reward: 1, steps, [`step/${steps}`]: 1, 'step/1': 0, repeats: 0 },
    })
    const roles = trace.segments.map(({ role }) => role)
    t.same(roles, ['prompt', ...Array(steps).fill(['completion', 'injected']).flat()])
  }
  const turns = scripted(policy, () => 'l=')
  const [lost] = await sampleEpisodes({ ...options, maxSteps: 5 })({ ...context, policy: asPolicy(turns) }, tasks)
  t.match(lost, { finishReason: 'length', segments: { 1: { finishReason: 'stop' } }, scores: { reward: 0, steps: 5 } })
  t.ok(lost.scores.repeats >= 1, 'the same again and again')
  t.match(episodeStatistics([...solved, lost]), {
    'episodes/success': 16 / 17,
    'episodes/loops': lost.scores.repeats / 5 / 17,
  })
  const bad = { ...world(), step: () => ({ observation: 'x', reward: Number.NaN, done: false }) }
  await t.rejects(sampleEpisodes({ ...options, env: bad })(context, tasks), { code: 'E_VERIFIER' })
  const beginning = randomBeginning(world(), 3, 7)
  const recovery = sampleRecovery({ ...options, maxSteps: 5, beginning })
  const [alone, , begun, last] = await recovery({ ...context, policy: asPolicy(turns) }, tasks.slice(1, 2))
  t.match(
    [alone, begun, last].map(({ sample, scores }) => [sample, scores.steps, scores.begun]),
    [
      [0, 5, undefined],
      [2, 5, 1],
      [3, 5, 1],
    ],
  )
  const acted = begun.segments.filter((_, i) => i % 2 === 1)
  t.same(
    acted.map(({ text }) => text),
    [...(beginning?.(tasks[1]) ?? ['none']), 'l=', 'l='],
  )
  t.same(
    acted.map(({ role }) => role === 'completion'),
    [false, false, false, true, true],
  )
  t.match(episodeStatistics([alone, begun]), { 'episodes/success': 0, 'episodes/recovery': 0 })
  const unnamed = randomBeginning({ ...world(), actions: undefined } as Env, 3, 7)
  const free = await sampleRecovery({ ...options, beginning: unnamed })(context, tasks.slice(1, 2))
  t.same(free, solved.slice(2, 4), 'a world that names no actions is seen alone')
})

t.test('log-probs of an episode are those of one sequence, alone or among others', async (t) => {
  using policy = await loadModel(base)
  const tasks = source.train(3)
  const options = { env: world(), sampling: { numGenerations: 3, maxNewTokens: 3 }, maxSteps: 4 }
  const context = { policy, seed: 3, round: 2 }
  const all = await sampleEpisodes({ ...options, beginning: () => ['u=', '!='] })(context, tasks)
  const alone = await sampleEpisodes({ ...options, beginning: () => ['u=', '!='] })(context, tasks.slice(1, 2))
  t.same(alone, all.slice(3, 6), 'a task alone')
  const whole = await policy.logProbs(all.map(({ segments }) => segments.flatMap(({ ids }) => ids)))
  for (const [i, { segments, task }] of all.entries()) {
    t.ok(
      segments
        .map(({ text }) => text)
        .join('')
        .startsWith(`${task.prompt}u=`),
    )
    t.same(
      segments.slice(1, 5).map(({ role }) => role),
      ['injected', 'injected', 'injected', 'injected'],
    )
    let at = 0
    for (const { ids, logps } of segments) {
      if (logps !== undefined) t.same(Float32Array.from(logps), whole[i].slice(at, at + ids.length))
      at += ids.length
    }
  }
  t.ok(all.some(({ segments }) => segments.some(({ role }) => role === 'completion')))
})

t.test('a simulation to the end of an episode; what has no value is not backed up', async (t) => {
  const grown: string[] = []
  const words: World<string> = {
    expand: async (leaves) =>
      leaves.map(({ state }) => {
        grown.push(state)
        return ['a', 'b'].map((one) => ({
          state: state + one,
          prior: 1,
          terminal: state.length === 2 || state === 'b',
        }))
      }),
    evaluate: async (nodes) => nodes.map(({ state, terminal }) => (terminal ? Number(state === 'aab') : undefined)),
  }
  const options = { rule: 'ucb1', weight: 0.25, simulations: 1, toEnd: true } as const
  const [one] = await growTrees([''], words, options)
  t.same(grown, ['', 'a', 'aa'], 'down to the first ends')
  t.match(one, { visits: 2, total: 1 })
  await growTrees([''], words, { ...options, simulations: 3 })
  t.same(grown.slice(3), ['', 'a', 'aa', 'b', 'ab'], 'then what was not visited, first at the root')
  const [whole] = await growTrees([''], words, { ...options, simulations: 3 })
  t.equal(nodesOf(whole).filter(({ terminal }) => terminal).length, 6)
  t.same(
    whole.children?.map(({ visits, total }) => [visits, total]),
    [
      [4, 1],
      [2, 0],
    ],
  )
})

t.test('search of episodes by snapshots', async (t) => {
  using policy = await loadModel(base)
  const tasks = source.train(4)
  const calls: string[][] = []
  const knows = scripted(
    policy,
    (text, i) => {
      const { prompt, answer } = tasks.find((task) => text.startsWith(task.prompt)) as Task
      const right = answer.slice(text.length - prompt.length).slice(0, 2)
      return i !== 1 && answer.startsWith(text.slice(prompt.length)) ? right : '!='
    },
    calls,
  )
  const options = { env: world(), sampling: { numGenerations: 3, maxNewTokens: 4 }, maxSteps: 12 }
  const search = { ...options, simulations: 2, weight: 0.25 }
  const context = { policy: asPolicy(knows), seed: 1, round: 1 }
  const found = await searchEpisodes(context, tasks, search)
  for (const [i, leaves] of found.entries()) {
    const values = leaves.map(({ value }) => value)
    t.equal(Math.max(...values), 1, 'the worked way is found')
    t.equal(
      leaves.length,
      3,
      'equal actions are one; ways that idle beside the last step and the first end at the limit',
    )
    t.match(leaves.find(({ value }) => value === 0)?.episode, { over: true, finishReason: 'length', task: tasks[i] })
  }
  t.ok(
    calls[0].length === 4 && new Set(calls.flat()).size === calls.flat().length,
    'side by side, each with keys of its own',
  )
  const [alone] = await searchEpisodes(context, tasks.slice(2, 3), search)
  t.same(alone, found[2])
  const [again] = await beginEpisodes(context, options.env, tasks)
  t.match(again, { over: false, steps: [] })
})

t.test('by name', async (t) => {
  t.equal(
    createTask('grid', { seed: 1, difficulty: 6 }).description,
    'a room of side 6 with a wall, a door, a key and a trap',
  )
  t.throws(() => createTask('grid', { seed: 1, difficulty: 3 }), { code: 'E_CONFIG' })
})
