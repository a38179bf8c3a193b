// Chains of modular arithmetic, worked from left to right without precedence: `7+3*4-5=` modulo 10 is 7+3 = 0, 0*4 = 0, 0-5 = 5,
// answered `0,0,5>5`: the value behind each operation, then the last one again. What counts is the number behind `>`; without
// scratch steps the completion is that number alone. Difficulty is the length of the chain: a model that can do one step can
// do none of many at once without writing them down.

import * as z from 'zod'
import { resolveConfig } from '../config/resolve.js'
import { checkAttempt, followSteps, splitLists, type TaskSource } from './task.js'

/** Settings of the chains. */
export const chainsOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(1).max(20).default(4).describe('how many operations a chain has'),
  modulus: z.int().min(2).max(100).default(10).describe('values are 0 to one less than this'),
  scratch: z.boolean().default(true).describe('write the value behind each operation in front of the answer'),
})

const operators = ['+', '-', '*'] as const

const applied: Readonly<Record<string, (a: number, b: number) => number>> = {
  '+': (a, b) => a + b,
  '-': (a, b) => a - b,
  '*': (a, b) => a * b,
}

/** The value behind each operation of a chain. */
function valuesOf(expression: string, modulus: number): number[] {
  const [first, ...steps] = expression.match(/[+\-*]?\d+/g) ?? []
  let value = Number(first)
  return steps.map((step) => {
    value = applied[step[0]](value, Number(step.slice(1))) % modulus
    if (value < 0) value += modulus
    return value
  })
}

/**
 * The tasks.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function chains(options: z.input<typeof chainsOptions>): TaskSource {
  const settings = resolveConfig(chainsOptions, [{ origin: 'task', values: options }]).values
  const { difficulty, modulus, scratch, seed } = settings
  const width = String(modulus - 1).length
  const form = scratch ? /^(\d+(?:,\d+)*)>(\d+)$/ : /^(\d+)$/
  const lists = splitLists({ name: 'chains', variant: `${difficulty}-${modulus}`, seed }, (random) => {
    const draw = () => String(random.integer(modulus))
    const steps = Array.from({ length: difficulty }, () => `${operators[random.integer(operators.length)]}${draw()}`)
    const canonical = `${draw()}${steps.join('')}`
    const values = valuesOf(canonical, modulus)
    const last = values[values.length - 1]
    return { canonical, prompt: `${canonical}=`, answer: scratch ? `${values.join(',')}>${last}` : `${last}` }
  })
  return {
    ...lists,
    name: 'chains',
    description: `${difficulty} operations modulo ${modulus}, from left to right`,
    characters: `0123456789+-*=${scratch ? ',>' : ''}`,
    maxPromptTokens: width + difficulty * (width + 1) + 1,
    maxNewTokens: scratch ? (difficulty + 1) * (width + 1) + 2 : width + 2,
    check: (task, completion) => {
      checkAttempt(task, completion)
      const values = valuesOf(task.prompt.slice(0, -1), modulus)
      const match = form.exec(completion)
      if (match === null) return { correct: false, reason: 'malformed', score: 0 }
      const expected = String(values[values.length - 1])
      const correct = match.at(-1) === expected
      const { good, ...steps } = followSteps(scratch ? match[1].split(',').map(Number) : [], values)
      if (correct) return { correct, score: 1, ...(scratch && steps) }
      const all = values.length
      const score = Math.min(good / all, all / (all + 1))
      return { correct, reason: `expected ${expected}`, score, ...(scratch && steps) }
    },
  }
}
