// PIT, implicit self-improvement from preferences (Wang et al. 2023, arXiv 2310.00898): the policy, an improver, sees an answer and
// writes a better one; it is paid for the gap between both, not for quality alone.
//   maximise E[ gap(y, shown) ] - beta KL(policy || reference), y ~ policy(. | prompt, shown)
// Stage A shows answers of the data (columns `shownColumns`, the worse and the better of a pair); stage B those of `writer`, a
// policy that reinforcement learning has trained, and begins at the policy that stage A leaves: two runs of this recipe. Before
// them come `train sft` of the improver on better answers behind shown worse ones, and the gap's model by `gapReward`.
// Policy gradients with the mean of the group for a baseline and the k3 estimate of the KL. `gapRewardModel` makes the reward of
// that model; any other function may read the column `shown`. `revise` applies the improver to its own answers.
// The equations are recalled from the paper, not read again; the authors' code is not published.

import * as z from 'zod'
import { advantages, grpo } from '../../loss/index.js'
import { checkMembers, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import type { PitInput } from '../config/recipes.gen.js'
import { defaultRevision } from '../data/srpo.js'
import type { Run } from '../events.js'
import { credit } from '../loop/credit.js'
import { policyExamples } from '../loop/examples.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { isUntruncated, onlineShape, samplingOf } from '../loop/online-shape.js'
import { exploreShown, givenAnswers, writtenAnswers } from '../loop/shown.js'
import type { PhaseResult } from '../loop.js'

/** Settings of PIT. */
export const pitOptions = z.strictObject({
  ...onlineShape,
  beta: z.number().min(0).default(0.05).describe('weight of the KL estimate; 0: no reference is needed'),
  shownColumns: z
    .array(z.string().min(1))
    .min(1)
    .default(['rejected', 'chosen'])
    .describe('without a writer: columns that answers to show are drawn from'),
  revisionText: z.string().default(defaultRevision.text).describe('how text shows an answer: {prompt}, {answer}'),
  revisionRequest: z.string().default(defaultRevision.request).describe('what the user says behind an answer'),
})

type Settings = z.output<typeof pitOptions>

/** What a run of PIT takes. */
export type PitOptions = OnlineOptions &
  PitInput & {
    /** Writes the answers that are shown; default they come from the data. */
    readonly writer?: LanguageModel
  }

function methodOf(values: Settings, writer: LanguageModel | undefined): OnlineMethod {
  const { beta, shownColumns, revisionText, revisionRequest } = values
  const tempered = isUntruncated(values)
  const sampling = samplingOf(values)
  const show = writer === undefined ? givenAnswers(shownColumns) : writtenAnswers(writer, sampling)
  const template = { text: revisionText, request: revisionRequest }
  return {
    objective: grpo({ beta }),
    explore: () => exploreShown(show, { ...sampling, logps: tempered ? 'sampling' : 'model' }, template),
    temperature: tempered ? values.temperature : 1,
    models: writer && [writer.decoder],
    select: () => credit(advantages.rloo),
    toExamples: policyExamples,
  }
}

/** Trains a policy to write better answers than those it is shown; see {@link startOnline}. */
export function pit(options: PitOptions): Run<PhaseResult> {
  checkMembers('recipe', options, { writer: optional(modelKind) })
  const { writer, ...others } = options
  const { rewardFuncs } = others
  const folder = Array.isArray(rewardFuncs) ? rewardFuncs.find((one) => typeof one === 'string') : undefined
  if (folder !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'rewardFuncs',
      `expected functions, got '${folder}': gapRewardModel() makes one of a model`,
    )
  return startOnline(
    others,
    (sources) => settingsFrom(pitOptions, sources),
    (values) => methodOf(values, writer),
  )
}
