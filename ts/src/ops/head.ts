// The language-model head fused with the log-probs of targets. Logits never exist beyond a tile. Shapes N tokens,
// C channels, V vocabulary. Kernels: native/cpu/head.cpp; references: head-reference.ts. Other statistics of the
// vocabulary are in head-terms.ts, divergences from a prior in head-kl.ts, sampling over the same tiles in sample.ts.

import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpCase, type OpEntry, type Parameters } from './define.js'
import { headLogProbsBackwardReference, headLogProbsReference } from './head-reference.js'
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

const headLogProbsOp = defineOp({
  name: 'head_logprobs',
  shapes: (s, p) => {
    expectHead('head_logprobs', s, p)
    return [s.targets, s.targets]
  },
  fixed: ['lse'],
  saves: ['h', 'w', 'targets', 'lse'],
  gradient: ({ t, d, p, needs, into }) => {
    if (d.logps === undefined) return {}
    const dw = needs('w') ? into('w') : undefined
    return { h: call(headLogProbsBackwardOp, [dw, d.logps, t.h, t.w, t.targets, t.lse], p)[0] }
  },
  reference: headLogProbsReference,
  cases: [
    ...sizes.map((size) => logProbsCase(size, plain)),
    logProbsCase([3, 4, 7], capped),
    logProbsCase([9, 33, 130], capped),
    // A common offset of a thousand: log-sum-exp minus logit from rounded pieces would lose the answer. Too large for
    // the gradient check, because a probability from an f32 lse near 1000 has an error of 1e-5, and dh that times w.
    {
      in: { h: [2, 8], w: [40, 8], targets: [2] },
      p: plain,
      fill: { h: (i) => (i % 8 === 0 ? 1 : 0), w: (i) => (i % 8 === 0 ? 1000 + (i % 32) / 8 : 0), targets: (i) => i },
      dtype: 'f32',
    },
    { in: { h: [0, 4], w: [7, 4], targets: [0] }, p: plain },
    { in: { h: [3, 4], w: [7, 5], targets: [3] }, p: plain, fill: { targets: 'zeros' }, fails: 'E_SHAPE' },
    { in: { h: [3, 4], w: [7, 4], targets: [2] }, p: plain, fill: { targets: 'zeros' }, fails: 'E_SHAPE' },
    {
      in: { h: [3, 4], w: [7, 4], targets: [3] },
      p: { softcap: 0, temperature: 0 },
      fill: { targets: 'zeros' },
      fails: 'E_CONFIG',
    },
    logProbsCase(benchSizes, plain, true),
    logProbsCase([1024, 896, 32768], plain, true),
  ],
})

/**
 * Log-probs of targets under the head, and the log-sum-exp of the logits; the gradient flows through `logps`.
 *
 * @param h [N, C] hidden states; leave masked positions out before
 * @param w [V, C]
 * @param targets [N] i32, each in 0 .. V - 1; others fail when the queue gets there
 * @returns logps and lse, [N] f32
 */
export function headLogProbs(h: Tensor, w: Tensor, targets: Tensor, options: HeadOptions = {}) {
  const [logps, lse] = call(headLogProbsOp, [h, w, targets], parametersOf(options))
  return { logps, lse }
}

const logProbsBackwardCase = ([n, c, v]: Sizes, p: Parameters, withDw = true): OpCase => ({
  in: { ...(withDw ? { dw: [v, c] } : {}), dlogps: [n], h: [n, c], w: [v, c], targets: [n], lse: [n] },
  p,
  fill: { targets: targetsBelow(v), lse: someLse(v) },
  rows: ['dlogps', 'h', 'targets', 'lse'],
})

/** @internal Also what head_terms needs where its gradient comes from the log-probs alone. */
export const headLogProbsBackwardOp = defineOp({
  name: 'head_logprobs_backward',
  bf16Tolerance: 1e-2, // gradients of logits are rounded where bf16 products are fast
  shapes: (s, p) => {
    expectHead('head_logprobs_backward', s, p)
    expectGradient('head_logprobs_backward', s)
    return [s.h]
  },
  reference: headLogProbsBackwardReference,
  cases: [
    ...sizes.map((size) => logProbsBackwardCase(size, plain)),
    logProbsBackwardCase([9, 33, 130], capped),
    logProbsBackwardCase([9, 33, 130], capped, false),
    logProbsBackwardCase([67, 20, 45], plain),
    { in: { dw: [7, 4], dlogps: [0], h: [0, 4], w: [7, 4], targets: [0], lse: [0] }, p: plain },
    {
      in: { dw: [7, 3], dlogps: [1], h: [1, 4], w: [7, 4], targets: [1], lse: [1] },
      p: plain,
      fill: { targets: 'zeros' },
      fails: 'E_SHAPE',
    },
    { ...logProbsBackwardCase(benchSizes, plain), bench: true },
    { ...logProbsBackwardCase([1024, 896, 32768], plain), bench: true },
  ],
})

/** The entries of the log-probs. */
export const headOps: readonly OpEntry[] = [headLogProbsOp, headLogProbsBackwardOp]
