// Methods with turns, refusals and a climb: what they select of samples made by hand, and how settings move from round to round.

import { join } from 'node:path'
import t from 'tap'
import { mean } from '../ts/src/base/stats.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { chain } from '../ts/train/loop/chain.js'
import { critiqueSelect } from '../ts/train/loop/critique.js'
import { turnsFrom } from '../ts/train/loop/recast.js'
import { isRefusal, refusalReward, reliabilityOf, slopeOf, stepsOf } from '../ts/train/loop/refusal.js'
import {
  discountedReturns,
  explainedRewards,
  explanationReward,
  overlap,
  refinementReward,
} from '../ts/train/loop/segment-rewards.js'
import { resample } from '../ts/train/loop/select.js'
import { completionOf, type Trace, turnsOf } from '../ts/train/loop/trace.js'
import { hillClimb } from '../ts/train/loop/tuner.js'
import { autoCeiExamples, curveOf } from '../ts/train/recipes/auto-cei.js'
import { smartSelect, strategyStatistics } from '../ts/train/recipes/smart.js'
import { temporaryFolder } from './support.js'
import { makeTwoLetters, runRecipe } from './support-recipes.js'
import { task, textsOf, trace, trainedOf } from './support-traces.js'

const folder = await temporaryFolder(t)
const base = join(folder, 'base')
await makeTwoLetters(base)
const near = (t: { ok: (ok: boolean, text: string) => unknown }, got: number, wanted: number, what: string) =>
  t.ok(Math.abs(got - wanted) < 1e-12, `${what}: ${got}`)

/** An attempt with the rewards of its turns, `reward` that of the last one. */
const judged = (
  id: string,
  sample: number,
  texts: readonly string[],
  rewards: readonly (number | undefined)[],
): Trace => {
  const scores = rewards.flatMap((reward, i) => (reward === undefined ? [] : [[`reward/${i + 1}`, reward] as const]))
  return trace(id, sample, texts, { ...Object.fromEntries(scores), reward: rewards.at(-1) ?? 0 })
}
const shown = ({ task: { id }, segments, scores }: Trace) =>
  `${id} ${segments.map(({ role, text }) => (role === 'completion' ? `[${text}]` : text)).join('')} ${scores.helped ?? ''}`.trim()

t.test('critique in the loop: right answers, mended ones, critiques that help', async (t) => {
  // Two critiques of an answer, two refinements of each: samples 0 to 3 are of the first answer, 4 to 7 of the second.
  const refinements = ['R', 'w', 'x', 'S'].map((text, sample) =>
    judged('m', sample, ['bad', `c${sample >> 1}`, text], [0, undefined, Number(text < 'T')]),
  )
  const given = [
    ...refinements,
    judged('m', 4, ['good'], [1]),
    judged('k', 0, ['g'], [1]),
    judged('k', 4, ['g'], [1]),
    judged('n', 0, ['u', 'c', 'v'], [0, undefined, 0]),
  ]
  const usual = {
    right: 1,
    perPrompt: 2,
    refinedPerPrompt: 1,
    critiques: 2,
    refinements: 2,
    withRefinement: false,
    withCritique: false,
    keepCritiqueAt: 0.3,
  }
  const kept = (more = {}) => critiqueSelect({ ...usual, ...more })(given).map(shown)
  const plain = ['m m=[good]', 'k k=[g]', 'm m=[R]']
  t.same(kept(), plain, 'equal answers once; one mended answer a prompt, behind the bare prompt')
  t.same(kept({ refinedPerPrompt: 2 }), [...plain, 'm m=[S]'])
  t.same(kept({ refinedPerPrompt: 0, perPrompt: 1 }), ['m m=[good]', 'k k=[g]'])
  t.same(kept({ withRefinement: true }), [...plain, 'm m=bad?c0?[R]', 'm m=bad?c1?[S]'])
  t.same(
    kept({ withCritique: true }),
    [...plain, 'm m=bad?[c0] 0.5', 'm m=bad?[c1] 0.5'],
    'half of their refinements are right',
  )
  t.same(kept({ withCritique: true, keepCritiqueAt: 0.6 }), plain)
  t.same(kept({ withCritique: true, keepCritiqueAt: 0 }).at(-1), 'n n=u?[c] 0')
})

