// Four-bit numbers: NF4 there and back, and the eight-bit absmax of its blocks (QLoRA's double quantisation). What the types
// are: native/core/nf4.h. No gradients: what is quantised is frozen. Kernels: native/cpu/quantize.cpp.

import { type Shape, sizeOf } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpEntry } from './define.js'
import { expectShape } from './expect.js'
import { host } from './host.js'

/** Elements that share an absmax. */
export const nf4Block = 64

/** Elements of {@link dequantizeBlockwise} that share an absmax. */
export const blockwiseBlock = 256

/** The sixteen levels of NF4, ascending: bitsandbytes' numbers, each exact in f32. */
export const nf4Levels: readonly number[] = [
  -1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1,
]

const thresholds = nf4Levels.slice(1).map((level, i) => Math.fround((nf4Levels[i] + level) / 2))

/** The code of a number: how many mid-points between levels it exceeds. */
const codeOf = (x: number): number => thresholds.filter((threshold) => x > threshold).length

/** Code i of codes that lie two to a byte, the first in the upper half. */
const halfOf = (codes: Float64Array, i: number): number => (i % 2 === 0 ? codes[i >> 1] >> 4 : codes[i >> 1] & 15)

/** Shapes of the codes and of the absmax of a matrix as NF4. */
export const nf4Shapes = (shape: Shape): { readonly codes: Shape; readonly absmax: Shape } => ({
  codes: [Math.ceil(sizeOf(shape) / 2)],
  absmax: [Math.ceil(sizeOf(shape) / nf4Block)],
})

function expectNf4(op: 'quantize_nf4' | 'dequantize_nf4', matrix: Shape, codes: Shape, absmax: Shape): void {
  const expected = nf4Shapes(matrix)
  expectShape(op, 'codes', codes, expected.codes)
  expectShape(op, 'absmax', absmax, expected.absmax)
}

/** Every byte somewhere. */
const someBytes = (i: number): number => (i * 37 + 11) & 255

const quantizeNf4Op = defineOp({
  name: 'quantize_nf4',
  shapes: ({ codes, absmax, x }) => {
    expectNf4('quantize_nf4', x, codes, absmax)
    return []
  },
  reference: ({ codes, absmax, x }) => {
    const block = (b: number) => x.data.subarray(b * nf4Block, (b + 1) * nf4Block)
    const largest = host(absmax.shape, (b) => block(b).reduce((most, value) => Math.max(most, Math.abs(value)), 0))
    // Which level is nearest is decided behind the rounding of the quotient to f32.
    const code = (i: number) => codeOf(Math.fround((x.data[i] ?? 0) / (largest.data[Math.floor(i / nf4Block)] || 1)))
    return [host(codes.shape, (i) => code(2 * i) * 16 + code(2 * i + 1)), largest]
  },
  cases: [
    { in: { codes: [32], absmax: [1], x: [64] }, fill: { codes: 'zeros' } },
    { in: { codes: [1], absmax: [1], x: [1] }, fill: { codes: 'zeros' } },
    { in: { codes: [193], absmax: [7], x: [5, 77] }, fill: { codes: 'zeros' } },
    { in: { codes: [64], absmax: [2], x: [2, 64] }, fill: { codes: 'zeros', x: (i) => (i < 64 ? 0 : (i - 96) / 31) } },
    { in: { codes: [9000], absmax: [282], x: [3, 6000] }, fill: { codes: 'zeros' } },
    { in: { codes: [0], absmax: [0], x: [0, 4] }, fill: { codes: 'zeros' } },
    { in: { codes: [3], absmax: [1], x: [2, 4] }, fill: { codes: 'zeros' }, fails: 'E_SHAPE' },
    { in: { codes: [4], absmax: [2], x: [2, 4] }, fill: { codes: 'zeros' }, fails: 'E_SHAPE' },
    { in: { codes: [2179072], absmax: [68096], x: [4864, 896] }, fill: { codes: 'zeros' }, bench: true },
  ],
})

/**
 * Writes a matrix as NF4: per block of 64 elements along it the largest magnitude, per element the nearest level of what it
 * is of that.
 *
 * @param codes u8 [ceil(n / 2)], overwritten
 * @param absmax f32 [ceil(n / 64)], overwritten
 * @param x n finite elements, f32 or bf16
 * @throws WhetstoneError E_SHAPE
 */
export function quantizeNf4(codes: Tensor, absmax: Tensor, x: Tensor): void {
  call(quantizeNf4Op, [codes, absmax, x])
}

