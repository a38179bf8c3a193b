// Rotary angles: inverse frequencies of each scaling, and the cosine and sine tables that the rope op reads.
// Angles are computed in double precision and rounded once. Sources: RoFormer (Su et al. 2021); position
// interpolation (Chen et al. 2023); Llama 3.1's piecewise scaling; YaRN (Peng et al. 2023).

import { WhetstoneError } from '../base/errors.js'
import type { Device } from '../native/device.js'
import { keep } from '../tensor/scope.js'
import { type Tensor, tensor } from '../tensor/tensor.js'

/** How positions become angles. `dim` counts the rotated dimensions of a head. */
export interface RopeSpec {
  readonly type: string
  readonly theta: number
  readonly dim: number
  /** Context length that the model was made for. */
  readonly maxPositions: number
  /** The scaling's other numbers under their Hugging Face names. */
  readonly scaling: Readonly<Record<string, unknown>>
}

/** Inverse frequencies (radians per position), and the factor on cosine and sine. */
export interface Frequencies {
  readonly inverse: Float64Array
  readonly factor: number
}

function number(spec: RopeSpec, name: string, fallback?: number): number {
  const value = spec.scaling[name] ?? fallback
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
  throw new WhetstoneError(
    'E_CONFIG',
    `rope_scaling.${name}`,
    `expected a number above 0 for type '${spec.type}', got ${String(value)}`,
  )
}

const plain = ({ theta, dim }: RopeSpec): Float64Array =>
  Float64Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim))

function llama3(spec: RopeSpec): Frequencies {
  const factor = number(spec, 'factor')
  const low = number(spec, 'low_freq_factor')
  const high = number(spec, 'high_freq_factor')
  const original = number(spec, 'original_max_position_embeddings')
  const inverse = plain(spec).map((frequency) => {
    const turns = (original * frequency) / (2 * Math.PI)
    if (turns < low) return frequency / factor
    if (turns > high) return frequency
    const smooth = (turns - low) / (high - low)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
  return { inverse, factor: 1 }
}

/** YaRN's temperature on the attention logits, as a factor on cosine and sine. */
const mscale = (factor: number, weight = 1): number => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1)

function yarnAttentionFactor(spec: RopeSpec, factor: number): number {
  if (typeof spec.scaling.attention_factor === 'number') return spec.scaling.attention_factor
  const { mscale: weight, mscale_all_dim: all } = spec.scaling
  if (typeof weight === 'number' && typeof all === 'number' && weight !== 0 && all !== 0)
    return mscale(factor, weight) / mscale(factor, all)
  return mscale(factor)
}

function yarn(spec: RopeSpec): Frequencies {
  const original = number(spec, 'original_max_position_embeddings', spec.maxPositions)
  const factor = number(spec, 'factor', spec.maxPositions / original)
  const { dim, theta } = spec
  // The dimension that turns `rotations` times over the original context.
  const at = (rotations: number) => (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta))
  const truncate = spec.scaling.truncate !== false
  const fast = at(number(spec, 'beta_fast', 32))
  const slow = at(number(spec, 'beta_slow', 1))
  const low = Math.max(truncate ? Math.floor(fast) : fast, 0)
  const high = Math.min(truncate ? Math.ceil(slow) : slow, dim - 1)
  const span = high === low ? 0.001 : high - low
  const inverse = plain(spec).map((frequency, i) => {
    const keep = 1 - Math.min(Math.max((i - low) / span, 0), 1)
    return (frequency / factor) * (1 - keep) + frequency * keep
  })
  return { inverse, factor: yarnAttentionFactor(spec, factor) }
}

const linear = (spec: RopeSpec): Frequencies => {
  const factor = number(spec, 'factor')
  return { inverse: plain(spec).map((frequency) => frequency / factor), factor: 1 }
}

/** Scalings by their Hugging Face `rope_type`. Length-dependent ones (dynamic, longrope) would change old keys. */
const scalings: Readonly<Record<string, (spec: RopeSpec) => Frequencies>> = {
  default: (spec) => ({ inverse: plain(spec), factor: 1 }),
  linear,
  llama3,
  yarn,
}

/**
 * Inverse frequencies of a spec.
 *
 * @throws WhetstoneError E_CONFIG for an unknown scaling, a missing number, or numbers without a meaning
 */
export function ropeFrequencies(spec: RopeSpec): Frequencies {
  const scaling = Object.hasOwn(scalings, spec.type) ? scalings[spec.type] : undefined
  if (scaling === undefined) {
    const known = Object.keys(scalings).join(', ')
    throw new WhetstoneError('E_CONFIG', 'rope_scaling.rope_type', `expected one of ${known}, got '${spec.type}'`)
  }
  const frequencies = scaling(spec)
  if ([frequencies.factor, ...frequencies.inverse].every(Number.isFinite)) return frequencies
  const numbers = JSON.stringify({ rope_theta: spec.theta, ...spec.scaling })
  throw new WhetstoneError('E_CONFIG', 'rope_scaling', `expected finite frequencies, got none from ${numbers}`)
}

/** Cosine and sine, [positions, dim / 2] f32 on the device, grown when longer sequences come. */
export interface RopeTable {
  /** Tables that cover positions 0 .. length - 1. */
  cover(length: number): { cos: Tensor; sin: Tensor }
  dispose(): void
}

/** Makes the tables of a spec on first use. */
export function createRopeTable(device: Device, spec: RopeSpec): RopeTable {
  const { inverse, factor } = ropeFrequencies(spec)
  let made: { length: number; cos: Tensor; sin: Tensor } | undefined
  const dispose = () => {
    made?.cos.dispose()
    made?.sin.dispose()
    made = undefined
  }
  const make = (length: number) => {
    const table = (f: (angle: number) => number) => {
      const values = new Float32Array(length * inverse.length)
      for (let i = 0; i < values.length; i++)
        values[i] = factor * f(Math.floor(i / inverse.length) * inverse[i % inverse.length])
      return keep(tensor(device, values, [length, inverse.length]))
    }
    return { length, cos: table(Math.cos), sin: table(Math.sin) }
  }
  const cover = (length: number) => {
    if (made === undefined || made.length < length) {
      dispose()
      made = make(Math.max(256, 2 ** Math.ceil(Math.log2(length))))
    }
    return made
  }
  return { cover, dispose }
}
