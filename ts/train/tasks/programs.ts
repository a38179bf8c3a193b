// Programs from examples, in a small stack language: `2>7;3>10;5>16=` asks for a program that maps each number to the one behind it,
// such as `x3*1+`. An instruction is one character: a digit pushes itself, `x` pushes the input, `+ - *` take two numbers and push
// one, `d` doubles the top entry (pushes it again), `s` swaps the two on top. A program must end with one number on the stack. Any
// program is right that maps all examples, whatever made them; the worked solution is the one that did.

import * as z from 'zod'
import { WhetstoneError } from '../../src/base/errors.js'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import { checkAttempt, splitLists, type TaskSource } from './task.js'

/** Settings of the programs. */
export const programsOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(5).max(11).default(7).describe('most instructions of worked solutions'),
  examples: z.int().min(2).max(6).default(3).describe('pairs of a number and its image in a prompt'),
})

/** Numbers beyond it end a program. */
const largest = 999

const two: Readonly<Record<string, (a: number, b: number) => number[]>> = {
  '+': (a, b) => [a + b],
  '-': (a, b) => [a - b],
  '*': (a, b) => [a * b],
  s: (a, b) => [b, a],
}

/** One instruction on a stack; undefined where it cannot run. */
function step(stack: readonly number[], instruction: string, input: number): number[] | undefined {
  if (instruction >= '0' && instruction <= '9') return [...stack, Number(instruction)]
  if (instruction === 'x') return [...stack, input]
  if (instruction === 'd') return stack.length < 1 ? undefined : [...stack, stack[stack.length - 1]]
  const act = two[instruction]
  if (act === undefined || stack.length < 2) return undefined
  const next = [...stack.slice(0, -2), ...act(stack[stack.length - 2], stack[stack.length - 1])]
  return Math.abs(next[next.length - 1]) > largest ? undefined : next
}

/** What a program makes of a number; undefined where it cannot run, or leaves more or less than one number. */
export function run(program: string, input: number): number | undefined {
  let stack: number[] | undefined = []
  for (const instruction of program) {
    stack = step(stack, instruction, input)
    if (stack === undefined) return undefined
  }
  return stack.length === 1 ? stack[0] : undefined
}

/** Inputs of the examples, those of a prompt from the first. Programs that agree on them are one problem, and have one prompt. */
const inputs = [2, 5, 3, 7, 1, 8]

const triesPerProgram = 10_000
const instructions = [...'0123456789', ...'xxxxx', ...'+++---***', 'd', 's']

const grows = (instruction: string): boolean => two[instruction] === undefined

/** An instruction that a stack of `depth` takes and from which `left` more can come back to one number. */
function drawInstruction(random: Random, depth: number, left: number): string | undefined {
  const fit = instructions.filter((one) =>
    grows(one) ? depth <= left && (one !== 'd' || depth > 0) : depth >= 2 && depth - Number(one !== 's') <= left + 1,
  )
  return fit.length === 0 ? undefined : fit[random.integer(fit.length)]
}

/** A random program that runs on the inputs and looks at them. */
function drawProgram(random: Random, length: number, shown: readonly number[]): { program: string; images: number[] } {
  for (let tries = 0; tries < triesPerProgram; tries++) {
    const size = 3 + random.integer(length - 2)
    let [program, depth]: [string, number] = ['', 0]
    for (let left = size - 1; left >= 0; left--) {
      const next = drawInstruction(random, depth, left)
      if (next === undefined) break
      program += next
      depth += grows(next) ? 1 : next === 's' ? 0 : -1
    }
    const images = shown.flatMap((input) => run(program, input) ?? [])
    if (images.length === shown.length && new Set(images).size > 1) return { program, images }
  }
  throw new WhetstoneError('E_INTERNAL', 'programs', `expected a program that runs among ${triesPerProgram}, got none`)
}

const pairsOf = (prompt: string): [input: number, image: number][] =>
  prompt
    .slice(0, -1)
    .split(';')
    .map((pair) => pair.split('>').map(Number) as [number, number])

/**
 * The tasks.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function programs(options: z.input<typeof programsOptions>): TaskSource {
  const { difficulty, examples, seed } = resolveConfig(programsOptions, [{ origin: 'task', values: options }]).values
  const shown = inputs.slice(0, examples).sort((a, b) => a - b)
  const lists = splitLists({ name: 'programs', variant: `${difficulty}-${examples}`, seed }, (random) => {
    const { program, images } = drawProgram(random, difficulty, shown)
    const prompt = `${shown.map((input, i) => `${input}>${images[i]}`).join(';')}=`
    return { canonical: images.join(','), prompt, answer: program }
  })
  return {
    ...lists,
    name: 'programs',
    description: `stack programs of up to ${difficulty} instructions from ${examples} examples`,
    characters: '0123456789+-*xds>;=',
    maxPromptTokens: examples * 7,
    maxNewTokens: 2 * difficulty + 2,
    check: (task, completion) => {
      checkAttempt(task, completion)
      const pairs = pairsOf(task.prompt)
      const made = pairs.map(([input]) => run(completion, input))
      const wrong = pairs.findIndex(([, image], i) => made[i] !== image)
      const score = pairs.filter(([, image], i) => made[i] === image).length / pairs.length
      if (wrong < 0) return { correct: true, score }
      const [input, image] = pairs[wrong]
      return { correct: false, reason: `${input} gives ${made[wrong] ?? 'nothing'}, expected ${image}`, score }
    },
  }
}
