// The report: one page that is well formed, self-contained and safe whatever a run's texts hold; charts that draw the
// numbers they were given; records in both shapes, torn, repeated and damaged.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { type RunRecord, readRecords } from '../ts/train/report/records.js'
import { reportPage, writeReport } from '../ts/train/report/report.js'
import { barChart, escapeXml, lineChart, logTicks, rangeOf, short, thinned, ticks } from '../ts/train/report/svg.js'
import { temporaryFolder } from './support.js'

/** What a strict reader of the page would complain about: tags, attributes, entities, stray brackets. */
function faultsOf(page: string): string[] {
  const faults: string[] = []
  const voids = ['meta']
  const open: string[] = []
  const body = page.replace(/^<!doctype html>/, '').replace(/<style>[^<]*<\/style>/, '')
  const rest = body.replace(/<(\/?)([a-z][a-z0-9]*)((?:\s[^<>]*?)?)(\/?)>/gi, (_, close, name, attributes, empty) => {
    if (close === '/') {
      const last = open.pop()
      if (last !== name) faults.push(`</${name}> closes <${last}>`)
    } else if (empty !== '/' && !voids.includes(name)) open.push(name)
    if (!/^(\s+[a-zA-Z][\w-]*="[^"<>]*")*\s*$/.test(attributes)) faults.push(`attributes ${attributes}`)
    return ''
  })
  if (open.length > 0) faults.push(`left open: ${open.join(' ')}`)
  if (/[<>]/.test(rest)) faults.push('stray bracket')
  for (const [entity] of body.matchAll(/&[^;]{0,8};?/g)) if (!/^&#\d+;$/.test(entity)) faults.push(entity)
  if (/(?![\n])\p{Cc}/u.test(page)) faults.push('control character')
  return faults
}

/** Anything that a browser would load or run. */
const outside = /https?:|\/\/[a-z]|<script|<link|<img|<iframe|@import|url\(|javascript:|\son\w+=/i

const config = (values: Record<string, unknown>) =>
  Object.fromEntries(Object.entries(values).map(([key, value]) => [key, { value, origin: 'default' }]))

const step = (phase: string, n: number, loss: number | null, kl?: number) => ({
  type: 'step',
  phase,
  step: n,
  loss,
  learningRate: 0.001,
  gradNorm: loss,
  tokens: 1500,
  tokensPerSecond: 4000,
  seconds: n,
  memoryBytes: 2 ** 20,
  kl,
})

const accuracy = (name: string, round: number, correct: number, total = 1000) => ({
  type: 'eval',
  name,
  round,
  correct,
  total,
  accuracy: correct / total,
  low: correct / total - 0.03,
  high: correct / total + 0.03,
})

const sample = (name: string, round: number, completion: string, correct: boolean) => ({
  type: 'sample',
  name,
  round,
  prompt: '1+2=',
  completion,
  correct,
})

/** A whole run of two rounds. */
const run: readonly object[] = [
  {
    type: 'start',
    time: '2026-01-01T00:00:00Z',
    step: 0,
    totalSteps: 20,
    device: 'cpu avx2',
    notes: ['900 parameters'],
  },
  ...[3, 1, 0.3, 0.1].map((loss, i) => step('warmup', i + 1, loss)),
  accuracy('warmup', 0, 400),
  sample('warmup', 0, '4', false),
  {
    type: 'round',
    round: 1,
    reward: 0.41,
    kept: 50,
    tasks: 100,
    samples: 400,
    passAt1: 0.41,
    passAtN: 0.52,
    seconds: 2,
  },
  ...[0.02, 0.03].map((loss, i) => step('round', i + 1, loss, 0.1 * (i + 1))),
  { ...accuracy('round', 1, 140, 256), passAtK: [{ k: 4, value: 0.7 }] },
  sample('round', 1, '3', true),
  { type: 'round', round: 2, reward: 0.61, kept: 70, tasks: 100, samples: 400, passAt1: 0.61, passAtN: 0.72 },
  accuracy('final', 2, 800),
  sample('final', 2, '3', true),
  { type: 'checkpoint', step: 2, path: 'rounds/checkpoints/step-2' },
  step('control', 1, 0.01),
  { ...accuracy('control', 0, 500), time: '2026-01-01T00:02:05Z' },
  { type: 'end', step: 20, stepsDone: 20, stopped: false },
]

/** The same with numbers in `values` and `stats`, as events are logged. */
const nested = run.map((record) => {
  const { type, name, round, time, ...values } = record as Record<string, unknown>
  if (type === 'eval' || type === 'round') return { type, name, round, time, values }
  const { kl, ...rest } = record as Record<string, unknown>
  return type === 'step' ? { ...rest, stats: kl === undefined ? {} : { kl } } : record
})

const linesOf = (records: readonly object[]): string => records.map((record) => `${JSON.stringify(record)}\n`).join('')

/** Writes a run folder; returns its report. */
async function pageOf(folder: string, records: readonly object[], values: Record<string, unknown> = {}) {
  await writeFile(join(folder, 'config.json'), JSON.stringify(config(values)))
  await writeFile(join(folder, 'metrics.jsonl'), linesOf(records))
  return readFile(await writeReport(folder), 'utf8')
}

t.test('a whole run', async (t) => {
  const folder = await temporaryFolder(t)
  const page = await pageOf(folder, run, { task: 'arithmetic', seed: 3 })
  t.equal(await writeReport(folder), join(folder, 'report.html'))
  t.same(faultsOf(page), [])
  t.notMatch(page, outside)
  t.equal(page.match(/<svg /g)?.length, 9)
  for (const text of [
    'Held-out accuracy went from 40.0% after warm-up to 80.0% after self-training: +40.0 points',
    'reached 50.0%; self-training differs from it by +30.0 points',
    'cpu avx2',
    '900 parameters',
    '<dt>seed</dt><dd>3</dd>',
    '2 min 5 s',
    '800 in 2 rounds, 120 kept',
    'KL between policy and reference',
    'Training loss',
    'Learning rate',
    'Held-out pass@k',
    '800 of 1000',
    '77.0% to 83.0%',
  ])
    t.match(page, escapeXml(text).replace(/[|()+?.]/g, '\\$&') && text.includes('<') ? text : escapeXml(text))
  t.notMatch(page, /NaN|undefined|Infinity/)
  t.match(page, /class="wrong"><span[^>]*aria-label="wrong">✗<\/span><code>4</)
  t.match(page, /class="right"><span[^>]*aria-label="right">✓<\/span><code>3</)
  t.match(page, 'prefers-color-scheme:dark')
  t.match(page, escapeXml("default-src 'none'"))
})

t.test('flat records and events give the same page', async (t) => {
  const folder = await temporaryFolder(t)
  t.equal(await pageOf(folder, nested), await pageOf(folder, run))
})

/** Names of a page's charts, with the names of their lines where there are several, and the numbers of points. */
const chartsOf = (page: string) =>
  [...page.matchAll(/<svg [^>]*aria-label="([^"]*)".*?<\/svg>/gs)].map(([svg, title]) => ({
    title,
    dots: svg.match(/<circle/g)?.length ?? 0,
    dashed: /dash/.test(svg),
  }))

