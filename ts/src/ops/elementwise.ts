// Elementwise: sums, bias, scaling, and the activations with their gradients. Rows never see each other.
// Kernels: native/cpu/elementwise.cpp.

import { lastOf } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type Host, type OpEntry } from './define.js'
import { expectParameter, expectRows, expectShape } from './expect.js'
import { host } from './host.js'
import { columnSum } from './reduce.js'

const addOp = defineOp({
  name: 'add',
  shapes: ({ a, b }) => {
    expectShape('add', 'b', b, a)
    return [a]
  },
  gradient: ({ d }) => ({ a: d.y, b: d.y }),
  reference: ({ a, b }) => [host(a.shape, (i) => a.data[i] + b.data[i])],
  cases: [
    { in: { a: [3, 7], b: [3, 7] }, rows: ['a', 'b'] },
    { in: { a: [2, 3, 70], b: [2, 3, 70] }, rows: ['a', 'b'] },
    { in: { a: [0, 7], b: [0, 7] } },
    { in: { a: [3, 7], b: [7] }, fails: 'E_SHAPE' },
    { in: { a: [2048, 2048], b: [2048, 2048] }, bench: true },
  ],
})

/** a + b, of equal shapes. */
export const add = (a: Tensor, b: Tensor): Tensor => call(addOp, [a, b])[0]

const addBiasOp = defineOp({
  name: 'add_bias',
  shapes: ({ x, b }) => {
    expectRows('add_bias', 'x', x)
    expectShape('add_bias', 'b', b, [lastOf(x)])
    return [x]
  },
  gradient: ({ d, needs, into }) => {
    if (d.y !== undefined && needs('b')) columnSum(into('b'), d.y)
    return { x: d.y }
  },
  reference: ({ x, b }) => [host(x.shape, (i) => x.data[i] + b.data[i % b.data.length])],
  cases: [
    { in: { x: [4, 7], b: [7] }, rows: ['x'] },
    { in: { x: [3, 130], b: [130] }, rows: ['x'] },
    { in: { x: [0, 7], b: [7] } },
    { in: { x: [3, 7], b: [6] }, fails: 'E_SHAPE' },
    { in: { x: [3, 7], b: [1, 7] }, fails: 'E_SHAPE' },
    { in: { x: [2048, 2048], b: [2048] }, bench: true },
  ],
})

/** x + b for every row: x [..., C], b [C]. */
export const addBias = (x: Tensor, b: Tensor): Tensor => call(addBiasOp, [x, b])[0]

const scaleOp = defineOp({
  name: 'scale',
  shapes: ({ x }) => [x],
  gradient: ({ d, p }) => ({ x: d.y && scale(d.y, p.factor) }),
  reference: ({ x }, { factor }) => [host(x.shape, (i) => x.data[i] * factor)],
  cases: [
    { in: { x: [3, 7] }, p: { factor: -2.5 }, rows: ['x'] },
    { in: { x: [2, 133] }, p: { factor: 1 / 3 }, rows: ['x'] },
    { in: { x: [0] }, p: { factor: 2 } },
    { in: { x: [2048, 2048] }, p: { factor: 0.5 }, bench: true },
  ],
})

/** factor * x. */
export const scale = (x: Tensor, factor: number): Tensor => call(scaleOp, [x], { factor })[0]

const scaleColumnsOp = defineOp({
  name: 'scale_columns',
  shapes: ({ x, g }) => {
    expectRows('scale_columns', 'x', x)
    expectShape('scale_columns', 'g', g, [lastOf(x)])
    return [x]
  },
  saves: ['x', 'g'],
  savesFor: { x: 'g', g: 'x' },
  gradient: ({ t, d, needs, into }) => {
    if (d.y === undefined) return {}
    if (needs('g')) scaleColumnsDg(into('g'), d.y, t.x)
    return { x: needs('x') ? scaleColumns(d.y, t.g) : undefined }
  },
  reference: ({ x, g }) => [host(x.shape, (i) => x.data[i] * g.data[i % g.data.length])],
  cases: [
    { in: { x: [4, 7], g: [7] }, rows: ['x'] },
    { in: { x: [3, 2, 130], g: [130] }, rows: ['x'] },
    { in: { x: [0, 7], g: [7] } },
    { in: { x: [3, 7], g: [6] }, fails: 'E_SHAPE' },
    { in: { x: [3, 7], g: [1, 7] }, fails: 'E_SHAPE' },
    { in: { x: [2048, 2048], g: [2048] }, bench: true },
  ],
})

