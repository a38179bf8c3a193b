// Events as lines for people: a live line for steps, lines that stay for the rest.

import { bytesText, duration, type Progress } from '../../src/base/progress.js'
import type { TrainEvent } from '../events.js'

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`

type Line = { readonly live: string } | { readonly stays: string } | undefined

/** How each kind of event reads; kinds without a line are for the log only. */
const lines: { readonly [T in TrainEvent['type']]: (event: Extract<TrainEvent, { type: T }>) => Line } = {
  start: (e) => ({ stays: `${e.notes.join(', ')}; ${e.totalSteps} optimizer steps on ${e.device}` }),
  step: (e) => {
    const left = ((e.totalSteps - e.step) * e.tokens) / e.tokensPerSecond
    const kl = e.stats.kl === undefined ? '' : `  kl ${e.stats.kl.toFixed(3)}`
    return {
      live: `${e.phase} ${e.step}/${e.totalSteps}  loss ${e.loss.toFixed(4)}${kl}  ${Math.round(e.tokensPerSecond)} tokens/s  ${bytesText(e.memoryBytes)}  ${duration(left)} left`,
    }
  },
  eval: (e) => ({ stays: `  ${evalText(e.name, e.round, e.values)}` }),
  round: (e) => ({ stays: roundText(e.round, e.values) }),
  sample: () => undefined,
  checkpoint: () => undefined,
  warning: (e) => ({ stays: `  warning: ${e.message}` }),
  end: (e) => {
    const said = [
      e.stepsDone === 0 ? `the run was finished already: 0 of ${e.step} steps done now` : '',
      e.stoppedEarly === true ? `stopped early at step ${e.step}: the evaluations no longer improve` : '',
      e.best === undefined ? '' : `best checkpoint: step ${e.best.step}, ${e.best.metric} ${e.best.value.toFixed(4)}`,
    ].filter((text) => text !== '')
    return said.length === 0 ? undefined : { stays: said.join('; ') }
  },
}

/** Rewards of a checker are shares of samples that are right; those of reward functions have any size. */
function roundText(round: number, values: Readonly<Record<string, number>>): string {
  const { samples, tasks, reward, kept, passAtN, reward_std: deviation = 0 } = values
  const gain =
    passAtN === undefined
      ? `reward ${reward.toFixed(3)}, deviation within groups ${deviation.toFixed(3)}`
      : `reward ${percent(reward)}, pass@n ${percent(passAtN)}`
  return `  round ${round}: ${samples} samples of ${tasks} tasks, ${gain}, ${kept} kept`
}

function evalText(name: string, round: number | undefined, values: Readonly<Record<string, number>>): string {
  if (values.accuracy === undefined)
    return `${name}: ${Object.entries(values)
      .map(([key, value]) => `${key} ${value.toFixed(4)}`)
      .join(', ')}`
  const label = name === 'round' ? `after round ${round}` : name
  return `${label}: held-out accuracy ${percent(values.accuracy)} (${percent(values.low)} to ${percent(values.high)}, ${values.total} tasks)`
}

/** Shows an event. */
export function show(progress: Progress, event: TrainEvent): void {
  const line = (lines[event.type] as (event: TrainEvent) => Line)(event)
  if (line === undefined) return
  if ('live' in line) progress.update(line.live)
  else progress.note(line.stays)
}