t.test('statistics of steps, evaluations and rounds', async (t) => {
  const folder = await temporaryFolder(t)
  const stats = { 'rewards/chosen': 1, 'rewards/rejected': -1, 'rewards/margins': 2, 'rewards/accuracies': 0.75 }
  const steps = [1, 2, 3].map((n) => ({ ...step('dpo', n, 1 / n), stats: { ...stats, 'own <b>': n, kl: null } }))
  const held = { type: 'eval', name: 'eval', step: 3, values: { loss: 1, ...stats, 'rewards/margins': Number.NaN } }
  const page = await pageOf(folder, [...steps, held])
  t.same(faultsOf(page), [])
  t.same(chartsOf(page), [
    { title: 'Training loss', dots: 3, dashed: false },
    { title: 'Loss on evaluation rows', dots: 1, dashed: false },
    { title: 'Gradient norm', dots: 3, dashed: false },
    { title: 'Learning rate', dots: 3, dashed: false },
    { title: 'Rewards of the answers', dots: 8, dashed: true },
    { title: 'Reward margins', dots: 3, dashed: false },
    { title: 'Share of pairs in the right order', dots: 4, dashed: true },
    { title: 'own &#60;b&#62;', dots: 3, dashed: false },
  ])
  for (const line of ['chosen', 'rejected', 'chosen (eval)', 'rejected (eval)']) t.match(page, `>${line}</text>`)
  t.ok(page.indexOf('Further statistics') < page.indexOf('own &#60;b'), 'what nobody expects is folded away')
  t.ok(page.indexOf('Further statistics') > page.indexOf('Share of pairs'))

  const values = { tasks: 4, samples: 16, kept: 16, reward: 0.5, seconds: 2, kl: 0.1, reward_std: 0.2 }
  const lengths = { 'completions/mean_length': 20, 'completions/max_length': 32, 'completions/clipped_ratio': 0.25 }
  const round = (n: number) => ({ type: 'round', round: n, values: { ...values, ...lengths, 'rewards/short/mean': n } })
  const online = await pageOf(folder, [round(1), round(2)])
  t.same(faultsOf(online), [])
  t.same(chartsOf(online), [
    { title: 'Mean reward of the samples', dots: 2, dashed: false },
    { title: 'KL between policy and reference, nats', dots: 2, dashed: false },
    { title: 'Length of completions, tokens', dots: 4, dashed: false },
    { title: 'Share of completions that were cut off', dots: 2, dashed: false },
    { title: 'Deviation of rewards', dots: 2, dashed: false },
    { title: 'rewards/short/mean', dots: 2, dashed: false },
  ])
  const numbers = { reward: 0.4, 'rewards/short/mean': 3, 'completions/clipped_ratio': 0.5 }
  const evaluated = { type: 'eval', name: 'eval', step: 8, round: 2, values: numbers }
  const beside = chartsOf(await pageOf(folder, [round(1), round(2), evaluated]))
  t.same(
    beside.filter(({ dashed }) => dashed),
    [
      { title: 'Mean reward of the samples', dots: 3, dashed: true },
      { title: 'Share of completions that were cut off', dots: 3, dashed: true },
      { title: 'rewards/short/mean', dots: 3, dashed: true },
    ],
    'evaluations on held-out prompts beside their rounds',
  )
})

