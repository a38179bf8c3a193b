// Online DPO (Guo et al. 2024, arXiv 2402.04792; RLHF Workflow, 2405.07863): sample n answers to each prompt, pair the best
// with the worst by reward, train any pair objective on them, repeat. The reference stays what it was at the start.
// Samples per prompt: 2, as in TRL's trainer. In place of rewards a judge may compare all pairs of a prompt's samples: best is
// which wins most, in the mean over its pairs. Differs from TRL: pairs that tie have no gradient (there the first one is
// better); `ipo` averages over tokens, as in DPO (there it sums: ipoSum); samples that were cut off pay missingEosPenalty, and
// one that a stop string ended does not (there: those without the end token); sequences are never cut; beta is a number.

import * as z from 'zod'
import { dpo } from '../../loss/index.js'
import type { OnlineDpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { pairExamples } from '../loop/examples.js'
import { type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { pairShape } from '../loop/online-pairs.js'
import { bestAndWorstStatistics, rankByJudge } from '../loop/rivals.js'
import type { PhaseResult } from '../loop.js'

/** Settings of online DPO. */
export const onlineDpoOptions = z.strictObject({
  ...pairShape,
  numGenerations: pairShape.numGenerations.default(2),
  lossType: z
    .enum(['sigmoid', 'hinge', 'ipo', 'ipoSum', 'robust', 'exoPair'])
    .default('sigmoid')
    .describe('as in DPO; ipo of TRL’s OnlineDPOConfig is ipoSum'),
  labelSmoothing: z.number().min(0).lt(0.5).default(0).describe('share of wrong labels'),
})

/** What a run of online DPO takes. */
export type OnlineDpoOptions = OnlineOptions & OnlineDpoInput

/** Trains a policy on the best and the worst of its own samples; see {@link startOnline}. */
export const onlineDpo = (options: OnlineDpoOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(onlineDpoOptions, sources),
    ({ beta, lossType, labelSmoothing, promptsPerRound }) => ({
      objective: dpo({ beta, lossType, labelSmoothing }),
      comparesPairs: true,
      score: ({ rewards, judge }) => (judge === undefined ? rewards : rankByJudge(rewards, judge)),
      statistics: bestAndWorstStatistics,
      toExamples: pairExamples(options.judge === undefined ? 'reward' : 'preference'),
      examplesPerRound: promptsPerRound,
    }),
  )
