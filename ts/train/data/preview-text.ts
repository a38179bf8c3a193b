// A preview as text for a terminal or a file. Trained tokens are bold, special ones blue; without colours trained
// stretches stand between brackets. Whatever the data holds, it moves no cursor: control characters are spelled out.

import { checkArgument, checkOptions, having, kinds, optional } from '../../src/base/arguments.js'
import type { Preview, PreviewExample, PreviewSequence, PreviewToken } from './preview.js'

/** How a preview is written. */
export interface PreviewTextOptions {
  /** ANSI colours. Default false. */
  readonly colours?: boolean
}

const codes = {
  trained: '\u001b[1;32m',
  special: '\u001b[34m',
  trainedSpecial: '\u001b[1;36m',
  faint: '\u001b[2m',
  error: '\u001b[31m',
  end: '\u001b[0m',
}
const brackets = { open: '⟦', close: '⟧' }

/** Controls, characters that turn the direction of text or hide, and our own marks. */
const unseen = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}⟦⟧]/gu

const visible = (text: string): string =>
  text.replace(unseen, (c) => (c === '\n' ? '⏎\n' : `\\u{${(c.codePointAt(0) ?? 0).toString(16)}}`))

type Paint = (style: keyof typeof codes, text: string) => string

const painter =
  (colours: boolean): Paint =>
  (style, text) =>
    colours && text !== '' ? `${codes[style]}${text}${codes.end}` : text

/** Neighbours that are trained alike. */
function runsOf(tokens: readonly PreviewToken[]): PreviewToken[][] {
  const runs: PreviewToken[][] = []
  tokens.forEach((token, i) => {
    if (i === 0 || token.trained !== tokens[i - 1].trained) runs.push([token])
    else runs[runs.length - 1].push(token)
  })
  return runs
}

function runText(run: readonly PreviewToken[], colours: boolean): string {
  const paint = painter(colours)
  const [{ trained }] = run
  if (!colours) {
    const text = visible(run.map((token) => token.text).join(''))
    return trained ? `${brackets.open}${text}${brackets.close}` : text
  }
  const styled = run.map(({ text, special }) => {
    const shown = visible(text)
    if (special) return paint(trained ? 'trainedSpecial' : 'special', shown)
    return trained ? paint('trained', shown) : shown
  })
  return styled.join('')
}

function sequenceText({ role, tokens, trainedTokens, scores }: PreviewSequence, colours: boolean): string {
  const paint = painter(colours)
  const numbers = Object.entries(scores).map(([name, value]) => `, ${name} ${value}`)
  const head = `  ${role}: ${tokens.length} tokens, ${trainedTokens} trained${numbers.join('')}`
  const body = runsOf(tokens).map((run) => runText(run, colours))
  return `${paint('faint', head)}\n${body.join('')}\n`
}

function exampleText({ where, sequences, found }: PreviewExample, colours: boolean): string {
  const notes = found.length === 0 ? '' : ` (${found.join(', ')})`
  return [`${visible(where)}${notes}`, ...sequences.map((sequence) => sequenceText(sequence, colours))].join('\n')
}

const previewParts: readonly (keyof Preview)[] = ['objective', 'summary', 'examples', 'warnings', 'errors']

/** The preview as text, ending in a line feed. */
export function previewText(preview: Preview, options: PreviewTextOptions = {}): string {
  checkArgument('previewText.preview', preview, having('what preview() gives', ...previewParts))
  checkOptions('previewText', options, { colours: optional(kinds.flag) })
  const { colours = false } = options
  const paint = painter(colours)
  const { rows, examples, sequences, tokens, trainedTokens } = preview.summary
  const legend = colours
    ? `${paint('trained', 'trained')}, ${paint('special', 'special')}, ${paint('trainedSpecial', 'trained special')}`
    : `${brackets.open}trained${brackets.close}`
  const lines = [
    `${preview.objective}: ${rows} rows, ${examples} examples, ${sequences} sequences, ${tokens} tokens, ${trainedTokens} trained`,
    `marks: ${legend}`,
    '',
    ...preview.examples.map((example) => exampleText(example, colours)),
    ...preview.warnings.map((line) => visible(`warning: ${line}`)),
    ...preview.errors.map((line) => paint('error', visible(`error: ${line}`))),
  ]
  return `${lines.join('\n').trimEnd()}\n`
}
