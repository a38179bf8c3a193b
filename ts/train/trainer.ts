// THE optimisation step, the only one of the package: forward, terms, objective, backward, clip, update. SFT, preference
// methods, reward models and every round of self-training come through here. Per-token terms go to the host once per
// micro-batch, where the objective works in float64 (terms.ts); what comes back is one gradient per trained token.

import type { Evaluation, Objective, SequenceTerms, Statistic, StepCounts, Term } from '../loss/define.js'
import { Tape } from '../src/autograd/tape.js'
import { WhetstoneError } from '../src/base/errors.js'
import { type Decoder, headName, ownParameter, trainableOf } from '../src/models/decoder.js'
import { add, copy, fill } from '../src/ops/index.js'
import { keep, Scope } from '../src/tensor/scope.js'
import { empty, type Tensor, tensor } from '../src/tensor/tensor.js'
import { alignExamples, alignmentOf } from './data/align.js'
import type { MicroBatch } from './data/micro-batch.js'
import { evaluated } from './evaluation.js'
import {
  type AdamWConfig,
  createOptimizer,
  disposeOptimizer,
  findNonFinite,
  type Optimizer,
  update,
  zeroGradients,
} from './optimizer.js'
import { checkReference } from './reference.js'
import { checkReferenceSync, moveReference, type ReferenceSync } from './reference-sync.js'
import { countsOf, exampleCount, gradientVector, type NoiseOptions, sequencesOf, type Terms, termsOf } from './terms.js'

export type { MicroBatch } from './data/micro-batch.js'

/** What a step did. */
export interface StepResult {
  /** Loss of the whole step in the objective's normalisation. */
  readonly loss: number
  readonly gradNorm: number
  readonly learningRate: number
  /** Trained tokens. */
  readonly trainedTokens: number
  /** All tokens that went through the model; a shared beginning counts once. */
  readonly tokens: number
  /** Tokens of the whole sequences of all steps so far, these included; a shared beginning counts for each of them. */
  readonly numTokens: number
  /** The objective's statistics, as means over the step. */
  readonly stats: Readonly<Record<string, number>>
  /** False when a non-finite number was found and nothing was changed. */
  readonly applied: boolean
}

/** A policy in training. */
export interface Trainer {
  readonly policy: Decoder
  /** Frozen model for objectives that look at one; or one that follows the policy. */
  readonly reference: Decoder | undefined
  readonly referenceSync: ReferenceSync | undefined
  objective: Objective
  readonly optimizer: Optimizer
  readonly activationCheckpointing: boolean
  /** Divides the logits of policy and reference. */
  readonly temperature: number
  readonly noise: Pick<NoiseOptions, 'seed' | 'neftuneNoiseAlpha' | 'dropout'>
  /** Gradient of a tied head, apart from the embedding's, so that micro-batches add up to the bits of one batch. */
  readonly tiedHead: { readonly weight: Tensor; readonly gradient: Tensor } | undefined
  /** Totals over all applied steps of the statistics that the objective wants to look back on. */
  history: Readonly<Record<string, Statistic>>
  /** Tokens of the whole sequences of all steps so far: TRL's `num_tokens`. */
  numTokens: number
}

/** What an objective's value depends on. */
export type LossSources = Omit<Trainer, 'optimizer' | 'noise' | 'referenceSync' | 'numTokens'>

/** How to make a {@link Trainer}. */
export interface TrainerOptions {
  readonly policy: Decoder
  readonly objective: Objective
  readonly reference?: Decoder
  /** Changes the reference as training goes on; default: it stays as it is. */
  readonly referenceSync?: ReferenceSync
  readonly optimizer: AdamWConfig
  readonly activationCheckpointing?: boolean
  /** Default 1. */
  readonly temperature?: number
  /** Key of dropout, of noise on embeddings and of stochastic rounding; default 0. */
  readonly seed?: number
  /** Default 0: no noise. */
  readonly neftuneNoiseAlpha?: number
  /** No dropout of an adapter. Default: see {@link comparesLogProbs}. */
  readonly disableDropout?: boolean
}

/**
 * Does an objective compare log-probs, or scores, with others: of a reference, of another answer, of the policy that sampled?
 * They had no dropout, or other units dropped, and would differ by that alone. TRL's `disable_dropout` is true for
 * preferences, reward models and distillation; for policy gradients, where it is false, the first ratio would not be 1.
 */
