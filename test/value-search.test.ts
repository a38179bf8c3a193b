// Models fitted between rounds, and tree search with them: labels of steps from right ends, widths, merging, the reward that
// checker and model make together; and short runs, of which a stopped one goes on to the same bits.

import { join } from 'node:path'
import t from 'tap'
import { pointwiseReward } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import type { Run, TrainEvent } from '../ts/train/events.js'
import { createCompanion } from '../ts/train/loop/companion.js'
import { labelExamples, rankExamples } from '../ts/train/loop/examples.js'
import { searchTrees } from '../ts/train/loop/search-trees.js'
import { outcomeValues, stepValues } from '../ts/train/loop/step-values.js'
import { growTrees, importanceWidth, nodesOf, type TreeNode, type World } from '../ts/train/loop/tree.js'
import { passBand, rankStatistics, shapedReward } from '../ts/train/loop/verdict-rank.js'
import { recipes } from '../ts/train/recipes/index.js'
import { editDistance } from '../ts/train/tasks/distance.js'
import { liveBytes, temporaryFolder } from './support.js'
import { makeTwoLetters, prompts, share } from './support-recipes.js'
import { task, trace, trainedOf } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

type Made = { name: string; end?: boolean; next?: Made[] }
function treeOf({ name, end = false, next }: Made, parent?: TreeNode<string>): TreeNode<string> {
  const node: TreeNode<string> = {
    ...{ state: name, parent, depth: (parent?.depth ?? -1) + 1, prior: 1, terminal: end, own: 0, full: false },
    ...{ visits: 1, total: 0, children: undefined },
  }
  node.children = next?.map((child) => treeOf(child, node))
  return node
}
const named = (labels: ReadonlyMap<TreeNode<string>, number>) =>
  Object.fromEntries([...labels].map(([{ state }, value]) => [state, Number(value.toFixed(6))]))

t.test('values of steps from right ends', async (t) => {
  for (const steps of [1, 3, 5]) {
    const path = (k: number): Made => ({ name: `${k}`, end: k === steps, ...(k < steps && { next: [path(k + 1)] }) })
    const labels = named(stepValues(treeOf(path(0)), ({ state }) => state === `${steps}`))
    const wanted = Array.from({ length: steps }, (_, k) => [`${k + 1}`, Number(((k + 1) / steps).toFixed(6))])
    t.same(labels, Object.fromEntries(wanted), `v = k / ${steps} on a right path`)
  }
  const root = treeOf({
    name: 'root',
    next: [
      {
        name: 'a',
        next: [
          { name: 'ab', next: [{ name: 'right', end: true }] },
          { name: 'ax', end: true },
        ],
      },
      { name: 'w', next: [{ name: 'ww', end: true }] },
      { name: 'open', next: [{ name: 'opened' }] },
    ],
  })
  t.same(
    named(stepValues(root, ({ state }) => state === 'right')),
    {
      a: 0.333333,
      ab: 0.666667,
      right: 1,
      ax: 0.111111, // m of a is 2: 1/3 - (1 - 1/3) / 3
      w: 0, // m of the root is 3: 0 - 1/4, cut at 0
      ww: 0,
    },
    'a wrong step goes down by (1 - v) / (m + 1); what has no end below is not judged',
  )
  t.equal(stepValues(root, () => false).size, 0, 'nothing is known without a right end')
  t.same(named(outcomeValues(root, ({ state }) => Number(state === 'right'))), {
    ...{ a: 0.5, ab: 1, right: 1, ax: 0, w: 0, ww: 0 },
  })
})

t.test('widths that adapt, and nodes that grow again', async (t) => {
  const rule = importanceWidth({ scale: 4, least: 2, most: 4 })
  const parent = treeOf({ name: '', next: [{ name: 'a' }, { name: 'b' }] })
  const widthAt = (values: readonly number[]) => {
    parent.own = 0.5
    for (const [i, child] of (parent.children ?? []).entries()) child.own = values[i]
    return rule(parent)
  }
  t.equal(widthAt([0.5, 0.5]), 2, 'no difference: the least')
  t.equal(widthAt([0.5, 1]), 3, 'floor(4 / 2) + 1')
  t.equal(widthAt([0.5, 3]), 4, 'the most')
  const letters: World<string> = {
    expand: async (nodes) =>
      nodes.map(({ state, children = [] }) => {
        const letter = 'abc'[children.length]
        return letter === undefined ? [] : [{ state: state + letter, prior: 1, terminal: state.length === 1 }]
      }),
    evaluate: async (nodes) => nodes.map(({ state }) => Number(state.startsWith('b'))),
  }
  const grow = async (most: number, simulations: number) =>
    nodesOf((await growTrees([''], letters, { rule: 'ucb1', weight: 1, simulations, width: () => most }))[0])
  t.same(
    (await grow(2, 2)).map(({ state }) => state),
    ['', 'a', 'b'],
    'the root up to its width',
  )
  const all = await grow(9, 4)
  t.same([all[0].full, all[0].children?.length, all[0].visits], [true, 3, 3], 'then nothing more was found')
  t.same(
    all.slice(1).map(({ own }) => own),
    [0, 1, 0],
  )
  t.same([editDistance('kitten', 'sitting'), editDistance('', 'ab'), editDistance('ab', 'ab')], [3, 2, 0])
})

