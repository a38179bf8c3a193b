// Reward models as reward functions: TRL's `reward_funcs` of a model or its folder. A sample is encoded as the objective
// `reward` trains its rows: the prompt and the completion with its end token as one text, or the conversation by the chat
// template of the reward model. Differs from TRL, which leaves begin and end token of texts out when it scores, though not
// when it trains. Models that were shown pairs (the objective `pairReward`) judge pairs: each completion is scored behind the
// prompt that shows the other one, and the probability is the mean of what both orders say.

import { basename, resolve } from 'node:path'
import { checkArgument, checkOptions, either, kinds, listOf, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { logistic } from '../../src/base/stats.js'
import { type LanguageModel, loadModel, type ModelOptions, modelKind } from '../../src/generate/language-model.js'
import type { Device } from '../../src/native/device.js'
import { type Codec, createCodec, encodeAnswer } from '../data/answer.js'
import { type EncodeOptions, type EncodeSettings, encodeSettings } from '../data/encode-options.js'
import { revisionPrompt } from '../data/srpo.js'
import { modelHash } from '../reference.js'
import type { Task } from '../tasks/index.js'
import type { PairInput, PairJudge } from './judges.js'
import { chatFieldsOf } from './prompts.js'
import type { RewardFunction } from './rewards.js'
import { drawScores, hasDropout } from './uncertainty.js'

/** How a reward model judges. */
export interface RewardModelOptions extends Pick<EncodeOptions, 'specialTokens'> {
  /** Its name in logs; default that of the model's folder, or of the run that a checkpoint is of. */
  readonly name?: string
}

const rewardModelKinds = { name: optional(kinds.filled), specialTokens: optional(word('text', 'parse')) }

/** How a model of pairs judges: with the template that its training showed answers by. */
export interface PairModelOptions extends RewardModelOptions, Pick<EncodeOptions, 'revisionText' | 'revisionRequest'> {}

const pairModelKinds = {
  ...rewardModelKinds,
  revisionText: optional(kinds.filled),
  revisionRequest: optional(kinds.text),
}

/** The folder's name; of a checkpoint, RUN/checkpoints/step-00000500, that of the run. */
const nameOf = (directory: string): string => basename(resolve(directory).replace(/[\\/]checkpoints[\\/]step-\d+$/, ''))

/** A completion, of its prompt's kind. */
const sideOf = ({ messages }: Task, completion: string) =>
  messages === undefined ? completion : [{ role: 'assistant', content: completion }]

/** Tokens of a sample, as the reward model reads them. */
const sampleIds = (codec: Codec, task: Task, completion: string): readonly number[] =>
  encodeAnswer(codec, task.messages ?? task.prompt, sideOf(task, completion), chatFieldsOf(task)).ids

/** The same behind a prompt that shows another one. */
function comparedIds(codec: Codec, task: Task, completion: string, other: string): readonly number[] {
  const { revisionText: text, revisionRequest: request } = codec.settings
  const prompt = revisionPrompt(task.messages ?? task.prompt, sideOf(task, other), { text, request })
  return encodeAnswer(codec, prompt, sideOf(task, completion), chatFieldsOf(task)).ids
}

/** What encodes for a model with a score head of one number. */
function codecOf({ decoder, tokenizer }: LanguageModel, name: string, settings: EncodeSettings): Codec {
  const { scoreLabels } = decoder.config
  if (scoreLabels === 1) return createCodec(tokenizer, settings)
  const got = scoreLabels === undefined ? 'a language model' : `a head of ${scoreLabels} numbers`
  throw new WhetstoneError('E_CONFIG', name, `expected a reward model with a score head of one number, got ${got}`)
}

/**
 * A reward function that gives the number of a score head at the end of each sample. The model stays the caller's to free.
 *
 * @param model a reward model: what `train` with the objective `reward` leaves, or a sequence classifier with one label
 * @throws WhetstoneError E_CONFIG for a model without a score head of one number
 */
export function rewardModel(model: LanguageModel, options: RewardModelOptions = {}): RewardFunction {
  checkArgument('rewardModel.model', model, modelKind)
  checkOptions('rewardModel', options, rewardModelKinds)
  const { name = nameOf(model.directory), ...encoding } = options
  const codec = codecOf(model, name, encodeSettings(encoding))
  const evaluate: RewardFunction = async ({ tasks, completions }) => {
    const sequences = tasks.map((task, i) => sampleIds(codec, task, completions[i]))
    return (await model.scores(sequences)).map(([score]) => score)
  }
  return Object.defineProperty(evaluate, 'name', { value: name })
}

/**
 * A reward function of PIT: what each sample gains over the answer that its task's row has in the column `shown`, by a model that
 * the objective `gapReward` trained. The model stays the caller's to free.
 *
 * @throws WhetstoneError E_CONFIG for a model without a score head of one number, and for a task without such an answer
 */
export function gapRewardModel(model: LanguageModel, options: PairModelOptions = {}): RewardFunction {
  checkArgument('gapRewardModel.model', model, modelKind)
  checkOptions('gapRewardModel', options, pairModelKinds)
  const { name = nameOf(model.directory), ...encoding } = options
  const codec = codecOf(model, name, encodeSettings(encoding))
  const evaluate: RewardFunction = async ({ tasks, completions, rows }) => {
    const sequences = tasks.map((task, i) => {
      const { shown } = rows[i]
      if (typeof shown === 'string') return comparedIds(codec, task, completions[i], shown)
      throw new WhetstoneError('E_CONFIG', task.id, `expected text in the column 'shown', got ${typeof shown}`)
    })
    return (await model.scores(sequences)).map(([score]) => score)
  }
  return Object.defineProperty(evaluate, 'name', { value: name })
}

/**
 * A judge of pairs from a model that compares two answers, in both orders. Of a model whose adapter has dropout it gives draws
 * as well (see uncertainty.ts). The model stays the caller's to free.
 *
 * @param model what `train` with the objective `pairReward` leaves
 * @throws WhetstoneError E_CONFIG for a model without a score head of one number
 */
export function pairJudge(model: LanguageModel, options: PairModelOptions = {}): PairJudge {
  checkArgument('pairJudge.model', model, modelKind)
  checkOptions('pairJudge', options, pairModelKinds)
  const { name = nameOf(model.directory), ...encoding } = options
  const codec = codecOf(model, name, encodeSettings(encoding))
  const encode = ({ tasks, completions }: PairInput) =>
    completions.flatMap(([first, second], i) => [
      comparedIds(codec, tasks[i], first, second),
      comparedIds(codec, tasks[i], second, first),
    ])
  const inBothOrders = (better: readonly number[]) =>
    Array.from({ length: better.length / 2 }, (_, i) => (better[2 * i] + 1 - better[2 * i + 1]) / 2)
  const judge = async (input: PairInput) =>
    inBothOrders((await model.scores(encode(input))).map(([score]) => logistic(score)))
  const sample: PairJudge['sample'] = async (input, draws) => {
    const passes = await drawScores(model, encode(input), draws)
    const said = passes.map((numbers) => inBothOrders(numbers.map(logistic)))
    return input.completions.map((_, i) => said.map((own) => own[i]))
  }
  const named = Object.defineProperty(judge, 'name', { value: name })
  return hasDropout(model) ? Object.assign(named, { sample }) : named
}

/** What judges samples among options: functions, and folders of reward models. */
export const rewardsKind = listOf(either(kinds.call, kinds.path))

/** What judges pairs among options. */
export const judgeKind = either(kinds.call, kinds.path)

/** What judges a run, as it is asked for. */
export interface GivenJudges {
  /**
   * Judges of samples: functions, and folders of reward models, which the run loads and frees. A task source needs none: its
   * exact checker is one.
   */
  readonly rewardFuncs?: readonly (RewardFunction | string)[]
  /**
   * Judge of pairs, in place of rewards, for methods that compare samples: a function, or the folder of a model that the
   * objective `pairReward` trained, which the run loads and frees.
   */
  readonly judge?: PairJudge | string
}

/** What judges a run, with the models that it loaded for that. */
export interface OpenJudges {
  /** undefined where none was given. */
  readonly functions: readonly RewardFunction[] | undefined
  readonly judge: PairJudge | undefined
  /** Digests of the weights of models that were given by folder. */
  readonly hashes: readonly string[]
  dispose(): void
}

/**
 * Loads what is given by folder, to the device of the policy.
 *
 * @throws WhetstoneError E_CONFIG for a folder that holds no reward model, and what loading throws
 */
export async function openJudges({ rewardFuncs, judge }: GivenJudges, device: Device): Promise<OpenJudges> {
  const models: LanguageModel[] = []
  const hashes: string[] = []
  const dispose = () => {
    for (const model of models) model.dispose()
  }
  const open = async <F>(given: F | string, judging: (model: LanguageModel) => F): Promise<F> => {
    if (typeof given !== 'string') return given
    const model = await loadModel(given, { device: device.name as ModelOptions['device'] })
    models.push(model)
    const made = judging(model)
    hashes.push(await modelHash(model.decoder))
    return made
  }
  try {
    const functions: RewardFunction[] = []
    for (const one of rewardFuncs ?? []) functions.push(await open(one, rewardModel))
    const ofPairs = judge === undefined ? undefined : await open(judge, pairJudge)
    return { functions: rewardFuncs && functions, judge: ofPairs, hashes, dispose }
  } catch (error) {
    dispose()
    throw error
  }
}

/**
 * A judge is for pairs; what is taken from rewards beside it would never count.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkJudge(
  judge: GivenJudges['judge'],
  {
    comparesPairs = false,
    missingEosPenalty,
  }: { readonly comparesPairs?: boolean; readonly missingEosPenalty?: number },
): void {
  if (judge === undefined) return
  const refuse = (where: string, text: string): never => {
    throw new WhetstoneError('E_CONFIG', where, text)
  }
  if (!comparesPairs) refuse('judge', 'expected rewardFuncs: the method has no pairs for a judge to compare')
  if (missingEosPenalty !== undefined)
    refuse('missingEosPenalty', 'expected it without a judge, which gives no rewards to take it from')
}

/** Who judges, for the start of the log. */
export const judgesNoted = (rewards: readonly string[], judge: PairJudge | undefined): string[] => [
  ...(rewards.length === 0 ? [] : [`rewards: ${rewards.join(', ')}`]),
  ...(judge === undefined ? [] : [`judge: ${judge.name || 'a function'}`]),
]