const comparesLogProbs = ({ needs: { rows, reference } }: Objective): boolean => rows !== 'completion' || reference

/**
 * Puts a policy into training: makes gradients and optimizer state.
 *
 * @throws WhetstoneError E_CONFIG for a reference that cannot be one or cannot follow, E_OOM
 */
export function createTrainer(options: TrainerOptions): Trainer {
  const { policy, objective, reference, referenceSync, seed = 0, neftuneNoiseAlpha = 0 } = options
  const { disableDropout = comparesLogProbs(objective) } = options
  if (reference !== undefined && objective.needs.reference) checkReference(policy, reference, objective.needs)
  if (referenceSync !== undefined) checkReferenceSync(policy, reference, referenceSync)
  const optimizer = createOptimizer(policy, options.optimizer, seed)
  return {
    policy,
    reference,
    referenceSync,
    objective,
    optimizer,
    activationCheckpointing: options.activationCheckpointing ?? false,
    temperature: options.temperature ?? 1,
    noise: { seed, neftuneNoiseAlpha, dropout: !disableDropout },
    tiedHead: tiedHeadOf(policy),
    history: {},
    numTokens: 0,
  }
}

/** The matrix that is embedding and LM head, where it is trained. */
function trainedHead(policy: Decoder): Tensor | undefined {
  if (!policy.config.tied) return undefined
  const head = ownParameter(policy, headName(policy.config))
  return [...trainableOf(policy).byName.values()].includes(head) ? head : undefined
}

function tiedHeadOf(policy: Decoder): Trainer['tiedHead'] {
  const head = trainedHead(policy)
  if (head === undefined) return undefined
  return { weight: keep(head.view(head.shape)), gradient: keep(empty(policy.device, head.shape, 'f32')) }
}

/** Frees gradients and optimizer state; the policy stays. */
export function disposeTrainer(trainer: Trainer): void {
  disposeOptimizer(trainer.optimizer, trainer.policy)
  trainer.tiedHead?.weight.dispose()
  trainer.tiedHead?.gradient.dispose()
}

/** Parameters with the buffers that receive their gradients. */
function leavesOf({ policy, optimizer, tiedHead }: Trainer): Map<Tensor, Tensor> {
  const leaves = new Map<Tensor, Tensor>()
  for (const [name, weight] of trainableOf(policy).byName) {
    const gradient = optimizer.gradients.byName.get(name)
    if (gradient !== undefined) leaves.set(weight, gradient)
  }
  if (tiedHead !== undefined) leaves.set(tiedHead.weight, tiedHead.gradient)
  return leaves
}

/**
 * One optimizer step over its micro-batches at the given learning rate. When the loss, a gradient, a weight or a moment
 * is NaN or Inf, nothing is changed and `applied` is false; {@link refuseNonFinite} then says where.
 *
 * @throws WhetstoneError E_CONFIG without a trained token or for a rate that is no number, E_OOM: nothing was changed,
 *   unless memory ran out while a reference was moved
 */
export async function trainStep(
  trainer: Trainer,
  batches: readonly MicroBatch[],
  learningRate: number,
): Promise<StepResult> {
  const { loss, totals, counts } = await accumulate(trainer, batches)
  const { gradNorm, applied } = Number.isFinite(loss)
    ? await update(trainer.optimizer, trainer.policy, learningRate)
    : { gradNorm: Number.NaN, applied: false }
  if (applied) {
    remember(trainer, totals)
    followPolicy(trainer)
  }
  const tokens = batches.reduce((sum, batch) => sum + batch.packed.ids.length, 0)
  trainer.numTokens += batches.reduce((sum, batch) => sum + wholeTokens(batch), 0)
  const { numTokens } = trainer
  return {
    loss,
    gradNorm,
    learningRate,
    trainedTokens: counts.tokens,
    tokens,
    numTokens,
    stats: means(totals),
    applied,
  }
}

/** Tokens of a micro-batch, were nothing shared. */
const wholeTokens = ({ packed: { ids, shared } }: MicroBatch): number =>
  shared.reduce((sum, tokens) => sum + tokens, ids.length)

/** Loss and gradients by parameter name, without an update: for inspection and tests. */
export async function gradientsOf(
  trainer: Trainer,
  batches: readonly MicroBatch[],
): Promise<{ loss: number; gradients: Map<string, Float32Array> }> {
  const { loss } = await accumulate(trainer, batches)
  const gradients = new Map<string, Float32Array>()
  for (const [name, t] of trainer.optimizer.gradients.byName) gradients.set(name, (await t.data()) as Float32Array)
  return { loss, gradients }
}

