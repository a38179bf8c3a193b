// The decoder of the Llama family as one forward pass over ops: llama, mistral, qwen2, qwen3 and the Gemma texts
// differ by what their DecoderConfig says. Tokens are always packed. How attention finds its keys is the caller's:
// over the packed tokens (training, log-probs) or through a cache (generate/), by the same arithmetic.

import { checkpoint } from '../autograd/tape.js'
import type { Device } from '../native/device.js'
import { type FlatTensors, type ParameterSpec, parameter } from '../nn/parameters.js'
import { add, addBias, attention, gatherRows, glu, linear, reshape, rmsNorm, rope, scale } from '../ops/index.js'
import { tidy } from '../tensor/scope.js'
import { type Tensor, tensor } from '../tensor/tensor.js'
import type { DecoderConfig } from './config.js'
import type { PackedTokens } from './pack.js'
import { createRopeTable, type RopeTable } from './rope.js'

/** A decoder with its weights on a device. */
export interface Decoder {
  readonly config: DecoderConfig
  readonly device: Device
  readonly parameters: FlatTensors
  readonly ropes: readonly RopeTable[]
}

/** Settings of one layer's attention, as the attention ops take them. */
export interface AttentionSettings {
  readonly scale: number
  readonly window: number
  readonly softcap: number
}

/** Attention over q [N, H, D], k and v [N, G, D] of a layer; gives [N, H, D]. */
export type Attend = (layer: number, q: Tensor, k: Tensor, v: Tensor, settings: AttentionSettings) => Tensor

/** What a forward pass runs over. */
export interface ForwardInput {
  /** Token ids, i32 [N]. */
  readonly ids: Tensor
  /** Positions for the rotary angles, i32 [N]. */
  readonly positions: Tensor
  /** One more than the largest position. */
  readonly length: number
  readonly attend: Attend
  /** Recompute each layer in backward instead of keeping its inner tensors. */
  readonly activationCheckpointing?: boolean
  /** In training: keys of each token's random numbers, i32 [N, 4], and the scale of noise on its embedding, f32 [N]. */
  readonly regularization?: { readonly keys: Tensor; readonly noiseScale?: Tensor }
}

const layerName = (layer: number, name: string): string => `model.layers.${layer}.${name}`

function layerSpecs(c: DecoderConfig, layer: number): ParameterSpec[] {
  const specs: ParameterSpec[] = []
  const put = (name: string, ...shape: number[]) => specs.push({ name: layerName(layer, name), shape })
  const project = (name: string, outputs: number, inputs: number, bias: boolean) => {
    put(`${name}.weight`, outputs, inputs)
    if (bias) put(`${name}.bias`, outputs)
  }
  project('self_attn.q_proj', c.heads * c.headDim, c.hiddenSize, c.bias.qkv)
  project('self_attn.k_proj', c.kvHeads * c.headDim, c.hiddenSize, c.bias.qkv)
  project('self_attn.v_proj', c.kvHeads * c.headDim, c.hiddenSize, c.bias.qkv)
  project('self_attn.o_proj', c.hiddenSize, c.heads * c.headDim, c.bias.output)
  if (c.qkNorm) {
    put('self_attn.q_norm.weight', c.headDim)
    put('self_attn.k_norm.weight', c.headDim)
  }
  project('mlp.gate_proj', c.intermediateSize, c.hiddenSize, c.bias.mlp)
  project('mlp.up_proj', c.intermediateSize, c.hiddenSize, c.bias.mlp)
  project('mlp.down_proj', c.hiddenSize, c.intermediateSize, c.bias.mlp)
  for (const name of normNames(c)) put(`${name}.weight`, c.hiddenSize)
  return specs
}

const normNames = (c: DecoderConfig): readonly string[] =>
  c.sandwichNorms
    ? ['input_layernorm', 'post_attention_layernorm', 'pre_feedforward_layernorm', 'post_feedforward_layernorm']
    : ['input_layernorm', 'post_attention_layernorm']

/** Names and shapes of all parameters, as in the family's Hugging Face files. */
export function decoderSpecs(c: DecoderConfig): ParameterSpec[] {
  const specs: ParameterSpec[] = [{ name: 'model.embed_tokens.weight', shape: [c.vocabSize, c.hiddenSize] }]
  for (let layer = 0; layer < c.layers; layer++) specs.push(...layerSpecs(c, layer))
  specs.push({ name: 'model.norm.weight', shape: [c.hiddenSize] })
  if (!c.tied) specs.push({ name: 'lm_head.weight', shape: [c.vocabSize, c.hiddenSize] })
  return specs
}

/** Puts parameters and configuration together. */
export const createDecoder = (config: DecoderConfig, device: Device, parameters: FlatTensors): Decoder => ({
  config,
  device,
  parameters,
  ropes: config.rope.map((spec) => createRopeTable(device, spec)),
})

