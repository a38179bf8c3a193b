// Pairs of a sample of the policy and one of a rival: the reference (XPO), or the geometric mixture of both (Nash-MD). Which
// of the two is better is the probability `preference`: the logistic function of the difference of their rewards, as in TRL,
// or what a judge of pairs says. The score `onPolicy` is 1 on samples of the policy, 0 on others.

import { checkArgument, checkOptions, kinds, shownArgument } from '../../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { Task } from '../tasks/index.js'
import { type Explore, type SampleGroupOptions, sampleGroup } from './explore.js'
import type { Score } from './score.js'
import { byTask, completionOf, type Trace, withScores } from './trace.js'

/** Pairs to judge; every list has one entry per pair. */
export interface PairInput {
  readonly prompts: readonly string[]
  /** Texts without end tokens. Which of the two is the policy's is drawn for each pair, so that neither place is favoured. */
  readonly completions: readonly (readonly [string, string])[]
  readonly tasks: readonly Task[]
  /** Columns of the data set; empty for tasks that came from none. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
}

/** Judges pairs: for each the probability that the first completion is better, from 0 to 1. */
export type PairJudge = (input: PairInput) => readonly number[] | Promise<readonly number[]>

/** A sample of the policy and one of its rival. */
export type Rivals = readonly [own: Trace, other: Trace]

/** Did the policy alone write it? What has no mark is the policy's. */
export const isOwn = ({ scores }: Trace): boolean => scores.onPolicy !== 0

/** Traces with a mark of whose they are. */
export const marked = (traces: readonly Trace[], onPolicy: 0 | 1): Trace[] =>
  traces.map((trace) => withScores(trace, { onPolicy }))

/**
 * Per task `numGenerations` samples of the policy, and as many of its rival.
 *
 * @param settings with `mixtureCoef`, the reference's share in the rival; 1: the rival is the reference
 */
export function sampleRivals(settings: SampleGroupOptions & { readonly mixtureCoef: number }): Explore {
  checkOptions('sampleRivals', { mixtureCoef: settings.mixtureCoef }, { mixtureCoef: kinds.number })
  const { mixtureCoef, ...own } = settings
  const [explore, oppose] = [sampleGroup(own), sampleGroup(settings)]
  return async (context, tasks) => {
    const ours = marked(await explore(context, tasks), 1)
    const theirs = marked(await oppose(context, tasks), mixtureCoef === 0 ? 1 : 0)
    const renumbered = theirs.map((trace) => ({ ...trace, sample: settings.numGenerations + trace.sample }))
    return [...ours, ...renumbered]
  }
}

/** The first half of each task's traces against the second, one by one. */
export const rivalsOf = (traces: readonly Trace[]): Rivals[] =>
  byTask(traces).flatMap((group) => {
    const half = group.length / 2
    return group.slice(0, half).map((own, i): Rivals => [own, group[half + i]])
  })

const isSwapped = ([{ task, sample }]: Rivals): boolean => uniform(deriveKey(0, 'order', task.id, sample), 0) < 0.5

/** What a judge says, checked, as the probability that the policy's sample is better. */
async function askJudge(judge: PairJudge, pairs: readonly Rivals[]): Promise<number[]> {
  const refuse = (message: string, cause?: unknown): never => {
    throw new WhetstoneError('E_VERIFIER', 'judge', message, { cause })
  }
  const swapped = pairs.map(isSwapped)
  const texts = pairs.map((pair) => pair.map(completionOf) as [string, string])
  const tasks = pairs.map(([{ task }]) => task)
  let said: readonly number[] = []
  try {
    said = await judge({
      prompts: tasks.map(({ prompt }) => prompt),
      completions: texts.map(([own, other], i) => (swapped[i] ? [other, own] : [own, other])),
      tasks,
      rows: tasks.map(({ row }) => row ?? {}),
    })
  } catch (error) {
    refuse(`failed on ${pairs.length} pairs from task ${tasks[0].id} on: ${messageOf(error)}`, error)
  }
  if (!Array.isArray(said) || said.length !== pairs.length) {
    const got = Array.isArray(said) ? `${said.length} entries` : shownArgument(said)
    refuse(`expected a list of ${pairs.length} probabilities, one per pair, got ${got}`)
  }
  const bad = said.findIndex((p) => !(typeof p === 'number' && p >= 0 && p <= 1))
  if (bad >= 0) refuse(`expected a number from 0 to 1, got ${String(said[bad])} for task ${tasks[bad].id}`)
  return said.map((p, i) => (swapped[i] ? 1 - p : p))
}

const logistic = (x: number): number => 1 / (1 + Math.exp(-x))

/**
 * Adds the score `preference` to both samples of a pair: the probability that the one beats the other.
 *
 * @param score what gives each sample its `reward`
 * @param judge in place of rewards, which then are numbers to look at
 * @throws WhetstoneError E_VERIFIER for a judge that fails, or says something else than probabilities
 */
export function comparePairs(score: Score, judge?: PairJudge): Score {
  checkArgument('comparePairs.score', score, kinds.call)
  return async (traces) => {
    const pairs = rivalsOf(await score(traces))
    if (pairs.length === 0) return []
    const byReward = ([own, other]: Rivals) => logistic(own.scores.reward - other.scores.reward)
    const preferences = judge === undefined ? pairs.map(byReward) : await askJudge(judge, pairs)
    const own = pairs.map(([trace], i) => withScores(trace, { preference: preferences[i] }))
    const others = pairs.map(([, trace], i) => withScores(trace, { preference: 1 - preferences[i] }))
    return [...own, ...others]
  }
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** TRL's numbers of such pairs: rewards of both, what the policy is ahead, how often it wins, which end by themselves. */
export function rivalStatistics(traces: readonly Trace[]): Record<string, number> {
  const pairs = rivalsOf(traces)
  const [own, others] = [0, 1].map((side) => pairs.map((pair) => pair[side]))
  const ended = (side: readonly Trace[]) => mean(side.map(({ finishReason }) => Number(finishReason === 'stop')))
  const [model, other] = [own, others].map((side) => mean(side.map(({ scores }) => scores.reward)))
  return {
    'rewards/probabilities': mean(own.map(({ scores }) => scores.preference)),
    ...(Number.isFinite(model - other) && {
      'objective/model_scores': model,
      'objective/ref_scores': other,
      'objective/scores_margin': model - other,
    }),
    'val/model_contain_eos_token': ended(own),
    'val/ref_contain_eos_token': ended(others),
  }
}
