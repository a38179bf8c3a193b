// Explore: trees of steps grown from the prompt, guided by a model of what prefixes are worth; final answers are scored behind the
// search alone. What it gives: the answers that ended, and prefixes with labels, which a value model is fitted to between rounds
// (companion.ts, labelExamples). A rollout goes on from the best new child of each node, step by step:
//   v <- (1 - share) v + share max over its steps of v        (ReST-MCTS*, arXiv 2406.03816)
// and where whole answers are drawn, from every new child, v <- (1 - share) v + share (mean value of these)   (AlphaLLM, 2404.12253)

import { mean } from '../../src/base/stats.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Explore, ExploreContext } from './explore.js'
import { isOwn } from './rivals.js'
import type { Score } from './score.js'
import type { Labels } from './step-values.js'
import {
  begun,
  type Draw,
  drawerOf,
  expanderOf,
  follow,
  joined,
  type Node,
  type StepOptions,
  traceOf,
  type Written,
} from './step-world.js'
import { byTask, type Trace, withScores } from './trace.js'
import { growTrees, nodesOf, type SearchOptions, type World } from './tree.js'

/** What prefixes are worth, one number for the tokens of each, from 0 to 1. */
export type PrefixValues = (sequences: readonly (readonly number[])[]) => Promise<readonly number[]>

/** How trees are grown. */
export interface TreeSearchOptions extends StepOptions, SearchOptions {
  readonly prefixValues: PrefixValues
  readonly rollouts: {
    /** Part of the value of a node that rollouts decide; 0: there are none. */
    readonly share: number
    /** Steps of a rollout of the best new child. Or: whole answers behind every new child. */
    readonly steps?: number
    readonly answers?: number
  }
  /** Scores the answers that ended. */
  readonly score: Score
  /** What the rewards of the answers say of the steps: a score `label` of each. */
  readonly label: (root: Node, rewardOf: (node: Node) => number) => Labels<Written>
}

/**
 * The number of a score head at the end of each prefix, cut to [0, 1].
 *
 * @param model one that reads the tokens of the policy
 */
export const headValues =
  (model: LanguageModel): PrefixValues =>
  async (sequences) =>
    (await model.scores(sequences)).map(([value]) => Math.min(1, Math.max(0, value)))

const idsOf = ({ prompt, steps }: Written): number[] => [...prompt.ids, ...joined(steps).ids]

/** Draws, and counts the tokens that were drawn for each task. */
function counted(draw: Draw, tokens: Map<string, number>): Draw {
  return async (nodes, ...how) => {
    const groups = await draw(nodes, ...how)
    for (const [i, { state }] of nodes.entries()) {
      const drawn = groups[i].reduce((sum, { ids }) => sum + ids.length, 0)
      tokens.set(state.task.id, (tokens.get(state.task.id) ?? 0) + drawn)
    }
    return groups
  }
}

/** What a rollout needs. */
interface Rolling {
  readonly context: ExploreContext
  readonly options: TreeSearchOptions
  readonly draw: Draw
  readonly valuesOf: (states: readonly Written[]) => Promise<readonly number[]> | readonly number[]
}

/** One step behind each node: as nodes of no tree. */
async function stepped({ context, options, draw }: Rolling, nodes: readonly Node[]): Promise<Node[]> {
  const { stepEnd, maxSteps, sampling } = options
  const { stopStrings = [] } = sampling
  const found = new Map<Node, Node>()
  for (const last of [false, true]) {
    const part = nodes.filter(({ depth }) => depth >= maxSteps - 1 === last)
    const groups = await draw(part, 'a rollout behind', 1, last ? stopStrings : [stepEnd, ...stopStrings])
    for (const [i, node] of part.entries()) {
      const { state, terminal } = follow(node, { one: groups[i][0], index: 0 }, context.policy, options)
      found.set(node, { ...node, state, terminal, depth: node.depth + 1 })
    }
  }
  return nodes.flatMap((node) => found.get(node) ?? [])
}

/** The largest value along a few steps behind each node. */
async function aheadOf(rolling: Rolling, nodes: readonly Node[], steps: number): Promise<Map<Node, number>> {
  const most = new Map<Node, number>()
  let going = nodes.map((from) => ({ from, node: from }))
  for (let step = 0; step < steps && going.length > 0; step++) {
    const next = await stepped(
      rolling,
      going.map(({ node }) => node),
    )
    const values = await rolling.valuesOf(next.map(({ state }) => state))
    for (const [i, { from }] of going.entries()) most.set(from, Math.max(most.get(from) ?? 0, values[i]))
    going = going.map(({ from }, i) => ({ from, node: next[i] })).filter(({ node }) => !node.terminal)
  }
  return most
}

/** The mean value of whole answers behind each node. */
async function behindOf(
  { draw, valuesOf, options }: Rolling,
  nodes: readonly Node[],
  answers: number,
): Promise<Map<Node, number>> {
  const groups = await draw(nodes, 'answers behind', answers, options.sampling.stopStrings ?? [])
  const finished = nodes.flatMap(({ state }, i) =>
    groups[i].map(({ ids, logps, text }): Written => {
      return { ...state, steps: [...state.steps, { role: 'completion', text, ids, logps }] }
    }),
  )
  const values = await valuesOf(finished)
  return new Map(nodes.map((node, i) => [node, mean(values.slice(i * answers, (i + 1) * answers))]))
}

