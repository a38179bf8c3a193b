// Explore: tree search over steps of an answer. A step ends with `stepEnd`; the last one that is allowed runs to the end of the
// answer. A node is worth what the rewards say of one answer that the policy makes of it, so that the outcome speaks for
// steps. Random keys are (seed, round, task, place in the tree): neither batching nor interruption changes anything.

import type { Completion, LanguageModel } from '../../src/generate/language-model.js'
import type { Task } from '../tasks/index.js'
import { type Explore, type ExploreContext, promptIds, type SampleGroupOptions } from './explore.js'
import type { Score } from './score.js'
import { type Segment, type Trace, withScores } from './trace.js'
import {
  type Continuation,
  meanValue,
  type SearchOptions,
  siblingPairs,
  type TreeNode,
  treeSearch,
  type World,
} from './tree.js'

/** How steps are searched. */
export interface StepSearchOptions extends SearchOptions {
  /** Of steps and of the answers that nodes are judged by; `numGenerations` is the number of steps tried at a node. */
  readonly sampling: SampleGroupOptions
  /** Text that ends a step, part of it. */
  readonly stepEnd: string
  /** Most steps of an answer. */
  readonly maxSteps: number
  readonly score: Score
}

/** An answer as far as it is written. */
interface Written {
  readonly task: Task
  readonly prompt: Segment
  readonly steps: readonly Segment[]
  readonly finishReason: 'stop' | 'length'
  /** Which child of which child of the root. */
  readonly place: string
}

type Node = TreeNode<Written>

const lengthOf = (steps: readonly Segment[]): number => steps.reduce((length, { ids }) => length + ids.length, 0)

const joined = (steps: readonly Segment[]): Segment => ({
  role: 'completion',
  text: steps.map(({ text }) => text).join(''),
  ids: steps.flatMap(({ ids }) => ids),
  logps: steps.flatMap(({ logps = [] }) => logps),
})

const traceOf = ({ task, prompt, steps, finishReason }: Written, sample: number): Trace => ({
  task,
  sample,
  segments: [prompt, joined(steps)],
  finishReason,
  scores: {},
})

/** A step behind all that comes before it, which is context. */
function stepTrace({ state: { task, prompt, steps, finishReason }, ...node }: Node, sample: number): Trace {
  const before = steps.slice(0, -1)
  const context: Segment[] = before.length === 0 ? [] : [{ ...joined(before), role: 'injected' }]
  const scores = { value: meanValue(node as Node), visits: node.visits, onPolicy: 0 }
  return { task, sample, segments: [prompt, ...context, steps[steps.length - 1]], finishReason, scores }
}

/** exp(sum log pi / length^1.25), MCTS-DPO's prior of a step. */
const priorOf = ({ logps }: Completion): number =>
  Math.exp(logps.reduce((sum, logp) => sum + logp, 0) / logps.length ** 1.25)

/** A sample, cut at the room that there is for it. */
function withinRoom(one: Completion, room: number, { tokenizer }: LanguageModel): Completion {
  if (one.ids.length <= room) return one
  const ids = one.ids.slice(0, room)
  return { ...one, ids, logps: one.logps.slice(0, room), text: tokenizer.decode(ids), finishReason: 'length' }
}

/** How continuations of answers are drawn: what for, how many of each, and what ends them besides end tokens. */
type Draw = (nodes: readonly Node[], what: string, count: number, stops: readonly string[]) => Promise<Completion[][]>

/** Draws continuations; those of one call share the largest room, and none is longer than its own. */
function drawerOf({ policy, seed, round, signal }: ExploreContext, { sampling }: StepSearchOptions): Draw {
  const { maxNewTokens, numGenerations: _, logps: __, mixtureCoef: ___, stopStrings: ____, ...drawn } = sampling
  const roomOf = ({ steps }: Written) => maxNewTokens - lengthOf(steps)
  return async (nodes, what, numGenerations, stops) => {
    if (nodes.length === 0) return []
    const states = nodes.map(({ state }) => state)
    const prompts = states.map(({ prompt, steps }) => [...prompt.ids, ...joined(steps).ids])
    const groups = await policy.generate(prompts, {
      ...drawn,
      numGenerations,
      maxNewTokens: Math.max(...states.map(roomOf)),
      ...(stops.length > 0 && { stopStrings: stops }),
      seed,
      promptKeys: states.map(({ task, place }) => `round ${round} task ${task.id} ${what} ${place}`),
      signal,
    })
    return groups.map((group, i) => group.map((one) => withinRoom(one, roomOf(states[i]), policy)))
  }
}

/** A continuation as what follows a node: the end of the answer unless the end of a step is what stopped it. */
function follow(
  { state, depth }: Node,
  { one, index }: { readonly one: Completion; readonly index: number },
  { decoder, tokenizer }: LanguageModel,
  { stepEnd, maxSteps, sampling }: StepSearchOptions,
): Continuation<Written> {
  const ends = new Set(sampling.stopIds ?? decoder.config.eosTokenIds)
  const whole = tokenizer.decode(one.ids)
  const stopped = one.finishReason === 'stop' && !ends.has(one.ids[one.ids.length - 1])
  const stepped = depth < maxSteps - 1 && stopped && whole.includes(stepEnd)
  const step: Segment = { role: 'completion', text: stepped ? whole : one.text, ids: one.ids, logps: one.logps }
  const steps = [...state.steps, step]
  const full = stepped && lengthOf(steps) >= sampling.maxNewTokens
  return {
    state: { ...state, steps, finishReason: full ? 'length' : one.finishReason, place: `${state.place}.${index}` },
    prior: priorOf(one),
    terminal: !stepped || full,
  }
}

function unlike(found: readonly Continuation<Written>[]): Continuation<Written>[] {
  const textOf = ({ state: { steps, finishReason } }: Continuation<Written>) =>
    `${finishReason} ${steps[steps.length - 1].text}`
  return found.filter((one, i) => found.findIndex((other) => textOf(other) === textOf(one)) === i)
}

/** The world of answers to tasks. */
function worldOf(context: ExploreContext, options: StepSearchOptions): World<Written> {
  const { stepEnd, maxSteps, score, sampling } = options
  const { numGenerations, stopStrings = [] } = sampling
  const draw = drawerOf(context, options)
  const expand = async (leaves: readonly Node[]) => {
    const found = new Map<Node, Continuation<Written>[]>()
    for (const last of [false, true]) {
      const part = leaves.filter(({ depth }) => depth >= maxSteps - 1 === last)
      const groups = await draw(part, 'steps behind', numGenerations, last ? stopStrings : [stepEnd, ...stopStrings])
      for (const [i, leaf] of part.entries())
        found.set(leaf, unlike(groups[i].map((one, index) => follow(leaf, { one, index }, context.policy, options))))
    }
    return leaves.map((leaf) => found.get(leaf) ?? [])
  }
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
  return { expand, evaluate }
}

/**
 * Searches an answer to each task. Its traces: the answer that the search came to, scored, with the mean value of all that
 * was tried as its score `searched`; and behind it, marked as not the policy's own, pairs of siblings along its way, the
 * better and the worse step, each behind its context, with the scores `value` and `visits`.
 */
export function searchSteps(options: StepSearchOptions): Explore {
  return async (context, tasks) => {
    const states = tasks.map((task): Written => {
      const prompt: Segment = { role: 'prompt', text: task.prompt, ids: promptIds(context.policy, task) }
      return { task, prompt, steps: [], finishReason: 'stop', place: '0' }
    })
    const paths = await treeSearch(states, worldOf(context, options), options)
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
