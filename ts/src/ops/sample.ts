// Sampling the next token from the head without materialised logits: a penalty for repetition, temperature, then top-k, top-p and min-p, one
// counter-based uniform number per row. Kernel: native/cpu/sample.cpp; the tiles of logits are those of head.ts.

import { WhetstoneError } from '../base/errors.js'
import { philox } from '../base/rng.js'
import type { OpName } from '../native/ops.gen.js'
import { checkShape, type Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type Host, type OpCase, type OpEntry, type Parameters } from './define.js'
import { expectAtLeast, expectParameter, expectRank, expectShape, expectWhole } from './expect.js'
import { logitsOf } from './head-reference.js'
import { hostRow, hostRows, hostZeros, logSumExp } from './host.js'

/** Options of {@link headSample}. */
export interface SampleOptions {
  /** 0: the best token (of equal ones the first). */
  readonly temperature: number
  /** Keeps the k most likely tokens, of equal ones the first; 0 or absent: all. */
  readonly topK?: number
  /** Keeps the smallest set of most likely tokens with at least this share of what top-k left; 1 or absent: all. */
  readonly topP?: number
  /** Keeps tokens with at least this share of the largest probability; 0 or absent: all. */
  readonly minP?: number
  /** Divides the positive logits of the `seen` ids and multiplies the others, before the temperature; 1 or absent: off. */
  readonly repetitionPenalty?: number
  /**
   * [N, S] i32: the ids that `repetitionPenalty` is for, in each row ascending, behind as many -1 as it takes. On the CPU a row that
   * is not so is refused; a GPU reports it at the next read.
   */
  readonly seen?: Tensor
  /** Logits become softcap tanh(logit / softcap); 0 or absent: off. */
  readonly softcap?: number
}

// Reference -----------------------------------------------------------------------------------------------------------

/** Closer to a boundary than this (in probability), f32 kernels may fall on the other side: no test can tell. */
const margin = 1e-6

function refuseBoundary(distance: number, row: number): void {
  if (Math.abs(distance) > margin) return
  throw new WhetstoneError(
    'E_INTERNAL',
    'head_sample',
    `row ${row} of the reference lies on a boundary: change its seed`,
  )
}

/** Ids that truncation leaves, most likely first. */
function survivors(z: Float64Array, { topK, topP, minP }: Parameters, row: number): number[] {
  let ids = Array.from(z.keys()).sort((a, b) => z[b] - z[a] || a - b)
  if (topK > 0) ids = ids.slice(0, topK)
  if (topP < 1) {
    const lse = logSumExp(z.filter((_, v) => ids.includes(v)))
    let mass = 0
    const cut = ids.findIndex((v) => {
      mass += Math.exp(z[v] - lse)
      refuseBoundary(mass - topP, row)
      return mass >= topP
    })
    ids = ids.slice(0, cut + 1)
  }
  return minP > 0 ? ids.filter((v) => Math.exp(z[v] - z[ids[0]]) >= minP) : ids
}

/** 53 random bits of the row's key (seed low, seed high, stream, index) as a number in [0, 1). */
function uniformOf(key: Float64Array): number {
  const [low, high, stream, index] = key
  const [a, b] = philox([index, 0, stream, 0], [low, high])
  return ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53
}

/** Inverse CDF over the survivors in the order of their ids. */
function draw(z: Float64Array, p: Parameters, key: Float64Array, row: number): { id: number; sampled: number } {
  const ids = survivors(z, p, row).sort((a, b) => a - b)
  const lse = logSumExp(Float64Array.from(ids, (v) => z[v]))
  const u = uniformOf(key)
  let mass = 0
  const place = ids.findIndex((v) => {
    mass += Math.exp(z[v] - lse)
    if (ids.length > 1) refuseBoundary(mass - u, row)
    return mass > u
  })
  return { id: ids[place], sampled: z[ids[place]] - lse }
}

/** Transformers' RepetitionPenaltyLogitsProcessor, from CTRL (1909.05858): on either side of 0 a logit becomes smaller. */
function penalized(z: Float64Array, seen: Float64Array, penalty: number): Float64Array {
  const changed = Float64Array.from(z)
  for (const id of seen) if (id >= 0) changed[id] = z[id] < 0 ? z[id] * penalty : z[id] / penalty
  return changed
}

type Hosts = Readonly<Record<string, Host>>

