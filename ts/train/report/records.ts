// The records of metrics.jsonl that a report reads, as types, and the reader that checks them. A record is flat; one that
// nests its numbers in `values` or `stats`, as events of a run do, is read as if they lay beside its name. Records of
// other types, and fields that are not listed here, are passed over.

import * as z from 'zod'
import { WhetstoneError } from '../../src/base/errors.js'
import { type MetricsLine, readMetrics } from '../../src/base/events.js'
import { isJsonObject, parseJson } from '../../src/io/json.js'

/** What every record may have. */
interface Timed {
  /** When it was logged, ISO 8601. */
  readonly time?: string
}

/** What records of steps, evaluations and rounds may have. */
interface Measured extends Timed {
  /** Finite numbers under names that are not fields of the record: statistics under TRL's names, and those of a run's own. */
  readonly numbers: Readonly<Record<string, number>>
}

/** How a run, or a part of it, began. */
export interface StartRecord extends Timed {
  readonly type: 'start'
  readonly totalSteps: number
  readonly device: string
  /** What is trained on what, in a few words each. */
  readonly notes: readonly string[]
}

/** An optimizer step. */
export interface StepRecord extends Measured {
  readonly type: 'step'
  /** `warmup`, `control`, `round`, or the objective of a training run. */
  readonly phase: string
  readonly round?: number
  /** 1-based within the phase. */
  readonly step: number
  /** NaN for a step that was skipped. */
  readonly loss: number
  readonly learningRate: number
  readonly gradNorm: number
  readonly tokens: number
  readonly tokensPerSecond: number
  /** A KL between policy and reference in nats, as the objective has it. */
  readonly kl?: number
  /** Device bytes in use at their highest. */
  readonly memoryBytes?: number
  /** Since this process began the phase. */
  readonly seconds: number
}

/** An evaluation: of tasks (accuracy) or of rows (loss). */
export interface EvalRecord extends Measured {
  readonly type: 'eval'
  /** `warmup`, `control`, `round`, `final`, or a name of the run's own. */
  readonly name: string
  readonly round?: number
  readonly step?: number
  readonly correct?: number
  readonly total?: number
  readonly accuracy?: number
  /** 95% interval of the accuracy. */
  readonly low?: number
  readonly high?: number
  readonly loss?: number
  /** Mean score of samples. */
  readonly reward?: number
  readonly passAtK?: readonly { readonly k: number; readonly value: number }[]
}

/** What a round of self-training sampled and kept. */
export interface RoundRecord extends Measured {
  readonly type: 'round'
  readonly round: number
  /** Mean score of the samples; missing where nothing judges them by rewards. */
  readonly reward?: number
  readonly kept: number
  readonly tasks: number
  readonly samples: number
  readonly kl?: number
  readonly loss?: number
  readonly seconds?: number
  /** Share of samples that are right, and of tasks with a right sample. */
  readonly passAt1?: number
  readonly passAtN?: number
}

/** A completion to look at. */
export interface SampleRecord extends Timed {
  readonly type: 'sample'
  /** The evaluation that it belongs to. */
  readonly name: string
  readonly round?: number
  readonly prompt: string
  readonly completion: string
  readonly correct: boolean
}

/** A checkpoint that was published. */
export interface CheckpointRecord extends Timed {
  readonly type: 'checkpoint'
  readonly step: number
  readonly path: string
}

/** Something to know. */
export interface WarningRecord extends Timed {
  readonly type: 'warning'
  readonly message: string
}

/** A line of metrics.jsonl. */
export type RunRecord =
  | StartRecord
  | StepRecord
  | EvalRecord
  | RoundRecord
  | SampleRecord
  | CheckpointRecord
  | WarningRecord

/** A number that may have been NaN or infinite when it was logged: JSON has null for it. */
const measured = z
  .number()
  .nullable()
  .transform((value) => value ?? Number.NaN)
const optional = z
  .number()
  .nullish()
  .transform((value) => value ?? undefined)
const time = z.string().optional()
const numbers = z.record(z.string(), z.number())

const schemas = {
  start: z.object({
    type: z.literal('start'),
    time,
    totalSteps: z.number(),
    device: z.string(),
    notes: z.array(z.string()),
  }),
  step: z.object({
    type: z.literal('step'),
    time,
    phase: z.string(),
    numbers,
    round: optional,
    step: z.number(),
    loss: measured,
    learningRate: z.number(),
    gradNorm: measured,
    tokens: z.number(),
    tokensPerSecond: measured,
    kl: optional,
    memoryBytes: optional,
    seconds: z.number(),
  }),
  eval: z.object({
    type: z.literal('eval'),
    time,
    name: z.string(),
    numbers,
    round: optional,
    step: optional,
    correct: optional,
    total: optional,
    accuracy: optional,
    low: optional,
    high: optional,
    loss: optional,
    reward: optional,
    passAtK: z.array(z.object({ k: z.number(), value: z.number() })).optional(),
  }),
  round: z.object({
    type: z.literal('round'),
    time,
    numbers,
    round: z.number(),
    reward: optional,
    kept: z.number(),
    tasks: z.number(),
    samples: z.number(),
    kl: optional,
    loss: optional,
    seconds: optional,
    passAt1: optional,
    passAtN: optional,
  }),
  sample: z.object({
    type: z.literal('sample'),
    time,
    name: z.string(),
    round: optional,
    prompt: z.string(),
    completion: z.string(),
    correct: z.boolean(),
  }),
  checkpoint: z.object({ type: z.literal('checkpoint'), time, step: z.number(), path: z.string() }),
  warning: z.object({ type: z.literal('warning'), time, message: z.string() }),
} satisfies { readonly [T in RunRecord['type']]: z.ZodType<Extract<RunRecord, { type: T }>> }

/** The statistics of a record that are none of its fields. */
const numbersOf = (nested: Readonly<Record<string, unknown>>, { shape }: z.ZodObject): Record<string, number> =>
  Object.fromEntries(
    Object.entries(nested).filter(
      (entry): entry is [string, number] => Number.isFinite(entry[1]) && !Object.hasOwn(shape, entry[0]),
    ),
  )

const inner = (value: unknown): Record<string, unknown> => (isJsonObject(value) ? value : {})

function recordOf({ value, line }: MetricsLine, path: string): RunRecord[] {
  if (!isJsonObject(value)) throw new WhetstoneError('E_FORMAT', `${path}:${line}`, 'expected a JSON object')
  const { type } = value
  if (typeof type !== 'string' || !Object.hasOwn(schemas, type)) return []
  const schema = schemas[type as RunRecord['type']]
  const nested = { ...inner(value.stats), ...inner(value.values) }
  const checked = schema.safeParse({ ...nested, ...value, numbers: numbersOf(nested, schema) })
  if (checked.success) return [checked.data]
  const { path: field, message } = checked.error.issues[0]
  throw new WhetstoneError('E_FORMAT', `${path}:${line}`, `${field.join('.')} of a ${type} record: ${message}`)
}

/**
 * The records of a log, in order. A torn last line is left out.
 *
 * @throws WhetstoneError E_IO; E_FORMAT with `file:line` for a record that is not as above
 */
export const readRecords = (path: string): RunRecord[] =>
  readMetrics(path, parseJson).flatMap((line) => recordOf(line, path))
