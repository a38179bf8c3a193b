// What generation is asked for: settings of sampling, a second model to mix with, and everything that is refused before a
// model runs.

import { checkArgument, kinds, optional } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { type Decoder, positionLimit } from '../models/decoder.js'

/** How tokens are drawn. In this order: repetition penalty, temperature, top-k, top-p, min-p. */
export interface SamplingOptions {
  /** 0 takes the most probable token. Default 1. */
  readonly temperature?: number
  /** Keep the k most probable tokens; 0 keeps all. Default 0. */
  readonly topK?: number
  /** Keep the smallest set with at least this mass. Default 1. */
  readonly topP?: number
  /** Drop tokens below this share of the largest probability. Default 0. */
  readonly minP?: number
  /**
   * Divides the positive logits of tokens that stand in the prompt or in the completion so far, and multiplies the negative
   * ones, as in Transformers (CTRL, 1909.05858): above 1 against repetition. `logps` are the model's, without it. Default 1.
   */
  readonly repetitionPenalty?: number
}

/** A second model of the same vocabulary, and its share in what tokens are drawn from. */
export interface LogitMixture {
  readonly reference: Decoder
  /**
   * b in (1 - b) z + b y, where z are the model's logits and y the reference's: the geometric mixture of both
   * distributions (Nash-MD, arXiv 2312.00886). 0: the model alone; 1: the reference alone.
   */
  readonly mixtureCoef: number
}

/** What to generate from. */
export interface GenerationRequest extends SamplingOptions {
  readonly prompts: readonly (readonly number[])[]
  /** Names of the prompts for the random keys; default their index. */
  readonly promptKeys?: readonly (string | number)[]
  /** Samples per prompt. */
  readonly numGenerations: number
  readonly maxNewTokens: number
  /** Tokens that end a sample; they are part of it. */
  readonly stopIds: ReadonlySet<number>
  readonly seed: number
  /** Most samples that run at once. */
  readonly maxRows: number
  readonly signal?: AbortSignal
  /** Draw from the mixture with another model. */
  readonly mixture?: LogitMixture
  /** Called for each token; returning true ends the sample (stop strings). */
  readonly onToken?: (prompt: number, sample: number, id: number) => boolean
  /**
   * Called when a turn of a sample has ended: tokens to put behind it, after which the sample has a further turn of up to
   * `maxNewTokens`; undefined: it is done.
   */
  readonly reply?: (prompt: number, sample: number, turn: TokenSample) => Promise<readonly number[] | undefined>
}

/** One sample. */
export interface TokenSample {
  /** New tokens, the stop token included. */
  readonly ids: number[]
  /**
   * log p(token) under the model at temperature 1, untruncated: equal to `model.logProbs` bit for bit. With `mixture` that
   * of the mixture.
   */
  readonly logps: number[]
  /** log p(token) under the distribution that it was drawn from. */
  readonly samplingLogps: number[]
  finishReason: 'stop' | 'length'
}

/**
 * Checks a request.
 *
 * @throws WhetstoneError E_CONFIG naming the setting
 */
export function checkRequest(m: Decoder, r: GenerationRequest): void {
  const need = (ok: boolean, name: string, expected: string, got: unknown) => {
    if (!ok) throw new WhetstoneError('E_CONFIG', `generate.${name}`, `expected ${expected}, got ${String(got)}`)
  }
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1 } = r
  need(temperature >= 0 && Number.isFinite(temperature), 'temperature', 'a number of at least 0', temperature)
  need(Number.isInteger(topK) && topK >= 0, 'topK', 'a whole number of at least 0', topK)
  need(topP > 0 && topP <= 1, 'topP', 'a number in (0, 1]', topP)
  need(minP >= 0 && minP <= 1, 'minP', 'a number in [0, 1]', minP)
  const mild = repetitionPenalty >= 1e-6 && repetitionPenalty <= 1e6
  need(mild, 'repetitionPenalty', 'a number above 0, from 1e-6 to 1e6', repetitionPenalty)
  const alone = modelsOf(m, r).length === 1 || repetitionPenalty === 1
  need(alone, 'repetitionPenalty', '1 where two models are mixed', repetitionPenalty)
  need(
    Number.isInteger(r.numGenerations) && r.numGenerations >= 1,
    'numGenerations',
    'a whole number of at least 1',
    r.numGenerations,
  )
  need(
    Number.isInteger(r.maxNewTokens) && r.maxNewTokens >= 1,
    'maxNewTokens',
    'a whole number of at least 1',
    r.maxNewTokens,
  )
  need(Number.isInteger(r.maxRows) && r.maxRows >= 1, 'maxRows', 'a whole number of at least 1', r.maxRows)
  need(Number.isSafeInteger(r.seed) && r.seed >= 0, 'seed', 'a whole number of at least 0', r.seed)
  if (r.mixture !== undefined) checkMixture(m, r.mixture)
  const keys = r.promptKeys?.length ?? r.prompts.length
  need(keys === r.prompts.length, 'promptKeys', `one key per prompt, ${r.prompts.length}`, keys)
  r.prompts.forEach((prompt, i) => {
    need(prompt.length > 0, `prompts[${i}]`, 'at least one token', 'none')
    checkRoom(m, r, `prompts[${i}]`, prompt)
  })
}

