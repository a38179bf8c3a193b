// Folders and four-bit bases (QLoRA): quantising what is loaded, reading what bitsandbytes has quantised, runs, merging,
// references.

import { join } from 'node:path'
import t from 'tap'
import { dpo, sft } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { readJsonObject } from '../ts/src/io/json.js'
import type { TensorEntry } from '../ts/src/io/safetensors.js'
import { withoutAdapter } from '../ts/src/models/adapter.js'
import { type Decoder, disposeDecoder } from '../ts/src/models/decoder.js'
import { quantizedDecoder } from '../ts/src/models/quantize.js'
import { disposeFlat } from '../ts/src/nn/parameters.js'
import type { QuantizedMatrices, QuantizedMatrix } from '../ts/src/nn/quantized.js'
import { nf4Levels } from '../ts/src/ops/index.js'
import type { Shape } from '../ts/src/tensor/shape.js'
import { Tensor } from '../ts/src/tensor/tensor.js'
import { estimateMemory } from '../ts/train/estimate.js'
import { merge } from '../ts/train/merge.js'
import { modelHash } from '../ts/train/reference.js'
import { train } from '../ts/train/train.js'
import { changedModel, golden, liveBytes, randomIds, sameBytes, temporaryFolder } from './support.js'

const doubled = [false, true]
const types = ['f32', 'bf16'] as const

/** Hash of a base's weights, whatever its folder says of them. */
const weightsHash = ({ config, ...m }: Decoder): Promise<string> =>
  modelHash(withoutAdapter({ ...m, config: { ...config, quantization: undefined } }))

const loaded = { loadIn4bit: true, bnb4bitUseDoubleQuant: true } as const
const rows = Array.from({ length: 12 }, (_, i) => ({
  prompt: `hello ${i} `,
  completion: 'well met '.repeat(1 + (i % 3)),
}))
const pairs = rows.map(({ prompt, completion }) => ({ prompt, chosen: completion, rejected: `${completion}!` }))

t.test('loading quantises what is loaded', async (t) => {
  for (const name of ['llama', 'gpt2'])
    for (const dtype of types) {
      using four = await loadModel(golden(name), { ...loaded, dtype })
      using plain = await loadModel(golden(name), { dtype })
      const again = await quantizedDecoder(plain.decoder, { doubleQuant: true })
      t.teardown(() => disposeDecoder(again, disposeFlat))
      t.equal(await modelHash(four.decoder), await modelHash(again), `${name}, ${dtype}`)
      const ids = randomIds('quantize', 20, 300)
      const [a, b] = [await four.logProbs(ids), await plain.logProbs(ids)]
      t.notSame(a, b, 'other numbers')
      t.ok(
        a.every((value, i) => Math.abs(value - b[i]) < 2),
        'but not by much',
      )
    }
  const spoilt = await changedModel(join(await temporaryFolder(t), 'nan'), 'llama', {
    weights: (entries) =>
      entries.map((entry) =>
        entry.name.endsWith('up_proj.weight') ? { ...entry, data: entry.data.slice().fill(0xff, 0, 8) } : entry,
      ),
  })
  const live = await liveBytes()
  await t.rejects(loadModel(spoilt, loaded), { code: 'E_NONFINITE', where: /up_proj\.weight/ })
  t.equal(await liveBytes(), live, 'nothing is left behind')
})

/** config.json of a folder that Transformers has saved with bitsandbytes' weights. */
const quantization = {
  _load_in_4bit: true,
  _load_in_8bit: false,
  bnb_4bit_compute_dtype: 'bfloat16',
  bnb_4bit_quant_storage: 'uint8',
  bnb_4bit_quant_type: 'nf4',
  bnb_4bit_use_double_quant: false,
  llm_int8_skip_modules: null,
  llm_int8_threshold: 6.0,
  load_in_4bit: true,
  load_in_8bit: false,
  quant_method: 'bitsandbytes',
}