/** [ids, logps, sampled] of rows whose logits at temperature 1 are given. */
function drawRows(t: Hosts, p: Parameters, logitsOfRow: (n: number) => Float64Array): Host[] {
  const shape = [t.h.shape[0]]
  const [ids, logps, sampled] = [hostZeros(shape), hostZeros(shape), hostZeros(shape)]
  hostRows(t.h).forEach((_, n) => {
    const plain = logitsOfRow(n)
    if (plain.some(Number.isNaN)) {
      ids.data[n] = -1
      logps.data[n] = sampled.data[n] = Number.NaN
      return
    }
    const z = t.seen === undefined ? plain : penalized(plain, hostRow(t.seen, n), p.repetitionPenalty)
    const drawn =
      p.temperature === 0
        ? { id: z.indexOf(z.reduce((a, b) => Math.max(a, b))), sampled: 0 }
        : draw(
            z.map((logit) => logit / p.temperature),
            p,
            hostRow(t.keys, n),
            n,
          )
    ids.data[n] = drawn.id
    logps.data[n] = plain[drawn.id] - logSumExp(plain)
    sampled.data[n] = drawn.sampled
  })
  return [ids, logps, sampled]
}

/** Logits at temperature 1. */
const plainOf = (hidden: Float64Array, w: Host, { softcap }: Parameters): Float64Array =>
  logitsOf(hidden, w, { softcap, temperature: 1 }).z

const headSampleReference = (t: Hosts, p: Parameters): Host[] => drawRows(t, p, (n) => plainOf(hostRow(t.h, n), t.w, p))

/** Logits of the geometric mixture, up to a constant of the row: (1 - b) z + b z of the second model. */
const headSampleMixtureReference = (t: Hosts, p: Parameters): Host[] =>
  drawRows(t, p, (n) => {
    const other = plainOf(hostRow(t.qh, n), t.qw, p)
    return plainOf(hostRow(t.h, n), t.w, p).map((z, v) => (1 - p.mixture) * z + p.mixture * other[v])
  })

// Op ------------------------------------------------------------------------------------------------------------------

const whole: Parameters = { softcap: 0, temperature: 1, topK: 0, topP: 1, minP: 0 }
const all: Parameters = { ...whole, repetitionPenalty: 1 }
const half: Parameters = { ...whole, mixture: 0.5 }

/** Keys that differ in every word, the high bits of words included. */
const keyAt = (i: number): number => [7, -3, 11, 2][i % 4] + (i >> 2) * [0, 40503, 1, 2654435][i % 4]

const sampleCase = (n: number, c: number, v: number, p: Parameters): OpCase => ({
  in: { h: [n, c], w: [v, c], keys: [n, 4] },
  p: { ...all, ...p },
  fill: { keys: keyAt },
  rows: ['h', 'keys'],
})

/** A case with six places for seen ids in each row, of which the first ones may be -1. */
const penalizedCase = (n: number, c: number, v: number, p: Parameters): OpCase => {
  const idAt = (row: number, j: number): number => (j < row % 7 ? -1 : Math.floor((v * (j + 0.5)) / 6) - (row % 3))
  const one = sampleCase(n, c, v, p)
  return {
    ...one,
    in: { ...one.in, seen: [n, 6] },
    fill: { keys: keyAt, seen: (i) => idAt(Math.floor(i / 6), i % 6) },
    rows: ['h', 'keys', 'seen'],
  }
}

/** Every second weight row is equal to the one before: exact ties. */
const twins =
  (c: number) =>
  (i: number): number =>
    Math.sin(1 + 3 * (Math.floor(i / c) >> 1) + 7 * (i % c))

/** Shape rule of what is drawn from, and of the parameters. */
function expectDraw(op: OpName, { h, w, keys }: Readonly<Record<string, Shape>>, p: Parameters): Shape[] {
  expectRank(op, 'h', h, '[N, C]')
  expectRank(op, 'w', w, '[V, C]')
  expectShape(op, 'w', w, [w[0], h[1]])
  checkShape(w[0] >= 1, op, 'w with at least one row', w)
  expectShape(op, 'keys', keys, [h[0], 4])
  expectAtLeast(op, p, 'softcap', 0)
  const warm = p.temperature === 0 || (p.temperature >= 1e-6 && Number.isFinite(p.temperature))
  expectParameter(warm, op, p, 'temperature', '0 (the best token) or at least 1e-6')
  expectWhole(op, p, 'topK', 0)
  expectParameter(p.topK < 2 ** 31, op, p, 'topK', 'below 2^31')
  for (const name of ['topP', 'minP'])
    expectParameter(p[name] >= 0 && p[name] <= 1, op, p, name, 'a number from 0 to 1')
  return [[h[0]], [h[0]], [h[0]]]
}

