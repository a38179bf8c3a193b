// The hand-checked float64 vectors of the objectives: values and gradients that were derived on paper, each with the
// settings that give it. Random inputs are in the golden losses; how objectives behave is in loss.test.ts.

import t from 'tap'
import { gradientsOf, leaf, sum } from '../ts/loss/autodiff.js'
import type { Objective, Role } from '../ts/loss/define.js'
import {
  advantages,
  attemptCredit,
  bradleyTerry,
  cispo,
  copg,
  cpo,
  dpo,
  drGrpo,
  gae,
  gkd,
  grpo,
  gspo,
  kto,
  listwise,
  logRatio,
  orpo,
  overlongPenalty,
  pairReward,
  ppo,
  processReward,
  rloo,
  simpo,
  srpo,
  withKlPenalty,
} from '../ts/loss/index.js'
import { klEstimators } from '../ts/loss/kl.js'
import { type RawSequence, type Run, runStep } from './golden-judges/losses-run.js'
import { near } from './loss-near.js'

t.test('KL estimators', (t) => {
  const expected = {
    k1: [0.3, 1, -0.2, 1],
    k2: [0.045, 0.3, 0.02, -0.2],
    k3: [0.040818220682, 0.259181779318, 0.02140275816, -0.22140275816],
  }
  for (const [name, [a, da, b, db]] of Object.entries(expected)) {
    const d = leaf([0.3, -0.2])
    const value = klEstimators[name as keyof typeof expected](d)
    near(t, value.value, [a, b], name)
    near(t, gradientsOf(sum(value), [d])[0], [da, db], `d ${name}`)
  }
  t.end()
})

// Pairs ----------------------------------------------------------------------------------------------------------------

const chosen: RawSequence = { role: 'chosen', example: 0, logps: [-0.5, -1.2, -0.3], reference: [-0.7, -1, -0.6] }
const rejected: RawSequence = {
  role: 'rejected',
  example: 0,
  logps: [-0.9, -0.4, -1.5, -0.2],
  reference: [-0.8, -0.5, -1.1, -0.4],
}
const pair = [chosen, rejected]
const ones = (n: number, value: number): number[] => new Array<number>(n).fill(value)

/** Settings, loss, gradient of each chosen and each rejected token. */
type Line = readonly [name: string, objective: Objective, loss: number, won: number, lost: number]

const lines: readonly Line[] = [
  ['sigmoid', dpo(), 0.668459648013, -0.048750260352, 0.048750260352],
  ['cDPO', dpo({ labelSmoothing: 0.1 }), 0.673459648013, -0.038750260352, 0.038750260352],
  ['robust', dpo({ lossType: 'robust', labelSmoothing: 0.1 }), 0.662209648013, -0.061250260352, 0.061250260352],
  ['hinge', dpo({ lossType: 'hinge' }), 0.95, -0.1, 0.1],
  ['ipo', dpo({ lossType: 'ipo' }), 23.5225, -3.233333333333, 2.425],
  ['ipoSum', dpo({ lossType: 'ipoSum' }), 20.25, -9, 9],
  ['exoPair', dpo({ lossType: 'exoPair', labelSmoothing: 1e-3 }), 2.675226658581, -0.171311777297, 0.171311777297],
  ['ncaPair', dpo({ lossType: 'ncaPair' }), 1.373988104375, -0.023875084367, 0.024750008333],
  ['bcoPair', dpo({ lossType: 'bcoPair' }), 1.361456856068, -0.049250056245, 0.049500016666],
  ['sppoHard', dpo({ lossType: 'sppoHard' }), 45.13, -9.4, 9.6],
  ['apoZero', dpo({ lossType: 'apoZero' }), 0.987500729109, -0.024994375844, 0.024997500167],
  ['apoDown', dpo({ lossType: 'apoDown' }), 0.995002041066, 0.000009994336, 0.024984381508],
  ['discopop', dpo({ lossType: 'discopop' }), 0.875180918892, 0.028540417421, -0.028540417421],
  ['sigmoidNorm', dpo({ lossType: 'sigmoidNorm' }), 0.685675305296, -0.01654166901, 0.012406251758],
  ['forward KL', dpo({ fDivergenceType: 'forwardKl' }), 0.669406627779, -0.036151017849, 0.059602952084],
  ['JS', dpo({ fDivergenceType: 'jsDivergence' }), 0.681032285545, -0.021018527139, 0.027156615148],
  ['alpha 0.5', dpo({ fDivergenceType: 'alphaDivergence' }), 0.668999667286, -0.041983552329, 0.053907948273],
  ['sft', dpo({ lossType: 'sft' }), 0.666666666667, -0.333333333333, 0],
  ['DPO + sft', dpo({ rpoAlpha: 1 }), 1.33512631468, -0.382083593685, 0.048750260352],
  ['SimPO', simpo(), 1.194218149268, -0.46470618931, 0.348529641983],
  ['CPO', cpo(), 1.31106332674, -0.380835414585, 0.047502081252],
  ['ORPO', orpo(), 0.728102156419, -0.364777803285, 0.021748537066],
]

