// Policy gradients over sampled completions: REINFORCE, RLOO, PPO, GRPO and its variants as settings of one formula.
//   loss = aggregate over tokens of c_t keep_t w_t surrogate(A_t, rho_t) + beta k_t KL_t, less entropyCoef mean of H_t
// Advantages come with the batch (advantages.ts makes them): the score `advantage` of a completion, or one per token.
// `old` log-probs are those of the policy that sampled; without them the batch is on-policy and rho is 1 with the gradient
// of l. aggregation: tokenMean = sum / trained tokens of the step (TRL: dapo; bnpo is the same over a micro-batch);
// sequenceMean = mean per sequence, then over sequences (grpo); sequenceSum = sum per sequence, then mean (luspo);
// constant = sum / (sequences x maxCompletionLength) (dr_grpo). Every completion is an example of its own; one with several
// turns brings advantages and klWeights k_t per token. Weights w_t do not act on the KL and the entropy. keep_t is 0 for tokens
// and sequences that masks leave out, and those of low entropy. The mean entropy is over the tokens of the step, those of low
// entropy left out, whatever the aggregation (TRL: over those of the micro-batch).
// Differs from TRL: KL estimator `k3` is not multiplied by rho unless it is `rhoK3`, which is TRL's default.

import * as z from 'zod'
import { add, gather, leaf, mul, type Operand, sub, type Vector } from './autodiff.js'
import { nonNegative, oneOf, positive, refuse, withDefaults } from './config.js'
import type { SequenceTerms } from './define.js'
import { klEstimators } from './kl.js'
import { defineObjective, statistic } from './objective.js'
import {
  clipped,
  highEntropyMask,
  importanceCaps,
  offPolicyMask,
  type PolicyTokens,
  ratioLevels,
  surrogates,
} from './surrogates.js'
import { ofRole, overExamples, scoresOf, sequenceSums, tokensOf, type View, weightsOf } from './view.js'

const settings = z.strictObject({
  lossType: oneOf('clip', 'reinforce', 'cispo', 'sapo', 'gmpo', 'vespo').describe('surrogate of a token'),
  aggregation: oneOf('tokenMean', 'sequenceMean', 'sequenceSum', 'constant').describe('from tokens to one loss'),
  maxCompletionLength: z.int().positive().optional().describe('constant: tokens that a completion counts as'),
  importanceSamplingLevel: oneOf('token', 'sequence', 'sequenceSum').describe('ratio of what to what'),
  epsilon: positive(0.2).describe('clip below 1 - epsilon; gmpo: below -epsilon in log space'),
  epsilonHigh: z
    .number()
    .positive()
    .optional()
    .describe('clip above 1 + epsilonHigh (default epsilon); cispo: the cap'),
  delta: z.number().positive().optional().describe('clip: largest ratio of the unclipped branch'),
  dualClip: z.number().gt(1).optional().describe('clip: bound of the loss where the advantage is negative'),
  beta: nonNegative(0).describe('weight of the KL estimate; 0: no reference is needed'),
  entropyCoef: nonNegative(0).describe('weight of the entropy, which is a bonus'),
  klEstimator: oneOf('k3', 'k1', 'k2', 'rhoK3', 'k3StraightThrough').describe(
    'estimate of the KL (kl.ts); TRL multiplies k3 with the ratio: rhoK3',
  ),
  offPolicyMaskThreshold: z.number().optional().describe('drop sequences with A < 0 and mean(old - l) above this'),
  importanceSamplingMode: oneOf('none', 'tokenTruncate', 'tokenMask', 'sequenceTruncate', 'sequenceMask').describe(
    'weight by old / sampler where sampling ran elsewhere',
  ),
  importanceSamplingCap: positive(3).describe('largest such weight; beyond it: this, or 0 with mask'),
  sapoTemperaturePos: positive(1).describe('sapo: temperature for positive advantages'),
  sapoTemperatureNeg: positive(1.05).describe('sapo: temperature for the others'),
  vespoKPos: nonNegative(2).describe('vespo: power of the ratio where the advantage is not negative'),
  vespoLambdaPos: positive(3).describe('vespo: decay with the ratio there'),
  vespoKNeg: nonNegative(3).describe('vespo: power of the ratio where the advantage is negative'),
  vespoLambdaNeg: positive(2).describe('vespo: decay with the ratio there'),
  topEntropyQuantile: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe('train this share of the tokens, those of the highest entropy in the step (2506.01939)'),
})

