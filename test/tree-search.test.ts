// Tree search over steps: which nodes it visits, what it makes pairs of, whose tokens they are.

import { join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { searchSteps } from '../ts/train/loop/search-steps.js'
import type { Trace } from '../ts/train/loop/trace.js'
import { meanValue, siblingPairs, treeSearch, type World } from '../ts/train/loop/tree.js'
import { stepExamples } from '../ts/train/recipes/mcts-dpo.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters } from './support-recipes.js'
import { code, task, textsOf, trace, trainedOf } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

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