const headSampleOp = defineOp({
  name: 'head_sample',
  shapes: (s, p) => {
    const { repetitionPenalty } = p
    const mild = repetitionPenalty >= 1e-6 && repetitionPenalty <= 1e6
    expectParameter(mild, 'head_sample', p, 'repetitionPenalty', 'a number from 1e-6 to 1e6')
    if (s.seen === undefined)
      expectParameter(repetitionPenalty === 1, 'head_sample', p, 'repetitionPenalty', '1 without seen ids')
    const drawn = expectDraw('head_sample', s, p)
    if (s.seen !== undefined) expectShape('head_sample', 'seen', s.seen, [s.h[0], s.seen[1] ?? 0])
    return drawn
  },
  reference: headSampleReference,
  cases: [
    sampleCase(9, 4, 7, all),
    sampleCase(9, 16, 1500, { temperature: 0.7 }),
    sampleCase(9, 8, 130, { temperature: 1.3, topK: 5 }),
    sampleCase(9, 8, 130, { temperature: 0.9, topP: 0.6 }),
    sampleCase(9, 8, 130, { temperature: 2, minP: 0.1 }),
    sampleCase(9, 8, 5000, { temperature: 1.5, topK: 40, topP: 0.9, minP: 0.02, softcap: 5 }),
    sampleCase(3, 8, 33, { topP: 0 }),
    sampleCase(3, 8, 33, { topK: 33, topP: 1, minP: 1 }),
    sampleCase(3, 4, 1, { temperature: 0.5, topK: 3 }),
    sampleCase(5, 8, 600, { temperature: 0 }),
    { ...sampleCase(8, 4, 40, { topK: 5 }), fill: { keys: keyAt, w: twins(4) } },
    { ...sampleCase(8, 4, 40, { temperature: 0 }), fill: { keys: keyAt, w: twins(4) } },
    penalizedCase(9, 8, 130, { repetitionPenalty: 1.7 }),
    penalizedCase(9, 16, 5000, { repetitionPenalty: 1.3, temperature: 0.8, topK: 40, topP: 0.9, softcap: 5 }),
    penalizedCase(9, 8, 130, { repetitionPenalty: 0.6, temperature: 1.5, minP: 0.05 }),
    penalizedCase(9, 8, 130, { repetitionPenalty: 3, temperature: 0 }),
    penalizedCase(9, 8, 130, { repetitionPenalty: 3, temperature: 0, softcap: 2 }),
    { ...penalizedCase(3, 8, 33, { repetitionPenalty: 2 }), in: { h: [3, 8], w: [33, 8], keys: [3, 4], seen: [3, 0] } },
    {
      ...penalizedCase(2, 4, 12, { repetitionPenalty: 2 }),
      in: { h: [2, 4], w: [12, 4], keys: [2, 4], seen: [3, 6] },
      fails: 'E_SHAPE',
    },
    { ...penalizedCase(2, 4, 12, { repetitionPenalty: 0 }), fails: 'E_CONFIG' },
    { ...sampleCase(2, 4, 12, { repetitionPenalty: 2 }), fails: 'E_CONFIG' },
    // the second row of three holds a NaN
    { ...sampleCase(3, 4, 40, { topP: 0.9 }), fill: { keys: keyAt, h: (i) => (i === 5 ? Number.NaN : i / 8) } },
    { in: { h: [0, 4], w: [7, 4], keys: [0, 4] }, p: all },
    { in: { h: [2, 4], w: [7, 4], keys: [2, 3] }, p: all, fill: { keys: 'ones' }, fails: 'E_SHAPE' },
    { in: { h: [2, 4], w: [7, 3], keys: [2, 4] }, p: all, fill: { keys: 'ones' }, fails: 'E_SHAPE' },
    { in: { h: [2, 4], w: [7, 4], keys: [2, 4] }, p: { ...all, topP: 2 }, fill: { keys: 'ones' }, fails: 'E_CONFIG' },
    {
      in: { h: [2, 4], w: [7, 4], keys: [2, 4] },
      p: { ...all, temperature: -1 },
      fill: { keys: 'ones' },
      fails: 'E_CONFIG',
    },
    { ...sampleCase(32, 576, 49152, { temperature: 0.8, topP: 0.95 }), bench: true },
    { ...sampleCase(256, 64, 32000, { temperature: 0.8, topK: 50, topP: 0.95 }), bench: true },
  ],
})

/**
 * Draws one token per row. The same keys and the same row give the same token, alone or in a batch.
 *
 * @param h [N, C] hidden states
 * @param w [V, C]
 * @param keys [N, 4] i32: seed low, seed high, stream, index of the counter generator
 * @returns ids [N] i32, -1 for a row with NaN; `logps` [N] f32 at temperature 1 over all tokens, with the bits of
 * `headLogProbs`; `samplingLogps` [N] f32 in the distribution that was drawn from
 */
