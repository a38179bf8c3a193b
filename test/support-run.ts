// A toy training run through runPhase, for the suites that stop, damage and resume it. Run as a program it is the child
// that is killed: `node support-run.js FOLDER STEPS` resumes, prints each step's loss, and the final hash at the end.

import { fileURLToPath } from 'node:url'
import { languageModel } from '../ts/src/generate/language-model.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import type { TrainEvent } from '../ts/train/events.js'
import { type Phase, type PhaseResult, runPhase } from '../ts/train/loop.js'
import type { MicroBatch } from '../ts/train/trainer.js'
import { golden } from './support.js'
import { disposeToy, split, stateHash, type ToyOptions, toyRows, toyTrainer } from './support-train.js'

/** How a toy run differs from the usual one. */
export interface RunOptions {
  readonly directory?: string
  readonly totalSteps?: number
  readonly resume?: boolean
  /** Stops behind this step. */
  readonly stopAt?: number
  readonly toy?: ToyOptions
  readonly phase?: Partial<Phase>
  readonly onEvent?: (event: TrainEvent) => void
}

/** What a toy run gives. */
export interface RunOutcome extends PhaseResult {
  /** Hash of weights, masters and moments at the end. */
  readonly hash: string
  /** Loss by 1-based step. */
  readonly losses: ReadonlyMap<number, number>
  readonly warnings: readonly string[]
}

const tokenizer = await loadTokenizer(golden('smollm'))

/** Micro-batches of a step of the toy run. */
export const toyPlan = async (step: number): Promise<MicroBatch[]> => split(toyRows(`run ${step}`, 5), [3, 2])

/** Runs the toy to its end, or to `stopAt`. Equal settings give equal bits. */
export async function runToy(options: RunOptions = {}): Promise<RunOutcome> {
  const { directory, totalSteps = 12, resume = true, stopAt, toy, phase, onEvent } = options
  const trainer = toyTrainer(toy)
  const stop = new AbortController()
  const losses = new Map<number, number>()
  const warnings: string[] = []
  if (stopAt === 0) stop.abort()
  try {
    const result = await runPhase({
      name: 'toy',
      model: languageModel(trainer.policy, tokenizer, golden('smollm')),
      trainer,
      schedule: { learningRate: 1e-2, lrSchedulerType: 'cosine', warmupSteps: 3, totalSteps },
      plan: toyPlan,
      directory,
      fingerprint: { seed: 1, batch: 5, objective: 'sft.v1' },
      saveSteps: 4,
      resume,
      emit: (event) => {
        if (event.type === 'step') losses.set(event.step, event.loss)
        if (event.type === 'step' && event.step === stopAt) stop.abort()
        if (event.type === 'warning') warnings.push(event.message)
        onEvent?.(event)
      },
      signal: stop.signal,
      ...phase,
    })
    return { ...result, hash: await stateHash(trainer), losses, warnings }
  } finally {
    disposeToy(trainer)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , directory, steps] = process.argv
  const say = (line: string) => process.stdout.write(`${line}\n`)
  const { hash, stepsDone } = await runToy({
    directory,
    totalSteps: Number(steps),
    phase: { saveSteps: 3 },
    onEvent: (event) => {
      if (event.type === 'step') say(`step ${event.step} ${event.loss}`)
      if (event.type === 'checkpoint') say(`saved ${event.step}`)
      if (event.type === 'warning') say(`warning ${event.message}`)
    },
  })
  say(`end ${hash} ${stepsDone}`)
}
