// Rows as one SVG picture of horizontal bars, for pages and reports. Units differ from row to row, so each row has a scale of
// its own: the longest of ours, the peer and the ceiling fills it. Whiskers are the spread of the rounds, the mark is the
// ceiling. Colours follow the reader's light or dark scheme; no fonts or scripts from elsewhere.

import { escapeXml } from '../ts/train/report/svg.js'
import type { BenchRow, Spread } from './harness.js'

const width = 860
const track = { left: 250, right: 560 }
const rowHeight = 40
const top = 44
const bar = { height: 11, gap: 3 }

const style = `text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1d2329;font-variant-numeric:tabular-nums}
.title{font-size:14px;font-weight:600}.soft{fill:#66707a}.ratio{font-weight:600}
.ours{fill:#2563c9}.peer{fill:#9aa4ae}.track{fill:#e2e6ea}.line{stroke:#1d2329}.ceiling{stroke:#b9541b;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#e4e8ec}.soft{fill:#97a1ab}.ours{fill:#74a9f7}.peer{fill:#5b6570}
.track{fill:#2e353c}.line{stroke:#e4e8ec}.ceiling{stroke:#ee9a66}}`

/** Three digits, thousands as k. */
function short(value: number): string {
  if (value >= 10_000) return `${(value / 1000).toFixed(value >= 100_000 ? 0 : 1)}k`
  return value >= 100 ? value.toFixed(0) : value.toPrecision(3)
}

const text = (x: number, y: number, content: string, kind = '', anchor = 'start'): string =>
  `<text class="${kind}" x="${x}" y="${y}" text-anchor="${anchor}">${escapeXml(content)}</text>`

/** A bar with the spread of its rounds and its median behind it. */
function drawBar(kind: 'ours' | 'peer', { median, min, max }: Spread, y: number, x: (value: number) => number): string {
  const middle = y + bar.height / 2
  const spread = [min, max].map((value) => Math.min(x(value), track.right).toFixed(1))
  return (
    `<rect class="${kind}" x="${track.left}" y="${y}" width="${(x(median) - track.left).toFixed(1)}" height="${bar.height}"/>` +
    `<line class="line" x1="${spread[0]}" x2="${spread[1]}" y1="${middle}" y2="${middle}"/>`
  )
}

/** What stands behind the bars: medians in the row's unit, and how they compare. */
function legendOf({ ours, unit, peer, ratio, share }: BenchRow): string[] {
  const own = `${short(ours.median)} ${unit}${share === undefined ? '' : `, ${Math.round(100 * share)}% of the ceiling`}`
  return peer === undefined ? [own] : [own, `${short(peer.median)} ${peer.name}, ${ratio?.toFixed(2)}x`]
}

function drawRow(row: BenchRow, index: number): string {
  const { name, dtype, threads, ours, peer, ceiling } = row
  const longest = Math.max(ours.median, peer?.median ?? 0, ceiling ?? 0)
  const x = (value: number): number => track.left + ((track.right - track.left) * value) / longest
  const y = top + index * rowHeight
  const second = y + bar.height + bar.gap
  const lines = legendOf(row)
  const place = ceiling === undefined ? 0 : x(ceiling).toFixed(1)
  return [
    text(track.left - 12, y + 10, name, '', 'end'),
    text(track.left - 12, y + 25, `${dtype}, ${threads} thread${threads === 1 ? '' : 's'}`, 'soft', 'end'),
    `<rect class="track" x="${track.left}" y="${y}" width="${track.right - track.left}" height="${bar.height}"/>`,
    drawBar('ours', ours, y, x),
    peer === undefined ? '' : drawBar('peer', peer, second, x),
    ceiling === undefined
      ? ''
      : `<line class="ceiling" x1="${place}" x2="${place}" y1="${y - 2}" y2="${y + bar.height + 2}"/>`,
    ...lines.map((line, i) => text(track.right + 12, y + 10 + 15 * i, line, i === 0 ? 'ratio' : 'soft')),
  ].join('')
}

/**
 * The picture of rows whose figures are rates.
 *
 * @param title what was measured where: one line
 */
export function benchSvg(rows: readonly BenchRow[], title: string): string {
  const shown = rows.filter(({ ours }) => Number.isFinite(ours.median) && ours.median > 0)
  const height = top + rowHeight * shown.length + 8
  const body = [text(12, 20, title, 'title'), ...shown.map(drawRow)].join('\n')
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img"><title>${escapeXml(title)}</title>
<style>${style}</style>
${body}
</svg>
`
}
