// Judges golden/train (eight AdamW steps, full fine-tuning) and golden/traces/sft.json (TRL's SFTTrainer) by running
// the same steps through the trainer. Tolerances: the READMEs of those folders, float32 columns.

import { join } from 'node:path'
import { sft } from '../../ts/loss/index.js'
import { loadModel } from '../../ts/src/generate/language-model.js'
import { readJson } from '../../ts/src/io/json.js'
import { microBatchOfRows } from '../../ts/train/data/micro-batch.js'
import type { AdamWConfig } from '../../ts/train/optimizer.js'
import { learningRateAt, type Schedule } from '../../ts/train/schedule.js'
import { createTrainer, disposeTrainer, type MicroBatch, type Trainer, trainStep } from '../../ts/train/trainer.js'
import { type MaskedSequence, maskedBatch } from './batches.js'
import { type Finding, within } from './finding.js'

/** What a reference run logged, and the sums of its weights at the end. */
export interface Expected {
  readonly steps: readonly { loss: number; grad_norm: number; lr?: number; learning_rate?: number; tokens?: number }[]
  readonly final: Readonly<Record<string, { sum: number; sum_sq: number }>>
}

interface Recipe {
  readonly model: string
  readonly optimizer: AdamWConfig
  readonly schedule: Schedule
  readonly steps: readonly (readonly MicroBatch[])[]
  readonly lossTolerance: number
}

async function runRecipe(recipe: Recipe, expected: Expected, name: string): Promise<Finding[]> {
  using model = await loadModel(recipe.model, { dtype: 'f32' })
  const trainer = createTrainer({ policy: model.decoder, objective: sft(), optimizer: recipe.optimizer })
  try {
    const findings: Finding[] = []
    for (const [k, batches] of recipe.steps.entries()) {
      const rate = learningRateAt(recipe.schedule, k)
      const { loss, gradNorm } = await trainStep(trainer, batches, rate)
      const { loss: wanted, grad_norm, lr, learning_rate } = expected.steps[k]
      findings.push(
        within(`${name} step ${k} loss`, Math.abs(loss - wanted), recipe.lossTolerance),
        within(`${name} step ${k} grad_norm`, Math.abs(gradNorm / grad_norm - 1), 1e-4),
        within(`${name} step ${k} lr`, Math.abs(rate - (lr ?? learning_rate ?? Number.NaN)), 1e-15),
      )
    }
    return [...findings, ...(await judgeFinal(trainer, expected, name))]
  } finally {
    disposeTrainer(trainer)
  }
}

/** Sums of all trained tensors. */
export async function judgeFinal(trainer: Trainer, expected: Expected, name: string): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const [key, { sum, sum_sq }] of Object.entries(expected.final)) {
    const got = sumsOf((await trainer.policy.parameters.byName.get(key)?.data()) ?? [])
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

/** Full fine-tuning of one folder of golden/train. */
export async function judgeFullTraining(root: string, name: string): Promise<Finding[]> {
  const directory = join(root, 'train', name)
  const data = (await readJson(join(directory, 'data.json'))) as { steps: { micro_batches: MaskedSequence[][] }[] }
  const expected = (await readJson(join(directory, 'full.json'))) as { f64: Expected }
  const recipe: Recipe = {
    model: join(root, 'models', name),
    optimizer: { adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 },
    schedule: { learningRate: 1e-3, lrSchedulerType: 'cosine', warmupSteps: 2, totalSteps: data.steps.length },
    steps: data.steps.map((step) => step.micro_batches.map(maskedBatch)),
    lossTolerance: 1e-5,
  }
  return runRecipe(recipe, expected.f64, `train/${name}/full`)
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
