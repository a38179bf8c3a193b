// Credit: what the final answers of a tree say of its steps. Values of prefixes are the labels that a value model is fitted to.

import { mean } from '../../src/base/stats.js'
import { nodesOf, type TreeNode } from './tree.js'

/** Is a terminal node a right answer? */
export type IsRight<S> = (node: TreeNode<S>) => boolean

/** Labels of the nodes of a tree, its root left out. */
export type Labels<S> = ReadonlyMap<TreeNode<S>, number>

/** Fewest steps from each node to a right end below it; nodes without one are not in it. */
function distancesOf<S>(root: TreeNode<S>, isRight: IsRight<S>): Map<TreeNode<S>, number> {
  const distances = new Map<TreeNode<S>, number>()
  for (const node of nodesOf(root).reverse()) {
    const below = (node.children ?? []).flatMap((child) => distances.get(child) ?? [])
    if (node.terminal && isRight(node)) distances.set(node, 0)
    else if (below.length > 0) distances.set(node, 1 + Math.min(...below))
  }
  return distances
}

/** Nodes that have, or are, an end of an answer. */
const ended = <S>(node: TreeNode<S>): boolean => node.terminal || (node.children ?? []).some(ended)

/**
 * Values of steps from right and wrong ends (ReST-MCTS*, arXiv 2406.03816). With v = 0 at the root, m the fewest steps from a node
 * to a right end, and r = 1 for a wrong step, which is one with no right end below:
 *   w = (1 - v(parent)) / (m + 1) (1 - 2 r),   v = max(v(parent) + w, 0)
 * A wrong step has the m of the last node above it with a right end. On a right path of K steps of which none is shorter
 * v is k / K behind the k-th. Steps below which no answer has ended are not judged, and trees without a right end say nothing.
 */
export function stepValues<S>(root: TreeNode<S>, isRight: IsRight<S>): Labels<S> {
  const distances = distancesOf(root, isRight)
  const values = new Map<TreeNode<S>, number>()
  const label = (node: TreeNode<S>, above: number, far: number): void => {
    if (!ended(node)) return
    const distance = distances.get(node)
    const m = distance ?? far
    const step = (1 - above) / (m + 1)
    const value = Math.max(distance === undefined ? above - step : above + step, 0)
    values.set(node, value)
    for (const child of node.children ?? []) label(child, value, m)
  }
  const far = distances.get(root)
  if (far !== undefined) for (const child of root.children ?? []) label(child, 0, far)
  return values
}

/**
 * Values of steps as what came of them: the mean reward of the ends below each node, to which a squared error against every
 * end's reward leads (AlphaLLM, 2404.12253). Steps below which no answer has ended are not judged.
 */
export function outcomeValues<S>(root: TreeNode<S>, rewardOf: (node: TreeNode<S>) => number): Labels<S> {
  const values = new Map<TreeNode<S>, number>()
  const endsOf = (node: TreeNode<S>): number[] => {
    const ends = node.terminal ? [rewardOf(node)] : (node.children ?? []).flatMap(endsOf)
    if (ends.length > 0 && node !== root) values.set(node, mean(ends))
    return ends
  }
  endsOf(root)
  return values
}
