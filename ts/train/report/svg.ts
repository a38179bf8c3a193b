// Charts as SVG text: lines over a number with 95% bars, and horizontal bars. Colours come from CSS classes (style.ts), so
// that one drawing fits light and dark pages. Knows nothing of runs. Numbers that are not finite are never drawn.

/** A point of a line, with its 95% interval when it has one. */
export interface Point {
  readonly x: number
  readonly y: number
  readonly low?: number
  readonly high?: number
}

/** A line of a chart. */
export interface Series {
  readonly name: string
  /** CSS class suffix: c0 .. c5. */
  readonly color: number
  readonly points: readonly Point[]
  readonly dashed?: boolean
}

/** How to draw a chart of lines. */
export interface ChartOptions {
  readonly title: string
  readonly xLabel: string
  /** Fixed range of y; default what the data needs. */
  readonly yRange?: readonly [number, number]
  readonly format?: (y: number) => string
  /** Logarithmic y when the values are positive and span a factor of ten or more; else the scale stays linear. */
  readonly log?: boolean
}

const width = 460
const height = 250
const frame = { left: 50, right: 14, top: 46, bottom: 34 }
const letter = 6.1

/** Control characters that HTML forbids or hides, as the pictures that Unicode has for them. */
const visible = (c: string): string => (c === '\u007f' ? '\u2421' : String.fromCodePoint(0x2400 + c.charCodeAt(0)))

