// What happened to rows on their way to examples: counted, with the first places, and said in words. Nothing is passed
// over in silence. Finding them is encode.ts.

/** Kinds of findings. */
export type FindingName =
  | 'truncated'
  | 'untrained'
  | 'overlong'
  | 'withoutEnd'
  | 'straddling'
  | 'spelled'
  | 'doubleBegin'

/** Rows with a finding. */
export interface Finding {
  readonly count: number
  /** Places of the first ones. */
  readonly first: readonly string[]
}

/** What a data set became. */
export interface EncodeSummary {
  readonly rows: number
  readonly examples: number
  readonly sequences: number
  readonly tokens: number
  readonly trainedTokens: number
  readonly findings: Readonly<Record<FindingName, Finding>>
}

const placesShown = 3

/** Words for each finding, behind 'N of M rows'. */
const words: Readonly<Record<FindingName, string>> = {
  truncated: 'were cut to maxLength (or maxPromptLength) tokens',
  untrained: 'train no token and are left out',
  overlong: 'are too long for maxLength: nothing to train would be left, or they must not be cut; they are left out',
  withoutEnd: 'do not end with a special token: they do not teach the model to stop',
  straddling: 'have a token that spans prompt and completion: the mark lies where the prompt alone would end',
  spelled: "spell special tokens, which stay text; specialTokens 'parse' reads them, if the data is trusted",
  doubleBegin: 'begin with two begin tokens: one in the text, one from the tokenizer',
}

const names = Object.keys(words) as FindingName[]

/** Findings that leave rows out. */
export const excluding: readonly FindingName[] = ['untrained', 'overlong']

/** Counts findings by row. */
export function createTally() {
  const rows = Object.fromEntries(names.map((name) => [name, new Set<string>()])) as Record<FindingName, Set<string>>
  return {
    add(where: string, found: readonly FindingName[]): void {
      for (const name of found) rows[name].add(where)
    },
    findings(): EncodeSummary['findings'] {
      const entries = names.map((name) => [
        name,
        { count: rows[name].size, first: [...rows[name]].slice(0, placesShown) },
      ])
      return Object.fromEntries(entries) as EncodeSummary['findings']
    },
  }
}

/** Findings as lines: how many rows, what, and where the first ones are. */
export const warningsOf = (
  { rows, findings }: EncodeSummary,
  isWanted: (name: FindingName) => boolean = () => true,
): string[] =>
  names.filter(isWanted).flatMap((name) => {
    const { count, first } = findings[name]
    const places = `${first.join(', ')}${count > first.length ? ', ...' : ''}`
    return count === 0 ? [] : [`${count} of ${rows} rows ${words[name]} (${places})`]
  })
