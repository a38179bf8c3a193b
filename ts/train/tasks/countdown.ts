// Countdown: write an expression with + - * that uses each given number exactly once and equals the target:
// `3,7,12:33=` -> `3*7+12`. Any right expression is accepted; the worked solution is one of them.

import type { Random } from '../../src/base/rng.js'
import { parseExpression } from './expression.js'
import { splitLists, type TaskSource } from './task.js'

const operators = ['+', '-', '*'] as const
const largestNumber = 20
const largestTarget = 99

/** A random expression over the numbers whose value is a target from 1 to 99. */
function drawSolution(random: Random, count: number): { numbers: number[]; expression: string; target: number } {
  for (;;) {
    const numbers = Array.from({ length: count }, () => 1 + random.integer(largestNumber))
    const expression = numbers.map((n, i) => (i === 0 ? `${n}` : `${operators[random.integer(3)]}${n}`)).join('')
    const target = parseExpression(expression)?.value ?? 0
    if (target >= 1 && target <= largestTarget) return { numbers, expression, target }
  }
}

const sorted = (numbers: readonly number[]): number[] => [...numbers].sort((a, b) => a - b)

/** The tasks. `difficulty` is how many numbers there are. */
export function countdown(seed: number, difficulty: number): TaskSource {
  const lists = splitLists(`countdown-${difficulty}`, seed, (random) => {
    const { numbers, expression, target } = drawSolution(random, difficulty)
    const canonical = `${sorted(numbers).join(',')}:${target}`
    return { canonical, prompt: `${canonical}=`, answer: expression }
  })
  return {
    ...lists,
    name: 'countdown',
    description: `expressions of ${difficulty} given numbers that hit a target`,
    characters: '0123456789+-*(),:=',
    maxNewTokens: 4 * difficulty + 4,
    check: (task, completion) => {
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
