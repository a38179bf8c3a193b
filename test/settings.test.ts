// Settings of training and of online methods as users see them: docs/settings.md has every one with its default, and
// ts/train/config/settings.gen.ts has them as types with documentation, which types that zod infers do not have. Both are
// made here from the schemas.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import * as z from 'zod'
import { type LoraConfig, loraDefaults } from '../ts/src/nn/lora.js'
import { trainerDefaults } from '../ts/train/config/defaults.js'
import { loraOptions } from '../ts/train/config/lora.js'
import { trainingOptions } from '../ts/train/config/options.js'
import type {
  AgentRInput,
  AlphaLlmInput,
  AutoCeiInput,
  BestOfNInput,
  BstarInput,
  CctInput,
  CritiqueInLoopInput,
  GrpoInput,
  IlfInput,
  LedexInput,
  MctsDpoInput,
  OnlineDpoInput,
  OnlineGkdInput,
  OnlineNashMdInput,
  OnlineSimpoInput,
  OnlineXpoInput,
  PitInput,
  QwenMathInput,
  RestMctsInput,
  RiseInput,
  SclInput,
  ScoreInput,
  SelfRationalizationInput,
  SharpeningInput,
  SmartInput,
  StillInput,
  UpoInput,
} from '../ts/train/config/recipes.gen.js'
import { valueText } from '../ts/train/config/resolve.js'
import { rowTrainers } from '../ts/train/config/run-settings.js'
import type { OnlineInput, TrainingInput } from '../ts/train/config/settings.gen.js'
import { onlineShape } from '../ts/train/loop/online-shape.js'
import { onlineOptions } from '../ts/train/recipes/index.js'
import { root } from './layers-scan.js'
import {
  boundsOf,
  type Field,
  fieldsOfSchema,
  madePart,
  settingRow,
  shown,
  tableHead,
  updates,
} from './support-settings.js'

const online = z.strictObject(onlineShape)

/** What a recipe has besides the settings that all online methods share, or has with another default. */
const ownFields = (schema: z.ZodObject): [string, Field][] => {
  const common = new Map(fieldsOfSchema(online).map(([name, field]) => [name, JSON.stringify(field)]))
  return fieldsOfSchema(schema).filter(([name, field]) => common.get(name) !== JSON.stringify(field))
}

// docs/settings.md -----------------------------------------------------------------------------------------------------

const tableOf = (fields: readonly [string, Field][]): string =>
  [...tableHead, ...fields.map(([name, field]) => settingRow(name, shown(field.default), field)), ''].join('\n')

const recipes = Object.entries(onlineOptions).map(
  ([name, schema]) => `### \`recipes.${name}\`\n\n${tableOf(ownFields(schema))}`,
)

const rates = rowTrainers.map((name) => {
  const { defaults, loraDefaults } = trainerDefaults[name]
  const { learningRate, ...others } = defaults
  const rest = Object.entries(others).map(([option, value]) => `\`${option}\` ${shown(value)}`)
  return `| \`${name}\` | ${valueText(learningRate)} | ${valueText(loraDefaults?.learningRate)} | ${rest.join(', ')} |`
})

/** With the default that transformed settings do not tell their schema. */
const loraFields = fieldsOfSchema(loraOptions).map(([name, field]): [string, Field] => [
  name,
  { ...field, default: loraDefaults[name as keyof LoraConfig] },
])

const parts: Readonly<Record<string, string>> = {
  training: tableOf(fieldsOfSchema(trainingOptions)),
  rates: ['| objective | learningRate | with LoRA | else |', '|---|---|---|---|', ...rates, ''].join('\n'),
  online: tableOf(fieldsOfSchema(online)),
  recipes: recipes.join('\n'),
  lora: tableOf(loraFields),
}

for (const [name, expected] of Object.entries(parts))
  t.test(`docs/settings.md: ${name}`, async (t) => {
    t.equal((await madePart('docs/settings.md', name, expected)).made, expected)
  })

// ts/train/config/settings.gen.ts --------------------------------------------------------------------------------------

/** Fields of an object, each of which may be left out. */
const objectType = (properties: Readonly<Record<string, Field>>): string =>
  `{ ${Object.entries(properties)
    .map(([name, field]) => `readonly ${name}?: ${typeOf(field)} | undefined`)
    .join('; ')} }`

const plainTypes: Readonly<Record<string, string>> = {
  boolean: 'boolean',
  integer: 'number',
  null: 'null',
  number: 'number',
  string: 'string',
}

