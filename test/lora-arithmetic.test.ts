// One LoRA projection against float64 and finite differences: with dropout and without, with DoRA and without.

import t from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import { getDevice } from '../ts/src/native/device.js'
import { type LoraConfig, loraConfig, loraLinear, scalingOf } from '../ts/src/nn/lora.js'
import { opEntries, zeros } from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { randomOf } from './support.js'

const device = getDevice()
const [n, c, o, r] = [5, 33, 12, 4]
const scaling = 1.5
const dropoutOptions = { probability: 0.4, site: 7 }

type Values = Readonly<Record<'x' | 'w' | 'a' | 'b' | 'm', Float64Array>>

const numbers = (name: string, size: number): Float64Array => {
  const source = randomOf(name)
  return Float64Array.from({ length: size }, () => Math.fround(source.normal()))
}

const values: Values = {
  x: numbers('x', n * c),
  w: numbers('w', o * c),
  a: numbers('a', r * c),
  b: numbers('b', o * r),
  m: numbers('m', o),
}
const keys = Int32Array.from({ length: 4 * n }, (_, i) => 11 * i - 20)

/** What dropout makes of x, by the op's own reference. */
function keptOf(x: Float64Array): Float64Array {
  const entry = opEntries.find(({ name }) => name === 'dropout')!
  const operands = { x: { shape: [n, c], data: x }, keys: { shape: [n, 4], data: Float64Array.from(keys) } }
  return entry.reference(operands, dropoutOptions)[0].data as Float64Array
}

/** rows x inner numbers times the transpose of columns x inner numbers. */
const times = (x: Float64Array, y: Float64Array, inner: number): Float64Array => {
  const columns = y.length / inner
  return Float64Array.from({ length: (x.length / inner) * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns]
    let sum = 0
    for (let k = 0; k < inner; k++) sum += x[row * inner + k] * y[column * inner + k]
    return sum
  })
}

/** Lengths of the rows of W + s B A. */
function normsOf({ w, a, b }: Values): Float64Array {
  const turned = Float64Array.from({ length: c * r }, (_, i) => a[(i % r) * c + Math.floor(i / r)])
  const v = times(b, turned, r).map((value, i) => w[i] + scaling * value)
  return Float64Array.from({ length: o }, (_, j) => Math.hypot(...v.subarray(j * c, (j + 1) * c)))
}

/** The product in float64: y = W x + s B A x', and with norms y = W x + (f - 1) W x' + f s B A x', f = m / norms. */
function reference({ x, w, a, b, m }: Values, drops: boolean, norms?: Float64Array): Float64Array {
  const kept = drops ? keptOf(x) : x
  const [plain, seen, delta] = [times(x, w, c), times(kept, w, c), times(times(kept, a, c), b, r)]
  return plain.map((value, i) => {
    const f = norms === undefined ? 1 : m[i % o] / norms[i % o]
    return value + (f - 1) * seen[i] + f * scaling * delta[i]
  })
}

/** Largest difference relative to the largest expected value. */
function off(got: ArrayLike<number>, want: Float64Array): number {
  const scale = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  return want.reduce((most, value, i) => Math.max(most, Math.abs(value - got[i])), 0) / scale
}

t.test('one projection against float64 and finite differences', async (t) => {
  const dy = numbers('dy', n * o)
  for (const [drops, dora] of [
    [false, false],
    [true, false],
    [false, true],
    [true, true],
  ]) {
    const what = `${drops ? 'dropout' : 'no dropout'}${dora ? ', DoRA' : ''}`
    const norms = dora ? normsOf(values) : undefined
    using scope = new Scope()
    const upload = (data: Float64Array, ...shape: number[]) => tensor(device, Float32Array.from(data), shape)
    const { y, gradients } = scope.run(() => {
      const [a, b, m] = [upload(values.a, r, c), upload(values.b, o, r), upload(values.m, o)]
      const [x, w] = [upload(values.x, n, c), upload(values.w, o, c)]
      const gradients: Record<string, Tensor> = {
        a: zeros(device, [r, c]),
        b: zeros(device, [o, r]),
        m: zeros(device, [o]),
      }
      const tape = new Tape(
        new Map([
          [a, gradients.a],
          [b, gradients.b],
          [m, gradients.m],
        ]),
      )
      tape.watch(x)
      const { probability, site } = dropoutOptions
      const module = { a, b, scaling, dropout: probability, site, magnitude: dora ? m : undefined }
      const y = tape.record(() => loraLinear(module, x, w, drops ? tensor(device, keys, [n, 4]) : undefined))
      tape.backward([[y, upload(dy, n, o)]])
      gradients.x = tape.gradientOf(x)!
      return { y, gradients }
    })
    t.ok(off(await y.data(), reference(values, drops, norms)) < 1e-6, `${what}: the product`)
    const loss = (v: Values) => reference(v, drops, norms).reduce((sum, value, i) => sum + value * dy[i], 0)
    for (const name of dora ? (['a', 'b', 'x', 'm'] as const) : (['a', 'b', 'x'] as const)) {
      // The norms count as constants, so the loss is linear in each: any step gives the derivative.
      const want = values[name].map((value, i) => {
        const at = (moved: number) => loss({ ...values, [name]: values[name].with(i, moved) })
        return at(value + 0.5) - at(value - 0.5)
      })
      t.ok(off(await gradients[name].data(), want) < 1e-6, `${what}: gradient of ${name}`)
    }
    gradients.x.release()
  }
})

t.test('the scale', async (t) => {
  const scale = (settings: Partial<LoraConfig>) =>
    scalingOf(loraConfig({ r: 16, loraAlpha: 24, ...settings }), 'q_proj')
  t.equal(scale({}), 24 / 16)
  t.equal(scale({ useRslora: true }), 24 / 4)
})
