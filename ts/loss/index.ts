// The registry of objectives: name -> maker. A new objective is a file and a line here.

import type { Objective } from './define.js'
import { sft } from './sft.js'
import { superhf } from './superhf.js'

export type * from './define.js'
export type { SuperHfConfig } from './superhf.js'
export { sft, superhf }

/** Makers of objectives by name; each takes its settings. */
export const objectives: Readonly<Record<string, (config?: never) => Objective>> = { sft, superhf }
