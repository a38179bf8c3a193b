// report.html: a run on one self-contained page, from its configuration and metrics. No scripts, no outside resources,
// every text of the run escaped. The charts of the page are in charts.ts.

import { join } from 'node:path'
import { checkArgument, kinds } from '../../src/base/arguments.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { bytesText, duration } from '../../src/base/progress.js'
import { proportionDifference } from '../../src/base/stats.js'
import { writeAtomic } from '../../src/io/files.js'
import { isJsonObject, readJsonObject } from '../../src/io/json.js'
import { charts, percent, type RunData } from './charts.js'
import { type EvalRecord, type RunRecord, readRecords, type SampleRecord, type StepRecord } from './records.js'
import { style } from './style.js'
import { escapeXml, short } from './svg.js'

type Of<T extends RunRecord['type']> = Extract<RunRecord, { type: T }>

const ofType = <T extends RunRecord['type']>(records: readonly RunRecord[], type: T): Of<T>[] =>
  records.filter((record): record is Of<T> => record.type === type)

/** Of records that were logged twice (a run that was resumed), the last. */
function latest<E>(records: readonly E[], key: (record: E) => string): E[] {
  return [...new Map(records.map((record) => [key(record), record])).values()]
}

function dataOf(records: readonly RunRecord[]): RunData {
  return {
    steps: latest(ofType(records, 'step'), (e) => `${e.phase} ${e.step}`),
    evals: latest(ofType(records, 'eval'), (e) => `${e.name} ${e.round} ${e.step}`),
    rounds: latest(ofType(records, 'round'), (e) => String(e.round)),
    samples: latest(ofType(records, 'sample'), (e) => `${e.name} ${e.round} ${e.prompt}`),
  }
}

// Words -----------------------------------------------------------------------------------------------------------------

const points = (share: number): string => `${share < 0 ? '-' : '+'}${(100 * Math.abs(share)).toFixed(1)}`

/** The difference of two evaluations in words; empty when one lacks its counts. */
function compared(after: EvalRecord, before: EvalRecord): string {
  if (after.correct === undefined || after.total === undefined) return ''
  if (before.correct === undefined || before.total === undefined) return ''
  const { difference, low, high } = proportionDifference(
    { correct: after.correct, total: after.total },
    { correct: before.correct, total: before.total },
  )
  const clear = low > 0 || high < 0 ? '' : ', not a clear difference'
  return `${points(difference)} points (95% interval ${points(low)} to ${points(high)}${clear})`
}

function lead({ evals }: RunData): string {
  const find = (name: string) => evals.find((e) => e.name === name && e.accuracy !== undefined)
  const [warmup, control, final] = [find('warmup'), find('control'), find('final')]
  if (warmup === undefined || final === undefined) return ''
  const gain = compared(final, warmup)
  const sentences = [
    `Held-out accuracy went from ${percent(warmup.accuracy)} after warm-up to ${percent(final.accuracy)} after self-training${gain && `: ${gain}`}.`,
  ]
  if (control !== undefined) {
    const gap = compared(final, control)
    sentences.push(
      `The control, which spent its steps on more supervised training, reached ${percent(control.accuracy)}${gap && `; self-training differs from it by ${gap}`}.`,
    )
  }
  return `<p class="lead">${escapeXml(sentences.join(' '))}</p>`
}

/** Phase: its last step, its rate. */
function phaseFacts(steps: readonly StepRecord[]): [string, string][] {
  return latest(steps, (e) => e.phase).map((e) => [
    `${e.phase}: steps`,
    `${e.step}, ${short(e.tokensPerSecond)} tokens/s`,
  ])
}

function wallTime(records: readonly RunRecord[]): number {
  const times = records.map((record) => Date.parse(record.time ?? '')).filter(Number.isFinite)
  return times.length < 2 ? Number.NaN : (times[times.length - 1] - times[0]) / 1000
}

function facts(records: readonly RunRecord[], { steps, rounds }: RunData, seed: unknown): string {
  const start = ofType(records, 'start')[0]
  const memory = steps.reduce((most, e) => Math.max(most, e.memoryBytes ?? 0), 0)
  const sampled = rounds.reduce((sum, e) => sum + e.samples, 0)
  const kept = rounds.reduce((sum, e) => sum + e.kept, 0)
  const wall = wallTime(records)
  const rows: [string, string][] = [
    ['run', start?.notes.join(', ') ?? ''],
    ['device', start?.device ?? ''],
    ['seed', seed === undefined ? '' : String(seed)],
    ['first to last record', Number.isFinite(wall) ? duration(wall) : ''],
    ['memory at its highest', memory > 0 ? bytesText(memory) : ''],
    [
      'samples',
      sampled > 0 ? `${sampled} in ${rounds.length} ${rounds.length === 1 ? 'round' : 'rounds'}, ${kept} kept` : '',
    ],
    ...phaseFacts(steps),
  ]
  const shown = rows.filter(([, value]) => value !== '')
  return `<dl>${shown.map(([name, value]) => `<div><dt>${escapeXml(name)}</dt><dd>${escapeXml(value)}</dd></div>`).join('')}</dl>`
}

// Tables ----------------------------------------------------------------------------------------------------------------

const table = (head: readonly string[], rows: readonly string[]): string =>
  `<div class="scroll"><table><thead><tr>${head.map((name) => `<th>${escapeXml(name)}</th>`).join('')}</tr></thead><tbody>${rows.join('')}</tbody></table></div>`

