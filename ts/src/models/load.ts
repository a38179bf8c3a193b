// A Hugging Face folder -> a decoder on a device. Weights must match the configuration exactly: what is missing,
// unexpected or misshapen is named, and nothing is skipped silently.

import { join } from 'node:path'
import { membersOf } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { toDeviceType } from '../io/dtype.js'
import { exists } from '../io/files.js'
import { readJsonObject } from '../io/json.js'
import { modelFile } from '../io/model-folder.js'
import { openWeights, type TensorFile } from '../io/safetensors.js'
import { type Device, type DeviceOptions, deviceKinds, getDevice } from '../native/device.js'
import {
  allocateFlat,
  disposeFlat,
  type FlatTensors,
  fileShape,
  fromFileOrder,
  type ParameterSpec,
  type Placement,
  parameterGroups,
} from '../nn/parameters.js'
import { createQuantized, type QuantizedMatrices, quantizeInto } from '../nn/quantized.js'
import { keep } from '../tensor/scope.js'
import { type Shape, sameShape, shapeText, sizeOf } from '../tensor/shape.js'
import { tensor } from '../tensor/tensor.js'
import { readStored, stateName, storedSpecs } from './bitsandbytes.js'
import { type DecoderConfig, decoderConfig } from './config.js'
import { createRopes, type Decoder, decoderSpecs, disposeDecoder } from './decoder.js'
import { initializeScoreHead } from './init.js'
import { withScoreHead } from './score.js'
import { isHeadParameter, isProjection, isScoreParameter } from './specs.js'

/** How to load a model. */
export interface LoadOptions extends DeviceOptions {
  /** Type of weights and arithmetic; default what the file holds. */
  readonly dtype?: 'f32' | 'bf16'
  /**
   * Hold the layers' matrices in four bits (NF4), as bitsandbytes does: the base of QLoRA. They are quantised as they are
   * read, in the type of `dtype`, and are not trained: put an adapter on the model. Default false. A folder that bitsandbytes
   * has quantised to NF4 stays as it is stored.
   */
  readonly loadIn4bit?: boolean
  /** Quantise the absmax of their blocks too, to eight bits: 4.127 bits per weight in place of 4.5. Default false. */
  readonly bnb4bitUseDoubleQuant?: boolean
  /** Make a reward model: a score head with that many numbers. A language model's own head is then not used. */
  readonly scoreLabels?: number
  /** Key of the values of a fresh score head. Default 0. */
  readonly seed?: number
  /** Told what of the folder is not used and what is not from it. */
  readonly warn?: (message: string) => void
}

/**
 * Loads config.json and the weights of a folder.
 *
 * @throws WhetstoneError E_CONFIG, E_FORMAT, E_MISMATCH naming tensors, E_DTYPE, E_NONFINITE (of weights in four bits), E_OOM
 */
export async function loadDecoder(directory: string, options: LoadOptions = {}): Promise<Decoder> {
  checkQuantization(options)
  const raw = await readJsonObject(await modelFile(directory, 'config.json'))
  const generationPath = join(directory, 'generation_config.json')
  const stored = decoderConfig(raw, (await exists(generationPath)) ? await readJsonObject(generationPath) : {})
  const config = options.scoreLabels === undefined ? stored : withScoreHead(stored, options.scoreLabels)
  const device = getDevice(membersOf(options, deviceKinds))
  const opened = await openWeights(directory)
  try {
    const file = namedFile(opened, stored)
    const specs = decoderSpecs(config)
    checkNames(file, namesIn(file, fromFile(specs, stored), stored), config, directory)
    const dtype = options.dtype ?? (file.infoOf(specs[0].name)?.dtype === 'BF16' ? 'bf16' : 'f32')
    const isStored = (state: string) => file.infoOf(state) !== undefined
    const m = emptyDecoder(config, device, dtype, { ...options, isStored })
    try {
      await readWeights(file, m.parameters, fromFile(m.parameters.placements, stored), directory)
      if (m.quantized !== undefined) await readQuantized(file, m.quantized, m, directory)
      if (config !== stored) freshHead(m, options)
      return m
    } catch (error) {
      disposeDecoder(m, disposeFlat)
      throw error
    }
  } finally {
    await opened.close()
  }
}

/**
 * Refuses what has no meaning by itself.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkQuantization({ loadIn4bit = false, bnb4bitUseDoubleQuant = false }: LoadOptions): void {
  if (loadIn4bit || !bnb4bitUseDoubleQuant) return
  throw new WhetstoneError('E_CONFIG', 'bnb4bitUseDoubleQuant', 'expected loadIn4bit beside it: nothing is quantised')
}

/** A decoder with room for its weights, whose contents are undefined; what is stored in four bits stays so. */
export function emptyDecoder(
  config: DecoderConfig,
  device: Device,
  dtype: 'f32' | 'bf16',
  options: Pick<LoadOptions, 'loadIn4bit' | 'bnb4bitUseDoubleQuant'> & { isStored(state: string): boolean },
): Decoder {
  const { loadIn4bit = false, bnb4bitUseDoubleQuant = false, isStored } = options
  const { quantization } = config
  const isPacked = (spec: ParameterSpec) =>
    isProjection(config, spec) && (quantization === undefined ? loadIn4bit : isStored(stateName(spec.name)))
  const specs = decoderSpecs(config)
  const [packed, plain] = [true, false].map((is) => specs.filter((spec) => isPacked(spec) === is))
  const doubleQuant = quantization?.doubleQuant ?? bnb4bitUseDoubleQuant
  // Without tensors first: angles that cannot be leave none behind.
  const ropes = createRopes(config, device)
  const quantized = packed.length === 0 ? undefined : createQuantized(device, packed, { dtype, doubleQuant })
  return { config, device, parameters: allocateFlat(device, plain, dtype), quantized, ropes }
}

