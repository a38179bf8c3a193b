// String edits by instruction, worked from left to right: `abca:RSabM=` reverses, substitutes b for a, moves the first letter to the
// end, answered `acba,bcbb,cbbb`: the string behind each instruction. `R` reverses, `M` moves the first letter to the end, `Dx`
// deletes every x, `Tx` writes every x twice, `Sxy` puts y for every x. What counts is the last string; without scratch steps the
// completion is that string alone. The score of a wrong one is 1 less its edit distance to the right one, as a
// share of the longer of the two.

import * as z from 'zod'
import type { Random } from '../../src/base/rng.js'
import { resolveConfig } from '../config/resolve.js'
import { editDistance } from './distance.js'
import { checkAttempt, followSteps, splitLists, type TaskSource } from './task.js'

/** Settings of the string edits. */
export const editsOptions = z.strictObject({
  seed: z.int().describe('key of the draws; the splits do not depend on it'),
  difficulty: z.int().min(1).max(10).default(3).describe('how many instructions there are'),
  letters: z.int().min(3).max(12).default(5).describe('letters of the string to edit'),
  scratch: z.boolean().default(true).describe('write the string behind each instruction'),
})

const alphabet = [...'abcde']

/** What an instruction makes of a string; `x` and `y` are the letters behind its name. */
const edited: Readonly<Record<string, (text: string, x: string, y: string) => string>> = {
  R: (text) => [...text].reverse().join(''),
  M: (text) => `${text.slice(1)}${text.slice(0, 1)}`,
  D: (text, x) => text.replaceAll(x, ''),
  T: (text, x) => text.replaceAll(x, x + x),
  S: (text, x, y) => text.replaceAll(x, y),
}

/** Every instruction, by its name. */
const instructions: readonly (readonly string[])[] = [
  ['R'],
  ['M'],
  alphabet.map((x) => `D${x}`),
  alphabet.map((x) => `T${x}`),
  alphabet.flatMap((x) => alphabet.map((y) => `S${x}${y}`)),
]

const apply = (text: string, instruction: string): string =>
  edited[instruction[0]](text, instruction.slice(1, 2), instruction.slice(2))

/** The string behind each instruction of a prompt. */
function statesOf(prompt: string): string[] {
  let [text, script] = prompt.slice(0, -1).split(':')
  return (script.match(/[A-Z][a-z]*/g) ?? []).map((instruction) => {
    text = apply(text, instruction)
    return text
  })
}

/** An instruction that changes the string and leaves 1 to `most` letters: every name that has one is equally likely. */
function drawInstruction(random: Random, text: string, most: number): string {
  const changes = (instruction: string): boolean => {
    const next = apply(text, instruction)
    return next !== text && next.length > 0 && next.length <= most
  }
  const fit = instructions.map((named) => named.filter(changes)).filter((named) => named.length > 0)
  const named = fit[random.integer(fit.length)]
  return named[random.integer(named.length)]
}

/**
 * The tasks.
 *
 * @throws WhetstoneError E_CONFIG for settings out of range
 */
export function edits(options: z.input<typeof editsOptions>): TaskSource {
  const { difficulty, letters, scratch, seed } = resolveConfig(editsOptions, [
    { origin: 'task', values: options },
  ]).values
  const most = letters + 3
  const form = scratch ? /^[a-e]+(?:,[a-e]+)*$/ : /^[a-e]+$/
  const lists = splitLists({ name: 'edits', variant: `${difficulty}-${letters}`, seed }, (random) => {
    const start = Array.from({ length: letters }, () => alphabet[random.integer(alphabet.length)]).join('')
    let [text, script] = [start, '']
    for (let i = 0; i < difficulty; i++) {
      const instruction = drawInstruction(random, text, most)
      text = apply(text, instruction)
      script += instruction
    }
    const canonical = `${start}:${script}`
    return { canonical, prompt: `${canonical}=`, answer: scratch ? statesOf(`${canonical}=`).join(',') : text }
  })
  return {
    ...lists,
    name: 'edits',
    description: `${difficulty} edits of strings of ${letters} letters`,
    characters: `${alphabet.join('')}RMDTS:=${scratch ? ',' : ''}`,
    maxPromptTokens: letters + 3 * difficulty + 2,
    maxNewTokens: scratch ? difficulty * (most + 1) + 2 : most + 2,
    check: (task, completion) => {
      checkAttempt(task, completion)
      if (!form.test(completion)) return { correct: false, reason: 'malformed', score: 0 }
      const states = statesOf(task.prompt)
      const written = completion.split(',')
      const [expected, last] = [states[states.length - 1], written[written.length - 1]]
      const { good: _, ...steps } = followSteps(written, states)
      if (last === expected) return { correct: true, score: 1, ...(scratch && steps) }
      const score = 1 - editDistance(last, expected) / Math.max(last.length, expected.length)
      return { correct: false, reason: `expected ${expected}`, score, ...(scratch && steps) }
    },
  }
}
