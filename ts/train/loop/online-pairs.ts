// What online methods over pairs share: their settings, and how samples of the policy are set against those of a rival.

import * as z from 'zod'
import type { OnlineMethod } from './online.js'
import { type OnlineValues, onlineShape, samplingOf } from './online-shape.js'
import { comparePairs, rivalStatistics, sampleRivals } from './rivals.js'

/** Settings with the defaults of TRL's OnlineDPOConfig. */
export const pairShape = {
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(5e-7),
  temperature: onlineShape.temperature.default(0.9),
  beta: z.number().positive().default(0.1).describe('strength of the tie to the reference'),
}

/** Settings of methods with a rival. */
export const rivalShape = {
  ...pairShape,
  numGenerations: z.int().min(1).default(1).describe('pairs per prompt: samples of the policy, and of the rival'),
  maxCompletionLength: z.int().min(1).default(64).describe('most new tokens of a sample'),
}

/**
 * Samples of the policy, each with one of its rival, and which is better.
 *
 * @param mixtureCoef the reference's share in the rival; 1: the rival is the reference
 */
export const againstRival = (
  values: OnlineValues,
  mixtureCoef: number,
): Pick<OnlineMethod, 'explore' | 'comparesPairs' | 'score' | 'statistics'> => ({
  explore: () => sampleRivals({ ...samplingOf(values), mixtureCoef }),
  comparesPairs: true,
  score: ({ rewards, judge }) => comparePairs(rewards, judge),
  statistics: rivalStatistics,
})