t.test('SMART: the attempt that works behind the bare prompt, and how strategies are chosen', async (t) => {
  const given = [
    judged('a', 0, ['P1', 'Q2', 'R3'], [0, 0, 1]),
    judged('b', 0, ['Q4'], [1]),
    judged('c', 0, ['P5', 'Q6'], [0, 0]),
    judged('d', 0, ['7', 'P8'], [0, 1]),
  ]
  t.same(smartSelect({ right: 1 })(given).map(shown), ['a a=[R3]', 'b b=[Q4]', 'd d=[P8]'])
  t.same(strategyStatistics(given, ['P', 'Q', 'R']), {
    'strategy/P': 0.5,
    'strategy/P/reward': 0,
    'strategy/Q': 0.25,
    'strategy/Q/reward': 1,
    'strategy/R': 0,
    'strategy/regret': 0.5,
  })
})

t.test('SMART: names of strategies', async (t) => {
  const named = [judged('a', 0, [' P1', 'Q2'], [0, 1])]
  t.match(
    strategyStatistics(named, [' P', ' Q']),
    { 'strategy/ P': 1, 'strategy/ Q': 0 },
    'blanks before names do not count',
  )
  for (const strategies of [
    ['a', 'a'],
    ['a', ' a'],
    ['a', 'ab'],
  ])
    await t.rejects(runRecipe('smart', { base, options: { strategies } }), { code: 'E_CONFIG', where: 'strategies' })
})

t.test('SMART and Auto-CEI learn', async (t) => {
  /** Means over the first and the last three rounds. */
  const ends = async (name: 'smart' | 'autoCei', value: string) => {
    const { events } = await runRecipe(name, { base })
    const values = events.flatMap((event) => (event.type === 'round' ? [event.values[value]] : []))
    return [mean(values.slice(0, 3)), mean(values.slice(-3))]
  }
  const [before, after] = await ends('smart', 'strategy/b')
  t.ok(after > before + 0.4, `what works is chosen at once: ${before.toFixed(2)} to ${after.toFixed(2)}`)
  const [regret, left] = await ends('smart', 'strategy/regret')
  t.ok(left < regret / 3, `little is left to choose: ${regret.toFixed(2)} to ${left.toFixed(2)}`)
  const [first, last] = await ends('autoCei', 'refusal/precision')
  t.ok(last > first + 0.4, `right where it answers: ${first.toFixed(2)} to ${last.toFixed(2)}`)
})

t.test('LeDex: explanations and refinements are paid at their own ends', async (t) => {
  t.equal(overlap([1, 2, 3, 4], [2, 9, 4]), 4 / 7, 'longest common subsequence 2, 4')
  t.same([overlap([1], [1]), overlap([1], [2]), overlap([], [])], [1, 0, 1])
  t.same([refinementReward(1, 1), refinementReward(0, 0)], [5, -5])
  t.same([explanationReward(1), explanationReward(0.7), explanationReward(0.4)], [5, 0, -5])
  const returns = discountedReturns([2, 3], [1, 8], 0.5)
  t.same(
    returns.map((one) => [...one]),
    [
      [0.5 * (1 + 0.5 * 2), 1 + 0.5 * 2],
      [2, 4, 8],
    ],
  )

  const tried = (sample: number, texts: readonly string[], last: number) =>
    judged('m', sample, texts, [0, undefined, last])
  const group = [
    tried(0, ['bad', 'ab', 'R'], 1),
    tried(1, ['bad', 'ab', 'R'], 1),
    tried(2, ['bad', 'xy', 'w'], 0),
    judged('k', 0, ['fine'], [1]),
  ]
  const paid = explainedRewards(1)(group)
  // Explanations: like one of two that worked, 5; unlike both, -35/3. Refinements: like the other right one, 5; wrong and unlike, -5.
  const [e, r] = [(5 + 5 - 35 / 3) / 3, 5 / 3]
  t.same(
    paid.map(({ sample }) => sample),
    [0, 1, 2],
    'of right answers nothing is explained',
  )
  for (const [i, [explained, mended]] of [
    [5, 5],
    [5, 5],
    [-35 / 3, -5],
  ].entries()) {
    near(t, paid[i].scores.explanation, explained - e, `explanation ${i}`)
    near(t, paid[i].scores.refinement, mended - r, `refinement ${i}`)
  }
  const [lonely] = explainedRewards(1)([tried(0, ['bad', 'ab', 'w'], 0.5), tried(1, ['bad', 'xy', 'w'], 0)])
  near(t, lonely.scores.explanation, 0, 'nothing worked: explanations are not judged')
  near(t, lonely.scores.refinement, 1.25, 'passed tests count')
  t.same(explainedRewards(1)(group.slice(3)), group.slice(3), 'nothing was wrong')
  const [only, alike] = explainedRewards(1)([tried(0, ['bad', 'abcd', 'R'], 1), tried(1, ['bad', 'abce', 'w'], 0)])
  near(
    t,
    only.scores.explanation - alike.scores.explanation,
    5 - explanationReward(3 / 4),
    'what alone worked is worth more than its copy',
  )
  const behind = turnsFrom(group[0], 1)
  t.same(
    behind.segments.map(({ role, text }) => `${role} ${text}`),
    ['prompt m=', 'injected bad', 'injected ?', 'completion ab', 'injected ?', 'completion R'],
  )
})

