// Which charts a run has: from its records to series and bars. How they are drawn is svg.ts.

import type { EvalRecord, RoundRecord, SampleRecord, StepRecord } from './records.js'
import { statisticCharts } from './statistics.js'
import { type Bar, barChart, type ChartOptions, lineChart, type Point, type Series, thinned } from './svg.js'

/** Records of a run, each once. */
export interface RunData {
  readonly steps: readonly StepRecord[]
  readonly evals: readonly EvalRecord[]
  readonly rounds: readonly RoundRecord[]
  readonly samples: readonly SampleRecord[]
}

/** A share as text. */
export const percent = (share: number | undefined): string =>
  share === undefined || !Number.isFinite(share) ? '?' : `${(100 * share).toFixed(1)}%`

const wholePercent = (share: number): string => `${Math.round(100 * share)}%`

/** Names and colours of what is compared. */
const models = {
  warmup: { name: 'warm-up', color: 5 },
  control: { name: 'control', color: 1 },
  final: { name: 'self-training', color: 0 },
} as const

const pointOf = (x: number, { accuracy, low, high }: EvalRecord): Point => ({ x, y: accuracy ?? Number.NaN, low, high })

function resultChart({ evals }: RunData): string {
  const bars = Object.entries(models).flatMap(([name, look]): Bar[] => {
    const found = evals.find((e) => e.name === name)
    return found?.accuracy === undefined ? [] : [{ ...look, value: found.accuracy, low: found.low, high: found.high }]
  })
  return barChart(bars, { title: 'Held-out accuracy with 95% intervals', format: percent })
}

/** Accuracy over rounds. The control has no rounds: a dashed line leads from the warm-up to its result. */
function accuracyChart({ evals }: RunData): string {
  const of = (...names: string[]) => evals.filter((e) => names.includes(e.name) && e.accuracy !== undefined)
  const rounds = of('warmup', 'round', 'final')
  const last = rounds.reduce((most, e) => Math.max(most, e.round ?? 0), 1)
  const control = [...of('warmup').map((e) => pointOf(0, e)), ...of('control').map((e) => pointOf(last, e))]
  const series: Series[] = [{ ...models.final, points: rounds.map((e) => pointOf(e.round ?? 0, e)) }]
  if (of('control').length > 0) series.push({ ...models.control, points: control, dashed: true })
  return lineChart(series, {
    title: 'Held-out accuracy by round',
    xLabel: 'round (0: after warm-up)',
    yRange: [0, 1],
    format: wholePercent,
  })
}

type RoundKey = 'reward' | 'passAt1' | 'passAtN' | 'kl' | 'loss'

const ofRounds = (rounds: readonly RoundRecord[], key: RoundKey): Point[] =>
  rounds.map((e) => ({ x: e.round, y: e[key] ?? Number.NaN }))

function rewardChart({ rounds, evals }: RunData): string {
  const held = evals.flatMap(({ round, reward }) =>
    round === undefined || reward === undefined ? [] : [{ x: round, y: reward }],
  )
  const series: Series[] = [{ name: 'reward', color: 2, points: ofRounds(rounds, 'reward') }]
  if (held.length > 0) series.push({ name: 'reward (eval)', color: 3, points: held, dashed: true })
  return lineChart(series, { title: 'Mean reward of the samples', xLabel: 'round' })
}

const passChart = ({ rounds }: RunData): string =>
  lineChart(
    [
      { name: 'pass@1', color: 3, points: ofRounds(rounds, 'passAt1') },
      { name: 'pass@n', color: 4, points: ofRounds(rounds, 'passAtN') },
    ],
    { title: 'Tasks solved by the samples', xLabel: 'round', yRange: [0, 1], format: wholePercent },
  )

/** pass@k of the evaluations that have it, a line for each k. */
function heldOutPassChart({ evals }: RunData): string {
  const ks = [...new Set(evals.flatMap((e) => (e.passAtK ?? []).map(({ k }) => k)))].sort((a, b) => a - b)
  const shareOf = (e: EvalRecord, k: number): number => e.passAtK?.find((p) => p.k === k)?.value ?? Number.NaN
  const series = ks.map(
    (k, i): Series => ({
      name: `pass@${k}`,
      color: i % 6,
      points: evals.map((e) => ({ x: e.round ?? 0, y: shareOf(e, k) })),
    }),
  )
  return lineChart(series, { title: 'Held-out pass@k', xLabel: 'round', yRange: [0, 1], format: wholePercent })
}

/** Colours of phases; others take what is left in order. */
const phaseColor = (phase: string, i: number): number =>
  ({ warmup: 5, control: 1, round: 0 })[phase] ?? [0, 2, 3, 4][i % 4]

function stepChart({ steps }: RunData, value: (e: StepRecord) => number | undefined, options: ChartOptions): string {
  const phases = [...new Set(steps.map((step) => step.phase))]
  const series = phases.map((phase, i): Series => {
    const points = steps
      .filter((step) => step.phase === phase)
      .map((step) => ({ x: step.step, y: value(step) ?? Number.NaN }))
      .filter(({ y }) => Number.isFinite(y))
    return { name: phase, color: phaseColor(phase, i), points: thinned(points) }
  })
  return lineChart(series, options)
}

/** KL at each step where steps have it, else by round. */
function klChart(data: RunData): string {
  const title = 'KL between policy and reference, nats'
  const byStep = stepChart(data, (e) => e.kl, { title, xLabel: 'optimizer step' })
  if (byStep !== '') return byStep
  return lineChart([{ name: 'kl', color: 3, points: ofRounds(data.rounds, 'kl') }], { title, xLabel: 'round' })
}

function evalLossChart({ evals }: RunData): string {
  const points = evals.map((e) => ({ x: e.step ?? e.round ?? 0, y: e.loss ?? Number.NaN }))
  return lineChart([{ name: 'loss', color: 2, points }], { title: 'Loss on evaluation rows', xLabel: 'optimizer step' })
}

/** Charts of a run: those of the page in their order, and those for who looks closer. */
export interface Charts {
  readonly first: readonly string[]
  readonly others: readonly string[]
}

/** The charts of a run; those without data are left out. */
export function charts(data: RunData): Charts {
  const { first, others } = statisticCharts(data.steps, data.evals, data.rounds)
  const own = [
    resultChart(data),
    accuracyChart(data),
    rewardChart(data),
    passChart(data),
    heldOutPassChart(data),
    klChart(data),
    stepChart(data, (e) => e.loss, { title: 'Training loss', xLabel: 'step of the phase', log: true }),
    evalLossChart(data),
    stepChart(data, (e) => e.gradNorm, { title: 'Gradient norm', xLabel: 'step of the phase', log: true }),
    stepChart(data, (e) => e.learningRate, { title: 'Learning rate', xLabel: 'step of the phase' }),
  ]
  return { first: [...own.filter((chart) => chart !== ''), ...first], others }
}
