// `npm run bench:builds -- OLD.node NEW.node [--shape 0.8M] [--objective sft|dpo] [--dtype f32] [--threads N] [--rounds 21]`:
// two builds of the addon, each in a process of its own, take turns at a training step. What counts is the ratio of
// neighbours: on a machine that others share, medians of runs one after the other move by a fifth.

import { type ChildProcess, fork } from 'node:child_process'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { dpo, sft } from '../ts/loss/index.js'
import { messageOf, WhetstoneError } from '../ts/src/base/errors.js'
import { median, quantile } from '../ts/src/base/stats.js'
import { getDevice } from '../ts/src/native/device.js'
import { createTrainer, trainStep } from '../ts/train/trainer.js'
import { type Float, timed } from './harness.js'
import { benchBatch, benchDecoder, benchPairs, benchShapes } from './models.js'
import { machineLine } from './table.js'

const optimizer = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0.1, maxGradNorm: 1 }

function parseCommand() {
  const options = {
    shape: { type: 'string', default: '0.8M' },
    objective: { type: 'string', default: 'sft' },
    dtype: { type: 'string', default: 'f32' },
    threads: { type: 'string', default: String(getDevice().threads) },
    rounds: { type: 'string', default: '21' },
  } as const
  try {
    const { values, positionals } = parseArgs({ options, allowPositionals: true })
    const shape = benchShapes.find(({ name }) => name === values.shape)
    if (shape === undefined) throw new Error(`--shape: expected ${benchShapes.map(({ name }) => name).join(', ')}`)
    if (!['sft', 'dpo'].includes(values.objective)) throw new Error('--objective: expected sft or dpo')
    if (!['f32', 'bf16'].includes(values.dtype)) throw new Error('--dtype: expected f32 or bf16')
    const [threads, rounds] = [Number(values.threads), Number(values.rounds)]
    if (!(Number.isInteger(threads) && threads >= 1))
      throw new Error('--threads: expected a whole number of at least 1')
    if (!(Number.isInteger(rounds) && rounds >= 1)) throw new Error('--rounds: expected a whole number of at least 1')
    if (positionals.length !== 2) throw new Error(`expected two addons, got ${positionals.length}`)
    return { ...values, shape, dtype: values.dtype as Float, threads, rounds, addons: positionals }
  } catch (error) {
    throw new WhetstoneError('E_CONFIG', 'bench:builds', messageOf(error), { cause: error })
  }
}

type Command = ReturnType<typeof parseCommand>

/** The process of one build: a step for every message, answered with its seconds. */
function serve({ shape, objective, dtype, threads }: Command, send: (seconds: number) => void): void {
  const device = getDevice()
  device.threads = threads
  const pairs = objective === 'dpo'
  const trainer = createTrainer({
    policy: benchDecoder(device, shape, dtype),
    reference: pairs ? benchDecoder(device, shape, dtype) : undefined,
    objective: pairs ? dpo() : sft(),
    optimizer,
  })
  const batch = pairs ? benchPairs(shape) : benchBatch(shape)
  const step = timed(() => trainStep(trainer, [batch], 1e-4))
  process.on('message', () => void step().then(send))
}

const start = (addon: string): ChildProcess =>
  fork(import.meta.filename, process.argv.slice(2), { env: { ...process.env, WHETSTONE_ADDON: resolve(addon) } })

/** The seconds of one step of a build. */
const stepOf = (build: ChildProcess): Promise<number> =>
  new Promise((done, failed) => {
    const ended = (code: number | null) =>
      failed(new WhetstoneError('E_INTERNAL', 'bench:builds', `a build ended with ${code}`))
    build.once('exit', ended)
    build.once('message', (seconds: number) => {
      build.off('exit', ended)
      done(seconds)
    })
    build.send('step', (error) => error && ended(build.exitCode))
  })

async function compare({ addons, rounds, shape, objective, dtype, threads }: Command): Promise<void> {
  console.log(machineLine(getDevice()))
  const builds = addons.map(start)
  const times: number[][] = [[], []]
  try {
    // The first two steps of each find no memory and no compiled code.
    for (let round = -2; round < rounds; round++)
      for (const [i, build] of builds.entries()) {
        const seconds = await stepOf(build)
        if (round >= 0) times[i].push(1000 * seconds)
      }
  } finally {
    for (const build of builds) build.kill()
  }
  const ratios = times[0].map((old, i) => old / times[1][i])
  const words = (values: readonly number[], digits: number) =>
    [median(values), quantile(values, 0.25), quantile(values, 0.75)].map((value) => value.toFixed(digits))
  console.log(`${objective} ${shape.name}, ${dtype}, ${threads} threads, ${rounds} rounds; median (quartiles)`)
  for (const [i, addon] of addons.entries()) {
    const [middle, low, high] = words(times[i], 1)
    console.log(`${addon}: ${middle} ms (${low} to ${high}), least ${Math.min(...times[i]).toFixed(1)}`)
  }
  const [middle, low, high] = words(ratios, 3)
  console.log(`first / second: ${middle} (${low} to ${high})`)
}

const send = process.send?.bind(process)
try {
  const command = parseCommand()
  if (send) serve(command, (seconds) => send(seconds))
  else await compare(command)
} catch (error) {
  if (!WhetstoneError.isInstance(error)) throw error
  process.stderr.write(`${error.code} ${error.message}\n`)
  process.exitCode = 1
}
