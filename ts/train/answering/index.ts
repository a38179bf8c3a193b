// The registry of methods that answer and train nothing. A new one is a file and a line here.

import { bestOf } from './best-of.js'
import { hypothesis } from './hypothesis.js'
import { idSampling } from './id-sampling.js'
import { magicore } from './magicore.js'
import { tick } from './tick.js'
import { vote } from './vote.js'

export { type Answer, type AnswerOptions, type Answers, answer } from './answer.js'
export type { BestOfOptions } from './best-of.js'
export type { HypothesisOptions } from './hypothesis.js'
export type { IdSamplingOptions } from './id-sampling.js'
export type { MagicoreOptions } from './magicore.js'
export type { AnswerMethod, AnswerSampling } from './method.js'
export type { ChecklistItem, TickOptions } from './tick.js'
export type { VoteOptions } from './vote.js'

/** Methods of answering by name: each takes its settings and gives the `method` of `answer`. */
export const answering = { vote, bestOf, idSampling, magicore, tick, hypothesis } as const
