// What a device runs and how long it takes, op by op. Shapes, parameters and integers (who sees whom) are noted where the
// work is queued; times come from the queue itself, in the same order. Work of a call is counted by work.ts.

import type { NumberArray } from '../ts/src/native/addon.js'
import type { Device } from '../ts/src/native/device.js'
import type { OpName } from '../ts/src/native/ops.gen.js'
import { opTable } from '../ts/src/native/ops.gen.js'
import { type OpEntry, operandsOf, type Parameters } from '../ts/src/ops/define.js'
import { opEntries } from '../ts/src/ops/index.js'
import { type DType, dtypes, type Shape, shapeText, sizeOf } from '../ts/src/tensor/shape.js'
import type { Float } from './harness.js'
import { type Work, workOf } from './work.js'

/** One op that ran. Times in seconds. */
export interface TracedOp extends Work {
  readonly op: OpName
  /** Shapes of the operands that the caller gave. */
  readonly shape: string
  readonly dtype: Float
  readonly seconds: number
  /** The queue had nothing to do before it. */
  readonly idle: number
  /** The queue kept its books before it: memory, checks, what it waits for. */
  readonly between: number
}

/** A recording of a device. */
export interface Trace {
  /** Everything since the last call; resolves when it has run. */
  take(): Promise<TracedOp[]>
  stop(): void
}

interface Known {
  readonly shape: Shape
  readonly dtype: DType
  values?: Int32Array
}

type Queued = Pick<TracedOp, 'op' | 'shape' | 'dtype'> & Work

const entryOf = new Map<OpName, OpEntry>(opEntries.map((entry) => [entry.name, entry]))

/** Operands by name with what is known of them. */
function namedOperands(op: OpName, ids: readonly number[], known: ReadonlyMap<number, Known>): Map<string, Known> {
  const named = new Map<string, Known>()
  operandsOf(op).forEach(({ name }, i) => {
    const found = known.get(ids[i])
    if (found !== undefined) named.set(name, found)
  })
  return named
}

function describe(
  op: OpName,
  ids: readonly number[],
  values: readonly number[],
  known: ReadonlyMap<number, Known>,
): Queued {
  const operands = operandsOf(op)
  const named = namedOperands(op, ids, known)
  const given = operands.filter(({ name, role }) => role !== 'output' && named.has(name)).map(({ name }) => name)
  const shapes: Record<string, Shape> = {}
  const integers: Record<string, Int32Array> = {}
  const types: Record<string, Float> = {}
  let dtype: Float | undefined
  for (const { name, type } of operands) {
    const operand = named.get(name)
    if (operand === undefined) continue
    if (given.includes(name)) shapes[name] = operand.shape
    if (type === 'i32') integers[name] = operand.values ?? new Int32Array(sizeOf(operand.shape))
    if (type === 'F') types[name] = operand.dtype as Float
    if (type === 'T') dtype ??= operand.dtype as Float
  }
  const p: Parameters = Object.fromEntries(opTable[op].parameters.map((name, i) => [name, values[i]]))
  const entry = entryOf.get(op)
  const float = dtype ?? 'f32'
  const work = entry && workOf(entry, { in: shapes, p, dtypes: types }, float, integers)
  const shape = given.map((name) => `${name} ${shapeText(shapes[name])}`).join(' ')
  return { op, shape, dtype: float, flops: work?.flops ?? 0, bytes: work?.bytes ?? 0 }
}

/** Notes what is queued on a device from now on. */
function watch(device: Device) {
  const known = new Map<number, Known>()
  const queued: Queued[] = []
  const { create, view, write, run } = device
  Object.assign(device, {
    create(dtype: number, shape: Shape): number {
      const id = create.call(device, dtype, shape)
      known.set(id, { shape, dtype: dtypes[dtype] })
      return id
    },
    view(source: number, offset: number, dtype: number, shape: Shape): number {
      const id = view.call(device, source, offset, dtype, shape)
      const values = known.get(source)?.values?.subarray(offset, offset + sizeOf(shape))
      known.set(id, { shape, dtype: dtypes[dtype], values })
      return id
    },
    write(id: number, values: NumberArray): void {
      write.call(device, id, values)
      const tensor = known.get(id)
      if (tensor !== undefined && values instanceof Int32Array) tensor.values = values.slice()
    },
    run(op: OpName, ids: readonly number[], parameters: readonly number[]): void {
      run.call(device, op, ids, parameters)
      queued.push(describe(op, ids, parameters, known))
    },
  })
  return { queued, unwatch: () => Object.assign(device, { create, view, write, run }) }
}

/** Starts a recording. Tensors that exist already are not known: make models and batches afterwards. */
export function traceOps(device: Device): Trace {
  const { queued, unwatch } = watch(device)
  device.profile(true)
  return {
    async take() {
      await device.sync()
      const times = device.profile(true)
      let before = 0
      return queued.splice(0).map((op, i) => {
        const [, begin, end, waited] = times.subarray(4 * i, 4 * i + 4)
        const between = before === 0 ? 0 : Math.max(0, begin - before - waited)
        before = end
        return { ...op, seconds: (end - begin) / 1e9, idle: waited / 1e9, between: between / 1e9 }
      })
    },
    stop() {
      device.profile(false)
      unwatch()
    },
  }
}
