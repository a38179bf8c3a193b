// config.json of a Hugging Face folder -> one description of a decoder. Both spellings are read: the one before
// Transformers 5 (rope_theta, rope_scaling) and the current one (rope_parameters, layer_types). Families differ by
// data only; what a descendant of Llama fixes stands in its row of the table below. Unknown values are refused, not
// guessed. What parameters are called is layout.ts's.

import { type StoredQuantization, storedQuantization } from './bitsandbytes.js'
import {
  count,
  flag,
  type Json,
  mostLabels,
  mostLayers,
  objectOf,
  positive,
  real,
  refuse,
  tokenIds,
} from './config-fields.js'
import { type Layout, layouts } from './layout.js'
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
  readonly layout: Layout
  readonly norm: 'rms' | 'layer'
  readonly normEps: number
  /** Added to norm weights: Gemma stores them minus one. */
  readonly normOffset: 0 | 1
  /** Norms of q and k: over each head, or over all heads together. */
  readonly qkNorm: 'none' | 'head' | 'all'
  readonly bias: { readonly qkv: boolean; readonly output: boolean; readonly mlp: boolean }
  readonly activation: 'silu' | 'geluTanh'
  readonly embeddingScale: number
  /** Factor on what attention and MLP add to the stream. */
  readonly residualScale: number
  /** Factor on the hidden states that an LM head reads. */
  readonly headScale: number
  readonly attentionScale: number
  /** 0: off. */
  readonly attentionSoftcap: number
  /** 0: off. */
  readonly logitSoftcap: number
  /** LM head and embedding are one matrix. */
  readonly tied: boolean
  /** A score head with that many numbers in place of the LM head; undefined in a language model. */
  readonly scoreLabels: number | undefined
  /** Transformers' token classifiers have a bias on the score head. */
  readonly scoreBias: boolean
  /** Deviation of fresh weights. */
  readonly initializerRange: number
  /** Sliding window per layer, 0 for none: query i sees keys i - window + 1 .. i. */
  readonly windows: readonly number[]
  /** Which rope spec each layer uses; undefined: its q and k are not rotated. */
  readonly ropeOf: readonly (number | undefined)[]
  /** None in families with learned positions. */
  readonly rope: readonly RopeSpec[]
  /** The folder's matrices are in four bits. */
  readonly quantization?: StoredQuantization
  /** Tokens that end generation. */
  readonly eosTokenIds: readonly number[]
  readonly bosTokenId: number | undefined
  readonly padTokenId: number | undefined
}

/** What a family fixes where config.json is silent. */
interface Family {
  /** Default Llama's. */
  readonly layout?: Layout
  readonly qkvBias?: boolean
  readonly qkNorm?: DecoderConfig['qkNorm']
  /** Norm weights are stored minus one, embeddings are scaled by the root of their width. */
  readonly gemma?: boolean
  readonly tied?: boolean
  /** What `hidden_act` says, where the file is silent or says something that Transformers changes to it. */
  readonly activation?: string
  readonly misnamed?: string
  readonly normEps?: number
  readonly ropeTheta?: number
  /** Scores are divided by the root of this where the file has no number; default of the head's size. */
  readonly queryScalar?: number
  /** Layers with a window have angles without the scaling of the others. */
  readonly plainLocalRope?: boolean
  /** Are q and k of a layer rotated? Default in all. */
  readonly rotates?: (raw: Json, layer: number) => boolean
  /** Factors of the arithmetic by their keys. */
  readonly multipliers?: boolean
  /** Where the file has none. */
  readonly softcaps?: { readonly attention: number; readonly logits: number }
  /** Keys that switch sliding windows on, and which layers slide without `layer_types`. */
  readonly windows: (raw: Json, layer: number) => boolean
}

const always = (raw: Json): boolean => typeof raw.sliding_window === 'number'
const never = (): boolean => false
const fromLayer = (raw: Json, layer: number): boolean =>
  raw.use_sliding_window === true && always(raw) && layer >= Number(raw.max_window_layers ?? 28)

