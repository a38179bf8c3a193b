// What objectives log, under TRL's names, against numbers worked out by hand. TRL's own runs on the same rows log the same
// numbers to f32: DPO, KTO, BCO, CPO, SimPO, ORPO, RewardTrainer of TRL 1.13.

import t from 'tap'
import type { Objective, Role, SequenceTerms } from '../ts/loss/define.js'
import { cispo, cpo, dpo, gmpo, grpo, kto, orpo, reinforce, reward, sft, simpo, slic } from '../ts/loss/index.js'
import { countStep } from '../ts/loss/view.js'
import { near } from './loss-near.js'

interface Given {
  readonly role: Role
  readonly example: number
  readonly logps: readonly number[]
  readonly old?: readonly number[]
  readonly reference?: readonly number[]
  readonly values?: readonly number[]
  readonly entropy?: readonly number[]
  readonly topLogps?: readonly number[]
  readonly meanLogits?: readonly number[]
  readonly scores?: Readonly<Record<string, number>>
}

/** Means of what an objective logs over a whole step. */
function logged(objective: Objective, given: readonly Given[]): Record<string, number> {
  const sequences = given.map(({ role, example, scores, logps, ...rest }): SequenceTerms => {
    const numbers = Object.entries(rest).map(([name, own]) => [name, Float64Array.from(own)])
    return { role, example, scores, logps: Float64Array.from(logps), ...Object.fromEntries(numbers) }
  })
  const step = countStep(sequences.map((s) => ({ ...s, tokens: s.logps.length })))
  const { stats } = objective.evaluate({ sequences, step })
  return Object.fromEntries(Object.entries(stats).map(([name, { sum, count }]) => [name, sum / count]))
}

// By sums the chosen sides are better (-2, -3), worse (-4, -2), worse (-4, -3); by means the third is better (-1, -3).
const pairs: Given[] = [
  { role: 'chosen', example: 0, logps: [-0.5, -0.5, -0.5, -0.5] },
  { role: 'rejected', example: 0, logps: [-1, -2] },
  { role: 'chosen', example: 1, logps: [-1, -3] },
  { role: 'rejected', example: 1, logps: [-0.5, -1.5] },
  { role: 'chosen', example: 2, logps: [-1, -1, -1, -1] },
  { role: 'rejected', example: 2, logps: [-3] },
]

