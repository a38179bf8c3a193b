// XPO (Xie et al. 2024, arXiv 2405.21046; TRL's XPOTrainer): online DPO on pairs of one sample of the policy and one of the
// reference, with a bonus for exploring: the log-prob of the reference's answer is lowered (ts/loss/xpo.ts). Rewards, or a
// judge of pairs, say which answer is chosen. Log-probs are at temperature 1, as in TRL.
// Differs from TRL: pairs that tie have the bonus alone, where TRL calls the policy's answer better; alpha and beta are
// numbers, not lists by epoch; several rewards may be summed; a sample that is cut off pays missingEosPenalty whatever
// its prompt holds, and one that a stop string ended does not; sequences are never cut.

import * as z from 'zod'
import { xpo } from '../../loss/index.js'
import type { OnlineXpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { rivalExamples } from '../loop/examples.js'
import { type OnlineOptions, onlineShape, samplingOf, settingsFrom, startOnline } from '../loop/online.js'
import { missingEosReward } from '../loop/rewards.js'
import { comparePairs, rivalStatistics, sampleRivals } from '../loop/rivals.js'
import type { PhaseResult } from '../loop.js'

/** Settings of XPO. */
export const onlineXpoOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-7),
  numGenerations: z.int().min(1).default(1).describe('pairs per prompt: samples of the policy, and of the reference'),
  maxCompletionLength: z.int().min(1).default(64).describe('most new tokens of a sample'),
  temperature: onlineShape.temperature.default(0.9),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
  alpha: z.number().min(0).default(1e-5).describe('weight of the exploration bonus'),
  lossType: z.enum(['sigmoid', 'ipo']).default('sigmoid').describe('link of the margin'),
  missingEosPenalty: z.number().positive().optional().describe('taken from the reward of samples that were cut off'),
})

/** What a run of XPO takes. */
export type OnlineXpoOptions = OnlineOptions & OnlineXpoInput

/** Trains a policy on its own samples against the reference's, and to explore; see {@link startOnline}. */
export const onlineXpo = (options: OnlineXpoOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(onlineXpoOptions, sources),
    (values) => ({
      objective: xpo({ beta: values.beta, alpha: values.alpha, lossType: values.lossType }),
      explore: () => sampleRivals({ ...samplingOf(values), mixtureCoef: 1 }),
      rewards: values.missingEosPenalty === undefined ? [] : [missingEosReward(values.missingEosPenalty)],
      comparesPairs: true,
      score: (rewards) => comparePairs(rewards, options.judge),
      statistics: rivalStatistics,
      select: () => (traces) => [...traces],
      toExamples: rivalExamples,
      examplesPerRound: values.promptsPerRound * values.numGenerations,
    }),
  )
