// The settings of a training run: TRL's and Transformers' names in camelCase, with our defaults; a description says so
// where TRL's default differs. The command line and its help are made from the descriptions here. What the defaults of
// one objective are is in defaults.ts.

import * as z from 'zod'
import { encodeShape } from '../data/encode-options.js'
import { type LrSchedulerKwargs, lrSchedulerTypes } from '../schedule.js'

const count = (least = 0) => z.int().min(least)

/** Settings that only some schedules have. */
const lrSchedulerKwargs = z.strictObject({
  numCycles: z.number().positive().optional(),
  power: z.number().positive().optional(),
  lrEnd: z.number().min(0).optional(),
  minLr: z.number().min(0).optional(),
  minLrRate: z.number().min(0).max(1).optional(),
  timescale: count(1).optional(),
} satisfies { [K in keyof LrSchedulerKwargs]: z.ZodType<LrSchedulerKwargs[K]> })

/** Settings of the optimizer and its schedule. */
export const optimizerShape = {
  learningRate: z.number().min(0).default(2e-5).describe('peak learning rate'),
  lrSchedulerType: z.enum(lrSchedulerTypes).default('linear').describe('shape of the rate behind the warm-up'),
  lrSchedulerKwargs: lrSchedulerKwargs
    .default({})
    .describe('of some shapes: numCycles, power, lrEnd, minLr, minLrRate, timescale'),
  warmupSteps: z
    .number()
    .min(0)
    .default(0)
    .describe('optimizer steps from rate 0 to the peak; below 1: a share of all steps'),
  warmupRatio: z.number().min(0).max(1).default(0).describe('the same share, under its older name'),
  adamBeta1: z.number().min(0).lt(1).default(0.9).describe('decay of the first moment'),
  adamBeta2: z.number().min(0).lt(1).default(0.999).describe('decay of the second moment'),
  adamEpsilon: z.number().positive().default(1e-8).describe('added to the root of the second moment'),
  weightDecay: z.number().min(0).default(0).describe('decoupled weight decay, on matrices only'),
  maxGradNorm: z.number().min(0).default(1).describe('clip the gradient norm to this; 0 switches clipping off'),
}

const {
  learningRate,
  lrSchedulerType,
  lrSchedulerKwargs: kwargs,
  warmupSteps,
  warmupRatio,
  ...adamwShape
} = optimizerShape

/** Settings of AdamW alone. */
export const adamwOptions = z.strictObject({ ...adamwShape, stochasticRounding: z.boolean().optional() })

/** Settings of a schedule alone; the rate must be given. */
export const scheduleOptions = z.strictObject({
  learningRate: learningRate.unwrap(),
  lrSchedulerType,
  lrSchedulerKwargs: kwargs,
  warmupSteps,
  warmupRatio,
})

/** For models that are loaded: a new one is f32. */
export const stochasticRounding = z
  .boolean()
  .default(false)
  .describe('bf16 weights without f32 masters, rounded at random: 4 bytes per weight less')

/** For adapters. */
export const disableDropout = z
  .boolean()
  .optional()
  .describe('no dropout of an adapter; default true but where rows are learnt by heart alone (sft)')

/** Settings of a reference that follows the policy. */
export const referenceSyncShape = {
  syncRefModel: z
    .boolean()
    .default(false)
    .describe('move the reference towards the policy as training goes on (TR-DPO, 2404.09656)'),
  refModelMixupAlpha: z
    .number()
    .min(0)
    .max(1)
    .default(0.6)
    .describe('share of the policy in what the reference becomes; 1 replaces it'),
  refModelSyncSteps: count(1).default(512).describe('optimizer steps from one move of the reference to the next'),
}

/** Newest checkpoints to keep; TRL's `null` is 0. */
export const saveTotalLimit = count()
  .nullable()
  .default(2)
  .transform((limit) => limit ?? 0)
  .describe('checkpoints to keep; 0: all (TRL: all)')

