// What methods select, and how they weigh it, on samples made by hand; and short runs in which that is to be seen.

import { join } from 'node:path'
import t from 'tap'
import { logRatio, sft } from '../ts/loss/index.js'
import { type LanguageModel, loadModel } from '../ts/src/generate/language-model.js'
import { answerReader, consistencyOf, consistencyStatistics, likelihood, voteShare } from '../ts/train/loop/answers.js'
import { balanceAt, balanceScore, bestThreshold, explorationStatistics, pickQuota } from '../ts/train/loop/balance.js'
import { flipExamples, sequenceOf } from '../ts/train/loop/examples.js'
import { sampleGroup } from '../ts/train/loop/explore.js'
import { iterate } from '../ts/train/loop/iterate.js'
import { attemptStatistics, correctionStatistics } from '../ts/train/loop/metrics.js'
import { turnAlone, turnInContext } from '../ts/train/loop/recast.js'
import { searchSteps } from '../ts/train/loop/search-steps.js'
import { bestBranch } from '../ts/train/loop/select.js'
import type { Segment, Trace } from '../ts/train/loop/trace.js'
import { meanValue, siblingPairs, treeSearch, type World } from '../ts/train/loop/tree.js'
import { exploreAtBest, gridArgmax } from '../ts/train/loop/tuner.js'
import { stepExamples } from '../ts/train/recipes/mcts-dpo.js'
import { riseExamples } from '../ts/train/recipes/rise.js'
import { regressionExamples } from '../ts/train/recipes/sharpening.js'
import { stillSelect } from '../ts/train/recipes/still.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { createTask, type Task } from '../ts/train/tasks/index.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, prompts, runRecipe } from './support-recipes.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

const task = (id: string): Task => ({ id, prompt: `${id}=`, answer: '' })
const code = (text: string) => [...text].map((c) => c.charCodeAt(0))
const said = (text: string): Segment => ({
  role: 'completion',
  text,
  ids: code(text),
  logps: code(text).map(() => -0.5),
})

/** An attempt with its turns, and `?` between them. */
const trace = (id: string, sample: number, texts: readonly string[], scores: Record<string, number> = {}): Trace => ({
  task: task(id),
  sample,
  segments: [
    { role: 'prompt', text: `${id}=`, ids: code(`${id}=`) },
    ...texts.flatMap((text, i) => [
      ...(i === 0 ? [] : [{ role: 'injected' as const, text: '?', ids: [63] }]),
      said(text),
    ]),
  ],
  finishReason: 'stop',
  scores,
})

const textsOf = (ids: readonly number[]) => String.fromCharCode(...ids)
const trainedOf = (one: { ids: readonly number[]; trained: ArrayLike<number> }) =>
  textsOf(one.ids.filter((_, i) => one.trained[i] === 1))

t.test('answers and their agreement', async (t) => {
  const { votes, majority, entropy, disagreement } = consistencyOf(['4', '3', '3', '3', '4'])
  t.same(votes, [0.4, 0.6, 0.6, 0.6, 0.4])
  t.same([majority, disagreement, Number(entropy.toFixed(3))], [0.6, 0.4, 0.971], 'the survey’s example')
  t.match(consistencyOf(['a', undefined, undefined]), { votes: [1 / 3, 0, 0], majority: 1 / 3, disagreement: 1 })
  t.match(consistencyOf([undefined]), { majority: 0 })
  const read = (pattern: string | undefined, text: string) => answerReader(pattern)(trace('a', 0, ['9>9', text]))
  t.equal(read(undefined, ' 12 '), '12', 'the whole last turn')
  t.equal(read('>(\\d+)', '1>2,3>45'), '45', 'the last match, its group')
  t.equal(read('\\d+', 'x7y'), '7', 'the match where there is no group')
  t.equal(read('>(\\d+)', 'none'), undefined)
  t.throws(() => answerReader('('), { code: 'E_CONFIG', where: 'answerPattern' })
  const four = ['1>2', '3>2', '1>5', 'no'].map((text, i) => trace('a', i, [text]))
  const answerOf = answerReader('>(\\d+)$')
  const scored = await voteShare(answerOf)([...four, trace('b', 0, ['1>5'])])
  t.same(
    scored.map(({ scores }) => scores.votes),
    [0.5, 0.5, 0.25, 0, 1],
    'votes are those of the task',
  )
  t.match(consistencyStatistics(four, answerOf), { 'answers/majority': 0.5, 'answers/disagreement': 0.75 })
  const [sum] = await likelihood('sum')([trace('a', 0, ['xy', 'z'])])
  const [average] = await likelihood('mean', 'self')([trace('a', 0, ['xy', 'z'])])
  t.same([sum.scores, average.scores], [{ likelihood: -1.5 }, { self: -0.5 }])
})

