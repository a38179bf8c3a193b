// Judges of pairs: which of two completions of a prompt is better, as a probability (TRL's pairwise judges, which say 0 or 1). A
// function of yours, a reward function of which the larger number wins (judgeByReward), or a model that was shown pairs
// (pairJudge in reward-model.ts). Which completion comes first is drawn for each pair, so that neither place is favoured.

import { checkArgument, kinds, shownArgument } from '../../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { Task } from '../tasks/index.js'
import { askReward, inputOf, type RewardFunction, type RewardInput } from './rewards.js'
import type { Trace } from './trace.js'

/** Two of a thing, in the order of the completions. */
type Two<T> = readonly [first: T, second: T]

/** Pairs to judge; every list has one entry per pair. */
export interface PairInput {
  readonly prompts: readonly string[]
  /** Texts without end tokens. */
  readonly completions: readonly Two<string>[]
  readonly completionIds: readonly Two<readonly number[]>[]
  readonly finishReasons: readonly Two<'stop' | 'length'>[]
  readonly tasks: readonly Task[]
  /** Columns of the data set; empty for tasks that came from none. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
}

/** Judges pairs: for each the probability that the first completion is better, from 0 to 1. */
export type PairJudge = (input: PairInput) => readonly number[] | Promise<readonly number[]>

/** Two samples of a task. */
export type TracePair = Two<Trace>

const isSwapped = ([{ task, sample }, other]: TracePair): boolean =>
  uniform(deriveKey(0, 'order', task.id, sample, other.sample), 0) < 0.5

function pairInput(pairs: readonly TracePair[]): PairInput {
  const [first, second] = [0, 1].map((side) => inputOf(pairs.map((pair) => pair[side])))
  const both = <T>(of: (input: RewardInput) => readonly T[]) => of(first).map((own, i): Two<T> => [own, of(second)[i]])
  return {
    prompts: first.prompts,
    completions: both(({ completions }) => completions),
    completionIds: both(({ completionIds }) => completionIds),
    finishReasons: both(({ finishReasons }) => finishReasons),
    tasks: first.tasks,
    rows: first.rows,
  }
}

/**
 * What a judge says, checked, as the probabilities that the first of each pair is better.
 *
 * @throws WhetstoneError E_VERIFIER for a judge that fails, or says something else than probabilities
 */
export async function askJudge(judge: PairJudge, pairs: readonly TracePair[]): Promise<number[]> {
  const refuse = (message: string, cause?: unknown): never => {
    throw new WhetstoneError('E_VERIFIER', 'judge', message, { cause })
  }
  const swapped = pairs.map(isSwapped)
  const tasks = pairs.map(([{ task }]) => task)
  let said: readonly number[] = []
  try {
    said = await judge(pairInput(pairs.map(([own, other], i) => (swapped[i] ? [other, own] : [own, other]))))
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

/**
 * A judge by a reward function, such as an exact checker: the completion with the larger number is better for sure. Pairs
 * with equal numbers, or of which it does not judge one, are even.
 *
 * @param reward its name is that of the judge
 */
export function judgeByReward(reward: RewardFunction): PairJudge {
  checkArgument('judgeByReward.reward', reward, kinds.call)
  const side = (input: PairInput, at: 0 | 1): RewardInput => ({
    ...input,
    completions: input.completions.map((pair) => pair[at]),
    completionIds: input.completionIds.map((pair) => pair[at]),
    finishReasons: input.finishReasons.map((pair) => pair[at]),
  })
  const named = { name: reward.name, evaluate: reward }
  const judge: PairJudge = async (input) => {
    const [first, second] = await Promise.all([askReward(named, side(input, 0)), askReward(named, side(input, 1))])
    return first.map((own, i) => {
      const other = second[i]
      return own === null || other === null || own === other ? 0.5 : Number(own > other)
    })
  }
  return Object.defineProperty(judge, 'name', { value: reward.name })
}
