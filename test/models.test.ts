// Loading a Hugging Face folder: what is refused and how it is said, single and sharded weights, element types, and that
// every byte comes back. Numbers of whole models are golden.test.ts's.

import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { bf16FromF32, bf16FromFloat } from '../ts/src/io/dtype.js'
import { type TensorEntry, writeSafetensors } from '../ts/src/io/safetensors.js'
import { loadDecoder } from '../ts/src/models/load.js'
import { getDevice } from '../ts/src/native/device.js'
import { parameter, parameterCount } from '../ts/src/nn/parameters.js'
import { sizeOf } from '../ts/src/tensor/shape.js'
import { entriesOf, readFlat } from '../ts/train/state.js'
import { createTrainer, disposeTrainer, gradientsOf } from '../ts/train/trainer.js'
import { maskedBatch } from './golden-judges/batches.js'
import {
  changedModel,
  entriesOfFile,
  golden,
  liveBytes,
  randomIds,
  sameBytes,
  temporaryFolder,
  wordsOf,
} from './support.js'

const ids = randomIds('models', 40, 300)
const last = 'model.norm.weight'

t.test('weights must fit the configuration', async (t) => {
  const folder = join(await temporaryFolder(t), 'model')
  const before = await liveBytes()
  const cases: [string, (entries: readonly TensorEntry[]) => readonly TensorEntry[], RegExp][] = [
    ['missing', (all) => all.filter(({ name }) => name !== last), /missing: model\.norm\.weight$/],
    ['unexpected', (all) => [...all, { ...all[0], name: 'extra.weight' }], /unexpected: extra\.weight$/],
    [
      'misshapen',
      (all) => all.map((e) => (e.name === last ? { ...e, shape: [8, 9] } : e)),
      /misshapen: model\.norm\.weight \(expected \[72\], got \[8, 9\]\)$/,
    ],
    [
      'all three',
      (all) => all.slice(1).map((e) => (e.name === last ? { ...e, name: 'model.norm.bias' } : e)),
      /missing: .*model\.norm\.weight; unexpected: model\.norm\.bias/,
    ],
    ['many', (all) => all.slice(0, 1), /missing: [^;]*, and \d+ more$/],
  ]
  for (const [what, weights, message] of cases) {
    await changedModel(folder, 'smollm', { weights })
    await t.rejects(loadModel(folder), { code: 'E_MISMATCH', message }, what)
  }
  const integer = (all: readonly TensorEntry[]) =>
    all.map((e) => (e.name === last ? { ...e, dtype: 'I32' } : e)) as TensorEntry[]
  await changedModel(folder, 'smollm', { weights: integer })
  await t.rejects(loadModel(folder), { code: 'E_DTYPE', message: /model\.norm\.weight.*got I32/ }, 'integers')
  await changedModel(folder, 'smollm', {})
  await rm(join(folder, 'tokenizer.json'))
  await t.rejects(loadModel(folder), { code: 'E_IO', message: /tokenizer\.json/ }, 'no tokenizer')
  await rm(join(folder, 'model.safetensors'))
  await t.rejects(loadDecoder(folder), { code: 'E_IO', message: /model\.safetensors/ }, 'no weights')
  t.equal(await liveBytes(), before, 'every failed load gave its memory back')
})

t.test('shards', async (t) => {
  const folder = await changedModel(join(await temporaryFolder(t), 'model'), 'llama', {})
  const entries = await entriesOfFile(join(golden('llama'), 'model.safetensors'))
  const shardOf = (i: number) => `model-0000${1 + (i % 3)}-of-00003.safetensors`
  const index = join(folder, 'model.safetensors.index.json')
  const map = Object.fromEntries(entries.map(({ name }, i) => [name, shardOf(i)]))
  for (let shard = 0; shard < 3; shard++)
    await writeSafetensors(
      join(folder, shardOf(shard)),
      entries.filter((_, i) => i % 3 === shard),
    )
  await rm(join(folder, 'model.safetensors'))
  const writeIndex = (weight_map: unknown) => writeFile(index, JSON.stringify({ metadata: {}, weight_map }))
  await writeIndex(map)
  {
    using whole = await loadModel(golden('llama'))
    using sharded = await loadModel(folder)
    t.same(wordsOf(await sharded.logits(ids)), wordsOf(await whole.logits(ids)), 'three shards are one model')
  }
  const cases: [string, unknown, string, RegExp][] = [
    ['no map', 'all of them', 'E_FORMAT', /weight_map/],
    ['another shard', { ...map, [last]: shardOf(1) }, 'E_MISMATCH', /norm\.weight/],
    ['a tensor nowhere', { ...map, 'extra.weight': shardOf(0) }, 'E_MISMATCH', /extra\.weight/],
    ['a tensor left out', Object.fromEntries(Object.entries(map).slice(1)), 'E_MISMATCH', /no shard|not name/],
    ['no such file', { ...map, extra: 'model-4.safetensors' }, 'E_IO', /model-4/],
    ['a path', { ...map, extra: '../model.safetensors' }, 'E_PATH', /plain file name/],
    ['a hidden file', { ...map, extra: '.hidden' }, 'E_PATH', /plain file name/],
  ]
  for (const [what, weightMap, code, message] of cases) {
    await writeIndex(weightMap)
    await t.rejects(loadModel(folder), { code, message }, what)
  }
})