t.test('sharpening: pairs are neighbours, the target is the difference of their rewards', async (t) => {
  const group = [-1, -3, -2, -7, -4].map((self, i) => trace('a', i, ['x'.repeat(i + 1)], { self }))
  const pairs = regressionExamples([...group, trace('b', 0, ['y'], { self: -1 })], 1)
  t.same(
    pairs.map((pair) => pair.map(({ role, ids, scores }) => [role, ids.length - 2, scores?.target])),
    [
      [
        ['chosen', 1, 2],
        ['rejected', 2, 2],
      ],
      [
        ['chosen', 3, 5],
        ['rejected', 4, 5],
      ],
    ],
    'a sample without a neighbour is left out',
  )
  const terms = (role: 'chosen' | 'rejected', logp: number) => ({
    role,
    example: 0,
    scores: { target: 2 },
    logps: Float64Array.of(logp),
    reference: Float64Array.of(-3),
  })
  const { loss } = logRatio({ link: 'square', beta: 0.5 }).evaluate({
    sequences: [terms('chosen', -1), terms('rejected', -4)],
    step: { tokens: 2, examples: 1 },
  })
  t.equal(loss, (0.5 * (2 - -1) - 2) ** 2, '(beta [rho(y) - rho(y’)] - [r(y) - r(y’)])^2')
})

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

/** Strings of three letters; what is sought begins with `ba`. */
const letters = (seen: string[] = []): World<string> => ({
  expand: async (leaves) =>
    leaves.map(({ state }) =>
      ['a', 'b'].map((letter) => ({
        state: state + letter,
        prior: letter === 'a' ? 0.5 : 0.25,
        terminal: state.length === 2,
      })),
    ),
  evaluate: async (nodes) => {
    seen.push(nodes.map(({ state }) => state).join(' '))
    return nodes.map(({ state }) => Number(state.startsWith('ba')) + 0.5 * Number(state === 'b'))
  },
})

t.test('tree search', async (t) => {
  const seen: string[] = []
  const options = { rule: 'puct', weight: 1, simulations: 2, firstSimulations: 3 } as const
  const [path] = await treeSearch([''], letters(seen), options)
  t.same(
    path.map(({ state }) => state),
    ['', 'b', 'ba', 'baa'],
    'from the root to an end',
  )
  // Simulation 1 grows the root, 2 goes to b (0.5 against 0), 3 on to ba; then two before each move.
  t.same(seen.slice(0, 3), ['a b', 'ba bb', 'baa bab'])
  const [root] = path
  t.match(root, { visits: 10, total: 7.5 }, 'six new children, and four times an end that was known')
  t.equal(meanValue(root), 7.5 / 10)
  const visits = path.map(({ children = [] }) => children.map((child) => [child.state, child.visits, meanValue(child)]))
  t.same(visits[0], [
    ['a', 1, 0],
    ['b', 9, 7.5 / 9],
  ])
  t.same(
    siblingPairs(path).map(({ better, worse }) => `${better.state} > ${worse.state}`),
    ['b > a', 'ba > bb'],
    'no pair where both are worth the same',
  )
  const both = await treeSearch(['', ''], letters(), options)
  const names = (one: typeof path) => one.map(({ state, visits: count, total }) => `${state} ${count} ${total}`)
  t.same(both.map(names), [names(path), names(path)], 'side by side as alone')
  const visitsOfA = async (weight: number) =>
    (await treeSearch([''], letters(), { rule: 'ucb1', weight, simulations: 8 }))[0][0].children?.[0].visits
  t.equal(await visitsOfA(0), 1, 'no weight: what is worth most')
  t.ok(Number(await visitsOfA(2)) > 4, 'much weight: also what was seldom visited')
  const none: World<string> = { expand: async (leaves) => leaves.map(() => []), evaluate: async () => [] }
  await t.rejects(treeSearch([''], none, options), { code: 'E_SHAPE' })
})

