// What evaluations decide: which checkpoint is the best so far, and when to stop. The rules are those of Transformers'
// `load_best_model_at_end` and EarlyStoppingCallback, with one difference: only evaluations whose step is saved compete for
// the best checkpoint, so that the best one exists. Its state is plain numbers, part of every checkpoint.

import { WhetstoneError } from '../src/base/errors.js'
import type { TrainingOptions } from './config/options.js'

/** What is watched. */
export interface Watch {
  /** Number of the evaluation. */
  readonly metric: string
  readonly greaterIsBetter: boolean
  /** Evaluations without improvement before training stops; none: it never does. */
  readonly patience?: number
  /** What an improvement must exceed to count for the patience. */
  readonly threshold: number
  /** End with the best checkpoint's weights. */
  readonly loadBest: boolean
}

/** A step with the value that its evaluation had. */
export interface Best {
  readonly step: number
  readonly value: number
}

/** A {@link Best} with the name of its metric, and its folder. */
export interface BestCheckpoint extends Best {
  readonly metric: string
  readonly checkpoint: string
}

/** What the evaluations so far have come to. */
export interface WatchState {
  /** Step of the latest evaluation. */
  readonly evaluated: number
  /** Its value. */
  readonly value?: number
  /** Best value of all evaluations. */
  readonly bestValue?: number
  /** Evaluations since the last improvement. */
  readonly misses: number
  /** The best of the checkpoints. */
  readonly best?: Best
}

/** Before the first evaluation. */
export const unwatched: WatchState = { evaluated: 0, misses: 0 }

/** A number is better than none; what is no number is never better. */
const isBetter = ({ greaterIsBetter }: Watch, value: number, than: number | undefined): boolean =>
  Number.isFinite(value) && (than === undefined || (greaterIsBetter ? value > than : value < than))

/** The watched number among those of an evaluation. */
function watchedValue({ metric }: Watch, values: Readonly<Record<string, number>>): number {
  if (Object.hasOwn(values, metric)) return values[metric]
  const known = Object.keys(values).join(', ')
  throw new WhetstoneError('E_CONFIG', 'metricForBestModel', `expected one of ${known}, got '${metric}'`)
}

/**
 * The state behind an evaluation.
 *
 * @throws WhetstoneError E_CONFIG when the evaluation lacks the metric
 */
export function judge(
  watch: Watch | undefined,
  state: WatchState,
  step: number,
  values: Readonly<Record<string, number>> | undefined,
): WatchState {
  if (watch === undefined) return { ...state, evaluated: step }
  const value = watchedValue(watch, values ?? {})
  const { bestValue } = state
  const better = isBetter(watch, value, bestValue)
  const counts = better && (bestValue === undefined || Math.abs(value - bestValue) > watch.threshold)
  const misses = counts ? 0 : state.misses + 1
  return { ...state, evaluated: step, value, bestValue: better ? value : bestValue, misses }
}

/** Is there an evaluation of `step` that is better than that of the best checkpoint? */
export const improves = (watch: Watch | undefined, { evaluated, value, best }: WatchState, step: number): boolean =>
  watch !== undefined && evaluated === step && value !== undefined && isBetter(watch, value, best?.value)

/** The state once the checkpoint of `step` is there: it is the best one if its evaluation was better than the best one's. */
export const settle = (watch: Watch | undefined, state: WatchState, step: number): WatchState =>
  improves(watch, state, step) ? { ...state, best: { step, value: Number(state.value) } } : state

/** Has the patience come to its end? */
export const isOver = (watch: Watch | undefined, { misses }: WatchState): boolean =>
  watch?.patience !== undefined && misses >= watch.patience

const refuse = (where: string, message: string): never => {
  throw new WhetstoneError('E_CONFIG', where, message)
}

/** The setting that asks for evaluations to decide. */
const decider = ({ loadBestModelAtEnd, earlyStoppingPatience, saveStrategy }: TrainingOptions): string | undefined => {
  if (loadBestModelAtEnd) return 'loadBestModelAtEnd'
  if (earlyStoppingPatience !== undefined) return 'earlyStoppingPatience'
  return saveStrategy === 'best' ? "saveStrategy 'best'" : undefined
}

/** Refuses settings that mean nothing without what they are about. */
function refuseIdle(values: TrainingOptions): void {
  const { metricForBestModel, greaterIsBetter, earlyStoppingThreshold, earlyStoppingPatience } = values
  if (earlyStoppingThreshold > 0 && earlyStoppingPatience === undefined)
    refuse('earlyStoppingThreshold', `expected earlyStoppingPatience with it, got ${earlyStoppingThreshold} alone`)
  if (decider(values) !== undefined) return
  const message = "expected loadBestModelAtEnd, earlyStoppingPatience or saveStrategy 'best' with it, got none of them"
  if (metricForBestModel !== 'loss') refuse('metricForBestModel', message)
  if (greaterIsBetter !== undefined) refuse('greaterIsBetter', message)
}

/** Refuses to choose the best checkpoint where evaluations and checkpoints do not meet. */
function checkMeeting({ evalStrategy, saveStrategy, evalSteps, saveSteps }: TrainingOptions, saves: boolean): void {
  if (!saves) refuse('loadBestModelAtEnd', 'expected an output folder for the checkpoints to choose from, got none')
  // What is saved was evaluated then.
  if (saveStrategy === 'best') return
  if (saveStrategy !== evalStrategy)
    refuse('saveStrategy', `expected '${evalStrategy}' as evalStrategy with loadBestModelAtEnd, got '${saveStrategy}'`)
  if (saveStrategy === 'steps' && (saveSteps === 0 || saveSteps % evalSteps !== 0))
    refuse(
      'saveSteps',
      `expected a multiple of evalSteps (${evalSteps}) with loadBestModelAtEnd, got ${saveSteps}: a checkpoint is judged by the evaluation at its step`,
    )
}

/**
 * What the settings ask to watch; undefined: nothing.
 *
 * @param given has the run rows to evaluate on, and a folder for checkpoints?
 * @throws WhetstoneError E_CONFIG for settings that do not go together
 */
export function watchOf(
  values: TrainingOptions,
  { evaluates, saves }: { readonly evaluates: boolean; readonly saves: boolean },
): Watch | undefined {
  refuseIdle(values)
  const { loadBestModelAtEnd: loadBest, earlyStoppingPatience: patience, earlyStoppingThreshold: threshold } = values
  const asked = decider(values)
  if (asked === undefined) return undefined
  if (!evaluates) refuse(asked.split(' ')[0], 'expected rows to evaluate on, got none: give evalData or evalRows')
  if (values.evalStrategy === 'no') refuse('evalStrategy', `expected 'steps' or 'epoch' with ${asked}, got 'no'`)
  if (values.evalStrategy === 'steps' && values.evalSteps === 0)
    refuse('evalSteps', `expected at least 1 with ${asked}, got 0: one evaluation at the end decides nothing`)
  if (loadBest) checkMeeting(values, saves)
  const metric = values.metricForBestModel.replace(/^eval_/, '')
  return { metric, greaterIsBetter: values.greaterIsBetter ?? !metric.endsWith('loss'), patience, threshold, loadBest }
}
