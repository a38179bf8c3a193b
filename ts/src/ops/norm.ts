// Normalisation over the last dimension: RMS norm (Zhang and Sennrich 2019) and layer norm (Ba et al. 2016), with
// their gradients. Statistics are f32. Kernels: native/cpu/norm.cpp.

import type { OpName } from '../native/ops.gen.js'
import { tidy } from '../tensor/scope.js'
import { lastOf, type Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type Host, type OpEntry, type Parameters } from './define.js'
import { scale } from './elementwise.js'
import { expectParameter, expectPositive, expectRows, expectShape } from './expect.js'
import { addScaled, dot, host, hostCopy, hostRow, hostRows, hostZeros, sum } from './host.js'
import { castTo, zeros } from './layout.js'
import { columnSum } from './reduce.js'

/** One number per row of x. */
const statistic = (x: Shape): Shape => x.slice(0, -1)

function expectVector(op: OpName, name: string, got: Shape, x: Shape): void {
  expectRows(op, 'x', x)
  expectShape(op, name, got, [lastOf(x)])
}

/** Rows far from zero: a sum of squares in low precision, or a variance by subtraction, would show. */
const shifted = (i: number): number => 30 + ((i * 29) % 17) / 17

// RMS norm ------------------------------------------------------------------------------------------------------------

const rmsNormOp = defineOp({
  name: 'rms_norm',
  shapes: ({ x, w }, p) => {
    expectVector('rms_norm', 'w', w, x)
    expectPositive('rms_norm', p, 'eps')
    expectParameter(Number.isFinite(p.offset), 'rms_norm', p, 'offset', 'a finite number')
    return [x, statistic(x)]
  },
  fixed: ['rstd'],
  saves: ['x', 'w', 'rstd'],
  gradient: ({ t, d, p, needs, into }) => {
    if (d.y === undefined) return {}
    if (needs('w')) call(rmsNormDwOp, [into('w'), d.y, t.x, t.rstd])
    const [x] = needs('x') ? call(rmsNormDxOp, [d.y, t.x, t.w, t.rstd], { offset: p.offset }) : []
    return { x }
  },
  reference: ({ x, w }, { eps, offset }) => {
    const c = w.data.length
    const rstd = host(statistic(x.shape), (r) => 1 / Math.sqrt(dot(hostRow(x, r), hostRow(x, r)) / c + eps))
    const y = host(x.shape, (i) => x.data[i] * rstd.data[Math.floor(i / c)] * (w.data[i % c] + offset))
    return [y, rstd]
  },
  cases: [
    { in: { x: [3, 8], w: [8] }, p: { eps: 1e-5, offset: 0 }, rows: ['x'] },
    { in: { x: [2, 3, 5], w: [5] }, p: { eps: 1e-6, offset: 1 }, rows: ['x'] },
    { in: { x: [2, 577], w: [577] }, p: { eps: 1e-5, offset: 0 }, fill: { x: shifted }, rows: ['x'] },
    { in: { x: [2, 40], w: [40] }, p: { eps: 1e-5, offset: 0 }, fill: { x: 'zeros' } },
    { in: { x: [0, 8], w: [8] }, p: { eps: 1e-5, offset: 0 } },
    { in: { x: [3, 8], w: [7] }, p: { eps: 1e-5, offset: 0 }, fails: 'E_SHAPE' },
    { in: { x: [3, 8], w: [8] }, p: { eps: 0, offset: 0 }, fails: 'E_CONFIG' },
    { in: { x: [16384, 2048], w: [2048] }, p: { eps: 1e-5, offset: 0 }, bench: true },
  ],
})

/**
 * x / rms(x) * (w + offset) over the last dimension; Gemma's form has offset 1.
 *
 * @param x [..., C]
 * @param w [C]
 */
export const rmsNorm = (x: Tensor, w: Tensor, options: { eps: number; offset?: number }): Tensor =>
  call(rmsNormOp, [x, w], { eps: options.eps, offset: options.offset ?? 0 })[0]

/**
 * 1 / sqrt(sum x^2) of each row of x [N, C], f32 [N]; 1e15 / sqrt(C) for a row of zeros. Carries no gradient.
 */
export function inverseRowNorms(x: Tensor): Tensor {
  return tidy(() => {
    const gain = castTo(zeros(x.device, [lastOf(x.shape)]), x.dtype)
    const [, rstd] = call(rmsNormOp, [x, gain], { eps: 1e-30, offset: 0 })
    return scale(rstd, 1 / Math.sqrt(lastOf(x.shape)))
  })
}

/** With u = dy (w + offset): dx = rstd (u - x rstd^2 mean(u x)). */
function rmsNormDx({ dy, x, w, rstd }: Readonly<Record<string, Host>>, { offset }: Parameters): Host {
  const dx = hostZeros(x.shape)
  const c = w.data.length
  hostRows(x).forEach((row, r) => {
    const u = hostRow(dy, r).map((value, i) => value * (w.data[i] + offset))
    addScaled(hostRow(dx, r), rstd.data[r], u)
    addScaled(hostRow(dx, r), -(rstd.data[r] ** 3) * (dot(u, row) / c), row)
  })
  return dx
}

