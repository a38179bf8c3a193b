// Terms over the whole vocabulary at one position, with their gradients by the logits, in float64 on the host: the
// reference of the fused head's statistics, which never hold a row of logits. objectives.md 0.2, 3.4 and 6.
// p: policy, q: prior, both softmax of logits / temperature; gradients are by the policy's logits (factor 1/temperature).
//   logp            log p[y]                            onehot - p
//   meanLogps       mean over v of log p (smoothing)    1/V - p
//   priorToPolicy   KL(q || p)                          p - q
//   policyToPrior   KL(p || q)                          p (log p - log q - KL)
//   jsd             b KL(q || M) + (1-b) KL(p || M), M = (1-b) p + b q        (1-b) p (log p - log M - KL(p || M))
//   entropy         H(p)                                -p (log p + H)
//   expectedK2      sum sg(p) (log p - log q)^2 / 2     that of KL(p || q)
//   expectedK3      sum sg(p) (q/p - 1 + log p/q)       that of KL(q || p)
//   logSquares      log sum p^2 (WPO)                   2 (p^2 / sum p^2 - p)
// jsd tends to 0 at both ends of b; TRL's GKD takes KL(q || p) at b = 0 and KL(p || q) at b = 1 instead.

import { WhetstoneError } from '../src/base/errors.js'

/** Logits at one position. */
export interface VocabularyRow {
  readonly logits: ArrayLike<number>
  /** Logits of the prior, for divergences. */
  readonly prior?: ArrayLike<number>
  /** Target token, for terms that look at it. */
  readonly label?: number
  /** Divides both logits; default 1. */
  readonly temperature?: number
}

/** A term's value and its gradient by the policy's logits. */
export interface VocabularyTerm {
  readonly value: number
  readonly gradient: Float64Array
}

const sum = (values: Float64Array): number => values.reduce((all, v) => all + v, 0)
const dot = (a: Float64Array, b: Float64Array): number => a.reduce((all, v, i) => all + v * b[i], 0)

function logSoftmax(logits: ArrayLike<number> | undefined, temperature: number): Float64Array {
  if (logits === undefined) throw new WhetstoneError('E_SHAPE', 'vocabulary', 'expected the logits of a prior')
  const z = Float64Array.from(logits, (x) => x / temperature)
  const top = z.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY)
  const lse = top + Math.log(sum(z.map((x) => Math.exp(x - top))))
  return z.map((x) => x - lse)
}

function onehot({ logits, label = -1 }: VocabularyRow): Float64Array {
  if (!(label >= 0 && label < logits.length))
    throw new WhetstoneError('E_SHAPE', 'vocabulary', `expected a label in [0, ${logits.length}), got ${label}`)
  return Float64Array.from({ length: logits.length }, (_, v) => Number(v === label))
}

/** log p and p of the policy. */
const policyOf = ({ logits, temperature = 1 }: VocabularyRow) => {
  const logP = logSoftmax(logits, temperature)
  return { logP, p: logP.map(Math.exp) }
}

/** Adds log q, q and d = log p - log q. */
function bothOf(row: VocabularyRow) {
  const { logP, p } = policyOf(row)
  const logQ = logSoftmax(row.prior, row.temperature ?? 1)
  return { logP, p, logQ, q: logQ.map(Math.exp), d: logP.map((l, v) => l - logQ[v]) }
}

const term = ({ temperature = 1 }: VocabularyRow, value: number, byScaled: Float64Array): VocabularyTerm => ({
  value,
  gradient: byScaled.map((g) => g / temperature),
})

/** Terms that read the label. */
export const labelTerms = {
  logp(row: VocabularyRow): VocabularyTerm {
    const { logP, p } = policyOf(row)
    const own = onehot(row)
    return term(
      row,
      dot(own, logP),
      own.map((one, v) => one - p[v]),
    )
  },
} as const

/** p (d - sum p d): the gradient of sum p d when d has no other. */
const centred = (p: Float64Array, d: Float64Array): Float64Array => {
  const average = dot(p, d)
  return p.map((share, v) => share * (d[v] - average))
}

function priorToPolicy(row: VocabularyRow): VocabularyTerm {
  const { p, q, d } = bothOf(row)
  return term(
    row,
    -dot(q, d),
    p.map((share, v) => share - q[v]),
  )
}

function policyToPrior(row: VocabularyRow): VocabularyTerm {
  const { p, d } = bothOf(row)
  return term(row, dot(p, d), centred(p, d))
}

/** log((1-b) p + b q) */
function logMixture(logP: Float64Array, logQ: Float64Array, b: number): Float64Array {
  return logP.map((l, v) => {
    const [x, y] = [l + Math.log(1 - b), logQ[v] + Math.log(b)]
    return Math.max(x, y) + Math.log1p(Math.exp(-Math.abs(x - y)))
  })
}

/** @param b weight of the prior in the mixture, between 0 and 1 */
function jsd(row: VocabularyRow, b: number): VocabularyTerm {
  const { logP, p, logQ, q } = bothOf(row)
  const logM = logMixture(logP, logQ, b)
  const fromP = logP.map((l, v) => l - logM[v])
  const fromQ = logQ.map((l, v) => l - logM[v])
  const gradient = centred(p, fromP).map((g) => (1 - b) * g)
  return term(row, b * dot(q, fromQ) + (1 - b) * dot(p, fromP), gradient)
}

function entropy(row: VocabularyRow): VocabularyTerm {
  const { logP, p } = policyOf(row)
  return term(
    row,
    -dot(p, logP),
    centred(p, logP).map((g) => -g),
  )
}

function expectedK2(row: VocabularyRow): VocabularyTerm {
  const { p, d } = bothOf(row)
  return term(
    row,
    dot(
      p,
      d.map((x) => (x * x) / 2),
    ),
    centred(p, d),
  )
}

function expectedK3(row: VocabularyRow): VocabularyTerm {
  const { p, q, d } = bothOf(row)
  const value = sum(p.map((share, v) => q[v] - share + share * d[v]))
  return term(
    row,
    value,
    p.map((share, v) => share - q[v]),
  )
}

function meanLogps(row: VocabularyRow): VocabularyTerm {
  const { logP, p } = policyOf(row)
  return term(
    row,
    sum(logP) / logP.length,
    p.map((share) => 1 / logP.length - share),
  )
}

function logSquares(row: VocabularyRow): VocabularyTerm {
  const { p } = policyOf(row)
  const squares = p.map((share) => share * share)
  const all = sum(squares)
  return term(
    row,
    Math.log(all),
    p.map((share, v) => 2 * (squares[v] / all - share)),
  )
}

/** Terms that read distributions alone. */
export const distributionTerms = {
  priorToPolicy,
  policyToPrior,
  jsd,
  entropy,
  meanLogps,
  expectedK2,
  expectedK3,
  logSquares,
} as const
