// THE step: bits that do not depend on how a step is cut, packed, threaded or recomputed; alignment of labels; clipping,
// decay and schedules against their formulas; memory. What a NaN does is in train-faults.test.ts.

import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import type { Objective } from '../ts/loss/define.js'
import { sft, superhf } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { bf16FromFloat } from '../ts/src/io/dtype.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice, openDevice } from '../ts/src/native/device.js'
import { disposeFlat, parameterGroups } from '../ts/src/nn/parameters.js'
import { microBatchOfRows } from '../ts/train/data/micro-batch.js'
import { type LrSchedulerType, learningRateAt } from '../ts/train/schedule.js'
import {
  createTrainer,
  disposeTrainer,
  evaluateLoss,
  gradientsOf,
  type Trainer,
  trainStep,
} from '../ts/train/trainer.js'
import { golden, liveBytes, randomIds, sameBytes, wordsOf } from './support.js'
import { toyDecoder } from './support-models.js'
import { adamw, disposeToy, split, stateHash, toyRows, toyTrainer, trainedHash } from './support-train.js'

const rows = [0, 1, 2].map((step) => toyRows(`step ${step}`, 8))
const cut = (...sizes: number[]) => rows.map((eight) => split(eight, sizes))
const variants = [true, false].flatMap((tied) => (['f32', 'bf16'] as const).map((dtype) => ({ tied, dtype })))

t.test('accumulation equals one big batch', async (t) => {
  const reference = toyDecoder(getDevice(), true, 'f32')
  const reference16 = toyDecoder(getDevice(), false, 'bf16')
  for (const { tied, dtype } of variants)
    for (const objective of [sft(), superhf({ kappa: 0.3 })]) {
      const options = { tied, dtype, objective, reference: dtype === 'f32' ? reference : reference16 }
      const whole = await trainedHash(options, cut(8))
      const name = `${objective.name} ${dtype} ${tied ? 'tied' : 'untied'}`
      t.equal(await trainedHash(options, cut(1, 1, 1, 1, 1, 1, 1, 1)), whole, `${name}: 8 x 1`)
      t.equal(await trainedHash(options, cut(3, 5)), whole, `${name}: 3 + 5`)
      t.not(await trainedHash(options, [...cut(8).slice(0, 2), cut(8)[0]]), whole, `${name}: other rows differ`)
    }
  for (const m of [reference, reference16]) disposeDecoder(m, disposeFlat)
})

t.test('threads and recomputation change no bit', async (t) => {
  for (const { tied, dtype } of variants) {
    const options = { tied, dtype }
    const expected = await trainedHash(options, cut(4, 4))
    const name = `${dtype} ${tied ? 'tied' : 'untied'}`
    t.equal(
      await trainedHash({ ...options, activationCheckpointing: true }, cut(4, 4)),
      expected,
      `${name}: recomputed`,
    )
    for (const threads of [1, 2, 3, 8]) {
      getDevice().threads = threads
      t.equal(await trainedHash(options, cut(4, 4)), expected, `${name}: ${threads} threads`)
    }
    getDevice().threads = 2
  }
})

t.test('a row alone or packed', async (t) => {
  for (const name of ['llama', 'mistral', 'qwen2', 'qwen3', 'smollm'])
    for (const dtype of ['f32', 'bf16'] as const) {
      using model = await loadModel(golden(name), { dtype })
      const sequences = [33, 2, 1, 64, 17, 31, 32, 90].map((length) => randomIds(`row ${length}`, length, 320))
      const packed = await model.logProbs(sequences)
      const alone = await Promise.all(sequences.map((ids) => model.logProbs(ids)))
      const turned = (await model.logProbs(sequences.toReversed())).toReversed()
      t.same(packed.map(wordsOf), alone.map(wordsOf), `${name} ${dtype}: log-probs alone`)
      t.same(turned.map(wordsOf), alone.map(wordsOf), `${name} ${dtype}: log-probs in another order`)
    }
  for (const { tied, dtype } of variants) {
    const trainer = toyTrainer({ tied, dtype })
    const all = microBatchOfRows(rows[0])
    // Row 3 alone, and row 3 among rows of weight 0 with the weight that undoes the larger count of tokens.
    const only = microBatchOfRows([rows[0][3]])
    const weights = Float32Array.from(all.rowOf, (row) => (row === 3 ? 1 : 0))
    const one = await gradientsOf({ ...trainer, objective: perToken(64) }, [only])
    const among = await gradientsOf({ ...trainer, objective: perToken(64) }, [{ ...all, weights }])
    // + 0: a sum that met zeros of both signs may end in another zero.
    const unlike = [...one.gradients].filter(
      ([name, g]) =>
        !sameBytes(
          g.map((x) => x + 0),
          among.gradients.get(name)?.map((x) => x + 0) ?? g.subarray(1),
        ),
    )
    t.same(
      unlike.map(([name]) => name),
      [],
      `${dtype} ${tied}: gradients of one row among others`,
    )
    disposeToy(trainer)
  }
})