/** The tensors that training changes. */
export const trainableOf = (m: Decoder): FlatTensors => m.parameters

/** The matrix of the LM head, [V, C]. */
export const headWeight = (m: Decoder): Tensor =>
  parameter(m.parameters, m.config.tied ? 'model.embed_tokens.weight' : 'lm_head.weight')

/** y = x W^T (+ b) with the layer's named projection. */
function project(m: Decoder, layer: number, name: string, x: Tensor): Tensor {
  const y = linear(x, parameter(m.parameters, layerName(layer, `${name}.weight`)))
  const bias = m.parameters.byName.get(layerName(layer, `${name}.bias`))
  return bias === undefined ? y : addBias(y, bias)
}

const norm = (m: Decoder, name: string, x: Tensor): Tensor =>
  rmsNorm(x, parameter(m.parameters, `${name}.weight`), { eps: m.config.normEps, offset: m.config.normOffset })

/** One head tensor: project, split into heads, norm (if any), rotate (if asked). */
function heads(m: Decoder, layer: number, name: 'q' | 'k' | 'v', x: Tensor, rotate?: (t: Tensor) => Tensor): Tensor {
  const flat = project(m, layer, `self_attn.${name}_proj`, x)
  const split = reshape(flat, [flat.shape[0], flat.shape[1] / m.config.headDim, m.config.headDim])
  if (rotate === undefined) return split
  return rotate(m.config.qkNorm ? norm(m, layerName(layer, `self_attn.${name}_norm`), split) : split)
}

function attend(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor {
  const c = m.config
  const { cos, sin } = m.ropes[c.ropeOf[layer]].cover(input.length)
  const rotate = (t: Tensor) => rope(t, cos, sin, input.positions)
  const q = heads(m, layer, 'q', x, rotate)
  const k = heads(m, layer, 'k', x, rotate)
  const v = heads(m, layer, 'v', x)
  const settings = { scale: c.attentionScale, window: c.windows[layer], softcap: c.attentionSoftcap }
  const o = input.attend(layer, q, k, v, settings)
  return project(m, layer, 'self_attn.o_proj', reshape(o, [o.shape[0], c.heads * c.headDim]))
}

function mlp(m: Decoder, layer: number, x: Tensor): Tensor {
  const gate = project(m, layer, 'mlp.gate_proj', x)
  const up = project(m, layer, 'mlp.up_proj', x)
  return project(m, layer, 'mlp.down_proj', glu(gate, up, m.config.activation))
}

function block(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor {
  const normed = (name: string, t: Tensor) => norm(m, layerName(layer, name), t)
  const attended = attend(m, layer, normed('input_layernorm', x), input)
  if (m.config.sandwichNorms) {
    const h = add(x, normed('post_attention_layernorm', attended))
    const out = mlp(m, layer, normed('pre_feedforward_layernorm', h))
    return add(h, normed('post_feedforward_layernorm', out))
  }
  const h = add(x, attended)
  return add(h, mlp(m, layer, normed('post_attention_layernorm', h)))
}

/** Hidden states behind the final norm, [N, C], in the model's type. */
export function forward(m: Decoder, input: ForwardInput): Tensor {
  let x = tidy(() => embed(m, input.ids))
  for (let layer = 0; layer < m.config.layers; layer++) {
    const before = x
    const run = (t: Tensor) => tidy(() => block(m, layer, t, input))
    x = input.activationCheckpointing === true ? checkpoint(run, before) : run(before)
    before.dispose()
  }
  return tidy(() => norm(m, 'model.norm', x))
}

function embed(m: Decoder, ids: Tensor): Tensor {
  const rows = gatherRows(parameter(m.parameters, 'model.embed_tokens.weight'), ids)
  return m.config.embeddingScale === 1 ? rows : scale(rows, m.config.embeddingScale)
}

/** Forward input for packed tokens whose attention is over the packed tokens themselves. */
export function packedInput(m: Decoder, packed: PackedTokens, activationCheckpointing = false): ForwardInput {
  const visibility = tensor(m.device, packed.visibility, [packed.ids.length, 3])
  return {
    ids: tensor(m.device, packed.ids),
    positions: tensor(m.device, packed.positions),
    length: packed.positions.reduce((longest, position) => Math.max(longest, position + 1), 1),
    attend: (_, q, k, v, settings) => attention(q, k, v, visibility, settings),
    activationCheckpointing,
  }
}

/** Frees weights and tables. */
export function disposeDecoder(m: Decoder, disposeParameters: (flat: FlatTensors) => void): void {
  for (const table of m.ropes) table.dispose()
  disposeParameters(m.parameters)
}
