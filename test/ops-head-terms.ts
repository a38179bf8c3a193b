// The head's statistics of the vocabulary where more is promised than closeness to a reference: the log-probs and their
// gradient are those of the plain head, the most probable token is known by its log-prob. Called by ops.test.ts.

import type { Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import type { Device } from '../ts/src/native/device.js'
import { headLogProbs, headSample, headTerms, zeros } from '../ts/src/ops/index.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { sameBits } from './ops-cases.js'
import { held, integers, keysFor, random, read } from './ops-head.js'

/** headTerms and its gradient, with an entropy that weighs nothing or none, are those of headLogProbs, bit for bit. */
async function termsEqualLogProbs(t: Test, device: Device): Promise<void> {
  for (const float of ['f32', 'bf16'] as const) {
    type Results = { logps: Tensor; lse: Tensor; entropy?: Tensor }
    const gradientOf = (work: (h: Tensor, w: Tensor, targets: Tensor) => Results, weighed = false) =>
      read(() => {
        const [h, w] = [random(device, 'h', [40, 24], float), random(device, 'w', [1201, 24], float)]
        const targets = integers(
          device,
          Array.from({ length: 40 }, (_, i) => 30 * i),
        )
        const tape = new Tape()
        for (const x of [h, w]) tape.watch(x)
        const { logps, lse, entropy } = tape.record(() => work(h, w, targets))
        const nothing = zeros(device, [40])
        tape.backward(
          weighed && entropy
            ? [
                [logps, logps],
                [entropy, nothing],
              ]
            : [[logps, logps]],
        )
        return { logps, lse, dh: held(tape.gradientOf(h)), dw: held(tape.gradientOf(w)) }
      })
    const options = { softcap: 4, temperature: 0.8 }
    const plain = await gradientOf((...operands) => headLogProbs(...operands, options))
    for (const weighed of [true, false]) {
      const terms = await gradientOf((...operands) => headTerms(...operands, options), weighed)
      for (const name of ['logps', 'lse', 'dh', 'dw'] as const)
        t.ok(sameBits(terms[name], plain[name]), `${float}, ${weighed}: ${name} has the bits of headLogProbs`)
    }
  }
}

/** The log-prob of the best token is topLogps, bit for bit; that of any other is less. */
async function topIsTheBest(t: Test, device: Device): Promise<void> {
  for (const float of ['f32', 'bf16'] as const) {
    const got = await read(() => {
      const [h, w] = [random(device, 'h', [40, 24], float), random(device, 'w', [1201, 24], float)]
      const best = headSample(h, w, keysFor(device, 40), { temperature: 0 }).ids
      const drawn = headSample(h, w, keysFor(device, 40), { temperature: 1 }).ids
      const [terms, others] = [headTerms(h, w, best), headTerms(h, w, drawn)]
      return { best: terms.logps, top: terms.topLogps, others: others.logps, ids: best, drawn }
    })
    t.ok(sameBits(got.best, got.top), `${float}: the best token's log-prob is topLogps`)
    const hits = got.others.map((logp, i) => Number(logp >= got.top[i]))
    t.same(
      hits,
      got.drawn.map((id, i) => Number(id === got.ids[i])),
      `${float}: others have less`,
    )
    t.ok(hits.includes(0) && hits.includes(1), `${float}: some draws are the best token, some are not`)
  }
}

/** Equal logits: everything is known exactly. One word: everything is 0. Dominant words: no NaN. */
async function termsAtTheEdges(t: Test, device: Device): Promise<void> {
  const termsOf = (logits: readonly number[]) =>
    read(() => {
      const w = tensor(device, Float32Array.from(logits), [logits.length, 1])
      const h = tensor(device, Float32Array.of(1), [1, 1])
      const { lse: _, ...terms } = headTerms(h, w, integers(device, [0]))
      return terms
    })
  const words = 2100
  const even = await termsOf(new Array<number>(words).fill(1000))
  const near = (got: number, want: number, text: string) =>
    t.ok(Math.abs(got - want) < 1e-6, `${text}: ${got}, ${want}`)
  near(even.entropy[0], Math.log(words), 'entropy of equal logits')
  near(even.meanLogps[0], -Math.log(words), 'mean of equal logits')
  near(even.logSquares[0], -Math.log(words), 'squares of equal logits')
  near(even.topLogps[0], -Math.log(words), 'top of equal logits')
  for (const values of Object.values(await termsOf([-7]))) t.equal(Math.abs(values[0]), 0, 'one word')
  const sharp = await termsOf([0, 1e4, -1e4])
  t.same(
    [sharp.entropy[0], sharp.meanLogps[0], sharp.logSquares[0], sharp.topLogps[0]],
    [0, -1e4, 0, 0],
    'one word dominates',
  )
}

export function headTermsChecks(t: Test, device: Device): void {
  for (const [title, check] of [
    ['statistics of the vocabulary leave log-probs and their gradient alone', termsEqualLogProbs],
    ['the most probable token is known by its log-prob', topIsTheBest],
    ['statistics of the vocabulary are right at the edges', termsAtTheEdges],
  ] as const)
    t.test(title, (t) => check(t, device))
}
