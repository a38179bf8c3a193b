// A decoder's projections in four bits, and back. Which matrices: those of the layers, as bitsandbytes has it; embedding,
// heads, norms and biases stay in the model's type.

import { createFlat, type FlatTensors, parameter } from '../nn/parameters.js'
import { createQuantized, disposeQuantized, type QuantizedOptions, quantizeInto, unpacked } from '../nn/quantized.js'
import { copy } from '../ops/index.js'
import { tidy } from '../tensor/scope.js'
import { createDecoder, type Decoder, decoderSpecs, frozenMatrix } from './decoder.js'
import { isProjection } from './specs.js'

/**
 * The same model with its projections in four bits, in new tensors.
 *
 * @throws WhetstoneError E_NONFINITE naming a matrix with NaN or infinity; E_OOM
 */
export async function quantizedDecoder(m: Decoder, options: Omit<QuantizedOptions, 'dtype'>): Promise<Decoder> {
  const { config, device, parameters } = m
  const { dtype } = parameters
  const specs = decoderSpecs(config)
  const packed = specs.filter((spec) => isProjection(config, spec))
  const quantized = createQuantized(device, packed, { ...options, dtype })
  try {
    for (const { name } of packed) await quantizeInto(quantized, name, parameter(parameters, name))
  } catch (error) {
    disposeQuantized(quantized)
    throw error
  }
  const plain = createFlat(
    device,
    specs.filter((spec) => !packed.includes(spec)),
    dtype,
  )
  for (const [name, t] of plain.byName) copy(t, parameter(parameters, name))
  return createDecoder(config, device, plain, quantized)
}

/** The weights of a model, all as numbers of its type, in new tensors. */
export function unpackedParameters(m: Decoder): FlatTensors {
  const flat = createFlat(m.device, decoderSpecs(m.config), m.parameters.dtype)
  for (const [name, t] of flat.byName) tidy(() => copy(t, unpacked(frozenMatrix(m, name))))
  return flat
}
