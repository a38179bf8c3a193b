// Layout: filling, copying, changing the element type, picking and adding rows. No arithmetic but the addition of
// rows. Kernels: native/cpu/layout.cpp.

import { WhetstoneError } from '../base/errors.js'
import type { Device } from '../native/device.js'
import { checkShape, type DType, lastOf, type Shape, shapeText, sizeOf } from '../tensor/shape.js'
import { empty, type Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpEntry } from './define.js'
import { expectRank, expectShape } from './expect.js'
import { addScaled, host, hostCopy, hostRow } from './host.js'

const fillOp = defineOp({
  name: 'fill',
  shapes: () => [],
  reference: ({ x }, { value }) => [host(x.shape, () => value)],
  cases: [
    { in: { x: [7] }, p: { value: 0 } },
    { in: { x: [3, 5, 33] }, p: { value: -1.5 } },
    { in: { x: [] }, p: { value: 2 } },
    { in: { x: [0, 4] }, p: { value: 1 } },
    { in: { x: [1 << 22] }, p: { value: 0 }, bench: true },
  ],
})

/** Sets every element of an f32 tensor. */
export function fill(x: Tensor, value: number): void {
  call(fillOp, [x], { value })
}

/** A new f32 tensor of zeros. */
export function zeros(device: Device, shape: Shape): Tensor {
  const t = empty(device, shape, 'f32')
  fill(t, 0)
  return t
}

const copyOp = defineOp({
  name: 'copy',
  shapes: ({ to, from }) => {
    checkShape(sizeOf(to) === sizeOf(from), 'copy', `from with the ${sizeOf(to)} elements of to ${shapeText(to)}`, from)
    return []
  },
  reference: ({ to, from }) => [{ shape: to.shape, data: from.data.slice() }],
  cases: [
    { in: { to: [3, 35], from: [3, 35] } },
    { in: { to: [3, 35], from: [3, 35] }, dtypes: { to: 'f32', from: 'bf16' } },
    { in: { to: [105], from: [3, 35] }, dtypes: { to: 'bf16', from: 'f32' }, tolerance: 4e-3 },
    { in: { to: [0], from: [0] } },
    { in: { to: [4], from: [5] }, fails: 'E_SHAPE' },
    { in: { to: [1 << 22], from: [1 << 22] }, dtypes: { to: 'bf16', from: 'f32' }, bench: true },
  ],
})

/**
 * Overwrites `to` with the elements of `from`, rounding or widening between f32 and bf16.
 *
 * @throws WhetstoneError E_SHAPE when the sizes differ
 */
export function copy(to: Tensor, from: Tensor): void {
  call(copyOp, [to, from])
}

const castOf = (name: 'cast_f32' | 'cast_bf16'): OpEntry =>
  defineOp({
    name,
    shapes: ({ x }) => [x],
    gradient: ({ t, d }) => ({ x: d.y && castTo(d.y, t.x.dtype) }),
    reference: ({ x }) => [hostCopy(x)],
    cases: [
      { in: { x: [3, 35] }, rows: ['x'], tolerance: 4e-3 },
      { in: { x: [0, 4] } },
      { in: { x: [1 << 22] }, dtype: name === 'cast_f32' ? 'bf16' : 'f32', bench: true },
    ],
  })

const castF32Op = castOf('cast_f32')
const castBf16Op = castOf('cast_bf16')
const casts: Readonly<Partial<Record<DType, OpEntry>>> = { f32: castF32Op, bf16: castBf16Op }

/**
 * The same numbers as another element type; `x` itself when it has that type already. bf16 rounds to nearest even.
 *
 * @throws WhetstoneError E_DTYPE unless both types are f32 or bf16
 */
export function castTo(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x
  const op = casts[dtype]
  if (op === undefined) throw new WhetstoneError('E_DTYPE', 'cast', `expected f32 or bf16 to cast to, got ${dtype}`)
  return call(op, [x])[0]
}

