// What the suites of whole runs share: a tiny character model on disk, rows of every kind, and `train()` followed to its
// end with everything that it told.

import { createHash } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Test } from 'tap'
import type { Objective } from '../ts/loss/define.js'
import { objectives } from '../ts/loss/index.js'
import { type LanguageModel, loadModel, type ModelOptions } from '../ts/src/generate/language-model.js'
import { trainableOf } from '../ts/src/models/decoder.js'
import { parameterGroups } from '../ts/src/nn/parameters.js'
import { rowKindOf } from '../ts/train/data/encode.js'
import { type EncodedKind, kindOf } from '../ts/train/data/encoders.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { type TrainOptions, type TrainResult, train } from '../ts/train/train.js'
import { temporaryFolder } from './support.js'

/** Printable ASCII and the line feed. */
const characters = `${Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).join('')}\n`

/** Writes the tiny model; equal calls give equal bytes. */
export async function makeTiny(directory: string, hiddenSize = 32): Promise<string> {
  const shape = { hiddenSize, layers: 2, heads: 2, intermediateSize: 2 * hiddenSize }
  await makeTaskModel(directory, { characters } as never, { seed: 1, ...shape })
  return directory
}

const words = ['ab', 'cd', 'ef', 'gh', 'ij', 'kl', 'mn', 'op']
const reversed = (word: string): string => [...word].reverse().join('')

/** Rows of each kind, with the numbers that any objective looks at. */
export const rowsOf: Readonly<Record<EncodedKind, readonly object[]>> = {
  completion: words.map((word, i) => ({ prompt: `say ${word}: `, completion: word.repeat(1 + (i % 3)) })),
  preference: words.map((word, i) => ({
    prompt: `say ${word}: `,
    chosen: word.repeat(1 + (i % 3)),
    rejected: `${reversed(word)}!`,
    onPolicy: i % 2,
    score_chosen: 1,
    score_rejected: -1,
  })),
  unpaired: words.map((word, i) => ({
    prompt: `say ${word}: `,
    completion: i % 2 === 0 ? word : `${reversed(word)}!`,
    label: i % 2 === 0,
  })),
  stepwise: words.map((word, i) => ({
    prompt: `say ${word}: `,
    completions: [`${word}.`, i % 2 === 0 ? `${word}.` : `${reversed(word)}!`],
    labels: [true, i % 2 === 0],
  })),
  ranked: words.map((word, i) => ({
    prompt: `say ${word}: `,
    completions: [`${reversed(word)}!`, word, `${word}.`, '?'].slice(0, 2 + (i % 3)),
    scores: [0, 2, 2, 1].slice(0, 2 + (i % 3)),
  })),
}

/** Settings that an objective cannot do without. */
export const settingsOf: Readonly<Record<string, object>> = { drGrpo: { maxCompletionLength: 8 } }

type AnyMake = (config?: object) => Objective

/** An objective by name. */
export const makeObjective = (name: string, config?: object): Objective =>
  (objectives[name] as AnyMake)({ ...settingsOf[name], ...config })

/** Names of the objectives that train on rows. */
export const rowObjectives = Object.keys(objectives).filter((name) => kindOf(makeObjective(name).needs) !== undefined)

/** The rows of an objective. */
export const rowsFor = (objective: Objective): readonly object[] => rowsOf[rowKindOf(objective)]

/** Writes rows as JSON lines and returns the file. */
export async function putRows(folder: string, name: string, rows: readonly object[]): Promise<string> {
  const file = join(folder, name)
  await writeFile(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  return file
}

/** SHA-256 of what training changes: the weights, or the adapter. */
export async function weightsHash({ decoder }: LanguageModel): Promise<string> {
  const hash = createHash('sha256')
  const { flat } = trainableOf(decoder)
  for (const group of parameterGroups) hash.update((await flat[group].bits()) as Float32Array)
  return hash.digest('hex')
}

/** What a run told, and what came of it. */
export interface Outcome {
  readonly losses: readonly number[]
  readonly stats: readonly Readonly<Record<string, number>>[]
  readonly warnings: readonly string[]
  readonly result: TrainResult
  readonly hash: string
}

/** How a run differs from the usual one. */
export type KindOptions = Omit<TrainOptions, 'policy' | 'data'> & {
  readonly base: string
  readonly load?: ModelOptions
  readonly data?: TrainOptions['data']
  /** Stops behind the step that looks at the loss for the n-th time. */
  readonly stopAt?: number
  /** Looks at the trained policy. */
  readonly after?: (policy: LanguageModel, result: TrainResult) => Promise<void>
}

/** What all runs have in common. */
const shared = {
  learningRate: 3e-3,
  lrSchedulerType: 'constant',
  perDeviceTrainBatchSize: 4,
  maxSteps: 6,
  weightDecay: 0.01,
} as const

/** The teacher of an objective that must have one: the model as it starts, once more. */
export const teacherOf = async ({ needs }: Objective, base: string, dtype?: 'f32' | 'bf16') =>
  needs.teacher === true ? loadModel(base, { dtype }) : undefined

/** Loads the model, trains it and tells what happened. Equal settings give equal bits. */
export async function runKind({ base, load, stopAt, after, ...options }: KindOptions): Promise<Outcome> {
  const stop = new AbortController()
  let looks = 0
  const evaluate: Objective['evaluate'] = (batch) => {
    if (++looks === stopAt) stop.abort(new Error('enough'))
    return options.objective.evaluate(batch)
  }
  const objective = { ...options.objective, evaluate }
  using policy = await loadModel(base, { scoreLabels: objective.needs.values, seed: 3, ...load })
  const signal = stopAt === undefined ? options.signal : stop.signal
  using teacher = options.reference === undefined ? await teacherOf(objective, base, load?.dtype) : undefined
  const reference = options.reference ?? teacher?.decoder
  const run = train({ ...shared, data: rowsFor(objective), ...options, reference, objective, policy, signal })
  const losses: number[] = []
  const stats: Readonly<Record<string, number>>[] = []
  const warnings: string[] = []
  const following = async () => {
    for await (const event of run) {
      if (event.type === 'warning') warnings.push(event.message)
      if (event.type !== 'step') continue
      losses.push(event.loss)
      stats.push(event.stats)
    }
  }
  const [result] = await Promise.all([run.result, following()])
  await after?.(policy, result)
  return { losses, stats, warnings, result, hash: await weightsHash(policy) }
}

/** A folder with the tiny model in it. */
export async function tinyFolder(t: Pick<Test, 'teardown'>): Promise<{ folder: string; base: string }> {
  const folder = await temporaryFolder(t)
  return { folder, base: await makeTiny(join(folder, 'base')) }
}
