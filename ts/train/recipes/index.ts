// The registry of recipes: published methods as wiring of shared parts. A new recipe is a file and a line here.

import { superhf } from './superhf.js'

/** Recipes by name. */
export const recipes = { superhf } as const