/** A micro-batch in its step. */
interface Part {
  readonly batch: MicroBatch
  readonly firstExample: number
  readonly firstSequence: number
}

function partsOf(batches: readonly MicroBatch[]): Part[] {
  let [firstExample, firstSequence] = [0, 0]
  return batches.map((batch) => {
    const part = { batch, firstExample, firstSequence }
    firstExample += exampleCount(batch)
    firstSequence += batch.sequences.length
    return part
  })
}

/** Runs all micro-batches forward and backward; the gradients of the step lie in the optimizer's buffers. */
async function accumulate(trainer: Trainer, batches: readonly MicroBatch[]) {
  const counts = countsOf(batches)
  if (counts.tokens === 0)
    throw new WhetstoneError('E_CONFIG', 'trainStep', 'expected at least one trained token, got none')
  zeroGradients(trainer.optimizer)
  if (trainer.tiedHead !== undefined) fill(trainer.tiedHead.gradient, 0)
  const alignment = alignmentOf(trainer.policy)
  const parts = partsOf(batches.map((batch) => alignExamples(batch, alignment)))
  const whole = trainer.objective.needs.wholeStep === true && parts.length > 1
  const evaluations = whole ? await wholeStep(trainer, parts, counts) : await inParts(trainer, parts, counts)
  joinTiedGradient(trainer)
  return { ...totalOf(evaluations), counts }
}

/** Micro-batch by micro-batch: shares of the loss add up. Stops at the first that is no number. */
async function inParts(trainer: Trainer, parts: readonly Part[], counts: StepCounts): Promise<Evaluation[]> {
  const evaluations: Evaluation[] = []
  for (const part of parts) {
    const evaluation = await backwardOf(trainer, part, (sequences) => evaluate(trainer, sequences, counts))
    evaluations.push(evaluation)
    if (!Number.isFinite(evaluation.loss)) break
  }
  return evaluations
}

/** A loss that looks at all examples together: every micro-batch runs forward first, and again to go back. */
async function wholeStep(trainer: Trainer, parts: readonly Part[], counts: StepCounts): Promise<Evaluation[]> {
  const sequences: SequenceTerms[] = []
  for (const part of parts) sequences.push(...(await forwardOf(trainer, part, noiseOf(trainer, part))))
  const evaluation = evaluate(trainer, sequences, counts)
  if (!Number.isFinite(evaluation.loss)) return [evaluation]
  for (const part of parts) {
    const end = part.firstSequence + part.batch.sequences.length
    const own = { ...evaluation, gradients: evaluation.gradients.slice(part.firstSequence, end) }
    await backwardOf(trainer, part, () => own)
  }
  return [evaluation]
}

/** What an evaluation needs of a trainer. */
export type Evaluated = Pick<Trainer, 'policy' | 'reference' | 'objective' | 'temperature' | 'history'> &
  Partial<Pick<Trainer, 'tiedHead'>>

const evaluate = (
  { objective, history }: Evaluated,
  sequences: readonly SequenceTerms[],
  step: StepCounts,
): Evaluation => evaluated(objective, { sequences, step, history })

const noiseOf = ({ noise, optimizer }: Trainer, { firstSequence }: Part): NoiseOptions => ({
  ...noise,
  update: optimizer.updates,
  firstSequence,
})

const termsOfPart = (trainer: Evaluated, { batch }: Part, noise: NoiseOptions | undefined): Terms =>
  termsOf({ activationCheckpointing: false, ...trainer, head: trainer.tiedHead?.weight }, batch, noise)

/** The terms of a micro-batch on the host. */
async function forwardOf(trainer: Evaluated, part: Part, noise?: NoiseOptions): Promise<SequenceTerms[]> {
  using scope = new Scope()
  const terms = scope.run(() => termsOfPart(trainer, part, noise))
  return sequencesOf(part.batch, terms, part.firstExample)
}

