// Companions: a second model beside the policy, such as a value model or a reward model, that is fitted between rounds on what
// the rounds so far wrote. Before each round explores it is put back to its start and fitted anew, so that it is a pure function
// of its start and of the samples on disk: a run that goes on needs no checkpoint of it. Papers train such models on from
// their last state, on the last round.

import { basename, resolve } from 'node:path'
import type { Objective } from '../../loss/define.js'
import { having } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import { type LanguageModel, loadModel, type ModelOptions } from '../../src/generate/language-model.js'
import { adamwOptions } from '../config/options.js'
import { microBatchOf } from '../data/micro-batch.js'
import { createWalk } from '../data/plan.js'
import { whileTrained } from '../in-training.js'
import { modelHash } from '../reference.js'
import { keepStart } from '../restart.js'
import { learningRateAt } from '../schedule.js'
import { createTrainer, disposeTrainer, refuseNonFinite, type StepResult, trainStep } from '../trainer.js'
import type { ToExamples } from './examples.js'
import type { Trace } from './trace.js'

/** What is fitted between rounds. */
export interface Companion {
  /**
   * Called before a round explores.
   *
   * @param traces what all rounds before it wrote, with their scores; none before the first one
   * @param round 1-based
   * @returns numbers for the statistics of the round
   */
  readonly fit: (traces: readonly Trace[], round: number) => Promise<Readonly<Record<string, number>>>
}

/** A {@link Companion} among arguments. */
export const companionKind = having('a companion', 'fit')

/** How a model is fitted. */
export interface CompanionFit {
  readonly objective: Objective
  /** What of the traces it learns; where that is nothing it stays as it started. */
  readonly toExamples: ToExamples
  /** Passes over all examples. */
  readonly epochs: number
  /** Examples per optimizer step. */
  readonly batchSize: number
  /** Falls to 0 along a line, without a warm-up. */
  readonly learningRate: number
  readonly seed: number
}

/** The model among options. */
export interface GivenCompanion {
  /**
   * The model that a method with a companion fits between rounds, as it starts: one that was loaded, which is left as it was
   * fitted last, or its folder. Default the model in the policy's folder, of the policy's type, with a new head.
   */
  readonly companion?: LanguageModel | string
}

/** A companion with its model. */
export interface OpenCompanion extends Companion {
  readonly model: LanguageModel
  /** Digest of the weights that it starts from. */
  readonly hash: string
  /** Frees the optimizer, and a model that was loaded for the run. */
  readonly dispose: () => void
}

const meansOf = (steps: readonly StepResult[]): Record<string, number> => {
  const names = new Set(steps.flatMap(({ stats }) => Object.keys(stats)))
  const own = [...names].map((name) => [`companion/${name}`, mean(steps.flatMap(({ stats }) => stats[name] ?? []))])
  return { 'companion/loss': mean(steps.map(({ loss }) => loss)), ...Object.fromEntries(own) }
}

/**
 * Makes a companion of a model. `fit` gives `companion/loss`, the objective's statistics, all as means over the last pass, and
 * `companion/examples`.
 *
 * @throws WhetstoneError E_CONFIG for a model without the head that the objective reads, E_OOM
 */
export async function createCompanion(
  model: LanguageModel,
  { objective, toExamples, epochs, batchSize, learningRate, seed }: CompanionFit,
): Promise<Companion & { readonly dispose: () => void }> {
  const { decoder: policy } = model
  const { values } = objective.needs
  if (policy.config.scoreLabels !== values) {
    const [wanted, got] = [values, policy.config.scoreLabels].map((n) =>
      n ? `a score head of ${n}` : 'a language model',
    )
    throw new WhetstoneError('E_CONFIG', 'companion', `expected ${wanted}, as ${objective.name} reads it, got ${got}`)
  }
  const optimizer = adamwOptions.strip().parse({})
  const trainer = createTrainer({ policy, objective, optimizer, seed })
  const restart = await keepStart(trainer)
  const train = async (examples: ReturnType<ToExamples>, round: number): Promise<StepResult[]> => {
    const walk = createWalk(examples.length, seed, 'companion', round)
    const totalSteps = Math.ceil((epochs * examples.length) / batchSize)
    const schedule = { learningRate, lrSchedulerType: 'linear', warmupSteps: 0, totalSteps } as const
    const steps: StepResult[] = []
    for (let step = 0; step < totalSteps; step++) {
      const begin = step * batchSize
      const chosen = walk(begin, Math.min(batchSize, epochs * examples.length - begin)).map((i) => examples[i])
      const batch = microBatchOf(chosen, { reads: values === undefined ? 'next' : 'own' })
      const result = await trainStep(trainer, [batch], learningRateAt(schedule, step))
      if (!result.applied) await refuseNonFinite(trainer, step, result)
      steps.push(result)
    }
    return steps.slice(-Math.ceil(totalSteps / epochs))
  }
  return {
    fit: (traces, round) =>
      whileTrained(policy, async () => {
        await restart()
        const examples = traces.length === 0 ? [] : toExamples(traces, round)
        if (examples.length === 0) return { 'companion/examples': 0 }
        return { 'companion/examples': examples.length, ...meansOf(await train(examples, round)) }
      }),
    dispose: () => disposeTrainer(trainer),
  }
}

/**
 * The companion that a method works with.
 *
 * @throws WhetstoneError E_CONFIG without one
 */
export function neededCompanion(model: LanguageModel | undefined): LanguageModel {
  if (model !== undefined) return model
  throw new WhetstoneError('E_CONFIG', 'companion', 'expected a model that is fitted between rounds, got none')
}

/** The model: the one that was given, or what is loaded, to the device of the policy. */
async function modelOf({ policy, companion }: Opening, { objective, seed }: CompanionFit): Promise<LanguageModel> {
  if (companion !== undefined && typeof companion !== 'string') return companion
  const { device, decoder, directory } = policy
  const options: ModelOptions = { device: device.name as ModelOptions['device'], seed }
  if (companion !== undefined) return loadModel(companion, options)
  return loadModel(directory, { ...options, dtype: decoder.parameters.dtype, scoreLabels: objective.needs.values })
}

interface Opening extends GivenCompanion {
  readonly policy: LanguageModel
}

/**
 * Opens the companion of a run; of a method without one there is none.
 *
 * @throws WhetstoneError E_CONFIG for one that the method does not take, or that does not read the tokens of the policy; and
 *   what loading throws
 */
export async function openCompanion(
  options: Opening,
  fit: CompanionFit | undefined,
): Promise<OpenCompanion | undefined> {
  const refuse = (text: string): never => {
    throw new WhetstoneError('E_CONFIG', 'companion', text)
  }
  if (fit === undefined)
    return options.companion === undefined ? undefined : refuse('expected none: the method has no companion')
  const model = await modelOf(options, fit)
  const free = () => model !== options.companion && model.dispose()
  try {
    const [own, other] = [options.policy, model].map(({ decoder }) => decoder.config.vocabSize)
    if (own !== other)
      refuse(
        `expected the vocabulary of the policy, ${own} tokens, got ${other} in ${basename(resolve(model.directory))}`,
      )
    const hash = await modelHash(model.decoder)
    const companion = await createCompanion(model, fit)
    const dispose = () => {
      companion.dispose()
      free()
    }
    return { ...companion, model, hash, dispose }
  } catch (error) {
    free()
    throw error
  }
}
