// Numbers that are not numbers: whatever is NaN or infinite, the step changes no byte of weights, masters and moments,
// and the error names the place. Also extremes that are numbers and must stay so.

import t, { type Test } from 'tap'
import type { Evaluation, Objective } from '../ts/loss/define.js'
import { sft, superhf } from '../ts/loss/index.js'
import { languageModel } from '../ts/src/generate/language-model.js'
import { bf16FromFloat } from '../ts/src/io/dtype.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat, type FlatTensors, parameter } from '../ts/src/nn/parameters.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import type { TrainEvent } from '../ts/train/events.js'
import { type Phase, runPhase } from '../ts/train/loop.js'
import { evaluateLoss, gradientsOf, type Trainer, trainStep } from '../ts/train/trainer.js'
import { golden, liveBytes } from './support.js'
import { toyDecoder } from './support-models.js'
import { disposeToy, split, stateHash, type ToyOptions, toyRows, toyTrainer } from './support-train.js'

const batches = split(toyRows('faults', 8), [4, 4])
const used = batches[0].packed.ids[3]
const unused = Array.from({ length: 61 }, (_, id) => id).find((id) => batches.every((b) => !b.packed.ids.includes(id)))
const tokenizer = await loadTokenizer(golden('smollm'))
const gate = 'model.layers.1.mlp.gate_proj.weight'
const embedding = 'model.embed_tokens.weight'
const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]

/** Sets one element of a parameter. */
async function poke(flat: FlatTensors, name: string, at: number, value: number): Promise<void> {
  const tensor = parameter(flat, name)
  const values = await tensor.bits()
  values[at] = tensor.dtype === 'bf16' ? bf16FromFloat(value) : value
  tensor.write(values)
}

/** A phase over the trainer that keeps no checkpoints. */
const phaseOf = (trainer: Trainer, more: Partial<Phase> = {}): Phase => ({
  name: 'toy',
  model: languageModel(trainer.policy, tokenizer, golden('smollm')),
  trainer,
  schedule: { learningRate: 1e-2, lrSchedulerType: 'constant', warmupSteps: 0, totalSteps: 2 },
  plan: async () => batches,
  fingerprint: {},
  saveSteps: 0,
  resume: false,
  emit: () => undefined,
  ...more,
})

/** SFT whose evaluation is changed, by the number of the call. */
function spoilt(change: (evaluation: Evaluation, call: number) => Evaluation): Objective {
  const inner = sft()
  let call = 0
  return { ...inner, evaluate: (batch) => change(inner.evaluate(batch), call++) }
}

/** Injects into a toy that has made a step; the next step must refuse, change nothing and name the place. */
async function refuses(
  t: Test,
  what: string,
  place: RegExp,
  inject: (trainer: Trainer) => Promise<void>,
  options: ToyOptions = {},
): Promise<void> {
  const trainer = toyTrainer(options)
  await trainStep(trainer, batches, 1e-2)
  await inject(trainer)
  const before = await stateHash(trainer)
  const { applied } = await trainStep(trainer, batches, 1e-2)
  t.notOk(applied, `${what}: not applied`)
  const error = { code: 'E_NONFINITE', where: 'step 1', message: place }
  await t.rejects(runPhase(phaseOf(trainer)), error, `${what}: named`)
  t.equal(await stateHash(trainer), before, `${what}: no byte changed`)
  t.equal(trainer.optimizer.updates, 1, `${what}: not counted`)
  disposeToy(trainer)
}

t.test('in a weight', async (t) => {
  t.type(unused, 'number', 'the rows leave a token out')
  const places: [string, number][] = [
    [gate, 0],
    [gate, 3000],
    [gate, 96 * 64 - 1],
    ['model.norm.weight', 63],
    [embedding, used * 64 + 5],
    [embedding, (unused ?? 0) * 64],
    ['lm_head.weight', 61 * 64 - 1],
  ]
  for (const [name, at] of places)
    for (const value of bad) {
      const place = new RegExp(`weight of ${name}, element ${at}; no weight was changed`)
      await refuses(t, `${value} in ${name}`, place, (trainer) => poke(trainer.optimizer.masters, name, at, value), {
        tied: false,
      })
    }
  for (const stochasticRounding of [false, true])
    await refuses(
      t,
      stochasticRounding ? 'a weight that is bf16 alone' : 'a master of bf16',
      /weight of model\.norm\.weight, element 7/,
      (trainer) => poke(trainer.optimizer.masters, 'model.norm.weight', 7, Number.NaN),
      { dtype: 'bf16', optimizer: { stochasticRounding } },
    )
})

t.test('in a moment', async (t) => {
  for (const value of bad)
    for (const [moments, what] of [
      ['firstMoments', 'first moment'],
      ['secondMoments', 'second moment'],
    ] as const)
      await refuses(t, `${value} in a ${what}`, new RegExp(`${what} of ${gate}, element 17`), (trainer) =>
        poke(trainer.optimizer[moments], gate, 17, value),
      )
})

