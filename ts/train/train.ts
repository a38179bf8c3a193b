// train(): rows in, a trained model out. It resolves settings, encodes rows, and runs one phase of the loop. Every
// objective comes through here; what differs between them is data.

import { join } from 'node:path'
import type { Objective } from '../loss/define.js'
import { objectiveKind } from '../loss/objective.js'
import { checkMembers, kinds, optional } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import { inTurns } from '../src/base/turns.js'
import { type LanguageModel, modelKind } from '../src/generate/language-model.js'
import { type Decoder, decoderKind } from '../src/models/decoder.js'
import { type TrainingInput, type TrainingOptions, trainingOptions } from './config/options.js'
import { type Resolved, resolveConfig, resolvedKind, type Source, sourcesKind } from './config/resolve.js'
import { changesOf, noChanges } from './continue.js'
import { checkLengths, checkVocabulary, encodingFor } from './data/encode.js'
import { encodePart } from './data/encode-options.js'
import type { EncodedExample } from './data/example.js'
import { warningsOf } from './data/findings.js'
import { planData } from './data/plan.js'
import { type DataSource, dataKind } from './data/rows.js'
import { splitRows } from './data/split.js'
import { checkEvaluation, evaluationOf, intervalsOf, layoutOf } from './evaluate.js'
import { type Emit, type Run, startRun } from './events.js'
import { whileTrained } from './in-training.js'
import { abortError, type PhaseResult, runPhase, tellEmptyResume } from './loop.js'
import {
  checkTeacher,
  dataHash,
  frozenParts,
  modelHash,
  openReference,
  type Reference,
  withReferenceLogps,
} from './reference.js'
import { referenceSyncOf } from './reference-sync.js'
import { type Changes, openRun, type RunFolder } from './run-folder.js'
import { checkSchedule } from './schedule.js'
import { createTrainer, disposeTrainer, type Trainer, type TrainerOptions } from './trainer.js'
import { type Watch, watchOf } from './watch.js'

