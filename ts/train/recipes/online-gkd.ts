// On-policy distillation, GKD (Agarwal et al. 2023, arXiv 2306.13649; TRL's GKDTrainer): with probability lmbda a round trains
// the student on its own samples, else on the teacher's (seqKd) or on the completions of the data, each token by the
// generalised Jensen-Shannon divergence from the teacher at temperature 1. One draw decides for a whole round, which is one
// optimizer step by default (the paper's algorithm 1); with more steps in it, its samples are the student's at its start.
// Differs from TRL: TRL draws for every micro-batch; it divides by the tokens of the data's completions, also where
// others were sampled, and ours by those that are trained; a draw equal to lmbda is a data round, so that 0 never samples.
// Completions of the data are not cut (TRL: max_length), and reward functions may look on: they change nothing.

import * as z from 'zod'
import { gkd } from '../../loss/index.js'
import type { OnlineGkdInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { checkAnswered, sampleOrTake } from '../loop/distillation.js'
import { completionExamples } from '../loop/examples.js'
import { sampleGroup } from '../loop/explore.js'
import { type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { isOwn } from '../loop/rivals.js'
import type { PhaseResult } from '../loop.js'

/** Settings of on-policy distillation. */
export const onlineGkdOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(2e-5),
  numGenerations: z.int().min(1).default(1).describe('samples per prompt; the data has one completion'),
  maxCompletionLength: z.int().min(1).default(128).describe('most new tokens of a sample'),
  temperature: onlineShape.temperature.default(0.9),
  lmbda: z.number().min(0).max(1).default(0.5).describe('share of rounds on the student’s own samples'),
  seqKd: z.boolean().default(false).describe('other rounds: samples of the teacher, in place of the data'),
  beta: z.number().min(0).max(1).default(0.5).describe('weight of the teacher in the mixture; 0 and 1 are the two KLs'),
})

/** What a run of on-policy distillation takes; `reference` is the teacher. */
export type OnlineGkdOptions = OnlineOptions & OnlineGkdInput

/** Distils a teacher into a policy on the policy's own samples; see {@link startOnline}. */
export const onlineGkd = (options: OnlineGkdOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(onlineGkdOptions, sources),
    (values) => ({
      objective: gkd({ beta: values.beta }),
      explore: () => sampleOrTake(values, samplingOf(values)),
      exploreHeldOut: sampleGroup(samplingOf(values)),
      checkTasks: (tasks) => checkAnswered(values, tasks),
      unrewarded: true,
      statistics: (traces) => ({ onPolicy: traces.filter(isOwn).length / traces.length }),
      toExamples: completionExamples,
    }),
  )
