// Suite `step`: whole training steps (forward, backward, clipping, AdamW), in tokens per second. bf16 means weights and
// activations in bf16 over f32 masters and moments; the peer's bf16 is its autocast over f32 weights. DPO counts the tokens
// of both answers with their prompts, although a shared prompt is computed once here, and twice by the peer.

import { dpo, sft } from '../ts/loss/index.js'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { disposeAdapter, withAdapter } from '../ts/src/models/adapter.js'
import { type Decoder, disposeDecoder, trainableOf } from '../ts/src/models/decoder.js'
import { quantizedDecoder } from '../ts/src/models/quantize.js'
import { type Device, getDevice } from '../ts/src/native/device.js'
import { disposeFlat, parameterCount } from '../ts/src/nn/parameters.js'
import { createTrainer, disposeTrainer, type Trainer, trainStep } from '../ts/train/trainer.js'
import { peakProbe } from './ceilings.js'
import { type BenchOptions, type BenchRow, type Float, race, type Sides, timed } from './harness.js'
import {
  type BenchShape,
  benchBatch,
  benchDecoder,
  benchOptimizer,
  benchPairs,
  benchShapes,
  gpuShape,
  qwenShape,
  shapeWords,
  smolShape,
  stepFlops,
} from './models.js'
import type { Peer } from './peer.js'

const learningRate = 1e-4
const beta = 0.1

/** What is trained. */
interface Training {
  readonly name: string
  readonly shape: BenchShape
  readonly objective: 'sft' | 'dpo'
  /** Rank of an adapter over all linear layers, with a frozen base; absent: all weights are trained. */
  readonly loraRank?: number
  /** The base is in four bits, with double quantisation: QLoRA. */
  readonly loadIn4bit?: boolean
  /** For one kind of device only. */
  readonly only?: Device['kind']
}

const trainings: readonly Training[] = [
  ...[...benchShapes, smolShape].map((shape) => ({ name: `step ${shape.name}`, shape, objective: 'sft' as const })),
  { name: 'step 50M', shape: gpuShape, objective: 'sft', only: 'cuda' },
  { name: 'step 0.5B LoRA', shape: qwenShape, objective: 'sft', loraRank: 16 },
  { name: 'step 0.5B QLoRA', shape: qwenShape, objective: 'sft', loraRank: 16, loadIn4bit: true },
  ...[...benchShapes, smolShape].map((shape) => ({ name: `dpo ${shape.name}`, shape, objective: 'dpo' as const })),
]

/** A training in one type on some threads. */
interface Job extends Training {
  readonly dtype: Float
  readonly threads: number
}

/** Times every training, type and number of threads. */
export async function benchStep(options: BenchOptions): Promise<void> {
  const wanted = ({ name, only }: Training) => options.only(name) && (only ?? getDevice().kind) === getDevice().kind
  for (const training of trainings.filter(wanted))
    for (const dtype of options.dtypes)
      for (const threads of options.threads) options.report(await measure({ ...training, dtype, threads }, options))
}

/** Peak bytes of tensors from the second step on, when nothing is new any more. */
async function peakBytesOf(device: Device, step: () => Promise<unknown>): Promise<number> {
  await step()
  device.resetPeak()
  await step()
  return device.memory().peakBytes
}

/** The peer's side, checked to train as many parameters. */
async function peerSide(peer: Peer | undefined, job: Job, trainer: Trainer): Promise<Sides['peer']> {
  const { shape, objective, loraRank, loadIn4bit, dtype, threads } = job
  const ready = await peer?.prepare({
    ...shape,
    objective,
    beta,
    loraRank,
    loadIn4bit,
    dtype,
    threads,
    learningRate,
    ...benchOptimizer,
  })
  if (peer === undefined || ready === undefined) return undefined
  const count = parameterCount(trainableOf(trainer.policy))
  if (ready.parameters !== count)
    throw new WhetstoneError('E_MISMATCH', peer.name, `expected ${count} parameters, got ${String(ready.parameters)}`)
  return { name: peer.name, run: () => peer.run(1), amount: tokensOf(shape), peakBytes: Number(ready.peakBytes) }
}

