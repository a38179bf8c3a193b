// SCoRe (Kumar et al. 2024, arXiv 2409.12917): two attempts, the second behind a fixed request to check the first; policy
// gradient on the model's own traces, each attempt credited with its own reward alone. objectives.md 7.3.
//   rounds 1 .. stageOneRounds:  R(y2), with the strong KL beta2 on attempt 1 and beta1 on attempt 2
//   later rounds:                R(y1) and R(y2) + alpha (R(y2) - R(y1)), with beta1 on both
// The KL to the reference enters per token: A_t = A_turn - beta_turn (log pi - log ref), the gradient of KL(pi || ref) at
// the sampled tokens. Baseline: the mean of the other samples of the prompt. Ours clips ratios as PPO does, so that a round
// may have several steps; at its first step this is REINFORCE. Log-probs are at temperature 1. alpha, beta1 and beta2 are recalled from the paper.

import * as z from 'zod'
import { advantages, improvementReward, ppo } from '../../loss/index.js'
import type { ScoreInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain } from '../loop/chain.js'
import { credit } from '../loop/credit.js'
import { oldLogps, sequenceOf, type ToExamples } from '../loop/examples.js'
import { referenceLogps } from '../loop/likelihood.js'
import { twoTurnStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { scoreTurns } from '../loop/rewards.js'
import { type Trace, withScores } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of SCoRe. */
export const scoreOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-6),
  numGenerations: onlineShape.numGenerations.default(4),
  stageOneRounds: z.int().min(0).default(50).describe('rounds that reward the second attempt alone'),
  alpha: z.number().min(0).default(10).describe('bonus for what the second attempt gains'),
  beta1: z.number().min(0).default(0.01).describe('weight of the KL to the reference'),
  beta2: z.number().min(0).default(0.1).describe('the same on first attempts in the first stage'),
  instruction: z
    .string()
    .min(1)
    .default('\nThere might be an error in the solution above. Check it, and write a correct solution.\n')
    .describe('what is put between the attempts; of conversations the user’s next message'),
})

type Settings = z.output<typeof scoreOptions>

/** What a run of SCoRe takes. */
export type ScoreOptions = OnlineOptions & ScoreInput

/** The rewards of both attempts in a stage, as scores `shaped/1` and `shaped/2`. */
function shaped(trace: Trace, first: boolean, alpha: number): Trace {
  const [r1, r2] = [trace.scores['reward/1'], trace.scores['reward/2']]
  return withScores(trace, { 'shaped/1': first ? 0 : r1, 'shaped/2': first ? r2 : improvementReward(r1, r2, alpha) })
}

const creditTurns = (traces: readonly Trace[]): Trace[] =>
  [1, 2].reduce<Trace[]>(
    (all, turn) => credit(advantages.rloo, `shaped/${turn}`, `advantage/${turn}`)(all),
    [...traces],
  )

const examplesOf =
  ({ stageOneRounds, alpha, beta1, beta2 }: Settings): ToExamples =>
  (traces, round) => {
    const first = round <= stageOneRounds
    const betas = [first ? beta2 : beta1, beta1]
    return creditTurns(traces.map((trace) => shaped(trace, first, alpha))).map((trace) => [
      sequenceOf(trace, {
        inputs: {
          old: oldLogps,
          advantages: ({ logps = [], reference = [] }, turn) =>
            logps.map((l, t) => trace.scores[`advantage/${turn + 1}`] - betas[turn] * (l - reference[t])),
        },
      }),
    ])
  }

function methodOf(values: Settings, { policy }: OnlineOptions): OnlineMethod {
  const { instruction } = values
  const sampling = samplingOf(values)
  return {
    objective: ppo({ aggregation: 'sequenceSum' }),
    explore: () => chain(sampling, [{ ...sampling, numGenerations: 1, inject: () => instruction }]),
    score:
      ({ rewards, reference = policy.decoder }) =>
      async (traces) =>
        referenceLogps(reference, policy)(await scoreTurns(rewards)(traces)),
    needsReference: true,
    statistics: twoTurnStatistics,
    toExamples: examplesOf(values),
  }
}

/** Trains a policy to correct itself; see {@link startOnline}. */
export const score = (options: ScoreOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(scoreOptions, sources),
    (values) => methodOf(values, options),
  )
