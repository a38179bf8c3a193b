// Reward models as reward functions: TRL's `reward_funcs` of a model or its folder. A sample is encoded as the objective
// `reward` trains its rows: the prompt and the completion with its end token as one text, or the conversation by the chat
// template of the reward model. Differs from TRL, which leaves begin and end token of texts out when it scores, though not
// when it trains.

import { basename, resolve } from 'node:path'
import { checkArgument, checkOptions, either, kinds, listOf, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type LanguageModel, loadModel, type ModelOptions, modelKind } from '../../src/generate/language-model.js'
import type { Device } from '../../src/native/device.js'
import { type Codec, createCodec, encodeAnswer } from '../data/answer.js'
import { type EncodeOptions, encodeSettings } from '../data/encode-options.js'
import type { ChatFields } from '../data/rows.js'
import { modelHash } from '../reference.js'
import type { Task } from '../tasks/index.js'
import type { RewardFunction } from './rewards.js'

/** How a reward model judges. */
export interface RewardModelOptions extends Pick<EncodeOptions, 'specialTokens'> {
  /** Its name in logs; default that of the model's folder, or of the run that a checkpoint is of. */
  readonly name?: string
}

const rewardModelKinds = { name: optional(kinds.filled), specialTokens: optional(word('text', 'parse')) }

/** The folder's name; of a checkpoint, RUN/checkpoints/step-00000500, that of the run. */
const nameOf = (directory: string): string => basename(resolve(directory).replace(/[\\/]checkpoints[\\/]step-\d+$/, ''))

/** Tokens of a sample, as the reward model reads them. */
function sampleIds(codec: Codec, { prompt, messages, chat }: Task, completion: string): readonly number[] {
  if (messages === undefined) return encodeAnswer(codec, prompt, completion).ids
  const fields = { tools: chat?.tools, chat_template_kwargs: chat?.variables } as ChatFields
  return encodeAnswer(codec, messages, [{ role: 'assistant', content: completion }], fields).ids
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
  const { name = nameOf(model.directory), specialTokens } = options
  const { scoreLabels } = model.decoder.config
  if (scoreLabels !== 1) {
    const got = scoreLabels === undefined ? 'a language model' : `a head of ${scoreLabels} numbers`
    throw new WhetstoneError('E_CONFIG', name, `expected a reward model with a score head of one number, got ${got}`)
  }
  const codec = createCodec(model.tokenizer, encodeSettings({ specialTokens }))
  const evaluate: RewardFunction = async ({ tasks, completions }) => {
    const sequences = tasks.map((task, i) => sampleIds(codec, task, completions[i]))
    return (await model.scores(sequences)).map(([score]) => score)
  }
  return Object.defineProperty(evaluate, 'name', { value: name })
}

/** What judges samples among options: functions, and folders of reward models. */
export const rewardsKind = listOf(either(kinds.call, kinds.path))

/** The reward functions of a run, with the models that it loaded for them. */
export interface OpenRewards {
  /** undefined where none was given. */
  readonly functions: readonly RewardFunction[] | undefined
  /** Digests of the weights of models that were given by folder. */
  readonly hashes: readonly string[]
  dispose(): void
}

/**
 * Loads what is given by folder, to the device of the policy.
 *
 * @throws WhetstoneError E_CONFIG for a folder that holds no reward model, and what loading throws
 */
export async function openRewards(
  given: readonly (RewardFunction | string)[] | undefined,
  device: Device,
): Promise<OpenRewards> {
  const models: LanguageModel[] = []
  const hashes: string[] = []
  const dispose = () => {
    for (const model of models) model.dispose()
  }
  const open = async (folder: string): Promise<RewardFunction> => {
    const model = await loadModel(folder, { device: device.name as ModelOptions['device'] })
    models.push(model)
    const evaluate = rewardModel(model)
    hashes.push(await modelHash(model.decoder))
    return evaluate
  }
  try {
    const functions: RewardFunction[] = []
    for (const one of given ?? []) functions.push(typeof one === 'string' ? await open(one) : one)
    return { functions: given && functions, hashes, dispose }
  } catch (error) {
    dispose()
    throw error
  }
}