t.test('texts of a run are shown, never obeyed', async (t) => {
  const folder = await temporaryFolder(t)
  const evil = '</code></td><script>alert(1)</script><img src=x onerror="y">&amp;\u0000\u001b[31m\u007f\'"'
  const page = await pageOf(
    folder,
    [
      { type: 'start', totalSteps: 1, device: evil, notes: [evil] },
      { ...sample('warmup', 0, evil, false), prompt: evil },
      { ...sample('final', 1, evil, true), prompt: evil },
      { type: 'warning', message: evil },
      step(evil, 1, 1),
      step('other', 1, 2),
    ],
    { [evil]: evil, task: evil },
  )
  t.same(faultsOf(page), [])
  t.notMatch(page, /<script|<img/)
  t.match(page, '&#60;script&#62;alert(1)')
  t.match(page, '␀␛[31m', 'control characters are visible')
  t.same(faultsOf('<p>a<b>c</p></b>').length, 2, 'the checks of this file find something')
  t.same(faultsOf('<p title=a>&nbsp; > </p>').length, 3)
})

t.test('a run that is young, stopped or of another kind', async (t) => {
  const folder = await temporaryFolder(t)
  for (let length = 0; length <= run.length; length++) {
    const page = await pageOf(folder, run.slice(0, length))
    const faults = [...faultsOf(page), ...(/NaN|undefined|Infinity/.exec(page) ?? [])]
    if (faults.length > 0) t.fail(`the first ${length} records: ${faults}`)
  }
  const stopped = await pageOf(folder, run.slice(0, 12))
  t.match(stopped, 'after round 1', 'samples of the last round stand in for the final ones')
  const rows = await pageOf(folder, [
    ...[1, 2].map((n) => step('sft.v1', n, 9 - n)),
    { type: 'eval', name: 'eval', step: 2, values: { loss: 8.1 } },
  ])
  t.match(rows, 'Loss on evaluation rows')
  t.notMatch(rows, 'Held-out accuracy')
  const skipped = await pageOf(folder, [step('a', 1, 2), step('a', 2, null), step('a', 3, 1)])
  t.notMatch(skipped, /NaN/)
  t.equal(/<polyline[^>]*points="([^"]*)"/.exec(skipped)?.[1].split(' ').length, 2, 'a step without a loss is left out')
})

