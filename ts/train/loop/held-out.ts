// Evaluations of online methods on prompts that are not trained (TRL's `eval_dataset` of GRPO): samples of the policy, scored as
// those of a round, under the names that rounds have. Random numbers are the same in every evaluation, so that two of them
// differ by the policy alone. Differs from TRL: no loss is reported, as it says nothing of samples that are drawn anew.

import { WhetstoneError } from '../../src/base/errors.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Decoder } from '../../src/models/decoder.js'
import type { Emit } from '../events.js'
import type { Task } from '../tasks/index.js'
import type { Explore, ExploreContext } from './explore.js'
import type { RoundStatistics } from './metrics.js'
import type { OnlineValues } from './online-shape.js'
import { checkPrompts, isTaskSource, type PromptSource, readPrompts } from './prompts.js'
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
const heldOutTasks = (tasks: readonly Task[]): Task[] => tasks.map((task) => ({ ...task, id: `held-out ${task.id}` }))

const refuse = (setting: string, message: string): never => {
  throw new WhetstoneError('E_CONFIG', setting, message)
}

/** Where prompts to evaluate on come from. */
interface HeldOutSource extends Pick<ExploreContext, 'policy' | 'reference'> {
  readonly prompts: PromptSource
  readonly evalData?: PromptSource
}

/**
 * Prompts to evaluate on; none where none were given.
 *
 * @throws WhetstoneError E_CONFIG for settings without prompts, or those of another kind of source; as {@link readPrompts} and
 *   {@link checkPrompts}
 */
export async function readHeldOut(options: HeldOutSource, values: OnlineValues): Promise<Task[]> {
  const { prompts, evalData, policy } = options
  const { evalTasks, chatTemplateKwargs } = values
  if (evalTasks !== undefined && !isTaskSource(prompts))
    return refuse('evalTasks', 'expected a task source as prompts: rows to evaluate on are evalData')
  if (evalData !== undefined && isTaskSource(prompts))
    return refuse('evalData', 'expected evalTasks, held-out tasks of the task source: its checker knows no others')
  const ofSource = evalTasks !== undefined && isTaskSource(prompts) ? prompts.heldOut(evalTasks) : []
  const rows = evalData === undefined ? [] : await readPrompts(evalData, policy.tokenizer, 0, chatTemplateKwargs)
  const tasks = heldOutTasks([...ofSource, ...rows])
  if (tasks.length === 0 && values.evalRounds > 0)
    refuse('evalRounds', 'expected evalData, or evalTasks of a task source, beside it')
  checkPrompts(options, tasks, values.maxCompletionLength)
  return tasks
}

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