/** A matrix's tensors and their state as bitsandbytes writes them. */
async function storedEntries(name: string, matrix: QuantizedMatrix): Promise<TensorEntry[]> {
  const entry = async (suffix: string, dtype: string, x: Tensor, shape: Shape = x.shape) => {
    const { buffer, byteOffset, byteLength } = await x.bits()
    return { name: name + suffix, dtype, shape, data: new Uint8Array(buffer, byteOffset, byteLength) }
  }
  const { codes, absmax, shape } = matrix
  const levels = new Uint8Array(Float32Array.from(nf4Levels).buffer)
  const state: Record<string, unknown> = { quant_type: 'nf4', blocksize: 64, dtype: 'bfloat16', shape }
  const nested = absmax instanceof Tensor ? undefined : absmax
  if (nested !== undefined)
    Object.assign(state, {
      nested_blocksize: 256,
      nested_dtype: 'float32',
      nested_offset: (await nested.offset.data())[0],
    })
  const data = new TextEncoder().encode(JSON.stringify(state))
  return [
    await entry('', 'U8', codes, [...codes.shape, 1]),
    { name: `${name}.quant_map`, dtype: 'F32', shape: [16], data: levels },
    { name: `${name}.quant_state.bitsandbytes__nf4`, dtype: 'U8', shape: [data.length], data },
    ...(nested === undefined
      ? [await entry('.absmax', 'F32', absmax as Tensor)]
      : [
          await entry('.absmax', 'U8', nested.codes),
          await entry('.nested_absmax', 'F32', nested.absmax),
          await entry('.nested_quant_map', 'F32', nested.map),
        ]),
  ]
}

t.test('folders of bitsandbytes', async (t) => {
  const folder = await temporaryFolder(t)
  const ids = randomIds('bitsandbytes', 20, 300)
  const store = async (name: string, doubleQuant: boolean, change = (entry: TensorEntry): TensorEntry => entry) => {
    using four = await loadModel(golden('llama'), { ...loaded, bnb4bitUseDoubleQuant: doubleQuant })
    const { byName } = four.decoder.quantized as QuantizedMatrices
    const stored = new Map<string, TensorEntry[]>()
    for (const [matrix, of] of byName) stored.set(matrix, await storedEntries(matrix, of))
    const directory = await changedModel(join(folder, name), 'llama', {
      weights: (entries) => entries.flatMap((entry) => (stored.get(entry.name) ?? [entry]).map(change)),
      config: { quantization_config: { ...quantization, bnb_4bit_use_double_quant: doubleQuant } },
    })
    return { directory, logps: await four.logProbs(ids), hash: await weightsHash(four.decoder) }
  }
  const training = { perDeviceTrainBatchSize: 2, maxLength: 32 }
  for (const doubleQuant of doubled) {
    const { directory, logps, hash } = await store(`whole ${doubleQuant}`, doubleQuant)
    using model = await loadModel(directory, { lora: { r: 4 } })
    t.equal(await weightsHash(model.decoder), hash, 'every bit of the weights')
    t.ok(sameBytes(await model.logProbs(ids), logps), 'the same numbers')
    const settings = { objective: sft(), training, lora: { r: 4 } }
    const [own, other] = await Promise.all([
      estimateMemory({ ...settings, model: directory }),
      estimateMemory({ ...settings, model: golden('llama'), loadIn4bit: true, bnb4bitUseDoubleQuant: doubleQuant }),
    ])
    t.equal(own.peakBytes, other.peakBytes, 'the same estimate')
    const output = join(folder, `run ${doubleQuant}`)
    await train({ policy: model, objective: sft(), data: rows, maxSteps: 1, output }).result
    const merged = join(folder, `merged ${doubleQuant}`)
    await merge({ model: output, output: merged })
    t.notOk((await readJsonObject(join(merged, 'config.json'))).quantization_config, 'merged weights are plain')
    using plain = await loadModel(merged)
    t.equal(plain.decoder.quantized, undefined)
  }
  type Fault = { code: string; where?: RegExp; message?: RegExp }
  const faults: [string, (entry: TensorEntry) => TensorEntry, Fault][] = [
    [
      'levels',
      (e) => (e.name.endsWith('.quant_map') ? { ...e, data: e.data.slice().fill(0) } : e),
      { code: 'E_MISMATCH' },
    ],
    [
      'absmax',
      (e) => (e.name.endsWith('nested_absmax') ? { ...e, data: e.data.slice().fill(255) } : e),
      { code: 'E_NONFINITE' },
    ],
    [
      'type',
      (e) => (e.name.endsWith('.absmax') ? { ...e, dtype: 'I8' } : e),
      { code: 'E_DTYPE', message: /expected U8, got I8/ },
    ],
    [
      'missing',
      (e) => ({ ...e, name: e.name.replace('nested_absmax', 'other') }),
      { code: 'E_MISMATCH', message: /missing: .*nested_absmax/ },
    ],
    [
      'blocks',
      (e) =>
        e.name.endsWith('nf4') ? { ...e, data: Buffer.from(Buffer.from(e.data).toString().replace('64,', '32,')) } : e,
      { code: 'E_MISMATCH', where: /blocksize/, message: /expected 64, got 32/ },
    ],
    ['state', (e) => (e.name.endsWith('nf4') ? { ...e, data: e.data.slice().fill(0x7b) } : e), { code: 'E_FORMAT' }],
  ]
  const live = await liveBytes()
  for (const [name, change, expected] of faults) {
    const { directory } = await store(name, true, change)
    await t.rejects(loadModel(directory), expected, name)
  }
  t.equal(await liveBytes(), live, 'nothing is left behind')
})

