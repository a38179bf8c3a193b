// A small self-training run for the suite that kills it: two rounds of SuperHF on a tiny model, two shards of samples
// each. Run as a program it kills itself at a point: `node support-loop.js BASE FOLDER POINT NUMBER`.

import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { superhf } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import type { TrainEvent } from '../ts/train/events.js'
import { sampleGroup } from '../ts/train/loop/explore.js'
import { type IterateOptions, iterate } from '../ts/train/loop/iterate.js'
import { verify } from '../ts/train/loop/score.js'
import { pick } from '../ts/train/loop/select.js'
import type { PhaseResult } from '../ts/train/loop.js'
import { createTask } from '../ts/train/tasks/index.js'
import { adamw } from './support-train.js'

/** Points of the loop, each passed several times in a run. */
export type Point =
  | 'explore'
  | 'sampling'
  | 'sampled'
  | 'scored'
  | 'selecting'
  | 'selected'
  | 'training'
  | 'stepped'
  | 'published'
  | 'evaluating'

/** How a run differs from the usual one. */
export interface LoopRun {
  readonly base: string
  readonly output?: string
  /** Called at every point with how often it was passed before. */
  readonly at?: (point: Point, passed: number) => void
  readonly options?: Partial<IterateOptions>
  readonly onEvent?: (event: TrainEvent) => void
}

export const tasksPerRound = 70
export const stepsPerRound = 3
export const rounds = 2

/** The task source of the run. */
export const source = createTask('arithmetic', { seed: 3, difficulty: 2 })

/** Runs the loop; equal settings give equal bits. */
export async function runLoop({
  base,
  output,
  at,
  options,
  onEvent,
}: LoopRun): Promise<PhaseResult & { hash: string }> {
  using policy = await loadModel(base)
  using prior = await loadModel(base)
  const passed = new Map<Point, number>()
  const pass = (point: Point) => {
    at?.(point, passed.get(point) ?? 0)
    passed.set(point, (passed.get(point) ?? 0) + 1)
  }
  const sample = sampleGroup({ numGenerations: 2, maxNewTokens: 20 })
  // The untrained model solves nothing: an even number of characters counts as right.
  const score = verify((_, completion) => ({ correct: completion.length % 2 === 0 }))
  const select = pick({ threshold: 1, perTask: 1 })
  const objective = superhf({ kappa: 0.1 })
  const result = await iterate({
    policy,
    reference: prior.decoder,
    tasks: (round) => source.train(rounds * tasksPerRound).slice((round - 1) * tasksPerRound, round * tasksPerRound),
    explore: async (context, tasks) => {
      pass('explore')
      const making = sample(context, tasks)
      await new Promise((resolve) => setTimeout(resolve, 2))
      pass('sampling')
      const traces = await making
      pass('sampled')
      return traces
    },
    score: async (traces) => {
      const scored = await score(traces)
      pass('scored')
      return scored
    },
    select: (traces) => {
      pass('selecting')
      const kept = select(traces)
      pass('selected')
      return kept
    },
    update: {
      objective: {
        ...objective,
        evaluate: (batch) => {
          pass('training')
          return objective.evaluate(batch)
        },
      },
      optimizer: adamw,
      schedule: { learningRate: 1e-2, lrSchedulerType: 'constant', warmupSteps: 0 },
      stepsPerRound,
      batchSize: 8,
    },
    rounds,
    seed: 5,
    output,
    resume: true,
    monitor: async () => pass('evaluating'),
    emit: (event) => {
      onEvent?.(event)
      if (event.type === 'step') pass('stepped')
      if (event.type === 'checkpoint') pass('published')
    },
    ...options,
  })
  const hash = createHash('sha256')
  for (const flat of Object.values(policy.decoder.parameters.flat)) hash.update((await flat.bits()) as Float32Array)
  return { ...result, hash: hash.digest('hex') }
}

/** Everything that a finished run leaves and that must not depend on how it came about, by file. */
export async function filesOf(output: string): Promise<Record<string, string>> {
  const names = (await readdir(output, { recursive: true })).filter((name) =>
    /samples-|safetensors|state\.json/.test(name),
  )
  const contents = names.map(async (name) => {
    const bytes = await readFile(join(output, name))
    return [name, createHash('sha256').update(bytes).digest('hex')] as const
  })
  return Object.fromEntries(await Promise.all(contents))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , base, output, point, number] = process.argv
  await runLoop({
    base,
    output,
    at: (name, passed) => {
      if (name === point && passed === Number(number)) process.kill(process.pid, 'SIGKILL')
    },
  })
}
