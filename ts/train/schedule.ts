// Learning rates: linear warm-up, then one of several shapes. Pure functions of the step, so there is no state to save.
// Formulas and names are those of Transformers 5 (optimization.py), but that `constant` has a warm-up too when it is asked
// for, which Transformers leaves out there in silence.

import { WhetstoneError } from '../src/base/errors.js'

/** What some shapes know besides; as in Transformers' `lr_scheduler_kwargs`. */
export interface LrSchedulerKwargs {
  /** Waves of `cosine` and `cosineWithMinLr` (default 0.5: one descent), restarts of `cosineWithRestarts` (default 1). */
  readonly numCycles?: number
  /** Power of `polynomial`, default 1. */
  readonly power?: number
  /** Rate at the end of `polynomial`, default 1e-7. */
  readonly lrEnd?: number
  /** Least rate of `cosineWithMinLr`. */
  readonly minLr?: number
  /** The same as a share of the peak. */
  readonly minLrRate?: number
  /** Steps in which `inverseSqrt` falls; default the warm-up, or 10,000 without one. */
  readonly timescale?: number
}

/** A step behind the warm-up. */
interface Place {
  /** Steps behind the warm-up. */
  readonly behind: number
  /** The same as a share of what there is, 0..1. */
  readonly progress: number
  readonly warmup: number
  readonly peak: number
  readonly kwargs: LrSchedulerKwargs
}

interface ShapeOfRate {
  /** Share of the peak rate. */
  readonly share: (place: Place) => number
  readonly uses?: readonly (keyof LrSchedulerKwargs)[]
  /** The rate of a step does not depend on how many there are. */
  readonly endless?: true
}

const wave = (progress: number, numCycles: number): number => 0.5 * (1 + Math.cos(Math.PI * numCycles * 2 * progress))

const defaultLrEnd = 1e-7

const shapes = {
  constant: { share: () => 1, endless: true },
  constantWithWarmup: { share: () => 1, endless: true },
  linear: { share: ({ progress }) => 1 - progress },
  cosine: { share: ({ progress, kwargs: { numCycles = 0.5 } }) => wave(progress, numCycles), uses: ['numCycles'] },
  cosineWithRestarts: {
    share: ({ progress, kwargs: { numCycles = 1 } }) => (progress >= 1 ? 0 : wave((numCycles * progress) % 1, 0.5)),
    uses: ['numCycles'],
  },
  cosineWithMinLr: {
    share: ({ progress, peak, kwargs: { numCycles = 0.5, minLr = 0, minLrRate = minLr / peak } }) =>
      wave(progress, numCycles) * (1 - minLrRate) + minLrRate,
    uses: ['numCycles', 'minLr', 'minLrRate'],
  },
  polynomial: {
    share: ({ progress, peak, kwargs: { power = 1, lrEnd = defaultLrEnd } }) =>
      ((peak - lrEnd) * (1 - progress) ** power + lrEnd) / peak,
    uses: ['power', 'lrEnd'],
  },
  inverseSqrt: {
    share: ({ behind, warmup, kwargs: { timescale = warmup || 10_000 } }) =>
      1 / Math.sqrt((behind + timescale) / timescale),
    uses: ['timescale'],
    endless: true,
  },
} as const satisfies Readonly<Record<string, ShapeOfRate>>

/** What the rate does behind the warm-up. */
export type LrSchedulerType = keyof typeof shapes

/** Names of the shapes. */
export const lrSchedulerTypes = Object.keys(shapes) as [LrSchedulerType, ...LrSchedulerType[]]

const shapeOf = (type: LrSchedulerType): ShapeOfRate => shapes[type]

/** A learning-rate schedule. */
export interface Schedule {
  /** Peak rate. */
  readonly learningRate: number
  readonly lrSchedulerType: LrSchedulerType
  readonly lrSchedulerKwargs?: LrSchedulerKwargs
  /** Steps from 0 to the peak; below 1 a share of all steps. */
  readonly warmupSteps: number
  /** The same as a share, under Transformers' older name. */
  readonly warmupRatio?: number
  readonly totalSteps: number
}

