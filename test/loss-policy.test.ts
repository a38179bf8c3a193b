// Policy gradients against TRL 1.13: the weights of VESPO (get_gamma_weights) with loss and gradient, and which tokens
// topEntropyQuantile keeps (get_high_entropy_mask); advantages of several reward functions. The numbers are TRL's, in float64.

import t from 'tap'
import { advantages as advantagesOf, normalizeThenSum, overBatch } from '../ts/loss/advantages.js'
import type { ObjectiveBatch } from '../ts/loss/define.js'
import { countStep, dapo, grpo, vespo } from '../ts/loss/index.js'

const logps = [
  [-0.102324587, -0.8602206802, -2.318744833, -0.5247810878, -2.266109615, -1.824751881],
  [-0.5961814508, -1.300246593, -1.214525833],
  [-1.341053317, -1.025873214, -2.910127391, -0.2611125659, -0.3446914184],
  [-2.847023109],
]
const old = [
  [0.3290495106, -0.722767161, -2.030814766, -0.1925338517, -2.062648064, -2.435385842],
  [-1.356633331, -1.200950462, -1.398722449],
  [-0.8984523563, -1.334896624, -2.517704713, 0.3080133666, -0.06314781159],
  [-27.84702311],
]
const entropy = [
  [1.012263339, 2.628265653, 0.04498539403, 3.997054686, 3.368576659, 0.9458218026],
  [0.5837602281, 0.7064514657, 2.509408008],
  [2.429029994, 2.011598923, 0.04525373516, 0.05478800326, 3.175328736],
  [2.579046413],
]
const advantages = [1.2, -0.7, 0.0, -2.0]

const trl = {
  phi: [1.0657030680914963, 0.8855561444345831, 0.6001396925134498, 0.0],
  loss: 0.5446996961630026,
  gradients: [
    [-0.08525624545, -0.08525624545, -0.08525624545, -0.08525624545, -0.08525624545, -0.08525624545],
    [0.04132595341, 0.04132595341, 0.04132595341],
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [0.0],
  ],
  kept: {
    '0': [[0, 0, 0, 1, 0, 0], [0, 0, 0], [0, 0, 0, 0, 0], [0]],
    '0.2': [[0, 0, 0, 1, 1, 0], [0, 0, 0], [0, 0, 0, 0, 1], [0]],
    '0.5': [[0, 1, 0, 1, 1, 0], [0, 0, 1], [1, 1, 0, 0, 1], [1]],
    '0.9': [[1, 1, 0, 1, 1, 1], [1, 1, 1], [1, 1, 0, 1, 1], [1]],
  },
}

/** Completions with their numbers; every one is an example. */
function batchOf(): ObjectiveBatch {
  const sequences = logps.map((own, example) => ({
    role: 'completion' as const,
    example,
    logps: Float64Array.from(own),
    old: Float64Array.from(old[example]),
    entropy: Float64Array.from(entropy[example]),
    scores: { advantage: advantages[example] },
  }))
  return { sequences, step: countStep(sequences.map((s) => ({ ...s, tokens: s.logps.length }))) }
}

const near = (got: number, wanted: number) => Math.abs(got - wanted) < 1e-9

t.test('vespo', async (t) => {
  const { loss, gradients, stats } = vespo().evaluate(batchOf())
  t.ok(near(loss, trl.loss), `${loss}`)
  gradients.forEach((gradient, s) => {
    gradient.logps?.forEach((value, i) => {
      t.ok(near(value, trl.gradients[s][i]), `sequence ${s}, token ${i}: ${value}`)
    })
  })
  const mean = trl.phi.reduce((sum, phi) => sum + phi, 0) / trl.phi.length
  const { sum, count } = stats['vespo/phi_seq_mean']
  t.ok(near(sum / count, mean))
  for (const setting of ['vespoKPos', 'vespoLambdaPos', 'vespoKNeg', 'vespoLambdaNeg'])
    t.not(vespo({ [setting]: 1.5 }).evaluate(batchOf()).loss, loss, setting)
  for (const settings of [{ importanceSamplingLevel: 'sequence' }, { importanceSamplingMode: 'tokenMask' }] as const)
    t.throws(() => vespo(settings), { code: 'E_CONFIG', message: /weights of whole sequences/ })
})

t.test('topEntropyQuantile', async (t) => {
  t.equal(grpo({ topEntropyQuantile: 0.5 }).needs.wholeStep, true, 'the bound is one of the whole step')
  t.not(grpo().needs.wholeStep, true)
  for (const [quantile, kept] of Object.entries(trl.kept)) {
    const { gradients } = dapo({ topEntropyQuantile: Number(quantile) }).evaluate(batchOf())
    const plain = dapo().evaluate(batchOf()).gradients
    gradients.forEach(({ logps: own }, s) => {
      const wanted = plain[s].logps?.map((value, i) => value * kept[s][i])
      t.same(own, wanted, `${quantile}, sequence ${s}: the tokens that TRL keeps`)
    })
  }
  const settings = { topEntropyQuantile: 0.5, entropyCoef: 0.1 }
  const bonus = dapo(settings).evaluate(batchOf()).gradients
  bonus.forEach(({ entropy: own }, s) => {
    t.same(
      own?.map(Math.sign),
      trl.kept['0.5'][s].map((kept) => -kept),
      'the bonus acts on them alone',
    )
  })
  t.throws(() => grpo({ topEntropyQuantile: 1.5 }), { code: 'E_CONFIG' })
})

/** TRL rounds n / (n - 1) to f32. */
const close = (got: readonly number[], wanted: readonly number[]) =>
  got.length === wanted.length && wanted.every((value, i) => Math.abs(got[i] - value) < 1e-7)

t.test('each reward normalised before the sum', async (t) => {
  const first = [
    [1, 0, 1],
    [0, 0, 1],
    [1, 1, 1],
  ]
  const second = [
    [0.2, 0.9, 0.4],
    [null, 3, null],
    [1, 2, 4],
  ]
  const functions = [
    { weight: 1, rows: first },
    { weight: 0.5, rows: second },
  ]
  const wanted = [
    [0.260083197, -0.967134779, 0.707051583],
    [-0.930535776, -0.930535776, 1.861071551],
    [-0.703494709, -0.175873677, 0.879368387],
  ]
  normalizeThenSum(functions).forEach((row, g) => {
    t.ok(close(row, wanted[g]), `group ${g}: ${row}`)
  })
})

t.test('advantages normalised over the batch', async (t) => {
  const clipped = [
    [1, 0, 2],
    [0, 2, -1],
  ]
  const [a, b] = overBatch(advantagesOf.rloo(clipped))
  t.ok(close([...a, ...b], [0, -0.865975389, 0.865975389, -0.288658463, 1.443292316, -1.154633853]), `${a}, ${b}`)
  t.same(overBatch([[3]]), [[3]], 'one alone has nothing to be compared with')
})
