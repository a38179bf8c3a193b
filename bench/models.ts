// Models and batches for benchmarks: random weights of given shapes, random tokens.

import { createRandom, deriveKey } from '../ts/src/base/rng.js'
import { decoderConfig } from '../ts/src/models/config.js'
import { createDecoder, type Decoder, decoderSpecs } from '../ts/src/models/decoder.js'
import { initializeDecoder, smallLlamaConfig } from '../ts/src/models/init.js'
import type { Device } from '../ts/src/native/device.js'
import { copyFlat, createFlat, disposeFlat } from '../ts/src/nn/parameters.js'
import { microBatchOf, microBatchOfRows } from '../ts/train/data/micro-batch.js'
import type { AdamWConfig } from '../ts/train/optimizer.js'
import type { MicroBatch } from '../ts/train/trainer.js'
import type { Float } from './harness.js'

/** AdamW's settings in every bench, PyTorch's but for the decay. */
export const benchOptimizer: AdamWConfig = {
  adamBeta1: 0.9,
  adamBeta2: 0.999,
  adamEpsilon: 1e-8,
  weightDecay: 0.1,
  maxGradNorm: 1,
}

/** A model and the batch that it is timed on. */
export interface BenchShape {
  readonly name: string
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  /** Default as many as heads. */
  readonly kvHeads?: number
  /** q, k and v have biases, as in Qwen 2. */
  readonly qkvBias?: boolean
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

/** SmolLM2-135M's shape. */
export const smolShape: BenchShape = {
  name: '135M',
  hiddenSize: 576,
  layers: 30,
  heads: 9,
  kvHeads: 3,
  intermediateSize: 1536,
  vocabSize: 49152,
  rows: 4,
  tokens: 512,
}

/** Qwen2.5-0.5B's shape. */
export const qwenShape: BenchShape = {
  name: '0.5B',
  hiddenSize: 896,
  layers: 24,
  heads: 14,
  kvHeads: 2,
  qkvBias: true,
  intermediateSize: 4864,
  vocabSize: 151936,
  rows: 2,
  tokens: 512,
}

/** What fills a GPU. */
export const gpuShape: BenchShape = {
  name: '50M',
  hiddenSize: 512,
  layers: 8,
  heads: 8,
  intermediateSize: 2048,
  vocabSize: 32768,
  rows: 16,
  tokens: 512,
}

/** The shape in words. */
export const shapeWords = (s: BenchShape): string =>
  `${s.layers} x ${s.hiddenSize}, ${s.heads}${s.kvHeads === undefined ? '' : `/${s.kvHeads}`} heads, MLP ${s.intermediateSize}, vocab ${s.vocabSize}`

/**
 * Floating-point operations of one training step: three times those of the forward pass (gradients of inputs and of
 * weights), without gradients of `frozen` weights two times. What is computed twice to save memory is not counted,
 * embedding, norms and adapters neither.
 */
export function stepFlops(s: BenchShape, frozen = false): number {
  const { hiddenSize, heads, kvHeads = heads } = s
  const attended = 2 * hiddenSize ** 2 * (1 + kvHeads / heads)
  const weights = s.layers * (attended + 3 * hiddenSize * s.intermediateSize)
  const projections = 2 * s.tokens * weights
  const head = 2 * (s.tokens - 1) * hiddenSize * s.vocabSize
  const attention = 4 * ((s.tokens * (s.tokens + 1)) / 2) * hiddenSize * s.layers
  return s.rows * ((frozen ? 2 : 3) * (projections + head) + 3 * attention)
}

/** config.json of the shape. */
function configOf(shape: BenchShape): Record<string, unknown> {
  const llama = smallLlamaConfig({ ...shape, maxPositions: 1024, eosTokenId: 1, padTokenId: 0 })
  return shape.qkvBias ? { ...llama, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' } : llama
}

/** A decoder with random weights. */
export function benchDecoder(device: Device, shape: BenchShape, dtype: Float): Decoder {
  const config = decoderConfig(configOf(shape))
  const exact = createFlat(device, decoderSpecs(config), 'f32')
  const decoder = createDecoder(config, device, exact)
  initializeDecoder(decoder, 1)
  if (dtype === 'f32') return decoder
  const parameters = createFlat(device, decoderSpecs(config), dtype)
  copyFlat(parameters, exact)
  disposeFlat(exact)
  return createDecoder(config, device, parameters)
}

/** Random token ids, row by row. */
export function benchRows(shape: BenchShape): number[][] {
  const random = createRandom(deriveKey(1, 'bench', shape.name))
  const row = () => Array.from({ length: shape.tokens }, () => random.integer(shape.vocabSize))
  return Array.from({ length: shape.rows }, row)
}

/** Random tokens, all trained but the first of each row. */
export const benchBatch = (shape: BenchShape): MicroBatch =>
  microBatchOfRows(benchRows(shape).map((ids) => ({ ids, trained: new Uint8Array(ids.length).fill(1) })))

/** Preference pairs of the same tokens: two rows with a common first half, answers trained. */
export function benchPairs(shape: BenchShape): MicroBatch {
  const rows = benchRows(shape)
  const half = Math.floor(shape.tokens / 2)
  const sequence = (ids: number[], role: 'chosen' | 'rejected') => ({
    ids,
    role,
    trained: Uint8Array.from(ids, (_, t) => Number(t >= half)),
  })
  const pairs = rows.slice(0, Math.floor(rows.length / 2)).map((chosen, i) => {
    const rejected = [...chosen.slice(0, half), ...rows[rows.length - 1 - i].slice(half)]
    return [sequence(chosen, 'chosen'), sequence(rejected, 'rejected')]
  })
  return microBatchOf(pairs)
}
