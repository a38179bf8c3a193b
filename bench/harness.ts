// The benchmark harness: warm-up, repeats, medians with their spread, and the row format that all suites share.

import { median } from '../ts/src/base/stats.js'

/** Median, least and greatest of the repeats, in the row's unit. */
export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** One measured row. */
export interface BenchRow {
  readonly suite: string
  readonly name: string
  readonly shape: string
  readonly dtype: string
  readonly isa: string
  readonly threads: number
  readonly unit: string
  readonly ours: Spread
  /** Peak bytes of tensors, where the suite measures them. */
  readonly peakBytes?: number
}

/** How suites are run. */
export interface BenchOptions {
  readonly threads: readonly number[]
  readonly dtypes: readonly ('f32' | 'bf16')[]
  readonly report: (row: BenchRow) => void
}

/**
 * Times `work` `repeats` times behind `warmups` untimed runs.
 *
 * @param amount what one run does, in the unit per second that the spread then gives
 */
export async function rate(work: () => Promise<unknown>, amount: number, repeats = 9, warmups = 3): Promise<Spread> {
  const rates: number[] = []
  for (let i = -warmups; i < repeats; i++) {
    const start = performance.now()
    await work()
    if (i >= 0) rates.push((amount * 1000) / (performance.now() - start))
  }
  return { median: median(rates), min: Math.min(...rates), max: Math.max(...rates) }
}

const figure = (value: number): string => (value >= 1000 ? value.toFixed(0) : value.toPrecision(3))

/** A row as a line of the text table. */
export function rowText({ name, shape, dtype, isa, threads, unit, ours, peakBytes }: BenchRow): string {
  const spread = `${figure(ours.median)} (${figure(ours.min)} to ${figure(ours.max)}) ${unit}`
  const memory = peakBytes === undefined ? '' : `, ${(peakBytes / 2 ** 20).toFixed(1)} MiB`
  return `${name.padEnd(22)} ${shape.padEnd(34)} ${dtype.padEnd(5)} ${isa.padEnd(7)} ${threads} threads  ${spread}${memory}`
}
