// The benchmark harness: warm-up, rounds in which all sides take turns, medians with their spread, and the row format
// that all suites share. What is timed is the suites' business; what a machine can do at best is in ceilings.ts.

import { setTimeout } from 'node:timers/promises'
import { median } from '../ts/src/base/stats.js'
import type { Peer } from './peer.js'

/** Element types that suites run in. */
export type Float = 'f32' | 'bf16'

/** Median, least and greatest of the rounds, in the row's unit. */
export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** What one row is about. */
export interface Subject {
  readonly suite: string
  readonly name: string
  readonly shape: string
  readonly dtype: string
  readonly isa: string
  readonly threads: number
  /** Something per second: more is better. */
  readonly unit: string
}

/** What the rounds of one row gave. */
export interface Result {
  readonly ours: Spread
  /** Median time of one run of ours. */
  readonly milliseconds: number
  readonly peer?: Spread & { readonly name: string; readonly peakBytes?: number }
  /** Our median over the peer's. */
  readonly ratio?: number
  /** Median of the loop that bounds this row, timed in the same rounds, in the row's unit. */
  readonly ceiling?: number
  /** Our median over the ceiling. */
  readonly share?: number
  /** Peak bytes of tensors, where the suite measures them. */
  readonly peakBytes?: number
}

/** One measured row. */
export type BenchRow = Subject & Result

/** How suites are run. */
export interface BenchOptions {
  readonly threads: readonly number[]
  readonly dtypes: readonly Float[]
  /** Timed runs per row. */
  readonly rounds: number
  /** Is a row of this name asked for? */
  readonly only: (name: string) => boolean
  /** The peer's program for this suite; absent without `--peer`. */
  readonly peer?: Peer
  readonly report: (row: BenchRow) => void
}

/** Does its work once and resolves with the seconds that it took. */
export type Run = () => Promise<number>

/** One side of a row: what it runs, and how much of the row's unit (without "per second") one run does. */
export interface Side {
  readonly run: Run
  readonly amount: number
}

/** The sides of a row. */
export interface Sides {
  readonly ours: Side
  readonly peer?: Side & { readonly name: string; readonly peakBytes?: number }
  readonly ceiling?: Side
}

const untimedRounds = 2

/** Work of this length and more has one untimed round and at most three timed ones. */
const longRunSeconds = 2
const longRounds = 3

/** Pause before each run: threads of the side before, which wait for work in a busy loop, go to sleep in it. */
const restMilliseconds = 5

/** A run that times `work` by the clock of this process. */
export const timed = (work: () => Promise<unknown>): Run => {
  return async () => {
    const start = performance.now()
    await work()
    return (performance.now() - start) / 1000
  }
}

function spreadOf(amount: number, seconds: readonly number[]): Spread {
  const rates = seconds.map((time) => amount / time)
  return { median: median(rates), min: Math.min(...rates), max: Math.max(...rates) }
}

/**
 * Times all sides in turn, round by round, so that whatever else the machine does meets them alike. The side that comes after
 * a ceiling's loop is slower: ours and the peer's take turns in that, too.
 */
export async function race({ ours, peer, ceiling }: Sides, rounds: number): Promise<Result> {
  const present = (sides: readonly (Side | undefined)[]) => sides.filter((side) => side !== undefined)
  const orders = [present([ours, peer, ceiling]), present([peer, ours, ceiling])]
  const seconds = new Map<Side, number[]>(orders[0].map((side) => [side, []]))
  let [round, end] = [-untimedRounds, rounds]
  while (round < end) {
    for (const side of orders[Math.abs(round) % 2]) {
      await setTimeout(restMilliseconds)
      const time = await side.run()
      if (round >= 0) seconds.get(side)?.push(time)
      else if (time >= longRunSeconds) [round, end] = [-1, Math.min(rounds, longRounds)]
    }
    round++
  }
  const spread = (side: Side): Spread => spreadOf(side.amount, seconds.get(side) ?? [])
  const own = spread(ours)
  const other = peer && { name: peer.name, ...spread(peer), peakBytes: peer.peakBytes }
  const limit = ceiling && spread(ceiling).median
  return {
    ours: own,
    milliseconds: 1000 * median(seconds.get(ours) ?? []),
    ...(other && { peer: other, ratio: own.median / other.median }),
    ...(limit && { ceiling: limit, share: own.median / limit }),
  }
}