const rmsNormDxOp = defineOp({
  name: 'rms_norm_dx',
  shapes: ({ dy, x, w, rstd }, p) => {
    expectShape('rms_norm_dx', 'dy', dy, x)
    expectVector('rms_norm_dx', 'w', w, x)
    expectShape('rms_norm_dx', 'rstd', rstd, statistic(x))
    expectParameter(Number.isFinite(p.offset), 'rms_norm_dx', p, 'offset', 'a finite number')
    return [x]
  },
  reference: (t, p) => [rmsNormDx(t, p)],
  cases: [
    {
      in: { dy: [4, 7], x: [4, 7], w: [7], rstd: [4] },
      p: { offset: 1 },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'rstd'],
    },
    {
      in: { dy: [3, 577], x: [3, 577], w: [577], rstd: [3] },
      p: { offset: 0 },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'rstd'],
    },
    { in: { dy: [0, 7], x: [0, 7], w: [7], rstd: [0] }, p: { offset: 0 } },
    { in: { dy: [4, 7], x: [4, 7], w: [7], rstd: [3] }, p: { offset: 0 }, fails: 'E_SHAPE' },
    {
      in: { dy: [2048, 2048], x: [2048, 2048], w: [2048], rstd: [2048] },
      p: { offset: 0 },
      fill: { rstd: 'positive' },
      bench: true,
    },
  ],
})

const rmsNormDwOp = defineOp({
  name: 'rms_norm_dw',
  shapes: ({ dw, dy, x, rstd }) => {
    expectShape('rms_norm_dw', 'dy', dy, x)
    expectVector('rms_norm_dw', 'dw', dw, x)
    expectShape('rms_norm_dw', 'rstd', rstd, statistic(x))
    return []
  },
  reference: ({ dw, dy, x, rstd }) => {
    const c = dw.data.length
    return [
      host(dw.shape, (i) => {
        return dw.data[i] + sum(rstd.data.length, (r) => dy.data[r * c + i] * x.data[r * c + i] * rstd.data[r])
      }),
    ]
  },
  cases: [
    { in: { dw: [7], dy: [5, 7], x: [5, 7], rstd: [5] }, fill: { rstd: 'positive' }, rows: ['dy', 'x', 'rstd'] },
    {
      in: { dw: [130], dy: [67, 130], x: [67, 130], rstd: [67] },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'rstd'],
    },
    { in: { dw: [7], dy: [0, 7], x: [0, 7], rstd: [0] } },
    { in: { dw: [6], dy: [5, 7], x: [5, 7], rstd: [5] }, fails: 'E_SHAPE' },
    {
      in: { dw: [2048], dy: [2048, 2048], x: [2048, 2048], rstd: [2048] },
      fill: { rstd: 'positive' },
      bench: true,
    },
  ],
})

// Layer norm ----------------------------------------------------------------------------------------------------------

function layerNormStatistics(x: Host, eps: number): { mean: Host; rstd: Host } {
  const c = lastOf(x.shape)
  const mean = host(statistic(x.shape), (r) => sum(c, (i) => hostRow(x, r)[i]) / c)
  const variance = (r: number) => sum(c, (i) => (hostRow(x, r)[i] - mean.data[r]) ** 2) / c
  return { mean, rstd: host(mean.shape, (r) => 1 / Math.sqrt(variance(r) + eps)) }
}

const layerNormOp = defineOp({
  name: 'layer_norm',
  shapes: ({ x, w, b }, p) => {
    expectVector('layer_norm', 'w', w, x)
    expectVector('layer_norm', 'b', b, x)
    expectPositive('layer_norm', p, 'eps')
    return [x, statistic(x), statistic(x)]
  },
  fixed: ['mean', 'rstd'],
  saves: ['x', 'w', 'mean', 'rstd'],
  gradient: ({ t, d, needs, into }) => {
    if (d.y === undefined) return {}
    if (needs('w')) call(layerNormDwOp, [into('w'), d.y, t.x, t.mean, t.rstd])
    if (needs('b')) columnSum(into('b'), d.y)
    const [x] = needs('x') ? call(layerNormDxOp, [d.y, t.x, t.w, t.mean, t.rstd]) : []
    return { x }
  },
  reference: ({ x, w, b }, { eps }) => {
    const c = w.data.length
    const { mean, rstd } = layerNormStatistics(x, eps)
    const normal = (i: number) => (x.data[i] - mean.data[Math.floor(i / c)]) * rstd.data[Math.floor(i / c)]
    return [host(x.shape, (i) => normal(i) * w.data[i % c] + b.data[i % c]), mean, rstd]
  },
  cases: [
    { in: { x: [3, 8], w: [8], b: [8] }, p: { eps: 1e-5 }, rows: ['x'] },
    { in: { x: [2, 2, 5], w: [5], b: [5] }, p: { eps: 1e-5 }, rows: ['x'] },
    // bf16 cannot tell these values apart well; f32 can
    { in: { x: [2, 577], w: [577], b: [577] }, p: { eps: 1e-5 }, fill: { x: shifted }, rows: ['x'], tolerance: 1e-4 },
    { in: { x: [2, 40], w: [40], b: [40] }, p: { eps: 1e-5 }, fill: { x: 'ones' } },
    { in: { x: [0, 8], w: [8], b: [8] }, p: { eps: 1e-5 } },
    { in: { x: [3, 8], w: [8], b: [7] }, p: { eps: 1e-5 }, fails: 'E_SHAPE' },
    { in: { x: [3, 8], w: [8], b: [8] }, p: { eps: -1 }, fails: 'E_CONFIG' },
    { in: { x: [2048, 2048], w: [2048], b: [2048] }, p: { eps: 1e-5 }, bench: true },
  ],
})

