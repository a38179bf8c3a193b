// config.json of a Hugging Face folder -> one description of a decoder. Both spellings are read: the one before
// Transformers 5 (rope_theta, rope_scaling) and the current one (rope_parameters, layer_types). Families differ by
// data only; what a family fixes stands in its row of the table below. Unknown values are refused, not guessed.

import { WhetstoneError } from '../base/errors.js'
import type { RopeSpec } from './rope.js'

/** A decoder as data: everything that models/decoder.ts needs to know. */
export interface DecoderConfig {
  readonly family: string
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly intermediateSize: number
  readonly maxPositions: number
  readonly normEps: number
  /** Added to norm weights: Gemma stores them minus one. */
  readonly normOffset: 0 | 1
  /** Norms over each head of q and k. */
  readonly qkNorm: boolean
  /** Gemma's second pair of norms, behind attention and behind the MLP. */
  readonly sandwichNorms: boolean
  readonly bias: { readonly qkv: boolean; readonly output: boolean; readonly mlp: boolean }
  readonly activation: 'silu' | 'geluTanh'
  readonly embeddingScale: number
  readonly attentionScale: number
  /** 0: off. */
  readonly attentionSoftcap: number
  /** 0: off. */
  readonly logitSoftcap: number
  /** Head and embedding are one matrix. */
  readonly tied: boolean
  /** Sliding window per layer, 0 for none: query i sees keys i - window + 1 .. i. */
  readonly windows: readonly number[]
  /** Which rope spec each layer uses. */
  readonly ropeOf: readonly number[]
  readonly rope: readonly RopeSpec[]
  /** Tokens that end generation. */
  readonly eosTokenIds: readonly number[]
  readonly bosTokenId: number | undefined
  readonly padTokenId: number | undefined
}

type Json = Readonly<Record<string, unknown>>

/** What a family fixes where config.json is silent. */
interface Family {
  readonly qkvBias?: boolean
  readonly qkNorm?: boolean
  readonly gemma?: boolean
  readonly tied?: boolean
  readonly activation?: string
  /** Keys that switch sliding windows on, and which layers slide without `layer_types`. */
  readonly windows: (raw: Json, layer: number) => boolean
}

const always = (raw: Json): boolean => typeof raw.sliding_window === 'number'
const never = (): boolean => false
const fromLayer = (raw: Json, layer: number): boolean =>
  raw.use_sliding_window === true && always(raw) && layer >= Number(raw.max_window_layers ?? 28)

const gemma: Family = { gemma: true, tied: true, activation: 'gelu_pytorch_tanh', windows: never }

const families: Readonly<Record<string, Family>> = {
  llama: { windows: never },
  mistral: { windows: always },
  qwen2: { qkvBias: true, windows: fromLayer },
  qwen3: { qkNorm: true, windows: fromLayer },
  gemma2: { ...gemma, windows: (_, layer) => layer % 2 === 0 },
  gemma3_text: {
    ...gemma,
    qkNorm: true,
    windows: (raw, layer) => (layer + 1) % Number(raw.sliding_window_pattern ?? 6) !== 0,
  },
}

const activations: Readonly<Record<string, DecoderConfig['activation']>> = {
  silu: 'silu',
  swish: 'silu',
  gelu_pytorch_tanh: 'geluTanh',
  gelu_new: 'geluTanh',
}

function refuse(key: string, expected: string, got: unknown): never {
  throw new WhetstoneError('E_CONFIG', `config.json: ${key}`, `expected ${expected}, got ${JSON.stringify(got)}`)
}

/** Sizes that no real model passes: what a file claims must not decide what is allocated. */
const mostLayers = 4096
const largestSize = 2 ** 31 - 1

/** A whole number from 1 up to `most`. */
function count(raw: Json, key: string, fallback?: unknown, most = largestSize): number {
  const value = raw[key] ?? fallback
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= most) return value
  return refuse(key, `a whole number from 1 to ${most}`, value)
}

function positive(raw: Json, key: string, fallback?: number): number {
  const value = raw[key] ?? fallback
  return typeof value === 'number' && Number.isFinite(value) && value > 0
    ? value
    : refuse(key, 'a number above 0', value)
}

function real(raw: Json, key: string, fallback?: number): number {
  const value = raw[key] ?? fallback
  if (typeof value === 'number' && Number.isFinite(value) && value >= 0) return value
  return refuse(key, 'a number of at least 0', value)
}

function flag(raw: Json, key: string, fallback: boolean): boolean {
  const value = raw[key] ?? fallback
  return typeof value === 'boolean' ? value : refuse(key, 'true or false', value)
}

function objectOf(value: unknown, key: string): Json {
  if (value === undefined || value === null) return {}
  return typeof value === 'object' && !Array.isArray(value) ? (value as Json) : refuse(key, 'an object', value)
}

function tokenIds(value: unknown, key: string): number[] {
  if (value === undefined || value === null) return []
  const list = Array.isArray(value) ? value : [value]
  return list.every((id) => Number.isInteger(id) && id >= 0) ? list : refuse(key, 'a token id or a list of them', value)
}

