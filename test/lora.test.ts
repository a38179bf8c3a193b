// LoRA: which modules settings name, training that leaves the base alone, dropout and noise, and bits: adapter off,
// fresh adapters, micro-batches, sampling. The arithmetic of one projection: lora-arithmetic.test.ts.

import t, { type Test } from 'tap'
import { sft } from '../ts/loss/index.js'
import { Tape } from '../ts/src/autograd/tape.js'
import { languageModel } from '../ts/src/generate/language-model.js'
import { withAdapter, withAdapterCopy, withoutAdapter } from '../ts/src/models/adapter.js'
import { type Decoder, disposeDecoder, forward, packedInput, trainableOf } from '../ts/src/models/decoder.js'
import { packSequences } from '../ts/src/models/pack.js'
import { getDevice } from '../ts/src/native/device.js'
import { type LoraConfig, loraConfig, rankOf, scalingOf, targetsOf } from '../ts/src/nn/lora.js'
import { createFlat, disposeFlat, parameterCount } from '../ts/src/nn/parameters.js'
import { linear, zeros } from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { loraOptions } from '../ts/train/config/lora.js'
import { startReference } from '../ts/train/reference.js'
import { entriesOf } from '../ts/train/state.js'
import { createTrainer, disposeTrainer, evaluateLoss, gradientsOf, trainStep } from '../ts/train/trainer.js'
import { golden, liveBytes, randomIds, sameBytes, wordsOf } from './support.js'
import { toyDecoder } from './support-models.js'
import { adamw, disposeToy, split, stateHash, toyRows, toyTrainer } from './support-train.js'

const device = getDevice()
const random: Partial<LoraConfig> = { r: 4, loraAlpha: 8, loraDropout: 0, initLoraWeights: false }

/** The toy with an adapter; frees both when the test ends. */
function adaptedToy(t: Pick<Test, 'teardown'>, lora = random, dtype: 'f32' | 'bf16' = 'f32') {
  const adapted = withAdapter(toyDecoder(device, true, dtype), lora, 3)
  t.teardown(() => disposeDecoder(adapted, disposeFlat))
  return adapted
}

const ids = randomIds('lora', 40, 61)

/** Hidden states of a fixed sequence. */
async function hiddenNumbers(m: Decoder): Promise<Float32Array> {
  using scope = new Scope()
  return (await scope.run(() => forward(m, packedInput(m, packSequences([ids])))).data()) as Float32Array
}

const hiddenOf = async (m: Decoder): Promise<number[]> => wordsOf(await hiddenNumbers(m))

// Settings -----------------------------------------------------------------------------------------------------------

const modules = ['q_proj', 'k_proj', 'v_proj', 'o_proj'].flatMap((name) =>
  [0, 1, 10].map((layer) => `model.layers.${layer}.self_attn.${name}`),
)

t.test('which modules settings name', async (t) => {
  const found = (targetModules: LoraConfig['targetModules']) => targetsOf(loraConfig({ targetModules }), modules)
  t.same(found('all-linear'), modules)
  t.same(found(['q_proj', 'k_proj']), modules.slice(0, 6), 'last parts of names')
  t.same(found(['self_attn.q_proj']), modules.slice(0, 3))
  t.same(found(['model.layers.1.self_attn.v_proj']), ['model.layers.1.self_attn.v_proj'], 'a whole name')
  t.same(found(String.raw`.*\.(0|1)\..*\.[qv]_proj`).length, 4, 'a pattern')
  t.same(found(String.raw`model\.layers\.1.*q_proj`).length, 2)
  const refused: [LoraConfig['targetModules'], RegExp][] = [
    [['q_proj', 'query'], /query.*|self_attn\.q_proj/],
    [['proj'], /self_attn\.q_proj, self_attn\.k_proj/],
    [['lm_head'], /embeddings and heads/],
    ['q_proj', /'q_proj'/],
    ['(', /regular expression/],
    [[], /at least one name/],
  ]
  for (const [targets, message] of refused)
    t.throws(() => found(targets), { code: 'E_CONFIG', where: 'lora.targetModules', message }, `${targets}`)
  const unknown = loraConfig({ alphaPattern: { mlp: 3 } })
  t.throws(() => targetsOf(unknown, modules), { code: 'E_CONFIG' }, 'a pattern of no module')
  const config = loraConfig({
    r: 8,
    loraAlpha: 16,
    rankPattern: { k_proj: 2 },
    alphaPattern: { '1.self_attn.q_proj': 4 },
  })
  t.same(
    [modules[0], modules[1], modules[3]].map((m) => [rankOf(config, m), scalingOf(config, m)]),
    [
      [8, 2],
      [8, 0.5],
      [2, 8],
    ],
  )
})

