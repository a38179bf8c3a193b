// What methods select, and how they weigh it, on samples made by hand; and short runs in which that is to be seen.

import { join } from 'node:path'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { balanceAt, balanceScore, bestThreshold, explorationStatistics, pickQuota } from '../ts/train/loop/balance.js'
import { flipExamples, sequenceOf } from '../ts/train/loop/examples.js'
import { sampleGroup } from '../ts/train/loop/explore.js'
import { iterate } from '../ts/train/loop/iterate.js'
import { attemptStatistics, correctionStatistics } from '../ts/train/loop/metrics.js'
import { turnAlone, turnInContext } from '../ts/train/loop/recast.js'
import { bestBranch } from '../ts/train/loop/select.js'
import type { Trace } from '../ts/train/loop/trace.js'
import { exploreAtBest, gridArgmax } from '../ts/train/loop/tuner.js'
import { cctExamples } from '../ts/train/recipes/cct.js'
import { riseExamples } from '../ts/train/recipes/rise.js'
import { stillSelect } from '../ts/train/recipes/still.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { createTask } from '../ts/train/tasks/index.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, runRecipe } from './support-recipes.js'
import { task, textsOf, trace, trainedOf } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

t.test('self-correction learning: flips alone, behind the bare prompt', async (t) => {
  const two = (id: string, r1: number, r2: number) => trace(id, 0, ['aa', 'b'], { 'reward/1': r1, 'reward/2': r2 })
  const pairs = flipExamples([two('m', 0, 1), two('s', 1, 1), two('k', 1, 0), two('w', 0, 0), trace('o', 0, ['a'])], 1)
  t.same(
    pairs.map((pair) => pair.map(({ role, ids }) => `${role} ${textsOf(ids)}`)),
    [
      ['chosen m=b', 'rejected m=aa'],
      ['chosen k=aa', 'rejected k=b'],
    ],
    'mended and broken answers; no review, no first answer in the context',
  )
  t.same(pairs.flat().flatMap(trainedOf), ['b', 'aa', 'aa', 'b'])
  t.same(Array.from(pairs[0][0].weights ?? []), [0, 0, 1])
  const still = flipExamples([two('s', 1, 1), two('w', 0, 0)], 1)
  t.equal(still.length, 2)
  t.ok(
    still.flat().every(({ weights = [1] }) => Array.from(weights).every((weight) => weight === 0)),
    'a round without a flip has no gradient',
  )
  t.throws(() => flipExamples([trace('m', 0, ['a', 'b'])], 1), { code: 'E_CONFIG' })
})

t.test('confidence and critique training: right answers behind right and wrong ones', async (t) => {
  const two = (id: string, sample: number, texts: [string, string], r1: number, r2: number) =>
    trace(id, sample, texts, { 'reward/1': r1, 'reward/2': r2 })
  const given = [
    two('m', 0, ['w', 'R'], 0, 1),
    two('m', 1, ['r', 'v'], 1, 0),
    two('n', 0, ['x', 'y'], 0, 0),
    two('k', 0, ['g', 'G'], 1, 1),
    two('k', 1, ['b', 'c'], 0, 0),
  ]
  const items = (confidenceShare: number, some = given, withFirst = false) =>
    cctExamples({ right: 1, confidenceShare, withFirst })(some, 1).map(
      ([one]) => `${textsOf(one.ids)} ${trainedOf(one)}`,
    )
  t.same(
    items(0.5),
    ['m=r?r r', 'k=g?g g', 'm=w?R R', 'k=b?G G'],
    'the last answer alone is trained; of a prompt without a right answer nothing is learned',
  )
  t.same(items(1), ['m=r?r r', 'k=g?g g'])
  t.same(items(0), ['m=w?R R', 'k=b?G G'])
  t.same(items(1 / 3), ['m=r?r r', 'm=w?R R', 'k=b?G G'], 'half as many of the one kind as of the other')
  t.same(items(0.5, given.slice(0, 1)), ['m=w?R R'], 'all of one kind where there is none of the other')
  t.same(items(0.5, given.slice(2, 3)), [])
  const all = ['m=R R', 'm=r r', 'k=g g', 'k=G G', ...items(0.5)]
  t.same(items(0.5, given, true), all, 'right answers behind the bare prompt')
})

