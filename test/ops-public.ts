// The public functions against their ops: each must pass its operands and options on as documented. The ops themselves
// are tested from the registry. Called by ops.test.ts.

import type { Test } from 'tap'
import type { Device } from '../ts/src/native/device.js'
import type { OpName } from '../ts/src/native/ops.gen.js'
import { call, type Parameters } from '../ts/src/ops/define.js'
import * as ops from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import type { Shape } from '../ts/src/tensor/shape.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { generator, sameBits } from './ops-cases.js'

/** Makes tensors of a device. */
interface Make {
  normal(...shape: number[]): Tensor
  positive(...shape: number[]): Tensor
  integers(shape: Shape, at: (i: number) => number): Tensor
  bytes(size: number): Tensor
}

function makeOn(device: Device): Make {
  const random = generator('public')
  const floats = (shape: Shape, low: number, high: number): Tensor => {
    const size = shape.reduce((a, b) => a * b, 1)
    return tensor(
      device,
      Float32Array.from({ length: size }, () => low + (high - low) * random()),
      shape,
    )
  }
  return {
    normal: (...shape) => floats(shape, -2, 2),
    positive: (...shape) => floats(shape, 0.5, 1),
    bytes: (size) => tensor(device, new Uint8Array(size).fill(77)),
    integers: (shape, at) => {
      const size = shape.reduce((a, b) => a * b, 1)
      return tensor(
        device,
        Int32Array.from({ length: size }, (_, i) => at(i)),
        shape,
      )
    },
  }
}

/** An op by name with all its parameters: what the public function must amount to. */
const raw = (name: OpName, tensors: readonly (Tensor | undefined)[], p: Parameters = {}): Tensor[] => {
  const entry = ops.opEntries.find((candidate) => candidate.name === name)
  if (entry === undefined) throw new Error(`no op ${name}`)
  return call(entry, tensors, p)
}

/** Runs an op in place twice, through the public function and by name, over equal tensors. */
const inPlace = (make: () => Tensor, publicly: (x: Tensor) => void, name: OpName, ...rest: Tensor[]) => {
  const zero = make()
  const [a, b] = [make(), make()]
  for (const x of [a, b]) ops.copy(x, zero)
  publicly(a)
  raw(name, [b, ...rest])
  return [[a], [b]]
}

