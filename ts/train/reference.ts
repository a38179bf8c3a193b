// The model that objectives compare the policy with: one that is given, a frozen copy of the start, or the policy with its
// adapter off. Its log-probs are computed beside the policy's in every step, or once before training and kept in a file
// that is found again by its contents: weights, arithmetic, tokens. Both ways give the same bits.

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { Needs, Objective } from '../loss/define.js'
import { messageOf, WhetstoneError } from '../src/base/errors.js'
import { ensureDirectory, exists } from '../src/io/files.js'
import { openSafetensors, writeSafetensors } from '../src/io/safetensors.js'
import { type AdaptedDecoder, disposeAdapter, withAdapterCopy, withoutAdapter } from '../src/models/adapter.js'
import { createDecoder, type Decoder, disposeDecoder, forward, headWeight, packedInput } from '../src/models/decoder.js'
import type { NumberArray } from '../src/native/addon.js'
import { copyFlat, createFlat, disposeFlat, parameter, parameterGroups } from '../src/nn/parameters.js'
import { gatherRows, headLogProbs } from '../src/ops/index.js'
import { Scope } from '../src/tensor/scope.js'
import { tensor } from '../src/tensor/tensor.js'
import type { EncodedExample } from './data/example.js'
import { microBatchOf } from './data/micro-batch.js'

/** A model that stays as it is while the policy is trained. */
export interface Reference {
  readonly decoder: Decoder
  /** Frees what it does not share with the policy. */
  readonly dispose: () => void
}

/**
 * The model to compare with: the one that is given, or the policy as it starts. One that follows the policy is a copy, so
 * that the caller's stays as it is.
 *
 * @throws WhetstoneError E_CONFIG for a model that cannot be the reference
 */
export async function openReference(policy: Decoder, given: Decoder | undefined, follows: boolean): Promise<Reference> {
  if (given === undefined) return startReference(policy)
  checkReference(policy, given)
  if (!follows || isAdapted(given)) return { decoder: given, dispose: () => undefined }
  const copy = frozenCopy(given)
  return { decoder: copy, dispose: () => disposeCopy(copy) }
}

/**
 * The policy as it is now: a copy of its weights; with an adapter that changes nothing yet the base alone, with another
 * one the base and a copy of the adapter.
 */
export async function startReference(policy: Decoder): Promise<Reference> {
  if (!isAdapted(policy)) {
    const copy = frozenCopy(policy)
    return { decoder: copy, dispose: () => disposeCopy(copy) }
  }
  if (!policy.adapter.config.useDora && (await isIdle(policy)))
    return { decoder: withoutAdapter(policy), dispose: () => undefined }
  const copy = withAdapterCopy(policy)
  return { decoder: copy, dispose: () => disposeAdapter(copy) }
}

/**
 * Checks that a model can be the reference of a policy.
 *
 * @param needs of the objective: a divergence over the vocabulary takes both models in one type
 * @throws WhetstoneError E_CONFIG for a score head, another vocabulary or type, or the weights that are trained themselves
 */
export function checkReference(policy: Decoder, reference: Decoder, { kl }: Pick<Needs, 'kl'> = {}): void {
  const refuse = (message: string): never => {
    throw new WhetstoneError('E_CONFIG', 'reference', message)
  }
  const [own, other] = [policy.config, reference.config]
  if (own.scoreLabels === undefined && other.scoreLabels !== undefined)
    refuse('expected a language model, got one with a score head')
  if (own.vocabSize !== other.vocabSize)
    refuse(`expected the vocabulary of the policy, ${own.vocabSize} tokens, got ${other.vocabSize}`)
  const [type, others] = [policy.parameters.dtype, reference.parameters.dtype]
  if (kl !== undefined && others !== type)
    refuse(
      `expected the policy's dtype, ${type}, as one operation reads both, got ${others}: load it with dtype '${type}'`,
    )
  const isTrained =
    policy.adapter === undefined ? reference.parameters === policy.parameters : reference.adapter === policy.adapter
  if (isTrained)
    refuse('expected a model that stays as it is, got the policy: leave it out, and the policy as it starts is taken')
}

