// The loop around THE step: rate, step, events, evaluation, checkpoints, stop and resume. `train()` and every phase of
// self-training run through `runPhase`; they differ by the plan, a function from the step number to its micro-batches.

import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../src/base/errors.js'
import type { LanguageModel } from '../src/generate/language-model.js'
import { checkpointNames, stepFolder } from '../src/io/model-folder.js'
import { trainableOf } from '../src/models/decoder.js'
import { checkSameConfig } from './checkpoint/compare.js'
import { newestCheckpoint, readCheckpoint } from './checkpoint/load.js'
import { saveCheckpoint } from './checkpoint/save.js'
import type { Emit } from './events.js'
import { checkSchedule, learningRateAt, type Schedule } from './schedule.js'
import { optimizerEntries, policyEntries, policyFiles, readFlat, restoreTrainer, weightsFile } from './state.js'
import { addStep, meansOf, noSteps, readSteps, type StepSums } from './step-means.js'
import { type MicroBatch, refuseNonFinite, type StepResult, type Trainer, trainStep } from './trainer.js'
import {
  type BestCheckpoint,
  improves,
  isOver,
  judge,
  settle,
  unwatched,
  type Watch,
  type WatchState,
} from './watch.js'

/** Micro-batches of optimizer step `step` (0-based): a pure function, whatever was run before. */
export type Plan = (step: number) => Promise<readonly MicroBatch[]>

/** A stretch of training with one schedule and one checkpoint folder. */
export interface Phase {
  readonly name: string
  readonly model: LanguageModel
  readonly trainer: Trainer
  readonly schedule: Schedule
  /** Steps behind which the rates of the schedule begin again; default: never. Its `totalSteps` are those of all. */
  readonly restartSteps?: number
  readonly plan: Plan
  /** Folder for checkpoints; none: nothing is saved. */
  readonly directory?: string
  /** Everything that decides the arithmetic; a resumed run must agree with it. */
  readonly fingerprint: Readonly<Record<string, unknown>>
  /** Fields of it that a resumed run may change. */
  readonly free?: readonly string[]
  /** Steps between checkpoints; 0: at the end only. */
  readonly saveSteps: number
  /** Save behind every evaluation that is better than the best checkpoint's, too. */
  readonly saveBest?: boolean
  /** Default 2; 0 keeps all. */
  readonly saveTotalLimit?: number
  /** Leave the optimizer out of checkpoints, which then cannot be resumed. */
  readonly saveOnlyModel?: boolean
  /** Steps between calls of `evaluate`; 0: at the end only. */
  readonly evalSteps?: number
  /** Called behind every `evalSteps`-th step and the last; reports by events, and gives what `watch` looks at. */
  readonly evaluate?: (step: number) => Promise<Readonly<Record<string, number>> | undefined>
  /** What evaluations decide. */
  readonly watch?: Watch
  /** Steps between step events, default 1; their loss and statistics are means over the steps in between. */
  readonly loggingSteps?: number
  /** Steps of one pass over the data, for the `epoch` of step events; none: they have none. */
  readonly stepsPerEpoch?: number
  readonly nonFinite?: 'stop' | 'skip'
  readonly resume: boolean
  readonly emit: Emit
  readonly signal?: AbortSignal
}

/** How a phase ended. */
export interface PhaseResult {
  /** Steps behind the start of the phase. */
  readonly step: number
  /** Steps that this process did. */
  readonly stepsDone: number
  /** True when the signal stopped it before its end; the state is saved. */
  readonly stopped: boolean
  readonly last: StepResult | undefined
  /** Folder of the newest checkpoint, or of the best where its weights were loaded; if the phase keeps any. */
  readonly checkpoint: string | undefined
  /** The best checkpoint, where evaluations are watched. */
  readonly best?: BestCheckpoint
  /** True when the patience with evaluations came to its end before the last step. */
  readonly stoppedEarly?: boolean
}

