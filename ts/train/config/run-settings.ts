// All settings of a trainer on rows: what to train and on what, `trainingOptions`, the objective's own, `lora.*`.
// Command line beats config file beats the objective's defaults beats the common ones; every value keeps its origin.

import * as z from 'zod'
import type { Objective } from '../../loss/define.js'
import { objectives } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { didYouMean } from '../../src/base/spelling.js'
import { kindOf } from '../data/encoders.js'
import { type Catalogue, catalogueOf, type Group } from './catalogue.js'
import { trainerDefaults } from './defaults.js'
import type { Given } from './file.js'
import { loraOptions } from './lora.js'
import { type TrainingOptions, trainingOptions } from './options.js'
import { type Resolved, resolveConfig, type Source } from './resolve.js'

type AnyResolved = Resolved<Readonly<Record<string, unknown>>>

/** A file or folder. The empty text of an unset shell variable is none. */
export const place = () => z.string().min(1, 'expected the name of a file or folder')

/** What a run works on. */
export const runOptions = z.strictObject({
  model: place().describe('folder to start from: Hugging Face, or a run (its newest checkpoint)'),
  data: place().optional().describe('file of rows: .jsonl, .json, .csv, .tsv or .parquet'),
  evalData: place().optional().describe('file of rows to evaluate on'),
  output: place().optional().describe('run folder'),
  reference: place().optional().describe('folder of the frozen model, or a run; default the model as it starts'),
  dtype: z.enum(['f32', 'bf16']).optional().describe('type of weights and arithmetic; default what the weights are'),
  loadIn4bit: z
    .boolean()
    .optional()
    .describe('hold the matrices of the layers in four bits (NF4), frozen: the base of QLoRA, beside lora or adapter'),
  bnb4bitUseDoubleQuant: z
    .boolean()
    .optional()
    .describe('quantise the absmax of their blocks too: 4.127 bits per weight in place of 4.5'),
  adapter: place().optional().describe('PEFT folder of an adapter to go on with, or a run that trained one'),
  chatTemplatePath: place()
    .optional()
    .describe("Jinja file, or folder of a tokenizer, with a chat template in place of the model's own"),
  lora: z
    .boolean()
    .optional()
    .describe('train a fresh adapter (LoRA) and leave the weights alone; any lora.* says so too'),
  limit: z.int().min(1).optional().describe('use the first rows only'),
})

/** What a run works on, resolved. */
export type RunOptions = z.output<typeof runOptions>

/** In how many bits models are loaded. */
export const quantizationOf = ({
  loadIn4bit,
  bnb4bitUseDoubleQuant,
}: Pick<RunOptions, 'loadIn4bit' | 'bnb4bitUseDoubleQuant'>) => ({ loadIn4bit, bnb4bitUseDoubleQuant })

/**
 * The maker of an objective.
 *
 * @throws WhetstoneError E_CONFIG for an unknown name
 */
export function objectiveMaker(name: string) {
  if (Object.hasOwn(objectives, name)) return objectives[name]
  const known = Object.keys(objectives)
  const message = `expected one of ${known.join(', ')}, got '${name}'${didYouMean(name, known)}`
  throw new WhetstoneError('E_CONFIG', 'objective', message)
}

const run: Group = { name: '', title: 'Model, data and output', schema: runOptions }
const training: Group = { name: '', title: 'Training', schema: trainingOptions }

/** Trainers on rows: objectives with defaults of their own, but for those over samples of the policy. */
export const rowTrainers = Object.keys(trainerDefaults).filter(
  (name) => Object.hasOwn(objectives, name) && kindOf(objectives[name]().needs) !== undefined,
)

/** The group of `lora.*`. */
export const loraGroup: Group = { name: 'lora', title: 'LoRA', schema: loraOptions, prefixed: true }

const ownGroup = (objective: string): Group => ({
  name: objective,
  title: `Settings of ${objective}`,
  schema: objectiveMaker(objective).settings,
})

/** The settings of `train OBJECTIVE`. */
export const runCatalogue = (objective: string): Catalogue =>
  catalogueOf([run, training, ownGroup(objective), loraGroup])

