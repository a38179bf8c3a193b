// Explore: tree search over steps of an answer. A step ends with `stepEnd`; the last one that is allowed runs to the end of the
// answer. A node is worth what the rewards say of one answer that the policy makes of it, so that the outcome speaks for
// steps. Random keys are (seed, round, task, place in the tree): neither batching nor interruption changes anything.

import type { Explore, ExploreContext } from './explore.js'
import type { Score } from './score.js'
import {
  begun,
  drawerOf,
  expanderOf,
  joined,
  type Node,
  type StepOptions,
  traceOf,
  type Written,
} from './step-world.js'
import { type Segment, type Trace, withScores } from './trace.js'
import { meanValue, type SearchOptions, siblingPairs, treeSearch, type World } from './tree.js'

/** How steps are searched. */
export interface StepSearchOptions extends SearchOptions, StepOptions {
  readonly score: Score
}

/** A step behind all that comes before it, which is context. */
function stepTrace({ state: { task, prompt, steps, finishReason }, ...node }: Node, sample: number): Trace {
  const before = steps.slice(0, -1)
  const context: Segment[] = before.length === 0 ? [] : [{ ...joined(before), role: 'injected' }]
  const scores = { value: meanValue(node as Node), visits: node.visits, onPolicy: 0 }
  return { task, sample, segments: [prompt, ...context, steps[steps.length - 1]], finishReason, scores }
}

/** The world of answers to tasks. */
function worldOf(context: ExploreContext, options: StepSearchOptions): World<Written> {
  const { score, sampling } = options
  const { stopStrings = [] } = sampling
  const draw = drawerOf(context, options)
  const evaluate = async (nodes: readonly Node[]) => {
    const open = nodes.filter(({ terminal }) => !terminal)
    const rest = await draw(open, 'an answer behind', 1, stopStrings)
    const answers = new Map(
      open.map(({ state }, i) => {
        const [{ ids, logps, text, finishReason }] = rest[i]
        const step: Segment = { role: 'completion', text, ids, logps }
        return [state, { ...state, steps: [...state.steps, step], finishReason }] as const
      }),
    )
    const scored = await score(nodes.map(({ state }, i) => traceOf(answers.get(state) ?? state, i)))
    return scored.map(({ scores }) => scores.reward)
  }
  return { expand: expanderOf(context, options, draw), evaluate }
}

/**
 * Searches an answer to each task. Its traces: the answer that the search came to, scored, with the mean value of all that
 * was tried as its score `searched`; and behind it, marked as not the policy's own, pairs of siblings along its way, the
 * better and the worse step, each behind its context, with the scores `value` and `visits`.
 */
export function searchSteps(options: StepSearchOptions): Explore {
  return async (context, tasks) => {
    const paths = await treeSearch(begun(context.policy, tasks), worldOf(context, options), options)
    const answers = await options.score(paths.map((path) => traceOf(path[path.length - 1].state, 0)))
    return paths.flatMap((path, i) => [
      withScores(answers[i], { onPolicy: 1, searched: meanValue(path[0]) }),
      ...siblingPairs(path).flatMap(({ better, worse }, k) => [
        stepTrace(better, 2 * k + 1),
        stepTrace(worse, 2 * k + 2),
      ]),
    ])
  }
}
