// Fresh weights, and small Llama configurations for task models. Values depend on the seed and the parameter's name
// alone, so a model is the same on every machine and in any loading order.

import { deriveKey, fillNormal } from '../base/rng.js'
import { bf16FromF32 } from '../io/dtype.js'
import { type ParameterSpec, parameter } from '../nn/parameters.js'
import { sizeOf } from '../tensor/shape.js'
import type { Decoder } from './decoder.js'
import { isScoreParameter } from './specs.js'

/** Shape of a small model. */
export interface SmallModel {
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads?: number
  readonly intermediateSize: number
  readonly maxPositions: number
  readonly eosTokenId: number
  readonly padTokenId: number
}

/** config.json of a small Llama with tied embeddings, as Transformers reads it. */
export const smallLlamaConfig = (m: SmallModel): Record<string, unknown> => ({
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: m.vocabSize,
  hidden_size: m.hiddenSize,
  num_hidden_layers: m.layers,
  num_attention_heads: m.heads,
  num_key_value_heads: m.kvHeads ?? m.heads,
  head_dim: m.hiddenSize / m.heads,
  intermediate_size: m.intermediateSize,
  max_position_embeddings: m.maxPositions,
  hidden_act: 'silu',
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  rope_scaling: null,
  attention_bias: false,
  mlp_bias: false,
  tie_word_embeddings: true,
  bos_token_id: null,
  eos_token_id: m.eosTokenId,
  pad_token_id: m.padTokenId,
  torch_dtype: 'float32',
})

/**
 * Fills a decoder with normal values of deviation initializer_range (0.02 by default), norms with ones (minus their
 * offset), biases with zeros. Projections into the residual stream are scaled by 1 / sqrt(2 layers), as GPT-2 does.
 */
export function initializeDecoder(m: Decoder, seed: number): void {
  const residual = 1 / Math.sqrt(2 * m.config.layers)
  for (const spec of m.parameters.placements)
    initialize(m, seed, spec, /(o_proj|down_proj|c_proj)\.weight$/.test(spec.name) ? residual : 1)
}

/** Fills a score head alone: normal values of deviation initializer_range, as Transformers does; biases zero. */
export function initializeScoreHead(m: Decoder, seed: number): void {
  for (const spec of m.parameters.placements) if (isScoreParameter(spec.name)) initialize(m, seed, spec, 1)
}

function initialize(m: Decoder, seed: number, { name, shape }: ParameterSpec, factor: number): void {
  const values = new Float32Array(sizeOf(shape))
  if (shape.length === 1) values.fill(name.endsWith('.bias') ? 0 : 1 - m.config.normOffset)
  else fillNormal(values, m.config.initializerRange * factor, deriveKey(seed, 'weights', name))
  parameter(m.parameters, name).write(m.parameters.dtype === 'f32' ? values : bf16FromF32(values))
}
