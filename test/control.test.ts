// Control of the loop: bandits and Gaussian processes against numbers made by hand, the protocol that tunes and judges on different
// scenarios, what a row of tasks did to a model, populations, and rewards made of scores.

import t from 'tap'
import { bandit, bayesian, posteriorOf } from '../ts/train/loop/bandit.js'
import { acceptTask, dominates, evolve, normalizedPercentiles } from '../ts/train/loop/population.js'
import { protocol, taskMatrix } from '../ts/train/loop/protocol.js'
import { shape } from '../ts/train/loop/score.js'
import { hillClimb, type Tuned } from '../ts/train/loop/tuner.js'
import { trace } from './support-traces.js'

const close = (a: number, b: number, by = 1e-12): boolean => Math.abs(a - b) < by

t.test('UCB1', async (t) => {
  const arms = ['a', 'b', 'c']
  const tried = (...values: readonly [string, number][]) => values.map(([setting, value]) => ({ setting, value }))
  t.equal(bandit([], arms), 'a')
  t.equal(bandit(tried(['a', 1]), arms), 'b', 'each once, in order')
  const all = tried(['a', 0.5], ['b', 0.4], ['c', 0])
  t.equal(bandit(all, arms), 'a', 'equal counts: the best')
  // a: 0.5 + sqrt(2 ln 4 / 2) = 1.677; b: 0.4 + sqrt(2 ln 4) = 2.065; c: 1.665.
  t.equal(bandit([...all, { setting: 'a', value: 0.5 }], arms), 'b')
  t.equal(bandit([...all, { setting: 'a', value: 0.5 }], arms, { exploration: 0 }), 'a')
  // Values that repeat every five pulls, with means 0.2, 0.5 and 0.8.
  const means: Readonly<Record<string, number>> = { a: 0.2, b: 0.5, c: 0.8 }
  const pulls: Tuned<string>[] = []
  for (let n = 0; n < 300; n++) {
    const setting = bandit(pulls, arms)
    const own = pulls.filter((one) => one.setting === setting).length
    pulls.push({ setting, value: Number(own % 5 < Math.round(means[setting] * 5)) })
  }
  const last = pulls.slice(-100).filter(({ setting }) => setting === 'c').length
  t.ok(last > 75, `the best arm has ${last} of the last 100 pulls`)
  t.throws(() => bandit([], []), { code: 'E_CONFIG' })
  const readBack = [{ setting: { rate: 1 }, value: 1 }]
  t.throws(() => bandit(readBack, [{ rate: 1 }]), { code: 'E_CONFIG', message: /by identity/ })
  const unknown = [{ setting: 1, value: Number.NaN }]
  t.throws(() => bandit(unknown, [1, 2]), { code: 'E_CONFIG', where: 'bandit.tried[0]' })
  t.throws(() => hillClimb(unknown, { start: 1, step: 1 }), { code: 'E_CONFIG', where: 'hillClimb.tried[0]' })
})

