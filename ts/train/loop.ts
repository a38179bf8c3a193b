// The loop around THE step: rate, step, events, evaluation, checkpoints, stop and resume. `train()` and every phase of
// self-training run through `runPhase`; they differ by the plan, a function from the step number to its micro-batches.

import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../src/base/errors.js'
import type { LanguageModel } from '../src/generate/language-model.js'
import { trainableOf } from '../src/models/decoder.js'
import { checkSameConfig } from './checkpoint/compare.js'
import { checkpointNames, newestCheckpoint } from './checkpoint/load.js'
import { stepFolder } from './checkpoint/manifest.js'
import { saveCheckpoint } from './checkpoint/save.js'
import type { Emit } from './events.js'
import { learningRateAt, type Schedule } from './schedule.js'
import { entriesOf, optimizerEntries, policyFiles, restoreTrainer, weightsFile } from './state.js'
import { type MicroBatch, refuseNonFinite, type StepResult, type Trainer, trainStep } from './trainer.js'

/** Micro-batches of optimizer step `step` (0-based): a pure function, whatever was run before. */
export type Plan = (step: number) => Promise<readonly MicroBatch[]>

/** A stretch of training with one schedule and one checkpoint folder. */
export interface Phase {
  readonly name: string
  readonly model: LanguageModel
  readonly trainer: Trainer
  readonly schedule: Schedule
  readonly plan: Plan
  /** Folder for checkpoints; none: nothing is saved. */
  readonly directory?: string
  /** Everything that decides the arithmetic; a resumed run must agree with it. */
  readonly fingerprint: Readonly<Record<string, unknown>>
  /** Steps between checkpoints; 0: at the end only. */
  readonly saveSteps: number
  readonly saveTotalLimit?: number
  /** Steps between calls of `evaluate`; 0: at the end only. */
  readonly evalSteps?: number
  /** Called behind every `evalSteps`-th step and the last; reports by events. */
  readonly evaluate?: (step: number) => Promise<void>
  readonly loggingSteps?: number
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
  /** Folder of the newest checkpoint, if the phase keeps any. */
  readonly checkpoint: string | undefined
}

/** Steps with NaN in a row that `nonFinite: 'skip'` allows. */
const skipLimit = 3

/**
 * Runs a phase to its end or to the signal, from its newest checkpoint when resuming.
 *
 * @throws WhetstoneError E_NONFINITE, E_MISMATCH (resumed with another configuration), E_CONFIG (started over an earlier
 *   run), E_IO, E_TORN
 */
export async function runPhase(phase: Phase): Promise<PhaseResult> {
  const { schedule, signal } = phase
  const resumed = phase.resume ? await resumePhase(phase) : await startPhase(phase)
  const first = resumed?.step ?? 0
  const saver = createSaver(phase, resumed?.checkpoint)
  const report = createReporter(phase)
  let last: StepResult | undefined
  let skipped = 0
  let step = first
  let saved = first
  while (step < schedule.totalSteps) {
    const batches = await unlessAborted(signal, () => phase.plan(step))
    if (batches === undefined) break
    last = await trainStep(phase.trainer, batches, learningRateAt(schedule, step))
    step++
    skipped = last.applied ? 0 : await handleNonFinite(phase, step, last, skipped)
    report(step, last)
    if (due(step, phase.saveSteps, schedule.totalSteps) && (await saver.save(step, step === schedule.totalSteps)))
      saved = step
    if (due(step, phase.evalSteps, schedule.totalSteps)) await unlessAborted(signal, async () => phase.evaluate?.(step))
  }
  if (step > saved) await saver.save(step, true)
  return { step, stepsDone: step - first, stopped: step < schedule.totalSteps, last, checkpoint: saver.newest() }
}

/** The work's result; undefined when the signal came before or during it. */
async function unlessAborted<R>(signal: AbortSignal | undefined, work: () => Promise<R>): Promise<R | undefined> {
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

/** Steps with NaN in a row, this one included; `step` is 1-based. */
async function handleNonFinite(phase: Phase, step: number, result: StepResult, skipped: number): Promise<number> {
  if (phase.nonFinite !== 'skip' || skipped + 1 > skipLimit) return refuseNonFinite(phase.trainer, step, result)
  phase.emit({ type: 'warning', message: `step ${step}: NaN or Inf found; nothing was changed, the step is skipped` })
  return skipped + 1
}

/** Reports every `loggingSteps`-th step, with tokens per second over what this process did. */
function createReporter(phase: Phase): (step: number, result: StepResult) => void {
  const { loggingSteps = 1, schedule, model, emit, name } = phase
  const start = performance.now()
  let tokens = 0
  return (step, result) => {
    tokens += result.tokens
    if (step % loggingSteps !== 0 && step !== schedule.totalSteps) return
    const seconds = (performance.now() - start) / 1000
    emit({
      type: 'step',
      phase: name,
      ...result,
      step,
      totalSteps: schedule.totalSteps,
      tokensPerSecond: tokens / seconds,
      seconds,
      memoryBytes: model.decoder.device.memory().peakBytes,
    })
  }
}

/** Saves the state at a step boundary; the folder, or undefined when the phase keeps none. */
async function save({ directory, trainer, model, ...phase }: Phase, step: number): Promise<string | undefined> {
  if (directory === undefined) return undefined
  const { policy, optimizer, history } = trainer
  const { weights, ...besides } = await policyFiles(policy, model.directory, join(directory, stepFolder(step)))
  const path = await saveCheckpoint(directory, {
    step,
    files: {
      [weights]: await entriesOf(trainableOf(policy)),
      'optimizer.safetensors': await optimizerEntries(trainer),
    },
    state: { phase: phase.name, step, updates: optimizer.updates, history, fingerprint: phase.fingerprint },
    modelDirectory: model.directory,
    ...besides,
    saveTotalLimit: phase.saveTotalLimit ?? 2,
    warn: (message) => phase.emit({ type: 'warning', message }),
  })
  phase.emit({ type: 'checkpoint', step, path })
  return path
}

/**
 * Saves, and lets training go on when that fails once: the checkpoint before still stands. A second failure in a row,
 * and any failure of the last save, is thrown.
 */
function createSaver(phase: Phase, found: string | undefined) {
  let newest = found
  let failed = false
  return {
    newest: () => newest,
    /** False: it failed, and that was said. */
    save: async (step: number, last: boolean): Promise<boolean> => {
      try {
        newest = (await save(phase, step)) ?? newest
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

/** Restores the newest checkpoint of the phase; undefined when there is none yet. */
async function resumePhase(phase: Phase): Promise<{ step: number; checkpoint: string } | undefined> {
  if (phase.directory === undefined) return undefined
  const found = await newestCheckpoint(phase.directory, (message) => phase.emit({ type: 'warning', message }))
  if (found === undefined) return undefined
  const { state } = found
  checkSameConfig(state.fingerprint as Record<string, unknown>, phase.fingerprint)
  const weights = await found.tensors(weightsFile(phase.trainer.policy))
  const optimizer = await found.tensors('optimizer.safetensors')
  try {
    await restoreTrainer(phase.trainer, weights, optimizer, Number(state.updates))
    phase.trainer.history = (state.history ?? {}) as Trainer['history']
  } finally {
    await Promise.all([weights.close(), optimizer.close()])
  }
  return { step: Number(state.step), checkpoint: found.directory }
}

/** Turns an abort into the error that a caller of `train` expects. */
export const abortError = (signal: AbortSignal): WhetstoneError =>
  new WhetstoneError('E_ABORTED', 'train', `stopped by its signal: ${messageOf(signal.reason)}`, {
    cause: signal.reason,
  })
