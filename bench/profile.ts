// `npm run profile -- [--shape 0.8M] [--objective sft|dpo] [--lora] [--dtype bf16] [--threads N] [--steps 5]
// [--svg FILE] [--folded FILE]`: where the time of a training step goes, by op, against the ceilings of this machine that
// are timed in the same process; and as a flame graph. Times are wall times of the queue's thread.

import { parseArgs } from 'node:util'
import { dpo, sft } from '../ts/loss/index.js'
import { messageOf, WhetstoneError } from '../ts/src/base/errors.js'
import { median } from '../ts/src/base/stats.js'
import { writeAtomic } from '../ts/src/io/files.js'
import { withAdapter } from '../ts/src/models/adapter.js'
import { type Device, getDevice } from '../ts/src/native/device.js'
import { createTrainer, type MicroBatch, type Trainer, trainStep } from '../ts/train/trainer.js'
import { copyProbe, peakProbe } from './ceilings.js'
import { flameGraph, foldedStacks, type Stack } from './flame.js'
import { type Float, race } from './harness.js'
import {
  benchBatch,
  benchDecoder,
  benchOptimizer,
  benchPairs,
  benchShapes,
  qwenShape,
  shapeWords,
  smolShape,
} from './models.js'
import { machineLine } from './table.js'
import { type TracedOp, traceOps } from './trace.js'

const shapes = [...benchShapes, smolShape, qwenShape]

function parseCommand() {
  const options = {
    shape: { type: 'string', default: '0.8M' },
    objective: { type: 'string', default: 'sft' },
    lora: { type: 'boolean', default: false },
    dtype: { type: 'string', default: 'bf16' },
    threads: { type: 'string', default: String(getDevice().threads) },
    steps: { type: 'string', default: '5' },
    svg: { type: 'string', default: 'profile.svg' },
    folded: { type: 'string' },
  } as const
  try {
    const { values } = parseArgs({ options })
    const shape = shapes.find(({ name }) => name === values.shape)
    if (shape === undefined) throw new Error(`--shape: expected ${shapes.map(({ name }) => name).join(', ')}`)
    if (!['sft', 'dpo'].includes(values.objective)) throw new Error('--objective: expected sft or dpo')
    if (!['f32', 'bf16'].includes(values.dtype)) throw new Error('--dtype: expected f32 or bf16')
    const [threads, steps] = [Number(values.threads), Number(values.steps)]
    if (!(steps >= 1)) throw new Error('--steps: expected a number of at least 1')
    return { ...values, shape, dtype: values.dtype as Float, threads, steps }
  } catch (error) {
    throw new WhetstoneError('E_CONFIG', 'profile', messageOf(error), { cause: error })
  }
}

type Command = ReturnType<typeof parseCommand>

function trainerOf(device: Device, { shape, dtype, lora, objective }: Command): Trainer {
  const base = benchDecoder(device, shape, dtype)
  const policy = lora ? withAdapter(base, { r: 16 }) : base
  const reference = objective === 'dpo' ? (lora ? base : benchDecoder(device, shape, dtype)) : undefined
  return createTrainer({ policy, reference, objective: objective === 'dpo' ? dpo() : sft(), optimizer: benchOptimizer })
}

const batchOf = ({ objective, shape }: Command): MicroBatch =>
  objective === 'dpo' ? benchPairs(shape) : benchBatch(shape)

// Ceilings -------------------------------------------------------------------------------------------------------------

/** Rates of the loops that bound ops: the fastest product by type, a copy by how many bytes it moves. */
interface Ceilings {
  readonly flops: ReadonlyMap<Float, number>
  readonly bytes: ReadonlyMap<number, number>
}

/** Bytes as a power of two: a copy is timed for each size that occurs, but for those where a call costs more. */
const sizeClass = (bytes: number): number => 2 ** Math.min(28, Math.max(16, Math.round(Math.log2(bytes))))

