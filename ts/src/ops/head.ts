// The language-model head fused with its statistics: log-probs of targets, and the full-vocabulary KL to a prior.
// Logits never exist beyond a tile. Shapes N tokens, C channels, V vocabulary. Kernels: native/cpu/head.cpp;
// references: head-reference.ts. Sampling over the same tiles is in sample.ts.

import type { OpName } from '../native/ops.gen.js'
import { checkShape, type Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpCase, type OpEntry, type Parameters } from './define.js'
import { expectAtLeast, expectParameter, expectPositive, expectRank, expectShape } from './expect.js'
import {
  headKlBackwardReference,
  headKlReference,
  headLogProbsBackwardReference,
  headLogProbsReference,
} from './head-reference.js'
import { zeros } from './layout.js'

/** Options of the head: logits are z = softcap(h w^T) / temperature. */
export interface HeadOptions {
  /** Logits become softcap tanh(logit / softcap); 0 or absent: off. */
  readonly softcap?: number
  /** Default 1. */
  readonly temperature?: number
}

const parametersOf = ({ softcap, temperature }: HeadOptions): Parameters => ({
  softcap: softcap ?? 0,
  temperature: temperature ?? 1,
})

function expectHead(op: OpName, s: Readonly<Record<string, Shape>>, p: Parameters): void {
  expectRank(op, 'h', s.h, '[N, C]')
  expectRank(op, 'w', s.w, '[V, C]')
  expectShape(op, 'w', s.w, [s.w[0], s.h[1]])
  checkShape(s.w[0] >= 1, op, 'w with at least one row', s.w)
  expectShape(op, 'targets', s.targets, [s.h[0]])
  expectAtLeast(op, p, 'softcap', 0)
  expectPositive(op, p, 'temperature')
}

/** The prior has the policy's vocabulary, but may have another width. */
function expectPrior(op: OpName, s: Readonly<Record<string, Shape>>, p: Parameters): void {
  expectRank(op, 'qw', s.qw, '[V, C of the prior]')
  expectShape(op, 'qw', s.qw, [s.w[0], s.qw[1]])
  expectShape(op, 'qh', s.qh, [s.h[0], s.qw[1]])
  const known = p.direction === 0 || p.direction === 1
  expectParameter(known, op, p, 'direction', '0 (prior to policy) or 1 (policy to prior)')
}

function expectGradient(op: OpName, s: Readonly<Record<string, Shape>>): void {
  if (s.dw !== undefined) expectShape(op, 'dw', s.dw, s.w)
  for (const name of ['dlogps', 'dkl', 'lse', 'qlse', 'kl'])
    if (s[name] !== undefined) expectShape(op, name, s[name], [s.h[0]])
}

/** Sizes of a case: tokens, channels, vocabulary. */
type Sizes = readonly [n: number, c: number, v: number]

const targetsBelow =
  (v: number) =>
  (i: number): number =>
    (i * 5 + v - 1) % v

/** Hidden states and weights around one, so that logits have a spread of about sqrt(C). */
const logProbsCase = ([n, c, v]: Sizes, p: Parameters, bench = false): OpCase => ({
  in: { h: [n, c], w: [v, c], targets: [n] },
  p,
  fill: { targets: targetsBelow(v) },
  rows: ['h', 'targets'],
  bench,
})

const sizes: readonly Sizes[] = [
  [3, 4, 7],
  [1, 3, 1],
  [9, 33, 130],
  [2, 16, 2100],
]
const plain: Parameters = { softcap: 0, temperature: 1 }
const capped: Parameters = { softcap: 3, temperature: 0.7 }
const benchSizes: Sizes = [512, 576, 49152]

// Log-probs -----------------------------------------------------------------------------------------------------------

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

/** Log-sum-exp of about the right size, so that exp(z - lse) is a probability. */
const someLse = (v: number) => (i: number) => Math.log(v) + 1.5 + (i % 3) / 4

const logProbsBackwardCase = ([n, c, v]: Sizes, p: Parameters, withDw = true): OpCase => ({
  in: { ...(withDw ? { dw: [v, c] } : {}), dlogps: [n], h: [n, c], w: [v, c], targets: [n], lse: [n] },
  p,
  fill: { targets: targetsBelow(v), lse: someLse(v) },
  rows: ['dlogps', 'h', 'targets', 'lse'],
})

const headLogProbsBackwardOp = defineOp({
  name: 'head_logprobs_backward',
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
  ],
})

// KL to a prior -------------------------------------------------------------------------------------------------------

const klCase = ([n, c, v]: Sizes, p: Parameters, priorWidth = c): OpCase => ({
  in: { h: [n, c], w: [v, c], qh: [n, priorWidth], qw: [v, priorWidth], targets: [n] },
  p,
  fill: { targets: targetsBelow(v) },
  rows: ['h', 'qh', 'targets'],
})

