// Cases of golden/losses whose examples are single completions: unpaired.json, policy.json, vocab.json.

import type { Objective, StepCounts } from '../../ts/loss/define.js'
import {
  bco,
  cispo,
  clippedValueLoss,
  distill,
  distributionTerms,
  gkd,
  gmpo,
  kto,
  labelTerms,
  nashMd,
  ppo,
  reinforce,
  rloo,
  sapo,
  sft,
  superhf,
  type VocabularyRow,
  type VocabularyTerm,
} from '../../ts/loss/index.js'
import {
  type Inputs,
  type Maker,
  make,
  numbersOf,
  type Outcome,
  type Params,
  type RawSequence,
  type Runner,
  rowsOf,
  runStep,
  settingsOf,
} from './losses-run.js'

// Unpaired -------------------------------------------------------------------------------------------------------------

const unpairedCase =
  (maker: Maker): Runner =>
  (inputs, params): Outcome => {
    const objective = make(maker, settingsOf(params))
    const completions = rowsOf(inputs, 'logps').map((logps, example): RawSequence => {
      const label = Number((inputs.desirable as boolean[])[example])
      const scores = { label, preference: numbersOf(inputs, 'preference')[example] }
      return { role: 'completion', example, logps, reference: rowsOf(inputs, 'ref')[example], scores }
    })
    const mismatched = numbersOf(inputs, 'mismatch').map(
      (ratio, example): RawSequence => ({ role: 'mismatch', example, logps: [ratio], reference: [0] }),
    )
    const withMismatch = objective.needs.roles?.includes('mismatch')
    const earlier = numbersOf(inputs, 'history')
    const history = { logRatio: { sum: earlier.reduce((all, r) => all + r, 0), count: earlier.length } }
    const run = runStep(objective, [...completions, ...(withMismatch ? mismatched : [])], { history })
    return { loss: run.loss, perExample: run.perExample?.loss, grad: { logps: run.of('completion') } }
  }

export const unpairedRunners: Readonly<Record<string, Runner>> = {
  kto: unpairedCase(kto),
  apo_zero_unpaired: unpairedCase(kto),
  bco: unpairedCase(bco),
  nash_md: unpairedCase(nashMd),
}

// Policy gradients -----------------------------------------------------------------------------------------------------

const renamed = {
  lo: 'epsilon',
  hi: 'epsilonHigh',
  c: 'dualClip',
  threshold: 'offPolicyMaskThreshold',
  max_length: 'maxCompletionLength',
  level: 'importanceSamplingLevel',
  agg: 'aggregation',
  unbiased_kl: '',
  loss_type: '',
  num_items: '',
}

/** Steps of a case with a count of its own. */
const stepOf = ({ num_items }: Params): Partial<StepCounts> =>
  num_items === undefined ? {} : { tokens: Number(num_items) }

const policyCase =
  (maker: Maker, fixed: object = {}, noAdvantage = false): Runner =>
  (inputs, params): Outcome => {
    const settings = {
      ...settingsOf(params, renamed),
      ...(params.agg === 'global_tokens' && { aggregation: 'tokenMean' }),
    }
    const sequences = rowsOf(inputs, 'logps').map((logps, example): RawSequence => {
      const [old, reference, sampler] = ['old', 'ref', 'sampler'].map((name) => rowsOf(inputs, name)[example])
      const advantage = noAdvantage ? 0 : numbersOf(inputs, 'advantages')[example]
      return { role: 'completion', example, logps, old, reference, sampler, scores: { advantage } }
    })
    const run = runStep(make(maker, { ...settings, ...fixed }), sequences, { step: stepOf(params) })
    return { loss: run.loss, perExample: run.perExample?.loss, grad: { logps: run.of('completion') } }
  }

/** The KL alone: advantages are 0. */
const klCase = (klEstimator: string): Runner => policyCase(ppo, { beta: 1, klEstimator }, true)

const valueCase: Runner = (inputs) => {
  const [values, old, returns] = ['values', 'old_values', 'returns'].map((name) => numbersOf(inputs, name))
  const { loss, perExample, gradients } = clippedValueLoss(values, old, returns)
  return { loss, perExample, grad: { values: Array.from(gradients.values) } }
}

export const policyRunners: Readonly<Record<string, Runner>> = {
  reinforce: policyCase(reinforce),
  ppo_clip: policyCase(ppo),
  ppo_clip_unbiased_kl: policyCase(ppo, { klEstimator: 'rhoK3' }),
  ppo_two_sided: policyCase(ppo),
  ppo_dual_clip: policyCase(ppo),
  opsm: policyCase(ppo),
  cispo: policyCase(cispo),
  sapo: policyCase(sapo),
  gmpo: policyCase(gmpo),
  rloo: policyCase(rloo),
  importance_token_truncate: policyCase(ppo, { importanceSamplingMode: 'tokenTruncate' }),
  importance_sequence_mask: policyCase(ppo, { importanceSamplingMode: 'sequenceMask' }),
  k1: klCase('k1'),
  k2: klCase('k2'),
  k3: klCase('k3'),
  rho_k3: klCase('rhoK3'),
  k3_straight_through: klCase('k3StraightThrough'),
  value_clip: valueCase,
}

// Vocabulary -----------------------------------------------------------------------------------------------------------