async function measureCeilings(device: Device, ops: readonly TracedOp[]): Promise<Ceilings> {
  const flops = new Map<Float, number>()
  for (const dtype of new Set(ops.map((op) => op.dtype))) {
    const probe = await peakProbe(device, dtype)
    flops.set(dtype, 1e9 * (await race({ ours: probe }, 5)).ours.max)
    probe.dispose()
  }
  const bytes = new Map<number, number>()
  for (const size of new Set(ops.map((op) => sizeClass(op.bytes)))) {
    const probe = await copyProbe(device, size)
    bytes.set(size, 1e9 * (await race({ ours: probe }, 5)).ours.max)
    probe.dispose()
  }
  return { flops, bytes }
}

/** Seconds that an op would take at the ceiling: of arithmetic or of memory, whichever is later. */
function leastSeconds(op: TracedOp, ceilings: Ceilings): number {
  const arithmetic = op.flops / (ceilings.flops.get(op.dtype) ?? Number.POSITIVE_INFINITY)
  return Math.max(arithmetic, op.bytes / (ceilings.bytes.get(sizeClass(op.bytes)) ?? Number.POSITIVE_INFINITY))
}

// The table ------------------------------------------------------------------------------------------------------------

const sum = <T>(list: readonly T[], of: (x: T) => number): number => list.reduce((total, x) => total + of(x), 0)

