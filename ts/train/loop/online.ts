// What online methods share: the run around `iterate`: prompts, rewards, run folder, events. Settings: online-shape.ts.
// A recipe adds its own settings and says how samples become examples.

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type * as z from 'zod'
import { checkMembers, either, kinds, optional } from '../../src/base/arguments.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { type Decoder, decoderKind } from '../../src/models/decoder.js'
import { adamwOptions } from '../config/options.js'
import { type Resolved, resolveConfig, resolvedKind, type Source, sourcesKind } from '../config/resolve.js'
import { dataKind } from '../data/rows.js'
import { type Emit, type Run, startRun } from '../events.js'
import { whileTrained } from '../in-training.js'
import { abortError, type PhaseResult, tellEmptyResume } from '../loop.js'
import { checkTeacher, modelHash, openReference, type Reference } from '../reference.js'
import { referenceSyncOf } from '../reference-sync.js'
import { openRun } from '../run-folder.js'
import { checkSchedule } from '../schedule.js'
import { type Env, sourceKind, type TaskSource } from '../tasks/task.js'
import { type GivenCompanion, type OpenCompanion, openCompanion } from './companion.js'
import { episodeStatistics } from './episodes.js'
import { evaluateHeldOut, type HeldOut, readHeldOut } from './held-out.js'
import { type IterateOptions, runRounds } from './iterate.js'
import { type RoundStatistics, rewardStatistics, sampledEntropy } from './metrics.js'
import type { OnlineMethod } from './online-method.js'
import { isUntruncated, type OnlineValues } from './online-shape.js'
import { checkPrompts, isTaskSource, type PromptSource, readPrompts, taskRounds } from './prompts.js'
import {
  checkJudge,
  type GivenJudges,
  judgeKind,
  judgesNoted,
  type OpenJudges,
  openJudges,
  rewardsKind,
} from './reward-model.js'
import { checkerReward, environmentReward, missingEosReward, nameRewards, scoreRewards, withGold } from './rewards.js'
import { isOwn } from './rivals.js'
import { checkEnv, samplerOf } from './sampler.js'
import type { Score } from './score.js'

export type { OnlineMethod, ScoreParts } from './online-method.js'

/** What an online method works with, besides its settings. */
export interface OnlineOptions extends GivenJudges, GivenCompanion {
  readonly policy: LanguageModel
  /** A task source, a file of rows with `prompt`, or such rows. */
  readonly prompts: PromptSource
  /** Prompts to evaluate on: a file of rows, or rows. Task sources have tasks of their own for that: `evalTasks`. */
  readonly evalData?: Exclude<PromptSource, TaskSource>
  /**
   * Makes the environment to act in (TRL's `environment_factory`): samples are episodes of up to `maxEpisodeSteps` actions, and what
   * it pays is the reward `env`, beside those of `rewardFuncs`. Only for methods whose samples are independent of each other.
   */
  readonly env?: () => Env
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
  evalData: optional(dataKind),
  env: optional(kinds.call),
  rewardFuncs: optional(rewardsKind),
  judge: optional(judgeKind),
  companion: optional(either(modelKind, kinds.path)),
  reference: optional(decoderKind),
  output: optional(kinds.path),
  resume: optional(kinds.flag),
  signal: optional(kinds.signal),
  monitor: optional(kinds.call),
  sources: optional(sourcesKind),
  record: optional(resolvedKind),
}

/** The settings of a method from their sources. */
export const settingsFrom = <S extends z.ZodRawShape>(schema: z.ZodObject<S>, sources: readonly Source[]) =>
  resolveConfig(schema, sources, undefined, Object.keys(onlineKinds))

/** Settings among the options of a call. */
const given = (options: OnlineOptions): Record<string, unknown> => {
  const { policy, prompts, evalData, env, rewardFuncs, judge, companion, reference, output, ...others } = options
  const { resume, signal, monitor, sources, record, ...settings } = others
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
  checkEnv(options.env, method)
  if (method.objective !== undefined) checkTeacher(method.objective, options.reference)
  checkJudge(options.judge, { ...method, ...config.values })
  const { output, resume = false, record = config } = options
  const warn = (message: string) => emit({ type: 'warning', message })
  const folder = output === undefined ? undefined : await openRun(output, record, resume, warn)
  let started: Reference | undefined
  let judges: OpenJudges | undefined
  let companion: OpenCompanion | undefined
  try {
    judges = await openJudges(options, options.policy.decoder.device)
    started = await referenceOf(options, method, config.values)
    companion = await openCompanion(options, method.companion)
    const own = { reference: started?.decoder, judges, companion, heldOut: heldOutMethod(config.values, methodOf) }
    const parts = { ...options, ...own }
    return await runOnline(parts, config.values, method, (event) => {
      folder?.log(event)
      emit(event)
    })
  } finally {
    started?.dispose()
    judges?.dispose()
    companion?.dispose()
    await folder?.close()
  }
}

