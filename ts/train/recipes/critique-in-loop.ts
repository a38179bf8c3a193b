// Critique-in-the-loop self-improvement (AutoMathCritique, Xi et al. 2024, arXiv 2411.16579): the actor answers; a wrong answer
// gets `critiques`, and each of them `refinements`, so that hard prompts are sampled more. Right answers and refined ones that
// came out right are trained behind the bare prompt, and the BASE model is trained on them, not the last policy.
//   score of a critique = share of its refinements that are right; kept, it is at least `keepCritiqueAt` (the soft filter)
// `withRefinement` trains refined answers behind the wrong answer and its critique as well, `withCritique` the kept critiques.
// The loop knows the truth, by the paper's design: right answers are neither criticised nor trained as refined ones.
// Ours differs: one policy is actor and critic, where the paper has a critic of its own, trained before on critiques of a
// stronger model, which is `train sft` here; its critiques are drawn, not greedy. Requests are settings.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import type { CritiqueInLoopInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { chain, type Turn } from '../loop/chain.js'
import { answer, comment, critiqueSelect } from '../loop/critique.js'
import { completionExamples } from '../loop/examples.js'
import { attemptStatistics, correctionStatistics } from '../loop/metrics.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { scoreTurns } from '../loop/rewards.js'
import { type Trace, turnRewards, turnsOf } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of critique in the loop. */
export const critiqueInLoopOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-6),
  temperature: onlineShape.temperature.default(0.7),
  numGenerations: onlineShape.numGenerations.default(5),
  right: z.number().default(1).describe('least reward of a right answer'),
  perPrompt: z.int().min(1).default(5).describe('right first answers of a prompt to train on'),
  refinedPerPrompt: z.int().min(0).default(1).describe('right refined answers of a prompt to train on'),
  critiques: z.int().min(1).default(1).describe('critiques of a wrong answer'),
  refinements: z.int().min(1).default(1).describe('refined answers behind a critique'),
  withRefinement: z.boolean().default(false).describe('train right refined answers behind their critique, too'),
  withCritique: z.boolean().default(false).describe('train critiques that help, too'),
  keepCritiqueAt: z.number().min(0).max(1).default(0.3).describe('least share of right refinements of such a critique'),
  startFrom: z.enum(['base', 'current']).default('base').describe('where the update of a round starts'),
  pool: z.enum(['accumulate', 'replace']).default('replace').describe('train on all rounds so far, or on the last'),
  critiqueRequest: z
    .string()
    .min(1)
    .default('\nGo through the answer above step by step and say which step is wrong and why.\n')
    .describe('what is put behind a wrong answer; of conversations the user’s next message'),
  refineRequest: z
    .string()
    .min(1)
    .default('\nAnswer the question again, minding the critique.\n')
    .describe('what is put behind a critique; of conversations the user’s next message'),
})

type Settings = z.output<typeof critiqueInLoopOptions>

/** What a run of critique in the loop takes. */
export type CritiqueInLoopOptions = OnlineOptions & CritiqueInLoopInput

function methodOf(values: Settings): OnlineMethod {
  const { right, critiques, refinements, critiqueRequest, refineRequest, promptsPerRound } = values
  const sampling = samplingOf(values)
  const isAnswer = (turn: number) => turn !== comment
  const isWrong = (trace: Trace) => turnRewards(trace)[answer] < right
  const wasCriticised = (trace: Trace) => turnsOf(trace).length > comment
  return {
    objective: sft(),
    startFrom: values.startFrom,
    pool: values.pool,
    explore: (rewards) => {
      const score = scoreTurns(rewards, isAnswer)
      const criticise: Turn = {
        ...sampling,
        numGenerations: critiques,
        score,
        inject: (trace) => (isWrong(trace) ? critiqueRequest : undefined),
      }
      const refine: Turn = {
        ...sampling,
        numGenerations: refinements,
        inject: (trace) => (wasCriticised(trace) ? refineRequest : undefined),
      }
      return chain(sampling, [criticise, refine])
    },
    score: ({ rewards }) => scoreTurns(rewards, isAnswer),
    statistics: (traces) => ({
      ...attemptStatistics(traces, critiques * refinements),
      ...correctionStatistics(traces),
    }),
    select: () => critiqueSelect(values),
    toExamples: completionExamples,
    examplesPerRound: promptsPerRound * (values.perPrompt + values.refinedPerPrompt),
  }
}

/** Trains the base anew in each round on what the policy solved, at once or behind a critique; see {@link startOnline}. */
export const critiqueInLoop = (options: CritiqueInLoopOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(critiqueInLoopOptions, sources), methodOf)
