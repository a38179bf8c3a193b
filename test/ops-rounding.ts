// The optimizer's ops where more is promised than closeness to a reference. Stochastic rounding: the weight behind a step is
// one of the two bf16 around the f32 weight, each as often as its distance says, by bits that depend on nothing but key and
// place. The flag: it goes down for any number of the step that is NaN or infinite, wherever it lies. Called by ops.test.ts.

import type { Test } from 'tap'
import type { Device } from '../ts/src/native/device.js'
import { adamw, adamwStochastic, castTo } from '../ts/src/ops/index.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { type Float, fromBf16, sameBits } from './ops-cases.js'
import { integers, random, read } from './ops-head.js'

const size = 203
const options = { learningRate: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, step: 3, maxNorm: 0 }

/** What both ops read and change. Weights are bf16. */
function stateOf(device: Device) {
  const w = random(device, 'weights', [size], 'bf16')
  const [m, g] = ['moments', 'gradients'].map((name) => random(device, name, [size]))
  const v = tensor(device, new Float32Array(size).fill(0.7))
  return {
    w,
    m,
    v,
    g,
    norm: tensor(device, Float32Array.of(1)),
    ok: integers(device, [1]),
    finite: integers(device, [1]),
  }
}

/** The weights behind the step with a key, in bf16. */
function rounded(device: Device, key: readonly number[]): Tensor {
  const state = stateOf(device)
  adamwStochastic({ ...state, key: integers(device, key) }, options)
  return state.w
}

/** The weights behind the step in f32. */
function exact(device: Device): Tensor {
  const state = stateOf(device)
  const w = castTo(state.w, 'f32')
  adamw({ ...state, w }, options)
  return w
}

async function meanIsRight(t: Test, device: Device): Promise<void> {
  const draws = 400
  const { w } = await read(() => ({ w: exact(device) }))
  const sums = new Float64Array(size)
  for (let index = 0; index < draws; index++) {
    const got = await read(() => ({ w: rounded(device, [5, 6, 0, index]) }))
    for (let i = 0; i < size; i++) sums[i] += got.w[i]
  }
  const bits = new Int32Array(Float32Array.from(w).buffer)
  let [outside, worst] = [0, 0]
  bits.forEach((pattern, i) => {
    const [below, above] = [fromBf16(pattern >>> 16), fromBf16((pattern >>> 16) + 1)]
    const share = (w[i] - below) / (above - below)
    const found = (sums[i] / draws - below) / (above - below)
    if (found < -1e-9 || found > 1 + 1e-9) outside++
    worst = Math.max(worst, Math.abs(found - share))
  })
  t.equal(outside, 0, 'a weight becomes one of its two neighbours')
  // Five standard deviations of a fair coin.
  t.ok(worst < 2.5 / Math.sqrt(draws), `shares are off by up to ${worst}`)
}

const spoilt = 16_500

/** The flag behind a step in which element `at` of one operand is `value`. */
async function flagOf(device: Device, float: Float, operand: string, at: number, value: number, eps = 1e-8) {
  const got = await read(() => {
    const floats = (name: string, other: number) => {
      const values = new Float32Array(spoilt).fill(other)
      if (name === operand) values[at] = value
      return tensor(device, values)
    }
    const [m, v, g] = [floats('m', 0.1), floats('v', 0.2), floats('g', 0.3)]
    const w = castTo(floats('w', 1), float)
    const [finite, ok, key] = [integers(device, [1]), integers(device, [1]), integers(device, [1, 2, 3, 4])]
    const state = { m, v, finite, g, norm: tensor(device, Float32Array.of(1)), ok }
    if (float === 'bf16') adamwStochastic({ ...state, w, key }, { ...options, eps })
    else adamw({ ...state, w }, { ...options, eps })
    return { finite }
  })
  return got.finite[0]
}

/** The flag of both ops. */
export function finiteChecks(t: Test, device: Device): void {
  t.test('numbers that a step leaves are looked at', async (t) => {
    const largest = 3.4028234663852886e38
    for (const float of ['f32', 'bf16'] as const) {
      t.equal(await flagOf(device, float, 'w', 0, 0.5), 1, `${float}: all are finite`)
      t.equal(await flagOf(device, float, 'none', 0, 0, 0), 1, `${float}: what fills the last vector does not count`)
      for (const operand of ['w', 'm', 'v', 'g'])
        for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
          for (const at of [0, 37, spoilt - 1])
            t.equal(
              await flagOf(device, float, operand, at, value),
              0,
              `${float}: ${value} in ${operand}, element ${at}`,
            )
      t.equal(await flagOf(device, float, 'g', 7, 1e30), 0, `${float}: a square that f32 cannot hold`)
      t.equal(await flagOf(device, float, 'g', 7, 1e18), 1, `${float}: one that it can`)
    }
    t.equal(await flagOf(device, 'f32', 'w', 8, largest), 1, 'the largest number is finite')
  })
}

/** Checks of adamwStochastic on a device. */
export function roundingChecks(t: Test, device: Device): void {
  t.test('weights are rounded at random', async (t) => {
    await meanIsRight(t, device)
    const keys = [
      [1, 2, 3, 4],
      [1, 2, 3, 5],
      [1, 2, 4, 4],
      [1, 3, 3, 4],
      [2, 2, 3, 4],
    ]
    const of = (key: readonly number[]) => read(() => ({ w: rounded(device, key) }))
    const all = await Promise.all(keys.map(of))
    t.ok(sameBits((await of(keys[0])).w, all[0].w), 'the same key gives the same bits')
    all.slice(1).forEach(({ w }, i) => {
      t.notOk(sameBits(w, all[0].w), `word ${3 - i} of the key counts`)
    })
  })
}