t.test('settings out of range', async (t) => {
  const bad: [Partial<LoraConfig>, string][] = [
    [{ r: 0 }, 'r'],
    [{ r: 1.5 }, 'r'],
    [{ loraAlpha: 0 }, 'loraAlpha'],
    [{ loraAlpha: Number.NaN }, 'loraAlpha'],
    [{ loraDropout: 1 }, 'loraDropout'],
    [{ rankPattern: { q_proj: 0 } }, 'rankPattern'],
    [{ alphaPattern: { q_proj: -1 } }, 'alphaPattern'],
    [{ modulesToSave: ['lm_head', ''] }, 'modulesToSave'],
  ]
  for (const [settings, name] of bad)
    t.throws(() => loraConfig(settings), { code: 'E_CONFIG', where: `lora.${name}` }, JSON.stringify(settings))
})

t.test('settings of the command line', async (t) => {
  t.same(loraOptions.parse({}), loraConfig(), 'the same defaults')
  const targets = (targetModules: string | string[]) => loraOptions.parse({ targetModules }).targetModules
  t.same(targets('q_proj,v_proj'), ['q_proj', 'v_proj'])
  t.same(targets('q_proj'), ['q_proj'])
  t.same(targets(['o_proj']), ['o_proj'])
  t.same([targets('all-linear'), targets('.*q_proj')], ['all-linear', '.*q_proj'])
  t.same(loraOptions.parse({ modulesToSave: 'lm_head,norm' }).modulesToSave, ['lm_head', 'norm'])
  t.notOk(loraOptions.safeParse({ rank: 4 }).success, 'unknown names')
})

// Models -------------------------------------------------------------------------------------------------------------

t.test('fresh adapters, and adapters that are off', async (t) => {
  for (const dtype of ['f32', 'bf16'] as const) {
    const base = toyDecoder(device, true, dtype)
    t.teardown(() => disposeDecoder(base, disposeFlat))
    const plain = await hiddenOf(base)
    const fresh = withAdapter(base, { r: 4 }, 3)
    const moved = withAdapter(base, random, 3)
    t.same(await hiddenOf(fresh), plain, `${dtype}: a fresh adapter changes no bit`)
    const whole = withAdapter(base, { r: 4, modulesToSave: ['embed_tokens', 'norm'] }, 3)
    t.same(await hiddenOf(whole), plain, 'copies of modules neither')
    const dora = withAdapter(base, { r: 4, useDora: true }, 3)
    t.same(await hiddenOf(dora), plain, 'DoRA begins at the base')
    t.notSame(await hiddenOf(moved), plain, 'another does')
    t.same(await hiddenOf(withoutAdapter(moved)), plain, 'off: the bits of the base')
    const copied = withAdapterCopy(moved)
    t.same(await hiddenOf(copied), await hiddenOf(moved), 'a copy')
    for (const m of [fresh, whole, dora, moved, copied]) disposeFlat(m.adapter.parameters)
    t.same(await hiddenOf(base), plain, 'the base is still there')
  }
  const twice = adaptedToy(t)
  t.throws(() => withAdapter(twice), { code: 'E_CONFIG', message: /adapter/ })
})