/** Forward and, when the loss is a number, backward of one micro-batch. */
async function backwardOf(
  trainer: Trainer,
  part: Part,
  evaluationOf: (sequences: readonly SequenceTerms[]) => Evaluation,
): Promise<Evaluation> {
  using scope = new Scope()
  using tape = new Tape(leavesOf(trainer))
  const terms = scope.run(() => tape.record(() => termsOfPart(trainer, part, noiseOf(trainer, part))))
  const evaluation = evaluationOf(await sequencesOf(part.batch, terms, part.firstExample))
  if (!Number.isFinite(evaluation.loss)) return evaluation
  scope.run(() => {
    const roots = (Object.entries(terms.policy) as [Term, Tensor][])
      .filter(([term]) => evaluation.gradients.some((gradient) => gradient[term] !== undefined))
      .map(
        ([term, t]) =>
          [t, tensor(trainer.policy.device, gradientVector(part.batch, evaluation, term, t.size), t.shape)] as const,
      )
    tape.backward(roots)
  })
  return evaluation
}

type Totals = Record<string, { sum: number; count: number }>

function totalOf(evaluations: readonly Evaluation[]): { loss: number; totals: Totals } {
  const totals: Totals = {}
  for (const { stats } of evaluations)
    for (const [name, { sum, count }] of Object.entries(stats)) {
      totals[name] ??= { sum: 0, count: 0 }
      totals[name].sum += sum
      totals[name].count += count
    }
  return { loss: evaluations.reduce((sum, evaluation) => sum + evaluation.loss, 0), totals }
}

/** What was never counted has no mean: answers that are not good are missing in many a step. */
const means = (totals: Totals): Record<string, number> =>
  Object.fromEntries(
    Object.entries(totals).flatMap(([name, { sum, count }]) => (count === 0 ? [] : [[name, sum / count]])),
  )

/** Moves the reference when its time has come. */
function followPolicy({ policy, reference, referenceSync, optimizer: { updates } }: Trainer): void {
  if (reference === undefined || referenceSync === undefined) return
  const { refModelSyncSteps, refModelMixupAlpha } = referenceSync
  if (updates % refModelSyncSteps === 0) moveReference(reference, policy, refModelMixupAlpha)
}

/** Adds a step's totals to those that the objective looks back on. */
function remember(trainer: Trainer, totals: Totals): void {
  for (const name of trainer.objective.needs.history ?? []) {
    const before = trainer.history[name] ?? { sum: 0, count: 0 }
    const { sum, count } = totals[name] ?? { sum: 0, count: 0 }
    trainer.history = { ...trainer.history, [name]: { sum: before.sum + sum, count: before.count + count } }
  }
}

/**
 * Throws E_NONFINITE naming the first place, for a step that was not applied.
 *
 * @param step 1-based, for the text
 */
export async function refuseNonFinite(trainer: Trainer, step: number, { loss }: StepResult): Promise<never> {
  const place =
    (await findNonFinite(trainer.optimizer)) ?? (Number.isFinite(loss) ? 'norm of the gradients' : 'loss of the batch')
  throw new WhetstoneError(
    'E_NONFINITE',
    `step ${step}`,
    `expected finite numbers, found NaN or Inf in the ${place}; no weight was changed`,
  )
}

/** The objective's value on batches without training. */
export async function evaluateLoss(
  trainer: Evaluated,
  batches: readonly MicroBatch[],
): Promise<Pick<StepResult, 'loss' | 'stats'>> {
  const sequences: SequenceTerms[] = []
  for (const part of partsOf(batches)) sequences.push(...(await forwardOf(trainer, part)))
  const { loss, totals } = totalOf([evaluate(trainer, sequences, countsOf(batches))])
  return { loss, stats: means(totals) }
}

/** Rows of a tied matrix that are joined at a time: the sum is a tensor of its own for a moment. */
const joinedRows = 1024

/** Adds the head's share of a tied matrix to the embedding's. */
function joinTiedGradient({ policy, optimizer, tiedHead }: Trainer): void {
  const head = trainedHead(policy)
  if (tiedHead === undefined || head === undefined) return
  const [rows, width] = head.shape
  for (const [name, weight] of trainableOf(policy).byName) {
    const gradient = weight === head ? optimizer.gradients.byName.get(name) : undefined
    if (gradient === undefined) continue
    for (let row = 0; row < rows; row += joinedRows) {
      using scope = new Scope()
      scope.run(() => {
        const shape = [Math.min(joinedRows, rows - row), width]
        const part = gradient.view(shape, row * width)
        copy(part, add(part, tiedHead.gradient.view(shape, row * width)))
      })
    }
  }
}
