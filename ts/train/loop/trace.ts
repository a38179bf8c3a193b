// What the self-training loop passes on: a task's attempt as segments of text and tokens, with log-probs under the
// policy that wrote it, and named scores. Primitives read and extend traces; none changes one in place.

import type { Task } from '../tasks/index.js'

/** A stretch of a trace from one speaker. */
export interface Segment {
  readonly role: 'prompt' | 'completion'
  readonly text: string
  readonly ids: readonly number[]
  /** log p of each token under the policy that sampled it (completions only). */
  readonly logps?: readonly number[]
}

/** One attempt at a task. */
export interface Trace {
  readonly task: Task
  /** Which of the task's samples it is. */
  readonly sample: number
  readonly segments: readonly Segment[]
  readonly finishReason: 'stop' | 'length'
  readonly scores: Readonly<Record<string, number>>
}

/** The text that the policy wrote. */
export const completionOf = (trace: Trace): string =>
  trace.segments
    .filter((segment) => segment.role === 'completion')
    .map((segment) => segment.text)
    .join('')

/** Traces by task, in order of first appearance. */
export function byTask(traces: readonly Trace[]): Trace[][] {
  const groups = new Map<string, Trace[]>()
  for (const trace of traces) {
    const group = groups.get(trace.task.id)
    if (group === undefined) groups.set(trace.task.id, [trace])
    else group.push(trace)
  }
  return [...groups.values()]
}
