// The self-training loop: explore, score, select, update, for a number of rounds. Training goes through runPhase like
// everything else: the plan of a step asks for its round's rows, and the first step of a round makes them. So stopping
// and resuming work in every part of a round, by the phase's checkpoints and the round's shards.

import { join } from 'node:path'
import type { Objective } from '../../loss/define.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Decoder } from '../../src/models/decoder.js'
import type { EncodedSequence } from '../data/example.js'
import { microBatchOfRows } from '../data/micro-batch.js'
import { createWalk, type Walk } from '../data/plan.js'
import type { Emit } from '../events.js'
import { type PhaseResult, runPhase } from '../loop.js'
import type { AdamWConfig } from '../optimizer.js'
import type { Schedule } from '../schedule.js'
import type { Task } from '../tasks/index.js'
import { createTrainer, disposeTrainer, type MicroBatch } from '../trainer.js'
import type { Explore } from './explore.js'
import { rollouts } from './rollouts.js'
import type { Score } from './score.js'
import type { Select } from './select.js'
import { byTask, type Trace } from './trace.js'

/** How the policy learns from what was selected. */
export interface UpdateOptions {
  readonly objective: Objective
  readonly optimizer: AdamWConfig
  readonly schedule: Omit<Schedule, 'totalSteps'>
  readonly stepsPerRound: number
  /** Rows per optimizer step. */
  readonly batchSize: number
}

/** The parts of a self-training method. */
export interface IterateOptions {
  readonly policy: LanguageModel
  /** Frozen model for objectives with a prior. */
  readonly reference?: Decoder
  /** Tasks of a round (1-based): a pure function. */
  readonly tasks: (round: number) => readonly Task[]
  readonly explore: Explore
  readonly score: Score
  readonly select: Select
  readonly update: UpdateOptions
  readonly rounds: number
  readonly seed: number
  /** Run folder; none: nothing is saved. */
  readonly output?: string
  readonly resume?: boolean
  /** Called behind each round; reports by events. */
  readonly monitor?: (round: number) => Promise<void>
  readonly fingerprint?: Readonly<Record<string, unknown>>
  readonly emit: Emit
  readonly signal?: AbortSignal
}

/** Rows of a round. */
interface Round {
  readonly number: number
  readonly kept: readonly Trace[]
  readonly walk: Walk
}

/**
 * Runs the loop to its end or to the signal.
 *
 * @throws WhetstoneError E_VERIFIER when a round keeps nothing, and what training throws
 */
export async function iterate(options: IterateOptions): Promise<PhaseResult> {
  const { policy, reference, update, rounds, emit, output } = options
  const trainer = createTrainer({
    policy: policy.decoder,
    reference,
    objective: update.objective,
    optimizer: update.optimizer,
  })
  const totalSteps = rounds * update.stepsPerRound
  let current: Round | undefined
  try {
    return await runPhase({
      name: 'round',
      model: policy,
      trainer,
      schedule: { ...update.schedule, totalSteps },
      plan: async (step) => {
        const number = 1 + Math.floor(step / update.stepsPerRound)
        if (current?.number !== number) current = await makeRound(options, number)
        return planStep(options, current, step % update.stepsPerRound)
      },
      directory: output === undefined ? undefined : join(output, 'checkpoints'),
      fingerprint: fingerprintOf(options),
      saveSteps: update.stepsPerRound,
      evalSteps: update.stepsPerRound,
      evaluate: async (step) => options.monitor?.(step / update.stepsPerRound),
      resume: options.resume ?? false,
      emit,
      signal: options.signal,
    })
  } finally {
    disposeTrainer(trainer)
  }
}

/** Everything that decides the arithmetic, as far as it is data. */
const fingerprintOf = ({ fingerprint, rounds, seed, update }: IterateOptions): Record<string, unknown> => ({
  ...fingerprint,
  ...update.optimizer,
  ...update.schedule,
  ...update.objective.config,
  objective: update.objective.name,
  stepsPerRound: update.stepsPerRound,
  batchSize: update.batchSize,
  rounds,
  seed,
})

async function makeRound(options: IterateOptions, number: number): Promise<Round> {
  const { policy, seed, explore, score, select, signal, emit, output, resume = false } = options
  const started = performance.now()
  const tasks = options.tasks(number)
  const store = output === undefined ? undefined : { directory: output, resume }
  const traces = await rollouts(store, number, tasks, async (part) =>
    score(await explore({ policy, seed, round: number, signal }, part)),
  )
  const kept = select(traces)
  emit({
    type: 'round',
    round: number,
    values: { ...roundStatistics(traces, kept), seconds: (performance.now() - started) / 1000 },
  })
  if (kept.length === 0)
    throw new WhetstoneError(
      'E_VERIFIER',
      `round ${number}`,
      `none of ${traces.length} samples was good enough to train on: make the tasks easier or the warm-up longer`,
    )
  return { number, kept, walk: createWalk(kept.length, seed, number) }
}

function roundStatistics(traces: readonly Trace[], kept: readonly Trace[]): Record<string, number> {
  const groups = byTask(traces)
  const rewards = traces.map((trace) => trace.scores.reward ?? 0)
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
  const solved = groups.filter((group) => group.some((trace) => (trace.scores.reward ?? 0) > 0)).length
  return {
    tasks: groups.length,
    samples: traces.length,
    kept: kept.length,
    /** Samples on which the checker failed; they count as wrong. */
    unscored: traces.filter((trace) => Object.keys(trace.scores).length === 0).length,
    reward: mean(rewards),
    passAt1: mean(rewards),
    passAtN: solved / Math.max(1, groups.length),
  }
}

/** Rows of a step: the round's kept traces, walked over again and again. */
function planStep({ update }: IterateOptions, { kept, walk }: Round, step: number): MicroBatch[] {
  const chosen = walk(step * update.batchSize, update.batchSize)
  return [microBatchOfRows(chosen.map((row) => rowOf(kept[row])))]
}

/** A trace as a training row: completions are trained, prompts are not. */
function rowOf(trace: Trace): EncodedSequence {
  const ids = trace.segments.flatMap((segment) => segment.ids)
  const trained = Uint8Array.from(
    trace.segments.flatMap((segment) => segment.ids.map(() => Number(segment.role === 'completion'))),
  )
  return { ids, trained }
}
