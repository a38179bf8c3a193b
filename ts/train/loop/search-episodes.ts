// Explore: tree search over the episodes of an environment. A node is a state, kept as a snapshot; its children are actions that the
// policy draws there, equal ones once. A simulation goes down to the end of an episode, and every end that it sees
// is backed up with what the environment paid, at least 0: nothing is rolled out besides (Agent-R, arXiv 2501.11425).

import { checkOptions, kinds } from '../../src/base/arguments.js'
import type { Task } from '../tasks/task.js'
import {
  type ActOptions,
  actionSamplingKinds,
  actKinds,
  actWritten,
  beginEpisodes,
  drawActions,
  type Episode,
  returnOf,
} from './episodes.js'
import type { ExploreContext } from './explore.js'
import { growTrees, meanValue, nodesOf, type TreeNode, type World } from './tree.js'

/** How episodes are searched. */
export interface EpisodeSearchOptions extends ActOptions {
  /** Episodes, each to its end, that are searched for each task. */
  readonly simulations: number
  /** c of UCB1: q + c sqrt(ln N / n). */
  readonly weight: number
}

/** An end of a tree: an episode that is over, and what it is worth. */
export interface EpisodeLeaf {
  readonly episode: Episode
  readonly value: number
}

/** The world of the episodes of some tasks. */
function worldOf(context: ExploreContext, options: EpisodeSearchOptions): World<Episode> {
  const count = options.sampling.numGenerations
  const expand = async (leaves: readonly TreeNode<Episode>[]) => {
    const episodes = leaves.map(({ state }) => state)
    const drawn = await drawActions(context, episodes, options, { count, what: 'search' })
    const grown = []
    for (const [i, episode] of episodes.entries()) {
      const texts = drawn[i].map(({ ids }) => ids.join(' '))
      const different = drawn[i].filter((_, k) => texts.indexOf(texts[k]) === k)
      const next = []
      for (const [k, one] of different.entries()) {
        const state = await actWritten(context, { ...episode, place: `${episode.place}.${k}` }, one, options)
        next.push({ state, prior: 1 / different.length, terminal: state.over })
      }
      grown.push(next)
    }
    return grown
  }
  const evaluate = async (nodes: readonly TreeNode<Episode>[]) =>
    nodes.map(({ state, terminal }) => (terminal ? Math.max(0, returnOf(state)) : undefined))
  return { expand, evaluate }
}

/**
 * Grows a tree for each task.
 *
 * @returns for each task the ends of its tree, in the order of the tree
 */
export async function searchEpisodes(
  context: ExploreContext,
  tasks: readonly Task[],
  options: EpisodeSearchOptions,
): Promise<EpisodeLeaf[][]> {
  checkOptions('searchEpisodes', options, { ...actKinds, simulations: kinds.count, weight: kinds.number })
  checkOptions('searchEpisodes.sampling', options.sampling, actionSamplingKinds)
  const { env, weight, simulations } = options
  const begun = await beginEpisodes(context, env, tasks)
  const search = { rule: 'ucb1', weight, simulations, toEnd: true } as const
  const roots = await growTrees(begun, worldOf(context, options), search)
  return roots.map((root) =>
    nodesOf(root)
      .filter(({ terminal }) => terminal)
      .map((node) => ({ episode: node.state, value: meanValue(node) })),
  )
}
