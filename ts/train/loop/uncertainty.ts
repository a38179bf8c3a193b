// What a model does not know, by dropout at scoring (Gal and Ghahramani 2016): the adapter drops inputs as in training, pass
// after pass, and how far the passes disagree is the uncertainty of the weights. Of T probabilities p_t of one thing
//   BALD = H(mean p) - mean H(p),  H(p) = -p log p - (1 - p) log(1 - p)
// (Houlsby et al. 2011), in nats from 0 to ln 2: 0 where all passes say the same, also where all say 1/2.

import { checkArgument, checkOptions, kinds } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { deriveKey } from '../../src/base/rng.js'
import { mean } from '../../src/base/stats.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { scores } from '../../src/generate/read.js'
import type { JudgeDraws } from './judges.js'

/** What several draws of a probability say. */
export interface Uncertainty {
  readonly mean: number
  /** Of the draws, divided by how many there are. */
  readonly variance: number
  /** 1 where more draws are above 1/2 than below, 0 where fewer are, 1/2 where it is even. */
  readonly vote: number
  /** In nats, from 0 to ln 2. */
  readonly bald: number
}

/** In nats. */
const entropy = (p: number): number => [p, 1 - p].reduce((sum, q) => (q > 0 ? sum - q * Math.log(q) : sum), 0)

/**
 * Mean, variance, majority and BALD of the draws of one probability.
 *
 * @throws WhetstoneError E_CONFIG for none, or for numbers outside [0, 1]
 */
export function uncertainty(draws: readonly number[]): Uncertainty {
  checkArgument('uncertainty.draws', draws, kinds.numbers)
  const bad = draws.find((p) => !(p >= 0 && p <= 1))
  if (draws.length === 0 || bad !== undefined)
    throw new WhetstoneError('E_CONFIG', 'uncertainty.draws', `expected probabilities, got ${bad ?? 'none'}`)
  const centre = mean(draws)
  return {
    mean: centre,
    variance: mean(draws.map((p) => (p - centre) ** 2)),
    vote: (1 + Math.sign(draws.reduce((sum, p) => sum + Math.sign(p - 0.5), 0))) / 2,
    // Rounding may take it below 0 where all draws are equal.
    bald: Math.max(0, entropy(centre) - mean(draws.map(entropy))),
  }
}

/** Has it an adapter that drops inputs? */
export const hasDropout = ({ decoder }: LanguageModel): boolean => (decoder.adapter?.config.loraDropout ?? 0) > 0

/**
 * Numbers of a score head at the end of each sequence, pass after pass with the dropout of the model's adapter; [passes][sequences].
 * What is dropped is a pure function of the seed, the pass and the tokens, whatever is scored beside them. A reward model's
 * probability that one sample beats another is the logistic function of the difference of theirs, pass by pass.
 *
 * @param model a reward model or a model of pairs, with a score head of one number
 * @throws WhetstoneError E_CONFIG for a model without dropout, or without a score head
 */
export async function drawScores(
  model: LanguageModel,
  sequences: readonly (readonly number[])[],
  draws: JudgeDraws,
): Promise<number[][]> {
  checkArgument('drawScores.model', model, modelKind)
  checkArgument('drawScores.sequences', sequences, kinds.list)
  checkOptions('drawScores', draws, { passes: kinds.count, seed: kinds.whole })
  if (!hasDropout(model)) {
    const text = 'expected an adapter with loraDropout above 0, got a model that says the same in each pass'
    throw new WhetstoneError('E_CONFIG', 'drawScores.model', text)
  }
  const ends = sequences.map((ids) => [ids.length - 1])
  const passes: number[][] = []
  for (let pass = 0; pass < draws.passes; pass++) {
    const keys = sequences.map((ids) => deriveKey(draws.seed, 'draw', pass, ids.join(' ')))
    passes.push((await scores(model.decoder, sequences, ends, keys)).map(([score]) => score))
  }
  return passes
}
