// Suite `generate`: sampling through the paged cache at temperature 1 over the whole vocabulary, in new tokens and in samples
// per second; no sample stops before its last token. `decode` is one sequence alone: its ceiling is how often a copy as
// fast as memory could read the weights.

import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sample } from '../ts/src/generate/engine.js'
import { type Decoder, disposeDecoder } from '../ts/src/models/decoder.js'
import { type Device, getDevice } from '../ts/src/native/device.js'
import { disposeFlat, flatBytes, parameterCount } from '../ts/src/nn/parameters.js'
import { copyProbe } from './ceilings.js'
import { writeGguf } from './gguf.js'
import {
  type BenchOptions,
  type BenchRow,
  type Float,
  type Result,
  race,
  type Sides,
  type Spread,
  timed,
} from './harness.js'
import { type BenchShape, benchDecoder, benchRows, benchShapes, gpuShape, shapeWords, smolShape } from './models.js'
import type { Peer } from './peer.js'
import { benchTurns } from './turns.js'

/** What is sampled. */
interface Sampling {
  readonly name: string
  readonly shape: BenchShape
  readonly prompts: number
  readonly promptTokens: number
  readonly newTokens: number
  readonly numGenerations: number
  /** For one kind of device only. */
  readonly only?: Device['kind']
}

const short = { promptTokens: 16, newTokens: 32, numGenerations: 4 }

const samplings: readonly Sampling[] = [
  ...benchShapes.map((shape) => ({ name: `generate ${shape.name}`, shape, prompts: shape.rows, ...short })),
  { name: 'generate 50M', shape: gpuShape, prompts: gpuShape.rows, ...short, only: 'cuda' },
  { name: 'generate 135M', shape: smolShape, prompts: 1, promptTokens: 256, newTokens: 64, numGenerations: 16 },
  { name: 'decode 135M', shape: smolShape, prompts: 1, promptTokens: 16, newTokens: 64, numGenerations: 1 },
]

/** Times every sampling, type and number of threads. */
export async function benchGenerate(options: BenchOptions): Promise<void> {
  const { kind } = getDevice()
  for (const sampling of samplings.filter(({ name, only = kind }) => options.only(name) && only === kind))
    for (const dtype of options.dtypes)
      for (const threads of options.threads)
        for (const row of await measure({ ...sampling, dtype, threads }, options)) options.report(row)
  await benchTurns(options)
}

type Job = Sampling & { readonly dtype: Float; readonly threads: number }

const tokensOf = ({ prompts, numGenerations, newTokens }: Sampling): number => prompts * numGenerations * newTokens

/** One run: all samples of all prompts at once. */
const runOnce = (model: Decoder, { shape, prompts, promptTokens, newTokens, numGenerations }: Sampling) => {
  const request = {
    prompts: benchRows({ ...shape, rows: prompts, tokens: promptTokens }),
    numGenerations,
    maxNewTokens: newTokens,
    stopIds: new Set<number>(),
    seed: 1,
    maxRows: 256,
  }
  return () => sample(model, request)
}

/** Peers that make their own weights say how many they are; others are given ours as a file. */
async function peerSide(peer: Peer | undefined, job: Job, model: Decoder): Promise<Sides['peer']> {
  if (peer === undefined) return undefined
  const { shape, only: _, ...settings } = job
  const weights = peer.name.startsWith('llama.cpp') ? await ggufOf(model, shape) : undefined
  const ready = await peer.prepare({ ...shape, ...settings, weights })
  const same = weights !== undefined || ready?.parameters === parameterCount(model.parameters)
  return ready && same ? { name: peer.name, run: () => peer.run(1), amount: tokensOf(job) } : undefined
}

async function ggufOf(model: Decoder, shape: BenchShape): Promise<string> {
  const path = join(await mkdtemp(join(tmpdir(), 'whetstone-gguf-')), 'model.gguf')
  await writeGguf(path, model, shape)
  return path
}

/** The same runs in another unit. */
const perUnit = ({ ours, milliseconds }: Result, factor: number): Result => {
  const scaled: Spread = { median: ours.median * factor, min: ours.min * factor, max: ours.max * factor }
  return { ours: scaled, milliseconds }
}

async function measure(job: Job, options: BenchOptions): Promise<BenchRow[]> {
  const { name, shape, dtype, threads, promptTokens, newTokens, numGenerations, prompts } = job
  const device = getDevice()
  device.threads = threads
  const model = benchDecoder(device, shape, dtype)
  const weightBytes = flatBytes(model.parameters)
  const alone = prompts * numGenerations === 1
  const copy = alone ? await copyProbe(device, weightBytes) : undefined
  try {
    const ours = { run: timed(runOnce(model, job)), amount: tokensOf(job) }
    const ceiling = copy && { run: copy.run, amount: (copy.amount * 1e9) / weightBytes }
    const result = await race({ ours, peer: await peerSide(options.peer, job, model), ceiling }, options.rounds)
    const samples = prompts * numGenerations
    const words = `${shapeWords(shape)}, ${samples} samples of ${newTokens} tokens, prompts of ${promptTokens}`
    const subject = { suite: 'generate', name, shape: words, dtype, isa: device.level, threads }
    const inTokens = { ...subject, unit: 'tokens/s', ...result }
    return alone ? [inTokens] : [inTokens, { ...subject, unit: 'samples/s', ...perUnit(result, 1 / newTokens) }]
  } finally {
    copy?.dispose()
    disposeDecoder(model, disposeFlat)
  }
}
