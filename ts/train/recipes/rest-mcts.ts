// Search guided by a value model, and both trained on what it finds (ReST-MCTS*, Zhang et al. 2024, arXiv 2406.03816; code
// THUDM/ReST-MCTS). Each round: the value model is fitted to the steps of all rounds so far; trees of steps are grown by
//   v + c sqrt(2 ln N / n),   v mixed with a greedy rollout of the best new child
// (../loop/search-trees.ts); the policy learns the right answers that were found; and the right ends label every step
// (../loop/step-values.ts). The value model is the policy's base with a head of one number, read at the last token of a
// prefix, by squared error; another one is `companion`. It reads tokens alone: the final answers label, and never guide.
// Ours differs: a new child counts as visited once with its own value (theirs: an unvisited one gets a bonus); a tree has
// `simulations` expansions in any case (theirs: it stops at a value of 0.9 when it answers); the paper starts from a value model
// of verified steps, which `companion` may be, and without it the first round is searched by an untrained head; theirs is
// trained on, ours from its start on all rounds (../loop/companion.ts); steps below which no answer ended have no label.
// Evaluations sample the policy alone. Constants of the paper are recalled; its budget was 50 expansions.

import * as z from 'zod'
import { pointwiseReward, sft } from '../../loss/index.js'
import type { RestMctsInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { neededCompanion } from '../loop/companion.js'
import { companionShape, fitOf } from '../loop/companion-settings.js'
import { completionExamples, labelExamples } from '../loop/examples.js'
import { sampleGroup } from '../loop/explore.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape, samplingOf } from '../loop/online-shape.js'
import { isOwn } from '../loop/rivals.js'
import { headValues, scoreUnsearched, searchStatistics, searchTrees } from '../loop/search-trees.js'
import { ended, pick, type Select } from '../loop/select.js'
import { stepValues } from '../loop/step-values.js'
import type { PhaseResult } from '../loop.js'

/** Settings of search with a value model. */
export const restMctsOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(2e-5),
  numGenerations: onlineShape.numGenerations.default(3).describe('steps tried at a node; equal ones count once'),
  ...companionShape,
  stepEnd: z.string().min(1).default('\n').describe('text that ends a step, part of it'),
  maxSteps: z.int().min(1).default(6).describe('most steps of an answer; the last one runs to its end'),
  simulations: z.int().min(1).default(16).describe('nodes of a tree that are expanded'),
  explorationWeight: z.number().min(0).default(0.5).describe('c: weight of visits against values'),
  rolloutSteps: z.int().min(0).default(1).describe('steps of a rollout from the best new child; 0: none'),
  rolloutShare: z.number().min(0).max(1).default(0.5).describe('part of a value that its rollout decides'),
  maskTruncatedCompletions: z.boolean().default(true).describe('leave out answers that were cut off'),
  right: z.number().default(1).describe('least reward of a right answer'),
  perPrompt: z.int().min(1).default(2).describe('right answers of a prompt to train on'),
})

type Settings = z.output<typeof restMctsOptions>

/** What a run of it takes. */
export type RestMctsOptions = OnlineOptions & RestMctsInput

function methodOf(values: Settings): OnlineMethod {
  const { right, perPrompt, explorationWeight, simulations, stepEnd, maxSteps, rolloutSteps, rolloutShare } = values
  const sampling = samplingOf(values)
  const whole: Select = values.maskTruncatedCompletions ? ended : (traces) => [...traces]
  const share = rolloutSteps === 0 ? 0 : rolloutShare
  return {
    objective: sft(),
    companion: fitOf(values, { objective: pointwiseReward({ lossType: 'mse' }), toExamples: labelExamples }),
    explore: (score, model) =>
      searchTrees({
        ...{ rule: 'ucb1', weight: explorationWeight * Math.SQRT2, simulations },
        ...{ sampling, stepEnd, maxSteps, rollouts: { share, steps: rolloutSteps }, score },
        prefixValues: headValues(neededCompanion(model)),
        label: (root, rewardOf) => stepValues(root, (node) => rewardOf(node) >= right),
      }),
    exploreHeldOut: sampleGroup(sampling),
    score: ({ rewards }) => scoreUnsearched(rewards),
    statistics: (traces) => searchStatistics(traces, right),
    select: () => (traces) => pick({ threshold: right, perTask: perPrompt })(whole(traces.filter(isOwn))),
    toExamples: completionExamples,
    examplesPerRound: values.promptsPerRound * perPrompt,
  }
}

/** Trains a policy, and a model of values that guides it, on what a search finds; see {@link startOnline}. */
export const restMcts = (options: RestMctsOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(restMctsOptions, sources), methodOf)
