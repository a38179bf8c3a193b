// A device as TypeScript sees it: an in-order queue that takes tensor ids and op records. Ids are recycled here;
// lifetimes are the tensor room's business. Nothing above this room knows which kind of device it talks to.

import { checkOptions, kinds, optional } from '../base/arguments.js'
import { type ErrorCode, messageOf, WhetstoneError } from '../base/errors.js'
import { commands, loadAddon, type MemoryStats, type NativeDevice, type NumberArray } from './addon.js'
import { judgeAuto, judgeNamed } from './cuda.js'
import { type OpName, opTable } from './ops.gen.js'

/** How to open a device. */
export interface DeviceOptions {
  /**
   * `auto` takes what `WHETSTONE_DEVICE` names, else the fastest that works, and says why in `Device.reason`. A name never
   * falls back; `cuda` is `cuda:0`, numbered as the driver does (`CUDA_VISIBLE_DEVICES`).
   */
  device?: 'auto' | 'cpu' | 'cuda' | `cuda:${number}`
  /** CPU threads (a GPU ignores them); default: physical cores that affinity and quota allow, or `WHETSTONE_THREADS`. */
  threads?: number
  /** Level of the CPU: `v2`, `avx2`, `avx512`, `avx512bf16` or `amx`; default: the best here, or `WHETSTONE_ISA`. */
  isa?: string
  /** Budget for tensors in bytes, 0 for none; default `WHETSTONE_MEMORY_LIMIT` or 0. */
  memoryLimitBytes?: number
}

/** Kinds of {@link DeviceOptions}. */
export const deviceKinds = {
  device: optional(kinds.text),
  threads: optional(kinds.number),
  isa: optional(kinds.text),
  memoryLimitBytes: optional(kinds.whole),
}

/** So many commands cross to the device at once; with some ten ops among them the crossing costs little. */
const commandsAtOnce = 32
/** Numbers of the longest command: an op with 16 operands and 16 parameters. */
const longestCommand = 36
const maxElements = 1e14

function checkElements(shape: readonly number[]): void {
  let size = 1
  for (const dim of shape) size = Number.isInteger(dim) && dim >= 0 && dim <= 1e12 ? size * dim : Number.NaN
  if (size <= maxElements && shape.length <= 4) return
  throw new WhetstoneError('E_SHAPE', 'create', `expected up to 4 lengths of at most 1e14 elements, got [${shape}]`)
}

/** A read that was asked for; without an array it only waits. */
interface Read {
  readonly id: number
  readonly into: NumberArray | null
  resolve(): void
  reject(error: unknown): void
}

/** An open device: its queue, its memory, and why it was chosen. */
export class Device {
  readonly kind: 'cpu' | 'cuda'
  /** As `DeviceOptions.device` names it: `cpu`, `cuda:0`. */
  readonly name: string
  /** Instruction-set level, or compute capability and name of the GPU. */
  readonly level: string
  /**
   * Tokens that one step of a bf16 weight's gradient sums: gradients of micro-batches add up to the bits of one batch where
   * tokens are cut at multiples of this. 1 where they are summed one by one, as everywhere in f32.
   */
  readonly tokenAlignment: number
  /** Why this device, for logs and `doctor`. */
  readonly reason: string
  #open: NativeDevice | undefined
  readonly #free: number[] = []
  #used = 0
  #threads: number
  /** Numbers and commands in the record that were not submitted yet. */
  #length = 0
  #waiting = 0
  /** Reads that were asked for since, and cross together. */
  #reads: Read[] = []

  /** name: `cpu` or `cuda:N`. */
  constructor(native: NativeDevice, name: string, reason: string) {
    this.#open = native
    this.name = name
    this.kind = name === 'cpu' ? 'cpu' : 'cuda'
    this.level = native.level
    this.tokenAlignment = native.tokenAlignment
    this.reason = reason
    this.#threads = native.threads
  }

  get #native(): NativeDevice {
    if (this.#open !== undefined) return this.#open
    throw new WhetstoneError('E_DEVICE', 'device', 'the device was closed')
  }

  /** The device in words, with the reason for it: for logs. */
  get description(): string {
    const threads = this.kind === 'cpu' ? `, ${this.#threads} threads` : ''
    return `${this.name} ${this.level}${threads} (${this.reason})`
  }

  /** Number of CPU threads that kernels use. Results do not depend on it. */
  get threads(): number {
    return this.#threads
  }

  set threads(count: number) {
    this.#flushed().setThreads(checkThreads(count, 'threads'))
    this.#threads = count
  }