t.test('runs over four-bit weights', async (t) => {
  const folder = await temporaryFolder(t)
  const settings = {
    objective: sft(),
    data: rows,
    maxSteps: 4,
    saveSteps: 2,
    learningRate: 1e-3,
    perDeviceTrainBatchSize: 4,
  }
  const start = () => loadModel(golden('llama'), { ...loaded, lora: { r: 4 }, seed: 5 })
  const ids = randomIds('quantize run', 20, 300)
  const run = async (output: string, stopAt?: number) => {
    using policy = await start()
    const stop = new AbortController()
    const running = train({
      ...settings,
      policy,
      output,
      resume: stopAt === undefined && output.endsWith('cut'),
      signal: stop.signal,
    })
    try {
      for await (const event of running) if (event.type === 'step' && event.step === stopAt) stop.abort()
    } catch (error) {
      t.match(error, { code: 'E_ABORTED' })
    }
    return Array.from(await policy.logProbs(ids))
  }
  const whole = await run(join(folder, 'whole'))
  await run(join(folder, 'cut'), 3)
  using plain = await loadModel(golden('llama'), { lora: { r: 4 }, seed: 5 })
  const other = train({ ...settings, policy: plain, output: join(folder, 'cut'), resume: true })
  await t.rejects(other.result, { code: 'E_MISMATCH' }, 'over other weights it does not go on')
  t.same(await run(join(folder, 'cut')), whole, 'stopped and resumed: equal bits')
  using again = await loadModel(join(folder, 'cut'), loaded)
  t.same(Array.from(await again.logProbs(ids)), whole, 'the folder of the run loads over its base')

  const { directory, dtype, merged } = await merge({
    model: join(folder, 'whole'),
    output: join(folder, 'merged'),
    ...loaded,
  })
  t.ok(merged.largest < 1e-4)
  using model = await loadModel(directory)
  t.equal(model.decoder.quantized, undefined, 'merged weights are plain')
  t.equal(model.decoder.parameters.dtype, dtype)
  using exact = await loadModel(join(folder, 'whole'), { ...loaded, dtype: 'f32' })
  const [a, b] = [await model.logProbs(ids), await exact.logProbs(ids)]
  t.ok(
    a.every((value, i) => Math.abs(value - b[i]) < (dtype === 'f32' ? 1e-4 : 0.5)),
    'they are what was trained',
  )
})

t.test('the base without its adapter is the reference', async (t) => {
  using policy = await loadModel(golden('llama'), { ...loaded, lora: { r: 4 } })
  const run = train({ policy, objective: dpo(), data: pairs, maxSteps: 2, learningRate: 1e-3 })
  const losses: number[] = []
  for await (const event of run) if (event.type === 'step') losses.push(event.loss)
  t.equal(losses[0], Math.log(2), 'at first they agree to the bit')
  t.ok(losses[1] < losses[0])
})