t.test('recast', async (t) => {
  const whole = { ...trace('a', 0, ['xy', 'z', 'w']), finishReason: 'length' as const }
  const first = {
    ...whole,
    segments: whole.segments.map((one, i) => (i === 1 ? { ...one, finishReason: 'stop' as const } : one)),
  }
  t.match(turnAlone(first, 0), { finishReason: 'stop', segments: { length: 2, 1: { text: 'xy' } } })
  t.match(turnAlone(first, 2), { finishReason: 'length', segments: { length: 2, 1: { text: 'w' } } })
  t.same(
    turnInContext(first, 1).segments.map(({ role, text }) => `${role} ${text}`),
    ['prompt a=', 'injected xy', 'injected ?', 'completion z'],
  )
})

t.test('RISE: one item per answer, weights by reward', async (t) => {
  const attempt = (texts: readonly string[], rewards: readonly number[]) =>
    trace('a', 0, texts, Object.fromEntries(rewards.map((reward, i) => [`reward/${i + 1}`, reward])))
  const items = (
    criterion: 'all' | 'better' | 'best' | 'success',
    texts: readonly string[],
    rewards: readonly number[],
  ) =>
    riseExamples({ tau: 0.4, criterion })([attempt(texts, rewards)], 1).map(([one]) => [
      textsOf(one.ids),
      trainedOf(one),
      Number(one.scores?.advantage.toFixed(2)),
    ])
  t.same(
    items('all', ['x', 'y', 'z'], [-1, 0, 1]),
    [
      ['a=x', 'x', 0.08],
      ['a=x?y', 'y', 1],
      ['a=x?y?z', 'z', 12.18],
    ],
    'unparsable, wrong, right: 0.08 : 1 : 12.2; loss on the last answer alone',
  )
  const trained = (...given: Parameters<typeof items>) => items(...given).map(([, text]) => text)
  t.same(trained('all', ['x', 'y', 'x'], [0, 0, 0]), ['x', 'y'], 'an answer that comes again is left out')
  t.same(trained('better', ['x', 'y', 'z'], [0, 0, 1]), ['x', 'z'])
  t.same(trained('best', ['x', 'y', 'z'], [0, 1, 1]), ['x', 'y'], 'the first of the best, and first turns')
  t.same(trained('success', ['x', 'y', 'z'], [0, 1, 0.5]), ['y'], 'first turns only if they are right')
  t.throws(() => items('all', ['x'], [1000]), { code: 'E_VERIFIER', message: /raise tau/ })

  const branches = [0, 1, 1, 0.5, 0, 0].map((reward, sample) => trace('a', sample, [`${sample}`], { reward }))
  const kept = (count: number) => bestBranch(count)(branches).map(({ sample }) => sample)
  t.same([kept(3), kept(2), kept(6)], [[1, 3], [1, 2, 4], [1]], 'the best of each stem, the first of equals')
  const values = attemptStatistics(
    branches.map((one) => ({ ...one, scores: { ...one.scores, 'reward/1': one.sample < 3 ? 1 : 0 } })),
    3,
  )
  t.same(values, { 'turns/first': 0.5, 'turns/last': (2 / 3 + 0.5 / 3) / 2, 'turns/best': 0.75 })
})

