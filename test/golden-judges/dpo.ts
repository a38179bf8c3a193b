// Judges golden/traces/dpo.json: TRL's DPOTrainer step by step, with prompts that chosen and rejected share. Losses,
// rewards, log-probs, norms and the weights at the end. Tolerances: golden/traces/README.md.

import { join } from 'node:path'
import { dpo } from '../../ts/loss/index.js'
import { loadModel } from '../../ts/src/generate/language-model.js'
import { readJson } from '../../ts/src/io/json.js'
import type { EncodedExample } from '../../ts/train/data/example.js'
import { microBatchOf } from '../../ts/train/data/micro-batch.js'
import { disposeCopy, frozenCopy } from '../../ts/train/reference.js'
import { createTrainer, disposeTrainer, type StepResult, trainStep } from '../../ts/train/trainer.js'
import { type Finding, within } from './finding.js'
import { type Expected, judgeFinal, judgeStatistics } from './train.js'

/** A batch as DPOTrainer makes it. */
export interface DpoBatch {
  readonly input_ids: number[][]
  readonly attention_mask: number[][]
  readonly completion_mask: number[][]
}

type DpoStep = Expected['steps'][number] & { exact_loss: number; batch: DpoBatch } & Readonly<Record<string, unknown>>

/** A padded batch of DPOTrainer, chosen rows before rejected ones, as pairs. */
export function pairsOf({ input_ids, attention_mask, completion_mask }: DpoBatch): EncodedExample[] {
  const half = input_ids.length / 2
  const sequence = (row: number, role: 'chosen' | 'rejected') => {
    const kept = input_ids[row].map((_, t) => t).filter((t) => attention_mask[row][t] === 1)
    const trained = Uint8Array.from(kept, (t) => completion_mask[row][t])
    return { ids: kept.map((t) => input_ids[row][t]), trained, role }
  }
  return Array.from({ length: half }, (_, row) => [sequence(row, 'chosen'), sequence(row + half, 'rejected')])
}

const metrics = [
  'rewards/chosen',
  'rewards/rejected',
  'rewards/margins',
  'rewards/accuracies',
  'entropy',
  'mean_token_accuracy',
  'logits/chosen',
  'logits/rejected',
  'num_tokens',
]

function judgeStep(expected: DpoStep, { loss, gradNorm, stats, numTokens }: StepResult, name: string): Finding[] {
  return [
    within(`${name} loss`, Math.abs(loss - expected.exact_loss), 1e-4),
    within(`${name} grad_norm`, Math.abs(gradNorm / expected.grad_norm - 1), 1e-4),
    ...judgeStatistics(name, metrics, { ...stats, num_tokens: numTokens }, expected),
    ...(['logps/chosen', 'logps/rejected'] as const).map((key) =>
      within(`${name} ${key}`, Math.abs(stats[key] / Number(expected[key]) - 1), 1e-4),
    ),
  ]
}

/** TRL's DPO trace. */
export async function judgeDpoTrace(root: string): Promise<Finding[]> {
  const trace = (await readJson(join(root, 'traces', 'dpo.json'))) as Omit<Expected, 'steps'> & { steps: DpoStep[] }
  using model = await loadModel(join(root, 'models', 'llama'), { dtype: 'f32' })
  const reference = frozenCopy(model.decoder)
  const optimizer = { adamBeta1: 0.9, adamBeta2: 0.999, adamEpsilon: 1e-8, weightDecay: 0, maxGradNorm: 1 }
  const trainer = createTrainer({ policy: model.decoder, reference, objective: dpo({ beta: 0.1 }), optimizer })
  try {
    const findings: Finding[] = []
    for (const [k, step] of trace.steps.entries()) {
      const result = await trainStep(trainer, [microBatchOf(pairsOf(step.batch))], 1e-4)
      findings.push(...judgeStep(step, result, `traces/dpo step ${k}`))
    }
    return [...findings, ...(await judgeFinal(trainer, trace, 'traces/dpo'))]
  } finally {
    disposeTrainer(trainer)
    disposeCopy(reference)
  }
}