export function headSample(h: Tensor, w: Tensor, keys: Tensor, options: SampleOptions) {
  const { temperature, topK = 0, topP = 1, minP = 0, softcap = 0, repetitionPenalty = 1, seen } = options
  const settings = { softcap, temperature, topK, topP, minP, repetitionPenalty }
  const [ids, logps, samplingLogps] = call(headSampleOp, [h, w, keys, seen], settings)
  return { ids, logps, samplingLogps }
}

const mixtureCase = (n: number, c: number, v: number, p: Parameters, otherWidth = c): OpCase => ({
  in: { h: [n, c], w: [v, c], qh: [n, otherWidth], qw: [v, otherWidth], keys: [n, 4] },
  p: { ...half, ...p },
  fill: { keys: keyAt },
  rows: ['h', 'qh', 'keys'],
})

const headSampleMixtureOp = defineOp({
  name: 'head_sample_mixture',
  shapes: (s, p) => {
    const shapes = expectDraw('head_sample_mixture', s, p)
    expectRank('head_sample_mixture', 'qw', s.qw, '[V, C of the second model]')
    expectShape('head_sample_mixture', 'qw', s.qw, [s.w[0], s.qw[1]])
    expectShape('head_sample_mixture', 'qh', s.qh, [s.h[0], s.qw[1]])
    expectParameter(p.mixture > 0 && p.mixture < 1, 'head_sample_mixture', p, 'mixture', 'between 0 and 1')
    return shapes
  },
  reference: headSampleMixtureReference,
  cases: [
    mixtureCase(9, 4, 7, {}),
    mixtureCase(9, 16, 1500, { temperature: 0.7, mixture: 0.125 }, 6),
    mixtureCase(9, 8, 130, { temperature: 1.3, topK: 5, mixture: 0.9 }),
    mixtureCase(9, 8, 130, { topP: 0.6, minP: 0.05 }, 3),
    mixtureCase(9, 8, 5000, { temperature: 1.5, topK: 40, topP: 0.9, minP: 0.02, softcap: 5 }),
    mixtureCase(3, 4, 1, { temperature: 0.5, topK: 3 }),
    mixtureCase(5, 8, 600, { temperature: 0, mixture: 0.75 }, 12),
    // the second row of the second model holds a NaN
    { ...mixtureCase(3, 4, 40, {}), fill: { keys: keyAt, qh: (i) => (i === 5 ? Number.NaN : i / 8) } },
    { in: { h: [0, 4], w: [7, 4], qh: [0, 3], qw: [7, 3], keys: [0, 4] }, p: half },
    ...[0, 1].map((mixture) => ({ ...mixtureCase(2, 4, 7, { mixture }), fails: 'E_CONFIG' as const })),
    {
      in: { h: [2, 4], w: [7, 4], qh: [2, 4], qw: [6, 4], keys: [2, 4] },
      p: half,
      fill: { keys: 'ones' },
      fails: 'E_SHAPE',
    },
    { ...mixtureCase(32, 576, 49152, { temperature: 0.9 }), bench: true },
  ],
})

/**
 * Draws one token per row from the geometric mixture of two models of one vocabulary, p^(1-b) q^b normalised: the softmax
 * of (1 - b) z + b y, where z and y are the models' logits (Munos et al. 2023, arXiv 2312.00886, section 7).
 *
 * @param h [N, C] hidden states
 * @param w [V, C]
 * @param otherH [N, C of the second model]
 * @param otherW [V, C of the second model]
 * @param keys [N, 4] i32: seed low, seed high, stream, index of the counter generator
 * @param options with `mixture`, b, above 0 and below 1; `softcap` is that of both models
 * @returns as {@link headSample}; `logps` and `samplingLogps` are those of the mixture
 */
export function headSampleMixture(
  h: Tensor,
  w: Tensor,
  otherH: Tensor,
  otherW: Tensor,
  keys: Tensor,
  options: Omit<SampleOptions, 'seen' | 'repetitionPenalty'> & { readonly mixture: number },
) {
  const { temperature, topK = 0, topP = 1, minP = 0, softcap = 0, mixture } = options
  const p = { softcap, temperature, topK, topP, minP, mixture }
  const [ids, logps, samplingLogps] = call(headSampleMixtureOp, [h, w, otherH, otherW, keys], p)
  return { ids, logps, samplingLogps }
}

/** The entries of this family. */
export const sampleOps: readonly OpEntry[] = [headSampleOp, headSampleMixtureOp]
