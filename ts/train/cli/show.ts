// Events as lines for people: a live line for steps, lines that stay for the rest.

import { bytesText, duration, type Progress } from '../../src/base/progress.js'
import type { TrainEvent } from '../events.js'

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`

type Line = { readonly live: string } | { readonly stays: string } | undefined

type Values = Readonly<Record<string, number>>

/** What tells most of a step, besides its loss. */
const telling = ['rewards/accuracies', 'rewards/margins', 'accuracy', 'margin', 'kl']

/** A number in few characters: four digits behind the point, or a power of ten for what these would show as 0. */
const figure = (value: number): string =>
  value !== 0 && Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toFixed(4)

/** The telling figures by the last part of their names: `  accuracies 0.7500  margins 0.0123`. */
const tellingText = (stats: Values): string =>
  telling
    .flatMap((name) => (stats[name] === undefined ? [] : [`  ${name.split('/').at(-1)} ${figure(stats[name])}`]))
    .join('')

/**
 * How each kind of event reads; kinds without a line are for the log only.
 *
 * @param reward of the round that is trained on, which its steps do not know
 */
const lines: {
  readonly [T in TrainEvent['type']]: (event: Extract<TrainEvent, { type: T }>, reward: number | undefined) => Line
} = {
  start: (e) => ({ stays: `${e.notes.join(', ')}; ${e.totalSteps} optimizer steps on ${e.device}` }),
  step: (e, reward) => {
    const left = ((e.totalSteps - e.step) * e.tokens) / e.tokensPerSecond
    const figures =
      (reward === undefined || e.phase !== 'round' ? '' : `  reward ${figure(reward)}`) + tellingText(e.stats)
    return {
      live: `${e.phase} ${e.step}/${e.totalSteps}  loss ${e.loss.toFixed(4)}${figures}  ${Math.round(e.tokensPerSecond)} tokens/s  ${bytesText(e.memoryBytes)}  ${duration(left)} left`,
    }
  },
  eval: (e) => ({ stays: `  ${isTaskAccuracy(e.values) ? accuracyText(e) : figuresText(e)}` }),
  round: (e) => ({ stays: roundText(e.round, e.values) }),
  sample: () => undefined,
  checkpoint: () => undefined,
  warning: (e) => ({ stays: `  warning: ${e.message}` }),
  end: (e) => {
    const said = [
      e.stepsDone === 0 && !e.stopped ? `the run was finished already: 0 of ${e.step} steps done now` : '',
      e.stoppedEarly === true ? `stopped early at step ${e.step}: the evaluations no longer improve` : '',
      e.best === undefined ? '' : `best checkpoint: step ${e.best.step}, ${e.best.metric} ${e.best.value.toFixed(4)}`,
    ].filter((text) => text !== '')
    return said.length === 0 ? undefined : { stays: said.join('; ') }
  },
}

/** Rewards of a checker are shares of samples that are right; those of reward functions have any size, and may be missing. */
function roundText(round: number, values: Values): string {
  const { samples, tasks, reward, kept, passAtN, onPolicy, reward_std: deviation = 0 } = values
  const wins = values['rewards/probabilities']
  const figures = [
    passAtN === undefined ? '' : `reward ${percent(reward)}, pass@n ${percent(passAtN)}`,
    passAtN !== undefined || reward === undefined
      ? ''
      : `reward ${reward.toFixed(3)}, deviation ${deviation.toFixed(3)}`,
    wins === undefined ? '' : `preferred ${percent(wins)}`,
    onPolicy === undefined ? '' : `${percent(onPolicy)} on-policy`,
  ].filter((text) => text !== '')
  return `  round ${round}: ${samples} samples of ${tasks} tasks, ${figures.join(', ')}, ${kept} kept`
}

type EvalEvent = Extract<TrainEvent, { type: 'eval' }>

/** Accuracy on held-out tasks has an interval; the `accuracy` of a reward model on rows is one figure among others. */
const isTaskAccuracy = ({ accuracy, low, high, total }: Values): boolean =>
  [accuracy, low, high, total].every((value) => value !== undefined)

function accuracyText({ name, round, values }: EvalEvent): string {
  const label = name === 'round' ? `after round ${round}` : name
  return `${label}: held-out accuracy ${percent(values.accuracy)} (${percent(values.low)} to ${percent(values.high)}, ${values.total} tasks)`
}

function figuresText({ name, step, values }: EvalEvent): string {
  const figures = Object.entries(values).map(([key, value]) => `${key} ${figure(value)}`)
  return `${name}${step === undefined ? '' : ` at step ${step}`}: ${figures.join(', ')}`
}

/** Shows events one after another. */
export function createShow(progress: Progress): (event: TrainEvent) => void {
  let reward: number | undefined
  return (event) => {
    if (event.type === 'round') reward = event.values.reward
    const line = (lines[event.type] as (event: TrainEvent, reward: number | undefined) => Line)(event, reward)
    if (line === undefined) return
    if ('live' in line) progress.update(line.live)
    else progress.note(line.stays)
  }
}
