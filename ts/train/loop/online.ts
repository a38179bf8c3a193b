// What online methods share: their settings under TRL's names, and the run around `iterate`: prompts, rewards, run folder,
// events. A recipe adds its own settings and says how samples become examples.

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import * as z from 'zod'
import type { Objective } from '../../loss/define.js'
import { checkMembers, either, kinds, optional } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { limitOf } from '../../src/generate/request.js'
import { type Decoder, decoderKind } from '../../src/models/decoder.js'
import {
  adamwOptions,
  optimizerShape,
  referenceSyncShape,
  saveTotalLimit,
  stochasticRounding,
} from '../config/options.js'
import { type Resolved, resolveConfig, resolvedKind, type Source, sourcesKind } from '../config/resolve.js'
import { checkIds } from '../data/encode.js'
import { dataKind } from '../data/rows.js'
import { type Emit, type Run, startRun } from '../events.js'
import { whileTrained } from '../in-training.js'
import { abortError, type PhaseResult, tellEmptyResume } from '../loop.js'
import { checkTeacher, openReference, type Reference } from '../reference.js'
import { referenceSyncOf } from '../reference-sync.js'
import { openRun } from '../run-folder.js'
import { checkSchedule } from '../schedule.js'
import { sourceKind, type Task } from '../tasks/task.js'
import type { ToExamples } from './examples.js'
import { type Explore, promptIds, type SampleGroupOptions, sampleGroup } from './explore.js'
import { type IterateOptions, runRounds } from './iterate.js'
import { type RoundStatistics, rewardStatistics, sampledEntropy } from './metrics.js'
import { isTaskSource, type PromptSource, readPrompts, taskRounds } from './prompts.js'
import { type OpenRewards, openRewards, rewardsKind } from './reward-model.js'
import { checkerReward, type NamedReward, nameRewards, type RewardFunction, scoreRewards, withGold } from './rewards.js'
import { isOwn, type PairJudge } from './rivals.js'
import type { Score } from './score.js'
import type { Select } from './select.js'
import type { Trace } from './trace.js'

const count = (least = 0) => z.int().min(least)

/** Settings that every online method has. */
export const onlineShape = {
  ...optimizerShape,
  stochasticRounding,
  ...referenceSyncShape,
  learningRate: optimizerShape.learningRate.default(1e-6),
  rounds: count(1).default(100).describe('rounds of sampling and training'),
  promptsPerRound: count(1).default(8).describe('prompts of a round; each is sampled numGenerations times'),
  trainTasks: count(1).optional().describe('task sources: how many of their tasks to use; default all new ones'),
  numGenerations: count(2).default(8).describe('samples per prompt'),
  maxCompletionLength: count(1).default(256).describe('most new tokens of a sample (TRL: 512)'),
  temperature: z.number().positive().default(1).describe('sampling temperature'),
  topP: z.number().positive().max(1).default(1).describe('sampling: smallest set of tokens with this mass'),
  topK: count().default(0).describe('sampling: most probable tokens to choose from; 0: all'),
  minP: z.number().min(0).max(1).default(0).describe('sampling: least share of the largest probability'),
  repetitionPenalty: z
    .number()
    .min(1e-6)
    .max(1e6)
    .default(1)
    .describe('sampling: above 1 against tokens of the prompt and of the sample so far; training is without it'),
  stopStrings: z
    .array(z.string().min(1))
    .optional()
    .describe('texts that end a sample; rewards see what is before them. As JSON they keep blanks and commas'),
  stopIds: z.array(count()).optional().describe('tokens that end a sample; default the end tokens of the model'),
  maxRows: count(1).default(256).describe('most samples in flight at once: memory, never results'),
  rewardWeights: z.array(z.number()).optional().describe('weight of each reward function; default 1'),
  perDeviceTrainBatchSize: count(1).default(8).describe('examples per micro-batch'),
  gradientAccumulationSteps: count(1).default(1).describe('micro-batches per optimizer step'),
  numIterations: count(1).default(1).describe('passes over the samples of a round'),
  gradientCheckpointing: z.boolean().default(false).describe('recompute layers in backward: less memory, same bits'),
  saveRounds: count(1).default(1).describe('rounds between checkpoints'),
  saveTotalLimit,
  samples: count().default(2).describe('samples to show per round'),
  seed: count().default(42).describe('key of every random choice'),
}

type Values = z.output<z.ZodObject<typeof onlineShape>>

/** Resolved settings of an online method; one may choose its temperature itself. */
export type OnlineValues = Omit<Values, 'temperature'> & Partial<Pick<Values, 'temperature'>>

