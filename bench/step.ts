// Suite `step`: whole SFT steps (forward, backward, clipping, AdamW), in tokens per second. bf16 means weights and
// activations in bf16 over f32 masters and moments; the peer's bf16 is its autocast over f32 weights.

import { sft } from '../ts/loss/index.js'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { type Device, getDevice } from '../ts/src/native/device.js'
import { disposeFlat, parameterCount } from '../ts/src/nn/parameters.js'
import { createTrainer, disposeTrainer, type MicroBatch, type Trainer, trainStep } from '../ts/train/trainer.js'
import { peakProbe } from './ceilings.js'
import { type BenchOptions, type BenchRow, type Float, race, type Sides, timed } from './harness.js'
import { type BenchShape, benchBatch, benchDecoder, shapesFor, shapeWords, stepFlops } from './models.js'
import type { Peer } from './peer.js'

const learningRate = 1e-4
const optimizer = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 }

/** What is trained how. */
interface Job {
  readonly shape: BenchShape
  readonly dtype: Float
  readonly threads: number
}

/** Times every shape, type and number of threads. */
export async function benchStep(options: BenchOptions): Promise<void> {
  for (const shape of shapesFor(getDevice()).filter((s) => `step ${s.name}`.includes(options.only)))
    for (const dtype of options.dtypes)
      for (const threads of options.threads) options.report(await measure({ shape, dtype, threads }, options))
}

/** Peak bytes of tensors from the second step on, when nothing is new any more. */
async function peakBytesOf(device: Device, step: () => Promise<unknown>): Promise<number> {
  await step()
  device.resetPeak()
  await step()
  return device.memory().peakBytes
}

/** The peer's side, checked to be a model of the same size. */
async function peerSide(peer: Peer | undefined, job: Job, trainer: Trainer): Promise<Sides['peer']> {
  const { shape, dtype, threads } = job
  const ready = await peer?.prepare({ ...shape, dtype, threads, learningRate, ...optimizer })
  if (peer === undefined || ready === undefined) return undefined
  const count = parameterCount(trainer.policy.parameters)
  if (ready.parameters !== count)
    throw new WhetstoneError('E_MISMATCH', peer.name, `expected ${count} parameters, got ${String(ready.parameters)}`)
  return { name: peer.name, run: () => peer.run(1), amount: tokensOf(shape), peakBytes: Number(ready.peakBytes) }
}

const tokensOf = ({ rows, tokens }: BenchShape): number => rows * tokens

/** Rounds with trainer, peer and ceiling; the ceiling is what the fastest product would give in tokens per second. */
async function raceSteps(job: Job, trainer: Trainer, batch: MicroBatch, options: BenchOptions) {
  const { shape, dtype } = job
  const { device } = trainer.policy
  const step = () => trainStep(trainer, [batch], learningRate)
  const peakBytes = await peakBytesOf(device, step)
  const ours = { run: timed(step), amount: tokensOf(shape) }
  const probe = await peakProbe(device, dtype)
  const ceiling = { run: probe.run, amount: (probe.amount * 1e9 * tokensOf(shape)) / stepFlops(shape) }
  try {
    const peer = await peerSide(options.peer, job, trainer)
    return { ...(await race({ ours, peer, ceiling }, options.rounds)), peakBytes }
  } finally {
    probe.dispose()
  }
}

async function measure(job: Job, options: BenchOptions): Promise<BenchRow> {
  const { shape, dtype, threads } = job
  const device = getDevice()
  device.threads = threads
  const policy = benchDecoder(device, shape, dtype)
  const trainer = createTrainer({ policy, objective: sft(), optimizer })
  try {
    const result = await raceSteps(job, trainer, benchBatch(shape), options)
    const words = `${shapeWords(shape)}, ${shape.rows} x ${shape.tokens}`
    const subject = { suite: 'step', name: `step ${shape.name}`, shape: words, dtype, isa: device.level, threads }
    return { ...subject, unit: 'tokens/s', ...result }
  } finally {
    disposeTrainer(trainer)
    disposeDecoder(policy, disposeFlat)
  }
}
