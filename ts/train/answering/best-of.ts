// Best of n: the sample with the highest reward, of equals the first.

import { checkOptions, kinds } from '../../src/base/arguments.js'
import { sampleGroup } from '../loop/explore.js'
import type { Score } from '../loop/score.js'
import { type AnswerMethod, type AnswerSampling, answerKinds, highest } from './method.js'

/** How the best is found. */
export interface BestOfOptions extends AnswerSampling {
  /** Gives `reward`: `scoreRewards`, `verify`. With the checker of the task this is what a perfect judge would find. */
  readonly score: Score
}

/** The best of n samples. */
export function bestOf(options: BestOfOptions): AnswerMethod {
  checkOptions('bestOf', options, { ...answerKinds, score: kinds.call })
  const { score, ...sampling } = options
  return { explore: sampleGroup(sampling), score, select: highest('reward') }
}
