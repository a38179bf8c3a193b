// Learning rates: linear warm-up, then one of three shapes. Pure functions of the step, so there is no state to save.

import { WhetstoneError } from '../src/base/errors.js'

/** Share of the peak rate at progress 0..1 behind the warm-up; as in Transformers' schedules. */
const shapes = {
  constant: () => 1,
  linear: (progress: number) => 1 - progress,
  cosine: (progress: number) => 0.5 * (1 + Math.cos(Math.PI * progress)),
} as const

/** What the rate does behind the warm-up. */
export type LrSchedulerType = keyof typeof shapes

/** A learning-rate schedule. */
export interface Schedule {
  /** Peak rate. */
  readonly learningRate: number
  readonly lrSchedulerType: LrSchedulerType
  /** Steps from 0 to the peak. */
  readonly warmupSteps: number
  readonly totalSteps: number
}

/**
 * The rate of optimizer step `step` (0-based). With warm-up, step 0 has rate 0, as in Transformers.
 *
 * @throws WhetstoneError E_CONFIG when the rate is not a finite number of at least 0
 */
export function learningRateAt(schedule: Schedule, step: number): number {
  const { learningRate, lrSchedulerType, warmupSteps, totalSteps } = schedule
  const progress = Math.min(1, Math.max(0, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps)))
  const share = step < warmupSteps ? step / Math.max(1, warmupSteps) : shapes[lrSchedulerType](progress)
  const rate = learningRate * share
  if (Number.isFinite(rate) && rate >= 0) return rate
  throw new WhetstoneError('E_CONFIG', 'learningRate', `expected a finite rate of at least 0, got ${rate}`)
}