/** -sum of weighted log-probs over a fixed number, whatever is in the batch. */
const perToken = (count: number) => ({
  ...sft(),
  evaluate: (batch: Parameters<ReturnType<typeof sft>['evaluate']>[0]) =>
    sft().evaluate({ ...batch, step: { ...batch.step, tokens: count } }),
})

t.test('bf16 trains f32 masters', async (t) => {
  const trainer = toyTrainer({ dtype: 'bf16', optimizer: { weightDecay: 0 } })
  const read = async () => {
    const { masters } = trainer.optimizer
    const pairs = parameterGroups.map((g) =>
      Promise.all([masters.flat[g].data(), trainer.policy.parameters.flat[g].bits()]),
    )
    return Promise.all(pairs)
  }
  const before = await read()
  const losses: number[] = []
  for (let k = 0; k < 20; k++) losses.push((await trainStep(trainer, cut(8)[0], 3e-3)).loss)
  const after = await read()
  t.ok(losses[19] < losses[0] - 0.5, `the loss falls: ${losses[0].toFixed(2)} -> ${losses[19].toFixed(2)}`)
  after.forEach(([masters, copies], g) => {
    t.ok(sameBytes(copies, Uint16Array.from(masters, bf16FromFloat)), 'weights are the rounded masters')
    t.notOk(sameBytes(masters, before[g][0]), 'masters moved')
  })
  // A rate far below bf16's resolution: copies stay, masters remember.
  for (let k = 0; k < 3; k++) await trainStep(trainer, cut(8)[0], 1e-6)
  const last = await read()
  const changed = (which: 0 | 1) => last[0][which].filter((x, i) => x !== after[0][which][i]).length
  t.ok(changed(1) < 0.02 * last[0][1].length, `${changed(1)} copies changed`)
  t.ok(changed(0) > 0.1 * last[0][0].length, `${changed(0)} masters changed`)
  disposeToy(trainer)
})

/** Mean negative log-likelihood of the marked tokens, from the logits that `model.logits` gives. */
async function lossByHand(trainer: Trainer, mark: (t: number, trained: Uint8Array) => boolean): Promise<number> {
  using model = await loadModel(golden('llama'))
  let sum = 0
  let count = 0
  for (const { ids, trained } of rows[0]) {
    const logits = await model.logits(ids)
    const { vocabSize } = trainer.policy.config
    for (let t = 1; t < ids.length; t++) {
      if (!mark(t, trained)) continue
      const row = Float64Array.from(logits.subarray((t - 1) * vocabSize, t * vocabSize))
      const top = row.reduce((most, z) => Math.max(most, z))
      sum -= row[ids[t]] - top - Math.log(row.reduce((total, z) => total + Math.exp(z - top), 0))
      count++
    }
  }
  return sum / count
}

t.test('labels and predictors', async (t) => {
  using model = await loadModel(golden('llama'))
  const optimizer = { adamBeta1: 0.9, adamBeta2: 0.99, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 }
  const trainer = createTrainer({ policy: model.decoder, objective: sft(), optimizer })
  const batch = microBatchOfRows(rows[0])
  const { loss } = await evaluateLoss(trainer, [batch])
  const byHand = await lossByHand(trainer, (t, trained) => trained[t] === 1)
  t.ok(Math.abs(loss - byHand) < 1e-5, `loss ${loss}, by hand ${byHand}`)
  const { loss: trained } = await gradientsOf(trainer, [batch])
  t.equal(trained, loss, 'training and evaluation agree')
  // What goes wrong by one shows.
  const late = await lossByHand(trainer, (t, mask) => mask[t - 1] === 1)
  const early = await lossByHand(trainer, (t, mask) => mask[t + 1] === 1)
  t.ok(Math.abs(late - loss) > 1e-2 && Math.abs(early - loss) > 1e-2, 'a mask shifted by one gives another loss')
  for (const by of [-1, 1]) {
    const predictors = batch.predictors.map((i) => Math.min(batch.packed.ids.length - 1, Math.max(0, i + by)))
    const shifted = await evaluateLoss(trainer, [{ ...batch, predictors }])
    t.ok(Math.abs(shifted.loss - loss) > 1e-3, 'predictors shifted by one give another loss')
  }
  t.throws(() => microBatchOfRows([{ ids: [1, 2, 3], trained: new Uint8Array(2) }]), { code: 'E_SHAPE' })
  const masked = rows[0].map(({ ids }) => ({ ids, trained: new Uint8Array(ids.length) }))
  await t.rejects(trainStep(trainer, [microBatchOfRows(masked)], 1e-3), { code: 'E_CONFIG', message: /trained token/ })
  await t.rejects(trainStep(trainer, [], 1e-3), { code: 'E_CONFIG' })
  const both = await gradientsOf(trainer, [microBatchOfRows(masked), batch])
  const plain = await gradientsOf(trainer, [batch])
  t.ok(isDeepStrictEqual(both, plain), 'a micro-batch without trained tokens adds nothing')
  disposeTrainer(trainer)
})

