// A program for cuda-emulated.test.ts: runs ops that wait inside their kernels on the device that WHETSTONE_DEVICE names,
// and prints a hash of all results. Sizes reach over several tiles and stages.

import { createHash } from 'node:crypto'
import { bf16FromFloat } from '../ts/src/io/dtype.js'
import { type DeviceOptions, openDevice } from '../ts/src/native/device.js'
import {
  addNorm,
  attention,
  gatherRows,
  headKl,
  headLogProbs,
  headSample,
  headTerms,
  linear,
  linearDw,
  linearDx,
} from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { randomOf } from './support.js'

const device = openDevice({ device: process.env.WHETSTONE_DEVICE as DeviceOptions['device'] })
const scope = new Scope()

function normal(name: string, shape: readonly [number, ...number[]], dtype: 'f32' | 'bf16'): Tensor {
  const random = randomOf(name)
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random.normal())
  return dtype === 'f32'
    ? tensor(device, values, shape)
    : tensor(device, Uint16Array.from(values, bf16FromFloat), shape)
}

function results(dtype: 'f32' | 'bf16'): Tensor[] {
  const [n, c, o] = dtype === 'f32' ? [20, 90, 150] : [20, 330, 150]
  const [x, w, dy] = [normal('x', [n, c], dtype), normal('w', [o, c], dtype), normal('dy', [n, o], dtype)]
  const dw = normal('dw', [o, c], 'f32')
  linearDw(dw, dy, x)
  const total = normal('total', [1], 'f32')
  addNorm(total, normal('squares', [9000], 'f32'))
  const [h, table] = [normal('h', [3, 40], dtype), normal('table', [300, 40], dtype)]
  // Four words of each logit, so that thresholds fall between equal ones.
  const quarter = normal('quarter', [75, 40], dtype)
  const tied = gatherRows(
    quarter,
    tensor(
      device,
      Int32Array.from({ length: 300 }, (_, i) => (i * 7) % 75),
    ),
  )
  const many = normal('many', [32, 40], dtype)
  const keys = tensor(
    device,
    Int32Array.from({ length: 128 }, (_, i) => i),
    [32, 4],
  )
  const targets = tensor(device, Int32Array.of(0, 299, 17))
  const drawn = [
    { temperature: 0.8, topK: 40, topP: 0.9 },
    { temperature: 3, topK: 3 },
    { temperature: 3, topP: 0.7, minP: 0.1 },
    { temperature: 0 },
  ].flatMap((options) => Object.values(headSample(many, tied, keys, options)))
  const [q, k, v] = [normal('q', [70, 4, 48], dtype), normal('k', [70, 2, 48], dtype), normal('v', [70, 2, 48], dtype)]
  const visibility = Int32Array.from({ length: 210 }, (_, i) => (i % 3 === 0 && i >= 30 ? 10 : 0))
  const seen = attention(q, k, v, tensor(device, visibility, [70, 3]), { scale: 0.2 })
  const kl = headKl(h, table, normal('qh', [3, 40], dtype), table, targets, { direction: 'jensenShannon' })
  return [
    linear(x, w),
    linearDx(dy, w),
    dw,
    total,
    ...Object.values(headLogProbs(h, table, targets)),
    ...Object.values(headTerms(h, table, targets)),
    ...[kl.logps, kl.kl, ...drawn, seen],
  ]
}

const hash = createHash('sha256')
for (const t of scope.run(() => [...results('f32'), ...results('bf16')])) {
  const bits = await t.bits()
  hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength))
}
process.stdout.write(hash.digest('hex'))
