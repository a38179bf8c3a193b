// Loading a Hugging Face folder: what is refused and how it is said, single and sharded weights, element types, and that
// every byte comes back. Numbers of whole models are golden.test.ts's.

import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { bf16FromF32, bf16FromFloat } from '../ts/src/io/dtype.js'
import { readJsonObject } from '../ts/src/io/json.js'
import { type TensorEntry, writeSafetensors } from '../ts/src/io/safetensors.js'
import { decoderConfig } from '../ts/src/models/config.js'
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

t.test('what config.json may not say', async (t) => {
  const raw = await readJsonObject(join(golden('llama'), 'config.json'))
  const bad: [Record<string, unknown>, string][] = [
    ...['bert', '', '__proto__', 'constructor', null, 7].map((name): [Record<string, unknown>, string] => [
      { model_type: name },
      'model_type',
    ]),
    ...[0, -1, 1.5, '64', 2 ** 40, [], {}, true].flatMap((value): [Record<string, unknown>, string][] =>
      ['hidden_size', 'num_attention_heads', 'num_hidden_layers', 'intermediate_size', 'vocab_size'].map((key) => [
        { [key]: value },
        key,
      ]),
    ),
    [{ hidden_size: undefined }, 'hidden_size'],
    [{ num_hidden_layers: 2 ** 31 }, 'num_hidden_layers'],
    [{ num_key_value_heads: 3 }, 'num_key_value_heads'],
    [{ head_dim: 15 }, 'head_dim'],
    [{ head_dim: 258 }, 'head_dim'],
    [{ head_dim: undefined, num_attention_heads: 6, num_key_value_heads: 2 }, 'head_dim'],
    [{ rms_norm_eps: '1e-6' }, 'rms_norm_eps'],
    [{ rms_norm_eps: -1 }, 'rms_norm_eps'],
    [{ rope_theta: 0 }, 'rope_theta'],
    [{ rope_theta: -10000 }, 'rope_theta'],
    [{ hidden_act: 'relu' }, 'hidden_act'],
    [{ hidden_act: 'toString' }, 'hidden_act'],
    [{ attention_bias: 'no' }, 'attention_bias'],
    [{ tie_word_embeddings: 1 }, 'tie_word_embeddings'],
    [{ eos_token_id: -1 }, 'eos_token_id'],
    [{ eos_token_id: ['</s>'] }, 'eos_token_id'],
    [{ partial_rotary_factor: 2 }, 'partial_rotary_factor'],
    [{ rope_scaling: 'linear' }, 'rope_scaling'],
    [{ rope_scaling: [1] }, 'rope_scaling'],
    [{ rope_parameters: 3 }, 'rope_parameters'],
    [{ layer_types: ['full_attention'] }, 'layer_types'],
    [{ layer_types: ['full_attention', 'linear_attention'] }, 'layer_types'],
    [{ layer_types: ['full_attention', 'sliding_attention'] }, 'sliding_window'],
    [{ layer_types: ['full_attention', 'sliding_attention'], sliding_window: 0 }, 'sliding_window'],
    [{ model_type: 'mistral', sliding_window: -4 }, 'sliding_window'],
    [{ attn_logit_softcapping: -1 }, 'attn_logit_softcapping'],
    [{ final_logit_softcapping: 'x' }, 'final_logit_softcapping'],
    [{ model_type: 'gemma2', sliding_window: 8, query_pre_attn_scalar: 0 }, 'query_pre_attn_scalar'],
  ]
  for (const [patch, key] of bad)
    t.throws(
      () => decoderConfig({ ...raw, ...patch }),
      { code: 'E_CONFIG', message: `[config.json: ${key}] expected` },
      JSON.stringify(patch),
    )
  const gemma2 = { ...raw, model_type: 'gemma2', sliding_window: 8 }
  t.match(decoderConfig(gemma2), { attentionSoftcap: 50, logitSoftcap: 30 }, "caps that are left out are the family's")
  const off = { attn_logit_softcapping: null, final_logit_softcapping: null }
  t.match(decoderConfig({ ...gemma2, ...off }), { attentionSoftcap: 0, logitSoftcap: 0 }, 'null switches them off')
  t.doesNotThrow(() => decoderConfig({ ...raw, head_dim: undefined, torch_dtype: 'x', auto_map: { A: 'b.py' } }))
  const gpt2 = await readJsonObject(join(golden('gpt2'), 'config.json'))
  const badGpt2: [Record<string, unknown>, string][] = [
    ...['n_embd', 'n_head', 'n_layer', 'n_inner', 'n_positions', 'vocab_size'].flatMap(
      (key): [Record<string, unknown>, string][] => [0, 1.5, '4', []].map((value) => [{ [key]: value }, key]),
    ),
    [{ n_head: 5 }, 'head_dim'],
    [{ layer_norm_epsilon: 0 }, 'layer_norm_epsilon'],
    ...['gelu', 'relu', 'silu'].map((name): [Record<string, unknown>, string] => [
      { activation_function: name },
      'activation_function',
    ]),
    [{ scale_attn_by_inverse_layer_idx: true }, 'scale_attn_by_inverse_layer_idx'],
    [{ add_cross_attention: true }, 'add_cross_attention'],
    [{ scale_attn_weights: 'no' }, 'scale_attn_weights'],
  ]
  for (const [patch, key] of badGpt2)
    t.throws(
      () => decoderConfig({ ...gpt2, ...patch }),
      { code: 'E_CONFIG', message: `[config.json: ${key}] expected` },
      `gpt2 ${JSON.stringify(patch)}`,
    )
  t.equal(decoderConfig({ ...gpt2, scale_attn_weights: false }).attentionScale, 1)
  t.equal(decoderConfig({ ...gpt2, activation_function: 'gelu_pytorch_tanh' }).activation, 'geluTanh')
})

