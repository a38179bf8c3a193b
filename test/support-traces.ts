// Attempts made by hand: what methods select, and how they weigh it, is held against them.

import type { Segment, Trace } from '../ts/train/loop/trace.js'
import type { Task } from '../ts/train/tasks/index.js'

export const task = (id: string): Task => ({ id, prompt: `${id}=`, answer: '' })
export const code = (text: string) => [...text].map((c) => c.charCodeAt(0))
const said = (text: string): Segment => ({
  role: 'completion',
  text,
  ids: code(text),
  logps: code(text).map(() => -0.5),
})

/** An attempt with its turns, and `?` between them. */
export const trace = (
  id: string,
  sample: number,
  texts: readonly string[],
  scores: Record<string, number> = {},
): Trace => ({
  task: task(id),
  sample,
  segments: [
    { role: 'prompt', text: `${id}=`, ids: code(`${id}=`) },
    ...texts.flatMap((text, i) => [
      ...(i === 0 ? [] : [{ role: 'injected' as const, text: '?', ids: [63] }]),
      said(text),
    ]),
  ],
  finishReason: 'stop',
  scores,
})

export const textsOf = (ids: readonly number[]) => String.fromCharCode(...ids)
export const trainedOf = (one: { ids: readonly number[]; trained: ArrayLike<number> }) =>
  textsOf(one.ids.filter((_, i) => one.trained[i] === 1))
