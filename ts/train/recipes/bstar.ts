// B-STaR (Zeng et al. 2024, arXiv 2412.17256; code hkust-nlp/B-STaR): rejection fine-tuning whose temperature and threshold are
// chosen anew in each round, by the balance score (../loop/balance.ts). A round:
//   1. balance: for `balancePrompts` of its prompts numGenerations samples at each of `temperatures`; the temperature of the
//      best (temperature, threshold) by mean balance score is taken
//   2. explore: numGenerations samples of every prompt at it;  the threshold is searched again over all of them (their code)
//   3. select: of each prompt the best k different samples with reward > threshold, k the least that gives
//      wantedPerPrompt * promptsPerRound of them
//   4. update: likelihood, from the last policy with its optimizer and one schedule ("online RFT")
// Right is what the exact checker of a task source accepts, and of other prompts a reward of `rightAt` and more. With a task source the
// rewards that are passed (the paper's process reward) are added to the checker's 1. With a checker alone only the
// temperature adapts, as in the paper's coding tasks. Ours differs: the reference solution is not added (theirs, in code: with
// score 1); numbers of prompts are those of small models (theirs: 11,500 per round and 600 to balance, wanted 6).

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import type { BstarInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { bestThreshold, explorationStatistics, pickQuota } from '../loop/balance.js'
import { completionExamples } from '../loop/examples.js'
import { sampleGroup } from '../loop/explore.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { isTaskSource } from '../loop/prompts.js'
import { checkerReward } from '../loop/rewards.js'
import type { Trace } from '../loop/trace.js'
import { exploreAtBest, tunedStatistics } from '../loop/tuner.js'
import type { PhaseResult } from '../loop.js'

const { temperature: _, ...shape } = onlineShape

/** Settings of B-STaR. */
export const bstarOptions = z.strictObject({
  ...shape,
  learningRate: onlineShape.learningRate.default(5e-6),
  numGenerations: onlineShape.numGenerations.default(64),
  temperatures: z
    .array(z.number().positive())
    .min(1)
    .default([0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2])
    .describe('sampling temperatures to choose from'),
  thresholds: z
    .array(z.number())
    .min(1)
    .default(Array.from({ length: 21 }, (_, i) => i / 10 - 1))
    .describe('rewards to choose from: samples above one are selected'),
  balancePrompts: z.int().min(1).default(16).describe('prompts of a round that the temperature is chosen on'),
  rightAt: z.number().default(1).describe('prompts without an exact checker: least reward of a right sample'),
  wantedPerPrompt: z.int().min(1).default(6).describe('different right samples wanted of a prompt: n* of the paper'),
})

type Settings = z.output<typeof bstarOptions>

/** What a run of B-STaR takes. */
export type BstarOptions = OnlineOptions & BstarInput

function methodOf(values: Settings, { prompts, rewardFuncs }: OnlineOptions): OnlineMethod {
  const { thresholds, wantedPerPrompt, promptsPerRound, rightAt } = values
  const isChecked = isTaskSource(prompts)
  const isRight = ({ scores }: Trace) => (isChecked ? scores['rewards/correct'] === 1 : scores.reward >= rightAt)
  const balance = { wanted: wantedPerPrompt, isRight }
  const chosen = (traces: readonly Trace[]) => bestThreshold(traces, thresholds, balance)
  const target = promptsPerRound * wantedPerPrompt
  return {
    objective: sft(),
    explore: (score) =>
      exploreAtBest({
        grid: values.temperatures,
        exploreAt: (temperature) => sampleGroup(samplingOf({ ...values, temperature })),
        score,
        measure: (traces) => chosen(traces).value,
        tasks: values.balancePrompts,
      }),
    // At temperature 1: trials belong to rounds.
    exploreHeldOut: sampleGroup(samplingOf(values)),
    rewards: isChecked && rewardFuncs !== undefined ? [checkerReward(prompts)] : [],
    statistics: (traces) => ({
      ...tunedStatistics(traces),
      'balance/threshold': chosen(traces).setting,
      'balance/score': chosen(traces).value,
      ...explorationStatistics(traces, wantedPerPrompt, balance),
    }),
    select: () => (traces) => pickQuota(chosen(traces).setting, target)(traces),
    toExamples: completionExamples,
    examplesPerRound: target,
  }
}

/** Trains a policy on its right samples, explored as it is best for it; see {@link startOnline}. */
export const bstar = (options: BstarOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(bstarOptions, sources),
    (values) => methodOf(values, options),
  )