t.test('checker and reward model', async (t) => {
  t.equal(shapedReward(0, true, 0.5), 0.5)
  t.equal(shapedReward(0, false, 0.5), -0.5)
  t.ok(shapedReward(-20, true, 0.5) > 0 && shapedReward(20, false, 0.5) < 0, 'the checker decides the sign')
  t.ok(Math.abs(shapedReward(2 * Math.log(3), true, 0.5) - 0.75) < 1e-12, 's(log 3)')
  const group = (id: string, rights: readonly number[], ranks: readonly number[] = rights) =>
    rights.map((right, i) => trace(id, i, [`${i}`], { right, rank: ranks[i], reward: right }))
  const some = [...group('a', [1, 0, 0, 0]), ...group('b', [1, 1, 1, 0]), ...group('c', [0, 0, 0, 0])]
  t.same([...new Set(passBand(0.25, 0.625)(some).map(({ task: { id } }) => id))], ['a'])
  t.same(rankStatistics([...group('a', [1, 0, 0, 0], [1, 2, 0, 1]), ...group('b', [1, 1], [0, 1])]), {
    ...{ 'pass@1': 3 / 6, 'pass@N': 1, 'rm@N': 0.5, 'rm/accuracy': (0 + 1 + 0.5) / 3 },
  })
  const [example, ...others] = rankExamples('right')(some, 1)
  t.equal(others.length, 1, 'a group that ties is left out')
  t.same(
    example.map(({ scores }) => scores?.label),
    [1, 0, 0, 0],
  )
  t.same(trainedOf(example[0]), '0', 'read at the last token')
})

t.test('a companion is fitted from its start each time', async (t) => {
  const before = await liveBytes()
  {
    using model = await loadModel(base, { scoreLabels: 1, seed: 1 })
    const fit = { objective: pointwiseReward({ lossType: 'mse' }), toExamples: labelExamples }
    const values = { epochs: 30, batchSize: 4, learningRate: 1e-2, seed: 1 }
    const companion = await createCompanion(model, { ...fit, ...values })
    const sample = (text: string, label: number) => {
      const ids = model.tokenizer.encode(text)
      return { ...trace('a', 0, [text], { label }), segments: [{ role: 'completion' as const, text, ids }] }
    }
    const some = [sample('ab', 1), sample('ba', 0), sample('bb', 0), sample('a', 0.5)]
    const read = async () => (await model.scores(some.map(({ segments }) => segments[0].ids))).map(([value]) => value)
    const start = await read()
    const said = await companion.fit(some, 2)
    const fitted = await read()
    t.ok(said['companion/loss'] < 0.02, `squared error ${said['companion/loss']}`)
    t.ok(Math.abs(fitted[0] - 1) < 0.3 && Math.abs(fitted[1]) < 0.3, `${fitted}`)
    t.match(said, { 'companion/examples': 4, 'companion/mean_reward': Number })
    t.same(await companion.fit(some, 2), said, 'again the same')
    t.same(await read(), fitted, 'bit for bit')
    t.same(await companion.fit([], 1), { 'companion/examples': 0 })
    t.same(await read(), start, 'with nothing to learn it is as it started')
    companion.dispose()
    using language = await loadModel(base)
    await t.rejects(createCompanion(language, { ...fit, ...values }), { code: 'E_CONFIG', where: 'companion' })
  }
  t.equal(await liveBytes(), before, 'nothing is left')
})

