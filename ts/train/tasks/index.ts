// The registry of built-in tasks. A new task is a file and a line here.

import { checkArgument, checkMembers, kinds } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { arithmetic } from './arithmetic.js'
import { chains } from './chains.js'
import { countdown } from './countdown.js'
import { edits } from './edits.js'
import { grading } from './grading.js'
import { grid } from './grid.js'
import { programs } from './programs.js'
import { sorting } from './sorting.js'
import type { TaskSource } from './task.js'

export type { Env, EnvStep, Split, Task, TaskSource, Verdict } from './task.js'

/** Task sources by name. */
export const tasks = { arithmetic, countdown, chains, sorting, programs, edits, grading, grid } as const

export const taskNames = Object.keys(tasks)

/** Settings of a task source: those below, and the task's own by name. Only what deviates from the defaults is needed. */
export interface TaskOptions {
  /** Key of the draws. */
  readonly seed: number
  /**
   * arithmetic, grading: most digits of an operand; countdown: how many numbers; chains: operations; sorting: digits;
   * programs, edits: instructions; grid: side of the room.
   */
  readonly difficulty?: number
  /**
   * arithmetic: `operations` (of '+', '*'), `factorDigits`, `scratch`. countdown: `largestNumber`, `largestTarget`,
   * `operations` (of '+', '-', '*'), `solutions` ('drawn' or 'first'). chains: `modulus`, `scratch`. programs: `examples`.
   * edits: `letters`, `scratch`. grading: `scratch`.
   */
  readonly [name: string]: unknown
}

/**
 * A task source.
 *
 * @throws WhetstoneError E_CONFIG for an unknown task, and for settings that the task does not have or allow
 */
export function createTask(name: string, options: TaskOptions): TaskSource {
  checkArgument('createTask.name', name, kinds.text)
  const makers: Readonly<Record<string, (options: TaskOptions) => TaskSource>> = tasks
  const make = Object.hasOwn(tasks, name) ? makers[name] : undefined
  if (make === undefined)
    throw new WhetstoneError('E_CONFIG', 'task', `expected one of ${taskNames.join(', ')}, got '${name}'`)
  checkMembers('createTask', options, { seed: kinds.number })
  return make(options)
}
