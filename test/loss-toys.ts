// Random steps for any objective, made from what it needs, and settings that together use every formula there is.

import type { Objective, Role, SequenceTerms, StepCounts } from '../ts/loss/define.js'
import { countStep, objectives } from '../ts/loss/index.js'
import type { Random } from '../ts/src/base/rng.js'
import { make, type RawSequence, sequenceOf } from './golden-judges/losses-run.js'
import { randomOf } from './support.js'

const every = (name: string, words: readonly string[], fixed: object = {}): [string, object][] =>
  words.map((word) => [`${name}: ${word}`, { ...fixed, lossType: word }])

/** Settings besides the defaults, by objective: each formula and each branch at least once. */
const variants: Readonly<Record<string, readonly (readonly [string, object])[]>> = {
  sft: [
    ['dft', { lossType: 'dft' }],
    ['weights', { normalisation: 'weights' }],
    ['labelSmoothing', { labelSmoothing: 0.1 }],
  ],
  superhf: [
    ['authors', { normalisation: 'authors' }],
    ['inverseLoss', { inverseLoss: 0.1, direction: 'policyToPrior', clamp: false }],
  ],
  distill: [['policyToPrior', { direction: 'policyToPrior' }]],
  gkd: [
    ['0', { beta: 0 }],
    ['1', { beta: 1 }],
  ],
  dpo: [
    ...every(
      'lossType',
      ['sigmoidNorm', 'hinge', 'ipo', 'ipoSum', 'robust', 'exoPair', 'ncaPair', 'bcoPair', 'sppoHard', 'apoZero'],
      { labelSmoothing: 0.1 },
    ),
    ...every('lossType', ['apoDown', 'discopop', 'aot', 'aotUnpaired', 'sft']),
    ['cDPO', { labelSmoothing: 0.2 }],
    ['forwardKl', { fDivergenceType: 'forwardKl' }],
    ['jsDivergence', { fDivergenceType: 'jsDivergence' }],
    ['alphaDivergence', { fDivergenceType: 'alphaDivergence' }],
    ['alphaDivergence 1', { fDivergenceType: 'alphaDivergence', fAlphaDivergenceCoef: 1 }],
    ['ldAlpha', { ldAlpha: 0.5 }],
    ['rpoAlpha', { rpoAlpha: 0.5 }],
    ['mixture', { lossType: ['sigmoid', 'bcoPair', 'sft'], lossWeights: [0.8, 0.2, 1] }],
    ['useWeighting', { useWeighting: true }],
    ['useWeighting with sft', { useWeighting: true, rpoAlpha: 1 }],
  ],
  simpo: [['alphaPO', { alpha: 0.25, labelSmoothing: 0.1, sftWeight: 0.5 }]],
  cpo: every('lossType', ['hinge', 'ipo']),
  orpo: [['all', { nllOver: 'all' }]],
  logRatio: [
    ['square', { link: 'square' }],
    ['hinge', { link: 'hinge' }],
    ['without reference', { terms: [{ role: 'completion', coefficient: 2, reference: false, reduction: 'mean' }] }],
  ],
  srpo: [['mean', { reduction: 'mean' }]],
  kto: every('lossType', ['apoZeroUnpaired']),
  xpo: every('lossType', ['ipo']),
  ppo: [
    ['delta', { delta: 1.5 }],
    ['dualClip', { dualClip: 1.4 }],
    ...['k1', 'k2', 'k3', 'rhoK3', 'k3StraightThrough'].map((klEstimator): [string, object] => [
      klEstimator,
      { beta: 0.1, klEstimator },
    ]),
    ...['tokenTruncate', 'tokenMask', 'sequenceTruncate', 'sequenceMask'].map((mode): [string, object] => [
      mode,
      { importanceSamplingMode: mode },
    ]),
    ['offPolicyMask', { offPolicyMaskThreshold: 0.1 }],
    ['entropyCoef', { entropyCoef: 0.01 }],
  ],
  drGrpo: [['entropyCoef', { entropyCoef: 0.1 }]],
  reward: [['centred', { centerRewardsCoefficient: 0.01 }]],
  pointwiseReward: every('lossType', ['mse']),
}

