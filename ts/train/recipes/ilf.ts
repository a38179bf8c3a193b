// Imitation learning from language feedback (ILF, Scheurer et al. 2023, arXiv 2303.16755): the policy drafts, feedback says what to
// change, `refinements` are sampled behind it, the one that is thought to incorporate the feedback best is kept, and the policy
// learns it behind the BARE prompt, without draft and feedback: what the feedback asks for comes at once.
//   loss = mean over tokens of -log pi(best refinement | prompt)
// which is the forward KL from the target p(x | good) to the policy, its samples those of the refining policy reweighted by
// best-of-n. `selectBy` verdict: the mean of P(yes) over `questions`, asked of the policy itself (the paper: another model, five
// questions); reward; random, the paper's control.
// Feedback is a pure function of the draft, that was passed as `feedback`; without one the column `feedback` of a prompt's row. What
// has none is kept as it is, if `keepDrafts`. Ours differs: people wrote the paper's feedback; rounds follow each other.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import { checkMembers, kinds, optional } from '../../src/base/arguments.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { IlfInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain, type Turn } from '../loop/chain.js'
import { completionExamples } from '../loop/examples.js'
import { columnFeedback, type FeedbackFunction } from '../loop/feedback.js'
import { attemptStatistics, twoTurnStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, type ScoreParts, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { turnAlone } from '../loop/recast.js'
import { scoreTurns } from '../loop/rewards.js'
import type { Score } from '../loop/score.js'
import { pick } from '../loop/select.js'
import { byStem, type Trace, turnsOf, withScores } from '../loop/trace.js'
import { verdict } from '../loop/verdict.js'
import type { PhaseResult } from '../loop.js'

/** Settings of imitation learning from language feedback. */
export const ilfOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(1e-5),
  numGenerations: z.int().min(1).default(1).describe('drafts per prompt'),
  topP: onlineShape.topP.default(0.95),
  refinements: z.int().min(1).default(5).describe('samples behind the feedback on a draft'),
  selectBy: z.enum(['verdict', 'reward', 'random']).default('verdict').describe('which refinement is kept'),
  questions: z
    .array(z.string().min(1))
    .min(1)
    .default(['\nDoes the new text incorporate the feedback? Answer Yes or No.\n'])
    .describe('verdict: what is asked behind a refinement; of conversations the user’s next message'),
  yes: z.string().min(1).default('Yes').describe('verdict: the answer that speaks for it'),
  no: z.string().min(1).default('No').describe('verdict: the answer against it'),
  refineRequest: z
    .string()
    .default('\nFeedback: {feedback}\nRevised:\n')
    .describe('how the feedback is put behind a draft'),
  keepDrafts: z.boolean().default(true).describe('train drafts without feedback as they are'),
})

type Settings = z.output<typeof ilfOptions>

/** What a run of it takes. */
export type IlfOptions = OnlineOptions & IlfInput & { readonly feedback?: FeedbackFunction }

/** The best refinement of each draft, and drafts without feedback, behind the bare prompt. */
export const ilfSelect =
  ({ refinements, selectBy, keepDrafts, seed }: Pick<Settings, 'refinements' | 'selectBy' | 'keepDrafts' | 'seed'>) =>
  (traces: readonly Trace[]): Trace[] => {
    const rankOf = ({ task, sample, scores }: Trace): number =>
      selectBy === 'random' ? uniform(deriveKey(seed, 'refinement', task.id, sample), 0) : scores[selectBy]
    return byStem(traces, refinements).flatMap((group) => {
      const refined = group.filter((trace) => turnsOf(trace).length > 1)
      if (refined.length === 0) return keepDrafts ? [turnAlone(group[0], 0)] : []
      const ranked = refined.map((trace) => withScores(turnAlone(trace, 1), { rank: rankOf(trace) }))
      return pick({ by: 'rank' })(ranked)
    })
  }

/** Scores of both turns, and of refinements the verdict. */
const scoreOf =
  (policy: LanguageModel, { questions, yes, no }: Pick<Settings, 'questions' | 'yes' | 'no'>) =>
  ({ rewards }: ScoreParts): Score => {
    const judged = verdict(policy, { question: questions, yes, no })
    return async (traces) => judged(await scoreTurns(rewards)(traces))
  }

function methodOf(values: Settings, policy: LanguageModel, feedback: FeedbackFunction): OnlineMethod {
  const { refinements, refineRequest, promptsPerRound, numGenerations } = values
  const sampling = samplingOf(values)
  const inject = (trace: Trace): string | undefined => {
    const said = feedback(trace)
    return said === undefined ? undefined : refineRequest.replaceAll('{feedback}', () => said)
  }
  const refine: Turn = { ...sampling, numGenerations: refinements, inject }
  return {
    objective: sft(),
    explore: () => chain(sampling, [refine]),
    score: scoreOf(policy, values),
    statistics: (traces) => ({ ...attemptStatistics(traces, refinements), ...twoTurnStatistics(traces) }),
    select: () => ilfSelect(values),
    toExamples: completionExamples,
    examplesPerRound: promptsPerRound * numGenerations,
  }
}

/** Trains a policy on refinements that incorporate feedback; see {@link startOnline}. */
export function ilf(options: IlfOptions): Run<PhaseResult> {
  checkMembers('recipe', options, { feedback: optional(kinds.call) })
  const { feedback = columnFeedback, ...others } = options
  return startOnline(
    others,
    (sources) => settingsFrom(ilfOptions, sources),
    (values) => methodOf(values, options.policy, feedback),
  )
}
