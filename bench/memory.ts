// Suite `memory`: the largest sum of live tensors in a step beyond weights, gradients, optimizer state and reference, at
// vocabularies from 1 k to 128 k. Losses over the whole vocabulary need no more of it than others: logits exist as tiles.

import { dpo, sft, superhf } from '../ts/loss/index.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { createTrainer, disposeTrainer, trainStep } from '../ts/train/trainer.js'
import type { BenchOptions, BenchRow } from './harness.js'
import { type BenchShape, benchBatch, benchDecoder, benchOptimizer, benchPairs } from './models.js'

const vocabularies = [1024, 8192, 32768, 131072]

const shapeOf = (vocabSize: number): BenchShape => ({
  name: `vocab ${vocabSize}`,
  hiddenSize: 128,
  layers: 2,
  heads: 4,
  intermediateSize: 384,
  vocabSize,
  rows: 8,
  tokens: 128,
})

const jobs = [
  { name: 'sft', objective: sft(), batch: benchBatch, reference: false },
  { name: 'dpo', objective: dpo(), batch: benchPairs, reference: true },
  { name: 'superhf', objective: superhf(), batch: benchBatch, reference: true },
] as const

/** Bytes of a step's own: its peak less what lives before and after it. */
async function measure({ objective, batch, reference }: (typeof jobs)[number], shape: BenchShape): Promise<number> {
  const device = getDevice()
  const policy = benchDecoder(device, shape, 'bf16')
  const prior = reference ? benchDecoder(device, shape, 'bf16') : undefined
  const trainer = createTrainer({ policy, reference: prior, objective, optimizer: benchOptimizer })
  const micro = batch(shape)
  await trainStep(trainer, [micro], 1e-4)
  const before = device.memory().liveBytes
  device.resetPeak()
  await trainStep(trainer, [micro], 1e-4)
  const own = device.memory().peakBytes - before
  disposeTrainer(trainer)
  for (const model of [policy, prior]) if (model !== undefined) disposeDecoder(model, disposeFlat)
  return own
}

/** One row per objective and vocabulary; the unit is MiB, where less is better. */
export async function benchMemory(options: BenchOptions): Promise<void> {
  const device = getDevice()
  for (const job of jobs.filter(({ name }) => options.only(name)))
    for (const vocabSize of vocabularies) {
      const bytes = await measure(job, shapeOf(vocabSize))
      const mebibytes = bytes / 2 ** 20
      const row: BenchRow = {
        suite: 'memory',
        name: `${job.name} beyond state`,
        shape: `2 x 128, 8 x 128 tokens, vocabulary ${vocabSize}`,
        dtype: 'bf16',
        isa: device.level,
        threads: device.threads,
        unit: 'MiB',
        ours: { median: mebibytes, min: mebibytes, max: mebibytes },
        milliseconds: 0,
        peakBytes: bytes,
      }
      options.report(row)
    }
}
