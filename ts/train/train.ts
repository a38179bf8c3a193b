// train(): rows in, a trained model out. It resolves settings, encodes rows, and runs one phase of the loop. Every
// objective comes through here; what differs between them is data.

import { join } from 'node:path'
import type { Objective } from '../loss/define.js'
import { WhetstoneError } from '../src/base/errors.js'
import { deriveKey, permutation } from '../src/base/rng.js'
import type { LanguageModel } from '../src/generate/language-model.js'
import type { Decoder } from '../src/models/decoder.js'
import type { Tokenizer } from '../src/tokenizer/tokenizer.js'
import { type TrainingInput, type TrainingOptions, trainingOptions } from './config/options.js'
import { type Resolved, resolveConfig, type Source } from './config/resolve.js'
import { encodeFor, rowKindOf } from './data/encode.js'
import type { EncodedKind } from './data/encoders.js'
import { warningsOf } from './data/findings.js'
import { microBatchOf } from './data/micro-batch.js'
import { planData } from './data/plan.js'
import { type DataSource, extraFieldWarnings, type PlacedRow, type RowKinds, readData } from './data/rows.js'
import { type Emit, type Run, startRun } from './events.js'
import { abortError, type PhaseResult, runPhase } from './loop.js'
import { openRun, type RunFolder } from './run-folder.js'
import { createTrainer, disposeTrainer, evaluateLoss, type Trainer } from './trainer.js'

/** What to train, on what, and where to. Settings have TRL's names; see `trainingOptions` for defaults. */
export interface TrainOptions extends TrainingInput {
  readonly policy: LanguageModel
  readonly objective: Objective
  /** A .jsonl or .json file, or rows. */
  readonly data: DataSource
  /** Rows to evaluate on; without them `evalRows` of the data are held out. */
  readonly evalData?: DataSource
  /** Frozen model for objectives that look at one. */
  readonly reference?: Decoder
  /** Run folder; none: nothing is saved. */
  readonly output?: string
  /** Go on with the run in `output`. */
  readonly resume?: boolean
  readonly signal?: AbortSignal
  /** Where settings came from, for the run folder; default `argument` for those given. */
  readonly sources?: readonly Source[]
  /** All settings to keep in the run folder, when there are more than those of training. */
  readonly record?: Resolved<Readonly<Record<string, unknown>>>
}

/** What a run of `train` gives. Its `checkpoint` is a Hugging Face folder. */
export interface TrainResult extends PhaseResult {
  /** Numbers of the last step. */
  readonly metrics: Readonly<Record<string, number>>
}

/**
 * Trains a policy. Iterate the result for events; await `result` for the end.
 *
 * @throws WhetstoneError (through `result`) E_CONFIG, E_FORMAT, E_NONFINITE, E_OOM, E_ABORTED by the signal: the state
 *   is saved first
 */
export function train(options: TrainOptions): Run<TrainResult> {
  return startRun((emit) => runTraining(options, emit))
}

const given = ({
  policy,
  objective,
  data,
  evalData,
  reference,
  output,
  resume,
  signal,
  sources,
  record,
  ...settings
}: TrainOptions) => settings

async function runTraining(options: TrainOptions, emit: Emit): Promise<TrainResult> {
  const config = resolveConfig(trainingOptions, options.sources ?? [{ origin: 'argument', values: given(options) }])
  const folder =
    options.output === undefined
      ? undefined
      : await openRun(options.output, options.record ?? config, options.resume ?? false)
  const trainer = createTrainer({
    policy: options.policy.decoder,
    objective: options.objective,
    reference: options.reference,
    optimizer: config.values,
    activationCheckpointing: config.values.gradientCheckpointing,
  })
  try {
    return await runPlan(options, config, trainer, folder, (event) => {
      folder?.log(event)
      emit(event)
    })
  } finally {
    disposeTrainer(trainer)
    await folder?.close()
  }
}

async function runPlan(
  options: TrainOptions,
  { values }: Resolved<TrainingOptions>,
  trainer: Trainer,
  folder: RunFolder | undefined,
  emit: Emit,
): Promise<TrainResult> {
  const { policy, signal } = options
  const data = await splitData(options, values)
  const { examples, summary } = encodeFor(options.objective, policy.tokenizer, data.train, values)
  const plan = planData(examples, values)
  const totalSteps = values.maxSteps >= 0 ? values.maxSteps : Math.ceil(plan.stepsPerEpoch * values.numTrainEpochs)
  if (totalSteps === 0) throw new WhetstoneError('E_CONFIG', 'maxSteps', 'expected at least one step, got 0')
  const { kind, level, threads, reason } = policy.decoder.device
  emit({
    type: 'start',
    step: 0,
    totalSteps,
    device: `${kind} ${level}, ${threads} threads (${reason})`,
    notes: [`${examples.length} rows`],
  })
  for (const message of [...warningsOf(summary), ...data.warnings]) emit({ type: 'warning', message })
  const result = await runPhase({
    ...values,
    name: options.objective.name,
    model: policy,
    trainer,
    schedule: { ...values, totalSteps },
    plan: async (step) => plan.step(step),
    directory: folder === undefined ? undefined : join(folder.path, 'checkpoints'),
    fingerprint: { ...values, objective: options.objective.name, rows: examples.length },
    evaluate: evaluation(policy.tokenizer, data.held, values, trainer, emit),
    resume: options.resume ?? false,
    signal,
    emit,
  })
  emit({ type: 'end', step: result.step, stepsDone: result.stepsDone, stopped: result.stopped })
  if (result.stopped && signal !== undefined) throw abortError(signal)
  if (result.last === undefined) return { ...result, metrics: {} }
  const { loss, gradNorm, trainedTokens, stats } = result.last
  return { ...result, metrics: { loss, gradNorm, trainedTokens, ...stats } }
}

/** Rows to train and rows to evaluate on: those of `evalData`, or `evalRows` rows chosen by the seed. */
async function splitData(options: TrainOptions, { evalRows, seed }: TrainingOptions) {
  const kind = rowKindOf(options.objective)
  const { rows, extraFields } = await readData(options.data, kind)
  const warnings = extraFieldWarnings(extraFields, rows.length)
  if (options.evalData !== undefined)
    return { train: rows, held: (await readData(options.evalData, kind)).rows, warnings }
  if (evalRows >= rows.length)
    throw new WhetstoneError('E_CONFIG', 'evalRows', `expected fewer than the ${rows.length} rows, got ${evalRows}`)
  const held = new Set(permutation(rows.length, deriveKey(seed, 'evaluation')).slice(0, evalRows))
  return { train: rows.filter((_, i) => !held.has(i)), held: rows.filter((_, i) => held.has(i)), warnings }
}

/** The loss over the held rows, as a callback of the loop. */
function evaluation(
  tokenizer: Tokenizer,
  held: readonly PlacedRow<RowKinds[EncodedKind]>[],
  values: TrainingOptions,
  trainer: Trainer,
  emit: Emit,
) {
  if (held.length === 0) return undefined
  const { examples } = encodeFor(trainer.objective, tokenizer, held, values)
  const size = values.perDeviceTrainBatchSize
  const starts = Array.from({ length: Math.ceil(examples.length / size) }, (_, i) => i * size)
  const batches = starts.map((start) => microBatchOf(examples.slice(start, start + size)))
  return async (step: number) => {
    const { loss, stats } = await evaluateLoss(trainer, batches)
    emit({ type: 'eval', name: 'eval', step, values: { loss, ...stats } })
  }
}
