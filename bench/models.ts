// Models and batches for benchmarks: random weights of given shapes, random tokens.

import { createRandom, deriveKey } from '../ts/src/base/rng.js'
import { decoderConfig } from '../ts/src/models/config.js'
import { createDecoder, type Decoder, decoderSpecs } from '../ts/src/models/decoder.js'
import { initializeDecoder, smallLlamaConfig } from '../ts/src/models/init.js'
import type { Device } from '../ts/src/native/device.js'
import { copyFlat, createFlat, disposeFlat } from '../ts/src/nn/parameters.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import type { MicroBatch } from '../ts/train/trainer.js'

/** A model and the batch that it is timed on. */
export interface BenchShape {
  readonly name: string
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly intermediateSize: number
  readonly vocabSize: number
  readonly rows: number
  readonly tokens: number
}

/** The shapes that are compared from version to version. */
export const benchShapes: readonly BenchShape[] = [
  { name: '0.8M', hiddenSize: 128, layers: 4, heads: 4, intermediateSize: 384, vocabSize: 64, rows: 64, tokens: 48 },
  { name: '15M', hiddenSize: 384, layers: 6, heads: 6, intermediateSize: 1536, vocabSize: 4096, rows: 16, tokens: 256 },
]

/** The shape in words. */
export const shapeWords = (s: BenchShape): string =>
  `${s.layers} x ${s.hiddenSize}, vocab ${s.vocabSize}, ${s.rows} x ${s.tokens}`

/** A decoder with random weights. */
export function benchDecoder(device: Device, shape: BenchShape, dtype: 'f32' | 'bf16'): Decoder {
  const config = decoderConfig(smallLlamaConfig({ ...shape, maxPositions: 1024, eosTokenId: 1, padTokenId: 0 }))
  const exact = createFlat(device, decoderSpecs(config), 'f32')
  initializeDecoder(createDecoder(config, device, exact), 1)
  if (dtype === 'f32') return createDecoder(config, device, exact)
  const parameters = createFlat(device, decoderSpecs(config), dtype)
  copyFlat(parameters, exact)
  disposeFlat(exact)
  return createDecoder(config, device, parameters)
}

/** Random tokens, all trained. */
export function benchBatch(shape: BenchShape): MicroBatch {
  const random = createRandom(deriveKey(1, 'bench', shape.name))
  const row = () => Array.from({ length: shape.tokens }, () => random.integer(shape.vocabSize))
  return microBatchOf(
    Array.from({ length: shape.rows }, () => ({ ids: row(), trained: new Uint8Array(shape.tokens).fill(1) })),
  )
}