/** Settings that have one default in every method. */
export const methodSettings = settings
  .pick({
    beta: true,
    delta: true,
    dualClip: true,
    klEstimator: true,
    entropyCoef: true,
    offPolicyMaskThreshold: true,
    sapoTemperaturePos: true,
    sapoTemperatureNeg: true,
    vespoKPos: true,
    vespoLambdaPos: true,
    vespoKNeg: true,
    vespoLambdaNeg: true,
    topEntropyQuantile: true,
  })
  .strip()

type Settings = z.output<typeof settings>

/** Settings of policy gradients. */
export type PolicyGradientConfig = z.input<typeof settings>

const filled = ({ logps }: SequenceTerms, value: number): Float64Array => new Float64Array(logps.length).fill(value)

function tokensOfPolicy(view: View, config: Settings): PolicyTokens {
  const { logps } = view
  for (const own of view.examples) {
    const terms = view.batch.sequences[own.get('completion') ?? 0]
    // Without advantages per token, the completion must have one.
    if (terms.advantages === undefined) scoresOf({ ...view, examples: [own] }, 'advantage')
  }
  const advantages = tokensOf(view, 'advantages', (terms) => filled(terms, terms.scores?.advantage ?? 0))
  const logRatio = sub(
    logps,
    tokensOf(view, 'old', (terms) => terms.logps),
  )
  const rho = ratioLevels[config.importanceSamplingLevel](view, logRatio)
  return { view, logps, advantages, logRatio, rho }
}

/** exp(old - sampler) per token or per sequence, capped; a constant. */
function samplerWeights(view: View, { importanceSamplingMode, importanceSamplingCap }: Settings): Vector {
  const gap = sub(
    tokensOf(view, 'old', (terms) => terms.logps),
    tokensOf(view, 'sampler'),
  )
  const wide = importanceSamplingMode.startsWith('sequence')
  const logs = wide ? gather(sequenceSums(view, gap), view.sequenceOf) : gap
  const cap = importanceCaps[importanceSamplingMode.endsWith('Mask') ? 'mask' : 'truncate']
  return leaf(logs.value.map((v) => cap(Math.exp(v), importanceSamplingCap)))
}

/** What the sum over a completion's tokens is multiplied with to be its loss; the mean of these is the step's loss. */
const aggregations: Readonly<Record<Settings['aggregation'], (view: View, maxCompletionLength: number) => Operand>> = {
  tokenMean: ({ batch }) => batch.step.examples / batch.step.tokens,
  sequenceMean: ({ lengths }) => leaf(lengths.map((length) => 1 / length)),
  sequenceSum: () => 1,
  constant: (_, maxCompletionLength) => 1 / maxCompletionLength,
}

function formulaOf(view: View, config: Settings) {
  const tokens = tokensOfPolicy(view, config)
  const { epsilon, epsilonHigh = epsilon, offPolicyMaskThreshold, beta, entropyCoef, topEntropyQuantile } = config
  const clip = { ...config, epsilonHigh }
  let losses = mul(weightsOf(view), surrogates[config.lossType](tokens, clip))
  if (offPolicyMaskThreshold !== undefined) losses = mul(offPolicyMask(tokens, offPolicyMaskThreshold), losses)
  const top = topEntropyQuantile < 1 ? highEntropyMask(view.entropy, topEntropyQuantile) : 1
  losses = mul(losses, top)
  if (config.importanceSamplingMode !== 'none') losses = mul(samplerWeights(view, config), losses)
  const drift = sub(
    view.logps,
    tokensOf(view, 'reference', (terms) => terms.logps),
  )
  if (beta > 0) losses = add(losses, mul(klPenalty(tokens, drift, config), beta))
  const scale = aggregations[config.aggregation](view, config.maxCompletionLength ?? 1)
  const surrogate = mul(sequenceSums(view, losses), scale)
  const whole = entropyCoef > 0 ? sub(surrogate, entropyBonus(view, top, entropyCoef)) : surrogate
  const perCompletion = ofRole(view, 'completion', whole)
  return {
    loss: overExamples(view, perCompletion),
    stats: {
      ratio: statistic(tokens.rho.value),
      kl: statistic(klEstimators.k3(drift).value),
      ...Object.fromEntries(
        Object.entries(clipped[config.lossType](tokens, clip)).map(([name, own]) => [name, statistic(own)]),
      ),
    },
    perExample: { loss: perCompletion.value },
  }
}

