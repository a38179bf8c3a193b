// Four-bit bases (QLoRA): the types against their papers and bitsandbytes, layers against the same layers over unpacked
// weights, training, runs, merging, and memory. The kernels by themselves: ops.test.ts.

import { createHash } from 'node:crypto'
import t, { type Test } from 'tap'
import { sft } from '../ts/loss/index.js'
import { languageModel, loadModel } from '../ts/src/generate/language-model.js'
import { mergeAdapter, withAdapter, withoutAdapter } from '../ts/src/models/adapter.js'
import { createDecoder, type Decoder, disposeDecoder, forward, packedInput } from '../ts/src/models/decoder.js'
import { packSequences } from '../ts/src/models/pack.js'
import { quantizedDecoder, unpackedParameters } from '../ts/src/models/quantize.js'
import { getDevice } from '../ts/src/native/device.js'
import { dynamicMap, quantizeBlockwise } from '../ts/src/nn/blockwise.js'
import type { LoraConfig } from '../ts/src/nn/lora.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import { createQuantized, disposeQuantized, quantizeInto, unpacked } from '../ts/src/nn/quantized.js'
import { dequantizeNf4, nf4Levels } from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { empty, tensor } from '../ts/src/tensor/tensor.js'
import { loadTokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { modelHash } from '../ts/train/reference.js'
import { train } from '../ts/train/train.js'
import { createTrainer, disposeTrainer, gradientsOf, trainStep } from '../ts/train/trainer.js'
import { golden, liveBytes, randomIds, sameBytes, wordsOf } from './support.js'
import { gpt2Decoder, toyDecoder } from './support-models.js'
import { adamw, split, toyRows } from './support-train.js'

const device = getDevice()
const doubled = [false, true]
const types = ['f32', 'bf16'] as const

const digest = (values: ArrayBufferView): string =>
  createHash('sha256')
    .update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
    .digest('hex')
    .slice(0, 16)

/** Frees a decoder when the test ends. */
function freed<M extends Decoder>(t: Pick<Test, 'teardown'>, m: M): M {
  t.teardown(() => disposeDecoder(m, disposeFlat))
  return m
}

// Types --------------------------------------------------------------------------------------------------------------

/** The normal distribution up to x, by its series around 0. */
function normalBelow(x: number): number {
  let [sum, term] = [0, x]
  for (let k = 1; Math.abs(term) > 1e-18; k++) {
    sum += term
    term *= (x * x) / (2 * k + 1)
  }
  return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)
}

function quantile(p: number): number {
  let [low, high] = [-4, 4]
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2
    if (normalBelow(middle) < p) low = middle
    else high = middle
  }
  return low
}

t.test('the levels of NF4 are those of the paper', async (t) => {
  // Appendix E: quantiles at equal steps of probability from 1/2 to an outermost one, in eight steps above zero and seven
  // below, over the largest. bitsandbytes steps in f32.
  const outermost = Math.fround(0.9677083)
  const side = (count: number) => {
    const step = Math.fround(Math.fround(0.5 - outermost) / count)
    const at = (i: number) => (i < Math.floor((count + 1) / 2) ? outermost + step * i : 0.5 - step * (count - i))
    return Array.from({ length: count }, (_, i) => Math.fround(quantile(Math.fround(at(i)))))
  }
  const [above, below] = [side(8), side(7)]
  const levels = [...below.map((x) => -x), 0, ...above.reverse()].map((x) => Math.fround(x / above[7]))
  t.same(levels, nf4Levels, 'to the bit')
  using w = empty(device, [16], 'f32')
  using pairs = tensor(
    device,
    Uint8Array.from({ length: 8 }, (_, i) => 16 * (2 * i) + 2 * i + 1),
  )
  using one = tensor(device, Float32Array.of(1))
  dequantizeNf4(w, pairs, one)
  t.same(Array.from(await w.data()), nf4Levels, 'the kernels have them too')
})

/** 44,810 numbers in blocks of very different size, exact in any language. */
const sample = Float32Array.from(
  { length: 64 * 700 + 10 },
  (_, i) => ((((i * 7919) % 2003) - 1001) / 997) * (1 + ((Math.floor(i / 64) * 31) % 17)),
)

