// Long work on the host that leaves the event loop its turns: work is a generator that yields between its parts.

import { setImmediate } from 'node:timers/promises'

/** For how long others wait: signals, timers, streams. */
const turnMs = 50

/** Does all of the work at once. */
export function atOnce<R>(work: Generator<void, R>): R {
  for (;;) {
    const { done, value } = work.next()
    if (done === true) return value
  }
}

/**
 * Does the work in turns.
 *
 * @param check called before each turn; what it throws ends the work
 */
export async function inTurns<R>(work: Generator<void, R>, check: () => void): Promise<R> {
  for (;;) {
    check()
    const end = performance.now() + turnMs
    do {
      const { done, value } = work.next()
      if (done === true) return value
    } while (performance.now() < end)
    await setImmediate()
  }
}
