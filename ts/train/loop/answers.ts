// Score: what the samples of a task say about each other and what their own model makes of them. No ground truth comes in:
// these are the signals of self-feedback (Internal Consistency and Self-Feedback, arXiv 2407.14507; Sharpening, 2412.01951).

import { checkArgument, kinds, optional } from '../../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import { calibrationError, rankCorrelation } from './calibration.js'
import type { Score } from './score.js'
import { byTask, completionLength, type Trace, tracesKind, turnsOf, withScores } from './trace.js'

/** The final answer of an attempt; undefined where there is none. */
export type AnswerOf = (trace: Trace) => string | undefined

/**
 * Reads final answers.
 *
 * @param pattern regular expression; its last match in the last turn counts, of that the first group if there is one.
 *   Default the whole turn
 * @throws WhetstoneError E_CONFIG for a pattern that is none
 */
export function answerReader(pattern?: string): AnswerOf {
  checkArgument('answerPattern', pattern, optional(kinds.filled))
  const textOf = (trace: Trace) => turnsOf(trace).at(-1)?.text ?? ''
  if (pattern === undefined) return (trace) => textOf(trace).trim()
  const regular = regularOf(pattern)
  return (trace) => {
    const match = [...textOf(trace).matchAll(regular)].at(-1)
    return match?.[1] ?? match?.[0]
  }
}

function regularOf(pattern: string): RegExp {
  try {
    return new RegExp(pattern, 'gu')
  } catch (cause) {
    const text = `expected a regular expression, got ${JSON.stringify(pattern)}: ${messageOf(cause)}`
    throw new WhetstoneError('E_CONFIG', 'answerPattern', text, { cause })
  }
}

/** How far the answers of one task agree. */
export interface Consistency {
  /** For each answer the share of all that say the same; 0 for none. */
  readonly votes: readonly number[]
  /** The largest of them. */
  readonly majority: number
  /** Of the distribution over answers, in bits. */
  readonly entropy: number
  /** Different answers over all; 1: no two agree. */
  readonly disagreement: number
  /** Of the answers as numbers, divided by how many there are; undefined where one of them is no number. */
  readonly variance: number | undefined
}

/** The mean squared distance to the mean. */
function spreadOf(answers: readonly (string | undefined)[]): number | undefined {
  const numbers = answers.map((answer) => (answer === undefined || answer.trim() === '' ? Number.NaN : Number(answer)))
  if (!numbers.every(Number.isFinite)) return undefined
  const centre = mean(numbers)
  return mean(numbers.map((value) => (value - centre) ** 2))
}

/** How far answers agree; those that are undefined agree with none. */
export function consistencyOf(answers: readonly (string | undefined)[]): Consistency {
  const counts = new Map<string, number>()
  for (const answer of answers) if (answer !== undefined) counts.set(answer, (counts.get(answer) ?? 0) + 1)
  const votes = answers.map((answer) => (answer === undefined ? 0 : (counts.get(answer) ?? 0) / answers.length))
  const unanswered = answers.filter((answer) => answer === undefined).length
  const shares = [...counts.values(), ...Array<number>(unanswered).fill(1)].map((count) => count / answers.length)
  return {
    votes,
    majority: Math.max(0, ...votes),
    entropy: shares.reduce((sum, share) => sum - share * Math.log2(share), 0),
    disagreement: shares.length / Math.max(1, answers.length),
    variance: spreadOf(answers),
  }
}

/** Adds a score, the share of the samples of a task that have the same final answer; 0 where there is none. */
export function voteShare(answerOf: AnswerOf, as = 'votes'): Score {
  checkArgument('voteShare.answerOf', answerOf, kinds.call)
  checkArgument('voteShare.as', as, kinds.filled)
  return async (traces) => {
    checkArgument('voteShare: traces', traces, tracesKind)
    return byTask(traces).flatMap((group) => {
      const { votes } = consistencyOf(group.map(answerOf))
      return group.map((trace, i) => withScores(trace, { [as]: votes[i] }))
    })
  }
}

/** Adds a score, the share of the sum of another one that samples of a task with the same final answer have; 0 for none. */
export function weightedVotes(answerOf: AnswerOf, by: string, as = 'votes'): Score {
  return async (traces) =>
    byTask(traces).flatMap((group) => {
      const sums = new Map<string | undefined, number>()
      for (const trace of group) sums.set(answerOf(trace), (sums.get(answerOf(trace)) ?? 0) + trace.scores[by])
      const all = group.reduce((sum, { scores }) => sum + scores[by], 0)
      return group.map((trace) => {
        const own = answerOf(trace)
        return withScores(trace, { [as]: own === undefined || all === 0 ? 0 : (sums.get(own) ?? 0) / all })
      })
    })
}

/**
 * Adds a score, log p of what was written under the model that wrote it, in nats.
 *
 * @param reduction over the tokens of all turns
 */
export function likelihood(reduction: 'sum' | 'mean', as = 'likelihood'): Score {
  checkArgument('likelihood.as', as, kinds.filled)
  return async (traces) => {
    checkArgument('likelihood: traces', traces, tracesKind)
    return traces.map((trace) => {
      const sum = turnsOf(trace).reduce((all, { logps = [] }) => logps.reduce((part, l) => part + l, all), 0)
      return withScores(trace, { [as]: reduction === 'sum' ? sum : sum / Math.max(1, completionLength(trace)) })
    })
  }
}

/** Is the answer that most samples of a task give right, by `gold` or else the reward? Of equally many the mean. */
function majorityRight(group: readonly Trace[], { votes, majority }: Consistency): number {
  const leading = group.filter((_, i) => votes[i] === majority && majority > 0)
  return mean(leading.map(({ scores }) => scores.gold ?? scores.reward))
}

/**
 * Are tasks whose samples agree more also right more often? Over tasks: how often the majority is right, the rank correlation of its share
 * with that, and the calibration error of the share as a probability. Nothing where samples are not known to be right or wrong.
 */
function correctness(
  groups: readonly (readonly Trace[])[],
  agreements: readonly Consistency[],
): Record<string, number> {
  const isKnown = ({ scores: { gold, reward } }: Trace) => [0, 1].includes(gold ?? reward)
  if (groups.length === 0 || !groups.flat().every(isKnown)) return {}
  const shares = agreements.map(({ majority }) => majority)
  const right = groups.map((group, i) => majorityRight(group, agreements[i]))
  const correlation = rankCorrelation(shares, right)
  return {
    'answers/majority_right': mean(right),
    'answers/calibration_error': calibrationError(shares, right),
    ...(correlation !== undefined && { 'answers/correlation': correlation }),
  }
}

/** Means over tasks of how far their samples agree, and what that tells of their being right. */
export function consistencyStatistics(traces: readonly Trace[], answerOf: AnswerOf): Record<string, number> {
  const tasks = byTask(traces)
  const groups = tasks.map((group) => consistencyOf(group.map(answerOf)))
  const variances = groups.flatMap(({ variance }) => variance ?? [])
  return {
    'answers/majority': mean(groups.map(({ majority }) => majority)),
    'answers/entropy': mean(groups.map(({ entropy }) => entropy)),
    'answers/disagreement': mean(groups.map(({ disagreement }) => disagreement)),
    ...(variances.length > 0 && { 'answers/variance': mean(variances) }),
    ...correctness(tasks, groups),
  }
}
