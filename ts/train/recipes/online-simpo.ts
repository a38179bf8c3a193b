// Iterative SimPO with a likelihood term, the training of CycleResearcher (Weng et al. 2024, arXiv 2411.00816): sample a few
// answers to each prompt, pair the best with the worst by the judge's number, train, sample anew from what came of it.
//   loss = -log s(beta (mean log pi(w) - mean log pi(l)) - gamma) + sftWeight NLL(w)      no reference model
// Without the likelihood term both sides may lose probability, and the authors saw repetition. The judge stays as it is, so
// that what is learned is its taste too: with a task source the number `gold` is the exact checker's beside it, and a
// second judge of weight 0 shows whether others agree. The paper's judge is a model that writes several reviews, whose mean
// is the number: `judgeReward`, or any reward function or reward model. beta, gamma and sftWeight are not in our sources: they are
// those of SimPO, and 1. Pairs that tie have no gradient.

import * as z from 'zod'
import { simpo } from '../../loss/index.js'
import type { OnlineSimpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { pairExamples } from '../loop/examples.js'
import { type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape } from '../loop/online-shape.js'
import type { PhaseResult } from '../loop.js'

/** Settings of iterative SimPO. */
export const onlineSimpoOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-7),
  numGenerations: onlineShape.numGenerations.default(3),
  temperature: onlineShape.temperature.default(0.4),
  beta: z.number().positive().default(2).describe('scale of the mean log-probs'),
  gamma: z.number().default(1).describe('margin that the chosen side must win by'),
  labelSmoothing: z.number().min(0).lt(0.5).default(0).describe('share of wrong labels'),
  sftWeight: z.number().min(0).default(1).describe('weight of the NLL of the chosen side'),
})

/** What a run of iterative SimPO takes. */
export type OnlineSimpoOptions = OnlineOptions & OnlineSimpoInput

/** Trains a policy on the best and the worst of its own samples without a reference; see {@link startOnline}. */
export const onlineSimpo = (options: OnlineSimpoOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(onlineSimpoOptions, sources),
    ({ beta, gamma, labelSmoothing, sftWeight, promptsPerRound }) => ({
      objective: simpo({ beta, gamma, labelSmoothing, sftWeight }),
      select: () => (traces) => [...traces],
      toExamples: pairExamples(),
      examplesPerRound: promptsPerRound,
    }),
  )
