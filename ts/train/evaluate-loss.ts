// What a model makes of rows, without training it: the objective's loss and statistics over all of them together, with the
// encoding, the layout and the bits of training. No gradient, no optimizer.

import type { Objective } from '../loss/define.js'
import { objectiveKind } from '../loss/objective.js'
import { checkMembers, kinds, optional } from '../src/base/arguments.js'
import { type LanguageModel, modelKind } from '../src/generate/language-model.js'
import { type Decoder, decoderKind } from '../src/models/decoder.js'
import { trainingOptions } from './config/options.js'
import { resolveConfig } from './config/resolve.js'
import { type EncodeOptions, encodeShape } from './data/encode-options.js'
import { type DataSource, dataKind } from './data/rows.js'
import { evaluateRows, type LossEvaluation } from './evaluate.js'

/** What to evaluate, and on what. Settings of encoding as in `train`. */
export interface EvaluateOptions extends EncodeOptions {
  readonly policy: LanguageModel
  readonly objective: Objective
  /** A file of rows (.jsonl, .json, .csv, .tsv, .parquet), or rows. */
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
  /** Told of what is odd about the rows: fields that nothing reads, texts that were cut. Default nobody. */
  readonly warn?: (message: string) => void
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
  warn: optional(kinds.call),
}

/**
 * The loss of an objective on rows, and its statistics. Equal to what `train` reports as `eval` on the same rows.
 *
 * @throws WhetstoneError E_CONFIG, E_FORMAT naming the row, E_IO, E_LIMIT, E_OOM
 */
export async function evaluateLoss(options: EvaluateOptions): Promise<LossEvaluation> {
  checkMembers('evaluateLoss', options, evaluateKinds)
  const { policy, objective, data, limit, reference, warn = () => {}, ...settings } = options
  const { values } = resolveConfig(
    evaluateOptions,
    [{ origin: 'argument', values: settings }],
    undefined,
    Object.keys(evaluateKinds),
  )
  const all = { ...values, perDeviceTrainBatchSize: values.perDeviceEvalBatchSize }
  return evaluateRows({ policy, objective, data, limit, reference, values: all, warn })
}
