// YAML as entries that know their lines. A module of its own, loaded when a config file is YAML: the parser takes as long
// to load as a tenth of the whole package.

import { type Document, isMap, isNode, isScalar, LineCounter, type Pair, parseDocument } from 'yaml'
import { messageOf, WhetstoneError } from '../../src/base/errors.js'

/** A key of a file with its value; `inside` holds the keys of a map. */
export interface Entry {
  readonly key: string
  readonly value: unknown
  /** `run.yaml:3`. */
  readonly where: string
  readonly inside: readonly Entry[] | undefined
}

/** A node as data. Aliases that are unknown, or too many, are found here. */
function plainValue(node: unknown, document: Document, where: string): unknown {
  try {
    return isNode(node) ? node.toJS(document) : null
  } catch (cause) {
    throw new WhetstoneError('E_FORMAT', where, `no YAML: ${messageOf(cause)}`, { cause })
  }
}

/**
 * The settings of a YAML text, in its order.
 *
 * @throws WhetstoneError E_FORMAT with the line
 */
export function readYaml(text: string, path: string): Entry[] {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  const at = (offset: number): string => `${path}:${lines.linePos(offset).line}`
  const [fault] = document.errors
  if (fault !== undefined) {
    const text = fault.code === 'MULTIPLE_DOCS' ? 'expected one document, found another behind ---' : fault.message
    throw new WhetstoneError('E_FORMAT', at(fault.pos[0]), `no YAML: ${text}`)
  }
  const entry = ({ key, value }: Pair): Entry => {
    const where = at((isScalar(key) && key.range?.[0]) || 0)
    const inside = isMap(value) ? (value.items as Pair[]).map(entry) : undefined
    return { key: String(isScalar(key) ? key.value : key), value: plainValue(value, document, where), where, inside }
  }
  if (document.contents === null) return []
  if (isMap(document.contents)) return (document.contents.items as Pair[]).map(entry)
  throw new WhetstoneError('E_FORMAT', path, 'expected settings as `name: value`, one per line')
}
