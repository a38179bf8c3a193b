// Settings of methods with a companion, and what they make of it.

import * as z from 'zod'
import type { CompanionFit } from './companion.js'

/** How the companion is fitted between rounds. */
export const companionShape = {
  companionEpochs: z.int().min(1).default(2).describe('passes of the companion over the samples of all rounds so far'),
  companionBatchSize: z.int().min(1).default(8).describe('examples per optimizer step of the companion'),
  companionLearningRate: z.number().positive().default(2e-5).describe('peak rate of the companion; it falls to 0'),
}

type Values = Readonly<Record<'companionEpochs' | 'companionBatchSize' | 'companionLearningRate' | 'seed', number>>

/** A method's companion by its settings. */
export const fitOf = (values: Values, what: Pick<CompanionFit, 'objective' | 'toExamples'>): CompanionFit => ({
  ...what,
  epochs: values.companionEpochs,
  batchSize: values.companionBatchSize,
  learningRate: values.companionLearningRate,
  seed: values.seed,
})