/** The model to compare with, when the method looks at one. */
const referenceOf = async (
  { policy, reference }: OnlineOptions,
  { objective, needsReference = false }: OnlineMethod,
  { syncRefModel }: OnlineValues,
): Promise<Reference | undefined> =>
  needsReference || objective?.needs.reference ? openReference(policy.decoder, reference, syncRefModel) : undefined

/** The method with as many samples as an evaluation draws. */
const heldOutMethod = <V extends OnlineValues>(values: V, methodOf: (values: V) => OnlineMethod): OnlineMethod =>
  methodOf({ ...values, numGenerations: values.numGenerationsEval ?? values.numGenerations })

/** The options of a run whose models are there. */
interface OnlineParts extends Omit<OnlineOptions, 'companion'> {
  readonly judges: OpenJudges
  readonly companion: OpenCompanion | undefined
  /** The method as evaluations have it. */
  readonly heldOut: OnlineMethod
}

/** The rewards of a run: what was passed, or the source's checker, or what the environment pays; then the method's own. */
function rewardsOf(
  { prompts, env, judges }: OnlineParts,
  values: OnlineValues,
  { unrewarded, rewards = [] }: OnlineMethod,
) {
  const { rewardWeights, missingEosPenalty } = values
  const checkers = env === undefined && isTaskSource(prompts) ? [checkerReward(prompts)] : []
  const passed = judges.functions ?? checkers
  const asked = rewardWeights !== undefined || missingEosPenalty !== undefined
  const isOptional = unrewarded === true || judges.judge !== undefined
  if (passed.length === 0 && !asked && env === undefined && isOptional) return []
  const named = passed.length === 0 && env !== undefined ? [] : nameRewards(passed, rewardWeights)
  const own = [
    ...rewards,
    ...(env === undefined ? [] : [environmentReward]),
    ...(missingEosPenalty === undefined ? [] : [missingEosReward(missingEosPenalty)]),
  ]
  return own.length === 0 ? named : [...named, ...nameRewards(own)]
}

const statisticsOf =
  (values: OnlineValues, { statistics }: OnlineMethod): RoundStatistics =>
  (traces, kept) => {
    const own = traces.filter(isOwn)
    const isWhole = values.temperature === 1 && isUntruncated(values) && own.length > 0
    return {
      ...(own.length > 0 ? rewardStatistics(own, kept.filter(isOwn)) : rewardStatistics(traces, kept)),
      ...episodeStatistics(traces),
      ...statistics?.(traces, kept),
      ...(isWhole && { entropy: sampledEntropy(own) }),
    }
  }

/** Prompts of every round, and what tells them from others when a run goes on. */
async function roundsOf(options: OnlineParts, values: OnlineValues, perRound: number, method: OnlineMethod) {
  const { prompts, policy } = options
  const { rounds, trainTasks = rounds * perRound, chatTemplateKwargs } = values
  const tasks = await readPrompts(prompts, policy.tokenizer, trainTasks, chatTemplateKwargs)
  method.checkTasks?.(tasks)
  checkPrompts(options, tasks, values.maxCompletionLength)
  const digest = createHash('sha256')
    .update(JSON.stringify(tasks.map(({ id, prompt, row }) => [id, prompt, row])))
    .digest('hex')
  return { size: tasks.length, digest, of: taskRounds(tasks, perRound, values.seed) }
}

/** What evaluates behind rounds, where there are prompts for it. */
async function evaluationOf(
  options: OnlineParts,
  values: OnlineValues,
  {
    score,
    scoreOf,
    ...parts
  }: Pick<HeldOut, 'stepsPerRound' | 'emit' | 'score'> & {
    readonly scoreOf: (method: OnlineMethod) => Score
  },
): Promise<((round: number) => Promise<void>) | undefined> {
  const tasks = await readHeldOut(options, values)
  if (tasks.length === 0) return undefined
  const { policy, reference, signal, heldOut } = options
  const { numGenerations, numGenerationsEval = numGenerations } = values
  return evaluateHeldOut({
    ...parts,
    ...{ policy, reference, signal, tasks },
    explore:
      heldOut.exploreHeldOut ??
      heldOut.explore?.(score, options.companion?.model) ??
      samplerOf({ ...values, numGenerations: numGenerationsEval }, options.env, heldOut.logps),
    score: scoreOf(heldOut),
    statistics: statisticsOf(values, heldOut),
    ...{ seed: values.seed, evalRounds: values.evalRounds, rounds: values.rounds },
  })
}