t.test('pairs', (t) => {
  for (const [name, objective, loss, won, lost] of lines) {
    const run = runStep(objective, pair)
    near(t, [run.loss], [loss], name)
    near(t, run.of('chosen')[0], ones(3, won), `${name}, chosen`)
    near(t, run.of('rejected')[0], ones(4, lost), `${name}, rejected`)
  }
  const tail = runStep(dpo({ ldAlpha: 0.5 }), pair)
  near(t, [tail.loss], [0.663597113076], 'LD-DPO')
  near(t, tail.of('chosen')[0], ones(3, -0.048500449838), 'LD-DPO, chosen')
  near(t, tail.of('rejected')[0], [...ones(3, 0.048500449838), 0.024250224919], 'LD-DPO, the tail counts half')
  const shaped = runStep(simpo({ beta: 2.5, gamma: 0.1, alpha: 0.25 }), pair)
  near(t, [shaped.loss], [0.621559355638], 'AlphaPO')
  const sums = [shaped.of('chosen')[0], shaped.of('rejected')[0]].map((g) => g.reduce((all, x) => all + x, 0))
  near(t, sums, [-1.367110895001, 1.3958911251], 'AlphaPO, by the mean log-probs')
  const prompted = runStep(orpo({ nllOver: 'all' }), [...pair, { role: 'prompt', example: 0, logps: [-0.8] }])
  near(t, [prompted.loss], [0.761435489753], 'ORPO with the prompt')
  near(t, prompted.of('chosen')[0], ones(3, -0.281444469952), 'ORPO with the prompt, chosen')
  near(t, prompted.of('prompt')[0], [-0.25], 'ORPO with the prompt, prompt')
  t.end()
})

t.test('AOT looks at the batch', (t) => {
  const difference = (example: number, policy: number, reference: number): RawSequence[] => [
    { role: 'chosen', example, logps: [policy], reference: [reference] },
    { role: 'rejected', example, logps: [0], reference: [0] },
  ]
  const pairs = [...difference(0, 0.5, 0.1), ...difference(1, -0.4, 0.3)]
  near(t, [runStep(dpo({ lossType: 'aot' }), pairs).loss], [0.70082841387], 'AOT')
  const ratios = [0.3, -0.2, -0.1, 0.3].map((ratio, i): RawSequence => {
    return { role: i % 2 === 0 ? 'chosen' : 'rejected', example: i >> 1, logps: [ratio], reference: [0] }
  })
  near(t, [runStep(dpo({ lossType: 'aotUnpaired' }), ratios).loss], [0.690653430534], 'AOT, unpaired')
  t.end()
})

t.test('KTO', (t) => {
  const examples = (mismatched: readonly number[]): RawSequence[] =>
    [0.3, -0.2].flatMap((ratio, example): RawSequence[] => [
      { role: 'completion', example, logps: [ratio], reference: [0], scores: { label: 1 - example } },
      { role: 'mismatch', example, logps: [mismatched[example]], reference: [0] },
    ])
  const run = runStep(kto(), examples([0.05, -0.01]))
  near(t, run.perExample?.loss ?? [], [0.493000457297, 0.494500221823], 'losses')
  near(t, [run.loss], [0.49375033956], 'mean')
  near(t, run.of('completion').flat(), [-0.01249755032, 0.012498487622], 'gradients')
  t.same(run.of('mismatch').flat(), [0, 0], 'the reference point has no gradient')
  const clamped = runStep(kto(), examples([-0.05, -0.01]))
  near(t, clamped.perExample?.loss ?? [], [0.492500562449, 0.49500016666], 'KL clamped to 0')
  t.end()
})

t.test('SRPO', (t) => {
  const ratios = { a: 0.4, b: 0.1, c: 0.2, d: -0.3, e: 0.3, f: -0.2 }
  const roles = [
    'chosenGivenRejected',
    'rejectedGivenRejected',
    'chosenGivenChosen',
    'rejectedGivenChosen',
    'chosen',
    'rejected',
  ] as const
  const sequences = (scale: number) =>
    Object.values(ratios).map((ratio, i): RawSequence => {
      return { role: roles[i], example: 0, logps: [scale * ratio], reference: [0] }
    })
  const cases: [number, number, number, number, number, number[]][] = [
    [0.1, 0.8, 0.7744, 0.4234, 0.4936, [-0.1104, 0.0752, -0.072, 0.1072, -0.0352, 0.0352]],
    [0.5, 0.5, 0.16, 0.185, 0.1725, [-0.375, 0.175, -0.125, 0.325, -0.2, 0.2]],
  ]
  for (const [beta, alpha, generative, improving, loss, gradients] of cases) {
    const run = runStep(srpo({ beta, alpha }), sequences(1))
    near(
      t,
      [run.loss, run.stats.generative.sum, run.stats.selfImprovement.sum],
      [loss, generative, improving],
      'values',
    )
    near(
      t,
      roles.flatMap((role) => run.of(role).flat()),
      gradients,
      'da to df',
    )
    near(t, [runStep(srpo({ beta, alpha }), sequences(0)).loss], [1 - alpha + alpha / 2], 'at the reference')
  }
  t.end()
})

