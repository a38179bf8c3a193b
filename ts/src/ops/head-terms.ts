// The language-model head fused with statistics of its whole distribution beside the log-probs of targets: entropy,
// mean log-prob, log of the sum of squares, log-prob of the most probable token. Logits never exist beyond a tile. Kernels: native/cpu/head_terms.cpp;
// references: head-reference.ts; formulas with their uses: ts/loss/vocabulary.ts.

import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpCase, type OpEntry, type Parameters } from './define.js'
import { headLogProbsBackwardOp } from './head.js'
import { headTermsBackwardReference, headTermsReference } from './head-reference.js'
import {
  benchSizes,
  capped,
  expectGradient,
  expectHead,
  type HeadOptions,
  logProbsCase,
  parametersOf,
  plain,
  type Sizes,
  sizes,
  someLse,
  targetsBelow,
} from './head-shape.js'
import { zeros } from './layout.js'

const headTermsOp = defineOp({
  name: 'head_terms',
  shapes: (s, p) => {
    expectHead('head_terms', s, p)
    return [s.targets, s.targets, s.targets, s.targets, s.targets, s.targets]
  },
  fixed: ['logsquares', 'lse', 'toplogps'],
  saves: ['h', 'w', 'targets', 'entropy', 'lse'],
  gradient: ({ t, d, p, needs, into }) => {
    const given = [d.logps, d.entropy, d.meanlogps]
    if (given.every((gradient) => gradient === undefined)) return {}
    const dw = needs('w') ? into('w') : undefined
    // The same bits in less time.
    if (d.entropy === undefined && d.meanlogps === undefined)
      return { h: call(headLogProbsBackwardOp, [dw, d.logps, t.h, t.w, t.targets, t.lse], p)[0] }
    const gradients = given.map((gradient) => gradient ?? zeros(t.lse.device, t.lse.shape))
    return { h: call(headTermsBackwardOp, [dw, ...gradients, t.h, t.w, t.targets, t.entropy, t.lse], p)[0] }
  },
  reference: headTermsReference,
  cases: [
    ...sizes.map((size) => logProbsCase(size, plain)),
    logProbsCase([3, 4, 7], capped),
    logProbsCase([9, 33, 130], capped),
    // A common offset of a thousand, and a maximum that rises from one folded piece of the row to the next.
    {
      in: { h: [2, 8], w: [2100, 8], targets: [2] },
      p: plain,
      fill: {
        h: (i) => (i % 8 < 2 ? 1 : 0),
        w: (i) => (i % 8 === 0 ? 1000 : i % 8 === 1 ? Math.floor(i / 4096) / 8 : 0),
        targets: (i) => i,
      },
      dtype: 'f32',
    },
    { in: { h: [0, 4], w: [7, 4], targets: [0] }, p: plain },
    { in: { h: [3, 4], w: [7, 5], targets: [3] }, p: plain, fill: { targets: 'zeros' }, fails: 'E_SHAPE' },
    {
      in: { h: [3, 4], w: [7, 4], targets: [3] },
      p: { softcap: -1, temperature: 1 },
      fill: { targets: 'zeros' },
      fails: 'E_CONFIG',
    },
    logProbsCase(benchSizes, plain, true),
  ],
})

/**
 * Log-probs of targets, and the entropy, mean log-prob and log of the sum of squared probabilities of the whole
 * distribution p = softmax(softcap(h w^T) / temperature). Gradients flow through `logps`, `entropy` and `meanLogps`;
 * `logps` and `lse` have the bits of `headLogProbs`.
 *
 * @param h [N, C] hidden states; leave masked positions out before
 * @param w [V, C]
 * @param targets [N] i32, each in 0 .. V - 1; others fail when the queue gets there
 * @returns [N] f32 each: logps; entropy in nats; meanLogps, the mean of log p over the vocabulary; logSquares,
 * log sum p^2; lse, the log-sum-exp of the logits; topLogps, log p of the most probable token, which has the bits of
 * logps where that is the target
 * @throws WhetstoneError E_SHAPE, E_CONFIG
 */
export function headTerms(h: Tensor, w: Tensor, targets: Tensor, options: HeadOptions = {}) {
  const [logps, entropy, meanLogps, logSquares, lse, topLogps] = call(
    headTermsOp,
    [h, w, targets],
    parametersOf(options),
  )
  return { logps, entropy, meanLogps, logSquares, lse, topLogps }
}

const termsBackwardCase = ([n, c, v]: Sizes, p: Parameters, withDw = true): OpCase => ({
  in: {
    ...(withDw ? { dw: [v, c] } : {}),
    dlogps: [n],
    dentropy: [n],
    dmeanlogps: [n],
    h: [n, c],
    w: [v, c],
    targets: [n],
    entropy: [n],
    lse: [n],
  },
  p,
  fill: { targets: targetsBelow(v), entropy: 'positive', lse: someLse(v) },
  rows: ['dlogps', 'dentropy', 'dmeanlogps', 'h', 'targets', 'entropy', 'lse'],
})

const headTermsBackwardOp = defineOp({
  name: 'head_terms_backward',
  bf16Tolerance: 1e-2, // gradients of logits are rounded where bf16 products are fast
  shapes: (s, p) => {
    expectHead('head_terms_backward', s, p)
    expectGradient('head_terms_backward', s)
    return [s.h]
  },
  reference: headTermsBackwardReference,
  cases: [
    ...sizes.map((size) => termsBackwardCase(size, plain)),
    termsBackwardCase([9, 33, 130], capped),
    termsBackwardCase([9, 33, 130], capped, false),
    termsBackwardCase([67, 20, 45], plain),
    termsBackwardCase([0, 4, 7], plain),
    {
      ...termsBackwardCase([2, 4, 7], plain),
      in: { ...termsBackwardCase([2, 4, 7], plain).in, dentropy: [1] },
      fails: 'E_SHAPE',
    },
    { ...termsBackwardCase(benchSizes, plain), bench: true },
  ],
})

/** The entries of the vocabulary's statistics. */
export const headTermsOps: readonly OpEntry[] = [headTermsOp, headTermsBackwardOp]
