// Evaluations of online methods on prompts that are not trained (TRL's `eval_dataset` of GRPO): samples of the policy, scored as
// those of a round, under the names that rounds have. Random numbers are the same in every evaluation, so that two of them
// differ by the policy alone. Differs from TRL: no loss is reported, as it says nothing of samples that are drawn anew.

import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Decoder } from '../../src/models/decoder.js'
import type { Emit } from '../events.js'
import type { Task } from '../tasks/index.js'
import type { Explore } from './explore.js'
import type { RoundStatistics } from './metrics.js'
import type { Score } from './score.js'

/** What an evaluation samples, and how. */
export interface HeldOut {
  readonly policy: LanguageModel
  readonly reference: Decoder | undefined
  readonly tasks: readonly Task[]
  readonly explore: Explore
  readonly score: Score
  readonly statistics: RoundStatistics
  readonly seed: number
  /** Rounds between evaluations; 0: behind the last one alone. */
  readonly evalRounds: number
  readonly rounds: number
  readonly stepsPerRound: number
  readonly emit: Emit
  readonly signal: AbortSignal | undefined
}

/** Keys of samples hang on tasks by their names: those of evaluations are others. */
export const heldOutTasks = (tasks: readonly Task[]): Task[] =>
  tasks.map((task) => ({ ...task, id: `held-out ${task.id}` }))

/** What to call behind each round: evaluates when it is time, and tells. */
export const evaluateHeldOut =
  (held: HeldOut) =>
  async (round: number): Promise<void> => {
    const { policy, reference, tasks, explore, score, statistics, seed, evalRounds, rounds, signal } = held
    if (round !== rounds && (evalRounds === 0 || round % evalRounds !== 0)) return
    const traces = await score(await explore({ policy, reference, seed, round: 0, signal }, tasks))
    const { kept, ...values } = statistics(traces, traces)
    held.emit({ type: 'eval', name: 'eval', step: round * held.stepsPerRound, round, values })
  }
