// The registry of built-in tasks. A new task is a file and a line here.

import { WhetstoneError } from '../../src/base/errors.js'
import { arithmetic } from './arithmetic.js'
import { countdown } from './countdown.js'
import type { TaskSource } from './task.js'

export type { Split, Task, TaskSource, Verdict } from './task.js'

/** Task sources by name. */
export const tasks: Readonly<Record<string, (seed: number, difficulty: number) => TaskSource>> = {
  arithmetic,
  countdown,
}

export const taskNames = Object.keys(tasks)

/**
 * A task source.
 *
 * @param options `difficulty`: digits of an operand, or how many numbers
 * @throws WhetstoneError E_CONFIG for an unknown task
 */
export function createTask(name: string, options: { seed: number; difficulty: number }): TaskSource {
  const make = Object.hasOwn(tasks, name) ? tasks[name] : undefined
  if (make === undefined)
    throw new WhetstoneError('E_CONFIG', 'task', `expected one of ${taskNames.join(', ')}, got '${name}'`)
  const { seed, difficulty } = options
  if (!Number.isInteger(difficulty) || difficulty < 1 || difficulty > 7)
    throw new WhetstoneError('E_CONFIG', 'difficulty', `expected a whole number from 1 to 7, got ${difficulty}`)
  return make(seed, difficulty)
}
