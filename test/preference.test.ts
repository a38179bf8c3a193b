// Examples of several sequences: prompts that are shared, losses that look at a whole step, references of every kind, and
// every objective on a tiny set that it must learn.

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import type { Objective } from '../ts/loss/define.js'
import { dpo, grpo, kto, objectives, orpo, sft } from '../ts/loss/index.js'
import { disposeDecoder } from '../ts/src/models/decoder.js'
import { packSequences, placeOf } from '../ts/src/models/pack.js'
import { getDevice } from '../ts/src/native/device.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import type { EncodedExample, EncodedSequence } from '../ts/train/data/example.js'
import { type MicroBatchOptions, microBatchOf, microBatchOfRows } from '../ts/train/data/micro-batch.js'
import { disposeCopy, frozenCopy, withReferenceLogps } from '../ts/train/reference.js'
import { evaluateLoss, gradientsOf, type Trainer, trainStep } from '../ts/train/trainer.js'
import { randomOf } from './support.js'
import { toyDecoder } from './support-models.js'
import { disposeToy, stateHash, type ToyOptions, toyTrainer } from './support-train.js'

const sequence = (prompt: readonly number[], answer: readonly number[], rest: Partial<EncodedSequence> = {}) => ({
  ids: [...prompt, ...answer],
  trained: Uint8Array.from([...prompt, ...answer], (_, t) => Number(t >= prompt.length)),
  ...rest,
})

/** Pairs with prompts of the given lengths; some answers begin alike. */
function toyPairs(name: string, promptLengths: readonly number[]): EncodedExample[] {
  const random = randomOf(name)
  const ids = (length: number) => Array.from({ length }, () => random.integer(61))
  return promptLengths.map((length, i) => {
    const prompt = ids(length)
    const opening = i % 2 === 0 ? [] : ids(3)
    return [
      sequence(prompt, [...opening, ...ids(1 + random.integer(12))], { role: 'chosen' }),
      sequence(prompt, [...opening, ...ids(1 + random.integer(12))], { role: 'rejected' }),
    ]
  })
}

const pairs = toyPairs('pairs', [9, 30, 1, 64, 17, 31, 33, 5])

/** A reference that differs from every toy. */
function withReference<R>(options: ToyOptions, work: (trainer: Trainer) => Promise<R>): Promise<R> {
  const reference = toyDecoder(getDevice(), false, options.dtype)
  const trainer = toyTrainer({ ...options, reference })
  return work(trainer).finally(() => {
    disposeToy(trainer)
    disposeDecoder(reference, disposeFlat)
  })
}

/** The terms that the objective was given, and the gradients. */
async function seen(trainer: Trainer, examples: readonly EncodedExample[], options: MicroBatchOptions) {
  const terms: number[][] = []
  const { objective } = trainer
  const watching: Objective = {
    ...objective,
    evaluate: (batch) => {
      for (const { logps, reference } of batch.sequences) terms.push([...logps, ...(reference ?? [])])
      return objective.evaluate(batch)
    },
  }
  const batch = microBatchOf(examples, options)
  const { gradients } = await gradientsOf({ ...trainer, objective: watching }, [batch])
  return { terms, gradients, tokens: batch.packed.ids.length }
}

t.test('packing with shared prompts', (t) => {
  const sequences = [[1, 2, 3, 4], [1, 2, 3, 9, 8], [7], [1, 2, 3, 4]]
  const packed = packSequences(sequences, [-1, 0, -1, 0])
  t.same([...packed.ids], [1, 2, 3, 4, 9, 8, 7, 4], 'only own tokens are laid out; the last keeps at least one')
  t.same([...packed.positions], [0, 1, 2, 3, 3, 4, 0, 3])
  t.same([...packed.shared], [0, 3, 0, 3])
  const read = sequences.map((ids, s) => ids.map((_, i) => packed.ids[placeOf(packed, s, i)]))
  t.same(read, sequences, 'every token is found at its place')
  const visibility = Array.from({ length: 8 }, (_, i) => [...packed.visibility.subarray(3 * i, 3 * i + 3)])
  t.same(visibility.slice(3, 7), [
    [0, 0, 0],
    [4, 0, 3],
    [4, 0, 3],
    [6, 6, 6],
  ])
  for (const roots of [[0], [-1, 1], [-1, 0, 1]])
    t.throws(() => packSequences(sequences.slice(0, roots.length), roots), { code: 'E_SHAPE' })
  t.end()
})

