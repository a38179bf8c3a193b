// The self-training loop: explore, score, select, update, for a number of rounds. Training goes through runPhase like
// everything else: the plan of a step asks for its round's rows, and the first step of a round makes them. So stopping
// and resuming work in every part of a round, by the phase's checkpoints and the round's shards.

import { join } from 'node:path'
import { readConfig } from '../../loss/config.js'
import type { Objective } from '../../loss/define.js'
import { objectiveKind } from '../../loss/objective.js'
import { checkArgument, checkOptions, kinds, listOf, optional, word } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { type LanguageModel, modelKind } from '../../src/generate/language-model.js'
import { type Decoder, decoderKind } from '../../src/models/decoder.js'
import { adamwOptions, scheduleOptions } from '../config/options.js'
import type { EncodedExample } from '../data/example.js'
import { microBatchOf } from '../data/micro-batch.js'
import { createWalk, type Walk } from '../data/plan.js'
import type { Emit } from '../events.js'
import { whileTrained } from '../in-training.js'
import { type PhaseResult, runPhase } from '../loop.js'
import type { AdamWConfig } from '../optimizer.js'
import { frozenParts, modelHash } from '../reference.js'
import type { ReferenceSync } from '../reference-sync.js'
import { keepStart } from '../restart.js'
import type { Schedule } from '../schedule.js'
import { type Task, taskKind } from '../tasks/task.js'
import { createTrainer, disposeTrainer, type MicroBatch } from '../trainer.js'
import { type Companion, companionKind } from './companion.js'
import { completionExamples, type ToExamples } from './examples.js'
import type { Explore } from './explore.js'
import { type RoundStatistics, roundStatistics } from './metrics.js'
import { type RolloutLimits, rollouts } from './rollouts.js'
import type { Score } from './score.js'
import type { Select } from './select.js'
import { byTask, completionOf, type Trace, tracesKind } from './trace.js'
import { runUntrained } from './untrained.js'

/** How the policy learns from what was selected. */
export interface UpdateOptions {
  readonly objective: Objective
  /** What is left out has the trainer's default. */
  readonly optimizer?: Partial<AdamWConfig>
  /** The peak rate, and what else differs from the trainer's default: `linear`, no warm-up. */
  readonly schedule: Pick<Schedule, 'learningRate'> & Partial<Omit<Schedule, 'totalSteps'>>
  readonly stepsPerRound: number
  /** Examples per optimizer step. */
  readonly batchSize: number
  /** Examples per micro-batch; default all of the step. */
  readonly perDeviceTrainBatchSize?: number
  /** Divides the logits of policy and reference, default 1; with it, traces must keep log-probs of sampling. */
  readonly temperature?: number
  /** No dropout of an adapter; default true but where completions are learnt by heart alone. */
  readonly disableDropout?: boolean
  /** Recompute layers in backward: less memory, same bits. Default false. */
  readonly gradientCheckpointing?: boolean
  /** Changes the reference as training goes on; default: it stays as it is. */
  readonly referenceSync?: ReferenceSync
  /**
   * Where the update of a round starts: at the policy as it is (default), or at the policy, the optimizer and the first
   * rate of the schedule as they were when the run began. What samples is the policy of the round before in either case.
   */
  readonly startFrom?: 'current' | 'base'
  /** What a round trains on: what it selected itself (default), or that of all rounds so far. */
  readonly pool?: 'replace' | 'accumulate'
  /** What the selected traces become; default each an example whose completions are trained. */
  readonly toExamples?: ToExamples
  /**
   * Passes over the examples of a round, each cut into equal parts, `stepsPerRound` parts in all; `batchSize` is then
   * what they come to. Default: one endless walk, `batchSize` examples each step.
   */
  readonly numIterations?: number
}

/** The parts of a self-training method. */
export interface IterateOptions {
  readonly policy: LanguageModel
  /** Frozen model for objectives with a prior. */
  readonly reference?: Decoder
  /** Tasks of a round (1-based): a pure function. */
  readonly tasks: (round: number) => readonly Task[]
  readonly explore: Explore
  readonly score: Score
  readonly select: Select
  /** Default none: rounds explore, score, select and report, and the policy stays as it is. */
  readonly update?: UpdateOptions
  readonly rounds: number
  /** Rounds that go once through all tasks, for the `epoch` of step events; default: they have none. */
  readonly roundsPerEpoch?: number
  /** How far the exploring of a round goes; default all of its tasks. */
  readonly limits?: RolloutLimits
  /** Fitted before each round explores, on what all rounds before it wrote; what it says of itself is reported. */
  readonly companion?: Companion
  /** What a round reports; default that of tasks with exact checkers. */
  readonly statistics?: RoundStatistics
  /** Samples to show per round; default none. */
  readonly samples?: number
  readonly seed: number
  /** Run folder; none: nothing is saved. */
  readonly output?: string
  readonly resume?: boolean
  /** Rounds between checkpoints, default 1. What a kill costs beyond it is training: samples are kept. */
  readonly saveRounds?: number
  /** Checkpoints to keep, 0: all; default 2. */
  readonly saveTotalLimit?: number
  /** Called behind each round; reports by events. */
  readonly monitor?: (round: number) => Promise<void>
  readonly fingerprint?: Readonly<Record<string, unknown>>
  readonly emit: Emit
  readonly signal?: AbortSignal
}

