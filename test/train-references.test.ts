// References and resuming through train(): ln 2 to the last bit while the policy is its reference; every way to have a
// reference gives the same bits; precomputed log-probs are kept and found by what they are made of; runs with adapters,
// dropout and running means go on with the bits of one that was never stopped.

import { cp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { bco, dpo, kto, processReward, reward, sft, srpo, superhf } from '../ts/loss/index.js'
import { type LanguageModel, loadModel } from '../ts/src/generate/language-model.js'
import { withoutAdapter } from '../ts/src/models/adapter.js'
import type { Decoder } from '../ts/src/models/decoder.js'
import { estimateMemory } from '../ts/train/estimate.js'
import { train } from '../ts/train/train.js'
import { golden, liveBytes } from './support.js'
import { type KindOptions, makeObjective, makeTiny, rowsFor, rowsOf, runKind, tinyFolder } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const dtypes = ['f32', 'bf16'] as const
const lora = { r: 4, loraAlpha: 8, loraDropout: 0.2 }
const dora = { ...lora, useDora: true }

t.test('DPO of a policy that is its reference', async (t) => {
  const ways: Readonly<Record<string, Partial<KindOptions>>> = {
    'a copy': {},
    precomputed: { precomputeRefLogProbs: true },
    'adapter off': { load: { lora } },
    'adapter off, precomputed': { load: { lora }, precomputeRefLogProbs: true },
    DoRA: { load: { lora: { ...dora, loraDropout: 0 } } },
    'DoRA with dropout': { load: { lora: dora } },
    'modules trained whole': { load: { lora: { ...lora, modulesToSave: ['embed_tokens', 'norm'] } } },
    'a random adapter': { load: { lora: { ...lora, loraDropout: 0, initLoraWeights: false } } },
    'prompts apart': { sharePrompts: false },
    packed: { packing: true, maxLength: 64 },
    recomputed: { gradientCheckpointing: true },
    'another temperature': { temperature: 0.7 },
  }
  for (const dtype of dtypes)
    for (const [what, { load, ...options }] of Object.entries(ways)) {
      const all = { base, objective: dpo(), ...options, load: { ...load, dtype } }
      const { losses, stats } = await runKind({ ...all, gradientAccumulationSteps: 2, maxSteps: 2 })
      t.equal(losses[0], Math.LN2, `${dtype} ${what}: exactly ln 2`)
      const { 'rewards/chosen': chosen, 'rewards/margins': margin } = stats[0]
      t.same([chosen, margin], [0, 0])
      t.not(losses[1], Math.LN2, 'and not once it has moved')
    }
})

t.test('every way to have a reference gives the same bits', async (t) => {
  const before = await liveBytes()
  for (const dtype of dtypes)
    for (const adapter of [undefined, lora, dora])
      for (const objective of [dpo(), kto(), srpo(), bco()]) {
        const run = (options: Partial<KindOptions>) =>
          runKind({ base, objective, load: { dtype, lora: adapter }, maxSteps: 3, ...options })
        const name = `${dtype} ${adapter === undefined ? 'full' : adapter === dora ? 'DoRA' : 'LoRA'} ${objective.name}`
        const { hash } = await run({})
        t.equal((await run({ precomputeRefLogProbs: true })).hash, hash, `${name}: precomputed`)
        using frozen = await loadModel(base, { dtype })
        t.equal((await run({ reference: frozen.decoder })).hash, hash, `${name}: the base once more`)
      }
  for (const objective of [superhf(), makeObjective('gkd')]) {
    using frozen = await loadModel(base)
    const { hash } = await runKind({ base, objective, load: { lora } })
    t.equal((await runKind({ base, objective, load: { lora }, reference: frozen.decoder })).hash, hash, objective.name)
    const { warnings, hash: same } = await runKind({ base, objective, load: { lora }, precomputeRefLogProbs: true })
    t.equal(same, hash)
    t.match(warnings.join('\n'), /precomputeRefLogProbs has no effect/, 'a whole distribution cannot be precomputed')
  }
  t.equal(await liveBytes(), before, 'nothing stays in memory')
})

t.test('models that cannot be a reference, and settings without effect', async (t) => {
  using policy = await loadModel(base)
  using adapted = await loadModel(base, { lora })
  using scorer = await loadModel(base, { scoreLabels: 1 })
  using other = await loadModel(golden('llama'))
  const run = (own: LanguageModel, reference: Decoder, options: object = {}) =>
    train({ policy: own, reference, objective: dpo(), data: rowsFor(dpo()), maxSteps: 1, ...options }).result
  const refused = (message: RegExp) => ({ code: 'E_CONFIG', where: 'reference', message })
  for (const options of [{}, { precomputeRefLogProbs: true }, { objective: superhf(), data: rowsFor(sft()) }]) {
    await t.rejects(run(policy, other.decoder, options), refused(/vocabulary of the policy, 98 tokens, got 406/))
    await t.rejects(run(policy, scorer.decoder, options), refused(/got one with a score head/))
  }
  await t.rejects(run(policy, policy.decoder), refused(/stays as it is, got the policy/))
  await t.rejects(run(adapted, adapted.decoder), refused(/stays as it is, got the policy/))
  t.equal((await run(adapted, withoutAdapter(adapted.decoder))).metrics.loss, Math.LN2, 'its base can be one')
  for (const settings of [{ precomputeRefLogProbs: true }, { reference: scorer.decoder }]) {
    const { warnings } = await runKind({ base, objective: sft(), maxSteps: 1, ...settings })
    t.match(warnings, [/(has no effect: sft.v1 has no reference|not used: sft.v1 looks at none)$/])
  }
})

t.test('teachers', async (t) => {
  const before = await liveBytes()
  const larger = await makeTiny(join(folder, 'teacher-of-48'), 48)
  const objectives = [makeObjective('gkd'), makeObjective('distill'), superhf()]
  for (const dtype of dtypes) {
    const other = dtype === 'f32' ? 'bf16' : 'f32'
    using policy = await loadModel(base, { dtype })
    using teacher = await loadModel(larger, { dtype: other })
    using fitting = await loadModel(larger, { dtype })
    const common = { policy, data: rowsFor(sft()), maxSteps: 1 }
    for (const objective of objectives) {
      const text = new RegExp(`policy's dtype, ${dtype},.* got ${other}: load it with dtype '${dtype}'`)
      const error = { code: 'E_CONFIG', where: 'reference', message: text }
      await t.rejects(train({ ...common, objective, reference: teacher.decoder }).result, error, objective.name)
      const { metrics } = await train({ ...common, objective, reference: fitting.decoder }).result
      t.ok(metrics.kl > 0, `${objective.name} in ${dtype} has something to learn: ${metrics.kl}`)
    }
    const { result } = train({ ...common, objective: dpo(), data: rowsFor(dpo()), reference: teacher.decoder })
    t.ok((await result).metrics.loss > 0, 'log-probs of the other type can be compared with')
  }
  using policy = await loadModel(base)
  const output = join(folder, 'untaught')
  const missing = { code: 'E_CONFIG', where: 'reference', message: /needs it, the teacher: expected another model/ }
  for (const objective of objectives.slice(0, 2)) {
    await t.rejects(train({ policy, objective, data: rowsFor(sft()), output }).result, missing, objective.name)
    await t.rejects(estimateMemory({ model: base, objective, training: {} }), missing, 'and its estimate')
  }
  await t.rejects(stat(output), 'nothing was made')
  const { metrics } = await train({ policy, objective: superhf(), data: rowsFor(sft()), maxSteps: 1 }).result
  t.equal(metrics.kl, 0, 'a prior may be the policy itself')
  policy.dispose()
  t.equal(await liveBytes(), before, 'nothing stays in memory')
})

// Precomputed references -----------------------------------------------------------------------------------------------------

/** The same decoder, which counts how often a pass looks at its layout. */
function counting(decoder: Decoder): { decoder: Decoder; passes: () => number } {
  let passes = 0
  const { layout, ...config } = decoder.config
  const get = () => {
    passes++
    return layout
  }
  // Not enumerable: the hash of the configuration is no pass.
  Object.defineProperty(config, 'layout', { get })
  return { decoder: { ...decoder, config: config as Decoder['config'] }, passes: () => passes }
}

t.test('precomputed references are found by what they are made of', async (t) => {
  const output = join(folder, 'cache')
  const data = rowsFor(dpo())
  using frozen = await loadModel(base)
  const run = async (options: Partial<KindOptions> = {}) => {
    const { decoder, passes } = counting(options.reference ?? frozen.decoder)
    const common = { base, objective: dpo(), precomputeRefLogProbs: true, data, output }
    const outcome = await runKind({ ...common, evalRows: 2, ...options, reference: decoder })
    return { ...outcome, passes: passes() }
  }
  const files = async () => (await readdir(join(output, 'cache'))).sort()
  const first = await run()
  const known = await files()
  t.equal(known.length, 2, 'one file for the rows, one for those held out')
  t.ok(first.passes > 0)
  const written = await stat(join(output, 'cache', known[0]))
  /** A run from the start again, in the same folder with its cache. */
  const again = async (options: Partial<KindOptions> = {}) => {
    for (const name of ['config.json', 'checkpoints']) await rm(join(output, name), { recursive: true })
    return run(options)
  }
  const second = await again()
  t.match(second, { hash: first.hash, losses: first.losses, passes: 0 }, 'no pass over the rows')
  t.equal((await stat(join(output, 'cache', known[0]))).mtimeMs, written.mtimeMs, 'nothing is written')
  const resumed = await run({ resume: true })
  t.match(resumed, { passes: 0, hash: first.hash, result: { stepsDone: 0 } })

  const changedRow = data.map((row, i) => (i === 5 ? { ...row, rejected: 'other' } : row))
  const tokenizer = join(folder, 'other-tokenizer')
  await cp(base, tokenizer, { recursive: true })
  const text = await readFile(join(tokenizer, 'tokenizer.json'), 'utf8')
  // Two letters change places.
  const swapped = text.replace(/"a": (\d+)/, '"a": -1').replace(/"b": (\d+)/, `"b": ${/"a": (\d+)/.exec(text)?.[1]}`)
  await writeFile(join(tokenizer, 'tokenizer.json'), swapped.replace('"a": -1', `"a": ${/"b": (\d+)/.exec(text)?.[1]}`))
  using other = await loadModel(await makeTiny(join(folder, 'other'), 48))
  const changes: readonly (readonly [string, Partial<KindOptions>, number])[] = [
    ['a row', { data: changedRow }, 1],
    ['the model', { reference: other.decoder }, 2],
    ['the tokenizer', { base: tokenizer }, 2],
    ['the temperature', { temperature: 2 }, 2],
  ]
  for (const [what, options, news] of changes) {
    const { passes } = await again(options)
    t.ok(passes > 0, `${what} changed: computed`)
    const made = (await files()).filter((name) => !known.includes(name))
    t.equal(made.length, news, `${what} changed: other files`)
    for (const name of made) await rm(join(output, 'cache', name))
  }

  for (const name of known)
    for (const [what, damage] of damages) {
      const file = join(output, 'cache', name)
      const whole = await readFile(file)
      await writeFile(file, damage(whole))
      const { warnings, hash } = await again()
      t.equal(warnings.length, 1, `${what}: ${warnings}`)
      t.ok(warnings[0].includes(name), `${what}: refused by its name`)
      t.equal(hash, first.hash, 'and made again')
      t.same(await readFile(file), whole)
    }
})

const flip = (bytes: Buffer, at: number): Buffer => Buffer.from(bytes.map((byte, i) => (i === at ? byte ^ 1 : byte)))

const damages: readonly (readonly [string, (bytes: Buffer) => Buffer])[] = [
  ['cut off', (bytes) => bytes.subarray(0, bytes.length - 4)],
  ['empty', () => Buffer.alloc(0)],
  ['a bit in the numbers', (bytes) => flip(bytes, bytes.length - 8)],
  ['a bit in the header', (bytes) => flip(bytes, 12)],
]

// Resuming ---------------------------------------------------------------------------------------------------------------------

t.test('stopped and resumed: the bits of the run that went through', async (t) => {
  const runs: readonly (readonly [string, Partial<KindOptions> & Pick<KindOptions, 'objective'>])[] = [
    ['sft lora', { objective: sft(), load: { lora }, neftuneNoiseAlpha: 5 }],
    ['sft dora', { objective: sft({ labelSmoothing: 0.1 }), load: { lora: dora } }],
    ['dpo lora', { objective: dpo(), load: { lora } }],
    ['dpo lora bf16', { objective: dpo(), load: { lora, dtype: 'bf16' }, gradientCheckpointing: true }],
    ['dpo dora', { objective: dpo(), load: { lora: dora } }],
    ['dpo whole', { objective: dpo(), load: { lora: { ...lora, modulesToSave: ['embed_tokens'] }, dtype: 'bf16' } }],
    ['dpo lora precomputed', { objective: dpo(), load: { lora }, precomputeRefLogProbs: true }],
    ['dpo precomputed bf16', { objective: dpo(), load: { dtype: 'bf16' }, precomputeRefLogProbs: true }],
    ['reward lora', { objective: reward(), load: { lora } }],
    ['bco', { objective: bco(), gradientAccumulationSteps: 2, perDeviceTrainBatchSize: 2 }],
    ['kto', { objective: kto(), gradientAccumulationSteps: 2, perDeviceTrainBatchSize: 2 }],
    ['superhf lora', { objective: superhf(), load: { lora } }],
  ]
  for (const [name, options] of runs) {
    const whole = await runKind({ base, ...options })
    for (const stopAt of [1, 4]) {
      const output = join(folder, `${name}-${stopAt}`)
      await t.rejects(runKind({ base, ...options, output, stopAt }), { code: 'E_ABORTED' })
      const rest = await runKind({ base, ...options, output, resume: true })
      t.equal(rest.hash, whole.hash, `${name}: stopped at ${stopAt}`)
      const done = whole.losses.length - rest.losses.length
      t.ok(done > 0 && done < 6, `${done} steps were done`)
      t.same(rest.losses, whole.losses.slice(done), 'the same losses')
      t.same(rest.stats, whole.stats.slice(done), 'the same statistics')
    }
  }
})

t.test('what decides the numbers must be the same', async (t) => {
  const started = async (name: string, options: Partial<KindOptions> & Pick<KindOptions, 'objective'>) => {
    const output = join(folder, name)
    await t.rejects(runKind({ base, ...options, output, stopAt: 2 }), { code: 'E_ABORTED' })
    return (other: Partial<KindOptions>) => runKind({ base, ...options, output, resume: true, ...other })
  }
  using other = await loadModel(base, { lora: { initLoraWeights: false } })
  for (const precomputeRefLogProbs of [false, true]) {
    const resume = await started(`mismatch ${precomputeRefLogProbs}`, { objective: dpo(), precomputeRefLogProbs })
    const mismatch = { code: 'E_MISMATCH', where: 'referenceSha256' }
    await t.rejects(resume({ reference: other.decoder }), mismatch, `another reference, ${precomputeRefLogProbs}`)
    await t.rejects(resume({ objective: dpo({ beta: 0.2 }) }), { code: 'E_MISMATCH' }, 'another setting')
    t.equal((await resume({})).result.stepsDone, 4)
  }
  const steps = await started('labels', { objective: processReward() })
  const turned = (rowsOf.stepwise as { labels: boolean[] }[]).map((row) => ({ ...row, labels: [false, true] }))
  await t.rejects(steps({ data: turned }), { code: 'E_MISMATCH', where: 'rowsSha256' }, 'other labels of steps')
  const adapted = await started('adapters', { objective: sft(), load: { lora } })
  await t.rejects(adapted({ load: { lora: { ...lora, loraAlpha: 4 } } }), { code: 'E_MISMATCH' }, 'another scale')
  await t.rejects(adapted({ base: join(folder, 'other') }), { code: 'E_MISMATCH' }, 'another base')
  t.equal((await adapted({})).result.stepsDone, 4)
})
