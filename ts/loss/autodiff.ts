// Reverse-mode differentiation of small float64 formulas on the host, so that a loss is written once, as its formula,
// and its gradient is exact. Values are vectors: tokens, sequences or examples end to end; a scalar has length 1.
// Each vector knows what it was made of and how a gradient flows back; there is no tape and nothing is changed.
// Numerics as in objectives.md 0.4. Tensors and devices are elsewhere (ts/src/autograd).

import { WhetstoneError } from '../src/base/errors.js'

/** A vector and where its gradient goes. */
export interface Vector {
  readonly value: Float64Array
  readonly sources: readonly Source[]
}

interface Source {
  readonly of: Vector
  /** The gradient of the source, from that of the vector made of it. */
  readonly pull: (gradient: Float64Array) => Float64Array
}

/** A vector, or one number for all of its places. */
export type Operand = Vector | number

/** A vector that is made of nothing: an input or a constant. */
export const leaf = (value: ArrayLike<number>): Vector => ({ value: Float64Array.from(value), sources: [] })

/** The same values, through which no gradient flows. */
export const detach = (x: Vector): Vector => ({ value: x.value, sources: [] })

/** A gradient of 0 stays 0, whatever the slope: 0 x Inf is no NaN where a branch was not taken. */
const chain = (gradient: number, slope: number): number => (gradient === 0 ? 0 : gradient * slope)

// Element by element ---------------------------------------------------------------------------------------------------

/** y = f(x) with the derivative slope(x, y). */
function unary(x: Vector, f: (x: number) => number, slope: (x: number, y: number) => number): Vector {
  const value = x.value.map(f)
  return { value, sources: [{ of: x, pull: (g) => g.map((d, i) => chain(d, slope(x.value[i], value[i]))) }] }
}

type Slope = (a: number, b: number) => number

function sameLength(a: Vector, b: Vector): number {
  if (a.value.length === b.value.length) return a.value.length
  throw new WhetstoneError(
    'E_SHAPE',
    'loss',
    `expected vectors of one length, got ${a.value.length} and ${b.value.length}`,
  )
}

/** y = f(a, b) with the derivatives da(a, b) and db(a, b). */
function binary(a: Operand, b: Operand, f: Slope, da: Slope, db: Slope): Vector {
  if (typeof a === 'number') {
    if (typeof b === 'number') return leaf([f(a, b)])
    return unary(
      b,
      (y) => f(a, y),
      (y) => db(a, y),
    )
  }
  if (typeof b === 'number')
    return unary(
      a,
      (x) => f(x, b),
      (x) => da(x, b),
    )
  const value = new Float64Array(sameLength(a, b)).map((_, i) => f(a.value[i], b.value[i]))
  const source = (of: Vector, slope: Slope): Source => ({
    of,
    pull: (g) => g.map((d, i) => chain(d, slope(a.value[i], b.value[i]))),
  })
  return { value, sources: [source(a, da), source(b, db)] }
}

const one = (): number => 1
const minusOne = (): number => -1

export const add = (a: Operand, b: Operand): Vector => binary(a, b, (x, y) => x + y, one, one)
export const sub = (a: Operand, b: Operand): Vector => binary(a, b, (x, y) => x - y, one, minusOne)

/** a b, element by element; a number scales. */
export const mul = (a: Operand, b: Operand): Vector =>
  binary(
    a,
    b,
    (x, y) => x * y,
    (_, y) => y,
    (x) => x,
  )

export const div = (a: Operand, b: Operand): Vector =>
  binary(
    a,
    b,
    (x, y) => x / y,
    (_, y) => 1 / y,
    (x, y) => -x / (y * y),
  )

/** The smaller one; at a tie the gradient is the first one's. */
export const minimum = (a: Operand, b: Operand): Vector =>
  binary(
    a,
    b,
    Math.min,
    (x, y) => Number(x <= y),
    (x, y) => Number(x > y),
  )