function typeOf(field: Field): string {
  const { anyOf, enum: words, const: only, type = '', items = {}, properties, additionalProperties } = field
  if (anyOf !== undefined) return [...new Set(anyOf.map(typeOf))].join(' | ')
  if (words !== undefined) return words.map((word) => `'${word}'`).join(' | ')
  if (only !== undefined) return `'${only}'`
  if (type === 'array') return `(${typeOf(items)})[]`.replace(/^\((\w+)\)/, '$1')
  if (properties !== undefined) return objectType(properties)
  if (typeof additionalProperties === 'object') return `Readonly<Record<string, ${typeOf(additionalProperties)}>>`
  if (Object.hasOwn(plainTypes, type)) return plainTypes[type]
  throw new Error(`no type for ${JSON.stringify(field)}`)
}

/** `peak learning rate` -> `Peak learning rate. From 0, default 2e-5.` */
function commentOf(field: Field): string {
  const fallback = field.default === undefined ? '' : `default ${shown(field.default)}`
  const facts = [boundsOf(field), fallback].filter((part) => part !== '').join(', ')
  const sentences = [field.description ?? '', facts].filter((part) => part !== '')
  return sentences.map((part) => `${part.replace(/^[a-z](?=[a-z-]*[ ,])/, (first) => first.toUpperCase())}.`).join(' ')
}

/** A type, not an interface: it may then stand for a record of values. */
const typeText = (name: string, about: string, fields: readonly [string, Field][], base = ''): string =>
  [
    `/** ${about} */`,
    `export type ${name} = ${base}{`,
    ...fields.flatMap(([option, field]) => [
      `  /** ${commentOf(field)} */`,
      `  readonly ${option}?: ${typeOf(field)} | undefined`,
    ]),
    '}',
    '',
  ].join('\n')

/** What a recipe has another default for is described anew; what it does not have is left out. */
function recipeText(name: string, about: string, schema: z.ZodObject): string {
  const fields = ownFields(schema)
  const own = new Set(fields.map(([option]) => option))
  const again = Object.keys(onlineShape).flatMap((option) =>
    own.has(option) || !Object.hasOwn(schema.shape, option) ? [`'${option}'`] : [],
  )
  const base = again.length === 0 ? 'OnlineInput' : `Omit<OnlineInput, ${again.join(' | ')}>`
  return typeText(name, about, fields, `${base} & `)
}

const made =
  '// Made by test/settings.test.ts from the schemas of settings (WHETSTONE_UPDATE_SNAPSHOTS=1). Do not edit.\n'

const types = {
  'settings.gen.ts': [
    made,
    typeText('TrainingInput', 'Settings of `train` as a caller gives them.', fieldsOfSchema(trainingOptions)),
    typeText('OnlineInput', 'Settings that all online methods share.', fieldsOfSchema(online)),
  ],
  'recipes.gen.ts': [
    made,
    "import type { OnlineInput } from './settings.gen.js'\n",
    recipeText('GrpoInput', 'Settings of policy gradients.', onlineOptions.grpo),
    recipeText('OnlineDpoInput', 'Settings of online DPO.', onlineOptions.onlineDpo),
    recipeText('OnlineXpoInput', 'Settings of XPO.', onlineOptions.onlineXpo),
    recipeText('OnlineNashMdInput', 'Settings of Nash-MD.', onlineOptions.onlineNashMd),
    recipeText('OnlineGkdInput', 'Settings of on-policy distillation.', onlineOptions.onlineGkd),
    recipeText('BestOfNInput', 'Settings of best-of-n fine-tuning.', onlineOptions.bestOfN),
    recipeText('OnlineSimpoInput', 'Settings of iterative SimPO.', onlineOptions.onlineSimpo),
    recipeText('BstarInput', 'Settings of B-STaR.', onlineOptions.bstar),
    recipeText('StillInput', 'Settings of exploring and self-improving.', onlineOptions.still),
    recipeText('MctsDpoInput', 'Settings of step-level preferences from tree search.', onlineOptions.mctsDpo),
    recipeText('RestMctsInput', 'Settings of search with a value model.', onlineOptions.restMcts),
    recipeText('AlphaLlmInput', 'Settings of search with adaptive widths.', onlineOptions.alphaLlm),
    recipeText('AgentRInput', 'Settings of Agent-R.', onlineOptions.agentR),
    recipeText('QwenMathInput', 'Settings of GRPO on a checker and a fitted reward model.', onlineOptions.qwenMath),
    recipeText('SharpeningInput', 'Settings of sharpening.', onlineOptions.sharpening),
    recipeText('RiseInput', 'Settings of RISE.', onlineOptions.rise),
    recipeText('SclInput', 'Settings of self-correction learning.', onlineOptions.scl),
    recipeText('CctInput', 'Settings of confidence and critique training.', onlineOptions.cct),
    recipeText('CritiqueInLoopInput', 'Settings of critique in the loop.', onlineOptions.critiqueInLoop),
    recipeText('SmartInput', 'Settings of SMART.', onlineOptions.smart),
    recipeText('AutoCeiInput', 'Settings of Auto-CEI.', onlineOptions.autoCei),
    recipeText('IlfInput', 'Settings of imitation learning from language feedback.', onlineOptions.ilf),
    recipeText('UpoInput', 'Settings of UPO.', onlineOptions.upo),
    recipeText('PitInput', 'Settings of PIT.', onlineOptions.pit),
    recipeText('SelfRationalizationInput', 'Settings of Self-Rationalization.', onlineOptions.selfRationalization),
    recipeText('LedexInput', 'Settings of LeDex.', onlineOptions.ledex),
    recipeText('ScoreInput', 'Settings of SCoRe.', onlineOptions.score),
  ],
} as const

