// The picture of benchmark rows: every row with its figures, bars within their track, text that is safe in XML.

import t from 'tap'
import type { BenchRow } from '../bench/harness.js'
import { benchSvg } from '../bench/svg.js'

const row: BenchRow = {
  suite: 'step',
  name: 'step <0.8M> & more',
  shape: '4 x 128',
  dtype: 'bf16',
  isa: 'avx512bf16',
  threads: 2,
  unit: 'tokens/s',
  ours: { median: 44_368, min: 40_000, max: 60_000 },
  milliseconds: 69,
}
const spread = { median: 14_244, min: 14_000, max: 14_500 }

const widths = (svg: string): number[] =>
  [...svg.matchAll(/class="(?:ours|peer)"[^>]* width="([\d.]+)"/g)].map(([, width]) => Number(width))

t.test('a row alone fills its scale', async (t) => {
  const svg = benchSvg([row], 'a "title"')
  t.same(widths(svg), [310])
  t.match(svg, 'step &#60;0.8M&#62; &#38; more')
  t.match(svg, '44.4k tokens/s')
  t.match(svg, '2 threads')
  t.notMatch(svg, 'class="ceiling"')
  t.equal((svg.match(/<svg/g) ?? []).length, 1)
})

t.test('peer and ceiling share the scale', async (t) => {
  const svg = benchSvg(
    [{ ...row, peer: { name: 'torch 2', ...spread }, ratio: 3.115, ceiling: 88_736, share: 0.5 }],
    'x',
  )
  t.same(widths(svg), [155, 49.8])
  t.match(svg, '50% of the ceiling')
  t.match(svg, '14.2k torch 2, 3.12x')
  t.match(svg, /class="ceiling" x1="560\.0"/)
})

t.test('what is no number is not drawn', async (t) => {
  t.same(widths(benchSvg([{ ...row, ours: { median: Number.NaN, min: 0, max: 0 } }], 'x')), [])
})
