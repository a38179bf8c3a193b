// A Hugging Face folder -> a decoder on a device. Weights must match the configuration exactly: what is missing,
// unexpected or misshapen is named, and nothing is skipped silently.

import { join } from 'node:path'
import { WhetstoneError } from '../base/errors.js'
import { toDeviceType } from '../io/dtype.js'
import { exists } from '../io/files.js'
import { readJsonObject } from '../io/json.js'
import { openWeights, type TensorFile } from '../io/safetensors.js'
import { type DeviceOptions, getDevice } from '../native/device.js'
import { createFlat, disposeFlat, type FlatTensors, type ParameterSpec, parameterGroups } from '../nn/parameters.js'
import { sameShape, shapeText, sizeOf } from '../tensor/shape.js'
import { type DecoderConfig, decoderConfig } from './config.js'
import { createDecoder, type Decoder, decoderSpecs } from './decoder.js'

/** How to load a model. */
export interface LoadOptions extends DeviceOptions {
  /** Type of weights and arithmetic; default what the file holds. */
  readonly dtype?: 'f32' | 'bf16'
}

/**
 * Loads config.json and the weights of a folder.
 *
 * @throws WhetstoneError E_CONFIG, E_FORMAT, E_MISMATCH naming tensors, E_DTYPE, E_OOM
 */
export async function loadDecoder(directory: string, options: LoadOptions = {}): Promise<Decoder> {
  const raw = await readJsonObject(join(directory, 'config.json'))
  const generationPath = join(directory, 'generation_config.json')
  const config = decoderConfig(raw, (await exists(generationPath)) ? await readJsonObject(generationPath) : {})
  const device = getDevice(options)
  const file = await openWeights(directory)
  try {
    const specs = decoderSpecs(config)
    checkNames(file, specs, config, directory)
    const dtype = options.dtype ?? (file.tensors.get(specs[0].name)?.dtype === 'BF16' ? 'bf16' : 'f32')
    const parameters = createFlat(device, specs, dtype)
    try {
      await readWeights(file, parameters, directory)
      return createDecoder(config, device, parameters)
    } catch (error) {
      disposeFlat(parameters)
      throw error
    }
  } finally {
    await file.close()
  }
}

/** Tensors that files hold without being parameters. */
const ignored = (config: DecoderConfig, name: string): boolean =>
  (config.tied && name === 'lm_head.weight') || name.endsWith('rotary_emb.inv_freq')

const listed = (names: readonly string[]): string =>
  `${names.slice(0, 5).join(', ')}${names.length > 5 ? `, and ${names.length - 5} more` : ''}`

function checkNames(file: TensorFile, specs: readonly ParameterSpec[], config: DecoderConfig, where: string): void {
  const wanted = new Set(specs.map((spec) => spec.name))
  const missing = specs.filter((spec) => !file.tensors.has(spec.name)).map((spec) => spec.name)
  const unexpected = [...file.tensors.keys()].filter((name) => !wanted.has(name) && !ignored(config, name))
  const misshapen = specs.flatMap(({ name, shape }) => {
    const stored = file.tensors.get(name)?.shape
    return stored === undefined || sameShape(stored, shape)
      ? []
      : [`${name} (expected ${shapeText(shape)}, got ${shapeText(stored)})`]
  })
  const faults = Object.entries({ missing, unexpected, misshapen }).filter(([, names]) => names.length > 0)
  if (faults.length === 0) return
  const text = faults.map(([what, names]) => `${what}: ${listed(names)}`).join('; ')
  throw new WhetstoneError('E_MISMATCH', where, `the weights do not fit config.json (${config.family}): ${text}`, {
    details: { missing, unexpected, misshapen },
  })
}

/** Reads every tensor into its group's host array, then writes each group once. */
async function readWeights(file: TensorFile, parameters: FlatTensors, where: string): Promise<void> {
  const { dtype, flat } = parameters
  for (const group of parameterGroups) {
    const all = dtype === 'f32' ? new Float32Array(flat[group].size) : new Uint16Array(flat[group].size)
    for (const placement of parameters.placements) {
      if (placement.group !== group) continue
      const stored = file.tensors.get(placement.name)
      const values = toDeviceType(
        await file.read(placement.name),
        stored?.dtype ?? '',
        dtype,
        `${where}: ${placement.name}`,
      )
      all.set(values.subarray(0, sizeOf(placement.shape)), placement.offset)
    }
    flat[group].write(all)
    // One element read back, so that a lack of memory is said here and not at the first use.
    using probe = flat[group].view([1])
    await probe.data()
  }
}
