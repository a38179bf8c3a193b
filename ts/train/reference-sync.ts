// A reference that follows the policy (TR-DPO, arXiv 2404.09656, equation 4): every so many steps it becomes a mean of
// itself and the policy. It is then part of the training state: checkpoints hold it.

import { WhetstoneError } from '../src/base/errors.js'
import type { Decoder } from '../src/models/decoder.js'
import { type ParameterSpec, parameterGroups } from '../src/nn/parameters.js'
import { add, castTo, copy, scale } from '../src/ops/index.js'
import { Scope } from '../src/tensor/scope.js'
import { shapeText } from '../src/tensor/shape.js'

/** How a reference follows the policy. */
export interface ReferenceSync {
  /** Optimizer steps from one move to the next. */
  readonly refModelSyncSteps: number
  /** Share of the policy in what the reference becomes; 1 replaces it. */
  readonly refModelMixupAlpha: number
}

/** The settings of a run, when its reference is to follow. */
export const referenceSyncOf = (
  values: ReferenceSync & { readonly syncRefModel: boolean },
): ReferenceSync | undefined =>
  values.syncRefModel
    ? { refModelSyncSteps: values.refModelSyncSteps, refModelMixupAlpha: values.refModelMixupAlpha }
    : undefined

const textOf = ({ name, shape }: ParameterSpec): string => `${name} ${shapeText(shape)}`

/** Why a reference cannot follow a policy; undefined when it can. */
function obstacle(
  policy: Decoder,
  reference: Decoder | undefined,
  { refModelSyncSteps, refModelMixupAlpha }: ReferenceSync,
): string | undefined {
  if (!Number.isInteger(refModelSyncSteps) || refModelSyncSteps < 1)
    return `a whole number of at least 1 for refModelSyncSteps, got ${refModelSyncSteps}`
  if (!(refModelMixupAlpha >= 0 && refModelMixupAlpha <= 1))
    return `a number from 0 to 1 for refModelMixupAlpha, got ${refModelMixupAlpha}`
  if (reference === undefined) return 'a reference that can move, got none: nothing looks at one'
  if (policy.adapter !== undefined || reference.adapter !== undefined)
    return 'a policy and a reference without adapters, got LoRA, whose base is frozen'
  const [own, others] = [policy, reference].map(({ parameters }) => parameters.placements.map(textOf))
  const at = Array.from({ length: Math.max(own.length, others.length) }).findIndex((_, i) => own[i] !== others[i])
  return at < 0 ? undefined : `the parameters of the policy, ${own[at] ?? 'no more'}, got ${others[at] ?? 'no more'}`
}

/**
 * Checks that a reference can follow a policy.
 *
 * @throws WhetstoneError E_CONFIG without a reference, with an adapter, for other parameters, for numbers out of range
 */
export function checkReferenceSync(policy: Decoder, reference: Decoder | undefined, sync: ReferenceSync): void {
  const text = obstacle(policy, reference, sync)
  if (text !== undefined) throw new WhetstoneError('E_CONFIG', 'syncRefModel', `expected ${text}`)
}

/** Elements that are mixed at a time: sums are tensors of their own for a moment. */
const mixedElements = 2 ** 20

/** Moves the reference: alpha of the policy, 1 - alpha of itself, in f32 and rounded to its type. */
export function moveReference({ parameters: to }: Decoder, { parameters: from }: Decoder, alpha: number): void {
  for (const group of parameterGroups) {
    const [reference, policy] = [to.flat[group], from.flat[group]]
    for (let at = 0; at < reference.size; at += mixedElements) {
      using scope = new Scope()
      scope.run(() => {
        const shape = [Math.min(mixedElements, reference.size - at)]
        const part = reference.view(shape, at)
        const own = scale(castTo(part, 'f32'), 1 - alpha)
        copy(part, add(own, scale(castTo(policy.view(shape, at), 'f32'), alpha)))
      })
    }
  }
}
