// Where the prompts of online methods come from: a task source, or rows with a `prompt` (text or messages) and whatever
// columns reward functions look at. Which of them a round takes is a pure function of (seed, round).

import { WhetstoneError } from '../../src/base/errors.js'
import { isJsonObject, readJson, readJsonLines } from '../../src/io/json.js'
import type { ChatMessage } from '../../src/tokenizer/template.js'
import type { Tokenizer } from '../../src/tokenizer/tokenizer.js'
import { createWalk } from '../data/plan.js'
import type { Task, TaskSource } from '../tasks/index.js'

/** A row with a prompt; other columns go to the reward functions. */
export interface PromptRow {
  readonly prompt: string | readonly ChatMessage[]
  readonly [column: string]: unknown
}

/** A task source, a .jsonl or .json file of rows, or rows. */
export type PromptSource = TaskSource | string | readonly PromptRow[]

/** True for sources with an exact checker. */
export const isTaskSource = (source: PromptSource): source is TaskSource =>
  typeof source === 'object' && 'check' in source

async function* rowsOf(source: string | readonly PromptRow[]): AsyncGenerator<{ value: unknown; where: string }> {
  if (typeof source === 'string' && !source.endsWith('.json'))
    for await (const { value, line } of readJsonLines(source)) yield { value, where: `${source}:${line}` }
  else {
    const list = typeof source === 'string' ? await readJson(source) : source
    if (!Array.isArray(list)) throw new WhetstoneError('E_FORMAT', 'prompts', 'expected a list of rows')
    for (const [i, value] of list.entries())
      yield { value, where: typeof source === 'string' ? `${source}[${i}]` : `row ${i + 1}` }
  }
}

const isMessage = (value: unknown): boolean =>
  isJsonObject(value) &&
  typeof value.role === 'string' &&
  (value.content === undefined || value.content === null || typeof value.content === 'string')

function taskOf(tokenizer: Tokenizer, value: unknown, where: string, index: number): Task {
  const row = isJsonObject(value) ? value : undefined
  const prompt = row?.prompt
  const task = { id: `prompt ${index}`, answer: '', row }
  if (typeof prompt === 'string' && prompt !== '') return { ...task, prompt }
  if (!Array.isArray(prompt) || prompt.length === 0 || !prompt.every(isMessage))
    throw new WhetstoneError(
      'E_FORMAT',
      where,
      `field 'prompt': expected text or a list of messages with role and content, got ${String(JSON.stringify(prompt)).slice(0, 80)}`,
    )
  const { text } = tokenizer.applyChatTemplate(prompt, { addGenerationPrompt: true })
  return { ...task, prompt: text, messages: prompt }
}

/**
 * The tasks that a source holds.
 *
 * @param count how many of a task source's train tasks; rows are all taken
 * @throws WhetstoneError E_FORMAT naming the row, E_TEMPLATE, E_CONFIG when there is none
 */
export async function readPrompts(source: PromptSource, tokenizer: Tokenizer, count: number): Promise<Task[]> {
  if (isTaskSource(source)) return source.train(count)
  const tasks: Task[] = []
  for await (const { value, where } of rowsOf(source)) tasks.push(taskOf(tokenizer, value, where, tasks.length + 1))
  if (tasks.length > 0) return tasks
  throw new WhetstoneError('E_CONFIG', 'prompts', 'expected at least one prompt, got none')
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
