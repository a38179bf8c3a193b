// Adapters of a decoder (nn/lora.ts has the arithmetic): attaching a fresh one, leaving it off, copying it, and adding
// it to the weights. The base is shared and frozen; `trainableOf(decoder)` then gives the adapter's tensors alone.
// What is not of the linear layers can be trained whole beside the additions, as PEFT's modules_to_save: as f32 copies, where
// PEFT keeps the base's type. A score head always is. An embedding that is the LM head too stays so, as with PEFT's
// ensure_weight_tying; by default PEFT would take the two apart. Files: peft.ts.

import { checkArgument, kinds } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import { createRandom, deriveKey } from '../base/rng.js'
import {
  type Adapter,
  type LoraConfig,
  type LoraModule,
  loraConfig,
  mergedWeight,
  rankOf,
  rowNorms,
  scalingOf,
  settledModule,
  targetsOf,
  wholeWeight,
} from '../nn/lora.js'
import { copyFlat, createFlat, disposeFlat, type FlatTensors, type ParameterSpec, parameter } from '../nn/parameters.js'
import type { FrozenMatrix } from '../nn/quantized.js'
import { copy } from '../ops/index.js'
import { tidy } from '../tensor/scope.js'
import type { Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import type { DecoderConfig } from './config.js'
import { type Decoder, decoderKind, decoderSpecs, frozenMatrix } from './decoder.js'
import { isProjection, isScoreParameter } from './specs.js'

/** What PEFT puts before the names of a model's modules. */
export const peftPrefix = 'base_model.model.'

const nameOfA = (module: string): string => `${peftPrefix}${module}.lora_A.weight`
const nameOfB = (module: string): string => `${peftPrefix}${module}.lora_B.weight`
const nameOfMagnitude = (module: string): string => `${peftPrefix}${module}.lora_magnitude_vector`

const moduleOf = ({ name }: ParameterSpec): string => name.replace(/\.(weight|bias)$/, '')

/** Matrices [O, C] of the layers, by module: what can be adapted. */
export function linearModules(c: DecoderConfig): Map<string, Shape> {
  const matrices = decoderSpecs(c).filter((spec) => isProjection(c, spec))
  return new Map(matrices.map((spec) => [moduleOf(spec), spec.shape]))
}

/** All other modules, which can be trained whole. A tied embedding has the name of the LM head too. */
function wholeModules(c: DecoderConfig): string[] {
  const projections = linearModules(c)
  const modules = new Set(decoderSpecs(c).map(moduleOf))
  return [...modules, ...(c.tied ? ['lm_head'] : [])].filter((module) => !projections.has(module))
}

/**
 * The parameters that an adapter trains whole, in the model's order.
 *
 * @param where names the setting in an error
 * @throws WhetstoneError E_CONFIG for a name that no module has, listing the known names
 */
export function wholeSpecs(
  c: DecoderConfig,
  { modulesToSave }: LoraConfig,
  where = 'lora.modulesToSave',
): ParameterSpec[] {
  const modules = wholeModules(c)
  const known = () => [...new Set(modules.map((module) => module.replace(/^.*\./, '')))].join(', ')
  for (const name of modulesToSave)
    if (!modules.some((module) => module.endsWith(name)))
      throw new WhetstoneError(
        'E_CONFIG',
        where,
        `expected modules beside the linear layers (${known()}), got '${name}'`,
      )
  const isChosen = (module: string) => module === 'score' || modulesToSave.some((name) => module.endsWith(name))
  const chosen = new Set(
    modules.filter(isChosen).map((module) => (c.tied && module === 'lm_head' ? c.layout.embedding : module)),
  )
  return decoderSpecs(c).filter((spec) => chosen.has(moduleOf(spec)))
}

/** Names and shapes of an adapter's tensors, as in PEFT's files. */
export function adapterSpecs(c: DecoderConfig, lora: LoraConfig, targets: readonly string[]): ParameterSpec[] {
  const shapes = linearModules(c)
  const additions = targets.flatMap((module): ParameterSpec[] => {
    const [outputs, inputs] = shapes.get(module) ?? []
    const r = rankOf(lora, module)
    return [
      { name: nameOfA(module), shape: [r, inputs] },
      { name: nameOfB(module), shape: [outputs, r] },
      ...(lora.useDora ? [{ name: nameOfMagnitude(module), shape: [outputs] }] : []),
    ]
  })
  return [...additions, ...wholeSpecs(c, lora).map(({ name, shape }) => ({ name: peftPrefix + name, shape }))]
}

/** An adapter of a model over given tensors. */
function adapterOf(c: DecoderConfig, config: LoraConfig, parameters: FlatTensors, targets: readonly string[]): Adapter {
  // Sites count all modules, so that one's random numbers do not depend on which others are adapted; 0 is the embedding.
  const sites = new Map([...linearModules(c).keys()].map((module, i) => [module, i + 1]))
  const loraOf = (module: string): LoraModule => ({
    a: parameter(parameters, nameOfA(module)),
    b: parameter(parameters, nameOfB(module)),
    scaling: scalingOf(config, module),
    magnitude: parameters.byName.get(nameOfMagnitude(module)),
    dropout: config.loraDropout,
    site: sites.get(module) ?? 0,
  })
  const modules = targets.map((module) => [module, loraOf(module)] as const)
  const whole = wholeSpecs(c, config).map(({ name }) => [name, parameter(parameters, peftPrefix + name)] as const)
  return { config, parameters, modules: new Map(modules), replaced: new Map(whole) }
}

/**
 * A decoder with an adapter whose tensors are zero. They are f32 whatever the base is, as in PEFT: they are few, small
 * updates are not lost, and no masters are needed beside them.
 *
 * @throws WhetstoneError E_CONFIG when there is an adapter already
 */
export function withEmptyAdapter(m: Decoder, config: LoraConfig, targets: readonly string[]): AdaptedDecoder {
  if (m.adapter !== undefined)
    throw new WhetstoneError('E_CONFIG', 'lora', 'expected a model without adapter, got one with: merge it first')
  const specs = adapterSpecs(m.config, config, targets)
  return { ...m, adapter: adapterOf(m.config, config, createFlat(m.device, specs, 'f32'), targets) }
}

/** A decoder that has an adapter. */
export type AdaptedDecoder = Decoder & { readonly adapter: Adapter }

/**
 * The decoder with a fresh adapter; the base's tensors are shared. A is uniform in +-1/sqrt(inputs) (PEFT's Kaiming
 * uniform), by seed and name alone; B is zero, and modules that are trained whole begin as the base's, so that the model's
 * function does not change.
 *
 * @throws WhetstoneError E_CONFIG for unknown modules or settings, or when there is an adapter already
 */
export function withAdapter(m: Decoder, settings: Partial<LoraConfig> = {}, seed = 0): AdaptedDecoder {
  checkArgument('withAdapter.decoder', m, decoderKind)
  checkArgument('withAdapter.seed', seed, kinds.whole)
  const config = loraConfig(settings)
  const adapted = withEmptyAdapter(m, config, targetsOf(config, [...linearModules(m.config).keys()]))
  const { adapter } = adapted
  for (const { name, shape } of adapter.parameters.placements)
    if (name.endsWith('.lora_A.weight') || (name.endsWith('.lora_B.weight') && !config.initLoraWeights))
      fillUniform(adapter.parameters, name, shape, seed)
  for (const [name, t] of adapter.replaced) copy(t, parameter(m.parameters, name))
  for (const [module, lora] of adapter.modules)
    if (lora.magnitude !== undefined) measure(lora, lora.magnitude, frozenMatrix(m, `${module}.weight`))
  return adapted
}

const measure = (lora: LoraModule, magnitude: Tensor, weight: FrozenMatrix): void =>
  tidy(() => copy(magnitude, rowNorms(lora, weight)))

/** Uniform in +-1/sqrt(C) over a matrix [O, C]. */
function fillUniform(flat: FlatTensors, name: string, [outputs, inputs]: Shape, seed: number): void {
  const random = createRandom(deriveKey(seed, 'lora', name))
  const bound = 1 / Math.sqrt(inputs)
  const values = Float32Array.from({ length: outputs * inputs }, () => bound * (2 * random.next() - 1))
  parameter(flat, name).write(values)
}

/** The same decoder with its adapter left off; weights are shared. */
export function withoutAdapter(m: Decoder): Decoder {
  checkArgument('withoutAdapter.decoder', m, decoderKind)
  const { adapter: _, ...base } = m
  return base
}

/**
 * The same decoder with everything made once that follows from the adapter's tensors: for sampling, while nothing
 * changes them. What is made belongs to the open scope.
 */
export function settled(m: Decoder): Decoder {
  if (m.adapter === undefined) return m
  const modules = [...m.adapter.modules].map(
    ([name, lora]) => [name, settledModule(lora, frozenMatrix(m, `${name}.weight`))] as const,
  )
  const { dtype } = m.parameters
  const replaced = [...m.adapter.replaced].map(
    ([name, t]) => [name, isScoreParameter(name) ? t : wholeWeight(t, dtype)] as const,
  )
  return { ...m, adapter: { ...m.adapter, modules: new Map(modules), replaced: new Map(replaced) } }
}

/**
 * The adapter of a decoder.
 *
 * @throws WhetstoneError E_CONFIG when it has none
 */
export function adapterIn({ adapter }: Decoder): Adapter {
  if (adapter !== undefined) return adapter
  throw new WhetstoneError('E_CONFIG', 'lora', 'expected a model with an adapter, got one without')
}

/**
 * The same decoder with a copy of its adapter, for a reference that stays while the adapter is trained.
 *
 * @throws WhetstoneError E_CONFIG without an adapter
 */
export function withAdapterCopy(m: Decoder): AdaptedDecoder {
  const { config, parameters, modules } = adapterIn(m)
  const copied = createFlat(m.device, parameters.placements, 'f32')
  copyFlat(copied, parameters)
  return { ...m, adapter: adapterOf(m.config, config, copied, [...modules.keys()]) }
}

/** Frees an adapter's tensors; the base stays. */
export const disposeAdapter = (m: Decoder): void => {
  if (m.adapter !== undefined) disposeFlat(m.adapter.parameters)
}

/**
 * Adds an adapter to the weights themselves, in f32 and rounded once to the base's type, and frees it. The
 * weights change for every decoder that shares them.
 *
 * @returns the decoder without adapter
 * @throws WhetstoneError E_CONFIG without an adapter, or over weights in four bits, which do not hold the sum
 */
export function mergeAdapter(m: Decoder): Decoder {
  if (m.quantized !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'lora',
      'expected weights to add an adapter to, got four-bit ones: unpack them',
    )
  const { modules, replaced } = adapterIn(m)
  for (const [module, lora] of modules) {
    const weight = parameter(m.parameters, `${module}.weight`)
    tidy(() => copy(weight, mergedWeight(lora, weight)))
  }
  for (const [name, t] of replaced) copy(parameter(m.parameters, name), t)
  disposeAdapter(m)
  return withoutAdapter(m)
}
