// Keeps what a template writes apart from what it copies out of messages, so that content which spells a control token
// stays text. The jinja library gives plain text, so the copied characters are made recognisable before rendering: those
// that control tokens are written with are replaced one for one by private-use characters that occur nowhere else. The
// rendering must come out the same but for them; templates that look into the content are tried with ever fewer
// replacements, and refused when none will do.

import { WhetstoneError } from '../base/errors.js'

/** Replaces characters of texts and brings them back. */
export interface Disguise {
  /** A deep copy with the texts replaced. */
  readonly apply: (value: unknown) => unknown
  /** The original of a rendering. */
  readonly remove: (text: string) => string
}

type Characters = ReadonlySet<string>

/** What is replaced in the texts of messages, in their roles, and in keys of objects. */
interface Scheme {
  readonly texts: Characters
  readonly roles: Characters
  readonly keys: Characters
}

const firstPrivate = 0xe000
const lastPrivate = 0xf8ff

const isWord = /^[\p{L}\p{N}_-]$/u
/** Space must stay for `trim`, quotes and backslashes for `tojson`. */
const mustStay = /^[\s"\\\p{Cc}]$/u

/** Characters that can be told apart; those outside the basic plane would need two units. */
const replaceable = (special: string): string[] => [...special].filter((c) => c.length === 1 && !mustStay.test(c))

/** Of a token's characters the one that ordinary text holds least: foreign, then `|`, then other signs, then letters. */
const rarity = (c: string): number => (c > '\u007f' ? 0 : c === '|' ? 1 : isWord.test(c) ? 3 : 2)

const rarest = (special: string): string[] =>
  replaceable(special)
    .sort((a, b) => rarity(a) - rarity(b))
    .slice(0, 1)

/**
 * From the most careful on: every character of control tokens (then even half a token made of content is seen); all but
 * letters and digits; one character of each token. Roles and keys keep their letters, which templates compare.
 */
function schemes(specials: readonly string[]): Scheme[] {
  const all = new Set(specials.flatMap(replaceable))
  const single = new Set(specials.flatMap(rarest))
  const signs = new Set([...[...all].filter((c) => !isWord.test(c)), ...single])
  const named = new Set([...signs].filter((c) => !isWord.test(c)))
  return [
    { texts: all, roles: named, keys: named },
    { texts: signs, roles: named, keys: named },
    { texts: single, roles: named, keys: named },
  ]
}

function replaced(text: string, map: ReadonlyMap<string, string>, characters: Characters): string {
  let result = ''
  for (const c of text) result += (characters.has(c) ? map.get(c) : undefined) ?? c
  return result
}

function disguised(value: unknown, map: ReadonlyMap<string, string>, scheme: Scheme, key: string): unknown {
  if (typeof value === 'string') return replaced(value, map, key === 'role' ? scheme.roles : scheme.texts)
  if (Array.isArray(value)) return value.map((inner) => disguised(inner, map, scheme, ''))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [
      replaced(name, map, scheme.keys),
      disguised(inner, map, scheme, name),
    ]),
  )
}

/**
 * Disguises from the most careful on.
 *
 * @param taken text whose characters cannot serve as replacements
 */
export function disguises(specials: readonly string[], taken: string): Disguise[] {
  const free = freeCharacters(taken)
  return schemes(specials).map((scheme) => {
    const map = new Map<string, string>()
    for (const c of new Set([...scheme.texts, ...scheme.roles, ...scheme.keys])) map.set(c, free())
    const back = new Map([...map].map(([original, c]) => [c, original]))
    return {
      apply: (value) => disguised(value, map, scheme, ''),
      remove: (text) => replaced(text, back, new Set(back.keys())),
    }
  })
}

/**
 * Gives private-use characters that do not occur in a text, a new one each time.
 *
 * @throws WhetstoneError E_TEMPLATE when the text uses (nearly) all 6,400
 */
export function freeCharacters(taken: string): () => string {
  const used = new Set(taken.match(/[\ue000-\uf8ff]/g))
  let code = firstPrivate
  return () => {
    while (used.has(String.fromCharCode(code))) code++
    if (code > lastPrivate)
      throw new WhetstoneError('E_TEMPLATE', 'chat_template', 'the conversation leaves no private-use character free')
    return String.fromCharCode(code++)
  }
}