t.test('step-level pairs: a step behind its context, smoothed by visits', async (t) => {
  const step = (sample: number, text: string, visits: number): Trace => {
    const whole = trace('a', sample, [text], { onPolicy: 0, visits, value: 0.5 })
    const [prompt, own] = whole.segments
    return { ...whole, segments: [prompt, { role: 'injected', text: '1,', ids: code('1,') }, own] }
  }
  const answer = trace('a', 0, ['1,2,3'], { onPolicy: 1, reward: 1 })
  const given = [answer, step(1, '2,', 6), step(2, '3,', 2)]
  const [[chosen, rejected]] = stepExamples(true)(given, 1)
  t.same([textsOf(chosen.ids), trainedOf(chosen), trainedOf(rejected)], ['a=1,2,', '2,', '3,'])
  t.same(chosen.scores, { weight: 1, labelSmoothing: 2 / 8 }, 'a = N_l / (N_w + N_l)')
  t.match(
    stepExamples(true)([step(1, 'x', 1), step(2, 'y', 5)], 1),
    [[{ scores: { labelSmoothing: 0.5 } }]],
    'at most 1/2',
  )
  t.match(stepExamples(false)(given, 1), [[{ scores: { labelSmoothing: 0 } }]])
  t.match(stepExamples(true)([answer], 1), [[{ scores: { weight: 0 } }]], 'a round without a pair has no gradient')
})

t.test('the steps of a search are the policy’s, with its log-probs', async (t) => {
  using policy = await loadModel(base)
  const score = async (traces: readonly Trace[]) =>
    traces.map((one) => ({ ...one, scores: { reward: (one.segments[1].text.match(/b/g) ?? []).length } }))
  const sampling = { numGenerations: 4, maxNewTokens: 8, temperature: 1 }
  const explore = searchSteps({ rule: 'puct', weight: 1, simulations: 2, sampling, stepEnd: 'b', maxSteps: 3, score })
  const tasks = ['a', 'b', 'ab', 'ba'].map(task)
  const context = { policy, seed: 3, round: 1 }
  const traces = await explore(context, tasks)
  t.same(
    await explore(context, tasks.slice(2)),
    traces.filter(({ task: { id } }) => id.length === 2),
    'alone as among others',
  )
  const [answers, steps] = [true, false].map((own) => traces.filter(({ scores }) => (scores.onPolicy === 1) === own))
  t.equal(answers.length, 4)
  t.ok(steps.length > 0 && steps.length % 2 === 0, `${steps.length / 2} pairs`)
  for (const one of traces) {
    const own = one.segments[one.segments.length - 1]
    const logps = await policy.logProbs(one.segments.flatMap(({ ids }) => ids))
    t.same(own.logps, [...logps.slice(-own.ids.length)], 'bit for bit')
    t.ok(one.segments.slice(1).reduce((sum, { ids }) => sum + ids.length, 0) <= 8, 'within its room')
  }
  for (const [i, better] of steps.entries())
    if (i % 2 === 0) t.ok(better.scores.value > steps[i + 1].scores.value, 'the better one first')
  const ends = steps.filter(({ finishReason, segments }) => finishReason === 'stop' && segments.length === 2)
  t.ok(
    ends.some(({ segments }) => segments[1].text.endsWith('b')),
    'a step has its end',
  )
})

