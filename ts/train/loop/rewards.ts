// Rewards: functions from samples to numbers, summed with weights into the score `reward`. Names and meaning as in TRL's
// `reward_funcs` (GRPO): asynchronous ones are awaited side by side, null says that a function does not apply to a
// sample. Differs from TRL: a function that fails, or gives NaN, stops the run; it is never a warning.

import { checkArgument, type Kind, kinds, listOf, optional, shownArgument } from '../../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'
import type { Task, TaskSource } from '../tasks/index.js'
import { isTaskSource, type PromptSource } from './prompts.js'
import { turnAlone } from './recast.js'
import type { Score } from './score.js'
import { type Segment, type Trace, tracesKind, turnsOf, withScores } from './trace.js'

/** Samples to judge; every list has one entry per sample. */
export interface RewardInput {
  readonly prompts: readonly string[]
  /** Text without end tokens; of several turns the last one. */
  readonly completions: readonly string[]
  readonly completionIds: readonly (readonly number[])[]
  readonly finishReasons: readonly ('stop' | 'length')[]
  readonly tasks: readonly Task[]
  /** What an environment paid for all steps of the episode; null for samples that are none. */
  readonly returns?: readonly (number | null)[]
  /** Columns of the data set; empty for tasks that came from none. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
}

/** Judges samples: one number each, or null where it does not apply. Its name is the name in logs. */
export type RewardFunction = (input: RewardInput) => readonly (number | null)[] | Promise<readonly (number | null)[]>

/** A reward function with the name that logs use. */
export interface NamedReward {
  readonly name: string
  readonly weight: number
  readonly evaluate: RewardFunction
}

/** A {@link NamedReward} among arguments. */
const rewardKind: Kind = {
  expected: 'a named reward, as nameRewards() gives them',
  fits: (value) => {
    const { name, weight, evaluate } = (value ?? {}) as Partial<NamedReward>
    return kinds.filled.fits(name) && kinds.number.fits(weight) && kinds.call.fits(evaluate)
  },
}

const refuse = (option: string, message: string): never => {
  throw new WhetstoneError('E_CONFIG', option, message)
}

/**
 * Puts names and weights to reward functions; one without a name is `rewardN`, N counted from 1.
 *
 * @throws WhetstoneError E_CONFIG when there is none, a name comes twice, or the weights do not fit
 */
export function nameRewards(functions: readonly RewardFunction[], weights?: readonly number[]): NamedReward[] {
  checkArgument('rewardFuncs', functions, listOf(kinds.call))
  checkArgument('rewardWeights', weights, optional(kinds.numbers))
  if (functions.length === 0) refuse('rewardFuncs', 'expected at least one reward function, got none')
  if (weights !== undefined && weights.length !== functions.length)
    refuse('rewardWeights', `expected ${functions.length} weights, one per reward function, got ${weights.length}`)
  const rewards = functions.map((evaluate, i) => {
    return { name: evaluate.name || `reward${i + 1}`, weight: weights?.[i] ?? 1, evaluate }
  })
  const twice = rewards.find(({ name }, i) => rewards.findIndex((other) => other.name === name) !== i)
  if (twice !== undefined) refuse('rewardFuncs', `expected different names, got '${twice.name}' twice`)
  return rewards
}

/** What reward functions get of samples. */
export const inputOf = (traces: readonly Trace[]): RewardInput => {
  const last = traces.map((trace): Segment | undefined => turnsOf(trace).at(-1))
  return {
    prompts: traces.map(({ task }) => task.prompt),
    completions: last.map((segment) => segment?.text ?? ''),
    completionIds: last.map((segment) => segment?.ids ?? []),
    finishReasons: traces.map(({ finishReason }) => finishReason),
    tasks: traces.map(({ task }) => task),
    returns: traces.map(({ scores }) => scores.return ?? null),
    rows: traces.map(({ task }) => task.row ?? {}),
  }
}

const fail = (name: string, message: string, cause?: unknown): never => {
  throw new WhetstoneError('E_VERIFIER', `reward ${name}`, message, { cause })
}

/**
 * The numbers of one function, checked.
 *
 * @param placeOf names a sample in errors
 * @throws WhetstoneError E_VERIFIER
 */
export async function askReward(
  { name, evaluate }: Pick<NamedReward, 'name' | 'evaluate'>,
  input: RewardInput,
  placeOf = (i: number): string => `task ${input.tasks[i].id}`,
): Promise<readonly (number | null)[]> {
  const count = input.tasks.length
  let values: readonly (number | null)[] = []
  try {
    values = await evaluate(input)
  } catch (error) {
    fail(name, `failed on ${count} samples from task ${input.tasks[0].id} on: ${messageOf(error)}`, error)
  }
  if (!Array.isArray(values) || values.length !== count)
    fail(name, `expected a list of ${count} numbers, one per sample, got ${shown(values)}`)
  const bad = values.findIndex((value) => value !== null && !Number.isFinite(value))
  if (bad >= 0) fail(name, `expected a finite number or null, got ${String(values[bad])} for ${placeOf(bad)}`)
  return values
}

const shown = (value: unknown): string => (Array.isArray(value) ? `${value.length} entries` : shownArgument(value))

/** Names samples in errors. */
const placesOf = (traces: readonly Trace[]) => (i: number) => `sample ${traces[i].sample} of task ${traces[i].task.id}`

/**
 * Scores `rewards/NAME` of every function that applies, and `reward`, their weighted sum.
 *
 * @throws WhetstoneError E_VERIFIER naming the function and the sample: a function fails, gives something that is no
 *   finite number, or none applies
 */
export function scoreRewards(rewards: readonly NamedReward[]): Score {
  checkArgument('scoreRewards.rewards', rewards, listOf(rewardKind))
  return async (traces) => {
    checkArgument('scoreRewards: traces', traces, tracesKind)
    if (traces.length === 0) return []
    const input = inputOf(traces)
    const judged = await Promise.all(rewards.map((reward) => askReward(reward, input, placesOf(traces))))
    return traces.map((trace, i) => {
      const own = rewards.flatMap(({ name, weight }, r) => {
        const value = judged[r][i]
        return value === null ? [] : [{ name, weight, value }]
      })
      if (own.length === 0) {
        const names = rewards.map(({ name }) => name).join(', ')
        fail(names, `none applies to sample ${trace.sample} of task ${trace.task.id}: expected at least one number`)
      }
      return withScores(trace, {
        ...Object.fromEntries(own.map(({ name, value }) => [`rewards/${name}`, value])),
        reward: own.reduce((sum, { weight, value }) => sum + weight * value, 0),
      })
    })
  }
}

/** 1 for completions that end by themselves and that the source's exact checker accepts, else 0. */
export const checkerReward = (source: Pick<TaskSource, 'check'>): RewardFunction =>
  function correct({ tasks, completions, finishReasons }) {
    return tasks.map((task, i) => Number(finishReasons[i] === 'stop' && source.check(task, completions[i]).correct))
  }

/** What the environment of an episode paid. */
export const environmentReward: RewardFunction = Object.defineProperty(
  ({ returns, tasks }: RewardInput) => returns ?? tasks.map(() => null),
  'name',
  { value: 'env' },
)

/** TRL's `missing_eos_penalty`: taken from the reward of samples that were cut off. */
export const missingEosReward = (penalty: number): RewardFunction =>
  function missingEos({ finishReasons }) {
    return finishReasons.map((reason) => (reason === 'stop' ? 0 : -penalty))
  }

/**
 * Judges every turn by itself: scores `reward/1`, `reward/2`, ... and for the last turn what `score` gives. A turn's
 * sample is the prompt and that turn alone. Turns that have their score are not judged again.
 *
 * @param isAnswer which turns (0 is the first) are judged; default all
 */
export function scoreTurns(score: Score, isAnswer: (turn: number) => boolean = () => true): Score {
  checkArgument('scoreTurns.score', score, kinds.call)
  checkArgument('scoreTurns.isAnswer', isAnswer, kinds.call)
  return async (traces) => {
    checkArgument('scoreTurns: traces', traces, tracesKind)
    const unscored = traces.map((trace) =>
      turnsOf(trace).flatMap((_, turn) =>
        isAnswer(turn) && trace.scores[`reward/${turn + 1}`] === undefined ? [turn] : [],
      ),
    )
    const judged = await score(unscored.flatMap((turns, i) => turns.map((turn) => turnAlone(traces[i], turn))))
    let at = 0
    return traces.map((trace, i) => {
      const own = judged.slice(at, at + unscored[i].length)
      at += own.length
      const perTurn = own.map(({ scores }, j) => [`reward/${unscored[i][j] + 1}`, scores.reward])
      return withScores(trace, { ...own.at(-1)?.scores, ...Object.fromEntries(perTurn) })
    })
  }
}

/**
 * Beside rewards that somebody passed, where the prompts are those of a task source: the score `gold`, what its exact checker
 * says of the last turn. A gap between both is to be seen.
 */
export function withGold(score: Score, prompts: PromptSource | undefined): Score {
  if (prompts === undefined || !isTaskSource(prompts)) return score
  const checker = { name: 'gold', weight: 1, evaluate: checkerReward(prompts) }
  return async (traces) => {
    const scored = await score(traces)
    const values = await askReward(checker, inputOf(scored), placesOf(scored))
    return scored.map((trace, i) => withScores(trace, { gold: values[i] ?? 0 }))
  }
}
