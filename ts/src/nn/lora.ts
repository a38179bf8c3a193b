// LoRA (arXiv 2106.09685): a frozen matrix W gets a trained low-rank addition, y = x W^T + s (x A^T) B^T (+ b) with
// A [r, C], B [O, r] and s = alpha / r, or alpha / sqrt(r) as rsLoRA has it (arXiv 2312.03732). DoRA (arXiv 2402.09353)
// also trains the length m of each row: y = x (m V / ||V||)^T + b, V = W + s B A, whose norms carry no gradient.
// Settings, which modules they name, and the arithmetic of one projection. Which modules a model has: models/adapter.ts.
// Names and defaults of single settings are PEFT's (LoraConfig) in camelCase.

import { activeTape, type GradientRule } from '../autograd/tape.js'
import { checkOptions, either, type Kind, kinds, listOf, optional, shownValue } from '../base/arguments.js'
import { WhetstoneError } from '../base/errors.js'
import {
  add,
  castTo,
  dropout,
  fill,
  gatherRows,
  inverseRowNorms,
  linear,
  linearDw,
  linearDx,
  reshape,
  scale,
  scaleColumns,
  scaleColumnsDg,
} from '../ops/index.js'
import { tidy } from '../tensor/scope.js'
import { empty, type Tensor, tensor } from '../tensor/tensor.js'
import type { FlatTensors } from './parameters.js'
import { type FrozenMatrix, frozenLinear, unpacked, untracked } from './quantized.js'

/** Settings of an adapter. */
export interface LoraConfig {
  /** Rank of the additions. */
  readonly r: number
  readonly loraAlpha: number
  /** Probability that an input of A is dropped in training. */
  readonly loraDropout: number
  /**
   * Modules that get an addition: names or their last parts (`q_proj`, `mlp.up_proj`), one regular expression that must
   * match a module's whole name, or `all-linear`.
   */
  readonly targetModules: string | readonly string[]
  /** Scale by alpha / sqrt(r) instead of alpha / r. */
  readonly useRslora: boolean
  /** Train the length of each row of the weights too (DoRA). */
  readonly useDora: boolean
  /** False: B begins as A does, with random numbers, instead of zeros. */
  readonly initLoraWeights: boolean
  /** Ranks of modules that differ, by name or last parts of it. */
  readonly rankPattern: Readonly<Record<string, number>>
  /** Alphas of modules that differ, by name or last parts of it. */
  readonly alphaPattern: Readonly<Record<string, number>>
  /**
   * Modules beside the linear layers that are trained whole, each as a copy of its own: embedding, LM head, norms, by what their
   * names end with (`embed_tokens`, `lm_head`). Where embedding and head are one matrix, either name is both.
   */
  readonly modulesToSave: readonly string[]
}

/** What settings are when they are not given: TRL's for the command line, on every linear layer. */
export const loraDefaults: LoraConfig = {
  r: 16,
  loraAlpha: 32,
  loraDropout: 0.05,
  targetModules: 'all-linear',
  useRslora: false,
  useDora: false,
  initLoraWeights: true,
  rankPattern: {},
  alphaPattern: {},
  modulesToSave: [],
}

/** One adapted projection. */
export interface LoraModule {
  /** [r, C] f32 */
  readonly a: Tensor
  /** [O, r] f32 */
  readonly b: Tensor
  /** s */
  readonly scaling: number
  /** DoRA's m, [O] f32. */
  readonly magnitude?: Tensor
  /** Probability that an input of A (and of DoRA's rescaled W) is dropped, where there are keys. */
  readonly dropout: number
  /** Tells its random numbers from those of other modules. */
  readonly site: number
  /** What follows from the tensors above. Absent: it is made at each use, because training changes them. */
  readonly settled?: { readonly a: Tensor; readonly b: Tensor; readonly factors: Tensor | undefined }
}

