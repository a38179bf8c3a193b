// Uncertainty by dropout, and what UPO makes of it: numbers that are known, pairs made by hand, a short run with a real estimator.

import { join } from 'node:path'
import t from 'tap'
import { logRatio, pairReward } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import {
  drawPairs,
  halfPairs,
  type JudgedPair,
  judgedPairs,
  judgeHalves,
  noiseRate,
} from '../ts/train/loop/judged-pairs.js'
import { drawJudge, type JudgeDraws, type PairInput, type PairJudge } from '../ts/train/loop/judges.js'
import { pairJudge } from '../ts/train/loop/reward-model.js'
import { drawScores, uncertainty } from '../ts/train/loop/uncertainty.js'
import { upoExamples, upoPairs } from '../ts/train/recipes/upo.js'
import { train } from '../ts/train/train.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, prompts, runRecipe } from './support-recipes.js'
import { textsOf, trace } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

type Checks = { ok: (fine: boolean, text: string) => void }
const near = (t: Checks, value: number, wanted: number, tolerance = 1e-12): void =>
  t.ok(Math.abs(value - wanted) < tolerance, `${value} is ${wanted}`)

/** Which answer a prompt shows, in the three characters that the model knows. */
const shown = { revisionText: '{prompt}{answer}=' }

/** A model of pairs with dropout: answers with more b are better. */
const estimator = join(folder, 'pairs')
const data = prompts.flatMap(({ prompt }) => [
  { prompt, chosen: 'bb', rejected: 'aa' },
  { prompt, chosen: 'ab', rejected: 'aa' },
])
{
  using model = await loadModel(base, { scoreLabels: 1, lora: { r: 4, loraDropout: 0.3 }, seed: 1 })
  const settings = { learningRate: 2e-2, maxSteps: 8, lrSchedulerType: 'constant' } as const
  await train({ policy: model, objective: pairReward(), data, output: estimator, ...settings, ...shown }).result
}

t.test('BALD of known draws', async (t) => {
  t.same(uncertainty([0.5, 0.5, 0.5]), { mean: 0.5, variance: 0, vote: 0.5, bald: 0 }, 'doubt that all share is none')
  const split = uncertainty([0, 1, 0, 1])
  t.match(split, { mean: 0.5, variance: 0.25, vote: 0.5 })
  near(t, split.bald, Math.LN2)
  t.match(uncertainty([0.3, 0.3, 0.3]), { bald: 0, vote: 0 })
  t.match(uncertainty([0.9, 0.6, 0.1]), { vote: 1 }, 'two of three')
  const h = (p: number) => -p * Math.log(p) - (1 - p) * Math.log(1 - p)
  near(t, uncertainty([0.9, 0.6]).bald, h(0.75) - (h(0.9) + h(0.6)) / 2)
  t.throws(() => uncertainty([]), { code: 'E_CONFIG' })
  t.throws(() => uncertainty([1.1]), { code: 'E_CONFIG' })
})

t.test('draws of a score head with dropout', async (t) => {
  using model = await loadModel(estimator)
  const rows = ['a=b', 'ab=aab', 'b=bbbb', 'a='].map((text) => model.tokenizer.encode(text))
  const draws = { passes: 3, seed: 5 }
  const all = await drawScores(model, rows, draws)
  for (const [i, row] of rows.entries())
    t.same(
      await drawScores(model, [row], draws),
      all.map((own) => [own[i]]),
      'alone, the same bits',
    )
  t.same(
    await drawScores(model, rows.toReversed(), draws),
    all.map((own) => own.toReversed()),
  )
  t.same(
    await drawScores(model, rows, { passes: 1, seed: 5 }),
    all.slice(0, 1),
    'a pass is itself, however many follow',
  )
  t.equal(new Set(all.flat()).size, 12, 'passes differ')
  t.notSame(await drawScores(model, rows, { passes: 3, seed: 6 }), all)
  const plain = (await model.scores(rows)).map(([score]) => score)
  const many = await drawScores(model, rows, { passes: 400, seed: 1 })
  for (const [i, score] of plain.entries()) {
    const own = many.map((pass) => pass[i])
    const centre = own.reduce((sum, x) => sum + x, 0) / own.length
    const deviation = Math.sqrt(own.reduce((sum, x) => sum + (x - centre) ** 2, 0) / own.length)
    t.ok(deviation > 0 && Math.abs(centre - score) < deviation, `${centre.toFixed(3)} around ${score.toFixed(3)}`)
  }
  using sure = await loadModel(base, { scoreLabels: 1, lora: { r: 4, loraDropout: 0 } })
  await t.rejects(drawScores(sure, rows, draws), { code: 'E_CONFIG', message: /loraDropout above 0/ })
  t.equal(pairJudge(sure).sample, undefined)
})

