// Feedback on an attempt in words, for methods that put it into the next turn.

import type { Trace } from './trace.js'

/** What is to be changed about an attempt; undefined: nothing. A pure function of the trace. */
export type FeedbackFunction = (trace: Trace) => string | undefined

/** The column `feedback` of the prompt's row. */
export const columnFeedback: FeedbackFunction = ({ task: { row } }) =>
  typeof row?.feedback === 'string' && row.feedback !== '' ? row.feedback : undefined
