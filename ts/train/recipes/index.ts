// The registry of recipes: published methods as wiring of shared parts. A new recipe is a file and a line here.

import { bestOfN, bestOfNOptions } from './best-of-n.js'
import { grpo, grpoOptions } from './grpo.js'
import { onlineDpo, onlineDpoOptions } from './online-dpo.js'
import { onlineGkd, onlineGkdOptions } from './online-gkd.js'
import { onlineNashMd, onlineNashMdOptions } from './online-nash-md.js'
import { onlineXpo, onlineXpoOptions } from './online-xpo.js'
import { score, scoreOptions } from './score.js'
import { superhf } from './superhf.js'

export type { BestOfNOptions } from './best-of-n.js'
export type { GrpoOptions } from './grpo.js'
export type { OnlineDpoOptions } from './online-dpo.js'
export type { OnlineGkdOptions } from './online-gkd.js'
export type { OnlineNashMdOptions } from './online-nash-md.js'
export type { OnlineXpoOptions } from './online-xpo.js'
export type { ScoreOptions } from './score.js'

/** Recipes by name. */
export const recipes = { superhf, grpo, onlineDpo, onlineXpo, onlineNashMd, onlineGkd, bestOfN, score } as const

/** Settings of the recipes that train a policy on the rewards of its own samples; `recipes[name]` takes them. */
export const onlineOptions = {
  grpo: grpoOptions,
  onlineDpo: onlineDpoOptions,
  onlineXpo: onlineXpoOptions,
  onlineNashMd: onlineNashMdOptions,
  onlineGkd: onlineGkdOptions,
  bestOfN: bestOfNOptions,
  score: scoreOptions,
} as const

/** A recipe that trains a policy on the rewards of its own samples. */
export type OnlineRecipe = keyof typeof onlineOptions