/** Pairs of results that must be equal bit for bit. */
const pairs: Readonly<Record<string, (make: Make) => Tensor[][]>> = {
  addBias: (m) => {
    const [x, b] = [m.normal(3, 5), m.normal(5)]
    return [[ops.addBias(x, b)], raw('add_bias', [x, b])]
  },
  'glu silu': (m) => {
    const [gate, up] = [m.normal(3, 5), m.normal(3, 5)]
    return [[ops.glu(gate, up, 'silu')], raw('glu', [gate, up], { activation: 0 })]
  },
  'glu geluTanh': (m) => {
    const [gate, up] = [m.normal(3, 5), m.normal(3, 5)]
    return [[ops.glu(gate, up, 'geluTanh')], raw('glu', [gate, up], { activation: 1 })]
  },
  scaleColumnsDg: (m) => {
    const [dy, x] = [m.normal(4, 5), m.normal(4, 5)]
    return inPlace(
      () => m.normal(5),
      (dg) => ops.scaleColumnsDg(dg, dy, x),
      'scale_columns_dg',
      dy,
      x,
    )
  },
  dropout: (m) => {
    const [x, keys] = [m.normal(3, 5), m.integers([3, 4], (i) => i)]
    const options = { probability: 0.5, site: 2 }
    return [[ops.dropout(x, keys, options)], raw('dropout', [x, keys], options)]
  },
  addNoise: (m) => {
    const [x, keys, scale] = [m.normal(3, 5), m.integers([3, 4], (i) => i), m.positive(3)]
    return [[ops.addNoise(x, keys, scale, { site: 2 })], raw('add_noise', [x, keys, scale], { site: 2 })]
  },
  columnSum: (m) => {
    const dy = m.normal(4, 5)
    return inPlace(
      () => m.normal(5),
      (db) => ops.columnSum(db, dy),
      'column_sum',
      dy,
    )
  },
  addNorm: (m) => {
    const x = m.normal(4, 5)
    return inPlace(
      () => m.normal(1),
      (acc) => ops.addNorm(acc, x),
      'add_norm',
      x,
    )
  },
  scatterAddRows: (m) => {
    const [ids, dy] = [m.integers([4], (i) => i % 3), m.normal(4, 5)]
    return inPlace(
      () => m.normal(3, 5),
      (dx) => ops.scatterAddRows(dx, ids, dy),
      'scatter_add_rows',
      ids,
      dy,
    )
  },
  linearDw: (m) => {
    const [dy, x] = [m.normal(4, 3), m.normal(4, 5)]
    return inPlace(
      () => m.normal(3, 5),
      (dw) => ops.linearDw(dw, dy, x),
      'linear_dw',
      dy,
      x,
    )
  },
  linearDx: (m) => {
    const [dy, w] = [m.normal(4, 3), m.normal(3, 5)]
    return [[ops.linearDx(dy, w)], raw('linear_dx', [dy, w])]
  },
  'rmsNorm without offset': (m) => {
    const [x, w] = [m.normal(3, 5), m.normal(5)]
    return [[ops.rmsNorm(x, w, { eps: 0.01 })], raw('rms_norm', [x, w], { eps: 0.01, offset: 0 }).slice(0, 1)]
  },
  'rmsNorm with offset': (m) => {
    const [x, w] = [m.normal(3, 5), m.normal(5)]
    const got = ops.rmsNorm(x, w, { eps: 0.01, offset: 1 })
    return [[got], raw('rms_norm', [x, w], { eps: 0.01, offset: 1 }).slice(0, 1)]
  },
  layerNorm: (m) => {
    const [x, w, b] = [m.normal(3, 5), m.normal(5), m.normal(5)]
    return [[ops.layerNorm(x, w, b, { eps: 0.01 })], raw('layer_norm', [x, w, b], { eps: 0.01 }).slice(0, 1)]
  },
  rope: (m) => {
    const [x, cos, sin, at] = [m.normal(3, 2, 4), m.normal(5, 2), m.normal(5, 2), m.integers([3], (i) => i)]
    const both = [false, true].map((inverse) => ops.rope(x, cos, sin, at, inverse))
    const wanted = [0, 1].flatMap((inverse) => raw('rope', [x, cos, sin, at], { inverse }))
    return [
      [ops.rope(x, cos, sin, at), ...both],
      [wanted[0], ...wanted],
    ]
  },
  attention: (m) => {
    const [q, k, v, who] = [m.normal(9, 2, 4), m.normal(9, 1, 4), m.normal(9, 1, 4), m.integers([9, 3], () => 0)]
    const plainly = ops.attention(q, k, v, who, { scale: 0.5 })
    const options = { scale: 0.4, window: 3, softcap: 2 }
    return [
      [plainly, ops.attention(q, k, v, who, options)],
      [{ scale: 0.5, window: 0, softcap: 0 }, options].map((p) => raw('attention', [q, k, v, who], p)[0]),
    ]
  },
  attentionDecode: (m) => {
    const operands = [
      m.normal(2, 2, 4),
      m.normal(3, 1, 4, ops.KEY_BLOCK),
      m.normal(3, 1, ops.KEY_BLOCK, 4),
      m.integers([2, 1], (i) => i),
      m.integers([2], (i) => 9 + i),
    ] as const
    const options = { scale: 0.4, window: 3, softcap: 2 }
    const p = { scale: 0.4, window: 0, softcap: 0 }
    return [
      [ops.attentionDecode(...operands, { scale: 0.4 }), ops.attentionDecode(...operands, options)],
      [...raw('attention_decode', operands, p), ...raw('attention_decode', operands, options)],
    ]
  },
  headLogProbs: (m) => {
    const [h, w, targets] = [m.normal(3, 4), m.normal(7, 4), m.integers([3], (i) => i)]
    const plainly = ops.headLogProbs(h, w, targets)
    const warm = ops.headLogProbs(h, w, targets, { softcap: 3, temperature: 0.5 })
    return [
      [plainly.logps, plainly.lse, warm.logps, warm.lse],
      [
        { softcap: 0, temperature: 1 },
        { softcap: 3, temperature: 0.5 },
      ].flatMap((p) => raw('head_logprobs', [h, w, targets], p)),
    ]
  },
  headTerms: (m) => {
    const operands = [m.normal(3, 4), m.normal(7, 4), m.integers([3], (i) => i)] as const
    const fields = (x: ReturnType<typeof ops.headTerms>) => [
      x.logps,
      x.entropy,
      x.meanLogps,
      x.logSquares,
      x.lse,
      x.topLogps,
    ]
    const warm = { softcap: 3, temperature: 0.5 }
    return [
      [...fields(ops.headTerms(...operands)), ...fields(ops.headTerms(...operands, warm))],
      [...raw('head_terms', operands, { softcap: 0, temperature: 1 }), ...raw('head_terms', operands, warm)],
    ]
  },
  headKl: (m) => {
    const operands = [
      m.normal(3, 4),
      m.normal(7, 4),
      m.normal(3, 4),
      m.normal(7, 4),
      m.integers([3], (i) => i),
    ] as const
    const fields = ({ logps, kl, lse, priorLse }: ReturnType<typeof ops.headKl>) => [logps, kl, lse, priorLse]
    const p = { softcap: 0, temperature: 1, mixture: 0 }
    const four = (direction: number, settings = p) => raw('head_kl', operands, { ...settings, direction }).slice(0, 4)
    return [
      [
        ...fields(ops.headKl(...operands)),
        ...fields(ops.headKl(...operands, { direction: 'priorToPolicy' })),
        ...fields(ops.headKl(...operands, { direction: 'policyToPrior', softcap: 3, temperature: 2 })),
        ...fields(ops.headKl(...operands, { direction: 'jensenShannon' })),
        ...fields(ops.headKl(...operands, { direction: 'jensenShannon', mixture: 0.2 })),
      ],
      [
        ...four(0),
        ...four(0),
        ...four(1, { softcap: 3, temperature: 2, mixture: 0 }),
        ...four(2, { ...p, mixture: 0.5 }),
        ...four(2, { ...p, mixture: 0.2 }),
      ],
    ]
  },
  headSample: (m) => {
    const operands = [m.normal(9, 4), m.normal(70, 4), m.integers([9, 4], (i) => i)] as const
    const seen = m.integers([9, 3], (i) => i)
    const fields = ({ ids, logps, samplingLogps }: ReturnType<typeof ops.headSample>) => [ids, logps, samplingLogps]
    const all = { temperature: 0.7, topK: 9, topP: 0.8, minP: 0.1, softcap: 3 }
    const none = { temperature: 0.7, topK: 0, topP: 1, minP: 0, softcap: 0, repetitionPenalty: 1 }
    const penalized = { ...all, repetitionPenalty: 1.5 }
    return [
      [
        ...fields(ops.headSample(...operands, all)),
        ...fields(ops.headSample(...operands, { temperature: 0.7 })),
        ...fields(ops.headSample(...operands, { ...penalized, seen })),
      ],
      [
        ...raw('head_sample', operands, { ...all, repetitionPenalty: 1 }),
        ...raw('head_sample', operands, none),
        ...raw('head_sample', [...operands, seen], penalized),
      ],
    ]
  },
  headSampleMixture: (m) => {
    const operands = [
      ...[m.normal(9, 4), m.normal(70, 4), m.normal(9, 6), m.normal(70, 6)],
      m.integers([9, 4], (i) => i),
    ] as const
    const [h, w, otherH, otherW, keys] = operands
    const fields = (options: ops.SampleOptions & { readonly mixture: number }) => {
      const { ids, logps, samplingLogps } = ops.headSampleMixture(h, w, otherH, otherW, keys, options)
      return [ids, logps, samplingLogps]
    }
    const all = { temperature: 0.7, topK: 9, topP: 0.8, minP: 0.1, softcap: 3, mixture: 0.25 }
    const none = { temperature: 0.7, topK: 0, topP: 1, minP: 0, softcap: 0, mixture: 0.5 }
    return [
      [...fields(all), ...fields({ temperature: 0.7, mixture: 0.5 })],
      [...raw('head_sample_mixture', operands, all), ...raw('head_sample_mixture', operands, none)],
    ]
  },
  'quantizeNf4, dequantizeNf4': (m) => {
    const x = m.normal(5, 77)
    const made = [0, 1].map(() => [m.normal(7), m.bytes(193)])
    ops.quantizeNf4(made[0][1], made[0][0], x)
    raw('quantize_nf4', [made[1][1], made[1][0], x])
    const back = made.map(() => m.normal(5, 77))
    ops.dequantizeNf4(back[0], made[0][1], made[0][0])
    raw('dequantize_nf4', [back[1], made[1][1], made[1][0]])
    return made.map((pair, i) => [...pair, back[i]])
  },
  dequantizeBlockwise: (m) => {
    const [map, absmax, offset, codes] = [m.normal(256), m.positive(2), m.normal(1), m.bytes(300)]
    const made = [0, 1].map(() => m.normal(300))
    ops.dequantizeBlockwise(made[0], { codes, map, absmax, offset })
    raw('dequantize_blockwise', [made[1], codes, map, absmax, offset])
    return made.map((y) => [y])
  },
  adamw: (m) => {
    const [w, moment, v] = [m.normal(5), m.normal(5), m.positive(5)]
    const [g, norm, ok, finite] = [m.normal(5), m.positive(1), m.integers([1], () => 1), m.integers([1], () => 1)]
    const options = { learningRate: 0.1, beta1: 0.8, beta2: 0.9, eps: 1e-3, weightDecay: 0.2, step: 3, maxNorm: 0.5 }
    const states = [0, 1].map(() => [w, moment, v].map((x) => ops.scale(x, 1)))
    const copies = states.map(([x]) => ops.castTo(ops.scale(x, 0), 'bf16'))
    ops.adamw({ w: states[0][0], m: states[0][1], v: states[0][2], copy: copies[0], finite, g, norm, ok }, options)
    raw('adamw', [...states[1], copies[1], finite, g, norm, ok], options)
    return states.map((state, i) => [...state, copies[i]])
  },
  adamwStochastic: (m) => {
    const [moment, v, key] = [m.normal(5), m.positive(5), m.integers([4], (i) => i)]
    const [g, norm, ok, finite] = [m.normal(5), m.positive(1), m.integers([1], () => 1), m.integers([1], () => 1)]
    const options = { learningRate: 0.1, beta1: 0.8, beta2: 0.9, eps: 1e-3, weightDecay: 0.2, step: 3, maxNorm: 0.5 }
    const states = [0, 1].map(() => [ops.castTo(moment, 'bf16'), ops.scale(moment, 1), ops.scale(v, 1)])
    ops.adamwStochastic({ w: states[0][0], m: states[0][1], v: states[0][2], finite, g, norm, ok, key }, options)
    raw('adamw_stochastic', [...states[1], finite, g, norm, ok, key], options)
    return states
  },
}

/** Every public function that has options, or that no other test calls. */
export function publicChecks(t: Test, device: Device): void {
  t.test('public functions pass on what they are given', async (t) => {
    for (const [name, work] of Object.entries(pairs)) {
      const scope = new Scope()
      const [got, want] = scope.run(() => work(makeOn(device)).map((side) => side.map((x) => x.bits())))
      scope.dispose()
      const [a, b] = [await Promise.all(got), await Promise.all(want)]
      t.equal(a.length, b.length, `${name}: number of results`)
      t.ok(
        a.every((bits, i) => sameBits(bits, b[i])),
        name,
      )
    }
  })
  t.test('allFinite and casts', async (t) => {
    const x = tensor(device, Float32Array.of(1, Number.NaN))
    const ok = tensor(device, Int32Array.of(1))
    ops.allFinite(ok, x)
    t.same(Array.from(await ok.data()), [0])
    t.throws(() => ops.castTo(x, 'i32'), { code: 'E_DTYPE', message: 'i32' })
    t.equal(ops.castTo(x, 'f32'), x, 'a cast to the same type is the tensor itself')
    for (const y of [x, ok]) y.dispose()
  })
}
