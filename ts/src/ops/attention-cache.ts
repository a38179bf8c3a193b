// The paged key/value cache and decoding over it: a sequence's keys lie in blocks of 32 positions, found by a table.
// Blocks may be shared by sequences with a common prompt; who owns which block is the generator's business.
// Kernels: native/cpu/attention.cpp; references: attention-reference.ts.

import type { OpName } from '../native/ops.gen.js'
import type { Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { type AttentionOptions, expectHeads, expectOptions, parametersOf } from './attention.js'
import { attentionDecodeReference, cacheCopyReference, cacheWriteReference, KEY_BLOCK } from './attention-reference.js'
import { call, defineOp, type OpCase, type OpEntry } from './define.js'
import { expectRank, expectShape } from './expect.js'

export { KEY_BLOCK } from './attention-reference.js'

const plain = { scale: 1, window: 0, softcap: 0 }

/** keys [blocks, G, D, 32] and values [blocks, G, 32, D]. */
function expectCache(op: OpName, keys: Shape, values: Shape): void {
  expectRank(op, 'keys', keys, `[blocks, G, D, ${KEY_BLOCK}]`)
  expectShape(op, 'keys', keys, [keys[0], keys[1], keys[2], KEY_BLOCK])
  expectShape(op, 'values', values, [keys[0], keys[1], KEY_BLOCK, keys[2]])
}

const cacheWriteOp = defineOp({
  name: 'cache_write',
  shapes: ({ keys, values, k, v, slots }) => {
    expectCache('cache_write', keys, values)
    expectRank('cache_write', 'k', k, '[N, G, D]')
    expectShape('cache_write', 'k', k, [k[0], keys[1], keys[2]])
    expectShape('cache_write', 'v', v, k)
    expectShape('cache_write', 'slots', slots, [k[0]])
    return []
  },
  reference: cacheWriteReference,
  cases: [
    {
      in: { keys: [3, 2, 5, 32], values: [3, 2, 32, 5], k: [7, 2, 5], v: [7, 2, 5], slots: [7] },
      fill: { slots: (i) => [95, 0, 31, -1, 32, 64, 0][i] },
      rows: ['k', 'v', 'slots'],
    },
    {
      in: { keys: [3, 2, 5, 32], values: [3, 2, 32, 5], k: [0, 2, 5], v: [0, 2, 5], slots: [0] },
    },
    {
      in: { keys: [3, 2, 5, 16], values: [3, 2, 16, 5], k: [1, 2, 5], v: [1, 2, 5], slots: [1] },
      fill: { slots: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { keys: [3, 2, 5, 32], values: [3, 2, 32, 5], k: [1, 1, 5], v: [1, 1, 5], slots: [1] },
      fill: { slots: 'zeros' },
      fails: 'E_SHAPE',
    },
    {
      in: { keys: [64, 8, 128, 32], values: [64, 8, 32, 128], k: [1024, 8, 128], v: [1024, 8, 128], slots: [1024] },
      fill: { slots: (i) => i },
      bench: true,
    },
  ],
})

/**
 * Puts keys and values of N tokens into the cache; a negative slot is skipped, the last of equal slots wins.
 *
 * @param keys [blocks, G, D, 32]
 * @param values [blocks, G, 32, D]
 * @param k [N, G, D]
 * @param v [N, G, D]
 * @param slots [N] i32: block * 32 + offset
 */
export function cacheWrite(keys: Tensor, values: Tensor, k: Tensor, v: Tensor, slots: Tensor): void {
  call(cacheWriteOp, [keys, values, k, v, slots])
}

const cacheCopyOp = defineOp({
  name: 'cache_copy',
  shapes: ({ keys, values, from, to }) => {
    expectCache('cache_copy', keys, values)
    expectRank('cache_copy', 'from', from, '[N]')
    expectShape('cache_copy', 'to', to, from)
    return []
  },
  reference: cacheCopyReference,
  cases: [
    {
      in: { keys: [4, 2, 5, 32], values: [4, 2, 32, 5], from: [3], to: [3] },
      fill: { from: (i) => [0, 3, 2][i], to: (i) => [3, 1, 2][i] },
      rows: ['from', 'to'],
    },
    { in: { keys: [4, 2, 5, 32], values: [4, 2, 32, 5], from: [0], to: [0] } },
    {
      in: { keys: [4, 2, 5, 32], values: [4, 2, 32, 5], from: [2], to: [1] },
      fill: { from: 'zeros', to: 'ones' },
      fails: 'E_SHAPE',
    },
    {
      in: { keys: [64, 8, 128, 32], values: [64, 8, 32, 128], from: [16], to: [16] },
      fill: { from: (i) => i, to: (i) => 32 + i },
      bench: true,
    },
  ],
})

/** Copies whole blocks of the cache, block `from[n]` onto block `to[n]`, pair by pair in order. */
export function cacheCopy(keys: Tensor, values: Tensor, from: Tensor, to: Tensor): void {
  call(cacheCopyOp, [keys, values, from, to])
}

interface DecodeCase {
  readonly lengths: readonly number[]
  readonly heads: readonly [query: number, keyValue: number]
  readonly size: number
  readonly window?: number
  readonly softcap?: number
  /** The cache's block of a sequence's block; of `longBlocks` ones. */
  readonly table?: (sequence: number, block: number) => number
  readonly dtype?: 'f32' | 'bf16'
  readonly bench?: boolean
}

/** Blocks of the cache in cases of long sequences, which come to each several times. */
const longBlocks = 13

/** Sequences that have nothing in common, and those that have 2048 positions, as samples of a prompt. */
const apart = (sequence: number, block: number) => (sequence * 17 + block * 7) % longBlocks
const samples = (sequence: number, block: number) => apart(block < 64 ? 0 : sequence, block)

/** Tables of blocks in mixed order; by themselves all sequences share the first block, as a prompt would be. */
const decodeCase = (c: DecodeCase): OpCase => {
  const width = Math.ceil(Math.max(...c.lengths) / KEY_BLOCK) + 1
  const batch = c.lengths.length
  const blocks = c.table === undefined ? batch * width : longBlocks
  const table = c.table ?? ((sequence, block) => (block === 0 ? 0 : blocks - (sequence * width + block)))
  return {
    in: {
      q: [batch, c.heads[0], c.size],
      keys: [blocks, c.heads[1], c.size, KEY_BLOCK],
      values: [blocks, c.heads[1], KEY_BLOCK, c.size],
      table: [batch, width],
      lengths: [batch],
    },
    p: { scale: c.size ** -0.5, window: c.window ?? 0, softcap: c.softcap ?? 0 },
    fill: { table: (i) => table(Math.floor(i / width), i % width), lengths: (i) => c.lengths[i] },
    rows: ['q', 'table', 'lengths'],
    dtype: c.dtype,
    bench: c.bench,
  }
}

const attentionDecodeOp = defineOp({
  name: 'attention_decode',
  shapes: ({ q, keys, values, table, lengths }, p) => {
    expectCache('attention_decode', keys, values)
    expectHeads('attention_decode', q, keys[1], keys[2])
    expectRank('attention_decode', 'table', table, '[B, M]')
    expectShape('attention_decode', 'table', table, [q[0], table[1]])
    expectShape('attention_decode', 'lengths', lengths, [q[0]])
    expectOptions('attention_decode', p)
    return [q]
  },
  reference: attentionDecodeReference,
  cases: [
    decodeCase({ lengths: [1, 33, 64, 5], heads: [4, 2], size: 64 }),
    decodeCase({ lengths: [70, 2], heads: [2, 1], size: 80, window: 40 }),
    decodeCase({ lengths: [32, 97], heads: [3, 3], size: 5, window: 33, softcap: 1.5 }),
    decodeCase({ lengths: [40], heads: [16, 1], size: 128 }),
    // A GPU takes keys in splits of 1024: lengths around its multiples, groups of one tile and of two, a window over three.
    decodeCase({ lengths: [2049, 1023], heads: [3, 1], size: 48, table: apart }),
    decodeCase({ lengths: [1030, 7], heads: [20, 1], size: 24, table: samples, dtype: 'f32' }),
    decodeCase({ lengths: [2100, 2110], heads: [2, 2], size: 80, window: 1100, table: samples, dtype: 'bf16' }),
    // Sequences with a split in common are rows of one tile: with one that has another last block, and one too short.
    decodeCase({
      lengths: [1040, 1033, 1024, 1023, 1030, 1050, 1026],
      heads: [4, 1],
      size: 16,
      table: (sequence, block) => samples(sequence, block) ^ (sequence === 5 && block === 31 ? 1 : 0),
    }),
    decodeCase({ lengths: [1040, 1025], heads: [7, 1], size: 128, softcap: 1.5, table: samples, dtype: 'f32' }),
    decodeCase({ lengths: [1040, 1025], heads: [1, 1], size: 256, table: samples, dtype: 'bf16' }),
    decodeCase({ lengths: Array.from({ length: 16 }, () => 500), heads: [16, 4], size: 64, bench: true }),
    {
      in: { q: [0, 2, 8], keys: [1, 2, 8, 32], values: [1, 2, 32, 8], table: [0, 3], lengths: [0] },
      p: plain,
    },
    {
      in: { q: [1, 2, 8], keys: [1, 2, 8, 32], values: [1, 2, 32, 8], table: [2, 1], lengths: [1] },
      p: plain,
      fill: { table: 'zeros', lengths: 'ones' },
      fails: 'E_SHAPE',
    },
    {
      in: { q: [1, 2, 8], keys: [1, 2, 8, 32], values: [1, 2, 32, 8], table: [1, 1], lengths: [1] },
      p: { ...plain, softcap: -1 },
      fill: { table: 'zeros', lengths: 'ones' },
      fails: 'E_CONFIG',
    },
  ],
})

/**
 * Attention of one new token per sequence over the cache; gives the bits that `attention` gives for that token.
 *
 * @param q [B, H, D]
 * @param keys [blocks, G, D, 32]
 * @param values [blocks, G, 32, D]
 * @param table [B, M] i32, block of each run of 32 positions
 * @param lengths [B] i32, number of keys of each sequence, the new token's included
 * @returns [B, H, D]
 */
export const attentionDecode = (
  q: Tensor,
  keys: Tensor,
  values: Tensor,
  table: Tensor,
  lengths: Tensor,
  options: AttentionOptions,
): Tensor => call(attentionDecodeOp, [q, keys, values, table, lengths], parametersOf(options))[0]

/** The cache's entries. */
export const attentionCacheOps: readonly OpEntry[] = [cacheWriteOp, cacheCopyOp, attentionDecodeOp]
