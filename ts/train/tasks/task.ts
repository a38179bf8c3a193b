// What a task is: a prompt, a worked solution, and an exact checker; and what an environment is: a world in which a policy acts step
// by step, by text, and whose states can be kept and returned to, so that a search may try several actions in one. Problems are assigned to splits by a hash of their
// canonical form, not by luck of the draw, so that the splits cannot overlap whatever is drawn.

import { createHash } from 'node:crypto'
import { checkArgument, having, kinds } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { createRandom, deriveKey, type Random } from '../../src/base/rng.js'
import type { ChatMessage, ChatOptions } from '../../src/tokenizer/template.js'

/** A problem with a solution. Trainers look at `answer` only for warm-up tasks. */
export interface Task {
  /** Unique among all tasks of a source: its split and its canonical form. */
  readonly id: string
  /** Text that the model continues. */
  readonly prompt: string
  /** A worked solution, without an end mark: trainers add the tokenizer's end token. */
  readonly answer: string
  /** The prompt as a conversation, for chat models; `prompt` is then its rendering. */
  readonly messages?: readonly ChatMessage[]
  /** What the chat template gets besides the messages. */
  readonly chat?: Pick<ChatOptions, 'tools' | 'variables'>
  /** The row of a data set that the task came from: columns for reward functions. */
  readonly row?: Readonly<Record<string, unknown>>
}

/** What a checker says. */
export interface Verdict {
  readonly correct: boolean
  /** Why not, in a few words. */
  readonly reason?: string
  /** How much of it is right, from 0 to 1, where the task can tell; 1 for what is right. */
  readonly score?: number
  /** The first wrong step, counted from 0, where steps can be checked. */
  readonly firstError?: number
}

/** What a step comes to. */
export interface EnvStep {
  /** Text that stands behind the action. */
  readonly observation: string
  readonly reward: number
  /** The episode is over: no further step. */
  readonly done: boolean
}

/**
 * A world. Laws: `reset` and `restore` forget all that came before; what follows a restored snapshot is what followed it the
 * first time, for equal actions; and no later step changes a snapshot.
 */
export interface Env {
  /** Text that ends an action, part of it. */
  readonly actionEnd: string
  /** Actions that are possible anywhere, any of which may be a mistake: what bad beginnings are made of. */
  readonly actions?: readonly string[]
  /** Action that takes back the last step which is not yet taken back. */
  readonly undo?: string
  /** Begins the episode of a task, whose prompt is the first observation. */
  reset(task: Task): string | Promise<string>
  /** Acts. Text that is no action is a step too. */
  step(action: string): EnvStep | Promise<EnvStep>
  /** The state: a value to be kept and handed back, not to be looked into. */
  snapshot(): unknown
  restore(snapshot: unknown): void | Promise<void>
  /** Steps that are needed from here at least, where the world can tell: ground truth. */
  stepsLeft?(): number
}

/** Where a problem may be used. */
export type Split = 'warmup' | 'train' | 'heldOut'

/** A generator of tasks in three disjoint splits. Lists are prefixes of each other: train(10) begins with train(5). */
export interface TaskSource {
  readonly name: string
  readonly description: string
  /** Every character of prompts and answers. */
  readonly characters: string
  /** Longest prompt in characters. */
  readonly maxPromptTokens: number
  /** Longest answer in characters and its end token, with room to spare. */
  readonly maxNewTokens: number
  warmup(count: number): Task[]
  train(count: number): Task[]
  heldOut(count: number): Task[]
  /** Exact: accepts every right completion and no other. */
  check(task: Task, completion: string): Verdict
  /** A world for the tasks, where completions are episodes. */
  readonly env?: () => Env
}

/** A {@link Task} and a {@link TaskSource} among arguments. */
export const taskKind = having('a task', 'id', 'prompt', 'answer')
export const sourceKind = having('what createTask() gives', 'check', 'train')

/** An {@link Env} among arguments. */
export const envKind = having('an environment', 'actionEnd', 'reset', 'step', 'snapshot', 'restore')

/**
 * The arguments of a source's checker.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkAttempt(task: Task, completion: string): void {
  checkArgument('check.task', task, taskKind)
  checkArgument('check.completion', completion, kinds.text)
}

/** How many steps are right before the first that is not, and which that is: wrong, missing or one too many. */
export function followSteps<Step>(
  written: readonly Step[],
  right: readonly Step[],
): { readonly good: number; readonly firstError?: number } {
  const wrong = right.findIndex((step, i) => written[i] !== step)
  if (wrong >= 0) return { good: wrong, firstError: wrong }
  return { good: right.length, ...(written.length > right.length && { firstError: right.length }) }
}

/** A problem before it has a split. */
export interface Problem {
  /** Equal for problems that are the same up to order. */
  readonly canonical: string
  readonly prompt: string
  readonly answer: string
}

/** Shares of the splits in tenths: warm-up 2, held-out 2, train 6. */
function splitOf(name: string, canonical: string): Split {
  const tenth = createHash('sha256').update(`${name} ${canonical}`).digest()[0] % 10
  return tenth < 2 ? 'warmup' : tenth < 4 ? 'heldOut' : 'train'
}

/** Draws that find nothing new before a split counts as used up. */
const patience = 20_000

/**
 * The three lists of a source: problems drawn in order from (seed, variant, split), each at most once. A problem is in the
 * same split for all seeds and variants of a name.
 *
 * @param draw makes a problem from random numbers
 */
export function splitLists(
  { name, variant, seed }: { readonly name: string; readonly variant: string; readonly seed: number },
  draw: (random: Random) => Problem,
): Pick<TaskSource, Split> {
  const list = (split: Split): ((count: number) => Task[]) => {
    const random = createRandom(deriveKey(seed, 'tasks', `${name}-${variant}`, split))
    const seen = new Set<string>()
    const tasks: Task[] = []
    return (count) => {
      checkArgument(`${split}.count`, count, kinds.whole)
      for (let misses = 0; tasks.length < count && misses < patience; ) {
        const { canonical, prompt, answer } = draw(random)
        if (splitOf(name, canonical) !== split || seen.has(canonical)) {
          misses++
          continue
        }
        misses = 0
        seen.add(canonical)
        tasks.push({ id: `${name}/${split}/${canonical}`, prompt, answer })
      }
      if (tasks.length < count)
        throw new WhetstoneError(
          'E_CONFIG',
          name,
          `expected ${count} different ${split} tasks, there are about ${tasks.length}: ask for fewer or raise the difficulty`,
        )
      return tasks.slice(0, count)
    }
  }
  return { warmup: list('warmup'), train: list('train'), heldOut: list('heldOut') }
}