  /** The record, with room for one more command. What is in it goes off when there is much, or when JS is done. */
  #room(): Float64Array {
    const { record } = this.#native
    const full = this.#waiting === commandsAtOnce || this.#length > record.length - longestCommand
    if (full || this.#reads.length > 0) this.#submit()
    if (this.#waiting++ === 0) queueMicrotask(() => this.#submit())
    return record
  }

  /** Hands what is queued to the device now; else that happens when there is much or when JS is done. */
  flush(): void {
    this.#submit()
  }

  #submit(): void {
    const length = this.#length
    this.#length = this.#waiting = 0
    if (length > 0) this.#open?.submit(length)
    if (this.#reads.length > 0) void this.#submitReads(this.#reads.splice(0))
  }

  /** One thread of Node waits for all of them: each costs two switches of threads. */
  async #submitReads(reads: readonly Read[]): Promise<void> {
    try {
      const failures = await this.#native.read(
        reads.map(({ id }) => id),
        reads.map(({ into }) => into),
      )
      reads.forEach(({ resolve, reject }, i) => {
        if (failures[i] === undefined) resolve()
        else reject(fromNative(failures[i]))
      })
    } catch (error) {
      for (const { reject } of reads) reject(fromNative(error))
    }
  }

  /** Resolves when everything queued before has run and `into`, if any, is filled. What is asked for in one go waits together. */
  #wait(id: number, into: NumberArray | null): Promise<void> {
    if (this.#reads.length === 0) queueMicrotask(() => this.#submit())
    return new Promise((resolve, reject) => this.#reads.push({ id, into, resolve, reject }))
  }

  /** The device itself, with everything queued. */
  #flushed(): NativeDevice {
    this.#submit()
    return this.#native
  }

  /** Reserves memory for a tensor; contents undefined. Returns its id. */
  create(dtype: number, shape: readonly number[]): number {
    checkElements(shape)
    const record = this.#room()
    const id = this.#free.pop() ?? this.#used++
    record[this.#length++] = commands.create
    record[this.#length++] = id
    this.#putShape(record, dtype, shape)
    return id
  }

  /** A second name for a range of a tensor's elements. Returns its id. */
  view(source: number, offset: number, dtype: number, shape: readonly number[]): number {
    checkElements(shape)
    const record = this.#room()
    const id = this.#free.pop() ?? this.#used++
    record[this.#length++] = commands.view
    record[this.#length++] = id
    record[this.#length++] = source
    record[this.#length++] = offset
    this.#putShape(record, dtype, shape)
    return id
  }

  #putShape(record: Float64Array, dtype: number, shape: readonly number[]): void {
    record[this.#length++] = dtype
    record[this.#length++] = shape.length
    for (const dim of shape) record[this.#length++] = dim
  }

  /** Gives a tensor's id back, in queue order: work already queued still sees it. */
  release(id: number): void {
    this.#free.push(id)
    if (this.#open === undefined) return
    const record = this.#room()
    record[this.#length++] = commands.release
    record[this.#length++] = id
  }

  /** Queues an op. Ids in the order of ops.def, -1 for an absent operand. */
  run(op: OpName, ids: readonly number[], parameters: readonly number[]): void {
    const record = this.#room()
    let at = this.#length
    record[at++] = commands.run
    record[at++] = opTable[op].id
    record[at++] = ids.length
    for (const id of ids) record[at++] = id
    record[at++] = parameters.length
    for (const parameter of parameters) record[at++] = parameter
    this.#length = at
  }

  /** Queues a copy of host values into a tensor; the array may be reused at once. */
  write(id: number, values: NumberArray): void {
    this.#flushed().write(id, values)
  }

  /** Resolves with the array filled when everything queued before has run; rejects with what failed. */
  async read<A extends NumberArray>(id: number, into: A): Promise<A> {
    await this.#wait(id, into)
    return into
  }

  /** Resolves when everything queued so far has run. */
  async sync(): Promise<void> {
    await this.#wait(-1, null)
  }

  memory(): MemoryStats {
    return this.#flushed().memory()
  }

  /** Starts a new peak measurement. */
  resetPeak(): void {
    this.#flushed().resetPeak()
  }

  hasKernel(op: OpName): boolean {
    return this.#native.hasKernel(opTable[op].id)
  }

  /**
   * Starts or ends taking times of ops.
   *
   * @returns op (index of the op table), begin, end, waited (nanoseconds) of every op since the last call, one after another
   */
  profile(on: boolean): Float64Array {
    return this.#flushed().profile(on)
  }

  /** Stops the queue and frees everything. Tensors of the device are unusable afterwards. */
  close(): void {
    this.#open?.close()
    this.#open = undefined
    if (shared === this) shared = undefined
  }
}

function fromNative(error: unknown): WhetstoneError {
  if (WhetstoneError.isInstance(error)) return error
  const { code, where } = error as { code?: ErrorCode; where?: string }
  return new WhetstoneError(code ?? 'E_INTERNAL', where ?? 'device', messageOf(error), { cause: error })
}

function checkThreads(count: number, where: string): number {
  if (Number.isInteger(count) && count >= 1 && count <= 4096) return count
  throw new WhetstoneError('E_CONFIG', where, `expected a whole number from 1 to 4096, got ${count}`)
}

/** What does not depend on the machine. */
function checkDevice(options: DeviceOptions): void {
  checkOptions('device', options, deviceKinds)
  if (options.threads !== undefined && options.threads !== 0) checkThreads(options.threads, 'threads')
}

function fromEnvironment(name: string, fallback: number): number {
  const text = process.env[name]
  if (text === undefined || text === '') return fallback
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= 0) return value
  throw new WhetstoneError('E_CONFIG', name, `expected a whole number, got '${text}'`)
}

/** What is opened, and why. */
interface Choice {
  readonly name: string
  readonly reason: string
}

/** The GPU that a name speaks of; undefined for other names. */
function ordinalOf(name: string): number | undefined {
  const match = /^cuda(?::(\d{1,3}))?$/.exec(name)
  return match === null ? undefined : Number(match[1] ?? 0)
}

/** A device by its name, if it can be had. */
function chooseNamed(name: string, reason: string): Choice {
  if (name === 'cpu') return { name, reason }
  const ordinal = ordinalOf(name)
  if (ordinal === undefined)
    throw new WhetstoneError('E_DEVICE', 'device', `expected auto, cpu, cuda or cuda:N, got '${name}'`)
  const verdict = judgeNamed(ordinal)
  if (!verdict.usable) throw new WhetstoneError('E_DEVICE', name, `${verdict.reason}; see \`whetstone doctor\``)
  return { name: `cuda:${ordinal}`, reason }
}

function choose(options: DeviceOptions): Choice {
  const wanted = options.device ?? 'auto'
  if (wanted !== 'auto') return chooseNamed(wanted, 'asked for')
  const named = process.env.WHETSTONE_DEVICE || 'auto'
  if (named !== 'auto') return chooseNamed(named, 'WHETSTONE_DEVICE')
  if (options.isa || process.env.WHETSTONE_ISA) return { name: 'cpu', reason: 'a level of the CPU was asked for' }
  const { usable, reason } = judgeAuto(0)
  return { name: usable ? 'cuda:0' : 'cpu', reason }
}

/**
 * Opens a device of its own. Most callers want {@link getDevice}.
 *
 * @throws WhetstoneError E_DEVICE when the device or level is not there, E_CONFIG for bad numbers, E_DEVICE_LOST for a
 * GPU that has failed for good in this process
 */
export function openDevice(options: DeviceOptions = {}): Device {
  checkDevice(options)
  const threads = options.threads ?? fromEnvironment('WHETSTONE_THREADS', 0)
  if (threads !== 0) checkThreads(threads, 'threads')
  const isa = options.isa ?? process.env.WHETSTONE_ISA ?? ''
  const limit = options.memoryLimitBytes ?? fromEnvironment('WHETSTONE_MEMORY_LIMIT', 0)
  const { name, reason } = choose(options)
  try {
    const native = new (loadAddon().Device)(name === 'cpu' ? isa : name, threads, limit)
    return new Device(native, name, reason)
  } catch (error) {
    throw fromNative(error)
  }
}

let shared: Device | undefined

/** Does a name ask for this device? `cuda` is content with any GPU that is in use. */
const isWanted = (device: Device, wanted: string): boolean =>
  wanted === 'auto' || wanted === device.kind || wanted === device.name

/** Refuses options that are not those of the open device. A GPU has no threads and no level of a CPU. */
function checkShared(
  device: Device,
  { device: wanted = 'auto', threads = 0, isa, memoryLimitBytes }: DeviceOptions,
): void {
  const refuse = (option: string, used: string, got: unknown, hint = ''): never => {
    throw new WhetstoneError('E_DEVICE', option, `the process already uses ${used}, got ${got}${hint}`)
  }
  if (!isWanted(device, wanted)) refuse('device', `'${device.name}'`, `'${wanted}'`)
  const limit = memoryLimitBytes === undefined ? undefined : device.memory().limitBytes
  if (limit !== memoryLimitBytes)
    refuse('memoryLimitBytes', `a device with a limit of ${limit} bytes`, memoryLimitBytes)
  if (device.kind !== 'cpu') return
  if (isa !== undefined && isa !== '' && isa !== device.level) refuse('isa', `'${device.level}'`, `'${isa}'`)
  if (threads !== 0 && threads !== device.threads)
    refuse('threads', `${device.threads} threads`, threads, ': set `threads` of the device to change them')
}

/**
 * The device that this process (or worker thread) shares: opened by the first caller, with its options.
 *
 * @throws WhetstoneError E_DEVICE for options of a later caller that are others, and what {@link openDevice} throws
 */
export function getDevice(options: DeviceOptions = {}): Device {
  checkDevice(options)
  if (shared === undefined) shared = openDevice(options)
  else checkShared(shared, options)
  return shared
}

/** `tokenAlignment` of the device that {@link getDevice} gives; none stays open for the question. */
export function usualAlignment(): number {
  if (shared !== undefined) return shared.tokenAlignment
  const device = openDevice()
  const { tokenAlignment } = device
  device.close()
  return tokenAlignment
}

/** Bytes in use on the shared device; zeros when none is open. */
export const memory = (): MemoryStats => shared?.memory() ?? { liveBytes: 0, peakBytes: 0, poolBytes: 0, limitBytes: 0 }
