// Search with adaptive widths, critics and rollouts, and the policy fine-tuned on its best answers (AlphaLLM, Tian et al. 2024, arXiv
// 2404.12253). Each round: a value model is fitted to what came of the prefixes of all rounds so far, by squared error; trees of
// steps (the paper's options) are grown by
//   selection: mean value + c sqrt(ln N / n)
//   width:     max(least, min(floor(scale I) + 1, most)) children, I(s) = max |v(child) - v(s)|     (../loop/tree.ts)
//   merge:     a step within `mergeDistance` edits of a sibling is none
//   value:     (1 - share) v(s) + share (mean v of `rolloutAnswers` whole answers from it)           (../loop/search-trees.ts)
// and of each prompt the answer with the highest value is trained where it reaches `threshold`. Rewards label; they do not choose.
// Ours differs: one value model stands for the paper's three critics (V, a process and an outcome model that say a verdict), refitted in
// each round where theirs stay; rollouts are the policy's own (theirs: a smaller model's); a step that merges is dropped, and a
// node that only found such is closed (theirs: drawn again up to 5 times); one width for the root and all others, and its
// scale is ours; prompts are given, none is made up. A step ends with `stepEnd`. Evaluations sample the policy alone.

import * as z from 'zod'
import { pointwiseReward, sft } from '../../loss/index.js'
import { mean } from '../../src/base/stats.js'
import type { AlphaLlmInput } from '../config/recipes.gen.js'
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
import { outcomeValues } from '../loop/step-values.js'
import { importanceWidth } from '../loop/tree.js'
import type { PhaseResult } from '../loop.js'

/** Settings of search with adaptive widths. */
export const alphaLlmOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-6),
  numGenerations: onlineShape.numGenerations.default(2).describe('steps drawn when a node is expanded'),
  ...companionShape,
  stepEnd: z.string().min(1).default('\n').describe('text that ends a step, part of it'),
  maxSteps: z.int().min(1).default(6).describe('most steps of an answer; the last one runs to its end'),
  simulations: z.int().min(1).default(16).describe('expansions of a tree'),
  explorationWeight: z.number().min(0).default(1).describe('c: weight of visits against values'),
  widthScale: z.number().min(0).default(8).describe('children that a difference of 1 in value adds to a node'),
  leastWidth: z.int().min(1).default(2).describe('least children of a node'),
  mostWidth: z.int().min(1).default(10).describe('most children of a node'),
  mergeDistance: z.int().min(0).default(0).describe('steps that differ in so few characters are one'),
  rolloutAnswers: z.int().min(0).default(1).describe('whole answers drawn behind each new node; 0: none'),
  rolloutShare: z.number().min(0).max(1).default(0.5).describe('part of a value that these decide'),
  maskTruncatedCompletions: z.boolean().default(true).describe('leave out answers that were cut off'),
  right: z.number().default(1).describe('least reward of a right answer, for statistics'),
  threshold: z.number().default(0.5).describe('least value of an answer to be trained on'),
})

type Settings = z.output<typeof alphaLlmOptions>

/** What a run of it takes. */
export type AlphaLlmOptions = OnlineOptions & AlphaLlmInput

function methodOf(values: Settings): OnlineMethod {
  const { stepEnd, maxSteps, simulations, explorationWeight, mergeDistance, rolloutAnswers, right } = values
  const sampling = samplingOf(values)
  const whole: Select = values.maskTruncatedCompletions ? ended : (traces) => [...traces]
  const rollouts = { share: rolloutAnswers === 0 ? 0 : values.rolloutShare, answers: rolloutAnswers }
  const width = importanceWidth({ scale: values.widthScale, least: values.leastWidth, most: values.mostWidth })
  return {
    objective: sft(),
    companion: fitOf(values, { objective: pointwiseReward({ lossType: 'mse' }), toExamples: labelExamples }),
    explore: (score, model) =>
      searchTrees({
        ...{ rule: 'ucb1', weight: explorationWeight, simulations, width },
        ...{ sampling, stepEnd, maxSteps, mergeDistance, rollouts, score },
        prefixValues: headValues(neededCompanion(model)),
        label: outcomeValues,
      }),
    exploreHeldOut: sampleGroup(sampling),
    score: ({ rewards }) => scoreUnsearched(rewards),
    statistics: (traces, kept) => ({
      ...searchStatistics(traces, right),
      ...(kept.length > 0 && { 'search/kept': mean(kept.map(({ scores }) => Number(scores.reward >= right))) }),
    }),
    select: () => (traces) => pick({ by: 'value', threshold: values.threshold })(whole(traces.filter(isOwn))),
    toExamples: completionExamples,
    examplesPerRound: values.promptsPerRound,
  }
}

/** Trains a policy on the best answers of a search whose values are learned beside it; see {@link startOnline}. */
export const alphaLlm = (options: AlphaLlmOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(alphaLlmOptions, sources), methodOf)
