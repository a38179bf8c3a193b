// The family that most preference losses belong to: a weighted sum of log-ratios of responses in contexts, then a link.
//   z = beta sum_k c_k rho_k - margin,  rho_k = log pi(y_k | x_k) - log ref(y_k | x_k), summed or averaged over tokens,
//   or log pi alone;  loss = link(z): logistic with smoothing, square to a target, hinge.
// DPO, cDPO, IPO, SimPO, step-level DPO (train the tokens behind the divergence only), regression on reward differences
// (target = difference of the rewards), and both terms of SRPO are settings of it. The methods with names of their own
// (dpo.ts, simpo.ts, srpo.ts, ...) are made of the functions here; `logRatio` is the family itself as an objective.
// Weight, margin, smoothing and target may be given per example, as scores. `rpoAlpha` adds -log pi(y_w | x) / |y_w| (RPO).

import * as z from 'zod'
import { add, leaf, logSigmoid, mul, neg, type Operand, relu, square, sub, type Vector } from './autodiff.js'
import { nonNegative, oneOf, positive, smoothing } from './config.js'
import type { Role } from './define.js'
import { defineObjective, statistic } from './objective.js'
import { ofRole, overExamples, scoresOf, sequenceMeans, sequenceSums, tokensOf, type View, weightsOf } from './view.js'

/** One log-ratio of the sum. */
export interface RatioTerm {
  readonly role: Role
  readonly coefficient: number
  /** Subtract the reference's log-prob; default true. */
  readonly reference?: boolean
  /** Over the tokens of the response; default sum. */
  readonly reduction?: 'sum' | 'mean'
}

/** sum_k c_k rho_k for each example. */
export function weightedRatios(view: View, terms: readonly RatioTerm[]): Vector {
  const weights = weightsOf(view)
  const parts = terms.map(({ role, coefficient, reference = true, reduction = 'sum' }) => {
    const tokens = mul(weights, reference ? sub(view.logps, tokensOf(view, 'reference')) : view.logps)
    const reduced = reduction === 'sum' ? sequenceSums(view, tokens) : sequenceMeans(view, tokens)
    return mul(ofRole(view, role, reduced), coefficient)
  })
  return parts.reduce((all, part) => add(all, part))
}

/** -(1-e) log s(z) - e log s(-z): the logistic link with a share e of wrong labels. */
export const logistic = (z: Vector, wrong: Operand = 0): Vector => {
  const minusRight = typeof wrong === 'number' ? wrong - 1 : sub(wrong, 1)
  return sub(mul(logSigmoid(z), minusRight), mul(logSigmoid(neg(z)), wrong))
}

/** (target - z)^2 */
export const squareTo = (z: Vector, target: Operand): Vector => square(sub(target, z))

/** max(0, 1 - z) */
export const hinge = (z: Vector): Vector => relu(sub(1, z))

const roles = [
  'completion',
  'chosen',
  'rejected',
  'chosenGivenRejected',
  'rejectedGivenRejected',
  'chosenGivenChosen',
  'rejectedGivenChosen',
] as const satisfies readonly Role[]

const term = z.strictObject({
  role: z.enum(roles),
  coefficient: z.number(),
  reference: z.boolean().default(true),
  reduction: oneOf('sum', 'mean'),
})

const settings = z.strictObject({
  terms: z
    .array(term)
    .nonempty()
    .default([
      { role: 'chosen', coefficient: 1, reference: true, reduction: 'sum' },
      { role: 'rejected', coefficient: -1, reference: true, reduction: 'sum' },
    ])
    .describe('log-ratios and their coefficients'),
  link: oneOf('logistic', 'square', 'hinge').describe('what the weighted sum goes through'),
  beta: positive(0.1).describe('scale of the weighted sum'),
  margin: z.number().default(0).describe('subtracted from it; the score `margin` of an example goes before'),
  labelSmoothing: smoothing().describe('logistic: share of wrong labels; the score `labelSmoothing` goes before'),
  rpoAlpha: nonNegative(0).describe('weight of the NLL per token of the chosen side, a mean for each pair'),
  target: z.number().default(1).describe('square: what the weighted sum should be; the score `target` goes before'),
})

/** Settings of the family. */
export type LogRatioConfig = z.input<typeof settings>

/** The family as an objective. The score `weight` multiplies the loss of its example. */
export const logRatio = defineObjective('logRatio.v1', settings, (config) => ({
  needs: {
    rows: 'preference',
    reference: config.terms.some(({ reference }) => reference),
    roles: [...new Set([...config.terms.map(({ role }) => role), ...(config.rpoAlpha > 0 ? ['chosen' as const] : [])])],
  },
  formula: (view) => {
    const score = (name: string, initial: number): Vector => leaf(scoresOf(view, name, initial))
    const ratio = weightedRatios(view, config.terms)
    const scaled = sub(mul(ratio, config.beta), score('margin', config.margin))
    const links = {
      logistic: () => logistic(scaled, score('labelSmoothing', config.labelSmoothing)),
      square: () => squareTo(scaled, score('target', config.target)),
      hinge: () => hinge(scaled),
    }
    const likelihood = (): Vector => {
      const tokens = mul(weightsOf(view), view.logps)
      return mul(ofRole(view, 'chosen', sequenceMeans(view, tokens)), -config.rpoAlpha)
    }
    const linked = links[config.link]()
    const losses = mul(config.rpoAlpha === 0 ? linked : add(linked, likelihood()), score('weight', 1))
    return {
      loss: overExamples(view, losses),
      stats: {
        'rewards/margins': statistic(scaled.value),
        'rewards/accuracies': statistic(scaled.value.map((margin) => Number(margin > 0))),
      },
      perExample: { loss: losses.value, margin: scaled.value },
    }
  },
}))