t.test('how fresh adapters begin', async (t) => {
  const m = adaptedToy(t, { r: 4 })
  const again = adaptedToy(t, { r: 4 })
  for (const [name, got] of trainableOf(m).byName) {
    const values = (await got.data()) as Float32Array
    const most = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    if (name.endsWith('lora_B.weight')) t.equal(most, 0, name)
    else {
      const bound = 1 / Math.sqrt(got.shape[1])
      t.ok(most <= bound && most > 0.9 * bound, `${name} reaches ${bound}`)
      const variance = values.reduce((sum, value) => sum + value * value, 0) / values.length
      t.ok(Math.abs(variance / (bound * bound) - 1 / 3) < 0.12, 'uniform')
    }
    t.ok(sameBytes(values, await trainableOf(again).byName.get(name)!.data()), 'by seed and name alone')
  }
  t.match([...trainableOf(m).byName.keys()][0], 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight')
})

// Training -----------------------------------------------------------------------------------------------------------

const baseBytes = async (m: Decoder) => Buffer.concat((await entriesOf(m.parameters)).map(({ data }) => data))

t.test('training changes the adapter and nothing else', async (t) => {
  for (const dtype of ['f32', 'bf16'] as const) {
    const policy = adaptedToy(t, { r: 4, useDora: true, modulesToSave: ['norm'] }, dtype)
    const before = await baseBytes(policy)
    const { parameters } = policy.adapter
    // Makes the tables of rotary angles.
    await hiddenOf(policy)
    const live = await liveBytes()
    const one = createFlat(device, parameters.placements, 'f32')
    const bytes = (await liveBytes()) - live
    disposeFlat(one)
    const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw })
    const buffers = ((await liveBytes()) - live) / bytes
    t.equal(buffers, 3, `${dtype}: gradients and moments of the adapter alone`)
    t.ok(parameterCount(parameters) < 0.4 * parameterCount(policy.parameters))
    const losses: number[] = []
    const batches = split(toyRows('lora', 6), [3, 3])
    for (let step = 0; step < 20; step++) losses.push((await trainStep(trainer, batches, 1e-2)).loss)
    t.ok(losses[19] < 0.8 * losses[0], `the loss falls: ${losses[0]} to ${losses[19]}`)
    t.ok(before.equals(await baseBytes(policy)), 'no bit of the base has changed')
    disposeTrainer(trainer)
    t.equal(await liveBytes(), live, 'the memory comes back')
  }
})

t.test('a frozen product does not keep its input', async (t) => {
  const [n, c, o] = [512, 256, 8]
  using w = zeros(device, [o, c])
  using gradient = zeros(device, [o, c])
  for (const frozen of [true, false]) {
    const tape = new Tape(frozen ? undefined : new Map([[w, gradient]]))
    const x = zeros(device, [n, c])
    tape.watch(x)
    using y = tape.record(() => linear(x, w))
    const before = await liveBytes()
    x.dispose()
    t.equal(before - (await liveBytes()) >= 4 * n * c, frozen, frozen ? 'frozen' : 'trained')
    tape.dispose()
    y.dispose()
  }
})

t.test('micro-batches and recomputed layers give the same bits', async (t) => {
  const rows = toyRows('lora bits', 8)
  const variants = [
    { ...random, modulesToSave: ['embed_tokens', 'norm'] },
    { ...random, loraDropout: 0.3, useDora: true },
  ]
  const types = ['f32', 'bf16'] as const
  for (const [dtype, lora] of types.flatMap((dtype) => variants.map((lora) => [dtype, lora] as const))) {
    const hashes: string[] = []
    for (const [sizes, activationCheckpointing] of [
      [[8], false],
      [[1, 1, 1, 1, 1, 1, 1, 1], false],
      [[3, 5], true],
    ] as const) {
      const policy = adaptedToy(t, lora, dtype)
      const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw, activationCheckpointing })
      for (let step = 0; step < 3; step++) await trainStep(trainer, split(rows, sizes), 1e-2)
      hashes.push(await stateHash(trainer))
      disposeTrainer(trainer)
    }
    t.equal(new Set(hashes).size, 1, `${dtype} ${JSON.stringify(lora)}`)
  }
})