/** Settings of evaluations, checkpoints, and what the former decide about the latter. */
const watchShape = {
  evalStrategy: z
    .enum(['no', 'steps', 'epoch'])
    .default('steps')
    .describe('when to evaluate: never, every evalSteps, or behind each epoch (TRL: no)'),
  evalSteps: count().default(0).describe('optimizer steps between evaluations; 0: only at the end'),
  evalRows: count().default(0).describe('rows of the data to hold out for evaluation, when there is no evalData'),
  perDeviceEvalBatchSize: count(1)
    .optional()
    .describe('rows per micro-batch of an evaluation; default that of training (TRL: 8)'),
  saveStrategy: z
    .enum(['no', 'steps', 'epoch', 'best'])
    .default('steps')
    .describe(
      'when to save besides the end: never, every saveSteps, behind each epoch, or whenever metricForBestModel improves',
    ),
  saveSteps: count().default(500).describe('optimizer steps between checkpoints; 0: only at the end'),
  saveTotalLimit,
  saveOnlyModel: z
    .boolean()
    .default(false)
    .describe('leave the optimizer out of checkpoints: smaller, but the run cannot be resumed'),
  loadBestModelAtEnd: z
    .boolean()
    .default(false)
    .describe('keep the checkpoint with the best evaluation, and end with its weights'),
  metricForBestModel: z.string().min(1).default('loss').describe('number of the evaluation that tells the best'),
  greaterIsBetter: z.boolean().optional().describe('default true unless the name of the metric ends in loss'),
  earlyStoppingPatience: count(1).optional().describe('stop behind that many evaluations without a better one'),
  earlyStoppingThreshold: z.number().min(0).default(0).describe('how much better it must be to count as such'),
}

/** Settings of `train(...)` that every objective shares. */
export const trainingOptions = z.strictObject({
  ...optimizerShape,
  stochasticRounding,
  perDeviceTrainBatchSize: count(1).default(8).describe('rows (or packed bins) per micro-batch'),
  gradientAccumulationSteps: count(1).default(1).describe('micro-batches per optimizer step'),
  numTrainEpochs: z.number().positive().default(3).describe('passes over the rows; ignored when maxSteps is set'),
  maxSteps: z.int().min(-1).default(-1).describe('optimizer steps; -1: by numTrainEpochs'),
  packing: z
    .boolean()
    .default(false)
    .describe('fill micro-batches with bins of maxLength tokens; rows never see each other'),
  shuffle: z.boolean().default(true).describe('new row order in every epoch'),
  ...encodeShape,
  assistantOnlyLoss: encodeShape.assistantOnlyLoss.describe('message rows: train assistant turns only (TRL: false)'),
  temperature: z
    .number()
    .positive()
    .default(1)
    .describe('divides the logits of policy and reference before their log-probs'),
  neftuneNoiseAlpha: z
    .number()
    .min(0)
    .default(0)
    .describe('NEFTune: size of uniform noise on the embeddings; 0: none (2310.05914)'),
  sharePrompts: z
    .boolean()
    .default(true)
    .describe(
      'sequences of one example go through the model behind one copy of their prompt: the same log-probs, less work; gradients of the prompt are summed before they are rounded',
    ),
  precomputeRefLogProbs: z
    .boolean()
    .default(false)
    .describe('run the reference once over all rows before the first step, then free it'),
  ...referenceSyncShape,
  disableDropout,
  gradientCheckpointing: z
    .boolean()
    .default(false)
    .describe('recompute each layer in backward: less memory, same bits (TRL: true)'),
  seed: count().default(42).describe('key of every random choice'),
  loggingSteps: count(1)
    .default(1)
    .describe('optimizer steps between step events, whose loss and statistics are means over them (TRL: 10)'),
  ...watchShape,
  nonFinite: z
    .enum(['stop', 'skip'])
    .default('stop')
    .describe('what a step with NaN or Inf does; skip allows 3 in a row'),
})

/** Resolved settings of a run. */
export type TrainingOptions = z.output<typeof trainingOptions>

export type { TrainingInput } from './settings.gen.js'
