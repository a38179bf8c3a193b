// What the ops of the language-model head share: options, shape rules and the sizes of their cases. Shapes: N tokens,
// C channels, V vocabulary. The ops are in head.ts, head-terms.ts and head-kl.ts.

import type { OpName } from '../native/ops.gen.js'
import { checkShape, type Shape } from '../tensor/shape.js'
import type { OpCase, Parameters } from './define.js'
import { expectAtLeast, expectPositive, expectRank, expectShape } from './expect.js'

/** Options of the head: logits are z = softcap(h w^T) / temperature. */
export interface HeadOptions {
  /** Logits become softcap tanh(logit / softcap); 0 or absent: off. */
  readonly softcap?: number
  /** Default 1. */
  readonly temperature?: number
}

/** Parameters of the kernels. */
export const parametersOf = ({ softcap, temperature }: HeadOptions): Parameters => ({
  softcap: softcap ?? 0,
  temperature: temperature ?? 1,
})

/** Shape rule of h [N, C], w [V, C] and targets [N], and of the parameters. */
export function expectHead(op: OpName, s: Readonly<Record<string, Shape>>, p: Parameters): void {
  expectRank(op, 'h', s.h, '[N, C]')
  expectRank(op, 'w', s.w, '[V, C]')
  expectShape(op, 'w', s.w, [s.w[0], s.h[1]])
  checkShape(s.w[0] >= 1, op, 'w with at least one row', s.w)
  expectShape(op, 'targets', s.targets, [s.h[0]])
  expectAtLeast(op, p, 'softcap', 0)
  expectPositive(op, p, 'temperature')
}

/** Operands of a backward op that hold one number per token. */
const perToken = ['dlogps', 'dentropy', 'dmeanlogps', 'dkl', 'entropy', 'centre', 'lse', 'qlse']

/** Shape rule of what a backward op takes besides. */
export function expectGradient(op: OpName, s: Readonly<Record<string, Shape>>): void {
  if (s.dw !== undefined) expectShape(op, 'dw', s.dw, s.w)
  for (const name of perToken) if (s[name] !== undefined) expectShape(op, name, s[name], [s.h[0]])
}

/** Sizes of a case: tokens, channels, vocabulary. */
export type Sizes = readonly [n: number, c: number, v: number]

/** Fill of targets of a vocabulary of v. */
export const targetsBelow =
  (v: number) =>
  (i: number): number =>
    (i * 5 + v - 1) % v

/** Hidden states and weights around one, so that logits have a spread of about sqrt(C). */
export const logProbsCase = ([n, c, v]: Sizes, p: Parameters, bench = false): OpCase => ({
  in: { h: [n, c], w: [v, c], targets: [n] },
  p,
  fill: { targets: targetsBelow(v) },
  rows: ['h', 'targets'],
  bench,
})

/** Sizes of the cases of every op. */
export const sizes: readonly Sizes[] = [
  [3, 4, 7],
  [1, 3, 1],
  [9, 33, 130],
  [2, 16, 2100],
]
/** Neither cap nor temperature; then both. */
export const plain: Parameters = { softcap: 0, temperature: 1 }
export const capped: Parameters = { softcap: 3, temperature: 0.7 }
/** A small model with a large vocabulary. */
export const benchSizes: Sizes = [512, 576, 49152]

/** Log-sum-exp of about the right size, so that exp(z - lse) is a probability. */
export const someLse = (v: number) => (i: number) => Math.log(v) + 1.5 + (i % 3) / 4
