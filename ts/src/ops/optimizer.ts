// The optimizer step over a flat group of parameters: AdamW (Loshchilov and Hutter 2019) with clipping by the global
// norm and a flag that makes the step do nothing. Learning-rate schedules are in ts/train. Kernel:
// native/cpu/optimizer.cpp.

import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type Host, type OpEntry, type Parameters } from './define.js'
import { expectAtLeast, expectParameter, expectShape, expectWhole } from './expect.js'
import { host } from './host.js'

/** Numbers of one step. */
export interface AdamwOptions {
  readonly learningRate: number
  readonly beta1: number
  readonly beta2: number
  readonly eps: number
  /** Decoupled: w shrinks by learningRate * weightDecay before the update. */
  readonly weightDecay: number
  /** Number of this step, from 1 on. */
  readonly step: number
  /** Gradients are scaled to at most this norm; 0: no clipping. */
  readonly maxNorm: number
}

function expectOptions(p: Parameters): void {
  for (const name of ['learningRate', 'eps', 'weightDecay', 'maxNorm']) expectAtLeast('adamw', p, name, 0)
  for (const name of ['beta1', 'beta2'])
    expectParameter(p[name] >= 0 && p[name] < 1, 'adamw', p, name, 'at least 0 and below 1')
  expectWhole('adamw', p, 'step', 1)
}

/** [w, m, v, copy if given] */
function adamwReference(t: Readonly<Record<string, Host>>, p: Parameters): Host[] {
  const copies = t.copy === undefined ? [] : [t.copy]
  const out = [t.w, t.m, t.v, ...copies].map((x) => host(x.shape, (i) => x.data[i]))
  if (t.ok.data[0] === 0) return out
  const [w, m, v] = out
  const clip = p.maxNorm > 0 ? Math.min(1, p.maxNorm / (t.norm.data[0] + 1e-6)) : 1
  for (let i = 0; i < w.data.length; i++) {
    const g = t.g.data[i] * clip
    m.data[i] = p.beta1 * m.data[i] + (1 - p.beta1) * g
    v.data[i] = p.beta2 * v.data[i] + (1 - p.beta2) * g * g
    const first = m.data[i] / (1 - p.beta1 ** p.step)
    const second = v.data[i] / (1 - p.beta2 ** p.step)
    w.data[i] -= p.learningRate * (p.weightDecay * w.data[i] + first / (Math.sqrt(second) + p.eps))
  }
  return copies.length === 0 ? out : [w, m, v, { shape: w.shape, data: w.data.slice() }]
}

const usual = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, step: 1, maxNorm: 0 }

const adamwOp = defineOp({
  name: 'adamw',
  shapes: ({ w, m, v, copy, g, norm, ok }, p) => {
    expectShape('adamw', 'm', m, w)
    expectShape('adamw', 'v', v, w)
    if (copy !== undefined) expectShape('adamw', 'copy', copy, w)
    expectShape('adamw', 'g', g, w)
    expectShape('adamw', 'norm', norm, [1])
    expectShape('adamw', 'ok', ok, [1])
    expectOptions(p)
    return []
  },
  reference: adamwReference,
  cases: [
    {
      in: { w: [37], m: [37], v: [37], g: [37], norm: [1], ok: [1] },
      p: usual,
      fill: { v: 'positive', norm: 'ones', ok: 'ones' },
    },
    {
      in: { w: [5, 133], m: [5, 133], v: [5, 133], copy: [5, 133], g: [5, 133], norm: [1], ok: [1] },
      p: { ...usual, step: 1000, maxNorm: 1, weightDecay: 0.1, learningRate: 0.05 },
      fill: { v: 'positive', norm: () => 25.8, ok: 'ones' },
    },
    // the norm is below the limit: no clipping
    {
      in: { w: [37], m: [37], v: [37], g: [37], norm: [1], ok: [1] },
      p: { ...usual, step: 7, maxNorm: 2, learningRate: 0.1 },
      fill: { m: 'zeros', v: 'zeros', norm: () => 1.97, ok: 'ones' },
    },
    // the flag is down: nothing changes
    {
      in: { w: [37], m: [37], v: [37], copy: [37], g: [37], norm: [1], ok: [1] },
      p: { ...usual, maxNorm: 1 },
      fill: { v: 'positive', g: () => Number.NaN, norm: () => Number.NaN, ok: 'zeros' },
    },
    { in: { w: [0], m: [0], v: [0], g: [0], norm: [1], ok: [1] }, p: usual, fill: { ok: 'ones' } },
    {
      in: { w: [4], m: [4], v: [3], g: [4], norm: [1], ok: [1] },
      p: usual,
      fill: { ok: 'ones' },
      fails: 'E_SHAPE',
    },
    {
      in: { w: [4], m: [4], v: [4], g: [4], norm: [1], ok: [1] },
      p: { ...usual, step: 0 },
      fill: { ok: 'ones' },
      fails: 'E_CONFIG',
    },
    {
      in: { w: [1 << 22], m: [1 << 22], v: [1 << 22], copy: [1 << 22], g: [1 << 22], norm: [1], ok: [1] },
      p: usual,
      fill: { v: 'positive', norm: 'ones', ok: 'ones' },
      bench: true,
    },
  ],
})

/** State that a step changes and reads; see {@link adamw}. */
export interface AdamwTensors {
  /** Parameters, f32. */
  readonly w: Tensor
  /** First moment, f32. */
  readonly m: Tensor
  /** Second moment, f32. */
  readonly v: Tensor
  /** Receives w in bf16. */
  readonly copy?: Tensor
  /** Gradient, f32. */
  readonly g: Tensor
  /** [1] f32: global norm of the gradient. */
  readonly norm: Tensor
  /** [1] i32: 0 leaves every tensor as it is. */
  readonly ok: Tensor
}

/** One AdamW step in place, as torch.optim.AdamW computes it. */
export function adamw(t: AdamwTensors, options: AdamwOptions): void {
  call(adamwOp, [t.w, t.m, t.v, t.copy, t.g, t.norm, t.ok], { ...options })
}

/** The entries of this family. */
export const optimizerOps: readonly OpEntry[] = [adamwOp]
