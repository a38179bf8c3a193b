// Populations (XLand, Open Ended Learning Team 2021, arXiv 2107.12808; recalled): members with settings and scores on the same tasks. One
// takes the place of another if it is at least as good at every low percentile of the scores and better at one, for a mean hides
// tasks that are never solved; its copy gets changed settings. Ours normalises by the best member of the generation, theirs by a game value. And which proposed tasks are worth training on.

import { checkArgument, checkOptions, kinds, listOf, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, type Key, uniform } from '../../src/base/rng.js'
import { mean, percentile } from '../../src/base/stats.js'

/** Settings and what they came to. */
export interface Member<S> {
  readonly settings: S
  /** Score on each task, at least 0, in the same order for all members. */
  readonly scores: readonly number[]
}

/** How a generation follows another. */
export interface EvolveOptions<S> {
  readonly seed: number
  readonly generation: number
  /** Settings of a copy. `draw(i)` are numbers from 0 to 1, the same in every run. */
  readonly mutate: (settings: S, draw: (index: number) => number) => S
  /** Percentiles that are compared; default 0, 10, ..., 50. */
  readonly percentiles?: readonly number[]
}

/** A member of the next generation. */
export interface Successor<S> {
  readonly settings: S
  /** The member whose weights it has: itself, or the one that took its place. */
  readonly parent: number
}

const evolveKinds = {
  seed: kinds.whole,
  generation: kinds.whole,
  mutate: kinds.call,
  percentiles: optional(kinds.numbers),
}

/** Percentiles of the scores of each member, each score divided by the best one that any member has on the task; 0 of 0. */
export function normalizedPercentiles(scores: readonly (readonly number[])[], at: readonly number[]): number[][] {
  const best = scores[0].map((_, task) => Math.max(...scores.map((row) => row[task])))
  return scores.map((row) => {
    const normalized = row.map((score, task) => (best[task] > 0 ? score / best[task] : 0))
    return at.map((p) => percentile(normalized, p))
  })
}

/** At least as good in all, better in one. */
export const dominates = (a: readonly number[], b: readonly number[]): boolean =>
  a.every((value, i) => value >= b[i]) && a.some((value, i) => value > b[i])

const unit = (key: Key) => (index: number) => uniform(key, index)

/**
 * The next generation, member by member: one that is dominated gets weights and changed settings of a member that dominates it, drawn
 * among those by (seed, generation, member); the others stay as they are.
 *
 * @throws WhetstoneError E_CONFIG for no member, no percentile or one outside 0 to 100, and a score that is below 0 or no number,
 *   E_SHAPE for members with scores on different numbers of tasks
 */
export function evolve<S>(members: readonly Member<S>[], options: EvolveOptions<S>): Successor<S>[] {
  checkArgument('evolve.members', members, listOf(kinds.object))
  checkOptions('evolve', options, evolveKinds)
  const { seed, generation, mutate, percentiles = [0, 10, 20, 30, 40, 50] } = options
  for (const [name, list] of Object.entries({ members, percentiles }))
    if (list.length === 0) throw new WhetstoneError('E_CONFIG', `evolve.${name}`, 'expected at least one, got none')
  const outside = percentiles.find((p) => !(p >= 0 && p <= 100))
  if (outside !== undefined)
    throw new WhetstoneError('E_CONFIG', 'evolve.percentiles', `expected numbers from 0 to 100, got ${outside}`)
  for (const [i, { scores }] of members.entries()) {
    checkArgument(`evolve.members[${i}].scores`, scores, kinds.numbers)
    const bad = scores.find((score) => !(Number.isFinite(score) && score >= 0))
    if (bad !== undefined)
      throw new WhetstoneError(
        'E_CONFIG',
        `evolve.members[${i}].scores`,
        `expected finite scores of at least 0, got ${bad}`,
      )
    if (scores.length === members[0].scores.length && scores.length > 0) continue
    const text = `expected scores on ${members[0].scores.length} tasks, as the first member has, got ${scores.length}`
    throw new WhetstoneError('E_SHAPE', `evolve.members[${i}]`, text)
  }
  const fitness = normalizedPercentiles(
    members.map(({ scores }) => scores),
    percentiles,
  )
  return members.map(({ settings }, i) => {
    const better = fitness.flatMap((one, j) => (dominates(one, fitness[i]) ? [j] : []))
    if (better.length === 0) return { settings, parent: i }
    const draw = unit(deriveKey(seed, 'population', generation, i))
    const parent = better[Math.floor(draw(0) * better.length)]
    return { settings: mutate(members[parent].settings, (index) => draw(index + 1)), parent }
  })
}

/** When a proposed task is worth training on. */
export interface AcceptOptions {
  /** Score that counts as solved, and the largest share of attempts that may reach it. */
  readonly solvedAt: number
  readonly mostSolved: number
  /** By how much an attempt must beat the control's, and the share of attempts that more than must do so. */
  readonly margin: number
  readonly leastBetter: number
  /** Largest mean score of the control. */
  readonly mostControl: number
}

const acceptKinds = {
  solvedAt: kinds.number,
  mostSolved: kinds.number,
  margin: kinds.number,
  leastBetter: kinds.number,
  mostControl: kinds.number,
}

/**
 * XLand's three conditions on a task, from scores of attempts of the policy and of a control (a random or an untrained policy): not
 * too easy (few attempts solve it), not too hard (some attempts beat the control by a margin), and the control does badly.
 *
 * @param scores of the policy's attempts
 * @param control of as many attempts of the control, compared in order
 * @throws WhetstoneError E_SHAPE for lists of different lengths
 */
export function acceptTask(scores: readonly number[], control: readonly number[], options: AcceptOptions): boolean {
  checkArgument('acceptTask.scores', scores, kinds.numbers)
  checkArgument('acceptTask.control', control, kinds.numbers)
  checkOptions('acceptTask', options, acceptKinds)
  if (scores.length !== control.length || scores.length === 0)
    throw new WhetstoneError(
      'E_SHAPE',
      'acceptTask.control',
      `expected ${scores.length || 'some'} scores, got ${control.length}`,
    )
  const { solvedAt, mostSolved, margin, leastBetter, mostControl } = options
  const solved = mean(scores.map((score) => Number(score > solvedAt)))
  const better = mean(scores.map((score, i) => Number(score > control[i] + margin)))
  return solved < mostSolved && better > leastBetter && mean(control) < mostControl
}
