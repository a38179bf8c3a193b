// THE optimisation step, the only one of the package: forward, log-probs, objective, backward, clip, update. SFT,
// preference methods and every round of self-training come through here. Log-probs go to the host once per
// micro-batch, where the objective works in float64; what comes back is one gradient per trained token.

import type { Evaluation, Objective, ObjectiveBatch, SequenceTerms } from '../loss/define.js'
import { Tape } from '../src/autograd/tape.js'
import { WhetstoneError } from '../src/base/errors.js'
import { type Decoder, forward, headWeight, packedInput } from '../src/models/decoder.js'
import type { PackedTokens } from '../src/models/pack.js'
import { add, copy, fill, gatherRows, headKl, headLogProbs } from '../src/ops/index.js'
import { keep, Scope, tidy } from '../src/tensor/scope.js'
import { empty, type Tensor, tensor } from '../src/tensor/tensor.js'
import {
  type AdamWConfig,
  createOptimizer,
  disposeOptimizer,
  findNonFinite,
  type Optimizer,
  update,
  zeroGradients,
} from './optimizer.js'

/** A micro-batch: packed sequences and which of their tokens are trained. */
export interface MicroBatch {
  readonly packed: PackedTokens
  /** Packed index of the hidden state that predicts each target, [T]. */
  readonly predictors: Int32Array
  /** Trained token ids, [T]. */
  readonly targets: Int32Array
  /** Which sequence of the batch each target belongs to, ascending, [T]. */
  readonly rowOf: Int32Array
  /** Weight of each target, [T]. */
  readonly weights: Float32Array
  /** What each sequence is for the objective; default a completion of its own example. */
  readonly sequences?: readonly Pick<SequenceTerms, 'role' | 'example' | 'scores'>[]
}

/** What a step did. */
export interface StepResult {
  /** Loss of the whole step in the objective's normalisation. */
  readonly loss: number
  readonly gradNorm: number
  readonly learningRate: number
  /** Trained tokens. */
  readonly trainedTokens: number
  /** All tokens that went through the model. */
  readonly tokens: number
  /** The objective's statistics, as means over the step. */
  readonly stats: Readonly<Record<string, number>>
  /** False when a non-finite number was found and nothing was changed. */
  readonly applied: boolean
}

/** A policy in training. */
export interface Trainer {
  readonly policy: Decoder
  /** Frozen model for objectives that look at one. */
  readonly reference: Decoder | undefined
  objective: Objective
  readonly optimizer: Optimizer
  readonly activationCheckpointing: boolean
  /** Gradient of a tied head, apart from the embedding's, so that micro-batches add up to the bits of one batch. */
  readonly tiedHead: { readonly weight: Tensor; readonly gradient: Tensor } | undefined
}

/** How to make a {@link Trainer}. */
export interface TrainerOptions {
  readonly policy: Decoder
  readonly objective: Objective
  readonly reference?: Decoder
  readonly optimizer: AdamWConfig
  readonly activationCheckpointing?: boolean
}

