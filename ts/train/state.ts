// What a training state is as bytes: weights, their f32 masters if any, moments, and a reference that moves, by parameter
// name, plus the counters.
// Snapshots are taken at step boundaries, when nothing is in flight; restoring writes all of it or, on a mismatch, none.

import { join, resolve } from 'node:path'
import { WhetstoneError } from '../src/base/errors.js'
import type { LanguageModel } from '../src/generate/language-model.js'
import { exists } from '../src/io/files.js'
import { readText } from '../src/io/json.js'
import { type Decoder, trainableOf } from '../src/models/decoder.js'
import { adapterConfigJson, adapterEntries } from '../src/models/peft.js'
import { configJson } from '../src/models/score.js'
import {
  type FlatTensors,
  fileShape,
  fromFileOrder,
  type ParameterGroup,
  parameterGroups,
  toFileOrder,
} from '../src/nn/parameters.js'
import { type Shape, shapeText, sizeOf } from '../src/tensor/shape.js'
import { templateFile, templateIn } from '../src/tokenizer/tokenizer.js'
import type { Trainer } from './trainer.js'

/** A named tensor as it goes into a safetensors file. */
export interface Entry {
  readonly name: string
  readonly dtype: 'F32' | 'BF16'
  readonly shape: Shape
  readonly data: Uint8Array
}

/** Gives back stored tensors by name. */
export interface EntrySource {
  shapeOf(name: string): Shape | undefined
  read(name: string): Promise<Uint8Array>
}

const fileTypes = { f32: 'F32', bf16: 'BF16' } as const

/** Every parameter of flat tensors, in their own type, under `prefix` + name. */
export async function entriesOf(flat: FlatTensors, prefix = ''): Promise<Entry[]> {
  const groups = Object.fromEntries(
    await Promise.all(parameterGroups.map(async (group) => [group, await flat.flat[group].bits()] as const)),
  ) as Record<string, Float32Array | Uint16Array>
  return flat.placements.map((placement) => {
    const { name, shape, group, offset } = placement
    const values = toFileOrder(placement, groups[group].subarray(offset, offset + sizeOf(shape)))
    const data = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    return { name: prefix + name, dtype: fileTypes[flat.dtype], shape: fileShape(placement), data }
  })
}

/** The trained tensors of a policy as its file has them: a model's, or an adapter's. */
export const policyEntries = (policy: Decoder): Promise<Entry[]> =>
  policy.adapter === undefined ? entriesOf(policy.parameters) : adapterEntries(policy)

/** A checkpoint's part of the policy. */
export interface PolicyFiles {
  /** Name of the file that holds the trained tensors. */
  readonly weights: string
  readonly texts: Readonly<Record<string, string>>
  readonly copied: 'all' | 'tokenizer'
}

/** The file of the tensors that training changes: the model's, or its adapter's beside a base that stays. */
export const weightsFile = ({ adapter }: Decoder): string =>
  adapter === undefined ? 'model.safetensors' : 'adapter_model.safetensors'

/** The chat template, where the folder of the model has another one. */
async function templateFiles({ tokenizer, directory }: LanguageModel): Promise<Record<string, string>> {
  const { chatTemplate } = tokenizer
  const isOwn = chatTemplate === undefined || chatTemplate === (await templateIn(directory))
  return isOwn ? {} : { [templateFile]: chatTemplate }
}

/** What a checkpoint holds besides tensors, so that it loads as a model or as a PEFT adapter. */
export async function policyFiles(model: LanguageModel): Promise<PolicyFiles> {
  const { decoder: policy, directory: base } = model
  const weights = weightsFile(policy)
  const template = await templateFiles(model)
  if (policy.adapter !== undefined) {
    // PEFT takes relative paths from the working directory.
    const adapter = adapterConfigJson(policy, resolve(base))
    const texts = { ...template, 'adapter_config.json': `${JSON.stringify(adapter, null, 2)}\n` }
    return { weights, texts, copied: 'tokenizer' }
  }
  const file = join(base, 'config.json')
  if (!(await exists(file))) return { weights, texts: template, copied: 'all' }
  const config = configJson(policy.config, await readText(file), policy.parameters.dtype)
  return { weights, texts: { ...template, 'config.json': config }, copied: 'all' }
}

/** What a step reads besides the policy's weights: masters (of a bf16 model), moments, and a reference that moves. */
export function flatState({
  policy,
  optimizer,
  reference,
  referenceSync,
}: Trainer): [prefix: string, flat: FlatTensors][] {
  const { masters, firstMoments, secondMoments } = optimizer
  const state: [string, FlatTensors][] = [
    ['m.', firstMoments],
    ['v.', secondMoments],
  ]
  if (masters !== trainableOf(policy)) state.unshift(['w.', masters])
  if (referenceSync !== undefined && reference !== undefined) state.push(['r.', reference.parameters])
  return state
}

/** The tensors of a checkpoint besides the policy's weights. */
export async function optimizerEntries(trainer: Trainer): Promise<Entry[]> {
  return (await Promise.all(flatState(trainer).map(([prefix, flat]) => entriesOf(flat, prefix)))).flat()
}

/** Reads every parameter of flat tensors, checking shapes before the first is written. */
export async function readFlat(flat: FlatTensors, source: EntrySource, prefix = ''): Promise<() => void> {
  const arrays = hostArrays(flat)
  for (const placement of flat.placements) {
    const { name, group, offset } = placement
    const shape = fileShape(placement)
    const stored = source.shapeOf(prefix + name)
    if (stored === undefined || shapeText(stored) !== shapeText(shape))
      throw new WhetstoneError(
        'E_MISMATCH',
        prefix + name,
        `expected ${shapeText(shape)} in the checkpoint, got ${stored === undefined ? 'nothing' : shapeText(stored)}`,
      )
    const bytes = await source.read(prefix + name)
    const target = arrays[group]
    const expected = sizeOf(shape) * target.BYTES_PER_ELEMENT
    if (bytes.byteLength !== expected)
      throw new WhetstoneError(
        'E_MISMATCH',
        prefix + name,
        `expected ${expected} bytes of ${flat.dtype} in the checkpoint, got ${bytes.byteLength}: resume with the same dtype`,
      )
    const values = target.subarray(offset, offset + sizeOf(shape))
    new Uint8Array(values.buffer, values.byteOffset, values.byteLength).set(bytes)
    values.set(fromFileOrder(placement, values))
  }
  return () => {
    for (const group of parameterGroups) flat.flat[group].write(arrays[group])
  }
}

function hostArrays(flat: FlatTensors): Record<ParameterGroup, Float32Array | Uint16Array> {
  const make = (group: ParameterGroup) =>
    flat.dtype === 'f32' ? new Float32Array(flat.flat[group].size) : new Uint16Array(flat.flat[group].size)
  return { matrix: make('matrix'), vector: make('vector') }
}

/**
 * Puts weights, masters, moments, a reference that moves and the update count back; all or nothing.
 *
 * @throws WhetstoneError E_MISMATCH when a tensor is missing or has another shape
 */
export async function restoreTrainer(
  trainer: Trainer,
  weights: EntrySource,
  optimizer: EntrySource,
  updates: number,
): Promise<void> {
  const writes = [await readFlat(trainableOf(trainer.policy), weights)]
  for (const [prefix, flat] of flatState(trainer)) writes.push(await readFlat(flat, optimizer, prefix))
  for (const write of writes) write()
  trainer.optimizer.updates = updates
}