/** The larger one; at a tie the gradient is the first one's. */
export const maximum = (a: Operand, b: Operand): Vector =>
  binary(
    a,
    b,
    Math.max,
    (x, y) => Number(x >= y),
    (x, y) => Number(x < y),
  )

export const neg = (x: Vector): Vector => unary(x, (v) => -v, minusOne)
export const square = (x: Vector): Vector =>
  unary(
    x,
    (v) => v * v,
    (v) => 2 * v,
  )
export const abs = (x: Vector): Vector => unary(x, Math.abs, Math.sign)
export const log = (x: Vector): Vector => unary(x, Math.log, (v) => 1 / v)
export const log1p = (x: Vector): Vector => unary(x, Math.log1p, (v) => 1 / (1 + v))
/** Exponents above this are cut, with gradient 0 (TRL's bound): e^80 still fits float32, and its square float64. */
export const largestExponent = 80

/** e^x with x at most {@link largestExponent}. */
export const exp = (x: Vector): Vector =>
  unary(
    x,
    (v) => Math.exp(Math.min(v, largestExponent)),
    (v, y) => (v > largestExponent ? 0 : y),
  )

/** e^x - 1 with x at most {@link largestExponent}. */
export const expm1 = (x: Vector): Vector =>
  unary(
    x,
    (v) => Math.expm1(Math.min(v, largestExponent)),
    (v, y) => (v > largestExponent ? 0 : y + 1),
  )

/** x in [low, high]; gradient 0 outside. */
export const clamp = (x: Vector, low: number, high: number): Vector =>
  unary(
    x,
    (v) => Math.min(Math.max(v, low), high),
    (v) => Number(v >= low && v <= high),
  )

/** max(0, x): the hinge; gradient 0 at 0. */
export const relu = (x: Vector): Vector =>
  unary(
    x,
    (v) => Math.max(v, 0),
    (v) => Number(v > 0),
  )

/** 1 / (1 + e^-x) of a number, without overflow. */
export function sigmoidOf(x: number): number {
  if (x >= 0) return 1 / (1 + Math.exp(-x))
  const e = Math.exp(x)
  return e / (1 + e)
}

/** log s(x) of a number: min(x, 0) - log1p(e^-|x|). */
export const logSigmoidOf = (x: number): number => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x)))

export const sigmoid = (x: Vector): Vector => unary(x, sigmoidOf, (v, y) => y * sigmoidOf(-v))
export const logSigmoid = (x: Vector): Vector => unary(x, logSigmoidOf, (v) => sigmoidOf(-v))

/** log(1 + e^x) */
export const softplus = (x: Vector): Vector => unary(x, (v) => -logSigmoidOf(-v), sigmoidOf)

/** log(1 - e^x) of a negative number by the branch that does not cancel (Maechler 2012). */
export const log1mExpOf = (x: number): number => (x < -Math.LN2 ? Math.log1p(-Math.exp(x)) : Math.log(-Math.expm1(x)))

/** log(1 - e^x) for x < 0; derivative -e^x / (1 - e^x) = 1 - 1 / (1 - e^x). */
export const log1mExp = (x: Vector): Vector => unary(x, log1mExpOf, (v) => Math.exp(v) / Math.expm1(v))

/** a where the mask holds, b elsewhere. */
export function where(mask: readonly boolean[], a: Vector, b: Vector): Vector {
  const value = new Float64Array(sameLength(a, b)).map((_, i) => (mask[i] ? a : b).value[i])
  return {
    value,
    sources: [
      { of: a, pull: (g) => g.map((d, i) => (mask[i] ? d : 0)) },
      { of: b, pull: (g) => g.map((d, i) => (mask[i] ? 0 : d)) },
    ],
  }
}

// Along vectors --------------------------------------------------------------------------------------------------------

const total = (values: Float64Array): number => values.reduce((sum, v) => sum + v, 0)