function ropeSpec(raw: Json, parameters: Json, headDim: number, theta: unknown): RopeSpec {
  const partial = positive(parameters, 'partial_rotary_factor', positive(raw, 'partial_rotary_factor', 1))
  const dim = Math.floor(headDim * partial)
  if (dim < 2 || dim % 2 !== 0 || dim > headDim)
    refuse('partial_rotary_factor', 'an even number of rotated dimensions', partial)
  return {
    type: String(parameters.rope_type ?? parameters.type ?? 'default'),
    theta: positive({ rope_theta: parameters.rope_theta ?? theta }, 'rope_theta', 10000),
    dim,
    maxPositions: count(raw, 'max_position_embeddings', 2048),
    scaling: parameters,
  }
}

/** Rope specs, and which one each layer uses. Gemma 3 has one for full and one for sliding layers. */
function ropes(raw: Json, sliding: readonly boolean[], headDim: number): Pick<DecoderConfig, 'rope' | 'ropeOf'> {
  const parameters = objectOf(raw.rope_parameters, 'rope_parameters')
  const local = objectOf(parameters.sliding_attention, 'rope_parameters.sliding_attention')
  if (parameters.full_attention !== undefined) {
    const full = objectOf(parameters.full_attention, 'rope_parameters.full_attention')
    const rope = [ropeSpec(raw, full, headDim, undefined), ropeSpec(raw, local, headDim, undefined)]
    return { rope, ropeOf: sliding.map(Number) }
  }
  const scaling = raw.rope_parameters === undefined ? objectOf(raw.rope_scaling, 'rope_scaling') : parameters
  const main = ropeSpec(raw, scaling, headDim, raw.rope_theta)
  if (typeof raw.rope_local_base_freq !== 'number') return { rope: [main], ropeOf: sliding.map(() => 0) }
  return { rope: [main, ropeSpec(raw, {}, headDim, raw.rope_local_base_freq)], ropeOf: sliding.map(Number) }
}

function slidingLayers(raw: Json, family: Family, layers: number): boolean[] {
  const types = raw.layer_types
  if (types === undefined || types === null) return Array.from({ length: layers }, (_, i) => family.windows(raw, i))
  const known = ['full_attention', 'sliding_attention']
  if (!Array.isArray(types) || types.length !== layers || !types.every((type) => known.includes(type)))
    return refuse('layer_types', `${layers} of ${known.join(', ')}`, types)
  return types.map((type) => type === 'sliding_attention')
}

function dimensions(raw: Json) {
  const hiddenSize = count(raw, 'hidden_size')
  const heads = count(raw, 'num_attention_heads')
  const kvHeads = count(raw, 'num_key_value_heads', heads)
  if (heads % kvHeads !== 0) refuse('num_key_value_heads', `a divisor of num_attention_heads = ${heads}`, kvHeads)
  const headDim = count(raw, 'head_dim', hiddenSize / heads)
  if (headDim > 256) refuse('head_dim', 'at most 256', headDim)
  if (headDim % 2 !== 0) refuse('head_dim', 'an even number', headDim)
  return { hiddenSize, heads, kvHeads, headDim }
}

/**
 * Reads a config.json that was parsed already.
 *
 * @param raw config.json
 * @param generation generation_config.json, whose end tokens go first
 * @throws WhetstoneError E_CONFIG naming the key, what was expected and what came
 */
export function decoderConfig(raw: Json, generation: Json = {}): DecoderConfig {
  const name = String(raw.model_type)
  const family = Object.hasOwn(families, name) ? families[name] : undefined
  if (family === undefined) return refuse('model_type', `one of ${Object.keys(families).join(', ')}`, raw.model_type)
  const size = dimensions(raw)
  const layers = count(raw, 'num_hidden_layers', undefined, mostLayers)
  const sliding = slidingLayers(raw, family, layers)
  const window = sliding.includes(true) ? count(raw, 'sliding_window') : 0
  const action = String(raw.hidden_act ?? raw.hidden_activation ?? family.activation ?? 'silu')
  const bias = flag(raw, 'attention_bias', false)
  const gemmaLike = family.gemma === true
  return {
    family: name,
    vocabSize: count(raw, 'vocab_size'),
    ...size,
    layers,
    intermediateSize: count(raw, 'intermediate_size'),
    maxPositions: count(raw, 'max_position_embeddings', 2048),
    normEps: real(raw, 'rms_norm_eps', 1e-6),
    normOffset: gemmaLike ? 1 : 0,
    qkNorm: family.qkNorm ?? false,
    sandwichNorms: gemmaLike,
    bias: {
      qkv: bias || family.qkvBias === true,
      output: bias && family.qkvBias !== true,
      mlp: flag(raw, 'mlp_bias', false),
    },
    activation: Object.hasOwn(activations, action)
      ? activations[action]
      : refuse('hidden_act', `one of ${Object.keys(activations).join(', ')}`, action),
    embeddingScale: gemmaLike ? Math.sqrt(size.hiddenSize) : 1,
    attentionScale: gemmaLike ? positive(raw, 'query_pre_attn_scalar', 256) ** -0.5 : size.headDim ** -0.5,
    attentionSoftcap: real(raw, 'attn_logit_softcapping', 0),
    logitSoftcap: real(raw, 'final_logit_softcapping', 0),
    tied: flag(raw, 'tie_word_embeddings', family.tied ?? false),
    windows: sliding.map((slides) => (slides ? window : 0)),
    ...ropes(raw, sliding, size.headDim),
    eosTokenIds: tokenIds(generation.eos_token_id ?? raw.eos_token_id, 'eos_token_id'),
    bosTokenId: tokenIds(raw.bos_token_id, 'bos_token_id')[0],
    padTokenId: tokenIds(raw.pad_token_id, 'pad_token_id')[0],
  }
}
