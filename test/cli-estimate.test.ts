// Predicted memory against what the device measures: models, types of weights, objectives, with and without activation
// checkpointing. The promise is 15%; on the CPU the prediction is the training code itself.

import { spawnSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t from 'tap'
import { type Objective, objectives } from '../ts/loss/index.js'
import { loadModel } from '../ts/src/generate/language-model.js'
import { withoutAdapter } from '../ts/src/models/adapter.js'
import { smallLlamaConfig } from '../ts/src/models/init.js'
import { getDevice } from '../ts/src/native/device.js'
import type { LoraConfig } from '../ts/src/nn/lora.js'
import { type TrainingInput, trainingOptions } from '../ts/train/config/options.js'
import type { EncodedExample } from '../ts/train/data/example.js'
import { microBatchOf } from '../ts/train/data/micro-batch.js'
import { estimateMemory } from '../ts/train/estimate.js'
import { blockBytes } from '../ts/train/estimate-device.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { createTask } from '../ts/train/tasks/index.js'
import { train } from '../ts/train/train.js'
import { createTrainer, disposeTrainer, trainStep } from '../ts/train/trainer.js'
import { golden, liveBytes, temporaryFolder } from './support.js'

const folder = await temporaryFolder(t)
const device = getDevice()
const source = createTask('arithmetic', { seed: 1, difficulty: 1 })
const promised = 0.15

async function taskModel(name: string, hiddenSize: number, layers: number): Promise<string> {
  const directory = join(folder, name)
  await makeTaskModel(directory, source, { seed: 1, hiddenSize, layers, heads: 4, intermediateSize: 3 * hiddenSize })
  return directory
}

const small = await taskModel('small', 128, 4)
const larger = await taskModel('larger', 384, 8)

/** Peak of what `work` does, with nothing in use before. */
async function peakOf(work: () => Promise<unknown>): Promise<number> {
  t.equal(await liveBytes(), 0, 'nothing is in use before')
  device.resetPeak()
  await work()
  return device.memory().peakBytes
}

const rows = Array.from({ length: 24 }, (_, i) => ({
  prompt: 'hello there '.repeat(1 + (i % 5)),
  completion: 'well met '.repeat(1 + ((i * 7) % 11)),
}))

type Dtype = 'f32' | 'bf16'

t.test('training on rows', async (t) => {
  const check = async (model: string, dtype: Dtype, settings: TrainingInput = {}) => {
    const own = { perDeviceTrainBatchSize: 4, numTrainEpochs: 1, ...settings }
    const options = { model, dtype, objective: objectives.sft(), training: trainingOptions.parse(own) }
    const { peakBytes } = await estimateMemory({ ...options, data: rows })
    const measured = await peakOf(async () => {
      using policy = await loadModel(model, { dtype })
      await train({ policy, objective: options.objective, data: rows, ...own }).result
    })
    const name = `${model.split('/').at(-1)} ${dtype} ${JSON.stringify(settings)}`
    t.comment(`${name}: predicted ${peakBytes}, measured ${measured}`)
    t.ok(Math.abs(peakBytes / measured - 1) < promised, name)
  }
  await check(golden('llama'), 'f32')
  await check(golden('llama'), 'bf16', { gradientCheckpointing: true })
  await check(golden('qwen2'), 'f32', { packing: true, maxLength: 64 })
  await check(golden('qwen2'), 'bf16', { gradientAccumulationSteps: 3 })
  const evaluated = { perDeviceTrainBatchSize: 1, perDeviceEvalBatchSize: 16, evalRows: 16 }
  await check(golden('llama'), 'f32', evaluated)
  const training = trainingOptions.parse(evaluated)
  const { objective, model, data } = { objective: objectives.sft(), model: golden('llama'), data: rows }
  const batchOf = async (more: object) =>
    (await estimateMemory({ model, objective, data, training: { ...training, ...more } })).batch.sequences
  t.equal(await batchOf({}), 16, 'the evaluation needs most')
  t.equal(await batchOf({ evalStrategy: 'no' }), 1, 'where there is one')
  const full = await estimateMemory({ model, objective, training: { ...training, maxLength: 32 } })
  t.match(full.batch, { sequences: 16, tokens: 16 * 32 }, 'without data all rows have the greatest length')
  const apart = await estimateMemory({ model, objective, data, evalData: rows, training: { ...training, evalRows: 0 } })
  t.equal(apart.batch.sequences, 16, 'rows of their own')
})

/** Examples whose every sequence has `length` tokens, as the estimate makes them without data. */
const fullExamples = ({ needs }: Objective, count: number, length: number): EncodedExample[] =>
  Array.from({ length: count }, () =>
    (needs.roles ?? ['completion']).map((role, s) => ({
      ids: new Array<number>(length).fill(1 + s),
      trained: Uint8Array.from({ length }, (_, i) => Number(i > 0)),
      role,
      scores: { label: 1 },
    })),
  )

t.test('steps over the longest rows', async (t) => {
  const maxLength = 128
  const check = async (
    model: string,
    name: string,
    dtype: Dtype,
    gradientCheckpointing = false,
    { lora, ...base }: { lora?: Partial<LoraConfig>; loadIn4bit?: boolean; bnb4bitUseDoubleQuant?: boolean } = {},
  ) => {
    const objective = objectives[name]()
    const training = trainingOptions.parse({ perDeviceTrainBatchSize: 2, maxLength, gradientCheckpointing })
    const { peakBytes, rows, batch } = await estimateMemory({ model, dtype, objective, training, lora, ...base })
    t.equal(
      rows.reduce((sum, { bytes }) => sum + bytes, 0),
      peakBytes,
      'the table adds up',
    )
    const measured = await peakOf(async () => {
      using policy = await loadModel(model, { dtype, lora, ...base })
      const copied = objective.needs.reference && lora === undefined
      using reference = copied ? await loadModel(model, { dtype }) : undefined
      const trainer = createTrainer({
        policy: policy.decoder,
        reference: reference?.decoder ?? withoutAdapter(policy.decoder),
        objective,
        optimizer: training,
        activationCheckpointing: gradientCheckpointing,
      })
      const batch = microBatchOf(fullExamples(objective, 2, maxLength))
      await trainStep(trainer, [batch], 1e-4)
      disposeTrainer(trainer)
    })
    const text = `${model.split('/').at(-1)} ${name} ${dtype} ${gradientCheckpointing ? 'checkpointing' : ''} ${JSON.stringify({ lora, ...base })}`
    t.comment(`${text}: ${batch.tokens} tokens, predicted ${peakBytes}, measured ${measured}`)
    t.ok(Math.abs(peakBytes / measured - 1) < promised, text)
    if ((base.loadIn4bit || lora?.modulesToSave) && device.kind === 'cpu') t.equal(peakBytes, measured, 'to the byte')
  }
  for (const model of [small, larger, golden('qwen2')])
    for (const name of ['sft', 'dpo']) {
      await check(model, name, 'f32')
      await check(model, name, 'bf16', true)
    }
  await check(small, 'dpo', 'f32', true)
  await check(small, 'superhf', 'bf16')
  await check(golden('llama'), 'kto', 'f32')
  await check(larger, 'sft', 'bf16', false, { lora: { r: 8 } })
  await check(small, 'dpo', 'f32', true, { lora: { targetModules: ['q_proj', 'v_proj'] } })
  const modulesToSave = ['embed_tokens', 'lm_head', 'norm']
  await check(larger, 'sft', 'bf16', true, { lora: { r: 8, modulesToSave } })
  await check(golden('llama'), 'dpo', 'bf16', false, { lora: { r: 8, modulesToSave } })
  await check(larger, 'sft', 'bf16', false, { lora: { r: 8, modulesToSave }, loadIn4bit: true })
  await check(larger, 'sft', 'bf16', false, { lora: { r: 8 }, loadIn4bit: true })
  await check(small, 'dpo', 'f32', true, { lora: {}, loadIn4bit: true, bnb4bitUseDoubleQuant: true })
})

t.test('a model of billions of weights without its weights', async (t) => {
  const model = join(folder, 'llama-8b')
  await mkdir(model)
  const shape = { vocabSize: 128_256, hiddenSize: 4096, layers: 32, heads: 32, kvHeads: 8, intermediateSize: 14_336 }
  const raw = smallLlamaConfig({ ...shape, maxPositions: 8192, eosTokenId: 1, padTokenId: 0 })
  await writeFile(join(model, 'config.json'), JSON.stringify({ ...raw, torch_dtype: 'bfloat16' }))
  const settings = { perDeviceTrainBatchSize: 1, maxLength: 2048, gradientCheckpointing: true }
  const training = trainingOptions.parse(settings)
  const estimate = await estimateMemory({ model, objective: objectives.dpo(), training })
  const bytes = (name: string) => estimate.rows.find((row) => row.name === name)?.bytes ?? 0
  t.equal(estimate.dtype, 'bf16')
  const parameters = 7_504_924_672
  const near = (name: string, each: number) => {
    const share = bytes(name) / (each * parameters)
    t.ok(share >= 1 && share <= 1.125, `${name}: blocks grow in steps of an eighth`)
  }
  near('weights', 2)
  near('optimizer moments', 8)
  t.equal(bytes('reference'), bytes('weights'))
  t.equal(bytes('f32 masters'), bytes('gradients'))
  const alone = await estimateMemory({
    model,
    objective: objectives.dpo(),
    training: trainingOptions.parse({ ...settings, stochasticRounding: true }),
  })
  t.equal(alone.peakBytes, estimate.peakBytes - bytes('f32 masters'), 'stochastic rounding has no masters')
  const follows = trainingOptions.parse({ ...settings, syncRefModel: true })
  const [own, given] = [undefined, model].map((reference) =>
    estimateMemory({ model, objective: objectives.dpo(), training: follows, reference }),
  )
  t.equal((await own).peakBytes, estimate.peakBytes, 'a copy of the start follows')
  t.equal((await given).peakBytes, estimate.peakBytes + bytes('reference'), 'one that is given is copied first')
  const base = { loadIn4bit: true, bnb4bitUseDoubleQuant: true, lora: { r: 16 } }
  const four = await estimateMemory({ model, objective: objectives.dpo(), training, ...base })
  const codes = four.rows.find((row) => row.name === 'weights in four bits')?.bytes ?? 0
  const share = (8 * codes) / (4.127 * (parameters - shape.vocabSize * shape.hiddenSize))
  t.ok(share >= 1 && share <= 1.125, `QLoRA: ${codes} bytes`)
  const without = await estimateMemory({ model, objective: objectives.simpo(), training })
  t.equal(
    without.rows.find((row) => row.name === 'reference'),
    undefined,
  )
})

t.test('block sizes', async (t) => {
  const sizes = [0, 1, 256, 257, 2048, 2049, 4096, 5000, 1e6]
  t.same(sizes.map(blockBytes), [256, 256, 256, 512, 2048, 2560, 4096, 5120, 1_048_576])
})

t.test('the command', async (t) => {
  const program = resolve('dist', 'bundle', 'cli.js')
  const estimate = (...args: string[]) =>
    spawnSync(process.execPath, [program, 'estimate', ...args], { encoding: 'utf8' })
  const options = ['--model', golden('llama'), '--max_length', '64', '--dtype', 'bf16']
  const text = estimate('dpo', ...options).stdout
  t.match(text, /^train dpo on .*llama in bf16$/m)
  t.match(text, /^largest micro-batch: 16 sequences, 1024 tokens .*, 1008 trained$/m)
  t.match(text, /^ +f32 masters +641\.\d KiB$/m)
  t.match(text, /^ +peak of the device +\d+\.\d MiB$/m)
  const { peakBytes, dtype } = JSON.parse(estimate('dpo', ...options, '--json').stdout) as {
    peakBytes: number
    dtype: string
  }
  t.equal(dtype, 'bf16')
  t.ok(peakBytes > 1e6)
  const { status, stderr } = estimate('dpo', '--model', 'nowhere')
  t.equal(status, 74)
  t.match(stderr, /^E_IO /)
})