const mean = (...values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

t.test('losses over means log means, losses over sums log sums', (t) => {
  const numbers = (stats: Record<string, number>, beta: number) => [
    stats['logps/chosen'],
    stats['logps/rejected'],
    stats['rewards/chosen'] / beta,
    stats['rewards/rejected'] / beta,
    stats['rewards/margins'] / beta,
    stats['rewards/accuracies'],
  ]
  const means = [mean(-0.5, -2, -1), mean(-1.5, -1, -3)]
  const byMean = [...means, ...means, means[0] - means[1], 2 / 3]
  const sums = [mean(-2, -4, -4), mean(-3, -2, -3)]
  const bySum = [...sums, ...sums, sums[0] - sums[1], 1 / 3]
  near(t, numbers(logged(simpo(), pairs), 2), byMean, 'simpo')
  near(t, numbers(logged(orpo(), pairs), 0.1), byMean, 'orpo')
  near(t, numbers(logged(cpo({ lossType: 'ipo' }), pairs), 0.1), byMean, 'cpo, ipo')
  near(t, numbers(logged(cpo(), pairs), 0.1), bySum, 'cpo')
  near(t, numbers(logged(slic(), pairs), 1), bySum, 'slic')
  const shaped = (a: number) => (1 - Math.exp(-0.25 * a)) / 0.25
  const { 'rewards/chosen': won } = logged(simpo({ alpha: 0.25, beta: 2.5, gamma: 0.1 }), pairs)
  near(t, [won], [2.5 * mean(shaped(-0.5), shaped(-2), shaped(-1))], 'AlphaPO: the shaped reward')
  t.end()
})

t.test('likelihood and odds', (t) => {
  // Ten chosen tokens whose log-probs sum to -10.
  near(t, [logged(cpo(), pairs).nll_loss], [1], 'cpo')
  near(t, [logged(simpo({ sftWeight: 0.5 }), pairs).nll_loss], [1], 'simpo with a likelihood')
  t.notOk('nll_loss' in logged(simpo(), pairs), 'simpo without')
  const odds = (a: number) => a - Math.log(1 - Math.exp(a))
  const gaps = [odds(-0.5) - odds(-1.5), odds(-2) - odds(-1), odds(-1) - odds(-3)]
  const { nll_loss, log_odds_chosen, log_odds_ratio } = logged(orpo(), pairs)
  const expected = [1, mean(...gaps), mean(...gaps.map((o) => -Math.log(1 + Math.exp(-o))))]
  near(t, [nll_loss, log_odds_chosen, log_odds_ratio], expected, 'orpo')
  t.end()
})

t.test('what is told of the distribution', (t) => {
  const observed = (role: Role, example: number, shift: number, label?: number): Given => ({
    role,
    example,
    logps: [-0.5, -2],
    reference: [-0.5, -2],
    entropy: [1 + shift, 2],
    topLogps: [-0.5, -0.25 - shift],
    meanLogits: [shift, 0.5],
    ...(label !== undefined && { scores: { label } }),
  })
  const rows = logged(sft(), [observed('completion', 0, 0), observed('completion', 1, 2)])
  near(t, [rows.entropy, rows.mean_token_accuracy], [mean(1, 2, 3, 2), 3 / 4], 'sft')
  t.notOk('logits/chosen' in rows, 'rows have no sides')
  const sides = logged(dpo(), [observed('chosen', 0, 2), observed('rejected', 0, 0)])
  const names = ['entropy', 'mean_token_accuracy', 'logits/chosen', 'logits/rejected'] as const
  near(
    t,
    names.map((name) => sides[name]),
    [mean(3, 2, 1, 2), 1, 1.25, 0.25],
    'dpo: accuracy is that of the chosen side',
  )
  const unpaired = [
    observed('completion', 0, 2, 1),
    observed('completion', 1, 0, 0),
    observed('mismatch', 0, 9),
    observed('mismatch', 1, 9),
  ]
  const judged = logged(kto(), unpaired)
  near(t, [judged.entropy, judged['logits/chosen'], judged['logits/rejected']], [mean(3, 2, 1, 2), 1.25, 0.25], 'kto')
  t.notOk('mean_token_accuracy' in judged, 'kto has none')
  t.same(
    Object.keys(
      logged(
        sft(),
        [pairs[0]].map((row) => ({ ...row, role: 'completion' })),
      ),
    ),
    ['logps/token'],
    'nothing',
  )
  t.end()
})

t.test('rewards of a score head', (t) => {
  const score = (role: Role, example: number, value: number): Given => ({ role, example, logps: [0], values: [value] })
  const scores = [score('chosen', 0, 1), score('rejected', 0, 3), score('chosen', 1, 0), score('rejected', 1, -2)]
  const { accuracy, margin, mean_reward } = logged(reward(), scores)
  near(t, [accuracy, margin, mean_reward], [0.5, 0, 0.5], 'reward')
  t.end()
})

t.test('what is clipped', (t) => {
  const logs = [Math.log(1.5), Math.log(1.1), Math.log(0.7), Math.log(0.95)]
  const samples = [1, -1].map(
    (advantage, example): Given => ({
      role: 'completion',
      example,
      logps: logs.map((r) => r - 3),
      old: [-3, -3, -3, -3],
      scores: { advantage },
    }),
  )
  const shares = (objective: Objective) => {
    const { 'clip_ratio/low_mean': low, 'clip_ratio/high_mean': high, ...rest } = logged(objective, samples)
    return [low, high, rest['clip_ratio/region_mean']]
  }
  near(t, shares(grpo()), [1 / 8, 1 / 8, 2 / 8], 'grpo: 1.5 with A > 0, 0.7 with A < 0')
  near(t, shares(grpo({ epsilon: 0.02, epsilonHigh: 0.6 })), [2 / 8, 0, 2 / 8], 'both sides have their own bound')
  near(t, shares(gmpo()), [0, 1 / 8, 1 / 8], 'gmpo: in log space, within 0.4')
  near(t, [logged(cispo({ epsilonHigh: 1.2 }), samples).cispo_clip_ratio], [1 / 8], 'cispo: beyond the cap itself')
  t.notOk(
    Object.keys(logged(reinforce(), samples)).some((name) => name.includes('clip')),
    'reinforce clips nothing',
  )
  t.end()
})
