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
export interface PairJudge {
  (input: PairInput): readonly number[] | Promise<readonly number[]>
  /**
   * Judges of uncertainty: the same, said several times with units dropped at random; a list of `passes` probabilities for each
   * pair. A pure function of the pair and the seed.
   */
  readonly sample?: (input: PairInput, draws: JudgeDraws) => Promise<readonly (readonly number[])[]>
}

/** How often a judge is asked. */
export interface JudgeDraws {
  readonly passes: number
  readonly seed: number
}

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

const refuseJudge = (message: string, cause?: unknown): never => {
  throw new WhetstoneError('E_VERIFIER', 'judge', message, { cause })
}

/** What is asked of pairs, each in a drawn order, and checked: a list as long as they are. */
async function askPairs<T>(
  pairs: readonly TracePair[],
  ask: (input: PairInput) => readonly T[] | Promise<readonly T[]>,
): Promise<{ readonly said: readonly T[]; readonly swapped: readonly boolean[] }> {
  const swapped = pairs.map(isSwapped)
  let said: readonly T[] = []
  try {
    said = await ask(pairInput(pairs.map(([own, other], i) => (swapped[i] ? [other, own] : [own, other]))))
  } catch (error) {
    refuseJudge(`failed on ${pairs.length} pairs from task ${pairs[0][0].task.id} on: ${messageOf(error)}`, error)
  }
  if (!Array.isArray(said) || said.length !== pairs.length) {
    const got = Array.isArray(said) ? `${said.length} entries` : shownArgument(said)
    refuseJudge(`expected a list of ${pairs.length} probabilities, one per pair, got ${got}`)
  }
  return { said, swapped }
}

const isProbability = (p: unknown): boolean => typeof p === 'number' && p >= 0 && p <= 1

/**
 * What a judge says, checked, as the probabilities that the first of each pair is better.
 *
 * @throws WhetstoneError E_VERIFIER for a judge that fails, or says something else than probabilities
 */
export async function askJudge(judge: PairJudge, pairs: readonly TracePair[]): Promise<number[]> {
  const { said, swapped } = await askPairs(pairs, judge)
  const bad = said.findIndex((p) => !isProbability(p))
  if (bad >= 0) refuseJudge(`expected a number from 0 to 1, got ${String(said[bad])} for task ${pairs[bad][0].task.id}`)
  return said.map((p, i) => (swapped[i] ? 1 - p : p))
}

/**
 * The same of a judge of uncertainty: its draws for each pair.
 *
 * @throws WhetstoneError E_CONFIG for a judge without draws, E_VERIFIER as in {@link askJudge}
 */
export async function drawJudge(judge: PairJudge, pairs: readonly TracePair[], draws: JudgeDraws): Promise<number[][]> {
  const { sample } = judge
  if (sample === undefined) {
    const text = 'expected a model of pairs with dropout in its adapter, got a judge that cannot be asked for draws'
    throw new WhetstoneError('E_CONFIG', 'judge', text)
  }
  const { said, swapped } = await askPairs(pairs, (input) => sample(input, draws))
  const bad = said.findIndex((own) => !Array.isArray(own) || own.length !== draws.passes || !own.every(isProbability))
  if (bad >= 0)
    refuseJudge(
      `expected ${draws.passes} numbers from 0 to 1 for a pair of task ${pairs[bad][0].task.id}, got ${said[bad]}`,
    )
  return said.map((own, i) => own.map((p) => (swapped[i] ? 1 - p : p)))
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
