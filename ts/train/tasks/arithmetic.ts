// Addition and multiplication with scratch steps, worked from the lowest place up.
//   347+85=  ->  7521,4831,3040>432      a column: one digit of each operand, the digit of the sum, the carry
//   47*36=   ->  7624,4682;7312,4341;8190,2460,0110>1692      partial products, each added to the running sum
// What counts is the number behind `>`, whatever stands in front; columns are the steps of a verdict. Without scratch steps the
// completion is that number alone.

import * as z from 'zod'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import { checkAttempt, followSteps, splitLists, type TaskSource } from './task.js'

/** Settings of the arithmetic tasks. */
export const arithmeticOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(1).max(7).default(3).describe('most digits of an operand'),
  operations: z
    .array(z.enum(['+', '*']))
    .min(1)
    .default(['+'])
    .describe('what to do with the operands, each entry equally likely'),
  factorDigits: z.int().min(1).max(3).default(2).describe('most digits of the second factor of a product'),
  scratch: z.boolean().default(true).describe('work in steps in front of the answer'),
})

type Settings = z.output<typeof arithmeticOptions>

/** A number with 1 to `digits` digits, every length equally likely. */
export function operand(random: Random, digits: number): number {
  const length = 1 + random.integer(digits)
  const least = length === 1 ? 0 : 10 ** (length - 1)
  return least + random.integer(10 ** length - least)
}

/** Digits from the lowest place up; of 0 one. */
const digitsOf = (n: number): number[] => [...String(n)].reverse().map(Number)

/** The column addition of two numbers: operand digits, sum digit, carry. */
function sumScratch(a: number, b: number): string {
  const [x, y] = [digitsOf(a), digitsOf(b)]
  let carry = 0
  return Array.from({ length: Math.max(x.length, y.length) }, (_, place) => {
    const [p, q] = [x[place] ?? 0, y[place] ?? 0]
    const sum = p + q + carry
    carry = Math.floor(sum / 10)
    return `${p}${q}${sum % 10}${carry}`
  }).join(',')
}

/** A number times one digit: digit of the number, the digit, digit of the product, carry. */
function partialScratch(a: number, digit: number): string {
  let carry = 0
  return digitsOf(a)
    .map((p) => {
      const product = p * digit + carry
      carry = Math.floor(product / 10)
      return `${p}${digit}${product % 10}${carry}`
    })
    .join(',')
}

/**
 * Long multiplication: for each digit of `b` the partial product, and from the second on its addition to the running
 * sum, whose lower places are final and left out: `47*36=` -> `7624,4682;7312,4341;8190,2460,0110>1692`.
 */
function productScratch(a: number, b: number): string {
  let running = 0
  return digitsOf(b)
    .flatMap((digit, place) => {
      const upper = Math.floor(running / 10 ** place)
      running += a * digit * 10 ** place
      return place === 0 ? [partialScratch(a, digit)] : [partialScratch(a, digit), sumScratch(upper, a * digit)]
    })
    .join(';')
}

interface Operation {
  readonly words: string
  readonly compute: (a: number, b: number) => number
  readonly scratch: (a: number, b: number) => string
  /** Most digits of the second operand. */
  readonly secondDigits: (settings: Settings) => number
  /** Longest answer in characters, and the end token. */
  readonly length: (digits: number, second: number) => number
  /** What prompts and answers need beside digits, `=` and `>`. */
  readonly characters: string
}

const operations: Readonly<Record<'+' | '*', Operation>> = {
  '+': {
    words: 'addition',
    compute: (a, b) => a + b,
    scratch: sumScratch,
    secondDigits: ({ difficulty }) => difficulty,
    length: (digits) => 6 * digits + 4,
    characters: '+,',
  },
  '*': {
    words: 'multiplication',
    compute: (a, b) => a * b,
    scratch: productScratch,
    secondDigits: ({ difficulty, factorDigits }) => Math.min(difficulty, factorDigits),
    // Columns of five characters: `digits` per partial product, one more per addition; then the result.
    length: (digits, second) => 5 * (digits * second + (digits + 1) * (second - 1)) + digits + second + 2,
    characters: ',*;',
  },
}

/** Alphabet in the order of ids: digits, signs, `=`, `,`, then what only some settings need. */
function alphabet({ operations: chosen, scratch }: Settings): string {
  const needed = `=${scratch ? '>' : ''}${chosen.map((sign) => (scratch ? operations[sign].characters : sign)).join('')}`
  return [...'0123456789+=,>*;'].filter((c) => (c >= '0' && c <= '9') || needed.includes(c)).join('')
}

/** Columns with the mark in front of each: a column in the wrong group is wrong. */
const columnsOf = (work: string): string[] => work.split(/(?=[,;])/)

/** The operands of a prompt. */
function read(prompt: string): { a: number; b: number; sign: '+' | '*' } {
  const sign = prompt.includes('*') ? '*' : '+'
  const [a, b] = prompt.slice(0, -1).split(sign).map(Number)
  return { a, b, sign }
}

/**
 * The tasks.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function arithmetic(options: z.input<typeof arithmeticOptions>): TaskSource {
  const settings = resolveConfig(arithmeticOptions, [{ origin: 'task', values: options }]).values
  const { difficulty, scratch } = settings
  const signs = settings.operations
  const form = scratch ? /^([\d,;]+)>(\d+)$/ : /^(\d+)$/
  const most = (measure: (operation: Operation, second: number) => number): number =>
    Math.max(...signs.map((sign) => measure(operations[sign], operations[sign].secondDigits(settings))))
  const lists = splitLists({ name: 'arithmetic', variant: `${difficulty}`, seed: settings.seed }, (random) => {
    const sign = signs.length === 1 ? signs[0] : signs[random.integer(signs.length)]
    const { compute, scratch: work, secondDigits } = operations[sign]
    const a = operand(random, difficulty)
    const b = operand(random, secondDigits(settings))
    return {
      canonical: [a, b].sort((x, y) => x - y).join(sign),
      prompt: `${a}${sign}${b}=`,
      answer: `${scratch ? `${work(a, b)}>` : ''}${compute(a, b)}`,
    }
  })
  return {
    ...lists,
    name: 'arithmetic',
    description: `${signs.map((sign) => operations[sign].words).join(' and ')} of two numbers of 1 to ${difficulty} digits`,
    characters: alphabet(settings),
    maxPromptTokens: most((_, second) => difficulty + second + 2),
    maxNewTokens: scratch ? most(({ length }, second) => length(difficulty, second)) : 2 * difficulty + 2,
    check: (task, completion) => {
      checkAttempt(task, completion)
      const { a, b, sign } = read(task.prompt)
      const match = form.exec(completion)
      if (match === null) return { correct: false, reason: 'malformed', score: 0 }
      const expected = String(operations[sign].compute(a, b))
      const correct = match.at(-1) === expected
      const right = scratch ? columnsOf(operations[sign].scratch(a, b)) : []
      const { good, ...steps } = followSteps(scratch ? columnsOf(match[1]) : [], right)
      if (correct) return { correct, score: 1, ...steps }
      return { correct, reason: `expected ${expected}`, score: good / (right.length + 1), ...steps }
    },
  }
}
