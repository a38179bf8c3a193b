// Answers by methods of inference: a round of the loop that trains nothing. What was written for an answer is counted where the
// policy writes, so that candidates that a method threw away count as well and methods are compared at equal tokens.

import { checkMembers, checkOptions, either, having, kinds, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import type { Completion, LanguageModel } from '../../src/generate/language-model.js'
import { modelKind } from '../../src/generate/language-model.js'
import { dataKind } from '../data/rows.js'
import { runRounds } from '../loop/iterate.js'
import { isTaskSource, type PromptSource, readPrompts } from '../loop/prompts.js'
import { turnAlone } from '../loop/recast.js'
import { checkerReward, inputOf } from '../loop/rewards.js'
import { byTask, type Trace, turnsOf } from '../loop/trace.js'
import { abortError } from '../loop.js'
import { sourceKind, type Task } from '../tasks/task.js'
import type { AnswerMethod } from './method.js'

/** What is answered, and how. */
export interface AnswerOptions {
  readonly policy: LanguageModel
  /** Rows, a file of rows, or a task source, of which `tasks` held-out tasks are answered. */
  readonly prompts: PromptSource
  /** How many tasks of a source; default 64. */
  readonly tasks?: number
  /** One of `answering`, or a method of your own. */
  readonly method: AnswerMethod
  readonly seed: number
  readonly signal?: AbortSignal
}

/** The answer to a prompt. */
export interface Answer {
  readonly task: Task
  readonly text: string
  /** The attempt that it is the last turn of. */
  readonly trace: Trace
}

/** What came of it. */
export interface Answers {
  /** In the order of the prompts. */
  readonly answers: readonly Answer[]
  /** Everything that the method kept to choose from. */
  readonly traces: readonly Trace[]
  /**
   * Per prompt `tokens` written and `contextTokens` read, once for each text that goes on from them; of a source with a
   * checker, which no method sees, `accuracy`, `accuracy/mean` over all attempts and `accuracy/any`, and
   * `accuracy/turnN` of attempts in turns; and numbers of the method.
   */
  readonly statistics: Readonly<Record<string, number>>
}

const methodKind = having('a method of answering', 'explore', 'select')
const optionKinds = {
  policy: modelKind,
  prompts: either(sourceKind, dataKind),
  tasks: optional(kinds.count),
  method: methodKind,
  seed: kinds.whole,
  signal: optional(kinds.signal),
}

/** The policy, with what it reads and writes counted. */
function metered(policy: LanguageModel) {
  const spent = { tokens: 0, contextTokens: 0 }
  const generate = async (prompts: readonly number[][], options?: object): Promise<Completion[][]> => {
    const groups = await policy.generate(prompts, options)
    for (const [i, group] of groups.entries()) {
      spent.tokens += group.reduce((sum, { ids }) => sum + ids.length, 0)
      spent.contextTokens += prompts[i].length
    }
    return groups
  }
  return { spent, policy: Object.assign(Object.create(policy), { generate }) as LanguageModel }
}

const tasksOf = async ({ prompts, policy, tasks: count = 64 }: AnswerOptions): Promise<Task[]> =>
  isTaskSource(prompts) ? prompts.heldOut(count) : readPrompts(prompts, policy.tokenizer, 0)

/** How often the checker agrees with answers and attempts, and by turn where there are several. */
async function accuracyOf(
  source: PromptSource,
  traces: readonly Trace[],
  chosen: readonly Trace[],
): Promise<Record<string, number>> {
  if (!isTaskSource(source)) return {}
  const check = checkerReward(source)
  const rightOf = async (some: readonly Trace[]) => (await check(inputOf(some))).map(Number)
  const right = await rightOf(traces)
  const solved = new Set(traces.flatMap(({ task }, i) => (right[i] > 0 ? [task.id] : [])))
  const turns = Math.max(0, ...traces.map((trace) => turnsOf(trace).length))
  const byTurn: Record<string, number> = {}
  for (let turn = 0; turns > 1 && turn < turns; turn++) {
    const reached = traces.filter((trace) => turnsOf(trace).length > turn)
    byTurn[`accuracy/turn${turn + 1}`] = mean(await rightOf(reached.map((trace) => turnAlone(trace, turn))))
  }
  return {
    accuracy: mean(await rightOf(chosen)),
    'accuracy/mean': mean(right),
    'accuracy/any': solved.size / Math.max(1, byTask(traces).length),
    ...byTurn,
  }
}

/**
 * Answers prompts.
 *
 * @throws WhetstoneError E_CONFIG, E_ABORTED by the signal, and what sampling and scores throw
 */
export async function answer(options: AnswerOptions): Promise<Answers> {
  checkOptions('answer', options, optionKinds)
  const { prompts, method, seed, signal } = options
  checkMembers('answer.method', method, { explore: kinds.call, select: kinds.call })
  const tasks = await tasksOf(options)
  const { spent, policy } = metered(options.policy)
  let [traces, chosen]: Trace[][] = [[], []]
  const { stopped } = await runRounds({
    policy,
    tasks: () => tasks,
    explore: method.explore,
    score: method.score ?? (async (found) => [...found]),
    select: (found) => {
      traces = [...found]
      chosen = method.select(found)
      return chosen
    },
    rounds: 1,
    // Methods look at all prompts together.
    limits: { shardSize: Math.max(1, tasks.length) },
    seed,
    emit: () => undefined,
    signal,
  })
  if (stopped && signal !== undefined) throw abortError(signal)
  const byId = new Map(chosen.map((trace) => [trace.task.id, trace]))
  const answers = tasks.map((task): Answer => {
    const trace = byId.get(task.id)
    if (trace === undefined)
      throw new WhetstoneError('E_CONFIG', 'answer.method', `expected an answer to ${task.id}, got none`)
    return { task, text: turnsOf(trace).at(-1)?.text ?? '', trace }
  })
  const per = Math.max(1, tasks.length)
  return {
    answers,
    traces,
    statistics: {
      tokens: spent.tokens / per,
      contextTokens: spent.contextTokens / per,
      ...(await accuracyOf(prompts, traces, chosen)),
      ...method.statistics?.(traces, chosen),
    },
  }
}
