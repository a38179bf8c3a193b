// How much work one call of an op is: floating-point operations where a formula is simple (a multiply and an add count
// two), and bytes that must move if each operand is touched once. Tables by op; nothing is measured here.

import type { OpName } from '../ts/src/native/ops.gen.js'
import { type OpCase, type OpEntry, operandsOf, type Parameters } from '../ts/src/ops/define.js'
import { bytesPerElement, type DType, type Shape, sizeOf } from '../ts/src/tensor/shape.js'
import type { Float } from './harness.js'

/** Work of one call. */
export interface Work {
  /** 0 where it does not matter. */
  readonly flops: number
  readonly bytes: number
}

type Shapes = Readonly<Record<string, Shape>>

/** Values of the case's integer operands. */
export type Integers = Readonly<Record<string, Int32Array>>

/** Query and key pairs that see each other, for one head; a window keeps the latest keys of a query. */
function visiblePairs(visibility: Int32Array, window: number): number {
  let pairs = 0
  for (let i = 0; 3 * i < visibility.length; i++) {
    const [start, begin, end] = visibility.subarray(3 * i, 3 * i + 3)
    const seen = end - begin + i - start + 1
    pairs += window > 0 ? Math.min(window, seen) : seen
  }
  return pairs
}

const sumOf = (values: Int32Array): number => values.reduce((sum, value) => sum + value, 0)

/** N C V of a head. */
const headSize = ({ h, w }: Shapes): number => sizeOf(h) * w[0]

/** The prior's N C V. */
const priorSize = ({ qh, qw }: Shapes): number => sizeOf(qh) * qw[0]

/** Attention's own: N and heads of q, D. Counts as in FlashAttention: four per pair and channel, backward 2.5 times. */
const attentionFlops = ({ q }: Shapes, { visibility }: Integers, { window }: Parameters): number =>
  4 * visiblePairs(visibility, window) * q[1] * q[2]

const flopsOf: Readonly<Partial<Record<OpName, (s: Shapes, integers: Integers, p: Parameters) => number>>> = {
  linear: ({ x, w }) => 2 * sizeOf(x) * w[0],
  linear_dx: ({ dy, w }) => 2 * sizeOf(dy) * w[1],
  linear_dw: ({ dy, x }) => 2 * sizeOf(dy) * x[1],
  attention: attentionFlops,
  attention_backward: (s, integers, p) => 2.5 * attentionFlops(s, integers, p),
  attention_decode: ({ q }, { lengths }) => 4 * sumOf(lengths) * q[1] * q[2],
  head_logprobs: (s) => 2 * headSize(s),
  // logits again, dh, and dw when it is asked for
  head_logprobs_backward: (s) => (s.dw === undefined ? 4 : 6) * headSize(s),
  head_terms: (s) => 2 * headSize(s),
  head_terms_backward: (s) => (s.dw === undefined ? 4 : 6) * headSize(s),
  // direction 2 passes the tiles twice
  head_kl: (s, _, { direction }) => (direction === 2 ? 4 : 2) * (headSize(s) + priorSize(s)),
  head_kl_backward: (s) => (s.dw === undefined ? 4 : 6) * headSize(s) + 2 * priorSize(s),
  head_sample: (s) => 2 * headSize(s),
  head_sample_mixture: (s) => 2 * (headSize(s) + priorSize(s)),
}

/** Bytes of ops that touch only part of an operand, or write without reading. e(name) is the width of an element. */
const bytesOf: Readonly<Partial<Record<OpName, (s: Shapes, i: Integers, e: (operand: string) => number) => number>>> = {
  fill: ({ x }) => 4 * sizeOf(x),
  copy: ({ to }, _, e) => sizeOf(to) * (e('to') + e('from')),
  gather_rows: ({ x, ids }, _, e) => 2 * ids[0] * x[1] * e('x'),
  scatter_add_rows: ({ dy }, _, e) => sizeOf(dy) * (e('dy') + 8),
  // what they make is written and not read
  quantize_nf4: ({ codes, absmax, x }, _, e) => sizeOf(x) * e('x') + sizeOf(codes) + 4 * sizeOf(absmax),
  dequantize_nf4: ({ w, codes, absmax }, _, e) => sizeOf(w) * e('w') + sizeOf(codes) + 4 * sizeOf(absmax),
  dequantize_blockwise: ({ y, absmax }) => 5 * sizeOf(y) + 4 * sizeOf(absmax),
  // the copy is written and not read
  adamw: ({ w, copy }) => 28 * sizeOf(w) + (copy === undefined ? 0 : 2 * sizeOf(copy)),
  cache_write: ({ k }, _, e) => 4 * sizeOf(k) * e('k'),
  cache_copy: ({ keys, from }, _, e) => 4 * from[0] * sizeOf(keys.slice(1)) * e('keys'),
  // what sequences have in common counts for each: who reads it once is faster than memory
  attention_decode: ({ q, keys }, { lengths }, e) =>
    2 * sumOf(lengths) * keys[1] * keys[2] * e('keys') + 2 * sizeOf(q) * e('q'),
}

/** The element type of an operand when T and F are `float`. */
export const dtypeOf = ({ name, type }: { name: string; type: string }, c: OpCase, float: Float): DType =>
  type === 'F' ? (c.dtypes?.[name] ?? float) : type === 'T' ? float : (type as DType)

/** Every operand once; in-place ones are read and written. */
function bytesTouched(entry: OpEntry, c: OpCase, float: Float): number {
  const outputs = [...entry.shapes(c.in, c.p ?? {})]
  return operandsOf(entry.name).reduce((bytes, operand) => {
    const shape = operand.role === 'output' ? outputs.shift() : c.in[operand.name]
    if (shape === undefined) return bytes
    const passes = operand.role === 'inPlace' ? 2 : 1
    return bytes + passes * sizeOf(shape) * bytesPerElement(dtypeOf(operand, c, float))
  }, 0)
}

/** The work of a case when its floats are of the given type. */
export function workOf(entry: OpEntry, c: OpCase, float: Float, integers: Integers): Work {
  const width = (name: string): number => {
    const operand = operandsOf(entry.name).find((o) => o.name === name)
    return operand === undefined ? 0 : bytesPerElement(dtypeOf(operand, c, float))
  }
  return {
    flops: flopsOf[entry.name]?.(c.in, integers, c.p ?? {}) ?? 0,
    bytes: bytesOf[entry.name]?.(c.in, integers, width) ?? bytesTouched(entry, c, float),
  }
}