/**
 * (x - mean) / sqrt(variance + eps) * w + b over the last dimension.
 *
 * @param x [..., C]
 * @param w [C]
 * @param b [C]
 */
export const layerNorm = (x: Tensor, w: Tensor, b: Tensor, options: { eps: number }): Tensor =>
  call(layerNormOp, [x, w, b], { eps: options.eps })[0]

/** With u = dy w and z = (x - mean) rstd: dx = rstd (u - mean(u) - z mean(u z)). */
function layerNormDx({ dy, x, w, mean, rstd }: Readonly<Record<string, Host>>): Host {
  const c = w.data.length
  const dx = hostZeros(x.shape)
  hostRows(x).forEach((row, r) => {
    const z = row.map((value) => (value - mean.data[r]) * rstd.data[r])
    const u = hostRow(dy, r).map((value, i) => value * w.data[i])
    const average = sum(c, (i) => u[i]) / c
    const projection = dot(u, z) / c
    hostRow(dx, r).set(u.map((value, i) => rstd.data[r] * (value - average - z[i] * projection)))
  })
  return dx
}

const layerNormDxOp = defineOp({
  name: 'layer_norm_dx',
  shapes: ({ dy, x, w, mean, rstd }) => {
    expectShape('layer_norm_dx', 'dy', dy, x)
    expectVector('layer_norm_dx', 'w', w, x)
    expectShape('layer_norm_dx', 'mean', mean, statistic(x))
    expectShape('layer_norm_dx', 'rstd', rstd, statistic(x))
    return [x]
  },
  reference: (t) => [layerNormDx(t)],
  cases: [
    {
      in: { dy: [4, 7], x: [4, 7], w: [7], mean: [4], rstd: [4] },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'mean', 'rstd'],
    },
    {
      in: { dy: [3, 577], x: [3, 577], w: [577], mean: [3], rstd: [3] },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'mean', 'rstd'],
    },
    { in: { dy: [0, 7], x: [0, 7], w: [7], mean: [0], rstd: [0] } },
    { in: { dy: [4, 7], x: [4, 7], w: [7], mean: [3], rstd: [4] }, fails: 'E_SHAPE' },
    {
      in: { dy: [2048, 2048], x: [2048, 2048], w: [2048], mean: [2048], rstd: [2048] },
      fill: { rstd: 'positive' },
      bench: true,
    },
  ],
})

const layerNormDwOp = defineOp({
  name: 'layer_norm_dw',
  shapes: ({ dw, dy, x, mean, rstd }) => {
    expectShape('layer_norm_dw', 'dy', dy, x)
    expectVector('layer_norm_dw', 'dw', dw, x)
    expectShape('layer_norm_dw', 'mean', mean, statistic(x))
    expectShape('layer_norm_dw', 'rstd', rstd, statistic(x))
    return []
  },
  reference: ({ dw, dy, x, mean, rstd }) => {
    const out = hostCopy(dw)
    hostRows(x).forEach((row, r) => {
      addScaled(
        out.data,
        rstd.data[r],
        row.map((value, i) => (value - mean.data[r]) * hostRow(dy, r)[i]),
      )
    })
    return [out]
  },
  cases: [
    {
      in: { dw: [7], dy: [5, 7], x: [5, 7], mean: [5], rstd: [5] },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'mean', 'rstd'],
    },
    {
      in: { dw: [130], dy: [67, 130], x: [67, 130], mean: [67], rstd: [67] },
      fill: { rstd: 'positive' },
      rows: ['dy', 'x', 'mean', 'rstd'],
    },
    { in: { dw: [7], dy: [0, 7], x: [0, 7], mean: [0], rstd: [0] } },
    { in: { dw: [7], dy: [5, 7], x: [5, 7], mean: [5], rstd: [4] }, fails: 'E_SHAPE' },
    {
      in: { dw: [2048], dy: [2048, 2048], x: [2048, 2048], mean: [2048], rstd: [2048] },
      fill: { rstd: 'positive' },
      bench: true,
    },
  ],
})

/** The entries of this family. */
export const normOps: readonly OpEntry[] = [
  rmsNormOp,
  rmsNormDxOp,
  rmsNormDwOp,
  layerNormOp,
  layerNormDxOp,
  layerNormDwOp,
]
