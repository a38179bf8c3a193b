// The head where one tile of tokens or words does not hold all: rows know nothing of those beside them, heads alone and in
// pairs agree. Called by ops.test.ts.

import type { Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import type { Device } from '../ts/src/native/device.js'
import { gatherRows, headKl, headLogProbs } from '../ts/src/ops/index.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { type Float, sameBits } from './ops-cases.js'
import { held, integers, random, read } from './ops-head.js'

/** Results and gradients for tokens [first, end) of a problem: of one head, of two, where `byKl` tells what counts. */
async function piecesOf(device: Device, float: Float, [first, end]: readonly number[], words: number, byKl: boolean) {
  const [wholeH, wholeQh] = ['h', 'qh'].map((name) => () => random(device, name, [1100, 8], float))
  const at = Array.from({ length: end - first }, (_, i) => first + i)
  return read(() => {
    const [w, qw] = ['w', 'qw'].map((name) => random(device, name, [words, 8], float))
    const [h, qh] = [wholeH, wholeQh].map((whole) => gatherRows(whole(), integers(device, at)))
    const targets = at.map((i) => (i * 5 + words - 1) % words)
    const weights = tensor(
      device,
      Float32Array.from(at, (i) => (i % 7 === 0 ? 0 : Math.sin(i))),
    )
    const options = { softcap: 5, temperature: 0.8 }
    const gradients = <R>(work: () => R, roots: (results: R) => readonly Tensor[]) => {
      const tape = new Tape()
      for (const x of [h, w]) tape.watch(x)
      const results = tape.record(work)
      tape.backward(roots(results).map((root) => [root, weights]))
      return { results, dh: held(tape.gradientOf(h)), dw: held(tape.gradientOf(w)) }
    }
    const one = gradients(
      () => headLogProbs(h, w, integers(device, targets), options),
      ({ logps }) => [logps],
    )
    const two = gradients(
      () => headKl(h, w, qh, qw, integers(device, targets), options),
      ({ logps, kl }) => (byKl ? [logps, kl] : [logps]),
    )
    const prior = headLogProbs(qh, qw, integers(device, targets), options)
    const { logps: pairLogps, lse: pairLse, ...rest } = two.results
    const gradient = { dh: one.dh, dw: one.dw, pairDh: two.dh, pairDw: two.dw }
    return { ...one.results, pairLogps, pairLse, ...rest, ...gradient, qLse: prior.lse }
  })
}

const near = (a: Float32Array, b: Float32Array, most: number): boolean => a.every((x, i) => Math.abs(x - b[i]) <= most)

/** More tokens, then more words, than any tile has. */
async function tilesMeet(t: Test, device: Device): Promise<void> {
  for (const float of ['f32', 'bf16'] as const) {
    const whole = await piecesOf(device, float, [0, 1100], 140, true)
    const last = await piecesOf(device, float, [1008, 1100], 140, true)
    for (const name of ['logps', 'lse', 'priorLse', 'kl', 'dh', 'pairDh'] as const) {
      const same = whole[name].subarray((whole[name].length / 1100) * 1008)
      t.ok(sameBits(same, last[name]), `${float}: ${name} of tokens behind the first tile`)
    }
    const wide = await piecesOf(device, float, [0, 3], 8400, false)
    const most = float === 'f32' ? 1e-5 : 2e-2
    t.ok(near(wide.dh, wide.pairDh, most) && near(wide.dw, wide.pairDw, most), `${float}: gradients over many words`)
    for (const [got, text] of [
      [whole, 'tokens'],
      [wide, 'words'],
    ] as const) {
      const same = sameBits(got.logps, got.pairLogps) && sameBits(got.lse, got.pairLse)
      t.ok(same && sameBits(got.priorLse, got.qLse), `${float}, many ${text}: one head and two agree`)
      for (const name of ['dh', 'pairDh'] as const)
        t.ok(
          got[name].every((x, i) => Math.floor(i / 8) % 7 !== 0 || x === 0),
          `${float}, many ${text}: no weight, no ${name}`,
        )
    }
  }
}

/** The promises of the head over many tiles. */
export function headTileChecks(t: Test, device: Device): void {
  t.test('tiles of tokens and of words meet without a trace', (t) => tilesMeet(t, device))
}
