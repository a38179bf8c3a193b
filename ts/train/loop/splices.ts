// Explore: episodes that turn back. Of the ends of a search, bad ones are paired with good ones; the first error of the bad one is
// found; and behind it comes a word of revision, the undoing of what was wrong, and the good way from where both parted. All of
// it is played in the environment, so that it is an episode like any other (Agent-R, arXiv 2501.11425, joins texts alone).

import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Env } from '../tasks/task.js'
import { type ActOptions, actGiven, actIn, type Episode, episodeTrace } from './episodes.js'
import type { Explore, ExploreContext } from './explore.js'
import { splice } from './recast.js'
import { type EpisodeLeaf, type EpisodeSearchOptions, searchEpisodes } from './search-episodes.js'
import { type Trace, withScores } from './trace.js'
import { verdict } from './verdict.js'

/** A bad end and a good one of the same tree. */
export interface LeafPair {
  readonly bad: Episode
  readonly good: Episode
  /** Steps that both begin with. */
  readonly shared: number
}

/** How ends are paired. */
export interface PairLeavesOptions {
  /** Least value of a good end. */
  readonly alpha: number
  /** The bad one is worse by more than it. */
  readonly beta: number
  /** Pairs of a task; of more some are drawn. */
  readonly perTask: number
  readonly seed: number
  readonly round: number
}

/** Equal steps at the beginning of two episodes. */
function sharedSteps(a: Episode, b: Episode): number {
  const differs = a.steps.findIndex(({ action }, i) => action.text !== b.steps[i]?.action.text)
  return differs < 0 ? a.steps.length : differs
}

/** Any two ends of a tree, good >= alpha and good - bad > beta, and no more of them than are asked for. */
export function pairLeaves(leaves: readonly EpisodeLeaf[], options: PairLeavesOptions): LeafPair[] {
  const { alpha, beta, perTask, seed, round } = options
  const pairs = leaves.flatMap((good) => {
    const worse = leaves.filter(({ value }) => good.value >= alpha && good.value - value > beta)
    return worse.map((bad): LeafPair => {
      return { bad: bad.episode, good: good.episode, shared: sharedSteps(bad.episode, good.episode) }
    })
  })
  if (pairs.length <= perTask) return pairs
  const key = deriveKey(seed, 'pairs', round, pairs[0].good.task.id)
  const drawn = pairs.map((pair, i) => ({ pair, rank: uniform(key, i) }))
  return drawn
    .sort((a, b) => a.rank - b.rank)
    .slice(0, perTask)
    .map(({ pair }) => pair)
}

/** An episode up to a step. */
const until = (episode: Episode, count: number): Episode => ({ ...episode, steps: episode.steps.slice(0, count) })

/** Is the last step of each of these episodes an error? */
export type IsError = (episodes: readonly Episode[]) => Promise<readonly boolean[]>

/** What the actor is asked about a step. */
export interface VerdictTexts {
  readonly question: string
  readonly good: string
  readonly bad: string
  readonly uncertain: string
}

/** The actor's own verdict: bad is more probable than good, and than uncertain. */
export function errorByVerdict(policy: LanguageModel, texts: VerdictTexts): IsError {
  const { question, good, bad, uncertain } = texts
  const [beatsGood, beatsUncertain] = [good, uncertain].map((no) => verdict(policy, { question, yes: bad, no }))
  return async (episodes) => {
    const traces = episodes.map(episodeTrace)
    const judged = [await beatsGood(traces), await beatsUncertain(traces)]
    return episodes.map((_, i) => judged.every((some) => some[i].scores.verdict > 0.5))
  }
}

/**
 * Ground truth: a step that brings the end no nearer is an error.
 *
 * @throws WhetstoneError E_CONFIG for an environment that cannot tell
 */
export function errorByEnv(env: Env): IsError {
  const leftAt = async (state: unknown): Promise<number> => {
    await env.restore(state)
    if (env.stepsLeft !== undefined) return env.stepsLeft()
    throw new WhetstoneError(
      'E_CONFIG',
      'env',
      'expected an environment with stepsLeft(), which exact verdicts look at',
    )
  }
  return async (episodes) => {
    const errors: boolean[] = []
    for (const { start, steps } of episodes) {
      const [before, after] = [steps.at(-2)?.after ?? start, steps.at(-1)?.after]
      errors.push((await leftAt(after)) >= (await leftAt(before)))
    }
    return errors
  }
}

/** Steps of a bad episode that another can follow: not the one that ended it, nor giving up. */
const openSteps = ({ steps, over, finishReason }: Episode): number =>
  over && finishReason === 'stop' ? steps.length - 1 : steps.length

/**
 * Steps up to the first error behind where the two part; without one, all steps. undefined: nothing can follow.
 *
 * @returns for each pair how many steps of the bad episode stay
 */