/** Steps with NaN in a row that `nonFinite: 'skip'` allows. */
const skipLimit = 3

/**
 * Runs a phase to its end, to the end of its patience or to the signal, from its newest checkpoint when resuming.
 *
 * @throws WhetstoneError E_NONFINITE, E_MISMATCH (resumed with another configuration), E_CONFIG (started over an earlier
 *   run), E_IO, E_TORN
 */
export async function runPhase(phase: Phase): Promise<PhaseResult> {
  const { schedule, signal } = phase
  checkSchedule(schedule)
  const resumed = phase.resume ? await resumePhase(phase) : await startPhase(phase)
  const first = resumed?.step ?? 0
  const watcher = createWatcher(phase, resumed?.watch ?? unwatched)
  const reporter = createReporter(phase, resumed?.unreported ?? noSteps)
  const saver = createSaver(phase, watcher, reporter, resumed?.checkpoint)
  let last: StepResult | undefined
  let skipped = 0
  let step = first
  let saved = first
  const isDone = () => step === schedule.totalSteps || watcher.isOver()
  if (resumed !== undefined) await watcher.catchUp(step)
  while (!isDone()) {
    const batches = await unlessAborted(signal, () => phase.plan(step))
    if (batches === undefined) break
    last = await trainStep(phase.trainer, batches, rateAt(phase, step))
    step++
    skipped = last.applied ? 0 : await handleNonFinite(phase, step, last, skipped)
    reporter.report(step, last)
    await watcher.look(step)
    if ((isDone() || watcher.saves(step)) && (await saver.save(step, isDone()))) saved = step
  }
  if (step > saved) await saver.save(step, true)
  const stopped = !isDone() || watcher.owes(step)
  const found = { step, stepsDone: step - first, stopped, last, checkpoint: saver.newest() }
  return phase.watch === undefined ? found : withBest(phase, phase.watch, watcher.state(), found)
}

function rateAt({ schedule, restartSteps }: Phase, step: number): number {
  if (restartSteps === undefined) return learningRateAt(schedule, step)
  return learningRateAt({ ...schedule, totalSteps: restartSteps }, step % restartSteps)
}

/** The result with what evaluations have decided; loads the best weights where that was asked for. */
async function withBest(
  { directory, trainer, schedule }: Phase,
  { metric, loadBest }: Watch,
  { best }: WatchState,
  result: PhaseResult,
): Promise<PhaseResult> {
  const { step, stopped } = result
  const stoppedEarly = !stopped && step < schedule.totalSteps
  if (directory === undefined || best === undefined) return { ...result, stoppedEarly }
  const checkpoint = join(directory, stepFolder(best.step))
  const found = { ...result, stoppedEarly, best: { ...best, metric, checkpoint } }
  if (!loadBest || stopped) return found
  if (best.step !== step) await loadWeights(trainer, checkpoint)
  return { ...found, checkpoint }
}

/** Puts a checkpoint's weights into the policy. */
async function loadWeights({ policy }: Trainer, checkpoint: string): Promise<void> {
  const weights = await (await readCheckpoint(checkpoint)).tensors(weightsFile(policy))
  try {
    const write = await readFlat(trainableOf(policy), weights)
    write()
  } finally {
    await weights.close()
  }
}

/** The work's result; undefined when the signal came before or during it. */
export async function unlessAborted<R>(
  signal: AbortSignal | undefined,
  work: () => Promise<R>,
): Promise<R | undefined> {
  const aborted = () => signal?.aborted === true
  if (aborted()) return undefined
  try {
    return await work()
  } catch (error) {
    if (aborted() && WhetstoneError.isInstance(error) && error.code === 'E_ABORTED') return undefined
    throw error
  }
}

const due = (step: number, every: number | undefined, total: number): boolean =>
  step === total || (every !== undefined && every > 0 && step % every === 0)

