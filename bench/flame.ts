// Flame graphs: folded stacks ("a;b;c 123", microseconds), and the same as an SVG that needs nothing beside it. Frames
// have a tooltip; what is drawn is as wide as its share of the time.

/** A stack of frames, outermost first, and its seconds. */
export interface Stack {
  readonly frames: readonly string[]
  readonly seconds: number
}

interface Frame {
  readonly name: string
  seconds: number
  readonly inner: Map<string, Frame>
}

const frame = (name: string): Frame => ({ name, seconds: 0, inner: new Map() })

function treeOf(stacks: readonly Stack[], root: string): Frame {
  const top = frame(root)
  for (const { frames, seconds } of stacks) {
    let at = top
    at.seconds += seconds
    for (const name of frames) {
      const next = at.inner.get(name) ?? frame(name)
      at.inner.set(name, next)
      next.seconds += seconds
      at = next
    }
  }
  return top
}

/** One line per stack, for tools that know the format; equal stacks are joined. */
export function foldedStacks(stacks: readonly Stack[]): string {
  const sums = new Map<string, number>()
  for (const { frames, seconds } of stacks) {
    const key = frames.map((name) => name.replaceAll(';', ',')).join(';')
    sums.set(key, (sums.get(key) ?? 0) + seconds)
  }
  return [...sums].map(([key, seconds]) => `${key} ${Math.round(seconds * 1e6)}\n`).join('')
}

const width = 1200
const rowHeight = 20
const letterWidth = 6.6
const palette = ['#e8a87c', '#e27d60', '#85c1ae', '#c38d9e', '#41b3a3', '#d9b44a', '#9fb8d9', '#b7a6d6']

const escaped = (text: string): string =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')

const colourOf = (name: string): string =>
  palette[[...name.split(' ')[0]].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 9973, 0) % palette.length]

const depthOf = (f: Frame): number => 1 + Math.max(0, ...[...f.inner.values()].map(depthOf))

function drawn(f: Frame, x: number, depth: number, total: number): string {
  const size = (width * f.seconds) / total
  if (size < 0.3) return ''
  const share = `${((100 * f.seconds) / total).toFixed(1)}%`
  const letters = Math.floor((size - 6) / letterWidth)
  const label = letters < 3 ? '' : f.name.slice(0, letters)
  const y = depth * rowHeight
  const box =
    `<g><title>${escaped(f.name)}: ${(1000 * f.seconds).toFixed(3)} ms, ${share}</title>` +
    `<rect x="${x.toFixed(2)}" y="${y}" width="${size.toFixed(2)}" height="${rowHeight - 1}" fill="${colourOf(f.name)}"/>` +
    `<text x="${(x + 3).toFixed(2)}" y="${y + 14}">${escaped(label)}</text></g>\n`
  let at = x
  const inner = [...f.inner.values()]
    .sort((a, b) => b.seconds - a.seconds)
    .map((next) => {
      const text = drawn(next, at, depth + 1, total)
      at += (width * next.seconds) / total
      return text
    })
  return box + inner.join('')
}

/** The stacks as an SVG, the outermost frame on top, the longest first. */
export function flameGraph(stacks: readonly Stack[], root: string): string {
  const tree = treeOf(stacks, root)
  const height = rowHeight * depthOf(tree)
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" ` +
    `font-family="monospace" font-size="11">\n` +
    `<style>rect{stroke:#fff;stroke-width:.5}g:hover rect{stroke:#000}text{pointer-events:none}</style>\n` +
    `<rect width="100%" height="100%" fill="#fff"/>\n${drawn(tree, 0, 0, tree.seconds || 1)}</svg>\n`
  )
}