/** x g for every row: x [..., C], g [C] f32. */
export const scaleColumns = (x: Tensor, g: Tensor): Tensor => call(scaleColumnsOp, [x, g])[0]

const scaleColumnsDgOp = defineOp({
  name: 'scale_columns_dg',
  shapes: ({ dg, dy, x }) => {
    expectRows('scale_columns_dg', 'x', x)
    expectShape('scale_columns_dg', 'dy', dy, x)
    expectShape('scale_columns_dg', 'dg', dg, [lastOf(x)])
    return []
  },
  reference: ({ dg, dy, x }) => {
    const out = dg.data.slice()
    x.data.forEach((value, i) => {
      out[i % out.length] += value * dy.data[i]
    })
    return [{ shape: dg.shape, data: out }]
  },
  cases: [
    { in: { dg: [7], dy: [5, 7], x: [5, 7] }, rows: ['dy', 'x'] },
    { in: { dg: [130], dy: [67, 130], x: [67, 130] }, rows: ['dy', 'x'] },
    { in: { dg: [7], dy: [0, 7], x: [0, 7] } },
    { in: { dg: [6], dy: [5, 7], x: [5, 7] }, fails: 'E_SHAPE' },
    { in: { dg: [7], dy: [4, 7], x: [5, 7] }, fails: 'E_SHAPE' },
    { in: { dg: [2048], dy: [2048, 2048], x: [2048, 2048] }, bench: true },
  ],
})

/** dg [C] f32 += the sum over the rows of dy x, both [..., C], in row order. */
export function scaleColumnsDg(dg: Tensor, dy: Tensor, x: Tensor): void {
  call(scaleColumnsDgOp, [dg, dy, x])
}

// Activations ---------------------------------------------------------------------------------------------------------

/** A function and its derivative at a point. */
type Activation = (x: number) => readonly [value: number, slope: number]

const silu: Activation = (x) => {
  const s = 1 / (1 + Math.exp(-x))
  return [x * s, s * (1 + x * (1 - s))]
}

/** GELU in its tanh form (Hendrycks and Gimpel 2016): 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). */
const geluTanh: Activation = (x) => {
  const c = Math.sqrt(2 / Math.PI)
  const t = Math.tanh(c * (x + 0.044715 * x ** 3))
  return [0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)]
}

/** In the order of the op's parameter `activation`. */
const activations: readonly Activation[] = [silu, geluTanh]
const activationNames = ['silu', 'geluTanh'] as const

/** Gate activations of {@link glu}. */
export type GluActivation = (typeof activationNames)[number]

/** Values whose tails reach where the activations saturate. */
const wide = (i: number): number => ((i * 37) % 101) / 4 - 12

const gluOp = defineOp({
  name: 'glu',
  shapes: ({ gate, up }, p) => {
    expectShape('glu', 'up', up, gate)
    expectParameter(p.activation in activations, 'glu', p, 'activation', '0 (silu) or 1 (geluTanh)')
    return [gate]
  },
  saves: ['gate', 'up'],
  gradient: ({ t, d, p }) => {
    if (d.y === undefined) return {}
    const [gate, up] = call(gluBackwardOp, [d.y, t.gate, t.up], p)
    return { gate, up }
  },
  reference: ({ gate, up }, p) => {
    const f = activations[p.activation]
    return [host(gate.shape, (i) => f(gate.data[i])[0] * up.data[i])]
  },
  cases: [
    { in: { gate: [3, 7], up: [3, 7] }, p: { activation: 0 }, rows: ['gate', 'up'] },
    { in: { gate: [3, 7], up: [3, 7] }, p: { activation: 1 }, rows: ['gate', 'up'] },
    { in: { gate: [2, 101], up: [2, 101] }, p: { activation: 0 }, fill: { gate: wide }, rows: ['gate', 'up'] },
    { in: { gate: [2, 101], up: [2, 101] }, p: { activation: 1 }, fill: { gate: wide }, rows: ['gate', 'up'] },
    { in: { gate: [0, 7], up: [0, 7] }, p: { activation: 0 } },
    { in: { gate: [3, 7], up: [3, 6] }, p: { activation: 0 }, fails: 'E_SHAPE' },
    { in: { gate: [3, 7], up: [3, 7] }, p: { activation: 2 }, fails: 'E_CONFIG' },
    { in: { gate: [8192, 4864], up: [8192, 4864] }, p: { activation: 0 }, bench: true },
  ],
})

