// Fresh weights, and small Llama configurations for task models. Values depend on the seed and the parameter's name
// alone, so a model is the same on every machine and in any loading order.

import { createRandom, deriveKey } from '../base/rng.js'
import { sizeOf } from '../tensor/shape.js'
import type { Decoder } from './decoder.js'

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
 * Fills a decoder with normal values of deviation 0.02, norms with ones (minus their offset), biases with zeros.
 * Projections into the residual stream are scaled by 1 / sqrt(2 layers), as GPT-2 does.
 */
export function initializeDecoder(m: Decoder, seed: number): void {
  const residual = 1 / Math.sqrt(2 * m.config.layers)
  for (const { name, shape } of m.parameters.placements) {
    const t = m.parameters.byName.get(name)
    if (t === undefined) continue
    const values = new Float32Array(sizeOf(shape))
    if (shape.length === 1) values.fill(name.endsWith('.bias') ? 0 : 1 - m.config.normOffset)
    else {
      const random = createRandom(deriveKey(seed, 'weights', name))
      const deviation = /(o_proj|down_proj)\.weight$/.test(name) ? 0.02 * residual : 0.02
      for (let i = 0; i < values.length; i++) values[i] = deviation * random.normal()
    }
    t.write(values)
  }
}