type Rates = Omit<Schedule, 'totalSteps'>

/** The share of all steps that the warm-up is, where it is said so. */
const warmupShare = ({ warmupSteps, warmupRatio = 0 }: Rates): number | undefined =>
  warmupSteps >= 1 ? undefined : warmupSteps || warmupRatio

const refuse = (where: string, message: string): never => {
  throw new WhetstoneError('E_CONFIG', where, message)
}

/**
 * Refuses what no schedule can be made of.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkSchedule(rates: Rates): void {
  const { learningRate, lrSchedulerType, lrSchedulerKwargs: kwargs = {}, warmupSteps, warmupRatio = 0 } = rates
  if (!Object.hasOwn(shapes, lrSchedulerType))
    refuse('lrSchedulerType', `expected one of ${lrSchedulerTypes.join(', ')}, got ${String(lrSchedulerType)}`)
  const { uses = [] } = shapeOf(lrSchedulerType)
  if (warmupSteps >= 1 && !Number.isInteger(warmupSteps))
    refuse('warmupSteps', `expected whole steps, or a share of them below 1, got ${warmupSteps}`)
  if (warmupSteps > 0 && warmupRatio > 0)
    refuse('warmupRatio', `expected it without warmupSteps, got ${warmupRatio} and ${warmupSteps}`)
  const given = Object.entries(kwargs).flatMap(([name, value]) => (value === undefined ? [] : [name]))
  const foreign = given.find((name) => !(uses as readonly string[]).includes(name))
  if (foreign !== undefined)
    refuse(
      `lrSchedulerKwargs.${foreign}`,
      `expected ${uses.length === 0 ? 'nothing' : uses.join(', ')} with lrSchedulerType ${lrSchedulerType}, got it`,
    )
  const { lrEnd = defaultLrEnd, minLr, minLrRate } = kwargs
  if (lrSchedulerType === 'polynomial' && !(learningRate > lrEnd))
    refuse('lrSchedulerKwargs.lrEnd', `expected less than the learningRate of ${learningRate}, got ${lrEnd}`)
  if (lrSchedulerType === 'cosineWithMinLr' && (minLr === undefined) === (minLrRate === undefined))
    refuse('lrSchedulerKwargs', `expected either minLr or minLrRate, got ${minLr === undefined ? 'neither' : 'both'}`)
}

/** True when the rate of a step depends on how many steps there are: such a run cannot be made longer. */
export const dependsOnTotal = (rates: Rates): boolean =>
  shapeOf(rates.lrSchedulerType).endless !== true || (warmupShare(rates) ?? 0) > 0

/**
 * The rate of optimizer step `step` (0-based). With warm-up, step 0 has rate 0, as in Transformers.
 *
 * @throws WhetstoneError E_CONFIG when the rate is not a finite number of at least 0
 */
export function learningRateAt(schedule: Schedule, step: number): number {
  const { learningRate: peak, lrSchedulerType, lrSchedulerKwargs: kwargs = {}, totalSteps } = schedule
  const part = warmupShare(schedule)
  const warmup = part === undefined ? schedule.warmupSteps : Math.ceil(totalSteps * part)
  const behind = step - warmup
  const progress = Math.min(1, Math.max(0, behind / Math.max(1, totalSteps - warmup)))
  const place = { behind, progress, warmup, peak, kwargs }
  const share = step < warmup ? step / Math.max(1, warmup) : Math.max(0, shapeOf(lrSchedulerType).share(place))
  const rate = peak * share
  if (Number.isFinite(rate) && rate >= 0) return rate
  throw new WhetstoneError('E_CONFIG', 'learningRate', `expected a finite rate of at least 0, got ${rate}`)
}
