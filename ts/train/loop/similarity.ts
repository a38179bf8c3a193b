// METEOR similarity of completions, the reward-hacking monitor of SuperHF (2310.16763): a policy whose answers to different
// prompts are alike has found one text that pleases. Matching is exact, of lower-case words between blanks; the authors, by
// NLTK, also match stems and synonyms, so that their numbers are a little higher. objectives.md 1.7.

import { checkArgument, kinds } from '../../src/base/arguments.js'
import { createRandom, deriveKey } from '../../src/base/rng.js'
import { mean } from '../../src/base/stats.js'
import { byTask, completionOf, type Trace } from './trace.js'

const wordsOf = (text: string): string[] => text.toLowerCase().split(/\s+/).filter(Boolean)

/** Places of equal words in both texts, taken greedily from the end as NLTK does; in the order of the second text. */
function matchesOf(reference: readonly string[], hypothesis: readonly string[]): (readonly [number, number])[] {
  const free = new Map<string, number[]>()
  for (const [i, word] of reference.entries()) free.set(word, [...(free.get(word) ?? []), i])
  return hypothesis
    .map((word, j) => [word, j] as const)
    .toReversed()
    .flatMap(([word, j]) => {
      const i = free.get(word)?.pop()
      return i === undefined ? [] : [[i, j] as const]
    })
    .toReversed()
}

/**
 * METEOR of a text against another one (Banerjee and Lavie 2005; constants of NLTK), without stems and synonyms. With m matches,
 * P = m / |hypothesis|, R = m / |reference| and chunks, the least runs of matches that are adjacent in both:
 *   score = (1 - (chunks / m)^3 / 2) P R / (0.9 P + 0.1 R)
 * It is not symmetric, and of equal texts 1 - 1 / (2 m^3). 0 where no word matches.
 */
export function meteor(reference: string, hypothesis: string): number {
  checkArgument('meteor.reference', reference, kinds.text)
  checkArgument('meteor.hypothesis', hypothesis, kinds.text)
  const [ours, theirs] = [wordsOf(reference), wordsOf(hypothesis)]
  const matches = matchesOf(ours, theirs)
  if (matches.length === 0) return 0
  const [precision, recall] = [matches.length / theirs.length, matches.length / ours.length]
  const chunks = matches.filter(([i, j], k) => k === 0 || i !== matches[k - 1][0] + 1 || j !== matches[k - 1][1] + 1)
  const penalty = (chunks.length / matches.length) ** 3 / 2
  return ((1 - penalty) * precision * recall) / (0.9 * precision + 0.1 * recall)
}

/** Pairs that a round is measured on, drawn with replacement: what it costs does not grow with the round. */
const mostPairs = 128

/**
 * Mean {@link meteor} of pairs of completions of different prompts, both ways, as `completions/meteor`: near 0 for answers that
 * differ, high where all say the same. Nothing where there are fewer than two prompts.
 *
 * @param seed draws pairs; the same for equal traces
 */
export function similarityStatistics(traces: readonly Trace[], seed = 0): Record<string, number> {
  const groups = byTask(traces)
  if (groups.length < 2) return {}
  const random = createRandom(deriveKey(seed, 'similarity'))
  const values = Array.from({ length: mostPairs }, () => {
    const first = random.integer(groups.length)
    const second = (first + 1 + random.integer(groups.length - 1)) % groups.length
    const [a, b] = [first, second].map((at) => completionOf(groups[at][random.integer(groups[at].length)]))
    return (meteor(a, b) + meteor(b, a)) / 2
  })
  return { 'completions/meteor': mean(values) }
}
