// Evaluation over rows that are not trained: when, in which micro-batches, and the loss as the objective has it. The value
// does not depend on how the rows are cut.

import type { Objective } from '../loss/define.js'
import { WhetstoneError } from '../src/base/errors.js'
import type { LanguageModel } from '../src/generate/language-model.js'
import { withoutAdapter } from '../src/models/adapter.js'
import type { Decoder } from '../src/models/decoder.js'
import type { TrainingOptions } from './config/options.js'
import { checkLengths, checkVocabulary, encodeFor, rowKindOf } from './data/encode.js'
import { type EncodeOptions, encodePart } from './data/encode-options.js'
import type { EncodedExample } from './data/example.js'
import { warningsOf } from './data/findings.js'
import { type MicroBatch, type MicroBatchOptions, microBatchOf } from './data/micro-batch.js'
import { type DataSource, extraFieldWarnings, readData } from './data/rows.js'
import type { Emit } from './events.js'
import { checkReference, checkTeacher } from './reference.js'
import { evaluateLoss, type Trainer } from './trainer.js'

/** How the examples of an objective are laid into micro-batches. */
export const layoutOf = (
  { needs }: Objective,
  { sharePrompts }: Pick<TrainingOptions, 'sharePrompts'>,
): MicroBatchOptions => ({
  share: sharePrompts ? 'example' : 'none',
  reads: needs.values === undefined ? 'next' : 'own',
})

/** Settings that an evaluation depends on. */
export type EvaluationSettings = EncodeOptions &
  Pick<TrainingOptions, 'temperature' | 'sharePrompts' | 'perDeviceEvalBatchSize' | 'perDeviceTrainBatchSize'>

/** Rows as the micro-batches of an evaluation. */
export function evaluationBatches(
  objective: Objective,
  values: EvaluationSettings,
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

/**
 * Refuses evaluations without rows to evaluate on.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkEvaluation({ evalSteps, evalRows }: TrainingOptions, evalData: unknown): void {
  if (evalSteps === 0 || evalRows > 0 || evalData !== undefined) return
  const text = `expected evalData or evalRows beside it, got neither: there is nothing to evaluate on every ${evalSteps} steps`
  throw new WhetstoneError('E_CONFIG', 'evalSteps', text)
}

/** Optimizer steps between evaluations and between checkpoints; 0: only at the end, and where `saveBest` says so. */
export function intervalsOf(
  { evalStrategy, evalSteps, saveStrategy, saveSteps }: TrainingOptions,
  stepsPerEpoch: number,
): { evalSteps: number; saveSteps: number; saveBest: boolean } {
  const every = (strategy: TrainingOptions['saveStrategy'], steps: number) =>
    ({ no: 0, steps, epoch: stepsPerEpoch, best: 0 })[strategy]
  return {
    evalSteps: every(evalStrategy, evalSteps),
    saveSteps: every(saveStrategy, saveSteps),
    saveBest: saveStrategy === 'best',
  }
}

/** What to evaluate, and on what. */
export interface RowsOptions {
  readonly policy: LanguageModel
  /** Default the base of the policy's adapter. */
  readonly reference?: Decoder
  readonly objective: Objective
  readonly data: DataSource
  readonly limit?: number
  readonly values: EvaluationSettings
  readonly warn: (message: string) => void
}

/** An objective's loss over rows. */
export interface LossEvaluation {
  /** Rows that were looked at. */
  readonly rows: number
  /** Tokens that the loss counts. */
  readonly trainedTokens: number
  /** In the objective's normalisation over all rows: for `sft` the mean over all trained tokens, in nats. */
  readonly loss: number
  /** The objective's statistics, as means. */
  readonly stats: Readonly<Record<string, number>>
}

/** The frozen model to compare with: a model beside itself would tell nothing. */
function referenceOf({ policy: { decoder }, reference, objective }: RowsOptions): Decoder | undefined {
  checkTeacher(objective, reference)
  if (!objective.needs.reference) return undefined
  if (reference !== undefined) checkReference(decoder, reference, objective.needs)
  const found = reference ?? (decoder.adapter === undefined ? undefined : withoutAdapter(decoder))
  if (found !== undefined) return found
  const text = `expected a model to compare with: ${objective.name} looks at one, and beside itself a model has log-ratios of 0`
  throw new WhetstoneError('E_CONFIG', 'reference', text)
}

/**
 * The objective's loss over all rows of a file, with no training: what a run says of rows that were held out.
 *
 * @throws WhetstoneError E_CONFIG without a reference that is needed, E_FORMAT, E_OOM
 */
export async function evaluateRows(options: RowsOptions): Promise<LossEvaluation> {
  const { policy, objective, values, warn } = options
  const reference = referenceOf(options)
  if (objective.needs.history !== undefined)
    warn(`${objective.name} looks back on the steps of its training, of which there are none here`)
  const { rows, extraFields } = await readData(options.data, rowKindOf(objective), options.limit)
  const encoded = encodeFor(objective, policy.tokenizer, rows, encodePart(values))
  checkLengths(encoded, policy.decoder.config)
  checkVocabulary(encoded, policy.decoder.config, policy.tokenizer)
  for (const message of [...warningsOf(encoded.summary), ...extraFieldWarnings(extraFields, rows.length)]) warn(message)
  const evaluated = { policy: policy.decoder, reference, objective, temperature: values.temperature, history: {} }
  const { loss, stats } = await evaluateLoss(evaluated, evaluationBatches(objective, values, encoded.examples))
  const { examples, trainedTokens } = encoded.summary
  return { rows: examples, trainedTokens, loss, stats }
}
