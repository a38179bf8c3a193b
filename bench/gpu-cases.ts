// Cases of ops that fill a GPU: those of the entries are sized for CPUs. Layers of a model of width 4096 on 8192 tokens,
// heads of 128, a vocabulary of 32768.

import type { OpName } from '../ts/src/native/ops.gen.js'
import type { OpCase } from '../ts/src/ops/define.js'

const [tokens, width, inner, vocabulary] = [8192, 4096, 4096, 32768]

/** Causal segments of 2048 tokens: first token of the own one, no shared prefix. */
const segments = (i: number): number => (i % 3 === 0 ? Math.floor(i / 3 / 2048) * 2048 : 0)

const attention = ((n: number, heads: number, keyHeads: number, size: number) => {
  const [q, k] = [
    [n, heads, size],
    [n, keyHeads, size],
  ]
  const p = { scale: size ** -0.5, window: 0, softcap: 0 }
  const shapes = { q, k, v: k, visibility: [n, 3] }
  return {
    forward: { in: shapes, p, fill: { visibility: segments } },
    backward: {
      in: { do: q, o: q, lse: [n, heads], ...shapes },
      p,
      fill: { visibility: segments, lse: (i: number) => 2 + (i % 3) / 2 },
    },
  }
})(4096, 32, 8, 128)

const head = { softcap: 0, temperature: 1 }
const targets = (i: number): number => (i * 7919) % vocabulary
const headShapes = { h: [2048, 2048], w: [vocabulary, 2048], targets: [2048] }

/** By op. */
export const gpuCases: Readonly<Partial<Record<OpName, readonly OpCase[]>>> = {
  add: [{ in: { a: [tokens, width], b: [tokens, width] } }],
  glu: [{ in: { gate: [tokens, inner], up: [tokens, inner] }, p: { activation: 0 } }],
  linear: [
    { in: { x: [tokens, width], w: [inner, width] } },
    { in: { x: [16, width], w: [inner, width] } },
    { in: { x: [128, width], w: [inner, width] } },
  ],
  linear_dx: [{ in: { dy: [tokens, inner], w: [inner, width] } }],
  linear_dw: [{ in: { dw: [inner, width], dy: [tokens, inner], x: [tokens, width] } }],
  rms_norm: [{ in: { x: [tokens, width], w: [width] }, p: { eps: 1e-5, offset: 0 } }],
  attention: [attention.forward],
  attention_backward: [attention.backward],
  head_logprobs: [{ in: headShapes, p: head, fill: { targets } }],
  head_logprobs_backward: [
    {
      in: { dw: headShapes.w, dlogps: [2048], ...headShapes, lse: [2048] },
      p: head,
      fill: { targets, lse: () => Math.log(vocabulary) + 0.5 },
    },
  ],
  adamw: [
    {
      in: Object.fromEntries(
        ['w', 'm', 'v', 'copy', 'g']
          .map((name) => [name, [1 << 25]])
          .concat([
            ['norm', [1]],
            ['ok', [1]],
          ]),
      ),
      p: { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, step: 10, maxNorm: 1 },
      fill: { v: 'positive', norm: 'ones', ok: 'ones' },
    },
  ],
}