const tokensOf = ({ rows, tokens }: BenchShape): number => rows * tokens

/** What the fastest product would give, in tokens per second. */
async function ceilingOf({ shape, dtype, loraRank }: Job, device: Device) {
  const probe = await peakProbe(device, dtype)
  const seconds = stepFlops(shape, loraRank !== undefined) / 1e9
  return { run: probe.run, amount: (probe.amount * tokensOf(shape)) / seconds, dispose: probe.dispose }
}

function stepOf({ shape, objective }: Job, trainer: Trainer): () => Promise<unknown> {
  const batch = objective === 'dpo' ? benchPairs(shape) : benchBatch(shape)
  return () => trainStep(trainer, [batch], learningRate)
}

/** Rounds with trainer, peer and ceiling. DPO has none: how much is computed depends on what is shared. */
async function raceSteps(job: Job, trainer: Trainer, options: BenchOptions) {
  const { shape, objective } = job
  const { device } = trainer.policy
  const step = stepOf(job, trainer)
  const peakBytes = await peakBytesOf(device, step)
  const ours = { run: timed(step), amount: tokensOf(shape) }
  const ceiling = objective === 'sft' ? await ceilingOf(job, device) : undefined
  try {
    const peer = await peerSide(options.peer, job, trainer)
    return { ...(await race({ ours, peer, ceiling }, options.rounds)), peakBytes }
  } finally {
    ceiling?.dispose()
  }
}

/** A model with the projections of another in four bits; that one is freed. */
async function inFourBits(m: Decoder): Promise<Decoder> {
  const quantized = await quantizedDecoder(m, { doubleQuant: true })
  disposeModel(m)
  return quantized
}

/** The model that is trained, and for DPO a frozen copy. */
async function modelsOf({ shape, dtype, objective, loraRank, loadIn4bit = false }: Job, device: Device) {
  const plain = benchDecoder(device, shape, dtype)
  const base = loadIn4bit ? await inFourBits(plain) : plain
  const policy = loraRank === undefined ? base : withAdapter(base, { r: loraRank, loraAlpha: 2 * loraRank })
  const reference = objective === 'dpo' ? benchDecoder(device, shape, dtype) : undefined
  return { policy, reference }
}

function disposeModel(model: Decoder | undefined): void {
  if (model?.adapter !== undefined) disposeAdapter(model)
  if (model !== undefined) disposeDecoder(model, disposeFlat)
}

async function trainerOf(job: Job, device: Device): Promise<Trainer> {
  device.threads = job.threads
  const objective = job.objective === 'dpo' ? dpo({ beta }) : sft()
  return createTrainer({ ...(await modelsOf(job, device)), objective, optimizer: benchOptimizer })
}

function disposeAll(trainer: Trainer): void {
  disposeTrainer(trainer)
  disposeModel(trainer.policy)
  disposeModel(trainer.reference)
}

/** The steps that a peer was told of, for a peer that is another build of this package. */
export async function stepOrdered(device: Device, order: Job & BenchShape) {
  const job = { ...order, shape: order }
  const trainer = await trainerOf(job, device)
  const step = stepOf(job, trainer)
  const facts = { peakBytes: await peakBytesOf(device, step), parameters: parameterCount(trainableOf(trainer.policy)) }
  return { run: step, facts, dispose: () => disposeAll(trainer) }
}

async function measure(job: Job, options: BenchOptions): Promise<BenchRow> {
  const { name, shape, dtype, threads } = job
  const device = getDevice()
  const trainer = await trainerOf(job, device)
  try {
    const result = await raceSteps(job, trainer, options)
    const words = `${shapeWords(shape)}, ${shape.rows} x ${shape.tokens}`
    return { suite: 'step', name, shape: words, dtype, isa: device.level, threads, unit: 'tokens/s', ...result }
  } finally {
    disposeAll(trainer)
  }
}
