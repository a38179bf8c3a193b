// One section of the GPU test as a program: `node section.js NAME` runs it on the device that WHETSTONE_DEVICE names and
// prints what it found as one line of JSON, and on stderr where it is, for a run that hangs. A process each: a GPU that one
// section loses is whole for the next. `compare FAMILY` takes the ops of one family. On an emulated GPU some sections are asked
// for less: `trace STEPS`, `sampler TOKENS`, `resume STEP,...`, `tiles N,C,O`.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../../ts/src/base/errors.js'
import { type Completion, type LanguageModel, loadModel } from '../../ts/src/generate/language-model.js'
import { type Device, type DeviceOptions, getDevice, openDevice } from '../../ts/src/native/device.js'
import type { OpCase, OpEntry } from '../../ts/src/ops/define.js'
import { gatherRows, opEntries, opFamilies, scale } from '../../ts/src/ops/index.js'
import { Scope } from '../../ts/src/tensor/scope.js'
import { empty, tensor } from '../../ts/src/tensor/tensor.js'
import { trainStep } from '../../ts/train/trainer.js'
import {
  decode,
  difference,
  distance,
  type Example,
  exampleOf,
  examplesOf,
  execute,
  executeInParts,
  expected,
  type Float,
  rowsOfValue,
  sameBits,
  toleranceOf,
} from '../ops-cases.js'
import { golden } from '../support.js'
import { cutInEveryWay } from '../support-cuts.js'
import { runToy, toyPlan } from '../support-run.js'
import { disposeToy, toyTrainer } from '../support-train.js'

const [, , sectionName, amount] = process.argv

/** What a section found. */
export interface Findings {
  readonly passed: number
  /** One text per failure. */
  readonly failures: string[]
  /** Figures worth keeping. */
  readonly facts: Record<string, unknown>
}

const findings = { passed: 0, failures: [] as string[], facts: {} as Record<string, unknown> }

function check(ok: boolean, text: string): void {
  if (ok) findings.passed++
  else findings.failures.push(text)
}

const at = (place: string): void => {
  process.stderr.write(`at ${place}\n`)
}

/** Largest distances of one op's results from the float64 reference, on both devices. */
async function compareOp(cpu: Device, gpu: Device, entry: OpEntry) {
  const worst = { cpu: 0, gpu: 0 }
  for (const example of examplesOf(entry)) {
    at(`${entry.name} ${example.text}`)
    const want = expected(example)
    const [a, b] = [await execute(cpu, example), await execute(gpu, example)]
    b.forEach((result, i) => {
      const offCpu = distance(decode(a[i].bits, a[i].dtype), want[i].data)
      const offGpu = distance(decode(result.bits, result.dtype), want[i].data)
      worst.cpu = Math.max(worst.cpu, offCpu)
      worst.gpu = Math.max(worst.gpu, offGpu)
      check(
        offGpu <= toleranceOf(example, result),
        `${entry.name} ${example.text}: ${result.name} is off by ${offGpu} (CPU ${offCpu})`,
      )
    })
  }
  return worst
}

/** The ops that have a kernel; each of the others is a failure. */
const opsWithKernels = (entries = opEntries): readonly OpEntry[] =>
  entries.filter(({ name }) => {
    const has = getDevice().hasKernel(name)
    if (!has) check(false, `${name}: no kernel`)
    return has
  })

/** Every op, or one family, against the CPU and the float64 reference. */
async function compare(): Promise<void> {
  const cpu = openDevice({ device: 'cpu' })
  const family = amount as keyof typeof opFamilies | undefined
  for (const entry of opsWithKernels(family && opFamilies[family]))
    findings.facts[entry.name] = await compareOp(cpu, getDevice(), entry)
  cpu.close()
}

/** An op on numbers of its own shapes. */
const largeExample = (name: string, c: OpCase, float: Float): Example => {
  const entry = opEntries.find((e) => e.name === name) as OpEntry
  return exampleOf({ ...entry, cases: [c] }, 0, float)
}

/** An example's first or last rows alone. */
function fewRows(example: Example, from: number, to: number): Example {
  const rows = new Set(example.case.rows)
  const values = Object.entries(example.values).map(([name, v]) => [
    name,
    rows.has(name) ? rowsOfValue(v, from, to) : v,
  ])
  return { ...example, values: Object.fromEntries(values) }
}

/**
 * Products that fill a GPU are made by wide tiles, parts of them by narrow ones: the bits are the same. The first and last rows
 * equal the reference.
 */