function resultTable({ evals }: RunData): string {
  const names = { warmup: 'after warm-up', control: 'control: more SFT', final: 'after self-training' }
  const rows = Object.entries(names).flatMap(([name, text]) => {
    const found = evals.find((e) => e.name === name && e.accuracy !== undefined)
    if (found === undefined) return []
    const cells = [
      percent(found.accuracy),
      found.low === undefined ? '' : `${percent(found.low)} to ${percent(found.high)}`,
      found.total === undefined ? '' : `${found.correct ?? '?'} of ${found.total}`,
    ]
    return [`<tr><th>${text}</th>${cells.map((cell) => `<td>${escapeXml(cell)}</td>`).join('')}</tr>`]
  })
  return rows.length === 0 ? '' : table(['', 'accuracy', '95% interval', 'held-out tasks'], rows)
}

const sampleCell = (sample: SampleRecord | undefined): string => {
  if (sample === undefined) return '<td></td>'
  const [kind, mark, word] = sample.correct ? ['right', '✓', 'right'] : ['wrong', '✗', 'wrong']
  return `<td class="${kind}"><span class="mark" role="img" aria-label="${word}">${mark}</span><code>${escapeXml(sample.completion)}</code></td>`
}

/** Samples of the warm-up beside those of the final evaluation, or of the last round when the run is not finished. */
function sampleTable({ samples }: RunData): string {
  const before = samples.filter((s) => s.name === 'warmup')
  const later = samples.filter((s) => s.name === 'final' || s.name === 'round')
  const final = later.find((s) => s.name === 'final') ?? later[later.length - 1]
  const same = later.filter((s) => s.name === final?.name && s.round === final?.round)
  const after = new Map(same.map((s) => [s.prompt, s]))
  if (before.length === 0) return ''
  const rows = before.map(
    (s) => `<tr><td><code>${escapeXml(s.prompt)}</code></td>${sampleCell(s)}${sampleCell(after.get(s.prompt))}</tr>`,
  )
  const name = final?.name === 'round' ? `after round ${final.round ?? '?'}` : 'after self-training'
  return `<h2>Samples, before and after</h2>${table(['prompt', 'after warm-up', name], rows)}`
}

function warningList(records: readonly RunRecord[]): string {
  const warnings = ofType(records, 'warning')
  if (warnings.length === 0) return ''
  const items = warnings.map(({ message }) => `<li>${escapeXml(message)}</li>`)
  return `<h2>Warnings</h2><ul class="warnings">${items.join('')}</ul>`
}

function configTable(config: Readonly<Record<string, unknown>>, path: string): string {
  const rows = Object.entries(config).map(([key, entry]) => {
    if (!isJsonObject(entry) || !('value' in entry) || typeof entry.origin !== 'string')
      throw new WhetstoneError('E_FORMAT', path, `expected { value, origin } for '${key}': not the file of a run`)
    const value = JSON.stringify(entry.value)
    return `<tr><th>${escapeXml(key)}</th><td><code>${escapeXml(value)}</code></td><td class="soft">${escapeXml(entry.origin)}</td></tr>`
  })
  return `<details><summary>Configuration</summary>${table(['setting', 'value', 'from'], rows)}</details>`
}

const figures = (charts: readonly string[]): string =>
  charts.length === 0 ? '' : `<div class="charts">${charts.map((svg) => `<figure>${svg}</figure>`).join('\n')}</div>`

// Page ------------------------------------------------------------------------------------------------------------------

const settingOf = (config: Readonly<Record<string, unknown>>, name: string): unknown => {
  const entry = config[name]
  return isJsonObject(entry) ? entry.value : undefined
}

/** Nothing is loaded and nothing runs, whatever a text of the run holds. */
const policy = "default-src 'none'; style-src 'unsafe-inline'"

/** The page as text: a pure function of what the run's files hold. */
export function reportPage(
  config: Readonly<Record<string, unknown>>,
  records: readonly RunRecord[],
  path = 'config.json',
): string {
  const data = dataOf(records)
  const task = settingOf(config, 'task')
  const title = typeof task === 'string' ? `Whetstone: ${task}` : 'Whetstone run'
  const { first, others } = charts(data)
  const parts = [
    '<!doctype html>',
    '<html lang="en">',
    `<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="${escapeXml(policy)}">`,
    `<title>${escapeXml(title)}</title><style>${style}</style></head>`,
    `<body><h1>${escapeXml(title)}</h1>`,
    lead(data),
    facts(records, data, settingOf(config, 'seed')),
    figures(first),
    figures(others) && `<details><summary>Further statistics</summary>${figures(others)}</details>`,
    resultTable(data) && `<h2>Results</h2>${resultTable(data)}`,
    sampleTable(data),
    warningList(records),
    configTable(config, path),
    '</body></html>',
  ]
  return `${parts.filter((part) => part !== '').join('\n')}\n`
}

/**
 * Writes report.html into a run folder and returns its path.
 *
 * @throws WhetstoneError E_IO; E_FORMAT when the folder's files are not those of a run
 */
export async function writeReport(run: string): Promise<string> {
  checkArgument('writeReport.run', run, kinds.path)
  const file = join(run, 'config.json')
  const config = await readJsonObject(file)
  const page = reportPage(config, readRecords(join(run, 'metrics.jsonl')), file)
  const path = join(run, 'report.html')
  await writeAtomic(path, page)
  return path
}
