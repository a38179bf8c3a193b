// The main job: a small model that improves itself. Warm-up by SFT on a few solved tasks, then rounds of SuperHF on
// tasks without solutions, then the control: the same number of optimizer steps spent on more SFT over the warm-up
// set. Held-out accuracy of all three with 95% intervals. Every part is a phase with checkpoints; `resume` goes on.

import { join } from 'node:path'
import { sft } from '../loss/index.js'
import { checkArgument, checkOptions, kinds, optional } from '../src/base/arguments.js'
import { WhetstoneError } from '../src/base/errors.js'
import { proportionInterval } from '../src/base/stats.js'
import { type LanguageModel, loadModel } from '../src/generate/language-model.js'
import { checkpointNames, stepFolder } from '../src/io/model-folder.js'
import { getDevice } from '../src/native/device.js'
import { parameterCount } from '../src/nn/parameters.js'
import { type Resolved, resolveConfig, resolvedKind } from './config/resolve.js'
import type { EncodedSequence } from './data/example.js'
import { microBatchOfRows } from './data/micro-batch.js'
import { createWalk } from './data/plan.js'
import type { Emit } from './events.js'
import { type ImproveOptions, improveOptions } from './improve-options.js'
import { type PhaseResult, runPhase } from './loop.js'
import type { AdamWConfig } from './optimizer.js'
import { superhf } from './recipes/superhf.js'
import { checkSchedule } from './schedule.js'
import { makeTaskModel } from './task-model.js'
import { createTask, type Task, type TaskSource } from './tasks/index.js'
import { createTrainer, disposeTrainer } from './trainer.js'

/** Accuracy on held-out tasks with a 95% interval. */
export interface Accuracy {
  readonly accuracy: number
  readonly low: number
  readonly high: number
}

/** What the job found. */
export interface ImproveResult {
  readonly seed: number
  readonly task: string
  readonly seconds: number
  /** Number of held-out tasks. */
  readonly heldOut: number
  readonly warmup: Accuracy
  readonly control: Accuracy
  readonly final: Accuracy
  /** Run folder. */
  readonly run: string
}

/** A job on its way. */
interface Job {
  readonly options: ImproveOptions
  readonly source: TaskSource
  readonly output: string
  readonly resume: boolean
  readonly emit: Emit
  readonly signal?: AbortSignal
  readonly heldOut: readonly Task[]
  readonly fingerprint: Readonly<Record<string, unknown>>
}

/** Thrown inside to leave the job when the signal came; the state is saved. */
class Stopped extends Error {}

const optimizerOf = (o: ImproveOptions): AdamWConfig => ({
  adamBeta1: o.adamBeta1,
  adamBeta2: o.adamBeta2,
  adamEpsilon: o.adamEpsilon,
  weightDecay: o.weightDecay,
  maxGradNorm: o.maxGradNorm,
})

const scheduleOf = (o: ImproveOptions) => ({
  learningRate: o.learningRate,
  lrSchedulerType: o.lrSchedulerType,
  lrSchedulerKwargs: o.lrSchedulerKwargs,
  warmupSteps: o.warmupSteps,
  warmupRatio: o.warmupRatio,
})

const runKinds = {
  output: kinds.path,
  resume: kinds.flag,
  emit: kinds.call,
  signal: optional(kinds.signal),
}

/**
 * Runs the job, or goes on with it.
 *
 * @returns the result, or undefined when the signal stopped it (resume later)
 */
export async function improve(
  config: Resolved<ImproveOptions>,
  run: { output: string; resume: boolean; emit: Emit; signal?: AbortSignal },
): Promise<ImproveResult | undefined> {
  checkArgument('improve.config', config, resolvedKind)
  checkOptions('improve', run, runKinds)
  const options = resolveConfig(improveOptions, [{ origin: 'argument', values: config.values }]).values
  checkSchedule(options)
  const started = performance.now()
  const source = createTask(options.task, { seed: options.seed, difficulty: options.difficulty })
  const job: Job = { ...run, options, source, heldOut: source.heldOut(options.heldOut), fingerprint: { ...options } }
  try {
    const base = join(run.output, 'base')
    // One of an earlier start that came to nothing may be that of other settings.
    const begun = run.resume || (await checkpointNames(join(run.output, 'warmup'))).length > 0
    await makeTaskModel(base, source, options, !begun)
    const { warmed, warmup } = await warmUp(job, base)
    const final = await selfTrain(job, warmed)
    const control = await runControl(job, warmed)
    const seconds = (performance.now() - started) / 1000
    return {
      seed: options.seed,
      task: options.task,
      seconds,
      heldOut: job.heldOut.length,
      warmup,
      control,
      final,
      run: run.output,
    }
  } catch (error) {
    if (error instanceof Stopped || (WhetstoneError.isInstance(error) && error.code === 'E_ABORTED')) return undefined
    throw error
  }
}

const unlessStopped = (result: PhaseResult): void => {
  if (result.stopped) throw new Stopped()
}

/** SFT on the warm-up tasks; the folder of the warmed model and its accuracy. */
async function warmUp(job: Job, base: string): Promise<{ warmed: string; warmup: Accuracy }> {
  const { options, output } = job
  const directory = join(output, 'warmup')
  using model = await loadModel(base, { dtype: 'f32', device: 'auto' })
  announce(job, model)
  await sftPhase(job, model, { name: 'warmup', directory, steps: options.sftSteps, rate: options.sftLearningRate })
  const warmup = await evaluate(job, model, 'warmup')
  return { warmed: join(directory, stepFolder(options.sftSteps)), warmup }
}

