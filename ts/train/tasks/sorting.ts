// Sorting digits by swaps of neighbours, every state written down: `3142=` -> `1342,1324,1234`. Any row of states is right that
// begins one swap from the prompt, goes on by one swap at a time, and ends sorted; the worked solution always swaps the leftmost
// pair that is out of order, and so has the fewest swaps there can be. Steps can be checked one by one.

import * as z from 'zod'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import { checkAttempt, splitLists, type TaskSource, type Verdict } from './task.js'

/** Settings of the sorting tasks. */
export const sortingOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(3).max(9).default(4).describe('how many different digits there are'),
})

function drawDigits(random: Random, count: number): string {
  const left = [...'0123456789']
  return Array.from({ length: count }, () => left.splice(random.integer(left.length), 1)[0]).join('')
}

const swapped = (state: string, at: number): string =>
  `${state.slice(0, at)}${state[at + 1]}${state[at]}${state.slice(at + 2)}`

const leftmostOff = (state: string): number =>
  [...state].findIndex((digit, i) => i + 1 < state.length && digit > state[i + 1])

/** Pairs that are out of order: the fewest swaps of neighbours that sort. */
const inversionsOf = (state: string): number =>
  [...state].reduce((sum, digit, i) => sum + [...state.slice(i + 1)].filter((later) => later < digit).length, 0)

/** States up to the sorted one, each by the leftmost swap that helps. */
function solved(state: string): string[] {
  const at = leftmostOff(state)
  if (at < 0) return []
  const next = swapped(state, at)
  return [next, ...solved(next)]
}

const isSwap = (before: string, after: string): boolean =>
  [...before].some((_, at) => at + 1 < before.length && swapped(before, at) === after)

/** Follows states as far as they are swaps. The score is the share of what is out of order that they mend, below 1 unless all is right. */
function judge(start: string, states: readonly string[]): Verdict {
  const wrong = states.findIndex((state, i) => !isSwap(i === 0 ? start : states[i - 1], state))
  const reached = [start, ...states].at(wrong) ?? start
  const [all, left] = [inversionsOf(start), inversionsOf(reached)]
  if (wrong < 0 && left === 0) return { correct: true, score: 1 }
  const score = Math.min(Math.max(0, all - left), all - 1) / all
  return wrong < 0
    ? { correct: false, reason: 'not sorted', score }
    : { correct: false, reason: 'no swap of neighbours', score, firstError: wrong }
}

/**
 * The tasks.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function sorting(options: z.input<typeof sortingOptions>): TaskSource {
  const { difficulty, seed } = resolveConfig(sortingOptions, [{ origin: 'task', values: options }]).values
  const most = (difficulty * (difficulty - 1)) / 2
  const form = new RegExp(`^\\d{${difficulty}}(?:,\\d{${difficulty}})*$`)
  const lists = splitLists({ name: 'sorting', variant: `${difficulty}`, seed }, (random) => {
    let canonical = drawDigits(random, difficulty)
    while (leftmostOff(canonical) < 0) canonical = drawDigits(random, difficulty)
    return { canonical, prompt: `${canonical}=`, answer: solved(canonical).join(',') }
  })
  return {
    ...lists,
    name: 'sorting',
    description: `${difficulty} digits sorted by swaps of neighbours`,
    characters: '0123456789,=',
    maxPromptTokens: difficulty + 1,
    maxNewTokens: most * (difficulty + 1) + 2,
    check: (task, completion) => {
      checkAttempt(task, completion)
      if (!form.test(completion)) return { correct: false, reason: 'malformed', score: 0 }
      return judge(task.prompt.slice(0, -1), completion.split(','))
    },
  }
}