t.test('what is written is what was read', async (t) => {
  for (const name of ['gpt2', 'gemma3', 'qwen2', 'llama'])
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

t.test('rotary scalings', async (t) => {
  const folder = join(await temporaryFolder(t), 'model')
  const before = await liveBytes()
  const bad: [Record<string, unknown>, RegExp][] = [
    [{ rope_type: 'dynamic', factor: 2 }, /rope_type.*expected one of default, linear, llama3, yarn/],
    [{ rope_type: '__proto__' }, /rope_type/],
    [{ rope_type: 'linear' }, /factor/],
    [{ rope_type: 'linear', factor: 0 }, /factor/],
    [{ rope_type: 'yarn', factor: -1 }, /factor/],
    [{ rope_type: 'yarn', factor: 4, original_max_position_embeddings: 0 }, /original_max_position_embeddings/],
    [{ rope_type: 'llama3', factor: 8, low_freq_factor: 1 }, /high_freq_factor/],
    [{ rope_type: 'yarn', factor: 4, rope_theta: 1 }, /finite frequencies/],
  ]
  for (const [rope_scaling, message] of bad) {
    await changedModel(folder, 'llama', { config: { rope_scaling } })
    await t.rejects(loadModel(folder), { code: 'E_CONFIG', message }, JSON.stringify(rope_scaling))
  }
  t.equal(await liveBytes(), before, 'nothing stays behind')
})

t.test('config.json as a file', async (t) => {
  const folder = await changedModel(join(await temporaryFolder(t), 'model'), 'smollm', {})
  const cases: [string, string][] = [
    ['{"model_type": "llama",}', 'E_FORMAT'],
    ['[]', 'E_FORMAT'],
    ['{"model_type": "llama", "model_type": "llama"}', 'E_FORMAT'],
    ['{"hidden_size": 1e999}', 'E_FORMAT'],
    ['['.repeat(100) + ']'.repeat(100), 'E_LIMIT'],
    ['', 'E_FORMAT'],
  ]
  for (const [text, code] of cases) {
    await writeFile(join(folder, 'config.json'), text)
    await t.rejects(loadModel(folder), { code, message: /config\.json/ }, text.slice(0, 40))
  }
  await rm(join(folder, 'config.json'))
  await t.rejects(loadModel(folder), { code: 'E_IO', message: /config\.json.*does not exist/ })
  await t.rejects(loadModel(join(folder, 'nowhere')), { code: 'E_IO' })
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

t.test('Gemma 3 as it was spelled before Transformers 5', async (t) => {
  const raw = await readJsonObject(join(golden('gemma3'), 'config.json'))
  const ropes = raw.rope_parameters as Record<string, { rope_theta: number; factor: number }>
  t.same(raw.layer_types, ['sliding_attention', 'full_attention'], 'every second layer is a full one')
  const old = {
    layer_types: undefined,
    rope_parameters: undefined,
    sliding_window_pattern: 2,
    rope_theta: ropes.full_attention.rope_theta,
    rope_local_base_freq: ropes.sliding_attention.rope_theta,
    rope_scaling: { rope_type: 'linear', factor: ropes.full_attention.factor },
  }
  const folder = await changedModel(join(await temporaryFolder(t), 'model'), 'gemma3', { config: old })
  using now = await loadModel(golden('gemma3'))
  using before = await loadModel(folder)
  t.same(wordsOf(await before.logProbs(ids)), wordsOf(await now.logProbs(ids)))
})