t.test('confidence and critique', async (t) => {
  const both = (r1: number, r2: number) => trace('a', 0, ['x', 'y'], { 'reward/1': r1, 'reward/2': r2 })
  const given = [both(1, 1), both(1, 1), both(1, 0), both(0, 1), both(0, 0), both(0, 0), both(0, 0), both(0, 0)]
  const values = correctionStatistics(given)
  const [cl, cs, acc1, acc2] = [2 / 3, 1 / 5, 3 / 8, 3 / 8]
  t.same([values['turns/confidence'], values['turns/critique']], [cl, cs])
  t.equal(acc1 * cl + (1 - acc1) * cs, acc2, 'Acc2 = Acc1 CL + (1 - Acc1) CS')
  t.ok(Math.abs(values['turns/rss'] - 0.5) < 1e-12, 'no change: one half')
  t.same(correctionStatistics([both(0, 1)]), { 'turns/critique': 1 }, 'no number whose condition never holds')
  t.same(correctionStatistics([both(0, 0.5)]), {}, 'graded rewards are neither right nor wrong')
  t.same(correctionStatistics([trace('a', 0, ['x'], { 'reward/1': 1 })]), {}, 'one turn')
})

t.test('B-STaR: balance of a query, threshold, quota', async (t) => {
  t.equal(balanceScore(8, 4, 6), (4 / 6) * (4 / 8))
  t.equal(balanceScore(8, 8, 6), 1, 'no query counts for more than what is wanted')
  t.equal(balanceScore(12, 6, 6), 0.5, 'half of what is selected is wrong')
  t.equal(balanceScore(0, 0, 6), 0)
  // Rewards of a noisy step scorer beside the checker: wrong samples reach 0.6.
  const samples = [
    ['r1', 1, 1.4],
    ['r2', 1, 0.9],
    ['r2', 1, 0.9],
    ['w1', 0, 0.6],
    ['w2', 0, -0.2],
  ] as const
  const group = samples.map(([text, right, reward], i) => trace('a', i, [text], { reward, right }))
  const options = { wanted: 2, isRight: ({ scores }: Trace) => scores.right === 1 }
  t.equal(balanceAt(group, 0, options), 2 / 4, 'r1 and r2, unlike each other, among four')
  t.equal(balanceAt(group, 0.7, options), 2 / 3, 'a repeated sample is selected and counts once')
  t.equal(balanceAt(group, 1, options), 0.5)
  t.same(bestThreshold(group, [-1, 0, 0.7, 1], options), { setting: 0.7, value: 2 / 3 })
  t.equal(bestThreshold(group.slice(3), [-1, 0, 1], options).setting, 1, 'where nothing is right nothing is selected')
  const easy = ['p', 'q', 'r', 's'].map((text, i) => trace('b', i, [text], { reward: 1, right: 1 }))
  const kept = (target: number, threshold = 0.7) =>
    pickQuota(threshold, target)([...group, ...easy]).map(({ task: { id }, sample }) => `${id}${sample}`)
  t.same(kept(2), ['a0', 'b0'], 'k = 1')
  t.same(kept(3), ['a0', 'a1', 'b0', 'b1'], 'k grows until there are as many as wanted; repeats are dropped')
  t.same(kept(99), ['a0', 'a1', 'b0', 'b1', 'b2', 'b3'], 'or all that there are')
  t.same(kept(1, 1), ['a0'], 'above the threshold, not at it')
  t.same(explorationStatistics([...group, ...easy], 3, options), {
    'balance/pass_k_s': 0.5,
    'balance/reward_k_s': 1,
    'balance/distinct': (4 / 5 + 1) / 2,
  })
  t.throws(() => gridArgmax([], () => 0), { code: 'E_CONFIG' })
  t.same(
    gridArgmax([1, 2, 3], (x) => -((x - 2) ** 2)),
    { setting: 2, value: -0 },
  )
})

