// What the post-processor of a file puts around a text: begin, end and separator tokens.

import { countOf, listOf, type Part, partOf, partsOf, refuse, textOf } from './fields.js'

/** Ids before and behind the ids of a text. */
export interface Frame {
  readonly before: readonly number[]
  readonly after: readonly number[]
}

const none: Frame = { before: [], after: [] }

/** Ids of a special token that a template names. */
function idsOf(processor: Part, name: string): number[] {
  const entry = partOf(partOf(processor, 'special_tokens'), name)
  const ids = listOf(entry, 'ids')
  if (!ids.every((id): id is number => Number.isSafeInteger(id) && (id as number) >= 0))
    refuse(entry, 'ids', 'token ids')
  return [...ids]
}

function templateFrame(processor: Part): Frame {
  const items = partsOf(processor, 'single')
  const at = items.findIndex((item) => Object.hasOwn(item.value, 'Sequence'))
  if (at < 0) refuse(processor, 'single', 'a place for the text')
  const idsFrom = (part: readonly Part[]): number[] =>
    part.flatMap((item) => idsOf(processor, textOf(partOf(item, 'SpecialToken'), 'id')))
  return { before: idsFrom(items.slice(0, at)), after: idsFrom(items.slice(at + 1)) }
}

/** `cls` before and `sep` behind, each a list of text and id. */
function pairFrame(processor: Part): Frame {
  const idOf = (key: string): number => {
    const [, id] = listOf(processor, key)
    return countOf({ ...processor, value: { [key]: id } }, key)
  }
  return { before: [idOf('cls')], after: [idOf('sep')] }
}

function sequenceFrame(processor: Part): Frame {
  return partsOf(processor, 'processors')
    .map(frameOf)
    .reduce(
      (inner, outer) => ({ before: [...outer.before, ...inner.before], after: [...inner.after, ...outer.after] }),
      none,
    )
}

const kinds: Readonly<Record<string, (processor: Part) => Frame>> = {
  ByteLevel: () => none,
  TemplateProcessing: templateFrame,
  BertProcessing: pairFrame,
  RobertaProcessing: pairFrame,
  Sequence: sequenceFrame,
}

/** The frame of a post-processor. */
export function frameOf(processor: Part | undefined): Frame {
  if (processor === undefined) return none
  const type = textOf(processor, 'type')
  if (!Object.hasOwn(kinds, type)) refuse(processor, 'type', `one of ${Object.keys(kinds).join(', ')}`)
  return kinds[type](processor)
}