t.test('of what a resumed run logged twice the last counts', async (t) => {
  const folder = await temporaryFolder(t)
  const torn = join(folder, 'metrics.jsonl')
  const expected = await pageOf(folder, run)
  t.equal(await pageOf(folder, [step('warmup', 1, 77), accuracy('warmup', 0, 1), ...run].slice(0)), expected)
  await writeFile(torn, `${linesOf(run)}{"type":"eval","na`)
  t.equal(await readFile(await writeReport(folder), 'utf8'), expected, 'a torn last line is passed over')
})

t.test('an unclear gain is called so', async (t) => {
  const counts = [accuracy('warmup', 0, 400), accuracy('control', 0, 900), accuracy('final', 1, 410)]
  const records = counts.map((record) => ({ ...record, numbers: {} })) as RunRecord[]
  const page = reportPage({}, records)
  t.match(page, /\+1\.0 points \(95% interval -3\.\d to \+5\.\d, not a clear difference\)/)
  t.match(page, /differs from it by -49\.0 points \(95% interval -52\.\d to -45\.\d\)/)
})

t.test('damaged folders are refused by file and line', async (t) => {
  const folder = await temporaryFolder(t)
  const metrics = join(folder, 'metrics.jsonl')
  await t.rejects(writeReport(folder), { code: 'E_IO' }, 'no configuration')
  await writeFile(join(folder, 'config.json'), '{"seed":3}')
  await t.rejects(writeReport(folder), { code: 'E_IO' }, 'no metrics')
  await writeFile(metrics, linesOf([run[0]]))
  await t.rejects(writeReport(folder), { code: 'E_FORMAT', message: /value, origin/ })
  await writeFile(join(folder, 'config.json'), '{}')
  const damaged: [object | number, RegExp][] = [
    [7, /expected a JSON object/],
    [{ type: 'step', phase: 'a', step: 1 }, /loss of a step record/],
    [{ type: 'sample', name: 'a', prompt: 'b', completion: 3, correct: true }, /completion of a sample record/],
    [{ ...accuracy('a', 0, 1), values: { accuracy: 'high' }, accuracy: undefined }, /accuracy of a eval record/],
    [{ type: 'eval', name: 'a', passAtK: [{ k: 1 }] }, /passAtK\.0\.value/],
  ]
  for (const [record, message] of damaged) {
    await writeFile(metrics, linesOf([run[0], record as object]))
    await t.rejects(writeReport(folder), { code: 'E_FORMAT', where: `${metrics}:2`, message }, String(message))
  }
  await writeFile(metrics, linesOf([{ type: 'later', x: 1 }, { type: 'toString' }, { type: 3 }, run[0]]))
  t.same(
    readRecords(metrics).map(({ type }) => type),
    ['start'],
    'records of other types are passed over',
  )
})

// Charts ---------------------------------------------------------------------------------------------------------------

t.test('marks of axes', async (t) => {
  t.same(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1])
  t.same(ticks(-0.48, 8.48), [0, 2, 4, 6, 8])
  t.same(ticks(0.001, 0.0049), [0.001, 0.002, 0.003, 0.004])
  t.same(ticks(5, 5).includes(5), true)
  t.same(logTicks(0.0005, 3), [0.001, 0.01, 0.1, 1])
  t.same(logTicks(0.9, 12), [1, 2, 5, 10])
  t.same(rangeOf([]), [0, 1])
  t.same(rangeOf([0, 100]), [0, 106], 'nothing below 0 where no value is')
  t.same(rangeOf([-100, 0, Number.NaN]), [-106, 6])
  t.same([0, 0.123456, 999, 17_900.4, -2_000_000].map(short), ['0', '0.123', '999', '17.9k', '-2000k'])
})

t.test('thinning keeps means', async (t) => {
  const points = Array.from({ length: 1000 }, (_, i) => ({ x: i, y: i % 2 }))
  const thin = thinned(points, 100)
  t.equal(thin.length, 100)
  t.same(thin[0], { x: 4.5, y: 0.5 })
  t.same(thinned(points.slice(0, 50), 100), points.slice(0, 50))
})

const attributes = (svg: string, tag: RegExp, names: readonly string[]): number[][] =>
  [...svg.matchAll(tag)].map(([element]) => names.map((n) => Number(new RegExp(` ${n}="([^"]*)"`).exec(element)?.[1])))

