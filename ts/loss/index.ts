// The registry of objectives: name -> maker. A new objective is a file and a line here. Losses of scores, advantages,
// vocabulary terms and masking, which are no objectives, are exported next to it.

import type * as z from 'zod'
import { bco } from './bco.js'
import { copg } from './copg.js'
import { cpo, slic } from './cpo.js'
import type { Objective } from './define.js'
import { distill, gkd } from './distill.js'
import { dpo } from './dpo.js'
import { kto } from './kto.js'
import { logRatio } from './log-ratio.js'
import { nashMd } from './nash-md.js'
import { orpo } from './orpo.js'
import { cispo, dapo, drGrpo, gmpo, grpo, gspo, ppo, reinforce, rloo, sapo, score, vespo } from './policy-gradient.js'
import { gapReward, listwiseReward, pairReward, pointwiseReward, processReward, reward } from './reward-models.js'
import { sft } from './sft.js'
import { simpo } from './simpo.js'
import { srpo } from './srpo.js'
import { superhf } from './superhf.js'
import { xpo } from './xpo.js'

export {
  type AttemptCredit,
  advantages,
  attemptCredit,
  gae,
  improvementReward,
  overlongPenalty,
  withKlPenalty,
} from './advantages.js'
export type { BcoConfig } from './bco.js'
export type { CopgConfig } from './copg.js'
export type { CpoConfig, SlicConfig } from './cpo.js'
export type * from './define.js'
export type { DistillConfig } from './distill.js'
export type { DpoConfig } from './dpo.js'
export type { KtoConfig } from './kto.js'
export type { LogRatioConfig } from './log-ratio.js'
export { type AlignedTerms, maskSequence, type SequenceLabels } from './logprobs.js'
export type { NashMdConfig } from './nash-md.js'
export type { ObjectiveMaker } from './objective.js'
export type { OrpoConfig } from './orpo.js'
export type { PolicyGradientConfig } from './policy-gradient.js'
export type { PointwiseRewardConfig, RewardConfig } from './reward-models.js'
export {
  bradleyTerry,
  clippedValueLoss,
  type GapNames,
  gap,
  kWise,
  listwise,
  pointwise,
  type ScoreEvaluation,
  stepwise,
} from './rewards.js'
export type { SftConfig } from './sft.js'
export type { SimpoConfig } from './simpo.js'
export type { SrpoConfig } from './srpo.js'
export type { SuperHfConfig } from './superhf.js'
export { type CountedSequence, countStep } from './view.js'
export { distributionTerms, labelTerms, type VocabularyRow, type VocabularyTerm } from './vocabulary.js'
export type { XpoConfig } from './xpo.js'
export {
  bco,
  cispo,
  copg,
  cpo,
  dapo,
  distill,
  dpo,
  drGrpo,
  gapReward,
  gkd,
  gmpo,
  grpo,
  gspo,
  kto,
  listwiseReward,
  logRatio,
  nashMd,
  orpo,
  pairReward,
  pointwiseReward,
  ppo,
  processReward,
  reinforce,
  reward,
  rloo,
  sapo,
  score,
  sft,
  simpo,
  slic,
  srpo,
  superhf,
  vespo,
  xpo,
}

/** A maker whose settings are not known to the compiler. */
export type AnyMaker = ((config?: never) => Objective) & { readonly settings: z.ZodObject }

const makers = {
  sft,
  superhf,
  distill,
  gkd,
  dpo,
  simpo,
  cpo,
  slic,
  orpo,
  logRatio,
  srpo,
  kto,
  bco,
  xpo,
  copg,
  nashMd,
  reinforce,
  rloo,
  ppo,
  grpo,
  dapo,
  drGrpo,
  gspo,
  cispo,
  sapo,
  gmpo,
  vespo,
  score,
  reward,
  pointwiseReward,
  listwiseReward,
  pairReward,
  gapReward,
  processReward,
}

/** Makers of objectives by name; each takes its settings, and shows their schema as `settings`. */
export const objectives: typeof makers & Readonly<Record<string, AnyMaker>> = makers