t.test('from the objective', async (t) => {
  const none = async () => undefined
  const withGradient = (at: (size: number) => number, value: number) =>
    spoilt((evaluation, call) => {
      // The first step, of two micro-batches, is sound.
      if (call < 2) return evaluation
      const gradients = evaluation.gradients.map(({ logps }) => ({ logps: logps.slice() }))
      const { logps } = gradients[gradients.length - 1]
      logps[at(logps.length)] = value
      return { ...evaluation, gradients }
    })
  for (const value of bad) {
    for (const [where, at] of Object.entries({
      first: () => 0,
      middle: (n: number) => n >> 1,
      last: (n: number) => n - 1,
    }))
      await refuses(t, `${value} as ${where} gradient`, /gradient of model\./, none, {
        objective: withGradient(at, value),
      })
    const objective = spoilt((evaluation, call) => (call < 3 ? evaluation : { ...evaluation, loss: value }))
    await refuses(t, `${value} as loss`, /in the loss of the batch/, none, { objective })
  }
})

t.test('an objective that gives something else back', async (t) => {
  const cases: readonly [what: string, given: (evaluation: Evaluation) => unknown, code: string, message: RegExp][] = [
    [
      'a promise',
      async (e) => e,
      'E_CONFIG',
      /must not be async: expected \{ loss, gradients, stats \}, got a promise/,
    ],
    ['a promise that fails', async () => Promise.reject(new Error('late')), 'E_CONFIG', /must not be async/],
    ['nothing', () => undefined, 'E_CONFIG', /expected \{ loss, gradients, stats \}, got nothing/],
    ['no loss', ({ loss: _, ...e }) => e, 'E_CONFIG', /expected loss to be a number, got nothing/],
    ['no gradients', ({ gradients: _, ...e }) => e, 'E_CONFIG', /one entry per sequence, got nothing/],
    ['an empty list', (e) => ({ ...e, gradients: [] }), 'E_SHAPE', /expected 4 gradients, one per sequence, got 0/],
    ['one missing', (e) => ({ ...e, gradients: e.gradients.slice(1) }), 'E_SHAPE', /expected 4 gradients.* got 3/],
    ['one too many', (e) => ({ ...e, gradients: [...e.gradients, e.gradients[0]] }), 'E_SHAPE', /4 gradients.* got 5/],
    [
      'a hole',
      (e) => ({ ...e, gradients: [undefined, ...e.gradients.slice(1)] }),
      'E_CONFIG',
      /gradients\[0\].* nothing/,
    ],
    [
      'numbers that are too few',
      (e) => ({ ...e, gradients: e.gradients.map(({ logps }) => ({ logps: logps.slice(1) })) }),
      'E_SHAPE',
      /gradients\[0\] of the completion sequence: expected logps of length (\d+), 1 for each trained token, got length \d+/,
    ],
    [
      'numbers that are too many, at the end',
      (e) => ({ ...e, gradients: e.gradients.map(({ logps }, i) => ({ logps: i < 3 ? logps : [...logps, 0] })) }),
      'E_SHAPE',
      /gradients\[3\]/,
    ],
    [
      'no log-probs',
      (e) => ({ ...e, gradients: e.gradients.map(() => ({})) }),
      'E_SHAPE',
      /expected logps of length \d+.*, got nothing/,
    ],
    [
      'a term that was not asked for',
      (e) => ({ ...e, gradients: e.gradients.map(({ logps }) => ({ logps, entropy: logps })) }),
      'E_SHAPE',
      /expected logps, which the objective needs, got entropy/,
    ],
    ['no stats', ({ stats: _, ...e }) => e, 'E_CONFIG', /expected stats to be an object, .* got nothing/],
    [
      'a plain stat',
      (e) => ({ ...e, stats: { x: 1 } }),
      'E_CONFIG',
      /stats\.x to be \{ sum, count \}, got the number 1/,
    ],
  ]
  for (const [what, given, code, message] of cases) {
    const trainer = toyTrainer({ objective: spoilt((evaluation) => given(evaluation) as Evaluation) })
    const before = await stateHash(trainer)
    await t.rejects(trainStep(trainer, batches, 1e-2), { code, where: 'sft.v1: evaluate', message }, what)
    await t.rejects(evaluateLoss(trainer, [batches[0]]), { code, message }, `${what}, held out`)
    t.equal(await stateHash(trainer), before, `${what}: no byte changed`)
    disposeToy(trainer)
  }
  const plain = toyTrainer({
    objective: spoilt((e) => ({ ...e, gradients: e.gradients.map((g) => ({ logps: [...g.logps] as never })) })),
  })
  const typed = toyTrainer()
  for (const trainer of [plain, typed]) await trainStep(trainer, batches, 1e-2)
  t.equal(await stateHash(plain), await stateHash(typed), 'plain lists of numbers are gradients as well')
  for (const trainer of [plain, typed]) disposeToy(trainer)
})