/** Evaluates when it is time, and knows what the evaluations have come to. */
function createWatcher(phase: Phase, found: WatchState) {
  const { watch, signal, evalSteps, saveSteps, saveBest, schedule } = phase
  let state = found
  const saves = (step: number) =>
    due(step, saveSteps, schedule.totalSteps) || (saveBest === true && improves(watch, state, step))
  const owes = (step: number) =>
    phase.evaluate !== undefined && state.evaluated < step && due(step, evalSteps, schedule.totalSteps)
  const look = async (step: number) => {
    if (!owes(step)) return
    const values = await unlessAborted(signal, async () => ({ found: await phase.evaluate?.(step) }))
    if (values !== undefined) state = judge(watch, state, step, values.found)
  }
  const settled = (step: number) => (saves(step) || isOver(watch, state) ? settle(watch, state, step) : state)
  return {
    saves,
    /** Is there an evaluation of this step that a signal kept from being made? */
    owes,
    look,
    isOver: () => isOver(watch, state),
    state: () => state,
    /** The state with this step's checkpoint: one that only a signal asked for does not compete with the others. */
    settled,
    accept: (next: WatchState) => {
      state = next
    },
    /** Makes the evaluation that a signal kept from being made behind the step whose checkpoint is resumed. */
    catchUp: async (step: number) => {
      if (step === 0 || !owes(step)) return
      await look(step)
      state = settled(step)
    },
  }
}

type Watcher = ReturnType<typeof createWatcher>

/** Steps with NaN in a row, this one included; `step` is 1-based. */
async function handleNonFinite(phase: Phase, step: number, result: StepResult, skipped: number): Promise<number> {
  if (phase.nonFinite !== 'skip' || skipped + 1 > skipLimit) return refuseNonFinite(phase.trainer, step, result)
  phase.emit({ type: 'warning', message: `step ${step}: NaN or Inf found; nothing was changed, the step is skipped` })
  return skipped + 1
}

/**
 * Reports every `loggingSteps`-th step, with tokens per second over what this process did.
 *
 * @param found steps behind the last event of a run that is resumed
 */
function createReporter(phase: Phase, found: StepSums) {
  const { loggingSteps = 1, schedule, model, emit, name, stepsPerEpoch } = phase
  const start = performance.now()
  let tokens = 0
  let unreported = found
  const report = (step: number, result: StepResult): void => {
    tokens += result.tokens
    unreported = addStep(unreported, result)
    if (step % loggingSteps !== 0 && step !== schedule.totalSteps) return
    const means = meansOf(unreported)
    unreported = noSteps
    const seconds = (performance.now() - start) / 1000
    emit({
      type: 'step',
      phase: name,
      ...result,
      ...means,
      step,
      ...(stepsPerEpoch !== undefined && { epoch: step / stepsPerEpoch }),
      totalSteps: schedule.totalSteps,
      tokensPerSecond: tokens / seconds,
      seconds,
      memoryBytes: model.decoder.device.memory().peakBytes,
    })
  }
  return { report, unreported: () => unreported }
}

type Reporter = ReturnType<typeof createReporter>

/** Saves the state at a step boundary; the folder, or undefined when the phase keeps none. */
async function save(
  { directory, trainer, model, ...phase }: Phase,
  watch: WatchState,
  unreported: StepSums,
  step: number,
): Promise<string | undefined> {
  if (directory === undefined) return undefined
  const { policy, optimizer, history, numTokens } = trainer
  const { weights, ...besides } = await policyFiles(model)
  const path = await saveCheckpoint(directory, {
    step,
    files: {
      [weights]: await policyEntries(policy),
      ...(phase.saveOnlyModel !== true && { 'optimizer.safetensors': await optimizerEntries(trainer) }),
    },
    state: {
      phase: phase.name,
      step,
      updates: optimizer.updates,
      history,
      numTokens,
      watch,
      unreported,
      fingerprint: phase.fingerprint,
    },
    modelDirectory: model.directory,
    ...besides,
    saveTotalLimit: phase.saveTotalLimit ?? 2,
    bestStep: watch.best?.step,
    warn: (message) => phase.emit({ type: 'warning', message }),
  })
  phase.emit({ type: 'checkpoint', step, path })
  return path
}

