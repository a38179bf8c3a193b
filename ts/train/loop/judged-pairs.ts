// Pairs of samples that a judge of uncertainty has looked at: the better half of a task's samples by reward against the worse
// half. What the judge says of a pair is kept as scores of its better sample, `p/J`, `vote/J` and `bald/J` with J the number of
// the worse one, so that a run which goes on need not ask again.

import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import { mean } from '../../src/base/stats.js'
import { drawJudge, type JudgeDraws, type PairJudge, type TracePair } from './judges.js'
import type { Score } from './score.js'
import { byTask, type Trace, withScores } from './trace.js'
import { uncertainty } from './uncertainty.js'

/** A pair, the first by reward chosen, and what the judge says of it. */
export interface JudgedPair {
  readonly chosen: Trace
  readonly rejected: Trace
  /** Mean probability that the chosen one is better. */
  readonly probability: number
  /** Do most draws say so? 1, 0, or 1/2 where it is even. */
  readonly vote: number
  readonly bald: number
}

/** Each sample of the better half of a task by reward with each of the worse half, where their rewards differ. */
export const halfPairs = (traces: readonly Trace[]): TracePair[] =>
  byTask(traces).flatMap((group) => {
    const ranked = group.toSorted((a, b) => b.scores.reward - a.scores.reward || a.sample - b.sample)
    const half = Math.floor(ranked.length / 2)
    const worse = ranked.slice(ranked.length - half)
    return ranked.slice(0, half).flatMap((own) => {
      const others = worse.filter(({ scores }) => scores.reward < own.scores.reward)
      return others.map((other): TracePair => [own, other])
    })
  })

/**
 * Asks a judge for draws of every pair of {@link halfPairs}.
 *
 * @param score what gives each sample its `reward`
 * @throws WhetstoneError E_CONFIG for a judge without draws, for samples without a reward, E_VERIFIER for one that fails
 */
export const judgeHalves =
  (score: Score, judge: PairJudge, draws: JudgeDraws): Score =>
  async (traces) => {
    const scored = await score(traces)
    if (scored.some(({ scores: { reward } }) => reward === undefined))
      throw new WhetstoneError(
        'E_CONFIG',
        'rewardFuncs',
        'expected rewards beside the judge: they make the pairs, got none',
      )
    const pairs = halfPairs(scored)
    const said = pairs.length === 0 ? [] : (await drawJudge(judge, pairs, draws)).map(uncertainty)
    const noted = new Map<Trace, Record<string, number>>()
    for (const [i, [own, other]] of pairs.entries()) {
      const { mean: probability, vote, bald } = said[i]
      const { sample } = other
      const more = { [`p/${sample}`]: probability, [`vote/${sample}`]: vote, [`bald/${sample}`]: bald }
      noted.set(own, { ...noted.get(own), ...more })
    }
    return scored.map((trace) => withScores(trace, noted.get(trace) ?? {}))
  }

/** The pairs of scored traces with what the judge said of them. */
export const judgedPairs = (traces: readonly Trace[]): JudgedPair[] =>
  halfPairs(traces).map(([chosen, rejected]) => {
    const [probability, vote, bald] = ['p', 'vote', 'bald'].map((name) => chosen.scores[`${name}/${rejected.sample}`])
    return { chosen, rejected, probability, vote, bald }
  })

/**
 * Some of the pairs, drawn without replacement: the chance to come next goes by the weights (Efraimidis and Spirakis 2006: the
 * least -log(u) / weight). Each pair has a number of its own, whatever stands beside it.
 *
 * @param weightOf at least 0; pairs with 0 come last
 */
export function drawPairs(
  pairs: readonly JudgedPair[],
  count: number,
  weightOf: (pair: JudgedPair) => number,
  ...key: readonly [seed: number, name: string]
): JudgedPair[] {
  const timeOf = (pair: JudgedPair) => {
    const { task, sample } = pair.chosen
    return -Math.log(1 - uniform(deriveKey(...key, task.id, sample, pair.rejected.sample), 0)) / weightOf(pair)
  }
  const timed = pairs.map((pair) => ({ pair, time: weightOf(pair) > 0 ? timeOf(pair) : Number.POSITIVE_INFINITY }))
  const inOrder = timed.sort((a, b) => (a.time === b.time ? 0 : a.time - b.time))
  return inOrder.slice(0, count).map(({ pair }) => pair)
}

/** Of each task the first `count` pairs. */
export function firstOfTask(pairs: readonly JudgedPair[], count: number): JudgedPair[] {
  const taken = new Map<string, number>()
  return pairs.filter(({ chosen: { task } }) => {
    const before = taken.get(task.id) ?? 0
    taken.set(task.id, before + 1)
    return before < count
  })
}

/** Of the pairs that the exact checker tells apart, the share whose rejected sample is the right one; undefined without any. */
export function noiseRate(pairs: readonly JudgedPair[]): number | undefined {
  const gaps = pairs
    .map(({ chosen, rejected }) => chosen.scores.gold - rejected.scores.gold)
    .filter((gap) => gap < 0 || gap > 0)
  return gaps.length === 0 ? undefined : mean(gaps.map((gap) => Number(gap < 0)))
}
