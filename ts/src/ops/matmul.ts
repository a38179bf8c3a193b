// The products of a linear layer: forward, gradient of the input, gradient of the weight. Weights are [O, C], as in
// Hugging Face files. Kernels: native/cpu/matmul.cpp over gemm.cpp.

import type { Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpEntry } from './define.js'
import { expectRank, expectShape } from './expect.js'
import { addScaled, dot, host, hostCopy, hostRow, hostRows, hostZeros } from './host.js'

/**
 * Sizes around the edges of register tiles and k blocks: [N, C, O]. The last ones have strides that tensor cores' tiles can be
 * loaded by, and more depth than fits into their pipelines: of y, then of dx and dw.
 */
const edges: readonly (readonly [number, number, number])[] = [
  [1, 1, 1],
  [3, 5, 4],
  [1, 257, 33],
  [13, 31, 49],
  [37, 300, 17],
  [136, 456, 72],
  [456, 72, 456],
]

const linearOp = defineOp({
  name: 'linear',
  shapes: ({ x, w }) => {
    expectRank('linear', 'x', x, '[N, C]')
    expectRank('linear', 'w', w, '[O, C]')
    expectShape('linear', 'w', w, [w[0], x[1]])
    return [[x[0], w[0]]]
  },
  saves: ['x', 'w'],
  savesFor: { x: 'w', w: 'x' },
  gradient: ({ t, d, needs, into }) => {
    if (d.y === undefined) return {}
    if (needs('w')) linearDw(into('w'), d.y, t.x)
    return { x: needs('x') ? linearDx(d.y, t.w) : undefined }
  },
  reference: ({ x, w }) => {
    const [n, o] = [x.shape[0], w.shape[0]]
    return [host([n, o], (i) => dot(hostRow(x, Math.floor(i / o)), hostRow(w, i % o)))]
  },
  cases: [
    ...edges.map(([n, c, o]) => ({ in: { x: [n, c], w: [o, c] }, rows: ['x'] })),
    { in: { x: [0, 4], w: [3, 4] } },
    { in: { x: [2, 4], w: [0, 4] } },
    { in: { x: [2, 0], w: [3, 0] } },
    { in: { x: [2, 4], w: [3, 5] }, fails: 'E_SHAPE' },
    { in: { x: [2, 2, 4], w: [3, 4] }, fails: 'E_SHAPE' },
    { in: { x: [2, 4], w: [4] }, fails: 'E_SHAPE' },
    { in: { x: [1024, 1024], w: [1024, 1024] }, bench: true },
    { in: { x: [2048, 896], w: [4864, 896] }, bench: true },
    { in: { x: [2048, 4864], w: [896, 4864] }, bench: true },
    { in: { x: [3072, 128], w: [384, 128] }, bench: true },
    { in: { x: [1, 2048], w: [2048, 2048] }, bench: true },
    { in: { x: [1, 4096], w: [16384, 4096] }, bench: true },
    { in: { x: [8, 4096], w: [16384, 4096] }, bench: true },
  ],
})

/**
 * x w^T. The sum over C runs in order, so a row has the same bits alone or among others.
 *
 * @param x [N, C]
 * @param w [O, C]
 * @returns [N, O]
 */
export const linear = (x: Tensor, w: Tensor): Tensor => call(linearOp, [x, w])[0]

const linearDxOp = defineOp({
  name: 'linear_dx',
  shapes: ({ dy, w }): Shape[] => {
    expectRank('linear_dx', 'dy', dy, '[N, O]')
    expectRank('linear_dx', 'w', w, '[O, C]')
    expectShape('linear_dx', 'w', w, [dy[1], w[1]])
    return [[dy[0], w[1]]]
  },
  reference: ({ dy, w }) => {
    const dx = hostZeros([dy.shape[0], w.shape[1]])
    hostRows(dy).forEach((row, n) => {
      row.forEach((value, o) => {
        addScaled(hostRow(dx, n), value, hostRow(w, o))
      })
    })
    return [dx]
  },
  cases: [
    ...edges.map(([n, c, o]) => ({ in: { dy: [n, o], w: [o, c] }, rows: ['dy'] })),
    { in: { dy: [0, 3], w: [3, 4] } },
    { in: { dy: [2, 0], w: [0, 4] } },
    { in: { dy: [2, 4], w: [3, 4] }, fails: 'E_SHAPE' },
    { in: { dy: [1024, 1024], w: [1024, 1024] }, bench: true },
    { in: { dy: [2048, 4864], w: [4864, 896] }, bench: true },
  ],
})

/** dy [N, O] times w [O, C]: the gradient of x, [N, C]. */
export const linearDx = (dy: Tensor, w: Tensor): Tensor => call(linearDxOp, [dy, w])[0]

const linearDwOp = defineOp({
  name: 'linear_dw',
  shapes: ({ dw, dy, x }) => {
    expectRank('linear_dw', 'dy', dy, '[N, O]')
    expectRank('linear_dw', 'x', x, '[N, C]')
    expectShape('linear_dw', 'x', x, [dy[0], x[1]])
    expectShape('linear_dw', 'dw', dw, [dy[1], x[1]])
    return []
  },
  reference: ({ dw, dy, x }) => {
    const out = hostCopy(dw)
    hostRows(dy).forEach((row, n) => {
      row.forEach((value, o) => {
        addScaled(hostRow(out, o), value, hostRow(x, n))
      })
    })
    return [out]
  },
  cases: [
    ...edges.map(([n, c, o]) => ({ in: { dw: [o, c], dy: [n, o], x: [n, c] }, rows: ['dy', 'x'] })),
    { in: { dw: [17, 33], dy: [300, 17], x: [300, 33] }, rows: ['dy', 'x'] },
    { in: { dw: [3, 4], dy: [0, 3], x: [0, 4] } },
    { in: { dw: [3, 4], dy: [2, 3], x: [3, 4] }, fails: 'E_SHAPE' },
    { in: { dw: [4, 3], dy: [2, 3], x: [2, 4] }, fails: 'E_SHAPE' },
    { in: { dw: [1024, 1024], dy: [1024, 1024], x: [1024, 1024] }, bench: true },
    { in: { dw: [4864, 896], dy: [2048, 4864], x: [2048, 896] }, bench: true },
  ],
})

/** dw [O, C] f32 += dy^T x, over dy [N, O] and x [N, C], in token order. */
export function linearDw(dw: Tensor, dy: Tensor, x: Tensor): void {
  call(linearDwOp, [dw, dy, x])
}

/** The entries of this family. */
export const matmulOps: readonly OpEntry[] = [linearOp, linearDxOp, linearDwOp]
