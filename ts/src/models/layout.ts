// What a family's Hugging Face files call its parameters, and decoderSpecs(): the one list of names and shapes. What a
// layout does not name, the family does not have; the forward pass (decoder.ts) asks by that too. No tensor lives here.

import type { ParameterSpec } from '../nn/parameters.js'
import type { DecoderConfig } from './config.js'

/** Names of a family's modules; those of a layer stand behind `layers` and its number. */
export interface Layout {
  /** Begins every name but the heads'. Files of models saved without a head lack it. */
  readonly root: string
  readonly embedding: string
  /** Learned positions, added to the embedding; families without turn q and k by rotary angles. */
  readonly positions?: string
  readonly layers: string
  readonly norms: {
    readonly beforeAttention: string
    readonly afterAttention?: string
    readonly beforeMlp: string
    readonly afterMlp?: string
  }
  /** Three projections, or one that gives q, k and v side by side. */
  readonly qkv: readonly [q: string, k: string, v: string] | readonly [fused: string]
  readonly output: string
  /** Gated: act(gate) * up; without it act(up). */
  readonly gate?: string
  readonly up: string
  readonly down: string
  readonly finalNorm: string
  /** Projections lie in files as [inputs, outputs] (GPT-2's Conv1D). */
  readonly transposed?: boolean
}

const llama: Layout = {
  root: 'model.',
  embedding: 'model.embed_tokens',
  layers: 'model.layers',
  norms: { beforeAttention: 'input_layernorm', beforeMlp: 'post_attention_layernorm' },
  qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  output: 'self_attn.o_proj',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
  finalNorm: 'model.norm',
}

const gemma: Layout = {
  ...llama,
  norms: {
    beforeAttention: 'input_layernorm',
    afterAttention: 'post_attention_layernorm',
    beforeMlp: 'pre_feedforward_layernorm',
    afterMlp: 'post_feedforward_layernorm',
  },
}

const gpt2: Layout = {
  root: 'transformer.',
  embedding: 'transformer.wte',
  positions: 'transformer.wpe',
  layers: 'transformer.h',
  norms: { beforeAttention: 'ln_1', beforeMlp: 'ln_2' },
  qkv: ['attn.c_attn'],
  output: 'attn.c_proj',
  up: 'mlp.c_fc',
  down: 'mlp.c_proj',
  finalNorm: 'transformer.ln_f',
  transposed: true,
}

/** Layouts by the family that made the names. */
export const layouts = { llama, gemma, gpt2 } as const

/** Full name of a layer's module. */
export const layerName = (c: DecoderConfig, layer: number, name: string): string =>
  `${c.layout.layers}.${layer}.${name}`

function projection(c: DecoderConfig, name: string, outputs: number, inputs: number, bias: boolean): ParameterSpec[] {
  const weight = { name: `${name}.weight`, shape: [outputs, inputs], transposed: c.layout.transposed }
  return bias ? [weight, { name: `${name}.bias`, shape: [outputs] }] : [weight]
}

function norm(c: DecoderConfig, name: string, size = c.hiddenSize): ParameterSpec[] {
  const weight = { name: `${name}.weight`, shape: [size] }
  return c.norm === 'layer' ? [weight, { name: `${name}.bias`, shape: [size] }] : [weight]
}

function layerSpecs(c: DecoderConfig, layer: number): ParameterSpec[] {
  const { layout, hiddenSize, intermediateSize, bias } = c
  const at = (name: string) => layerName(c, layer, name)
  const [q, kv] = [c.heads * c.headDim, c.kvHeads * c.headDim]
  const outputs = layout.qkv.length === 3 ? [q, kv, kv] : [q + 2 * kv]
  const ups = layout.gate === undefined ? [layout.up] : [layout.gate, layout.up]
  return [
    ...layout.qkv.flatMap((name, i) => projection(c, at(name), outputs[i], hiddenSize, bias.qkv)),
    ...projection(c, at(layout.output), hiddenSize, q, bias.output),
    ...(c.qkNorm ? ['self_attn.q_norm', 'self_attn.k_norm'] : []).flatMap((name) => norm(c, at(name), c.headDim)),
    ...ups.flatMap((name) => projection(c, at(name), intermediateSize, hiddenSize, bias.mlp)),
    ...projection(c, at(layout.down), hiddenSize, intermediateSize, bias.mlp),
    ...Object.values(layout.norms).flatMap((name: string) => norm(c, at(name))),
  ]
}

/** Is it a parameter of a score head? */
export const isScoreParameter = (name: string): boolean => name.startsWith('score.')

/** Is it a parameter of a head? Their names are the same in all families and have no root. */
export const isHeadParameter = (name: string): boolean => isScoreParameter(name) || name === 'lm_head.weight'

function headSpecs(c: DecoderConfig): ParameterSpec[] {
  if (c.scoreLabels !== undefined) {
    const weight = { name: 'score.weight', shape: [c.scoreLabels, c.hiddenSize] }
    return c.scoreBias ? [weight, { name: 'score.bias', shape: [c.scoreLabels] }] : [weight]
  }
  return c.tied ? [] : [{ name: 'lm_head.weight', shape: [c.vocabSize, c.hiddenSize] }]
}

/** Names and shapes of all parameters, as in the family's Hugging Face files. */
export function decoderSpecs(c: DecoderConfig): ParameterSpec[] {
  const { embedding, positions, finalNorm } = c.layout
  const specs: ParameterSpec[] = [{ name: `${embedding}.weight`, shape: [c.vocabSize, c.hiddenSize] }]
  if (positions !== undefined) specs.push({ name: `${positions}.weight`, shape: [c.maxPositions, c.hiddenSize] })
  for (let layer = 0; layer < c.layers; layer++) specs.push(...layerSpecs(c, layer))
  return [...specs, ...norm(c, finalNorm), ...headSpecs(c)]
}