t.test('reward models', (t) => {
  const scores = { chosen: [1.2, 0.3], rejected: [0.4, 0.6] }
  const plain = bradleyTerry(scores)
  near(t, [plain.loss], [0.612727955208], 'Bradley-Terry')
  near(t, plain.gradients.chosen, [-0.155012759436, -0.287221258406], 'chosen')
  near(t, plain.gradients.rejected, [0.155012759436, 0.287221258406], 'rejected')
  near(t, [bradleyTerry(scores, { margin: [0.5, 0.5] }).loss], [0.862727955208], 'margin')
  near(t, [bradleyTerry(scores, { centerRewardsCoefficient: 0.01 }).loss - plain.loss], [0.01685], 'centring')
  const list = listwise({ positive: [1, 0.2], negative: [0.1, -0.4, 0.5, 0] })
  near(t, [list.loss], [0.485411085095], 'listwise')
  near(t, list.gradients.positive, [-0.141668587373, -0.231746628224], 'right answers')
  near(t, list.gradients.negative, [0.095508913737, 0.069019975652, 0.118997898201, 0.089888428007], 'wrong answers')
  t.end()
})

// Policy gradients -----------------------------------------------------------------------------------------------------

const completions: RawSequence[] = [
  {
    role: 'completion',
    example: 0,
    logps: [-1, -0.5],
    old: [-1.3, -0.5],
    reference: [-1.1, -0.6],
    scores: { advantage: 1 },
  },
  {
    role: 'completion',
    example: 1,
    logps: [-0.7, -0.9, -0.4],
    old: [-0.6, -1.3, -0.4],
    reference: [-0.9, -0.8, -0.5],
    scores: { advantage: -1 },
  },
]

t.test('policy gradients', (t) => {
  const values: [string, Objective, number][] = [
    ['grpo', grpo(), 0.016110352613],
    ['grpo with KL', grpo({ beta: 0.04 }), 0.016398694902],
    ['token mean', ppo(), 0.239332423135],
    ['token mean with KL', ppo({ beta: 0.04 }), 0.239639734538],
    ['Dr. GRPO', drGrpo({ maxCompletionLength: 8 }), 0.07479138223],
    ['Dr. GRPO with KL', drGrpo({ maxCompletionLength: 8, beta: 0.04 }), 0.074887417043],
    ['GSPO', gspo(), 0.052385459038],
    ['RLOO', rloo(), 0.074929403788],
    ['CISPO', cispo(), -0.105233922585],
  ]
  const run = (objective: Objective): Run => runStep(objective, completions)
  for (const [name, objective, loss] of values) near(t, [run(objective).loss], [loss], name)
  const perToken = run(ppo())
    .of('completion')
    .flat()
    .map((g) => 5 * g)
  near(t, perToken, [0, -1, 0.904837418036, 1.491824697641, 1], 'clipped where the advantage pulls outwards')
  const onPolicy = completions.map(
    ({ old, ...rest }): RawSequence => ({ ...rest, role: 'completion', example: rest.example }),
  )
  const first = runStep(grpo(), onPolicy)
  near(t, [first.loss, ...first.of('completion').flat()], [0, -0.25, -0.25, 1 / 6, 1 / 6, 1 / 6], 'on-policy')
  t.end()
})