/** What an online method works with, besides its settings. */
export interface OnlineOptions {
  readonly policy: LanguageModel
  /** A task source, a file of rows with `prompt`, or such rows. */
  readonly prompts: PromptSource
  /**
   * Judges of samples: functions, and folders of reward models, which the run loads and frees. A task source needs none: its
   * exact checker is one.
   */
  readonly rewardFuncs?: readonly (RewardFunction | string)[]
  /** Judge of pairs, in place of rewards, for methods that compare the policy's samples with a rival's. */
  readonly judge?: PairJudge
  /** Frozen model that the policy is tied to, default the policy as it is when the run starts; of distillation the teacher. */
  readonly reference?: Decoder
  /** Run folder; none: nothing is saved. */
  readonly output?: string
  /** Go on with the run in `output`. */
  readonly resume?: boolean
  readonly signal?: AbortSignal
  /** Called behind each round. */
  readonly monitor?: (round: number) => Promise<void>
  /** Where settings came from, for the run folder; default `argument` for those given. */
  readonly sources?: readonly Source[]
  /** All settings to keep in the run folder, when there are more than those of the method. */
  readonly record?: Resolved<Readonly<Record<string, unknown>>>
}

const onlineKinds = {
  policy: modelKind,
  prompts: either(sourceKind, dataKind),
  rewardFuncs: optional(rewardsKind),
  judge: optional(kinds.call),
  reference: optional(decoderKind),
  output: optional(kinds.path),
  resume: optional(kinds.flag),
  signal: optional(kinds.signal),
  monitor: optional(kinds.call),
  sources: optional(sourcesKind),
  record: optional(resolvedKind),
}

/** What a method makes of the shared parts. */
export interface OnlineMethod {
  readonly objective: Objective
  /** What of the samples is trained, and with which advantage. */
  readonly select: (rewards: readonly NamedReward[]) => Select
  readonly toExamples: ToExamples
  /** Examples of a round. */
  readonly examplesPerRound: number
  /** Default `numGenerations` samples of each prompt. It may look at rewards while it explores. */
  readonly explore?: (rewards: Score) => Explore
  /** Further reward functions, weight 1. */
  readonly rewards?: readonly RewardFunction[]
  /** Rewards are numbers to look at: there may be none. */
  readonly unrewarded?: boolean
  /** It compares pairs, and takes a judge of them. */
  readonly comparesPairs?: boolean
  /** Refuses tasks that the method cannot work with. */
  readonly checkTasks?: (tasks: readonly Task[]) => void
  /** What becomes of the score of the rewards; default that score itself. */
  readonly score?: (rewards: Score, reference: Decoder | undefined) => Score
  /** The reference is looked at in scoring, whatever the objective needs. */
  readonly needsReference?: boolean
  /** Further numbers of a round. */
  readonly statistics?: RoundStatistics
  /** Divides the logits in training; default 1. */
  readonly temperature?: number
  /** As in `iterate`. */
  readonly startFrom?: 'current' | 'base'
  readonly pool?: 'replace' | 'accumulate'
  /** Dynamic sampling: prompts that a round may try, and when it has enough. */
  readonly promptsTried?: number
  readonly enough?: (traces: readonly Trace[]) => boolean
}

/** How samples are drawn. */
export const samplingOf = (values: OnlineValues): SampleGroupOptions => ({
  numGenerations: values.numGenerations,
  maxNewTokens: values.maxCompletionLength,
  temperature: values.temperature,
  topP: values.topP,
  topK: values.topK,
  minP: values.minP,
  repetitionPenalty: values.repetitionPenalty,
  stopStrings: values.stopStrings,
  stopIds: values.stopIds,
  maxRows: values.maxRows,
})

/** True when sampling changes the distribution by its temperature alone: its log-probs are then those of a trainer at it. */
export const isUntruncated = ({ topP, topK, minP, repetitionPenalty }: OnlineValues): boolean =>
  topP === 1 && topK === 0 && minP === 0 && repetitionPenalty === 1

/** The settings of a method from their sources. */
export const settingsFrom = <S extends z.ZodRawShape>(schema: z.ZodObject<S>, sources: readonly Source[]) =>
  resolveConfig(schema, sources, undefined, Object.keys(onlineKinds))

/** Settings among the options of a call. */
const given = (options: OnlineOptions): Record<string, unknown> => {
  const { policy, prompts, rewardFuncs, judge, reference, output, resume, signal, monitor, ...others } = options
  const { sources, record, ...settings } = others
  return settings
}

