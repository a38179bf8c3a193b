// Reductions into a running f32 (or i32) result: column sums, the norm, the finite flag. Kernels:
// native/cpu/reduce.cpp. Norm statistics and softmax sums live in their own ops.

import { lastOf } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpEntry } from './define.js'
import { expectRows, expectShape } from './expect.js'
import { addScaled, host, hostCopy, hostRows, sum } from './host.js'

const columnSumOp = defineOp({
  name: 'column_sum',
  shapes: ({ db, dy }) => {
    expectRows('column_sum', 'dy', dy)
    expectShape('column_sum', 'db', db, [lastOf(dy)])
    return []
  },
  reference: ({ db, dy }) => {
    const out = hostCopy(db)
    for (const row of hostRows(dy)) addScaled(out.data, 1, row)
    return [out]
  },
  cases: [
    { in: { db: [7], dy: [5, 7] }, rows: ['dy'] },
    { in: { db: [130], dy: [67, 130] }, rows: ['dy'] },
    { in: { db: [7], dy: [0, 7] } },
    { in: { db: [6], dy: [5, 7] }, fails: 'E_SHAPE' },
    { in: { db: [2048], dy: [2048, 2048] }, bench: true },
  ],
})

/** db [C] f32 += the sum over the rows of dy [..., C], in row order. */
export function columnSum(db: Tensor, dy: Tensor): void {
  call(columnSumOp, [db, dy])
}

const addNormOp = defineOp({
  name: 'add_norm',
  shapes: ({ acc }) => {
    expectShape('add_norm', 'acc', acc, [1])
    return []
  },
  reference: ({ acc, x }) => [host([1], () => Math.sqrt(acc.data[0] ** 2 + sum(x.data.length, (i) => x.data[i] ** 2)))],
  cases: [
    { in: { acc: [1], x: [5, 7] } },
    { in: { acc: [1], x: [100_003] }, tolerance: 1e-6 },
    { in: { acc: [1], x: [0] }, fill: { acc: 'positive' } },
    // squares that f32 cannot hold
    { in: { acc: [1], x: [35] }, fill: { x: () => 1e30 } },
    { in: { acc: [1], x: [35] }, fill: { acc: 'zeros', x: () => 1e-30 } },
    { in: { acc: [2], x: [3] }, fails: 'E_SHAPE' },
    { in: { acc: [1], x: [1 << 22] }, bench: true },
  ],
})

/**
 * acc [1] f32, at least 0, becomes the norm of acc and x f32 together: sqrt(acc^2 + sum x^2). Sums of squares are f64, in a tree that
 * depends on the size alone, so that the result is finite wherever f32 can hold it.
 */
export function addNorm(acc: Tensor, x: Tensor): void {
  call(addNormOp, [acc, x])
}

/** Finite up to the index, then infinite. */
const infiniteAt =
  (index: number) =>
  (i: number): number =>
    i === index ? Number.POSITIVE_INFINITY : i

const allFiniteOp = defineOp({
  name: 'all_finite',
  shapes: ({ ok }) => {
    expectShape('all_finite', 'ok', ok, [1])
    return []
  },
  reference: ({ ok, x }) => [host([1], () => (x.data.every(Number.isFinite) ? ok.data[0] : 0))],
  cases: [
    { in: { ok: [1], x: [5, 7] }, fill: { ok: 'ones' } },
    { in: { ok: [1], x: [5, 7] }, fill: { ok: 'zeros' } },
    { in: { ok: [1], x: [35] }, fill: { ok: 'ones', x: infiniteAt(34) } },
    { in: { ok: [1], x: [70_000] }, fill: { ok: 'ones', x: infiniteAt(69_999) } },
    { in: { ok: [1], x: [70_000] }, fill: { ok: 'ones', x: (i) => (i === 40_001 ? Number.NaN : 0) } },
    { in: { ok: [1], x: [3] }, fill: { ok: 'ones', x: () => 3.4e38 } },
    { in: { ok: [1], x: [0] }, fill: { ok: 'ones' } },
    { in: { ok: [2], x: [3] }, fill: { ok: 'ones' }, fails: 'E_SHAPE' },
    { in: { ok: [1], x: [1 << 22] }, fill: { ok: 'ones' }, bench: true },
  ],
})

/** ok [1] i32 becomes 0 when an element of x, f32 or bf16, is NaN or infinite, else it stays. */
export function allFinite(ok: Tensor, x: Tensor): void {
  call(allFiniteOp, [ok, x])
}

/** The entries of this family. */
export const reduceOps: readonly OpEntry[] = [columnSumOp, addNormOp, allFiniteOp]
