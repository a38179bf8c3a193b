// A program for cuda-emulated.test.ts: runs ops that wait inside their kernels on the device that WHETSTONE_DEVICE names,
// in parts, and prints a line for each: its name and a hash of its results. Arguments name the parts; without any all run.
// Sizes reach over several tiles and stages.

import { createHash } from 'node:crypto'
import { Tape } from '../ts/src/autograd/tape.js'
import { bf16FromFloat } from '../ts/src/io/dtype.js'
import { type DeviceOptions, openDevice } from '../ts/src/native/device.js'
import {
  addNorm,
  attention,
  attentionDecode,
  dequantizeNf4,
  gatherRows,
  headKl,
  headLogProbs,
  headSample,
  headTerms,
  KEY_BLOCK,
  linear,
  linearDw,
  linearDx,
  quantizeNf4,
} from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { randomOf } from './support.js'

const device = openDevice({ device: process.env.WHETSTONE_DEVICE as DeviceOptions['device'] })
const scope = new Scope()
type Dtype = 'f32' | 'bf16'

/** Normal numbers; the one at `odd` is none. */
function normal(name: string, shape: readonly [number, ...number[]], dtype: Dtype, odd = -1): Tensor {
  const random = randomOf(name)
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random.normal())
  if (odd >= 0) values[odd] = Number.NaN
  return dtype === 'f32'
    ? tensor(device, values, shape)
    : tensor(device, Uint16Array.from(values, bf16FromFloat), shape)
}

const integers = (count: number, of: (i: number) => number, shape?: readonly [number, ...number[]]): Tensor =>
  tensor(
    device,
    Int32Array.from({ length: count }, (_, i) => of(i)),
    shape,
  )

/** Output and gradients of two segments, the second of them with 30 tokens of the first as its prefix. */
function attentionResults(dtype: Dtype, size: number): Tensor[] {
  const [n, second] = [150, 50]
  const queries = ['q', 'do'].map((name) => normal(name, [n, 4, size], dtype))
  const [q, dOut, k, v] = [...queries, ...['k', 'v'].map((name) => normal(name, [n, 2, size], dtype))]
  const row = (token: number) => (token < second ? [0, 0, 0] : [second, 0, 30])
  const who = integers(3 * n, (i) => row(Math.floor(i / 3))[i % 3], [n, 3])
  const tape = new Tape()
  for (const x of [q, k, v]) tape.watch(x)
  const o = tape.record(() => attention(q, k, v, who, { scale: size ** -0.5 }))
  tape.backward([[o, dOut]])
  return [o, ...[q, k, v].map((x) => tape.gradientOf(x) as Tensor)]
}

/** Output alone, with a value that is no number where some queries see it and others do not. */
function strangeResult(dtype: Dtype, size: number): Tensor {
  const [n, second] = [180, 20]
  const [q, k] = [normal('q', [n, 2, size], dtype), normal('k', [n, 1, size], dtype)]
  const v = normal('v', [n, 1, size], dtype, 70 * size)
  const who = integers(3 * n, (i) => (i < 3 * second ? 0 : second), [n, 3])
  return attention(q, k, v, who, { scale: size ** -0.5 })
}

/** One new token of sequences that lie in mixed blocks of the cache, many and few. */
function decodeResult(dtype: Dtype, size: number): Tensor {
  const [lengths, width, blocks] = [[70, 300, 33], 10, 30]
  const keys = normal('keys', [blocks, 2, size, KEY_BLOCK], dtype)
  const values = normal('values', [blocks, 2, KEY_BLOCK, size], dtype)
  const table = integers(lengths.length * width, (i) => (i * 7) % blocks, [lengths.length, width])
  const q = normal('q', [lengths.length, 4, size], dtype)
  return attentionDecode(
    q,
    keys,
    values,
    table,
    integers(lengths.length, (i) => lengths[i]),
    { scale: size ** -0.5 },
  )
}

