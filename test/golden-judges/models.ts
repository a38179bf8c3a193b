// Judges a folder of golden/models: logits, log-probs, loss, gradients and greedy decoding of one model, in f32 and
// bf16, against float64 references made with Transformers. Tolerances: golden/models/README.md.

import { join } from 'node:path'
import { sft } from '../../ts/loss/index.js'
import { type LanguageModel, loadModel } from '../../ts/src/generate/language-model.js'
import { readJson } from '../../ts/src/io/json.js'
import { openSafetensors } from '../../ts/src/io/safetensors.js'
import { toFileOrder } from '../../ts/src/nn/parameters.js'
import { createTrainer, disposeTrainer, gradientsOf } from '../../ts/train/trainer.js'
import { maskedBatch } from './batches.js'
import { type Finding, largest, largestDifference, meanDifference, within } from './finding.js'

interface Reference {
  readonly sequences: readonly number[][]
  readonly prompts: readonly number[]
  readonly tensors: ReadonlyMap<string, Float64Array>
  readonly summary: {
    readonly loss: number
    readonly logit_errors: Record<'f32' | 'bf16', { max_abs: number; mean_abs: number }>
    readonly greedy: readonly { prompt: number[]; output: number[]; margins: number[] }[]
  }
}

const numbers: Readonly<Record<string, (bytes: Uint8Array) => Float64Array>> = {
  F64: (b) => new Float64Array(b.buffer, b.byteOffset, b.byteLength / 8),
  F32: (b) => Float64Array.from(new Float32Array(b.buffer, b.byteOffset, b.byteLength / 4)),
  I64: (b) => Float64Array.from(new BigInt64Array(b.buffer, b.byteOffset, b.byteLength / 8), Number),
  BF16: (b) =>
    Float64Array.from(
      new Float32Array(
        Uint32Array.from(new Uint16Array(b.buffer, b.byteOffset, b.byteLength / 2), (x) => x << 16).buffer,
      ),
    ),
}

async function readReference(directory: string): Promise<Reference> {
  const file = await openSafetensors(join(directory, 'reference.safetensors'))
  const tensors = new Map<string, Float64Array>()
  for (const [name, info] of file.tensors) tensors.set(name, numbers[info.dtype]((await file.read(name)).slice()))
  await file.close()
  const ids = Array.from(tensors.get('input_ids')!)
  const bounds = Array.from(tensors.get('cu_seqlens')!)
  return {
    sequences: bounds.slice(1).map((end, s) => ids.slice(bounds[s], end)),
    prompts: Array.from(tensors.get('prompt_lens')!),
    tensors,
    summary: (await readJson(join(directory, 'reference.json'))) as Reference['summary'],
  }
}

async function logitsOf(model: LanguageModel, sequences: readonly number[][]): Promise<number[]> {
  const all: number[] = []
  for (const ids of sequences) for (const z of await model.logits(ids)) all.push(z)
  return all
}

async function judgeForward(model: LanguageModel, r: Reference, name: string): Promise<Finding[]> {
  const logits = await logitsOf(model, r.sequences)
  const bound = 4 * r.summary.logit_errors.f32.max_abs
  const logps = (await model.logProbs(r.sequences)).flatMap((row) => Array.from(row))
  return [
    within(`${name} logits f32`, largestDifference(logits, r.tensors.get('logits_f64')!), bound),
    within(`${name} logprobs f32`, largestDifference(logps, r.tensors.get('logprobs_f64')!), 2 * bound),
  ]
}

async function judgeGradients(model: LanguageModel, r: Reference, name: string): Promise<Finding[]> {
  const optimizer = { adamBeta1: 0.9, adamBeta2: 0.95, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 0 }
  const trainer = createTrainer({ policy: model.decoder, objective: sft(), optimizer })
  try {
    const batch = maskedBatch(r.sequences.map((ids, s) => ({ ids, prompt: r.prompts[s] })))
    const { loss, gradients } = await gradientsOf(trainer, [batch])
    const { placements } = model.decoder.parameters
    const findings = [within(`${name} loss`, Math.abs(loss - r.summary.loss), 1e-5)]
    for (const [key, expected] of r.tensors) {
      if (!key.startsWith('grad.')) continue
      const placement = placements.find(({ name: own }) => own === key.slice(5))
      const got = placement && gradients.get(placement.name)
      const error =
        placement === undefined || got === undefined
          ? Number.POSITIVE_INFINITY
          : largestDifference(toFileOrder(placement, got), expected)
      findings.push(within(`${name} ${key}`, error, 1e-4 * largest(expected)))
    }
    return findings
  } finally {
    disposeTrainer(trainer)
  }
}

/** Compares up to the first step whose margin is too small to decide. */
async function judgeGreedy(model: LanguageModel, r: Reference, name: string): Promise<Finding[]> {
  const allowed = 4 * r.summary.logit_errors.f32.max_abs
  const findings: Finding[] = []
  for (const [i, { prompt, output, margins }] of r.summary.greedy.entries()) {
    const unclear = margins.findIndex((margin) => margin < 2 * allowed)
    const compared = unclear < 0 ? output.length : unclear
    const [{ ids }] = await model.generate(prompt, { temperature: 0, maxNewTokens: output.length, stopIds: [] })
    const ok = output.slice(0, compared).every((id, t) => ids[t] === id)
    findings.push({ entry: `${name} greedy ${i}`, ok, detail: `${compared} tokens compared` })
  }
  return findings
}

async function judgeBf16(directory: string, r: Reference, name: string): Promise<Finding[]> {
  using model = await loadModel(directory, { dtype: 'bf16' })
  const logits = await logitsOf(model, r.sequences)
  const exact = r.tensors.get('logits_f64')!
  const { max_abs, mean_abs } = r.summary.logit_errors.bf16
  return [
    within(`${name} logits bf16 mean`, meanDifference(logits, exact), 2 * mean_abs),
    within(`${name} logits bf16 max`, largestDifference(logits, exact), 3 * max_abs),
  ]
}

/** All findings on one model folder. */
export async function judgeModel(directory: string, name: string): Promise<Finding[]> {
  const r = await readReference(directory)
  using model = await loadModel(directory, { dtype: 'f32' })
  return [
    ...(await judgeForward(model, r, name)),
    ...(await judgeGradients(model, r, name)),
    ...(await judgeGreedy(model, r, name)),
    ...(await judgeBf16(directory, r, name)),
  ]
}
