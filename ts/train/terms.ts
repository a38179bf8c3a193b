// From a micro-batch to the numbers that an objective sees, and back: policy and reference run up to the fused head,
// per-token terms go to the host as SequenceTerms, and an evaluation's gradients become one f32 vector per term.

import type { Evaluation, Objective, Observed, SequenceTerms, StepCounts, Term, TokenInput } from '../loss/define.js'
import { countStep } from '../loss/view.js'
import { WhetstoneError } from '../src/base/errors.js'
import { deriveKey } from '../src/base/rng.js'
import { type Decoder, type ForwardInput, forward, headWeight, packedInput } from '../src/models/decoder.js'
import { tokenKeys } from '../src/models/pack.js'
import { scoreRows } from '../src/models/score.js'
import { add, gatherRows, type HeadOptions, headKl, headLogProbs, headTerms, reshape } from '../src/ops/index.js'
import { tidy } from '../src/tensor/scope.js'
import { type Tensor, tensor } from '../src/tensor/tensor.js'
import type { MicroBatch } from './data/micro-batch.js'

/** What decides the terms of a micro-batch besides its tokens. */
export interface TermSources {
  readonly policy: Decoder
  /** Matrix of the head; default the policy's. */
  readonly head?: Tensor
  /** Frozen model for objectives that look at one; not needed where the batch brings its log-probs. */
  readonly reference?: Decoder
  readonly objective: Objective
  readonly activationCheckpointing: boolean
  /** Divides the logits of policy and reference. */
  readonly temperature: number
}

/** Noise of a training step: a pure function of its key and of each token's place in its sequence. */
export interface NoiseOptions {
  readonly seed: number
  /** Updates made before this step. */
  readonly update: number
  /** Sequences of the step in earlier micro-batches. */
  readonly firstSequence: number
  /** NEFTune (arXiv 2310.05914): the largest noise on an embedding is this over sqrt(tokens x channels); 0: none. */
  readonly neftuneNoiseAlpha: number
  /** Drops inputs of an adapter, as its settings have it. */
  readonly dropout: boolean
}

/** Per-token terms of a micro-batch, [T] each. */
export interface Terms {
  /** Those that gradients flow through. */
  readonly policy: Readonly<Partial<Record<Term, Tensor>>>
  /** Those that are constants of the loss, and those for statistics. */
  readonly fixed: Readonly<Partial<Record<TokenInput | Observed, Tensor>>>
}

/** Runs reference (not recorded) and policy (recorded by the open tape) up to the terms that the objective needs. */
export function termsOf(sources: TermSources, batch: MicroBatch, noise?: NoiseOptions): Terms {
  const { policy, objective, activationCheckpointing, temperature } = sources
  const prior = priorOf(sources, batch)
  const input = inputOf(policy, batch, activationCheckpointing, noise)
  const hidden = hiddenAt(policy, input, batch.predictors)
  if (objective.needs.values !== undefined) return { policy: { values: valuesOf(sources, hidden) }, fixed: {} }
  const settings = { softcap: policy.config.logitSoftcap, temperature }
  const targets = tensor(policy.device, batch.targets)
  const head = { hidden, head: headWeight(policy, sources.head) }
  if (objective.needs.kl !== undefined && prior !== undefined) return klTerms(objective, head, prior, targets, settings)
  const terms = ownTerms(objective, head, targets, settings)
  if (prior === undefined) return terms
  const reference = headLogProbs(prior.hidden, prior.head, targets, settings).logps
  return { ...terms, fixed: { ...terms.fixed, reference } }
}

/** What a language-model head reads. */
interface HeadInput {
  readonly hidden: Tensor
  readonly head: Tensor
}

/** Log-probs and their divergence from the prior's whole distribution. */
function klTerms(
  { name, needs }: Objective,
  own: HeadInput,
  prior: HeadInput,
  targets: Tensor,
  settings: HeadOptions,
): Terms {
  const others = [...(needs.terms ?? []), ...(needs.tokens ?? []).filter((input) => input === 'logSquares')]
  if (others.length > 0)
    throw new WhetstoneError('E_CONFIG', name, `expected a KL or ${others.join(', ')} from the head, got both`)
  const options = { ...settings, direction: needs.kl, mixture: needs.klMixture }
  const { logps, kl } = headKl(own.hidden, own.head, prior.hidden, prior.head, targets, options)
  return { policy: { logps, kl }, fixed: {} }
}

/** Log-probs, and what else of the policy's distribution the objective looks at. Only the terms have gradients. */
function ownTerms({ needs }: Objective, { hidden, head }: HeadInput, targets: Tensor, settings: HeadOptions): Terms {
  const { terms = [], observes = [], tokens = [] } = needs
  const constants = [
    ...tokens.filter((input) => input === 'logSquares'),
    ...observes.filter((observed) => !terms.some((term) => term === observed)),
  ]
  if (constants.length === 0 && terms.length === 0)
    return { policy: { logps: headLogProbs(hidden, head, targets, settings).logps }, fixed: {} }
  const { logps, lse, ...others } = headTerms(hidden, head, targets, settings)
  type Name = (typeof terms)[number] | (typeof constants)[number]
  const numbersOf = (name: Name): Tensor => (name === 'meanLogits' ? add(others.meanLogps, lse) : others[name])
  const pick = (names: readonly Name[]) => Object.fromEntries(names.map((name) => [name, numbersOf(name)]))
  return { policy: { logps, ...pick(terms) }, fixed: pick(constants) }
}