function announce(job: Job, model: LanguageModel): void {
  job.emit({
    type: 'start',
    step: 0,
    totalSteps: job.options.sftSteps + 2 * job.options.rounds * job.options.stepsPerRound,
    device: getDevice().description,
    notes: [`${parameterCount(model.decoder.parameters)} parameters`, job.source.description],
  })
}

/** SFT over the warm-up tasks: the warm-up itself, and the control. */
async function sftPhase(
  job: Job,
  model: LanguageModel,
  phase: { name: string; directory: string; steps: number; rate: number },
): Promise<void> {
  const { options, source, emit, signal, resume } = job
  const tasks = source.warmup(options.sftTasks)
  const rows = tasks.map((task) => solvedRow(model, task))
  const walk = createWalk(rows.length, options.seed, phase.name)
  const trainer = createTrainer({ policy: model.decoder, objective: sft(), optimizer: optimizerOf(options) })
  try {
    const result = await runPhase({
      name: phase.name,
      model,
      trainer,
      schedule: { ...scheduleOf(options), learningRate: phase.rate, totalSteps: phase.steps },
      plan: async (step) => [
        microBatchOfRows(walk(step * options.batchSize, options.batchSize).map((row) => rows[row])),
      ],
      directory: phase.directory,
      fingerprint: job.fingerprint,
      saveSteps: 100,
      resume,
      emit,
      signal,
    })
    unlessStopped(result)
  } finally {
    disposeTrainer(trainer)
  }
}

/** A solved task as a training row: the answer and its end token are trained. */
function solvedRow({ tokenizer, decoder }: LanguageModel, task: Task): EncodedSequence {
  const prompt = tokenizer.encode(task.prompt)
  const answer = [...tokenizer.encode(task.answer), decoder.config.eosTokenIds[0]]
  const ids = [...prompt, ...answer]
  return { ids, trained: Uint8Array.from(ids, (_, i) => Number(i >= prompt.length)) }
}

/** Rounds of SuperHF from the warmed model; accuracy of the last policy. */
async function selfTrain(job: Job, warmed: string): Promise<Accuracy> {
  const { options, source, output } = job
  const { numGenerations, temperature, topP, perTask, kappa } = options
  using policy = await loadModel(warmed, { dtype: 'f32' })
  using prior = await loadModel(warmed, { dtype: 'f32' })
  const result = await superhf(
    source,
    { numGenerations, temperature, topP, maxNewTokens: source.maxNewTokens, perTask, kappa },
    {
      policy,
      reference: prior.decoder,
      tasks: (round) =>
        source
          .train(options.rounds * options.tasksPerRound)
          .slice((round - 1) * options.tasksPerRound, round * options.tasksPerRound),
      update: {
        optimizer: optimizerOf(options),
        schedule: scheduleOf(options),
        stepsPerRound: options.stepsPerRound,
        batchSize: options.batchSize,
      },
      rounds: options.rounds,
      seed: options.seed,
      output: join(output, 'rounds'),
      resume: job.resume,
      fingerprint: job.fingerprint,
      monitor: async (round) => {
        if (round < options.rounds)
          await accuracyOn(job, policy, job.heldOut.slice(0, options.evalTasks), { name: 'round', round })
      },
      emit: job.emit,
      signal: job.signal,
    },
  )
  unlessStopped(result)
  return await evaluate(job, policy, 'final')
}

/** The honest control: as many optimizer steps as the rounds had, on more of the warm-up set. */
async function runControl(job: Job, warmed: string): Promise<Accuracy> {
  const { options, output } = job
  using model = await loadModel(warmed, { dtype: 'f32' })
  const steps = options.rounds * options.stepsPerRound
  await sftPhase(job, model, { name: 'control', directory: join(output, 'control'), steps, rate: options.learningRate })
  return await evaluate(job, model, 'control')
}

/** Greedy accuracy on all held-out tasks. */
const evaluate = (job: Job, model: LanguageModel, name: 'warmup' | 'control' | 'final'): Promise<Accuracy> =>
  accuracyOn(job, model, job.heldOut, { name, round: name === 'final' ? job.options.rounds : 0 })

/** Greedy accuracy on tasks, reported as one event with a few samples. */
async function accuracyOn(
  job: Job,
  model: LanguageModel,
  tasks: readonly Task[],
  label: { name: string; round: number },
): Promise<Accuracy> {
  const { source, emit, signal, options } = job
  const prompts = tasks.map((task) => model.tokenizer.encode(task.prompt))
  const completions = await model.generate(prompts, {
    temperature: 0,
    maxNewTokens: source.maxNewTokens,
    maxRows: 512,
    signal,
  })
  const correct = tasks.map((task, i) => {
    const { finishReason, text } = completions[i][0]
    return finishReason === 'stop' && source.check(task, text).correct
  })
  const successes = correct.filter(Boolean).length
  const interval = proportionInterval(successes, tasks.length)
  emit({ type: 'eval', ...label, values: { ...interval, correct: successes, total: tasks.length } })
  for (let i = 0; i < Math.min(options.samples, tasks.length); i++)
    emit({ type: 'sample', ...label, prompt: tasks[i].prompt, completion: completions[i][0].text, correct: correct[i] })
  return interval
}