export async function firstErrors(pairs: readonly LeafPair[], isError: IsError): Promise<(number | undefined)[]> {
  const cuts = pairs.map(({ bad, shared }) => (openSteps(bad) > shared ? openSteps(bad) : undefined))
  let open = pairs.flatMap((_, i) => (cuts[i] === undefined ? [] : [i]))
  for (let more = 1; ; more++) {
    open = open.filter((i) => pairs[i].shared + more < Number(cuts[i]))
    if (open.length === 0) break
    const errors = await isError(open.map((i) => until(pairs[i].bad, pairs[i].shared + more)))
    for (const [k, i] of open.entries()) if (errors[k]) cuts[i] = pairs[i].shared + more
  }
  return cuts
}

/** How often to undo until some steps are taken back; undefined where they have taken back more than themselves. */
function undosOf(actions: readonly string[], undo: string, idle: readonly string[]): number | undefined {
  let depth = 0
  for (const action of actions) {
    if (!idle.includes(action)) depth += action === undo ? -1 : 1
    if (depth < 0) return undefined
  }
  return depth
}

/** What a turn back is made of. */
export interface SpliceOptions extends Pick<ActOptions, 'env'> {
  /** Words of revision, each an action that does nothing and that undoing passes over; one is drawn. */
  readonly revisions: readonly string[]
}

const undoOf = ({ undo }: Env): string => {
  if (undo !== undefined) return undo
  throw new WhetstoneError('E_CONFIG', 'env', 'expected an environment with an undo action: splices are real episodes')
}

/**
 * The spliced episode of a pair, or undefined where the world does not lead back. Scores besides those of an episode: `splice`
 * 1; `errors`, steps behind the parting before it turns back; `onPolicy` 0.
 */
export async function spliceOf(
  context: ExploreContext,
  { bad, good, shared }: LeafPair,
  cut: number,
  { env, revisions }: SpliceOptions,
): Promise<Trace | undefined> {
  const undo = undoOf(env)
  const undos = undosOf(
    bad.steps.slice(shared, cut).map(({ action }) => action.text),
    undo,
    revisions,
  )
  if (undos === undefined) return undefined
  const key = deriveKey(context.seed, 'revision', context.round, bad.task.id, bad.place, good.place)
  const revision = revisions[Math.floor(uniform(key, 0) * revisions.length)]
  const free = { env, maxSteps: Number.POSITIVE_INFINITY }
  let played: Episode = { ...until(bad, cut), over: false, finishReason: 'stop' }
  for (const text of [revision, ...Array<string>(undos).fill(undo)]) {
    if (played.over) return undefined
    played = await actGiven(context, played, text, { ...free, role: 'completion' })
  }
  const back = episodeTrace(played, 0).segments.slice(episodeTrace(until(bad, cut), 0).segments.length)
  for (const { action, observation } of good.steps.slice(shared)) {
    if (played.over) return undefined
    played = await actIn(context, played, action, free)
    if (played.steps.at(-1)?.observation?.text !== observation?.text) return undefined
  }
  const whole = splice(episodeTrace(bad, 0), back, episodeTrace(good, 0), { cut, shared })
  const { scores } = episodeTrace(played, 0)
  return withScores({ ...whole, scores }, { splice: 1, errors: cut - shared, onPolicy: 0 })
}

/** How a search is made into splices. */
export interface SpliceSearchOptions extends EpisodeSearchOptions, SpliceOptions {
  /** Least value of a good end in a round. */
  readonly alpha: (round: number) => number
  readonly beta: number
  readonly splicesPerTask: number
  readonly isError: IsError
}

/**
 * A search for each task. Its traces: the ends of the tree with the scores `value` and `good`, 1 from alpha on; and the splices
 * of pairs of them, see {@link spliceOf}.
 */
export function searchSplices(options: SpliceSearchOptions): Explore {
  const { env, sampling, maxSteps, simulations, weight, alpha, beta, splicesPerTask: perTask, isError } = options
  undoOf(env)
  return async (context, tasks) => {
    const { seed, round } = context
    const found = await searchEpisodes(context, tasks, { env, sampling, maxSteps, simulations, weight })
    const how = { alpha: alpha(round), beta, perTask, seed, round }
    const pairs = found.flatMap((leaves, t) => pairLeaves(leaves, how).map((pair) => ({ ...pair, t })))
    const cuts = await firstErrors(pairs, isError)
    const spliced = found.map((): Trace[] => [])
    for (const [i, pair] of pairs.entries()) {
      const cut = cuts[i]
      const one = cut === undefined ? undefined : await spliceOf(context, pair, cut, options)
      if (one !== undefined) spliced[pair.t].push(one)
    }
    return found.flatMap((leaves, t) => [
      ...leaves.map(({ episode, value }, k) =>
        withScores(episodeTrace(episode, k), { value, good: Number(value >= how.alpha) }),
      ),
      ...spliced[t].map((one, k) => ({ ...one, sample: leaves.length + k })),
    ])
  }
}