/** Trained additions to a frozen model. */
export interface Adapter {
  readonly config: LoraConfig
  /** Under the names that PEFT's files have. */
  readonly parameters: FlatTensors
  /** By the names of the model's modules. */
  readonly modules: ReadonlyMap<string, LoraModule>
  /** Parameters that are trained whole, f32, in place of the base's of that name. */
  readonly replaced: ReadonlyMap<string, Tensor>
}

// Settings -----------------------------------------------------------------------------------------------------------

function need(ok: boolean, name: string, expected: string, got: unknown): void {
  if (!ok) throw new WhetstoneError('E_CONFIG', `lora.${name}`, `expected ${expected}, got ${shownValue(got)}`)
}

const isPattern: Kind = {
  expected: 'numbers by name of module',
  fits: (value) => kinds.object.fits(value) && Object.values(value as object).every(kinds.number.fits),
}

/** Kinds of {@link LoraConfig}. */
const settingKinds = {
  r: kinds.number,
  loraAlpha: kinds.number,
  loraDropout: kinds.number,
  targetModules: either(kinds.text, listOf(kinds.text)),
  useRslora: kinds.flag,
  useDora: kinds.flag,
  initLoraWeights: kinds.flag,
  rankPattern: isPattern,
  alphaPattern: isPattern,
  modulesToSave: listOf(kinds.filled),
} satisfies Record<keyof LoraConfig, Kind>

const optionalKinds = Object.fromEntries(Object.entries(settingKinds).map(([name, kind]) => [name, optional(kind)]))

const isRank = (value: number): boolean => Number.isInteger(value) && value >= 1 && value <= 65536
const isAlpha = (value: number): boolean => Number.isFinite(value) && value > 0

/**
 * All settings, checked.
 *
 * @throws WhetstoneError E_CONFIG naming the setting
 */
export function loraConfig(given: Partial<LoraConfig> = {}): LoraConfig {
  checkOptions('lora', given, optionalKinds)
  const settings = Object.entries(given).filter(([, value]) => value !== undefined)
  const config: LoraConfig = { ...loraDefaults, ...Object.fromEntries(settings) }
  const { r, loraAlpha, loraDropout, targetModules } = config
  need(isRank(r), 'r', 'a whole number from 1 to 65536', r)
  need(isAlpha(loraAlpha), 'loraAlpha', 'a number above 0', loraAlpha)
  need(loraDropout >= 0 && loraDropout < 1, 'loraDropout', 'a number from 0 to below 1', loraDropout)
  need(targetModules.length > 0, 'targetModules', 'at least one name, or a pattern', targetModules)
  need(Object.values(config.rankPattern).every(isRank), 'rankPattern', 'ranks of at least 1', config.rankPattern)
  need(Object.values(config.alphaPattern).every(isAlpha), 'alphaPattern', 'numbers above 0', config.alphaPattern)
  return config
}

/** Is it the module's name, or the last parts of it? */
export const isNamed = (module: string, name: string): boolean => module === name || module.endsWith(`.${name}`)

const patternOf = (pattern: Readonly<Record<string, number>>, module: string): number | undefined =>
  Object.entries(pattern).find(([name]) => isNamed(module, name))?.[1]

/** Rank of a module. */
export const rankOf = (c: LoraConfig, module: string): number => patternOf(c.rankPattern, module) ?? c.r

/** Factor s of a module. */
export function scalingOf(c: LoraConfig, module: string): number {
  const r = rankOf(c, module)
  return (patternOf(c.alphaPattern, module) ?? c.loraAlpha) / (c.useRslora ? Math.sqrt(r) : r)
}

function wholeMatch(pattern: string): (module: string) => boolean {
  try {
    const expression = new RegExp(`^(?:${pattern})$`)
    return (module) => expression.test(module)
  } catch (cause) {
    const text = `expected a regular expression, got '${pattern}'`
    throw new WhetstoneError('E_CONFIG', 'lora.targetModules', text, { cause })
  }
}