/** Values of new nodes, mixed with what rollouts from them come to. */
function evaluatorOf(context: ExploreContext, options: TreeSearchOptions, draw: Draw): World<Written>['evaluate'] {
  const { prefixValues, rollouts } = options
  const { share, steps = 0, answers = 0 } = rollouts
  const valuesOf = (states: readonly Written[]) => (states.length === 0 ? [] : prefixValues(states.map(idsOf)))
  const rolling = { context, options, draw, valuesOf }
  return async (nodes) => {
    const values = await valuesOf(nodes.map(({ state }) => state))
    if (share === 0) return values
    const open = nodes.filter(({ terminal }) => !terminal)
    const worth = new Map(nodes.map((node, i) => [node, values[i]]))
    const best = new Map<Node | undefined, Node>()
    for (const node of open) {
      const other = best.get(node.parent)
      if (other === undefined || Number(worth.get(node)) > Number(worth.get(other))) best.set(node.parent, node)
    }
    const rolled =
      answers > 0 ? await behindOf(rolling, open, answers) : await aheadOf(rolling, [...best.values()], steps)
    return nodes.map((node, i) => {
      const value = rolled.get(node)
      return value === undefined ? values[i] : (1 - share) * values[i] + share * value
    })
  }
}

/** A tree that was grown, with the answers of its ends. */
interface Grown {
  readonly root: Node
  readonly ends: readonly Node[]
  readonly answers: readonly Trace[]
}

/** Prefixes with the labels of their steps, marked as nothing that the policy is trained on. */
function labelled({ root, ends, answers }: Grown, label: TreeSearchOptions['label']): Trace[] {
  const rewards = new Map(ends.map((node, i) => [node, answers[i].scores.reward]))
  const values = [...label(root, (node) => rewards.get(node) ?? 0)]
  return values.map(([{ state, own = 0 }, value], i) =>
    withScores(traceOf(state, answers.length + i), { onPolicy: 0, label: value, value: own }),
  )
}

/** The ends of a tree, those with equal text once. */
function endsOf(root: Node): Node[] {
  const seen = new Set<string>()
  const textOf = ({ state }: Node) => `${state.finishReason} ${joined(state.steps).text}`
  return nodesOf(root).filter((node) => node.terminal && !seen.has(textOf(node)) && seen.add(textOf(node)))
}

/** Scores the answers that no search has scored, such as those of evaluations. */
export const scoreUnsearched =
  (score: Score): Score =>
  async (traces) => {
    const open = traces.filter((trace) => isOwn(trace) && trace.scores.searchTokens === undefined)
    const scored = new Map((await score(open)).map((trace, i) => [open[i], trace]))
    return traces.map((trace) => scored.get(trace) ?? trace)
  }

/**
 * Grows a tree for each task. Its traces: the answers that ended, scored, with what they were worth to the search as the score
 * `value`, and on each of them `searchTokens`, all tokens that were drawn for the task; and behind them, marked as not the
 * policy's own, prefixes with the score `label`. A search in which none has ended gives one answer that is drawn without it.
 */
export function searchTrees(options: TreeSearchOptions): Explore {
  const { sampling, score, label } = options
  return async (context, tasks) => {
    const tokens = new Map<string, number>()
    const draw = counted(drawerOf(context, options), tokens)
    const world = { expand: expanderOf(context, options, draw), evaluate: evaluatorOf(context, options, draw) }
    const roots = await growTrees(begun(context.policy, tasks), world, options)
    const found = roots.map(endsOf)
    const open = roots.filter((_, i) => found[i].length === 0)
    const drawn = await draw(open, 'an answer behind', 1, sampling.stopStrings ?? [])
    const plain = open.map((root, i): Node => {
      const [{ ids, logps, text, finishReason }] = drawn[i]
      const state = { ...root.state, steps: [{ role: 'completion' as const, text, ids, logps }], finishReason }
      return { ...root, state, depth: 1, terminal: true }
    })
    const ends = found.map((own, i) => (own.length > 0 ? own : [plain[open.indexOf(roots[i])]]))
    const scored = await score(ends.flatMap((own) => own.map(({ state }, sample) => traceOf(state, sample))))
    let at = 0
    return roots.flatMap((root, i) => {
      const searchTokens = tokens.get(root.state.task.id) ?? 0
      const own = scored.slice(at, at + ends[i].length)
      at += own.length
      const answers = own.map((one, k) => withScores(one, { onPolicy: 1, value: ends[i][k].own ?? 0, searchTokens }))
      return [...answers, ...labelled({ root, ends: ends[i], answers }, label)]
    })
  }
}

/** What a search found, and how well its values tell right answers from wrong ones of the same prompt; nothing of traces without a search. */
export function searchStatistics(traces: readonly Trace[], right: number): Record<string, number> {
  const searched = traces.filter(({ scores }) => scores.searchTokens !== undefined)
  if (searched.length === 0) return {}
  const groups = byTask(searched)
  const pairs = groups.flatMap((group) => {
    const [good, bad] = [true, false].map((wanted) => group.filter(({ scores }) => scores.reward >= right === wanted))
    return good.flatMap((g) => bad.map((b) => (1 + Math.sign(g.scores.value - b.scores.value)) / 2))
  })
  const isFound = (group: readonly Trace[]) => Number(group.some(({ scores }) => scores.reward >= right))
  return {
    'search/found': mean(groups.map(isFound)),
    'search/answers': mean(groups.map((group) => group.length)),
    'search/tokens': mean(groups.map(([{ scores }]) => scores.searchTokens)),
    'search/labels': traces.filter(({ scores }) => scores.label !== undefined).length,
    ...(pairs.length > 0 && { 'search/auc': mean(pairs) }),
  }
}
