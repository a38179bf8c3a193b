// The head where one tile of tokens or words does not hold all: rows know nothing of those beside them, heads alone and in
// pairs agree. Called by ops.test.ts.

import type { Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import type { Device } from '../ts/src/native/device.js'
import { gatherRows, headKl, headLogProbs } from '../ts/src/ops/index.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { type Float, sameBits } from './ops-cases.js'
import { held, integers, random, read } from './ops-head.js'

/** Heads, and what their log-probs and their divergence give backward, for tokens [first, end) of one problem. */
async function piecesOf(device: Device, float: Float, [first, end]: readonly number[], words: number) {
  const of = (name: string) => [
    random(device, `${name}h`, [1100, 8], float),
    random(device, `${name}w`, [words, 8], float),
  ]
  const at = Array.from({ length: end - first }, (_, i) => first + i)
  const weights = at.map((i) => (i % 7 === 0 ? 0 : Math.sin(i)))
  return read(() => {
    const [[p, w], [q, qw]] = [of('p'), of('q')]
    const [h, qh] = [p, q].map((x) => gatherRows(x, integers(device, at)))
    const targets = integers(
      device,
      at.map((i) => (i * 5 + words - 1) % words),
    )
    const dlogps = tensor(device, Float32Array.from(weights))
    const backward = (work: () => readonly Tensor[]) => {
      const tape = new Tape()
      for (const x of [h, w]) tape.watch(x)
      tape.backward(tape.record(work).map((root) => [root, dlogps]))
      return { dh: held(tape.gradientOf(h)), dw: held(tape.gradientOf(w)) }
    }
    const options = { softcap: 5, temperature: 0.8 }
    const kl = () => headKl(h, w, qh, qw, targets, options)
    const plain = () => headLogProbs(h, w, targets, options)
    const [byPlain, byPair] = [plain, kl].map((work) => backward(() => [work().logps]))
    const byKl = backward(() => {
      const { logps, kl: divergence } = kl()
      return [logps, divergence]
    })
    const { logps, lse } = plain()
    const { logps: klLogps, lse: klLse, priorLse, kl: divergence } = kl()
    const { lse: qLse } = headLogProbs(qh, qw, targets, options)
    const own = { logps, lse, klLogps, klLse, priorLse, qLse, divergence }
    return { ...own, dh: byPlain.dh, dw: byPlain.dw, pairDh: byPair.dh, pairDw: byPair.dw, klDh: byKl.dh }
  })
}

const near = (a: Float32Array, b: Float32Array, most: number): boolean => a.every((x, i) => Math.abs(x - b[i]) <= most)

/** More tokens, then more words, than any tile has. */
async function tilesMeet(t: Test, device: Device): Promise<void> {
  for (const float of ['f32', 'bf16'] as const) {
    const [whole, last] = [
      await piecesOf(device, float, [0, 1100], 300),
      await piecesOf(device, float, [1008, 1100], 300),
    ]
    for (const name of ['logps', 'lse', 'priorLse', 'divergence', 'dh', 'pairDh', 'klDh'] as const) {
      const same = whole[name].subarray((whole[name].length / 1100) * 1008)
      t.ok(sameBits(same, last[name]), `${float}: ${name} of tokens behind the first tile`)
    }
    const wide = await piecesOf(device, float, [0, 3], 8700)
    for (const [got, text] of [
      [whole, 'tokens'],
      [wide, 'words'],
    ] as const) {
      t.ok(sameBits(got.logps, got.klLogps) && sameBits(got.lse, got.klLse), `${float}, many ${text}: one log-prob`)
      t.ok(sameBits(got.priorLse, got.qLse), `${float}, many ${text}: one log-sum-exp of the prior`)
      const most = float === 'f32' ? 1e-5 : 2e-2
      t.ok(near(got.dh, got.pairDh, most) && near(got.dw, got.pairDw, most), `${float}, many ${text}: one gradient`)
      for (const name of ['dh', 'pairDh', 'klDh'] as const)
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