t.test('element types', async (t) => {
  const folder = join(await temporaryFolder(t), 'model')
  const embedding = 'model.embed_tokens.weight'
  const bitsOf = async (directory: string, dtype?: 'f32' | 'bf16') => {
    using model = await loadModel(directory, { dtype })
    return Array.from(await parameter(model.decoder.parameters, embedding).bits())
  }
  const [stored] = (await entriesOfFile(join(golden('smollm'), 'model.safetensors'))).filter(
    (e) => e.name === embedding,
  )
  const values = new Float32Array(stored.data.buffer)
  t.same(await bitsOf(golden('smollm')), Array.from(values), 'f32 as stored')
  t.same(await bitsOf(golden('smollm'), 'bf16'), Array.from(values, bf16FromFloat), 'rounded to bf16')
  const [halves] = (await entriesOfFile(join(golden('mistral'), 'model.safetensors'))).filter(
    (e) => e.name === embedding,
  )
  const bits = new Uint16Array(halves.data.buffer)
  t.same(await bitsOf(golden('mistral')), Array.from(bits), 'bf16 as stored')
  const wide = new Float32Array(Uint32Array.from(bits, (half) => half << 16).buffer)
  t.same(await bitsOf(golden('mistral'), 'f32'), Array.from(wide), 'widened to f32')
  const asDouble = (all: readonly TensorEntry[]) =>
    all.map((e) => {
      const data = Float64Array.from(new Float32Array(e.data.buffer))
      return { ...e, dtype: 'F64', data: new Uint8Array(data.buffer) }
    })
  await changedModel(folder, 'smollm', { weights: asDouble })
  t.same(await bitsOf(folder), Array.from(values), 'f64 narrowed')
})

t.test('what is written is what was read', async (t) => {
  for (const name of ['gpt2', 'gemma3', 'qwen2', 'llama', 'olmo2', 'phi3'])
    for (const dtype of ['f32', 'bf16'] as const) {
      using m = await loadModel(golden(name), { dtype })
      const { parameters } = m.decoder
      const stored = new Map((await entriesOfFile(join(golden(name), 'model.safetensors'))).map((e) => [e.name, e]))
      const written = await entriesOf(parameters)
      t.equal(written.length, stored.size, `${name}: as many tensors`)
      const numbers = written.reduce((sum, { shape }) => sum + sizeOf(shape), 0)
      t.equal(parameterCount(parameters), numbers, `${name} ${dtype}: every number is counted`)
      const wrong = written.filter(({ name: own, shape, data }) => {
        const file = stored.get(own)
        if (file === undefined || `${file.shape}` !== `${shape}`) return true
        const values = dtype === 'f32' ? file.data : bf16FromF32(new Float32Array(file.data.buffer))
        return !sameBytes(values, data)
      })
      t.same(
        wrong.map((entry) => entry.name),
        [],
        `${name} ${dtype}: bytes and shapes`,
      )
      const source = new Map(written.map((entry) => [entry.name, entry]))
      const write = await readFlat(parameters, {
        shapeOf: (own) => source.get(own)?.shape,
        read: async (own) => source.get(own)?.data ?? new Uint8Array(0),
      })
      const before = wordsOf(await m.logits(ids))
      const { vector } = parameters.flat
      vector.write(dtype === 'f32' ? new Float32Array(vector.size) : new Uint16Array(vector.size))
      t.not(`${wordsOf(await m.logits(ids))}`, `${before}`, 'other weights, other logits')
      write()
      t.same(wordsOf(await m.logits(ids)), before, `${name} ${dtype}: read back`)
    }
})

