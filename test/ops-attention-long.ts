// Attention over more than the 1024 positions that a GPU's kernels take at a time: forward and decoding give the same bits
// around the multiples of 1024, with windows over them, and near the reference. Called by ops.test.ts.

import type { Test } from 'tap'
import type { NumberArray } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import { call } from '../ts/src/ops/define.js'
import { addScaled, dot, logSumExp } from '../ts/src/ops/host.js'
import {
  type AttentionOptions,
  attentionDecode,
  cacheWrite,
  castTo,
  KEY_BLOCK,
  opEntries,
  zeros,
} from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { tensor } from '../ts/src/tensor/tensor.js'
import { decode, distance, type Float, generator, sameBits, type Value, value } from './ops-cases.js'

interface Variant {
  readonly tokens: number
  readonly heads: readonly [heads: number, groups: number, size: number]
  readonly float: Float
  readonly options: Omit<AttentionOptions, 'scale'>
  /** Tokens of a prefix that is a segment of its own; the others continue it. */
  readonly prefix?: number
  /** Changes a key's or value's number: at token i, channel d. */
  readonly change?: (name: string, i: number, d: number) => number | undefined
}

/** The window of 1100 begins inside a split and ends in the next but one. */
const variants: readonly Variant[] = [
  { tokens: 1030, heads: [1, 1, 40], float: 'f32', options: {} },
  { tokens: 1060, heads: [1, 1, 64], float: 'bf16', options: {}, prefix: 1000 },
  { tokens: 2110, heads: [1, 1, 80], float: 'bf16', options: { window: 1100 } },
  { tokens: 1100, heads: [1, 1, 16], float: 'f32', options: { window: 300, softcap: 2 }, prefix: 700 },
  { tokens: 1032, heads: [7, 1, 32], float: 'bf16', options: { window: 40 } },
  { tokens: 1032, heads: [2, 1, 128], float: 'bf16', options: { window: 100 } },
  { tokens: 1032, heads: [20, 1, 24], float: 'bf16', options: { window: 33 } },
  { tokens: 1030, heads: [1, 1, 256], float: 'bf16', options: { window: 200 } },
  { tokens: 1030, heads: [1, 1, 256], float: 'f32', options: { window: 100 } },
]

const scaleOf = ({ heads: [, , size] }: Variant): number => 2 * size ** -0.5

function random(v: Variant, name: string, heads: number): Value {
  const size = v.heads[2]
  const next = generator(`${name} ${v.tokens} ${v.heads} ${v.float}`)
  const width = heads * size
  const numbers = Float64Array.from({ length: v.tokens * width }, () => 4 * next() - 2)
  const changed = numbers.map((x, at) => v.change?.(name, Math.floor(at / width), at % size) ?? x)
  return value([v.tokens, heads, size], v.float, changed)
}

/** Tokens that are compared: around multiples of 1024, and the last ones. */
const comparedOf = ({ tokens }: Variant): number[] =>
  Array.from({ length: tokens }, (_, i) => i).filter((i) => Math.abs(((i + 512) % 1024) - 512) < 6 || i >= tokens - 4)

interface Outcome {
  readonly compared: readonly number[]
  /** Of the compared tokens: by one pass over all, and decoded. */
  readonly o: NumberArray
  readonly decoded: NumberArray
  readonly lse: NumberArray
}

async function outcomeOf(device: Device, v: Variant, [q, k, values]: readonly Value[]): Promise<Outcome> {
  const [heads, groups, size] = v.heads
  const compared = comparedOf(v)
  const { prefix = 0 } = v
  const blocks = Math.ceil(v.tokens / KEY_BLOCK)
  const options = { scale: scaleOf(v), ...v.options }
  const scope = new Scope()
  const reads = scope.run(() => {
    const [qs, ks, vs] = [q, k, values].map((x) => tensor(device, x.bits, x.host.shape))
    const rows = Array.from({ length: v.tokens }, (_, i) => (i < prefix ? [0, 0, 0] : [prefix, 0, prefix])).flat()
    const who = tensor(device, Int32Array.from(rows), [v.tokens, 3])
    const [entry] = opEntries.filter(({ name }) => name === 'attention')
    const [o, lse] = call(entry, [qs, ks, vs, who], { window: 0, softcap: 0, ...options })
    const shapes = [
      [blocks, groups, size, KEY_BLOCK],
      [blocks, groups, KEY_BLOCK, size],
    ]
    const [keys, pages] = shapes.map((shape) => castTo(zeros(device, shape), v.float))
    const place = (block: number) => blocks - 1 - block // where a block of the sequence lies in the cache
    const slots = Int32Array.from({ length: v.tokens }, (_, i) => place(i >> 5) * KEY_BLOCK + (i % KEY_BLOCK))
    cacheWrite(keys, pages, ks, vs, tensor(device, slots))
    const own = q.bits.constructor as new (numbers: number[]) => NumberArray
    const queries = new own(compared.flatMap((i) => Array.from(rowOf(q.bits, v.tokens, i))))
    const table = Int32Array.from({ length: compared.length * blocks }, (_, i) => place(i % blocks))
    const decoded = attentionDecode(
      tensor(device, queries, [compared.length, heads, size]),
      keys,
      pages,
      tensor(device, table, [compared.length, blocks]),
      tensor(
        device,
        Int32Array.from(compared, (i) => i + 1),
      ),
      options,
    )
    return [o, lse, decoded].map((x) => x.bits())
  })
  scope.dispose()
  const [o, lse, decoded] = await Promise.all(reads)
  const pick = (bits: NumberArray) => compared.map((i) => rowOf(bits, v.tokens, i))
  return { compared, o: join(pick(o)), decoded, lse: join(pick(lse)) }
}

