// Monitors of rounds, on cases whose numbers are known: similarity of completions, learning curves, calibration, and what
// agreement says of being right.

import t from 'tap'
import { answerReader, consistencyOf, consistencyStatistics } from '../ts/train/loop/answers.js'
import { calibrationError, rankCorrelation } from '../ts/train/loop/calibration.js'
import { type CurvePoint, fitLearningCurve, stopRule } from '../ts/train/loop/learning-curve.js'
import { rankedByReward, rewardStatistics } from '../ts/train/loop/metrics.js'
import { meteor, similarityStatistics } from '../ts/train/loop/similarity.js'
import { trace } from './support-traces.js'

const near = (
  t: { ok: (fine: boolean, text: string) => void },
  value: number | undefined,
  wanted: number,
  tolerance = 1e-9,
): void => {
  t.ok(Math.abs((value ?? Number.NaN) - wanted) < tolerance, `${value} is ${wanted}`)
}

t.test('METEOR with exact matches', async (t) => {
  const [a, b] = ['The cat sat on the mat', 'the cat is  on a mat today']
  near(t, meteor(a, b), 0.327868852459)
  near(t, meteor(b, a), 0.289855072464)
  near(t, meteor(a, a), 0.997685185185, 1e-9)
  t.same([meteor('a b', 'c d'), meteor('', 'a'), meteor('', '')], [0, 0, 0])
  near(t, meteor('x', 'x'), 0.5, 1e-12)
  near(t, meteor('a b', 'b a'), 0.5, 1e-12)
})

t.test('similarity of a round', async (t) => {
  const same = ['a', 'b', 'c'].map((id) => trace(id, 0, ['one two three four five six']))
  near(t, similarityStatistics(same, 1)['completions/meteor'], 0.997685185185)
  const other = ['a', 'b', 'c'].flatMap((id) => [trace(id, 0, [`${id} ${id}`]), trace(id, 1, [id])])
  t.same(similarityStatistics(other), { 'completions/meteor': 0 }, 'of one prompt completions may be alike')
  t.same(similarityStatistics(same.slice(0, 1)), {})
  const mixed = ['a', 'b', 'c', 'd'].map((id, i) => trace(id, 0, [i % 2 === 0 ? 'x y' : 'z']))
  t.same(similarityStatistics(mixed, 3), similarityStatistics(mixed, 3))
  t.notSame(similarityStatistics(mixed, 3), similarityStatistics(mixed, 4), 'pairs are a draw of the seed')
})

const curve = (sizes: readonly number[], at: (size: number) => number): CurvePoint[] =>
  sizes.map((size) => ({ size, accuracy: at(size) }))
const steps = Array.from({ length: 16 }, (_, i) => 5000 * (i + 1))

t.test('learning curves', async (t) => {
  const law = (x: number) => 0.95 - 8 * x ** -0.5
  const fitted = fitLearningCurve(curve(steps, law))
  near(t, fitted.a, 8, 1e-4)
  near(t, fitted.b, 0.5, 1e-6)
  near(t, fitted.asymptote, 0.95, 1e-6)
  near(t, fitted.at(1e6), law(1e6), 1e-6)
  t.ok(fitted.fits && fitted.residual < 1e-9)
  const late = (x: number) => 0.2 + 0.7 / (1 + Math.exp((45000 - x) / 6000))
  t.notOk(fitLearningCurve(curve(steps.slice(0, 9), late)).fits, 'before a late jump there is no asymptote')
  t.notOk(fitLearningCurve(curve(steps, (x) => x / 1e5)).fits, 'nor of a line')
  t.notOk(fitLearningCurve(curve(steps, (x) => 1 - law(x))).fits, 'nor of what falls')
  t.notOk(fitLearningCurve(curve(steps, () => 0.5)).fits)
  near(t, fitLearningCurve(curve(steps, (x) => x / 1e5)).at(2e5), 2, 1e-6)
  t.throws(() => fitLearningCurve(curve(steps.slice(0, 3), law)), { code: 'E_CONFIG' })
  t.throws(() => fitLearningCurve(curve([1, 2, 2, 3], law)), { code: 'E_CONFIG', message: /got 2 at 2/ })
})