/** A predicted position that counts. */
interface Place {
  readonly row: VocabularyRow
  readonly at: number
  readonly sequence: number
  readonly weight: number
}

function placesOf(inputs: Inputs, { temperature = 1 }: Params): Place[] {
  const [labels, sequences, weights] = ['labels', 'sequence', 'weights'].map((name) => numbersOf(inputs, name))
  return labels.flatMap((label, at) => {
    const [logits, prior] = ['logits', 'prior'].map((name) => rowsOf(inputs, name)[at])
    const row = { logits, prior, label, temperature: Number(temperature) }
    return label < 0 ? [] : [{ row, at, sequence: sequences[at], weight: weights[at] }]
  })
}

/** Gradients by logits: of each place, what its terms add. */
function logitGradients(
  inputs: Inputs,
  parts: readonly { at: number; gradient: ArrayLike<number>; scale: number }[],
): number[][] {
  const all = rowsOf(inputs, 'logits').map((row) => row.map(() => 0))
  for (const { at, gradient, scale } of parts)
    for (let v = 0; v < gradient.length; v++) all[at][v] += scale * gradient[v]
  return all
}

type VocabularyTerms = Readonly<Partial<Record<'logps' | 'kl' | 'meanLogps', (row: VocabularyRow) => VocabularyTerm>>>

function termsOf({ needs }: Objective): VocabularyTerms {
  const { klMixture = Number.NaN } = needs
  const divergence = {
    priorToPolicy: distributionTerms.priorToPolicy,
    policyToPrior: distributionTerms.policyToPrior,
    jensenShannon: (row: VocabularyRow) => distributionTerms.jsd(row, klMixture),
  }
  return {
    logps: labelTerms.logp,
    ...(needs.kl !== undefined && { kl: divergence[needs.kl] }),
    ...(needs.terms?.includes('meanLogps') && { meanLogps: distributionTerms.meanLogps }),
  }
}

/** Settings and counts of a case. */
interface VocabularyCase {
  readonly renamed?: Readonly<Record<string, string>>
  readonly fixed?: object
  readonly weighted?: boolean
}

const vocabularyCase =
  (maker: Maker, { renamed: names = {}, fixed = {}, weighted = false }: VocabularyCase = {}): Runner =>
  (inputs, params): Outcome => {
    const objective = make(maker, { ...settingsOf(params, { temperature: '', num_items: '', ...names }), ...fixed })
    const places = placesOf(inputs, params)
    const terms = Object.entries(termsOf(objective)).map(([name, term]) => ({
      name: name as keyof VocabularyTerms,
      values: places.map(({ row }) => term(row)),
    }))
    const numbers = [...new Set(places.map(({ sequence }) => sequence))]
    const own = numbers.map((number) => places.flatMap(({ sequence }, k) => (sequence === number ? [k] : [])))
    const sequences = own.map((members, example): RawSequence => {
      const arrays = terms.map(({ name, values }) => [name, members.map((k) => values[k].value)])
      const weights = weighted ? { weights: members.map((k) => places[k].weight) } : {}
      return { role: 'completion', example, ...Object.fromEntries(arrays), ...weights }
    })
    const { loss, gradients } = runStep(objective, sequences, { step: stepOf(params) })
    const parts = terms.flatMap(({ name, values }) =>
      own.flatMap((members, s) =>
        members.map((k, i) => ({
          at: places[k].at,
          gradient: values[k].gradient,
          scale: gradients[s][name]?.[i] ?? Number.NaN,
        })),
      ),
    )
    return { loss, grad: { logits: logitGradients(inputs, parts) } }
  }

/** The mean of a term over the places. */
const meanCase =
  (term: (row: VocabularyRow) => VocabularyTerm): Runner =>
  (inputs, params): Outcome => {
    const places = placesOf(inputs, params)
    const values = places.map(({ row, at }) => ({ at, ...term(row), scale: 1 / places.length }))
    const loss = values.reduce((all, { value, scale }) => all + scale * value, 0)
    return { loss, grad: { logits: logitGradients(inputs, values) } }
  }

const authors = { fixed: { normalisation: 'authors' } }

export const vocabularyRunners: Readonly<Record<string, Runner>> = {
  sft: vocabularyCase(sft),
  sft_global: vocabularyCase(sft),
  label_smoothing: vocabularyCase(sft, { renamed: { eps: 'labelSmoothing' } }),
  sft_weighted: vocabularyCase(sft, { fixed: { normalisation: 'weights' }, weighted: true }),
  sft_weighted_count: vocabularyCase(sft, { weighted: true }),
  dft: vocabularyCase(sft, { fixed: { lossType: 'dft' } }),
  superhf: vocabularyCase(superhf, authors),
  superhf_token_mean: vocabularyCase(superhf),
  superhf_inverse: vocabularyCase(superhf, { ...authors, renamed: { C: 'inverseLoss' } }),
  kl_forward: vocabularyCase(distill),
  kl_reverse: vocabularyCase(distill, { fixed: { direction: 'policyToPrior' } }),
  jsd: vocabularyCase(gkd, { renamed: { b: 'beta' } }),
  entropy: meanCase(distributionTerms.entropy),
  expected_k2: meanCase(distributionTerms.expectedK2),
  expected_k3: meanCase(distributionTerms.expectedK3),
}