/** Settings of a fresh adapter, resolved. */
export type LoraSettings = z.output<typeof loraOptions>

/** A run as it was asked for. */
export interface RunSettings {
  readonly run: RunOptions
  readonly training: TrainingOptions
  /** For `train({ sources })`: the common settings and where each came from. */
  readonly sources: readonly Source[]
  readonly objective: Objective
  /** Settings of a fresh adapter; none: all weights are trained. */
  readonly lora: LoraSettings | undefined
  /** Every setting by its path. */
  readonly all: Resolved<Readonly<Record<string, unknown>>>
}

/** Defaults of the objective, as sources. */
export function defaultSources(objective: string, lora: boolean): Source[] {
  const { defaults = {}, loraDefaults = {} } = trainerDefaults[objective] ?? {}
  const own: Source = { origin: `default of ${objective}`, values: defaults }
  return lora ? [own, { origin: `default of ${objective} with LoRA`, values: loraDefaults }] : [own]
}

/** What was given of a group, as sources. */
export const sourcesOf = (given: readonly Given[], group: Group): Source[] =>
  given
    .filter(({ setting }) => setting.group.schema === group.schema)
    .map(({ setting, value, origin }) => ({ origin, values: { [setting.key]: value } }))

/**
 * Puts defaults and what was given together.
 *
 * @param given in the order of their precedence, the last one wins
 * @param adapted the model's folder is that of an adapter, which is then trained
 * @throws WhetstoneError E_CONFIG naming the setting, where it came from, what was expected and what came
 */
export function resolveRun(
  objective: string,
  catalogue: Catalogue,
  given: readonly Given[],
  adapted = false,
): RunSettings {
  const [runGroup, trainingGroup, own] = catalogue.groups
  const what = resolveConfig(runOptions, sourcesOf(given, runGroup))
  const lora = resolveLora(what.values, given)
  const sources = [
    ...defaultSources(objective, adapted || lora !== undefined || what.values.adapter !== undefined),
    ...sourcesOf(given, trainingGroup),
  ]
  const common = resolveConfig(trainingOptions, sources)
  const ownSources = sourcesOf(given, own)
  const settings = resolveConfig(own.schema, ownSources, (key) => spelled(catalogue, own, key))
  const make = objectiveMaker(objective)
  return {
    run: what.values,
    training: common.values,
    sources,
    objective: make(settings.values as never),
    lora: lora?.values,
    all: joinResolved([
      ['', what],
      ['', common],
      [`${objective}.`, settings],
      ...(lora === undefined ? [] : ([['lora.', lora]] as const)),
    ]),
  }
}

/**
 * Settings of a fresh adapter, when one is asked for by `lora` or by any `lora.*`.
 *
 * @throws WhetstoneError E_CONFIG for settings of an adapter that is not to be
 */
export function resolveLora(
  { lora, adapter }: { readonly lora?: boolean; readonly adapter?: string },
  given: readonly Given[],
): Resolved<LoraSettings> | undefined {
  const sources = sourcesOf(given, loraGroup)
  const [first] = sources
  if (lora === false || adapter !== undefined) {
    const what = adapter === undefined ? 'lora is false' : 'an adapter is given, which has settings of its own'
    if (first === undefined && lora !== true) return undefined
    throw new WhetstoneError('E_CONFIG', '--lora', `expected no settings of a fresh adapter: ${what}`)
  }
  if (lora === undefined && first === undefined) return undefined
  return resolveConfig(loraOptions, sources, (key) => `lora.${key}`)
}

const spelled = ({ settings }: Catalogue, group: Group, key: string): string =>
  settings.find((setting) => setting.group === group && setting.key === key)?.shortest ?? key

/** Parts of a configuration as one, their names behind a prefix. */
export function joinResolved(parts: readonly (readonly [prefix: string, AnyResolved])[]): AnyResolved {
  const named = (pick: (part: AnyResolved) => Readonly<Record<string, unknown>>) =>
    Object.fromEntries(
      parts.flatMap(([prefix, part]) => Object.entries(pick(part)).map(([key, value]) => [prefix + key, value])),
    )
  return { values: named((part) => part.values), origins: named((part) => part.origins) as Record<string, string> }
}
