// Float64 references of the attention family, one query and one head at a time, and the visibility tables of their
// cases. The rule of who sees whom is written here once more, independent of the kernels.

import type { Fill, Host, Parameters } from './define.js'
import { addScaled, dot, host, hostZeros, logSumExp } from './host.js'

/** Keys per block of the paged cache, and logical positions per key block of every attention kernel. */
export const KEY_BLOCK = 32

type Hosts = Readonly<Record<string, Host>>

/** Vector (i, h) of a [N, H, D] host tensor; shares the memory. */
function vectorOf(t: Host, i: number, h: number): Float64Array {
  const [, heads, size] = t.shape
  return t.data.subarray((i * heads + h) * size, (i * heads + h + 1) * size)
}

/**
 * Tokens that query i sees, oldest first: its segment's shared prefix, then its segment up to itself. A window keeps
 * the last `window` of them, the query's own included.
 */
function visibleTokens(visibility: Host, i: number, window: number): number[] {
  const [start, prefixBegin, prefixEnd] = visibility.data.subarray(3 * i, 3 * i + 3)
  const tokens: number[] = []
  for (let j = prefixBegin; j < prefixEnd; j++) tokens.push(j)
  for (let j = start; j <= i; j++) tokens.push(j)
  return window > 0 ? tokens.slice(-window) : tokens
}

/** One query against its keys: scores after the cap, their derivative by q k, log-sum-exp. */
function scoresOf(q: Float64Array, keys: readonly Float64Array[], { scale, softcap }: Parameters) {
  const raw = Float64Array.from(keys, (k) => scale * dot(q, k))
  const scores = softcap > 0 ? raw.map((s) => softcap * Math.tanh(s / softcap)) : raw
  const slopes = scores.map((s) => (softcap > 0 ? scale * (1 - (s / softcap) ** 2) : scale))
  return { scores, slopes, lse: logSumExp(scores) }
}

/** o += softmax(scores) values; returns the log-sum-exp. */
function attend(
  o: Float64Array,
  q: Float64Array,
  keys: readonly Float64Array[],
  values: readonly Float64Array[],
  p: Parameters,
): number {
  const { scores, lse } = scoresOf(q, keys, p)
  scores.forEach((s, j) => {
    addScaled(o, Math.exp(s - lse), values[j])
  })
  return lse
}

/** [o, lse] */
export function attentionReference({ q, k, v, visibility }: Hosts, p: Parameters): Host[] {
  const [tokens, heads] = q.shape
  const group = heads / k.shape[1]
  const o = hostZeros(q.shape)
  const lse = hostZeros([tokens, heads])
  for (let i = 0; i < tokens; i++) {
    const seen = visibleTokens(visibility, i, p.window)
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / group)
      const keys = seen.map((j) => vectorOf(k, j, g))
      const values = seen.map((j) => vectorOf(v, j, g))
      lse.data[i * heads + h] = attend(vectorOf(o, i, h), vectorOf(q, i, h), keys, values, p)
    }
  }
  return [o, lse]
}

/**
 * [dq, dk, dv] from the given o and lse: with P = exp(s - lse), delta = do . o and dP = do . v,
 * ds = P (dP - delta), chained through the cap.
 */
export function attentionBackwardReference(t: Hosts, p: Parameters): Host[] {
  const { q, k, v } = t
  const [tokens, heads] = q.shape
  const group = heads / k.shape[1]
  const [dq, dk, dv] = [hostZeros(q.shape), hostZeros(k.shape), hostZeros(v.shape)]
  for (let i = 0; i < tokens; i++) {
    const seen = visibleTokens(t.visibility, i, p.window)
    for (let h = 0; h < heads; h++) {
      const g = Math.floor(h / group)
      const dOut = vectorOf(t.do, i, h)
      const delta = dot(dOut, vectorOf(t.o, i, h))
      const keys = seen.map((j) => vectorOf(k, j, g))
      const { scores, slopes } = scoresOf(vectorOf(q, i, h), keys, p)
      seen.forEach((j, n) => {
        const weight = Math.exp(scores[n] - t.lse.data[i * heads + h])
        const ds = weight * (dot(dOut, vectorOf(v, j, g)) - delta) * slopes[n]
        addScaled(vectorOf(dv, j, g), weight, dOut)
        addScaled(vectorOf(dq, i, h), ds, keys[n])
        addScaled(vectorOf(dk, j, g), ds, vectorOf(q, i, h))
      })
    }
  }
  return [dq, dk, dv]
}

