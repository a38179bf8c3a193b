// Float64 references of the language-model head: logits z = softcap(h w^T) / temperature of one row at a time, the
// statistics taken from them, and their gradients by the chain rule. Source: KL forms in Hinton et al. 2015, the
// generalised Jensen-Shannon divergence in Agarwal et al. 2023, gradients with respect to z in each function.

import type { Host, Parameters } from './define.js'
import { addScaled, dot, hostCopy, hostRow, hostRows, hostZeros, logSumExp, sum } from './host.js'

type Hosts = Readonly<Record<string, Host>>

/** Logits of a hidden row and their derivative by h w^T. */
export function logitsOf(hidden: Float64Array, w: Host, { softcap, temperature }: Parameters) {
  const raw = Float64Array.from(hostRows(w), (row) => dot(hidden, row))
  const capped = softcap === 0 ? raw : raw.map((x) => softcap * Math.tanh(x / softcap))
  const slopes = capped.map((x) => (softcap === 0 ? 1 : 1 - (x / softcap) ** 2) / temperature)
  return { z: capped.map((x) => x / temperature), slopes }
}

/** [logps, lse] */
export function headLogProbsReference({ h, w, targets }: Hosts, p: Parameters): Host[] {
  const [logps, lse] = [hostZeros(targets.shape), hostZeros(targets.shape)]
  hostRows(h).forEach((hidden, n) => {
    const { z } = logitsOf(hidden, w, p)
    lse.data[n] = logSumExp(z)
    logps.data[n] = z[targets.data[n]] - lse.data[n]
  })
  return [logps, lse]
}

/** [dw if given, dh] when dz(n, z) is the gradient of row n's logits. */
function headGradients({ dw, h, w }: Hosts, p: Parameters, dz: (n: number, z: Float64Array) => Float64Array): Host[] {
  const dh = hostZeros(h.shape)
  const out = dw === undefined ? [] : [hostCopy(dw)]
  hostRows(h).forEach((hidden, n) => {
    const { z, slopes } = logitsOf(hidden, w, p)
    dz(n, z).forEach((value, v) => {
      addScaled(hostRow(dh, n), value * slopes[v], hostRow(w, v))
      for (const t of out) addScaled(hostRow(t, v), value * slopes[v], hidden)
    })
  })
  return [...out, dh]
}

/** dz = dlogps (onehot - p), p = exp(z - lse). */
export const headLogProbsBackwardReference = (t: Hosts, p: Parameters): Host[] =>
  headGradients(t, p, (n, z) =>
    z.map((x, v) => t.dlogps.data[n] * ((v === t.targets.data[n] ? 1 : 0) - Math.exp(x - t.lse.data[n]))),
  )

/** [logps, entropy, meanlogps, logsquares, lse] */
export function headTermsReference(t: Hosts, p: Parameters): Host[] {
  const [logps, lse] = headLogProbsReference(t, p)
  const [entropy, means, squares, tops] = [0, 1, 2, 3].map(() => hostZeros(t.targets.shape))
  hostRows(t.h).forEach((hidden, n) => {
    const logP = logitsOf(hidden, t.w, p).z.map((x) => x - lse.data[n])
    entropy.data[n] = -sum(logP.length, (v) => Math.exp(logP[v]) * logP[v])
    means.data[n] = sum(logP.length, (v) => logP[v]) / logP.length
    squares.data[n] = logSumExp(logP.map((l) => 2 * l))
    tops.data[n] = logP.reduce((top, l) => Math.max(top, l), Number.NEGATIVE_INFINITY)
  })
  return [logps, entropy, means, squares, lse, tops]
}

/** dz = dlogps (onehot - p) + dmeanlogps (1/V - p) - dentropy p (log p + entropy). */
export const headTermsBackwardReference = (t: Hosts, p: Parameters): Host[] =>
  headGradients(t, p, (n, z) =>
    z.map((x, v) => {
      const logP = x - t.lse.data[n]
      const share = Math.exp(logP)
      const fromTarget = t.dlogps.data[n] * ((v === t.targets.data[n] ? 1 : 0) - share)
      const fromMean = t.dmeanlogps.data[n] * (1 / z.length - share)
      return fromTarget + fromMean - t.dentropy.data[n] * share * (logP + t.entropy.data[n])
    }),
  )

/** sum exp(a) (a - b) */
const klOf = (a: Float64Array, b: Float64Array): number => sum(a.length, (v) => Math.exp(a[v]) * (a[v] - b[v]))

/** log((1 - b) p + b q) */
const logMixture = (logP: number, logQ: number, b: number): number => logP + Math.log1p(b * Math.expm1(logQ - logP))

/** [kl, centre] of each direction, from log p, log q and the weight of q in the mixture. */
const divergences: readonly ((logP: Float64Array, logQ: Float64Array, b: number) => readonly [number, number])[] = [
  (logP, logQ) => [klOf(logQ, logP), 0],
  (logP, logQ) => [klOf(logP, logQ), klOf(logP, logQ)],
  (logP, logQ, b) => {
    const logM = logP.map((l, v) => logMixture(l, logQ[v], b))
    return [b * klOf(logQ, logM) + (1 - b) * klOf(logP, logM), klOf(logP, logM)]
  },
]

/**
 * [logps, kl, lse, qlse, centre] with the policy's p and the prior's q; direction 0 is KL(q || p), 1 KL(p || q),
 * 2 b KL(q || M) + (1 - b) KL(p || M), M = (1 - b) p + b q.
 */
export function headKlReference(t: Hosts, p: Parameters): Host[] {
  const [logps, lse] = headLogProbsReference(t, p)
  const [, qlse] = headLogProbsReference({ h: t.qh, w: t.qw, targets: t.targets }, p)
  const [kl, centre] = [hostZeros(t.targets.shape), hostZeros(t.targets.shape)]
  hostRows(t.h).forEach((hidden, n) => {
    const logP = logitsOf(hidden, t.w, p).z.map((x) => x - lse.data[n])
    const logQ = logitsOf(hostRow(t.qh, n), t.qw, p).z.map((x) => x - qlse.data[n])
    ;[kl.data[n], centre.data[n]] = divergences[p.direction](logP, logQ, p.mixture)
  })
  return [logps, kl, lse, qlse, centre]
}

/** Gradient of each direction's divergence by one of the policy's logits. */
const klSlopes: readonly ((logP: number, logQ: number, centre: number, b: number) => number)[] = [
  (logP, logQ) => Math.exp(logP) - Math.exp(logQ),
  (logP, logQ, centre) => Math.exp(logP) * (logP - logQ - centre),
  (logP, logQ, centre, b) => (1 - b) * Math.exp(logP) * (logP - logMixture(logP, logQ, b) - centre),
]

/** dz = dlogps (onehot - p) + dkl slope, the slope one of the table above. */
export const headKlBackwardReference = (t: Hosts, p: Parameters): Host[] =>
  headGradients(t, p, (n, z) => {
    const logQ = logitsOf(hostRow(t.qh, n), t.qw, p).z.map((x) => x - t.qlse.data[n])
    return z.map((x, v) => {
      const logP = x - t.lse.data[n]
      const onehot = v === t.targets.data[n] ? 1 : 0
      const slope = klSlopes[p.direction](logP, logQ[v], t.centre.data[n], p.mixture)
      return t.dlogps.data[n] * (onehot - Math.exp(logP)) + t.dkl.data[n] * slope
    })
  })
