// Cases of golden/losses whose examples are pairs: pairs.json and srpo.json.

import { log1mExpOf } from '../../ts/loss/autodiff.js'
import type { Objective, Role } from '../../ts/loss/define.js'
import { copg, cpo, dpo, orpo, simpo, slic, srpo, xpo } from '../../ts/loss/index.js'
import {
  type Inputs,
  type Maker,
  make,
  numbersOf,
  type Outcome,
  type Params,
  type RawSequence,
  type Runner,
  rowsOf,
  runStep,
  settingsOf,
  zerosLike,
} from './losses-run.js'

/** log sum p^2 of a vocabulary of two tokens with probabilities e^l and 1 - e^l. */
const logSquares = (logps: readonly number[]): number[] =>
  logps.map((l) => {
    const [a, b] = [2 * l, 2 * log1mExpOf(l)]
    return Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)))
  })

function pairSequences(inputs: Inputs, example: number, roles: readonly Role[]): RawSequence[] {
  const scores = { onPolicy: Number((inputs.on_policy as boolean[])[example]) }
  const side = (role: 'chosen' | 'rejected', reward: string): RawSequence => {
    const logps = rowsOf(inputs, role)[example]
    return {
      role,
      example,
      scores: { ...scores, reward: numbersOf(inputs, reward)[example] },
      logps,
      reference: rowsOf(inputs, `ref_${role}`)[example],
      logSquares: logSquares(logps),
    }
  }
  const prompt: RawSequence = { role: 'prompt', example, logps: rowsOf(inputs, 'prompt')[example] }
  const all = [side('chosen', 'reward_w'), side('rejected', 'reward_l'), prompt]
  return all.filter(({ role }) => roles.includes(role))
}

/**
 * The likelihood of a pair's own chosen tokens, as objectives have it per example, replaced by the mean over all pairs
 * that the reference adds to each of them. The loss is the same.
 */
function spreadLikelihood(own: ArrayLike<number>, weight: number, inputs: Inputs, names: readonly string[]): number[] {
  const rows = rowsOf(inputs, names[0]).map((row, i) => [
    ...row,
    ...names.slice(1).flatMap((name) => rowsOf(inputs, name)[i]),
  ])
  const tokens = rows.flat().length
  const sums = rows.map((row) => row.reduce((all, l) => all + l, 0))
  const total = sums.reduce((all, sum) => all + sum, 0)
  return Array.from(own, (loss, i) => loss + (weight * (sums[i] * rows.length - total)) / tokens)
}

/** How a case becomes an objective, and with which weight it adds a likelihood per batch. */
interface PairCase {
  readonly objective: (params: Params) => Objective
  readonly likelihood?: (params: Params) => number
  readonly prompt?: boolean
}

const runPairs =
  ({ objective, likelihood = () => 0, prompt = false }: PairCase): Runner =>
  (inputs, params): Outcome => {
    const roles: readonly Role[] = prompt ? ['chosen', 'rejected', 'prompt'] : ['chosen', 'rejected']
    const examples = rowsOf(inputs, 'chosen').map((_, i) => i)
    const run = runStep(
      objective(params),
      examples.flatMap((i) => pairSequences(inputs, i, roles)),
    )
    const names = prompt ? ['chosen', 'prompt'] : ['chosen']
    return {
      loss: run.loss,
      perExample: spreadLikelihood(run.perExample?.loss ?? [], likelihood(params), inputs, names),
      grad: {
        chosen: run.of('chosen'),
        rejected: run.of('rejected'),
        prompt: prompt ? run.of('prompt') : zerosLike(rowsOf(inputs, 'prompt')),
      },
    }
  }

const pairCase = (
  maker: Maker,
  fixed: object = {},
  renamed: Readonly<Record<string, string>> = {},
  more: Omit<PairCase, 'objective'> = {},
): Runner =>
  runPairs({
    objective: (params) => make(maker, { ...settingsOf(params, { loss_type: '', ...renamed }), ...fixed }),
    ...more,
  })

const dpoCase = (lossType: string): Runner => pairCase(dpo, { lossType })
const weightOf =
  (name: string) =>
  (params: Params): number =>
    params[name] as number