/**
 * Those of a model's modules that the settings name, in the model's order.
 *
 * @param modules full names of all that can be adapted
 * @throws WhetstoneError E_CONFIG for a name or a pattern without any, listing the known names
 */
export function targetsOf(
  { targetModules, rankPattern, alphaPattern }: LoraConfig,
  modules: readonly string[],
): string[] {
  const known = [...new Set(modules.map((module) => module.replace(/^.*\.\d+\./, '')))].join(', ')
  const refuse = (name: string): never => {
    const text = `expected names of linear layers (${known}), got '${name}'; embeddings and heads are not adapted: modulesToSave trains them whole`
    throw new WhetstoneError('E_CONFIG', 'lora.targetModules', text)
  }
  const names = typeof targetModules === 'string' ? [] : targetModules
  const alien = [...names, ...Object.keys(rankPattern), ...Object.keys(alphaPattern)]
  for (const name of alien) if (!modules.some((module) => isNamed(module, name))) refuse(name)
  if (targetModules === 'all-linear') return [...modules]
  if (typeof targetModules !== 'string') return modules.filter((m) => names.some((name) => isNamed(m, name)))
  const found = modules.filter(wholeMatch(targetModules))
  return found.length > 0 ? found : refuse(targetModules)
}

// Arithmetic ---------------------------------------------------------------------------------------------------------

/**
 * A parameter that is trained whole, rounded to the type of the model for the products, as A and B are. Its gradient is that of
 * what is rounded, added in token order to the f32 buffer of the parameter.
 */
export function wholeWeight(t: Tensor, dtype: 'f32' | 'bf16'): Tensor {
  if (t.dtype === dtype) return t
  const rounded = untracked(() => castTo(t, dtype))
  activeTape()?.standIn(rounded, t)
  return rounded
}

/**
 * The adapted product, in the type of x. A and B stay f32 and are rounded to that type for the products, as autocast
 * does: no copy of x in f32 is made and kept.
 *
 * @param x [N, C]
 * @param w [O, C], frozen; four-bit ones are unpacked for each product
 * @param keys in training: keys of each row's random numbers, i32 [N, 4]
 * @returns [N, O]
 */
export function loraLinear(lora: LoraModule, x: Tensor, w: FrozenMatrix, keys?: Tensor): Tensor {
  const { dropout: probability, site } = lora
  const kept = keys === undefined || probability === 0 ? x : dropout(x, keys, { probability, site })
  const base = frozenLinear(x, w)
  const delta = addition(lora, kept)
  if (lora.magnitude === undefined) return add(base, delta)
  // As PEFT has it, dropout also applies to what DoRA changes of the base's own product:
  // W x + (f - 1) (W x') + f delta, f = m / ||V||.
  const seen = kept === x ? base : frozenLinear(kept, w)
  const scaled = rescaled(lora, lora.magnitude, w, add(seen, delta))
  // In this order, because the difference is exactly zero where f is 1: with dropout too, DoRA begins as its base.
  return kept === x ? scaled : add(base, add(scaled, scale(seen, -1)))
}

/** s (x A^T) B^T, as one step of the tape: the gradients of A and B are added in token order to their f32 buffers. */
function addition({ a, b, scaling, settled }: LoraModule, x: Tensor): Tensor {
  const { u, y } = untracked(() => {
    // The factor goes to the thin side.
    const u = scale(linear(x, settled?.a ?? castTo(a, x.dtype)), scaling)
    return { u, y: linear(u, settled?.b ?? castTo(b, x.dtype)) }
  })
  const step = { name: 'lora', inputs: { x, a, b }, outputs: { y, u }, saves: ['x', 'a', 'b', 'u'], p: { scaling } }
  activeTape()?.add({ ...step, rule })
  return y
}

const rule: GradientRule = ({ t, d, p, needs, into }) => {
  if (d.y === undefined) return {}
  if (needs('b')) linearDw(into('b'), d.y, t.u)
  const du = scale(linearDx(d.y, castTo(t.b, d.y.dtype)), p.scaling)
  if (needs('a')) linearDw(into('a'), du, t.x)
  return { x: needs('x') ? linearDx(du, castTo(t.a, d.y.dtype)) : undefined }
}