const headKlOp = defineOp({
  name: 'head_kl',
  shapes: (s, p) => {
    expectHead('head_kl', s, p)
    expectPrior('head_kl', s, p)
    return [s.targets, s.targets, s.targets, s.targets]
  },
  fixed: ['qh', 'qw', 'lse', 'qlse'],
  saves: ['h', 'w', 'qh', 'qw', 'targets', 'kl', 'lse', 'qlse'],
  gradient: ({ t, d, p, needs, into }) => {
    if (d.logps === undefined && d.kl === undefined) return {}
    const dw = needs('w') ? into('w') : undefined
    const dlogps = d.logps ?? zeros(t.kl.device, t.kl.shape)
    const dkl = d.kl ?? zeros(t.kl.device, t.kl.shape)
    const operands = [dw, dlogps, dkl, t.h, t.w, t.qh, t.qw, t.targets, t.kl, t.lse, t.qlse]
    return { h: call(headKlBackwardOp, operands, p)[0] }
  },
  reference: headKlReference,
  cases: [
    ...sizes.map((size) => klCase(size, { ...plain, direction: 0 })),
    klCase([3, 4, 7], { ...plain, direction: 1 }),
    klCase([9, 33, 130], { ...capped, direction: 0 }),
    klCase([9, 33, 130], { ...capped, direction: 1 }, 20),
    klCase([3, 4, 7], { ...capped, direction: 1 }),
    { in: { h: [0, 4], w: [7, 4], qh: [0, 4], qw: [7, 4], targets: [0] }, p: { ...plain, direction: 0 } },
    {
      in: { h: [2, 4], w: [7, 4], qh: [2, 4], qw: [6, 4], targets: [2] },
      p: { ...plain, direction: 0 },
      fill: { targets: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { h: [2, 4], w: [7, 4], qh: [2, 4], qw: [7, 4], targets: [2] },
      p: { ...plain, direction: 2 },
      fill: { targets: 'zeros' },
      fails: 'E_CONFIG',
    },
    { ...klCase([256, 576, 49152], { ...plain, direction: 0 }), bench: true },
  ],
})

/** Options of {@link headKl}. */
export interface HeadKlOptions extends HeadOptions {
  /** `priorToPolicy` (default): KL(prior || policy), as in SuperHF; `policyToPrior`: KL(policy || prior). */
  readonly direction?: 'priorToPolicy' | 'policyToPrior'
}

/**
 * Log-probs of targets and the full-vocabulary KL between the policy's and a prior's head; gradients flow through
 * `logps` and `kl`, to the policy only.
 *
 * @param h [N, C]
 * @param w [V, C]
 * @param priorH [N, C of the prior]
 * @param priorW [V, C of the prior]
 * @param targets [N] i32
 * @returns logps, kl in nats, and both log-sum-exps, [N] f32
 */
export function headKl(
  h: Tensor,
  w: Tensor,
  priorH: Tensor,
  priorW: Tensor,
  targets: Tensor,
  options: HeadKlOptions = {},
) {
  const direction = options.direction === 'policyToPrior' ? 1 : 0
  const p = { ...parametersOf(options), direction }
  const [logps, kl, lse, priorLse] = call(headKlOp, [h, w, priorH, priorW, targets], p)
  return { logps, kl, lse, priorLse }
}

const klBackwardCase = ([n, c, v]: Sizes, p: Parameters, withDw = true): OpCase => ({
  in: {
    ...(withDw ? { dw: [v, c] } : {}),
    dlogps: [n],
    dkl: [n],
    ...klCase([n, c, v], p).in,
    kl: [n],
    lse: [n],
    qlse: [n],
  },
  p,
  fill: { targets: targetsBelow(v), kl: 'positive', lse: someLse(v), qlse: someLse(v) },
  rows: ['dlogps', 'dkl', 'h', 'qh', 'targets', 'kl', 'lse', 'qlse'],
})

const headKlBackwardOp = defineOp({
  name: 'head_kl_backward',
  shapes: (s, p) => {
    expectHead('head_kl_backward', s, p)
    expectPrior('head_kl_backward', s, p)
    expectGradient('head_kl_backward', s)
    return [s.h]
  },
  reference: headKlBackwardReference,
  cases: [
    ...sizes.map((size) => klBackwardCase(size, { ...plain, direction: 0 })),
    klBackwardCase([9, 33, 130], { ...plain, direction: 1 }),
    klBackwardCase([9, 33, 130], { ...capped, direction: 0 }),
    klBackwardCase([37, 20, 45], { ...capped, direction: 1 }),
    klBackwardCase([37, 20, 45], { ...plain, direction: 1 }, false),
    klBackwardCase([0, 4, 7], { ...plain, direction: 0 }),
    {
      in: { dlogps: [2], dkl: [1], ...klCase([2, 4, 7], plain).in, kl: [2], lse: [2], qlse: [2] },
      p: { ...plain, direction: 0 },
      fill: { targets: 'zeros' },
      fails: 'E_SHAPE',
    },
    { ...klBackwardCase([256, 576, 49152], { ...plain, direction: 0 }), bench: true },
  ],
})

/** The entries of this family. */
export const headOps: readonly OpEntry[] = [headLogProbsOp, headLogProbsBackwardOp, headKlOp, headKlBackwardOp]
