// The model that users hold: a decoder, its tokenizer and its folder, with log-probs and generation as methods.
// Everything numeric happens in models/ and engine.ts; here text becomes ids and ids become text.

import '../base/dispose.js'
import {
  checkArgument,
  checkOptions,
  either,
  having,
  type Kind,
  kinds,
  listOf,
  optional,
  word,
} from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { modelFolder } from '../io/model-folder.js'
import { withAdapter } from '../models/adapter.js'
import { type Decoder, decoderKind, disposeDecoder } from '../models/decoder.js'
import { type LoadOptions, loadDecoder } from '../models/load.js'
import { baseFolder, isAdapterFolder, loadAdapter, readAdapterConfig, scoreLabelsIn } from '../models/peft.js'
import { type Device, deviceKinds } from '../native/device.js'
import { type LoraConfig, loraConfig } from '../nn/lora.js'
import { disposeFlat } from '../nn/parameters.js'
import { type ChatMessage, encodeChat, messagesKind } from '../tokenizer/template.js'
import { loadTokenizer, type Tokenizer, tokenizerFilesOf } from '../tokenizer/tokenizer.js'
import { sample } from './engine.js'
import { logits, logProbs, scores } from './read.js'
import type { GenerationRequest, LogitMixture, SamplingOptions, TokenSample } from './request.js'
import { followTexts } from './text.js'

/** What to continue: text (special tokens added as the tokenizer does), token ids, or a conversation. */
export type Prompt = string | readonly number[] | readonly ChatMessage[]

/** How to generate. */
export interface GenerateOptions extends SamplingOptions {
  /** Samples per prompt, over one shared prompt. Default 1. */
  readonly numGenerations?: number
  /** Default 256. */
  readonly maxNewTokens?: number
  /** Tokens that end a sample. Default the model's end tokens. */
  readonly stopIds?: readonly number[]
  /** Texts that end a sample. They stay in `ids` and are cut from `text`. */
  readonly stopStrings?: readonly string[]
  /** Key of the random choices. Default 0. */
  readonly seed?: number
  /** Names of the prompts in the random keys; default their index. */
  readonly promptKeys?: readonly (string | number)[]
  /** Most samples in flight at once. Default 256. */
  readonly maxRows?: number
  /** Draw from the geometric mixture with another model of the same vocabulary; prompts and end tokens are this model's. */
  readonly mixture?: LogitMixture
  readonly signal?: AbortSignal
  /**
   * Called with each new piece of text, never half a character. All pieces of a sample, joined, are its `text`: what may be
   * the beginning of a stop string, or of a character, is held back until it is decided.
   */
  readonly onText?: (prompt: number, sample: number, text: string) => void
  /**
   * Called when a turn of a sample has ended, with what was written: tokens to put behind it, after which the sample goes on for up
   * to `maxNewTokens`; undefined: it is done. Keys and values stay, so that nothing is read twice. What `generate` returns is the
   * last turn. Several samples may wait for their replies, one after another; what it returns may hang on nothing else than the
   * sample.
   */
  readonly reply?: (prompt: number, sample: number, turn: Completion) => Reply | Promise<Reply>
}

/** Tokens behind a turn, or nothing more. */
export type Reply = readonly number[] | undefined

/** One completion. */
export interface Completion extends TokenSample {
  /** The new text without end tokens and stop strings. */
  readonly text: string
}

/** A language model on a device. Free it with `dispose()`. */
export interface LanguageModel {
  readonly decoder: Decoder
  /** Where it runs; `device.reason` says why there. */
  readonly device: Device
  readonly tokenizer: Tokenizer
  /** The Hugging Face folder that it came from; of a run the checkpoint's, of an adapter the base's. */
  readonly directory: string
  /**
   * log p(token | tokens before it) in nats at temperature 1, one per token; 0 for the first token.
   * The same bits as the sampler's `logps`, alone or in any batch.
   */
  logProbs(ids: readonly number[]): Promise<Float32Array>
  logProbs(ids: readonly (readonly number[])[]): Promise<Float32Array[]>
  /** Logits [tokens, vocabulary] of one sequence. For inspection: training never makes them. */
  logits(ids: readonly number[]): Promise<Float32Array>
  /**
   * Numbers of a score head (a reward model, a critic): per sequence those at its last token, [labels], or those at the
   * given positions, [positions, labels]. Nothing is taken for padding: what is last in the list counts, whatever it is.
   *
   * @throws WhetstoneError E_CONFIG for a language model, for a position outside its sequence
   */
  scores(sequences: readonly (readonly number[])[], positions?: readonly (readonly number[])[]): Promise<Float32Array[]>
  /** Completions of one prompt, or of each prompt of a list. */
  generate(prompt: Prompt, options?: GenerateOptions): Promise<Completion[]>
  generate(prompts: readonly Prompt[], options?: GenerateOptions): Promise<Completion[][]>
  dispose(): void
  [Symbol.dispose](): void
}

