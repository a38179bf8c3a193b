// Random normal numbers for benchmark inputs. Real data are not zeros: constant inputs draw less power and run faster.
// One stretch of numbers is drawn and repeated; its length is a prime, so that rows of a matrix do not repeat.

import { deriveKey, fillNormal } from '../ts/src/base/rng.js'
import type { Device } from '../ts/src/native/device.js'
import { castTo } from '../ts/src/ops/index.js'
import { keep, tidy } from '../ts/src/tensor/scope.js'
import { type Shape, sizeOf } from '../ts/src/tensor/shape.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import type { Float } from './harness.js'

const period = 262139

let stretch: Float32Array | undefined

function drawStretch(): Float32Array {
  const values = new Float32Array(period)
  fillNormal(values, 1, deriveKey(1, 'bench', 'normals'))
  return values
}

/** Standard normal numbers, the same in every run. */
export function normals(count: number): Float32Array {
  stretch ??= drawStretch()
  const values = new Float32Array(count)
  for (let at = 0; at < count; at += period) values.set(stretch.subarray(0, Math.min(period, count - at)), at)
  return values
}

/** A tensor of the given numbers in an element type; it lives until it is disposed. */
export const floatTensor = (device: Device, values: Float32Array, shape: Shape, dtype: Float): Tensor =>
  keep(tidy(() => castTo(tensor(device, values, shape), dtype)))

/** A tensor of standard normal numbers; it lives until it is disposed. */
export const normalTensor = (device: Device, shape: Shape, dtype: Float): Tensor =>
  floatTensor(device, normals(sizeOf(shape)), shape, dtype)
