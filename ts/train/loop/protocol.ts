// How methods are compared (GTEP, "Hyperparameters in continual learning: a reality check", Cha and Cho 2024, arXiv 2403.09066): settings
// are chosen on some scenarios and judged, frozen, on others made of different data. A gain that is there where a method was tuned
// and not where it is judged is optimism. And what is said of a model that learns task after task.

import { checkArgument, checkOptions, kinds, listOf } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { deviation, mean } from '../../src/base/stats.js'

/** What is run, and on what. */
export interface ProtocolOptions<S> {
  /** Runs a setting on a scenario and gives a number; larger is better. */
  readonly run: (setting: S, scenario: string, seed: number) => Promise<number>
  readonly settings: readonly S[]
  /** Scenarios to choose the setting by. */
  readonly tuning: readonly string[]
  /** Scenarios to judge it on, none of them among the former. */
  readonly evaluation: readonly string[]
  readonly seeds: readonly number[]
}

/** Results of one setting. */
export interface ProtocolRow<S> {
  readonly setting: S
  /** Mean over scenarios and seeds. */
  readonly mean: number
  /** Sample deviation over seeds of the mean over scenarios; 0 of one seed. */
  readonly deviation: number
}

/** What came of it. */
export interface ProtocolResult<S> {
  /** All settings on the tuning scenarios. */
  readonly tuned: readonly ProtocolRow<S>[]
  /** The best of them there, of equals the first. */
  readonly chosen: S
  /** The chosen one on the evaluation scenarios. */
  readonly evaluated: ProtocolRow<S>
  /** By how much tuning looked better than evaluation. */
  readonly optimism: number
}

const protocolKinds = {
  run: kinds.call,
  settings: kinds.list,
  tuning: listOf(kinds.filled),
  evaluation: listOf(kinds.filled),
  seeds: kinds.numbers,
}

/**
 * Chooses a setting and judges it.
 *
 * @throws WhetstoneError E_CONFIG for an empty list and for scenarios that are on both sides, E_VERIFIER for a result that is no number
 */
export async function protocol<S>(options: ProtocolOptions<S>): Promise<ProtocolResult<S>> {
  checkOptions('protocol', options, protocolKinds)
  const { settings, tuning, evaluation, seeds } = options
  for (const [name, list] of Object.entries({ settings, tuning, evaluation, seeds }))
    if (list.length === 0) throw new WhetstoneError('E_CONFIG', `protocol.${name}`, 'expected at least one, got none')
  const shared = tuning.find((scenario) => evaluation.includes(scenario))
  if (shared !== undefined)
    throw new WhetstoneError(
      'E_CONFIG',
      'protocol.evaluation',
      `expected other scenarios than for tuning, got '${shared}' in both`,
    )
  const rowOf = async (setting: S, scenarios: readonly string[]): Promise<ProtocolRow<S>> => {
    const bySeed: number[] = []
    for (const seed of seeds) {
      const values: number[] = []
      for (const scenario of scenarios) {
        const value = await options.run(setting, scenario, seed)
        if (!Number.isFinite(value))
          throw new WhetstoneError(
            'E_VERIFIER',
            `protocol: ${scenario}, seed ${seed}`,
            `expected a number, got ${value}`,
          )
        values.push(value)
      }
      bySeed.push(mean(values))
    }
    return { setting, mean: mean(bySeed), deviation: deviation(bySeed) }
  }
  const tuned: ProtocolRow<S>[] = []
  for (const setting of settings) tuned.push(await rowOf(setting, tuning))
  const best = tuned.reduce((a, b) => (b.mean > a.mean ? b : a))
  const evaluated = await rowOf(best.setting, evaluation)
  return { tuned, chosen: best.setting, evaluated, optimism: best.mean - evaluated.mean }
}

/** What a row of tasks did to a model. */
export interface TaskMatrix {
  /** Mean accuracy over all tasks behind the last one. */
  readonly final: number
  /** Mean over the times behind each task of the mean over the tasks so far. */
  readonly incremental: number
  /** Mean over all tasks but the last of the best accuracy that it ever had before, less its last one; below 0: it gained. */
  readonly forgetting: number
}

/**
 * Summary of accuracies [t][j]: on task j behind learning task t, for j up to t.
 *
 * @throws WhetstoneError E_SHAPE for a row that is not one longer than the one before
 */
export function taskMatrix(accuracies: readonly (readonly number[])[]): TaskMatrix {
  checkArgument('taskMatrix.accuracies', accuracies, listOf(kinds.numbers))
  const odd = accuracies.findIndex((row, t) => row.length !== t + 1)
  if (odd >= 0 || accuracies.length === 0) {
    const got = odd < 0 ? 'no row' : `${accuracies[odd].length} numbers in row ${odd + 1}`
    throw new WhetstoneError('E_SHAPE', 'taskMatrix', `expected t numbers in row t, got ${got}`)
  }
  const last = accuracies[accuracies.length - 1]
  const lost = last.slice(0, -1).map((accuracy, j) => {
    const before = accuracies.slice(j, -1).map((row) => row[j])
    return Math.max(...before) - accuracy
  })
  return { final: mean(last), incremental: mean(accuracies.map(mean)), forgetting: mean(lost) }
}
