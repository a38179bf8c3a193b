// Names as people type them: `learningRate`, `learning-rate`, `learning_rate` and `LEARNING_RATE` are one name. And the
// nearest of some names to one that nobody knows.

/** A name without what its spellings differ by. */
export const plainName = (name: string): string => name.replace(/[^a-z0-9]/gi, '').toLowerCase()

/** Levenshtein distance: the fewest letters to insert, delete or replace. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1))
    row = next
  }
  return row[b.length]
}

/** The known name that is spelled most like `name`; undefined when there is none. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  const wanted = plainName(name)
  const far = new Map(known.map((candidate) => [candidate, distance(wanted, plainName(candidate))]))
  return [...known].sort((a, b) => (far.get(a) ?? 0) - (far.get(b) ?? 0))[0]
}

/** `; did you mean 'x'?`, or nothing when no name is known. */
export function didYouMean(name: string, known: readonly string[], prefix = ''): string {
  const nearest = nearestName(name, known)
  return nearest === undefined ? '' : `; did you mean '${prefix}${nearest}'?`
}
