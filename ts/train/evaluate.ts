// What a model makes of rows, without training it: the objective's loss and statistics over all of them together, with the
// encoding, the layout and the bits of training. No gradient, no optimizer.

import type { Objective } from '../loss/define.js'
import { objectiveKind } from '../loss/objective.js'
import { checkOptions, kinds, optional } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import { type LanguageModel, modelKind } from '../src/generate/language-model.js'
import { withoutAdapter } from '../src/models/adapter.js'
import { type Decoder, decoderKind } from '../src/models/decoder.js'
import { trainingOptions } from './config/options.js'
import { resolveConfig } from './config/resolve.js'
import { checkLengths, encodeFor, rowKindOf } from './data/encode.js'
import { type EncodeOptions, encodeShape } from './data/encode-options.js'
import { type DataSource, dataKind, readData } from './data/rows.js'
import { checkReference } from './reference.js'
import { batchesInOrder, layoutOf } from './train.js'
import { evaluateLoss as lossOf } from './trainer.js'

/** What to evaluate, and on what. Settings of encoding as in `train`. */
export interface EvaluateOptions extends EncodeOptions {
  readonly policy: LanguageModel
  readonly objective: Objective
  /** A .jsonl or .json file, or rows. */
  readonly data: DataSource
  /** Use the first rows of the data only. */
  readonly limit?: number
  /** Frozen model for objectives that look at one. Default the policy without its adapter, where it has one. */
  readonly reference?: Decoder
  /** Divides the logits of policy and reference. Default 1. */
  readonly temperature?: number
  /** Rows per forward pass: memory, never results. Default 8. */
  readonly perDeviceEvalBatchSize?: number
  /** Sequences of an example behind one copy of their prompt: same bits, less work. Default true. */
  readonly sharePrompts?: boolean
}

/** What came of an evaluation. */
export interface LossEvaluation {
  /** In the objective's normalisation over all rows: for `sft` the mean over all trained tokens, in nats. */
  readonly loss: number
  /** The objective's statistics, as means. */
  readonly stats: Readonly<Record<string, number>>
  /** Rows that were looked at. */
  readonly rows: number
  /** Tokens that the loss counts. */
  readonly trainedTokens: number
}

const { perDeviceTrainBatchSize, temperature, sharePrompts } = trainingOptions.shape

const evaluateOptions = trainingOptions
  .pick(
    Object.fromEntries(Object.keys(encodeShape).map((name) => [name, true])) as Record<keyof typeof encodeShape, true>,
  )
  .extend({ temperature, sharePrompts, perDeviceEvalBatchSize: perDeviceTrainBatchSize })

const evaluateKinds = {
  policy: modelKind,
  objective: objectiveKind,
  data: dataKind,
  limit: optional(kinds.number),
  reference: optional(decoderKind),
}

/** The model to compare with, for objectives that look at one. */
function referenceOf({ policy: { decoder }, objective, reference }: EvaluateOptions): Decoder | undefined {
  if (!objective.needs.reference) return undefined
  if (reference !== undefined) checkReference(decoder, reference)
  else if (decoder.adapter === undefined)
    throw new WhetstoneError('E_CONFIG', 'reference', `expected a model that ${objective.name} compares with, got none`)
  return reference ?? withoutAdapter(decoder)
}

/**
 * The loss of an objective on rows, and its statistics. Equal to what `train` reports as `eval` on the same rows.
 *
 * @throws WhetstoneError E_CONFIG, E_FORMAT naming the row, E_IO, E_LIMIT, E_OOM
 */
export async function evaluateLoss(options: EvaluateOptions): Promise<LossEvaluation> {
  checkOptions('evaluateLoss', options, evaluateKinds)
  const { policy, objective, data, limit, reference: _, ...settings } = options
  const { values } = resolveConfig(evaluateOptions, [{ origin: 'argument', values: settings }])
  const reference = referenceOf(options)
  const { rows } = await readData(data, rowKindOf(objective), limit)
  const encoded = encodeFor(objective, policy.tokenizer, rows, values)
  checkLengths(encoded, policy.decoder.config)
  const { examples, summary } = encoded
  const { temperature, perDeviceEvalBatchSize } = values
  const batches = batchesInOrder(examples, perDeviceEvalBatchSize, layoutOf(objective, values))
  const sources = { policy: policy.decoder, reference, objective, temperature, activationCheckpointing: false }
  const { loss, stats } = await lossOf({ ...sources, history: {}, tiedHead: undefined }, batches)
  return { loss, stats, rows: summary.examples, trainedTokens: summary.trainedTokens }
}
