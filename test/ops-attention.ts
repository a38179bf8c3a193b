// Attention where equality, not closeness, is promised: a sequence alone, packed among others, with its prefix shared,
// and token by token over the cache gives the same bits. Called by ops.test.ts.

import type { Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import type { NumberArray } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import {
  type AttentionOptions,
  attention,
  attentionDecode,
  cacheCopy,
  cacheWrite,
  castTo,
  fill,
  KEY_BLOCK,
  rope,
  zeros,
} from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { type Float, generator, rowsOfValue, sameBits, type Value, value } from './ops-cases.js'

/** Heads, key/value heads, head size. */
type Heads = readonly [heads: number, groups: number, size: number]

interface Variant {
  readonly heads: Heads
  readonly float: Float
  readonly options: AttentionOptions
}

const variants: readonly Variant[] = [
  { heads: [4, 2, 40], float: 'f32', options: { scale: 0.2 } },
  { heads: [3, 1, 64], float: 'bf16', options: { scale: 0.125 } },
  { heads: [2, 2, 16], float: 'f32', options: { scale: 0.3, window: 35 } },
  { heads: [2, 1, 24], float: 'bf16', options: { scale: 0.3, window: 3, softcap: 2 } },
]

const textOf = ({ heads, float, options }: Variant): string => `${heads.join('/')} ${float} ${JSON.stringify(options)}`

function random(seed: string, shape: readonly number[], float: Float): Value {
  const next = generator(seed)
  const size = shape.reduce((a, b) => a * b, 1)
  return value(
    shape,
    float,
    Float64Array.from({ length: size }, () => 4 * next() - 2),
  )
}

/** q, k, v and the gradient of o for a number of tokens. */
const operandsFor = (seed: string, tokens: number, { heads: [h, g, d], float }: Variant): Value[] =>
  [h, g, g, h].map((count, i) => random(`${seed} ${i}`, [tokens, count, d], float))

const upload = (device: Device, v: Value): Tensor => tensor(device, v.bits, v.host.shape)

/** o, dq, dk, dv of packed operands. */
async function attentionBits(
  device: Device,
  [q, k, v, dOut]: readonly Value[],
  visibility: readonly number[],
  options: AttentionOptions,
): Promise<NumberArray[]> {
  const scope = new Scope()
  const reads = scope.run(() => {
    const inputs = [q, k, v].map((x) => upload(device, x))
    const who = tensor(device, Int32Array.from(visibility), [visibility.length / 3, 3])
    const tape = new Tape()
    for (const x of inputs) tape.watch(x)
    const o = tape.record(() => attention(inputs[0], inputs[1], inputs[2], who, options))
    tape.backward([[o, upload(device, dOut)]])
    const gradients = inputs.map((x) => tape.gradientOf(x) as Tensor)
    const bits = [o, ...gradients].map((x) => x.bits())
    for (const x of gradients) x.release()
    return bits
  })
  scope.dispose()
  return Promise.all(reads)
}

/** Rows [from, to) of the stored elements of a [N, ...] tensor with `tokens` rows. */
const rowsOf = (bits: NumberArray, tokens: number, from: number, to: number): NumberArray =>
  bits.slice((from * bits.length) / tokens, (to * bits.length) / tokens)

const causalRows = (start: number, length: number): number[] => Array.from({ length: 3 * length }, () => start)

async function packedEqualsAlone(t: Test, device: Device, variant: Variant): Promise<void> {
  const lengths = [33, 1, 70, 32]
  const total = lengths.reduce((a, b) => a + b)
  const operands = operandsFor('packed', total, variant)
  const starts = lengths.map((_, i) => lengths.slice(0, i).reduce((a, b) => a + b, 0))
  const visibility = lengths.flatMap((length, i) => causalRows(starts[i], length))
  const packed = await attentionBits(device, operands, visibility, variant.options)
  for (const [i, length] of lengths.entries()) {
    const [from, to] = [starts[i], starts[i] + length]
    const own = operands.map((x) => rowsOfValue(x, from, to))
    const alone = await attentionBits(device, own, causalRows(0, length), variant.options)
    for (const [j, name] of ['o', 'dq', 'dk', 'dv'].entries())
      t.ok(sameBits(alone[j], rowsOf(packed[j], total, from, to)), `${textOf(variant)}: ${name} of sequence ${i}`)
  }
}

/** Branches that share a prompt against whole sequences, each with its own copy of the prompt. */
async function sharedEqualsWhole(t: Test, device: Device, variant: Variant): Promise<void> {
  const prompt = 45
  const branches = [20, 1, 52]
  const total = prompt + branches.reduce((a, b) => a + b)
  const operands = operandsFor('shared', total, variant)
  let start = prompt
  const visibility = causalRows(0, prompt)
  for (const length of branches) {
    for (let i = 0; i < length; i++) visibility.push(start, 0, prompt)
    start += length
  }
  const [shared] = await attentionBits(device, operands, visibility, variant.options)
  start = prompt
  for (const [i, length] of branches.entries()) {
    const whole = operands.map((x) => joinValues(rowsOfValue(x, 0, prompt), rowsOfValue(x, start, start + length)))
    const [alone] = await attentionBits(device, whole, causalRows(0, prompt + length), variant.options)
    const own = rowsOf(alone, prompt + length, prompt, prompt + length)
    t.ok(sameBits(own, rowsOf(shared, total, start, start + length)), `${textOf(variant)}: branch ${i}`)
    t.ok(sameBits(rowsOf(alone, prompt + length, 0, prompt), rowsOf(shared, total, 0, prompt)), 'the prompt too')
    start += length
  }
}

const joinValues = (a: Value, b: Value): Value => {
  const shape = [a.host.shape[0] + b.host.shape[0], ...a.host.shape.slice(1)]
  return value(shape, a.dtype, Float64Array.from([...a.host.data, ...b.host.data]))
}

/** What a fresh cache may hold: NaN. */
function nothing(device: Device, shape: readonly number[]): Tensor {
  const x = zeros(device, shape)
  fill(x, Number.NaN)
  return x
}

/** Every token of a sequence, decoded over a cache whose first block is a copy, against one pass over the sequence. */
async function decodeEqualsTraining(t: Test, device: Device, variant: Variant): Promise<void> {
  const tokens = 75
  const [q, k, v, dOut] = operandsFor('decode', tokens, variant)
  const [, g, d] = variant.heads
  const [o] = await attentionBits(device, [q, k, v, dOut], causalRows(0, tokens), variant.options)
  const scope = new Scope()
  const reads = scope.run(() => {
    const blocks = 5
    const [keys, values] = [nothing(device, [blocks, g, d, KEY_BLOCK]), nothing(device, [blocks, g, KEY_BLOCK, d])].map(
      (x) => castTo(x, variant.float),
    )
    const order = [4, 1, 3]
    const slots = Int32Array.from({ length: tokens }, (_, i) => order[i >> 5] * KEY_BLOCK + (i % KEY_BLOCK))
    cacheWrite(keys, values, upload(device, k), upload(device, v), tensor(device, slots))
    cacheCopy(keys, values, tensor(device, Int32Array.of(4)), tensor(device, Int32Array.of(2)))
    const table = tensor(
      device,
      Int32Array.from({ length: tokens * 3 }, (_, i) => [i % 6 < 3 ? 4 : 2, 1, 3][i % 3]),
      [tokens, 3],
    )
    const lengths = tensor(
      device,
      Int32Array.from({ length: tokens }, (_, i) => i + 1),
    )
    return [attentionDecode(upload(device, q), keys, values, table, lengths, variant.options).bits()]
  })
  scope.dispose()
  t.ok(sameBits(await reads[0], o), `${textOf(variant)}: all lengths from 1 to ${tokens}`)
}

/** NaN in keys and values that a query must not see: another sequence's, later ones, those before the window. */
async function hiddenKeysAreNotRead(t: Test, device: Device, variant: Variant): Promise<void> {
  const lengths = [20, 50, 14]
  const total = lengths.reduce((a, b) => a + b)
  const visibility = [...causalRows(0, 20), ...causalRows(20, 50), ...causalRows(70, 14)]
  const operands = operandsFor('hidden', total, variant)
  const clean = await attentionBits(device, operands, visibility, variant.options)
  const spoil = (token: number) =>
    operands.map((x, i) => {
      const width = x.host.data.length / total
      const numbers = x.host.data.map((number, at) => (i > 0 && Math.floor(at / width) === token ? Number.NaN : number))
      return value(x.host.shape, x.dtype, numbers)
    })
  const sees = (query: number, token: number) => {
    const { window = 0 } = variant.options
    return visibility[3 * query] <= token && token <= query && (window === 0 || token > query - window)
  }
  const all = Array.from({ length: total }, (_, i) => i)
  for (const token of [0, 20, 45, 69, 77]) {
    const spoilt = await attentionBits(device, spoil(token), visibility, variant.options)
    const blind = all.filter((query) => !sees(query, token))
    // Gradients of keys that the spoilt token does not see, and that nobody sees who sees it.
    const apart = all.filter((key) => !sees(token, key) && all.every((i) => !sees(i, key) || !sees(i, token)))
    // Backward on the CPU multiplies what is hidden by zero: there a NaN reaches gradients, and the step is refused.
    const gradients: Record<string, number[]> = device.kind === 'cuda' ? { dq: blind, dk: apart, dv: apart } : {}
    for (const [j, [name, rows]] of Object.entries({ o: blind, ...gradients }).entries()) {
      const same = rows.every((i) => sameBits(rowsOf(spoilt[j], total, i, i + 1), rowsOf(clean[j], total, i, i + 1)))
      t.ok(same, `${textOf(variant)}: NaN at token ${token}, ${name}`)
    }
  }
}

async function ropeTurnsBack(t: Test, device: Device): Promise<void> {
  const scope = new Scope()
  const [x, back] = scope.run(() => {
    const numbers = random('rope', [5, 2, 12], 'f32')
    const angles = (f: (x: number) => number) =>
      tensor(
        device,
        Float32Array.from({ length: 20 }, (_, i) => f((i >> 2) * 0.3 ** (i % 4))),
        [5, 4],
      )
    const [cos, sin] = [angles(Math.cos), angles(Math.sin)]
    const positions = tensor(device, Int32Array.of(4, 0, 2, 1, 3))
    const turned = rope(upload(device, numbers), cos, sin, positions)
    return [numbers.host.data, rope(turned, cos, sin, positions, true).data()] as const
  })
  scope.dispose()
  const got = await back
  t.ok(
    x.every((number, i) => Math.abs(number - got[i]) < 1e-6),
    'the inverse rotation undoes the rotation',
  )
}

async function badContentsAreRefused(t: Test, device: Device): Promise<void> {
  const bad: readonly (readonly [text: string, visibility: readonly number[]])[] = [
    ['a segment that starts in the future', [1, 1, 1, 1, 1, 1, 0, 0, 0]],
    ['a prefix after the segment', [0, 0, 0, 1, 2, 3, 2, 2, 2]],
    ['a prefix that ends before it begins', [0, 0, 0, 1, 1, 0, 2, 2, 2]],
    ['a negative start', [-1, -1, -1, 1, 1, 1, 2, 2, 2]],
    ['a prefix outside', [0, -5, 0, 1, 1, 1, 2, 2, 2]],
  ]
  for (const [text, visibility] of bad) {
    const operands = operandsFor('bad', 3, variants[0])
    const run = attentionBits(device, operands, visibility, variants[0].options)
    await t.rejects(run, { code: 'E_SHAPE', where: 'attention', message: /visibility of token/ }, text)
  }
}

/** The promises of attention that no single case can state. */
export function attentionChecks(t: Test, device: Device): void {
  for (const [title, check] of [
    ['attention: a packed sequence has the bits that it has alone', packedEqualsAlone],
    ['attention: a shared prefix gives the bits of whole sequences', sharedEqualsWhole],
    ['attention: decoding gives the bits of training', decodeEqualsTraining],
    ['attention: what a query must not see does not reach it', hiddenKeysAreNotRead],
  ] as const)
    t.test(title, async (t) => {
      for (const variant of variants) await check(t, device, variant)
    })
  t.test('rope: inverse', (t) => ropeTurnsBack(t, device))
  t.test('attention: a visibility that cannot be is refused', (t) => badContentsAreRefused(t, device))
}