/** Settings that an objective cannot do without. */
export const required: Readonly<Record<string, object>> = { drGrpo: { maxCompletionLength: 8 } }

/** An objective under test. */
export interface Variant {
  /** `dpo lossType: hinge`. */
  readonly name: string
  readonly objective: Objective
}

/** Every objective with its defaults, and its variants. */
export const allVariants: readonly Variant[] = Object.entries(objectives).flatMap(([name, maker]) =>
  [['', {}] as const, ...(variants[name] ?? [])].map(([label, settings]) => ({
    name: `${name} ${label}`.trim(),
    objective: make(maker, { ...required[name], ...settings }),
  })),
)

/** How a log-prob is drawn. */
export type Draw = (random: Random) => number

const ordinary: Draw = (random) => -0.05 - 2.5 * random.next()

/** Nearly certain and nearly impossible tokens, and those that float32 rounds to certain. */
export const extreme: Draw = (random) => [0, -1e-12, -1e-9, -0.5, -18, -41, -750, -1e4][random.integer(8)]

function toySequence(objective: Objective, role: Role, example: number, random: Random, draw: Draw): RawSequence {
  const { values = 1, roles } = objective.needs
  const single = objective.needs.values === 1
  const numbers = (length: number, of: () => number): number[] => Array.from({ length }, of)
  const length = single ? 1 : 1 + random.integer(5)
  const each = (of: Draw): number[] => numbers(length, () => of(random))
  const second = (of: Draw): number[] => each((own) => of(own) + 0.3 * (own.next() - 0.5))
  const label = roles === undefined ? random.integer(1000) : example % 2
  const logps = objective.needs.values === undefined ? each(draw) : numbers(length, () => 0)
  return {
    role,
    example,
    logps,
    reference: draw === ordinary ? logps.map((l) => l + random.next() - 0.5) : each(draw),
    old: draw === ordinary ? logps.map((l) => l + random.next() - 0.5) : each(draw),
    sampler: second(draw),
    logSquares: each((own) => draw(own) / 2),
    advantages: each((own) => 2 * own.next() - 1),
    klWeights: each((own) => own.next()),
    labels: each((own) => own.integer(2)),
    kl: each((own) => -draw(own)),
    entropy: each((own) => -draw(own)),
    meanLogps: each((own) => 2 * draw(own) - 1),
    values: numbers(length * values, () => (draw === ordinary ? 1 : 40) * (2 * random.next() - 1)),
    weights: each((own) => 0.5 + own.next()),
    scores: {
      label,
      advantage: 2 * random.next() - 1,
      preference: random.next(),
      reward: random.next(),
      onPolicy: example % 2,
    },
  }
}

/** A step. */
export interface ToyStep {
  readonly sequences: readonly SequenceTerms[]
  readonly step: StepCounts
}

/** Counts of the step that sequences make. */
export const countsOf = (sequences: readonly SequenceTerms[]): StepCounts =>
  countStep(
    sequences.map(({ role, example, logps, weights }) => ({
      role,
      example,
      tokens: logps.length,
      weight: weights?.reduce((all, w) => all + w, 0),
    })),
  )

/** Examples with all that the objective needs; several answers each where it compares them. */
export function toyStep({ name, objective }: Variant, examples = 4, draw: Draw = ordinary): ToyStep {
  const random = randomOf(`loss ${name}`)
  const compares = objective.needs.roles === undefined && objective.needs.rows === 'group'
  const roles: readonly Role[] = objective.needs.roles ?? new Array<Role>(compares ? 3 : 1).fill('completion')
  const sequences = Array.from({ length: examples }, (_, example) =>
    roles.map((role) => sequenceOf(toySequence(objective, role, example, random, draw))),
  ).flat()
  return { sequences, step: countsOf(sequences) }
}