t.test('a turn that begins with given text', async (t) => {
  using policy = await loadModel(base)
  const sampling = { maxNewTokens: 3, numGenerations: 2 }
  const run = async (begin?: () => string) =>
    await chain(sampling, [{ maxNewTokens: 3, inject: () => '=', ...(begin && { begin }) }])(
      { policy, seed: 1, round: 1 },
      [task('a')],
    )
  const [begun] = await run(() => 'ba')
  const [, own] = turnsOf(begun)
  t.ok(own.text.startsWith('ba'))
  t.same(own.ids.slice(0, 2), policy.tokenizer.encode('ba'), 'its tokens are there to be trained')
  t.equal(own.logps, undefined, 'nothing is claimed of their log-probs')
  const prompt = [...begun.segments.slice(0, 3).flatMap(({ ids }) => ids), ...policy.tokenizer.encode('ba')]
  const keys = ['round 1 task a 0 turn 2']
  const [[alone]] = await policy.generate([prompt], { maxNewTokens: 3, numGenerations: 1, seed: 1, promptKeys: keys })
  t.same(own.ids.slice(2), alone.ids, 'what follows is sampled behind them')
  t.same(await run(() => ''), await run(), 'nothing to begin with')
})

t.test('refusals: worth, length, reliability', async (t) => {
  const [breakEven, deviation] = [5, 2]
  const curve = { breakEven, slope: slopeOf(deviation) }
  const at = (steps: number) => refusalReward(steps, curve)
  t.equal(at(5), 0)
  t.equal(at(7).toFixed(2), '0.28', 'one deviation later')
  t.equal(at(9).toFixed(2), '0.52', 'two')
  near(t, at(1), -at(9), 'odd around the break-even')
  const rules = { refusal: 'IDK', stepEnd: ';', right: 1 }
  const lines = (text: string, reward = 0) => trace('a', 0, [text], { reward })
  t.equal(stepsOf(lines('x;y; ;IDK'), rules), 3, 'empty steps do not count')
  t.same(
    ['x;IDK', 'IDK ', 'IDK;x', ''].map((text) => isRefusal(lines(text), rules)),
    [true, true, false, false],
  )
  t.notOk(isRefusal({ ...lines('IDK'), finishReason: 'length' }, rules), 'cut off: nobody knows how it ends')
  const some = [lines('1', 1), lines('2'), lines('3', 1), lines('x;IDK')]
  const { precision, refusals, value } = reliabilityOf(some, 0.2, rules)
  near(t, precision, 2 / 3, 'of those that answer')
  near(t, refusals, 0.25, 'refusals')
  near(t, value, (0.8 * 2) / 3 + 0.2 * 0.75, 'f')
  t.equal(reliabilityOf([lines('IDK')], 0.2, rules).precision, 0)
})

