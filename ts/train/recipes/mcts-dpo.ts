// Step-level preferences from tree search (Xie et al. 2024, arXiv 2405.00451; code YuxiXie/MCTS-DPO): search answers with the
// current policy, make pairs of sibling steps, train DPO on the step alone, search again with what came of it.
//   selection: q + explorationWeight p sqrt(N) / (1 + n),  p = exp(sum log pi / length^1.25)        (../loop/tree.ts)
//   pairs:     at each step of the way the child with the highest q against the one with the lowest
//   loss:      -(1 - a) log s(z) - a log s(-z),  z = beta (rho(w) - rho(l)) over the tokens of the two steps,
//              a = min(N_l / (N_w + N_l), 1/2): the visits are the confidence in the label (`visitSmoothing`)
// The reference is the policy as it starts. Ours differs: the value of a node is the reward of one answer that is finished from
// it, where the paper asks the policy whether it is on the right way and shows it the reference answer; no step of a
// reference solution is ever tried, where the authors' code tries them; trees are not chosen by how they end. Simulations
// are fewer (theirs: 64 a move, 256 the first), and the policy changes between rounds (theirs: every 64 questions).

import * as z from 'zod'
import { logRatio } from '../../loss/index.js'
import { mean } from '../../src/base/stats.js'
import type { MctsDpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { sequenceOf, type ToExamples } from '../loop/examples.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { isOwn } from '../loop/rivals.js'
import { searchSteps } from '../loop/search-steps.js'
import { byTask, type Trace } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of step-level preferences from tree search. */
export const mctsDpoOptions = z.strictObject({
  ...onlineShape,
  numGenerations: onlineShape.numGenerations.default(2).describe('steps tried at a node; equal ones count once'),
  stepEnd: z.string().min(1).default('\n').describe('text that ends a step, part of it'),
  maxSteps: z.int().min(1).default(4).describe('most steps of an answer; the last one runs to its end'),
  simulations: z.int().min(1).default(8).describe('simulations before each move'),
  firstSimulations: z.int().min(1).optional().describe('simulations before the first move; default four times as many'),
  explorationWeight: z.number().min(0).default(1).describe('weight of prior and visits against values'),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
  visitSmoothing: z.boolean().default(true).describe('label smoothing of a pair by the visits of its steps'),
})

type Settings = z.output<typeof mctsDpoOptions>

/** What a run of it takes. */
export type MctsDpoOptions = OnlineOptions & MctsDpoInput

/** Pairs of steps as examples. Where a round has none its answers stand beside themselves with weight 0. */
export const stepExamples =
  (visitSmoothing: boolean): ToExamples =>
  (traces) => {
    const pairs = byTask(traces).flatMap((group) => {
      const steps = group.filter((trace) => !isOwn(trace))
      return steps.flatMap((better, i) => (i % 2 === 0 ? [[better, steps[i + 1]] as const] : []))
    })
    const weight = Number(pairs.length > 0)
    const stood = pairs.length > 0 ? pairs : traces.map((trace) => [trace, trace] as const)
    return stood.map(([better, worse]) => {
      const [w, l] = [better, worse].map(({ scores }) => scores.visits ?? 1)
      const scores = { weight, labelSmoothing: visitSmoothing ? Math.min(l / (w + l), 0.5) : 0 }
      return [sequenceOf(better, { role: 'chosen', scores }), sequenceOf(worse, { role: 'rejected', scores })]
    })
  }

function statistics(traces: readonly Trace[]): Record<string, number> {
  const [answers, steps] = [traces.filter(isOwn), traces.filter((trace) => !isOwn(trace))]
  const gaps = steps.flatMap(({ scores }, i) => (i % 2 === 0 ? [scores.value - steps[i + 1].scores.value] : []))
  return {
    'search/tried': mean(answers.map(({ scores }) => scores.searched)),
    'search/pairs': gaps.length / answers.length,
    'search/margin': mean(gaps),
  }
}

function methodOf(values: Settings): OnlineMethod {
  const { simulations, firstSimulations = 4 * simulations, stepEnd, maxSteps, promptsPerRound } = values
  const search = { rule: 'puct', weight: values.explorationWeight, simulations, firstSimulations } as const
  return {
    objective: logRatio({ beta: values.beta }),
    explore: (score) => searchSteps({ ...search, sampling: samplingOf(values), stepEnd, maxSteps, score }),
    score: () => async (traces) => [...traces],
    statistics,
    select: () => (traces) => [...traces],
    toExamples: stepExamples(values.visitSmoothing),
    examplesPerRound: promptsPerRound * maxSteps,
  }
}

/** Trains a policy on what a search finds of the steps of its answers; see {@link startOnline}. */
export const mctsDpo = (options: MctsDpoOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(mctsDpoOptions, sources), methodOf)