t.test('a shared prompt gives the same log-probs and the same gradients but for rounding', async (t) => {
  for (const dtype of ['f32', 'bf16'] as const)
    await withReference({ dtype, objective: dpo() }, async (trainer) => {
      const shared = await seen(trainer, pairs, {})
      const apart = await seen(trainer, pairs, { share: 'none' })
      t.ok(shared.tokens < 0.8 * apart.tokens, `${dtype}: ${shared.tokens} tokens instead of ${apart.tokens}`)
      t.same(shared.terms, apart.terms, `${dtype}: log-probs of policy and reference, bit for bit`)
      for (const [name, g] of shared.gradients) {
        const other = apart.gradients.get(name) ?? g.subarray(1)
        const largest = other.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
        const error = g.reduce((most, x, i) => Math.max(most, Math.abs(x - other[i])), 0)
        t.ok(error <= (dtype === 'f32' ? 2e-5 : 2e-2) * largest, `${dtype} ${name}: ${error} of ${largest}`)
      }
    })
})

t.test('samples of one prompt share it in the whole batch on request', async (t) => {
  const random = randomOf('group')
  const prompt = Array.from({ length: 40 }, () => random.integer(61))
  const group = Array.from({ length: 6 }, (_, i): EncodedExample => {
    const answer = Array.from({ length: 4 + i }, () => random.integer(61))
    return [sequence(prompt, answer, { scores: { advantage: i - 2.5 } })]
  })
  await withReference({ objective: grpo({ beta: 0.1 }) }, async (trainer) => {
    const shared = await seen(trainer, group, { share: 'batch' })
    const apart = await seen(trainer, group, {})
    t.same([shared.tokens, apart.tokens], [40 + 39, 240 + 39])
    t.same(shared.terms, apart.terms, 'log-probs bit for bit')
  })
})

t.test('accumulation, with prompts shared inside examples', async (t) => {
  const cut = (sizes: readonly number[]) => {
    let at = 0
    return sizes.map((size) => {
      at += size
      return microBatchOf(pairs.slice(at - size, at))
    })
  }
  for (const objective of [dpo(), orpo(), dpo({ lossType: 'aotUnpaired' }), dpo({ rpoAlpha: 1 })]) {
    const hash = (sizes: readonly number[]) =>
      withReference({ objective }, async (trainer) => {
        for (let step = 0; step < 2; step++) await trainStep(trainer, cut(sizes), 1e-2)
        return stateHash(trainer)
      })
    const whole = await hash([8])
    const name = `${objective.name} ${JSON.stringify(objective.config.lossType)}`
    t.equal(await hash([1, 1, 1, 1, 1, 1, 1, 1]), whole, `${name}: 8 x 1`)
    t.equal(await hash([3, 5]), whole, `${name}: 3 + 5`)
  }
})

t.test('sigmoid DPO of a policy that is its reference', async (t) => {
  const policy = toyTrainer({ objective: dpo() })
  const reference = frozenCopy(policy.policy)
  const trainer = { ...policy, reference }
  const { loss, stats } = await evaluateLoss(trainer, [microBatchOf(pairs)])
  t.equal(loss, Math.LN2, 'exactly ln 2')
  t.same([stats['rewards/chosen'], stats['rewards/margins'], stats['rewards/accuracies']], [0, 0, 0])
  await trainStep(trainer, [microBatchOf(pairs)], 1e-2)
  const after = await evaluateLoss(trainer, [microBatchOf(pairs)])
  t.ok(after.loss < loss, `the copy stays where it was: ${after.loss}`)
  disposeCopy(reference)
  disposeToy(policy)
})

t.test('a precomputed reference', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'whetstone-reference-'))
  t.teardown(() => rm(folder, { recursive: true }))
  const warnings: string[] = []
  const options = { temperature: 1, batchSize: 3, directory: folder, warn: (text: string) => warnings.push(text) }
  await withReference({ objective: dpo() }, async (trainer) => {
    const { reference } = trainer
    if (reference === undefined) throw new Error('no reference')
    const beside = await seen(trainer, pairs, {})
    const examples = await withReferenceLogps(reference, pairs, options)
    const alone = await seen({ ...trainer, reference: undefined }, examples, {})
    t.same(alone.terms, beside.terms, 'the same bits as beside the policy')
    t.same([...alone.gradients], [...beside.gradients])
    const [file] = await readdir(folder)
    t.same(await withReferenceLogps(reference, pairs, { ...options, batchSize: 1 }), examples, 'and from the file')
    t.same(await readdir(folder), [file], 'one file')
    await withReferenceLogps(trainer.policy, pairs, options)
    await withReferenceLogps(reference, pairs, { ...options, temperature: 2 })
    await withReferenceLogps(reference, pairs.slice(1), options)
    t.equal((await readdir(folder)).length, 4, 'another model, temperature or set of rows has another file')
    await writeFile(join(folder, file), (await readFile(join(folder, file))).subarray(0, 100))
    t.same(await withReferenceLogps(reference, pairs, options), examples, 'a damaged file is made again')
    t.match(warnings, [/computed again/])
  })
  const aborted = AbortSignal.abort(new Error('enough'))
  await withReference({ objective: dpo() }, (trainer) =>
    t.rejects(withReferenceLogps(trainer.policy, pairs, { ...options, directory: undefined, signal: aborted }), {
      code: 'E_ABORTED',
    }),
  )
})