t.test('a Gaussian process, and expected improvement', async (t) => {
  const s = Math.sqrt(5) * 2
  const k = (1 + s + s ** 2 / 3) * Math.exp(-s)
  const [one] = posteriorOf([{ setting: [0], value: 2 }], [[1]], { lengthScale: 0.5, noise: 0.1 })
  t.ok(close(one.mean, (k * 2) / 1.01) && close(one.deviation, Math.sqrt(1 - k ** 2 / 1.01)), 'one point')
  // Two points far from each other do not know of each other; at a point the value is nearly certain.
  const far = [0, 9].map((x, i) => ({ setting: [x], value: i + 1 }))
  const [at, between] = posteriorOf(far, [[9], [4.5]], { lengthScale: 0.5, noise: 1e-3 })
  t.ok(close(at.mean, 2, 1e-5) && at.deviation < 2e-3)
  t.ok(close(between.mean, 0, 1e-4) && close(between.deviation, 1, 1e-4))
  const near = [0, 0.2].map((x, i) => ({ setting: [x], value: i }))
  const r = (Math.sqrt(5) * 0.2) / 0.5
  const c = (1 + r + r ** 2 / 3) * Math.exp(-r)
  const [two] = posteriorOf(near, [[0.2]], { lengthScale: 0.5, noise: 0.1 })
  t.ok(close(two.mean, (1.01 - c ** 2) / (1.01 ** 2 - c ** 2)), 'two points, by the inverse of 2 x 2')

  const grid = Array.from({ length: 101 }, (_, i) => [i / 100])
  const hill = ([x]: readonly number[]) => -((x - 0.37) ** 2)
  const tried: Tuned<readonly number[]>[] = []
  for (let n = 0; n < 12; n++) {
    const setting = bayesian(tried, grid, { noise: 0.01 })
    tried.push({ setting, value: hill(setting) })
  }
  const best = tried.reduce((a, b) => (b.value > a.value ? b : a))
  t.ok(Math.abs(best.setting[0] - 0.37) <= 0.02, `12 tries of 101 find ${best.setting[0]}`)
  t.same(bayesian(tried, grid), bayesian(tried, grid))
  // Noise of a fifth of the hill, from sin of large numbers: the last tries are near the top, whatever came out best by luck.
  const coarse = Array.from({ length: 11 }, (_, i) => [i / 10])
  const noisy: Tuned<readonly number[]>[] = []
  for (let n = 0; n < 60; n++) {
    const setting = bayesian(noisy, coarse)
    noisy.push({ setting, value: 1 - 4 * (setting[0] - 0.7) ** 2 + 0.4 * Math.sin((n + 1) ** 2 * 12.9898) })
  }
  const late = noisy.slice(-20).map(({ setting: [x] }) => x)
  t.ok(
    late.every((x) => Math.abs(x - 0.7) < 0.25),
    `${late}`,
  )
  t.throws(() => bayesian(tried, [[Number.NaN]]), { code: 'E_CONFIG', where: 'bayesian.candidates' })
  t.same(bayesian([], grid), [0])
  t.same(bayesian([{ setting: [0], value: 1 }], [[0], [0.5]]), [0.5], 'equal values: where least is known')
  const twice = [1, 2].map((value) => ({ setting: [0], value }))
  t.throws(() => bayesian(twice, grid, { noise: 1e-9 }), { code: 'E_CONFIG', message: /more noise/ })
  t.same(bayesian(twice, [[0], [1]]), [1], 'measured twice')
  t.throws(() => bayesian([{ setting: [0], value: Number.NaN }], grid), { code: 'E_CONFIG' })
  for (const [candidates, options] of [
    [[], {}],
    [[[0], [0, 1]], {}],
    [[[0]], { noise: 0 }],
    [[[0]], { lengthScale: -1 }],
  ] as const)
    t.throws(() => bayesian([], candidates, options), { code: 'E_CONFIG' })
})

t.test('tuned on some scenarios, judged on others', async (t) => {
  const table: Readonly<Record<string, readonly number[]>> = { a: [1, 3], b: [5, 1], c: [2, 2], d: [0, 4] }
  const asked: string[] = []
  const run = async (setting: number, scenario: string, seed: number) => {
    asked.push(`${setting}${scenario}${seed}`)
    return table[scenario][setting] + seed / 10
  }
  const parts = { run, settings: [0, 1], tuning: ['a', 'b'], evaluation: ['c', 'd'], seeds: [0, 2] }
  const { tuned, chosen, evaluated, optimism } = await protocol(parts)
  t.equal(chosen, 0)
  t.same(
    tuned.map((row) => row.mean),
    [3.1, 2.1],
  )
  t.ok(close(tuned[0].deviation, Math.sqrt(0.02)), 'over seeds')
  t.ok(close(evaluated.mean, 1.1) && close(optimism, 2), 'it looked better by 2 where it was tuned')
  t.notOk(
    asked.some((name) => /1[cd]/.test(name)),
    'what was not chosen is never run on the evaluation scenarios',
  )
  await t.rejects(protocol({ ...parts, evaluation: ['b'] }), { code: 'E_CONFIG', message: /'b' in both/ })
  await t.rejects(protocol({ ...parts, seeds: [] }), { code: 'E_CONFIG', where: 'protocol.seeds' })
  await t.rejects(protocol({ ...parts, run: async () => Number.NaN }), { code: 'E_VERIFIER', where: /a, seed 0/ })
})

t.test('task after task', async (t) => {
  const { final, incremental, forgetting } = taskMatrix([[0.8], [0.6, 0.9], [0.7, 0.5, 1]])
  t.ok(close(final, 2.2 / 3))
  t.ok(close(incremental, (0.8 + 0.75 + 2.2 / 3) / 3))
  t.ok(close(forgetting, (0.1 + 0.4) / 2))
  t.same(taskMatrix([[0.5]]), { final: 0.5, incremental: 0.5, forgetting: 0 })
  t.ok(taskMatrix([[0.5], [0.7, 1]]).forgetting < 0, 'a later task may help')
  for (const rows of [[], [[1, 2]], [[1], [1]]]) t.throws(() => taskMatrix(rows), { code: 'E_SHAPE' })
})

