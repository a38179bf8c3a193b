// Grading of sums: `347+85=0432:` asks how good 0432 is for 347+85, answered `yyyy>5`: for each digit from the lowest place up whether
// it is right, then the grade, 1 to 5 by the share of right digits (5 only if all are). Candidates have one digit more than the
// longest operand can, with zeros in front. What counts is the grade; without scratch steps the completion is that digit alone. How
// many digits are right is drawn evenly, so grades are about as frequent as each other where there are four digits or more.

import * as z from 'zod'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import { operand } from './arithmetic.js'
import { checkAttempt, followSteps, splitLists, type TaskSource } from './task.js'

/** Settings of the grading tasks. */
export const gradingOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(1).max(7).default(3).describe('most digits of an operand'),
  scratch: z.boolean().default(true).describe('tick every digit in front of the grade'),
})

const highest = 5

/** Whether each digit of a candidate is right, from the lowest place up. */
function ticksOf(prompt: string): boolean[] {
  const [sum, candidate] = prompt.slice(0, -1).split('=')
  const [a, b] = sum.split('+').map(Number)
  const right = String(a + b).padStart(candidate.length, '0')
  return [...candidate].map((digit, i) => digit === right[i]).reverse()
}

const gradeOf = (ticks: readonly boolean[]): number =>
  1 + Math.floor(((highest - 1) * ticks.filter(Boolean).length) / ticks.length)

const written = (ticks: readonly boolean[]): string => ticks.map((tick) => (tick ? 'y' : 'n')).join('')

/** A number with some digits changed; how many is drawn first. */
function candidateOf(random: Random, right: string): string {
  const places = [...right].map((_, i) => i)
  const wrong = Array.from(
    { length: random.integer(right.length + 1) },
    () => places.splice(random.integer(places.length), 1)[0],
  )
  return [...right]
    .map((digit, i) => (wrong.includes(i) ? String((Number(digit) + 1 + random.integer(9)) % 10) : digit))
    .join('')
}

/**
 * The tasks. The splits divide pairs of a sum and a candidate: a sum may be in two of them with different candidates.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function grading(options: z.input<typeof gradingOptions>): TaskSource {
  const { difficulty, scratch, seed } = resolveConfig(gradingOptions, [{ origin: 'task', values: options }]).values
  const width = difficulty + 1
  const form = scratch ? /^([yn]+)>([1-5])$/ : /^([1-5])$/
  const lists = splitLists({ name: 'grading', variant: `${difficulty}`, seed }, (random) => {
    const [a, b] = [operand(random, difficulty), operand(random, difficulty)]
    const candidate = candidateOf(random, String(a + b).padStart(width, '0'))
    const prompt = `${a}+${b}=${candidate}:`
    const ticks = ticksOf(prompt)
    return {
      canonical: `${[a, b].sort((x, y) => x - y).join('+')}=${candidate}`,
      prompt,
      answer: `${scratch ? `${written(ticks)}>` : ''}${gradeOf(ticks)}`,
    }
  })
  return {
    ...lists,
    name: 'grading',
    description: `grades of sums of two numbers of 1 to ${difficulty} digits`,
    characters: `0123456789+=:${scratch ? 'yn>' : ''}`,
    maxPromptTokens: 2 * difficulty + width + 3,
    maxNewTokens: scratch ? width + 4 : 2,
    check: (task, completion) => {
      checkAttempt(task, completion)
      const match = form.exec(completion)
      if (match === null) return { correct: false, reason: 'malformed', score: 0 }
      const ticks = ticksOf(task.prompt)
      const expected = gradeOf(ticks)
      const { good: _, ...steps } = followSteps([...match[1]], [...written(ticks)])
      const off = Math.abs(Number(match.at(-1)) - expected)
      if (off === 0) return { correct: true, score: 1, ...(scratch && steps) }
      return { correct: false, reason: `expected ${expected}`, score: 1 - off / (highest - 1), ...(scratch && steps) }
    },
  }
}
