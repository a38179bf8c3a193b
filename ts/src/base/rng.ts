// Random numbers as a pure function of keys: Philox4x32-10 (Salmon et al. 2011), the same in TypeScript, C++ and CUDA.
// A key is derived from (seed, names); there is no generator state to save. Convention shared with native/core/rng.h:
// key = (seed low, seed high), counter = (index low, index high, stream, 0).

import { createHash } from 'node:crypto'
import { WhetstoneError } from './errors.js'

/** Two 32-bit words that select a stream of random numbers. */
export type Key = readonly [low: number, high: number]

/** Four 32-bit words. */
export type Words = readonly [number, number, number, number]

/** High word of a 32 x 32 bit product, from halves: every sum here stays below 2^32, so that 32-bit integers hold it. */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16
  const aLow = a & 0xffff
  const bHigh = b >>> 16
  const bLow = b & 0xffff
  const middle = (Math.imul(aHigh, bLow) + (Math.imul(aLow, bLow) >>> 16)) | 0
  const cross = (Math.imul(aLow, bHigh) + (middle & 0xffff)) | 0
  return (Math.imul(aHigh, bHigh) + (middle >>> 16) + (cross >>> 16)) | 0
}

/** Philox4x32-10: four random words from a counter and a key. */
export function philox(counter: Words, key: Key): Words {
  const words = new Uint32Array(4)
  philoxInto(words, counter, key)
  return [words[0], words[1], words[2], words[3]]
}

/** The same into memory that there is already: in loops that draw millions. */
function philoxInto(words: Uint32Array, counter: ArrayLike<number>, key: Key): void {
  let c0 = counter[0] | 0
  let c1 = counter[1] | 0
  let c2 = counter[2] | 0
  let c3 = counter[3] | 0
  let k0 = key[0] | 0
  let k1 = key[1] | 0
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0)
    const low0 = Math.imul(0xd2511f53, c0)
    const high1 = multiplyHigh(0xcd9e8d57, c2)
    const low1 = Math.imul(0xcd9e8d57, c2)
    c0 = high1 ^ c1 ^ k0
    c1 = low1
    c2 = high0 ^ c3 ^ k1
    c3 = low0
    k0 = (k0 + 0x9e3779b9) | 0
    k1 = (k1 + 0xbb67ae85) | 0
  }
  words[0] = c0
  words[1] = c1
  words[2] = c2
  words[3] = c3
}

/**
 * The key of a named stream: the first 64 bits of SHA-256 over the JSON array [seed, ...names]. Names may hold any text;
 * the number 1 and the text '1' are different names.
 *
 * @throws WhetstoneError E_CONFIG for NaN and infinities: JSON writes all of them as null, so their keys would collide
 */
export function deriveKey(seed: number, ...names: readonly (string | number)[]): Key {
  const odd = [seed, ...names].find((name) => typeof name === 'number' && !Number.isFinite(name))
  if (odd !== undefined)
    throw new WhetstoneError('E_CONFIG', 'seed', `expected finite numbers and texts as names of a key, got ${odd}`)
  const digest = createHash('sha256')
    .update(JSON.stringify([seed, ...names]))
    .digest()
  return [digest.readUInt32LE(0), digest.readUInt32LE(4)]
}

/**
 * The number at an index of a stream: uniform in [0, 1) with 53 bits, the bits of `uniform53(random4(...))` in
 * native/core/rng.h. Any index can be asked for in any order.
 *
 * @param index whole number from 0 to 2^53 - 1
 * @param stream whole number below 2^32
 */
export function uniform(key: Key, index: number, stream = 0): number {
  const [a, b] = philox([index >>> 0, Math.floor(index / 2 ** 32), stream, 0], key)
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53
}

/** Random numbers of one key, in order. */
export interface Random {
  /** Uniform in [0, 1) with 53 bits. */
  next(): number
  /**
   * Uniform whole number in [0, n).
   *
   * @throws WhetstoneError E_CONFIG unless n is a whole number from 1 to 2^32
   */
  integer(n: number): number
  /** Standard normal (Box-Muller). */
  normal(): number
  /** A shuffled copy (Fisher-Yates). */
  shuffle<T>(values: readonly T[]): T[]
}

/** A stream of random numbers; two streams of one key are equal. */
export function createRandom(key: Key): Random {
  let index = 0
  const words = new Uint32Array(4)
  let taken = 4
  const word = (): number => {
    if (taken === 4) {
      philoxInto(words, [index >>> 0, Math.floor(index++ / 2 ** 32), 0, 0], key)
      taken = 0
    }
    return words[taken++]
  }
  const next = () => (word() * 2 ** 21 + (word() >>> 11)) / 2 ** 53
  const integer = (n: number): number => {
    if (!Number.isInteger(n) || n < 1 || n > 2 ** 32)
      throw new WhetstoneError('E_CONFIG', 'integer', `expected a whole number from 1 to 2^32, got ${n}`)
    // Words in the last, incomplete run of n are drawn again: every value is equally likely.
    const limit = 2 ** 32 - (2 ** 32 % n)
    let drawn = word()
    while (drawn >= limit) drawn = word()
    return drawn % n
  }
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())
  const shuffle = <T>(values: readonly T[]): T[] => {
    const shuffled = [...values]
    for (let i = shuffled.length - 1; i > 0; i--) {
      const j = integer(i + 1)
      ;[shuffled[i], shuffled[j]] = [shuffled[j], shuffled[i]]
    }
    return shuffled
  }
  return { next, integer, normal, shuffle }
}

/**
 * Fills an array with normal values of mean 0, whose first n are the same in an array of any length. Box-Muller on pairs of
 * words; no value is further than 6.8 deviations from 0, where one in 10^11 would be.
 */
export function fillNormal(values: Float32Array, deviation: number, key: Key): void {
  const words = new Uint32Array(4)
  const counter = new Uint32Array(4)
  const turn = (2 * Math.PI) / 2 ** 32
  for (let i = 0; i < values.length; i += 2) {
    const pair = i & 2
    if (pair === 0) {
      counter[0] = i / 4
      counter[1] = i / 2 ** 34
      philoxInto(words, counter, key)
    }
    const radius = deviation * Math.sqrt(-2 * Math.log((words[pair] + 0.5) / 2 ** 32))
    values[i] = radius * Math.cos(turn * words[pair + 1])
    if (i + 1 < values.length) values[i + 1] = radius * Math.sin(turn * words[pair + 1])
  }
}

/** A random order of 0 .. n - 1. */
export const permutation = (n: number, key: Key): number[] =>
  createRandom(key).shuffle(Array.from({ length: n }, (_, i) => i))
