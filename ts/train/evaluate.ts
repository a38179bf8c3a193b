// Evaluation over rows that are not trained: when, in which micro-batches, and the loss as the objective has it. The value
// does not depend on how the rows are cut.

import type { Objective } from '../loss/define.js'
import type { TrainingOptions } from './config/options.js'
import type { EncodedExample } from './data/example.js'
import { type MicroBatch, type MicroBatchOptions, microBatchOf } from './data/micro-batch.js'
import type { Emit } from './events.js'
import { evaluateLoss, type Trainer } from './trainer.js'

/** How the examples of an objective are laid into micro-batches. */
export const layoutOf = ({ needs }: Objective, { sharePrompts }: TrainingOptions): MicroBatchOptions => ({
  share: sharePrompts ? 'example' : 'none',
  reads: needs.values === undefined ? 'next' : 'own',
})

/** Rows as the micro-batches of an evaluation. */
export function evaluationBatches(
  objective: Objective,
  values: TrainingOptions,
  held: readonly EncodedExample[],
): MicroBatch[] {
  const size = values.perDeviceEvalBatchSize ?? values.perDeviceTrainBatchSize
  const starts = Array.from({ length: Math.ceil(held.length / size) }, (_, i) => i * size)
  const layout = layoutOf(objective, values)
  return starts.map((start) => microBatchOf(held.slice(start, start + size), layout))
}

type Evaluate = (step: number) => Promise<Readonly<Record<string, number>>>

/** The loss and statistics over the held examples, as a callback of the loop; undefined when there is nothing to do. */
export function evaluationOf(
  trainer: Trainer,
  values: TrainingOptions,
  held: readonly EncodedExample[],
  emit: Emit,
): Evaluate | undefined {
  if (held.length === 0) return undefined
  if (values.evalStrategy === 'no') {
    emit({ type: 'warning', message: `evalStrategy is no: the ${held.length} rows held out are not evaluated` })
    return undefined
  }
  const batches = evaluationBatches(trainer.objective, values, held)
  return async (step) => {
    const { loss, stats } = await evaluateLoss(trainer, batches)
    const all = { loss, ...stats }
    emit({ type: 'eval', name: 'eval', step, values: all })
    return all
  }
}

/** Optimizer steps between evaluations and between checkpoints; 0: only at the end. */
export function intervalsOf(
  { evalStrategy, evalSteps, saveStrategy, saveSteps }: TrainingOptions,
  stepsPerEpoch: number,
): { evalSteps: number; saveSteps: number } {
  const every = (strategy: TrainingOptions['saveStrategy'], steps: number) =>
    ({ no: 0, steps, epoch: stepsPerEpoch })[strategy]
  return { evalSteps: every(evalStrategy, evalSteps), saveSteps: every(saveStrategy, saveSteps) }
}
