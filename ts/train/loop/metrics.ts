// What a round of self-training reports. `roundStatistics`: tasks with exact checkers. `rewardStatistics`: reward
// functions, under the names of TRL's GRPO trainer. Standard deviations use n - 1, as there.

import { isTied, rewardsOf } from './credit.js'
import { byTask, type Trace, turnsOf } from './trace.js'

/** Numbers of a round from all of its traces and those that were selected. */
export type RoundStatistics = (traces: readonly Trace[], kept: readonly Trace[]) => Record<string, number>

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)

/** 0 for fewer than two values. */
function deviation(values: readonly number[]): number {
  const centre = mean(values)
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / Math.max(1, values.length - 1))
}

/** Counts, mean reward, and shares of samples and of tasks that are solved. */
export const roundStatistics: RoundStatistics = (traces, kept) => {
  const groups = byTask(traces)
  const rewards = traces.map((trace) => trace.scores.reward ?? 0)
  const solved = groups.filter((group) => group.some((trace) => (trace.scores.reward ?? 0) > 0)).length
  return {
    tasks: groups.length,
    samples: traces.length,
    kept: kept.length,
    /** Samples on which the checker failed; they count as wrong. */
    unscored: traces.filter((trace) => Object.keys(trace.scores).length === 0).length,
    reward: mean(rewards),
    passAt1: mean(rewards),
    passAtN: solved / Math.max(1, groups.length),
  }
}

/** Mean and deviation of every score whose name begins with `reward`, over the samples that have it. */
function byReward(traces: readonly Trace[]): Record<string, number> {
  const names = new Set(traces.flatMap(({ scores }) => Object.keys(scores)).filter((name) => /^rewards?\//.test(name)))
  return Object.fromEntries(
    [...names].flatMap((name) => {
      const values = traces.flatMap(({ scores }) => scores[name] ?? [])
      return [
        [`${name}/mean`, mean(values)],
        [`${name}/std`, deviation(values)],
      ]
    }),
  )
}

/** 0 where there is nothing, as in TRL. */
const least = (values: readonly number[]): number =>
  values.length === 0 ? 0 : values.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY)
const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b), 0)

/** Lengths in tokens, end tokens included, and the share of turns that were cut off. */
function lengths(traces: readonly Trace[]): Record<string, number> {
  const turns = traces.flatMap((trace) =>
    turnsOf(trace).map(({ ids, finishReason }) => ({
      length: ids.length,
      ended: (finishReason ?? trace.finishReason) === 'stop',
    })),
  )
  const ended = turns.filter((turn) => turn.ended).map(({ length }) => length)
  const all = turns.map(({ length }) => length)
  return {
    'completions/mean_length': mean(all),
    'completions/min_length': least(all),
    'completions/max_length': most(all),
    'completions/mean_terminated_length': mean(ended),
    'completions/min_terminated_length': least(ended),
    'completions/max_terminated_length': most(ended),
    'completions/clipped_ratio': 1 - ended.length / Math.max(1, turns.length),
  }
}

/** Mean over tokens of log pi - log ref, where traces know the reference: an estimate of KL(policy || reference). */
function klOf(traces: readonly Trace[]): Record<string, number> {
  const gaps = traces.flatMap((trace) =>
    turnsOf(trace).flatMap(({ logps = [], reference }) => reference?.map((ref, t) => logps[t] - ref) ?? []),
  )
  return gaps.length === 0 ? {} : { kl: mean(gaps) }
}

/** TRL's numbers; `reward_std` is the deviation over all samples. Nothing of rewards where there are none. */
export const rewardStatistics: RoundStatistics = (traces, kept) => {
  const groups = byTask(traces)
  return {
    tasks: groups.length,
    samples: traces.length,
    kept: kept.length,
    ...(traces.some(({ scores }) => scores.reward !== undefined) && {
      reward: mean(rewardsOf(traces)),
      reward_std: deviation(rewardsOf(traces)),
      frac_reward_zero_std: mean(groups.map((group) => Number(isTied(group)))),
    }),
    ...byReward(traces),
    ...lengths(traces),
    ...klOf(traces),
  }
}

/**
 * Entropy per token, in nats, estimated by the samples themselves: the mean of -log p of what was drawn. Unbiased where
 * sampling is at temperature 1 and cuts nothing off.
 */
export const sampledEntropy = (traces: readonly Trace[]): number => {
  const logps = traces.flatMap((trace) => turnsOf(trace).flatMap(({ logps = [] }) => logps))
  return -mean(logps)
}

/**
 * Two attempts at each task (SCoRe's monitors): gain of the second, shares that it mends and breaks, and share of answers
 * that it changes. Traces with one turn are left out.
 */
export const twoTurnStatistics = (traces: readonly Trace[]): Record<string, number> => {
  const pairs = traces.flatMap((trace) => {
    const [first, second] = turnsOf(trace)
    return second === undefined ? [] : [{ first, second, gain: trace.scores['reward/2'] - trace.scores['reward/1'] }]
  })
  return {
    'turns/gain': mean(pairs.map(({ gain }) => gain)),
    'turns/mended': mean(pairs.map(({ gain }) => Number(gain > 0))),
    'turns/broken': mean(pairs.map(({ gain }) => Number(gain < 0))),
    'turns/changed': mean(pairs.map(({ first, second }) => Number(first.text !== second.text))),
  }
}