t.test('draws of a judge of pairs are those of both orders', async (t) => {
  using model = await loadModel(estimator)
  const judge = pairJudge(model, shown)
  const [one, other] = [trace('a', 0, ['bb']), trace('a', 1, ['a'])]
  const draws = { passes: 2, seed: 3 }
  const said = await drawJudge(judge, [[one, other]], draws)
  const end = model.tokenizer.eosId ?? 0
  const ids = ['a=a=bb', 'a=bb=a'].map((text) => [...model.tokenizer.encode(text), end])
  const logistic = (x: number) => 1 / (1 + Math.exp(-x))
  const wanted = (await drawScores(model, ids, draws)).map(([x, y]) => (logistic(x) + 1 - logistic(y)) / 2)
  for (const [i, p] of wanted.entries()) near(t, said[0][i], p)
  const [[back]] = await drawJudge(judge, [[other, one]], draws)
  near(t, back, 1 - said[0][0])
  const silent = { ...draws }
  await t.rejects(
    drawJudge(() => [0.5], [[one, other]], silent),
    { code: 'E_CONFIG', where: 'judge' },
  )
  const broken = Object.assign(() => [0.5], { sample: async () => [[0.5, 2]] })
  await t.rejects(drawJudge(broken as PairJudge, [[one, other]], draws), { code: 'E_VERIFIER' })
})

/** Six samples of a task; an estimator with given draws for the first of a pair. */
const rewards = [0.9, 0.1, 0.5, 0.8, 0.5, 0.2]
const six = (id: string) => rewards.map((reward, i) => trace(id, i, ['b'.repeat(i + 1)], { reward }))

t.test('better half against worse half, and what the estimator says of it', async (t) => {
  const names = halfPairs(six('x')).map(([own, other]) => `${own.sample}>${other.sample}`)
  t.same(names, ['0>4', '0>5', '0>1', '3>4', '3>5', '3>1', '2>5', '2>1'], 'equal rewards are no pair')
  t.same(halfPairs(six('x').slice(0, 1)), [])
  let asked = 0
  const judge: PairJudge = Object.assign(() => [], {
    sample: async ({ completions }: { completions: readonly (readonly [string, string])[] }) => {
      asked += completions.length
      return completions.map(([a, b]) => (a.length > b.length ? [0.9, 0.7] : [0.1, 0.3]))
    },
  })
  const scored = await judgeHalves(async (traces) => [...traces], judge, { passes: 2, seed: 1 })(six('x'))
  t.equal(asked, 8)
  const pairs = judgedPairs(scored)
  t.same(
    pairs.map(({ chosen, rejected, vote }) => `${chosen.sample}>${rejected.sample} ${vote}`),
    ['0>4 0', '0>5 0', '0>1 0', '3>4 0', '3>5 0', '3>1 1', '2>5 0', '2>1 1'],
    'longer is better by it',
  )
  near(t, pairs[5].bald, uncertainty([0.9, 0.7]).bald)
  near(t, pairs[0].probability, 0.2)
  const values = { easyShare: 1, hardShare: 0, perPrompt: 1, seed: 1 }
  t.equal(upoPairs(scored, values).length, 1, 'one of a prompt')
  const both = upoExamples({ ...values, perPrompt: 2 })(scored, 1)
  t.same(
    both.map((pair) => pair.map(({ role, ids }) => `${role} ${textsOf(ids)}`)).toSorted(),
    [
      ['chosen x=bbb', 'rejected x=bb'],
      ['chosen x=bbbb', 'rejected x=bb'],
    ],
    'where the vote and the reward agree',
  )
  near(t, both[0][0].scores?.labelSmoothing ?? Number.NaN, uncertainty([0.9, 0.7]).bald / (2 * Math.LN2))
  const none = upoExamples(values)(
    scored.map((one) => ({ ...one, scores: { ...one.scores, 'vote/1': 0 } })),
    1,
  )
  t.match(none, [[{ scores: { weight: 0 } }, { scores: { weight: 0 } }]], 'a round without a pair has no gradient')
})

