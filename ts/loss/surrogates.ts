// The token losses of policy gradients: how an advantage A and a ratio rho = pi / old become one number per token.
// objectives.md 7.2; sources per formula. How tokens become one loss, and which data they need, is in policy-gradient.ts.

import {
  clamp,
  detach,
  div,
  exp,
  gather,
  maximum,
  minimum,
  mul,
  neg,
  sigmoid,
  sub,
  type Vector,
  where,
} from './autodiff.js'
import { sequenceMeans, sequenceSums, type View } from './view.js'

/** What a surrogate reads, one number per token. */
export interface PolicyTokens {
  readonly view: View
  readonly logps: Vector
  readonly advantages: Vector
  /** log pi - log old */
  readonly logRatio: Vector
  /** pi / old at the chosen level. */
  readonly rho: Vector
}

/** Settings that surrogates read. */
export interface SurrogateSettings {
  readonly epsilon: number
  readonly epsilonHigh: number
  readonly delta?: number
  readonly dualClip?: number
  readonly sapoTemperaturePos: number
  readonly sapoTemperatureNeg: number
  readonly vespoKPos: number
  readonly vespoLambdaPos: number
  readonly vespoKNeg: number
  readonly vespoLambdaNeg: number
}

/** Of one number per sequence: one per token. */
const toTokens = ({ sequenceOf }: View, perSequence: Vector): Vector => gather(perSequence, sequenceOf)

/** Ratios at a level: of each token; the geometric mean over a sequence (GSPO); of the whole sequence (RLOO). */
export const ratioLevels = {
  token: (_: View, logRatio: Vector): Vector => exp(logRatio),
  sequence: (view: View, logRatio: Vector): Vector => exp(toTokens(view, sequenceMeans(view, logRatio))),
  sequenceSum: (view: View, logRatio: Vector): Vector => exp(toTokens(view, sequenceSums(view, logRatio))),
} as const

const isPositive = ({ value }: Vector): boolean[] => Array.from(value, (a) => a > 0)
const isNegative = ({ value }: Vector): boolean[] => Array.from(value, (a) => a < 0)

/**
 * PPO (1707.06347): -min(rho A, clip(rho, 1 - epsilon, 1 + epsilonHigh) A). `delta` caps rho in the first branch
 * (two-sided, INTELLECT-2); `dualClip` c bounds the loss of negative advantages by -c A (1912.09729).
 */
function clip({ rho, advantages }: PolicyTokens, settings: SurrogateSettings): Vector {
  const { epsilon, epsilonHigh, delta, dualClip } = settings
  const free = mul(delta === undefined ? rho : clamp(rho, Number.NEGATIVE_INFINITY, delta), advantages)
  const loss = neg(minimum(free, mul(clamp(rho, 1 - epsilon, 1 + epsilonHigh), advantages)))
  if (dualClip === undefined) return loss
  return where(isNegative(advantages), minimum(loss, mul(advantages, -dualClip)), loss)
}

/** -A l (Williams 1992) */
const reinforce = ({ logps, advantages }: PolicyTokens): Vector => neg(mul(advantages, logps))

/** CISPO (2506.13585): -sg(min(rho, epsilonHigh)) A l; as in TRL the cap is absolute, not 1 + epsilonHigh. */
const cispo = ({ logps, advantages, rho }: PolicyTokens, { epsilonHigh }: SurrogateSettings): Vector =>
  neg(mul(mul(detach(minimum(rho, epsilonHigh)), advantages), logps))

/** SAPO (2511.20347): -A (4 / tau) s(tau (rho - 1)), tau by the sign of A. */
function sapo({ advantages, rho }: PolicyTokens, settings: SurrogateSettings): Vector {
  const { sapoTemperaturePos, sapoTemperatureNeg } = settings
  const taus = advantages.value.map((a) => (a > 0 ? sapoTemperaturePos : sapoTemperatureNeg))
  const tau: Vector = { value: taus, sources: [] }
  return neg(mul(advantages, mul(div(4, tau), sigmoid(mul(tau, sub(rho, 1))))))
}

/** GMPO (2507.20673): -A exp(mean over the sequence of log rho, clipped on the side that A pulls to, in log space). */
function gmpo({ view, logRatio, advantages }: PolicyTokens, { epsilon, epsilonHigh }: SurrogateSettings): Vector {
  const inside = clamp(logRatio, -epsilon, epsilonHigh)
  const oneSided = where(isPositive(advantages), minimum(logRatio, inside), maximum(logRatio, inside))
  return neg(mul(exp(toTokens(view, sequenceMeans(view, oneSided))), advantages))
}