/** What a full fine-tune of the toy does to a parameter, and an adapter that trains it whole. */
async function wholeAndFull(tied: boolean, dtype: 'f32' | 'bf16', activationCheckpointing: boolean) {
  const modulesToSave = tied ? ['lm_head', 'norm'] : ['embed_tokens', 'lm_head', 'norm']
  const batches = split(toyRows('lora whole', 6), [4, 2])
  const common = { tied, dtype, activationCheckpointing, optimizer: { maxGradNorm: 0 } }
  const results = []
  for (const lora of [undefined, { r: 4, loraDropout: 0, modulesToSave }]) {
    const trainer = toyTrainer({ ...common, lora })
    const { loss, gradients } = await gradientsOf(trainer, batches)
    await trainStep(trainer, batches, 1e-2)
    const stepped = new Map((await entriesOf(trainer.optimizer.masters)).map(({ name, data }) => [name, data]))
    results.push({ loss, gradients, stepped })
    disposeToy(trainer)
  }
  return results
}

t.test('a module that is trained whole learns what a full fine-tune teaches it', async (t) => {
  for (const dtype of ['f32', 'bf16'] as const)
    for (const tied of [true, false]) {
      const [full, whole] = await wholeAndFull(tied, dtype, !tied)
      const what = `${dtype} ${tied ? 'tied' : 'untied'}`
      t.equal(whole.loss, full.loss, `${what}: the loss`)
      const names = [...whole.gradients.keys()].filter((name) => !name.includes('.lora_'))
      t.equal(names.length, tied ? 6 : 7, 'embedding, a head of its own, five norms')
      for (const name of names) {
        const own = name.replace('base_model.model.', '')
        t.ok(full.gradients.get(own)?.some((value) => value !== 0))
        t.ok(sameBytes(whole.gradients.get(name)!, full.gradients.get(own)!), `${what}: gradient of ${own}`)
        t.ok(sameBytes(whole.stepped.get(name)!, full.stepped.get(own)!), `${what}: ${own} after a step`)
      }
    }
})

t.test('the reference has the modules of the base', async (t) => {
  const policy = adaptedToy(t, { r: 4, modulesToSave: ['embed_tokens'] }, 'bf16')
  const plain = await hiddenOf(withoutAdapter(policy))
  const fresh = await startReference(policy)
  t.equal(fresh.decoder.adapter, undefined, 'a fresh copy: the base')
  const copy = policy.adapter.replaced.get('model.embed_tokens.weight')!
  const values = (await copy.data()) as Float32Array
  copy.write(values.map((value, i) => (i === 200 ? value + 1 : value)))
  t.same(await hiddenOf(fresh.decoder), plain, 'the embedding of the base, not the one that is trained')
  const later = await startReference(policy)
  t.ok(later.decoder.adapter, 'one that has moved: a copy, though all additions are zero')
  copy.write(values)
  t.same(await hiddenOf(policy), plain)
  later.dispose()
})

t.test('modules that cannot be trained whole', async (t) => {
  const base = toyDecoder(device, false)
  t.teardown(() => disposeDecoder(base, disposeFlat))
  const before = await liveBytes()
  for (const name of ['q_proj', 'score', 'wte', 'model.layers.7.input_layernorm', 'embed_tokens.weight']) {
    const message = /\(embed_tokens, input_layernorm, post_attention_layernorm, norm, lm_head\), got/
    const refused = { code: 'E_CONFIG', where: 'lora.modulesToSave', message }
    t.throws(() => withAdapter(base, { modulesToSave: ['lm_head', name] }), refused, name)
  }
  t.equal(await liveBytes(), before)
})