/**
 * Saves, and lets training go on when that fails once: the checkpoint before still stands. A second failure in a row,
 * and any failure of the last save, is thrown.
 */
function createSaver(phase: Phase, watcher: Watcher, reporter: Reporter, found: string | undefined) {
  let newest = found
  let failed = false
  return {
    newest: () => newest,
    /** False: it failed, and that was said. */
    save: async (step: number, last: boolean): Promise<boolean> => {
      try {
        const settled = watcher.settled(step)
        const path = await save(phase, settled, reporter.unreported(), step)
        if (path !== undefined) watcher.accept(settled)
        newest = path ?? newest
        failed = false
        return true
      } catch (error) {
        if (failed || last) throw error
        failed = true
        phase.emit({ type: 'warning', message: `the checkpoint of step ${step} was not saved: ${messageOf(error)}` })
        return false
      }
    },
  }
}

/** Refuses to start over where checkpoints lie: the old ones would be taken for the new run's. */
async function startPhase({ directory }: Phase): Promise<undefined> {
  const [newest] = directory === undefined ? [] : await checkpointNames(directory)
  if (newest === undefined) return undefined
  throw new WhetstoneError(
    'E_CONFIG',
    directory ?? '',
    `expected no checkpoints, found ${newest}: resume or use another folder`,
  )
}

/** Says of a run to go on with that it had saved nothing yet. */
export async function tellEmptyResume({ directory, resume, emit }: Pick<Phase, 'directory' | 'resume' | 'emit'>) {
  if (!resume || directory === undefined || (await checkpointNames(directory)).length > 0) return
  emit({ type: 'warning', message: 'the run has no checkpoint yet: it begins at step 0 again' })
}

/** Where a phase goes on. */
interface Resumed {
  readonly step: number
  readonly checkpoint: string
  readonly watch: WatchState
  readonly unreported: StepSums
}

/** Restores the newest checkpoint of the phase; undefined when there is none yet. */
async function resumePhase(phase: Phase): Promise<Resumed | undefined> {
  if (phase.directory === undefined) return undefined
  const found = await newestCheckpoint(phase.directory, (message) => phase.emit({ type: 'warning', message }))
  if (found === undefined) return undefined
  const { state } = found
  checkSameConfig(state.fingerprint as Record<string, unknown>, phase.fingerprint, phase.free)
  const { totalSteps } = phase.schedule
  if (Number(state.step) > totalSteps)
    throw new WhetstoneError(
      'E_MISMATCH',
      'maxSteps',
      `expected at least the ${Number(state.step)} steps that are done, got ${totalSteps}`,
    )
  const weights = await found.tensors(weightsFile(phase.trainer.policy))
  const optimizer = await found.tensors('optimizer.safetensors')
  try {
    await restoreTrainer(phase.trainer, weights, optimizer, Number(state.updates))
    phase.trainer.history = (state.history ?? {}) as Trainer['history']
    phase.trainer.numTokens = Number(state.numTokens ?? 0)
  } finally {
    await Promise.all([weights.close(), optimizer.close()])
  }
  const watch = (state.watch ?? unwatched) as WatchState
  const unreported = readSteps(state.unreported)
  return { step: Number(state.step), checkpoint: found.directory, watch, unreported }
}

/** Turns an abort into the error that a caller of `train` expects. */
export const abortError = (signal: AbortSignal): WhetstoneError =>
  new WhetstoneError('E_ABORTED', 'train', `stopped by its signal: ${messageOf(signal.reason)}`, {
    cause: signal.reason,
  })