const gatherRowsOp = defineOp({
  name: 'gather_rows',
  shapes: ({ x, ids }) => {
    expectRank('gather_rows', 'x', x, '[R, C]')
    expectRank('gather_rows', 'ids', ids, '[N]')
    return [[ids[0], x[1]]]
  },
  saves: ['ids'],
  gradient: ({ t, d, needs, into }) => {
    if (d.y !== undefined && needs('x')) scatterAddRows(into('x'), t.ids, d.y)
    return {}
  },
  reference: ({ x, ids }) => {
    const width = lastOf(x.shape)
    return [host([ids.data.length, width], (i) => hostRow(x, ids.data[Math.floor(i / width)])[i % width])]
  },
  cases: [
    { in: { x: [5, 7], ids: [8] }, fill: { ids: (i) => (i * 3) % 5 }, rows: ['ids'] },
    { in: { x: [5, 64], ids: [3] }, fill: { ids: (i) => 4 - i }, rows: ['ids'] },
    { in: { x: [5, 7], ids: [0] } },
    { in: { x: [0, 7], ids: [0] } },
    { in: { x: [5], ids: [2] }, fill: { ids: 'zeros' }, fails: 'E_SHAPE' },
    { in: { x: [5, 7], ids: [2, 1] }, fill: { ids: 'zeros' }, fails: 'E_SHAPE' },
    { in: { x: [49152, 576], ids: [2048] }, fill: { ids: (i) => (i * 7919) % 49152 }, bench: true },
  ],
})

/**
 * Rows of a table by index; also the embedding.
 *
 * @param x [R, C]
 * @param ids [N] i32, each in 0 .. R - 1; others fail when the queue gets there
 * @returns [N, C]
 */
export const gatherRows = (x: Tensor, ids: Tensor): Tensor => call(gatherRowsOp, [x, ids])[0]

const scatterAddRowsOp = defineOp({
  name: 'scatter_add_rows',
  shapes: ({ dx, ids, dy }) => {
    expectRank('scatter_add_rows', 'dx', dx, '[R, C]')
    expectRank('scatter_add_rows', 'ids', ids, '[N]')
    expectShape('scatter_add_rows', 'dy', dy, [ids[0], dx[1]])
    return []
  },
  reference: ({ dx, ids, dy }) => {
    const out = hostCopy(dx)
    ids.data.forEach((row, n) => {
      addScaled(hostRow(out, row), 1, hostRow(dy, n))
    })
    return [out]
  },
  cases: [
    { in: { dx: [4, 7], ids: [9], dy: [9, 7] }, fill: { ids: (i) => (i * i) % 4 }, rows: ['ids', 'dy'] },
    { in: { dx: [3, 70], ids: [33], dy: [33, 70] }, fill: { ids: (i) => (i < 30 ? 1 : 2) }, rows: ['ids', 'dy'] },
    { in: { dx: [4, 7], ids: [0], dy: [0, 7] } },
    { in: { dx: [4, 7], ids: [2], dy: [2, 6] }, fill: { ids: 'zeros' }, fails: 'E_SHAPE' },
    { in: { dx: [4, 7], ids: [2], dy: [3, 7] }, fill: { ids: 'zeros' }, fails: 'E_SHAPE' },
    {
      in: { dx: [49152, 576], ids: [2048], dy: [2048, 576] },
      fill: { ids: (i) => (i * 7919) % 49152 },
      bench: true,
    },
  ],
})

/** Adds row n of `dy` [N, C] to row `ids[n]` of `dx` [R, C] f32, in the order of n. */
export function scatterAddRows(dx: Tensor, ids: Tensor, dy: Tensor): void {
  call(scatterAddRowsOp, [dx, ids, dy])
}

/** The entries of this family. */
export const layoutOps: readonly OpEntry[] = [fillOp, copyOp, castF32Op, castBf16Op, gatherRowsOp, scatterAddRowsOp]