/**
 * Starts an online method. Iterate it for events; await its `result` for the end; see {@link Run}.
 *
 * @param resolve the method's settings from their sources
 * @param methodOf the method for resolved settings
 */
export const startOnline = <V extends OnlineValues>(
  options: OnlineOptions,
  resolve: (sources: readonly Source[]) => Resolved<V>,
  methodOf: (values: V) => OnlineMethod,
): Run<PhaseResult> =>
  startRun(async (emit) => {
    checkMembers('recipe', options, onlineKinds)
    return whileTrained(options.policy.decoder, () => runInFolder(options, resolve, methodOf, emit))
  })

async function runInFolder<V extends OnlineValues>(
  options: OnlineOptions,
  resolve: (sources: readonly Source[]) => Resolved<V>,
  methodOf: (values: V) => OnlineMethod,
  emit: Emit,
): Promise<PhaseResult> {
  const config = resolve(options.sources ?? [{ origin: 'argument', values: given(options) }])
  checkSchedule(config.values)
  const method = methodOf(config.values)
  checkTeacher(method.objective, options.reference)
  checkJudge(options, method)
  const { output, resume = false, record = config } = options
  const warn = (message: string) => emit({ type: 'warning', message })
  const folder = output === undefined ? undefined : await openRun(output, record, resume, warn)
  let started: Reference | undefined
  let judges: OpenRewards | undefined
  try {
    judges = await openRewards(options.rewardFuncs, options.policy.decoder.device)
    started = await referenceOf(options, method, config.values)
    const parts = { ...options, reference: started?.decoder, judges }
    return await runOnline(parts, config.values, method, (event) => {
      folder?.log(event)
      emit(event)
    })
  } finally {
    started?.dispose()
    judges?.dispose()
    await folder?.close()
  }
}

/** A judge is for pairs; what is taken from rewards beside it would never count. */
function checkJudge({ judge }: OnlineOptions, { comparesPairs = false, rewards = [] }: OnlineMethod): void {
  if (judge === undefined) return
  const refuse = (where: string, text: string): never => {
    throw new WhetstoneError('E_CONFIG', where, text)
  }
  if (!comparesPairs) refuse('judge', 'expected rewardFuncs: the method has no pairs for a judge to compare')
  if (rewards.length > 0)
    refuse('missingEosPenalty', 'expected it without a judge, which gives no rewards to take it from')
}

/** The model to compare with, when the method looks at one. */
const referenceOf = async (
  { policy, reference }: OnlineOptions,
  { objective, needsReference = false }: OnlineMethod,
  { syncRefModel }: OnlineValues,
): Promise<Reference | undefined> =>
  needsReference || objective.needs.reference ? openReference(policy.decoder, reference, syncRefModel) : undefined

/** The options of a run whose models are there. */
interface OnlineParts extends OnlineOptions {
  readonly judges: OpenRewards
}

/** The rewards of a run: what was passed, or the source's checker; then the method's own. */
function rewardsOf({ prompts, judge, judges }: OnlineParts, { rewardWeights }: OnlineValues, own: OnlineMethod) {
  const passed = judges.functions ?? (isTaskSource(prompts) ? [checkerReward(prompts)] : [])
  const isOptional = own.unrewarded === true || judge !== undefined
  if (passed.length === 0 && rewardWeights === undefined && isOptional) return []
  const named = nameRewards(passed, rewardWeights)
  return own.rewards === undefined || own.rewards.length === 0 ? named : [...named, ...nameRewards(own.rewards)]
}

const statisticsOf =
  (values: OnlineValues, { statistics }: OnlineMethod): RoundStatistics =>
  (traces, kept) => {
    const own = traces.filter(isOwn)
    const isWhole = values.temperature === 1 && isUntruncated(values) && own.length > 0
    return {
      ...(own.length > 0 ? rewardStatistics(own, kept.filter(isOwn)) : rewardStatistics(traces, kept)),
      ...statistics?.(traces, kept),
      ...(isWhole && { entropy: sampledEntropy(own) }),
    }
  }

/** Prompts of every round, and what tells them from others when a run goes on. */
async function roundsOf(options: OnlineOptions, values: OnlineValues, perRound: number, method: OnlineMethod) {
  const { prompts, policy } = options
  const tasks = await readPrompts(prompts, policy.tokenizer, values.trainTasks ?? values.rounds * perRound)
  method.checkTasks?.(tasks)
  checkPrompts(options, tasks, values)
  const digest = createHash('sha256')
    .update(JSON.stringify(tasks.map(({ id, prompt, row }) => [id, prompt, row])))
    .digest('hex')
  return { size: tasks.length, digest, of: taskRounds(tasks, perRound, values.seed) }
}

