// How much memory a run on the policy's own samples will need: one round of it on a device that only counts, over the longest
// prompts, where no sample ends before its limit. Sampling, scoring by the reference and training are the run's own code.

import { sft } from '../loss/index.js'
import { WhetstoneError } from '../src/base/errors.js'
import { type GenerateOptions, type LanguageModel, languageModel, type Prompt } from '../src/generate/language-model.js'
import { type Decoder, trainableOf } from '../src/models/decoder.js'
import { usualAlignment } from '../src/native/device.js'
import { flatBytes } from '../src/nn/parameters.js'
import { loadTokenizer } from '../src/tokenizer/tokenizer.js'
import type { OnlineSettings } from './config/online-settings.js'
import { trainingOptions } from './config/options.js'
import type { Source } from './config/resolve.js'
import { type EstimateRow, labelState, type MemoryEstimate, rowsOf, scratchBytes } from './estimate.js'
import { openCountingDevice } from './estimate-device.js'
import { foldersOf, policyOf, type ResolvedEstimate, referenceOf } from './estimate-models.js'
import { promptIds } from './loop/explore.js'
import type { OnlineOptions } from './loop/online.js'
import type { OnlineValues } from './loop/online-shape.js'
import { type PromptRow, type PromptSource, readPrompts } from './loop/prompts.js'
import { type OnlineRecipe, recipes } from './recipes/index.js'
import { flatState } from './state.js'
import type { Task } from './tasks/index.js'
import { createTrainer } from './trainer.js'

/** What a run on samples will need. */
export interface OnlineMemoryEstimate extends Omit<MemoryEstimate, 'batch'> {
  /** Samples of a round, and tokens of the longest one. */
  readonly round: { readonly samples: number; readonly promptTokens: number; readonly completionTokens: number }
}

/** The run to estimate. */
export interface OnlineEstimate {
  readonly recipe: OnlineRecipe
  readonly settings: OnlineSettings
  readonly prompts: PromptSource
  /** The policy is tied to a reference by its settings. */
  readonly tied: boolean
}

/** As `policyOf` and `referenceOf` take a run. */
const modelsOf = ({ settings: { run, lora, values } }: OnlineEstimate, isTied: boolean): ResolvedEstimate => {
  const { model, dtype, loadIn4bit, bnb4bitUseDoubleQuant, adapter, reference } = run
  const objective = sft()
  return {
    ...{ model, dtype, loadIn4bit, bnb4bitUseDoubleQuant, adapter, reference, lora },
    objective: { ...objective, needs: { ...objective.needs, reference: isTied || reference !== undefined } },
    training: trainingOptions.parse({
      syncRefModel: values.syncRefModel,
      stochasticRounding: values.stochasticRounding,
    }),
  }
}

/** Bytes of what stays all the time: models, masters, gradients, moments. */
async function stateOf(estimate: OnlineEstimate) {
  const options = modelsOf(estimate, estimate.tied)
  const counting = openCountingDevice(usualAlignment())
  const policy = await policyOf(counting, options)
  await referenceOf(counting, options, policy)
  const values = estimate.settings.values as OnlineValues
  const trainer = createTrainer({ policy, objective: sft(), optimizer: values })
  labelState(counting, trainer)
  counting.resetPeak()
  counting.label('', [])
  const saved = [trainableOf(policy), ...flatState(trainer).map(([, flat]) => flat)]
  return { rows: rowsOf(counting.usageAtPeak()), savedBytes: saved.reduce((sum, flat) => sum + flatBytes(flat), 0) }
}

/** The policy without end tokens: no sample ends before its limit. */
const endless = (decoder: Decoder): Decoder => ({ ...decoder, config: { ...decoder.config, eosTokenIds: [] } })

/** Samples of a prompt as different as those of a model are: equal beginnings would be computed once. */
function unlike(model: LanguageModel): LanguageModel {
  const { vocabSize } = model.decoder.config
  let drawn = 0
  const generate = async (prompts: readonly Prompt[], options?: GenerateOptions) =>
    (await model.generate(prompts, options)).map((samples) =>
      samples.map((one) => {
        const id = drawn++ % vocabSize
        return { ...one, ids: one.ids.map(() => id), text: `${drawn}` }
      }),
    )
  return { ...model, generate: generate as LanguageModel['generate'] }
}

/** Tokens of the completion that a row brings. */
function completionTokens({ tokenizer }: LanguageModel, { row }: Task): number {
  const { completion } = row ?? {}
  const texts = Array.isArray(completion) ? completion.map(({ content }) => content) : [completion]
  return texts.reduce((sum, text) => sum + tokenizer.encode(String(text ?? '')).length, 0)
}

