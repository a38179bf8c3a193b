// The loop around THE step: rate, step, events, evaluation, checkpoints, stop and resume. `train()` and every phase of
// self-training run through `runPhase`; they differ by the plan, a function from the step number to its micro-batches.

import { messageOf, WhetstoneError } from '../src/base/errors.js'
import type { LanguageModel } from '../src/generate/language-model.js'
import { newestCheckpoint } from './checkpoint/load.js'
import { saveCheckpoint } from './checkpoint/save.js'
import type { Emit } from './events.js'
import { learningRateAt, type Schedule } from './schedule.js'
import { entriesOf, optimizerEntries, restoreTrainer } from './state.js'
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
}

/** Steps with NaN in a row that `nonFinite: 'skip'` allows. */
const skipLimit = 3

/**
 * Runs a phase to its end or to the signal, from its newest checkpoint when resuming.
 *
 * @throws WhetstoneError E_NONFINITE, E_MISMATCH (resumed with another configuration), E_IO, E_TORN
 */
export async function runPhase(phase: Phase): Promise<PhaseResult> {
  const { trainer, schedule, emit } = phase
  const first = phase.resume ? await resumePhase(phase) : 0
  const clock = createClock()
  let last: StepResult | undefined
  let skipped = 0
  let step = first
  let saved = first
  for (; step < schedule.totalSteps && phase.signal?.aborted !== true; ) {
    last = await trainStep(trainer, await phase.plan(step), learningRateAt(schedule, step))
    if (!last.applied) skipped = await handleNonFinite(phase, step, skipped)
    else skipped = 0
    step++
    if (step % (phase.loggingSteps ?? 1) === 0 || step === schedule.totalSteps)
      emit(stepEvent(phase, step, last, clock))
    if (due(step, phase.evalSteps, schedule.totalSteps)) await phase.evaluate?.(step)
    if (due(step, phase.saveSteps, schedule.totalSteps)) {
      await save(phase, step)
      saved = step
    }
  }
  if (step > saved && phase.signal?.aborted === true) await save(phase, step)
  return { step, stepsDone: step - first, stopped: step < schedule.totalSteps, last }
}

const due = (step: number, every: number | undefined, total: number): boolean =>
  step === total || (every !== undefined && every > 0 && step % every === 0)

async function handleNonFinite(phase: Phase, step: number, skipped: number): Promise<number> {
  if (phase.nonFinite !== 'skip' || skipped + 1 > skipLimit) return refuseNonFinite(phase.trainer, step)
  phase.emit({ type: 'warning', message: `step ${step}: NaN or Inf found; nothing was changed, the step is skipped` })
  return skipped + 1
}

/** Tokens per second over what this process did, without the first step (it warms caches up). */
function createClock() {
  const start = performance.now()
  let counted = 0
  let from = start
  return {
    add(tokens: number) {
      if (counted === 0) from = start
      counted += tokens
      const seconds = (performance.now() - from) / 1000
      return { tokensPerSecond: counted / seconds, seconds }
    },
  }
}

function stepEvent(phase: Phase, step: number, result: StepResult, clock: ReturnType<typeof createClock>) {
  return {
    type: 'step' as const,
    phase: phase.name,
    ...result,
    step,
    totalSteps: phase.schedule.totalSteps,
    ...clock.add(result.tokens),
    memoryBytes: phase.model.decoder.device.memory().peakBytes,
  }
}

/** Saves the state at a step boundary. A failed save is reported and training goes on, once. */
async function save(phase: Phase, step: number): Promise<void> {
  const { directory, trainer, model, emit } = phase
  if (directory === undefined) return
  const path = await saveCheckpoint(directory, {
    step,
    files: {
      'model.safetensors': await entriesOf(model.decoder.parameters),
      'optimizer.safetensors': await optimizerEntries(trainer),
    },
    state: { phase: phase.name, step, updates: trainer.optimizer.updates, fingerprint: phase.fingerprint },
    modelDirectory: model.directory,
    saveTotalLimit: phase.saveTotalLimit ?? 2,
  })
  emit({ type: 'checkpoint', step, path })
}

/** Restores the newest checkpoint of the phase; 0 when there is none yet. */
async function resumePhase(phase: Phase): Promise<number> {
  if (phase.directory === undefined) return 0
  const found = await newestCheckpoint(phase.directory, (message) => phase.emit({ type: 'warning', message }))
  if (found === undefined) return 0
  const { state } = found
  checkFingerprint(phase.fingerprint, state.fingerprint as Record<string, unknown>)
  const weights = await found.tensors('model.safetensors')
  const optimizer = await found.tensors('optimizer.safetensors')
  try {
    await restoreTrainer(phase.trainer, weights, optimizer, Number(state.updates))
  } finally {
    await Promise.all([weights.close(), optimizer.close()])
  }
  return Number(state.step)
}

function checkFingerprint(now: Readonly<Record<string, unknown>>, then: Readonly<Record<string, unknown>>): void {
  for (const key of new Set([...Object.keys(now), ...Object.keys(then)])) {
    const [a, b] = [JSON.stringify(then[key]), JSON.stringify(now[key])]
    if (a !== b)
      throw new WhetstoneError(
        'E_MISMATCH',
        key,
        `the run was started with ${a}, now ${b}: resume with the same settings, or start a new run`,
      )
  }
}

/** Turns an abort into the error that a caller of `train` expects. */
export const abortError = (signal: AbortSignal): WhetstoneError =>
  new WhetstoneError('E_ABORTED', 'train', `stopped by its signal: ${messageOf(signal.reason)}`, {
    cause: signal.reason,
  })