t.test('draws by weight, without replacement', async (t) => {
  const made = (id: string, bald: number): JudgedPair => {
    const [chosen, rejected] = [trace(id, 0, ['a'], { gold: Number(id > 'm') }), trace(id, 1, ['b'], { gold: 1 })]
    return { chosen, rejected, probability: 0.9, vote: 1, bald }
  }
  const pairs = [made('a', 0.6), made('b', 0.2), made('c', 0)]
  const first = new Map<string, number>()
  for (let seed = 0; seed < 2000; seed++) {
    const [one, ...rest] = drawPairs(pairs, 3, ({ bald }) => bald, seed, 'hard')
    first.set(one.chosen.task.id, (first.get(one.chosen.task.id) ?? 0) + 1)
    if (rest.length !== 2 || rest[1].chosen.task.id !== 'c') t.fail('each once, weight 0 last')
  }
  t.ok(Math.abs((first.get('a') ?? 0) / 2000 - 0.75) < 0.04, `${first.get('a')} of 2000 for 3 to 1`)
  const order = (some: readonly JudgedPair[]) =>
    drawPairs(some, 2, ({ bald }) => bald, 7, 'hard').map(({ chosen }) => chosen.task.id)
  t.same(order(pairs), order(pairs.toReversed()), 'whatever the order that they come in')
  t.equal(noiseRate([made('a', 0), made('z', 0)]), 1, 'pairs that the checker does not tell apart do not count')
  t.equal(noiseRate([made('z', 0)]), undefined)
})

t.test('smoothed DPO with the likelihood of the chosen side', async (t) => {
  const terms = (role: 'chosen' | 'rejected', logps: number[], scores = { labelSmoothing: 0.2 }) => ({
    ...{ role, example: 0, scores, logps: Float64Array.from(logps) },
    reference: Float64Array.from(logps.map(() => -1)),
  })
  const sequences = [terms('chosen', [-0.5, -1.5]), terms('rejected', [-3])]
  const { loss } = logRatio({ beta: 0.5, rpoAlpha: 0.7 }).evaluate({ sequences, step: { tokens: 3, examples: 1 } })
  const z = 0.5 * (0 - -2)
  near(t, loss, 0.8 * Math.log(1 + Math.exp(-z)) + 0.2 * Math.log(1 + Math.exp(z)) + 0.7 * 1)
})

t.test('a run with an estimator that was trained', async (t) => {
  using model = await loadModel(estimator)
  const own = pairJudge(model, shown)
  // An untrained policy also writes special tokens, as whose text it has no characters.
  const letters = (text: string) => text.replace(/[^ab]/g, '')
  const judge: PairJudge = Object.assign(() => [], {
    sample: async (input: PairInput, draws: JudgeDraws) => {
      const completions = input.completions.map(([one, other]) => [letters(one), letters(other)] as const)
      return (await own.sample?.({ ...input, completions }, draws)) ?? []
    },
  })
  const options = { judge, rounds: 2, perPrompt: 2, passes: 3 }
  const { events } = await runRecipe('upo', { base, options })
  const [first, second] = events.flatMap((event) => (event.type === 'round' ? [event.values] : []))
  t.match(first, { 'pairs/all': Number, 'pairs/kept': Number, 'pairs/bald': Number })
  t.ok(first['pairs/bald'] > 0 && first['pairs/bald'] < Math.LN2 && first['pairs/kept'] > 0)
  // Behind each round the reference is the policy: a reward of the first step of the second round would be 0 again.
  const steps = events.flatMap((event) => (event.type === 'step' ? [event.stats['rewards/margins']] : []))
  const perRound = steps.length / 2
  t.equal(steps[0], 0)
  t.not(steps[perRound - 1], 0)
  t.equal(steps[perRound], 0)
  t.ok(second['pairs/all'] > 0)
  await t.rejects(runRecipe('upo', { base, options: { judge: undefined } }), { code: 'E_CONFIG', where: 'judge' })
  await t.rejects(runRecipe('upo', { base, options: { judge, rewardFuncs: [] } }), {
    code: 'E_CONFIG',
    where: 'rewardFuncs',
  })
  const plain = () => [0.5]
  await t.rejects(runRecipe('upo', { base, options: { judge: plain } }), { code: 'E_CONFIG', where: 'judge' })
})
