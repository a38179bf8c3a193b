// Suite `prompts`: what it saves that chosen and rejected compute the prompt that they share once. DPO steps over pairs at
// prompt to completion ratios of four public data sets (kernels.md 5), in pairs per second; the peer is the same step
// over rows that share nothing.

import { dpo } from '../ts/loss/index.js'
import { createRandom, deriveKey } from '../ts/src/base/rng.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import type { EncodedExample } from '../ts/train/data/example.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import { createTrainer, disposeTrainer, type Trainer, trainStep } from '../ts/train/trainer.js'
import { type BenchOptions, type Float, race, timed } from './harness.js'
import { benchDecoder, benchOptimizer, benchShapes, shapeWords } from './models.js'

const ratios = [0.5, 1.6, 4, 11]
const pairCount = 4
const completionTokens = 48

function pairsOf(ratio: number, vocabSize: number): EncodedExample[] {
  const random = createRandom(deriveKey(1, 'bench', 'prompts', String(ratio)))
  const ids = (length: number) => Array.from({ length }, () => random.integer(vocabSize))
  const promptTokens = Math.round(ratio * completionTokens)
  return Array.from({ length: pairCount }, () => {
    const prompt = ids(promptTokens)
    const side = (role: 'chosen' | 'rejected') => {
      const all = [...prompt, ...ids(completionTokens)]
      return { ids: all, role, trained: Uint8Array.from(all, (_, t) => Number(t >= promptTokens)) }
    }
    return [side('chosen'), side('rejected')]
  })
}

async function compare(trainer: Trainer, ratio: number, { rounds }: BenchOptions) {
  const pairs = pairsOf(ratio, trainer.policy.config.vocabSize)
  const [shared, alone] = [microBatchOf(pairs), microBatchOf(pairs, { share: 'none' })]
  const side = (batch: typeof shared) => ({ run: timed(() => trainStep(trainer, [batch], 1e-5)), amount: pairCount })
  const result = await race({ ours: side(shared), peer: { ...side(alone), name: 'unshared' } }, rounds)
  return { result, tokens: [shared.packed.ids.length, alone.packed.ids.length] }
}

/** One row per ratio, type and number of threads. */
export async function benchPrompts(options: BenchOptions): Promise<void> {
  const device = getDevice()
  const shape = benchShapes[1]
  const run = async (dtype: Float, threads: number) => {
    device.threads = threads
    const policy = benchDecoder(device, shape, dtype)
    const reference = benchDecoder(device, shape, dtype)
    const trainer = createTrainer({ policy, reference, objective: dpo(), optimizer: benchOptimizer })
    for (const ratio of ratios) {
      const { result, tokens } = await compare(trainer, ratio, options)
      const words = `${shapeWords(shape)}, ${pairCount} pairs, ${tokens[0]} tokens instead of ${tokens[1]}`
      const subject = { suite: 'prompts', name: `DPO, ratio ${ratio}`, shape: words, dtype, isa: device.level, threads }
      options.report({ ...subject, unit: 'pairs/s', ...result })
    }
    disposeTrainer(trainer)
    for (const model of [policy, reference]) disposeDecoder(model, disposeFlat)
  }
  for (const dtype of options.dtypes) for (const threads of options.threads) await run(dtype, threads)
}
