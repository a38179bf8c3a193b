// Cases of golden/losses over plain numbers: reward.json (scores of a head) and advantages.json. Losses of scores run both
// as objectives and as plain functions, which must agree.

import type { Objective, Role } from '../../ts/loss/define.js'
import {
  advantages,
  bradleyTerry,
  gae,
  gap,
  gapReward,
  improvementReward,
  kWise,
  listwise,
  listwiseReward,
  overlongPenalty,
  pointwise,
  pointwiseReward,
  processReward,
  reward,
  type ScoreEvaluation,
  stepwise,
  withKlPenalty,
} from '../../ts/loss/index.js'
import { WhetstoneError } from '../../ts/src/base/errors.js'
import {
  type Inputs,
  type Nested,
  numbersOf,
  type Outcome,
  type Params,
  type RawSequence,
  type Runner,
  rowsOf,
  runStep,
} from './losses-run.js'

const tolerance = 1e-12

/** Refuses an objective that says anything else than the plain function. */
function agree(what: string, a: ArrayLike<number>, b: ArrayLike<number>): void {
  const same =
    a.length === b.length && Array.from(a).every((x, i) => Math.abs(x - b[i]) <= tolerance * (1 + Math.abs(x)))
  if (!same)
    throw new WhetstoneError('E_SHAPE', what, `the objective says ${Array.from(b)}, the function ${Array.from(a)}`)
}

/** Numbers of a score head under a role; several for one example where the role repeats. */
interface ScoredRole {
  readonly leaf: string
  readonly role: Role
  readonly values: readonly (readonly number[])[]
  readonly more?: (i: number) => Partial<RawSequence>
}

/** The outcome of a plain function, when the objective agrees. */
function both<N extends string>(
  plain: ScoreEvaluation<N>,
  objective: Objective,
  roles: readonly (ScoredRole & { leaf: N })[],
  exampleOf: (i: number) => number = (i) => i,
): Outcome {
  const width = objective.needs.values ?? 1
  const sequences = roles.flatMap(({ role, values, more }) =>
    values.map(
      (own, i): RawSequence => ({
        role,
        example: exampleOf(i),
        logps: own.slice(0, own.length / width).map(() => 0),
        values: own,
        ...more?.(i),
      }),
    ),
  )
  const run = runStep(objective, sequences)
  agree('loss', [plain.loss], [run.loss])
  let at = 0
  for (const { leaf, values } of roles) {
    const gradients = run.gradients.slice(at, at + values.length).flatMap((own) => Array.from(own.values ?? []))
    agree(leaf, plain.gradients[leaf], gradients)
    at += values.length
  }
  const grad = Object.entries<Float64Array>(plain.gradients).map(([leaf, values]) => [leaf, Array.from(values)])
  return { loss: plain.loss, perExample: plain.perExample, grad: Object.fromEntries(grad) }
}

const single = (numbers: readonly number[]): number[][] => numbers.map((x) => [x])

const bradleyTerryCase: Runner = (inputs, { use_margin = false, centring = 0 }: Params) => {
  const [chosen, rejected] = [numbersOf(inputs, 'chosen'), numbersOf(inputs, 'rejected')]
  const margin = use_margin === true ? numbersOf(inputs, 'margin') : undefined
  const centerRewardsCoefficient = Number(centring)
  const scores = (i: number) => ({ scores: margin && { margin: margin[i] } })
  return both(
    bradleyTerry({ chosen, rejected }, { margin, centerRewardsCoefficient }),
    reward({ centerRewardsCoefficient }),
    [
      { leaf: 'chosen', role: 'chosen', values: single(chosen), more: scores },
      { leaf: 'rejected', role: 'rejected', values: single(rejected), more: scores },
    ],
  )
}

/** The centring term is a mean of its own in the reference, and so in none of its values per example alone. */
const centredCase: Runner = (inputs, params) => {
  const { perExample, ...outcome } = bradleyTerryCase(inputs, params)
  const [chosen, rejected] = [numbersOf(inputs, 'chosen'), numbersOf(inputs, 'rejected')]
  const squares = chosen.map((score, i) => Number(params.centring) * (score + rejected[i]) ** 2)
  const mean = squares.reduce((all, x) => all + x, 0) / squares.length
  return { ...outcome, perExample: Array.from(perExample ?? [], (loss, i) => loss - squares[i] + mean) }
}

const pointwiseCase =
  (lossType: 'bce' | 'mse'): Runner =>
  (inputs) => {
    const [scores, targets] = [numbersOf(inputs, 'chosen'), numbersOf(inputs, 'target')]
    const { grad, ...outcome } = both(pointwise(scores, targets, lossType), pointwiseReward({ lossType }), [
      { leaf: 'scores', role: 'completion', values: single(scores), more: (i) => ({ scores: { label: targets[i] } }) },
    ])
    return { ...outcome, grad: { chosen: grad?.scores ?? [], rejected: scores.map(() => 0) } }
  }

