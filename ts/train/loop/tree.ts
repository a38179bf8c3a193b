// Explore: search in a tree of steps. The world is given by two functions, one that continues states and one that says what
// states are worth; many trees are searched side by side, so that each call has all of their questions. Rules of selection,
// with q the mean value of a child, n its visits, N those of its parent, p its prior:
//   puct: q + weight p sqrt(N) / (1 + n)        (AlphaZero; MCTS-DPO, arXiv 2405.00451)
//   ucb1: q + weight sqrt(ln N / n), unvisited children first        (Agent-R, 2501.11425)
// A simulation descends to a leaf, expands it, and backs the value of every new child up to the root as a mean. Behind
// `simulations` of them the search moves on to the child with the most visits and goes on from there (of equals the one with the
// higher q, then the first), until a terminal node. Pure but for the world; nothing is random here.

import { WhetstoneError } from '../../src/base/errors.js'

/** A state in its tree. */
export interface TreeNode<S> {
  readonly state: S
  readonly parent: TreeNode<S> | undefined
  readonly depth: number
  readonly prior: number
  /** Nothing follows it. */
  readonly terminal: boolean
  /** What it was worth by itself when it came up; undefined of a root. */
  own: number | undefined
  /** Undefined before it was expanded. */
  children: TreeNode<S>[] | undefined
  /** Nothing more follows it than the children that it has. */
  full: boolean
  visits: number
  /** Sum of the values that were backed up through it. */
  total: number
}

/** A state that follows another. */
export interface Continuation<S> {
  readonly state: S
  /** How probable the policy thinks it, from 0 to 1. */
  readonly prior: number
  readonly terminal: boolean
}

/** What is searched. */
export interface World<S> {
  /** For each node what may follow it, no two alike and none that follows it already; of a leaf at least one. */
  readonly expand: (leaves: readonly TreeNode<S>[]) => Promise<readonly (readonly Continuation<S>[])[]>
  /** For each node its value; undefined where only what follows will tell. */
  readonly evaluate: (nodes: readonly TreeNode<S>[]) => Promise<readonly (number | undefined)[]>
}

/** How it is searched. */
export interface SearchOptions {
  readonly rule: 'puct' | 'ucb1'
  /** Weight of the rule's second term. */
  readonly weight: number
  /** Simulations before each move. */
  readonly simulations: number
  /** The same before the first one; default as before others. */
  readonly firstSimulations?: number
  /** A simulation goes on from the leaf that it has expanded until all that follows is terminal. Default false. */
  readonly toEnd?: boolean
  /** Children that a node may have: it is expanded again while it has fewer. Default: it is expanded once. */
  readonly width?: WidthRule
}

/** How many children a node may have, by what it and its children are worth. */
export type WidthRule = <S>(node: TreeNode<S>) => number

/** Mean value. */
export const meanValue = <S>({ visits, total }: TreeNode<S>): number => (visits === 0 ? 0 : total / visits)

type Rule = <S>(child: TreeNode<S>, parent: TreeNode<S>, weight: number) => number

const rules: Readonly<Record<SearchOptions['rule'], Rule>> = {
  puct: (child, parent, weight) =>
    meanValue(child) + (weight * child.prior * Math.sqrt(parent.visits)) / (1 + child.visits),
  ucb1: (child, parent, weight) =>
    child.visits === 0
      ? Number.POSITIVE_INFINITY
      : meanValue(child) + weight * Math.sqrt(Math.log(parent.visits) / child.visits),
}

/** The first of the largest. */
function largest<T>(items: readonly T[], of: (item: T) => number): T {
  return items.reduce((best, next) => (of(next) > of(best) ? next : best))
}

const nodeOf = <S>({ state, prior, terminal }: Continuation<S>, parent?: TreeNode<S>): TreeNode<S> => ({
  state,
  parent,
  depth: parent === undefined ? 0 : parent.depth + 1,
  prior,
  terminal,
  own: undefined,
  children: undefined,
  full: false,
  visits: 0,
  total: 0,
})

/** Where a simulation comes to: a node that may have further children, or a terminal one. */
function descend<S>(root: TreeNode<S>, { rule, weight, width = () => 0 }: SearchOptions): TreeNode<S> {
  let node = root
  while (node.children !== undefined && (node.full || node.children.length >= width(node))) {
    const parent = node
    node = largest(node.children, (child) => rules[rule](child, parent, weight))
  }
  return node
}

function backUp<S>(from: TreeNode<S>, value: number): void {
  for (let node: TreeNode<S> | undefined = from; node !== undefined; node = node.parent) {
    node.visits++
    node.total += value
  }
}

