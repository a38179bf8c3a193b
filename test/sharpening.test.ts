// Sharpening: what samples say of each other and what their model makes of them, and runs in which that is learned.

import { join } from 'node:path'
import t from 'tap'
import { logRatio } from '../ts/loss/index.js'
import { type LanguageModel, loadModel } from '../ts/src/generate/language-model.js'
import { answerReader, consistencyOf, consistencyStatistics, likelihood, voteShare } from '../ts/train/loop/answers.js'
import { regressionExamples } from '../ts/train/recipes/sharpening.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, prompts, runRecipe } from './support-recipes.js'
import { trace } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)

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
  const [first] = events.flatMap((event) => (event.type === 'round' ? [event.values] : []))
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
