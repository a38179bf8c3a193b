// Multi-digit addition with scratch steps: `347+85=` -> `7521,4831,3040>432`. Each step, from the lowest place up, is
// four digits: one of each operand, the digit of the sum, the carry. What counts is the number behind `>`.

import type { Random } from '../../src/base/rng.js'
import { splitLists, type TaskSource } from './task.js'

/** A number with 1 to `digits` digits, every length equally likely. */
function operand(random: Random, digits: number): number {
  const length = 1 + random.integer(digits)
  const least = length === 1 ? 0 : 10 ** (length - 1)
  return least + random.integer(10 ** length - least)
}

/** The column addition of two numbers, as steps of operand digits, sum digit and carry. */
function scratchOf(a: number, b: number): string {
  const steps: string[] = []
  let carry = 0
  for (let x = a, y = b; steps.length === 0 || x > 0 || y > 0; x = Math.floor(x / 10), y = Math.floor(y / 10)) {
    const sum = (x % 10) + (y % 10) + carry
    carry = sum >= 10 ? 1 : 0
    steps.push(`${x % 10}${y % 10}${sum % 10}${carry}`)
  }
  return steps.join(',')
}

/** The tasks. `difficulty` is the most digits of an operand. */
export function arithmetic(seed: number, difficulty: number): TaskSource {
  const lists = splitLists(`arithmetic-${difficulty}`, seed, (random) => {
    const a = operand(random, difficulty)
    const b = operand(random, difficulty)
    return {
      canonical: [a, b].sort((x, y) => x - y).join('+'),
      prompt: `${a}+${b}=`,
      answer: `${scratchOf(a, b)}>${a + b}`,
    }
  })
  return {
    ...lists,
    name: 'arithmetic',
    description: `addition of two numbers of 1 to ${difficulty} digits`,
    characters: '0123456789+=,>',
    maxNewTokens: 6 * difficulty + 4,
    check: (task, completion) => {
      const [a, b] = task.prompt.slice(0, -1).split('+').map(Number)
      const match = /^[\d,]+>(\d+)$/.exec(completion)
      if (match === null) return { correct: false, reason: 'malformed' }
      return match[1] === String(a + b) ? { correct: true } : { correct: false, reason: `expected ${a + b}` }
    },
  }
}