const iterateKinds = {
  policy: modelKind,
  reference: optional(decoderKind),
  tasks: kinds.call,
  explore: kinds.call,
  score: kinds.call,
  select: kinds.call,
  update: optional(kinds.object),
  rounds: kinds.count,
  roundsPerEpoch: optional(kinds.number),
  limits: optional(kinds.object),
  companion: optional(companionKind),
  statistics: optional(kinds.call),
  samples: optional(kinds.whole),
  seed: kinds.whole,
  output: optional(kinds.path),
  resume: optional(kinds.flag),
  saveRounds: optional(kinds.count),
  saveTotalLimit: optional(kinds.whole),
  monitor: optional(kinds.call),
  fingerprint: optional(kinds.object),
  emit: kinds.call,
  signal: optional(kinds.signal),
}

const updateKinds = {
  objective: objectiveKind,
  optimizer: optional(kinds.object),
  schedule: kinds.object,
  stepsPerRound: kinds.count,
  batchSize: kinds.count,
  perDeviceTrainBatchSize: optional(kinds.count),
  temperature: optional(kinds.number),
  disableDropout: optional(kinds.flag),
  gradientCheckpointing: optional(kinds.flag),
  referenceSync: optional(kinds.object),
  startFrom: optional(word('current', 'base')),
  pool: optional(word('replace', 'accumulate')),
  toExamples: optional(kinds.call),
  numIterations: optional(kinds.count),
}

const syncKinds = { refModelSyncSteps: kinds.number, refModelMixupAlpha: kinds.number }
const limitsKinds = { shardSize: optional(kinds.count), enough: optional(kinds.call) }

function checkIterate(options: IterateOptions): void {
  checkOptions('iterate', options, iterateKinds)
  const { limits = {}, update } = options
  checkOptions('iterate.limits', limits, limitsKinds)
  if (update === undefined) return
  checkOptions('iterate.update', update, updateKinds)
  if (update.referenceSync !== undefined) checkOptions('iterate.update.referenceSync', update.referenceSync, syncKinds)
}

/** What a round trains on. */
interface Round {
  readonly number: number
  readonly examples: readonly EncodedExample[]
  readonly walk: Walk
}

/**
 * Runs the loop to its end or to the signal.
 *
 * @throws WhetstoneError E_CONFIG, also while another run trains the policy, E_VERIFIER when a round keeps nothing, and what
 *   training throws
 */
export async function iterate(options: IterateOptions): Promise<PhaseResult> {
  checkIterate(options)
  const { update, policy } = options
  return update === undefined ? runRounds(options) : whileTrained(policy.decoder, () => runRounds(options))
}

/** {@link iterate} of a policy that the caller keeps others from training. */
export const runRounds = (options: IterateOptions): Promise<PhaseResult> =>
  trains(options) ? runTraining(options) : runUntrainedRounds(options)

/** A run whose rounds train. */
type Training = IterateOptions & { readonly update: UpdateOptions }

const trains = (options: IterateOptions): options is Training => options.update !== undefined

async function runUntrainedRounds(options: IterateOptions): Promise<PhaseResult> {
  const { policy, rounds, output, resume = false, signal } = options
  const hashed = output === undefined ? {} : { policySha256: await modelHash(policy.decoder) }
  const fingerprint = output === undefined ? {} : { ...hashed, ...(await fingerprintOf(options)) }
  const pool: Pool = new Map()
  const round = async (number: number): Promise<void> => {
    await attemptRound(options, number, pool)
    await options.monitor?.(number)
  }
  return runUntrained({ rounds, fingerprint, output, resume, signal, round })
}

