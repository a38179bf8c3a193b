// Parameters of a model as two flat tensors, one for matrices and one for vectors, with a named view for each.
// Flat, because the optimizer, the gradient norm, snapshots and hashes then take one call per group; two groups,
// because weight decay applies to matrices only. No architecture is named here.

import { WhetstoneError } from '../base/errors.js'
import type { Device } from '../native/device.js'
import { copy, fill } from '../ops/index.js'
import { keep } from '../tensor/scope.js'
import { bytesPerElement, type Shape, sizeOf } from '../tensor/shape.js'
import { empty, type Tensor } from '../tensor/tensor.js'

/** A parameter before it has memory. */
export interface ParameterSpec {
  readonly name: string
  readonly shape: Shape
  /** Files hold the transpose of this matrix. */
  readonly transposed?: boolean
}

/** Shape of a parameter in files. */
export const fileShape = ({ shape, transposed }: ParameterSpec): Shape =>
  transposed === true ? [shape[1], shape[0]] : shape

type Numbers = Float32Array | Uint16Array

/** rows x columns numbers, row by row, turned into columns x rows. */
function transpose<T extends Numbers>(from: T, rows: number, columns: number): T {
  const to = from.slice() as T
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c]
  return to
}

/** A parameter's numbers in the order of files, from the order on the device; the same array where they agree. */
export const toFileOrder = <T extends Numbers>({ shape, transposed }: ParameterSpec, values: T): T =>
  transposed === true ? transpose(values, shape[0], shape[1]) : values

/** The way back from {@link toFileOrder}. */
export const fromFileOrder = <T extends Numbers>({ shape, transposed }: ParameterSpec, values: T): T =>
  transposed === true ? transpose(values, shape[1], shape[0]) : values

/** Matrices (rank 2 and more) take weight decay by default, vectors do not. */
export type ParameterGroup = 'matrix' | 'vector'

export const parameterGroups: readonly ParameterGroup[] = ['matrix', 'vector']

/** Where a parameter lies in its group's flat tensor, in elements. */
export interface Placement extends ParameterSpec {
  readonly group: ParameterGroup
  readonly offset: number
}

/** Named tensors over flat storage. */
export interface FlatTensors {
  readonly dtype: 'f32' | 'bf16'
  readonly placements: readonly Placement[]
  readonly flat: Readonly<Record<ParameterGroup, Tensor>>
  readonly byName: ReadonlyMap<string, Tensor>
}

/** Every parameter starts on a 64-byte line (in f32). The gaps hold zeros and stay zero under AdamW. */
const alignment = 16

const groupOf = (shape: Shape): ParameterGroup => (shape.length >= 2 ? 'matrix' : 'vector')

/** Assigns each parameter its place, in the order given. */
export function placeParameters(specs: readonly ParameterSpec[]): {
  placements: Placement[]
  sizes: Record<ParameterGroup, number>
} {
  const sizes: Record<ParameterGroup, number> = { matrix: 0, vector: 0 }
  const placements = specs.map((spec) => {
    const group = groupOf(spec.shape)
    const offset = sizes[group]
    sizes[group] += Math.ceil(sizeOf(spec.shape) / alignment) * alignment
    return { ...spec, group, offset }
  })
  return { placements, sizes }
}

/** Flat tensors of undefined contents with a view per parameter. They live until {@link disposeFlat}. */
export function allocateFlat(device: Device, specs: readonly ParameterSpec[], dtype: 'f32' | 'bf16'): FlatTensors {
  const { placements, sizes } = placeParameters(specs)
  const group = (size: number): Tensor => keep(empty(device, [size], dtype))
  const flat = { matrix: group(sizes.matrix), vector: group(sizes.vector) }
  const byName = new Map(placements.map((p) => [p.name, keep(flat[p.group].view(p.shape, p.offset))]))
  return { dtype, placements, flat, byName }
}

/** Zeroed flat tensors with a view per parameter. They live until {@link disposeFlat}. */
export function createFlat(device: Device, specs: readonly ParameterSpec[], dtype: 'f32' | 'bf16'): FlatTensors {
  const made = allocateFlat(device, specs, dtype)
  for (const t of Object.values(made.flat)) {
    if (dtype === 'f32') fill(t, 0)
    else t.write(new Uint16Array(t.size))
  }
  return made
}

/** Copies all values, converting between f32 and bf16. The layouts must be equal. */
export function copyFlat(to: FlatTensors, from: FlatTensors): void {
  for (const group of parameterGroups) copy(to.flat[group], from.flat[group])
}

/** Frees views and storage. */
export function disposeFlat(flat: FlatTensors): void {
  for (const t of flat.byName.values()) t.dispose()
  for (const group of parameterGroups) flat.flat[group].dispose()
}

/** The parameter of that name. */
export function parameter(flat: FlatTensors, name: string): Tensor {
  const t = flat.byName.get(name)
  if (t === undefined) throw new WhetstoneError('E_INTERNAL', 'parameter', `there is no parameter '${name}'`)
  return t
}

/** Number of parameters, gaps not counted. */
export const parameterCount = (flat: FlatTensors): number =>
  flat.placements.reduce((sum, placement) => sum + sizeOf(placement.shape), 0)

/** Bytes of the flat tensors. */
export const flatBytes = (flat: FlatTensors): number =>
  parameterGroups.reduce((sum, group) => sum + flat.flat[group].size, 0) * bytesPerElement(flat.dtype)
