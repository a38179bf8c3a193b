// KTO's reference point: every prompt also gets an answer that belongs to another prompt. TRL turns the answers of each
// device batch by one; here the partner is the next row of the data set (around its end) whose prompt is another one, so
// that it depends neither on batches nor on order, and rows that share a prompt never serve as each other's mismatch.
// (TRL pairs a row that is alone with itself.)
// As in TRL, the tokens of the answer are put behind those of the prompt, and rows that are left out take no part.

import { WhetstoneError } from '../../src/base/errors.js'
import { marksFrom } from './answer.js'
import type { Part } from './cut.js'

const samePrompt = (a: Part, b: Part): boolean =>
  a.promptLength === b.promptLength && a.ids.slice(0, a.promptLength).every((id, i) => b.ids[i] === id)

/** For each answer the next one, around the end, that has another prompt. */
function partnersOf(answers: readonly Part[]): number[] {
  const count = answers.length
  const partners = new Array<number>(count).fill(-1)
  for (let i = 2 * count - 1; i >= 0; i--) {
    const [at, next] = [i % count, (i + 1) % count]
    partners[at] = samePrompt(answers[at], answers[next]) ? partners[next] : next
  }
  return partners
}

function firstOther(answer: Part, spare: Iterable<Part>): Part | undefined {
  for (const part of spare) if (!samePrompt(answer, part)) return part
  return undefined
}

/**
 * The mismatched sequence of each answer.
 *
 * @param spare further answers, one of which is taken where all of `answers` have the same prompt: a single row that is
 *   held out has its partner among the rows that are trained
 * @throws WhetstoneError E_CONFIG when all prompts are the same
 */
export function mismatches(answers: readonly Part[], spare: Iterable<Part> = []): Part[] {
  const partners = partnersOf(answers)
  const other = partners.includes(-1) ? firstOther(answers[0], spare) : undefined
  if (partners.includes(-1) && other === undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'data',
      `expected rows with at least two different prompts: KTO compares with answers to other prompts, and all ${answers.length} rows have the same; lossType 'apoZeroUnpaired' needs none`,
    )
  return answers.map((answer, i) => {
    const from = other ?? answers[partners[i]]
    const ids = [...answer.ids.slice(0, answer.promptLength), ...from.ids.slice(from.promptLength)]
    return {
      role: 'mismatch',
      ids,
      trained: marksFrom(ids.length, answer.promptLength),
      promptLength: answer.promptLength,
    }
  })
}
