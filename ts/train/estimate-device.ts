// A device that only counts: tensors have sizes and lives and no numbers, ops run nothing. Whatever trains can be run on
// it, so that a prediction of memory is the training code itself and cannot drift from it. Sizes are rounded as
// native/cpu/device.cpp rounds them; its `memory()` is what the real device would say.

import { commands, type NativeDevice, type NumberArray } from '../src/native/addon.js'
import { Device } from '../src/native/device.js'
import { opTable } from '../src/native/ops.gen.js'
import { bytesPerElement, dtypes } from '../src/tensor/shape.js'
import type { Tensor } from '../src/tensor/tensor.js'

/** Bytes in use by what they are used for. */
export type Usage = ReadonlyMap<string, number>

/** A device that counts, and its books. */
export interface CountingDevice {
  readonly device: Device
  /** Says what tensors are used for, in place of the op that made them. */
  label(name: string, tensors: Iterable<Tensor>): void
  /** What was in use when most was. */
  usageAtPeak(): Usage
  /** Starts a new peak measurement. */
  resetPeak(): void
}

interface Storage {
  readonly bytes: number
  holds: number
  label: string | undefined
}

/** Block sizes grow in steps of an eighth of their power of two, from 256 bytes on. */
export function blockBytes(bytes: number): number {
  let step = 256
  while (step * 8 < bytes) step *= 2
  return bytes <= 256 ? 256 : Math.ceil(bytes / step) * step
}

const fresh = 'new'
const families = Object.values(opTable).map(({ family }) => family)

/** The books of a device: live blocks by label, idle blocks by size. */
function createBooks() {
  const live = new Map<string, number>()
  const idle = new Map<number, number>()
  const total = { live: 0, peak: 0, pool: 0 }
  let atPeak: Usage = new Map()
  let peaked = false
  const count = (label: string | undefined, bytes: number) => {
    const name = label ?? fresh
    live.set(name, (live.get(name) ?? 0) + bytes)
  }
  return {
    total,
    take(bytes: number): void {
      const waiting = idle.get(bytes) ?? 0
      if (waiting > 0) idle.set(bytes, waiting - 1)
      else total.pool += bytes
      total.live += bytes
      count(undefined, bytes)
      if (total.live > total.peak) {
        total.peak = total.live
        peaked = true
      }
    },
    giveBack({ bytes, label }: Storage): void {
      idle.set(bytes, (idle.get(bytes) ?? 0) + 1)
      total.live -= bytes
      count(label, -bytes)
    },
    relabel(storage: Storage, label: string): void {
      count(storage.label, -storage.bytes)
      storage.label = label
      count(label, storage.bytes)
    },
    /** Called when new blocks have their labels: remembers what makes up a peak. */
    settle(): void {
      if (peaked) atPeak = new Map([...live].filter(([, bytes]) => bytes > 0))
      peaked = false
    },
    usageAtPeak: (): Usage => atPeak,
    resetPeak(): void {
      total.peak = total.live
      peaked = true
    },
  }
}

/** Numbers that a computation could have given: log-probs of -1, flags that are set. */
const plausible = (into: NumberArray): number => (into instanceof Float32Array ? -1 : 1)

/** The books' side of every command, and the tensors by id. */
function createTensors(books: ReturnType<typeof createBooks>) {
  const tensors = new Map<number, Storage>()
  const labelNew = (id: number, label: string) => {
    const storage = tensors.get(id)
    if (storage !== undefined && storage.label === undefined) books.relabel(storage, label)
  }
  return {
    tensors,
    labelNew,
    create(id: number, dtype: number, shape: Float64Array): void {
      const bytes = blockBytes(shape.reduce((size, length) => size * length, bytesPerElement(dtypes[dtype])))
      books.take(bytes)
      tensors.set(id, { bytes, holds: 1, label: undefined })
    },
    view(id: number, source: number): void {
      const storage = tensors.get(source)
      if (storage === undefined) return
      storage.holds++
      tensors.set(id, storage)
    },
    release(id: number): void {
      books.settle()
      const storage = tensors.get(id)
      tensors.delete(id)
      if (storage !== undefined && --storage.holds === 0) books.giveBack(storage)
    },
    run(op: number, ids: Float64Array): void {
      for (const id of ids) labelNew(id, families[op])
      books.settle()
    },
  }
}

/** Runs the command at a place of the record (addon.ts has its layout); gives the place of the next. */
function execute(does: ReturnType<typeof createTensors>, record: Float64Array, at: number): number {
  const [kind, id, second, third] = record.subarray(at, at + 4)
  if (kind === commands.create) {
    does.create(id, second, record.subarray(at + 4, at + 4 + third))
    return at + 4 + third
  }
  if (kind === commands.view) {
    does.view(id, second)
    return at + 6 + record[at + 5]
  }
  if (kind === commands.release) {
    does.release(id)
    return at + 2
  }
  does.run(id, record.subarray(at + 3, at + 3 + second))
  return at + 4 + second + record[at + 3 + second]
}

function createNative(tokenAlignment: number) {
  const books = createBooks()
  const record = new Float64Array(4096)
  const does = createTensors(books)
  const { tensors, labelNew } = does
  const native: NativeDevice = {
    record,
    level: 'counting',
    threads: 1,
    tokenAlignment,
    submit(length) {
      for (let at = 0; at < length; ) at = execute(does, record, at)
    },
    write(id) {
      labelNew(id, 'inputs')
      books.settle()
    },
    read: async (_, into) => {
      for (const array of into) array?.fill(plausible(array))
      return []
    },
    setThreads: () => {},
    memory: () => ({
      liveBytes: books.total.live,
      peakBytes: books.total.peak,
      poolBytes: books.total.pool,
      limitBytes: 0,
    }),
    resetPeak: books.resetPeak,
    hasKernel: () => true,
    profile: () => new Float64Array(0),
    close: () => tensors.clear(),
  }
  return { native, books, storageOf: (id: number) => tensors.get(id) }
}

/** Opens a device that counts. `tokenAlignment`: of the device that is meant. */
export function openCountingDevice(tokenAlignment: number): CountingDevice {
  const { native, books, storageOf } = createNative(tokenAlignment)
  const device = new Device(native, 'cpu', 'counts only')
  return {
    device,
    label: (name, tensors) => {
      device.flush()
      for (const { id } of tensors) {
        const storage = storageOf(id)
        if (storage !== undefined) books.relabel(storage, name)
      }
      books.settle()
    },
    usageAtPeak: () => {
      device.flush()
      return books.usageAtPeak()
    },
    resetPeak: () => {
      device.flush()
      books.resetPeak()
    },
  }
}
