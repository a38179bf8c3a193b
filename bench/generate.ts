// Suite `generate`: batched sampling through the paged cache at temperature 1, in new tokens and in samples per second.

import { sample } from '../ts/src/generate/engine.js'
import { type Decoder, disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { type BenchOptions, type BenchRow, type Float, type Result, race, type Spread, timed } from './harness.js'
import { type BenchShape, benchDecoder, benchRows, shapesFor, shapeWords } from './models.js'

const promptTokens = 16
const newTokens = 32
const numGenerations = 4

/** Times every shape, type and number of threads. */
export async function benchGenerate(options: BenchOptions): Promise<void> {
  for (const shape of shapesFor(getDevice()).filter((s) => `generate ${s.name}`.includes(options.only)))
    for (const dtype of options.dtypes)
      for (const threads of options.threads)
        for (const row of await measure(shape, dtype, threads, options.rounds)) options.report(row)
}

/** One run: all samples of all prompts at once; no sample stops before its last token. */
const runOnce = (model: Decoder, shape: BenchShape) => {
  const request = {
    prompts: benchRows(shape).map((ids) => ids.slice(0, promptTokens)),
    numGenerations,
    maxNewTokens: newTokens,
    stopIds: new Set<number>(),
    seed: 1,
    maxRows: 256,
  }
  return () => sample(model, request)
}

/** The same runs in another unit. */
const perUnit = ({ ours, milliseconds }: Result, factor: number): Result => {
  const scaled: Spread = { median: ours.median * factor, min: ours.min * factor, max: ours.max * factor }
  return { ours: scaled, milliseconds }
}

async function measure(shape: BenchShape, dtype: Float, threads: number, rounds: number): Promise<BenchRow[]> {
  const device = getDevice()
  device.threads = threads
  const model = benchDecoder(device, shape, dtype)
  try {
    const samples = shape.rows * numGenerations
    const ours = { run: timed(runOnce(model, shape)), amount: samples * newTokens }
    const result = await race({ ours }, rounds)
    const words = `${shapeWords(shape)}, ${samples} samples of ${newTokens} tokens, prompts of ${promptTokens}`
    const subject = {
      suite: 'generate',
      name: `generate ${shape.name}`,
      shape: words,
      dtype,
      isa: device.level,
      threads,
    }
    return [
      { ...subject, unit: 'tokens/s', ...result },
      { ...subject, unit: 'samples/s', ...perUnit(result, 1 / newTokens) },
    ]
  } finally {
    disposeDecoder(model, disposeFlat)
  }
}
