// AdamW over flat groups: f32 weights, moments and gradients. When the model computes in bf16 its weights are rounded
// copies of f32 masters that live here, or, to save 4 bytes per weight, stand alone and are rounded at random (stochastic
// rounding). A step is all or nothing: one flag says whether every number is finite, and the kernels change no byte when
// it is not.

import { WhetstoneError } from '../src/base/errors.js'
import { deriveKey } from '../src/base/rng.js'
import { type Decoder, trainableOf } from '../src/models/decoder.js'
import {
  copyFlat,
  createFlat,
  disposeFlat,
  type FlatTensors,
  type ParameterGroup,
  parameterGroups,
} from '../src/nn/parameters.js'
import { adamw, adamwStochastic, addNorm, allFinite, fill, scaleColumnsDg } from '../src/ops/index.js'
import { Scope } from '../src/tensor/scope.js'
import { type Tensor, tensor } from '../src/tensor/tensor.js'

/**
 * Refuses a policy without a tensor to train.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkTrainable({ quantized, adapter }: Decoder): void {
  if (quantized === undefined || adapter !== undefined) return
  const text =
    'expected an adapter on weights in four bits, which stay as they are: loadModel(folder, { loadIn4bit: true, lora: { r: 16 } }), --lora'
  throw new WhetstoneError('E_CONFIG', 'loadIn4bit', text)
}

/** Settings of AdamW (Loshchilov & Hutter 2019) and of clipping. */
export interface AdamWConfig {
  readonly adamBeta1: number
  readonly adamBeta2: number
  readonly adamEpsilon: number
  /** Decoupled decay, on matrices only. */
  readonly weightDecay: number
  /**
   * Largest Euclidean norm of all gradients together; 0 switches clipping off. Gradients are clipped as long as f32 holds
   * their norm (3.4e38). Without clipping, or above 1e18, the square must fit as well, because the second moment sums it:
   * a norm above 1.8e19 then counts as non-finite.
   */
  readonly maxGradNorm: number
  /**
   * Weights in bf16 have no f32 masters: a step rounds each up or down at random, so that its mean is right. Default
   * false. The random numbers are a pure function of the seed, the update and the place of the weight.
   */
  readonly stochasticRounding?: boolean
}

/** Weights to train with their gradients and moments. */
export interface Optimizer {
  readonly config: AdamWConfig
  /** Weights that steps change: the model's own, or f32 masters of a bf16 model. */
  readonly masters: FlatTensors
  readonly gradients: FlatTensors
  readonly firstMoments: FlatTensors
  readonly secondMoments: FlatTensors
  /** Updates made so far; the bias correction depends on it. */
  updates: number
  /** Key of stochastic rounding. */
  readonly seed: number
  /** Versions of masters and moments that the last step left, when all of it was finite. */
  finiteAt?: readonly number[]
}

/**
 * Makes the optimizer's tensors for a model; moments are zero.
 *
 * @throws WhetstoneError E_CONFIG for four-bit weights without an adapter, for stochastic rounding of weights that are not
 *   bf16; E_OOM
 */
export function createOptimizer(model: Decoder, config: AdamWConfig, seed: number): Optimizer {
  checkTrainable(model)
  const { device } = model
  const parameters = trainableOf(model)
  const { stochasticRounding = false } = config
  if (stochasticRounding && parameters.dtype !== 'bf16')
    throw new WhetstoneError(
      'E_CONFIG',
      'stochasticRounding',
      `expected weights in bf16, got ${parameters.dtype}: load the model in bf16 and without LoRA, whose matrices are f32`,
    )
  const flat = () => createFlat(device, parameters.placements, 'f32')
  const masters = parameters.dtype === 'f32' || stochasticRounding ? parameters : flat()
  if (masters !== parameters) copyFlat(masters, parameters)
  return { config, masters, gradients: flat(), firstMoments: flat(), secondMoments: flat(), updates: 0, seed }
}

/** Frees everything but the model's own weights. */
export function disposeOptimizer(optimizer: Optimizer, model: Decoder): void {
  const { masters, gradients, firstMoments, secondMoments } = optimizer
  for (const flat of [gradients, firstMoments, secondMoments]) disposeFlat(flat)
  if (masters !== trainableOf(model)) disposeFlat(masters)
}

/** Sets all gradients to zero. */
export function zeroGradients(optimizer: Optimizer): void {
  for (const group of parameterGroups) fill(optimizer.gradients.flat[group], 0)
}

/** What an update did. */
export interface UpdateResult {
  /** Euclidean norm of all gradients before clipping. */
  readonly gradNorm: number
  /** False: a NaN or Inf was found somewhere and nothing was changed. */
  readonly applied: boolean
}

const decays: Readonly<Record<ParameterGroup, boolean>> = { matrix: true, vector: false }