function updateOf(values: OnlineValues, { objective, ...method }: OnlineMethod): IterateOptions['update'] {
  if (objective === undefined) return undefined
  const batchSize = values.perDeviceTrainBatchSize * values.gradientAccumulationSteps
  const { examplesPerRound = values.promptsPerRound * values.numGenerations } = method
  return {
    objective,
    optimizer: adamwOptions.strip().parse(values),
    schedule: {
      learningRate: values.learningRate,
      lrSchedulerType: values.lrSchedulerType,
      lrSchedulerKwargs: values.lrSchedulerKwargs,
      warmupSteps: values.warmupSteps,
      warmupRatio: values.warmupRatio,
    },
    stepsPerRound: values.numIterations * Math.ceil(examplesPerRound / batchSize),
    batchSize,
    perDeviceTrainBatchSize: values.perDeviceTrainBatchSize,
    numIterations: values.numIterations,
    disableDropout: values.disableDropout,
    gradientCheckpointing: values.gradientCheckpointing,
    temperature: method.temperature,
    startFrom: method.startFrom,
    pool: method.pool,
    referenceSync: referenceSyncOf(values),
    toExamples: method.toExamples,
  }
}

/** What a run that goes on must have in common with the one that began. */
async function fingerprintOf(
  { judges: { judge, hashes }, companion }: OnlineParts,
  values: OnlineValues,
  { models }: OnlineMethod,
  rest: { readonly prompts: string; readonly rewards: readonly string[] },
): Promise<Readonly<Record<string, unknown>>> {
  return {
    ...values,
    ...rest,
    ...(judge !== undefined && { judge: judge.name }),
    ...(hashes.length > 0 && { rewardModels: hashes }),
    ...(companion !== undefined && { companion: companion.hash }),
    ...(models !== undefined && { models: await Promise.all(models.map(modelHash)) }),
  }
}

async function runOnline(
  options: OnlineParts,
  values: OnlineValues,
  method: OnlineMethod,
  emit: Emit,
): Promise<PhaseResult> {
  const { policy, prompts, env, reference, companion, output, resume, signal, monitor } = options
  const { judge, functions } = options.judges
  const { model } = companion ?? {}
  const rewards = rewardsOf(options, values, method)
  const tried = method.promptsTried ?? values.promptsPerRound
  const rounds = await roundsOf(options, values, tried, method)
  const score: Score = rewards.length === 0 ? async (traces) => [...traces] : scoreRewards(rewards)
  const update = updateOf(values, method)
  const device = policy.decoder.device.description
  const names = rewards.map(({ name }) => name)
  const notes = [`model ${policy.directory}`, `${rounds.size} prompts`, ...judgesNoted(names, judge)]
  const stepsPerRound = update?.stepsPerRound ?? 1
  emit({ type: 'start', step: 0, totalSteps: values.rounds * stepsPerRound, device, notes })
  const directory = output === undefined ? undefined : join(output, 'rounds')
  await tellEmptyResume({ directory: update && directory && join(directory, 'checkpoints'), resume: !!resume, emit })
  const scoreOf = (own: OnlineMethod) =>
    withGold(
      own.score?.({ rewards: score, judge, reference, companion: model }) ?? score,
      env === undefined && functions ? prompts : undefined,
    )
  const evaluate = await evaluationOf(options, values, { score, scoreOf, stepsPerRound, emit })
  const result = await runRounds({
    policy,
    reference,
    tasks: rounds.of,
    explore: method.explore?.(score, model) ?? samplerOf(values, options.env, method.logps),
    score: scoreOf(method),
    select: method.select?.(rewards) ?? ((traces) => [...traces]),
    update,
    roundsPerEpoch: rounds.size / tried,
    companion,
    limits: { shardSize: method.enough && values.promptsPerRound, enough: method.enough },
    statistics: statisticsOf(values, method),
    ...{ rounds: values.rounds, samples: values.samples, seed: values.seed },
    output: directory,
    resume,
    ...{ saveRounds: values.saveRounds, saveTotalLimit: values.saveTotalLimit },
    monitor: async (round) => {
      await evaluate?.(round)
      await monitor?.(round)
    },
    fingerprint: await fingerprintOf(options, values, method, { prompts: rounds.digest, rewards: names }),
    emit,
    signal,
  })
  emit({ type: 'end', step: result.step, stepsDone: result.stepsDone, stopped: result.stopped })
  if (result.stopped && signal !== undefined) throw abortError(signal)
  return result
}