/**
 * Refuses a run without the teacher that its objective learns from.
 *
 * @throws WhetstoneError E_CONFIG
 */
export function checkTeacher({ name, needs }: Objective, reference: unknown): void {
  if (needs.teacher !== true || reference !== undefined) return
  const text = `${name} needs it, the teacher: expected another model of the same vocabulary, got none`
  throw new WhetstoneError('E_CONFIG', 'reference', text)
}

const isAdapted = (m: Decoder): m is AdaptedDecoder => m.adapter !== undefined

/**
 * Is every addition zero, and what is trained whole still the base's? Where DoRA's lengths are those of the base is not looked
 * at: it gets a copy.
 */
async function isIdle({ adapter: { modules, replaced }, parameters }: AdaptedDecoder): Promise<boolean> {
  for (const { b } of modules.values()) if ((await b.data()).some((value) => value !== 0)) return false
  for (const [name, t] of replaced) {
    const [own, base] = await Promise.all([t.data(), parameter(parameters, name).data()])
    if (own.some((value, i) => value !== base[i])) return false
  }
  return true
}

/** A second set of the same weights; those in four bits, which nothing changes, are shared. Free it with {@link disposeCopy}. */
export function frozenCopy({ config, device, parameters, quantized }: Decoder): Decoder {
  const copy = createFlat(device, parameters.placements, parameters.dtype)
  copyFlat(copy, parameters)
  return createDecoder(config, device, copy, quantized)
}

/** Frees a {@link frozenCopy}. */
export const disposeCopy = (copy: Decoder): void => disposeDecoder({ ...copy, quantized: undefined }, disposeFlat)

/** How log-probs are precomputed. */
export interface ReferenceOptions {
  /** Divides the logits. */
  readonly temperature: number
  /** Examples per forward pass. */
  readonly batchSize: number
  /** Folder for the file; none: nothing is kept. */
  readonly directory?: string
  readonly signal?: AbortSignal
  readonly warn: (message: string) => void
  /** {@link modelHash} of the reference, where it is known already. */
  readonly modelSha256?: string
}

const tensorName = 'reference_logps'

/**
 * Examples whose sequences bring the reference's log-probs of their trained tokens.
 *
 * @throws WhetstoneError E_ABORTED, E_OOM, E_IO
 */
export async function withReferenceLogps(
  reference: Decoder,
  examples: readonly EncodedExample[],
  options: ReferenceOptions,
): Promise<EncodedExample[]> {
  const { directory } = options
  const count = trainedCount(examples)
  const path = directory && join(directory, `reference-${await contentKey(reference, examples, options)}.safetensors`)
  const known = path === undefined ? undefined : await readLogps(path, count, options.warn)
  const logps = known ?? (await computeLogps(reference, examples, options))
  if (path !== undefined && directory !== undefined && known === undefined) {
    await ensureDirectory(directory)
    const data = bytesOf(logps)
    await writeSafetensors(path, [{ name: tensorName, dtype: 'F32', shape: [count], data }], { sha256: sha256(data) })
  }
  return spread(examples, logps)
}

const sha256 = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex')

const bytesOf = (values: NumberArray): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength)

const marksOf = (trained: Uint8Array): number => trained.reduce((sum, mark, t) => sum + (t > 0 ? mark : 0), 0)

const trainedCount = (examples: readonly EncodedExample[]): number =>
  examples.flat().reduce((sum, { trained }) => sum + marksOf(trained), 0)

/** Everything that decides the numbers: the model with its arithmetic, the tokens and what is trained of them. */
async function contentKey(
  reference: Decoder,
  examples: readonly EncodedExample[],
  { temperature, modelSha256 }: ReferenceOptions,
): Promise<string> {
  const { level } = reference.device
  const model = modelSha256 ?? (await modelHash(reference))
  return sha256(JSON.stringify({ version: 2, level, temperature, model, rows: dataHash(examples) })).slice(0, 32)
}

