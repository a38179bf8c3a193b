// Attention: rotary positions, packed attention forward and backward. Shapes N tokens, H heads, G key/value heads (H is
// a multiple of G), D head size. The paged cache and decoding over it are in attention-cache.ts, the references in
// attention-reference.ts. Kernels: native/cpu/attention.cpp and attention_backward.cpp.

import type { OpName } from '../native/ops.gen.js'
import { checkShape, type Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import {
  attentionBackwardReference,
  attentionReference,
  branching,
  causal,
  ropeReference,
} from './attention-reference.js'
import { call, defineOp, type Fill, type OpCase, type OpEntry, type Parameters } from './define.js'
import { expectAtLeast, expectParameter, expectRank, expectShape, expectWhole } from './expect.js'

/** Options of `attention` and `attentionDecode`. */
export interface AttentionOptions {
  /** Factor on q k, usually 1 / sqrt(D). */
  readonly scale: number
  /** Number of latest keys that a query sees, its own included; 0 or absent: all. */
  readonly window?: number
  /** Scores become softcap tanh(score / softcap); 0 or absent: off. */
  readonly softcap?: number
}

/** The op's parameters, off where absent. */
export const parametersOf = ({ scale, window, softcap }: AttentionOptions): Parameters => ({
  scale,
  window: window ?? 0,
  softcap: softcap ?? 0,
})

/** Throws E_CONFIG for options out of range. */
export function expectOptions(op: OpName, p: Parameters): void {
  expectParameter(Number.isFinite(p.scale), op, p, 'scale', 'a finite number')
  expectWhole(op, p, 'window', 0)
  expectParameter(p.window < 2 ** 31, op, p, 'window', 'below 2^31')
  expectAtLeast(op, p, 'softcap', 0)
}

/** Throws E_SHAPE unless q is [N, H, D] and fits `groups` key/value heads of that size. */
export function expectHeads(op: OpName, q: Shape, groups: number, size: number): void {
  expectRank(op, 'q', q, '[N, H, D]')
  checkShape(q[1] >= 1 && q[2] >= 1, op, 'q with at least one head and one channel', q)
  checkShape(groups >= 1 && q[1] % groups === 0, op, `q with a multiple of the ${groups} key/value heads`, q)
  checkShape(q[2] === size, op, `q with the head size ${size} of the keys`, q)
}

// Rope ----------------------------------------------------------------------------------------------------------------

const ropeOp = defineOp({
  name: 'rope',
  shapes: ({ x, cos, sin, positions }) => {
    expectRank('rope', 'x', x, '[N, H, D]')
    expectRank('rope', 'cos', cos, '[P, D/2]')
    checkShape(2 * cos[1] <= x[2], 'rope', `cos with at most ${Math.floor(x[2] / 2)} columns`, cos)
    expectShape('rope', 'sin', sin, cos)
    expectShape('rope', 'positions', positions, [x[0]])
    return [x]
  },
  fixed: ['cos', 'sin'],
  saves: ['cos', 'sin', 'positions'],
  gradient: ({ t, d, p }) => ({ x: d.y && rope(d.y, t.cos, t.sin, t.positions, p.inverse === 0) }),
  reference: ropeReference,
  cases: [
    {
      in: { x: [5, 2, 6], cos: [7, 3], sin: [7, 3], positions: [5] },
      p: { inverse: 0 },
      fill: { positions: (i) => (i * 3) % 7 },
      rows: ['x', 'positions'],
    },
    {
      in: { x: [3, 1, 80], cos: [9, 40], sin: [9, 40], positions: [3] },
      p: { inverse: 1 },
      fill: { positions: (i) => 8 - i },
      rows: ['x', 'positions'],
    },
    // partial rotation: the last 10 channels stay
    {
      in: { x: [3, 2, 48], cos: [9, 19], sin: [9, 19], positions: [3] },
      p: { inverse: 0 },
      fill: { positions: (i) => i },
      rows: ['x', 'positions'],
    },
    { in: { x: [0, 2, 6], cos: [7, 3], sin: [7, 3], positions: [0] }, p: { inverse: 0 } },
    {
      in: { x: [2, 2, 6], cos: [7, 4], sin: [7, 4], positions: [2] },
      p: { inverse: 0 },
      fill: { positions: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { x: [2, 2, 6], cos: [7, 3], sin: [7, 3], positions: [3] },
      p: { inverse: 0 },
      fill: { positions: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { x: [2048, 16, 128], cos: [2048, 64], sin: [2048, 64], positions: [2048] },
      p: { inverse: 0 },
      fill: { positions: (i) => i },
      bench: true,
    },
  ],
})

/**
 * Rotary positions, half-split layout (Su et al. 2021, as in Hugging Face's Llama).
 *
 * @param x [N, H, D]
 * @param cos [P, at most D/2] f32, a row per position
 * @param sin as cos
 * @param positions [N] i32, each below P
 * @param inverse rotate back: the gradient
 */
export const rope = (x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, inverse = false): Tensor =>
  call(ropeOp, [x, cos, sin, positions], { inverse: inverse ? 1 : 0 })[0]

// Attention -----------------------------------------------------------------------------------------------------------

interface AttentionCase {
  readonly tokens: number
  readonly heads: readonly [query: number, keyValue: number]
  readonly size: number
  readonly visibility: Fill
  readonly window?: number
  readonly softcap?: number
  readonly bench?: boolean
}

/** Shapes for forward and backward alike. */
const attentionCases: readonly AttentionCase[] = [
  { tokens: 3, heads: [2, 1], size: 3, visibility: causal(3) },
  { tokens: 5, heads: [1, 1], size: 4, visibility: causal(2, 3), softcap: 1.5 },
  { tokens: 6, heads: [2, 1], size: 2, visibility: branching(0, 2, 1, 2, 2), window: 2 },
  { tokens: 1, heads: [1, 1], size: 64, visibility: causal(1) },
  { tokens: 100, heads: [4, 2], size: 64, visibility: causal(1, 33, 66) },
  { tokens: 70, heads: [3, 3], size: 80, visibility: causal(70), window: 33 },
  { tokens: 97, heads: [2, 1], size: 96, visibility: branching(5, 40, 37, 20, 32) },
  { tokens: 97, heads: [2, 1], size: 16, visibility: branching(5, 40, 40, 20, 32), window: 35, softcap: 2 },
  { tokens: 40, heads: [8, 1], size: 128, visibility: causal(31, 9) },
  { tokens: 36, heads: [1, 1], size: 256, visibility: causal(36) },
  { tokens: 1024, heads: [16, 4], size: 64, visibility: causal(512, 512), bench: true },
  { tokens: 2048, heads: [14, 14], size: 64, visibility: causal(2048), bench: true },
  { tokens: 2048, heads: [8, 8], size: 128, visibility: causal(2048), bench: true },
]

const optionsOf = (c: AttentionCase) => ({ scale: c.size ** -0.5, window: c.window ?? 0, softcap: c.softcap ?? 0 })

const forwardCase = (c: AttentionCase): OpCase => {
  const keys = [c.tokens, c.heads[1], c.size]
  const shapes = { q: [c.tokens, c.heads[0], c.size], k: keys, v: keys, visibility: [c.tokens, 3] }
  return { in: shapes, p: optionsOf(c), fill: { visibility: c.visibility }, bench: c.bench }
}

const backwardCase = (c: AttentionCase): OpCase => {
  const { in: shapes, p, bench } = forwardCase(c)
  const full = { do: shapes.q, o: shapes.q, lse: [c.tokens, c.heads[0]], ...shapes }
  // A log-sum-exp near that of a few keys with scores around zero. Two roundings: tensor cores take probabilities and
  // gradients of scores in bf16.
  return { in: full, p, fill: { visibility: c.visibility, lse: (i) => 2 + (i % 3) / 2 }, roundings: 2, bench }
}

const plain = { scale: 1, window: 0, softcap: 0 }

const attentionOp = defineOp({
  name: 'attention',
  shapes: ({ q, k, v, visibility }, p) => {
    expectRank('attention', 'k', k, '[N, G, D]')
    expectHeads('attention', q, k[1], k[2])
    expectShape('attention', 'k', k, [q[0], k[1], k[2]])
    expectShape('attention', 'v', v, k)
    expectShape('attention', 'visibility', visibility, [q[0], 3])
    expectOptions('attention', p)
    return [q, [q[0], q[1]]]
  },
  fixed: ['lse'],
  saves: ['q', 'k', 'v', 'visibility', 'o', 'lse'],
  gradient: ({ t, d, p }) => {
    if (d.o === undefined) return {}
    const [q, k, v] = call(attentionBackwardOp, [d.o, t.o, t.lse, t.q, t.k, t.v, t.visibility], p)
    return { q, k, v }
  },
  reference: attentionReference,
  cases: [
    ...attentionCases.map(forwardCase),
    { in: { q: [0, 2, 8], k: [0, 1, 8], v: [0, 1, 8], visibility: [0, 3] }, p: plain },
    {
      in: { q: [2, 3, 8], k: [2, 2, 8], v: [2, 2, 8], visibility: [2, 3] },
      p: plain,
      fill: { visibility: causal(2) },
      fails: 'E_SHAPE',
    },
    {
      in: { q: [2, 2, 8], k: [3, 2, 8], v: [3, 2, 8], visibility: [2, 3] },
      p: plain,
      fill: { visibility: causal(2) },
      fails: 'E_SHAPE',
    },
    {
      in: { q: [2, 2, 8], k: [2, 2, 8], v: [2, 2, 8], visibility: [2, 2] },
      p: plain,
      fill: { visibility: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { q: [2, 2, 8], k: [2, 2, 8], v: [2, 2, 8], visibility: [2, 3] },
      p: { ...plain, window: 1.5 },
      fill: { visibility: causal(2) },
      fails: 'E_CONFIG',
    },
  ],
})

/**
 * Packed attention with grouped queries. Key blocks are 64 logical positions counted from a sequence's
 * position 0, so a sequence has the same bits alone, packed, with its prefix shared, and by the cache.
 *
 * @param q [N, H, D]
 * @param k [N, G, D]
 * @param v [N, G, D]
 * @param visibility [N, 3] i32: first token of the own segment, first and one-past-last token of the shared prefix
 * @returns [N, H, D]
 */
export const attention = (q: Tensor, k: Tensor, v: Tensor, visibility: Tensor, options: AttentionOptions): Tensor =>
  call(attentionOp, [q, k, v, visibility], parametersOf(options))[0]

const attentionBackwardOp = defineOp({
  name: 'attention_backward',
  shapes: ({ do: dOut, o, lse, q, k, v, visibility }, p) => {
    expectRank('attention_backward', 'k', k, '[N, G, D]')
    expectHeads('attention_backward', q, k[1], k[2])
    expectShape('attention_backward', 'k', k, [q[0], k[1], k[2]])
    expectShape('attention_backward', 'v', v, k)
    expectShape('attention_backward', 'visibility', visibility, [q[0], 3])
    expectShape('attention_backward', 'do', dOut, q)
    expectShape('attention_backward', 'o', o, q)
    expectShape('attention_backward', 'lse', lse, [q[0], q[1]])
    expectOptions('attention_backward', p)
    return [q, k, v]
  },
  reference: attentionBackwardReference,
  cases: [
    ...attentionCases.map(backwardCase),
    {
      in: {
        do: [0, 2, 8],
        o: [0, 2, 8],
        lse: [0, 2],
        q: [0, 2, 8],
        k: [0, 1, 8],
        v: [0, 1, 8],
        visibility: [0, 3],
      },
      p: plain,
    },
    {
      in: {
        do: [2, 2, 8],
        o: [2, 2, 8],
        lse: [2, 1],
        q: [2, 2, 8],
        k: [2, 1, 8],
        v: [2, 1, 8],
        visibility: [2, 3],
      },
      p: plain,
      fill: { visibility: causal(2) },
      fails: 'E_SHAPE',
    },
  ],
})

/** The entries of this family that are no cache ops. */
export const attentionOps: readonly OpEntry[] = [ropeOp, attentionOp, attentionBackwardOp]
