// Tables as text, RFC 4180: fields between separators, in quotes where they hold separators, quotes (doubled) or line breaks;
// lines end with CRLF or LF; the first line names the columns. Read strictly: what the grammar does not have (a quote inside
// a field without quotes, text behind a closing quote, a lone carriage return) is refused, not guessed. Beyond the RFC: a
// byte-order mark, as spreadsheets write it, is passed over, and so are empty lines; separators may be tabs. Values are texts.

import { WhetstoneError } from '../base/errors.js'
import { decodeUtf8 } from './json.js'
import { defaultLimit, rawLines } from './lines.js'

/** One row. */
export interface CsvRow {
  /** Its fields by the names of the columns. */
  readonly value: Readonly<Record<string, string>>
  /** 1-based line of the file where it begins. */
  readonly line: number
}

/** Limits of a reader. */
export interface CsvOptions {
  /** Most characters of a row. Default 16 Mi. */
  readonly rowLimit?: number
}

/** A record while its lines are read. */
interface Draft {
  readonly line: number
  readonly fields: string[]
  /** The field in quotes that is not closed yet. */
  quoted: string | undefined
}

const quote = '"'

const fault = (where: string, message: string): never => {
  throw new WhetstoneError('E_FORMAT', where, message)
}

const checkPlain = (field: string, where: string): string => {
  if (field.includes(quote))
    fault(
      where,
      'a quote inside a field without quotes: expected the whole field in quotes, and its own quotes doubled',
    )
  if (field.includes('\r'))
    fault(where, 'a carriage return without a line feed: expected lines that end with LF or CRLF')
  return field
}

/** Reads the rest of a field in quotes; gives the index behind its end, or -1 where the line ends before it does. */
function takeQuoted(draft: Draft, text: string, from: number): number {
  for (let at = from; ; ) {
    const end = text.indexOf(quote, at)
    if (end < 0) {
      draft.quoted += `${text.slice(at)}\n`
      return -1
    }
    if (text[end + 1] !== quote) {
      draft.fields.push(draft.quoted + text.slice(at, end))
      draft.quoted = undefined
      return end + 1
    }
    draft.quoted += text.slice(at, end + 1)
    at = end + 2
  }
}

/** Reads a line into a record; false where the record goes on. */
function takeLine(draft: Draft, text: string, separator: string, where: string): boolean {
  const end = text.endsWith('\r') ? text.length - 1 : text.length
  for (let at = 0; ; at++) {
    if (draft.quoted === undefined && text[at] === quote) {
      draft.quoted = ''
      at++
    }
    if (draft.quoted === undefined) {
      const next = text.indexOf(separator, at)
      const field = text.slice(at, next < 0 ? end : next)
      draft.fields.push(checkPlain(field, where))
      at += field.length
    } else {
      at = takeQuoted(draft, text, at)
      if (at < 0) return false
      if (at < end && text[at] !== separator)
        fault(where, `expected a separator behind a closing quote, got ${JSON.stringify(text.slice(at, at + 20))}`)
    }
    if (at >= end) return true
  }
}

async function* records(path: string, separator: string, limit: number): AsyncGenerator<Draft> {
  let draft: Draft | undefined
  for await (const { bytes, line } of rawLines(path, limit)) {
    const where = `${path}:${line}`
    const decoded = decodeUtf8(bytes, where)
    const text = line === 1 && decoded.startsWith('\uFEFF') ? decoded.slice(1) : decoded
    if (draft === undefined && (text === '' || text === '\r')) continue
    draft ??= { line, fields: [], quoted: undefined }
    if ((draft.quoted?.length ?? 0) > limit)
      throw new WhetstoneError(
        'E_LIMIT',
        `${path}:${draft.line}`,
        `expected a row of at most ${limit} characters, got more`,
      )
    if (!takeLine(draft, text, separator, where)) continue
    yield draft
    draft = undefined
  }
  if (draft !== undefined)
    fault(`${path}:${draft.line}`, 'a quote is opened in this row and not closed before the file ends')
}

function checkHeader(names: readonly string[], where: string): readonly string[] {
  const twice = names.find((name, i) => names.indexOf(name) !== i)
  if (twice !== undefined) fault(where, `expected a header of different names, got ${JSON.stringify(twice)} twice`)
  return names
}

/**
 * Rows of a table whose first line names its columns, in order.
 *
 * @param separator one character: a comma or a tab
 * @throws WhetstoneError E_IO, E_PATH; E_FORMAT with `file:line` (grammar, UTF-8, a row with another number of fields than the
 *   header, a name that stands there twice); E_LIMIT for a row beyond the limit
 */
export async function* readCsv(path: string, separator: string, options: CsvOptions = {}): AsyncGenerator<CsvRow> {
  let names: readonly string[] | undefined
  for await (const { fields, line } of records(path, separator, options.rowLimit ?? defaultLimit)) {
    const where = `${path}:${line}`
    if (names === undefined) {
      names = checkHeader(fields, where)
      continue
    }
    if (fields.length !== names.length)
      fault(where, `expected ${names.length} fields, as in the header, got ${fields.length}`)
    // Object.fromEntries makes own members of names like __proto__.
    yield { value: Object.fromEntries(names.map((name, i) => [name, fields[i]])), line }
  }
}