async function tiles(): Promise<void> {
  const [n, c, o] = (amount ?? '2048,1096,4352').split(',').map(Number)
  const p = { softcap: 0, temperature: 1 }
  const targets = (i: number): number => (i * 7919) % o
  const large: readonly [string, OpCase][] = [
    ['linear', { in: { x: [n, c], w: [o, c] }, rows: ['x'] }],
    ['linear_dx', { in: { dy: [n, c], w: [c, o] }, rows: ['dy'] }],
    ['head_logprobs', { in: { h: [n, c], w: [o, c], targets: [n] }, p, fill: { targets }, rows: ['h', 'targets'] }],
  ]
  const ends = Array.from({ length: Math.ceil(n / 128) + 1 }, (_, i) => Math.min(n, 128 * i))
  for (const [name, sizes] of large) {
    const example = largeExample(name, sizes, 'bf16')
    at(`${name} ${example.text}`)
    const whole = await execute(getDevice(), example)
    const parts = await executeInParts(getDevice(), example, ends)
    check(
      difference(whole, parts) === undefined,
      `${name} ${example.text}: in parts of 128: ${difference(whole, parts)}`,
    )
    for (const from of [0, n - 4]) {
      const want = expected(fewRows(example, from, from + 4))
      for (const [i, result] of whole.entries()) {
        const width = result.bits.length / n
        const got = decode(result.bits.slice(from * width, (from + 4) * width), result.dtype)
        const off = distance(got, want[i].data)
        check(
          off <= toleranceOf(example, result),
          `${name} ${example.text}: row ${from}: ${result.name} is off by ${off}`,
        )
      }
    }
  }
}

const repeats = Number(process.env.WHETSTONE_TEST_REPEATS ?? 1000)

/** How many runs give other bits than the first. */
async function countDifferences(device: Device, example: Example): Promise<number> {
  const atOnce = 50
  const first = await execute(device, example)
  let different = 0
  for (let done = 0; done < repeats; done += atOnce) {
    const runs = await Promise.all(Array.from({ length: atOnce }, () => execute(device, example)))
    different += runs.filter((results) => difference(first, results) !== undefined).length
  }
  return different
}

/** The largest example of each type of an op. */
function largestExamples(entry: OpEntry): Example[] {
  const size = ({ values }: Example): number => Object.values(values).reduce((sum, v) => sum + v.bits.length, 0)
  const sorted = examplesOf(entry).toSorted((a, b) => size(b) - size(a))
  const floats = new Set(sorted.map(({ float }) => float))
  return [...floats].flatMap((float) => sorted.find((example) => example.float === float) ?? [])
}

/** The same bits again and again. */
async function repeat(): Promise<void> {
  for (const entry of opsWithKernels())
    for (const example of largestExamples(entry)) {
      at(`${entry.name} ${example.text}`)
      const different = await countDifferences(getDevice(), example)
      check(different === 0, `${entry.name} ${example.text}: ${different} of ${repeats} runs differ`)
    }
  findings.facts.repeats = repeats
}

/** Each op case once: what compute-sanitizer watches. */
async function once(): Promise<void> {
  for (const entry of opsWithKernels())
    for (const example of examplesOf(entry)) {
      at(`${entry.name} ${example.text}`)
      const results = await execute(getDevice(), example)
      check(results.length > 0, `${entry.name} ${example.text}`)
    }
}

/** The log-probs of the sampler are those of the trainer, bit for bit, alone and in a batch. */
async function sampler(): Promise<void> {
  const maxNewTokens = Number(amount ?? 24)
  for (const name of ['llama', 'qwen3', 'gemma2', 'gpt2', 'smollm'])
    for (const dtype of ['f32', 'bf16'] as const) {
      at(`${name} ${dtype}`)
      using model = await loadModel(golden(name), { dtype })
      const prompts = [[5, 9, 14], [7], Array.from({ length: 20 }, (_, i) => 3 + i)]
      const groups = await model.generate(prompts, { numGenerations: 4, maxNewTokens, stopIds: [], seed: 3 })
      const rows = groups.flatMap((samples, p) => samples.map(({ ids, logps }) => ({ prompt: prompts[p], ids, logps })))
      const all = await model.logProbs(rows.map(({ prompt, ids }) => [...prompt, ...ids]))
      for (const [i, { prompt, ids, logps }] of rows.entries()) {
        const alone = await model.logProbs([...prompt, ...ids])
        check(sameBits(all[i], alone), `${name} ${dtype}: sample ${i} alone and in a batch`)
        const drawn = Float32Array.from(logps)
        check(sameBits(all[i].slice(prompt.length), drawn), `${name} ${dtype}: sample ${i}: sampler and trainer`)
      }
      if (name === 'llama' || name === 'gemma2') await checkTurns(model, `${name} ${dtype}`)
    }
}

/** The same of samples of two turns, the second behind a reply over the keys of the first. */
async function checkTurns(model: LanguageModel, what: string): Promise<void> {
  const prompts = [[5, 9, 14], Array.from({ length: 30 }, (_, i) => 3 + i)]
  const firsts = prompts.map((): Completion[] => [])
  const reply = (p: number, s: number): number[] => Array.from({ length: [1, 5, 40][(p + s) % 3] }, (_, i) => 7 + i + s)
  const seconds = await model.generate(prompts, {
    ...{ numGenerations: 3, maxNewTokens: 4, stopIds: [], seed: 4 },
    reply: (p, s, turn) => {
      if (firsts[p][s] !== undefined) return undefined
      firsts[p][s] = turn
      return reply(p, s)
    },
  })
  for (const [p, group] of seconds.entries())
    for (const [s, second] of group.entries()) {
      const before = [...prompts[p], ...firsts[p][s].ids, ...reply(p, s)]
      const whole = await model.logProbs([...before, ...second.ids])
      check(sameBits(whole.slice(before.length), Float32Array.from(second.logps)), `${what}: turn 2 of ${p} ${s}`)
    }
}

