// A tensor: an id on a device, a shape and an element type. It holds no numbers; `data()` awaits a copy of them.
// Its life is a count of holds: its owner (the scope that it was made in, or whoever keeps it) has one, a tape that
// saved it has another. Memory goes back in queue order when the last hold ends. Garbage collection plays no part.

import '../base/dispose.js'
import { WhetstoneError } from '../base/errors.js'
import type { NumberArray } from '../native/addon.js'
import type { Device } from '../native/device.js'
import { adopt } from './scope.js'
import { type DType, dtypes, type Shape, shapeText, sizeOf } from './shape.js'

/** Numbers on a device. Made by ops and by {@link tensor}; freed by its scope or by `dispose()`. */
export class Tensor {
  #holds = 1
  #owned = true
  /** Of the memory: one object for a tensor and all views of it. */
  readonly #changes: { count: number }

  /** @internal Use {@link tensor}, {@link empty} or an op. */
  constructor(
    readonly device: Device,
    readonly id: number,
    readonly shape: Shape,
    readonly dtype: DType,
    changes = { count: 0 },
  ) {
    this.#changes = changes
    adopt(this)
  }

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape)
  }

  get disposed(): boolean {
    return this.#holds === 0
  }

  /** How often the memory was changed in place, through this tensor or another view of it. */
  get version(): number {
    return this.#changes.count
  }

  /** @internal Called by whatever changes the memory in place. */
  changed(): void {
    this.#changes.count++
  }

  /** Takes one more hold; it ends with {@link release}. */
  retain(): this {
    checkAlive(this, 'retain')
    this.#holds++
    return this
  }

  /** Ends a hold that {@link retain} took; the last one frees the memory. */
  release(): void {
    if (this.#holds === 0) return
    this.#holds--
    if (this.#holds === 0) this.device.release(this.id)
  }

  /** Ends the owner's hold. A second call does nothing. */
  dispose(): void {
    if (!this.#owned) return
    this.#owned = false
    this.release()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** The elements as f32 or integers, row-major: waits for all work that they depend on. bf16 is widened to f32. */
  async data(): Promise<Float32Array | Int32Array | Uint8Array> {
    const raw = await this.bits()
    if (!(raw instanceof Uint16Array)) return raw
    const wide = new Uint32Array(raw.length)
    for (let i = 0; i < raw.length; i++) wide[i] = raw[i] << 16
    return new Float32Array(wide.buffer)
  }

  /** The elements as they are stored; bf16 as its 16 bits. */
  async bits(): Promise<NumberArray> {
    checkAlive(this, 'data')
    const array = new arrays[this.dtype](this.size)
    return this.device.read(this.id, array)
  }

  /** Overwrites the elements from host values of the stored type. */
  write(values: NumberArray): void {
    checkAlive(this, 'write')
    if (!(values instanceof arrays[this.dtype]) || values.length !== this.size)
      throw new WhetstoneError(
        'E_SHAPE',
        'write',
        `expected ${arrays[this.dtype].name} of ${this.size}, got ${values.constructor.name} of ${values.length}`,
      )
    this.device.write(this.id, values)
    this.changed()
  }

  /**
   * A view of `count` elements from element `offset` on, with a new shape; shares the memory.
   *
   * @throws WhetstoneError E_SHAPE when it leaves the tensor
   */
  view(shape: Shape, offset = 0): Tensor {
    checkAlive(this, 'view')
    if (offset < 0 || offset + sizeOf(shape) > this.size)
      throw new WhetstoneError(
        'E_SHAPE',
        'view',
        `expected a range inside ${shapeText(this.shape)}, got ${shapeText(shape)} at ${offset}`,
      )
    const id = this.device.view(this.id, offset, dtypes.indexOf(this.dtype), shape)
    return new Tensor(this.device, id, shape, this.dtype, this.#changes)
  }
}

const arrays = { f32: Float32Array, bf16: Uint16Array, i32: Int32Array, u8: Uint8Array } as const

/** Throws E_DISPOSED when the tensor was freed. */
export function checkAlive(t: Tensor, where: string): void {
  if (t.disposed)
    throw new WhetstoneError('E_DISPOSED', where, `the ${t.dtype} tensor ${shapeText(t.shape)} was already disposed`)
}

/** A tensor with undefined contents. */
export const empty = (device: Device, shape: Shape, dtype: DType): Tensor =>
  new Tensor(device, device.create(dtypes.indexOf(dtype), shape), shape, dtype)

const dtypeOf = (values: NumberArray): DType =>
  dtypes.find((dtype) => values instanceof arrays[dtype]) ?? failDtype(values)

function failDtype(values: unknown): never {
  const got = (values as object)?.constructor?.name ?? String(values)
  throw new WhetstoneError(
    'E_DTYPE',
    'tensor',
    `expected Float32Array, Uint16Array (bf16), Int32Array or Uint8Array, got ${got}`,
  )
}

/**
 * A tensor with the given values: f32 from Float32Array, bf16 from Uint16Array bits, i32, u8.
 *
 * @throws WhetstoneError E_SHAPE when the count does not fit the shape
 */
export function tensor(device: Device, values: NumberArray, shape: Shape = [values.length]): Tensor {
  if (sizeOf(shape) !== values.length)
    throw new WhetstoneError(
      'E_SHAPE',
      'tensor',
      `expected ${sizeOf(shape)} values for ${shapeText(shape)}, got ${values.length}`,
    )
  const t = empty(device, shape, dtypeOf(values))
  t.write(values)
  return t
}
