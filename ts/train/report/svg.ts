// Charts as SVG text: lines over a number, and dots with error bars. Colours come from CSS classes, so that one drawing
// fits light and dark pages.

/** A line of a chart. */
export interface Series {
  readonly name: string
  /** CSS class suffix: c0 .. c5. */
  readonly color: number
  readonly points: readonly (readonly [x: number, y: number])[]
  /** 95% interval of each point, when it has one. */
  readonly bars?: readonly (readonly [low: number, high: number])[]
}

/** How to draw a chart. */
export interface ChartOptions {
  readonly title: string
  readonly xLabel: string
  /** Fixed range of y; default what the data needs. */
  readonly yRange?: readonly [number, number]
  readonly format?: (y: number) => string
}

const width = 460
const height = 240
const frame = { left: 52, right: 14, top: 34, bottom: 38 }

/** Text that is safe inside XML. */
export const escapeXml = (text: string): string =>
  text.replace(
    /[&<>"']/g,
    (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' })[c] as string,
  )

/** About `count` round numbers across a range. */
export function ticks(low: number, high: number, count = 5): number[] {
  const span = high - low || 1
  const raw = span / count
  const power = 10 ** Math.floor(Math.log10(raw))
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= raw) ?? 10)
  const first = Math.ceil(low / step - 1e-9)
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  )
}

const short = (value: number): string =>
  Math.abs(value) >= 1000 ? `${(value / 1000).toPrecision(3)}k` : String(Number(value.toPrecision(3)))

function rangeOf(values: readonly number[]): [number, number] {
  const finite = values.filter(Number.isFinite)
  if (finite.length === 0) return [0, 1]
  const low = Math.min(...finite)
  const high = Math.max(...finite)
  const margin = (high - low || Math.abs(high) || 1) * 0.06
  return [low - margin, high + margin]
}

/** At most `limit` points, each the mean of its stretch: a long run stays readable and small. */
export function thinned(points: Series['points'], limit = 240): Series['points'] {
  const per = Math.ceil(points.length / limit)
  if (per <= 1) return points
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
  return Array.from({ length: Math.ceil(points.length / per) }, (_, i) => {
    const part = points.slice(i * per, (i + 1) * per)
    return [mean(part.map((point) => point[0])), mean(part.map((point) => point[1]))] as const
  })
}

/** A chart of lines with points; error bars where a series has them. */
export function lineChart(series: readonly Series[], options: ChartOptions): string {
  const xs = series.flatMap((s) => s.points.map((point) => point[0]))
  const ys = series.flatMap((s) => [...s.points.map((point) => point[1]), ...(s.bars ?? []).flat()])
  const [x0, x1] = rangeOf(xs)
  const [y0, y1] = options.yRange ?? rangeOf(ys)
  const px = (x: number) => frame.left + ((x - x0) / (x1 - x0)) * (width - frame.left - frame.right)
  const py = (y: number) => height - frame.bottom - ((y - y0) / (y1 - y0)) * (height - frame.top - frame.bottom)
  const format = options.format ?? short
  const grid = ticks(y0, y1).map(
    (y) =>
      `<line class="grid" x1="${frame.left}" x2="${width - frame.right}" y1="${at(py(y))}" y2="${at(py(y))}"/><text class="tick" x="${frame.left - 6}" y="${at(py(y) + 4)}" text-anchor="end">${escapeXml(format(y))}</text>`,
  )
  const feet = ticks(x0, x1).map(
    (x) =>
      `<text class="tick" x="${at(px(x))}" y="${height - frame.bottom + 16}" text-anchor="middle">${short(x)}</text>`,
  )
  const legend =
    series.length < 2
      ? []
      : series.map(
          (s, i) =>
            `<text class="legend c${s.color}" x="${frame.left + i * 96}" y="${height - 4}">${escapeXml(s.name)}</text>`,
        )
  return [
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeXml(options.title)}">`,
    `<text class="title" x="${frame.left}" y="18">${escapeXml(options.title)}</text>`,
    ...grid,
    ...feet,
    `<text class="tick" x="${width - frame.right}" y="${height - 4}" text-anchor="end">${escapeXml(options.xLabel)}</text>`,
    ...legend,
    ...series.map((s) => drawSeries(s, px, py)),
    '</svg>',
  ].join('\n')
}

const at = (value: number): string => value.toFixed(1)

function drawSeries({ points, bars, color }: Series, px: (x: number) => number, py: (y: number) => number): string {
  const line = points.map(([x, y]) => `${at(px(x))},${at(py(y))}`).join(' ')
  const dots =
    points.length > 60
      ? []
      : points.map(([x, y]) => `<circle class="c${color}" cx="${at(px(x))}" cy="${at(py(y))}" r="3"/>`)
  const whiskers = (bars ?? []).map(
    ([low, high], i) =>
      `<line class="bar c${color}" x1="${at(px(points[i][0]))}" x2="${at(px(points[i][0]))}" y1="${at(py(low))}" y2="${at(py(high))}"/>`,
  )
  return [`<polyline class="line c${color}" points="${line}"/>`, ...whiskers, ...dots].join('')
}
