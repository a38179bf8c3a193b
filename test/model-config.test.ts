// config.json -> a decoder's configuration: what it may not say, what it may leave out, how it was spelled before, and the
// rotary scalings. Arithmetic of each family is the golden suite's.

import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { loadModel } from '../ts/src/generate/language-model.js'
import { readJsonObject } from '../ts/src/io/json.js'
import { decoderConfig } from '../ts/src/models/config.js'
import { changedModel, golden, liveBytes, randomIds, temporaryFolder, wordsOf } from './support.js'

const ids = randomIds('models', 40, 300)

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
    [{ model_type: 'gemma', use_bidirectional_attention: true }, 'use_bidirectional_attention'],
    [{ model_type: 'gemma', hidden_act: 'relu' }, 'hidden_act'],
    [{ model_type: 'llama', hidden_act: 'gelu' }, 'hidden_act'],
    ...['embedding_multiplier', 'attention_multiplier', 'residual_multiplier', 'logits_scaling'].map(
      (key): [Record<string, unknown>, string] => [{ model_type: 'granite', [key]: 0 }, key],
    ),
    [{ model_type: 'smollm3', no_rope_layers: [1] }, 'no_rope_layers'],
    [{ model_type: 'smollm3', no_rope_layers: [1, 'no'] }, 'no_rope_layers'],
    [{ model_type: 'smollm3', no_rope_layer_interval: 0 }, 'no_rope_layer_interval'],
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

t.test("what configurations leave out is the family's", async (t) => {
  const of = async (name: string) => readJsonObject(join(golden(name), 'config.json'))
  const without = (raw: Record<string, unknown>, ...keys: string[]) =>
    decoderConfig(Object.fromEntries(Object.entries(raw).filter(([key]) => !keys.includes(key))))
  const smollm3 = { ...(await of('smollm3')), num_hidden_layers: 4 }
  t.match(
    without(smollm3, 'no_rope_layers', 'layer_types', 'tie_word_embeddings', 'rope_parameters'),
    { ropeOf: [0, 0, 0, undefined], windows: [0, 0, 0, 8], tied: true, rope: [{ theta: 2e6 }] },
    'SmolLM3: every fourth layer is not rotated',
  )
  t.match(without({ ...smollm3, use_sliding_window: false }, 'layer_types', 'no_rope_layers').windows, [0, 0, 0, 0])
  const third = { ...smollm3, no_rope_layer_interval: 3 }
  t.same(without(third, 'layer_types', 'no_rope_layers').ropeOf, [0, 0, undefined, 0])
  const gemma = await of('gemma')
  t.equal(gemma.hidden_act, 'gelu')
  t.match(decoderConfig(gemma), { activation: 'geluTanh', attentionScale: 0.25, normOffset: 1, tied: true })
  t.match(without(gemma, 'hidden_act', 'tie_word_embeddings', 'head_dim'), { activation: 'geluTanh', headDim: 8 })
  const none = ['embedding_multiplier', 'attention_multiplier', 'residual_multiplier', 'logits_scaling']
  const plain = { embeddingScale: 1, attentionScale: 1, residualScale: 1, headScale: 1 }
  t.match(without(await of('granite'), ...none), plain, 'Granite without factors')
  const olmo3 = { ...(await of('olmo3')), num_hidden_layers: 4 }
  const silent = without(olmo3, 'layer_types', 'rope_parameters', 'rms_norm_eps')
  t.match(silent, {
    windows: [8, 8, 8, 0],
    normEps: 1e-5,
    rope: [{ theta: 5e5 }, { theta: 5e5 }],
    ropeOf: [1, 1, 1, 0],
  })
  t.same(without({ ...(await of('phi3')), sliding_window: null }).windows, [0, 0])
})

t.test('OLMo 3 as it was spelled before Transformers 5', async (t) => {
  const raw = await readJsonObject(join(golden('olmo3'), 'config.json'))
  const { full_attention } = raw.rope_parameters as Record<string, Record<string, unknown>>
  const { rope_theta, ...scaling } = full_attention
  const old = { rope_parameters: undefined, rope_theta, rope_scaling: scaling }
  const folder = await changedModel(join(await temporaryFolder(t), 'model'), 'olmo3', { config: old })
  using now = await loadModel(golden('olmo3'))
  using before = await loadModel(folder)
  t.same(wordsOf(await before.logProbs(ids)), wordsOf(await now.logProbs(ids)))
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
