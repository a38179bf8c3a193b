// DPO (Rafailov et al. 2023, arXiv 2305.18290) and its relatives; the formulas are in dpo-losses.ts. objectives.md 4.
//   loss = mean over pairs of wpo * sum_k lossWeights_k loss_k(pair),  with `sft` = NLL of the chosen tokens of the step
// Mixtures: MPO = sigmoid 0.8, bcoPair 0.2, sft 1. `rpoAlpha` adds sft with its weight: Iterative RPO (2404.19733) 1.
// Log-probs are sums over completion tokens, times their weights. Ours differ from TRL 1.13: `labelSmoothing` acts on
// `sigmoid` too (cDPO), ipoSum exists, WPO may stand with sft (TRL crashes), and the NLL is a mean over the whole step.

import * as z from 'zod'
import { add, detach, exp, mul, sub, type Vector } from './autodiff.js'
import { nonNegative, oneOf, positive, refuse, smoothing } from './config.js'
import { dpoLosses, fDivergences, scoredLosses } from './dpo-losses.js'
import { defineObjective } from './objective.js'
import { lengthWeights, nllOf, type Pair, pairFormula, pairOf, pairRoles, spreadMean } from './pair.js'
import { ofRole, sequenceMeans, tokensOf, type View } from './view.js'

const types = [...(Object.keys(dpoLosses) as (keyof typeof dpoLosses)[]), 'sft'] as const
const lossType = z.enum(types)

const settings = z.strictObject({
  beta: positive(0.1).describe('strength of the tie to the reference; of ipo the regularisation tau'),
  lossType: z
    .union([lossType, z.array(lossType).nonempty()])
    .default('sigmoid')
    .describe('one loss, or several'),
  lossWeights: z.array(z.number()).optional().describe('weight of each loss; default 1'),
  labelSmoothing: smoothing().describe('share of wrong labels: sigmoid, robust, exoPair (above 0), aot, aotUnpaired'),
  discopopTau: positive(0.05).describe('discopop: temperature of the modulation'),
  fDivergenceType: oneOf('reverseKl', 'forwardKl', 'jsDivergence', 'alphaDivergence').describe('score of a log-ratio'),
  fAlphaDivergenceCoef: z.number().default(0.5).describe('alphaDivergence: its coefficient'),
  ldAlpha: z.number().min(0).max(1).default(1).describe('weight of tokens beyond the shorter side of a pair'),
  useWeighting: z.boolean().default(false).describe('WPO: weight pairs by how likely the policy is to write them'),
  rpoAlpha: nonNegative(0).describe('weight of the NLL of the chosen side'),
})

type Settings = z.output<typeof settings>

/** Settings of DPO. */
export type DpoConfig = z.input<typeof settings>

interface Part {
  readonly type: z.output<typeof lossType>
  readonly weight: number
}

/** Losses with their weights; refuses what cannot stand together. */
function partsOf(config: Settings): Part[] {
  const list = typeof config.lossType === 'string' ? [config.lossType] : config.lossType
  const weights = config.lossWeights ?? list.map(() => 1)
  if (weights.length !== list.length)
    refuse('dpo', 'lossWeights', `expected ${list.length} weights, one per loss, got ${weights.length}`)
  const parts = list.map((type, i): Part => ({ type, weight: weights[i] }))
  checkParts(config, list)
  return config.rpoAlpha === 0 ? parts : [...parts, { type: 'sft', weight: config.rpoAlpha }]
}

function checkParts(config: Settings, list: readonly string[]): void {
  const sorted = list.find((type) => type.startsWith('aot'))
  const plain = list.find((type) => !scoredLosses.includes(type))
  if (list.includes('exoPair') && config.labelSmoothing === 0)
    refuse('dpo', 'labelSmoothing', 'expected more than 0 with exoPair, got 0; the paper uses 0.001')
  if (config.useWeighting && sorted !== undefined)
    refuse('dpo', 'useWeighting', `cannot be combined with ${sorted}, which pairs by rank`)
  if (config.fDivergenceType !== 'reverseKl' && plain !== undefined)
    refuse('dpo', 'fDivergenceType', `${plain} has no f-divergence; expected ${scoredLosses.join(', ')}`)
}

/** WPO (2406.11827): product over both sides of exp(mean over tokens of [l - log sum_v p_v^2]), held fixed. */
function pairWeights(view: View): Vector {
  const means = sequenceMeans(view, sub(detach(view.logps), tokensOf(view, 'logSquares')))
  return exp(add(ofRole(view, 'chosen', means), ofRole(view, 'rejected', means)))
}

/** Loss of each pair. */
function lossesOf(view: View, pair: Pair, parts: readonly Part[], config: Settings): Vector {
  const score = (r: Vector): Vector => fDivergences[config.fDivergenceType](r, config.fAlphaDivergenceCoef)
  const scores = { chosen: score(pair.chosen.ratio), rejected: score(pair.rejected.ratio) }
  const nll = (): Vector => {
    const own = nllOf(view, 'chosen')
    return config.useWeighting ? spreadMean(view, own) : own
  }
  const losses = parts
    .map(({ type, weight }) => mul(type === 'sft' ? nll() : dpoLosses[type](pair, scores, config), weight))
    .reduce((all, part) => add(all, part))
  return config.useWeighting ? mul(pairWeights(view), losses) : losses
}

/** The DPO objective. */
export const dpo = defineObjective('dpo.v1', settings, (config) => {
  const parts = partsOf(config)
  const ranked = parts.some(({ type }) => type === 'aot' || type === 'aotUnpaired')
  const product = config.useWeighting && parts.some(({ type }) => type === 'sft')
  return {
    needs: {
      rows: 'preference',
      reference: true,
      roles: pairRoles,
      tokens: config.useWeighting ? ['logSquares'] : [],
      observes: ['entropy', 'topLogps', 'meanLogits'],
      wholeStep: ranked || product,
    },
    formula: (view) => {
      const pair = config.ldAlpha === 1 ? pairOf(view) : pairOf(view, lengthWeights(view, config.ldAlpha))
      return pairFormula(view, lossesOf(view, pair, parts, config), pair, config.beta)
    },
  }
})
