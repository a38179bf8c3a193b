// Majority of n samples (self-consistency, Wang et al. 2022, arXiv 2203.11171): the final answer that most samples agree on, of equals
// the one that came first. Where no sample has an answer the first sample stands.

import { checkOptions } from '../../src/base/arguments.js'
import { answerReader, consistencyStatistics, voteShare } from '../loop/answers.js'
import { sampleGroup } from '../loop/explore.js'
import { type AnswerMethod, type AnswerSampling, answerKinds, highest, patternKinds } from './method.js'

/** How votes are taken. */
export interface VoteOptions extends AnswerSampling {
  /** Regular expression for the final answer; default the whole text. As in recipes. */
  readonly answerPattern?: string
}

/** Majority vote. */
export function vote(options: VoteOptions): AnswerMethod {
  checkOptions('vote', options, { ...answerKinds, ...patternKinds })
  const { answerPattern, ...sampling } = options
  const answerOf = answerReader(answerPattern)
  return {
    explore: sampleGroup(sampling),
    score: voteShare(answerOf),
    select: highest('votes'),
    statistics: (traces) => consistencyStatistics(traces, answerOf),
  }
}
