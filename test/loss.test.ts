// How every objective behaves: gradients are those of the value, shares of a step add up, odd inputs stay finite, bad
// settings and batches are refused with a code and a place. Values are in loss-vectors.test.ts and the golden losses.

import t from 'tap'
import type { Evaluation, SequenceTerms, Term } from '../ts/loss/define.js'
import {
  bco,
  dpo,
  grpo,
  kto,
  listwiseReward,
  maskSequence,
  objectives,
  ppo,
  reward,
  score,
  sft,
  superhf,
} from '../ts/loss/index.js'
import { errorCodes, WhetstoneError } from '../ts/src/base/errors.js'
import { make, type RawSequence, runStep, sequenceOf } from './golden-judges/losses-run.js'
import { allVariants, countsOf, extreme, required, type ToyStep, toyStep, type Variant } from './loss-toys.js'

const terms = ['logps', 'kl', 'entropy', 'meanLogps', 'values'] as const satisfies readonly Term[]

/**
 * Objectives with factors that are held fixed in the gradient, so that it is not that of the value: probabilities (dft,
 * WPO), ratios (cispo, vespo), drift (nashMd), the reference points of KTO and BCO, the value of k3+ and the mask of old samples.
 */
const heldFixed = [
  'sft dft',
  'dpo useWeighting',
  'dpo useWeighting with sft',
  'cispo',
  'vespo',
  'nashMd',
  'kto',
  'bco',
  'ppo k3StraightThrough',
]

const changed = (sequences: readonly SequenceTerms[], i: number, term: Term, t: number, by: number): SequenceTerms[] =>
  sequences.map((own, k) => {
    if (k !== i) return own
    const values = Float64Array.from(own[term] ?? [])
    values[t] += by
    return { ...own, [term]: values }
  })

/** Largest error of the gradients against central differences, relative to 1 + |gradient|. */
function gradientError({ objective }: Variant, { sequences, step }: ToyStep): number {
  const h = 1e-5
  const loss = (changedSequences: readonly SequenceTerms[]) =>
    objective.evaluate({ sequences: changedSequences, step }).loss
  let worst = 0
  objective.evaluate({ sequences, step }).gradients.forEach((gradients, i) => {
    for (const term of terms)
      gradients[term]?.forEach((gradient, t) => {
        if (term === 'logps' && objective.needs.values !== undefined) return
        const rise = loss(changed(sequences, i, term, t, h)) - loss(changed(sequences, i, term, t, -h))
        worst = Math.max(worst, Math.abs(rise / (2 * h) - gradient) / (1 + Math.abs(gradient)))
      })
  })
  return worst
}

t.test('gradients are those of the value', (t) => {
  for (const variant of allVariants) {
    if (heldFixed.includes(variant.name)) continue
    const error = gradientError(variant, toyStep(variant))
    t.ok(error < 1e-6, `${variant.name}: ${error.toExponential(2)}`)
  }
  const names = allVariants.map(({ name }) => name)
  t.same(
    heldFixed.filter((name) => !names.includes(name)),
    [],
    'the exceptions exist',
  )
  t.end()
})

t.test('gradients come for every term that is used, and no other', (t) => {
  for (const { name, objective } of allVariants) {
    const { sequences, step } = toyStep({ name, objective })
    const { kl, terms: more = [], values } = objective.needs
    const used = ['logps', ...(kl === undefined ? [] : ['kl']), ...more, ...(values === undefined ? [] : ['values'])]
    const { gradients } = objective.evaluate({ sequences, step })
    t.ok(
      gradients.every((own) => Object.keys(own).sort().join() === [...used].sort().join()),
      name,
    )
    const besides = used.filter((term) => term !== 'logps').map((term) => gradients.map((own) => own[term as Term]))
    t.ok(
      besides.every((parts) => parts.some((own) => own?.some((g) => g !== 0))),
      `${name}: none is idle`,
    )
  }
  t.end()
})

/** Each example as a micro-batch of its own. */
function inParts({ objective }: Variant, { sequences, step }: ToyStep): Evaluation[] {
  const numbers = [...new Set(sequences.map(({ example }) => example))]
  return numbers.map((number) =>
    objective.evaluate({ sequences: sequences.filter(({ example }) => example === number), step }),
  )
}

const closeTo = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-12 * (1 + Math.abs(b))