t.test('trees: answers, labelled prefixes, rollouts', async (t) => {
  using policy = await loadModel(base)
  const bs = (text: string) => (text.match(/b/g) ?? []).length
  const grow = (more: object = {}) =>
    searchTrees({
      ...({ rule: 'ucb1', weight: 1, simulations: 3, stepEnd: 'b', maxSteps: 3 } as const),
      sampling: { numGenerations: 3, maxNewTokens: 6, temperature: 1 },
      prefixValues: async (sequences) => sequences.map((ids) => bs(policy.tokenizer.decode(ids)) / 8),
      rollouts: { share: 0.5, steps: 2 },
      score: async (traces) => traces.map((one) => ({ ...one, scores: { reward: bs(one.segments[1].text) } })),
      label: (root, rewardOf) => outcomeValues(root, rewardOf),
      ...more,
    })
  const tasks = ['a', 'b', 'ab'].map(task)
  const context = { policy, seed: 3, round: 1 }
  for (const more of [{}, { rollouts: { share: 0.5, answers: 2 }, width: () => 4, mergeDistance: 1 }]) {
    const traces = await grow(more)(context, tasks)
    t.same(
      await grow(more)(context, tasks.slice(2)),
      traces.filter(({ task: { id } }) => id === 'ab'),
      'alone as among others',
    )
    for (const { scores, segments } of traces)
      if (scores.onPolicy === 1) {
        t.equal(scores.reward, bs(segments[1].text))
        const logps = await policy.logProbs(segments.flatMap(({ ids }) => ids))
        t.same(segments[1].logps, [...logps.slice(-segments[1].ids.length)], 'the policy’s own, bit for bit')
      } else t.type(scores.label, 'number')
    t.ok(traces.some(({ scores }) => scores.onPolicy === 0))
    const tokens = traces.flatMap(({ scores }) => scores.searchTokens ?? [])
    t.ok(
      tokens.every((count) => count >= 3),
      'all that was drawn is counted',
    )
  }
  const plain = await grow({ rollouts: { share: 0 } })(context, tasks)
  for (const { scores, segments } of plain)
    if (scores.label !== undefined)
      t.equal(scores.value, bs(segments[0].text + segments[1].text) / 8, 'without rollouts')
})

const usual = {
  ...{ prompts, rewardFuncs: [share], rounds: 3, promptsPerRound: 4, maxCompletionLength: 4, seed: 3 },
  ...{ learningRate: 1e-2, companionLearningRate: 1e-2, right: 0.25 },
}
const methods = {
  restMcts: { ...usual, stepEnd: 'b', maxSteps: 3, simulations: 4, perDeviceTrainBatchSize: 4 },
  alphaLlm: { ...usual, stepEnd: 'b', maxSteps: 3, simulations: 4, threshold: 0, perDeviceTrainBatchSize: 2 },
  qwenMath: { ...usual, mostRight: 1, leastRight: 0.1, perDeviceTrainBatchSize: 16 },
} as const

async function runOf(name: keyof typeof methods, options: object = {}, onEvent?: (event: TrainEvent) => void) {
  using policy = await loadModel(base)
  const run = (recipes[name] as (options: unknown) => Run<unknown>)({ policy, ...methods[name], ...options })
  const rounds: Record<string, number>[] = []
  const following = (async () => {
    for await (const event of run) {
      if (event.type === 'round') rounds.push({ ...event.values, seconds: 0 })
      onEvent?.(event)
    }
  })()
  await Promise.all([run.result, following])
  return { rounds, weights: [...(await policy.logProbs(policy.tokenizer.encode('abab=ba')))] }
}

for (const name of Object.keys(methods) as (keyof typeof methods)[])
  t.test(`${name}: stopped and resumed, the same bits`, async (t) => {
    const before = await liveBytes()
    const whole = await runOf(name)
    t.equal(await liveBytes(), before, 'no memory is left')
    t.equal(whole.rounds[0]['companion/examples'], 0, 'before the first round nothing was written')
    t.ok(whole.rounds[2]['companion/examples'] > whole.rounds[1]['companion/examples'], 'then all rounds so far')
    const output = join(folder, name)
    const stopped = new AbortController()
    const half = runOf(name, { output, signal: stopped.signal }, (event) => {
      if (event.type === 'step' && event.step === 3) stopped.abort()
    })
    await t.rejects(half, { code: 'E_ABORTED' })
    const resumed = await runOf(name, { output, resume: true })
    t.same(resumed.weights, whole.weights)
    t.same(resumed.rounds.at(-1), whole.rounds.at(-1), 'and the same last round, the companion’s numbers among it')
    const named = { restMcts: 'search/found', alphaLlm: 'search/kept', qwenMath: 'rm@N' }[name]
    t.type(whole.rounds[2][named], 'number', named)
  })

t.test('refused', async (t) => {
  using policy = await loadModel(base)
  const run = recipes.bestOfN({ policy, prompts, rewardFuncs: [share], companion: base })
  await t.rejects(run.result, { code: 'E_CONFIG', where: 'companion' })
  await t.rejects(runOf('restMcts', { companion: base }), { code: 'E_CONFIG', where: 'companion' })
})
