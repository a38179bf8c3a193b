// Part of the suite `generate`: samples of several turns with text put behind each, as an agent in an environment has them. Beside
// `reply`, over keys that stay, a call of the sampler for every turn, which reads the whole sequence again.

import { sample } from '../ts/src/generate/engine.js'
import type { GenerationRequest } from '../ts/src/generate/request.js'
import { type Decoder, disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { type BenchOptions, type BenchRow, type Float, race, timed } from './harness.js'
import { type BenchShape, benchDecoder, benchRows, benchShapes, shapeWords, smolShape } from './models.js'

/** What is sampled. */
interface Dialogue {
  readonly name: string
  readonly shape: BenchShape
  readonly prompts: number
  readonly promptTokens: number
  readonly numGenerations: number
  readonly turns: number
  readonly turnTokens: number
  readonly replyTokens: number
}

const small = benchShapes[0]
const steps = { turns: 12, turnTokens: 3, replyTokens: 5 }
const dialogues: readonly Dialogue[] = [
  { name: `turns ${small.name}`, shape: small, prompts: 16, promptTokens: 16, numGenerations: 8, ...steps },
  { name: 'turns 135M', shape: smolShape, prompts: 2, promptTokens: 64, numGenerations: 8, ...steps },
]

/** Times every dialogue, type and number of threads. */
export async function benchTurns(options: BenchOptions): Promise<void> {
  for (const dialogue of dialogues.filter(({ name }) => options.only(name)))
    for (const dtype of options.dtypes)
      for (const threads of options.threads) options.report(await measure(dialogue, { dtype, threads }, options))
}

/** Both ways to sample a dialogue: all turns in one call, and a call per turn. */
function waysOf(model: Decoder, dialogue: Dialogue): Record<'kept' | 'anew', () => Promise<unknown>> {
  const { shape, prompts, promptTokens, numGenerations, turns, turnTokens, replyTokens } = dialogue
  const begun = benchRows({ ...shape, rows: prompts, tokens: promptTokens })
  const reply = Array.from({ length: replyTokens }, (_, i) => 3 + i)
  const settings = { maxNewTokens: turnTokens, stopIds: new Set<number>(), seed: 1, maxRows: 256 }
  const kept = () => {
    const ended = new Map<string, number>()
    const request: GenerationRequest = {
      ...settings,
      prompts: begun,
      numGenerations,
      reply: async (p, s) => {
        const done = (ended.get(`${p} ${s}`) ?? 0) + 1
        ended.set(`${p} ${s}`, done)
        return done === turns ? undefined : reply
      },
    }
    return sample(model, request)
  }
  const anew = async () => {
    let sequences = await sample(model, { ...settings, prompts: begun, numGenerations }).then((groups) =>
      groups.flatMap((samples, p) => samples.map(({ ids }) => [...begun[p], ...ids, ...reply])),
    )
    for (let turn = 1; turn < turns; turn++) {
      const groups = await sample(model, { ...settings, prompts: sequences, numGenerations: 1 })
      sequences = sequences.map((ids, i) => [...ids, ...groups[i][0].ids, ...reply])
    }
  }
  return { kept, anew }
}

async function measure(
  dialogue: Dialogue,
  { dtype, threads }: { readonly dtype: Float; readonly threads: number },
  options: BenchOptions,
): Promise<BenchRow> {
  const { name, shape, prompts, promptTokens, numGenerations, turns, turnTokens, replyTokens } = dialogue
  const device = getDevice()
  device.threads = threads
  const model = benchDecoder(device, shape, dtype)
  try {
    const { kept, anew } = waysOf(model, dialogue)
    const samples = prompts * numGenerations
    const amount = samples * turns * turnTokens
    const peer = { name: 'a call per turn', run: timed(anew), amount }
    const result = await race({ ours: { run: timed(kept), amount }, peer }, options.rounds)
    const words = `${shapeWords(shape)}, ${samples} samples of ${turns} turns of ${turnTokens} tokens, ${replyTokens} behind each, prompts of ${promptTokens}`
    return { suite: 'generate', name, shape: words, dtype, isa: device.level, threads, unit: 'tokens/s', ...result }
  } finally {
    disposeDecoder(model, disposeFlat)
  }
}