function groupsOf(ops: readonly TracedOp[], keyOf: (op: TracedOp) => string): [string, TracedOp[]][] {
  const groups = new Map<string, TracedOp[]>()
  for (const op of ops) groups.set(keyOf(op), [...(groups.get(keyOf(op)) ?? []), op])
  return [...groups].sort(([, a], [, b]) => sum(b, (op) => op.seconds) - sum(a, (op) => op.seconds))
}

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`

const columnWidths = [24, 7, 10, 9, 7, 10, 8, 8] as const

const line = (cells: readonly string[], rest = ''): string =>
  [...cells.map((cell, i) => (i === 0 ? cell.padEnd(columnWidths[0]) : cell.padStart(columnWidths[i]))), rest]
    .join('  ')
    .trimEnd()

/** One line of the table: what a group of calls took in a step. */
function groupLine(name: string, ops: readonly TracedOp[], whole: Whole, rest = ''): string {
  const { stepSeconds, ceilings } = whole
  const seconds = sum(ops, (op) => op.seconds)
  const [flops, bytes] = [sum(ops, (op) => op.flops), sum(ops, (op) => op.bytes)]
  return line(
    [
      name,
      String(ops.length),
      (1000 * seconds).toFixed(3),
      ((1e6 * seconds) / ops.length).toFixed(1),
      percent(seconds / stepSeconds),
      flops > 0 ? (flops / seconds / 1e9).toFixed(1) : '',
      (bytes / seconds / 1e9).toFixed(1),
      percent(sum(ops, (op) => leastSeconds(op, ceilings)) / seconds),
    ],
    rest,
  )
}

interface Whole {
  /** Wall time of one step. */
  readonly stepSeconds: number
  readonly ceilings: Ceilings
}

const print = (text: string): void => {
  process.stdout.write(`${text}\n`)
}

function printTable(ops: readonly TracedOp[], whole: Whole): void {
  print(line(['op', 'calls', 'ms', 'us/call', 'share', 'GFLOP/s', 'GB/s', 'ceiling']))
  for (const [name, calls] of groupsOf(ops, (op) => op.op)) {
    print(groupLine(name, calls, whole))
    const shapes = groupsOf(calls, (op) => op.shape)
    if (shapes.length > 1 || calls.length > 1)
      for (const [shape, some] of shapes.slice(0, 6)) print(groupLine('  ', some, whole, shape))
  }
  const inOps = sum(ops, (op) => op.seconds)
  const [idle, between] = [sum(ops, (op) => op.idle), sum(ops, (op) => op.between)]
  const least = sum(ops, (op) => leastSeconds(op, whole.ceilings))
  const rest = (name: string, seconds: number) =>
    print(line([name, '', (1000 * seconds).toFixed(3), '', percent(seconds / whole.stepSeconds)]))
  rest('in ops', inOps)
  rest('at the ceilings', least)
  rest('queue idle', idle)
  rest('queue bookkeeping', between)
  rest('whole step', whole.stepSeconds)
}

// The flame graph ------------------------------------------------------------------------------------------------------

const updates: readonly string[] = ['adamw', 'adamw_stochastic', 'all_finite', 'add_norm']

/** Ops with the part of the step that they belong to, told by their names. */
function stacksOf(ops: readonly TracedOp[]): Stack[] {
  let phase = 'forward'
  return ops.flatMap(({ op, shape, seconds, idle, between }) => {
    if (updates.includes(op)) phase = 'update'
    else if (/_(backward|dx|dw)$/.test(op)) phase = 'backward'
    else if (op === 'gather_rows') phase = 'forward'
    return [
      { frames: [phase, op, shape], seconds },
      { frames: [phase, 'queue idle'], seconds: idle },
      { frames: [phase, 'queue bookkeeping'], seconds: between },
    ]
  })
}

// The command ----------------------------------------------------------------------------------------------------------

/** Every step runs the same ops: each op with its median times. */
function mediansOf(runs: readonly (readonly TracedOp[])[]): TracedOp[] {
  const [first] = runs
  if (runs.some((run) => run.length !== first.length))
    throw new WhetstoneError('E_INTERNAL', 'profile', 'expected the same ops in every step')
  return first.map((op, i) => {
    const of = (key: 'seconds' | 'idle' | 'between') => median(runs.map((run) => run[i][key]))
    return { ...op, seconds: of('seconds'), idle: of('idle'), between: of('between') }
  })
}

/** Small models take many steps until V8 has compiled what runs in one. */
async function warmUp(step: () => Promise<unknown>): Promise<void> {
  const end = performance.now() + 2000
  for (let i = 0; i < 2 || performance.now() < end; i++) await step()
}

async function profile(command: Command): Promise<void> {
  const device = getDevice()
  device.threads = command.threads
  const trace = traceOps(device)
  const trainer = trainerOf(device, command)
  const batch = batchOf(command)
  const step = () => trainStep(trainer, [batch], 1e-4)
  await warmUp(step)
  await trace.take()
  const runs: TracedOp[][] = []
  const seconds: number[] = []
  for (let i = 0; i < command.steps; i++) {
    const start = performance.now()
    await step()
    seconds.push((performance.now() - start) / 1000)
    runs.push(await trace.take())
  }
  trace.stop()
  const ops = mediansOf(runs)
  const whole = { stepSeconds: median(seconds), ceilings: await measureCeilings(device, ops) }
  const { shape, objective, lora, dtype, threads } = command
  const subject = `${objective}${lora ? ' with LoRA' : ''}, ${shape.name} (${shapeWords(shape)}), ${shape.rows} x ${shape.tokens}`
  print(machineLine(device))
  print(`${subject}, ${dtype}, ${threads} threads; medians of ${command.steps} steps`)
  print(ceilingsLine(whole.ceilings))
  printTable(ops, whole)
  await writeGraphs(stacksOf(ops), subject, command)
}

const ceilingsLine = ({ flops, bytes }: Ceilings): string => {
  const rates = [...flops].map(([dtype, rate]) => `product ${dtype} ${(rate / 1e9).toFixed(0)} GFLOP/s`)
  const copies = [...bytes]
    .sort(([a], [b]) => a - b)
    .map(([size, rate]) => `${size / 1024} KiB ${(rate / 1e9).toFixed(0)}`)
  return `ceilings: ${rates.join(', ')}; copy, GB/s: ${copies.join(', ')}`
}

async function writeGraphs(stacks: readonly Stack[], subject: string, { svg, folded }: Command): Promise<void> {
  await writeAtomic(svg, flameGraph(stacks, subject))
  if (folded !== undefined) await writeAtomic(folded, foldedStacks(stacks))
  print(`flame graph: ${svg}`)
}

try {
  await profile(parseCommand())
} catch (error) {
  if (!WhetstoneError.isInstance(error)) throw error
  process.stderr.write(`${error.code} ${error.message}\n`)
  process.exitCode = 1
} finally {
  getDevice().close()
}