async function runTraining(given: Training): Promise<PhaseResult> {
  const optimizer = readConfig('iterate.update.optimizer', adamwOptions, given.update.optimizer ?? {})
  const schedule = readConfig('iterate.update.schedule', scheduleOptions, given.update.schedule)
  const options: Training = { ...given, update: { ...given.update, optimizer, schedule } }
  const { policy, reference, update, rounds, emit, output } = options
  checkUpdate(options)
  const trainer = createTrainer({
    policy: policy.decoder,
    reference,
    objective: update.objective,
    optimizer,
    temperature: update.temperature,
    activationCheckpointing: update.gradientCheckpointing,
    disableDropout: update.disableDropout,
    referenceSync: update.referenceSync,
    seed: options.seed,
  })
  const totalSteps = rounds * update.stepsPerRound
  let current: Round | undefined
  const pool: Pool = new Map()
  const restart = update.startFrom === 'base' ? await keepStart(trainer) : undefined
  try {
    return await runPhase({
      name: 'round',
      model: policy,
      trainer,
      schedule: { ...schedule, totalSteps },
      restartSteps: restart && update.stepsPerRound,
      stepsPerEpoch: options.roundsPerEpoch && options.roundsPerEpoch * update.stepsPerRound,
      plan: async (step) => {
        const number = 1 + Math.floor(step / update.stepsPerRound)
        if (current?.number !== number) current = await makeRound(options, number, pool)
        if (step % update.stepsPerRound === 0) await restart?.()
        return planStep(options, current, step % update.stepsPerRound)
      },
      directory: output === undefined ? undefined : join(output, 'checkpoints'),
      fingerprint: output === undefined ? {} : await fingerprintOf(options),
      saveSteps: update.stepsPerRound * (options.saveRounds ?? 1),
      saveTotalLimit: options.saveTotalLimit,
      evalSteps: update.stepsPerRound,
      evaluate: async (step) => {
        await options.monitor?.(step / update.stepsPerRound)
        return undefined
      },
      resume: options.resume ?? false,
      emit,
      signal: options.signal,
    })
  } finally {
    disposeTrainer(trainer)
  }
}

/** Refuses before the first sample what the first step could not do. */
function checkUpdate({ reference, update }: Training): void {
  const { objective, stepsPerRound, numIterations = 1, referenceSync, startFrom } = update
  if (referenceSync !== undefined && startFrom === 'base')
    throw new WhetstoneError('E_CONFIG', 'startFrom', 'expected current beside a reference that follows the policy')
  if (objective.needs.reference && reference === undefined)
    throw new WhetstoneError('E_CONFIG', objective.name, 'expected a reference model, got none: pass `reference`')
  if (!Number.isInteger(stepsPerRound / numIterations) || stepsPerRound < 1)
    throw new WhetstoneError(
      'E_CONFIG',
      'stepsPerRound',
      `expected a multiple of the ${numIterations} passes of a round, got ${stepsPerRound}`,
    )
}

/** Everything that decides the arithmetic, as far as it is data. */
const fingerprintOf = async (options: IterateOptions): Promise<Record<string, unknown>> => ({
  ...(await frozenParts(options.policy.decoder)),
  referenceSha256: options.reference && (await modelHash(options.reference)),
  ...settingsOf(options),
})

const settingsOf = ({ fingerprint, rounds, seed, update }: IterateOptions): Record<string, unknown> => ({
  ...fingerprint,
  ...(update !== undefined && settingsOfUpdate(update)),
  rounds,
  seed,
})

const settingsOfUpdate = (update: UpdateOptions): Record<string, unknown> => ({
  ...update.optimizer,
  ...update.schedule,
  ...update.objective.config,
  objective: update.objective.name,
  stepsPerRound: update.stepsPerRound,
  batchSize: update.batchSize,
  ...(update.numIterations !== undefined && { numIterations: update.numIterations }),
  ...(update.temperature !== undefined && { temperature: update.temperature }),
  ...(update.disableDropout !== undefined && { disableDropout: update.disableDropout }),
  ...update.referenceSync,
  ...(update.startFrom !== undefined && { startFrom: update.startFrom }),
  ...(update.pool !== undefined && { pool: update.pool }),
})

/** What a round wrote, and what of it was selected. */
type Attempts = Readonly<Record<'traces' | 'kept', readonly Trace[]>>

/** Attempts of earlier rounds. */
type Pool = Map<number, Attempts>

const looksBack = ({ update, companion }: IterateOptions): boolean =>
  update?.pool === 'accumulate' || companion !== undefined

/** All rounds before this one, where they count; of a run that goes on from the samples that it kept. */
async function pooled(options: IterateOptions, number: number, pool: Pool): Promise<Attempts[]> {
  if (!looksBack(options)) return []
  const store = options.output === undefined ? undefined : { directory: options.output, resume: true }
  const lost = async (tasks: readonly Task[]): Promise<Trace[]> => {
    const text = `expected the samples of task '${tasks[0].id}', found none`
    throw new WhetstoneError('E_FORMAT', options.output ?? '', text)
  }
  for (let round = 1; round < number; round++)
    if (!pool.has(round)) {
      const traces = await rollouts(store, round, options.tasks(round), lost, options.limits)
      pool.set(round, { traces, kept: options.select(traces) })
    }
  return Array.from({ length: number - 1 }, (_, i) => pool.get(i + 1) ?? { traces: [], kept: [] })
}