/** Row i of the stored elements of a tensor with `count` rows. */
const rowOf = (bits: NumberArray, count: number, i: number): NumberArray =>
  bits.slice((i * bits.length) / count, ((i + 1) * bits.length) / count)

function join(parts: readonly NumberArray[]): NumberArray {
  const kind = parts[0].constructor as new (numbers: number[]) => NumberArray
  return new kind(parts.flatMap((part) => Array.from(part)))
}

/** o and lse of the compared tokens, in double precision. */
function wanted(v: Variant, [q, k, values]: readonly Value[], compared: readonly number[]) {
  const [heads, groups, size] = v.heads
  const { window = 0, softcap = 0 } = v.options
  const vector = (x: Value, i: number, h: number) => {
    const at = (i * x.host.shape[1] + h) * size
    return x.host.data.subarray(at, at + size)
  }
  const o = new Float64Array(compared.length * heads * size)
  const lse = new Float64Array(compared.length * heads)
  for (const [n, i] of compared.entries())
    for (let h = 0; h < heads; h++) {
      const group = Math.floor((h * groups) / heads)
      const first = window > 0 ? Math.max(0, i + 1 - window) : 0
      const seen = Array.from({ length: i + 1 - first }, (_, j) => first + j)
      const scores = Float64Array.from(seen, (j) => {
        const s = scaleOf(v) * dot(vector(q, i, h), vector(k, j, group))
        return softcap > 0 ? softcap * Math.tanh(s / softcap) : s
      })
      const row = n * heads + h
      lse[row] = logSumExp(scores)
      for (const [at, j] of seen.entries())
        addScaled(o.subarray(row * size, (row + 1) * size), Math.exp(scores[at] - lse[row]), vector(values, j, group))
    }
  return { o, lse }
}

const operandsOf = (v: Variant): Value[] =>
  ['q', 'k', 'v'].map((name, i) => random(v, name, i === 0 ? v.heads[0] : v.heads[1]))

const textOf = ({ tokens, heads, float, options, prefix }: Variant): string =>
  `${tokens} tokens, ${heads.join('/')} ${float} ${JSON.stringify(options)}${prefix ? ` after ${prefix}` : ''}`

async function longRows(t: Test, device: Device, v: Variant): Promise<void> {
  const operands = operandsOf(v)
  const { compared, o, decoded, lse } = await outcomeOf(device, v, operands)
  t.ok(sameBits(o, decoded), `${textOf(v)}: decoding has the bits of training`)
  const want = wanted(v, operands, compared)
  const far = distance(decode(o, v.float), want.o)
  t.ok(far <= (v.float === 'bf16' ? 8e-3 : 1e-5), `${textOf(v)}: o is off by ${far}`)
  const farLse = distance(decode(lse, 'f32'), want.lse)
  t.ok(farLse <= 1e-5, `${textOf(v)}: lse is off by ${farLse}`)
}

/** NaN in a value of the first split reaches the tokens that see it, those of the next split too, and no others. */
async function strangeValue(t: Test, device: Device, float: Float): Promise<void> {
  const change = (name: string, i: number, d: number) => (name === 'v' && i === 990 && d === 3 ? Number.NaN : undefined)
  const v: Variant = { tokens: 1100, heads: [2, 1, 24], float, options: { window: 60 }, change }
  const { compared, o, decoded } = await outcomeOf(device, v, operandsOf(v))
  t.ok(sameBits(o, decoded), `${float}: decoding has the bits of training`)
  const numbers = decode(o, float)
  const [, , size] = v.heads
  const right = numbers.every((x, at) => {
    const token = compared[Math.floor(at / (2 * size))]
    return Number.isNaN(x) === (at % size === 3 && token >= 990 && token < 990 + 60)
  })
  t.ok(right, `${float}: who sees a NaN has one`)
}

/**
 * Minus zero: a row's first keys count for nothing beside those that follow, whose values are -0. Rows of one split that
 * lie in a tile with rows of two keep it.
 */
async function minusZero(t: Test, device: Device): Promise<void> {
  const change = (name: string, i: number) => {
    if (name === 'q') return 1
    if (name === 'k') return i < 64 ? -40 : 0
    return i < 64 ? -1 : -0
  }
  const v: Variant = { tokens: 1040, heads: [1, 1, 16], float: 'f32', options: {}, change }
  const { compared, o, decoded } = await outcomeOf(device, v, operandsOf(v))
  t.ok(sameBits(o, decoded), 'decoding has the bits of training')
  if (device.kind !== 'cuda') return
  const early = o.slice(0, 16 * compared.filter((i) => i < 1024).length)
  t.ok(Array.from(early).filter((x) => Object.is(x, -0)).length > 0, 'some outputs are -0')
}

/** The promises of attention that take long sequences. */
export function longAttentionChecks(t: Test, device: Device): void {
  t.test('attention: more positions than one split', async (t) => {
    for (const v of variants) await longRows(t, device, v)
  })
  t.test('attention: NaN beyond a split', async (t) => {
    for (const float of ['f32', 'bf16'] as const) await strangeValue(t, device, float)
  })
  t.test('attention: minus zero stays', (t) => minusZero(t, device))
}
