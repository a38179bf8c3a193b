// Names as people type them: `learningRate`, `learning-rate`, `learning_rate` and `LEARNING_RATE` are one name. And what
// somebody may have meant by a name that nobody knows: one that is spelled almost alike, or what does it here.

import { elsewhere, renamed } from './foreign-names.js'

/** A name without what its spellings differ by. */
export const plainName = (name: string): string => name.replace(/[^a-z0-9]/gi, '').toLowerCase()

/** The fewest letters to insert, delete, replace, or swap with their neighbour. */
function distance(a: string, b: string): number {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    const [before, last] = [rows[i - 2], rows[i - 1]]
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      const replaced = last[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)
      next[j] = Math.min(last[j] + 1, next[j - 1] + 1, replaced, swapped ? before[j - 2] + 1 : replaced)
    }
    rows.push(next)
  }
  return rows[a.length][b.length]
}

/** Letters that may be wrong: one of four, one in short names. A name that is further off is another name. */
const mostWrong = ({ length }: string): number => (length < 2 ? 0 : Math.max(1, Math.floor((length + 1) / 4)))

/** The known name that is spelled most like `name`; undefined when none is near. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  const wanted = plainName(name)
  const far = known.map((candidate) => distance(wanted, plainName(candidate)))
  const least = Math.min(...far)
  return least <= mostWrong(wanted) ? known[far.indexOf(least)] : undefined
}

const entryOf = <V>(table: Readonly<Record<string, V>>, name: string): V | undefined =>
  Object.hasOwn(table, plainName(name)) ? table[plainName(name)] : undefined

/** The known name of what TRL or Transformers call `name`, or that only has other separators. */
const translated = (name: string, known: readonly string[]): string | undefined =>
  entryOf(renamed, name)?.find((candidate) => known.includes(candidate)) ??
  known.find((candidate) => plainName(candidate) === plainName(name))

/**
 * `; did you mean 'x'?`, or what does here what TRL and Transformers do by that name, which goes before names that only look
 * like it; nothing where that is unknown.
 */
export function didYouMean(name: string, known: readonly string[], prefix = ''): string {
  const advice = entryOf(elsewhere, name)
  const meant = translated(name, known) ?? (advice === undefined ? nearestName(name, known) : undefined)
  if (meant !== undefined) return `; did you mean '${prefix}${meant}'?`
  return advice === undefined ? '' : `; ${advice}`
}