/** The attempts of a round and what is selected of them, reported. */
async function attemptRound(options: IterateOptions, number: number, pool: Pool) {
  const { policy, reference, seed, explore, score, select, signal, emit, output, resume = false } = options
  const started = performance.now()
  const tasks = options.tasks(number)
  checkArgument(`iterate: tasks of round ${number}`, tasks, listOf(taskKind))
  const store = output === undefined ? undefined : { directory: output, resume }
  const earlier = await pooled(options, number, pool)
  const written = earlier.flatMap((round) => round.traces)
  const fitted = await options.companion?.fit(written, number)
  const attempt = async (part: readonly Task[]) => {
    const explored = await explore({ policy, reference, seed, round: number, roundTasks: tasks, signal }, part)
    checkArgument(`iterate: what explore gives in round ${number}`, explored, tracesKind)
    const scored = await score(explored)
    checkArgument(`iterate: what score gives in round ${number}`, scored, tracesKind)
    return scored
  }
  const traces = await rollouts(store, number, tasks, attempt, options.limits)
  const kept = select(traces)
  checkArgument(`iterate: what select gives in round ${number}`, kept, tracesKind)
  const statistics = (options.statistics ?? roundStatistics)(traces, kept)
  const seconds = (performance.now() - started) / 1000
  emit({ type: 'round', round: number, values: { ...statistics, ...fitted, seconds } })
  showSamples(options, traces, number)
  if (looksBack(options)) pool.set(number, { traces, kept })
  return { traces, kept, earlier }
}

async function makeRound(options: Training, number: number, pool: Pool): Promise<Round> {
  const { update, seed } = options
  const { traces, kept, earlier } = await attemptRound(options, number, pool)
  const trained = [...(update.pool === 'accumulate' ? earlier.flatMap((round) => round.kept) : []), ...kept]
  const examples = trained.length === 0 ? [] : (update.toExamples ?? completionExamples)(trained, number)
  checkArgument(`iterate: what toExamples gives in round ${number}`, examples, listOf(kinds.list))
  if (examples.length === 0) refuseRound(number, traces, kept)
  return { number, examples, walk: createWalk(examples.length, seed, number) }
}

function refuseRound(number: number, traces: readonly Trace[], kept: readonly Trace[]): never {
  const isCut = kept.length > 0 && kept.every(({ finishReason }) => finishReason === 'length')
  const message = isCut
    ? `all ${kept.length} samples that were kept were cut off, and such samples are not trained here: allow longer completions, or set maskTruncatedCompletions to false`
    : `none of ${traces.length} samples was good enough to train on: make the tasks easier or the warm-up longer`
  throw new WhetstoneError('E_VERIFIER', `round ${number}`, message)
}

/** Shows the first samples of a round, one per task. */
function showSamples({ samples = 0, emit }: IterateOptions, traces: readonly Trace[], round: number): void {
  for (const [trace] of byTask(traces).slice(0, samples)) {
    const { reward } = trace.scores
    const said = { prompt: trace.task.prompt, completion: completionOf(trace), ...(reward !== undefined && { reward }) }
    emit({ type: 'sample', name: 'round', round, ...said, correct: (reward ?? 0) > 0 })
  }
}

/** Micro-batches of a step of the round (0-based): a pure function of (seed, round, step). */
function planStep({ update }: Training, { examples, walk }: Round, step: number): MicroBatch[] {
  const { batchSize, perDeviceTrainBatchSize: size = batchSize } = update
  const [begin, count] = placesOf(update, examples.length, step)
  const chosen = walk(begin, count).map((example) => examples[example])
  const starts = Array.from({ length: Math.ceil(count / size) }, (_, i) => i * size)
  return starts.map((at) => microBatchOf(chosen.slice(at, at + size)))
}

/** Begin and count of a step's places in the walk over `size` examples. */
function placesOf({ batchSize, stepsPerRound, numIterations }: UpdateOptions, size: number, step: number) {
  if (numIterations === undefined) return [step * batchSize, batchSize] as const
  const perPass = stepsPerRound / numIterations
  const [pass, part] = [Math.floor(step / perPass), step % perPass]
  const begin = Math.floor((part * size) / perPass)
  // At least one example, also where a round has fewer examples than steps.
  return [pass * size + begin, Math.max(1, Math.floor(((part + 1) * size) / perPass) - begin)] as const
}