t.test('populations', async (t) => {
  t.same([dominates([1, 2], [1, 1]), dominates([1, 1], [1, 1]), dominates([2, 0], [1, 1])], [true, false, false])
  t.same(
    normalizedPercentiles(
      [
        [2, 0, 1],
        [4, 0, 0],
      ],
      [0, 50],
    ),
    [
      [0, 0.5],
      [0, 0],
    ],
    'by the best of each task; 0 of 0',
  )
  const members = [
    { settings: 1, scores: [4, 4, 4] },
    { settings: 2, scores: [8, 0, 0] },
    { settings: 3, scores: [4, 4, 3] },
  ]
  const mutate = (settings: number, draw: (i: number) => number) => settings + draw(0)
  const next = evolve(members, { seed: 1, generation: 1, mutate })
  t.same(next.map(({ parent }) => parent).slice(0, 1), [0])
  t.ok([0, 2].includes(next[1].parent), 'a high mean that fails most tasks is replaced')
  t.equal(next[2].parent, 0)
  t.ok(next[2].settings >= 1 && next[2].settings < 2 && next[2].settings !== 1, 'a copy has changed settings')
  t.same(evolve(members, { seed: 1, generation: 1, mutate }), next)
  t.notSame(evolve(members, { seed: 1, generation: 2, mutate }), next)
  // Settings climb to where both tasks are solved.
  let population = [0, 0.2, 0.9].map((settings) => ({ settings }))
  const scoresOf = (x: number) => [Math.max(0, 1 - Math.abs(x - 0.5)), Math.max(0, 1 - Math.abs(x - 0.6))]
  for (let generation = 1; generation <= 40; generation++)
    population = evolve(
      population.map(({ settings }) => ({ settings, scores: scoresOf(settings) })),
      {
        ...{ seed: 2, generation },
        mutate: (x: number, draw) => x + (draw(0) - 0.5) / 2,
      },
    )
  t.ok(
    population.some(({ settings }) => settings >= 0.45 && settings <= 0.65),
    `${population.map(({ settings }) => settings)}`,
  )
  t.throws(() => evolve([], { seed: 1, generation: 1, mutate }), { code: 'E_CONFIG' })
  for (const score of [-1, Number.NaN])
    t.throws(() => evolve([{ settings: 1, scores: [score] }], { seed: 1, generation: 1, mutate }), { code: 'E_CONFIG' })
  t.throws(() => evolve(members, { seed: 1, generation: 1, mutate, percentiles: [150] }), { code: 'E_CONFIG' })
  t.throws(() => evolve([members[0], { settings: 1, scores: [1] }], { seed: 1, generation: 1, mutate }), {
    code: 'E_SHAPE',
  })
})

t.test('tasks that are worth training on', async (t) => {
  const rules = { solvedAt: 0.9, mostSolved: 0.8, margin: 0.1, leastBetter: 0.2, mostControl: 0.5 }
  const accepts = (scores: readonly number[], control = [0, 0, 0, 0]) => acceptTask(scores, control, rules)
  t.ok(accepts([1, 0, 1, 0]))
  t.notOk(accepts([1, 1, 1, 1]), 'too easy')
  t.notOk(accepts([0, 0, 0, 0]), 'too hard')
  t.notOk(accepts([1, 1, 0, 0], [1, 0.5, 1, 0]), 'the control does well')
  t.notOk(accepts([0.05, 0.05, 0.05, 0.05]), 'not better by the margin')
  t.throws(() => accepts([1]), { code: 'E_SHAPE' })
})

t.test('rewards made of scores', async (t) => {
  const one = trace('a', 0, ['xy', 'z'], { rank: 2, right: 1 })
  const [shaped] = await shape(({ scores, length, turns }) => scores.right * scores.rank - 0.1 * length + turns)([one])
  t.ok(close(shaped.scores.reward, 2 - 0.3 + 2))
  t.match((await shape(() => 3, 'other')([one]))[0].scores, { rank: 2, other: 3 })
  await t.rejects(shape(({ scores }) => scores.missing + 1)([one]), { code: 'E_VERIFIER', where: 'task a sample 0' })
})