t.test('the numbers of bitsandbytes', async (t) => {
  // Digests of its reference arithmetic (backends/default/ops.py), run with PyTorch over the same numbers, the mean in f64.
  t.equal(digest(dynamicMap()), 'e732639a65f497b4', 'the dynamic map')
  const specs = [{ name: 'w', shape: [1, sample.length] }]
  using x = tensor(device, sample)
  const plain = createQuantized(device, specs, { dtype: 'f32', doubleQuant: false })
  await quantizeInto(plain, 'w', x)
  const [codes, absmax] = await Promise.all(plain.storage.map((s) => s.bits()))
  t.equal(digest(codes), '8a8c3cf9a817a041', 'codes')
  t.equal(digest(absmax), 'd262f20e2e492cc0', 'absmax')
  const inner = quantizeBlockwise(absmax as Float32Array)
  t.equal(digest(inner.codes), '9a087677e1c2e181', 'codes of the absmax')
  t.equal(digest(inner.absmax), '6512ed7ed3b053e2', 'absmax of the absmax')
  t.equal(inner.offset, 8.948172569274902, 'their mean')
  const twice = createQuantized(device, specs, { dtype: 'f32', doubleQuant: true })
  await quantizeInto(twice, 'w', x)
  const back = async (of: typeof plain) => {
    using w = unpacked(of.byName.get('w')!)
    return digest(await w.bits())
  }
  t.equal(await back(plain), 'bd965fbcaa434019', 'and back')
  t.equal(await back(twice), 'efbb7a0266648345', 'and back, with double quantisation')
  const half = createQuantized(device, specs, { dtype: 'bf16', doubleQuant: true })
  await quantizeInto(half, 'w', x)
  t.equal(await back(half), 'f3ab1c915fc74c75', 'and back to bf16')
  for (const made of [plain, twice, half]) disposeQuantized(made)
})

t.test('bits per weight', async (t) => {
  const specs = ['a', 'b', 'c', 'd'].map((name) => ({ name, shape: [512, 1024] }))
  for (const [doubleQuant, bits] of [
    [false, 4.5],
    [true, 4.127],
  ] as const) {
    const live = await liveBytes()
    const made = createQuantized(device, specs, { dtype: 'bf16', doubleQuant })
    const used = (((await liveBytes()) - live) * 8) / 2 ** 21
    t.ok(Math.abs(used - bits) < 0.01, `${used}, the map of the model with it`)
    disposeQuantized(made)
    t.equal(await liveBytes(), live, 'they come back')
  }
})

t.test('what cannot be quantised', async (t) => {
  const made = createQuantized(device, [{ name: 'w', shape: [2, 64] }], { dtype: 'f32', doubleQuant: true })
  t.teardown(() => disposeQuantized(made))
  for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY]) {
    using x = tensor(device, new Float32Array(128).fill(bad, 77, 78))
    await t.rejects(quantizeInto(made, 'w', x), { code: 'E_NONFINITE', where: 'w' })
  }
  using zeros = tensor(device, new Float32Array(128))
  await quantizeInto(made, 'w', zeros)
  using w = unpacked(made.byName.get('w')!)
  t.ok(
    (await w.data()).every((x) => x === 0),
    'zeros stay zeros',
  )
})

// Models -------------------------------------------------------------------------------------------------------------

const lora: Partial<LoraConfig> = {
  r: 4,
  loraAlpha: 8,
  loraDropout: 0,
  initLoraWeights: false,
  modulesToSave: ['embed_tokens', 'norm'],
}

/** A four-bit toy with an adapter, and the same adapter over the same weights unpacked. */
async function twins(t: Pick<Test, 'teardown'>, dtype: 'f32' | 'bf16', doubleQuant: boolean, settings = lora) {
  const toy = toyDecoder(device, true, dtype)
  const packed = freed(t, withAdapter(await quantizedDecoder(toy, { doubleQuant }), settings, 3))
  const parameters = unpackedParameters(packed)
  const plain = freed(t, withAdapter(createDecoder(toy.config, device, parameters), settings, 3))
  disposeDecoder(toy, disposeFlat)
  return { packed, plain }
}

async function hiddenOf(m: Decoder): Promise<number[]> {
  using scope = new Scope()
  const input = packedInput(m, packSequences([randomIds('quantize', 40, 61)]))
  return wordsOf(await scope.run(() => forward(m, input)).data())
}