/** Refuses tokens that the model does not have, and positions that it does not have for them and a turn behind them. */
function checkRoom(m: Decoder, r: GenerationRequest, name: string, ids: readonly number[], before = 0): void {
  const need = (ok: boolean, expected: string, got: unknown) => {
    if (!ok) throw new WhetstoneError('E_CONFIG', `generate.${name}`, `expected ${expected}, got ${String(got)}`)
  }
  const bad = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < m.config.vocabSize))
  need(bad === undefined, `token ids below ${m.config.vocabSize}`, bad)
  const limit = limitOf(modelsOf(m, r))
  const fits = limit === undefined || before + ids.length + r.maxNewTokens <= limit
  const lengths = `${before + ids.length} + ${r.maxNewTokens} (lower maxNewTokens or shorten the prompt)`
  need(fits, `prompt and maxNewTokens within the ${limit} positions of the model`, lengths)
}

/**
 * Checks what `reply` gives.
 *
 * @param length tokens of the sequence before it
 * @throws WhetstoneError E_CONFIG
 */
export function checkReply(m: Decoder, r: GenerationRequest, length: number, ids: readonly number[]): void {
  checkArgument('generate.reply: what it gives', ids, optional(kinds.numbers))
  checkRoom(m, r, 'reply: what it gives', ids, length)
}

/**
 * Checks that a model can be mixed with another one.
 *
 * @throws WhetstoneError E_CONFIG naming what differs
 */
function checkMixture(m: Decoder, { reference, mixtureCoef }: LogitMixture): void {
  const need = (ok: boolean, name: string, expected: string, got: unknown) => {
    if (!ok)
      throw new WhetstoneError('E_CONFIG', `generate.mixture.${name}`, `expected ${expected}, got ${String(got)}`)
  }
  need(mixtureCoef >= 0 && mixtureCoef <= 1, 'mixtureCoef', 'a number from 0 to 1', mixtureCoef)
  const [own, other] = [m.config, reference.config]
  need(other.scoreLabels === undefined, 'reference', 'a language model', 'one with a score head')
  need(reference.device === m.device, 'reference', 'a model on the same device', reference.device.name)
  need(other.vocabSize === own.vocabSize, 'reference', `a vocabulary of ${own.vocabSize} tokens`, other.vocabSize)
  if (mixtureCoef === 0 || mixtureCoef === 1) return
  const [type, others] = [m.parameters.dtype, reference.parameters.dtype]
  need(type === others, 'reference', `the model's dtype, ${type}, as one operation reads both`, others)
  const caps = [own.logitSoftcap, other.logitSoftcap]
  need(caps[0] === caps[1], 'reference', `the model's cap on logits, ${caps[0]}`, caps[1])
}

/** The models that logits are made of. */
export function modelsOf(m: Decoder, { mixture }: GenerationRequest): readonly Decoder[] {
  if (mixture === undefined || mixture.mixtureCoef === 0) return [m]
  return mixture.mixtureCoef === 1 ? [mixture.reference] : [m, mixture.reference]
}

/** Positions that all of the models have; undefined: none of them ends. */
export function limitOf(models: readonly Decoder[]): number | undefined {
  const limits = models.flatMap(({ config }) => positionLimit(config) ?? [])
  return limits.length === 0 ? undefined : Math.min(...limits)
}
