// Numbers in eight bits by bitsandbytes' "dynamic" type (arXiv 1511.04561, 2110.02861): what QLoRA quantises the absmax of
// its blocks to, "double quantisation" (arXiv 2305.14314, 3). The mean is taken off, and every 256 numbers share their largest
// magnitude. On the host: they are a 64th of a model. We sum the mean in f64 and divide by the magnitude, where bitsandbytes
// sums in f32 and multiplies by a rounded reciprocal; what codes mean is equal to the bit.

import { blockwiseBlock } from '../ops/index.js'

const round = Math.fround

/** torch.linspace(0.1, 1, count) in f32, to the bit: from both ends, each product fused with its sum. */
function linspace(count: number): number[] {
  const [start, end] = [round(0.1), 1]
  const step = round(round(end - start) / (count - 1))
  return Array.from({ length: count }, (_, i) =>
    i < Math.floor(count / 2) ? round(start + step * i) : round(end - step * (count - 1 - i)),
  )
}

/**
 * The 256 numbers that codes stand for, ascending in [-1, 1], each exact in f32: 0, 1, and for i from 0 to 6 with both signs
 * 10^(i - 6) times the middles of 2^i equal parts of [0.1, 1]. To the bit bitsandbytes' create_dynamic_map().
 */
export function dynamicMap(): Float32Array {
  const values = [0, 1]
  for (let i = 0; i < 7; i++) {
    const ends = linspace(2 ** i + 1)
    for (let j = 0; j < 2 ** i; j++) {
      const value = round(round(10 ** (i - 6)) * round(round(ends[j] + ends[j + 1]) / 2))
      values.push(value, -value)
    }
  }
  return Float32Array.from(values).sort()
}

/** Numbers in eight bits on the host. */
export interface BlockwiseNumbers {
  readonly codes: Uint8Array
  /** Of each 256 numbers. */
  readonly absmax: Float32Array
  readonly offset: number
}

const map = dynamicMap()
const middles = Float64Array.from(map.subarray(1), (value, i) => (map[i] + value) / 2)

/** The nearest number's code; the lower one of two that are as near. */
function codeOf(x: number): number {
  let [low, high] = [0, middles.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (x > middles[middle]) low = middle + 1
    else high = middle
  }
  return low
}

/** Finite f32 numbers to eight bits each. */
export function quantizeBlockwise(values: Float32Array): BlockwiseNumbers {
  const offset = values.length === 0 ? 0 : round(values.reduce((sum, value) => sum + value, 0) / values.length)
  const shifted = values.map((value) => value - offset)
  const absmax = new Float32Array(Math.ceil(values.length / blockwiseBlock))
  shifted.forEach((value, i) => {
    const block = Math.floor(i / blockwiseBlock)
    absmax[block] = Math.max(absmax[block], Math.abs(value))
  })
  const codes = Uint8Array.from(shifted, (value, i) => {
    return codeOf(round(value / (absmax[Math.floor(i / blockwiseBlock)] || 1)))
  })
  return { codes, absmax, offset }
}
