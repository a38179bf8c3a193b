// Judges golden/train (eight AdamW steps, full fine-tuning and LoRA) and golden/traces/sft.json (TRL's SFTTrainer) by
// running the same steps through the trainer. Tolerances: the READMEs of those folders, float32 columns.

import { join } from 'node:path'
import { sft } from '../../ts/loss/index.js'
import { loadModel } from '../../ts/src/generate/language-model.js'
import { readJson } from '../../ts/src/io/json.js'
import { trainableOf } from '../../ts/src/models/decoder.js'
import { microBatchOfRows } from '../../ts/train/data/micro-batch.js'
import type { AdamWConfig } from '../../ts/train/optimizer.js'
import { learningRateAt, type Schedule } from '../../ts/train/schedule.js'
import { createTrainer, disposeTrainer, type MicroBatch, type Trainer, trainStep } from '../../ts/train/trainer.js'
import { type MaskedSequence, maskedBatch } from './batches.js'
import { type Finding, largestDifference, within } from './finding.js'

/** A step of a reference run; TRL's logs the statistics. */
interface ExpectedStep {
  readonly loss: number
  readonly grad_norm: number
  readonly lr?: number
  readonly learning_rate?: number
  readonly tokens?: number
  readonly entropy?: number
  readonly mean_token_accuracy?: number
}

/** What a reference run logged, and the sums of its weights at the end. */
export interface Expected {
  readonly steps: readonly ExpectedStep[]
  readonly final: Readonly<Record<string, { sum: number; sum_sq: number }>>
}

interface Recipe {
  readonly model: string
  /** Folder of the adapter that is trained in place of the weights. */
  readonly adapter?: string
  readonly optimizer: AdamWConfig
  readonly schedule: Schedule
  readonly steps: readonly (readonly MicroBatch[])[]
  readonly lossTolerance: number
}

/** What traces log. */
const logs = ['entropy', 'mean_token_accuracy', 'num_tokens']

async function runRecipe(
  recipe: Recipe,
  expected: Expected,
  name: string,
  judgeEnd: (trainer: Trainer) => Promise<Finding[]> = async () => [],
): Promise<Finding[]> {
  using model = await loadModel(recipe.model, { dtype: 'f32', adapter: recipe.adapter })
  const trainer = createTrainer({ policy: model.decoder, objective: sft(), optimizer: recipe.optimizer })
  try {
    const findings: Finding[] = []
    for (const [k, batches] of recipe.steps.entries()) {
      const rate = learningRateAt(recipe.schedule, k)
      const { loss, gradNorm, stats, numTokens } = await trainStep(trainer, batches, rate)
      const { loss: wanted, grad_norm, lr, learning_rate, ...logged } = expected.steps[k]
      findings.push(
        within(`${name} step ${k} loss`, Math.abs(loss - wanted), recipe.lossTolerance),
        within(`${name} step ${k} grad_norm`, Math.abs(gradNorm / grad_norm - 1), 1e-4),
        within(`${name} step ${k} lr`, Math.abs(rate - (lr ?? learning_rate ?? Number.NaN)), 1e-15),
        ...judgeStatistics(`${name} step ${k}`, logs, { ...stats, num_tokens: numTokens }, logged),
      )
    }
    return [...findings, ...(await judgeFinal(trainer, expected, name)), ...(await judgeEnd(trainer))]
  } finally {
    disposeTrainer(trainer)
  }
}

/** Statistics that the reference logged, under the same names. */
export const judgeStatistics = (
  name: string,
  keys: readonly string[],
  stats: Readonly<Record<string, number>>,
  logged: Readonly<Record<string, unknown>>,
): Finding[] =>
  keys
    .filter((key) => typeof logged[key] === 'number')
    .map((key) => within(`${name} ${key}`, Math.abs(stats[key] - Number(logged[key])), 1e-4))