/** Does clipping leave gradients whose squares, which the second moment sums, are finite in f32? */
const isBounded = ({ maxGradNorm }: AdamWConfig): boolean => maxGradNorm > 0 && maxGradNorm < 1e18

/** The square of a number [1]. */
function squareOf(norm: Tensor): Tensor {
  const square = tensor(norm.device, new Float32Array(1))
  scaleColumnsDg(square, norm, norm)
  return square
}

/**
 * Clips, checks and applies the gathered gradients at the given rate; waits for the result.
 *
 * @throws WhetstoneError E_CONFIG for a rate that is no number of at least 0: nothing was changed
 */
export async function update(optimizer: Optimizer, model: Decoder, learningRate: number): Promise<UpdateResult> {
  const { config, gradients } = optimizer
  const parameters = trainableOf(model)
  using scope = new Scope()
  const { norm, ok, finite } = scope.run(() => {
    const norm = tensor(model.device, new Float32Array(1))
    const ok = tensor(model.device, new Int32Array([1]))
    const finite = tensor(model.device, new Int32Array([1]))
    const keys = keysOf(optimizer)
    // Squares are summed in f64: a gradient that is NaN or infinite makes the norm so.
    for (const group of parameterGroups) addNorm(norm, gradients.flat[group])
    allFinite(ok, isBounded(config) ? norm : squareOf(norm))
    if (!isKnown(optimizer)) for (const t of stateOf(optimizer)) allFinite(ok, t)
    for (const group of parameterGroups)
      stepGroup(optimizer, parameters, group, learningRate, { norm, ok, finite, key: keys[group] })
    return { norm, ok, finite }
  })
  const versions = stateOf(optimizer).map((t) => t.version)
  const [[gradNorm], [applied], [sound]] = await Promise.all([norm.data(), ok.data(), finite.data()])
  if (applied === 1) optimizer.updates++
  optimizer.finiteAt = applied === 1 && sound === 1 ? versions : undefined
  return { gradNorm, applied: applied === 1 }
}

/** What a step changes, besides rounded copies. */
const stateOf = ({ masters, firstMoments, secondMoments }: Optimizer): Tensor[] =>
  [masters, firstMoments, secondMoments].flatMap(({ flat }) => parameterGroups.map((group) => flat[group]))

/** Are masters and moments what a step left, which found them finite? A pass over them is half of the step's memory traffic. */
const isKnown = (optimizer: Optimizer): boolean =>
  stateOf(optimizer).every((t, i) => t.version === optimizer.finiteAt?.[i])

/**
 * The keys of a step's random numbers, where weights are rounded at random. Made before the first group is changed: no step
 * is left half done for want of memory.
 */
function keysOf({ masters, updates, seed }: Optimizer): Partial<Record<ParameterGroup, Tensor>> {
  if (masters.dtype !== 'bf16') return {}
  const key = (group: ParameterGroup) =>
    tensor(masters.flat[group].device, Int32Array.of(...deriveKey(seed, 'rounding', updates, group), 0, 0))
  return { matrix: key('matrix'), vector: key('vector') }
}

/** One group's step, which `ok` may still turn into none. */
function stepGroup(
  { config, masters, gradients, firstMoments, secondMoments, updates }: Optimizer,
  parameters: FlatTensors,
  group: ParameterGroup,
  learningRate: number,
  { key, ...numbers }: Readonly<Record<'norm' | 'ok' | 'finite', Tensor>> & { readonly key?: Tensor },
): void {
  const [m, v, g] = [firstMoments, secondMoments, gradients].map((of) => of.flat[group])
  const state = { w: masters.flat[group], m, v, g, ...numbers }
  const options = {
    learningRate,
    beta1: config.adamBeta1,
    beta2: config.adamBeta2,
    eps: config.adamEpsilon,
    weightDecay: decays[group] ? config.weightDecay : 0,
    step: updates + 1,
    maxNorm: config.maxGradNorm,
  }
  if (key !== undefined) adamwStochastic({ ...state, key }, options)
  else adamw({ ...state, copy: masters === parameters ? undefined : parameters.flat[group] }, options)
}

/** Names the first parameter that holds a non-finite number, and what of it: for the error text only. */
export async function findNonFinite(optimizer: Optimizer): Promise<string | undefined> {
  const places = {
    weight: optimizer.masters,
    gradient: optimizer.gradients,
    'first moment': optimizer.firstMoments,
    'second moment': optimizer.secondMoments,
  }
  for (const [what, flat] of Object.entries(places))
    for (const [name, t] of flat.byName) {
      const at = (await t.data()).findIndex((value) => !Number.isFinite(value))
      if (at >= 0) return `${what} of ${name}, element ${at}`
    }
  return undefined
}
