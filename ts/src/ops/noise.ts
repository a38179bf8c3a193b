// Elementwise ops of random numbers: dropout, and noise on embeddings. An element's number is a pure function of its
// row's key, its column and the site (which place of the model asks): not of the batch, and backward makes it again
// instead of keeping it. Kernels: native/cpu/elementwise.cpp.

import { philox } from '../base/rng.js'
import type { OpName } from '../native/ops.gen.js'
import type { Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type Host, type OpEntry, type Parameters } from './define.js'
import { expectParameter, expectRank, expectShape } from './expect.js'
import { host, hostRow } from './host.js'

/**
 * Random word of each element of x, under the key (seed low, seed high) of its row. Column c of a group of 64 takes word
 * c / 16 of the counter (index, 16 group + c % 16, stream, site).
 */
function wordAt(x: Host, keys: Host, site: number): (i: number) => number {
  const width = x.shape[1]
  return (i) => {
    const [low, high, stream, index] = hostRow(keys, Math.floor(i / width))
    const [group, column] = [Math.floor((i % width) / 64), (i % width) % 64]
    const counter = [index >>> 0, 16 * group + (column % 16), stream >>> 0, site] as const
    return philox(counter, [low >>> 0, high >>> 0])[column >> 4]
  }
}

function expectRandom(op: OpName, x: Shape, keys: Shape, p: Parameters): void {
  expectRank(op, 'x', x, '[N, C]')
  expectShape(op, 'keys', keys, [x[0], 4])
  const fits = Number.isInteger(p.site) && p.site >= 0 && p.site < 2 ** 32
  expectParameter(fits, op, p, 'site', 'a whole number below 2^32')
}

const someKeys = (i: number): number => ((i * 2654435761) % 2 ** 31) - 2 ** 30

const dropoutOp = defineOp({
  name: 'dropout',
  shapes: ({ x, keys }, p) => {
    expectRandom('dropout', x, keys, p)
    expectParameter(p.probability >= 0 && p.probability < 1, 'dropout', p, 'probability', 'a number in [0, 1)')
    return [x]
  },
  saves: ['keys'],
  gradient: ({ t, d, p }) => ({ x: d.y && call(dropoutOp, [d.y, t.keys], p)[0] }),
  reference: ({ x, keys }, { probability, site }) => {
    const word = wordAt(x, keys, site)
    const threshold = Math.floor(probability * 2 ** 32)
    return [host(x.shape, (i) => (word(i) >= threshold ? x.data[i] / (1 - probability) : 0))]
  },
  cases: [
    {
      in: { x: [5, 7], keys: [5, 4] },
      p: { probability: 0.25, site: 3 },
      fill: { keys: someKeys },
      rows: ['x', 'keys'],
    },
    {
      in: { x: [3, 200], keys: [3, 4] },
      p: { probability: 0.9, site: 0 },
      fill: { keys: someKeys },
      rows: ['x', 'keys'],
    },
    { in: { x: [2, 64], keys: [2, 4] }, p: { probability: 0, site: 2 ** 32 - 1 }, fill: { keys: someKeys } },
    { in: { x: [0, 7], keys: [0, 4] }, p: { probability: 0.5, site: 0 } },
    { in: { x: [5, 7], keys: [4, 4] }, p: { probability: 0.5, site: 0 }, fill: { keys: 'zeros' }, fails: 'E_SHAPE' },
    { in: { x: [5, 7], keys: [5, 3] }, p: { probability: 0.5, site: 0 }, fill: { keys: 'zeros' }, fails: 'E_SHAPE' },
    { in: { x: [5, 7], keys: [5, 4] }, p: { probability: 1, site: 0 }, fill: { keys: 'zeros' }, fails: 'E_CONFIG' },
    { in: { x: [5, 7], keys: [5, 4] }, p: { probability: 0.5, site: -1 }, fill: { keys: 'zeros' }, fails: 'E_CONFIG' },
    {
      in: { x: [2048, 2048], keys: [2048, 4] },
      p: { probability: 0.1, site: 1 },
      fill: { keys: someKeys },
      bench: true,
    },
  ],
})

/**
 * x / (1 - probability) where it is kept, else 0.
 *
 * @param x [N, C]
 * @param keys i32 [N, 4]: seed low, seed high, stream and index of each row
 * @param options `site` tells apart the places of a model that use the same keys
 */
export const dropout = (x: Tensor, keys: Tensor, options: { probability: number; site: number }): Tensor =>
  call(dropoutOp, [x, keys], { ...options })[0]

const addNoiseOp = defineOp({
  name: 'add_noise',
  shapes: ({ x, keys, scale }, p) => {
    expectRandom('add_noise', x, keys, p)
    expectShape('add_noise', 'scale', scale, [x[0]])
    return [x]
  },
  fixed: ['scale'],
  gradient: ({ d }) => ({ x: d.y }),
  reference: ({ x, keys, scale }, { site }) => {
    const word = wordAt(x, keys, site)
    return [host(x.shape, (i) => x.data[i] + scale.data[Math.floor(i / x.shape[1])] * ((word(i) >>> 8) / 2 ** 23 - 1))]
  },
  cases: [
    {
      in: { x: [5, 7], keys: [5, 4], scale: [5] },
      p: { site: 0 },
      fill: { keys: someKeys },
      rows: ['x', 'keys', 'scale'],
    },
    {
      in: { x: [3, 130], keys: [3, 4], scale: [3] },
      p: { site: 9 },
      fill: { keys: someKeys },
      rows: ['x', 'keys', 'scale'],
    },
    { in: { x: [0, 7], keys: [0, 4], scale: [0] }, p: { site: 0 } },
    { in: { x: [5, 7], keys: [5, 4], scale: [4] }, p: { site: 0 }, fill: { keys: 'zeros' }, fails: 'E_SHAPE' },
    { in: { x: [5, 7], keys: [5, 4], scale: [5] }, p: { site: 0.5 }, fill: { keys: 'zeros' }, fails: 'E_CONFIG' },
    { in: { x: [2048, 2048], keys: [2048, 4], scale: [2048] }, p: { site: 1 }, fill: { keys: someKeys }, bench: true },
  ],
})

/**
 * x + scale u, with u uniform in [-1, 1).
 *
 * @param x [N, C]
 * @param keys as in {@link dropout}
 * @param scale f32 [N]; no gradient goes to it
 */
export const addNoise = (x: Tensor, keys: Tensor, scale: Tensor, options: { site: number }): Tensor =>
  call(addNoiseOp, [x, keys, scale], { ...options })[0]

/** The entries of this file, part of the family `elementwise`. */
export const noiseOps: readonly OpEntry[] = [dropoutOp, addNoiseOp]