const gemma: Family = {
  layout: layouts.gemma,
  gemma: true,
  tied: true,
  activation: 'gelu_pytorch_tanh',
  queryScalar: 256,
  windows: never,
}

/** SmolLM3: every fourth layer goes without rotary angles, and is the one to have a window. */
function smollm3Rotates(raw: Json, layer: number): boolean {
  const listed = raw.no_rope_layers ?? undefined
  if (listed === undefined) return (layer + 1) % count(raw, 'no_rope_layer_interval', 4) !== 0
  if (Array.isArray(listed) && (listed[layer] === 0 || listed[layer] === 1)) return listed[layer] === 1
  return refuse('no_rope_layers', '0 or 1 for each layer', listed)
}

const olmo2: Family = { layout: layouts.olmo2, qkNorm: 'all', normEps: 1e-5, windows: never }

const families: Readonly<Record<string, Family>> = {
  llama: { windows: never },
  mistral: { windows: always },
  qwen2: { qkvBias: true, windows: fromLayer },
  qwen3: { qkNorm: 'head', windows: fromLayer },
  gemma: { ...gemma, layout: layouts.llama, misnamed: 'gelu', queryScalar: undefined },
  gemma2: { ...gemma, windows: (_, layer) => layer % 2 === 0, softcaps: { attention: 50, logits: 30 } },
  gemma3_text: {
    ...gemma,
    qkNorm: 'head',
    windows: (raw, layer) => (layer + 1) % Number(raw.sliding_window_pattern ?? 6) !== 0,
  },
  smollm3: {
    tied: true,
    ropeTheta: 2e6,
    rotates: smollm3Rotates,
    windows: (raw, layer) => raw.use_sliding_window === true && always(raw) && !smollm3Rotates(raw, layer),
  },
  granite: { multipliers: true, windows: never },
  olmo2,
  olmo3: {
    ...olmo2,
    ropeTheta: 5e5,
    plainLocalRope: true,
    windows: (raw, layer) => raw.sliding_window !== null && (layer + 1) % 4 !== 0,
  },
  phi3: { layout: layouts.phi3, normEps: 1e-5, windows: always },
}