/** Numbers of the score head end to end, [T x labels]. */
function valuesOf({ policy, objective }: TermSources, hidden: Tensor): Tensor {
  const { scoreLabels } = policy.config
  if (scoreLabels === objective.needs.values) return flatten(scoreRows(policy, hidden))
  throw new WhetstoneError(
    'E_CONFIG',
    objective.name,
    `expected a model with a score head of ${objective.needs.values} (load it with scoreLabels), got ${scoreLabels ?? 'a language model'}`,
  )
}

const flatten = (t: Tensor): Tensor => reshape(t, [t.size])

/** The reference's hidden states and head, where the objective needs them and the batch does not bring log-probs. */
function priorOf({ objective, reference }: TermSources, batch: MicroBatch) {
  const { needs, name } = objective
  if (!needs.reference || (needs.kl === undefined && batch.inputs.reference !== undefined)) return undefined
  if (reference === undefined)
    throw new WhetstoneError('E_CONFIG', name, 'expected a reference model, got none: pass `reference`')
  const hidden = tidy(() => hiddenAt(reference, inputOf(reference, batch, false), batch.predictors))
  return { hidden, head: headWeight(reference) }
}

/** The input's tensors stay with the scope outside, because a recomputed layer reads them again in backward. */
function inputOf(m: Decoder, batch: MicroBatch, activationCheckpointing: boolean, noise?: NoiseOptions): ForwardInput {
  const input = packedInput(m, batch.packed, activationCheckpointing)
  if (noise === undefined) return input
  const drops = noise.dropout && (m.adapter?.config.loraDropout ?? 0) > 0
  return drops || noise.neftuneNoiseAlpha > 0 ? { ...input, regularization: regularizationOf(m, batch, noise) } : input
}

/** Hidden states that the head reads: masked positions never reach it. */
const hiddenAt = (m: Decoder, input: ForwardInput, places: Int32Array): Tensor =>
  tidy(() => gatherRows(forward(m, input), tensor(m.device, places)))

/** Keys of random numbers for each token, i32 [N, 4], and the scale of its noise, f32 [N]. */
function regularizationOf(m: Decoder, { packed }: MicroBatch, noise: NoiseOptions): ForwardInput['regularization'] {
  const keys = tokenKeys(packed, (s) => deriveKey(noise.seed, 'regularization', noise.update, noise.firstSequence + s))
  const scales = new Float32Array(packed.ids.length)
  for (let s = 0; s < packed.starts.length; s++) {
    const length = packed.shared[s] + packed.ends[s] - packed.starts[s]
    scales.fill(noise.neftuneNoiseAlpha / Math.sqrt(length * m.config.hiddenSize), packed.starts[s], packed.ends[s])
  }
  const noiseScale = noise.neftuneNoiseAlpha > 0 ? tensor(m.device, scales) : undefined
  return { keys: tensor(m.device, keys, [packed.ids.length, 4]), dropout: noise.dropout, noiseScale }
}

/** Begin and end of each sequence's targets, fillers between them left out. */
function rangesOf({ sequences, rowOf }: MicroBatch): [number, number][] {
  let end = 0
  return sequences.map((_, s) => {
    while (rowOf[end] === -1) end++
    const begin = end
    while (end < rowOf.length && rowOf[end] === s) end++
    return [begin, end]
  })
}

/** Terms on the host, as an objective takes them. `firstExample`: examples of the step in earlier micro-batches. */
export async function sequencesOf(batch: MicroBatch, terms: Terms, firstExample: number): Promise<SequenceTerms[]> {
  const read = async ([name, t]: [string, Tensor]) => [name, Float64Array.from(await t.data())] as const
  const values = Object.fromEntries(
    await Promise.all(Object.entries({ ...terms.fixed, ...terms.policy }).map(read)),
  ) as Partial<Record<Term | TokenInput, Float64Array>>
  const weights = Float64Array.from(batch.weights)
  const ranges = rangesOf(batch)
  const count = batch.targets.length
  return batch.sequences.map(({ role, example, scores, inputs }, s): SequenceTerms => {
    const [begin, end] = ranges[s]
    // A score head gives several numbers per token.
    const part = (all: Float64Array) => all.subarray((begin * all.length) / count, (end * all.length) / count)
    const given = inputs.map((name) => [name, part(batch.inputs[name] ?? new Float64Array(count))] as const)
    const computed = Object.entries(values).map(([name, all]) => [name, part(all)] as const)
    const logps = new Float64Array(end - begin)
    const numbers = Object.fromEntries([...given, ...computed])
    return { logps, ...numbers, weights: part(weights), role, example: firstExample + example, scores }
  })
}

/** Examples of a micro-batch. */
export const exampleCount = ({ sequences }: MicroBatch): number =>
  sequences.length === 0 ? 0 : sequences[sequences.length - 1].example + 1

/** Counts over the whole step, before the first forward pass: objectives normalise by them. */
export function countsOf(batches: readonly MicroBatch[]): StepCounts {
  let firstExample = 0
  const counted = batches.flatMap((batch) => {
    const first = firstExample
    firstExample += exampleCount(batch)
    return rangesOf(batch).map(([begin, end], s) => ({
      role: batch.sequences[s].role,
      example: first + batch.sequences[s].example,
      tokens: end - begin,
      weight: batch.weights.subarray(begin, end).reduce((sum, weight) => sum + weight, 0),
    }))
  })
  return countStep(counted)
}

/** The gradients of a term that has `size` numbers over all targets, rounded to f32; 0 where there are none. */
export function gradientVector(
  batch: MicroBatch,
  { gradients }: Pick<Evaluation, 'gradients'>,
  term: Term,
  size: number,
): Float32Array {
  const all = new Float32Array(size)
  rangesOf(batch).forEach(([begin], s) => {
    all.set(gradients[s][term] ?? [], (begin * size) / batch.targets.length)
  })
  return all
}