/** More positions than one split: forward with a window over its end, decoding with a split that two samples share. */
function longResults(dtype: Dtype): Tensor[] {
  const [n, size] = [1050, 64]
  const [q, k, v] = ['q', 'k', 'v'].map((name) => normal(name, [n, 1, size], dtype))
  const who = integers(3 * n, () => 0, [n, 3])
  const o = attention(q, k, v, who, { scale: size ** -0.5, window: 60 })
  const [lengths, width, blocks] = [[1050, 1080, 40, 1030], 34, 20]
  const pages = [
    normal('keys', [blocks, 1, size, KEY_BLOCK], dtype),
    normal('values', [blocks, 1, KEY_BLOCK, size], dtype),
  ]
  const table = integers(4 * width, (i) => ((i % width) * 7 + (i < 3 * width ? 0 : 1)) % blocks, [4, width])
  const decoded = attentionDecode(
    normal('q', [4, 2, size], dtype),
    pages[0],
    pages[1],
    table,
    integers(4, (i) => lengths[i]),
    { scale: size ** -0.5 },
  )
  return [o, decoded]
}

function products(dtype: Dtype): Tensor[] {
  const [n, c, o] = dtype === 'f32' ? [20, 90, 150] : [20, 456, 150]
  const [x, w, dy] = [normal('x', [n, c], dtype), normal('w', [o, c], dtype), normal('dy', [n, o], dtype)]
  const dw = normal('dw', [o, c], 'f32')
  linearDw(dw, dy, x)
  return [linear(x, w), linearDx(dy, w), dw]
}

function total(): Tensor[] {
  const sum = normal('total', [1], 'f32')
  addNorm(sum, normal('squares', [9000], 'f32'))
  return [sum]
}

const headOf = (dtype: Dtype) => ({
  h: normal('h', [3, 40], dtype),
  table: normal('table', [300, 40], dtype),
  targets: tensor(device, Int32Array.of(0, 299, 17)),
})

function heads(dtype: Dtype): Tensor[] {
  const { h, table, targets } = headOf(dtype)
  return [...Object.values(headLogProbs(h, table, targets)), ...Object.values(headTerms(h, table, targets))]
}

function divergences(dtype: Dtype): Tensor[] {
  const { h, table, targets } = headOf(dtype)
  const qh = normal('qh', [3, 40], dtype)
  return (['priorToPolicy', 'jensenShannon'] as const).flatMap((direction) => {
    const { logps, kl } = headKl(h, table, qh, table, targets, { direction })
    return [logps, kl]
  })
}

function samples(dtype: Dtype): Tensor[] {
  // Four words of each logit, so that thresholds fall between equal ones.
  const quarter = normal('quarter', [75, 40], dtype)
  const tied = gatherRows(
    quarter,
    integers(300, (i) => (i * 7) % 75),
  )
  const many = normal('many', [32, 40], dtype)
  const keys = integers(128, (i) => i, [32, 4])
  // Behind as many -1, so that a later thread changes a logit than the one that looks at it.
  const seen = integers(32 * 40, (i) => Math.max(-1, (i % 40) - 20), [32, 40])
  return [
    { temperature: 0.8, topK: 40, topP: 0.9 },
    { temperature: 3, topK: 3 },
    { temperature: 3, topP: 0.7, minP: 0.1 },
    { temperature: 0 },
    { temperature: 0.8, topP: 0.9, repetitionPenalty: 1.3, seen },
  ].flatMap((options) => Object.values(headSample(many, tied, keys, options)))
}

function quantized(dtype: Dtype): Tensor[] {
  const [x, back] = [normal('x', [9, 300], dtype), normal('back', [9, 300], dtype)]
  const [codes, absmax] = [tensor(device, new Uint8Array(1350)), normal('absmax', [43], 'f32')]
  quantizeNf4(codes, absmax, x)
  dequantizeNf4(back, codes, absmax)
  return [codes, absmax, back]
}

type Part = (dtype: Dtype) => Tensor[]
const parts = new Map<string, Part>(Object.entries({ products, total, heads, divergences, samples, quantized }))
for (const size of [48, 128]) parts.set(`attention ${size}`, (dtype) => attentionResults(dtype, size))
for (const size of [48, 128, 256]) parts.set(`decode ${size}`, (dtype) => [decodeResult(dtype, size)])
parts.set('long', longResults)
for (const size of [96, 256]) parts.set(`strange ${size}`, (dtype) => [strangeResult(dtype, size)])

const wanted = process.argv.slice(2)
for (const [name, results] of parts)
  for (const dtype of ['f32', 'bf16'] as const) {
    const part = `${name} ${dtype}`
    if (wanted.length > 0 && !wanted.includes(part)) continue
    const hash = createHash('sha256')
    for (const t of scope.run(() => results(dtype))) {
      const bits = await t.bits()
      hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength))
    }
    process.stdout.write(`${part}: ${hash.digest('hex')}\n`)
  }
