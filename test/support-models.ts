// Models made on the spot for what the golden folders do not have: soft-caps, and toys to train.

import { bf16FromFloat } from '../ts/src/io/dtype.js'
import { decoderConfig } from '../ts/src/models/config.js'
import { createDecoder, type Decoder, decoderSpecs } from '../ts/src/models/decoder.js'
import { smallLlamaConfig } from '../ts/src/models/init.js'
import type { Device } from '../ts/src/native/device.js'
import { createFlat } from '../ts/src/nn/parameters.js'
import { sizeOf } from '../ts/src/tensor/shape.js'
import { randomOf } from './support.js'

/** config.json of a small Gemma 2: soft-caps on attention and logits, a window in every other layer, four norms. */
const gemmaConfig = {
  model_type: 'gemma2',
  vocab_size: 365,
  hidden_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 24,
  intermediate_size: 80,
  query_pre_attn_scalar: 20,
  attn_logit_softcapping: 6,
  final_logit_softcapping: 10,
  sliding_window: 8,
  eos_token_id: 362,
}

/** config.json of a small GPT-2 with more positions than the golden one has. */
const gpt2Config = {
  model_type: 'gpt2',
  vocab_size: 365,
  n_embd: 48,
  n_layer: 2,
  n_head: 4,
  n_positions: 160,
  eos_token_id: 362,
}

const toyConfig = (tied: boolean) => ({
  ...smallLlamaConfig({
    vocabSize: 61,
    hiddenSize: 64,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    intermediateSize: 96,
    maxPositions: 128,
    eosTokenId: 1,
    padTokenId: 0,
  }),
  tie_word_embeddings: tied,
})

/** A decoder with weights large enough to matter: matrices of deviation 1.2 / sqrt(inputs), vectors around one. */
function randomDecoder(raw: Readonly<Record<string, unknown>>, device: Device, dtype: 'f32' | 'bf16'): Decoder {
  const config = decoderConfig(raw)
  const m = createDecoder(config, device, createFlat(device, decoderSpecs(config), dtype))
  for (const { name, shape } of m.parameters.placements) {
    const random = randomOf(name)
    const [mean, deviation] =
      shape.length === 1 ? [1 - config.normOffset, 0.2] : [0, name.includes('embed') ? 0.3 : 1.2 / Math.sqrt(shape[1])]
    const values = Float32Array.from({ length: sizeOf(shape) }, () => mean + deviation * random.normal())
    m.parameters.byName.get(name)?.write(dtype === 'f32' ? values : Uint16Array.from(values, bf16FromFloat))
  }
  return m
}

/** Gemma 2 in small, with random weights. */
export const gemmaDecoder = (device: Device, dtype: 'f32' | 'bf16'): Decoder =>
  randomDecoder(gemmaConfig, device, dtype)

/** GPT-2 in small, with random weights. */
export const gpt2Decoder = (device: Device, dtype: 'f32' | 'bf16'): Decoder => randomDecoder(gpt2Config, device, dtype)

/** The toy of the training suites: 2 layers, 64 channels, 61 tokens. Equal calls give equal weights. */
export const toyDecoder = (device: Device, tied = true, dtype: 'f32' | 'bf16' = 'f32'): Decoder =>
  randomDecoder(toyConfig(tied), device, dtype)