t.test('shares of a step add up to the step', (t) => {
  for (const variant of allVariants.filter(({ objective }) => objective.needs.wholeStep !== true)) {
    const toy = toyStep(variant)
    const whole = variant.objective.evaluate(toy)
    const parts = inParts(variant, toy)
    const loss = parts.reduce((all, part) => all + part.loss, 0)
    t.ok(closeTo(loss, whole.loss), `${variant.name}: ${loss} is ${whole.loss}`)
    const flat = (evaluations: readonly Evaluation[]) =>
      evaluations.flatMap(({ gradients }) =>
        gradients.flatMap((own) => terms.flatMap((term) => Array.from(own[term] ?? []))),
      )
    const [own, all] = [flat(parts), flat([whole])]
    t.ok(own.length === all.length && own.every((g, i) => closeTo(g, all[i])), `${variant.name}: gradients`)
    for (const [name, { sum, count }] of Object.entries(whole.stats)) {
      const total = parts.reduce(
        (so, { stats }) => ({ sum: so.sum + stats[name].sum, count: so.count + stats[name].count }),
        { sum: 0, count: 0 },
      )
      t.ok(closeTo(total.sum, sum) && total.count === count, `${variant.name}: ${name}`)
    }
  }
  t.end()
})

t.test('losses of a whole step refuse a part of it', (t) => {
  const whole = allVariants.filter(({ objective }) => objective.needs.wholeStep === true)
  t.same(
    whole.map(({ name }) => name),
    [
      'superhf inverseLoss',
      'dpo lossType: aot',
      'dpo lossType: aotUnpaired',
      'dpo useWeighting with sft',
      'kto',
      'bco',
    ],
  )
  for (const variant of whole)
    t.throws(() => inParts(variant, toyStep(variant)), { code: 'E_CONFIG', message: /4/ }, variant.name)
  t.end()
})

t.test('values per example have the mean that the loss is', (t) => {
  let seen = 0
  for (const { name, objective } of allVariants) {
    const { loss, perExample } = objective.evaluate(toyStep({ name, objective }))
    if (perExample?.loss === undefined) continue
    seen++
    const mean = perExample.loss.reduce((all, x) => all + x, 0) / perExample.loss.length
    t.ok(closeTo(mean, loss), `${name}: ${mean} is ${loss}`)
  }
  t.ok(seen > 40, `${seen} objectives have them`)
  t.end()
})

t.test('extreme log-probs give finite numbers', (t) => {
  for (const variant of allVariants) {
    const { loss, gradients, stats } = variant.objective.evaluate(toyStep(variant, 8, extreme))
    const numbers = gradients.flatMap((own) => terms.flatMap((term) => Array.from(own[term] ?? [])))
    const finite = [loss, ...numbers, ...Object.values(stats).map(({ sum }) => sum)].every(Number.isFinite)
    t.ok(finite, `${variant.name}: ${loss}`)
  }
  t.end()
})

t.test('a policy that equals its reference', (t) => {
  const side = (role: 'chosen' | 'rejected', example: number, logps: readonly number[]): RawSequence => ({
    role,
    example,
    logps,
    reference: logps,
  })
  for (const beta of [0.1, 0.01, 5]) {
    const run = runStep(dpo({ beta }), [
      ...[side('chosen', 0, [-0.3, -1.7]), side('rejected', 0, [-2.2])],
      ...[side('chosen', 1, [-41]), side('rejected', 1, [-1e-9, -0.4])],
    ])
    t.equal(run.loss, Math.LN2, 'exactly ln 2')
    t.same(run.of('chosen')[0], [-beta / 4, -beta / 4], 'half of beta, over two pairs')
    t.same(run.of('rejected')[0], [beta / 4])
  }
  t.end()
})

t.test('a mask that is shifted by one', (t) => {
  const logps = [-1, -2, -3, -4, -5]
  const labels = { role: 'completion', example: 0 } as const
  const right = [0, 0, 0, 1, 1, 1]
  t.same(maskSequence(right, { logps }, labels).logps, Float64Array.of(-3, -4, -5))
  const shifted = [0, 0, 1, 1, 1]
  t.throws(
    () => maskSequence(shifted, { logps }, labels),
    { code: 'E_SHAPE', message: /none scores the first/ },
    'made for predictions',
  )
  t.throws(() => maskSequence([1, 1, 1, 0, 0, 0], { logps }, labels), { code: 'E_SHAPE', message: /shifted by one/ })
  t.throws(() => maskSequence([0, 0, 0.5, 1, 1, 1], { logps }, labels), { code: 'E_SHAPE', message: /0 and 1/ })
  const loss = (mask: readonly number[]): number => {
    const own = maskSequence(mask, { logps }, labels)
    return sft().evaluate({ sequences: [own], step: countsOf([own]) }).loss
  }
  t.equal(loss(right), 4)
  t.not(loss([0, 0, 1, 1, 1, 0]), 4, 'one early')
  const kl = maskSequence(right, { logps, kl: [0, 0, 7, 8, 9] }, labels)
  t.same(kl.kl, Float64Array.of(7, 8, 9), 'one mask for all numbers: the KL of the first trained token is there')
  t.end()
})