const labelled = (label: (i: number) => number) => (i: number) => ({ scores: { label: label(i) } })

const listwiseCase: Runner = (inputs) => {
  const [positive, negative] = [numbersOf(inputs, 'pos'), numbersOf(inputs, 'neg')]
  const roles = [
    { leaf: 'positive', role: 'completion', values: single(positive), more: labelled(() => 1) },
    { leaf: 'negative', role: 'completion', values: single(negative), more: labelled(() => 0) },
  ] as const
  const { loss, grad } = both(listwise({ positive, negative }), listwiseReward(), roles, () => 0)
  return { loss, grad: { pos: grad?.positive ?? [], neg: grad?.negative ?? [] } }
}

const kWiseCase: Runner = (inputs) => {
  const [scores, above, below] = ['scores', 'above', 'below'].map((name) => numbersOf(inputs, name))
  const wins = (i: number) => above.filter((winner) => winner === i).length
  const { loss, grad } = both(
    kWise(scores, above, below),
    listwiseReward(),
    [{ leaf: 'scores', role: 'completion', values: single(scores), more: labelled(wins) }],
    () => 0,
  )
  return { loss, grad }
}

const gapRoles = [
  ['wl', 'chosenGivenRejected'],
  ['ww', 'chosenGivenChosen'],
  ['ll', 'rejectedGivenRejected'],
  ['lw', 'rejectedGivenChosen'],
] as const satisfies readonly (readonly [string, Role])[]

const gapCase: Runner = (inputs) => {
  const [wl, ww, ll, lw] = gapRoles.map(([leaf]) => numbersOf(inputs, leaf))
  const roles = gapRoles.map(([leaf, role]) => ({ leaf, role, values: single(numbersOf(inputs, leaf)) }))
  return both(gap({ wl, ww, ll, lw }), gapReward(), roles)
}

const processCase: Runner = (inputs) => {
  const [logits, labels] = [rowsOf(inputs, 'logits'), numbersOf(inputs, 'labels')]
  const outcome = both(stepwise(logits.flat(), labels), processReward(), [
    { leaf: 'logits', role: 'completion', values: [logits.flat()], more: () => ({ labels }) },
  ])
  const flat = outcome.grad?.logits as readonly number[]
  return { ...outcome, grad: { logits: labels.map((_, t) => flat.slice(2 * t, 2 * t + 2)) } }
}

export const rewardRunners: Readonly<Record<string, Runner>> = {
  bradley_terry: bradleyTerryCase,
  bradley_terry_margin: bradleyTerryCase,
  bradley_terry_centred: centredCase,
  pointwise_bce: pointwiseCase('bce'),
  pointwise_mse: pointwiseCase('mse'),
  listwise: listwiseCase,
  k_wise: kWiseCase,
  pit: gapCase,
  prm: processCase,
}

const value =
  (of: (inputs: Inputs, params: Record<string, number>) => Nested): Runner =>
  (inputs, params) => ({
    value: of(inputs, params as Record<string, number>),
  })

const episode = (inputs: Inputs, { gamma, lam }: Record<string, number>) =>
  gae(numbersOf(inputs, 'rewards'), numbersOf(inputs, 'values'), { gamma, lambda: lam })

export const advantageRunners: Readonly<Record<string, Runner>> = {
  batch_mean: value((inputs) => advantages.batchMean(rowsOf(inputs, 'R'))),
  rloo: value((inputs) => advantages.rloo(rowsOf(inputs, 'R'))),
  rloo_kl: value((inputs, { beta }) => advantages.rloo(withKlPenalty(rowsOf(inputs, 'R'), rowsOf(inputs, 'k1'), beta))),
  grpo: value((inputs, { eps }) => advantages.grpo(rowsOf(inputs, 'R'), eps)),
  dr_grpo: value((inputs) => advantages.drGrpo(rowsOf(inputs, 'R'))),
  batch_std: value((inputs, { eps }) => advantages.batchStd(rowsOf(inputs, 'R'), eps)),
  gae: value((inputs, params) => episode(inputs, params).advantages),
  gae_returns: value((inputs, params) => episode(inputs, params).returns),
  overlong: value((inputs, { L_max, L_cache }) =>
    numbersOf(inputs, 'lengths').map((n) => overlongPenalty(n, L_max, L_cache)),
  ),
  score_shaping: value((inputs, { alpha }) => {
    const second = numbersOf(inputs, 'second')
    return numbersOf(inputs, 'first').map((first, i) => improvementReward(first, second[i], alpha))
  }),
}