t.test('when to stop', async (t) => {
  const law = (x: number) => 0.95 - 8 * x ** -0.5
  const points = curve(steps, law)
  const left = (count: number) => 8 * (5000 * count) ** -0.5
  const known = stopRule(points, { tolerance: left(16) + 1e-6 })
  t.match(known, { stop: true, workingLevel: 4, predictionLevel: 4 })
  near(t, known.proximity, left(16), 1e-6)
  near(t, known.asymptote, 0.95, 1e-6)
  t.equal(stopRule(points, { tolerance: left(16) - 1e-6 }).stop, false)
  t.match(stopRule(points.slice(0, 8), { tolerance: 1 }), { stop: false, workingLevel: undefined }, 'too early to say')
  t.match(stopRule(points.slice(0, 9), { tolerance: 1 }), { stop: true, workingLevel: 4 })
  t.match(
    stopRule(points, { tolerance: 1, ceiling: 0.9 }),
    { stop: false, workingLevel: 4, predictionLevel: undefined },
    'an asymptote that cannot be',
  )
  t.equal(
    stopRule(
      curve(steps, (x) => x / 1e5),
      { tolerance: 1 },
    ).stop,
    false,
  )
  t.throws(() => stopRule(points, {} as never), { code: 'E_CONFIG' })
})

t.test('calibration and rank correlation by hand', async (t) => {
  const [p, right] = [
    [0.1, 0.2, 0.7, 0.9],
    [0, 1, 1, 1],
  ]
  near(t, calibrationError(p, right, { bins: 2 }), (0.7 + 0.4) / 4)
  near(t, calibrationError(p, right), (0.1 + 0.8 + 0.3 + 0.1) / 4)
  const skewed = [0.6, 0.7, 0.8, 1]
  near(t, calibrationError(skewed, [1, 0, 1, 1], { bins: 2, binning: 'width' }), 0.1 / 4)
  near(t, calibrationError(skewed, [1, 0, 1, 1], { bins: 2, binning: 'mass' }), (0.3 + 0.2) / 4)
  t.equal(calibrationError([], []), 0)
  t.throws(() => calibrationError([1.5], [1]), { code: 'E_CONFIG' })
  t.throws(() => calibrationError([1], []), { code: 'E_SHAPE' })
  near(t, rankCorrelation([1, 2, 3, 4], [10, 20, 40, 30]), 0.8)
  near(t, rankCorrelation([1, 2, 3], [3, 2, 1]), -1)
  near(t, rankCorrelation([1, 1, 2], [0, 1, 1]), 0.5)
  t.equal(rankCorrelation([1, 1], [1, 2]), undefined)
})

t.test('what agreement says of being right', async (t) => {
  near(t, consistencyOf(['4', '3', '3', '3', '4']).variance, 0.24)
  t.equal(consistencyOf(['4', 'x']).variance, undefined)
  const samples = (id: string, answers: string, right: string) =>
    [...answers].map((answer, i) => trace(id, i, [answer], { reward: Number(answer === right) }))
  const answerOf = answerReader()
  const traces = [...samples('a', '1111', '1'), ...samples('b', '1123', '1'), ...samples('c', '1222', '9')]
  const said = consistencyStatistics(traces, answerOf)
  near(t, said['answers/majority_right'], 2 / 3)
  near(t, said['answers/calibration_error'], (0 + 0.5 + 0.75) / 3)
  near(t, said['answers/correlation'], 0)
  near(t, said['answers/variance'], (0 + 0.6875 + 0.1875) / 3)
  const gold = traces.map((one) => ({ ...one, scores: { reward: 0.3, gold: 1 - one.scores.reward } }))
  near(t, consistencyStatistics(gold, answerOf)['answers/majority_right'], 1 / 3)
  const graded = traces.map((one) => ({ ...one, scores: { reward: 0.3 } }))
  t.notOk('answers/majority_right' in consistencyStatistics(graded, answerOf), 'a number is no verdict')
})

t.test('how far a reward is of the checker’s opinion', async (t) => {
  const samples = [
    [0.9, 1],
    [0.5, 0],
    [0.9, 0],
  ].map(([reward, gold], i) => trace('a', i, ['x'], { reward, gold }))
  const more = [trace('b', 0, ['x'], { reward: 0, gold: 1 }), trace('b', 1, ['x'], { reward: 1, gold: 0 })]
  t.equal(rankedByReward(samples), 0.75)
  t.equal(rankedByReward([...samples, ...more]), 0.5)
  t.equal(rankedByReward(samples.slice(0, 1)), undefined)
  t.match(rewardStatistics(samples, []), { gold: 1 / 3, 'gold/ranked': 0.75 })
})