t.test('gradients of a model', async (t) => {
  const policy = adaptedToy(t, { ...random, modulesToSave: ['embed_tokens', 'norm'] })
  const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw })
  const batches = split(toyRows('lora gradients', 4), [4])
  const { gradients } = await gradientsOf(trainer, batches)
  t.same([...gradients.keys()], [...trainableOf(policy).byName.keys()])
  const step = 1e-2
  for (const [name, values] of gradients) {
    const weight = trainableOf(policy).byName.get(name)!
    const start = (await weight.data()) as Float32Array
    const length = Math.hypot(...values)
    const lossAt = async (h: number) => {
      weight.write(start.map((value, i) => value + (h * values[i]) / length))
      return (await gradientsOf(trainer, batches)).loss
    }
    const slope = ((await lossAt(step)) - (await lossAt(-step))) / (2 * step)
    weight.write(start)
    t.ok(Math.abs(slope / length - 1) < 0.02, `${name}: slope ${slope}, gradient ${length}`)
  }
  disposeTrainer(trainer)
})

t.test('dropout is for training alone', async (t) => {
  const policy = adaptedToy(t, { ...random, loraDropout: 0.5 })
  const plain = adaptedToy(t, random)
  const batches = split(toyRows('lora dropout', 4), [4])
  const losses: number[] = []
  for (const m of [policy, plain]) {
    const trainer = createTrainer({ policy: m, objective: sft(), optimizer: adamw })
    losses.push((await gradientsOf(trainer, batches)).loss, (await evaluateLoss(trainer, batches)).loss)
    disposeTrainer(trainer)
  }
  const [dropped, evaluated, ...without] = losses
  t.not(dropped, evaluated, 'training drops')
  t.same([evaluated, evaluated], without, 'evaluation does not')
})

t.test('noise on embeddings', async (t) => {
  const rows = toyRows('lora noise', 4)
  const lossOf = async (neftuneNoiseAlpha: number, sizes: readonly number[]) => {
    const policy = adaptedToy(t)
    const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw, neftuneNoiseAlpha, seed: 3 })
    const { loss, gradients } = await gradientsOf(trainer, split(rows, sizes))
    disposeTrainer(trainer)
    return { loss, gradients }
  }
  const [none, some, again] = [await lossOf(0, [4]), await lossOf(20, [4]), await lossOf(20, [1, 3])]
  t.not(none.loss, some.loss)
  t.ok(Math.abs(none.loss - some.loss) < 0.5 * none.loss, `${none.loss} and ${some.loss}`)
  for (const [name, values] of some.gradients) t.ok(sameBytes(values, again.gradients.get(name)!), name)
})

t.test('sampler = trainer, bit for bit', async (t) => {
  const tokenizer = await loadTokenizer(golden('smollm'))
  for (const dtype of ['f32', 'bf16'] as const) {
    const lora = { ...random, loraDropout: 0.3, useDora: dtype === 'f32', modulesToSave: ['lm_head', 'norm'] }
    const adapted = adaptedToy(t, lora, dtype)
    // Numbers that bf16 does not hold.
    for (const whole of adapted.adapter.replaced.values())
      whole.write(((await whole.data()) as Float32Array).map((value, i) => value * (1 + (i % 7) / 30)))
    const model = languageModel(adapted, tokenizer, golden('smollm'))
    const prompts = [1, 31, 32, 40].map((length) => randomIds(`lora ${length}`, length, 61))
    const groups = await model.generate(prompts, { numGenerations: 3, maxNewTokens: 20, stopIds: [] })
    const samples = groups.flatMap((group, p) => group.map((one) => ({ ...one, prompt: prompts[p] })))
    const exact = await model.logProbs(samples.map(({ prompt, ids }) => [...prompt, ...ids]))
    samples.forEach(({ logps, prompt }, i) => {
      t.same(wordsOf(logps), wordsOf(exact[i].subarray(prompt.length)), `${dtype} sample ${i}`)
    })
  }
})