t.test('without a reference', async (t) => {
  const trainer = toyTrainer({ objective: dpo() })
  await t.rejects(trainStep(trainer, [microBatchOf(pairs)], 1e-3), { code: 'E_CONFIG', message: /reference/ })
  disposeToy(trainer)
})

t.test('every objective learns what it is shown', async (t) => {
  const random = randomOf('learn')
  const ids = (length: number) => Array.from({ length }, () => random.integer(61))
  const [prompt, good, bad] = [ids(12), ids(5), ids(5)]
  const roles = { chosen: good, rejected: bad }
  const side = (role: 'chosen' | 'rejected', context: readonly number[] = [], name = role as string) =>
    sequence([...prompt, ...context], roles[role], { role: name as EncodedSequence['role'] })
  const preference = { scores: { preference: 1, onPolicy: 1, reward: 1 } }
  const sets: Readonly<Record<string, EncodedExample[]>> = {
    completion: [[sequence(prompt, good)]],
    preference: [
      [
        { ...side('chosen'), ...preference },
        { ...side('rejected'), scores: { reward: -1 } },
      ],
    ],
    srpo: [
      [
        side('chosen'),
        side('rejected'),
        side('chosen', bad, 'chosenGivenRejected'),
        side('rejected', bad, 'rejectedGivenRejected'),
        side('chosen', good, 'chosenGivenChosen'),
        side('rejected', good, 'rejectedGivenChosen'),
      ],
    ],
    unpaired: [[sequence(prompt, good, { scores: { label: 1 } })], [sequence(prompt, bad, { scores: { label: 0 } })]],
    kto: [
      [sequence(prompt, good, { scores: { label: 1 } }), sequence(prompt, bad, { role: 'mismatch' })],
      [sequence(prompt, bad, { scores: { label: 0 } }), sequence(prompt, good, { role: 'mismatch' })],
    ],
    group: [
      [sequence(prompt, good, { scores: { advantage: 1, preference: 1 } })],
      [sequence(prompt, bad, { scores: { advantage: -1, preference: 0 } })],
    ],
  }
  const own: Readonly<Record<string, string>> = { srpo: 'srpo', kto: 'kto' }
  const settings: Readonly<Record<string, object>> = { drGrpo: { maxCompletionLength: 8 } }
  for (const [name, make] of Object.entries(objectives)) {
    const objective = (make as (config?: object) => Objective)(settings[name])
    // Score heads: train-kinds.test; distillation, which learns another model and no row: head-terms.test.
    if (objective.needs.values !== undefined || name === 'distill' || name === 'gkd') continue
    await withReference({ objective, optimizer: { weightDecay: 0 } }, async (trainer) => {
      const examples = sets[own[name] ?? objective.needs.rows]
      const margin = async () => {
        const rows = [sequence(prompt, good), sequence(prompt, bad)]
        const batch = { ...trainer, objective: { ...sft(), needs: sft().needs } }
        const [a, b] = await Promise.all(rows.map((row) => evaluateLoss(batch, [microBatchOfRows([row])])))
        return { margin: b.loss - a.loss, likelihood: -a.loss }
      }
      const before = await margin()
      for (let step = 0; step < 10; step++) await trainStep(trainer, [microBatchOf(examples)], 3e-3)
      const after = await margin()
      const gained =
        objective.needs.rows === 'completion' ? after.likelihood - before.likelihood : after.margin - before.margin
      t.ok(gained > 0.1, `${name}: gained ${gained.toFixed(3)} nats per token`)
    })
  }
})

t.test('KTO over several micro-batches', async (t) => {
  const examples = pairs.map(
    ([a, b], i): EncodedExample => [
      { ...a, role: 'completion', scores: { label: i % 2 } },
      { ...b, role: 'mismatch' },
    ],
  )
  await withReference({ objective: kto() }, async (trainer) => {
    const whole = await gradientsOf(trainer, [microBatchOf(examples)])
    const cut = await gradientsOf(
      trainer,
      examples.map((example) => microBatchOf([example])),
    )
    t.same([...cut.gradients], [...whole.gradients], 'the reference point is that of the step')
    t.equal(cut.loss, whole.loss)
  })
})