/** [o] of one new token per sequence over its pages: keys [blocks, G, D, 32], values [blocks, G, 32, D]. */
export function attentionDecodeReference({ q, keys, values, table, lengths }: Hosts, p: Parameters): Host[] {
  const [sequences, heads, size] = q.shape
  const groups = keys.shape[1]
  const o = hostZeros(q.shape)
  for (let b = 0; b < sequences; b++) {
    const length = lengths.data[b]
    const positions = Array.from({ length }, (_, i) => i).slice(p.window > 0 ? -p.window : 0)
    for (let h = 0; h < heads; h++) {
      const slabOf = (position: number) => {
        const block = table.data[b * table.shape[1] + Math.floor(position / KEY_BLOCK)]
        return (block * groups + Math.floor((h * groups) / heads)) * size * KEY_BLOCK
      }
      const key = (position: number) =>
        Float64Array.from(
          { length: size },
          (_, d) => keys.data[slabOf(position) + d * KEY_BLOCK + (position % KEY_BLOCK)],
        )
      const value = (position: number) =>
        values.data.subarray(slabOf(position) + (position % KEY_BLOCK) * size).subarray(0, size)
      attend(vectorOf(o, b, h), vectorOf(q, b, h), positions.map(key), positions.map(value), p)
    }
  }
  return [o]
}

/** [keys, values] with token n of k and v [N, G, D] in slot n; a negative slot is skipped. */
export function cacheWriteReference({ keys, values, k, v, slots }: Hosts): Host[] {
  const [, groups, size] = k.shape
  const out = [keys.data.slice(), values.data.slice()]
  slots.data.forEach((slot, n) => {
    if (slot < 0) return
    const lane = slot % KEY_BLOCK
    for (let g = 0; g < groups; g++) {
      const slab = (Math.floor(slot / KEY_BLOCK) * groups + g) * size * KEY_BLOCK
      for (let d = 0; d < size; d++) out[0][slab + d * KEY_BLOCK + lane] = vectorOf(k, n, g)[d]
      out[1].set(vectorOf(v, n, g), slab + lane * size)
    }
  })
  return [
    { shape: keys.shape, data: out[0] },
    { shape: values.shape, data: out[1] },
  ]
}

/** [keys, values] after copying block from[n] onto block to[n], pair by pair. */
export function cacheCopyReference({ keys, values, from, to }: Hosts): Host[] {
  return [keys, values].map((cache) => {
    const data = cache.data.slice()
    const slab = data.length / cache.shape[0]
    from.data.forEach((block, n) => {
      data.copyWithin(to.data[n] * slab, block * slab, (block + 1) * slab)
    })
    return { shape: cache.shape, data }
  })
}

/** Half-split rotation: pairs (j, j + h) for j < h, h the columns of cos; what lies beyond 2 h is copied. */
export function ropeReference({ x, cos, sin, positions }: Hosts, { inverse }: Parameters): Host[] {
  const [, heads, size] = x.shape
  const half = cos.shape[1]
  const sign = inverse ? -1 : 1
  const y = host(x.shape, (index) => {
    const d = index % size
    if (d >= 2 * half) return x.data[index]
    const at = positions.data[Math.floor(index / (heads * size))] * half + (d % half)
    const partner = d < half ? -x.data[index + half] : x.data[index - half]
    return x.data[index] * cos.data[at] + sign * partner * sin.data[at]
  })
  return [y]
}

// Visibility of cases -------------------------------------------------------------------------------------------------

const fillFrom =
  (numbers: readonly number[]): Fill =>
  (i) =>
    numbers[i]

/** Separate causal sequences of these lengths, laid end to end. */
export function causal(...lengths: readonly number[]): Fill {
  const rows: number[] = []
  let start = 0
  for (const length of lengths) {
    for (let i = 0; i < length; i++) rows.push(start, start, start)
    start += length
  }
  return fillFrom(rows)
}

/** A prompt and branches that share its first `prefix` tokens, after an unrelated sequence of `before` tokens. */
export function branching(before: number, prompt: number, prefix: number, ...branches: readonly number[]): Fill {
  const rows: number[] = []
  for (let i = 0; i < before; i++) rows.push(0, 0, 0)
  for (let i = 0; i < prompt; i++) rows.push(before, before, before)
  let start = before + prompt
  for (const length of branches) {
    for (let i = 0; i < length; i++) rows.push(start, before, before + prefix)
    start += length
  }
  return fillFrom(rows)
}
