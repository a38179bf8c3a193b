// The decoder as one forward pass over ops: the Llama family, the Gemma texts and GPT-2 differ by what their
// DecoderConfig says. Tokens are always packed. How attention finds its keys is the caller's: over the packed tokens
// (training, log-probs) or through a cache (generate/), by the same arithmetic.

import { checkpoint } from '../autograd/tape.js'
import { having } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import type { Device } from '../native/device.js'
import { type Adapter, loraLinear, wholeWeight } from '../nn/lora.js'
import { type FlatTensors, parameter } from '../nn/parameters.js'
import { disposeQuantized, type FrozenMatrix, frozenLinear, type QuantizedMatrices } from '../nn/quantized.js'
import {
  add,
  addBias,
  addNoise,
  attention,
  castTo,
  gatherRows,
  gelu,
  glu,
  layerNorm,
  reshape,
  rmsNorm,
  rope,
  scale,
} from '../ops/index.js'
import { tidy } from '../tensor/scope.js'
import { type Tensor, tensor } from '../tensor/tensor.js'
import type { DecoderConfig } from './config.js'
import type { PackedTokens } from './pack.js'
import { createRopeTable, type RopeTable } from './rope.js'
import { layerName } from './specs.js'

export { decoderSpecs } from './specs.js'

/** A decoder with its weights on a device. */
export interface Decoder {
  readonly config: DecoderConfig
  readonly device: Device
  readonly parameters: FlatTensors
  /** Matrices in four bits, which are then not among the parameters, and are never trained. */
  readonly quantized?: QuantizedMatrices
  readonly ropes: readonly RopeTable[]
  /** Additions to the parameters, which are then frozen (adapter.ts). */
  readonly adapter?: Adapter
}

/** A {@link Decoder} among arguments. */
export const decoderKind = having("a model's decoder", 'config', 'device', 'parameters', 'ropes')

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
  /** Position of each token in its sequence, i32 [N]. */
  readonly positions: Tensor
  /** One more than the largest position. */
  readonly length: number
  readonly attend: Attend
  readonly parts: JoinedParts
  /** Recompute each layer in backward instead of keeping its inner tensors. */
  readonly activationCheckpointing?: boolean
  /**
   * In training: keys of each token's random numbers, i32 [N, 4], for the dropout of an adapter, if it has its part, and the scale
   * of noise on its embedding, f32 [N].
   */
  readonly regularization?: { readonly keys: Tensor; readonly dropout: boolean; readonly noiseScale?: Tensor }
}

/**
 * Tables of a configuration's rotary angles.
 *
 * @throws WhetstoneError E_CONFIG for a scaling that is unknown or has no meaning
 */
export const createRopes = (config: DecoderConfig, device: Device): RopeTable[] =>
  config.rope.map((spec) => createRopeTable(device, spec))

/** Puts parameters and configuration together. */
export const createDecoder = (
  config: DecoderConfig,
  device: Device,
  parameters: FlatTensors,
  quantized?: QuantizedMatrices,
): Decoder => ({
  config,
  device,
  parameters,
  quantized,
  ropes: createRopes(config, device),
})

/** The tensors that training changes. */
export const trainableOf = (m: Decoder): FlatTensors => m.adapter?.parameters ?? m.parameters

/**
 * Name of the LM head's matrix: the embedding's when they are one.
 *
 * @throws WhetstoneError E_CONFIG for a model with a score head
 */
export function headName(c: DecoderConfig): string {
  if (c.scoreLabels === undefined) return c.tied ? `${c.layout.embedding}.weight` : 'lm_head.weight'
  const text = 'expected a language model, got one with a score head: it gives scores, neither log-probs nor text'
  throw new WhetstoneError('E_CONFIG', 'model', text)
}

/** A parameter outside the projections: the adapter's own, f32, where it trains the module whole. */
export const ownParameter = ({ adapter, parameters }: Decoder, name: string): Tensor =>
  adapter?.replaced.get(name) ?? parameter(parameters, name)

/** The same as ops read it, in the type of the model. */
const weightOf = (m: Decoder, name: string): Tensor => wholeWeight(ownParameter(m, name), m.parameters.dtype)

/**
 * The matrix of the LM head, [V, C], in the type of the model.
 *
 * @param own the tensor that holds it, where that is another view than the model's
 * @throws WhetstoneError E_CONFIG for a model with a score head
 */
