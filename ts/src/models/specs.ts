// decoderSpecs(): the one list of a decoder's parameters, their names and shapes, from its configuration. No tensor lives here.

import type { ParameterSpec } from '../nn/parameters.js'
import type { DecoderConfig } from './config.js'

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
  const width = layout.gated && layout.up.length === 1 ? 2 * intermediateSize : intermediateSize
  const [qNorm, kNorm] = c.qkNorm === 'all' ? [q, kv] : [c.headDim, c.headDim]
  return [
    ...layout.qkv.flatMap((name, i) => projection(c, at(name), outputs[i], hiddenSize, bias.qkv)),
    ...projection(c, at(layout.output), hiddenSize, q, bias.output),
    ...(c.qkNorm === 'none' ? [] : norm(c, at('self_attn.q_norm'), qNorm)),
    ...(c.qkNorm === 'none' ? [] : norm(c, at('self_attn.k_norm'), kNorm)),
    ...layout.up.flatMap((name) => projection(c, at(name), width, hiddenSize, bias.mlp)),
    ...projection(c, at(layout.down), hiddenSize, intermediateSize, bias.mlp),
    ...Object.values(layout.norms).flatMap((name: string) => norm(c, at(name))),
  ]
}

/** Is it a matrix of a layer: what can be adapted, and held in four bits? */
export const isProjection = (c: DecoderConfig, { name, shape }: ParameterSpec): boolean =>
  shape.length === 2 && name.startsWith(c.layout.layers)

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
