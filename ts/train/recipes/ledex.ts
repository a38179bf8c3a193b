// LeDex, learning to self-debug and explain (Jiang et al. 2024, arXiv 2405.18649), its reinforcement learning: of a wrong answer the policy
// writes `explanations` of what is wrong, and behind each a refined answer. Both are paid at their own ends:
//   refinement:  R = 5 (S + share of tests passed) - 5,  S its mean likeness to the right answers of the prompt
//   explanation: R = (50 S - 35) / 3,                    S its mean likeness to explanations whose refinement was right
//   A_t = sum over ends at or behind t of gamma^(tokens to it) (R - mean of R over the prompt) - beta (log pi - log ref)
// The passed share is the reward, from 0 to 1. Where nothing of a prompt is right an explanation is not judged: R = 0.
// The paper's first phase, likelihood of verified refinements, is `critiqueInLoop` with `withRefinement`, or `train sft` on rows.
// Ours differs: likeness is ROUGE-L over tokens (theirs: CodeBLEU, and cosines of sentence embeddings); the baseline is the mean of the
// prompt's branches (theirs: a value head and TD errors); the KL is a reward of its own token alone. Log-probs are
// at temperature 1, whatever is sampled at.

import * as z from 'zod'
import { ppo } from '../../loss/index.js'
import { checkMembers, kinds, optional } from '../../src/base/arguments.js'
import type { LedexInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain, type Turn } from '../loop/chain.js'
import { answer, comment } from '../loop/critique.js'
import { filled, oldLogps, sequenceOf, type ToExamples, type TurnNumbers } from '../loop/examples.js'
import { columnFeedback, type FeedbackFunction } from '../loop/feedback.js'
import { referenceLogps } from '../loop/likelihood.js'
import { attemptStatistics, correctionStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { turnsFrom } from '../loop/recast.js'
import { scoreTurns } from '../loop/rewards.js'
import { discountedReturns, explainedRewards } from '../loop/segment-rewards.js'
import { type Trace, turnRewards, turnsOf } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of LeDex. */
export const ledexOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(2e-6),
  temperature: onlineShape.temperature.default(0.8),
  numGenerations: z.int().min(1).default(1).describe('first answers per prompt'),
  explanations: z.int().min(2).default(10).describe('explanations of a wrong answer, each with a refined answer'),
  right: z.number().default(1).describe('least reward of a right answer'),
  gamma: z.number().min(0).max(1).default(0.99).describe('discount of a reward for each token before it'),
  beta: z.number().min(0).default(0.05).describe('weight of the KL to the reference'),
  explainRequest: z
    .string()
    .min(1)
    .default('\nThis is wrong. {feedback}\nWhat is wrong:\n')
    .describe('put behind an answer'),
  refineRequest: z.string().min(1).default('\nThe corrected answer:\n').describe('put behind an explanation'),
})

type Settings = z.output<typeof ledexOptions>

/** What a run of LeDex takes. `feedback` says what is wrong with an answer, such as the test that failed. */
export type LedexOptions = OnlineOptions & LedexInput & { readonly feedback?: FeedbackFunction }

const examplesOf =
  ({ gamma, beta }: Settings): ToExamples =>
  (traces) =>
    traces.map((trace) => {
      const { explanation: e, refinement: r } = trace.scores
      if (e === undefined)
        return [sequenceOf(trace, { inputs: { old: oldLogps, advantages: (own) => filled(own, 0) } })]
      const own = turnsFrom(trace, comment)
      const lengths = turnsOf(own).map(({ ids }) => ids.length)
      const worth = discountedReturns(lengths, [e, r], gamma)
      const advantages: TurnNumbers = ({ logps = [], reference = [] }, turn) =>
        logps.map((l, t) => worth[turn][t] - beta * (l - reference[t]))
      return [sequenceOf(own, { inputs: { old: oldLogps, advantages } })]
    })

function methodOf(values: Settings, { policy, feedback = columnFeedback }: LedexOptions): OnlineMethod {
  const { right, explanations, explainRequest, refineRequest } = values
  const sampling = samplingOf(values)
  const isAnswer = (turn: number) => turn !== comment
  const ask = (trace: Trace) =>
    turnRewards(trace)[answer] >= right ? undefined : explainRequest.replace('{feedback}', () => feedback(trace) ?? '')
  const refine: Turn = {
    ...sampling,
    numGenerations: 1,
    inject: (trace) => (turnsOf(trace).length > comment ? refineRequest : undefined),
  }
  return {
    objective: ppo(),
    needsReference: true,
    explore: (rewards) =>
      chain(sampling, [
        { ...sampling, numGenerations: explanations, score: scoreTurns(rewards, isAnswer), inject: ask },
        refine,
      ]),
    score:
      ({ rewards, reference = policy.decoder }) =>
      async (traces) =>
        referenceLogps(reference, policy)(await scoreTurns(rewards, isAnswer)(traces)),
    statistics: (traces) => ({ ...attemptStatistics(traces, explanations), ...correctionStatistics(traces) }),
    select: () => explainedRewards(right),
    toExamples: examplesOf(values),
    examplesPerRound: values.promptsPerRound * values.numGenerations * explanations,
  }
}

/** Trains a policy to explain what is wrong with its answers, and to mend them; see {@link startOnline}. */
export function ledex(options: LedexOptions): Run<PhaseResult> {
  checkMembers('recipe', options, { feedback: optional(kinds.call) })
  const { feedback, ...others } = options
  return startOnline(
    others,
    (sources) => settingsFrom(ledexOptions, sources),
    (values) => methodOf(values, options),
  )
}