/** Sums of all trained tensors. */
export async function judgeFinal(trainer: Trainer, expected: Expected, name: string): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const [key, { sum, sum_sq }] of Object.entries(expected.final)) {
    const got = sumsOf((await trainableOf(trainer.policy).byName.get(key)?.data()) ?? [])
    findings.push(
      within(`${name} final sum ${key}`, Math.abs(got.sum - sum), 1e-3),
      within(`${name} final sum_sq ${key}`, Math.abs(got.squares / sum_sq - 1), 1e-4),
    )
  }
  return findings
}

function sumsOf(values: Iterable<number>): { sum: number; squares: number } {
  let sum = 0
  let squares = 0
  for (const value of values) {
    sum += value
    squares += value * value
  }
  return { sum, squares }
}

/** What full fine-tuning and LoRA of a folder of golden/train share. */
async function recipeOf(root: string, name: string): Promise<Recipe> {
  const data = (await readJson(join(root, 'train', name, 'data.json'))) as {
    steps: { micro_batches: MaskedSequence[][] }[]
  }
  return {
    model: join(root, 'models', name),
    optimizer: { adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 },
    schedule: { learningRate: 1e-3, lrSchedulerType: 'cosine', warmupSteps: 2, totalSteps: data.steps.length },
    steps: data.steps.map((step) => step.micro_batches.map(maskedBatch)),
    lossTolerance: 1e-5,
  }
}

const expectedOf = async (root: string, name: string, file: string): Promise<Expected> =>
  ((await readJson(join(root, 'train', name, file))) as { f64: Expected }).f64

/** Full fine-tuning of one folder of golden/train. */
export const judgeFullTraining = async (root: string, name: string): Promise<Finding[]> =>
  runRecipe(await recipeOf(root, name), await expectedOf(root, name, 'full.json'), `train/${name}/full`)

/** LoRA of one folder of golden/train: PEFT's adapter is read, trained, and compared with the one that PEFT wrote. */
export async function judgeLoraTraining(root: string, name: string): Promise<Finding[]> {
  const folder = (end: string) => join(root, 'train', name, end)
  const recipe = { ...(await recipeOf(root, name)), adapter: folder('lora_start') }
  return runRecipe(recipe, await expectedOf(root, name, 'lora.json'), `train/${name}/lora`, async ({ policy }) => {
    using end = await loadModel(recipe.model, { dtype: 'f32', adapter: folder('lora_end') })
    const pairs = [...trainableOf(end.decoder).byName].map(async ([key, t]) => {
      const got = await trainableOf(policy).byName.get(key)?.data()
      const error = largestDifference(got ?? [], await t.data())
      return within(`train/${name}/lora end ${key}`, error, 1e-5)
    })
    return await Promise.all(pairs)
  })
}

interface TraceBatch {
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
  readonly labels: number[][]
}

/** A padded batch of SFTTrainer as one micro-batch. */
function traceBatch({ input_ids, attention_mask, labels }: TraceBatch): MicroBatch {
  return microBatchOfRows(
    input_ids.map((padded, row) => {
      const ids = padded.filter((_, t) => attention_mask[row][t] === 1)
      return { ids, trained: Uint8Array.from(ids, (_, t) => Number(labels[row][t] !== -100)) }
    }),
  )
}

/** TRL's SFT trace. */
export async function judgeSftTrace(root: string): Promise<Finding[]> {
  const trace = (await readJson(join(root, 'traces', 'sft.json'))) as Omit<Expected, 'steps'> & {
    steps: (Expected['steps'][number] & { exact_loss: number; batch: TraceBatch })[]
  }
  const recipe: Recipe = {
    model: join(root, 'models', 'llama'),
    optimizer: { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 },
    schedule: { learningRate: 1e-4, lrSchedulerType: 'constant', warmupSteps: 0, totalSteps: trace.steps.length },
    steps: trace.steps.map((step) => [traceBatch(step.batch)]),
    lossTolerance: 1e-4,
  }
  const exact = { ...trace, steps: trace.steps.map((step) => ({ ...step, loss: step.exact_loss })) }
  return runRecipe(recipe, exact, 'traces/sft')
}
