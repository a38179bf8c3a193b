// How rows become tokens: the settings, with TRL's names and defaults. What TRL 1.x still has is followed: `maxLength` with
// `truncationMode` keepStart (keepEnd is deprecated there). `maxPromptLength`, which TRL dropped in 0.29, means what it
// meant: the prompt's last tokens are kept. What each does to a row is cut.ts; the templates of SRPO are srpo.ts.

import * as z from 'zod'
import { readConfig } from '../../loss/config.js'
import { membersOf } from '../../src/base/arguments.js'
import { defaultRevision } from './srpo.js'

/** Settings of encoding, as fields of a schema. */
export const encodeShape = {
  maxLength: z.int().min(2).default(1024).describe('tokens per sequence; longer ones are cut, and counted'),
  truncationMode: z
    .enum(['keepStart', 'keepEnd'])
    .default('keepStart')
    .describe('which end of a sequence beyond maxLength stays'),
  maxPromptLength: z.int().min(1).optional().describe('tokens of a prompt: its last ones stay; unset: no limit'),
  completionOnlyLoss: z.boolean().default(true).describe('prompt + completion rows: train the completion only'),
  assistantOnlyLoss: z.boolean().default(true).describe('message rows: train assistant turns only'),
  untrainedRows: z
    .enum(['refuse', 'skip'])
    .default('refuse')
    .describe('what is done with rows that train no token within maxLength'),
  specialTokens: z
    .enum(['text', 'parse'])
    .default('text')
    .describe('what text that spells a special token becomes: text, or for trusted data (as in TRL) the token'),
  stepSeparator: z.string().default('\n').describe('process rewards: text behind each step'),
  trainOnLastStepOnly: z.boolean().default(false).describe('process rewards: only the last label counts'),
  revisionText: z
    .string()
    .refine((text) => text.includes('{prompt}') && text.includes('{answer}'), 'expected {prompt} and {answer} in it')
    .default(defaultRevision.text)
    .describe('SRPO: prompt that shows an answer to a text prompt; has {prompt} and {answer}'),
  revisionRequest: z
    .string()
    .default(defaultRevision.request)
    .describe('SRPO: what the user says behind an answer in a conversation'),
}

const schema = z.strictObject(encodeShape)

/** Settings as a caller gives them; all are optional. */
export type EncodeOptions = z.input<typeof schema>

/** Every setting. */
export type EncodeSettings = z.output<typeof schema>

/**
 * Settings with their defaults.
 *
 * @throws WhetstoneError E_CONFIG naming the option
 */
export const encodeSettings = (options: EncodeOptions): EncodeSettings => readConfig('data', schema, options)

/** Those of encoding among the settings of a run. */
export const encodePart = (values: EncodeOptions): EncodeOptions => membersOf(values, encodeShape)
