// A chat template from elsewhere in place of the tokenizer's own: a Jinja file, or the folder of another tokenizer. As in TRL's
// `chat_template_path`, but no token is added to the model: a template that spells special tokens which the model's
// tokenizer lacks is refused, as they would be read as plain text.

import { stat } from 'node:fs/promises'
import { WhetstoneError } from '../base/errors.js'
import { attempt } from '../io/files.js'
import { readText } from '../io/json.js'
import { compileTemplate } from './jinja.js'
import type { ChatTokenizer } from './template.js'

/** Most bytes of a template. */
export const templateLimit = 2 ** 20

/** A template that is to be used. */
export interface GivenTemplate {
  readonly source: string
  /** Where it came from. */
  readonly path: string
  /** The tokenizer that it was written for, where it came from one. */
  readonly owner?: ChatTokenizer
}

/**
 * Reads a template.
 *
 * @param path Jinja file, or folder of a tokenizer
 * @param load gives the tokenizer of a folder
 * @throws WhetstoneError E_IO, E_PATH, E_FORMAT, E_LIMIT; E_CONFIG for a tokenizer without a template; E_TEMPLATE
 */
export async function readTemplate(
  path: string,
  load: (folder: string) => Promise<ChatTokenizer>,
): Promise<GivenTemplate> {
  const info = await attempt('look at', path, () => stat(path))
  const owner = info.isDirectory() ? await load(path) : undefined
  const source = owner === undefined ? await readText(path, templateLimit) : owner.chatTemplate
  if (source === undefined)
    throw new WhetstoneError('E_CONFIG', path, 'expected a tokenizer with a chat template, got one without')
  try {
    compileTemplate(source)
  } catch (cause) {
    if (!WhetstoneError.isInstance(cause)) throw cause
    throw new WhetstoneError('E_TEMPLATE', path, cause.message, { cause })
  }
  return { source, path, owner }
}

/**
 * Refuses a template that spells special tokens of its own tokenizer which the given one does not have.
 *
 * @throws WhetstoneError E_MISMATCH
 */
export function checkTemplateTokens({ source, path, owner }: GivenTemplate, { specialTokens }: ChatTokenizer): void {
  const spelled = [...(owner?.specialTokens.keys() ?? [])].filter((token) => source.includes(token))
  const missing = spelled.filter((token) => !specialTokens.has(token))
  if (missing.length === 0) return
  const text = `expected a template of special tokens that the model's tokenizer has, got ${missing.join(', ')}: no token is added to a model; write a template with its own tokens`
  throw new WhetstoneError('E_MISMATCH', path, text, { details: { missing } })
}
