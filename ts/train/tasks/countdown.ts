// Countdown: write an expression with + - * that uses each given number exactly once and equals the target:
// `3,7,12:33=` -> `3*7+12`. Any right expression is accepted, parentheses too; the worked solution is one of them and
// has none. Given numbers are sorted, so that a problem has one prompt.

import * as z from 'zod'
import { WhetstoneError } from '../../src/base/errors.js'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import { parseExpression } from './expression.js'
import { checkAttempt, splitLists, type TaskSource } from './task.js'

/** Settings of the countdown tasks. */
export const countdownOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(2).max(6).default(3).describe('how many numbers there are'),
  largestNumber: z.int().min(2).max(100).default(20).describe('given numbers are 1 to this'),
  largestTarget: z.int().min(1).max(999).default(99).describe('targets are 1 to this'),
  operations: z
    .array(z.enum(['+', '-', '*']))
    .min(1)
    .default(['+', '-', '*'])
    .describe('operators of worked solutions, each entry equally likely; the checker accepts all three'),
  solutions: z
    .enum(['drawn', 'first'])
    .default('drawn')
    .describe('worked solutions: the expression that made the target, or the first one of the solver'),
})

type Settings = z.output<typeof countdownOptions>
type Operator = Settings['operations'][number]

const triesPerTarget = 10_000

/** A random expression over random numbers whose value is a target in range. */
function drawSolution(random: Random, settings: Settings): { numbers: number[]; expression: string; target: number } {
  const { difficulty, largestNumber, largestTarget, operations } = settings
  for (let tries = 0; tries < triesPerTarget; tries++) {
    const numbers = Array.from({ length: difficulty }, () => 1 + random.integer(largestNumber))
    const expression = numbers
      .map((n, i) => (i === 0 ? `${n}` : `${operations[random.integer(operations.length)]}${n}`))
      .join('')
    const target = parseExpression(expression)?.value ?? 0
    if (target >= 1 && target <= largestTarget) return { numbers, expression, target }
  }
  throw new WhetstoneError(
    'E_CONFIG',
    'countdown',
    `expected settings whose expressions often give 1 to ${largestTarget}, ${triesPerTarget} in a row did not: raise largestTarget`,
  )
}

/** The part of an expression that is written: its text, the sum of its closed terms and its open product. */
interface Begun {
  readonly text: string
  readonly sum: number
  readonly term: number
}

const append: Readonly<Record<Operator, (begun: Begun, n: number) => Begun>> = {
  '+': ({ text, sum, term }, n) => ({ text: `${text}+${n}`, sum: sum + term, term: n }),
  '-': ({ text, sum, term }, n) => ({ text: `${text}-${n}`, sum: sum + term, term: -n }),
  '*': ({ text, sum, term }, n) => ({ text: `${text}*${n}`, sum, term: term * n }),
}

/**
 * The first expression without parentheses that uses each number once and equals the target, in a fixed order: smaller
 * numbers first, operators as listed. Undefined when there is none.
 *
 * @param numbers sorted, at most about six: every order and choice of operators may be tried
 */
export function solve(
  numbers: readonly number[],
  target: number,
  operations: readonly Operator[] = ['+', '-', '*'],
): string | undefined {
  const search = (begun: Begun, left: readonly number[]): string | undefined => {
    if (left.length === 0) return begun.sum + begun.term === target ? begun.text : undefined
    for (const [i, n] of left.entries()) {
      if (i > 0 && left[i - 1] === n) continue
      const rest = left.filter((_, j) => j !== i)
      const next = begun.text === '' ? [{ text: `${n}`, sum: 0, term: n }] : operations.map((o) => append[o](begun, n))
      for (const step of next) {
        const found = search(step, rest)
        if (found !== undefined) return found
      }
    }
    return undefined
  }
  return search({ text: '', sum: 0, term: 0 }, numbers)
}

const sorted = (numbers: readonly number[]): number[] => [...numbers].sort((a, b) => a - b)

/**
 * The tasks.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function countdown(options: z.input<typeof countdownOptions>): TaskSource {
  const settings = resolveConfig(countdownOptions, [{ origin: 'task', values: options }]).values
  const { difficulty, largestNumber, largestTarget, operations } = settings
  const width = String(largestNumber).length
  const lists = splitLists({ name: 'countdown', variant: `${difficulty}`, seed: settings.seed }, (random) => {
    const { numbers, expression, target } = drawSolution(random, settings)
    const given = sorted(numbers)
    const canonical = `${given.join(',')}:${target}`
    const answer = settings.solutions === 'first' ? (solve(given, target, operations) ?? expression) : expression
    return { canonical, prompt: `${canonical}=`, answer }
  })
  return {
    ...lists,
    name: 'countdown',
    description: `expressions of ${difficulty} given numbers that hit a target`,
    characters: '0123456789+-*(),:=',
    maxPromptTokens: difficulty * (width + 1) + String(largestTarget).length + 1,
    maxNewTokens: (width + 2) * difficulty + 4,
    check: (task, completion) => {
      checkAttempt(task, completion)
      const [given, target] = task.prompt.slice(0, -1).split(':')
      const expression = parseExpression(completion)
      if (expression === undefined) return { correct: false, reason: 'malformed' }
      if (sorted(expression.numbers).join(',') !== given) return { correct: false, reason: 'other numbers' }
      return expression.value === Number(target)
        ? { correct: true }
        : { correct: false, reason: `gives ${expression.value}` }
    },
  }
}
