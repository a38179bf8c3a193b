// Judges golden/losses: every case of every file runs through the objectives (and the plain functions of scores, rewards
// and advantages), and loss, values per example and gradients are compared in float64. Which objective a case means is
// in losses-*.ts, by the case's name; its settings come from its parameters. A name without a runner fails by name.

import { join } from 'node:path'
import { messageOf } from '../../ts/src/base/errors.js'
import { readJson } from '../../ts/src/io/json.js'
import type { Finding } from './finding.js'
import { advantageRunners, rewardRunners } from './losses-numbers.js'
import { policyRunners, unpairedRunners, vocabularyRunners } from './losses-policy.js'
import type { Inputs, Nested, Outcome, Params, Runner } from './losses-run.js'
import { pairRunners, srpoRunners } from './losses-sides.js'

interface LossCase {
  readonly name: string
  readonly params: Params
  /** Name of an input set. */
  readonly inputs: string
  readonly loss?: number
  readonly per_example?: readonly number[]
  readonly grad?: Readonly<Record<string, Nested>>
  /** In place of loss and gradients. */
  readonly value?: Nested
}

interface LossFile {
  readonly inputs: Readonly<Record<string, Inputs>>
  readonly cases: readonly LossCase[]
}

const runners: Readonly<Record<string, Readonly<Record<string, Runner>>>> = {
  pairs: pairRunners,
  unpaired: unpairedRunners,
  reward: rewardRunners,
  vocab: vocabularyRunners,
  policy: policyRunners,
  srpo: srpoRunners,
  advantages: advantageRunners,
}

/** The README's float64 tolerance, relative to 1 + |value|. */
const tolerance = 1e-9

/** Largest error relative to 1 + |expected|; infinite when shapes differ or something is missing or no number. */
function errorOf(got: Nested | undefined, expected: Nested): number {
  if (typeof expected === 'number') {
    const error = typeof got === 'number' ? Math.abs(got - expected) / (1 + Math.abs(expected)) : Number.NaN
    return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error
  }
  if (got === undefined || typeof got === 'number' || got.length !== expected.length) return Number.POSITIVE_INFINITY
  return expected.reduce<number>((most, value, i) => Math.max(most, errorOf(got[i], value)), 0)
}

/** What a case gives, as name -> numbers. */
const expectations = ({ loss, per_example, grad = {}, value }: LossCase): [string, Nested | undefined][] => [
  ['loss', loss],
  ['per_example', per_example],
  ['value', value],
  ...Object.entries(grad).map(([leaf, numbers]): [string, Nested] => [`d ${leaf}`, numbers]),
]

function differences(own: LossCase, { loss, perExample, grad = {}, value }: Outcome): string[] {
  const gradients = Object.entries(grad).map(([leaf, numbers]) => [`d ${leaf}`, numbers])
  const got: Record<string, Nested | undefined> = {
    loss,
    per_example: perExample && Array.from(perExample),
    value,
    ...Object.fromEntries(gradients),
  }
  return expectations(own).flatMap(([name, numbers]) => {
    const error = numbers === undefined ? 0 : errorOf(got[name], numbers)
    return error <= tolerance ? [] : [`${name}: error ${error.toExponential(2)}, allowed ${tolerance}`]
  })
}

function judgeCase(group: string, { inputs }: LossFile, own: LossCase): Finding {
  const entry = `losses/${group}.json: ${own.name} ${JSON.stringify(own.params)} on ${own.inputs}`
  const run = Object.hasOwn(runners[group], own.name) ? runners[group][own.name] : undefined
  if (run === undefined) return { entry, ok: false, detail: `no judge for the case ${own.name}` }
  const judged = expectations(own).some(([, numbers]) => numbers !== undefined)
  if (!judged) return { entry, ok: false, detail: 'the case has nothing to compare' }
  try {
    const bad = differences(own, run(inputs[own.inputs], own.params))
    return { entry, ok: bad.length === 0, detail: bad.join('; ') }
  } catch (error) {
    return { entry, ok: false, detail: `threw: ${messageOf(error)}` }
  }
}

/** One finding per case of a file. */
export async function judgeLosses(root: string, group: string): Promise<Finding[]> {
  const file = (await readJson(join(root, 'losses', `${group}.json`))) as unknown as LossFile
  return file.cases.map((own) => judgeCase(group, file, own))
}