/** Distillation has rounds of two kinds; which needs more depends on teacher and data. */
const writersOf = ({ lmbda }: Readonly<Record<string, unknown>>): { readonly lmbda?: number }[] => {
  if (typeof lmbda !== 'number') return [{}]
  return [...(lmbda > 0 ? [{ lmbda: 1 }] : []), ...(lmbda < 1 ? [{ lmbda: 0 }] : [])]
}

/** The rows of the longest tasks. */
const longestOf = (tasks: readonly Task[], count: number, lengthOf: (task: Task) => number): PromptRow[] =>
  [...tasks]
    .sort((a, b) => lengthOf(b) - lengthOf(a))
    .slice(0, count)
    .map(({ prompt, row }) => (row as PromptRow | undefined) ?? { prompt })

/** What lets every sample of a recipe be trained. */
const wholly: Readonly<Partial<Record<OnlineRecipe, object>>> = {
  grpo: { maskTruncatedCompletions: false, dynamicSampling: false },
  bestOfN: { threshold: -Number.MAX_VALUE },
  bstar: { thresholds: [-1], rightAt: -1 },
  still: { maskTruncatedCompletions: false, right: -1, skipSolved: false },
  cct: { right: -1 },
  sharpening: { maskTruncatedCompletions: false },
}

/** What makes one whole round of a run: every sample counts, and none is like another. */
const wholeRound = (recipe: OnlineRecipe, writers: { readonly lmbda?: number }): Source => ({
  origin: 'estimate',
  values: {
    ...writers,
    rounds: 1,
    rewardWeights: [1],
    ...wholly[recipe],
  },
})

/** Evaluations sample as rounds do. */
function withoutEvaluation({ origin, values }: Source): Source {
  const { evalRounds, evalTasks, ...others } = values
  return { origin, values: others }
}

/**
 * Predicts the memory of an online run.
 *
 * @throws WhetstoneError E_CONFIG, E_FORMAT, E_IO for folders, prompts and settings that the run would refuse too
 */
export async function estimateOnline(estimate: OnlineEstimate): Promise<OnlineMemoryEstimate> {
  const { recipe, settings, prompts, tied } = estimate
  const values = settings.values as OnlineValues
  const options = modelsOf(estimate, tied)
  const counting = openCountingDevice(usualAlignment())
  const decoder = await policyOf(counting, options)
  const reference = await referenceOf(counting, options, decoder)
  const { model } = await foldersOf(options)
  const { chatTemplatePath } = settings.run
  const policy = unlike(languageModel(endless(decoder), await loadTokenizer(model, { chatTemplatePath }), model))
  const { promptsPerRound, numGenerations, rounds, maxCompletionLength, chatTemplateKwargs } = values
  const { trainTasks = rounds * promptsPerRound } = values
  const tasks = await readPrompts(prompts, policy.tokenizer, trainTasks, chatTemplateKwargs)
  if (tasks.length === 0) throw new WhetstoneError('E_CONFIG', 'data', 'expected at least one prompt, got none')
  const lengths = new Map(tasks.map((task) => [task, promptIds(policy, task).length]))
  const lengthOf = (task: Task) => lengths.get(task) ?? 0
  const readLengthOf = (task: Task) => lengthOf(task) + completionTokens(policy, task)
  for (const writers of writersOf(settings.values)) {
    const run: OnlineOptions = {
      policy,
      reference,
      prompts: longestOf(tasks, promptsPerRound, writers.lmbda === 0 ? readLengthOf : lengthOf),
      rewardFuncs: [({ completions }) => completions.map((_, index) => index)],
      sources: [...settings.sources.map(withoutEvaluation), wholeRound(recipe, writers)],
    }
    await recipes[recipe](run).result
  }
  const { peakBytes, poolBytes } = counting.device.memory()
  const state = await stateOf(estimate)
  const stays = state.rows.reduce((sum, { bytes }) => sum + bytes, 0)
  const rest: EstimateRow = { name: 'samples, their cache, activations', bytes: peakBytes - stays }
  const promptTokens = Math.max(...lengths.values())
  const samples = promptsPerRound * numGenerations * (comparing.includes(recipe) ? 2 : 1)
  const tokens = samples * (promptTokens + maxCompletionLength)
  return {
    peakBytes,
    rows: [...state.rows, rest].sort((a, b) => b.bytes - a.bytes),
    besideBytes:
      poolBytes -
      peakBytes +
      scratchBytes(decoder.config, options.objective, { sequences: samples, tokens, trainedTokens: tokens }),
    hostBytes: tokens * bytesOfToken + state.savedBytes,
    dtype: decoder.parameters.dtype,
    round: { samples, promptTokens, completionTokens: maxCompletionLength },
  }
}

/** Recipes that sample a rival beside the policy. */
const comparing: readonly OnlineRecipe[] = ['onlineXpo', 'onlineNashMd']

/** An id, a mark, and three log-probs. */
const bytesOfToken = 8 + 1 + 3 * 8