t.test('advantages', (t) => {
  const rewards = [[1, 0, 0, 1]]
  const signs = (size: number): number[] => [size, -size, -size, size]
  near(t, advantages.grpo(rewards)[0], signs(0.865875429761), 'GRPO')
  near(t, advantages.drGrpo(rewards)[0], signs(0.5), 'Dr. GRPO')
  near(t, advantages.rloo(rewards)[0], signs(2 / 3), 'RLOO')
  const shaped = withKlPenalty([[1, 0]], [[0.4, -0.1]], 0.05)
  near(t, shaped[0], [0.98, 0.005], 'KL in the reward')
  near(t, advantages.rloo(shaped)[0], [0.975, -0.975], 'RLOO of two')
  const estimate = gae([0, 0, 1], [0.2, 0.4, 0.6])
  near(t, estimate.advantages, [0.751, 0.58, 0.4], 'GAE')
  near(t, estimate.returns, [0.951, 0.98, 1], 'returns')
  near(
    t,
    [16000, 18432, 20480].map((n) => overlongPenalty(n, 20480, 4096)),
    [0, -0.5, -1],
    'overlong',
  )
  const contrast = [1, 0.2].map((reward, i): RawSequence => {
    const role = i === 0 ? 'chosen' : 'rejected'
    return { role, example: 0, logps: [i === 0 ? 0.3 : -0.2], reference: [0], scores: { reward } }
  })
  const run = runStep(copg({ beta: 0.5 }), contrast)
  near(t, [run.loss, ...run.of('chosen').flat(), ...run.of('rejected').flat()], [0.3025, -0.55, 0.55], 'CoPG')
  const second = [0, 1].flatMap((first) => [0, 1].map((then) => attemptCredit('second', [first, then]).rewards))
  t.same(
    second,
    [
      [0, 0],
      [0, 11],
      [1, -10],
      [1, 1],
    ],
    'SCoRe, second stage: both attempts',
  )
  t.same(
    attemptCredit('first', [1, 0]),
    { rewards: [0, 0], klWeights: [10, 1] },
    'SCoRe, first stage: the second alone',
  )
  t.end()
})

// What has no vectors of its own --------------------------------------------------------------------------------------

t.test('the family of weighted log-ratios has the named methods as settings', (t) => {
  const term = (role: 'chosen' | 'rejected', coefficient: number) =>
    ({ role, coefficient, reference: false, reduction: 'mean' }) as const
  const same: [string, Objective, Objective][] = [
    ['DPO', logRatio(), dpo()],
    ['cDPO', logRatio({ labelSmoothing: 0.2 }), dpo({ labelSmoothing: 0.2 })],
    ['IPO', logRatio({ link: 'square', beta: 1, target: 5 }), dpo({ lossType: 'ipoSum' })],
    ['hinge', logRatio({ link: 'hinge' }), dpo({ lossType: 'hinge' })],
    ['SimPO', logRatio({ terms: [term('chosen', 1), term('rejected', -1)], beta: 2, margin: 1 }), simpo()],
  ]
  for (const [name, family, method] of same) {
    const [a, b] = [runStep(family, pair), runStep(method, pair)]
    near(t, [a.loss, ...a.of('chosen')[0]], [b.loss, ...b.of('chosen')[0]], name)
  }
  const scored = pair.map((own): RawSequence => ({ ...own, scores: { margin: 2, weight: 3 } }))
  const run = runStep(logRatio(), scored)
  near(t, [run.loss], [3 * runStep(logRatio({ margin: 2 }), pair).loss], 'scores of an example go before settings')
  t.end()
})

t.test('GKD at its ends', (t) => {
  const needs = (beta: number) => [gkd({ beta }).needs.kl, gkd({ beta }).needs.klMixture]
  t.same(needs(0), ['priorToPolicy', undefined])
  t.same(needs(0.3), ['jensenShannon', 0.3])
  t.same(needs(1), ['policyToPrior', undefined])
  t.end()
})

t.test('entropy bonus, judges of pairs, soft labels of steps', (t) => {
  const entropies = [
    [1, 2],
    [0.5, 0.5, 2],
  ]
  const spread = completions.map(
    (own, i): RawSequence => ({ ...own, role: 'completion', example: i, entropy: entropies[i] }),
  )
  const bonus = (maker: typeof ppo) => runStep(maker({ entropyCoef: 0.1 }), spread).loss - runStep(maker(), spread).loss
  near(t, [bonus(ppo), bonus(grpo), bonus(rloo)], new Array(3).fill(-0.1 * (6 / 5)), 'a mean over tokens, as in TRL')

  const shown = (role: Role, value: number): RawSequence => ({ role, example: 0, logps: [0], values: [value] })
  const logSigmoid = (x: number): number => -Math.log1p(Math.exp(-x))
  const judged = [shown('chosenGivenRejected', 0.7), shown('rejectedGivenChosen', -0.2)]
  near(t, [runStep(pairReward(), judged).loss], [-(logSigmoid(0.7) + logSigmoid(0.2)) / 2], 'both orders')

  const steps: RawSequence = {
    role: 'completion',
    example: 0,
    logps: [0, 0],
    values: [0.3, -0.4, 0, 1],
    labels: [1, 0.25],
  }
  const expected = -(logSigmoid(-0.7) + 0.25 * logSigmoid(1) + 0.75 * logSigmoid(-1)) / 2
  near(t, [runStep(processReward(), [steps]).loss], [expected], 'two classes are one logit')
  t.end()
})