/** act(gate) * up: SwiGLU with `silu`, GeGLU with `geluTanh`. */
export const glu = (gate: Tensor, up: Tensor, activation: GluActivation): Tensor =>
  call(gluOp, [gate, up], { activation: activationNames.indexOf(activation) })[0]

const gluBackwardOp = defineOp({
  name: 'glu_backward',
  shapes: ({ dy, gate, up }, p) => {
    expectShape('glu_backward', 'gate', gate, dy)
    expectShape('glu_backward', 'up', up, dy)
    expectParameter(p.activation in activations, 'glu_backward', p, 'activation', '0 (silu) or 1 (geluTanh)')
    return [gate, up]
  },
  reference: ({ dy, gate, up }, p) => {
    const f = activations[p.activation]
    return [
      host(gate.shape, (i) => dy.data[i] * f(gate.data[i])[1] * up.data[i]),
      host(up.shape, (i) => dy.data[i] * f(gate.data[i])[0]),
    ]
  },
  cases: [
    {
      in: { dy: [2, 101], gate: [2, 101], up: [2, 101] },
      p: { activation: 0 },
      fill: { gate: wide },
      rows: ['dy', 'gate', 'up'],
    },
    {
      in: { dy: [2, 101], gate: [2, 101], up: [2, 101] },
      p: { activation: 1 },
      fill: { gate: wide },
      rows: ['dy', 'gate', 'up'],
    },
    { in: { dy: [0, 7], gate: [0, 7], up: [0, 7] }, p: { activation: 1 } },
    { in: { dy: [3, 7], gate: [3, 7], up: [3, 6] }, p: { activation: 0 }, fails: 'E_SHAPE' },
    { in: { dy: [2048, 1536], gate: [2048, 1536], up: [2048, 1536] }, p: { activation: 0 }, bench: true },
  ],
})

const geluOp = defineOp({
  name: 'gelu',
  shapes: ({ x }) => [x],
  saves: ['x'],
  gradient: ({ t, d }) => ({ x: d.y && call(geluBackwardOp, [d.y, t.x])[0] }),
  reference: ({ x }) => [host(x.shape, (i) => geluTanh(x.data[i])[0])],
  cases: [
    { in: { x: [3, 7] }, rows: ['x'] },
    { in: { x: [2, 101] }, fill: { x: wide }, rows: ['x'] },
    { in: { x: [0, 7] } },
    { in: { x: [2048, 3072] }, bench: true },
  ],
})

/** GELU, tanh form. */
export const gelu = (x: Tensor): Tensor => call(geluOp, [x])[0]

const geluGradient = (dy: Host, x: Host): Host => host(x.shape, (i) => dy.data[i] * geluTanh(x.data[i])[1])

const geluBackwardOp = defineOp({
  name: 'gelu_backward',
  shapes: ({ dy, x }) => {
    expectShape('gelu_backward', 'dy', dy, x)
    return [x]
  },
  reference: ({ dy, x }) => [geluGradient(dy, x)],
  cases: [
    { in: { dy: [2, 101], x: [2, 101] }, fill: { x: wide }, rows: ['dy', 'x'] },
    { in: { dy: [0], x: [0] } },
    { in: { dy: [3], x: [4] }, fails: 'E_SHAPE' },
    { in: { dy: [2048, 3072], x: [2048, 3072] }, bench: true },
  ],
})

/** The entries of this family. */
export const elementwiseOps: readonly OpEntry[] = [
  addOp,
  addBiasOp,
  scaleOp,
  gluOp,
  gluBackwardOp,
  geluOp,
  geluBackwardOp,
  scaleColumnsOp,
  scaleColumnsDgOp,
]
