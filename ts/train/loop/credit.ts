// Credit: from the rewards of groups to advantages, as scores of the traces. The formulas are ts/loss/advantages.ts.
// Also what DAPO's dynamic sampling needs: which groups teach anything.

import { type Advantages, normalizeThenSum } from '../../loss/advantages.js'
import { checkArgument, kinds } from '../../src/base/arguments.js'
import type { NamedReward } from './rewards.js'
import type { Select } from './select.js'
import { byTask, type Trace, withScores } from './trace.js'

/** Rewards of a group, one per trace. */
export const rewardsOf = (group: readonly Trace[], by = 'reward'): number[] => group.map(({ scores }) => scores[by])

/** True when all traces of a group have the same reward: their advantages are 0. */
export const isTied = (group: readonly Trace[], by = 'reward'): boolean =>
  group.every(({ scores }) => scores[by] === group[0].scores[by])

/** Traces of a group that have the score; none where failed checks leave one alone, with nothing to compare it with. */
function scoredOf(group: readonly Trace[], by: string): readonly Trace[] {
  const scored = group.filter(({ scores }) => scores[by] !== undefined)
  return scored.length < Math.min(2, group.length) ? [] : scored
}

/** Adds a score to the traces of groups of tasks, from a function of those groups. */
const creditGroups =
  (
    valuesOf: (groups: readonly (readonly Trace[])[]) => readonly (readonly number[])[],
    by: string,
    as: string,
  ): Select =>
  (traces) => {
    const groups = byTask(traces)
      .map((group) => scoredOf(group, by))
      .filter((group) => group.length > 0)
    if (groups.length === 0) return []
    const values = valuesOf(groups)
    return groups.flatMap((group, g) => group.map((trace, i) => withScores(trace, { [as]: values[g][i] })))
  }

/**
 * Adds the score `as`, an advantage within each task's group (or over all of them). Traces whose check failed have no
 * reward: they are left out, and teach nothing.
 *
 * @param advantages from the rewards of groups to as many numbers, such as `advantages.grpo`
 * @param by the score that is the reward, default `reward`
 * @param as the score that is added, default `advantage`
 */
export function credit(advantages: Advantages, by = 'reward', as = 'advantage'): Select {
  checkArgument('credit.advantages', advantages, kinds.call)
  checkArgument('credit.by', by, kinds.filled)
  checkArgument('credit.as', as, kinds.filled)
  return creditGroups((groups) => advantages(groups.map((group) => rewardsOf(group, by))), by, as)
}

/** Adds the score `advantage` by {@link normalizeThenSum} over what each reward function gave. */
export const creditEach = (rewards: readonly NamedReward[]): Select =>
  creditGroups(
    (groups) =>
      normalizeThenSum(
        rewards.map(({ name, weight }) => ({
          weight,
          rows: groups.map((group) => group.map(({ scores }) => scores[`rewards/${name}`] ?? null)),
        })),
      ),
    'reward',
    'advantage',
  )

/** Number of groups that teach something. */
export const countUntied = (traces: readonly Trace[]): number => byTask(traces).filter((group) => !isTied(group)).length

/** The first `count` groups that teach something; where there are fewer, tied ones take their places. */
export const untiedFirst =
  (count: number): Select =>
  (traces) => {
    const groups = byTask(traces)
    const order = [...groups.filter((group) => !isTied(group)), ...groups.filter((group) => isTied(group))]
    return order.slice(0, count).flat()
  }