/** A {@link LanguageModel} among arguments. */
export const modelKind = having('what loadModel() gives', 'decoder', 'tokenizer', 'generate')

const sequencesKind = listOf(kinds.numbers)
const promptKind: Kind = {
  expected: 'text, token ids or messages',
  fits: either(kinds.text, kinds.numbers, messagesKind).fits,
}

/** Kinds of {@link GenerateOptions}; ranges are checked by the engine. */
export const generateKinds = {
  temperature: optional(kinds.number),
  topK: optional(kinds.number),
  topP: optional(kinds.number),
  minP: optional(kinds.number),
  repetitionPenalty: optional(kinds.number),
  numGenerations: optional(kinds.number),
  maxNewTokens: optional(kinds.number),
  stopIds: optional(kinds.numbers),
  stopStrings: optional(listOf(kinds.filled)),
  seed: optional(kinds.number),
  promptKeys: optional(kinds.list),
  maxRows: optional(kinds.number),
  mixture: optional(kinds.object),
  signal: optional(kinds.signal),
  onText: optional(kinds.call),
  reply: optional(kinds.call),
}

/** Kinds of {@link ModelOptions}. */
const modelKinds = {
  ...deviceKinds,
  dtype: optional(word('f32', 'bf16')),
  loadIn4bit: optional(kinds.flag),
  bnb4bitUseDoubleQuant: optional(kinds.flag),
  scoreLabels: optional(kinds.number),
  seed: optional(kinds.whole),
  warn: optional(kinds.call),
  adapter: optional(kinds.path),
  lora: optional(kinds.object),
  chatTemplatePath: optional(kinds.path),
}

/** How to load a model, and with which adapter. */
export interface ModelOptions extends LoadOptions {
  /** Folder of a PEFT adapter (LoRA) for the model, or of a run that trained one. */
  readonly adapter?: string
  /** Put a fresh adapter on the model, whose values are those of `seed`. */
  readonly lora?: Partial<LoraConfig>
  /**
   * Jinja file, or folder of a tokenizer, whose chat template is used in place of the model's, and saved with what is trained.
   * End tokens stay the model's: `stopIds` and `stopStrings` of `generate` name others.
   */
  readonly chatTemplatePath?: string
}

/**
 * Loads a Hugging Face folder (Llama, Mistral, Qwen, Gemma, GPT-2): config.json, *.safetensors (one or sharded),
 * tokenizer.json. A folder of a PEFT adapter is loaded over the base model that it names. Of a run's folder the newest
 * checkpoint is loaded; `directory` of the model says which.
 *
 * @throws WhetstoneError E_IO for no such folder (nothing is downloaded), E_CONFIG, E_FORMAT, E_MISMATCH (weights missing, unexpected or misshapen, by name), E_NONFINITE (weights that four bits do not hold), E_OOM
 */
export async function loadModel(directory: string, options: ModelOptions = {}): Promise<LanguageModel> {
  checkArgument('loadModel.directory', directory, kinds.path)
  checkOptions('loadModel', options, modelKinds)
  // Before anything is read: settings that cannot be are no reason to wait for weights.
  if (options.lora !== undefined) loraConfig(options.lora)
  const adapter = options.adapter === undefined ? undefined : await modelFolder(options.adapter)
  return loadFrom(await modelFolder(directory), { ...options, adapter })
}

async function loadFrom(directory: string, options: ModelOptions): Promise<LanguageModel> {
  if (!(await isAdapterFolder(directory))) return loadWith(directory, directory, options)
  if (options.adapter !== undefined)
    throw new WhetstoneError('E_CONFIG', directory, 'expected a model beside `adapter`, got the folder of an adapter')
  const description = await readAdapterConfig(directory)
  const base = await baseFolder(directory, description)
  const scoreLabels = options.scoreLabels ?? (description.score ? await scoreLabelsIn(directory) : undefined)
  return loadWith(base, await tokenizerFolder(directory, base), { ...options, scoreLabels, adapter: directory })
}

/** Runs of training leave a tokenizer beside the adapter, which may have other templates than the base's. */
export const tokenizerFolder = async (directory: string, base: string): Promise<string> =>
  (await tokenizerFilesOf(directory)).includes('tokenizer.json') ? directory : base

/** Loads a model and puts the adapter that is asked for on it. */
async function loadWith(directory: string, tokenizerFolder: string, options: ModelOptions): Promise<LanguageModel> {
  const { adapter, lora, seed, chatTemplatePath } = options
  if (adapter !== undefined && lora !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'lora',
      'expected either `adapter` or `lora`, got both: an adapter has settings',
    )
  // In this order: a tokenizer that fails leaves no weights behind.
  const tokenizer = await loadTokenizer(tokenizerFolder, { chatTemplatePath })
  const base = await loadDecoder(directory, options)
  try {
    if (adapter !== undefined) return languageModel(await loadAdapter(base, adapter), tokenizer, directory)
    return languageModel(lora === undefined ? base : withAdapter(base, lora, seed), tokenizer, directory)
  } catch (error) {
    disposeDecoder(base, disposeFlat)
    throw error
  }
}