t.test('turns of a conversation have advantages and KL weights of their own', (t) => {
  const turns: RawSequence = {
    role: 'completion',
    example: 0,
    logps: [-1, -2, -0.5],
    reference: [-1.5, -1, -0.5],
    advantages: [0, 0, 3],
    klWeights: [10, 10, 1],
  }
  const run = runStep(score(), [turns])
  const expected = [0.01 * 10 * 0.5, -0.01 * 10, -3]
  t.ok(
    run.of('completion')[0].every((g, i) => closeTo(g, expected[i])),
    'the first turn is held, the second one rewarded',
  )
  t.end()
})

t.test('BCO looks back', (t) => {
  const variant = { name: 'bco', objective: bco() }
  const { sequences, step } = toyStep(variant)
  const before = { logRatio: { sum: 30, count: 10 } }
  const { stats } = bco().evaluate({ sequences, step, history: before })
  t.equal(stats.delta.sum, (0.1 * (30 + stats.logRatio.sum)) / 14)
  t.end()
})

// Refusals -------------------------------------------------------------------------------------------------------------

const badSettings: readonly (readonly [objective: string, settings: object, where: string, message: RegExp])[] = [
  ['dpo', { beta: 0 }, 'dpo.beta', /got 0/],
  ['dpo', { beta: Number.NaN }, 'dpo.beta', /number/],
  ['dpo', { lossType: 'dpo' }, 'dpo.lossType', /expected one of "sigmoid".*got "dpo"/],
  [
    'dpo',
    { lossType: 'sigmod' },
    'dpo.lossType',
    /expected one of "sigmoid"\|"sigmoidNorm"\|.*, or array, got "sigmod"/,
  ],
  ['dpo', { beta: Number.NaN }, 'dpo.beta', /expected number, got NaN/],
  [
    'dpo',
    { losstype: 'ipo' },
    'dpo.losstype',
    /unknown option; expected one of beta, lossType.*did you mean 'lossType'/,
  ],
  ['dpo', { lossType: ['sigmoid', 'sft'], lossWeights: [1] }, 'dpo.lossWeights', /expected 2 weights.*got 1/],
  ['dpo', { lossType: 'exoPair' }, 'dpo.labelSmoothing', /more than 0/],
  ['dpo', { lossType: 'aot', useWeighting: true }, 'dpo.useWeighting', /aot/],
  ['dpo', { lossType: 'ncaPair', fDivergenceType: 'forwardKl' }, 'dpo.fDivergenceType', /ncaPair has no f-divergence/],
  ['dpo', { labelSmoothing: 0.5 }, 'dpo.labelSmoothing', /0.5/],
  ['sft', { lossType: 'dft', labelSmoothing: 0.1 }, 'sft.labelSmoothing', /dft/],
  ['superhf', { kappa: -1 }, 'superhf.kappa', /got -1/],
  ['srpo', { alpha: 1.5 }, 'srpo.alpha', /got 1.5/],
  ['gkd', { beta: 2 }, 'gkd.beta', /got 2/],
  ['drGrpo', {}, 'drGrpo.maxCompletionLength', /got nothing/],
  ['gmpo', { epsilon: '0.2' }, 'gmpo.epsilon', /number/],
  ['logRatio', { terms: [] }, 'logRatio.terms', /got \[\]/],
  ['logRatio', { terms: [{ role: 'left', coefficient: 1 }] }, 'logRatio.terms.0.role', /left/],
  ['pairReward', { beta: 1 }, 'pairReward.beta', /unknown option/],
]

t.test('bad settings', (t) => {
  for (const [name, settings, where, message] of badSettings)
    t.throws(
      () => make(objectives[name], settings),
      { code: 'E_CONFIG', where, message },
      `${name} ${JSON.stringify(settings)}`,
    )
  t.throws(() => make(objectives.dpo, null as unknown as object), { code: 'E_CONFIG' }, 'null')
  t.end()
})

