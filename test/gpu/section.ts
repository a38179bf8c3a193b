// One section of the GPU test as a program: `node section.js NAME` runs it on the device that WHETSTONE_DEVICE names and
// prints what it found as one line of JSON. A process each: a GPU that one section loses is whole for the next. On an
// emulated GPU some sections are asked for less: `trace STEPS`, `sampler TOKENS`, `resume STEP,...`.

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../../ts/src/base/errors.js'
import { loadModel } from '../../ts/src/generate/language-model.js'
import { type Device, type DeviceOptions, getDevice, openDevice } from '../../ts/src/native/device.js'
import type { OpEntry } from '../../ts/src/ops/define.js'
import { gatherRows, opEntries, scale } from '../../ts/src/ops/index.js'
import { Scope } from '../../ts/src/tensor/scope.js'
import { empty, tensor } from '../../ts/src/tensor/tensor.js'
import { trainStep } from '../../ts/train/trainer.js'
import {
  decode,
  difference,
  distance,
  type Example,
  examplesOf,
  execute,
  expected,
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

/** Counts checks. */
function counter() {
  const findings = { passed: 0, failures: [] as string[], facts: {} as Record<string, unknown> }
  const check = (ok: boolean, text: string): void => {
    if (ok) findings.passed++
    else findings.failures.push(text)
  }
  return { findings, check }
}

/** Largest distances of one op's results from the float64 reference, on both devices. */
async function compareOp(cpu: Device, gpu: Device, entry: OpEntry, check: (ok: boolean, text: string) => void) {
  const worst = { cpu: 0, gpu: 0 }
  for (const example of examplesOf(entry)) {
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
const opsWithKernels = (check: (ok: boolean, text: string) => void): readonly OpEntry[] =>
  opEntries.filter(({ name }) => {
    const has = getDevice().hasKernel(name)
    if (!has) check(false, `${name}: no kernel`)
    return has
  })

/** Every op against the CPU and the float64 reference. */
async function compare(): Promise<Findings> {
  const { findings, check } = counter()
  const cpu = openDevice({ device: 'cpu' })
  for (const entry of opsWithKernels(check))
    findings.facts[entry.name] = await compareOp(cpu, getDevice(), entry, check)
  cpu.close()
  return findings
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
  const sorted = examplesOf(entry).sort((a, b) => size(b) - size(a))
  const floats = new Set(sorted.map(({ float }) => float))
  return [...floats].flatMap((float) => sorted.find((example) => example.float === float) ?? [])
}

/** The same bits again and again. */
async function repeat(): Promise<Findings> {
  const { findings, check } = counter()
  for (const entry of opsWithKernels(check))
    for (const example of largestExamples(entry)) {
      const different = await countDifferences(getDevice(), example)
      check(different === 0, `${entry.name} ${example.text}: ${different} of ${repeats} runs differ`)
    }
  findings.facts.repeats = repeats
  return findings
}

/** Each op case once: what compute-sanitizer watches. */
async function once(): Promise<Findings> {
  const { findings, check } = counter()
  for (const entry of opsWithKernels(check))
    for (const example of examplesOf(entry)) {
      const results = await execute(getDevice(), example)
      check(results.length > 0, `${entry.name} ${example.text}`)
    }
  return findings
}

/** The log-probs of the sampler are those of the trainer, bit for bit, alone and in a batch. */
async function sampler(): Promise<Findings> {
  const { findings, check } = counter()
  const maxNewTokens = Number(amount ?? 24)
  for (const name of ['llama', 'qwen3', 'gemma2', 'gpt2', 'smollm'])
    for (const dtype of ['f32', 'bf16'] as const) {
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
    }
  return findings
}

/** The losses of a training run, for the comparison between devices (main.ts). */
async function trace(): Promise<Findings> {
  const { findings, check } = counter()
  const steps = Number(amount ?? 50)
  const losses: number[] = []
  const trainer = toyTrainer()
  for (let step = 0; step < steps; step++) losses.push((await trainStep(trainer, await toyPlan(step), 3e-3)).loss)
  disposeToy(trainer)
  check(losses.every(Number.isFinite), 'every loss is a number')
  check(losses[steps - 1] < losses[0], `the loss falls: ${losses[0]} to ${losses[steps - 1]}`)
  findings.facts.losses = losses
  return findings
}

/** A run that is stopped and resumed ends with the bits of one that was not. */
async function resume(): Promise<Findings> {
  const { findings, check } = counter()
  const stops = (amount ?? '1,5,11').split(',').map(Number)
  const folder = await mkdtemp(join(tmpdir(), 'whetstone-gpu-'))
  try {
    for (const dtype of ['f32', 'bf16'] as const) {
      const whole = await runToy({ toy: { dtype } })
      for (const stopAt of stops) {
        const directory = join(folder, `${dtype}-${stopAt}`)
        await runToy({ directory, stopAt, toy: { dtype } })
        const { hash } = await runToy({ directory, toy: { dtype } })
        check(hash === whole.hash, `${dtype}: stopped at ${stopAt} and resumed`)
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  return findings
}

/** A step in bf16 has the same bits however it is cut into micro-batches. */
async function cuts(): Promise<Findings> {
  return { ...(await cutInEveryWay(getDevice())), facts: { tokenAlignment: getDevice().tokenAlignment } }
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
async function memory(): Promise<Findings> {
  const { findings, check } = counter()
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
  return findings
}

const sections: Readonly<Record<string, () => Promise<Findings>>> = {
  compare,
  repeat,
  once,
  sampler,
  trace,
  resume,
  cuts,
  memory,
}

/** What ends a section is a failure like others. */
const ended = (error: unknown): Findings => {
  const code = WhetstoneError.isInstance(error) ? `${error.code} ` : ''
  return { passed: 0, failures: [code + messageOf(error)], facts: {} }
}

// One failed op rejects every read that waits for it; the first one is told.
process.on('unhandledRejection', () => {})
const findings = await sections[sectionName]().catch(ended)
process.stdout.write(`${JSON.stringify(findings)}\n`)
getDevice().close()