export const headWeight = (m: Decoder, own: Tensor = ownParameter(m, headName(m.config))): Tensor =>
  wholeWeight(own, m.parameters.dtype)

/** Most positions of a sequence, where they are learned; rotary angles have no end. */
export const positionLimit = (c: DecoderConfig): number | undefined =>
  c.layout.positions === undefined ? undefined : c.maxPositions

/** A parameter that the forward pass only reads, by its name; in four bits or not. */
export const frozenMatrix = ({ quantized, parameters }: Decoder, name: string): FrozenMatrix =>
  quantized?.byName.get(name) ?? parameter(parameters, name)

/** y = x W^T (+ b) with the layer's named projection. */
function project(m: Decoder, layer: number, name: string, x: Tensor, input: ForwardInput): Tensor {
  const path = layerName(m.config, layer, name)
  const weight = frozenMatrix(m, `${path}.weight`)
  const lora = m.adapter?.modules.get(path)
  const { keys, dropout = false } = input.regularization ?? {}
  const y = lora === undefined ? frozenLinear(x, weight) : loraLinear(lora, x, weight, dropout ? keys : undefined)
  const bias = m.parameters.byName.get(`${path}.bias`)
  return bias === undefined ? y : addBias(y, bias)
}

function norm(m: Decoder, name: string, x: Tensor): Tensor {
  const { norm: kind, normEps: eps, normOffset: offset } = m.config
  const weight = weightOf(m, `${name}.weight`)
  return kind === 'rms'
    ? rmsNorm(x, weight, { eps, offset })
    : layerNorm(x, weight, weightOf(m, `${name}.bias`), { eps })
}

/**
 * For each part of a joined matrix's output, as rows of one head (or of gate and up), the rows that are the part's, i32: made
 * once for all layers.
 */
export interface JoinedParts {
  readonly qkv?: readonly Tensor[]
  readonly up?: readonly Tensor[]
}

/** Parts of the matrices that a layout has as one, for N tokens. */
export function joinedParts({ config: c, device }: Decoder, tokens: number): JoinedParts {
  const { qkv, up, gated } = c.layout
  return {
    qkv: qkv.length === 1 ? partRows(device, tokens, [c.heads, c.kvHeads, c.kvHeads]) : undefined,
    up: gated && up.length === 1 ? partRows(device, tokens, [1, 1]) : undefined,
  }
}

function partRows(device: Device, tokens: number, counts: readonly number[]): Tensor[] {
  const all = counts.reduce((sum, count) => sum + count, 0)
  let first = 0
  return counts.map((count) => {
    const rows = new Int32Array(tokens * count)
    for (let i = 0; i < rows.length; i++) rows[i] = Math.floor(i / count) * all + first + (i % count)
    first += count
    return tensor(device, rows)
  })
}

/** Parts of x [N, C], whose rows of `unit` columns these are. */
function partsOf(x: Tensor, unit: number, rows: readonly Tensor[]): Tensor[] {
  const [n] = x.shape
  const units = reshape(x, [x.size / unit, unit])
  return rows.map((part) => reshape(gatherRows(units, part), [n, (part.size / n) * unit]))
}