/** What a completion adds to the mean entropy of the tokens that act, so that the mean over completions is that mean. */
function entropyBonus(view: View, acts: Operand, entropyCoef: number): Vector {
  const { examples, tokens } = view.batch.step
  const acting = typeof acts === 'number' ? tokens : acts.value.reduce((sum, act) => sum + act, 0)
  return mul(sequenceSums(view, mul(view.entropy, acts)), (entropyCoef * examples) / acting)
}

/** The KL estimate of each token with its own weight. */
const klPenalty = ({ view, rho }: PolicyTokens, drift: Vector, { klEstimator }: Settings): Vector =>
  mul(
    tokensOf(view, 'klWeights', (terms) => filled(terms, 1)),
    klEstimators[klEstimator](drift, rho),
  )

/** What vespo leaves no choice about. */
const vespoSettings = { importanceSamplingLevel: 'token', importanceSamplingMode: 'none' } as const

/** A policy gradient under a name, with defaults of its own. */
const policyGradient = (name: string, defaults: Partial<Settings>) =>
  defineObjective(name, withDefaults(settings, defaults), (config) => {
    if (config.aggregation === 'constant' && config.maxCompletionLength === undefined)
      refuse(name.split('.')[0], 'maxCompletionLength', 'expected the number of tokens to divide by, got nothing')
    for (const [setting, only] of Object.entries(vespoSettings))
      if (config.lossType === 'vespo' && config[setting as keyof typeof vespoSettings] !== only)
        refuse(name.split('.')[0], setting, `expected ${only}: vespo has weights of whole sequences already`)
    const byEntropy = config.topEntropyQuantile < 1
    return {
      needs: {
        rows: 'group',
        reference: config.beta > 0,
        roles: ['completion'],
        terms: config.entropyCoef > 0 || byEntropy ? ['entropy'] : [],
        observes: ['entropy'],
        tokens: config.importanceSamplingMode === 'none' ? [] : ['sampler'],
        wholeStep: byEntropy,
      },
      formula: (view) => formulaOf(view, config),
    }
  })

/** REINFORCE (Williams 1992): -A times the summed log-probs. */
export const reinforce = policyGradient('reinforce.v1', { lossType: 'reinforce', aggregation: 'sequenceSum' })

/**
 * SCoRe (2409.12917): REINFORCE over two attempts in one sequence, each with its own advantage and weight of the KL;
 * `attemptCredit` makes those of both stages. The KL's gradient is that of KL(policy || reference).
 */
export const score = policyGradient('score.v1', {
  lossType: 'reinforce',
  aggregation: 'sequenceSum',
  beta: 0.01,
  klEstimator: 'k2',
})

/** RLOO (2402.14740) as TRL has it: one ratio per sequence, clipped; advantages leave-one-out. */
export const rloo = policyGradient('rloo.v1', { importanceSamplingLevel: 'sequenceSum', aggregation: 'sequenceMean' })

/** PPO (1707.06347): token ratios and token advantages. */
export const ppo = policyGradient('ppo.v1', {})

/** GRPO (2402.03300). */
export const grpo = policyGradient('grpo.v1', { aggregation: 'sequenceMean' })

/** DAPO (2503.14476): a mean over tokens, a higher upper clip. */
export const dapo = policyGradient('dapo.v1', { epsilonHigh: 0.28 })

/** Dr. GRPO (2503.20783): a constant length; needs `maxCompletionLength`. */
export const drGrpo = policyGradient('drGrpo.v1', { aggregation: 'constant' })

/** GSPO (2507.18071): geometric mean of the ratios of a sequence. */
export const gspo = policyGradient('gspo.v1', {
  importanceSamplingLevel: 'sequence',
  aggregation: 'sequenceMean',
  epsilon: 3e-4,
  epsilonHigh: 4e-4,
})

/** CISPO (2506.13585): weights are clipped, gradients are not. */
export const cispo = policyGradient('cispo.v1', { lossType: 'cispo', epsilonHigh: 5 })

/** SAPO (2511.20347): a soft gate in place of the clip. */
export const sapo = policyGradient('sapo.v1', { lossType: 'sapo', aggregation: 'sequenceMean' })

/** GMPO (2507.20673): the geometric mean of clipped ratios. */
export const gmpo = policyGradient('gmpo.v1', { lossType: 'gmpo', aggregation: 'sequenceMean', epsilon: 0.4 })

/** VESPO (2602.10693): soft weights of whole sequences in place of the clip. */
export const vespo = policyGradient('vespo.v1', { lossType: 'vespo' })
