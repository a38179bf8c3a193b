// Self-correction learning (He et al. 2024, arXiv 2410.04055): the policy answers, is asked to review its answer, and answers
// again. Where one answer is right and the other wrong, the right one is chosen and the wrong one rejected, BOTH behind the
// bare prompt: the second turn is not the product, the first one learns to be right at once.
//   loss = DPO(beta) + sftWeight NLL(chosen)
// As in the paper the second answer was sampled in a longer context than the one it is trained in. Ours differs: right and
// wrong come from rewards, so that any difference is a flip; a round may have several attempts at a prompt, and rounds
// follow each other where the paper has one pass; the review request is a setting, where the paper draws one of four. A
// round without a flip trains nothing (its pairs have weight 0). The control is `onlineDpo` with numGenerations 2: the same
// pairs from independent samples.

import * as z from 'zod'
import { dpo } from '../../loss/index.js'
import type { SclInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain } from '../loop/chain.js'
import { flipExamples } from '../loop/examples.js'
import { correctionStatistics, twoTurnStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { scoreTurns } from '../loop/rewards.js'
import type { PhaseResult } from '../loop.js'

/** Settings of self-correction learning. */
export const sclOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-5),
  numGenerations: z.int().min(1).default(1).describe('attempts per prompt, each with its review'),
  temperature: onlineShape.temperature.default(0.7),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
  sftWeight: z.number().min(0).default(0.1).describe('weight of the NLL of the chosen answer'),
  instruction: z
    .string()
    .min(1)
    .default('\nReview the answer above for mistakes, then answer the question again.\n')
    .describe('what is put between the answers; of conversations the user’s next message'),
})

/** What a run of self-correction learning takes. */
export type SclOptions = OnlineOptions & SclInput

function methodOf(values: z.output<typeof sclOptions>): OnlineMethod {
  const { beta, sftWeight, instruction } = values
  const sampling = samplingOf(values)
  return {
    objective: dpo({ beta, rpoAlpha: sftWeight }),
    explore: () => chain(sampling, [{ ...sampling, numGenerations: 1, inject: () => instruction }]),
    score: ({ rewards }) => scoreTurns(rewards),
    statistics: (traces) => ({ ...twoTurnStatistics(traces), ...correctionStatistics(traces) }),
    toExamples: flipExamples,
  }
}

/** Trains a policy on the flips between its answer and its answer after a review; see {@link startOnline}. */
export const scl = (options: SclOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(sclOptions, sources), methodOf)