const within = (x: number, low: number, high: number): number => Math.min(Math.max(x, low), high)

/**
 * VESPO's weight of each token: e^lambda w^k e^(-lambda w), with w the ratio of the whole sequence and k and lambda by the
 * sign of A; 1 at w = 1. Bounds of logarithms as in TRL.
 */
function vespoWeights({ view, logRatio, advantages }: PolicyTokens, settings: SurrogateSettings): Vector {
  const { vespoKPos, vespoLambdaPos, vespoKNeg, vespoLambdaNeg } = settings
  const sums = toTokens(view, sequenceSums(view, clamp(detach(logRatio), -20, 20))).value
  const value = advantages.value.map((a, t) => {
    const [k, lambda] = a >= 0 ? [vespoKPos, vespoLambdaPos] : [vespoKNeg, vespoLambdaNeg]
    const log = within(sums[t], Math.log(1e-8), 20)
    return Math.exp(lambda + k * log - lambda * Math.exp(log))
  })
  return { value, sources: [] }
}

/** VESPO (2602.10693): -sg(phi) A l, phi a soft bound on sequences far from the policy that sampled them. */
const vespo = (tokens: PolicyTokens, settings: SurrogateSettings): Vector =>
  neg(mul(mul(vespoWeights(tokens, settings), tokens.advantages), tokens.logps))

/** Surrogates by name. */
export const surrogates = { clip, reinforce, cispo, sapo, gmpo, vespo } as const satisfies Record<
  string,
  (tokens: PolicyTokens, settings: SurrogateSettings) => Vector
>

/** Where a clip takes the gradient of a token away: 1, else 0; under the names of TRL's means. */
function clippedAt({ advantages }: PolicyTokens, { value }: Vector, low: number, high: number) {
  const lows = value.map((x, t) => Number(x < low && advantages.value[t] < 0))
  const highs = value.map((x, t) => Number(x > high && advantages.value[t] > 0))
  return {
    'clip_ratio/low_mean': lows,
    'clip_ratio/high_mean': highs,
    'clip_ratio/region_mean': lows.map((x, t) => x + highs[t]),
  }
}

/** Which tokens a surrogate clips, and how it weighs them. */
export const clipped: Readonly<
  Record<
    keyof typeof surrogates,
    (tokens: PolicyTokens, settings: SurrogateSettings) => Readonly<Record<string, Float64Array>>
  >
> = {
  clip: (tokens, { epsilon, epsilonHigh }) => clippedAt(tokens, tokens.rho, 1 - epsilon, 1 + epsilonHigh),
  reinforce: () => ({}),
  cispo: (tokens, { epsilonHigh }) => ({
    cispo_clip_ratio: clippedAt(tokens, tokens.rho, 0, epsilonHigh)['clip_ratio/high_mean'],
  }),
  sapo: () => ({}),
  gmpo: (tokens, { epsilon, epsilonHigh }) => clippedAt(tokens, tokens.logRatio, -epsilon, epsilonHigh),
  vespo: (tokens, settings) => ({
    'vespo/phi_seq_mean': sequenceMeans(tokens.view, vespoWeights(tokens, settings)).value,
  }),
}

/**
 * 1 where the entropy is among the highest `quantile` of all tokens of the step, else 0 (2506.01939); between two tokens
 * the bound is interpolated, as torch.quantile does.
 */
export function highEntropyMask({ value }: Vector, quantile: number): Vector {
  const sorted = Float64Array.from(value).sort()
  const at = (1 - quantile) * (sorted.length - 1)
  const below = Math.floor(at)
  const next = sorted[Math.min(below + 1, sorted.length - 1)]
  const bound = sorted[below] + (at - below) * (next - sorted[below])
  return { value: value.map((entropy) => Number(entropy >= bound)), sources: [] }
}

/** 1 where a sequence may train; 0 where A < 0 and mean(old - l) is above the threshold (DeepSeek-V3.2). */
export function offPolicyMask({ view, logRatio, advantages }: PolicyTokens, threshold: number): Vector {
  const drift = toTokens(view, neg(sequenceMeans(view, detach(logRatio)))).value
  return { value: advantages.value.map((a, t) => Number(a >= 0 || drift[t] <= threshold)), sources: [] }
}

/** How weights of a separate sampler beyond a cap are treated: at most the cap, or 0. */
export const importanceCaps = {
  truncate: (ratio: number, cap: number): number => Math.min(ratio, cap),
  mask: (ratio: number, cap: number): number => (ratio <= cap ? ratio : 0),
} as const
