// Pairs of a sample of the policy and one of a rival: the reference (XPO), or the geometric mixture of both (Nash-MD). Which
// of the two is better is the probability `preference`: the logistic function of the difference of their rewards, as in TRL,
// or what a judge of pairs says. The score `onPolicy` is 1 on samples of the policy, 0 on others.

import { checkArgument, checkOptions, kinds } from '../../src/base/arguments.js'
import { logistic, mean } from '../../src/base/stats.js'
import { type Explore, type SampleGroupOptions, sampleGroup } from './explore.js'
import { askJudge, type PairJudge, type TracePair } from './judges.js'
import type { Score } from './score.js'
import { byTask, type Trace, turnsOf, withScores } from './trace.js'

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

/** The first half of each task's traces against the second, one by one: samples of the policy and of its rival. */
export const rivalsOf = (traces: readonly Trace[]): TracePair[] =>
  byTask(traces).flatMap((group) => {
    const half = group.length / 2
    return group.slice(0, half).map((own, i): TracePair => [own, group[half + i]])
  })

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
    const byReward = ([own, other]: TracePair) => logistic(own.scores.reward - other.scores.reward)
    const preferences = judge === undefined ? pairs.map(byReward) : await askJudge(judge, pairs)
    const own = pairs.map(([trace], i) => withScores(trace, { preference: preferences[i] }))
    const others = pairs.map(([, trace], i) => withScores(trace, { preference: 1 - preferences[i] }))
    return [...own, ...others]
  }
}

/**
 * Adds the score `preference` to samples of the policy: the mean probability that a judge gives them against the others of
 * their task.
 *
 * @param score what may score samples before
 * @throws WhetstoneError E_VERIFIER for a judge that fails, or says something else than probabilities
 */
export const rankByJudge =
  (score: Score, judge: PairJudge): Score =>
  async (traces) => {
    const groups = byTask(await score(traces))
    const pairs = groups.flatMap((group) =>
      group.flatMap((own, i) => group.slice(i + 1).map((other): TracePair => [own, other])),
    )
    if (pairs.length === 0) return groups.flat()
    const won = new Map<Trace, number>(groups.flat().map((trace) => [trace, 0]))
    const count = (trace: Trace, probability: number) => won.set(trace, (won.get(trace) ?? 0) + probability)
    for (const [i, probability] of (await askJudge(judge, pairs)).entries()) {
      const [own, other] = pairs[i]
      count(own, probability)
      count(other, 1 - probability)
    }
    return groups.flatMap((group) =>
      group.map((trace) => withScores(trace, { preference: (won.get(trace) ?? 0) / Math.max(1, group.length - 1) })),
    )
  }

const ended = (side: readonly Trace[]) => mean(side.map(({ finishReason }) => Number(finishReason === 'stop')))

/** TRL's entropy of samples: the mean of -log p of whole samples, in nats. Nothing where log-probs were not kept. */
function sampleEntropy(traces: readonly Trace[]): Record<string, number> {
  const turns = traces.map(turnsOf)
  if (turns.length === 0 || turns.flat().some(({ logps }) => logps === undefined)) return {}
  const sums = turns.map((own) => own.flatMap(({ logps = [] }) => logps).reduce((sum, logp) => sum - logp, 0))
  return { 'objective/entropy': mean(sums) }
}

/**
 * TRL's numbers of online DPO: mean reward, what the best sample of a task is ahead of the worst, entropy, which end by
 * themselves. Its `objective/kl` is in the steps, as (rewards/chosen + rewards/rejected) / (2 beta), for two samples a prompt.
 */
export function bestAndWorstStatistics(traces: readonly Trace[]): Record<string, number> {
  const groups = byTask(traces).map((group) => group.map(({ scores }) => scores.reward))
  const scores = mean(groups.flat())
  return {
    ...(Number.isFinite(scores) && {
      'objective/scores': scores,
      'objective/scores_margin': mean(groups.map((group) => Math.max(...group) - Math.min(...group))),
    }),
    ...sampleEntropy(traces),
    'val/contain_eos_token': ended(traces),
  }
}

/** TRL's numbers of such pairs: rewards of both, what the policy is ahead, how often it wins, which end by themselves. */
export function rivalStatistics(traces: readonly Trace[]): Record<string, number> {
  const pairs = rivalsOf(traces)
  const [own, others] = [0, 1].map((side) => pairs.map((pair) => pair[side]))
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