/** Text that is safe in elements and attributes of HTML and XML; control characters other than newlines are shown. */
export const escapeXml = (text: string): string =>
  text
    .replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`)
    .replace(/(?!\n)[\p{Cc}]/gu, (c) => (c < '\u0080' ? visible(c) : '\ufffd'))

/** About `count` round numbers across a range. */
export function ticks(low: number, high: number, count = 6): number[] {
  const span = high - low || 1
  const raw = span / count
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw) ?? 10)
  const first = Math.ceil(low / step - 1e-9)
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  )
}

/** Powers of ten across a positive range; with 2 and 5 between them when there are few. */
export function logTicks(low: number, high: number): number[] {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))]
  const powers = Array.from({ length: last - first + 1 }, (_, i) => first + i)
  const inRange = (factors: readonly number[]): number[] =>
    powers
      .flatMap((power) => factors.map((factor) => Number((factor * 10 ** power).toPrecision(12))))
      .filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9))
  const tens = inRange([1])
  return tens.length >= 3 ? tens : inRange([1, 2, 5])
}

/** A number in at most three digits. */
export const short = (value: number): string =>
  Math.abs(value) >= 1000 ? `${Number((value / 1000).toPrecision(3))}k` : String(Number(value.toPrecision(3)))

/** The range of finite values with a margin; not below 0 when no value is. */
export function rangeOf(values: readonly number[]): [number, number] {
  const finite = values.filter(Number.isFinite)
  if (finite.length === 0) return [0, 1]
  const low = finite.reduce((a, b) => Math.min(a, b))
  const high = finite.reduce((a, b) => Math.max(a, b))
  const margin = (high - low || Math.abs(high) || 1) * 0.06
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin]
}

/** At most `limit` points without bars, each the mean of its stretch: a long run stays readable and small. */
export function thinned(points: readonly Point[], limit = 240): readonly Point[] {
  const per = Math.ceil(points.length / limit)
  if (per <= 1) return points
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  return Array.from({ length: Math.ceil(points.length / per) }, (_, i) => {
    const part = points.slice(i * per, (i + 1) * per)
    return { x: mean(part.map((point) => point.x)), y: mean(part.map((point) => point.y)) }
  })
}

type Scale = (value: number) => number

/** A place in the drawing. */
const at = (value: number): string => value.toFixed(1)

const linear =
  ([low, high]: readonly [number, number], from: number, to: number): Scale =>
  (value) =>
    from + ((value - low) / (high - low || 1)) * (to - from)

const label = (kind: string, x: number, y: number, text: string, anchor = 'start'): string =>
  `<text class="${kind}" x="${at(x)}" y="${at(y)}" text-anchor="${anchor}">${escapeXml(text)}</text>`

const svg = (title: string, size: readonly [number, number], parts: readonly string[]): string =>
  [
    `<svg viewBox="0 0 ${size[0]} ${size[1]}" role="img" aria-label="${escapeXml(title)}">`,
    ...parts.filter((part) => part !== ''),
    '</svg>',
  ].join('\n')

interface Axis {
  readonly scale: Scale
  readonly marks: readonly number[]
}

function yAxis(values: readonly number[], { yRange, log }: ChartOptions): Axis {
  const [from, to] = [height - frame.bottom, frame.top]
  const finite = values.filter(Number.isFinite)
  const least = finite.reduce((a, b) => Math.min(a, b), Number.POSITIVE_INFINITY)
  const most = finite.reduce((a, b) => Math.max(a, b), 0)
  if (log === true && least > 0 && most >= 10 * least) {
    const margin = (most / least) ** 0.06
    const [low, high] = [least / margin, most * margin]
    const scale = linear([Math.log10(low), Math.log10(high)], from, to)
    return { scale: (value) => scale(Math.log10(value)), marks: logTicks(low, high) }
  }
  const range = yRange ?? rangeOf(finite)
  return { scale: linear(range, from, to), marks: ticks(range[0], range[1]) }
}

/** Rounds and steps are counted: marks of the x axis are whole numbers. */
function xAxis(values: readonly number[]): Axis {
  const range = rangeOf(values)
  const marks = ticks(range[0], range[1]).filter(Number.isInteger)
  return { scale: linear(range, frame.left, width - frame.right), marks }
}

function legend(series: readonly Series[]): string[] {
  if (series.length < 2) return []
  let x = frame.left
  return series.map(({ name, color, dashed }) => {
    const line = `<line class="line c${color}${dashed === true ? ' dashed' : ''}" x1="${at(x)}" x2="${at(x + 14)}" y1="32" y2="32"/>`
    const text = label('legend', x + 19, 35.5, name)
    x += 19 + name.length * letter + 16
    return line + text
  })
}

function drawSeries({ points, color, dashed }: Series, x: Scale, y: Scale): string {
  const line = points.map((point) => `${at(x(point.x))},${at(y(point.y))}`).join(' ')
  const whiskers = points.map(({ x: place, low, high }) =>
    low === undefined || high === undefined ? '' : whisker(color, [x(place), y(low)], [x(place), y(high)]),
  )
  const dots = points.map((point) => `<circle class="c${color}" cx="${at(x(point.x))}" cy="${at(y(point.y))}" r="3"/>`)
  return [
    `<polyline class="line c${color}${dashed === true ? ' dashed' : ''}" points="${line}"/>`,
    ...whiskers,
    ...(points.length > 40 ? [] : dots),
  ].join('')
}

type Place = readonly [x: number, y: number]

const whisker = (color: number, [x1, y1]: Place, [x2, y2]: Place): string =>
  `<line class="bar c${color}" x1="${at(x1)}" x2="${at(x2)}" y1="${at(y1)}" y2="${at(y2)}"/>`

const drawable = (series: readonly Series[]): Series[] =>
  series
    .map((s) => ({ ...s, points: s.points.filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y)) }))
    .filter(({ points }) => points.length > 0)

/** A chart of lines with points; 95% bars where points have them. Empty text when there is nothing to draw. */
export function lineChart(given: readonly Series[], options: ChartOptions): string {
  const series = drawable(given)
  if (series.length === 0) return ''
  const points = series.flatMap((s) => s.points)
  const x = xAxis(points.map((point) => point.x))
  const y = yAxis(
    points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]),
    options,
  )
  const format = options.format ?? short
  const right = width - frame.right
  const bottom = height - frame.bottom
  return svg(
    options.title,
    [width, height],
    [
      label('title', frame.left, 16, options.title),
      ...y.marks.map((mark) => {
        const place = at(y.scale(mark))
        const line = `<line class="grid" x1="${frame.left}" x2="${right}" y1="${place}" y2="${place}"/>`
        return line + label('tick', frame.left - 7, y.scale(mark) + 3.5, format(mark), 'end')
      }),
      ...x.marks.map((mark) => label('tick', x.scale(mark), bottom + 15, short(mark), 'middle')),
      label('tick', right, bottom + 29, options.xLabel, 'end'),
      ...legend(series),
      ...series.map((s) => drawSeries(s, x.scale, y.scale)),
    ],
  )
}

/** A horizontal bar with its 95% interval; values from 0 to 1. */
export interface Bar {
  readonly name: string
  readonly color: number
  readonly value: number
  readonly low?: number
  readonly high?: number
}

/** Bars from 0 to 1 with their values behind them. Empty text when there is nothing to draw. */
export function barChart(bars: readonly Bar[], options: { title: string; format: (value: number) => string }): string {
  const shown = bars.filter(({ value }) => Number.isFinite(value))
  if (shown.length === 0) return ''
  const left = 24 + letter * shown.reduce((most, { name }) => Math.max(most, name.length), 0)
  const rowHeight = 56
  const x = linear([0, 1], left, width - 62)
  const rows = shown.map(({ name, color, value, low, high }, i) => {
    const middle = frame.top + (i + 0.5) * rowHeight
    return [
      label('name', left - 12, middle + 4, name, 'end'),
      `<rect class="track" x="${at(left)}" y="${at(middle - 13)}" width="${at(x(1) - left)}" height="26" rx="3"/>`,
      `<rect class="fill c${color}" x="${at(left)}" y="${at(middle - 13)}" width="${at(x(value) - left)}" height="26" rx="3"/>`,
      low === undefined || high === undefined ? '' : whisker(5, [x(low), middle], [x(high), middle]),
      label('value', width - frame.right, middle + 4.5, options.format(value), 'end'),
    ].join('')
  })
  return svg(
    options.title,
    [width, frame.top + rowHeight * shown.length + 24],
    [label('title', 12, 16, options.title), ...rows],
  )
}
