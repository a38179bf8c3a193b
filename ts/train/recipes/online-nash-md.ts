// Nash-MD (Munos et al. 2023, arXiv 2312.00886; TRL's NashMDTrainer): each sample of the policy plays against one of the
// geometric mixture of policy and reference; a policy gradient on the probability that it wins, with a penalty on the KL to the
// reference (ts/loss/nash-md.ts). The mixture is sampled exactly: both models read the sequence in lock-step, and each token
// is drawn from the softmax of (1 - mixtureCoef) z + mixtureCoef z_ref, then tempered and truncated, as in TRL.
// The probability is the logistic function of the difference of rewards (TRL), or what `judge` says (the paper's model of
// preferences). Differs from TRL: mixtureCoef and beta are numbers, not lists by epoch; several rewards may be summed; a
// sample that is cut off pays missingEosPenalty whatever its prompt holds, and one that a stop string ended does not;
// sequences are never cut. Gradient steps behind the first of a round are on samples of its start, without a ratio.

import * as z from 'zod'
import { nashMd } from '../../loss/index.js'
import type { OnlineNashMdInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { preferenceExamples } from '../loop/examples.js'
import { type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { againstRival, rivalShape } from '../loop/online-pairs.js'
import { isOwn } from '../loop/rivals.js'
import type { PhaseResult } from '../loop.js'

/** Settings of Nash-MD. */
export const onlineNashMdOptions = z.strictObject({
  ...rivalShape,
  repetitionPenalty: z
    .number()
    .min(1)
    .max(1)
    .default(1)
    .describe('1: tokens of the mixture are drawn without a penalty'),
  beta: rivalShape.beta.describe('weight of the KL to the reference'),
  mixtureCoef: z.number().min(0).max(1).default(0.5).describe('share of the reference in the mixture’s logits'),
})

/** What a run of Nash-MD takes. */
export type OnlineNashMdOptions = OnlineOptions & OnlineNashMdInput

/** Trains a policy to win against its mixture with the reference; see {@link startOnline}. */
export const onlineNashMd = (options: OnlineNashMdOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(onlineNashMdOptions, sources),
    (values) => ({
      ...againstRival(values, values.mixtureCoef),
      objective: nashMd({ beta: values.beta }),
      select: () => (traces) => traces.filter(isOwn),
      toExamples: preferenceExamples,
    }),
  )
