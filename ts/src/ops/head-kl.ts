// The language-model head fused with the divergence of its whole distribution from a prior's: KL in either direction, or
// the generalised Jensen-Shannon divergence. Logits never exist beyond a tile. Kernels: native/cpu/head_kl.cpp;
// references: head-reference.ts. Gradients go to the policy alone.

import { WhetstoneError } from '../base/errors.js'
import type { OpName } from '../native/ops.gen.js'
import type { Shape } from '../tensor/shape.js'
import type { Tensor } from '../tensor/tensor.js'
import { call, defineOp, type OpCase, type OpEntry, type Parameters } from './define.js'
import { expectParameter, expectRank, expectShape } from './expect.js'
import { headKlBackwardReference, headKlReference } from './head-reference.js'
import {
  capped,
  expectGradient,
  expectHead,
  type HeadOptions,
  parametersOf,
  plain,
  type Sizes,
  sizes,
  someLse,
  targetsBelow,
} from './head-shape.js'
import { zeros } from './layout.js'

/** Parameters of the cases. */
const forward: Parameters = { direction: 0, mixture: 0 }
const reverse: Parameters = { direction: 1, mixture: 0 }
const mixed: Parameters = { direction: 2, mixture: 0.3 }

/** The prior has the policy's vocabulary, but may have another width. */
function expectPrior(op: OpName, s: Readonly<Record<string, Shape>>, p: Parameters): void {
  expectRank(op, 'qw', s.qw, '[V, C of the prior]')
  expectShape(op, 'qw', s.qw, [s.w[0], s.qw[1]])
  expectShape(op, 'qh', s.qh, [s.h[0], s.qw[1]])
  const known = [0, 1, 2].includes(p.direction)
  expectParameter(known, op, p, 'direction', '0 (prior to policy), 1 (policy to prior) or 2 (Jensen-Shannon)')
  if (p.direction === 2) expectParameter(p.mixture > 0 && p.mixture < 1, op, p, 'mixture', 'between 0 and 1')
  else expectParameter(p.mixture === 0, op, p, 'mixture', '0 for a KL, which has no mixture')
}

const klCase = ([n, c, v]: Sizes, p: Parameters, priorWidth = c): OpCase => ({
  in: { h: [n, c], w: [v, c], qh: [n, priorWidth], qw: [v, priorWidth], targets: [n] },
  p,
  fill: { targets: targetsBelow(v) },
  rows: ['h', 'qh', 'targets'],
})

const headKlOp = defineOp({
  name: 'head_kl',
  shapes: (s, p) => {
    expectHead('head_kl', s, p)
    expectPrior('head_kl', s, p)
    return [s.targets, s.targets, s.targets, s.targets, s.targets]
  },
  fixed: ['qh', 'qw', 'lse', 'qlse', 'centre'],
  saves: ['h', 'w', 'qh', 'qw', 'targets', 'centre', 'lse', 'qlse'],
  gradient: ({ t, d, p, needs, into }) => {
    if (d.logps === undefined && d.kl === undefined) return {}
    const dw = needs('w') ? into('w') : undefined
    const dlogps = d.logps ?? zeros(t.lse.device, t.lse.shape)
    const dkl = d.kl ?? zeros(t.lse.device, t.lse.shape)
    const operands = [dw, dlogps, dkl, t.h, t.w, t.qh, t.qw, t.targets, t.centre, t.lse, t.qlse]
    return { h: call(headKlBackwardOp, operands, p)[0] }
  },
  reference: headKlReference,
  cases: [
    ...sizes.map((size) => klCase(size, { ...plain, ...forward })),
    klCase([3, 4, 7], { ...plain, ...reverse }),
    klCase([9, 33, 130], { ...capped, ...forward }),
    klCase([9, 33, 130], { ...capped, ...reverse }, 20),
    klCase([3, 4, 7], { ...capped, ...reverse }),
    ...sizes.map((size) => klCase(size, { ...plain, ...mixed })),
    klCase([3, 4, 7], { ...capped, ...mixed }),
    // centre falls with the square of the mixture, its rounding with the mixture, like what backward subtracts it from.
    ...[1 / 1024, 1 - 1 / 1024].map((mixture) => ({
      ...klCase([3, 4, 7], { ...plain, direction: 2, mixture }),
      tolerance: 1e-2,
    })),
    klCase([9, 33, 130], { ...capped, ...mixed }, 20),
    { in: { h: [0, 4], w: [7, 4], qh: [0, 4], qw: [7, 4], targets: [0] }, p: { ...plain, ...forward } },
    { in: { h: [0, 4], w: [7, 4], qh: [0, 4], qw: [7, 4], targets: [0] }, p: { ...plain, ...mixed } },
    {
      in: { h: [2, 4], w: [7, 4], qh: [2, 4], qw: [6, 4], targets: [2] },
      p: { ...plain, ...forward },
      fill: { targets: 'zeros' },
      fails: 'E_SHAPE',
    },
    ...[
      { direction: 3, mixture: 0 },
      { direction: 0, mixture: 0.5 },
      { direction: 2, mixture: 0 },
      { direction: 2, mixture: 1 },
    ].map((p) => ({ ...klCase([2, 4, 7], { ...plain, ...p }), fails: 'E_CONFIG' as const })),
    { ...klCase([256, 576, 49152], { ...plain, ...forward }), bench: true },
  ],
})

