// The optimizer step over a flat group of parameters: AdamW (Loshchilov and Hutter 2019) with clipping by the global
// norm and a flag that makes the step do nothing; for f32 weights, and for weights that are bf16 alone, which are rounded
// at random. Learning-rate schedules are in ts/train. Kernel: native/cpu/optimizer.cpp.

import { philox } from '../base/rng.js'
import type { OpName } from '../native/ops.gen.js'
import type { Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type Host, type OpEntry, type Parameters } from './define.js'
import { expectAtLeast, expectParameter, expectShape, expectWhole } from './expect.js'
import { host, hostCopy } from './host.js'

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

function expectOptions(op: OpName, p: Parameters): void {
  for (const name of ['learningRate', 'eps', 'weightDecay', 'maxNorm']) expectAtLeast(op, p, name, 0)
  for (const name of ['beta1', 'beta2'])
    expectParameter(p[name] >= 0 && p[name] < 1, op, p, name, 'at least 0 and below 1')
  expectWhole(op, p, 'step', 1)
}

/** Checks what both ops have. */
function expectGroup(op: OpName, s: Readonly<Record<string, Shape>>, p: Parameters): void {
  for (const name of ['m', 'v', 'g']) expectShape(op, name, s[name], s.w)
  for (const name of ['finite', 'norm', 'ok']) expectShape(op, name, s[name], [1])
  expectOptions(op, p)
}

/** New values of w, m and v. */
function steppedReference(t: Readonly<Record<string, Host>>, p: Parameters): [w: Host, m: Host, v: Host] {
  const [w, m, v] = [hostCopy(t.w), hostCopy(t.m), hostCopy(t.v)]
  if (t.ok.data[0] === 0) return [w, m, v]
  const clip = p.maxNorm > 0 ? Math.min(1, p.maxNorm / (t.norm.data[0] + 1e-6)) : 1
  for (let i = 0; i < w.data.length; i++) {
    const g = t.g.data[i] * clip
    m.data[i] = p.beta1 * m.data[i] + (1 - p.beta1) * g
    v.data[i] = p.beta2 * v.data[i] + (1 - p.beta2) * g * g
    const first = m.data[i] / (1 - p.beta1 ** p.step)
    const second = v.data[i] / (1 - p.beta2 ** p.step)
    w.data[i] -= p.learningRate * (p.weightDecay * w.data[i] + first / (Math.sqrt(second) + p.eps))
  }
  return [w, m, v]
}

/** 0 where a number that the step gave is not finite in f32 (in bf16, where weights are). */
const finiteReference = (before: Host, ...results: readonly Host[]): Host =>
  host([1], () => (results.every(({ data }) => data.every((x) => Math.abs(x) < 2 ** 128)) ? before.data[0] : 0))

const usual = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.01, step: 1, maxNorm: 0 }