/** Sum of all places, as a vector of length 1. */
export const sum = (x: Vector): Vector => ({
  value: Float64Array.of(total(x.value)),
  sources: [{ of: x, pull: ([d]) => new Float64Array(x.value.length).fill(d) }],
})

/** Mean of all places, as a vector of length 1. */
export const mean = (x: Vector): Vector => div(sum(x), x.value.length)

/** y[i] = x[index[i]] */
export function gather(x: Vector, index: ArrayLike<number>): Vector {
  const pull = (g: Float64Array): Float64Array => scatter(g, index, x.value.length)
  return { value: Float64Array.from(index, (i) => x.value[i]), sources: [{ of: x, pull }] }
}

function scatter(values: Float64Array, index: ArrayLike<number>, size: number): Float64Array {
  const sums = new Float64Array(size)
  values.forEach((v, i) => {
    sums[index[i]] += v
  })
  return sums
}

/** One number in `size` places: a scalar next to examples or tokens. */
export const spread = (x: Vector, size: number): Vector => gather(x, new Int32Array(size))

/** y[s] = sum of x[i] with segment[i] = s, for `count` segments: tokens to sequences. */
export const segmentSum = (x: Vector, segment: Int32Array, count: number): Vector => ({
  value: scatter(x.value, segment, count),
  sources: [{ of: x, pull: (g) => Float64Array.from(segment, (s) => g[s]) }],
})

/** y[s] = log sum of e^x[i] with segment[i] = s; -Inf for an empty segment. */
export function segmentLogSumExp(x: Vector, segment: Int32Array, count: number): Vector {
  const top = new Float64Array(count).fill(Number.NEGATIVE_INFINITY)
  x.value.forEach((v, i) => {
    top[segment[i]] = Math.max(top[segment[i]], v)
  })
  const terms = x.value.map((v, i) => Math.exp(v - top[segment[i]]))
  const sums = scatter(terms, segment, count)
  const pull = (g: Float64Array): Float64Array => terms.map((e, i) => g[segment[i]] * (e / sums[segment[i]]))
  return { value: sums.map((s, k) => (s === 0 ? top[k] : top[k] + Math.log(s))), sources: [{ of: x, pull }] }
}

/** log sum of e^x over all places, as a vector of length 1. */
export const logSumExp = (x: Vector): Vector => segmentLogSumExp(x, new Int32Array(x.value.length), 1)

/** Values in ascending order; equal ones keep theirs. */
export const sort = (x: Vector): Vector =>
  gather(
    x,
    Array.from(x.value.keys()).sort((i, j) => x.value[i] - x.value[j] || i - j),
  )

// Backward -------------------------------------------------------------------------------------------------------------

/** Everything that a vector is made of, sources before what is made of them. */
function ancestry(root: Vector): Vector[] {
  const seen = new Set<Vector>()
  const order: Vector[] = []
  const visit = (v: Vector): void => {
    if (seen.has(v)) return
    seen.add(v)
    for (const { of } of v.sources) visit(of)
    order.push(v)
  }
  visit(root)
  return order
}

/** Gradients of a scalar by vectors that it was made of; zeros for those it does not depend on. */
export function gradientsOf(root: Vector, leaves: readonly Vector[]): Float64Array[] {
  if (root.value.length !== 1)
    throw new WhetstoneError('E_SHAPE', 'loss', `expected a loss of length 1, got ${root.value.length}`)
  const gradients = new Map<Vector, Float64Array>([[root, Float64Array.of(1)]])
  for (const v of ancestry(root).reverse()) {
    const gradient = gradients.get(v)
    if (gradient === undefined) continue
    for (const { of, pull } of v.sources) {
      const known = gradients.get(of)
      const more = pull(gradient)
      gradients.set(of, known === undefined ? more : known.map((d, i) => d + more[i]))
    }
  }
  return leaves.map((v) => gradients.get(v) ?? new Float64Array(v.value.length))
}
