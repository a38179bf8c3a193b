// Cases of ops that fill a GPU: those of the entries are sized for CPUs. Layers of a model of width 4096 on 8192 tokens,
// heads of 128; a product of 8192 cubed; attention as FlashAttention's benchmarks have it (16,384 tokens, width 2048,
// lengths 2048 and 8192) and over fewer key heads; decoding of many sequences, of a long one, and of samples whose prompt is
// read for each or once; a head over 32,768 words; sampling from 151,936.

import type { OpName } from '../ts/src/native/ops.gen.js'
import { KEY_BLOCK } from '../ts/src/ops/attention-cache.js'
import type { OpCase } from '../ts/src/ops/define.js'

const [tokens, width, inner, vocabulary] = [8192, 4096, 4096, 32768]

/** Causal segments of one length: first token of the own one, no shared prefix. */
const segments =
  (length: number) =>
  (i: number): number =>
    i % 3 === 0 ? Math.floor(i / 3 / length) * length : 0

const attention = (length: number, n: number, heads: number, keyHeads: number, size: number) => {
  const [q, k] = [
    [n, heads, size],
    [n, keyHeads, size],
  ]
  const p = { scale: size ** -0.5, window: 0, softcap: 0 }
  const shapes = { q, k, v: k, visibility: [n, 3] }
  const visibility = segments(length)
  return {
    forward: { in: shapes, p, fill: { visibility } },
    backward: {
      in: { do: q, o: q, lse: [n, heads], ...shapes },
      p,
      fill: { visibility, lse: (i: number) => 2 + (i % 3) / 2 },
    },
  }
}

const attentions = [
  attention(2048, 4096, 32, 8, 128),
  attention(2048, 16384, 16, 16, 128),
  attention(8192, 16384, 16, 16, 128),
  attention(8192, 16384, 32, 32, 64),
]

/** One new token for each of `batch` sequences of `length` positions, whose first `shared` ones are common blocks of the cache. */
function decoding(batch: number, length: number, heads: number, keyHeads: number, shared = 0): OpCase {
  const [size, prefix, width] = [128, shared / KEY_BLOCK, Math.ceil(length / KEY_BLOCK)]
  const own = width - prefix
  const blocks = prefix + batch * own
  const blockAt = (sequence: number, place: number) => (place < prefix ? place : place + sequence * own)
  return {
    in: {
      q: [batch, heads, size],
      keys: [blocks, keyHeads, size, KEY_BLOCK],
      values: [blocks, keyHeads, KEY_BLOCK, size],
      table: [batch, width],
      lengths: [batch],
    },
    p: { scale: size ** -0.5, window: 0, softcap: 0 },
    fill: { table: (i) => blockAt(Math.floor(i / width), i % width), lengths: () => length },
    dtype: 'bf16',
  }
}

const head = { softcap: 0, temperature: 1 }
const targets = (i: number): number => (i * 7919) % vocabulary
const headShapes = { h: [8192, 2048], w: [vocabulary, 2048], targets: [8192] }

const updating = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, step: 10, maxNorm: 1 }

/** By op. */
export const gpuCases: Readonly<Partial<Record<OpName, readonly OpCase[]>>> = {
  add: [{ in: { a: [tokens, width], b: [tokens, width] } }],
  glu: [{ in: { gate: [tokens, inner], up: [tokens, inner] }, p: { activation: 0 } }],
  linear: [
    { in: { x: [tokens, width], w: [inner, width] } },
    // few rows read weights from memory: 134 MB of them, more than a GPU's cache holds
    { in: { x: [16, width], w: [16384, width] } },
    { in: { x: [128, width], w: [16384, width] } },
    { in: { x: [8192, 8192], w: [8192, 8192] }, dtype: 'bf16' },
  ],
  linear_dx: [{ in: { dy: [tokens, inner], w: [inner, width] } }],
  linear_dw: [{ in: { dw: [inner, width], dy: [tokens, inner], x: [tokens, width] } }],
  rms_norm: [{ in: { x: [tokens, width], w: [width] }, p: { eps: 1e-5, offset: 0 } }],
  attention: attentions.map(({ forward }) => forward),
  attention_backward: attentions.map(({ backward }) => backward),
  attention_decode: [
    decoding(64, 2048, 16, 4),
    decoding(1, 32768, 32, 8),
    decoding(64, 4352, 16, 2),
    decoding(64, 4352, 16, 2, 4096),
  ],
  head_logprobs: [{ in: headShapes, p: head, fill: { targets } }],
  head_logprobs_backward: [
    {
      in: { dw: headShapes.w, dlogps: [8192], ...headShapes, lse: [8192] },
      p: head,
      fill: { targets, lse: () => Math.log(vocabulary) + 0.5 },
    },
  ],
  head_sample: [
    {
      in: { h: [256, 1024], w: [151936, 1024], keys: [256, 4] },
      p: { softcap: 0, temperature: 0.8, topK: 50, topP: 0.95, minP: 0.02, repetitionPenalty: 1 },
      fill: { keys: (i: number) => i },
    },
  ],
  head_sample_mixture: [
    {
      in: { h: [256, 1024], w: [151936, 1024], qh: [256, 1024], qw: [151936, 1024], keys: [256, 4] },
      p: { softcap: 0, temperature: 0.9, topK: 0, topP: 1, minP: 0, mixture: 0.5 },
      fill: { keys: (i: number) => i },
    },
  ],
  adamw: [
    {
      in: {
        ...Object.fromEntries(['w', 'm', 'v', 'copy', 'g'].map((name) => [name, [1 << 25]])),
        finite: [1],
        norm: [1],
        ok: [1],
      },
      p: updating,
      fill: { v: 'positive', finite: 'ones', norm: 'ones', ok: 'ones' },
    },
  ],
  adamw_stochastic: [
    {
      in: {
        ...Object.fromEntries(['w', 'm', 'v', 'g'].map((name) => [name, [1 << 25]])),
        finite: [1],
        norm: [1],
        ok: [1],
        key: [4],
      },
      p: updating,
      fill: { v: 'positive', finite: 'ones', norm: 'ones', ok: 'ones', key: (i: number) => i },
    },
  ],
}
