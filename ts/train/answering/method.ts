// What a method of answering is: the parts of a round that trains nothing. Settings that methods share.

import { kinds, optional } from '../../src/base/arguments.js'
import { type Explore, type SampleGroupOptions, samplingKinds } from '../loop/explore.js'
import type { RoundStatistics } from '../loop/metrics.js'
import type { Score } from '../loop/score.js'
import { pick, type Select } from '../loop/select.js'

/** How a prompt is answered. */
export interface AnswerMethod {
  readonly explore: Explore
  /** Adds what `select` looks at. */
  readonly score?: Score
  /** Of each task the trace whose last turn is the answer. */
  readonly select: Select
  /** Further numbers, from all traces and those that answer. */
  readonly statistics?: RoundStatistics
}

/** How samples are drawn. */
export type AnswerSampling = Omit<SampleGroupOptions, 'logps' | 'mixtureCoef'>

const { logps: _, ...drawnKinds } = samplingKinds

/** Kinds of {@link AnswerSampling}. */
export const answerKinds = { ...drawnKinds, numGenerations: kinds.count }

/** Kinds of options that name a regular expression for answers. */
export const patternKinds = { answerPattern: optional(kinds.filled) }

/** Of each task the trace with the highest score, of equals the first sample. */
export const highest = (by: string): Select => pick({ by, perTask: 1, distinct: false })
