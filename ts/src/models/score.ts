// A head that gives numbers instead of tokens: reward models, critics, step rewards. s = h W^T (+ b) in f32, whatever
// the type of the model, with a gradient of its own: the weight's is added in token order to its f32 buffer, which a
// cast in between would round. Also how such a model is said in config.json (Transformers' ForSequenceClassification).

import { activeTape, type GradientRule, Tape } from '../autograd/tape.js'
import { WhetstoneError } from '../base/errors.js'
import { isJsonObject, parseJson, replaceMembers } from '../io/json.js'
import { addBias, castTo, columnSum, linear, linearDw, linearDx } from '../ops/index.js'
import { tidy } from '../tensor/scope.js'
import type { Tensor } from '../tensor/tensor.js'
import { type DecoderConfig, decoderConfig } from './config.js'
import type { Decoder } from './decoder.js'

/** The matrix of the score head, [labels, C]; undefined in a language model. */
export const scoreWeight = (m: Decoder): Tensor | undefined => scoreParameter(m, 'weight')

/** An adapter brings a head of its own: f32, and not rounded, since scores are f32. */
const scoreParameter = (m: Decoder, name: 'weight' | 'bias'): Tensor | undefined =>
  m.adapter?.replaced.get(`score.${name}`) ?? m.parameters.byName.get(`score.${name}`)

/**
 * Scores of hidden states (behind the final norm).
 *
 * @param hidden [N, C]
 * @returns [N, labels] f32
 * @throws WhetstoneError E_CONFIG for a language model
 */
export function scoreRows(m: Decoder, hidden: Tensor): Tensor {
  const weight = scoreWeight(m)
  if (weight === undefined)
    throw new WhetstoneError('E_CONFIG', 'model', 'expected a score head, got a language model: load with scoreLabels')
  const bias = scoreParameter(m, 'bias')
  // On a tape that tracks nothing: these ops are no steps of the one outside, the whole is.
  const y = new Tape().record(() => tidy(() => product(hidden, weight, bias)))
  const inputs: Record<string, Tensor> = bias === undefined ? { hidden, weight } : { hidden, weight, bias }
  activeTape()?.add({ name: 'score', inputs, outputs: { y }, saves: ['hidden', 'weight'], p: {}, rule })
  return y
}

function product(hidden: Tensor, weight: Tensor, bias: Tensor | undefined): Tensor {
  const y = linear(castTo(hidden, 'f32'), castTo(weight, 'f32'))
  return bias === undefined ? y : addBias(y, castTo(bias, 'f32'))
}

const rule: GradientRule = ({ t, d, needs, into }) => {
  if (d.y === undefined) return {}
  if (needs('weight')) linearDw(into('weight'), d.y, castTo(t.hidden, 'f32'))
  if (needs('bias')) columnSum(into('bias'), d.y)
  return { hidden: needs('hidden') ? castTo(linearDx(d.y, castTo(t.weight, 'f32')), t.hidden.dtype) : undefined }
}

/**
 * The configuration with a score head in place of the LM head; a configuration that has one already stays itself.
 *
 * @throws WhetstoneError E_CONFIG for a size below 1, E_MISMATCH when there is a head of another size
 */
export function withScoreHead(c: DecoderConfig, labels: number): DecoderConfig {
  if (!Number.isInteger(labels) || labels < 1)
    throw new WhetstoneError('E_CONFIG', 'scoreLabels', `expected a whole number of at least 1, got ${labels}`)
  if (c.scoreLabels === labels) return c
  if (c.scoreLabels === undefined) return { ...c, scoreLabels: labels, scoreBias: false, tied: false }
  const text = `expected ${c.scoreLabels}, the size of the score head that the model has, got ${labels}`
  throw new WhetstoneError('E_MISMATCH', 'scoreLabels', text)
}

/** Prefixes of Transformers' classes. */
const classNames: Readonly<Record<string, string>> = {
  llama: 'Llama',
  mistral: 'Mistral',
  qwen2: 'Qwen2',
  qwen3: 'Qwen3',
  gemma: 'Gemma',
  gemma2: 'Gemma2',
  gemma3_text: 'Gemma3Text',
  smollm3: 'SmolLM3',
  granite: 'Granite', // of which Transformers has no classifier yet
  olmo2: 'Olmo2',
  olmo3: 'Olmo3',
  phi3: 'Phi3',
  gpt2: 'GPT2',
}

/** What says in config.json that a model is a sequence classifier. */
function classifierMembers({ family }: DecoderConfig, scoreLabels: number): Record<string, unknown> {
  const labels = Array.from({ length: scoreLabels }, (_, i) => `LABEL_${i}`)
  return {
    architectures: [`${classNames[family]}ForSequenceClassification`],
    num_labels: scoreLabels,
    id2label: Object.fromEntries(labels.map((label, i) => [String(i), label])),
    label2id: Object.fromEntries(labels.map((label, i) => [label, i])),
  }
}

/** Transformers' names of types. */
const typeNames = { f32: 'float32', bf16: 'bfloat16' } as const

/**
 * Text of config.json for a model whose folder has `text` there and whose weights are written in `dtype`: the same, but
 * that Transformers must load the weights in their own type, not as quantised ones, and with a score head, if there is one, as
 * a sequence classifier. The type stands under `dtype` since Transformers 5, `torch_dtype` before.
 *
 * @throws WhetstoneError E_FORMAT, E_CONFIG for a text that is no configuration
 */
export function configJson(c: DecoderConfig, text: string, dtype: keyof typeof typeNames): string {
  const raw = parseJson(text, 'config.json')
  if (!isJsonObject(raw)) return text
  const { scoreLabels } = c
  const asClassifier = scoreLabels !== undefined && decoderConfig(raw).scoreLabels !== scoreLabels
  const types = ['dtype', 'torch_dtype'].filter((key) => Object.hasOwn(raw, key) && raw[key] !== typeNames[dtype])
  const quantised = Object.hasOwn(raw, 'quantization_config')
  if (!asClassifier && types.length === 0 && !quantised) return text
  return replaceMembers(text, {
    ...(quantised && { quantization_config: undefined }),
    ...Object.fromEntries(types.map((key) => [key, typeNames[dtype]])),
    ...(asClassifier && classifierMembers(c, scoreLabels)),
  })
}