t.test('GPT-2', async (t) => {
  const folder = join(await temporaryFolder(t), 'model')
  using model = await loadModel(golden('gpt2'))
  const expected = wordsOf(await model.logits(ids))
  const limit = model.decoder.config.maxPositions

  await t.test('names without the root, buffers of the mask', async (t) => {
    const buffer = { name: 'h.0.attn.bias', dtype: 'F32', shape: [1, 1, 2, 2], data: new Uint8Array(16) } as const
    const bare = (all: readonly TensorEntry[]) => [
      ...all.map((e) => ({ ...e, name: e.name.replace('transformer.', '') })),
      buffer,
      { ...buffer, name: 'h.0.attn.masked_bias' },
    ]
    await changedModel(folder, 'gpt2', { weights: bare })
    using same = await loadModel(folder)
    t.same(wordsOf(await same.logits(ids)), expected)
    await changedModel(folder, 'gpt2', { weights: (all) => [...bare(all), { ...buffer, name: 'h.0.attn.mask' }] })
    await t.rejects(loadModel(folder), { code: 'E_MISMATCH', message: /unexpected: transformer\.h\.0\.attn\.mask$/ })
    const turned = (all: readonly TensorEntry[]) =>
      all.map((e) => (e.name.endsWith('h.0.attn.c_attn.weight') ? { ...e, shape: [192, 64] } : e))
    await changedModel(folder, 'gpt2', { weights: turned })
    const message = /c_attn\.weight \(expected \[64, 192\], got \[192, 64\]\)/
    await t.rejects(loadModel(folder), { code: 'E_MISMATCH', message }, 'shapes are said as files have them')
  })

  await t.test('positions end', async (t) => {
    const full = randomIds('full', limit, 300)
    t.equal((await model.logProbs(full)).length, limit)
    const refused = { code: 'E_LIMIT', message: `expected at most ${limit} tokens in a sequence, got ${limit + 1}` }
    await t.rejects(model.logProbs([full, [...full, 1]]), refused)
    await t.rejects(model.generate(full, { maxNewTokens: 1 }), { code: 'E_CONFIG', message: /lower maxNewTokens/ })
    const [{ ids: last }] = await model.generate(full.slice(1), { maxNewTokens: 1, stopIds: [] })
    t.equal(last.length, 1)
  })

  await t.test('recomputed layers give the same gradients', async (t) => {
    const batch = maskedBatch([{ ids, prompt: 3 }])
    const optimizer = { adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 }
    for (const dtype of ['f32', 'bf16'] as const) {
      using m = await loadModel(golden('gpt2'), { dtype })
      const before = await liveBytes()
      const gradients = async (activationCheckpointing: boolean) => {
        const trainer = createTrainer({ policy: m.decoder, objective: sft(), optimizer, activationCheckpointing })
        const result = await gradientsOf(trainer, [batch])
        disposeTrainer(trainer)
        return Array.from(result.gradients, ([name, values]) => [name, wordsOf(values)])
      }
      t.ok(isDeepStrictEqual(await gradients(true), await gradients(false)), dtype)
      t.equal(await liveBytes(), before)
    }
  })
})

t.test('memory', async (t) => {
  for (const dtype of ['f32', 'bf16'] as const)
    for (const name of ['smollm', 'mistral', 'qwen3', 'gpt2']) {
      const before = await liveBytes()
      const model = await loadModel(golden(name), { dtype })
      const loaded = await liveBytes()
      t.ok(loaded > before)
      await model.logProbs([ids, ids.slice(0, 3)])
      await model.logits(ids)
      model.dispose()
      model.dispose()
      t.equal(await liveBytes(), before, `${name} ${dtype}: all bytes come back`)
      for (const use of ['logits', 'logProbs', 'generate'] as const)
        await t.rejects(model[use](ids) as Promise<unknown>, {
          code: 'E_DISPOSED',
          where: use,
          message: /the model of .* was already/,
        })
      t.equal(await liveBytes(), before)
    }
  await t.test('too little of it', async (t) => {
    getDevice().close()
    const device = getDevice({ memoryLimitBytes: 200_000 })
    t.teardown(() => device.close())
    await t.rejects(loadModel(golden('llama')), { code: 'E_OOM', message: /asked.*in use.*limit 200000/ })
    t.equal(await liveBytes(device), 0)
  })
})