t.test('as learning rate', async (t) => {
  const trainer = toyTrainer()
  await trainStep(trainer, batches, 1e-2)
  const [before, live] = [await stateHash(trainer), await liveBytes()]
  for (const rate of [...bad, -1e-3]) {
    await t.rejects(trainStep(trainer, batches, rate), { code: 'E_CONFIG', message: /learningRate/ }, `${rate}`)
    const schedule = { learningRate: rate, lrSchedulerType: 'constant', warmupSteps: 0, totalSteps: 2 } as const
    await t.rejects(runPhase(phaseOf(trainer, { schedule })), { code: 'E_CONFIG', message: /learningRate/ })
  }
  t.equal(await stateHash(trainer), before, 'no byte changed')
  t.equal(await liveBytes(), live, 'nothing left behind')
  disposeToy(trainer)
})

t.test('skipping', async (t) => {
  const steps = 6
  /** Losses of the calls (two per step) in `broken` are NaN. */
  const run = async (broken: readonly number[]) => {
    const objective = spoilt((e, call) => (broken.includes(call >> 1) ? { ...e, loss: Number.NaN } : e))
    const trainer = toyTrainer({ objective })
    const events: TrainEvent[] = []
    const schedule = { learningRate: 1e-2, lrSchedulerType: 'constant', warmupSteps: 0, totalSteps: steps } as const
    const phase = phaseOf(trainer, { schedule, nonFinite: 'skip', emit: (event) => events.push(event) })
    try {
      const { step } = await runPhase(phase)
      return { step, hash: await stateHash(trainer), updates: trainer.optimizer.updates, events }
    } finally {
      disposeToy(trainer)
    }
  }
  // A broken micro-batch ends its step: calls 2 and 3 are the only ones of steps 2 and 3.
  const three = await run([1])
  t.match(three, { step: steps, updates: steps - 2 }, 'two skipped')
  t.equal(three.events.filter(({ type }) => type === 'warning').length, 2, 'and said')
  const clean = toyTrainer()
  for (let k = 0; k < steps - 2; k++) await trainStep(clean, batches, 1e-2)
  t.equal(three.hash, await stateHash(clean), 'as if they had not been')
  disposeToy(clean)
  await t.rejects(run([1, 2]), { code: 'E_NONFINITE', where: 'step 5', message: /loss/ }, 'a fourth in a row stops')
})

t.test('extremes that are numbers', async (t) => {
  for (const objective of [sft(), superhf()])
    for (const factor of [1e-30, 1e3, 3e4]) {
      const reference = toyDecoder(getDevice())
      const trainer = toyTrainer({ objective, reference })
      const norm = parameter(trainer.policy.parameters, 'model.norm.weight')
      norm.write((await norm.data()).map((w) => w * factor))
      const { loss, gradients } = await gradientsOf(trainer, batches)
      const worst = Math.max(...[...gradients.values()].map((g) => g.reduce((m, x) => Math.max(m, Math.abs(x)), 0)))
      t.ok(
        Number.isFinite(loss) && Number.isFinite(worst),
        `${objective.name} x ${factor}: loss ${loss.toPrecision(4)}`,
      )
      const { applied } = await trainStep(trainer, batches, 1e-4)
      t.ok(applied, 'the step is taken')
      disposeToy(trainer)
      disposeDecoder(reference, disposeFlat)
    }
})

const enlarged = (e: Evaluation, factor: number): Evaluation => ({
  ...e,
  gradients: e.gradients.map(({ logps }) => ({ logps: logps.map((g) => g * factor) })),
})

t.test('gradients whose squares f32 cannot hold', async (t) => {
  for (const factor of [1e-30, 1e22, 1e32]) {
    const trainer = toyTrainer({ objective: spoilt((e) => enlarged(e, factor)), optimizer: { maxGradNorm: 1 } })
    const { applied, gradNorm } = await trainStep(trainer, batches, 1e-2)
    t.ok(applied && Number.isFinite(gradNorm), `x ${factor}: clipped, norm ${gradNorm.toExponential(2)}`)
    t.ok(gradNorm > factor * 1e-3, 'which does not vanish either')
    t.ok((await trainStep(trainer, batches, 1e-2)).applied, 'no moment was spoilt')
    disposeToy(trainer)
  }
  for (const maxGradNorm of [0, 1e25])
    await refuses(t, `clipped to ${maxGradNorm}`, /norm of the gradients/, async () => undefined, {
      objective: spoilt((e, call) => (call < batches.length ? e : enlarged(e, 1e32))),
      optimizer: { maxGradNorm },
    })
})