const adamwOp = defineOp({
  name: 'adamw',
  shapes: (s, p) => {
    expectGroup('adamw', s, p)
    if (s.copy !== undefined) expectShape('adamw', 'copy', s.copy, s.w)
    return []
  },
  reference: (t, p) => {
    const [w, m, v] = steppedReference(t, p)
    const still = t.ok.data[0] === 0
    const copies = t.copy === undefined ? [] : [still ? t.copy : w]
    return [w, m, v, ...copies, still ? t.finite : finiteReference(t.finite, w, m, v)]
  },
  cases: [
    {
      in: { w: [37], m: [37], v: [37], finite: [1], g: [37], norm: [1], ok: [1] },
      p: usual,
      fill: { v: 'positive', norm: 'ones', ok: 'ones', finite: 'ones' },
    },
    {
      in: { w: [5, 133], m: [5, 133], v: [5, 133], copy: [5, 133], finite: [1], g: [5, 133], norm: [1], ok: [1] },
      p: { ...usual, step: 1000, maxNorm: 1, weightDecay: 0.1, learningRate: 0.05 },
      fill: { v: 'positive', norm: () => 25.8, ok: 'ones', finite: 'ones' },
    },
    // the norm is below the limit: no clipping
    {
      in: { w: [37], m: [37], v: [37], finite: [1], g: [37], norm: [1], ok: [1] },
      p: { ...usual, step: 7, maxNorm: 2, learningRate: 0.1 },
      fill: { m: 'zeros', v: 'zeros', norm: () => 1.97, ok: 'ones', finite: 'ones' },
    },
    // the flag is down: nothing changes
    {
      in: { w: [37], m: [37], v: [37], copy: [37], finite: [1], g: [37], norm: [1], ok: [1] },
      p: { ...usual, maxNorm: 1 },
      fill: { v: 'positive', g: () => Number.NaN, norm: () => Number.NaN, ok: 'zeros', finite: 'ones' },
    },
    {
      in: { w: [0], m: [0], v: [0], finite: [1], g: [0], norm: [1], ok: [1] },
      p: usual,
      fill: { ok: 'ones', finite: 'ones' },
    },
    {
      in: { w: [4], m: [4], v: [3], finite: [1], g: [4], norm: [1], ok: [1] },
      p: usual,
      fill: { ok: 'ones', finite: 'ones' },
      fails: 'E_SHAPE',
    },
    {
      in: { w: [4], m: [4], v: [4], finite: [1], g: [4], norm: [1], ok: [1] },
      p: { ...usual, step: 0 },
      fill: { ok: 'ones', finite: 'ones' },
      fails: 'E_CONFIG',
    },
    {
      in: { w: [1 << 22], m: [1 << 22], v: [1 << 22], copy: [1 << 22], finite: [1], g: [1 << 22], norm: [1], ok: [1] },
      p: usual,
      fill: { v: 'positive', norm: 'ones', ok: 'ones', finite: 'ones' },
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
  /** [1] i32: becomes 0 when one of the new numbers is NaN or infinite. */
  readonly finite: Tensor
  /** Gradient, f32. */
  readonly g: Tensor
  /** [1] f32: global norm of the gradient. */
  readonly norm: Tensor
  /** [1] i32: 0 leaves every tensor as it is. */
  readonly ok: Tensor
}

/** One AdamW step in place, as torch.optim.AdamW computes it. */
export function adamw(t: AdamwTensors, options: AdamwOptions): void {
  call(adamwOp, [t.w, t.m, t.v, t.copy, t.finite, t.g, t.norm, t.ok], { ...options })
}

const pattern = new DataView(new ArrayBuffer(4))

/** A bf16 next to x: of the f32, the upper one with the probability that its lower 16 bits are of a step. */
function roundAtRandom(x: number, random16: number): number {
  pattern.setFloat32(0, x)
  if (!Number.isFinite(pattern.getFloat32(0))) return x
  pattern.setUint32(0, (pattern.getUint32(0) + random16) & 0xffff0000)
  return pattern.getFloat32(0)
}

/** The 16 random bits of element i. */
function randomBits({ data }: Host, i: number): number {
  const [low, high, stream, index] = Array.from(data, (x) => x >>> 0)
  return (philox([index, i >>> 3, stream, 0], [low, high])[(i >> 1) & 3] >>> (16 * (i & 1))) & 0xffff
}

const stochasticGroup = (size: number) => ({
  in: { w: [size], m: [size], v: [size], finite: [1], g: [size], norm: [1], ok: [1], key: [4] },
  p: usual,
  fill: { v: 'positive', norm: 'ones', ok: 'ones', finite: 'ones', key: (i: number) => [-5, 77, 3, 9][i] } as const,
})

const adamwStochasticOp = defineOp({
  name: 'adamw_stochastic',
  shapes: (s, p) => {
    expectGroup('adamw_stochastic', s, p)
    expectShape('adamw_stochastic', 'key', s.key, [4])
    return []
  },
  reference: (t, p) => {
    const [w, m, v] = steppedReference(t, p)
    const rounded = host(w.shape, (i) => roundAtRandom(w.data[i], randomBits(t.key, i)))
    if (t.ok.data[0] === 0) return [w, m, v, t.finite]
    return [rounded, m, v, finiteReference(t.finite, rounded, m, v)]
  },
  cases: [
    stochasticGroup(37),
    stochasticGroup(1000),
    { ...stochasticGroup(16_500), p: { ...usual, step: 1000, maxNorm: 1, weightDecay: 0.1, learningRate: 0.05 } },
    // no gradient, no decay: every weight stays what it is
    {
      ...stochasticGroup(300),
      p: { ...usual, weightDecay: 0 },
      fill: { ...stochasticGroup(300).fill, m: 'zeros', g: 'zeros' },
    },
    // the flag is down: nothing changes
    { ...stochasticGroup(37), fill: { ...stochasticGroup(37).fill, g: () => Number.NaN, ok: 'zeros', finite: 'ones' } },
    stochasticGroup(0),
    { ...stochasticGroup(4), in: { ...stochasticGroup(4).in, v: [3] }, fails: 'E_SHAPE' },
    { ...stochasticGroup(4), in: { ...stochasticGroup(4).in, key: [3] }, fails: 'E_SHAPE' },
    { ...stochasticGroup(4), p: { ...usual, beta2: 1 }, fails: 'E_CONFIG' },
    { ...stochasticGroup(1 << 22), bench: true },
  ],
})

/** State of {@link adamwStochastic}. */
export interface AdamwStochasticTensors extends Omit<AdamwTensors, 'w' | 'copy'> {
  /** Parameters, bf16: no f32 copy of them is kept. */
  readonly w: Tensor
  /** [4] i32: seed low, seed high, stream and index of the random numbers; another one for every step and group. */
  readonly key: Tensor
}

/**
 * The step of {@link adamw} where weights are bf16 alone. Steps below half of bf16's resolution would be lost by
 * rounding to the nearest; here a weight is rounded up or down at random, so that its mean is right (stochastic rounding,
 * arXiv 1502.02551). A weight that bf16 can hold stays what it is. The random bits are a pure function of the key and of
 * the weight's place.
 */
export function adamwStochastic(t: AdamwStochasticTensors, options: AdamwOptions): void {
  call(adamwStochasticOp, [t.w, t.m, t.v, t.finite, t.g, t.norm, t.ok, t.key], { ...options })
}

/** The entries of this family. */
export const optimizerOps: readonly OpEntry[] = [adamwOp, adamwStochasticOp]