t.test('B-STaR: the temperature of a round is tried once, on some of its tasks, under other keys', async (t) => {
  const asked: string[] = []
  const explore = exploreAtBest({
    grid: [0.5, 1, 1.5],
    exploreAt: (temperature) => async (_, tasks) => {
      asked.push(`${temperature}: ${tasks.map(({ id }) => id).join(' ')}`)
      return tasks.map(({ id }) => trace(id, 0, ['x'], { temperatureUsed: temperature }))
    },
    score: async (traces) => [...traces],
    measure: ([{ scores }]) => -Math.abs(scores.temperatureUsed - 1.2),
    tasks: 1,
  })
  using policy = await loadModel(base)
  const roundTasks = ['a', 'b', 'c'].map(task)
  const context = { policy, seed: 1, round: 1, roundTasks }
  const [first] = await explore(context, roundTasks.slice(1, 2))
  t.match(first.scores, { temperature: 1, tuned: Number, temperatureUsed: 1 })
  await explore(context, roundTasks.slice(2))
  const trials = [0.5, 1, 1.5].map((temperature) => `${temperature}: a tried at ${temperature}`)
  t.same(asked, [...trials, '1: b', '1: c'], 'whatever part of the round is explored, its first task decides')
  await explore({ ...context, round: 2 }, roundTasks)
  t.same(asked.slice(5, 8), trials, 'and anew in the next round')
})

const roundsOf = (events: Awaited<ReturnType<typeof runRecipe>>['events']) =>
  events.flatMap((event) => (event.type === 'round' ? [event.values] : []))

t.test('STILL-2: right samples of prompts that are not always solved, ranked', async (t) => {
  const samples = [
    ['xx', 1, -0.1],
    ['x', 1, -0.9],
    ['xxx', 1, -0.5],
    ['xxxx', 0, -0.2],
  ] as const
  const hard = samples.map(([text, reward, likely], i) => trace('h', i, [text], { reward, likelihood: likely }))
  const solved = [
    trace('s', 0, ['y'], { reward: 1, likelihood: -1 }),
    trace('s', 1, ['z'], { reward: 1, likelihood: -2 }),
  ]
  const never = [trace('n', 0, ['y'], { reward: 0, likelihood: -1 })]
  const cut = { ...trace('h', 4, ['xxxxx'], { reward: 1, likelihood: 0 }), finishReason: 'length' as const }
  const usual = { right: 1, skipSolved: true, perPrompt: 2, maskTruncatedCompletions: true, seed: 1 }
  const kept = (rankBy: 'random' | 'shortest' | 'longest' | 'likely' | 'unlikely', more = {}) =>
    stillSelect({ ...usual, rankBy, ...more })([...hard, ...solved, ...never, cut]).map(
      ({ task: { id }, sample }) => `${id}${sample}`,
    )
  t.same(kept('longest'), ['h2', 'h0'])
  t.same(kept('shortest'), ['h1', 'h0'])
  t.same(kept('likely'), ['h0', 'h2'])
  t.same(kept('unlikely'), ['h1', 'h2'])
  t.same(kept('likely', { skipSolved: false }), ['h0', 'h2', 's0', 's1'])
  t.same(kept('longest', { maskTruncatedCompletions: false }), ['h4', 'h2'], 'unless such samples are wanted')
  t.same(kept('random'), kept('random'))
  t.ok(new Set([1, 2, 3, 4, 5, 6].map((seed) => String(kept('random', { seed })))).size > 1, 'a draw of the seed')
})