/** By `hidden_act`, and in GPT-2 `activation_function`. */
const activations: Readonly<Record<string, DecoderConfig['activation']>> = {
  silu: 'silu',
  swish: 'silu',
  gelu_pytorch_tanh: 'geluTanh',
  gelu_new: 'geluTanh',
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
function ropes(
  raw: Json,
  family: Family,
  sliding: readonly boolean[],
  headDim: number,
): Pick<DecoderConfig, 'rope' | 'ropeOf'> {
  const parameters = objectOf(raw.rope_parameters, 'rope_parameters')
  const local = objectOf(parameters.sliding_attention, 'rope_parameters.sliding_attention')
  if (parameters.full_attention !== undefined) {
    const full = objectOf(parameters.full_attention, 'rope_parameters.full_attention')
    const rope = [full, local].map((one) => ropeSpec(raw, one, headDim, family.ropeTheta))
    return { rope, ropeOf: sliding.map(Number) }
  }
  const scaling = raw.rope_parameters === undefined ? objectOf(raw.rope_scaling, 'rope_scaling') : parameters
  const theta = raw.rope_theta ?? family.ropeTheta
  const main = ropeSpec(raw, scaling, headDim, theta)
  const localTheta = family.plainLocalRope === true ? main.theta : raw.rope_local_base_freq
  if (typeof localTheta === 'number')
    return { rope: [main, ropeSpec(raw, {}, headDim, localTheta)], ropeOf: sliding.map(Number) }
  const { rotates } = family
  return { rope: [main], ropeOf: sliding.map((_, layer) => (rotates?.(raw, layer) === false ? undefined : 0)) }
}

function slidingLayers(raw: Json, family: Family, layers: number): boolean[] {
  const types = raw.layer_types
  if (types === undefined || types === null) return Array.from({ length: layers }, (_, i) => family.windows(raw, i))
  const known = ['full_attention', 'sliding_attention']
  if (!Array.isArray(types) || types.length !== layers || !types.every((type) => known.includes(type)))
    return refuse('layer_types', `${layers} of ${known.join(', ')}`, types)
  return types.map((type) => type === 'sliding_attention')
}

/** Sizes of the stream and of its heads. */
function dimensions(raw: Json, keys = { hidden: 'hidden_size', heads: 'num_attention_heads' }) {
  const hiddenSize = count(raw, keys.hidden)
  const heads = count(raw, keys.heads)
  const kvHeads = count(raw, 'num_key_value_heads', heads)
  if (heads % kvHeads !== 0) refuse('num_key_value_heads', `a divisor of num_attention_heads = ${heads}`, kvHeads)
  const headDim = count(raw, 'head_dim', hiddenSize / heads)
  if (headDim > 256) refuse('head_dim', 'at most 256', headDim)
  if (headDim % 2 !== 0) refuse('head_dim', 'an even number', headDim)
  return { hiddenSize, heads, kvHeads, headDim }
}

function activationOf(key: string, name: string): DecoderConfig['activation'] {
  if (Object.hasOwn(activations, name)) return activations[name]
  return refuse(key, `one of ${Object.keys(activations).join(', ')}`, name)
}

type HeadKeys = 'tied' | 'scoreLabels' | 'scoreBias' | 'initializerRange'

/** The head: Transformers names it in `architectures`, and its size in `id2label` or `num_labels` (default 2). */
function headOf(raw: Json, tied: boolean): Pick<DecoderConfig, HeadKeys> {
  const architecture = Array.isArray(raw.architectures) ? String(raw.architectures[0]) : ''
  const kind = /For(Sequence|Token)Classification$/.exec(architecture)?.[1]
  const named = Object.keys(objectOf(raw.id2label, 'id2label')).length
  return {
    tied: flag(raw, 'tie_word_embeddings', tied) && kind === undefined,
    scoreLabels: kind === undefined ? undefined : named > 0 ? named : count(raw, 'num_labels', 2, mostLabels),
    scoreBias: kind === 'Token',
    initializerRange: real(raw, 'initializer_range', 0.02),
  }
}

type TokenKeys = 'vocabSize' | 'eosTokenIds' | 'bosTokenId' | 'padTokenId'

const tokensOf = (raw: Json, generation: Json): Pick<DecoderConfig, TokenKeys> => ({
  vocabSize: count(raw, 'vocab_size'),
  eosTokenIds: tokenIds(generation.eos_token_id ?? raw.eos_token_id, 'eos_token_id'),
  bosTokenId: tokenIds(raw.bos_token_id, 'bos_token_id')[0],
  padTokenId: tokenIds(raw.pad_token_id, 'pad_token_id')[0],
})

/** A cap that the file leaves out is the family's, as in Transformers; null switches it off. */
const softcap = (raw: Json, key: string, fallback = 0): number => (raw[key] === null ? 0 : real(raw, key, fallback))

/** Llama and what descends from it: rotary angles, RMS norm, gated MLP, no biases unless asked for. */
function llamaConfig(name: string, family: Family, raw: Json, generation: Json): DecoderConfig {
  const size = dimensions(raw)
  const layers = count(raw, 'num_hidden_layers', undefined, mostLayers)
  const sliding = slidingLayers(raw, family, layers)
  const window = sliding.includes(true) ? count(raw, 'sliding_window') : 0
  const bias = flag(raw, 'attention_bias', false)
  const gemmaLike = family.gemma === true
  const given = String(raw.hidden_act ?? raw.hidden_activation ?? family.activation ?? 'silu')
  const factor = (key: string) => (family.multipliers === true ? positive(raw, key, 1) : 1)
  if (flag(raw, 'use_bidirectional_attention', false)) refuse('use_bidirectional_attention', 'false', true)
  return {
    family: name,
    ...tokensOf(raw, generation),
    ...size,
    layers,
    intermediateSize: count(raw, 'intermediate_size'),
    maxPositions: count(raw, 'max_position_embeddings', 2048),
    layout: family.layout ?? layouts.llama,
    norm: 'rms',
    normEps: real(raw, 'rms_norm_eps', family.normEps ?? 1e-6),
    normOffset: gemmaLike ? 1 : 0,
    qkNorm: family.qkNorm ?? 'none',
    bias: {
      qkv: bias || family.qkvBias === true,
      output: bias && family.qkvBias !== true,
      mlp: flag(raw, 'mlp_bias', false),
    },
    activation: activationOf('hidden_act', given === family.misnamed ? String(family.activation) : given),
    embeddingScale: gemmaLike ? Math.sqrt(size.hiddenSize) : factor('embedding_multiplier'),
    residualScale: factor('residual_multiplier'),
    headScale: 1 / factor('logits_scaling'),
    attentionScale: attentionScaleOf(raw, family, size.headDim),
    attentionSoftcap: softcap(raw, 'attn_logit_softcapping', family.softcaps?.attention),
    logitSoftcap: softcap(raw, 'final_logit_softcapping', family.softcaps?.logits),
    ...headOf(raw, family.tied ?? false),
    windows: sliding.map((slides) => (slides ? window : 0)),
    ...ropes(raw, family, sliding, size.headDim),
  }
}

/** Factor on the products of q and k. */
function attentionScaleOf(raw: Json, { queryScalar, multipliers }: Family, headDim: number): number {
  if (multipliers === true) return positive(raw, 'attention_multiplier', 1)
  const scalar = queryScalar === undefined ? headDim : positive(raw, 'query_pre_attn_scalar', queryScalar)
  return scalar ** -0.5
}

/** GPT-2: learned positions, layer norm, plain MLP, biases everywhere. Switches that change its arithmetic are refused. */
function gpt2Config(name: string, raw: Json, generation: Json): DecoderConfig {
  for (const key of ['scale_attn_by_inverse_layer_idx', 'add_cross_attention'])
    if (flag(raw, key, false)) refuse(key, 'false', true)
  const size = dimensions(raw, { hidden: 'n_embd', heads: 'n_head' })
  const layers = count(raw, 'n_layer', undefined, mostLayers)
  const action = String(raw.activation_function ?? 'gelu_new')
  if (activationOf('activation_function', action) !== 'geluTanh')
    refuse('activation_function', 'gelu_new or gelu_pytorch_tanh', action)
  return {
    family: name,
    ...tokensOf(raw, generation),
    ...size,
    layers,
    intermediateSize: count(raw, 'n_inner', 4 * size.hiddenSize),
    maxPositions: count(raw, 'n_positions', 1024),
    layout: layouts.gpt2,
    norm: 'layer',
    normEps: positive(raw, 'layer_norm_epsilon', 1e-5),
    normOffset: 0,
    qkNorm: 'none',
    bias: { qkv: true, output: true, mlp: true },
    activation: 'geluTanh',
    embeddingScale: 1,
    residualScale: 1,
    headScale: 1,
    attentionScale: flag(raw, 'scale_attn_weights', true) ? size.headDim ** -0.5 : 1,
    attentionSoftcap: 0,
    logitSoftcap: 0,
    ...headOf(raw, true),
    windows: Array.from({ length: layers }, () => 0),
    ropeOf: [],
    rope: [],
  }
}

/**
 * Reads a config.json that was parsed already.
 *
 * @param raw config.json
 * @param generation generation_config.json, whose end tokens go first
 * @throws WhetstoneError E_CONFIG naming the key, what was expected and what came
 */
export function decoderConfig(raw: Json, generation: Json = {}): DecoderConfig {
  const quantization = storedQuantization(raw.quantization_config)
  const config = familyConfig(String(raw.model_type), raw, generation)
  return quantization === undefined ? config : { ...config, quantization }
}

function familyConfig(name: string, raw: Json, generation: Json): DecoderConfig {
  if (name === 'gpt2') return gpt2Config(name, raw, generation)
  const family = Object.hasOwn(families, name) ? families[name] : undefined
  if (family !== undefined) return llamaConfig(name, family, raw, generation)
  return refuse('model_type', `one of ${[...Object.keys(families), 'gpt2'].join(', ')}`, raw.model_type)
}
