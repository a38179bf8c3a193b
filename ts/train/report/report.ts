// report.html: a run on one self-contained page, from its configuration and metrics. No scripts, no outside resources.

import { join } from 'node:path'
import { writeAtomic } from '../../src/io/files.js'
import { readJsonObject } from '../../src/io/json.js'
import { type LoggedEvent, readMetrics } from '../run-folder.js'
import { type ChartOptions, escapeXml, lineChart, type Series, thinned } from './svg.js'

type Of<T extends LoggedEvent['type']> = Extract<LoggedEvent, { type: T }>

const ofType = <T extends LoggedEvent['type']>(events: readonly LoggedEvent[], type: T): Of<T>[] =>
  events.filter((event): event is Of<T> => event.type === type)

const percent = (share: number): string => `${(100 * share).toFixed(1)}%`

/** Of events that were logged twice (a run that was resumed), the last. */
function latest<E>(events: readonly E[], key: (event: E) => string): E[] {
  return [...new Map(events.map((event) => [key(event), event])).values()]
}

interface Data {
  readonly steps: readonly Of<'step'>[]
  readonly evals: readonly Of<'eval'>[]
  readonly rounds: readonly Of<'round'>[]
  readonly samples: readonly Of<'sample'>[]
}

const chart = (series: readonly Series[], options: ChartOptions): string =>
  series.every((s) => s.points.length === 0) ? '' : `<figure>${lineChart(series, options)}</figure>`

function accuracyChart({ evals }: Data): string {
  const rounds = evals.filter(({ name }) => ['warmup', 'round', 'final'].includes(name))
  const control = evals.find(({ name }) => name === 'control')
  const last = Math.max(1, ...rounds.map((e) => e.round ?? 0))
  const series: Series[] = [
    {
      name: 'self-training',
      color: 0,
      points: rounds.map((e) => [e.round ?? 0, e.values.accuracy] as const),
      bars: rounds.map((e) => [e.values.low, e.values.high] as const),
    },
  ]
  if (control !== undefined)
    series.push({
      name: 'control',
      color: 1,
      points: [[last, control.values.accuracy]],
      bars: [[control.values.low, control.values.high]],
    })
  return chart(series, { title: 'Held-out accuracy, 95% intervals', xLabel: 'round', yRange: [0, 1], format: percent })
}

function lossChart({ steps }: Data): string {
  const phases = [...new Set(steps.map((step) => step.phase))]
  const series = phases.map((phase, color): Series => {
    const points = steps.filter((step) => step.phase === phase).map((step) => [step.step, step.loss] as const)
    return { name: phase, color, points: thinned(points) }
  })
  return chart(series, { title: 'Loss', xLabel: 'step of the phase' })
}

function stepChart({ steps }: Data, stat: string, title: string): string {
  const points = steps
    .filter((step) => step.stats[stat] !== undefined)
    .map((step) => [step.step, step.stats[stat]] as const)
  return chart([{ name: stat, color: 2, points: thinned(points) }], { title, xLabel: 'step of the rounds' })
}

function roundChart({ rounds }: Data, names: Readonly<Record<string, string>>, title: string): string {
  const series = Object.entries(names).map(
    ([key, name], color): Series => ({
      name,
      color,
      points: rounds.filter((e) => e.values[key] !== undefined).map((e) => [e.round, e.values[key]] as const),
    }),
  )
  return chart(series, { title, xLabel: 'round', yRange: [0, 1], format: percent })
}

function resultTable({ evals }: Data): string {
  const names = { warmup: 'after warm-up', control: 'control: more SFT', final: 'after self-training' }
  const rows = Object.entries(names).flatMap(([name, text]) => {
    const found = evals.find((e) => e.name === name)
    if (found === undefined) return []
    const { accuracy, low, high, total } = found.values
    return [
      `<tr><th>${text}</th><td>${percent(accuracy)}</td><td>${percent(low)} to ${percent(high)}</td><td>${total}</td></tr>`,
    ]
  })
  if (rows.length === 0) return ''
  return `<table><thead><tr><th></th><th>accuracy</th><th>95% interval</th><th>held-out tasks</th></tr></thead><tbody>${rows.join('')}</tbody></table>`
}