t.test('reference', async (t) => {
  using model = await loadModel(golden('llama'))
  using prior = await loadModel(golden('mistral'), { dtype: 'f32' })
  const batch = microBatchOfRows(rows[0])
  const seen: number[][] = []
  const objective: Objective = {
    ...sft(),
    needs: { rows: 'completion', reference: true },
    evaluate: (all) => {
      for (const { reference } of all.sequences) seen.push(Array.from(reference ?? []))
      return sft().evaluate(all)
    },
  }
  const trainer = createTrainer({ policy: model.decoder, reference: prior.decoder, objective, optimizer: adamw })
  await evaluateLoss(trainer, [batch])
  const exact = await prior.logProbs(rows[0].map(({ ids }) => ids))
  const trained = rows[0].map(({ trained }, row) => Array.from(exact[row]).filter((_, t) => t > 0 && trained[t] === 1))
  t.same(seen, trained, "an objective is given the reference's log-probs")
  for (const needy of [objective, superhf()]) {
    const alone = { ...trainer, objective: needy, reference: undefined }
    await t.rejects(evaluateLoss(alone, [batch]), { code: 'E_CONFIG', where: needy.name, message: /reference/ })
  }
  disposeTrainer(trainer)
})

t.test('clipping', async (t) => {
  const momentsAfter = async (maxGradNorm: number) => {
    const trainer = toyTrainer({ optimizer: { maxGradNorm } })
    const { gradients } = await gradientsOf(trainer, cut(8)[0])
    const { gradNorm } = await trainStep(trainer, cut(8)[0], 1e-3)
    const moments = await Promise.all([...trainer.optimizer.firstMoments.byName.values()].map((m) => m.data()))
    disposeToy(trainer)
    return { gradNorm, gradients: [...gradients.values()], moments }
  }
  for (const maxGradNorm of [0, 0.125, 1, 1e6]) {
    const { gradNorm, gradients, moments } = await momentsAfter(maxGradNorm)
    const norm = Math.sqrt(gradients.reduce((sum, g) => sum + g.reduce((part, x) => part + x * x, 0), 0))
    t.ok(Math.abs(gradNorm / norm - 1) < 1e-5, `norm before clipping ${gradNorm}`)
    const factor = maxGradNorm === 0 ? 1 : Math.min(1, maxGradNorm / (norm + 1e-6))
    let worst = 0
    moments.forEach((m, p) => {
      m.forEach((value, i) => {
        worst = Math.max(worst, Math.abs(value - 0.1 * factor * gradients[p][i]))
      })
    })
    t.ok(worst < 1e-6 * factor * norm, `first moments are 0.1 x ${factor.toFixed(4)} x gradient within ${worst}`)
  }
})

t.test('weight decay on matrices only', async (t) => {
  const silent = {
    ...sft(),
    evaluate: (batch: Parameters<ReturnType<typeof sft>['evaluate']>[0]) => {
      const { gradients, ...rest } = sft().evaluate(batch)
      return { ...rest, gradients: gradients.map(({ logps }) => ({ logps: logps.map(() => 0) })) }
    },
  }
  const trainer = toyTrainer({ objective: silent, optimizer: { weightDecay: 0.5 } })
  const { matrix, vector } = trainer.policy.parameters.flat
  const before = await Promise.all([matrix.data(), vector.data()])
  const { gradNorm } = await trainStep(trainer, cut(8)[0], 1e-2)
  t.equal(gradNorm, 0)
  const after = await Promise.all([matrix.data(), vector.data()])
  const shrunk = Float32Array.from(before[0], (w) => w * Math.fround(1 - 1e-2 * 0.5))
  t.ok(sameBytes(after[0], shrunk), 'matrices shrink by 1 - rate x decay')
  t.same(wordsOf(after[1]), wordsOf(before[1]), 'vectors stay')
  disposeToy(trainer)
})

