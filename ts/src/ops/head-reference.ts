// Float64 references of the language-model head: logits z = softcap(h w^T) / temperature of one row at a time, the
// statistics taken from them, and their gradients by the chain rule. Source: KL forms in Hinton et al. 2015 and the
// table of gradients with respect to z in each function.

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

/** [logps, kl, lse, qlse]; direction 0 is KL(q || p), 1 is KL(p || q), with the policy's p and the prior's q. */
export function headKlReference(t: Hosts, p: Parameters): Host[] {
  const [logps, lse] = headLogProbsReference(t, p)
  const [, qlse] = headLogProbsReference({ h: t.qh, w: t.qw, targets: t.targets }, p)
  const kl = hostZeros(t.targets.shape)
  hostRows(t.h).forEach((hidden, n) => {
    const logP = logitsOf(hidden, t.w, p).z.map((x) => x - lse.data[n])
    const logQ = logitsOf(hostRow(t.qh, n), t.qw, p).z.map((x) => x - qlse.data[n])
    const [from, to] = p.direction === 0 ? [logQ, logP] : [logP, logQ]
    kl.data[n] = sum(from.length, (v) => Math.exp(from[v]) * (from[v] - to[v]))
  })
  return [logps, kl, lse, qlse]
}

/** dz = dlogps (onehot - p) + dkl (p - q) for KL(q || p), or + dkl p (log p - log q - kl) for KL(p || q). */
export const headKlBackwardReference = (t: Hosts, p: Parameters): Host[] =>
  headGradients(t, p, (n, z) => {
    const logQ = logitsOf(hostRow(t.qh, n), t.qw, p).z.map((x) => x - t.qlse.data[n])
    return z.map((x, v) => {
      const logP = x - t.lse.data[n]
      const onehot = v === t.targets.data[n] ? 1 : 0
      const slope =
        p.direction === 0 ? Math.exp(logP) - Math.exp(logQ[v]) : Math.exp(logP) * (logP - logQ[v] - t.kl.data[n])
      return t.dlogps.data[n] * (onehot - Math.exp(logP)) + t.dkl.data[n] * slope
    })
  })
