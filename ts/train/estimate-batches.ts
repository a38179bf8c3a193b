// The micro-batches whose memory decides: those of the data with most tokens, or the longest that settings allow.

import type { Objective, Role } from '../loss/define.js'
import type { DecoderConfig } from '../src/models/config.js'
import { positionLimit } from '../src/models/decoder.js'
import { loadTokenizer } from '../src/tokenizer/tokenizer.js'
import { checkLengths, checkVocabulary, encodeFor } from './data/encode.js'
import { encodePart } from './data/encode-options.js'
import type { EncodedExample, EncodedSequence } from './data/example.js'
import { type MicroBatch, microBatchOf } from './data/micro-batch.js'
import { planData } from './data/plan.js'
import { type SplitRows, splitRows } from './data/split.js'
import { foldersOf, type ResolvedEstimate } from './estimate-models.js'
import { evaluationBatches, layoutOf } from './evaluate.js'

/**
 * The micro-batches with most tokens and with most trained tokens, and some of all sizes for the blocks left idle.
 *
 * @param alignment tokens at whose multiples examples begin
 */
export function typicalBatches(
  examples: readonly EncodedExample[],
  { training, objective }: Pick<ResolvedEstimate, 'training' | 'objective'>,
  alignment: number,
): MicroBatch[] {
  const plan = planData(examples, training)
  const steps =
    training.maxSteps > 0 ? training.maxSteps : Math.ceil(plan.stepsPerEpoch * Math.max(1, training.numTrainEpochs))
  const micros = Array.from({ length: Math.min(steps, mostSteps) }, (_, step) => plan.rowsOf(step)).flat()
  const sumOf = (of: readonly number[]) => (micro: readonly number[]) => micro.reduce((sum, row) => sum + of[row], 0)
  const filled = (count: number) => Math.ceil(count / alignment) * alignment
  const total = (count: (own: EncodedSequence) => number) =>
    sumOf(examples.map((example) => filled(example.reduce((sum, own) => sum + count(own), 0))))
  const tokens = total(({ ids }) => ids.length)
  const trained = total((own) => countMarks(own.trained))
  const bySize = [...micros].sort((a, b) => tokens(b) - tokens(a))
  const spread = Array.from({ length: sampled }, (_, i) => bySize[Math.floor((i * bySize.length) / sampled)])
  const chosen = new Set([...spread, micros.reduce((best, micro) => (trained(micro) > trained(best) ? micro : best))])
  const layout = layoutOf(objective, training)
  return [...chosen].map((micro) =>
    microBatchOf(
      micro.map((row) => examples[row]),
      layout,
    ),
  )
}

/** Steps to look through for the largest micro-batch. */
const mostSteps = 100_000

/** Micro-batches of different sizes to run. */
const sampled = 8

const countMarks = (trained: Uint8Array): number => trained.reduce((sum, mark) => sum + mark, 0)

/** Examples with log-probs of the reference, as they are when those were computed before the first step. */
export const withReferenceLogps = (examples: readonly EncodedExample[]): EncodedExample[] =>
  examples.map((example) =>
    example.map((sequence) => ({
      ...sequence,
      inputs: { ...sequence.inputs, reference: new Float64Array(sequence.ids.length).fill(-1) },
    })),
  )

/** The micro-batches of evaluations with most tokens and with most trained tokens; none where nothing is evaluated. */
export function largestEvaluations(
  held: readonly EncodedExample[],
  { training, objective }: Pick<ResolvedEstimate, 'training' | 'objective'>,
): MicroBatch[] {
  if (training.evalStrategy === 'no') return []
  const batches = evaluationBatches(objective, training, held)
  const most = (sizeOf: (batch: MicroBatch) => number) =>
    batches.reduce<MicroBatch | undefined>(
      (best, batch) => (best === undefined || sizeOf(batch) > sizeOf(best) ? batch : best),
      undefined,
    )
  const chosen = [most(({ packed }) => packed.ids.length), most(({ targets }) => targets.length)]
  return [...new Set(chosen)].filter((batch) => batch !== undefined)
}

/** Examples to train, and examples to evaluate on. */
export interface EstimateExamples {
  readonly train: EncodedExample[]
  readonly held: EncodedExample[]
}

/**
 * The rows of the data; without data as many of the greatest length as a micro-batch takes.
 *
 * @param config of the model, which may have a last position
 */
export async function examplesOf(options: ResolvedEstimate, config: DecoderConfig): Promise<EstimateExamples> {
  const { data, evalData, training, objective } = options
  if (data === undefined) {
    const { perDeviceTrainBatchSize: length, perDeviceEvalBatchSize = length, maxLength, evalRows } = training
    const tokens = Math.min(maxLength, positionLimit(config) ?? maxLength)
    const full = (count: number) => Array.from({ length: count }, () => fullExample(objective, tokens))
    return { train: full(length), held: evalData === undefined && evalRows === 0 ? [] : full(perDeviceEvalBatchSize) }
  }
  const tokenizer = await loadTokenizer((await foldersOf(options)).model, {
    chatTemplatePath: options.chatTemplatePath,
  })
  const encode = (rows: SplitRows['train'], spare?: SplitRows['train']) => {
    const encoded = encodeFor(objective, tokenizer, rows, encodePart(training), spare)
    checkLengths(encoded, config)
    checkVocabulary(encoded, config, tokenizer)
    return [...encoded.examples]
  }
  const { train, held } = await splitRows({ ...options, data }, training)
  return { train: encode(train), held: held.length === 0 ? [] : encode(held, train) }
}

/** An example of the objective as long as may be: all of it trained (of score heads the end), nothing shared. */
function fullExample({ needs }: Objective, maxLength: number): EncodedExample {
  // A ranking compares at least two answers.
  const roles: readonly Role[] = needs.roles ?? (needs.rows === 'group' ? ['completion', 'completion'] : ['completion'])
  const scores = Object.fromEntries([...usualScores, ...(needs.scores ?? [])].map((name) => [name, 1]))
  const inputs = Object.fromEntries((needs.tokens ?? []).map((name) => [name, new Float64Array(maxLength)]))
  const isTrained = (i: number) => Number(needs.values === undefined ? i > 0 : i === maxLength - 1)
  return roles.map((role, s) => ({
    ids: new Array<number>(maxLength).fill(s),
    trained: Uint8Array.from({ length: maxLength }, (_, i) => isTrained(i)),
    role,
    scores: needs.rows === 'group' ? { ...scores, label: s } : scores,
    inputs,
  }))
}

/** Scores that rows of some kind have without the objective asking. */
const usualScores = ['advantage', 'label', 'reward']
