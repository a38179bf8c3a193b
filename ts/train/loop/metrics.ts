// What a round of self-training reports. `roundStatistics`: tasks with exact checkers. `rewardStatistics`: reward
// functions, under the names of TRL's GRPO trainer. Standard deviations use n - 1, as there.

import { deviation, mean } from '../../src/base/stats.js'
import { isTied, rewardsOf } from './credit.js'
import { byStem, byTask, type Trace, turnsOf } from './trace.js'

/** Numbers of a round from all of its traces and those that were selected. */
export type RoundStatistics = (traces: readonly Trace[], kept: readonly Trace[]) => Record<string, number>

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

/**
 * Mean and deviation of every score whose name begins with `reward`, over the samples that have it; of reward functions that do
 * not apply to all samples the share that they do, too.
 */
function byReward(traces: readonly Trace[]): Record<string, number> {
  const names = new Set(traces.flatMap(({ scores }) => Object.keys(scores)).filter((name) => /^rewards?\//.test(name)))
  return Object.fromEntries(
    [...names].flatMap((name) => {
      const values = traces.flatMap(({ scores }) => scores[name] ?? [])
      return [
        [`${name}/mean`, mean(values)],
        [`${name}/std`, deviation(values)],
        ...(name.startsWith('rewards/') && values.length < traces.length
          ? [[`${name}/applied`, values.length / traces.length]]
          : []),
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

/**
 * How often the reward ranks a right sample above a wrong one of its task, ties as half: what is missing to 1 is the gap
 * between the reward that is trained and what it stands for. undefined where no task has both kinds.
 */
export function rankedByReward(traces: readonly Trace[]): number | undefined {
  const ranked = byTask(traces).flatMap((group) => {
    const among = (kind: number) =>
      group.filter(({ scores: { gold, reward } }) => gold === kind && reward !== undefined)
    const [wrong, right] = [among(0), among(1)]
    return right.flatMap((one) => wrong.map((other) => (1 + Math.sign(one.scores.reward - other.scores.reward)) / 2))
  })
  return ranked.length === 0 ? undefined : mean(ranked)
}

/**
 * By the exact checker, where it looks on: shares of right samples and of right ones among those kept, and how far the
 * reward is of its opinion.
 */
function goldOf(traces: readonly Trace[], kept: readonly Trace[]): Record<string, number> {
  const [all, chosen] = [traces, kept].map((some) => some.flatMap(({ scores }) => scores.gold ?? []))
  const ranked = rankedByReward(traces)
  return all.length === 0
    ? {}
    : {
        gold: mean(all),
        ...(chosen.length > 0 && { 'gold/kept': mean(chosen) }),
        ...(ranked !== undefined && { 'gold/ranked': ranked }),
      }
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
    ...goldOf(traces, kept),
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

/**
 * Self-correction in two numbers (Confidence v.s. Critique, 2412.19513), from the first turn and the last of each trace. With a
 * for a right first answer and b for a right last one: confidence CL = P(b | a), critique CS = P(b | not a), and
 *   RSS = (P(b) - P(a)^2) / (2 P(a) (1 - P(a))),
 * where 1/2 means no change between no skill and all of it; it leaves [0, 1] where CS <= P(a) <= CL fails. Traces with one
 * turn are left out; there is nothing to say where a reward is neither 0 nor 1, and no number whose condition never holds.
 */
export function correctionStatistics(traces: readonly Trace[]): Record<string, number> {
  const pairs = traces.flatMap((trace) => {
    const turns = turnsOf(trace).length
    return turns < 2 ? [] : [[trace.scores['reward/1'], trace.scores[`reward/${turns}`]] as const]
  })
  if (pairs.length === 0 || pairs.flat().some((reward) => reward !== 0 && reward !== 1)) return {}
  const among = (first: 0 | 1) => pairs.filter(([a]) => a === first).map(([, b]) => b)
  const [right, wrong] = [among(1), among(0)]
  const [before, after] = [right.length / pairs.length, mean(pairs.map(([, b]) => b))]
  return {
    ...(right.length > 0 && { 'turns/confidence': mean(right) }),
    ...(wrong.length > 0 && { 'turns/critique': mean(wrong) }),
    ...(right.length * wrong.length > 0 && { 'turns/rss': (after - before ** 2) / (2 * before * (1 - before)) }),
  }
}

/**
 * Attempts whose later turns branch: mean reward of first turns, of last turns, and of the best branch of each attempt. An
 * attempt that ended with its first turn counts with it.
 *
 * @param continuations numbers of samples that an attempt has
 */
export function attemptStatistics(traces: readonly Trace[], continuations: number): Record<string, number> {
  const all = byStem(traces, continuations)
  return {
    'turns/first': mean(all.map(([{ scores }]) => scores['reward/1'])),
    'turns/last': mean(all.map((own) => mean(rewardsOf(own)))),
    'turns/best': mean(all.map((own) => Math.max(...rewardsOf(own)))),
  }
}
