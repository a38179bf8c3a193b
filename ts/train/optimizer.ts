// AdamW over flat groups: f32 weights, moments and gradients. When the model computes in bf16 its weights are rounded
// copies of f32 masters that live here. A step is all or nothing: one flag says whether every number is finite, and
// the kernels change no byte when it is not.

import { type Decoder, trainableOf } from '../src/models/decoder.js'
import {
  copyFlat,
  createFlat,
  disposeFlat,
  type FlatTensors,
  type ParameterGroup,
  parameterGroups,
} from '../src/nn/parameters.js'
import { adamw, addNorm, allFinite, fill, scaleColumnsDg } from '../src/ops/index.js'
import { Scope } from '../src/tensor/scope.js'
import { type Tensor, tensor } from '../src/tensor/tensor.js'

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
}

/** Weights to train with their gradients and moments. */
export interface Optimizer {
  readonly config: AdamWConfig
  /** f32 weights: the model's own, or masters of a bf16 model. */
  readonly masters: FlatTensors
  readonly gradients: FlatTensors
  readonly firstMoments: FlatTensors
  readonly secondMoments: FlatTensors
  /** Updates made so far; the bias correction depends on it. */
  updates: number
}

/** Makes the optimizer's tensors for a model; moments are zero. */
export function createOptimizer(model: Decoder, config: AdamWConfig): Optimizer {
  const { device } = model
  const parameters = trainableOf(model)
  const flat = () => createFlat(device, parameters.placements, 'f32')
  const masters = parameters.dtype === 'f32' ? parameters : flat()
  if (masters !== parameters) copyFlat(masters, parameters)
  return { config, masters, gradients: flat(), firstMoments: flat(), secondMoments: flat(), updates: 0 }
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
  const { config, masters, gradients, firstMoments, secondMoments } = optimizer
  const parameters = trainableOf(model)
  using scope = new Scope()
  const { norm, ok } = scope.run(() => {
    const norm = tensor(model.device, new Float32Array(1))
    const ok = tensor(model.device, new Int32Array([1]))
    for (const group of parameterGroups) addNorm(norm, gradients.flat[group])
    allFinite(ok, isBounded(config) ? norm : squareOf(norm))
    for (const flat of [masters, gradients, firstMoments, secondMoments])
      for (const group of parameterGroups) allFinite(ok, flat.flat[group])
    for (const group of parameterGroups) {
      const tensors = {
        w: masters.flat[group],
        m: firstMoments.flat[group],
        v: secondMoments.flat[group],
        copy: masters === parameters ? undefined : parameters.flat[group],
        g: gradients.flat[group],
        norm,
        ok,
      }
      adamw(tensors, {
        learningRate,
        beta1: config.adamBeta1,
        beta2: config.adamBeta2,
        eps: config.adamEpsilon,
        weightDecay: decays[group] ? config.weightDecay : 0,
        step: optimizer.updates + 1,
        maxNorm: config.maxGradNorm,
      })
    }
    return { norm, ok }
  })
  const [[gradNorm], flag] = await Promise.all([norm.data(), ok.data()])
  const applied = flag[0] === 1
  if (applied) optimizer.updates++
  return { gradNorm, applied }
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