const own: RawSequence = {
  role: 'completion',
  example: 3,
  logps: [-1, -2],
  reference: [-1, -2],
  scores: { advantage: 1 },
}
const left: RawSequence = { ...own, role: 'chosen', example: 3 }
const right: RawSequence = { ...own, role: 'rejected', example: 3 }

const badBatches: readonly (readonly [what: string, run: () => unknown, code: string, message: RegExp])[] = [
  [
    'no reference',
    () => runStep(dpo(), [left, { ...right, reference: undefined }]),
    'E_SHAPE',
    /example 3.*'reference' of the rejected.*got nothing/,
  ],
  [
    'a short reference',
    () => runStep(dpo(), [left, { ...right, reference: [-1] }]),
    'E_SHAPE',
    /each of its 2 trained tokens, got 1/,
  ],
  ['one side', () => runStep(dpo(), [left]), 'E_SHAPE', /expected a rejected sequence, got chosen alone/],
  ['a side twice', () => runStep(dpo(), [left, right, left]), 'E_SHAPE', /got another one/],
  ['another role', () => runStep(dpo(), [left, right, own]), 'E_SHAPE', /role of chosen, rejected, got completion/],
  [
    'an empty side',
    () => runStep(dpo(), [left, { ...right, logps: [], reference: [] }]),
    'E_SHAPE',
    /at least one trained token in the rejected/,
  ],
  ['no score', () => runStep(kto({ lossType: 'apoZeroUnpaired' }), [own]), 'E_SHAPE', /example 3.*score 'label'/],
  ['no advantage', () => runStep(grpo(), [{ ...own, scores: {} }]), 'E_SHAPE', /score 'advantage'/],
  ['no KL', () => runStep(superhf(), [own]), 'E_SHAPE', /'kl'/],
  ['no entropy', () => runStep(ppo({ entropyCoef: 0.1 }), [own]), 'E_SHAPE', /'entropy'/],
  ['no sampler', () => runStep(ppo({ importanceSamplingMode: 'tokenMask' }), [own]), 'E_SHAPE', /'sampler'/],
  ['no means', () => runStep(sft({ labelSmoothing: 0.1 }), [own]), 'E_SHAPE', /'meanLogps'/],
  ['long weights', () => runStep(sft(), [{ ...own, weights: [1, 1, 1] }]), 'E_SHAPE', /'weights'.*got 3/],
  ['no trained token', () => runStep(sft(), [{ ...own, logps: [], reference: [] }]), 'E_SHAPE', /trained tokens/],
  [
    'no values',
    () => runStep(reward(), [{ ...left, logps: [0], reference: undefined }, right]),
    'E_SHAPE',
    /'values' of the chosen/,
  ],
  [
    'two scored positions',
    () =>
      runStep(reward(), [
        { ...left, values: [1, 2] },
        { ...right, values: [1, 2] },
      ]),
    'E_SHAPE',
    /one scored position in the chosen sequence, got 2/,
  ],
  [
    'equal labels',
    () =>
      runStep(
        listwiseReward(),
        [0, 1].map((i) => ({ ...own, logps: [0], reference: [0], values: [i], scores: { label: 1 } })),
      ),
    'E_SHAPE',
    /different labels/,
  ],
]

t.test('bad batches', (t) => {
  for (const [what, run, code, message] of badBatches) {
    t.throws(run, { code }, what)
    t.throws(run, message, what)
  }
  const thrown = badBatches.map(([, run]) => {
    try {
      return run()
    } catch (error) {
      return error
    }
  })
  t.ok(thrown.every((error) => WhetstoneError.isInstance(error) && Object.hasOwn(errorCodes, error.code)))
  const cut = [sequenceOf(left), sequenceOf(right)]
  const step = { tokens: 10, examples: 2 }
  t.throws(
    () => dpo({ rpoAlpha: 1 }).evaluate({ sequences: cut, step }),
    /step.tokensOf/,
    'counts that only the trainer knows',
  )
  t.end()
})

t.test('every objective shows its settings', (t) => {
  for (const [name, maker] of Object.entries(objectives)) {
    const objective = make(maker, required[name] ?? {})
    t.equal(objective.name, `${name}.v1`)
    for (const [option, field] of Object.entries(maker.settings.shape)) {
      t.ok((field as { description?: string }).description, `${name}.${option} is described`)
    }
    t.same(maker.settings.parse(required[name] ?? {}), objective.config, `${name}: its defaults are its configuration`)
  }
  t.end()
})