/** All but a score head that the folder's own configuration does not have. */
const fromFile = <S extends ParameterSpec>(specs: readonly S[], stored: DecoderConfig): S[] =>
  specs.filter(({ name }) => stored.scoreLabels !== undefined || !isScoreParameter(name))

function freshHead(m: Decoder, { seed = 0, warn }: LoadOptions): void {
  initializeScoreHead(m, seed)
  const shape = shapeText([m.config.scoreLabels ?? 0, m.config.hiddenSize])
  warn?.(`the head of the language model is not used; score.weight ${shape} is new, with values of seed ${seed}`)
}

/** A weight file by the names of decoderSpecs(). */
interface NamedFile {
  /** The names in the file, in full. */
  readonly names: readonly string[]
  infoOf(name: string): { readonly dtype: string; readonly shape: Shape } | undefined
  read(name: string): Promise<Uint8Array>
}

/** Models that were saved without a head have names without the root: `h.0.ln_1.weight` in GPT-2's own files. */
function namedFile(file: TensorFile, { layout: { root } }: DecoderConfig): NamedFile {
  const stored = [...file.tensors.keys()]
  const bare = !stored.some((name) => name.startsWith(root))
  const short = (name: string) => (bare && name.startsWith(root) ? name.slice(root.length) : name)
  return {
    names: bare ? stored.map((name) => (isHeadParameter(name) ? name : root + name)) : stored,
    infoOf: (name) => file.tensors.get(short(name)),
    read: (name) => file.read(short(name)),
  }
}

/** Tensors that files hold without being parameters: an unused head, tables of angles and of GPT-2's causal mask. */
const ignored = (config: DecoderConfig, name: string): boolean =>
  ((config.tied || config.scoreLabels !== undefined) && name === 'lm_head.weight') ||
  /(rotary_emb\.inv_freq|\.attn\.(masked_)?bias)$/.test(name)

const listed = (names: readonly string[]): string =>
  `${names.slice(0, 5).join(', ')}${names.length > 5 ? `, and ${names.length - 5} more` : ''}`

function checkNames(file: NamedFile, specs: readonly ParameterSpec[], config: DecoderConfig, where: string): void {
  const wanted = new Set(specs.map((spec) => spec.name))
  const missing = specs.filter((spec) => file.infoOf(spec.name) === undefined).map((spec) => spec.name)
  const unexpected = file.names.filter((name) => !wanted.has(name) && !ignored(config, name))
  const misshapen = specs.flatMap((spec) => {
    const expected = fileShape(spec)
    const stored = file.infoOf(spec.name)?.shape
    return stored === undefined || sameShape(stored, expected)
      ? []
      : [`${spec.name} (expected ${shapeText(expected)}, got ${shapeText(stored)})`]
  })
  const faults = Object.entries({ missing, unexpected, misshapen }).filter(([, names]) => names.length > 0)
  if (faults.length === 0) return
  const text = faults.map(([what, names]) => `${what}: ${listed(names)}`).join('; ')
  throw new WhetstoneError('E_MISMATCH', where, `the weights do not fit config.json (${config.family}): ${text}`, {
    details: { missing, unexpected, misshapen },
  })
}

/** A parameter's numbers in the order of the device. */
async function numbersOf(file: NamedFile, spec: ParameterSpec, dtype: 'f32' | 'bf16', where: string) {
  const { name, shape } = spec
  const values = toDeviceType(await file.read(name), file.infoOf(name)?.dtype ?? '', dtype, `${where}: ${name}`)
  return fromFileOrder(spec, values.subarray(0, sizeOf(shape)))
}

/** What a file must hold of parameters. */
const namesIn = (file: NamedFile, specs: readonly ParameterSpec[], { quantization }: DecoderConfig): ParameterSpec[] =>
  specs.flatMap((spec) =>
    quantization === undefined || file.infoOf(stateName(spec.name)) === undefined
      ? [spec]
      : storedSpecs(spec, quantization, file),
  )

/** Reads matrices in four bits, or into four bits: one at a time is there whole. */
async function readQuantized(
  file: NamedFile,
  quantized: QuantizedMatrices,
  { config, device, parameters: { dtype } }: Decoder,
  where: string,
): Promise<void> {
  if (config.quantization !== undefined) return readStored(file, quantized, config.quantization, where)
  for (const spec of quantized.specs) {
    const values = await numbersOf(file, spec, dtype, where)
    using x = keep(tensor(device, values, spec.shape))
    await quantizeInto(quantized, spec.name, x)
  }
}

/** Reads the given parameters into their group's host array, then writes each group once. */
async function readWeights(
  file: NamedFile,
  { dtype, flat }: FlatTensors,
  placements: readonly Placement[],
  where: string,
): Promise<void> {
  for (const group of parameterGroups) {
    const all = dtype === 'f32' ? new Float32Array(flat[group].size) : new Uint16Array(flat[group].size)
    for (const placement of placements) {
      if (placement.group !== group) continue
      all.set(await numbersOf(file, placement, dtype, where), placement.offset)
    }
    flat[group].write(all)
    // One element read back, so that a lack of memory is said here and not at the first use.
    using probe = flat[group].view([1])
    await probe.data()
  }
}