t.test('a line goes where its numbers are', async (t) => {
  const points = [
    { x: 0, y: 0, low: 0, high: 0.25 },
    { x: 1, y: 0.5 },
    { x: 2, y: 1 },
  ]
  const svg = lineChart([{ name: 'a', color: 1, points }], { title: 'T <1>', xLabel: 'n', yRange: [0, 1] })
  const dots = attributes(svg, /<circle[^>]*>/g, ['cx', 'cy'])
  t.equal(dots.length, 3)
  const [[x0, y0], [x1, y1], [x2, y2]] = dots
  t.ok(Math.abs(x1 - (x0 + x2) / 2) < 0.11 && Math.abs(y1 - (y0 + y2) / 2) < 0.11, 'evenly spaced')
  t.ok(x0 < x2 && y0 > y2, 'rightwards and upwards')
  const [[, top, , bottom]] = attributes(svg, /<line class="bar[^>]*>/g, ['x1', 'y1', 'x2', 'y2']).map(([a, b, c, d]) => [a, d, c, b]) // biome-ignore format: one line
  t.ok(Math.abs(bottom - y0) < 0.11 && Math.abs(top - (y0 + 0.25 * (y2 - y0))) < 0.11, 'the bar spans its interval')
  t.equal(/points="([^"]*)"/.exec(svg)?.[1], dots.map((dot) => dot.map((v) => v.toFixed(1)).join()).join(' '))
  t.match(svg, 'aria-label="T &#60;1&#62;"')
  t.same(faultsOf(svg), [])
  t.notMatch(svg, 'class="legend"', 'one line needs no legend')
})

t.test('logarithmic charts', async (t) => {
  const chart = (ys: number[]) =>
    lineChart([{ name: 'a', color: 0, points: ys.map((y, x) => ({ x, y })) }], { title: 't', xLabel: 'x', log: true })
  const place = (svg: string) => attributes(svg, /<circle[^>]*>/g, ['cy']).flat()
  const [a, b, c] = place(chart([0.01, 1, 100]))
  t.ok(Math.abs(b - (a + c) / 2) < 0.11, 'equal factors are equal distances')
  for (const ys of [
    [0, 1, 100],
    [-1, 1, 100],
    [4, 5, 6],
  ]) {
    const [low, middle, high] = place(chart(ys))
    const share = (ys[1] - ys[0]) / (ys[2] - ys[0])
    t.ok(Math.abs(middle - (low + share * (high - low))) < 0.11, `${ys}: linear`)
  }
})

t.test('hard charts are drawn or left out, never broken', async (t) => {
  const options = { title: 't', xLabel: 'x' }
  t.equal(lineChart([], options), '')
  t.equal(lineChart([{ name: 'a', color: 0, points: [{ x: 1, y: Number.NaN }] }], options), '')
  const hard = [[0], [5], [1e-300], [1e300], [-3, -3], [1e9, 1e9 + 1], [0, Number.POSITIVE_INFINITY, 1]]
  for (const ys of hard)
    for (const log of [false, true]) {
      const points = ys.map((y, x) => ({ x, y }))
      const svg = lineChart([{ name: 'a', color: 0, points }], { ...options, log })
      t.notMatch(svg, /NaN|Infinity/, `${ys} ${log}`)
      t.match(svg, '<circle')
    }
  const long = Array.from({ length: 200_000 }, (_, x) => ({ x, y: Math.sin(x) }))
  t.ok(lineChart([{ name: 'a', color: 0, points: thinned(long) }], options).length < 20_000)
})

t.test('bars', async (t) => {
  t.equal(barChart([], { title: 't', format: String }), '')
  const bars = [0, 0.5, 1].map((value, i) => ({ name: `n${i}`, color: i, value, low: value / 2, high: value }))
  const svg = barChart([...bars, { name: 'x', color: 3, value: Number.NaN }], {
    title: 't',
    format: (v) => `${v} of 1`,
  })
  const fills = attributes(svg, /<rect class="fill[^>]*>/g, ['x', 'width'])
  const [track] = attributes(svg, /<rect class="track[^>]*>/g, ['x', 'width'])
  t.same(
    fills.map(([, size]) => Math.round((100 * size) / track[1])),
    [0, 50, 100],
  )
  t.equal(attributes(svg, /<line class="bar[^>]*>/g, ['x1']).length, 3)
  t.match(svg, '0.5 of 1')
  t.same(faultsOf(svg), [])
})
