// SuperHF (Mukobi et al. 2023, arXiv 2310.16763; code openfeedback/superhf, src/superhf/training.py). objectives.md 1.
//   loss = NLL + kappa * KL, with KL = sum_v p0 (log p0 - log p) per position: prior || policy, full vocabulary.
// Its gradient is that of cross-entropy against the label blended with the prior, (onehot + kappa p0) / (1 + kappa), times
// 1 + kappa (objectives.md 1.3): the fused head forms both terms in one pass. Weights of tokens act on the NLL alone.
// `tokenMean` (default) averages both terms over the trained tokens of the step. `authors` is the published reduction: the
// KL is a mean over the tokens of each sequence, then a SUM over the sequences of the step: with the published two
// sequences per step, their kappa 0.35 is 0.70 of a mean over sequences.
// The KL of a sequence is clamped at 0 against rounding, as in the authors' code. `inverseLoss` C adds C / NLL, their
// guard against collapse (default off); it is no sum over tokens, so one call must see the whole step.
// Differs from the authors' code, which masks the KL one position late (objectives.md 1.8): one mask serves both terms.

import * as z from 'zod'
import { add, div, gather, leaf, mul, neg, sum, where } from './autodiff.js'
import { nonNegative, oneOf } from './config.js'
import { defineObjective } from './objective.js'
import { overTokens, sequenceSums, type View, weightsOf } from './view.js'

const settings = z.strictObject({
  kappa: nonNegative(0.35).describe('weight of the KL term'),
  direction: oneOf('priorToPolicy', 'policyToPrior').describe('KL(prior || policy), or KL(policy || prior)'),
  normalisation: oneOf('tokenMean', 'authors').describe('of the KL: mean over tokens, or mean per sequence then a sum'),
  clamp: z.boolean().default(true).describe('no KL of a sequence counts as less than 0'),
  inverseLoss: nonNegative(0).describe('C of the term C / NLL'),
})

/** Settings of SuperHF. */
export type SuperHfConfig = z.input<typeof settings>

/** Sum of the KL over tokens, each sequence at least 0 when clamped; with 1 / length for each token or not. */
function klSum(view: View, clamp: boolean, perSequence: boolean) {
  const { sequenceOf, lengths, kl } = view
  const sums = sequenceSums(view, perSequence ? div(kl, gather(leaf(lengths), sequenceOf)) : kl)
  if (!clamp) return sum(sums)
  return sum(
    where(
      Array.from(sums.value, (total) => !(total < 0)),
      sums,
      leaf(new Float64Array(lengths.length)),
    ),
  )
}

const total = (values: Float64Array): number => values.reduce((all, value) => all + value, 0)

/** The SuperHF objective. */
export const superhf = defineObjective('superhf.v1', settings, (config) => ({
  needs: { rows: 'completion', reference: true, kl: config.direction, wholeStep: config.inverseLoss > 0 },
  formula: (view) => {
    const authors = config.normalisation === 'authors'
    const nll = overTokens(view, neg(mul(weightsOf(view), view.logps)))
    const kl = klSum(view, config.clamp, authors)
    const divergence = mul(authors ? kl : div(kl, view.batch.step.tokens), config.kappa)
    const loss = add(nll, divergence)
    const count = view.logps.value.length
    return {
      loss: config.inverseLoss === 0 ? loss : add(loss, div(config.inverseLoss, nll)),
      stats: {
        nll: { sum: -total(view.logps.value), count },
        kl: { sum: total(view.kl.value), count },
      },
    }
  },
}))
