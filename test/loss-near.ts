// Comparison with hand-checked numbers, for the suites of the objectives.

import type { Test } from 'tap'

/** The hand-checked numbers have 12 decimals. */
const tolerance = 1e-11

/** Are the numbers those that are expected? */
export function near(t: Test, got: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  const same = got.length === expected.length && Array.from(expected).every((x, i) => Math.abs(got[i] - x) <= tolerance)
  t.ok(same, `${what}: ${Array.from(got).join(' ')} is ${Array.from(expected).join(' ')}`)
}
