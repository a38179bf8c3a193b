// The paged key-value cache: per layer one tensor of keys and one of values, cut into blocks of 32 positions that
// are also the key tiles of the attention kernels. A prompt's full blocks are shared by all of its samples; its last,
// partly filled block is copied for each. Blocks always begin at a multiple of 32 of the sequence's own positions, so
// decoding visits keys in the same tiles as training and gives the same bits.

import { WhetstoneError } from '../base/errors.js'
import type { Decoder } from '../models/decoder.js'
import { cacheCopy, cacheWrite, copy, KEY_BLOCK } from '../ops/index.js'
import { keep, tidy } from '../tensor/scope.js'
import { empty, type Tensor, tensor } from '../tensor/tensor.js'

/** Keys [blocks, G, D, 32] and values [blocks, G, 32, D] of every layer, and the free blocks. */
export interface Cache {
  readonly keys: Tensor[]
  readonly values: Tensor[]
  readonly free: number[]
}

/** Makes a cache with the given number of blocks. */
export function createCache(m: Decoder, blocks: number): Cache {
  const { layers, kvHeads, headDim } = m.config
  const make = (...inner: number[]) =>
    Array.from({ length: layers }, () => keep(empty(m.device, [blocks, kvHeads, ...inner], m.parameters.dtype)))
  return {
    keys: make(headDim, KEY_BLOCK),
    values: make(KEY_BLOCK, headDim),
    free: Array.from({ length: blocks }, (_, i) => blocks - 1 - i),
  }
}

/** Gives a cache more blocks; those that it has keep their numbers and what they hold. */
export function growCache(cache: Cache, blocks: number): void {
  const [before] = cache.keys[0].shape
  for (const tensors of [cache.keys, cache.values])
    for (const [layer, old] of tensors.entries()) {
      const [, ...inner] = old.shape
      const grown = keep(empty(old.device, [before + blocks, ...inner], old.dtype))
      tidy(() => copy(grown.view(old.shape), old))
      tensors[layer] = grown
      old.dispose()
    }
  cache.free.unshift(...Array.from({ length: blocks }, (_, i) => before + blocks - 1 - i))
}

/** Frees the cache's tensors. */
export function disposeCache(cache: Cache): void {
  for (const t of [...cache.keys, ...cache.values]) t.dispose()
}

/** Takes blocks off the free list. */
export function takeBlocks(cache: Cache, count: number): number[] {
  if (cache.free.length < count)
    throw new WhetstoneError('E_INTERNAL', 'cache', `expected ${count} free blocks, got ${cache.free.length}`)
  return cache.free.splice(cache.free.length - count, count)
}

/** Blocks that `positions` positions need. */
export const blocksFor = (positions: number): number => Math.ceil(positions / KEY_BLOCK)

/** Where position `position` of a sequence with these blocks lies. */
export const slotOf = (blocks: ArrayLike<number>, position: number): number =>
  blocks[Math.floor(position / KEY_BLOCK)] * KEY_BLOCK + (position % KEY_BLOCK)

/** Stores k and v of one layer, [N, G, D] each, at the slots i32 [N]. */
export function storeKeys(cache: Cache, layer: number, k: Tensor, v: Tensor, slots: Tensor): void {
  cacheWrite(cache.keys[layer], cache.values[layer], k, v, slots)
}

/** Copies whole blocks in every layer. */
export function copyBlocks(m: Decoder, cache: Cache, pairs: readonly (readonly [from: number, to: number])[]): void {
  if (pairs.length === 0) return
  const from = tensor(
    m.device,
    Int32Array.from(pairs, (pair) => pair[0]),
  )
  const to = tensor(
    m.device,
    Int32Array.from(pairs, (pair) => pair[1]),
  )
  cache.keys.forEach((keys, layer) => {
    cacheCopy(keys, cache.values[layer], from, to)
  })
}
