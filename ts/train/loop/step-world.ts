// Answers as paths in a tree of steps: what is drawn behind an answer as far as it is written. A step ends with `stepEnd`; the last
// one that is allowed runs to the end of the answer. Random keys are (seed, round, task, place in the tree): neither batching nor
// interruption changes anything.

import type { Completion, LanguageModel } from '../../src/generate/language-model.js'
import { editDistance } from '../tasks/distance.js'
import type { Task } from '../tasks/index.js'
import { type ExploreContext, promptIds, type SampleGroupOptions } from './explore.js'
import type { Segment, Trace } from './trace.js'
import type { Continuation, TreeNode, World } from './tree.js'

/** What steps are and how they are drawn. */
export interface StepOptions {
  /** Of steps and of whole answers; `numGenerations` is the number of steps tried at a node. */
  readonly sampling: SampleGroupOptions
  /** Text that ends a step, part of it. */
  readonly stepEnd: string
  /** Most steps of an answer. */
  readonly maxSteps: number
  /** Steps behind a node that differ in so few characters are one, the first of them; default 0, equal ones alone. */
  readonly mergeDistance?: number
}

/** An answer as far as it is written. */
export interface Written {
  readonly task: Task
  readonly prompt: Segment
  readonly steps: readonly Segment[]
  readonly finishReason: 'stop' | 'length'
  /** Which child of which child of the root. */
  readonly place: string
}

/** A node of a search over steps. */
export type Node = TreeNode<Written>

const lengthOf = (steps: readonly Segment[]): number => steps.reduce((length, { ids }) => length + ids.length, 0)

/** Steps as one segment. */
export const joined = (steps: readonly Segment[]): Segment => ({
  role: 'completion',
  text: steps.map(({ text }) => text).join(''),
  ids: steps.flatMap(({ ids }) => ids),
  logps: steps.flatMap(({ logps = [] }) => logps),
})

/** An answer as it is written so far, as a trace. */
export const traceOf = ({ task, prompt, steps, finishReason }: Written, sample: number): Trace => ({
  task,
  sample,
  segments: [prompt, joined(steps)],
  finishReason,
  scores: {},
})

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
export type Draw = (
  nodes: readonly Node[],
  what: string | ((node: Node) => string),
  count: number,
  stops: readonly string[],
) => Promise<Completion[][]>

/** Draws continuations; those of one call share the largest room, and none is longer than its own. */
export function drawerOf(
  { policy, seed, round, signal }: ExploreContext,
  { sampling }: Pick<StepOptions, 'sampling'>,
): Draw {
  const { maxNewTokens, numGenerations: _, logps: __, mixtureCoef: ___, stopStrings: ____, ...drawn } = sampling
  const roomOf = ({ steps }: Written) => maxNewTokens - lengthOf(steps)
  const keyOf = ({ state: { task, place } }: Node, what: string) => `round ${round} task ${task.id} ${what} ${place}`
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
      promptKeys: nodes.map((node) => keyOf(node, typeof what === 'string' ? what : what(node))),
      signal,
    })
    return groups.map((group, i) => group.map((one) => withinRoom(one, roomOf(states[i]), policy)))
  }
}

/** A continuation as what follows a node: the end of the answer unless the end of a step is what stopped it. */
export function follow(
  { state, depth }: Node,
  { one, index }: { readonly one: Completion; readonly index: number },
  { decoder, tokenizer }: LanguageModel,
  { stepEnd, maxSteps, sampling }: StepOptions,
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

const textOf = ({ steps, finishReason }: Written) => `${finishReason} ${steps[steps.length - 1].text}`

/** Continuations whose last steps differ in more than `distance` characters from each other's and from those there are. */
function unlike(leaf: Node, found: readonly Continuation<Written>[], distance: number): Continuation<Written>[] {
  const kept: Continuation<Written>[] = []
  const known = (leaf.children ?? []).map(({ state }) => textOf(state))
  for (const one of found) {
    const text = textOf(one.state)
    if (known.some((other) => other === text || (distance > 0 && editDistance(other, text) <= distance))) continue
    kept.push(one)
    known.push(text)
  }
  return kept
}

/** Answers of which nothing is written. */
export const begun = (policy: LanguageModel, tasks: readonly Task[]): Written[] =>
  tasks.map((task) => {
    const prompt: Segment = { role: 'prompt', text: task.prompt, ids: promptIds(policy, task) }
    return { task, prompt, steps: [], finishReason: 'stop', place: '0' }
  })

/** What grows the nodes of a world. */
export function expanderOf(context: ExploreContext, options: StepOptions, draw: Draw): World<Written>['expand'] {
  const { maxSteps, stepEnd, sampling, mergeDistance = 0 } = options
  const { numGenerations, stopStrings = [] } = sampling
  // A node is expanded again only while that finds something: the number of its children tells the times apart.
  const grown = ({ children }: Node) => children?.length ?? -1
  const purpose = (node: Node) => (grown(node) < 0 ? 'steps behind' : `further steps than ${grown(node)} behind`)
  return async (leaves) => {
    const found = new Map<Node, Continuation<Written>[]>()
    for (const last of [false, true]) {
      const part = leaves.filter(({ depth }) => depth >= maxSteps - 1 === last)
      const groups = await draw(part, purpose, numGenerations, last ? stopStrings : [stepEnd, ...stopStrings])
      for (const [i, leaf] of part.entries()) {
        const first = (grown(leaf) + 1) * numGenerations
        const next = groups[i].map((one, j) => follow(leaf, { one, index: first + j }, context.policy, options))
        found.set(leaf, unlike(leaf, next, mergeDistance))
      }
    }
    return leaves.map((leaf) => found.get(leaf) ?? [])
  }
}