/** What to train, on what, and where to. Settings have TRL's names; see `trainingOptions` for defaults. */
export interface TrainOptions extends TrainingInput {
  readonly policy: LanguageModel
  readonly objective: Objective
  /** A file of rows (.jsonl, .json, .csv, .tsv, .parquet), or rows. */
  readonly data: DataSource
  /** Use the first rows of the data only. */
  readonly limit?: number
  /** Rows to evaluate on; without them `evalRows` of the data are held out. */
  readonly evalData?: DataSource
  /**
   * Frozen model for objectives that look at one. Default the policy as it is when the run starts: a copy, or the base
   * without the adapter. `gkd` and `distill` need one: the teacher, of the policy's dtype. Resume with the start model as
   * `policy`.
   */
  readonly reference?: Decoder
  /** Run folder; none: nothing is saved. One whose run ended before its first step is started again. */
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
 * Trains a policy, beginning at once. Iterate what it returns for events, right away, because they are not kept; await its
 * `result` for the end. `break` ends the loop over events, not the training: abort `signal` to stop it. An error comes out of
 * the loop and of `result`; with neither it is an unhandled rejection. See {@link Run}.
 *
 * @throws WhetstoneError (through `result`) E_CONFIG, also while another run trains the policy, E_FORMAT, E_NONFINITE, E_OOM, E_ABORTED by the signal: the state
 *   is saved first
 */
export function train(options: TrainOptions): Run<TrainResult> {
  return startRun((emit) => runTraining(options, emit))
}

const trainKinds = {
  policy: modelKind,
  objective: objectiveKind,
  data: dataKind,
  limit: optional(kinds.number),
  evalData: optional(dataKind),
  reference: optional(decoderKind),
  output: optional(kinds.path),
  resume: optional(kinds.flag),
  signal: optional(kinds.signal),
  sources: optional(sourcesKind),
  record: optional(resolvedKind),
}

const given = ({
  policy,
  objective,
  data,
  limit,
  evalData,
  reference,
  output,
  resume,
  signal,
  sources,
  record,
  ...settings
}: TrainOptions) => settings

/** The trainer's part of the settings. */
export const trainerSettings = (
  values: TrainingOptions,
): Omit<TrainerOptions, 'policy' | 'objective' | 'reference'> => ({
  optimizer: values,
  activationCheckpointing: values.gradientCheckpointing,
  temperature: values.temperature,
  seed: values.seed,
  neftuneNoiseAlpha: values.neftuneNoiseAlpha,
  disableDropout: values.disableDropout,
  referenceSync: referenceSyncOf(values),
})

/** A run on its way: what its parts need. */
interface Job {
  readonly options: TrainOptions
  readonly values: TrainingOptions
  readonly folder: RunFolder | undefined
  readonly watch: Watch | undefined
  readonly changes: Changes
  readonly emit: Emit
}

async function runTraining(options: TrainOptions, emit: Emit): Promise<TrainResult> {
  checkMembers('train', options, trainKinds)
  checkTeacher(options.objective, options.reference)
  return whileTrained(options.policy.decoder, () => runInFolder(options, emit))
}

async function runInFolder(options: TrainOptions, emit: Emit): Promise<TrainResult> {
  const sources = options.sources ?? [{ origin: 'argument', values: given(options) }]
  const config = resolveConfig(trainingOptions, sources, undefined, Object.keys(trainKinds))
  const { values } = config
  const { output, resume = false, record = config, evalData } = options
  checkSchedule(values)
  checkEvaluation(values, evalData)
  const evaluates = evalData !== undefined || values.evalRows > 0
  const watch = watchOf(values, { evaluates, saves: output !== undefined })
  const changes = resume ? await changesOf(values, output, watch !== undefined) : noChanges
  const warn = (message: string) => emit({ type: 'warning', message })
  const folder = output === undefined ? undefined : await openRun(output, record, resume, warn, changes)
  const log: Emit = (event) => {
    folder?.log(event)
    emit(event)
  }
  try {
    return await runJob({ options, values, folder, watch, changes, emit: log })
  } finally {
    await folder?.close()
  }
}

async function runJob(job: Job): Promise<TrainResult> {
  const { options, values } = job
  const { policy, objective } = options
  const data = await encodedData(job)
  if (options.reference !== undefined && !objective.needs.reference)
    job.emit({ type: 'warning', message: `the reference is not used: ${objective.name} looks at none` })
  if (values.syncRefModel && values.precomputeRefLogProbs)
    throw new WhetstoneError('E_CONFIG', 'syncRefModel', 'expected it without precomputeRefLogProbs, got both')
  const reference = objective.needs.reference
    ? await openReference(policy.decoder, options.reference, values.syncRefModel)
    : undefined
  let trainer: Trainer | undefined
  try {
    const referenceSha256 = job.folder && reference && (await modelHash(reference.decoder))
    const examples = await precomputed(job, reference, data, referenceSha256)
    if (examples !== data) reference?.dispose()
    trainer = createTrainer({
      ...trainerSettings(values),
      policy: policy.decoder,
      objective,
      reference: examples === data ? reference?.decoder : undefined,
    })
    return await runPlan(job, trainer, examples, referenceSha256)
  } finally {
    if (trainer !== undefined) disposeTrainer(trainer)
    reference?.dispose()
  }
}

/** Examples to train, and examples to evaluate on. */
interface Data {
  readonly train: readonly EncodedExample[]
  readonly held: readonly EncodedExample[]
}

/** Rows to tokens; says what happened to them. */
async function encodedData({ options, values, emit }: Job): Promise<Data> {
  const { policy, objective } = options
  const rows = await splitRows(options, values)
  const check = () => {
    if (options.signal?.aborted) throw abortError(options.signal)
  }
  const encode = async (own: typeof rows.train, spare: typeof rows.train = []) => {
    const encoded = await inTurns(encodingFor(objective, policy.tokenizer, own, encodePart(values), spare), check)
    checkLengths(encoded, policy.decoder.config)
    checkVocabulary(encoded, policy.decoder.config, policy.tokenizer)
    return encoded
  }
  const { examples, summary } = await encode(rows.train)
  for (const message of [...warningsOf(summary), ...rows.warnings]) emit({ type: 'warning', message })
  return { train: examples, held: rows.held.length === 0 ? [] : (await encode(rows.held, rows.train)).examples }
}

/** The data with the reference's log-probs, when the settings ask for them; a KL over the vocabulary needs the model. */
async function precomputed(
  { options, values, folder, emit }: Job,
  reference: Reference | undefined,
  data: Data,
  modelSha256: string | undefined,
): Promise<Data> {
  const { needs, name } = options.objective
  if (!values.precomputeRefLogProbs) return data
  if (reference === undefined || needs.kl !== undefined) {
    const why = reference === undefined ? 'has no reference' : "looks at the reference's whole distribution"
    emit({ type: 'warning', message: `precomputeRefLogProbs has no effect: ${name} ${why}` })
    return data
  }
  const settings = {
    modelSha256,
    temperature: values.temperature,
    batchSize: values.perDeviceTrainBatchSize,
    directory: folder && join(folder.path, 'cache'),
    signal: options.signal,
    warn: (message: string) => emit({ type: 'warning', message }),
  }
  const logpsOf = (examples: readonly EncodedExample[]) =>
    examples.length === 0 ? examples : withReferenceLogps(reference.decoder, examples, settings)
  return { train: await logpsOf(data.train), held: await logpsOf(data.held) }
}

async function runPlan(
  job: Job,
  trainer: Trainer,
  { train, held }: Data,
  referenceSha256: string | undefined,
): Promise<TrainResult> {
  const { options, values, folder, watch, emit } = job
  const { policy, objective, signal } = options
  const plan = planData(train, { ...values, ...layoutOf(objective, values) })
  const totalSteps = values.maxSteps >= 0 ? values.maxSteps : Math.ceil(plan.stepsPerEpoch * values.numTrainEpochs)
  if (totalSteps === 0) throw new WhetstoneError('E_CONFIG', 'maxSteps', 'expected at least one step, got 0')
  const device = policy.decoder.device.description
  const notes = [`model ${policy.directory}`, `${train.length} rows`]
  emit({ type: 'start', step: 0, totalSteps, device, notes })
  const directory = folder === undefined ? undefined : join(folder.path, 'checkpoints')
  const resume = options.resume ?? false
  await tellEmptyResume({ directory, resume, emit })
  const result = await runPhase({
    ...values,
    ...intervalsOf(values, plan.stepsPerEpoch),
    name: objective.name,
    model: policy,
    trainer,
    schedule: { ...values, totalSteps },
    stepsPerEpoch: plan.stepsPerEpoch,
    plan: async (step) => plan.step(step),
    directory,
    fingerprint: folder === undefined ? {} : { ...(await fingerprintOf(job, train)), referenceSha256 },
    free: job.changes.allowed,
    evaluate: evaluationOf(trainer, values, held, emit),
    watch,
    resume,
    signal,
    emit,
  })
  const { step, stepsDone, stopped, stoppedEarly, best } = result
  emit({ type: 'end', step, stepsDone, stopped, stoppedEarly, best })
  if (result.stopped && signal !== undefined) throw abortError(signal)
  if (result.last === undefined) return { ...result, metrics: {} }
  const { loss, gradNorm, trainedTokens, stats } = result.last
  return { ...result, metrics: { loss, gradNorm, trainedTokens, ...stats } }
}

/** Everything that decides the arithmetic. Weights that a checkpoint does not hold are named by their hash. */
async function fingerprintOf(
  { options, values }: Job,
  train: readonly EncodedExample[],
): Promise<Record<string, unknown>> {
  const { objective } = options
  return {
    ...values,
    objective: objective.name,
    objectiveSettings: objective.config,
    rows: train.length,
    rowsSha256: dataHash(train),
    ...(await frozenParts(options.policy.decoder)),
  }
}