/** The losses of a training run in each type, for the comparison between devices (main.ts); half as many steps in bf16. */
async function trace(): Promise<void> {
  const count = Number(amount ?? 50)
  const steps = { f32: count, bf16: Math.ceil(count / 2) }
  for (const dtype of ['f32', 'bf16'] as const) {
    const losses: number[] = []
    const trainer = toyTrainer({ dtype })
    for (let step = 0; step < steps[dtype]; step++)
      losses.push((await trainStep(trainer, await toyPlan(step), 3e-3)).loss)
    disposeToy(trainer)
    check(losses.every(Number.isFinite), `${dtype}: every loss is a number`)
    check(
      losses[losses.length - 1] < losses[0],
      `${dtype}: the loss falls: ${losses[0]} to ${losses[losses.length - 1]}`,
    )
    findings.facts[dtype] = losses
  }
}

/** A run that is stopped and resumed ends with the bits of one that was not. */
async function resume(): Promise<void> {
  const stops = (amount ?? '1,5,11').split(',').map(Number)
  const folder = await mkdtemp(join(tmpdir(), 'whetstone-gpu-'))
  try {
    // The last one trains an adapter, embedding and norms; its head is the embedding.
    const lora = { r: 4, modulesToSave: ['embed_tokens', 'norm'] }
    for (const toy of [{ dtype: 'f32' }, { dtype: 'bf16' }, { dtype: 'bf16', lora }] as const) {
      const name = `${toy.dtype}${'lora' in toy ? ' adapter' : ''}`
      const whole = await runToy({ toy })
      for (const stopAt of stops) {
        const directory = join(folder, `${name}-${stopAt}`)
        await runToy({ directory, stopAt, toy })
        const { hash } = await runToy({ directory, toy })
        check(hash === whole.hash, `${name}: stopped at ${stopAt} and resumed`)
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** A step in bf16 has the same bits however it is cut into micro-batches. */
async function cuts(): Promise<void> {
  Object.assign(findings, await cutInEveryWay(getDevice()))
  findings.facts.tokenAlignment = getDevice().tokenAlignment
}

const codeOf = async (work: () => Promise<unknown>): Promise<string> => {
  try {
    await work()
    return 'none'
  } catch (error) {
    return WhetstoneError.isInstance(error) ? error.code : messageOf(error)
  }
}

/** Out of memory is an error, whatever runs short, and smaller work goes on. */
async function memory(): Promise<void> {
  const device = (process.env.WHETSTONE_DEVICE ?? 'cpu') as DeviceOptions['device']
  const limits = [64, 32, 16, 8, 4, 2, 1].map((mib) => mib * 2 ** 20)
  for (const memoryLimitBytes of limits) {
    const small = openDevice({ device, memoryLimitBytes })
    const scope = new Scope()
    const large = scope.run(() => scale(empty(small, [memoryLimitBytes / 4], 'f32'), 2))
    check((await codeOf(() => large.data())) === 'E_OOM', `budget of ${memoryLimitBytes}: E_OOM`)
    scope.dispose()
    const fits = scope.run(() => scale(tensor(small, new Float32Array(memoryLimitBytes / 32).fill(3)), 2))
    check(
      (await fits.data()).every((x) => x === 6),
      `budget of ${memoryLimitBytes}: smaller work goes on`,
    )
    small.close()
  }
  const whole = openDevice({ device })
  const { limitBytes } = whole.memory()
  if (limitBytes > 0) {
    // A row of the last one is read: all of it is more than an array of the host may have.
    const first = tensor(whole, Int32Array.of(0))
    const pieces = Array.from({ length: 9 }, () => empty(whole, [Math.ceil(limitBytes / 2 ** 15), 1024], 'f32'))
    const row = gatherRows(pieces[8], first)
    check((await codeOf(() => row.data())) === 'E_OOM', 'more than the GPU has: E_OOM')
    for (const held of [first, row, ...pieces]) held.dispose()
    check((await scale(tensor(whole, Float32Array.of(3)), 2).data())[0] === 6, 'and it goes on')
    check(whole.memory().liveBytes <= 4096, `${whole.memory().liveBytes} bytes are held`)
  }
  whole.close()
}

const sections: Readonly<Record<string, () => Promise<void>>> = {
  compare,
  tiles,
  repeat,
  once,
  sampler,
  trace,
  resume,
  cuts,
  memory,
}

// One failed op rejects every read that waits for it; the first one is told. What ends a section is a failure like others.
process.on('unhandledRejection', () => {})
try {
  await sections[sectionName]()
} catch (error) {
  check(false, `${WhetstoneError.isInstance(error) ? `${error.code} ` : ''}${messageOf(error)}`)
}
process.stdout.write(`${JSON.stringify(findings satisfies Findings)}\n`)
await codeOf(async () => getDevice().close()) // a GPU that is lost cannot be opened to be closed
