// Where the prompts of online methods come from: a task source, or rows with a `prompt` (text or messages) and whatever
// columns reward functions look at. Which of them a round takes is a pure function of (seed, round). What a row may be is
// data/rows.ts.

import { WhetstoneError } from '../../src/base/errors.js'
import { limitOf } from '../../src/generate/request.js'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import { checkIds } from '../data/encode.js'
import { createWalk } from '../data/plan.js'
import {
  type ChatFields,
  type DataSource,
  type Messages,
  type PlacedRow,
  type PromptRow,
  readData,
} from '../data/rows.js'
import type { Task, TaskSource } from '../tasks/index.js'
import { type ExploreContext, promptIds } from './explore.js'

export type { PromptRow } from '../data/rows.js'

/** A conversation: a prompt, and the completion where the assistant has the last word. Also in ShareGPT's form. */
type ConversationRow = (
  | { readonly messages: Messages }
  | { readonly conversations: readonly Readonly<Record<string, unknown>>[]; readonly system?: string }
) &
  ChatFields &
  Readonly<Record<string, unknown>>

/** A task source, a file of rows, or rows. */
export type PromptSource = TaskSource | DataSource<PromptRow | ConversationRow>

/** True for sources with an exact checker. */
export const isTaskSource = (source: PromptSource): source is TaskSource =>
  typeof source === 'object' && 'check' in source

/** Variables of chat templates. */
type Variables = ChatFields['chat_template_kwargs']

/** Fields of a task's conversation, as encoding takes them. */
export const chatFieldsOf = ({ chat }: Task): ChatFields => ({
  tools: chat?.tools,
  chat_template_kwargs: chat?.variables as Variables,
})

function taskOf(tokenizer: Tokenizer, { row }: PlacedRow<PromptRow>, index: number, shared: Variables): Task {
  const { prompt, tools, chat_template_kwargs: own } = row
  const task = { id: `prompt ${index + 1}`, answer: '', row }
  if (typeof prompt === 'string') return { ...task, prompt }
  const chat = { tools, variables: { ...shared, ...own } }
  const { text } = tokenizer.applyChatTemplate(prompt, { ...chat, addGenerationPrompt: true })
  return { ...task, prompt: text, messages: prompt, chat }
}

/**
 * The tasks that a source holds.
 *
 * @param count how many of a task source's train tasks; rows are all taken
 * @param variables of the chat template, for rows that do not set them
 * @throws WhetstoneError E_FORMAT naming the row, E_TEMPLATE, E_CONFIG when there is none
 */
export async function readPrompts(
  source: PromptSource,
  tokenizer: Tokenizer,
  count: number,
  variables?: Variables,
): Promise<Task[]> {
  if (isTaskSource(source)) return source.train(count)
  const { rows } = await readData(source, 'prompt')
  return rows.map((placed, index) => taskOf(tokenizer, placed, index, variables))
}

/** `perRound` tasks for each round (1-based): pass after pass over all of them, each in an order of its own. */
export function taskRounds(tasks: readonly Task[], perRound: number, seed: number): (round: number) => Task[] {
  const walk = createWalk(tasks.length, seed, 'prompts')
  return (round) => {
    const begin = (round - 1) * perRound
    return walk(begin, perRound).map((index, i) => {
      const pass = Math.floor((begin + i) / tasks.length)
      const task = tasks[index]
      // A task that comes again is sampled with other keys, and is a group of its own.
      return pass === 0 ? task : { ...task, id: `${task.id} pass ${pass + 1}` }
    })
  }
}

/**
 * Refuses before the first round what a later one could not sample: learned positions end, and so does a vocabulary.
 *
 * @throws WhetstoneError E_LIMIT, E_MISMATCH naming the task
 */
export function checkPrompts(
  { policy, reference }: Pick<ExploreContext, 'policy' | 'reference'>,
  tasks: readonly Task[],
  maxCompletionLength: number,
): void {
  const { tokenizer, decoder } = policy
  const { vocabSize } = decoder.config
  const limit = limitOf(reference === undefined ? [decoder] : [decoder, reference])
  if (limit === undefined && tokenizer.vocabSize <= vocabSize) return
  for (const task of tasks) {
    const ids = promptIds(policy, task)
    const { length } = ids
    checkIds(task.id, ids, vocabSize, tokenizer)
    if (limit === undefined || length + maxCompletionLength <= limit) continue
    const text = `expected prompt and maxCompletionLength within the ${limit} positions of the model, got ${length} + ${maxCompletionLength}`
    throw new WhetstoneError('E_LIMIT', task.id, text)
  }
}