t.test('schedules', async (t) => {
  // Transformers: get_constant_schedule_with_warmup, get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup.
  const formulas: Partial<Record<LrSchedulerType, (step: number, warmup: number, total: number) => number>> = {
    constant: () => 1,
    linear: (step, warmup, total) => Math.max(0, (total - step) / Math.max(1, total - warmup)),
    cosine: (step, warmup, total) => {
      const progress = (step - warmup) / Math.max(1, total - warmup)
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * 0.5 * 2 * progress)))
    },
  }
  for (const [type, formula] of Object.entries(formulas))
    for (const [warmupSteps, totalSteps] of [
      [0, 10],
      [3, 10],
      [10, 10],
      [1, 1],
      [0, 1],
      [200, 1000],
    ]) {
      const schedule = { learningRate: 3e-4, lrSchedulerType: type as LrSchedulerType, warmupSteps, totalSteps }
      const off = Array.from({ length: totalSteps }, (_, step) => {
        const wanted = step < warmupSteps ? step / Math.max(1, warmupSteps) : formula(step, warmupSteps, totalSteps)
        return Math.abs(learningRateAt(schedule, step) - 3e-4 * wanted)
      })
      t.ok(Math.max(...off) < 1e-18, `${type} ${warmupSteps} of ${totalSteps}`)
    }
  const schedule = { learningRate: 1, lrSchedulerType: 'linear' as const, warmupSteps: 2, totalSteps: 6 }
  t.same(
    [0, 1, 2, 3, 4, 5, 6, 7].map((k) => learningRateAt(schedule, k)),
    [0, 0.5, 1, 0.75, 0.5, 0.25, 0, 0],
  )
  for (const learningRate of [Number.NaN, -1, Number.POSITIVE_INFINITY])
    t.throws(() => learningRateAt({ ...schedule, learningRate }, 3), { code: 'E_CONFIG', where: 'learningRate' })
})

t.test('memory', async (t) => {
  const before = await liveBytes()
  const trainer = toyTrainer()
  await trainStep(trainer, cut(4, 4)[0], 1e-3)
  const early = await liveBytes()
  for (let k = 0; k < 30; k++) await trainStep(trainer, cut(4, 4)[k % 3], 1e-3)
  t.equal(await liveBytes(), early, 'a step leaves nothing behind')
  await evaluateLoss(trainer, cut(8)[0])
  t.equal(await liveBytes(), early, 'nor does an evaluation')
  disposeToy(trainer)
  t.equal(await liveBytes(), before, 'nor the trainer')

  await t.test('too little of it', async (t) => {
    const device = openDevice({ memoryLimitBytes: 5_000_000 })
    t.teardown(() => device.close())
    const small = toyTrainer({ device })
    await trainStep(small, cut(8)[0].slice(0, 1), 1e-3)
    const [hash, live] = [await stateHash(small), await liveBytes(device)]
    await t.rejects(trainStep(small, [microBatchOfRows(toyRows('large', 400))], 1e-3), { code: 'E_OOM' })
    t.equal(await stateHash(small), hash, 'no weight changed')
    t.equal(await liveBytes(device), live, 'memory comes back')
    const { applied } = await trainStep(small, split(rows[1], [8]), 1e-3)
    t.ok(applied, 'smaller work goes on')
    disposeToy(small)
  })

  await t.test('too little of it at any place of a step', async (t) => {
    const [first, large, next] = [[5], [40], [7]].map(([count]) => split(toyRows(`${count} rows`, count), [count]))
    const inBackward = new Set<boolean>()
    for (const activationCheckpointing of [false, true]) {
      let evaluations = 0
      const inner = sft()
      const evaluate: Objective['evaluate'] = (batch) => {
        evaluations++
        return inner.evaluate(batch)
      }
      const objective = { ...inner, evaluate }
      const options = { activationCheckpointing, objective }
      const steps = async (memoryLimitBytes: number) => {
        const device = openDevice({ memoryLimitBytes, threads: 1 })
        const trainer = toyTrainer({ ...options, device })
        await trainStep(trainer, first, 1e-2)
        const live = device.memory().liveBytes
        evaluations = 0
        device.resetPeak()
        const failed = await trainStep(trainer, large, 1e-2).then(
          () => '',
          (error) => error.code,
        )
        const peak = device.memory().peakBytes
        const computed = evaluations > 0
        await trainStep(trainer, next, 1e-2)
        const hash = await stateHash(trainer)
        disposeToy(trainer)
        device.close()
        return { live, failed, peak, computed, hash }
      }
      const whole = await steps(0)
      const without = await trainedHash(options, [first, next])
      for (let part = 0; part < 40; part++) {
        const limit = whole.peak - Math.round(((part + 0.5) / 40) * 0.6 * (whole.peak - whole.live))
        const { failed, computed, hash } = await steps(limit)
        const ends = { failed, hash }
        const expected = failed === '' ? { failed, hash: whole.hash } : { failed: 'E_OOM', hash: without }
        t.same(ends, expected, `${limit} bytes`)
        if (failed !== '') inBackward.add(computed)
      }
    }
    t.same([...inBackward].sort(), [false, true], 'it ended in forward and in backward')
  })
})