/** q, k and v of a layer, [N, heads D] each, before norms and rotation. */
function projectHeads(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor[] {
  const { layout, headDim } = m.config
  const projected = layout.qkv.map((name) => project(m, layer, name, x, input))
  const rows = input.parts.qkv
  return rows === undefined ? projected : partsOf(projected[0], headDim, rows)
}

function attend(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor {
  const c = m.config
  const split = (t: Tensor) => reshape(t, [t.shape[0], t.shape[1] / c.headDim, c.headDim])
  const turned = (name: string, t: Tensor) => {
    const normed = (over: DecoderConfig['qkNorm'], y: Tensor) =>
      c.qkNorm === over ? norm(m, layerName(c, layer, name), y) : y
    return rotate(m, layer, normed('head', split(normed('all', t))), input)
  }
  const [q, k, v] = projectHeads(m, layer, x, input)
  const settings = { scale: c.attentionScale, window: c.windows[layer], softcap: c.attentionSoftcap }
  const o = input.attend(layer, turned('self_attn.q_norm', q), turned('self_attn.k_norm', k), split(v), settings)
  return project(m, layer, c.layout.output, reshape(o, [o.shape[0], c.heads * c.headDim]), input)
}

function rotate(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor {
  const which = m.config.ropeOf[layer]
  if (which === undefined) return x
  const { cos, sin } = m.ropes[which].cover(input.length)
  return rope(x, cos, sin, input.positions)
}

function mlp(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor {
  const { layout, intermediateSize, activation } = m.config
  const projected = layout.up.map((name) => project(m, layer, name, x, input))
  const rows = input.parts.up
  const [first, second] = rows === undefined ? projected : partsOf(projected[0], intermediateSize, rows)
  return project(m, layer, layout.down, layout.gated ? glu(first, second, activation) : gelu(first), input)
}

function block(m: Decoder, layer: number, x: Tensor, input: ForwardInput): Tensor {
  const { norms } = m.config.layout
  const normed = (name: string | undefined, t: Tensor) =>
    name === undefined ? t : norm(m, layerName(m.config, layer, name), t)
  const joined = (t: Tensor, branch: Tensor) => add(t, scaled(branch, m.config.residualScale))
  const attended = attend(m, layer, normed(norms.beforeAttention, x), input)
  const h = joined(x, normed(norms.afterAttention, attended))
  return joined(h, normed(norms.afterMlp, mlp(m, layer, normed(norms.beforeMlp, h), input)))
}

const scaled = (t: Tensor, factor: number): Tensor => (factor === 1 ? t : scale(t, factor))

/**
 * Hidden states behind the final norm, [N, C], in the model's type, as the head reads them.
 *
 * @throws WhetstoneError E_LIMIT for a sequence longer than the learned positions
 */
export function forward(m: Decoder, input: ForwardInput): Tensor {
  let x = tidy(() => embed(m, input))
  for (let layer = 0; layer < m.config.layers; layer++) {
    const before = x
    const run = (t: Tensor) => tidy(() => block(m, layer, t, input))
    x = input.activationCheckpointing === true ? checkpoint(run, before) : run(before)
    before.dispose()
  }
  const { layout, headScale, scoreLabels } = m.config
  return tidy(() => scaled(norm(m, layout.finalNorm, x), scoreLabels === undefined ? headScale : 1))
}

/** Rows of a table, in the type of the model: they alone are rounded, not the table. */
const rowsOf = (m: Decoder, table: string, ids: Tensor): Tensor =>
  castTo(gatherRows(ownParameter(m, `${table}.weight`), ids), m.parameters.dtype)

function embed(m: Decoder, input: ForwardInput): Tensor {
  const { layout, embeddingScale } = m.config
  const { keys, noiseScale } = input.regularization ?? {}
  const looked = rowsOf(m, layout.embedding, input.ids)
  const noisy = keys !== undefined && noiseScale !== undefined
  const rows = noisy ? addNoise(looked, keys, noiseScale, { site: 0 }) : looked
  if (layout.positions === undefined) return scaled(rows, embeddingScale)
  checkLength(m.config, input.length)
  return add(rows, rowsOf(m, layout.positions, input.positions))
}

function checkLength(c: DecoderConfig, length: number): void {
  const most = positionLimit(c) ?? length
  if (length <= most) return
  const text = `expected at most ${most} tokens in a sequence, got ${length}: ${c.family} has no positions beyond`
  throw new WhetstoneError('E_LIMIT', 'model', text)
}

/** Forward input for packed tokens whose attention is over the packed tokens themselves. */
export function packedInput(m: Decoder, packed: PackedTokens, activationCheckpointing = false): ForwardInput {
  const visibility = tensor(m.device, packed.visibility, [packed.ids.length, 3])
  return {
    ids: tensor(m.device, packed.ids),
    positions: tensor(m.device, packed.positions),
    length: packed.positions.reduce((longest, position) => Math.max(longest, position + 1), 1),
    attend: (_, q, k, v, settings) => attention(q, k, v, visibility, settings),
    parts: joinedParts(m, packed.ids.length),
    activationCheckpointing,
  }
}

/** Frees weights, adapter and tables. */
export function disposeDecoder(m: Decoder, disposeParameters: (flat: FlatTensors) => void): void {
  for (const table of m.ropes) table.dispose()
  if (m.adapter !== undefined) disposeParameters(m.adapter.parameters)
  if (m.quantized !== undefined) disposeQuantized(m.quantized)
  disposeParameters(m.parameters)
}
