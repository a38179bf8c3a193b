// The regular expressions that a splitter may name: an allow-list, matched exactly. A pattern from a file is a program
// that can be made to hang; these are known, and take linear time on runs of a million equal characters.
// Files write them for Oniguruma. Two things differ in JavaScript and are translated: \s is the Unicode property
// White_Space there, and (?i:...) is spelt out (Oniguruma folds U+017F to s).

const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const spelledContractions = "(?:'(?:[sS\u017f]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD]))"

const upper = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
const lower = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
const lead = String.raw`[^\r\n\p{L}\p{N}]?`
const spaces = String.raw`\s*[\r\n]+|\s+(?!\S)|\s+`
const symbols = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*`
const symbolsOrSlashes = String.raw` ?[^\s\p{L}\p{N}]+[\r\n/]*`
const wordsByCase = (suffix: string) => `${lead}${upper}*${lower}+${suffix}|${lead}${upper}+${lower}*${suffix}`
const wordsAndDigits = (digits: string) => String.raw`${contractions}|${lead}\p{L}+|${digits}|${symbols}|${spaces}`

/** GPT-2; also what the ByteLevel splitter uses on its own. */
export const gpt2Pattern = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

/** The known patterns, as files spell them. */
const known: readonly string[] = [
  gpt2Pattern,
  // Llama 3 and cl100k, Qwen 2 and 3, and with runs of digits.
  wordsAndDigits(String.raw`\p{N}{1,3}`),
  wordsAndDigits(String.raw`\p{N}`),
  wordsAndDigits(String.raw`\p{N}+`),
  // Qwen 3.5.
  String.raw`${contractions}|${lead}[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|${spaces}`,
  // o200k (GPT-4o, Llama 4, Phi 4) and Mistral's Tekken.
  String.raw`${wordsByCase(`${contractions}?`)}|\p{N}{1,3}|${symbolsOrSlashes}|${spaces}`,
  String.raw`${wordsByCase('')}|\p{N}|${symbolsOrSlashes}|${spaces}`,
  // Parts of splitters that work in several passes.
  String.raw`\p{N}{1,3}`,
  String.raw`\p{N}`,
  '[0-9][0-9][0-9]',
  '[\r\n]',
  String.raw`[\r\n]`,
  String.raw`\s?\p{L}+`,
  String.raw`\s?\p{P}+`,
  ' {2,}',
]

const translate = (pattern: string): RegExp =>
  new RegExp(
    pattern
      .replaceAll(contractions, spelledContractions)
      .replaceAll(String.raw`\S`, String.raw`\P{White_Space}`)
      .replaceAll(String.raw`\s`, String.raw`\p{White_Space}`),
    'gu',
  )

/** Makes the JavaScript pattern for what files spell: global and stateful, set `lastIndex` before use. */
export const knownPatterns: Readonly<Record<string, () => RegExp>> = Object.fromEntries(
  known.map((pattern) => [pattern, () => translate(pattern)]),
)