function sampleTable({ samples }: Data): string {
  const before = samples.filter((s) => s.name === 'warmup')
  const after = new Map(samples.filter((s) => s.name === 'final').map((s) => [s.prompt, s]))
  const cell = (s: Of<'sample'> | undefined) =>
    s === undefined
      ? '<td></td>'
      : `<td class="${s.correct ? 'right' : 'wrong'}"><code>${escapeXml(s.completion)}</code></td>`
  const rows = before.map(
    (s) => `<tr><td><code>${escapeXml(s.prompt)}</code></td>${cell(s)}${cell(after.get(s.prompt))}</tr>`,
  )
  if (rows.length === 0) return ''
  return `<h2>Samples, before and after</h2><table><thead><tr><th>prompt</th><th>after warm-up</th><th>after self-training</th></tr></thead><tbody>${rows.join('')}</tbody></table>`
}

function configTable(config: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(config).map(([key, entry]) => {
    const { value, origin } = entry as { value: unknown; origin: string }
    return `<tr><th>${escapeXml(key)}</th><td><code>${escapeXml(JSON.stringify(value))}</code></td><td>${escapeXml(origin)}</td></tr>`
  })
  return `<details><summary>Configuration</summary><table><tbody>${rows.join('')}</tbody></table></details>`
}

const style = `:root{color-scheme:light dark;--ink:#1c2126;--soft:#68727c;--line:#d9dee3;--page:#fbfbf9;--c0:#1f6feb;--c1:#c2571a;--c2:#2f855a;--c3:#8250df;--c4:#b08800;--c5:#57606a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#929ca6;--line:#343b42;--page:#15181b;--c0:#6ea8fe;--c1:#f0955c;--c2:#68c29a;--c3:#b794f6;--c4:#e0c04a;--c5:#a9b3bd}}
body{margin:0 auto;max-width:62rem;padding:2rem 1rem 4rem;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;font-weight:600;margin:0 0 .25rem}h2{font-size:1.1rem;font-weight:600;margin:2rem 0 .5rem}p{color:var(--soft);margin:0 0 1.5rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}figure{margin:0}svg{width:100%;height:auto}
.title{font-size:13px;font-weight:600;fill:var(--ink)}.tick{font-size:10.5px;fill:var(--soft)}.legend{font-size:11px}.grid{stroke:var(--line)}.line{fill:none;stroke-width:1.8}.bar{stroke-width:1.4;opacity:.7}
${[0, 1, 2, 3, 4, 5].map((i) => `polyline.c${i},line.c${i}{stroke:var(--c${i})}circle.c${i},text.c${i}{fill:var(--c${i})}`).join('')}
table{border-collapse:collapse;width:100%;font-size:14px}th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);font-weight:400;vertical-align:top}thead th{color:var(--soft);font-size:12px}
code{font:13px ui-monospace,monospace;white-space:pre-wrap;word-break:break-word}.right code{color:var(--c2)}.wrong code{color:var(--c1)}details{margin-top:2rem}summary{cursor:pointer;color:var(--soft)}`

/**
 * Writes report.html into a run folder and returns its path.
 *
 * @throws WhetstoneError E_IO, E_FORMAT when the folder is not a run
 */
export async function writeReport(run: string): Promise<string> {
  const config = await readJsonObject(join(run, 'config.json'))
  const events = await readMetrics(run)
  const data: Data = {
    steps: latest(ofType(events, 'step'), (e) => `${e.phase} ${e.step}`),
    evals: latest(ofType(events, 'eval'), (e) => `${e.name} ${e.round} ${e.step}`),
    rounds: latest(ofType(events, 'round'), (e) => String(e.round)),
    samples: latest(ofType(events, 'sample'), (e) => `${e.name} ${e.round} ${e.prompt}`),
  }
  const device = ofType(events, 'start')[0]?.device ?? ''
  const notes = ofType(events, 'start')[0]?.notes.join(', ') ?? ''
  const page = [
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
    `<title>Whetstone run</title><style>${style}</style></head><body>`,
    `<h1>Whetstone run</h1><p>${escapeXml(notes)}. ${escapeXml(device)}.</p>`,
    resultTable(data),
    '<div class="charts">',
    accuracyChart(data),
    roundChart(data, { reward: 'mean reward' }, 'Reward of the samples'),
    roundChart(data, { passAt1: 'pass@1', passAtN: 'pass@n' }, 'Solved tasks of each round'),
    stepChart(data, 'kl', 'KL(prior || policy), nats per token'),
    lossChart(data),
    '</div>',
    sampleTable(data),
    configTable(config),
    '</body></html>',
  ]
  const path = join(run, 'report.html')
  await writeAtomic(path, `${page.filter((part) => part !== '').join('\n')}\n`)
  return path
}