/**
 * Expands a leaf below each node, and backs up what is new.
 *
 * @returns the leaves
 */
async function grow<S>(roots: readonly TreeNode<S>[], world: World<S>, options: SearchOptions): Promise<TreeNode<S>[]> {
  const leaves = roots.map((root) => descend(root, options))
  const open = leaves.filter(({ terminal }) => !terminal)
  const grown = open.length === 0 ? [] : await world.expand(open)
  const fresh = open.flatMap((leaf, i) => {
    const { children = [] } = leaf
    const found = grown[i].map((next) => nodeOf(next, leaf))
    leaf.children = [...children, ...found]
    leaf.full = found.length === 0
    if (leaf.children.length > 0) return found
    throw new WhetstoneError('E_SHAPE', 'treeSearch', 'expected something to follow, got none')
  })
  const values = fresh.length === 0 ? [] : await world.evaluate(fresh)
  for (const [i, node] of fresh.entries()) {
    const value = values[i]
    node.own = value
    if (value !== undefined) backUp(node, value)
  }
  // A terminal node that is reached again has the value it had.
  for (const leaf of leaves) if (leaf.terminal) backUp(leaf, meanValue(leaf))
  return leaves
}

/** One simulation in each tree. */
async function simulate<S>(roots: readonly TreeNode<S>[], world: World<S>, options: SearchOptions): Promise<void> {
  let going = roots
  do {
    const leaves = await grow(going, world, options)
    going = leaves.filter(({ children = [] }) => children.some(({ terminal }) => !terminal))
  } while (options.toEnd === true && going.length > 0)
}

/** All nodes of a tree, each before its children. */
export const nodesOf = <S>(root: TreeNode<S>): TreeNode<S>[] => [root, ...(root.children ?? []).flatMap(nodesOf)]

/**
 * Grows trees, each from its root: no simulation moves on.
 *
 * @returns the roots
 */
export async function growTrees<S>(
  states: readonly S[],
  world: World<S>,
  options: SearchOptions,
): Promise<TreeNode<S>[]> {
  const roots = states.map((state) => nodeOf({ state, prior: 1, terminal: false }))
  for (let i = 0; i < options.simulations; i++) await simulate(roots, world, options)
  return roots
}

/**
 * Widths that adapt (AlphaLLM, arXiv 2404.12253): a node whose children are worth other than itself is important, and may
 * have more of them. I(s) = max |v(child) - v(s)| and
 *   children = max(least, min(floor(scale I) + 1, most))
 */
export const importanceWidth =
  ({ scale, least, most }: Readonly<Record<'scale' | 'least' | 'most', number>>): WidthRule =>
  ({ own = 0, children = [] }) => {
    const importance = Math.max(0, ...children.map((child) => Math.abs((child.own ?? 0) - own)))
    return Math.max(least, Math.min(Math.floor(scale * importance) + 1, most))
  }

/** The child that a search moves on to. */
const moveOf = <S>({ children = [] }: TreeNode<S>): TreeNode<S> =>
  largest(
    children.filter(({ visits }) => visits === Math.max(...children.map((child) => child.visits))),
    meanValue,
  )

/**
 * Searches trees from their roots.
 *
 * @returns for each tree the nodes from its root to a terminal one, by moves
 */
export async function treeSearch<S>(
  states: readonly S[],
  world: World<S>,
  options: SearchOptions,
): Promise<TreeNode<S>[][]> {
  const paths = states.map((state) => [nodeOf({ state, prior: 1, terminal: false })])
  const last = (path: readonly TreeNode<S>[]) => path[path.length - 1]
  for (let move = 0; ; move++) {
    const going = paths.filter((path) => !last(path).terminal)
    if (going.length === 0) return paths
    const { simulations, firstSimulations = simulations } = options
    for (let i = 0; i < (move === 0 ? firstSimulations : simulations); i++)
      await simulate(going.map(last), world, options)
    for (const path of going) path.push(moveOf(last(path)))
  }
}

/** Two siblings that a search found to differ in value. */
export interface SiblingPair<S> {
  readonly better: TreeNode<S>
  readonly worse: TreeNode<S>
}

/** At each node of a path the child with the highest value against the one with the lowest; none where all are equal. */
export const siblingPairs = <S>(path: readonly TreeNode<S>[]): SiblingPair<S>[] =>
  path.flatMap(({ children }) => {
    if (children === undefined) return []
    const better = largest(children, meanValue)
    const worse = largest(children, (child) => -meanValue(child))
    return meanValue(better) > meanValue(worse) ? [{ better, worse }] : []
  })
