// What the self-training loop passes on: a task's attempt as segments of text and tokens, with log-probs under the
// policy that wrote it, and named scores. Primitives read and extend traces; none changes one in place.

import { checkArgument, having, type Kind, kinds, listOf } from '../../src/base/arguments.js'
import type { Task } from '../tasks/index.js'

/** A stretch of a trace from one speaker. */
export interface Segment {
  /** `injected`: put there by the loop between two turns of the policy, such as a request to revise. */
  readonly role: 'prompt' | 'completion' | 'injected'
  readonly text: string
  readonly ids: readonly number[]
  /** log p of each token under the policy that sampled it, at temperature 1 (completions only). */
  readonly logps?: readonly number[]
  /** The same under the reference, where it was asked for. */
  readonly reference?: readonly number[]
  /** How this turn ended, in traces of several turns. */
  readonly finishReason?: 'stop' | 'length'
}

/** One attempt at a task. */
export interface Trace {
  readonly task: Task
  /** Which of the task's samples it is. */
  readonly sample: number
  readonly segments: readonly Segment[]
  /** How the last turn ended. */
  readonly finishReason: 'stop' | 'length'
  readonly scores: Readonly<Record<string, number>>
}

const isTrace = having('a trace', 'task', 'segments', 'scores')

/** A trace among arguments. */
const traceKind: Kind = {
  ...isTrace,
  fits: (value) => isTrace.fits(value) && kinds.list.fits((value as Trace).segments),
}

/** Traces among arguments. */
export const tracesKind = listOf(traceKind)

/** What the policy wrote, turn by turn. */
export const turnsOf = (trace: Trace): Segment[] => trace.segments.filter(({ role }) => role === 'completion')

/** The text that the policy wrote; of several turns all of them. */
export function completionOf(trace: Trace): string {
  checkArgument('completionOf.trace', trace, traceKind)
  return turnsOf(trace)
    .map((segment) => segment.text)
    .join('')
}

/** Tokens that the policy wrote. */
export const completionLength = (trace: Trace): number =>
  turnsOf(trace).reduce((length, { ids }) => length + ids.length, 0)

/** The trace with further scores. */
export const withScores = (trace: Trace, scores: Readonly<Record<string, number>>): Trace => ({
  ...trace,
  scores: { ...trace.scores, ...scores },
})

/** Traces by task, in order of first appearance. */
export function byTask(traces: readonly Trace[]): Trace[][] {
  checkArgument('byTask.traces', traces, tracesKind)
  const groups = new Map<string, Trace[]>()
  for (const trace of traces) {
    const group = groups.get(trace.task.id)
    if (group === undefined) groups.set(trace.task.id, [trace])
    else group.push(trace)
  }
  return [...groups.values()]
}

/** The rewards of the policy's turns, one by one (see `scoreTurns`); undefined for a turn that was not judged. */
export const turnRewards = (trace: Trace): number[] =>
  turnsOf(trace).map((_, turn) => trace.scores[`reward/${turn + 1}`])

/**
 * Traces by what they have branched from, in order of first appearance.
 *
 * @param branches how many traces `chain` makes of each, as a product over the turns behind it
 */
export const byStem = (traces: readonly Trace[], branches: number): Trace[][] =>
  byTask(traces).flatMap((group) => {
    const stems = new Map<number, Trace[]>()
    for (const trace of group) {
      const stem = Math.floor(trace.sample / branches)
      const own = stems.get(stem)
      if (own === undefined) stems.set(stem, [trace])
      else own.push(trace)
    }
    return [...stems.values()]
  })
