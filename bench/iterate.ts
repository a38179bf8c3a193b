// Suite `iterate`: rounds of self-training as `iterate(...)` runs them, on the model and tasks of `whetstone improve`. A round
// samples every task and scores the answers, then trains on all of them with SuperHF's KL term. Weights are random and
// every answer counts as right, so that every round has as much to do. The first round is not timed.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { superhf } from '../ts/loss/index.js'
import { median } from '../ts/src/base/stats.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import type { TrainEvent } from '../ts/train/events.js'
import { sampleGroup } from '../ts/train/loop/explore.js'
import { type IterateOptions, iterate } from '../ts/train/loop/iterate.js'
import { withScores } from '../ts/train/loop/trace.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { createTask } from '../ts/train/tasks/index.js'
import type { BenchOptions, Float, Spread, Subject } from './harness.js'
import { benchOptimizer } from './models.js'

const model = { seed: 1, hiddenSize: 128, layers: 4, heads: 4, intermediateSize: 384 }
const [tasksPerRound, numGenerations, stepsPerRound, batchSize] = [128, 4, 8, 64]

/** Seconds of a part of one round, and how much it did. */
interface Part {
  readonly seconds: number
  readonly amount: number
}

/** Sampling and training of each round, told apart by the events between them. */
function stopwatch() {
  const parts = { sampling: [] as Part[], training: [] as Part[] }
  let [begun, tokens, steps] = [performance.now(), 0, 0]
  const lap = (): number => {
    const now = performance.now()
    const seconds = (now - begun) / 1000
    begun = now
    return seconds
  }
  const emit = (event: TrainEvent): void => {
    if (event.type === 'round') parts.sampling.push({ seconds: lap(), amount: event.values.samples })
    if (event.type !== 'step') return
    tokens += event.tokens
    if (++steps % stepsPerRound !== 0) return
    parts.training.push({ seconds: lap(), amount: tokens })
    tokens = 0
  }
  return { parts, emit }
}

/** Rates of all rounds but the first. */
function spreadOf(parts: readonly Part[]): { ours: Spread; milliseconds: number } {
  const [, ...timed] = parts
  const rates = timed.map(({ seconds, amount }) => amount / seconds)
  const ours = { median: median(rates), min: Math.min(...rates), max: Math.max(...rates) }
  return { ours, milliseconds: 1000 * median(timed.map(({ seconds }) => seconds)) }
}

async function measure(folder: string, dtype: Float, { rounds, report }: BenchOptions): Promise<void> {
  const source = createTask('arithmetic', { seed: 1 })
  using policy = await loadModel(folder, { dtype })
  using prior = await loadModel(folder, { dtype })
  const { parts, emit } = stopwatch()
  const all = source.train((rounds + 1) * tasksPerRound)
  const settings: IterateOptions = {
    policy,
    reference: prior.decoder,
    tasks: (round) => all.slice((round - 1) * tasksPerRound, round * tasksPerRound),
    explore: sampleGroup({ numGenerations, temperature: 1, topP: 1, maxNewTokens: source.maxNewTokens }),
    score: async (traces) => traces.map((trace) => withScores(trace, { reward: 1 })),
    select: (traces) => [...traces],
    update: {
      objective: superhf({ kappa: 0.1 }),
      optimizer: benchOptimizer,
      schedule: { learningRate: 1e-5, lrSchedulerType: 'constant', warmupSteps: 0 },
      stepsPerRound,
      batchSize,
    },
    rounds: rounds + 1,
    seed: 1,
    emit,
  }
  await iterate(settings)
  const { level: isa, threads } = getDevice()
  const shape = `0.8M, ${tasksPerRound} tasks x ${numGenerations} samples of at most ${source.maxNewTokens} tokens`
  const subject = (name: string): Omit<Subject, 'unit'> => ({ suite: 'iterate', name, shape, dtype, isa, threads })
  report({ ...subject('round, sampling'), unit: 'samples/s', ...spreadOf(parts.sampling) })
  report({ ...subject('round, training'), unit: 'tokens/s', ...spreadOf(parts.training) })
}

/** Two rows per type and number of threads: sampling with scoring, and training. */
export async function benchIterate(options: BenchOptions): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'whetstone-bench-'))
  try {
    await makeTaskModel(folder, createTask('arithmetic', { seed: 1 }), model)
    for (const dtype of options.dtypes)
      for (const threads of options.threads) {
        getDevice().threads = threads
        await measure(folder, dtype, options)
      }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}