t.test('a climb in steps', async (t) => {
  const peak = (x: number) => -((x - 1.7) ** 2)
  const tried: { setting: number; value: number }[] = []
  const visited: number[] = []
  for (;;) {
    const { next, best, done } = hillClimb(tried, { start: 1, step: 0.25 })
    if (done) {
      t.equal(best?.setting, 1.75)
      t.equal(next, 1.75, 'it stays')
      break
    }
    visited.push(next)
    tried.push({ setting: next, value: peak(next) })
  }
  t.same(visited, [1, 1.25, 1.5, 1.75, 2], 'upwards, one step too far')
  const down = hillClimb(
    [
      { setting: 1, value: 0 },
      { setting: 1.25, value: -1 },
    ],
    { start: 1, step: 0.25 },
  )
  t.equal(down.next, 0.75, 'else the other way')
  t.throws(() => hillClimb([], { start: 0, step: 0 }), { code: 'E_CONFIG' })
})

t.test('resampling by exp(score / temperature)', async (t) => {
  const group = [0, 1, 2].map((i) => trace('a', i, [`${i}`], { value: [1, 0, -1][i] }))
  const draw = (temperature: number, more = {}) =>
    resample({ by: 'value', temperature, perTask: 4000, seed: 1, round: 1, ...more })(group).map(({ sample }) => sample)
  const shares = [0, 1, 2].map((i) => draw(0.5).filter((sample) => sample === i).length / 4000)
  const masses = [1, 0, -1].map((value) => Math.exp(value / 0.5))
  const total = masses.reduce((sum, mass) => sum + mass)
  for (const [i, share] of shares.entries()) t.ok(Math.abs(share - masses[i] / total) < 0.02, `${share} of ${i}`)
  t.ok(
    draw(1e-3).every((sample) => sample === 0),
    'cold: the best alone, and no overflow',
  )
  t.same(draw(0.5), draw(0.5))
  t.notSame(draw(0.5, { round: 2 }), draw(0.5))
  t.equal(resample({ by: 'value', temperature: 1, seed: 1, round: 1 })(group).length, 3)
})

t.test('Auto-CEI: from the first round, then up the hill', async (t) => {
  const rules = { refusal: 'K', stepEnd: ';', right: 1, lambda: 0.2, roundsPerTrial: 2, seed: 1 }
  const sample = (i: number, text: string, reward: number, round: number) => trace('a', i, [text], { reward, round })
  // Steps 1, 3, 1, 3: deviation 2 / sqrt 3; the refusal has 3.
  const first = [sample(0, '1', 1, 1), sample(1, 'x;y;2', 0, 1), sample(2, '3', 0, 1), sample(3, 'x;y;K', 0, 1)]
  const spread = 2 / Math.sqrt(3)
  const step = 0.2 * spread
  const start = curveOf([first], rules)
  near(t, start.breakEven, 3 + step, 'mean steps of refusals and a step')
  near(t, start.slope, Math.LN10 / (4 * spread), 'slope')
  near(t, start.temperature, 1 / 3, 'precision')
  t.same(curveOf([first, first], rules), start, 'a trial has two rounds')
  const better = [sample(0, '1', 1, 3), sample(1, '2', 1, 3)]
  const worse = [sample(0, '1', 0, 5), sample(1, '2', 0, 5)]
  near(t, curveOf([first, first, better], rules).breakEven, start.breakEven + step, 'upwards first')
  near(
    t,
    curveOf([first, first, better, first, worse], rules).breakEven,
    start.breakEven - step,
    'worse: the other way',
  )

  const examples = autoCeiExamples(rules)(first, 1).map(([one]) => `${textsOf(one.ids)} ${trainedOf(one)}`)
  t.ok(
    examples.every((text) => text === 'a=1 1' || text === 'a=x;y;K x;y;K'),
    'nothing wrong is learned',
  )
  t.same(examples.slice(0, 2), ['a=1 1', 'a=x;y;K x;y;K'], 'every sample once')
  t.ok(examples.length > 2 && examples.length <= 6, 'and what was drawn again')
  t.equal(completionOf(first[0]), '1')
})