/** x f with f = m / ||W + s B A||, as one step of the tape: the gradient flows to x and m. */
function rescaled(lora: LoraModule, magnitude: Tensor, w: FrozenMatrix, x: Tensor): Tensor {
  if (lora.settled?.factors !== undefined) return scaleColumns(x, lora.settled.factors)
  const { inverse, factors, y } = untracked(() => {
    const inverse = inverseRowNorms(adaptedWeight(lora, w))
    const factors = quotients(magnitude, inverse)
    return { inverse, factors, y: scaleColumns(x, factors) }
  })
  const step = { name: 'dora', inputs: { x, magnitude, inverse, factors }, outputs: { y }, p: {} }
  activeTape()?.add({ ...step, saves: ['x', 'inverse', 'factors'], rule: rescaledRule })
  return y
}

const rescaledRule: GradientRule = ({ t, d, needs, into }) => {
  if (d.y === undefined) return {}
  if (needs('magnitude')) scaleColumnsDg(into('magnitude'), scaleColumns(d.y, t.inverse), t.x)
  return { x: needs('x') ? scaleColumns(d.y, t.factors) : undefined }
}

/** a b of two vectors. */
const product = (a: Tensor, b: Tensor): Tensor => reshape(scaleColumns(reshape(a, [1, a.size]), b), [a.size])

/** 1 / x of positive numbers [O]: the norm of a row of one number is that number. */
const inverted = (x: Tensor): Tensor => inverseRowNorms(reshape(x, [x.size, 1]))

/** ||W + s B A|| of each row, [O] f32: where DoRA's m begins. */
export const rowNorms = (lora: LoraModule, w: FrozenMatrix): Tensor =>
  untracked(() => inverted(inverseRowNorms(adaptedWeight(lora, w))))

/**
 * m / n of numbers [O] f32, from 1 / n: p + p (1 - n / n) with p = m (1 / n), a step of Newton's method. Where m is n, p is
 * 1 - e for some e that rounding left, 1 - p is e to the bit, and the sum 1 - e^2 rounds to exactly 1.
 */
function quotients(m: Tensor, inverse: Tensor): Tensor {
  const one = empty(inverse.device, inverse.shape, 'f32')
  fill(one, 1)
  const left = add(one, scale(product(inverted(inverse), inverse), -1))
  const p = product(m, inverse)
  return add(p, product(p, left))
}

/** W + s B A of a frozen matrix [O, C], in f32. */
export const adaptedWeight = ({ a, b, scaling }: LoraModule, w: FrozenMatrix): Tensor =>
  add(castTo(unpacked(w), 'f32'), scale(linearDx(b, a), scaling))

/** The weight that gives the adapted product by itself, [O, C] f32. */
export function mergedWeight(lora: LoraModule, w: Tensor): Tensor {
  const v = adaptedWeight(lora, w)
  if (lora.magnitude === undefined) return v
  const [o, c] = w.shape
  const factors = quotients(lora.magnitude, inverseRowNorms(v))
  const rows = tensor(
    w.device,
    Int32Array.from({ length: o * c }, (_, i) => Math.floor(i / c)),
  )
  return reshape(product(reshape(v, [o * c]), reshape(gatherRows(reshape(factors, [o, 1]), rows), [o * c])), [o, c])
}

/** The module with everything made once that follows from its tensors, for as long as they stay. */
export function settledModule(lora: LoraModule, w: FrozenMatrix): LoraModule {
  const { a, b, magnitude } = lora
  const factors = () => quotients(magnitude as Tensor, inverseRowNorms(adaptedWeight(lora, w)))
  const made = { a: castTo(a, w.dtype), b: castTo(b, w.dtype) }
  return { ...lora, settled: { ...made, factors: magnitude === undefined ? undefined : tidy(factors) } }
}
