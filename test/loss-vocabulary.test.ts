// The hand-checked float64 vectors of objectives that look at the whole vocabulary: SFT, SuperHF, divergences, the weights
// of WPO. Gradients are taken to the logits, as the fused head takes them. The other vectors are in loss-vectors.test.ts.

import t from 'tap'
import type { Role } from '../ts/loss/define.js'
import {
  distributionTerms,
  dpo,
  labelTerms,
  sft,
  superhf,
  type VocabularyRow,
  type VocabularyTerm,
} from '../ts/loss/index.js'
import { type RawSequence, runStep } from './golden-judges/losses-run.js'
import { near } from './loss-near.js'

const logits = [
  [1, 0, -1],
  [0.5, 0.5, 0],
  [-0.2, 0.3, 0.1],
]
const priors = [
  [0.5, 0.2, -0.5],
  [0, 0.8, 0.1],
  [0, 0, 0],
]
const rows: readonly VocabularyRow[] = [0, 2, 1].map((label, i) => ({ logits: logits[i], prior: priors[i], label }))
const l = [-0.407605964444, -1.45802008795, -0.885939317668]

const valuesOf = (term: (row: VocabularyRow) => VocabularyTerm, own = rows): number[] =>
  own.map((row) => term(row).value)

/** dL/dlogits of a row from the gradients of its terms. */
const logitGradient = (
  row: VocabularyRow,
  parts: readonly (readonly [(row: VocabularyRow) => VocabularyTerm, number])[],
) =>
  parts.reduce(
    (all, [term, scale]) => all.map((g, v) => g + scale * term(row).gradient[v]),
    Array.from(row.logits, () => 0),
  )

const whole = (more: object): RawSequence => ({
  role: 'completion',
  example: 0,
  logps: valuesOf(labelTerms.logp),
  ...more,
})

t.test('SFT', (t) => {
  near(t, valuesOf(labelTerms.logp), l, 'log-probs')
  const plain = runStep(sft(), [whole({})])
  near(t, [plain.loss], [0.917188456687], 'mean over tokens')
  const [g] = plain.of('completion')
  const dZ = [
    [-0.111586348075, 0.081576157018, 0.030010191057],
    [0.127883910397, 0.127883910397, -0.255767820794],
    [0.083362925541, -0.195891104807, 0.112528179266],
  ]
  for (const [i, row] of rows.entries()) near(t, logitGradient(row, [[labelTerms.logp, g[i]]]), dZ[i], `dZ${i}`)

  const cut = [l.slice(0, 1), l.slice(1)].map((logps) =>
    runStep(sft(), [{ role: 'completion', example: 0, logps }], { step: { tokens: 3 } }),
  )
  near(t, [cut[0].loss + cut[1].loss], [0.917188456687], 'accumulated, not a mean of means')

  const smooth = runStep(sft({ labelSmoothing: 0.1 }), [whole({ meanLogps: valuesOf(distributionTerms.meanLogps) })])
  near(t, [smooth.loss], [0.947188456687], 'label smoothing')
  const [own] = smooth.gradients
  const parts = [
    [labelTerms.logp, own.logps[0]] as const,
    [distributionTerms.meanLogps, own.meanLogps?.[0] ?? 0] as const,
  ]
  near(t, logitGradient(rows[0], parts), [-0.089364125853, 0.070465045907, 0.018899079946], 'label smoothing, dZ0')

  const dft = runStep(sft({ lossType: 'dft' }), [whole({})])
  near(t, [dft.loss], [0.325242943363], 'DFT')
  near(t, dft.of('completion')[0], [-0.221746985258, -0.07756551254, -0.137442228527], 'DFT, dl')
  const weights = [1, 0.5, 2]
  near(t, [runStep(sft({ normalisation: 'weights' }), [whole({ weights })]).loss], [0.830998469644], 'by weights')
  near(t, [runStep(sft(), [whole({ weights })]).loss], [0.969498214585], 'weights by tokens')
  const signed = runStep(sft(), [whole({ weights: [1, -0.5, 1] })])
  near(t, signed.of('completion')[0], [-1 / 3, 0.5 / 3, -1 / 3], 'signed weights')
  t.end()
})