t.test('types with documentation are those of the schemas', async (t) => {
  for (const [file, parts] of Object.entries(types)) {
    const path = join(root, 'ts/train/config', file)
    const text = parts.join('\n')
    if (updates) await writeFile(path, text)
    t.equal(await readFile(path, 'utf8'), text, 'an intended change: WHETSTONE_UPDATE_SNAPSHOTS=1, then compile again')
  }
})

/** True when each type takes the other's values and both have the same keys: the compiler checks it. */
type Same<A, B> = [A, keyof A, Required<A>] extends [B, keyof B, Required<B>]
  ? [B, keyof B, Required<B>] extends [A, keyof A, Required<A>]
    ? true
    : false
  : false

t.test('the compiler takes both for the same', async (t) => {
  const training: Same<TrainingInput, z.input<typeof trainingOptions>> = true
  const common: Same<OnlineInput, z.input<typeof online>> = true
  const grpo: Same<GrpoInput, z.input<typeof onlineOptions.grpo>> = true
  const onlineDpo: Same<OnlineDpoInput, z.input<typeof onlineOptions.onlineDpo>> = true
  const onlineXpo: Same<OnlineXpoInput, z.input<typeof onlineOptions.onlineXpo>> = true
  const onlineNashMd: Same<OnlineNashMdInput, z.input<typeof onlineOptions.onlineNashMd>> = true
  const onlineGkd: Same<OnlineGkdInput, z.input<typeof onlineOptions.onlineGkd>> = true
  const bestOfN: Same<BestOfNInput, z.input<typeof onlineOptions.bestOfN>> = true
  const score: Same<ScoreInput, z.input<typeof onlineOptions.score>> = true
  const onlineSimpo: Same<OnlineSimpoInput, z.input<typeof onlineOptions.onlineSimpo>> = true
  const bstar: Same<BstarInput, z.input<typeof onlineOptions.bstar>> = true
  const sharpening: Same<SharpeningInput, z.input<typeof onlineOptions.sharpening>> = true
  const mctsDpo: Same<MctsDpoInput, z.input<typeof onlineOptions.mctsDpo>> = true
  const restMcts: Same<RestMctsInput, z.input<typeof onlineOptions.restMcts>> = true
  const alphaLlm: Same<AlphaLlmInput, z.input<typeof onlineOptions.alphaLlm>> = true
  const qwenMath: Same<QwenMathInput, z.input<typeof onlineOptions.qwenMath>> = true
  const still: Same<StillInput, z.input<typeof onlineOptions.still>> = true
  const rise: Same<RiseInput, z.input<typeof onlineOptions.rise>> = true
  const scl: Same<SclInput, z.input<typeof onlineOptions.scl>> = true
  const cct: Same<CctInput, z.input<typeof onlineOptions.cct>> = true
  const critiqueInLoop: Same<CritiqueInLoopInput, z.input<typeof onlineOptions.critiqueInLoop>> = true
  const smart: Same<SmartInput, z.input<typeof onlineOptions.smart>> = true
  const autoCei: Same<AutoCeiInput, z.input<typeof onlineOptions.autoCei>> = true
  const ilf: Same<IlfInput, z.input<typeof onlineOptions.ilf>> = true
  const upo: Same<UpoInput, z.input<typeof onlineOptions.upo>> = true
  const pit: Same<PitInput, z.input<typeof onlineOptions.pit>> = true
  const selfRationalization: Same<SelfRationalizationInput, z.input<typeof onlineOptions.selfRationalization>> = true
  const ledex: Same<LedexInput, z.input<typeof onlineOptions.ledex>> = true
  const known = [training, common, grpo, onlineDpo, onlineXpo, onlineNashMd, onlineGkd, bestOfN, score]
  const agentR: Same<AgentRInput, z.input<typeof onlineOptions.agentR>> = true
  const ours = [restMcts, alphaLlm, agentR, qwenMath, selfRationalization, ledex]
  const all = [
    ...known,
    onlineSimpo,
    bstar,
    still,
    mctsDpo,
    sharpening,
    rise,
    scl,
    cct,
    critiqueInLoop,
    smart,
    autoCei,
    ilf,
    ...ours,
    upo,
    pit,
  ]
  t.ok(all.every(Boolean))
})
