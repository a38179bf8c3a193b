// The registry of recipes: published methods as wiring of shared parts. A new recipe is a file and a line here.

import { bestOfN, bestOfNOptions } from './best-of-n.js'
import { grpo, grpoOptions } from './grpo.js'
import { onlineDpo, onlineDpoOptions } from './online-dpo.js'
import { score, scoreOptions } from './score.js'
import { superhf } from './superhf.js'

export type { BestOfNOptions } from './best-of-n.js'
export type { GrpoOptions } from './grpo.js'
export type { OnlineDpoOptions } from './online-dpo.js'
export type { ScoreOptions } from './score.js'

/** Recipes by name. */
export const recipes = { superhf, grpo, onlineDpo, bestOfN, score } as const

/** Settings of the recipes that train a policy on the rewards of its own samples; `recipes[name]` takes them. */
export const onlineOptions = {
  grpo: grpoOptions,
  onlineDpo: onlineDpoOptions,
  bestOfN: bestOfNOptions,
  score: scoreOptions,
} as const

/** A recipe that trains a policy on the rewards of its own samples. */
export type OnlineRecipe = keyof typeof onlineOptions