t.test('rounds from the base, and all rounds so far', async (t) => {
  const one = [{ ids: [2, 3, 1], trained: Uint8Array.of(0, 1, 1) }]
  const rounds = async (count: number, startFrom: 'base' | 'current') => {
    using policy = await loadModel(base)
    const rates: number[] = []
    await iterate({
      policy,
      tasks: () => [task('a')],
      explore: sampleGroup({ numGenerations: 1, maxNewTokens: 2 }),
      score: async (traces) => [...traces],
      select: (traces) => [...traces],
      update: {
        objective: sft(),
        schedule: { learningRate: 1e-2 },
        stepsPerRound: 3,
        batchSize: 1,
        startFrom,
        toExamples: () => [one],
      },
      rounds: count,
      seed: 1,
      emit: (event) => event.type === 'step' && rates.push(event.learningRate),
    })
    const bits = await Promise.all(Object.values(policy.decoder.parameters.flat).map((flat) => flat.bits()))
    return { bits: bits.map((part) => [...part]), rates }
  }
  const [first, third, moved] = [await rounds(1, 'base'), await rounds(3, 'base'), await rounds(3, 'current')]
  t.same(
    third.bits,
    first.bits,
    'the same lesson three times from the base: weights, moments and rates are those of once',
  )
  t.same(third.rates, [...first.rates, ...first.rates, ...first.rates])
  t.notSame(moved.bits, first.bits, 'from the policy as it is they add up')

  const output = join(folder, 'pooled')
  const sizes: number[] = []
  const run = async (resume: boolean, stopAt: number) => {
    using policy = await loadModel(base)
    const stop = new AbortController()
    return await iterate({
      policy,
      tasks: (round) => ['a', 'b'].map((letter) => task(letter.repeat(round))),
      explore: sampleGroup({ numGenerations: 2, maxNewTokens: 2 }),
      score: async (traces) => [...traces],
      select: (traces) => traces.filter(({ sample }) => sample === 0),
      update: {
        objective: sft(),
        schedule: { learningRate: 1e-3 },
        stepsPerRound: 2,
        batchSize: 2,
        startFrom: 'base',
        pool: 'accumulate',
        toExamples: (traces, round) => {
          sizes.push(traces.length)
          t.same([...new Set(traces.map(({ task: { id } }) => id))].length, 2 * round)
          return traces.map((trace) => [sequenceOf(trace)])
        },
      },
      rounds: 3,
      seed: 1,
      output,
      resume,
      signal: stop.signal,
      emit: (event) => event.type === 'step' && event.step === stopAt && stop.abort(),
    })
  }
  await run(false, 3)
  await run(true, 0)
  t.same(sizes, [2, 4, 4, 6], 'stopped in the second round, which then goes on with what the first selected')
  await t.rejects(rounds(1, 'bass' as 'base'), { code: 'E_CONFIG' })
})

t.test('a base that is trained anew learns', async (t) => {
  // What is right and ends by itself in four tokens has two or three of four letters.
  const options = {
    rounds: 8,
    numIterations: 8,
    numGenerations: 16,
    rankBy: 'random',
    right: 0.5,
    maskTruncatedCompletions: true,
  }
  const { rewards } = await runRecipe('still', { base, options })
  t.ok(rewards[7] > rewards[0] + 0.25, `the reward rises from ${rewards[0].toFixed(2)} to ${rewards[7].toFixed(2)}`)
})

t.test('the exact checker looks on where other rewards train', async (t) => {
  const source = createTask('arithmetic', { seed: 1, difficulty: 1, scratch: false })
  const sums = join(folder, 'sums')
  await makeTaskModel(sums, source, { seed: 1, hiddenSize: 16, layers: 1, heads: 2, intermediateSize: 32 })
  const size = { prompts: source, rounds: 1, trainTasks: 10, maxCompletionLength: 3 }
  const digits = ({ completions }: { completions: readonly string[] }) => completions.map((text) => text.length)
  for (const name of ['onlineSimpo', 'scl', 'score'] as const) {
    const [values] = roundsOf(
      (await runRecipe(name, { base: sums, options: { ...size, rewardFuncs: [digits] } })).events,
    )
    t.match(values, { gold: Number, 'rewards/digits/mean': Number }, name)
    t.notOk(
      Object.keys(values).some((key) => key.startsWith('rewards/correct')),
      'and is no reward',
    )
    const [own] = roundsOf((await runRecipe(name, { base: sums, options: { ...size, rewardFuncs: undefined } })).events)
    t.notOk('gold' in own, 'where it is the reward itself there is nothing to compare')
  }
  const [joined] = roundsOf(
    (await runRecipe('bstar', { base: sums, options: { ...size, rewardFuncs: [digits], thresholds: [0] } })).events,
  )
  t.match(joined, { 'rewards/correct/mean': Number, 'rewards/digits/mean': Number, 'balance/temperature': Number })
})
