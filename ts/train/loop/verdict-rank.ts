// The mix of an exact checker and a reward model that ranks what it lets pass (Qwen2.5-Math, arXiv 2409.12122).

import { logistic, mean } from '../../src/base/stats.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Score } from './score.js'
import type { Select } from './select.js'
import { byTask, type Trace, withScores } from './trace.js'

/** s(alpha r_m) + (r_v - 1): right answers are in (0, 1), wrong ones in (-1, 0); within either the reward model ranks. */
export const shapedReward = (rank: number, isRight: boolean, alpha: number): number =>
  logistic(alpha * rank) + (isRight ? 0 : -1)

/**
 * Scores of answers that a checker and a reward model judge: `right`, 1 or 0; `rank`, the number of the model's head at the last
 * token; and `reward`, {@link shapedReward} of both.
 *
 * @param right least reward of a right answer
 */
export const rankedReward =
  (rewards: Score, model: LanguageModel, { alpha, right }: Readonly<Record<'alpha' | 'right', number>>): Score =>
  async (traces) => {
    const judged = (await rewards(traces)).filter(({ scores }) => scores.reward !== undefined)
    if (judged.length === 0) return []
    const ranks = await model.scores(judged.map(({ segments }) => segments.flatMap(({ ids }) => ids)))
    return judged.map((trace, i) => {
      const isRight = trace.scores.reward >= right
      const rank = ranks[i][0]
      return withScores(trace, { right: Number(isRight), rank, reward: shapedReward(rank, isRight, alpha) })
    })
  }

const rightOf = (group: readonly Trace[]): number => group.reduce((sum, { scores }) => sum + scores.right, 0)

/** Tasks of whose samples a share from `least` to `most` is right. */
export const passBand =
  (least: number, most: number): Select =>
  (traces) =>
    byTask(traces)
      .filter((group) => {
        const share = rightOf(group) / group.length
        return share >= least && share <= most
      })
      .flat()

/**
 * `pass@1`, `pass@N`, and `rm@N`: shares of right answers among all, of tasks with one, and of tasks whose best answer by the
 * reward model is right, of equals the first. `rm/accuracy`: of pairs of a right and a wrong answer to one task those that the
 * model ranks so, ties half; it has not seen them yet.
 */
export function rankStatistics(traces: readonly Trace[]): Record<string, number> {
  const groups = byTask(traces)
  const best = groups.map((group) => group.reduce((a, b) => (b.scores.rank > a.scores.rank ? b : a)))
  const pairs = groups.flatMap((group) => {
    const [good, bad] = [1, 0].map((right) => group.filter(({ scores }) => scores.right === right))
    return good.flatMap((g) => bad.map((b) => (1 + Math.sign(g.scores.rank - b.scores.rank)) / 2))
  })
  return {
    'pass@1': mean(traces.map(({ scores }) => scores.right)),
    'pass@N': mean(groups.map((group) => Number(rightOf(group) > 0))),
    'rm@N': mean(best.map(({ scores }) => scores.right)),
    ...(pairs.length > 0 && { 'rm/accuracy': mean(pairs) }),
  }
}
