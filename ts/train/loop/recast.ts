// Recast: attempts of several turns as other attempts, so that one turn of them is what is trained, in the context it is to
// be trained in. Pure; nothing is tokenized again.

import type { Segment, Trace } from './trace.js'

/** Places of the policy's turns among the segments. */
const placesOf = ({ segments }: Trace): number[] =>
  segments.flatMap(({ role }, place) => (role === 'completion' ? [place] : []))

const reasonOf = (trace: Trace, { finishReason }: Segment) => finishReason ?? trace.finishReason

const asContext = (segment: Segment): Segment =>
  segment.role === 'completion' ? { ...segment, role: 'injected' } : segment

/** One turn (0 is the first) behind the bare prompt, as if nothing had come before it. */
export function turnAlone(trace: Trace, turn: number): Trace {
  const own = trace.segments[placesOf(trace)[turn]]
  return { ...trace, segments: [trace.segments[0], own], finishReason: reasonOf(trace, own) }
}

/** A turn behind all that came before it, which is context now: that turn alone is trained. */
export function turnInContext(trace: Trace, turn: number): Trace {
  const place = placesOf(trace)[turn]
  const own = trace.segments[place]
  const context = trace.segments.slice(0, place).map(asContext)
  return { ...trace, segments: [...context, own], finishReason: reasonOf(trace, own) }
}

/** All turns from one on, behind what came before it, which is context now. */
export function turnsFrom(trace: Trace, turn: number): Trace {
  const place = placesOf(trace)[turn]
  const segments = trace.segments.map((segment, i) => (i < place ? asContext(segment) : segment))
  return { ...trace, segments }
}

/** Where a splice cuts. */
export interface SpliceAt {
  /** Turns of the bad attempt that stay. */
  readonly cut: number
  /** Turns of the good attempt that are left out: those that it shares with the bad one. */
  readonly shared: number
}

/**
 * A bad attempt up to a cut, as context; the turn back; and the rest of a good attempt. What the policy is to learn is the
 * turn back and what follows it (Agent-R, arXiv 2501.11425).
 *
 * @param back segments between the two: completions of it are trained
 */
export function splice(bad: Trace, back: readonly Segment[], good: Trace, { cut, shared }: SpliceAt): Trace {
  const context = bad.segments.slice(0, placesOf(bad)[cut] ?? bad.segments.length).map(asContext)
  const rest = good.segments.slice(placesOf(good)[shared] ?? good.segments.length)
  return { ...good, segments: [...context, ...back, ...rest] }
}
