// The head and the sampler where more is promised than closeness to a reference: one log-prob for sampler and trainer,
// a KL that vanishes against itself, draws with the right frequencies, and micro-batches that gather to the bits of
// one batch. Called by ops.test.ts.

import type { Test } from 'tap'
import { Tape } from '../ts/src/autograd/tape.js'
import type { Device } from '../ts/src/native/device.js'
import {
  add,
  castTo,
  gatherRows,
  glu,
  headKl,
  headLogProbs,
  headSample,
  linear,
  rmsNorm,
  type SampleOptions,
  zeros,
} from '../ts/src/ops/index.js'
import { adopt, Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'
import { emulated, type Float, generator, sameBits } from './ops-cases.js'

export const integers = (device: Device, values: readonly number[], shape = [values.length]): Tensor =>
  tensor(device, Int32Array.from(values), shape)

export function random(device: Device, seed: string, shape: readonly number[], float: Float = 'f32'): Tensor {
  const next = generator(seed)
  const size = shape.reduce((a, b) => a * b, 1)
  return castTo(
    tensor(
      device,
      Float32Array.from({ length: size }, () => 4 * next() - 2),
      shape,
    ),
    float,
  )
}

/** Runs work in a scope and waits for the tensors that it returns by name. */
export async function read<N extends string>(work: () => Record<N, Tensor>): Promise<Record<N, Float32Array>> {
  const scope = new Scope()
  const reads = scope.run(() =>
    Object.entries<Tensor>(work()).map(async ([name, x]) => [name, await x.data()] as const),
  )
  scope.dispose()
  return Object.fromEntries(await Promise.all(reads)) as Record<N, Float32Array>
}

export const keysFor = (device: Device, n: number, [low, high, stream]: readonly number[] = [1, 2, 3]): Tensor =>
  integers(device, Array.from({ length: n }, (_, i) => [low, high, stream, i]).flat(), [n, 4])

/** A gradient whose hold ends with the open scope. */
export function held(gradient: Tensor | undefined): Tensor {
  if (gradient === undefined) throw new Error('no gradient arrived')
  adopt({ dispose: () => gradient.release() })
  return gradient
}

// One log-prob --------------------------------------------------------------------------------------------------------

async function samplerEqualsTrainer(t: Test, device: Device): Promise<void> {
  for (const float of ['f32', 'bf16'] as const)
    for (const [softcap, temperature] of [
      [0, 1],
      [0, 0.6],
      [4, 1.7],
    ]) {
      const got = await read(() => {
        const [h, w] = [random(device, 'h', [40, 24], float), random(device, 'w', [1201, 24], float)]
        const { ids, logps, samplingLogps } = headSample(h, w, keysFor(device, 40), { temperature, softcap })
        const cut = headSample(h, w, keysFor(device, 40), { temperature, softcap, topK: 9, topP: 0.8 })
        const trained = headLogProbs(h, w, ids, { softcap }).logps
        const tempered = headLogProbs(h, w, ids, { softcap, temperature }).logps
        const trainedCut = headLogProbs(h, w, cut.ids, { softcap }).logps
        return { logps, samplingLogps, trained, tempered, cut: cut.logps, trainedCut }
      })
      const text = `${float}, softcap ${softcap}, temperature ${temperature}`
      t.ok(sameBits(got.logps, got.trained), `${text}: logps are those of headLogProbs`)
      t.ok(sameBits(got.samplingLogps, got.tempered), `${text}: samplingLogps are those of the tempered head`)
      t.ok(sameBits(got.cut, got.trainedCut), `${text}: truncation does not change logps`)
    }
}

async function klOfItselfVanishes(t: Test, device: Device): Promise<void> {
  for (const direction of ['priorToPolicy', 'policyToPrior', 'jensenShannon'] as const) {
    const got = await read(() => {
      const [h, w] = [random(device, 'h', [6, 20]), random(device, 'w', [300, 20])]
      const targets = integers(device, [0, 299, 17, 5, 1, 64])
      const tape = new Tape()
      tape.watch(h)
      const all = tape.record(() => headKl(h, w, h, w, targets, { direction }))
      tape.backward([[all.kl, all.kl]])
      const plain = headLogProbs(h, w, targets)
      return { ...all, plain: plain.logps, plainLse: plain.lse, dh: held(tape.gradientOf(h)) }
    })
    t.ok(
      got.kl.every((x) => Math.abs(x) < 1e-6),
      `${direction}: ${got.kl}`,
    )
    t.ok(
      got.dh.every((x) => Math.abs(x) < 1e-6),
      `${direction}: no gradient at the minimum`,
    )
    t.ok(sameBits(got.logps, got.plain), `${direction}: logps are those of headLogProbs`)
    t.ok(sameBits(got.lse, got.plainLse) && sameBits(got.priorLse, got.lse), `${direction}: lse too`)
  }
}

/** Above 0, below the entropy of the weights, and the same when heads and weights are swapped. */
async function mixtures(t: Test, device: Device): Promise<void> {
  const klOf = async (swap: boolean, options: Parameters<typeof headKl>[5]) => {
    const { kl } = await read(() => {
      const [p, q] = ['p', 'q'].map(
        (seed) => [random(device, `${seed}h`, [6, 8]), random(device, `${seed}w`, [1300, 8])] as const,
      )
      const [first, second] = swap ? [q, p] : [p, q]
      return { kl: headKl(...first, ...second, integers(device, [0, 1, 2, 3, 4, 5]), options).kl }
    })
    return kl
  }
  const b = 1 / 4
  const [direct, swapped] = await Promise.all([
    klOf(false, { direction: 'jensenShannon', mixture: b }),
    klOf(true, { direction: 'jensenShannon', mixture: 1 - b }),
  ])
  const most = -(b * Math.log(b) + (1 - b) * Math.log(1 - b))
  t.ok(
    direct.every((x, i) => x > 0 && x < most && Math.abs(x - swapped[i]) < 1e-6),
    `${direct}, swapped ${swapped}, at most ${most}`,
  )
  t.throws(() => klOfNothing(device, { mixture: 0.5 }), { code: 'E_CONFIG' }, 'a KL has no mixture')
  for (const mixture of [0, 1, -1, Number.NaN])
    t.throws(() => klOfNothing(device, { direction: 'jensenShannon', mixture }), { code: 'E_CONFIG' }, `${mixture}`)
  t.throws(() => klOfNothing(device, { direction: 'toString' as never }), { code: 'E_CONFIG' }, 'no such direction')
}

function klOfNothing(device: Device, options: Parameters<typeof headKl>[5]): void {
  const scope = new Scope()
  try {
    scope.run(() => {
      const [h, w] = [random(device, 'h', [1, 2]), random(device, 'w', [3, 2])]
      headKl(h, w, h, w, integers(device, [0]), options)
    })
  } finally {
    scope.dispose()
  }
}

// Frequencies ---------------------------------------------------------------------------------------------------------

const logits = [0.5, -1, 2, 2, 0, 1.1, -3, 0.5, 1.7, -0.4, 1]

/** Probabilities of a small vocabulary after truncation, computed plainly. */
function probabilities({ temperature, topK = 0, topP = 1, minP = 0 }: SampleOptions): number[] {
  const order = logits.map((_, v) => v).sort((a, b) => logits[b] - logits[a] || a - b)
  const weight = logits.map((z) => Math.exp(z / temperature))
  let kept = topK > 0 ? order.slice(0, topK) : order
  const mass = kept.reduce((sum, v) => sum + weight[v], 0)
  let running = 0
  kept = kept.filter((v) => {
    const before = running
    running += weight[v]
    return before < topP * mass
  })
  kept = kept.filter((v) => weight[v] >= minP * weight[order[0]])
  const total = kept.reduce((sum, v) => sum + weight[v], 0)
  return weight.map((x, v) => (kept.includes(v) ? x / total : 0))
}

async function frequencies(t: Test, device: Device): Promise<void> {
  const n = emulated ? 500 : 20_000
  const settings: readonly SampleOptions[] = [
    { temperature: 1 },
    { temperature: 0.5 },
    { temperature: 1, topK: 4 },
    { temperature: 1.5, topP: 0.7 },
    { temperature: 1, minP: 0.25 },
    { temperature: 2, topK: 8, topP: 0.9, minP: 0.3 },
    { temperature: 1, topK: 1 },
  ]
  for (const options of settings) {
    const { ids } = await read(() => {
      const h = tensor(device, new Float32Array(n).fill(1), [n, 1])
      const w = tensor(device, Float32Array.from(logits), [logits.length, 1])
      return { ids: headSample(h, w, keysFor(device, n), options).ids }
    })
    const want = probabilities(options)
    const seen = want.map((_, v) => ids.reduce((count, id) => count + (id === v ? 1 : 0), 0))
    const worst = want.map((p, v) => Math.abs(seen[v] - n * p) / Math.sqrt(n * p * (1 - p) + 1e-9))
    const text = `${JSON.stringify(options)}: ${seen}`
    t.ok(
      want.every((p, v) => p > 0 || seen[v] === 0),
      `${text}: nothing that was cut is drawn`,
    )
    t.ok(
      want.every((p, v) => p === 1 || p === 0 || worst[v] < 4.5),
      `${text}: off by ${Math.max(...worst)} deviations`,
    )
  }
}

async function keysDecide(t: Test, device: Device): Promise<void> {
  const draw = async (...key: number[]) => {
    const { ids } = await read(() => {
      const h = tensor(device, new Float32Array(64).fill(0), [64, 1])
      const w = tensor(device, new Float32Array(1000), [1000, 1])
      return { ids: headSample(h, w, keysFor(device, 64, key), { temperature: 1 }).ids }
    })
    return ids
  }
  const first = await draw(1, 2, 3)
  t.same(await draw(1, 2, 3), first, 'the same keys, the same tokens')
  for (const key of [
    [2, 2, 3],
    [1, 3, 3],
    [1, 2, 4],
  ])
    t.notSame(await draw(...key), first, `another key ${key}`)
  t.ok(new Set(first).size > 50, 'the index tells rows apart')
}

async function degenerateRows(t: Test, device: Device): Promise<void> {
  const { ids, logps, greedy } = await read(() => {
    const h = tensor(device, Float32Array.of(1, Number.NaN, Number.NEGATIVE_INFINITY, 0, 1), [5, 1])
    const w = tensor(device, Float32Array.of(3, 3, 1, 2), [4, 1])
    const drawn = headSample(h, w, keysFor(device, 5), { temperature: 1, topK: 1 })
    return { ids: drawn.ids, logps: drawn.logps, greedy: headSample(h, w, keysFor(device, 5), { temperature: 0 }).ids }
  })
  t.same(Array.from(ids), [0, -1, -1, 0, 0], 'equal logits: the first; NaN and all -inf: none')
  t.same(Array.from(greedy), [0, -1, -1, 0, 0])
  t.ok(Number.isNaN(logps[1]) && Number.isNaN(logps[2]))
  // 1e33 / 1e-6 is infinite, by the temperature or by the penalty.
  const penalty = { temperature: 1, repetitionPenalty: 1e-6 }
  for (const cut of [{}, { topK: 2 }, { topP: 0.9 }, { minP: 0.5 }, penalty, { ...penalty, topK: 2 }]) {
    const got = await read(() => {
      const [h, w] = [
        tensor(device, Float32Array.of(1, 1e-33), [2, 1]),
        tensor(device, Float32Array.of(1e33, 0, -1), [3, 1]),
      ]
      const seen = 'repetitionPenalty' in cut ? tensor(device, Int32Array.of(-1, 0, -1, 0), [2, 2]) : undefined
      const { ids, logps, samplingLogps } = headSample(h, w, keysFor(device, 2), { temperature: 1e-6, ...cut, seen })
      return { ids, logps, samplingLogps }
    })
    t.same(Array.from(got.ids), [-1, 0], `an infinite logit: none, ${JSON.stringify(cut)}`)
    t.ok(Number.isNaN(got.logps[0]) && Number.isNaN(got.samplingLogps[0]))
  }
}

// Contents and outputs that cannot be ---------------------------------------------------------------------------------

async function headRefusals(t: Test, device: Device): Promise<void> {
  const scope = new Scope()
  const bad = scope.run(() => {
    const [h, w] = [random(device, 'h', [2, 4]), random(device, 'w', [7, 4])]
    const tape = new Tape()
    tape.watch(h)
    const { lse } = tape.record(() => headLogProbs(h, w, integers(device, [0, 1])))
    t.throws(() => tape.backward([[lse, lse]]), { code: 'E_CONFIG', message: '[head_logprobs] lse' })
    tape.dispose()
    return [7, -1].map((target) => headLogProbs(h, w, integers(device, [3, target])).logps.data())
  })
  scope.dispose()
  await Promise.all(bad.map((read) => t.rejects(read, { where: 'head_logprobs', message: /targets\[1\]/ })))
  const outOfOrder = [
    [0, 7],
    [-2, 0],
    [1, 1],
    [2, 1],
    [0, -1],
  ]
  for (const ids of outOfOrder) {
    const draw = () => {
      const [h, w] = [random(device, 'h', [1, 4]), random(device, 'w', [7, 4])]
      const seen = tensor(device, Int32Array.from(ids), [1, 2])
      return { ids: headSample(h, w, keysFor(device, 1), { temperature: 1, repetitionPenalty: 2, seen }).ids }
    }
    await t.rejects(read(draw), { where: 'head_sample', message: /seen\[[01]\]/ }, `${ids}`)
  }
}

// Micro-batches -------------------------------------------------------------------------------------------------------

const sizes = { vocabulary: 50, channels: 16, hidden: 24, tokens: 37 }
const weightShapes = {
  table: [sizes.vocabulary, sizes.channels],
  gain: [sizes.channels],
  gate: [sizes.hidden, sizes.channels],
  up: [sizes.hidden, sizes.channels],
  down: [sizes.channels, sizes.hidden],
} as const

/** Log-probs of a one-block network with tied embeddings. */
function network(weights: Record<keyof typeof weightShapes, Tensor>, ids: Tensor, targets: Tensor): Tensor {
  const x = gatherRows(weights.table, ids)
  const h = rmsNorm(x, weights.gain, { eps: 1e-6 })
  const y = add(x, linear(glu(linear(h, weights.gate), linear(h, weights.up), 'silu'), weights.down))
  return headLogProbs(y, weights.table, targets, { softcap: 20 }).logps
}

/** Gradients of all weights after a backward per part of the tokens, in the given order of parts. */
async function gradientsOver(
  device: Device,
  float: Float,
  cuts: readonly number[],
): Promise<Record<string, Float32Array>> {
  return read(() => {
    const entries = Object.entries(weightShapes)
    const weights = Object.fromEntries(entries.map(([name, shape]) => [name, random(device, name, shape, float)]))
    const gradients = Object.fromEntries(entries.map(([name, shape]) => [name, zeros(device, [...shape])]))
    const leaves = new Map(entries.map(([name]) => [weights[name], gradients[name]]))
    cuts.slice(1).forEach((end, i) => {
      const at = Array.from({ length: end - cuts[i] }, (_, j) => cuts[i] + j)
      const [ids, targets] = [at.map((j) => (j * 7) % 50), at.map((j) => (j * 11) % 50)]
      const tape = new Tape(leaves)
      const logps = tape.record(() => network(weights as never, integers(device, ids), integers(device, targets)))
      tape.backward([
        [
          logps,
          tensor(
            device,
            Float32Array.from(at, (j) => Math.sin(j)),
          ),
        ],
      ])
    })
    return gradients
  })
}

/** A tied table gathers head gradients before embedding gradients, so its order of sums depends on the parts. */
async function microBatches(t: Test, device: Device): Promise<void> {
  for (const float of ['f32', 'bf16'] as const) {
    const whole = await gradientsOver(device, float, [0, sizes.tokens])
    // Some devices sum several bf16 tokens at once.
    const several = float === 'bf16' && device.tokenAlignment > 1
    for (const inner of several ? [[device.tokenAlignment]] : [[10], [1, 2]]) {
      const cuts = [0, ...inner, sizes.tokens]
      const parts = await gradientsOver(device, float, cuts)
      for (const [name, gradient] of Object.entries(whole)) {
        t.ok(
          gradient.some((x) => x !== 0),
          `${float}: ${name} has a gradient`,
        )
        if (name !== 'table') t.ok(sameBits(parts[name], gradient), `${float}, cut at ${cuts}: ${name}`)
        else
          t.ok(
            gradient.every((x, i) => Math.abs(x - parts[name][i]) < 1e-4),
            `${float}, cut at ${cuts}: ${name}`,
          )
      }
    }
  }
}

/** The promises of the head and the sampler that no single case can state. */
export function headChecks(t: Test, device: Device): void {
  for (const [title, check] of [
    ['the log-prob that the sampler saw is the log-prob that the trainer computes', samplerEqualsTrainer],
    ['a model has no KL to itself', klOfItselfVanishes],
    ['a mixture lies between its ends', mixtures],
    ['a draw is decided by its key', keysDecide],
    ['rows that cannot be sampled are flagged', degenerateRows],
    ['the head refuses what it cannot do', headRefusals],
    ['micro-batches gather to the bits of one batch', microBatches],
  ] as const)
    t.test(title, (t) => check(t, device))
}

export function drawChecks(t: Test, device: Device): void {
  t.test('tokens are drawn as often as their probability says', (t) => frequencies(t, device))
}
