// Online DPO (Guo et al. 2024, arXiv 2402.04792; RLHF Workflow, 2405.07863): sample n answers to each prompt, pair the best
// with the worst by reward, train any pair objective on them, repeat. The reference stays what it was at the start.
// Pairs that tie have no gradient, where TRL calls the first one better. Samples per prompt: 2, as in TRL's trainer.

import * as z from 'zod'
import { dpo } from '../../loss/index.js'
import type { OnlineDpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { pairExamples } from '../loop/examples.js'
import { type OnlineOptions, onlineShape, settingsFrom, startOnline } from '../loop/online.js'
import type { PhaseResult } from '../loop.js'

/** Settings of online DPO. */
export const onlineDpoOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-7),
  numGenerations: onlineShape.numGenerations.default(2),
  temperature: onlineShape.temperature.default(0.9),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
  lossType: z.enum(['sigmoid', 'hinge', 'ipo', 'ipoSum', 'robust', 'exoPair']).default('sigmoid').describe('as in DPO'),
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
      select: () => (traces) => [...traces],
      toExamples: pairExamples(),
      examplesPerRound: promptsPerRound,
    }),
  )
