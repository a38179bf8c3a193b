// XPO (Xie et al. 2024, arXiv 2405.21046; TRL's XPOTrainer): online DPO on pairs of one sample of the policy and one of the
// reference, with a bonus for exploring: the log-prob of the reference's answer is lowered (ts/loss/xpo.ts). Rewards, or a
// judge of pairs, say which answer is chosen. Log-probs are at temperature 1, as in TRL.
// Differs from TRL: pairs that tie have the bonus alone, where TRL calls the policy's answer better; alpha and beta are
// numbers, not lists by epoch; several rewards may be summed; a sample that is cut off pays missingEosPenalty whatever
// its prompt holds, and one that a stop string ended does not; sequences are never cut.

import * as z from 'zod'
import { xpo } from '../../loss/index.js'
import type { OnlineXpoInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { rivalExamples } from '../loop/examples.js'
import { type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { againstRival, rivalShape } from '../loop/online-pairs.js'
import type { PhaseResult } from '../loop.js'

/** Settings of XPO. */
export const onlineXpoOptions = z.strictObject({
  ...rivalShape,
  alpha: z.number().min(0).default(1e-5).describe('weight of the exploration bonus'),
  lossType: z.enum(['sigmoid', 'ipo']).default('sigmoid').describe('link of the margin'),
})

/** What a run of XPO takes. */
export type OnlineXpoOptions = OnlineOptions & OnlineXpoInput

/** Trains a policy on its own samples against the reference's, and to explore; see {@link startOnline}. */
export const onlineXpo = (options: OnlineXpoOptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(onlineXpoOptions, sources),
    (values) => ({
      ...againstRival(values, 1),
      objective: xpo({ beta: values.beta, alpha: values.alpha, lossType: values.lossType }),
      toExamples: rivalExamples,
    }),
  )