/** Refuses before the first round what a later one could not sample: learned positions end, and so does a vocabulary. */
function checkPrompts(
  { policy, reference }: OnlineOptions,
  tasks: readonly Task[],
  { maxCompletionLength }: OnlineValues,
): void {
  const { tokenizer, decoder } = policy
  const { vocabSize } = decoder.config
  const limit = limitOf(reference === undefined ? [decoder] : [decoder, reference])
  if (limit === undefined && tokenizer.vocabSize <= vocabSize) return
  for (const task of tasks) {
    const ids = promptIds(policy, task)
    const { length } = ids
    checkIds(task.id, ids, vocabSize, tokenizer)
    if (limit === undefined || length + maxCompletionLength <= limit) continue
    const text = `expected prompt and maxCompletionLength within the ${limit} positions of the model, got ${length} + ${maxCompletionLength}`
    throw new WhetstoneError('E_LIMIT', task.id, text)
  }
}

function updateOf(values: OnlineValues, method: OnlineMethod): IterateOptions['update'] {
  const batchSize = values.perDeviceTrainBatchSize * values.gradientAccumulationSteps
  return {
    objective: method.objective,
    optimizer: adamwOptions.strip().parse(values),
    schedule: {
      learningRate: values.learningRate,
      lrSchedulerType: values.lrSchedulerType,
      lrSchedulerKwargs: values.lrSchedulerKwargs,
      warmupSteps: values.warmupSteps,
      warmupRatio: values.warmupRatio,
    },
    stepsPerRound: values.numIterations * Math.ceil(method.examplesPerRound / batchSize),
    batchSize,
    perDeviceTrainBatchSize: values.perDeviceTrainBatchSize,
    numIterations: values.numIterations,
    gradientCheckpointing: values.gradientCheckpointing,
    temperature: method.temperature,
    startFrom: method.startFrom,
    pool: method.pool,
    referenceSync: referenceSyncOf(values),
    toExamples: method.toExamples,
  }
}

/** Who judges, for the start of the log. */
const judgesNoted = (rewards: readonly string[], judge: PairJudge | undefined): string[] => [
  ...(rewards.length === 0 ? [] : [`rewards: ${rewards.join(', ')}`]),
  ...(judge === undefined ? [] : [`judge: ${judge.name || 'a function'}`]),
]

async function runOnline(
  options: OnlineParts,
  values: OnlineValues,
  method: OnlineMethod,
  emit: Emit,
): Promise<PhaseResult> {
  const { policy, prompts, reference, output, resume, signal, monitor } = options
  const rewards = rewardsOf(options, values, method)
  const tried = method.promptsTried ?? values.promptsPerRound
  const rounds = await roundsOf(options, values, tried, method)
  const score: Score = rewards.length === 0 ? async (traces) => [...traces] : scoreRewards(rewards)
  const update = updateOf(values, method)
  const device = policy.decoder.device.description
  const names = rewards.map(({ name }) => name)
  const notes = [`model ${policy.directory}`, `${rounds.size} prompts`, ...judgesNoted(names, options.judge)]
  emit({ type: 'start', step: 0, totalSteps: values.rounds * update.stepsPerRound, device, notes })
  const directory = output === undefined ? undefined : join(output, 'rounds')
  await tellEmptyResume({ directory: directory && join(directory, 'checkpoints'), resume: resume ?? false, emit })
  const result = await runRounds({
    policy,
    reference,
    tasks: rounds.of,
    explore: method.explore?.(score) ?? sampleGroup(samplingOf(values)),
    score: withGold(method.score?.(score, reference) ?? score, options.judges.functions && prompts),
    select: method.select(rewards),
    update,
    rounds: values.rounds,
    roundsPerEpoch: rounds.size / tried,
    limits: { shardSize: method.enough && values.promptsPerRound, enough: method.enough },
    statistics: statisticsOf(values, method),
    samples: values.samples,
    seed: values.seed,
    output: directory,
    resume,
    saveRounds: values.saveRounds,
    saveTotalLimit: values.saveTotalLimit,
    monitor,
    fingerprint: {
      ...values,
      prompts: rounds.digest,
      rewards: names,
      ...(options.judge !== undefined && { judge: options.judge.name }),
      ...(options.judges.hashes.length > 0 && { rewardModels: options.judges.hashes }),
    },
    emit,
    signal,
  })
  emit({ type: 'end', step: result.step, stepsDone: result.stepsDone, stopped: result.stopped })
  if (result.stopped && signal !== undefined) throw abortError(signal)
  return result
}