const dequantizeNf4Op = defineOp({
  name: 'dequantize_nf4',
  shapes: ({ w, codes, absmax }) => {
    expectNf4('dequantize_nf4', w, codes, absmax)
    return []
  },
  reference: ({ w, codes, absmax }) => [
    host(w.shape, (i) => nf4Levels[halfOf(codes.data, i)] * absmax.data[Math.floor(i / nf4Block)]),
  ],
  cases: [
    { in: { w: [64], codes: [32], absmax: [1] }, fill: { codes: someBytes } },
    { in: { w: [1], codes: [1], absmax: [1] }, fill: { codes: someBytes } },
    { in: { w: [5, 77], codes: [193], absmax: [7] }, fill: { codes: someBytes } },
    { in: { w: [3, 6000], codes: [9000], absmax: [282] }, fill: { codes: someBytes } },
    { in: { w: [0, 4], codes: [0], absmax: [0] }, fill: { codes: 'zeros' } },
    { in: { w: [2, 4], codes: [5], absmax: [1] }, fill: { codes: 'zeros' }, fails: 'E_SHAPE' },
    { in: { w: [2, 64], codes: [64], absmax: [1] }, fill: { codes: 'zeros' }, fails: 'E_SHAPE' },
    { in: { w: [4864, 896], codes: [2179072], absmax: [68096] }, fill: { codes: someBytes }, bench: true },
  ],
})

/**
 * Overwrites a matrix of n elements, f32 or bf16, with what NF4 codes stand for.
 *
 * @param codes u8 [ceil(n / 2)]
 * @param absmax f32 [ceil(n / 64)]
 * @throws WhetstoneError E_SHAPE
 */
export function dequantizeNf4(w: Tensor, codes: Tensor, absmax: Tensor): void {
  call(dequantizeNf4Op, [w, codes, absmax])
}

const dequantizeBlockwiseOp = defineOp({
  name: 'dequantize_blockwise',
  shapes: ({ y, codes, map, absmax, offset }) => {
    const n = sizeOf(y)
    expectShape('dequantize_blockwise', 'codes', codes, [n])
    expectShape('dequantize_blockwise', 'map', map, [256])
    expectShape('dequantize_blockwise', 'absmax', absmax, [Math.ceil(n / blockwiseBlock)])
    expectShape('dequantize_blockwise', 'offset', offset, [1])
    return []
  },
  reference: ({ y, codes, map, absmax, offset }) => [
    host(y.shape, (i) => map.data[codes.data[i]] * absmax.data[Math.floor(i / blockwiseBlock)] + offset.data[0]),
  ],
  cases: [
    { in: { y: [256], codes: [256], map: [256], absmax: [1], offset: [1] }, fill: { codes: someBytes } },
    { in: { y: [613], codes: [613], map: [256], absmax: [3], offset: [1] }, fill: { codes: someBytes } },
    { in: { y: [0], codes: [0], map: [256], absmax: [0], offset: [1] }, fill: { codes: 'zeros' } },
    { in: { y: [5], codes: [4], map: [256], absmax: [1], offset: [1] }, fill: { codes: 'zeros' }, fails: 'E_SHAPE' },
    { in: { y: [5], codes: [5], map: [16], absmax: [1], offset: [1] }, fill: { codes: 'zeros' }, fails: 'E_SHAPE' },
    {
      in: { y: [257], codes: [257], map: [256], absmax: [1], offset: [1] },
      fill: { codes: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { y: [68096], codes: [68096], map: [256], absmax: [266], offset: [1] },
      fill: { codes: someBytes },
      bench: true,
    },
  ],
})

/** What numbers in eight bits are made of. */
export interface BlockwiseTensors {
  /** u8 [n] */
  readonly codes: Tensor
  /** What the codes stand for, ascending, f32 [256]. */
  readonly map: Tensor
  /** f32 [ceil(n / 256)] */
  readonly absmax: Tensor
  /** f32 [1] */
  readonly offset: Tensor
}

/**
 * Overwrites y [n] f32: y[i] = map[codes[i]] absmax[i / 256] + offset.
 *
 * @throws WhetstoneError E_SHAPE
 */
export function dequantizeBlockwise(y: Tensor, { codes, map, absmax, offset }: BlockwiseTensors): void {
  call(dequantizeBlockwiseOp, [y, codes, map, absmax, offset])
}

/** The entries of this family. */
export const quantizeOps: readonly OpEntry[] = [quantizeNf4Op, dequantizeNf4Op, dequantizeBlockwiseOp]
