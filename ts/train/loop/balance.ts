// Control: how a round is to sample and to select, chosen by a number that the samples themselves give. The balance score
// of B-STaR (Zeng et al. 2024, arXiv 2412.17256) of one query, from its n selected samples, of which n' are right and unlike
// each other:
//   bs = min(n' / n*, 1) n' / n,   n* = right samples wanted per query
// The first factor says whether there is enough to learn from, and no query counts for more than that; the second how much
// of what is trained on is right. No sample selected: 0.

import { mean } from '../../src/base/stats.js'
import type { Select } from './select.js'
import { byTask, completionOf, type Trace } from './trace.js'
import { gridArgmax, type Tuned } from './tuner.js'

/** The balance score of a query. */
export const balanceScore = (selected: number, uniqueRight: number, wanted: number): number =>
  selected === 0 ? 0 : (Math.min(uniqueRight / wanted, 1) * uniqueRight) / selected

/** How samples are judged for balance. */
export interface BalanceOptions {
  /** Right samples wanted per query. */
  readonly wanted: number
  /** Is a sample right? */
  readonly isRight: (trace: Trace) => boolean
}

const distinct = (traces: readonly Trace[]): Trace[] => {
  const seen = new Set<string>()
  return traces.filter((trace) => !seen.has(completionOf(trace)) && seen.add(completionOf(trace)))
}

/** Mean balance score over tasks when samples with a reward above the threshold are selected. */
export const balanceAt = (traces: readonly Trace[], threshold: number, { wanted, isRight }: BalanceOptions): number =>
  mean(
    byTask(traces).map((group) => {
      const selected = group.filter(({ scores }) => scores.reward > threshold)
      return balanceScore(selected.length, distinct(selected.filter(isRight)).length, wanted)
    }),
  )

/** The threshold with the best balance over the traces; of equals the highest, so that nothing is trained where nothing is right. */
export const bestThreshold = (
  traces: readonly Trace[],
  thresholds: readonly number[],
  options: BalanceOptions,
): Tuned<number> =>
  gridArgmax(
    thresholds.toSorted((a, b) => b - a),
    (threshold) => balanceAt(traces, threshold, options),
  )

/**
 * Quota: of each task its best `k` different samples above the threshold, with the least k that gives `target` samples, or
 * all of them where there are fewer. Of equals the lower sample number.
 */
export const pickQuota =
  (threshold: number, target: number): Select =>
  (traces) => {
    const groups = byTask(traces).map((group) =>
      distinct(
        group
          .filter(({ scores }) => scores.reward > threshold)
          .toSorted((a, b) => b.scores.reward - a.scores.reward || a.sample - b.sample),
      ),
    )
    const most = Math.max(0, ...groups.map(({ length }) => length))
    const countAt = (k: number) => groups.reduce((sum, { length }) => sum + Math.min(k, length), 0)
    let k = 1
    while (k < most && countAt(k) < target) k++
    return groups.flatMap((group) => group.slice(0, k))
  }

/** Pass@K-S and Reward@K-S: shares of tasks with S different right samples, and whose S best by reward are all right. */
export function explorationStatistics(
  traces: readonly Trace[],
  size: number,
  { isRight }: Pick<BalanceOptions, 'isRight'>,
): Record<string, number> {
  const groups = byTask(traces)
  const byReward = (group: readonly Trace[]) =>
    group.toSorted((a, b) => b.scores.reward - a.scores.reward || a.sample - b.sample).slice(0, size)
  return {
    'balance/pass_k_s': mean(groups.map((group) => Number(distinct(group.filter(isRight)).length >= size))),
    'balance/reward_k_s': mean(groups.map((group) => Number(byReward(group).every(isRight)))),
    'balance/distinct': mean(groups.map((group) => distinct(group).length / group.length)),
  }
}
