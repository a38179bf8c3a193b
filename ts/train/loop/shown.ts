// Explore: samples behind a prompt that shows another answer, to be improved on (PIT). The template is that of training
// (data/srpo.ts): models of the gap between two answers, and policies that revise, read the same words.

import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey, uniform } from '../../src/base/rng.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import { type RevisionTemplate, revisionPrompt } from '../data/srpo.js'
import type { Task } from '../tasks/index.js'
import { type Explore, type ExploreContext, type SampleGroupOptions, sampleGroup } from './explore.js'
import { completionOf } from './trace.js'

/** Column of a task's row that has the answer which was shown: what reward functions read. */
export const shownColumn = 'shown'

/** The answer to show of each task. */
export type ShowAnswers = (context: ExploreContext, tasks: readonly Task[]) => Promise<string[]>

/** Answers of a writer, one of each task. */
export const writtenAnswers = (writer: LanguageModel, sampling: SampleGroupOptions): ShowAnswers => {
  const write = sampleGroup({ ...sampling, numGenerations: 1 })
  return async (context, tasks) => {
    const named = tasks.map((task) => ({ ...task, id: `${task.id} to be shown` }))
    return (await write({ ...context, policy: writer }, named)).map(completionOf)
  }
}

/**
 * Answers of the data, from one of several columns, drawn by (seed, round, task).
 *
 * @throws WhetstoneError E_CONFIG for a row without one of the columns
 */
export const givenAnswers =
  (columns: readonly string[]): ShowAnswers =>
  async ({ seed, round }, tasks) =>
    tasks.map(({ id, row }) => {
      const column = columns[Math.floor(uniform(deriveKey(seed, 'shown', round, id), 0) * columns.length)]
      const answer = row?.[column]
      if (typeof answer === 'string') return answer
      throw new WhetstoneError(
        'E_CONFIG',
        id,
        `expected text in the column '${column}', an answer to show, got ${typeof answer}`,
      )
    })

/** The task as the policy sees it. */
function showing(task: Task, answer: string, policy: LanguageModel, template: RevisionTemplate): Task {
  const { prompt, messages, chat } = task
  if (messages === undefined) return { ...task, prompt: revisionPrompt(prompt, answer, template) as string }
  const turns = revisionPrompt(messages, [{ role: 'assistant', content: answer }], template)
  const shown = turns as NonNullable<Task['messages']>
  const { text } = policy.tokenizer.applyChatTemplate(shown, { ...chat, addGenerationPrompt: true })
  return { ...task, prompt: text, messages: shown }
}

/** Samples behind shown answers. Traces are of the tasks as they were, with the answer in the column `shown` of the row. */
export function exploreShown(show: ShowAnswers, sampling: SampleGroupOptions, template: RevisionTemplate): Explore {
  const explore = sampleGroup(sampling)
  return async (context, tasks) => {
    const answers = await show(context, tasks)
    const seen = tasks.map((task, i) => showing(task, answers[i], context.policy, template))
    const asked = new Map(
      tasks.map((task, i) => [task.id, { ...task, row: { ...task.row, [shownColumn]: answers[i] } }]),
    )
    return (await explore(context, seen)).map((trace) => ({ ...trace, task: asked.get(trace.task.id) ?? trace.task }))
  }
}
