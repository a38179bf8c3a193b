// Frozen matrices in four bits: QLoRA (arXiv 2305.14314). NF4 codes with an absmax per block of 64, in f32 (4.5 bits per
// weight) or again in eight bits (4.127). A product unpacks its matrix into a tensor of the model's type, and lets that go at
// once: forward and backward each for itself, so that at most one is there. The bits are those of the unpacked matrix.

import { activeTape, type GradientRule, Tape } from '../autograd/tape.js'
import { WhetstoneError } from '../base/errors.js'
import type { Device } from '../native/device.js'
import {
  allFinite,
  type BlockwiseTensors,
  blockwiseBlock,
  dequantizeBlockwise,
  dequantizeNf4,
  linear,
  linearDx,
  nf4Shapes,
  quantizeNf4,
} from '../ops/index.js'
import { keep, tidy } from '../tensor/scope.js'
import { type DType, type Shape, sizeOf } from '../tensor/shape.js'
import { empty, Tensor, tensor } from '../tensor/tensor.js'
import { dynamicMap, quantizeBlockwise } from './blockwise.js'
import type { ParameterSpec } from './parameters.js'

/** A matrix in four bits. */
export interface QuantizedMatrix {
  readonly shape: Shape
  /** Of the unpacked matrix. */
  readonly dtype: 'f32' | 'bf16'
  /** u8, two elements to a byte. */
  readonly codes: Tensor
  /** Of each 64 elements: f32, or in eight bits. */
  readonly absmax: Tensor | BlockwiseTensors
}

/** A matrix that is not trained. */
export type FrozenMatrix = Tensor | QuantizedMatrix

/** A model's matrices in four bits. */
export interface QuantizedMatrices {
  /** Names and shapes, in the model's order. */
  readonly specs: readonly ParameterSpec[]
  /** What they lie in, end to end. */
  readonly storage: readonly Tensor[]
  readonly byName: ReadonlyMap<string, QuantizedMatrix>
}

/** How matrices are quantised. */
export interface QuantizedOptions {
  readonly dtype: 'f32' | 'bf16'
  readonly doubleQuant: boolean
}

/** A storage, and views of it one behind the other. */
function storageOf(device: Device, dtype: DType, sizes: readonly number[]) {
  const total = sizes.reduce((sum, size) => sum + size, 0)
  const all = keep(empty(device, [total], dtype))
  let at = 0
  const views = sizes.map((size) => {
    at += size
    return keep(all.view([size], at - size))
  })
  return { all, views }
}

/** Room for matrices; their contents are undefined until {@link quantizeInto}. Lives until {@link disposeQuantized}. */
export function createQuantized(
  device: Device,
  specs: readonly ParameterSpec[],
  { dtype, doubleQuant }: QuantizedOptions,
): QuantizedMatrices {
  const shapes = specs.map(({ shape }) => nf4Shapes(shape))
  const blocks = shapes.map(({ absmax }) => sizeOf(absmax))
  const room = (type: DType, sizes: readonly number[]) => storageOf(device, type, sizes)
  const codes = room(
    'u8',
    shapes.map((shape) => sizeOf(shape.codes)),
  )
  const matrix = (i: number, absmax: QuantizedMatrix['absmax']): [string, QuantizedMatrix] => {
    const { name, shape } = specs[i]
    return [name, { shape, dtype, codes: codes.views[i], absmax }]
  }
  if (!doubleQuant) {
    const absmax = room('f32', blocks)
    const byName = new Map(absmax.views.map((view, i) => matrix(i, view)))
    return { specs, storage: [codes.all, absmax.all], byName }
  }
  const map = keep(tensor(device, dynamicMap()))
  const offsets = room(
    'f32',
    specs.map(() => 1),
  )
  const outer = room(
    'f32',
    blocks.map((count) => Math.ceil(count / blockwiseBlock)),
  )
  const inner = room('u8', blocks)
  const byName = new Map(
    inner.views.map((view, i) => matrix(i, { codes: view, map, absmax: outer.views[i], offset: offsets.views[i] })),
  )
  return { specs, storage: [codes.all, inner.all, outer.all, offsets.all, map], byName }
}

/**
 * Quantises a matrix into its room.
 *
 * @param x f32 or bf16
 * @throws WhetstoneError E_NONFINITE for NaN or infinity, which four bits do not hold; E_OOM
 */
export async function quantizeInto({ specs, byName }: QuantizedMatrices, name: string, x: Tensor): Promise<void> {
  const to = byName.get(name)
  if (to === undefined)
    throw new WhetstoneError('E_INTERNAL', 'quantize', `there is no matrix '${name}' of ${specs.length}`)
  using finite = keep(tensor(x.device, Int32Array.of(1)))
  allFinite(finite, x)
  const numbers = to.absmax instanceof Tensor ? undefined : keep(empty(x.device, nf4Shapes(to.shape).absmax, 'f32'))
  quantizeNf4(to.codes, numbers ?? (to.absmax as Tensor), x)
  try {
    if ((await finite.data())[0] === 0)
      throw new WhetstoneError('E_NONFINITE', name, 'expected finite weights to quantise, found NaN or Inf')
    if (numbers === undefined || to.absmax instanceof Tensor) return
    const { codes, absmax, offset } = quantizeBlockwise((await numbers.data()) as Float32Array)
    to.absmax.codes.write(codes)
    to.absmax.absmax.write(absmax)
    to.absmax.offset.write(Float32Array.of(offset))
  } finally {
    numbers?.dispose()
  }
}

/** Frees matrices. */
export function disposeQuantized({ byName, storage }: QuantizedMatrices): void {
  for (const { codes, absmax } of byName.values()) {
    codes.dispose()
    for (const t of absmax instanceof Tensor ? [absmax] : [absmax.codes, absmax.absmax, absmax.offset]) t.dispose()
  }
  for (const t of storage) t.dispose()
}

/** The matrix as numbers: the tensor itself, or a new one, which belongs to the open scope. */
export function unpacked(w: FrozenMatrix): Tensor {
  if (w instanceof Tensor) return w
  const { shape, dtype, codes, absmax } = w
  return tidy(() => {
    const matrix = empty(codes.device, shape, dtype)
    dequantizeNf4(matrix, codes, absmax instanceof Tensor ? absmax : unpackedAbsmax(codes.device, absmax))
    return matrix
  })
}

function unpackedAbsmax(device: Device, absmax: BlockwiseTensors): Tensor {
  const y = empty(device, absmax.codes.shape, 'f32')
  dequantizeBlockwise(y, absmax)
  return y
}

/** Runs work whose ops are no steps of the open tape, and frees all that it made but its result. */
export const untracked = <R>(work: () => R): R => new Tape().record(() => tidy(work))

/**
 * x W^T with a matrix that is not trained.
 *
 * @param x [N, C]
 * @param w [O, C]
 * @returns [N, O]
 */
export function frozenLinear(x: Tensor, w: FrozenMatrix): Tensor {
  if (w instanceof Tensor) return linear(x, w)
  const y = untracked(() => linear(x, unpacked(w)))
  const rule: GradientRule = ({ d, needs }) =>
    d.y === undefined || !needs('x') ? {} : { x: linearDx(d.y, unpacked(w)) }
  activeTape()?.add({ name: 'linear', inputs: { x }, outputs: { y }, saves: [], p: {}, rule })
  return y
}