/** Puts a policy into training: makes gradients and optimizer state. */
export function createTrainer(options: TrainerOptions): Trainer {
  const { policy, objective, reference } = options
  const optimizer = createOptimizer(policy, options.optimizer)
  const head = headWeight(policy)
  const tiedHead = policy.config.tied
    ? { weight: keep(head.view(head.shape)), gradient: keep(empty(policy.device, head.shape, 'f32')) }
    : undefined
  return {
    policy,
    reference,
    objective,
    optimizer,
    tiedHead,
    activationCheckpointing: options.activationCheckpointing ?? false,
  }
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
  for (const [name, weight] of policy.parameters.byName) {
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
 * @throws WhetstoneError E_CONFIG without a trained token or for a rate that is no number, E_OOM: nothing was changed
 */
export async function trainStep(
  trainer: Trainer,
  batches: readonly MicroBatch[],
  learningRate: number,
): Promise<StepResult> {
  const { loss, stats, counts } = await accumulate(trainer, batches)
  const { gradNorm, applied } = Number.isFinite(loss)
    ? await update(trainer.optimizer, trainer.policy, learningRate)
    : { gradNorm: Number.NaN, applied: false }
  const tokens = batches.reduce((sum, batch) => sum + batch.packed.ids.length, 0)
  return { loss, gradNorm, learningRate, trainedTokens: counts.tokens, tokens, stats, applied }
}

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

/** Runs all micro-batches forward and backward; the gradients of the step lie in the optimizer's buffers. */
async function accumulate(trainer: Trainer, batches: readonly MicroBatch[]) {
  const counts = countsOf(batches)
  if (counts.tokens === 0)
    throw new WhetstoneError('E_CONFIG', 'trainStep', 'expected at least one trained token, got none')
  zeroGradients(trainer.optimizer)
  if (trainer.tiedHead !== undefined) fill(trainer.tiedHead.gradient, 0)
  const evaluations: Evaluation[] = []
  for (const batch of batches) {
    const evaluation = await backwardOf(trainer, batch, counts)
    evaluations.push(evaluation)
    if (!Number.isFinite(evaluation.loss)) break
  }
  joinTiedGradient(trainer)
  return { ...totalOf(evaluations), counts }
}

/** Trained tokens and examples of the whole step: objectives normalise by them before the first backward. */
const countsOf = (batches: readonly MicroBatch[]): ObjectiveBatch['step'] => ({
  tokens: batches.reduce((sum, batch) => sum + batch.targets.length, 0),
  examples: batches.reduce((sum, batch) => sum + exampleCount(batch), 0),
})

const totalOf = (evaluations: readonly Evaluation[]) => ({
  loss: evaluations.reduce((sum, evaluation) => sum + evaluation.loss, 0),
  stats: meanStats(evaluations),
})

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
  trainer: Trainer,
  batches: readonly MicroBatch[],
): Promise<Pick<StepResult, 'loss' | 'stats'>> {
  const counts = countsOf(batches)
  const evaluations: Evaluation[] = []
  for (const batch of batches) {
    using scope = new Scope()
    const terms = scope.run(() => headTerms(trainer, batch, new Tape()))
    evaluations.push(trainer.objective.evaluate(await objectiveBatch(batch, terms, counts)))
  }
  return totalOf(evaluations)
}

const exampleCount = (batch: MicroBatch): number =>
  batch.sequences === undefined ? batch.packed.starts.length - 1 : new Set(batch.sequences.map((s) => s.example)).size

/** Forward and, when the loss is a number, backward of one micro-batch. */
async function backwardOf(trainer: Trainer, batch: MicroBatch, step: ObjectiveBatch['step']): Promise<Evaluation> {
  using scope = new Scope()
  using tape = new Tape(leavesOf(trainer))
  const terms = scope.run(() => headTerms(trainer, batch, tape))
  const evaluation = trainer.objective.evaluate(await objectiveBatch(batch, terms, step))
  if (!Number.isFinite(evaluation.loss)) return evaluation
  scope.run(() => {
    const { device } = trainer.policy
    const roots: [Tensor, Tensor][] = [[terms.logps, tensor(device, joined(evaluation, 'logps', batch.targets.length))]]
    if (terms.kl !== undefined) roots.push([terms.kl, tensor(device, joined(evaluation, 'kl', batch.targets.length))])
    tape.backward(roots)
  })
  return evaluation
}

interface HeadTerms {
  readonly logps: Tensor
  readonly kl?: Tensor
  readonly reference?: Tensor
}

/** Runs policy (recorded) and reference (not recorded) up to per-token terms. */
function headTerms(trainer: Trainer, batch: MicroBatch, tape: Tape): HeadTerms {
  const { policy, reference, objective, tiedHead, activationCheckpointing } = trainer
  const targets = tensor(policy.device, batch.targets)
  const prior =
    objective.needs.kl === undefined && !objective.needs.reference ? undefined : neededReference(objective, reference)
  const priorHidden = prior && hiddenAtPredictors(prior, batch, false)
  const weight = tiedHead?.weight ?? headWeight(policy)
  const settings = { softcap: policy.config.logitSoftcap }
  return tape.record(() => {
    const hidden = hiddenAtPredictors(policy, batch, activationCheckpointing)
    if (prior === undefined || priorHidden === undefined)
      return { logps: headLogProbs(hidden, weight, targets, settings).logps }
    if (objective.needs.kl === 'jensenShannon')
      throw new WhetstoneError(
        'E_CONFIG',
        objective.name,
        'the head computes both directions of the KL, not their mixture',
      )
    if (objective.needs.kl !== undefined)
      return headKl(hidden, weight, priorHidden, headWeight(prior), targets, {
        ...settings,
        direction: objective.needs.kl,
      })
    const { logps } = headLogProbs(hidden, weight, targets, settings)
    return { logps, reference: headLogProbs(priorHidden, headWeight(prior), targets, settings).logps }
  })
}

function neededReference(objective: Objective, reference: Decoder | undefined): Decoder {
  if (reference !== undefined) return reference
  throw new WhetstoneError('E_CONFIG', objective.name, 'expected a reference model, got none: pass `reference`')
}

/**
 * Hidden states that predict the trained tokens: masked positions never reach the head. The input's tensors stay with
 * the scope outside, because a recomputed layer reads them again in backward.
 */
function hiddenAtPredictors(m: Decoder, batch: MicroBatch, activationCheckpointing: boolean): Tensor {
  const input = packedInput(m, batch.packed, activationCheckpointing)
  return tidy(() => gatherRows(forward(m, input), tensor(m.device, batch.predictors)))
}

async function objectiveBatch(
  batch: MicroBatch,
  terms: HeadTerms,
  step: ObjectiveBatch['step'],
): Promise<ObjectiveBatch> {
  const read = async (t: Tensor | undefined) => t && Float64Array.from(await t.data())
  const [logps, kl, reference] = await Promise.all([read(terms.logps), read(terms.kl), read(terms.reference)])
  const weights = Float64Array.from(batch.weights)
  const sequences = rangesOf(batch).map(([begin, end], row): SequenceTerms => {
    const part = (values: Float64Array | undefined) => values?.subarray(begin, end)
    const role = batch.sequences?.[row] ?? { role: 'completion' as const, example: row }
    return {
      ...role,
      logps: logps!.subarray(begin, end),
      kl: part(kl),
      reference: part(reference),
      weights: part(weights),
    }
  })
  return { sequences, step }
}

/** Begin and end of each sequence's targets. */
function rangesOf({ packed, rowOf }: MicroBatch): [number, number][] {
  const ranges: [number, number][] = []
  let begin = 0
  for (let row = 0; row + 1 < packed.starts.length; row++) {
    let end = begin
    while (end < rowOf.length && rowOf[end] === row) end++
    ranges.push([begin, end])
    begin = end
  }
  return ranges
}

/** The gradients of all sequences end to end, rounded to f32. */
function joined(evaluation: Evaluation, term: 'logps' | 'kl', size: number): Float32Array {
  const all = new Float32Array(size)
  let at = 0
  for (const gradient of evaluation.gradients) {
    const values = gradient[term]
    if (values !== undefined) all.set(values, at)
    at += gradient.logps.length
  }
  return all
}

/** Adds the head's share of a tied matrix to the embedding's. */
function joinTiedGradient({ optimizer, tiedHead }: Trainer): void {
  const embedding = optimizer.gradients.byName.get('model.embed_tokens.weight')
  if (embedding === undefined || tiedHead === undefined) return
  tidy(() => copy(embedding, add(embedding, tiedHead.gradient)))
}

function meanStats(evaluations: readonly Evaluation[]): Record<string, number> {
  const totals: Record<string, { sum: number; count: number }> = {}
  for (const { stats } of evaluations)
    for (const [name, { sum, count }] of Object.entries(stats)) {
      totals[name] ??= { sum: 0, count: 0 }
      totals[name].sum += sum
      totals[name].count += count
    }
  return Object.fromEntries(
    Object.entries(totals).map(([name, { sum, count }]) => [name, count === 0 ? 0 : sum / count]),
  )
}
