// Rewards of the parts of an attempt that end at different places (LeDex, arXiv 2405.18649): an explanation is paid at its last token, the
// refinement behind it at its own, so that a good explanation before a bad refinement is not punished where it ends.

import { mean } from '../../src/base/stats.js'
import { comment, refined } from './critique.js'
import { byTask, type Trace, turnRewards, turnsOf, withScores } from './trace.js'

/** Length of the longest common subsequence. */
function common(a: readonly number[], b: readonly number[]): number {
  let row = new Uint32Array(b.length + 1)
  for (const token of a) {
    const next = new Uint32Array(b.length + 1)
    for (let j = 0; j < b.length; j++) next[j + 1] = token === b[j] ? row[j] + 1 : Math.max(row[j + 1], next[j])
    row = next
  }
  return row[b.length]
}

/** How alike two texts are, from 0 to 1: ROUGE-L's F1 over tokens (Lin 2004). 1 of two empty ones. */
export function overlap(a: readonly number[], b: readonly number[]): number {
  const total = a.length + b.length
  return total === 0 ? 1 : (2 * common(a, b)) / total
}

/** R = 5 (similarity + share of tests passed) - 5, from -5 to 5 (their equation for refinements). */
export const refinementReward = (similarity: number, passed: number): number => 5 * (similarity + passed) - 5

/** R = (50 similarity - 35) / 3: from 0.4 to 1 it goes from -5 to 5, and is 0 at 0.7 (their equation for explanations). */
export const explanationReward = (similarity: number): number => (50 * similarity - 35) / 3

/**
 * What a token is worth: rewards at the ends of its own and of later segments, discounted by gamma for each token from it to them.
 *
 * @param lengths tokens of each segment
 * @param rewards at the last token of each segment
 * @returns for each segment a number for each of its tokens
 */
export function discountedReturns(
  lengths: readonly number[],
  rewards: readonly number[],
  gamma: number,
): Float64Array[] {
  const returns = lengths.map((length) => new Float64Array(length))
  let ahead = 0
  for (let segment = lengths.length - 1; segment >= 0; segment--)
    for (let t = lengths[segment] - 1; t >= 0; t--) {
      ahead = (t === lengths[segment] - 1 ? rewards[segment] : 0) + gamma * ahead
      returns[segment][t] = ahead
    }
  return returns
}

const wasExplained = (trace: Trace): boolean => turnsOf(trace).length > refined

/** Mean likeness of a turn to those of some traces, itself among them if it is one; undefined where there are none. */
function likeness(own: Trace, some: readonly Trace[], turnOf: (trace: Trace) => number): number | undefined {
  const idsOf = (trace: Trace) => turnsOf(trace)[turnOf(trace)].ids
  return some.length === 0 ? undefined : mean(some.map((one) => overlap(idsOf(own), idsOf(one))))
}

/**
 * Explained attempts with the scores `explanation` and `refinement`, both less their mean over the prompt. Where no answer was wrong all
 * attempts, as they are: they have no gradient.
 */
export const explainedRewards =
  (right: number) =>
  (traces: readonly Trace[]): Trace[] => {
    if (!traces.some(wasExplained)) return [...traces]
    return byTask(traces).flatMap((group) => {
      const last = (trace: Trace) => turnsOf(trace).length - 1
      const solved = group.filter((trace) => turnRewards(trace)[last(trace)] >= right)
      const explained = group.filter(wasExplained)
      const paid = explained.map((trace) => {
        const meant = likeness(trace, solved.filter(wasExplained), () => comment)
        return {
          explanation: meant === undefined ? 0 : explanationReward(meant),
          refinement: refinementReward(likeness(trace, solved, last) ?? 0, turnRewards(trace)[refined]),
        }
      })
      const [e, r] = [mean(paid.map((one) => one.explanation)), mean(paid.map((one) => one.refinement))]
      return explained.map((trace, i) =>
        withScores(trace, { explanation: paid[i].explanation - e, refinement: paid[i].refinement - r }),
      )
    })
  }
