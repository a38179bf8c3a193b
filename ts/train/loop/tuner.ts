// Control: settings of a round chosen by what comes of them, on a part of its tasks.

import { checkArgument, checkOptions, kinds, listOf } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import type { Task } from '../tasks/index.js'
import type { Explore, ExploreContext } from './explore.js'
import type { Score } from './score.js'
import { type Trace, withScores } from './trace.js'

/** What was tried, and how it did. */
export interface Tuned<S> {
  readonly setting: S
  readonly value: number
}

/** Tries have values that are numbers. */
export function checkTried(where: string, tried: readonly Tuned<unknown>[]): void {
  checkArgument(`${where}.tried`, tried, listOf(kinds.object))
  const bad = tried.findIndex(({ value }) => !Number.isFinite(value))
  if (bad < 0) return
  throw new WhetstoneError('E_CONFIG', `${where}.tried[${bad}]`, `expected a finite value, got ${tried[bad].value}`)
}

/** The best of a grid by a measure; of equals the first. */
export function gridArgmax<S>(grid: readonly S[], measure: (setting: S) => number): Tuned<S> {
  if (grid.length === 0) throw new WhetstoneError('E_CONFIG', 'grid', 'expected at least one setting to try, got none')
  return grid
    .map((setting) => ({ setting, value: measure(setting) }))
    .reduce((best, next) => (next.value > best.value ? next : best))
}

/** Where a climb goes next. */
export interface Climb {
  /** The setting to try; the best one when neither neighbour is left. */
  readonly next: number
  /** The best of what was tried; undefined where nothing was. */
  readonly best: Tuned<number> | undefined
  /** Both neighbours of the best were tried. */
  readonly done: boolean
}

/**
 * Climbs a hill of one dimension in equal steps: upwards first, then on from whatever is best. A pure function of what was
 * tried, each value under the setting that it was measured at; of one tried twice the last value counts.
 *
 * @throws WhetstoneError E_CONFIG for a step that is not above 0 and for a value that is no number
 */
export function hillClimb(
  tried: readonly Tuned<number>[],
  options: { readonly start: number; readonly step: number },
): Climb {
  checkTried('hillClimb', tried)
  checkOptions('hillClimb', options, { start: kinds.number, step: kinds.number })
  const { start, step } = options
  if (!(step > 0)) throw new WhetstoneError('E_CONFIG', 'step', `expected a step above 0, got ${step}`)
  const placeOf = (setting: number) => Math.round((setting - start) / step)
  const values = new Map(tried.map(({ setting, value }) => [placeOf(setting), value]))
  if (values.size === 0) return { next: start, best: undefined, done: false }
  const top = gridArgmax([...values.keys()], (place) => values.get(place) ?? Number.NEGATIVE_INFINITY)
  const free = [top.setting + 1, top.setting - 1].find((place) => !values.has(place))
  const best = { setting: start + top.setting * step, value: top.value }
  return { next: start + (free ?? top.setting) * step, best, done: free === undefined }
}

/** How the temperature of a round is chosen. */
export interface TemperatureTuner {
  /** Temperatures to choose from. */
  readonly grid: readonly number[]
  readonly exploreAt: (temperature: number) => Explore
  readonly score: Score
  /** What scored samples at a temperature are worth. */
  readonly measure: (traces: readonly Trace[]) => number
  /** Tasks of the round to try all temperatures on, from its first. */
  readonly tasks: number
}

/** What a round chose; nothing of samples that were drawn without a choice. */
export function tunedStatistics([{ scores }]: readonly Trace[]): Record<string, number> {
  if (scores.tuned === undefined) return {}
  return { 'balance/temperature': scores.temperature, 'balance/tried': scores.tuned }
}

/**
 * Explores a round at the temperature that did best on some of its tasks. Trials have keys of their own; traces have the
 * scores `temperature` and `tuned`, the value that it had. The choice hangs on the policy at the start of the round alone, so
 * that one which is resumed makes it again.
 */
export function exploreAtBest({ grid, exploreAt, score, measure, tasks: count }: TemperatureTuner): Explore {
  const choose = async (context: ExploreContext, tasks: readonly Task[]): Promise<Tuned<number>> => {
    const values = new Map<number, number>()
    for (const temperature of grid) {
      const trials = tasks.map((task) => ({ ...task, id: `${task.id} tried at ${temperature}` }))
      values.set(temperature, measure(await score(await exploreAt(temperature)(context, trials))))
    }
    return gridArgmax(grid, (temperature) => values.get(temperature) ?? Number.NEGATIVE_INFINITY)
  }
  let chosen: { readonly round: number; readonly best: Tuned<number> } | undefined
  return async (context, tasks) => {
    const { round, roundTasks = tasks } = context
    if (chosen?.round !== round) chosen = { round, best: await choose(context, roundTasks.slice(0, count)) }
    const { setting: temperature, value: tuned } = chosen.best
    const traces = await exploreAt(temperature)(context, tasks)
    return traces.map((trace) => withScores(trace, { temperature, tuned }))
  }
}
