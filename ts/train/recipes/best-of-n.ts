// Best-of-n fine-tuning, by reward functions: RAFT (2304.06767), ReST, rejection sampling. Sample n answers to each prompt,
// train the likelihood of the best `perPrompt` that reach `threshold`, repeat. With `kappa` it is SuperHF (2310.16763) over
// reward functions, with a KL term to the reference; superhf.ts is SuperHF over tasks with an exact checker. Rounds report how
// alike the kept answers to different prompts are, its monitor of reward hacking (../loop/similarity.ts).

import * as z from 'zod'
import { sft, superhf } from '../../loss/index.js'
import type { BestOfNInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { completionExamples } from '../loop/examples.js'
import { type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape } from '../loop/online-shape.js'
import { pick } from '../loop/select.js'
import { similarityStatistics } from '../loop/similarity.js'
import type { PhaseResult } from '../loop.js'

/** Settings of best-of-n fine-tuning. */
export const bestOfNOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(2e-5),
  perPrompt: z.int().min(1).default(1).describe('best samples of a prompt to train on'),
  threshold: z.number().optional().describe('least reward of a sample to be trained on; default none'),
  kappa: z.number().min(0).default(0).describe('weight of KL(reference || policy); 0: no reference is needed'),
})

/** What a run of best-of-n fine-tuning takes. */
export type BestOfNOptions = OnlineOptions & BestOfNInput

/** Trains a policy on the best of its own samples; see {@link startOnline}. */
export const bestOfN = (options: BestOfNOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(bestOfNOptions, sources),
    ({ perPrompt, threshold, promptsPerRound, kappa, seed }) => ({
      objective: kappa > 0 ? superhf({ kappa }) : sft(),
      statistics: (_, kept) => similarityStatistics(kept, seed),
      select: () => pick({ perTask: perPrompt, threshold }),
      toExamples: completionExamples,
      examplesPerRound: promptsPerRound * perPrompt,
    }),
  )
