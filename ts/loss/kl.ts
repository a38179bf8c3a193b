// Estimators of KL(policy || reference) from sampled tokens (Schulman 2020), with d = log pi(y) - log ref(y), and what each
// does as a differentiable loss on on-policy samples (objectives.md 6):
//   k1  d               gradient 0 on average: no regulariser at all; k1 belongs into the reward
//   k2  d^2 / 2         gradient of KL(policy || reference)
//   k3  e^-d - 1 + d    gradient of KL(reference || policy), the other direction than its value
//   rhoK3  rho k3       with rho = pi / sg(old): gradient of KL(policy || reference) (TRL's use_bias_correction_kl)
//   k3StraightThrough   value k3, gradient k2 (verl's k3+)
// The full-vocabulary divergences are in vocabulary.ts.

import { add, detach, expm1, mul, neg, square, sub, type Vector } from './autodiff.js'

const k2 = (d: Vector): Vector => mul(square(d), 0.5)
const k3 = (d: Vector): Vector => add(expm1(neg(d)), d)

/** Estimators by name: log-ratio and probability ratio to the sampling policy, per token, to a number per token. */
export const klEstimators = {
  k3,
  k1: (d: Vector): Vector => d,
  k2,
  rhoK3: (d: Vector, rho: Vector): Vector => mul(rho, k3(d)),
  k3StraightThrough: (d: Vector): Vector => add(detach(k3(d)), sub(k2(d), detach(k2(d)))),
} as const satisfies Record<string, (d: Vector, rho: Vector) => Vector>
