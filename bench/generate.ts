// Suite `generate`: batched sampling through the paged cache, in new tokens per second.

import { sample } from '../ts/src/generate/engine.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { type BenchOptions, rate } from './harness.js'
import { type BenchShape, benchBatch, benchDecoder, benchShapes } from './models.js'

const promptTokens = 16
const newTokens = 32
const numGenerations = 4

/** Times every shape, type and thread count. */
export async function benchGenerate({ threads, dtypes, report }: BenchOptions): Promise<void> {
  for (const shape of benchShapes)
    for (const dtype of dtypes) for (const count of threads) report(await measure(shape, dtype, count))
}

async function measure(shape: BenchShape, dtype: 'f32' | 'bf16', threads: number) {
  const device = getDevice()
  device.threads = threads
  const model = benchDecoder(device, shape, dtype)
  try {
    const { packed } = benchBatch(shape)
    const prompts = Array.from({ length: shape.rows }, (_, row) =>
      Array.from(packed.ids.subarray(packed.starts[row], packed.starts[row] + promptTokens)),
    )
    const request = {
      prompts,
      numGenerations,
      maxNewTokens: newTokens,
      stopIds: new Set<number>(),
      seed: 1,
      maxRows: 256,
    }
    const rows = shape.rows * numGenerations
    const ours = await rate(() => sample(model, request), rows * newTokens, 5, 1)
    return {
      suite: 'generate',
      name: `sample ${shape.name}`,
      shape: `${rows} samples x ${newTokens} tokens, prompt ${promptTokens}`,
      dtype,
      isa: device.level,
      threads,
      unit: 'tokens/s',
      ours,
    }
  } finally {
    disposeDecoder(model, disposeFlat)
  }
}