/** What decides a policy's numbers and is in no checkpoint of its run: how it is adapted, and the frozen base. */
export async function frozenParts(policy: Decoder): Promise<{ lora?: unknown; baseSha256?: string }> {
  if (policy.adapter === undefined) return {}
  return { lora: policy.adapter.config, baseSha256: await modelHash(withoutAdapter(policy)) }
}

/** SHA-256 of a model: its configuration, weights and adapter. */
export async function modelHash({ config, parameters, quantized, adapter }: Decoder): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([config, parameters.dtype, adapter?.config]))
  for (const flat of [parameters, adapter?.parameters])
    if (flat !== undefined) for (const group of parameterGroups) hash.update(bytesOf(await flat.flat[group].bits()))
  for (const t of quantized?.storage ?? []) hash.update(`${t.dtype} ${t.size}`).update(bytesOf(await t.bits()))
  return hash.digest('hex')
}

/**
 * SHA-256 of the tokens of examples, what is trained of them, and what they are to the objective. Log-probs of the
 * reference do not count: the model that they are of has a hash.
 */
export function dataHash(examples: readonly EncodedExample[]): string {
  const hash = createHash('sha256')
  for (const { ids, trained, role, scores, weights, inputs } of examples.flat()) {
    const numbers = Object.entries({ weights, ...inputs, reference: undefined }).filter(
      (entry): entry is [string, ArrayLike<number>] => entry[1] !== undefined,
    )
    hash.update(JSON.stringify([ids.length, role, scores, numbers.map(([name]) => name)]))
    hash.update(Int32Array.from(ids))
    hash.update(trained)
    for (const [, values] of numbers) hash.update(Float64Array.from(values))
  }
  return hash.digest('hex')
}

/** Numbers of an earlier run; undefined when there are none, or none that can be used. */
async function readLogps(
  path: string,
  count: number,
  warn: (message: string) => void,
): Promise<Float32Array | undefined> {
  if (!(await exists(path))) return undefined
  try {
    const file = await openSafetensors(path)
    try {
      const bytes = await file.read(tensorName)
      if (bytes.byteLength !== 4 * count)
        throw new WhetstoneError('E_FORMAT', path, `expected ${count} numbers, got ${bytes.byteLength / 4}`)
      if (sha256(bytes) !== file.metadata.get('sha256'))
        throw new WhetstoneError('E_TORN', path, 'the numbers do not have the checksum that they were written with')
      return new Float32Array(bytes.slice().buffer)
    } finally {
      await file.close()
    }
  } catch (error) {
    warn(`log-probs of the reference are computed again: ${messageOf(error)}`)
    return undefined
  }
}

async function computeLogps(
  reference: Decoder,
  examples: readonly EncodedExample[],
  { temperature, batchSize, signal }: ReferenceOptions,
): Promise<Float32Array> {
  const all = new Float32Array(trainedCount(examples))
  let at = 0
  for (let first = 0; first < examples.length; first += batchSize) {
    if (signal?.aborted === true)
      throw new WhetstoneError('E_ABORTED', 'reference', 'stopped by its signal', { cause: signal.reason })
    const batch = microBatchOf(examples.slice(first, first + batchSize))
    using scope = new Scope()
    const logps = scope.run(() => {
      const hidden = forward(reference, packedInput(reference, batch.packed))
      const rows = gatherRows(hidden, tensor(reference.device, batch.predictors))
      const settings = { softcap: reference.config.logitSoftcap, temperature }
      return headLogProbs(rows, headWeight(reference), tensor(reference.device, batch.targets), settings).logps
    })
    all.set((await logps.data()) as Float32Array, at)
    at += batch.targets.length
  }
  return all
}

/** Hands each sequence its numbers, at the places of its trained tokens. */
function spread(examples: readonly EncodedExample[], logps: Float32Array): EncodedExample[] {
  let at = 0
  return examples.map((example) =>
    example.map((sequence) => {
      const reference = new Float32Array(sequence.ids.length)
      for (let t = 1; t < reference.length; t++) if (sequence.trained[t] === 1) reference[t] = logps[at++]
      return { ...sequence, inputs: { ...sequence.inputs, reference } }
    }),
  )
}