t.test('SuperHF', (t) => {
  const kl = valuesOf(distributionTerms.priorToPolicy)
  near(t, kl, [0.081914420498, 0.056522258975, 0.020660362334], 'KL(prior || policy)')
  near(t, valuesOf(distributionTerms.policyToPrior), [0.077124067705, 0.061172531777, 0.020111675129], 'the other one')
  const run = runStep(superhf(), [whole({ kl })])
  near(t, [run.loss], [0.935749778231], 'kappa 0.35')
  const [own] = run.gradients
  const dZ = [
    [-0.089301310987, 0.069141001027, 0.020160309961],
    [0.14570390491, 0.11268859933, -0.25839250424],
    [0.073651060591, -0.186675213711, 0.113024153121],
  ]
  rows.forEach((row, i) => {
    const parts = [
      [labelTerms.logp, own.logps[i]] as const,
      [distributionTerms.priorToPolicy, own.kl?.[i] ?? 0] as const,
    ]
    near(t, logitGradient(row, parts), dZ[i], `dZ${i}`)
  })

  const [first, second] = [kl.slice(0, 2), kl.slice(2)].map((own, i) => ({
    ...whole({ kl: own, logps: i === 0 ? l.slice(0, 2) : l.slice(2) }),
    example: i,
  }))
  near(t, [runStep(superhf({ normalisation: 'authors' }), [first, second]).loss], [0.948646002411], 'their reduction')
  const guarded = superhf({ kappa: 0, inverseLoss: 0.01 })
  near(t, [runStep(guarded, [whole({ kl })]).loss], [0.928091341396], 'inverse loss')
  t.end()
})

t.test('SuperHF is one cross-entropy with the label blended with the prior', (t) => {
  const kappa = 0.35
  const softmax = (z: readonly number[]): number[] => {
    const sum = z.reduce((all, x) => all + Math.exp(x), 0)
    return z.map((x) => Math.exp(x) / sum)
  }
  const blended = rows.map(({ label }, i) => {
    const [p, p0] = [softmax(logits[i]), softmax(priors[i])]
    const target = p0.map((share, v) => (Number(v === label) + kappa * share) / (1 + kappa))
    const crossEntropy = -target.reduce((all, share, v) => all + share * Math.log(p[v]), 0)
    const entropy = -p0.reduce((all, share) => all + share * Math.log(share), 0)
    const gradient = p.map((share, v) => ((1 + kappa) * (share - target[v])) / 3)
    return { value: ((1 + kappa) * crossEntropy - kappa * entropy) / 3, gradient }
  })
  const { loss, gradients } = runStep(superhf({ kappa }), [whole({ kl: valuesOf(distributionTerms.priorToPolicy) })])
  near(t, [loss], [blended.reduce((all, { value }) => all + value, 0)], 'loss')
  rows.forEach((row, i) => {
    const { logps, kl } = gradients[0]
    const parts = [[labelTerms.logp, logps[i]] as const, [distributionTerms.priorToPolicy, kl?.[i] ?? 0] as const]
    near(t, logitGradient(row, parts), blended[i].gradient, `gradient of token ${i}`)
  })
  t.end()
})

t.test('divergences over a vocabulary', (t) => {
  const row: VocabularyRow = { logits: logits[0], prior: priors[0] }
  const { policyToPrior, priorToPolicy, expectedK2, expectedK3, jsd } = distributionTerms
  const reverse = [0.173854405938, -0.107352468037, -0.066501937901]
  const forward = [0.19101460361, -0.106587051357, -0.084427552253]
  near(t, [policyToPrior(row).value, priorToPolicy(row).value], [0.077124067704, 0.081914420498], 'both KLs')
  near(t, [expectedK2(row).value, expectedK3(row).value], [0.073798393673, 0.077124067704], 'expected estimators')
  near(t, policyToPrior(row).gradient, reverse, 'd KL(policy || prior)')
  near(t, expectedK2(row).gradient, reverse, 'k2 has its gradient')
  near(t, priorToPolicy(row).gradient, forward, 'd KL(prior || policy)')
  near(t, expectedK3(row).gradient, forward, 'k3 has its gradient')
  const mixtures: [number, number, number[]][] = [
    [0.1, 0.007301689704, [0.01691732876, -0.009583176564, -0.007334152196]],
    [0.5, 0.019690810347, [0.044808607539, -0.026587839886, -0.018220767653]],
    [0.9, 0.006961756944, [0.015707360989, -0.009632177812, -0.006075183177]],
  ]
  for (const [b, value, gradient] of mixtures) {
    near(t, [jsd(row, b).value], [value], `mixture ${b}`)
    near(t, jsd(row, b).gradient, gradient, `d mixture ${b}`)
  }
  t.end()
})

t.test('weights of WPO', (t) => {
  const side = (role: Role, labels: readonly number[]): RawSequence => {
    const own = labels.map((label, i): VocabularyRow => ({ logits: logits[i], label }))
    const logps = valuesOf(labelTerms.logp, own)
    return { role, example: 0, logps, reference: logps, logSquares: valuesOf(distributionTerms.logSquares, own) }
  }
  const weighted = runStep(dpo({ useWeighting: true }), [side('chosen', [0, 2]), side('rejected', [2, 1])])
  near(t, [weighted.loss / Math.LN2], [0.410943156186], 'WPO weight of a pair')
  t.end()
})
