// Charts of the statistics that steps, evaluations and rounds log under TRL's names: those that belong together on one chart,
// and each of the others on its own. Evaluations are dashed lines beside those of the steps.

import type { EvalRecord, RoundRecord, StepRecord } from './records.js'
import { type ChartOptions, lineChart, type Point, type Series, thinned } from './svg.js'

/** What a chart shows. */
interface Group {
  readonly title: string
  readonly names: readonly string[]
  readonly isShare?: boolean
}

/** Statistics of steps and evaluations. */
const ofSteps: readonly Group[] = [
  { title: 'Rewards of the answers', names: ['rewards/chosen', 'rewards/rejected'] },
  { title: 'Reward margins', names: ['rewards/margins'] },
  { title: 'Share of pairs in the right order', names: ['rewards/accuracies'], isShare: true },
  { title: 'Log-probs of the answers', names: ['logps/chosen', 'logps/rejected'] },
  { title: 'Entropy, nats per token', names: ['entropy'] },
  { title: 'Share of tokens that were the most probable', names: ['mean_token_accuracy'], isShare: true },
]

/** Statistics of rounds. */
const ofRounds: readonly Group[] = [
  {
    title: 'Length of completions, tokens',
    names: ['completions/mean_length', 'completions/mean_terminated_length', 'completions/max_length'],
  },
  { title: 'Share of completions that were cut off', names: ['completions/clipped_ratio'], isShare: true },
  { title: 'Deviation of rewards', names: ['reward_std'] },
  { title: 'Share of groups with equal rewards', names: ['frac_reward_zero_std'], isShare: true },
]

/** A line of numbers, before it has a colour. */
type Line = Omit<Series, 'color'>

const namesIn = (records: readonly { readonly numbers: Readonly<Record<string, number>> }[]): string[] => [
  ...new Set(records.flatMap(({ numbers }) => Object.keys(numbers))),
]

const percent = (share: number): string => `${Math.round(100 * share)}%`

function chartOf({ title, isShare }: Group, lines: readonly Line[], xLabel: string): string {
  const share: Partial<ChartOptions> = isShare === true ? { yRange: [0, 1], format: percent } : {}
  const series = lines.filter(({ points }) => points.length > 0).map((line, i): Series => ({ ...line, color: i % 6 }))
  return lineChart(series, { title, xLabel, ...share })
}

const defined = (points: readonly (Point | undefined)[]): Point[] => points.filter((point) => point !== undefined)

const pointAt = (x: number | undefined, y: number | undefined): Point | undefined =>
  x === undefined || y === undefined ? undefined : { x, y }

/** A name as legends have room for it: `rewards/chosen` is chosen. */
const lastOf = (name: string): string => name.slice(name.lastIndexOf('/') + 1)

/** The lines of a statistic: one for each phase, and the evaluations. */
function stepLines(steps: readonly StepRecord[], evals: readonly EvalRecord[], name: string): Line[] {
  const phases = [...new Set(steps.map(({ phase }) => phase))]
  const lines = phases.map((phase): Line => {
    const own = steps.filter((step) => step.phase === phase)
    const points = thinned(defined(own.map(({ step, numbers }) => pointAt(step, numbers[name]))))
    return { name: phases.length === 1 ? lastOf(name) : `${phase}: ${lastOf(name)}`, points }
  })
  const evaluated = defined(evals.map(({ step, numbers }) => pointAt(step, numbers[name])))
  return [...lines, { name: `${lastOf(name)} (eval)`, points: evaluated, dashed: true }]
}

/** The groups, and a group for each name that is in none of them. */
function withOthers(groups: readonly Group[], names: readonly string[]): { known: readonly Group[]; others: Group[] } {
  const known = new Set(groups.flatMap((group) => group.names))
  return {
    known: groups,
    others: names.filter((name) => !known.has(name)).map((name) => ({ title: name, names: [name] })),
  }
}

/** Charts of statistics: those to look at first, and all others. */
export interface StatisticCharts {
  readonly first: readonly string[]
  readonly others: readonly string[]
}

/** The charts of what the records of a run hold besides their own fields. */
export function statisticCharts(
  steps: readonly StepRecord[],
  evals: readonly EvalRecord[],
  rounds: readonly RoundRecord[],
): StatisticCharts {
  const ofRows = evals.filter((e) => e.round === undefined)
  const ofPrompts = evals.filter((e) => e.round !== undefined)
  const step = withOthers(ofSteps, namesIn([...steps, ...ofRows]))
  const round = withOthers(ofRounds, namesIn([...rounds, ...ofPrompts]))
  const drawStep = (group: Group) =>
    chartOf(
      group,
      group.names.flatMap((name) => stepLines(steps, ofRows, name)),
      'step of the phase',
    )
  const drawRound = (group: Group) => {
    const linesOf = (name: string): Line[] => [
      { name: lastOf(name), points: defined(rounds.map((e) => pointAt(e.round, e.numbers[name]))) },
      {
        name: `${lastOf(name)} (eval)`,
        points: defined(ofPrompts.map((e) => pointAt(e.round, e.numbers[name]))),
        dashed: true,
      },
    ]
    return chartOf(group, group.names.flatMap(linesOf), 'round')
  }
  const drawn = (charts: readonly string[]) => charts.filter((chart) => chart !== '')
  return {
    first: drawn([...step.known.map(drawStep), ...round.known.map(drawRound)]),
    others: drawn([...round.others.map(drawRound), ...step.others.map(drawStep)]),
  }
}