/** A mixture by TRL's list of losses. */
const mixture = (params: Params): Objective => {
  const losses = params.losses as Record<string, number>
  const lossType = Object.keys(losses).map((name) =>
    name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase()),
  )
  return make(dpo, { ...settingsOf(params, { losses: '', weight: '' }), lossType, lossWeights: Object.values(losses) })
}
const sftShare = (params: Params): number => (params.losses as Record<string, number>).sft ?? 0

const likelihood = weightOf('cpo_alpha')
const one = (): number => 1

export const pairRunners: Readonly<Record<string, Runner>> = {
  sigmoid: dpoCase('sigmoid'),
  cdpo: dpoCase('sigmoid'),
  robust: dpoCase('robust'),
  hinge: dpoCase('hinge'),
  ipo: dpoCase('ipo'),
  ipo_sum: dpoCase('ipoSum'),
  exo_pair: dpoCase('exoPair'),
  nca_pair: dpoCase('ncaPair'),
  bco_pair: dpoCase('bcoPair'),
  sppo_hard: dpoCase('sppoHard'),
  aot: dpoCase('aot'),
  aot_unpaired: dpoCase('aotUnpaired'),
  apo_zero: dpoCase('apoZero'),
  apo_down: dpoCase('apoDown'),
  discopop: dpoCase('discopop'),
  sigmoid_norm: dpoCase('sigmoidNorm'),
  sft: dpoCase('sft'),
  rpo: pairCase(dpo, {}, { weight: 'rpoAlpha', losses: '' }, { likelihood: weightOf('weight') }),
  mpo: runPairs({ objective: mixture, likelihood: sftShare }),
  wpo: runPairs({ objective: mixture }),
  wpo_sft: pairCase(dpo, { lossType: ['sigmoid', 'sft'] }),
  simpo: pairCase(simpo, {}, { cpo_alpha: 'sftWeight' }, { likelihood }),
  alphapo: pairCase(simpo, {}, { cpo_alpha: 'sftWeight' }, { likelihood }),
  cpo: pairCase(cpo, { lossType: 'sigmoid' }, {}, { likelihood }),
  cpo_hinge: pairCase(cpo, { lossType: 'hinge' }, {}, { likelihood }),
  cpo_ipo: pairCase(cpo, { lossType: 'ipo' }, {}, { likelihood }),
  orpo: pairCase(orpo, { nllOver: 'all' }, {}, { likelihood: one, prompt: true }),
  orpo_completion: pairCase(orpo, {}, {}, { likelihood: one }),
  slic: pairCase(slic, {}, {}, { likelihood: weightOf('weight') }),
  xpo: pairCase(xpo, { lossType: 'sigmoid' }),
  xpo_ipo: pairCase(xpo, { lossType: 'ipo' }),
  copg: pairCase(copg),
}

const letters: Readonly<Record<string, Role>> = {
  a: 'chosenGivenRejected',
  b: 'rejectedGivenRejected',
  c: 'chosenGivenChosen',
  d: 'rejectedGivenChosen',
  e: 'chosen',
  f: 'rejected',
}

const srpoCase =
  (fixed: object = {}): Runner =>
  (inputs, params) => {
    const objective = make(srpo, { ...settingsOf(params, { p: '' }), ...fixed })
    const sequences = rowsOf(inputs, 'a').flatMap((_, example) =>
      Object.entries(letters).map(([letter, role]): RawSequence => {
        const [logps, reference] = [letter, `ref_${letter}`].map((name) => rowsOf(inputs, name)[example])
        return { role, example, logps, reference, scores: { preference: params.p as number } }
      }),
    )
    const run = runStep(objective, sequences)
    const grad = Object.fromEntries(Object.entries(letters).map(([letter, role]) => [letter, run.of(role)]))
    return { loss: run.loss, perExample: run.perExample?.loss, grad }
  }

export const srpoRunners: Readonly<Record<string, Runner>> = {
  srpo: srpoCase(),
  srpo_generative: srpoCase({ alpha: 0 }),
  srpo_self: srpoCase({ alpha: 1 }),
  srpo_mean: srpoCase({ reduction: 'mean' }),
}
