// What a model says of given tokens: log-probs, logits, numbers of a score head. Many sequences run in several forward
// passes of bounded size, which changes no bit: results do not depend on what is packed together.

import { WhetstoneError } from '../base/errors.js'
import type { Key } from '../base/rng.js'
import { type Decoder, type ForwardInput, forward, headWeight, packedInput } from '../models/decoder.js'
import { type PackedTokens, packSequences, tokenKeys } from '../models/pack.js'
import { scoreRows } from '../models/score.js'
import { gatherRows, headLogProbs, linear } from '../ops/index.js'
import { Scope } from '../tensor/scope.js'
import { type Tensor, tensor } from '../tensor/tensor.js'

type Sequences = readonly (readonly number[])[]

/** Tokens of one forward pass, unless a single sequence has more. */
const passTokens = 8192

function checkIds(decoder: Decoder, sequences: readonly (readonly number[])[]): void {
  sequences.forEach((ids, s) => {
    if (ids.length === 0) throw new WhetstoneError('E_SHAPE', `sequence ${s}`, 'expected tokens, got no tokens')
    const bad = ids.findIndex((id) => !(Number.isInteger(id) && id >= 0 && id < decoder.config.vocabSize))
    if (bad >= 0)
      throw new WhetstoneError(
        'E_CONFIG',
        `sequence ${s}`,
        `expected token ids below ${decoder.config.vocabSize}, got ${ids[bad]} at ${bad}`,
      )
  })
}

/** The numbers at the given positions of each sequence, end to end, by passes over hidden states [positions, C]. */
async function readAt(
  decoder: Decoder,
  sequences: Sequences,
  positions: Sequences,
  read: (hidden: Tensor, next: Int32Array) => Tensor,
  dropoutKeys?: readonly Key[],
): Promise<Float32Array[]> {
  const results: Float32Array[] = []
  for (let first = 0; first < sequences.length; ) {
    const end = passEnd(sequences, first)
    const packed = packSequences(sequences.slice(first, end))
    const rows = positions.slice(first, end).flatMap((places, s) => places.map((at) => packed.starts[s] + at))
    using scope = new Scope()
    const values = scope.run(() => {
      const input = packedInput(decoder, packed)
      const hidden = forward(
        decoder,
        dropoutKeys ? withDropout(decoder, input, packed, dropoutKeys.slice(first, end)) : input,
      )
      const next = Int32Array.from(rows, (row) => packed.ids[row + 1] ?? 0)
      return read(gatherRows(hidden, tensor(decoder.device, Int32Array.from(rows))), next)
    })
    results.push(...cut((await values.data()) as Float32Array, positions.slice(first, end), values.shape[1] ?? 1))
    first = end
  }
  return results
}

/** The pass with the dropout of its adapter, as in training; a key per sequence. */
const withDropout = (
  { device }: Decoder,
  input: ForwardInput,
  packed: PackedTokens,
  keys: readonly Key[],
): ForwardInput => {
  const ofTokens = tokenKeys(packed, (s) => keys[s])
  return { ...input, regularization: { keys: tensor(device, ofTokens, [packed.ids.length, 4]), dropout: true } }
}

/** The numbers of each sequence, `width` per position. */
function cut(flat: Float32Array, positions: Sequences, width: number): Float32Array[] {
  let end = 0
  return positions.map((places) => {
    const begin = end
    end += places.length * width
    return flat.slice(begin, end)
  })
}

/** One past the last sequence of the pass that begins with `first`. */
function passEnd(sequences: Sequences, first: number): number {
  let tokens = 0
  for (let s = first; s < sequences.length; s++) {
    tokens += sequences[s].length
    if (tokens > passTokens) return Math.max(s, first + 1)
  }
  return sequences.length
}

/** log p(token | tokens before) for every token of each sequence; 0 for its first. */
export async function logProbs(decoder: Decoder, sequences: Sequences): Promise<Float32Array[]> {
  checkIds(decoder, sequences)
  const predictors = sequences.map((ids) => Array.from({ length: ids.length - 1 }, (_, i) => i))
  const options = { softcap: decoder.config.logitSoftcap }
  const values = await readAt(decoder, sequences, predictors, (hidden, next) => {
    return headLogProbs(hidden, headWeight(decoder), tensor(decoder.device, next), options).logps
  })
  return sequences.map((ids, s) => {
    const row = new Float32Array(ids.length)
    row.set(values[s], 1)
    return row
  })
}

/** Logits [tokens, vocabulary] of one sequence. */
export async function logits(decoder: Decoder, ids: readonly number[]): Promise<Float32Array> {
  checkIds(decoder, [ids])
  using scope = new Scope()
  const values: Tensor = scope.run(() =>
    linear(forward(decoder, packedInput(decoder, packSequences([ids]))), headWeight(decoder)),
  )
  const cap = decoder.config.logitSoftcap
  const raw = (await values.data()) as Float32Array
  return cap > 0 ? raw.map((z) => cap * Math.tanh(z / cap)) : raw
}

/**
 * Numbers of a score head at the given positions of each sequence, [positions, labels].
 *
 * @param dropoutKeys one per sequence: units of an adapter's inputs are dropped by them as in training; default none are
 */
export async function scores(
  decoder: Decoder,
  sequences: Sequences,
  positions: Sequences,
  dropoutKeys?: readonly Key[],
): Promise<Float32Array[]> {
  checkIds(decoder, sequences)
  checkPositions(sequences, positions)
  return readAt(decoder, sequences, positions, (hidden) => scoreRows(decoder, hidden), dropoutKeys)
}

function checkPositions(sequences: readonly (readonly number[])[], positions: readonly (readonly number[])[]): void {
  const refuse = (where: string, expected: string, got: number): never => {
    throw new WhetstoneError('E_CONFIG', where, `expected ${expected}, got ${got}`)
  }
  if (positions.length !== sequences.length)
    refuse('positions', `a list for each of ${sequences.length} sequences`, positions.length)
  positions.forEach((places, s) => {
    const { length } = sequences[s]
    const bad = places.find((at) => !(Number.isInteger(at) && at >= 0 && at < length))
    if (bad !== undefined) refuse(`sequence ${s}`, `positions below its length, ${length}`, bad)
  })
}
