// Settings put together at random: whatever they are, cuts into micro-batches, threads, recomputation and stopping change no
// bit of what is trained, and neither batch nor threads of what is sampled. Each kind of setting has its own tests; here they
// meet. WHETSTONE_RANDOM=COUNT tries more of them, WHETSTONE_RANDOM_SEED others.

import { join } from 'node:path'
import t from 'tap'
import { createRandom, deriveKey } from '../ts/src/base/rng.js'
import {
  type Completion,
  type GenerateOptions,
  loadModel,
  type ModelOptions,
} from '../ts/src/generate/language-model.js'
import { getDevice } from '../ts/src/native/device.js'
import { golden, wordsOf } from './support.js'
import { type KindOptions, makeObjective, rowObjectives, runKind, tinyFolder } from './support-kinds.js'

const { folder, base } = await tinyFolder(t)
const count = Number(process.env.WHETSTONE_RANDOM ?? 10)
const seed = Number(process.env.WHETSTONE_RANDOM_SEED ?? 1)
const families = [
  'llama',
  'gemma2',
  'gemma3',
  'gpt2',
  'mistral',
  'qwen2',
  'qwen3',
  'smollm',
  'smollm3',
  'olmo3',
  'phi3',
]

/** Choices of one trial. */
function choices(kind: string, trial: number) {
  const random = createRandom(deriveKey(seed, kind, trial))
  const chance = (share: number): boolean => random.next() < share
  const pick = <T>(list: readonly T[]): T => list[random.integer(list.length)]
  return { chance, pick, below: (limit: number) => random.integer(limit) }
}
type Choices = ReturnType<typeof choices>

function chooseModel({ chance, pick }: Choices): { base: string; load: ModelOptions } {
  const dtype = pick(['f32', 'bf16'] as const)
  const lora = { r: pick([2, 7]), loraAlpha: 8, loraDropout: pick([0, 0.1]), useDora: chance(0.3) }
  const adapted = chance(0.4) ? { lora, loadIn4bit: chance(0.2) } : {}
  return { base: chance(0.4) ? base : golden(pick(families)), load: { dtype, ...adapted } }
}

/** Pairs of micro-batches and rows of each that make the same step. */
const cuts = [
  [4, 1],
  [2, 2],
  [1, 4],
] as const

function chooseRun(c: Choices): KindOptions {
  const { chance, pick } = c
  const model = chooseModel(c)
  const objective = makeObjective(pick(rowObjectives))
  const moves = objective.needs.reference && objective.needs.teacher !== true && model.load.lora === undefined
  return {
    ...model,
    objective,
    maxSteps: 3,
    seed: pick([1, 2]),
    maxGradNorm: pick([0, 1]),
    temperature: pick([1, 0.7]),
    neftuneNoiseAlpha: pick([0, 5]),
    packing: chance(0.3),
    maxLength: pick([32, 64]),
    truncationMode: pick(['keepStart', 'keepEnd'] as const),
    sharePrompts: chance(0.7),
    gradientCheckpointing: chance(0.3),
    stochasticRounding: model.load.dtype === 'bf16' && model.load.lora === undefined && chance(0.4),
    ...(moves && chance(0.5) && { syncRefModel: true, refModelSyncSteps: 2 }),
  }
}

/** Works with another number of threads. */
async function onThreads<R>(threads: number, work: () => Promise<R>): Promise<R> {
  getDevice().threads = threads
  return work().finally(() => {
    getDevice().threads = 2
  })
}

t.test('training', async (t) => {
  for (let trial = 0; trial < count; trial++) {
    const c = choices('train', trial)
    const options = chooseRun(c)
    const run = async (changes: Partial<KindOptions> = {}): Promise<string> =>
      (await runKind({ ...options, ...changes })).hash
    const { base: where, load, objective, ...settings } = options
    const text = JSON.stringify({ trial, objective: objective.name, base: where.split('/').at(-1), load, ...settings })
    const whole = await run()
    const [rows, accumulated] = c.pick(cuts.slice(1))
    const cut = { perDeviceTrainBatchSize: rows, gradientAccumulationSteps: accumulated }
    t.equal(await run(cut), whole, `cut: ${text}`)
    t.equal(await onThreads(c.pick([1, 3]), run), whole, `threads: ${text}`)
    t.equal(await run({ gradientCheckpointing: !settings.gradientCheckpointing }), whole, `recomputed: ${text}`)
    const output = join(folder, `trial-${trial}`)
    const stopped = run({ output, saveSteps: 1, stopAt: 1 + c.below(2) })
    await t.rejects(stopped, { code: 'E_ABORTED' })
    t.equal(await run({ output, saveSteps: 1, resume: true }), whole, `resumed: ${text}`)
  }
})

/** Tokens and numbers of samples, as words that are the same only when every bit is. */
const wordsOfSamples = (groups: readonly (readonly Completion[])[]): unknown =>
  groups.map((group) =>
    group.map(({ ids, logps, samplingLogps }) => [ids, wordsOf(Float32Array.from([...logps, ...samplingLogps]))]),
  )

t.test('sampling', async (t) => {
  for (let trial = 0; trial < count; trial++) {
    const c = choices('generate', trial)
    const { base: where, load } = chooseModel(c)
    using model = await loadModel(where, load)
    const { vocabSize } = model.decoder.config
    const lengths = Array.from({ length: 1 + c.below(5) }, () => 1 + c.below(40))
    const prompts = lengths.map((length) => Array.from({ length }, () => c.below(vocabSize)))
    const options = {
      temperature: c.pick([1, 0.6, 0]),
      topK: c.pick([0, 5]),
      topP: c.pick([1, 0.9]),
      minP: c.pick([0, 0.05]),
      repetitionPenalty: c.pick([1, 1.3]),
      numGenerations: c.pick([1, 3]),
      maxNewTokens: c.pick([1, 20]),
      seed: trial,
    }
    const text = JSON.stringify({ trial, base: where.split('/').at(-1), load, lengths, ...options })
    const sample = (some = prompts, more: GenerateOptions = {}) => model.generate(some, { ...options, ...more })
    const all = await sample()
    t.same(wordsOfSamples(await sample(prompts, { maxRows: c.pick([1, 2]) })), wordsOfSamples(all), `rows: ${text}`)
    t.same(wordsOfSamples(await onThreads(c.pick([1, 3]), sample)), wordsOfSamples(all), `threads: ${text}`)
    const one = c.below(prompts.length)
    const alone = await sample([prompts[one]], { promptKeys: [one] })
    t.same(wordsOfSamples(alone), wordsOfSamples([all[one]]), `alone: ${text}`)
    const [{ ids, logps }] = all[one]
    const trained = await model.logProbs([...prompts[one], ...ids])
    t.same(wordsOf(trained.slice(lengths[one])), wordsOf(Float32Array.from(logps)), `log-probs: ${text}`)
  }
})
