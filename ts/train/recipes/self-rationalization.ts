// Self-Rationalization (Trivedi et al. 2024, arXiv 2410.05495): a judge improves itself. Of each thing to grade the policy writes several
// judgements, a rationale and a grade; where they disagree, a better one is chosen and a worse one rejected, and DPO trains on the whole
// text, so that the rationales that lead to good grades are learned. `pairBy`:
//   label: the grade equals the label of the row, against the one farthest from it, at least `margin` away (the paper's best rule)
//   majority: the most frequent grade stands for the label
// A judgement whose grade cannot be read is farther away than any. What we know of the paper's settings is from reviews (10
// judgements at temperature 1, two rounds, a margin of about 2). Ours differs: rounds follow each other on the policy as it is;
// its third rule, a judge of rationales, is `onlineDpo` with a reward; its judges of single answers and of pairs, joined by merging
// weights, are one policy that grades what the prompts ask for. Prompts without a pair have none of the gradient.

import * as z from 'zod'
import { dpo } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { SelfRationalizationInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { answerReader } from '../loop/answers.js'
import { pairExamples } from '../loop/examples.js'
import { graded, judgementStatistics, majorityGrade } from '../loop/grades.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { onlineShape } from '../loop/online-shape.js'
import { byTask, type Trace, withScores } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'

/** Settings of Self-Rationalization. */
export const selfRationalizationOptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-7),
  numGenerations: onlineShape.numGenerations.default(10),
  gradePattern: z
    .string()
    .min(1)
    .default('(-?\\d+(?:\\.\\d+)?)\\s*$')
    .describe('regular expression of the grade: the last match, or its first group, a number'),
  labelColumn: z.string().min(1).default('label').describe('column with the right grade'),
  pairBy: z.enum(['label', 'majority']).default('label').describe('which judgements are right'),
  margin: z.number().positive().default(2).describe('least distance of a rejected grade'),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
})

type Settings = z.output<typeof selfRationalizationOptions>

/** What a run of it takes. */
export type SelfRationalizationOptions = OnlineOptions & SelfRationalizationInput

/** What counts as the right grade of a task; undefined where nothing does. */
const targetOf = (group: readonly Trace[], pairBy: Settings['pairBy']): number | undefined =>
  pairBy === 'label' ? group[0].scores.label : majorityGrade(group)

const distanceTo = (target: number, { scores: { grade } }: Trace): number =>
  grade === undefined ? Number.POSITIVE_INFINITY : Math.abs(grade - target)

/** Two judgements of each task with the score `pairing`, 1 and 0; of tasks without a pair two with 0. */
export const judgementPairs =
  ({ pairBy, margin }: Pick<Settings, 'pairBy' | 'margin'>) =>
  (traces: readonly Trace[]): Trace[] =>
    byTask(traces).flatMap((group) => {
      const target = targetOf(group, pairBy)
      if (target === undefined && pairBy === 'label')
        throw new WhetstoneError('E_CONFIG', group[0].task.id, 'expected a number in the column of labels, got none')
      const ranked = group.toSorted(
        (a, b) => distanceTo(target ?? 0, a) - distanceTo(target ?? 0, b) || a.sample - b.sample,
      )
      const [best, worst] = [ranked[0], ranked[ranked.length - 1]]
      const isPair = target !== undefined && distanceTo(target, best) === 0 && distanceTo(target, worst) >= margin
      return [withScores(best, { pairing: Number(isPair) }), withScores(worst, { pairing: 0 })]
    })

const methodOf = (values: Settings): OnlineMethod => ({
  objective: dpo({ beta: values.beta }),
  unrewarded: true,
  score:
    ({ rewards }) =>
    async (traces) =>
      graded(answerReader(values.gradePattern), values.labelColumn)(await rewards(traces)),
  statistics: judgementStatistics,
  toExamples: (traces, round) => pairExamples('pairing')(judgementPairs(values)(traces), round),
  examplesPerRound: values.promptsPerRound,
})

/** Trains a judge on its own better and worse judgements; see {@link startOnline}. */
export const selfRationalization = (options: SelfRationalizationOptions): Run<PhaseResult> =>
  startOnline(options, (sources) => settingsFrom(selfRationalizationOptions, sources), methodOf)
