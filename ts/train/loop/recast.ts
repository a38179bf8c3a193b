// Recast: attempts of several turns as other attempts, so that one turn of them is what is trained, in the context it is to
// be trained in. Pure; nothing is tokenized again.

import type { Segment, Trace } from './trace.js'

/** Places of the policy's turns among the segments. */
const placesOf = ({ segments }: Trace): number[] =>
  segments.flatMap(({ role }, place) => (role === 'completion' ? [place] : []))

const reasonOf = (trace: Trace, { finishReason }: Segment) => finishReason ?? trace.finishReason

/** One turn (0 is the first) behind the bare prompt, as if nothing had come before it. */
export function turnAlone(trace: Trace, turn: number): Trace {
  const own = trace.segments[placesOf(trace)[turn]]
  return { ...trace, segments: [trace.segments[0], own], finishReason: reasonOf(trace, own) }
}

/** A turn behind all that came before it, which is context now: that turn alone is trained. */
export function turnInContext(trace: Trace, turn: number): Trace {
  const place = placesOf(trace)[turn]
  const own = trace.segments[place]
  const context = trace.segments
    .slice(0, place)
    .map((segment): Segment => (segment.role === 'completion' ? { ...segment, role: 'injected' } : segment))
  return { ...trace, segments: [...context, own], finishReason: reasonOf(trace, own) }
}

/** All turns from one on, behind what came before it, which is context now. */
export function turnsFrom(trace: Trace, turn: number): Trace {
  const place = placesOf(trace)[turn]
  const segments = trace.segments.map(
    (segment, i): Segment => (i < place && segment.role === 'completion' ? { ...segment, role: 'injected' } : segment),
  )
  return { ...trace, segments }
}
