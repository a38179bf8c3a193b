// What a running job tells: one union of events, an async iterable to follow them and a promise of the result. Nobody
// has to listen: while no one iterates events are dropped; a slow listener gets the newest step, and every other event.

import type { StepResult } from './trainer.js'
import type { BestCheckpoint } from './watch.js'

/**
 * An optimizer step, and with `loggingSteps` those since the event before: `loss` and `stats` are means over them, each over
 * the steps that have it, as in TRL; a step that changed nothing (`applied` false) does not count beside others that did.
 * The rest is the last step's. Times and rates are of this process.
 */
export interface StepEvent extends StepResult {
  readonly type: 'step'
  readonly phase: string
  /** 1-based number of the step just finished. */
  readonly step: number
  readonly totalSteps: number
  /** Passes over the data so far, a fraction; only where there is data to pass over. */
  readonly epoch?: number
  readonly tokensPerSecond: number
  /** Device bytes in use by tensors, at their highest since the start. */
  readonly memoryBytes: number
  readonly seconds: number
}

/** What a run reports. */
export type TrainEvent =
  | {
      readonly type: 'start'
      readonly step: number
      readonly totalSteps: number
      readonly device: string
      readonly notes: readonly string[]
    }
  | StepEvent
  | {
      readonly type: 'eval'
      readonly name: string
      /** Step of the phase, or round of the loop. */
      readonly step?: number
      readonly round?: number
      readonly values: Readonly<Record<string, number>>
    }
  | {
      readonly type: 'sample'
      readonly name: string
      readonly round: number
      readonly prompt: string
      readonly completion: string
      readonly correct: boolean
      /** Where samples are scored by numbers; `correct` then says that it is above 0. */
      readonly reward?: number
    }
  | { readonly type: 'round'; readonly round: number; readonly values: Readonly<Record<string, number>> }
  | { readonly type: 'checkpoint'; readonly step: number; readonly path: string }
  | { readonly type: 'warning'; readonly message: string }
  | {
      readonly type: 'end'
      readonly step: number
      readonly stepsDone: number
      readonly stopped: boolean
      /** Where evaluations are watched: whether the patience with them ended the run, and the best checkpoint. */
      readonly stoppedEarly?: boolean
      readonly best?: BestCheckpoint
    }

/** Reports an event. */
export type Emit = (event: TrainEvent) => void

/**
 * A job in progress, which runs by itself: iterate it for events, await `result` for the end.
 *
 * Events are not kept. Whoever iterates right away (`for await` before any other `await`) sees all of them, whoever comes
 * later those that follow, and behind the end there are none. Leaving the loop (`break`) leaves the events, not the job: only
 * its `signal` stops it. An error is thrown by the loop and rejects `result`; where nobody is in a loop or awaits `result`,
 * it is an unhandled rejection, which ends Node.
 */
export interface Run<R> extends AsyncIterable<TrainEvent> {
  readonly result: Promise<R>
}

/** Starts `work` and gives its events and result a common handle. */
export function startRun<R>(work: (emit: Emit) => Promise<R>): Run<R> {
  const listeners = new Set<Listener>()
  let settled: { error?: unknown } | undefined
  const emit: Emit = (event) => {
    for (const listener of listeners) listener.push(event)
  }
  const settle = (error?: unknown) => {
    settled = { error }
    for (const listener of listeners) listener.end(error)
  }
  const result: Promise<R> = Promise.resolve()
    .then(() => work(emit))
    .then(
      (value) => {
        settle()
        return value
      },
      (error: unknown) => {
        // Those who iterate get the error there. With none, a result that nobody awaits must not keep it to itself.
        if (listeners.size > 0) result.catch(() => undefined)
        settle(error)
        throw error
      },
    )
  return {
    result,
    [Symbol.asyncIterator]: () => {
      const listener = createListener(() => listeners.delete(listener))
      if (settled === undefined) listeners.add(listener)
      else listener.end(settled.error)
      return listener.iterator
    },
  }
}

interface Listener {
  push(event: TrainEvent): void
  end(error?: unknown): void
  readonly iterator: AsyncIterator<TrainEvent>
}

function createListener(leave: () => void): Listener {
  const waiting: TrainEvent[] = []
  let ended: { error?: unknown } | undefined
  let wake: (() => void) | undefined
  const notify = () => {
    wake?.()
    wake = undefined
  }
  const next = async (): Promise<IteratorResult<TrainEvent>> => {
    while (waiting.length === 0 && ended === undefined) await new Promise<void>((resolve) => (wake = resolve))
    const event = waiting.shift()
    if (event !== undefined) return { done: false, value: event }
    if (ended?.error !== undefined) throw ended.error
    return { done: true, value: undefined }
  }
  const leaveNow = async (): Promise<IteratorResult<TrainEvent>> => {
    leave()
    return { done: true, value: undefined }
  }
  return {
    push: (event) => {
      const last = waiting[waiting.length - 1]
      if (event.type === 'step' && last?.type === 'step') waiting.pop()
      waiting.push(event)
      notify()
    },
    end: (error) => {
      ended ??= { error }
      notify()
    },
    iterator: { next, return: leaveNow },
  }
}