const roundsOf = (events: Awaited<ReturnType<typeof runRecipe>>['events']) =>
  events.flatMap((event) => (event.type === 'round' ? [event.values] : []))

/** Samples of a model, and their log-probs under it and under another. */
async function sampled(model: LanguageModel, other: LanguageModel) {
  const texts = prompts.map(({ prompt }) => prompt)
  const groups = await model.generate(texts, { numGenerations: 32, maxNewTokens: 4, seed: 5 })
  const whole = groups.flatMap((group, p) => group.map(({ ids }) => [...model.tokenizer.encode(texts[p]), ...ids]))
  const logps = await other.logProbs(whole)
  return groups.flat().map(({ ids, logps: own, finishReason }, i) => {
    const theirs = logps[i].slice(-ids.length)
    const sum = (values: ArrayLike<number>) => Array.from(values).reduce((all, value) => all + value, 0)
    return { own: sum(own), other: sum(theirs), length: ids.length, finishReason }
  })
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

t.test('a sharpened policy writes what its base thinks likely', async (t) => {
  using prior = await loadModel(base)
  const blind = { rewardFuncs: undefined, rounds: 24, numGenerations: 16 }
  let after = Number.NaN
  const { events } = await runRecipe('sharpening', {
    base,
    options: { ...blind, selfReward: 'meanLogps' },
    behind: async (policy) => {
      after = mean((await sampled(policy, prior)).map(({ other, length }) => other / length))
    },
  })
  const [first] = roundsOf(events)
  t.notOk('reward' in first, 'no reward comes in')
  const { 'self/mean': before, 'self/best': best } = first
  t.ok(
    after > (before + best) / 2,
    `per token from ${before.toFixed(3)} to ${after.toFixed(3)}, best ${best.toFixed(3)}`,
  )

  // The optimum of the regression is base^(1 + 1 / beta): log pi - log base has the slope 1 / beta in log base.
  let slope = Number.NaN
  await runRecipe('sharpening', {
    base,
    options: { ...blind, form: 'rlhf', selfReward: 'logps', beta: 2, rounds: 60 },
    behind: async (policy) => {
      const rows = (await sampled(prior, policy)).filter(({ finishReason }) => finishReason === 'stop')
      const [x, y] = [rows.map(({ own }) => own), rows.map(({ own, other }) => other - own)]
      const [mx, my] = [mean(x), mean(y)]
      slope = mean(x.map((value, i) => (value - mx) * (y[i] - my))) / mean(x.map((value) => (value - mx) ** 2))
    },
  })
  t.ok(slope > 0.4 && slope < 0.6, `slope ${slope.toFixed(3)} for beta 2`)
})

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
  const usual = { right: 1, skipSolved: true, perPrompt: 2, seed: 1 }
  const kept = (rankBy: 'random' | 'shortest' | 'longest' | 'likely' | 'unlikely', more = {}) =>
    stillSelect({ ...usual, rankBy, ...more })([...hard, ...solved, ...never, cut]).map(
      ({ task: { id }, sample }) => `${id}${sample}`,
    )
  t.same(kept('longest'), ['h2', 'h0'])
  t.same(kept('shortest'), ['h1', 'h0'])
  t.same(kept('likely'), ['h0', 'h2'])
  t.same(kept('unlikely'), ['h1', 'h2'])
  t.same(kept('likely', { skipSolved: false }), ['h0', 'h2', 's0', 's1'])
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
  const options = { rounds: 8, numIterations: 8, numGenerations: 16, rankBy: 'random', right: 0.5 }
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