/** Which divergence: `priorToPolicy` KL(q || p), `policyToPrior` KL(p || q), `jensenShannon` of their mixture. */
export type KlDirection = keyof typeof directions

const directions = { priorToPolicy: 0, policyToPrior: 1, jensenShannon: 2 } as const

/** Options of {@link headKl}. */
export interface HeadKlOptions extends HeadOptions {
  /**
   * `priorToPolicy` (default): KL(prior || policy), as in SuperHF; `policyToPrior`: KL(policy || prior); `jensenShannon`:
   * b KL(prior || M) + (1 - b) KL(policy || M) with M = (1 - b) policy + b prior, as in GKD.
   */
  readonly direction?: KlDirection
  /** b, the weight of the prior in the mixture, above 0 and below 1; default 0.5. For `jensenShannon` alone. */
  readonly mixture?: number
}

function divergenceOf({ direction = 'priorToPolicy', mixture }: HeadKlOptions): Parameters {
  if (!Object.hasOwn(directions, direction))
    throw new WhetstoneError(
      'E_CONFIG',
      'head_kl',
      `expected a direction, one of ${Object.keys(directions)}, got ${direction}`,
    )
  return { direction: directions[direction], mixture: mixture ?? (direction === 'jensenShannon' ? 0.5 : 0) }
}

/**
 * Log-probs of targets and the full-vocabulary divergence between the policy's and a prior's head; gradients flow
 * through `logps` and `kl`, to the policy only.
 *
 * @param h [N, C]
 * @param w [V, C]
 * @param priorH [N, C of the prior]
 * @param priorW [V, C of the prior]
 * @param targets [N] i32
 * @returns logps, kl in nats (the divergence that `direction` names), and both log-sum-exps, [N] f32
 * @throws WhetstoneError E_CONFIG for a mixture outside its range or beside a KL
 */
export function headKl(
  h: Tensor,
  w: Tensor,
  priorH: Tensor,
  priorW: Tensor,
  targets: Tensor,
  options: HeadKlOptions = {},
) {
  const p = { ...parametersOf(options), ...divergenceOf(options) }
  const [logps, kl, lse, priorLse] = call(headKlOp, [h, w, priorH, priorW, targets], p)
  return { logps, kl, lse, priorLse }
}

const klBackwardCase = ([n, c, v]: Sizes, p: Parameters, withDw = true): OpCase => ({
  in: {
    ...(withDw ? { dw: [v, c] } : {}),
    dlogps: [n],
    dkl: [n],
    ...klCase([n, c, v], p).in,
    centre: [n],
    lse: [n],
    qlse: [n],
  },
  p,
  fill: { targets: targetsBelow(v), centre: 'positive', lse: someLse(v), qlse: someLse(v) },
  rows: ['dlogps', 'dkl', 'h', 'qh', 'targets', 'centre', 'lse', 'qlse'],
})

const headKlBackwardOp = defineOp({
  name: 'head_kl_backward',
  bf16Tolerance: 1e-2, // gradients of logits are rounded where bf16 products are fast
  shapes: (s, p) => {
    expectHead('head_kl_backward', s, p)
    expectPrior('head_kl_backward', s, p)
    expectGradient('head_kl_backward', s)
    return [s.h]
  },
  reference: headKlBackwardReference,
  cases: [
    ...sizes.map((size) => klBackwardCase(size, { ...plain, ...forward })),
    klBackwardCase([9, 33, 130], { ...plain, ...reverse }),
    klBackwardCase([9, 33, 130], { ...capped, ...forward }),
    klBackwardCase([37, 20, 45], { ...capped, ...reverse }),
    klBackwardCase([37, 20, 45], { ...plain, ...reverse }, false),
    ...sizes.map((size) => klBackwardCase(size, { ...plain, ...mixed })),
    klBackwardCase([37, 20, 45], { ...capped, ...mixed }),
    klBackwardCase([37, 20, 45], { ...plain, ...mixed }, false),
    klBackwardCase([0, 4, 7], { ...plain, ...forward }),
    klBackwardCase([0, 4, 7], { ...plain, ...mixed }),
    {
      in: { dlogps: [2], dkl: [1], ...klCase([2, 4, 7], plain).in, centre: [2], lse: [2], qlse: [2] },
      p: { ...plain, ...forward },
      fill: { targets: 'zeros' },
      fails: 'E_SHAPE',
    },
    { ...klBackwardCase([256, 576, 49152], { ...plain, ...forward }), bench: true },
  ],
})

/** The entries of the divergences. */
export const headKlOps: readonly OpEntry[] = [headKlOp, headKlBackwardOp]