/** Puts a decoder and a tokenizer together. */
export function languageModel(decoder: Decoder, tokenizer: Tokenizer, directory: string): LanguageModel {
  let disposed = false
  const dispose = () => {
    disposed = true
    disposeDecoder(decoder, disposeFlat)
  }
  const live = (name: string) => {
    if (disposed) throw new WhetstoneError('E_DISPOSED', name, `the model of ${directory} was already disposed`)
  }
  const model = {
    decoder,
    device: decoder.device,
    tokenizer,
    directory,
    logProbs: async (ids: readonly number[] | readonly (readonly number[])[]) => {
      checkArgument('logProbs.ids', ids, either(kinds.numbers, sequencesKind))
      live('logProbs')
      return isIds(ids) ? (await logProbs(decoder, [ids]))[0] : logProbs(decoder, ids)
    },
    logits: async (ids: readonly number[]) => {
      checkArgument('logits.ids', ids, kinds.numbers)
      live('logits')
      return logits(decoder, ids)
    },
    scores: async (sequences: readonly (readonly number[])[], positions?: readonly (readonly number[])[]) => {
      checkArgument('scores.sequences', sequences, sequencesKind)
      checkArgument('scores.positions', positions, optional(sequencesKind))
      live('scores')
      return scores(decoder, sequences, positions ?? sequences.map((ids) => [ids.length - 1]))
    },
    generate: async (prompt: Prompt | readonly Prompt[], options: GenerateOptions = {}) => {
      checkArgument('generate.prompt', prompt, either(promptKind, listOf(promptKind)))
      checkOptions('generate', options, generateKinds)
      live('generate')
      if (options.mixture !== undefined) checkOptions('generate.mixture', options.mixture, mixtureKinds)
      if (!isPrompt(prompt)) return generate(model as LanguageModel, prompt, options)
      return (await generate(model as LanguageModel, [prompt], options))[0]
    },
    dispose,
    [Symbol.dispose]: dispose,
  }
  return model as LanguageModel
}

const mixtureKinds = { reference: decoderKind, mixtureCoef: kinds.number }

const isIds = (value: readonly unknown[]): value is readonly number[] =>
  value.length === 0 || typeof value[0] === 'number'

const isMessages = (value: readonly unknown[]): value is readonly ChatMessage[] =>
  value.length > 0 && typeof value[0] === 'object' && !Array.isArray(value[0])

const isPrompt = (value: Prompt | readonly Prompt[]): value is Prompt =>
  typeof value === 'string' || (value.length > 0 && typeof value[0] === 'number') || isMessages(value)

function encodePrompt(model: LanguageModel, prompt: Prompt): readonly number[] {
  if (typeof prompt === 'string') return model.tokenizer.encode(prompt)
  if (isMessages(prompt)) return encodeChat(model.tokenizer, prompt, { addGenerationPrompt: true }).ids
  return prompt as readonly number[]
}

async function generate(
  model: LanguageModel,
  prompts: readonly Prompt[],
  options: GenerateOptions,
): Promise<Completion[][]> {
  const { numGenerations = 1, maxNewTokens = 256, seed = 0, maxRows = 256, stopStrings = [] } = options
  const stopIds = new Set(options.stopIds ?? model.decoder.config.eosTokenIds)
  const { onText, reply } = options
  const follows = stopStrings.length > 0 || onText !== undefined
  const texts = followTexts(model.tokenizer, { stopIds, stopStrings, maxNewTokens, onText })
  const completionOf = (one: TokenSample, p: number, s: number): Completion => ({
    ...one,
    text: follows ? texts.textOf(p, s) : model.tokenizer.decode(withoutEnd(one.ids, stopIds)),
  })
  const request: GenerationRequest = {
    ...options,
    prompts: prompts.map((prompt) => encodePrompt(model, prompt)),
    numGenerations,
    maxNewTokens,
    seed,
    maxRows,
    stopIds,
    onToken: follows ? texts.follow : undefined,
    reply:
      reply &&
      (async (p, s, turn) => {
        const ids = await reply(p, s, completionOf(turn, p, s))
        if (ids !== undefined) texts.restart(p, s)
        return ids
      }),
  }
  const groups = await sample(model.decoder, request)
  return groups.map((samples, p) => samples.map((one, s) => completionOf(one, p, s)))
}

const withoutEnd = (ids: readonly number[], stopIds: ReadonlySet<number>): readonly number[] =>
  stopIds.has(ids[ids.length - 1]) ? ids.slice(0, -1) : ids