t.test('layers have the bits of unpacked weights', async (t) => {
  const tokenizer = await loadTokenizer(golden('smollm'))
  for (const dtype of types)
    for (const doubleQuant of doubled)
      for (const useDora of [false, true]) {
        const name = `${dtype}${doubleQuant ? ', double' : ''}${useDora ? ', DoRA' : ''}`
        const { packed, plain } = await twins(t, dtype, doubleQuant, {
          ...lora,
          useDora,
          targetModules: ['q_proj', 'up_proj'],
        })
        t.same(await hiddenOf(packed), await hiddenOf(plain), `${name}: hidden states`)
        t.same(await hiddenOf(withoutAdapter(packed)), await hiddenOf(withoutAdapter(plain)), `${name}: adapter off`)
        const samples = [packed, plain].map((m) =>
          languageModel(m, tokenizer, '').generate([[1, 2, 3]], { maxNewTokens: 12, stopIds: [], numGenerations: 2 }),
        )
        const [[ours], [theirs]] = await Promise.all(samples)
        t.same(ours, theirs, `${name}: samples and their log-probs`)
      }
  const gpt2 = gpt2Decoder(device, 'f32')
  const four = freed(t, await quantizedDecoder(gpt2, { doubleQuant: false }))
  const plain = freed(t, createDecoder(gpt2.config, device, unpackedParameters(four)))
  disposeDecoder(gpt2, disposeFlat)
  t.same(await hiddenOf(four), await hiddenOf(plain), 'GPT-2')
})

t.test('gradients have the bits of unpacked weights', async (t) => {
  const batches = split(toyRows('quantize', 6), [4, 2])
  for (const dtype of types)
    for (const [doubleQuant, useDora, activationCheckpointing] of [
      [false, false, false],
      [true, false, true],
      [true, true, false],
    ]) {
      const { packed, plain } = await twins(t, dtype, doubleQuant, { ...lora, loraDropout: 0.2, useDora })
      const found = []
      for (const policy of [packed, plain]) {
        const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw, activationCheckpointing })
        found.push(await gradientsOf(trainer, batches))
        disposeTrainer(trainer)
      }
      const [ours, theirs] = found
      t.equal(ours.loss, theirs.loss)
      t.ok(ours.gradients.size > 20)
      for (const [name, values] of ours.gradients)
        if (!sameBytes(values, theirs.gradients.get(name)!)) t.fail(`${dtype} ${doubleQuant} ${useDora}: ${name}`)
    }
})

t.test('training changes the adapter and nothing else', async (t) => {
  for (const dtype of types) {
    const policy = freed(
      t,
      withAdapter(await quantizedDecoder(toyDecoder(device, true, dtype), { doubleQuant: true }), { r: 4 }, 3),
    )
    const before = await modelHash(withoutAdapter(policy))
    await hiddenOf(policy)
    const live = await liveBytes()
    const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw })
    const batches = split(toyRows('quantize', 6), [3, 3])
    const losses: number[] = []
    for (let step = 0; step < 20; step++) losses.push((await trainStep(trainer, batches, 1e-2)).loss)
    t.ok(losses[19] < 0.8 * losses[0], `${dtype}: the loss falls: ${losses[0]} to ${losses[19]}`)
    t.equal(await modelHash(withoutAdapter(policy)), before, 'no bit of the base has changed')
    disposeTrainer(trainer)
    t.equal(await liveBytes(), live, 'the memory comes back')
  }
})

t.test('one matrix is unpacked at a time', async (t) => {
  const { packed, plain } = await twins(t, 'f32', false)
  const batch = split(toyRows('quantize', 2), [2])
  const above: number[] = []
  for (const policy of [packed, plain]) {
    const trainer = createTrainer({ policy, objective: sft(), optimizer: adamw })
    await trainStep(trainer, batch, 1e-2)
    const live = await liveBytes()
    device.resetPeak()
    await trainStep(trainer, batch, 1e-2)
    await device.sync()
    above.push(device.memory().peakBytes - live)
    disposeTrainer(trainer)
  }
  const largest = 96 * 64 * 4
  t.ok(above[0] <= above[1] + largest, `${above[0]} bytes at most, ${above[1]} with plain weights`)
})

t.test('what is refused', async (t) => {
  const bare = freed(t, await quantizedDecoder(toyDecoder(device), { doubleQuant: false }))
  const refusal = { code: 'E_CONFIG', where: 'loadIn4bit', message: /adapter/ }
  t.throws(() => createTrainer({ policy: bare, objective: sft(), optimizer: adamw }), refusal)
  const model = languageModel(bare, await loadTokenizer(golden('smollm')), '')
  await t.rejects(train({ policy: model, objective: sft(), data: [] }).result, refusal, 'before rows are read')
  t.throws(() => mergeAdapter(withAdapter(bare, lora)), { code: 'E_CONFIG' })
  await t.rejects(loadModel(golden('llama'), { bnb4bitUseDoubleQuant: true }), {
    code: 'E_CONFIG',
    message: /loadIn4bit/,
  })
})
