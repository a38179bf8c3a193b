// Policy gradients over groups of samples: GRPO (2402.03300), RLOO (2402.14740), REINFORCE with the batch's mean as
// baseline, Dr. GRPO (2503.20783), DAPO (2503.14476), GSPO (2507.18071), CISPO (2506.13585), SAPO, GMPO, VESPO. One loop; a method is
// an objective, an advantage function and its defaults. Names as in TRL's GRPOConfig.
// `old` log-probs are the sampler's, which are the trainer's bits: the first ratio of a round is exactly 1. They are those
// of logits / temperature, as in TRL; with topK, topP, minP or repetitionPenalty those of the model alone, at
// temperature 1 (TRL: at the temperature, without truncation and penalty). Differs from TRL: KL is a term of the
// loss for every method, also RLOO; DAPO's dynamic sampling is there (prompts whose samples tie are replaced).

import * as z from 'zod'
import * as losses from '../../loss/index.js'
import { methodSettings } from '../../loss/policy-gradient.js'
import type { GrpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { countUntied, untiedFirst } from '../loop/credit.js'
import { type CreditMethod, creditOf, creditShape } from '../loop/credit-settings.js'
import { policyExamples } from '../loop/examples.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { isUntruncated, onlineShape } from '../loop/online-shape.js'
import { softOverlongReward } from '../loop/ready-rewards.js'
import type { PhaseResult } from '../loop.js'

/** Aggregations by TRL's `loss_type`; bnpo, there a mean over a micro-batch, is dapo when it is one over the step. */
const byLossType = {
  grpo: 'sequenceMean',
  bnpo: 'tokenMean',
  dapo: 'tokenMean',
  drGrpo: 'constant',
  luspo: 'sequenceSum',
} as const

/** Methods: their objective, how rewards are scaled, and what else they are known for. */
const methods = {
  grpo: { objective: losses.grpo, scale: 'group' },
  rloo: { objective: losses.rloo, advantages: losses.advantages.rloo },
  reinforce: { objective: losses.reinforce, advantages: losses.advantages.batchMean },
  drGrpo: { objective: losses.drGrpo, scale: 'none' },
  dapo: { objective: losses.dapo, scale: 'group', dynamicSampling: true, maskTruncatedCompletions: true },
  gspo: { objective: losses.gspo, scale: 'group' },
  cispo: { objective: losses.cispo, scale: 'group' },
  sapo: { objective: losses.sapo, scale: 'group' },
  gmpo: { objective: losses.gmpo, scale: 'group' },
  vespo: { objective: losses.vespo, scale: 'group' },
} as const satisfies Record<string, Method>

interface Method extends CreditMethod {
  readonly objective: (config: losses.PolicyGradientConfig) => losses.Objective
  readonly dynamicSampling?: boolean
  readonly maskTruncatedCompletions?: boolean
}

const names = Object.keys(methods) as [keyof typeof methods, ...(keyof typeof methods)[]]
const lossTypes = Object.keys(byLossType) as [keyof typeof byLossType, ...(keyof typeof byLossType)[]]

/** Settings of policy gradients. */
export const grpoOptions = z.strictObject({
  ...onlineShape,
  method: z.enum(names).default('grpo').describe('objective, advantages and defaults'),
  ...methodSettings.shape,
  epsilon: z.number().positive().optional().describe('clip below 1 - epsilon; default the method’s'),
  epsilonHigh: z.number().positive().optional().describe('clip above 1 + epsilonHigh; cispo: the cap'),
  importanceSamplingLevel: z.enum(['token', 'sequence', 'sequenceSum']).optional().describe('ratio of what to what'),
  lossType: z.enum(lossTypes).optional().describe('from tokens to one loss; default the method’s'),
  ...creditShape,
  dynamicSampling: z.boolean().optional().describe('replace prompts whose samples tie; default: dapo'),
  maxResamples: z.int().min(1).default(4).describe('dynamic sampling: rounds of prompts that a round may try'),
  maskTruncatedCompletions: z.boolean().optional().describe('do not train samples that were cut off; default: dapo'),
  softPunishCache: z.int().min(0).default(0).describe('tokens before maxCompletionLength that are punished; 0: none'),
})

type Settings = z.output<typeof grpoOptions>

/** What a run of policy gradients takes: shared parts, and settings. */
export type GrpoOptions = OnlineOptions & GrpoInput

function methodOf(values: Settings): OnlineMethod {
  const { maxCompletionLength, promptsPerRound, softPunishCache } = values
  const method: Method = methods[values.method]
  const { dynamicSampling = method.dynamicSampling ?? false } = values
  const { maskTruncatedCompletions: mask = method.maskTruncatedCompletions ?? false } = values
  const advantages = creditOf(values, method)
  const { epsilon, epsilonHigh, importanceSamplingLevel, lossType } = values
  const own = { ...methodSettings.parse(values), epsilon, epsilonHigh, importanceSamplingLevel, maxCompletionLength }
  const tempered = isUntruncated(values)
  return {
    objective: method.objective({ ...own, aggregation: lossType && byLossType[lossType] }),
    logps: tempered ? 'sampling' : 'model',
    temperature: tempered ? values.temperature : 1,
    rewards: softPunishCache > 0 ? [softOverlongReward(maxCompletionLength, softPunishCache)] : [],
    promptsTried: promptsPerRound * (dynamicSampling ? values.maxResamples : 1),
    enough: dynamicSampling ? (traces) => countUntied(traces) >= promptsPerRound : undefined,
    select: (rewards) => (traces) =>
      advantages(rewards)(dynamicSampling ? untiedFirst(promptsPerRound)(traces) : traces),
    toExamples: (traces, round) =>
      policyExamples(mask ? traces.filter(({ finishReason }) => finishReason === 'stop') : traces, round),
  }
}

/** Trains a policy on the rewards of its own samples; see {@link startOnline}. */
export const grpo = (options: GrpoOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(grpoOptions, sources), methodOf)
