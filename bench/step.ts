// Suite `step`: whole SFT steps (forward, backward, clipping, AdamW), in tokens per second.

import { sft } from '../ts/loss/index.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { createTrainer, disposeTrainer, trainStep } from '../ts/train/trainer.js'
import { type BenchOptions, rate } from './harness.js'
import { type BenchShape, benchBatch, benchDecoder, benchShapes, shapeWords } from './models.js'

const optimizer = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 }

/** Times every shape, type and thread count. */
export async function benchStep({ threads, dtypes, report }: BenchOptions): Promise<void> {
  for (const shape of benchShapes)
    for (const dtype of dtypes) for (const count of threads) report(await measure(shape, dtype, count))
}

async function measure(shape: BenchShape, dtype: 'f32' | 'bf16', threads: number) {
  const device = getDevice()
  device.threads = threads
  const policy = benchDecoder(device, shape, dtype)
  const trainer = createTrainer({ policy, objective: sft(), optimizer })
  try {
    const batch = benchBatch(shape)
    await device.sync()
    device.resetPeak()
    const ours = await rate(() => trainStep(trainer, [batch], 1e-4), shape.rows * shape.tokens)
    const { peakBytes } = device.memory()
    return {
      suite: 'step',
      name: `SFT step ${shape.name}`,
      shape: shapeWords(shape),
      dtype,
      isa: device.level,
      threads,
      unit: 'tokens/s',
      ours,
      peakBytes,
    }
  } finally {
    disposeTrainer(trainer)
    disposeDecoder(policy, disposeFlat)
  }
}
