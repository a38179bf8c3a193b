// All settings of a trainer that learns from the model's own samples: model, prompts and rewards, and the settings of its
// recipe. Several trainers are one recipe with a method. Precedence and origins are as for trainers on rows.

import * as z from 'zod'
import { type OnlineRecipe, onlineOptions } from '../recipes/index.js'
import { taskNames } from '../tasks/index.js'
import { type Catalogue, catalogueOf } from './catalogue.js'
import type { Given } from './file.js'
import { type Resolved, resolveConfig, type Source } from './resolve.js'
import {
  joinResolved,
  type LoraSettings,
  loraGroup,
  place,
  resolveLora,
  runOptions,
  sourcesOf,
} from './run-settings.js'

/** What an online run works on. */
export const onlineRunOptions = z.strictObject({
  model: runOptions.shape.model,
  tasks: z
    .enum(taskNames as [string, ...string[]])
    .optional()
    .describe('built-in tasks with an exact checker'),
  difficulty: z.int().min(1).optional().describe('size of the tasks'),
  env: z
    .boolean()
    .optional()
    .describe('act in the environment of the tasks: samples are episodes, and what it pays is the reward'),
  data: place().optional().describe('prompts: a file of rows with `prompt`, and columns for the rewards'),
  evalData: place().optional().describe('prompts to evaluate on: a file of rows'),
  rewards: z
    .union([place(), z.array(place()).min(1)])
    .optional()
    .describe(
      'what judges samples, one or several: JavaScript modules of reward functions, samples => numbers, exported by name or as a list by default; folders of reward models',
    ),
  output: runOptions.shape.output,
  reference: runOptions.shape.reference,
  dtype: runOptions.shape.dtype,
  loadIn4bit: runOptions.shape.loadIn4bit,
  bnb4bitUseDoubleQuant: runOptions.shape.bnb4bitUseDoubleQuant,
  adapter: runOptions.shape.adapter,
  chatTemplatePath: runOptions.shape.chatTemplatePath,
  lora: runOptions.shape.lora,
})

/** What a run that compares pairs works on. */
const pairRunOptions = onlineRunOptions.extend({
  judge: place()
    .optional()
    .describe(
      'in place of rewards: a JavaScript module whose function judges pairs, pairs => probabilities; folder of a model that pairReward trained',
    ),
})

/** What an online run works on, resolved. */
export type OnlineRunOptions = z.output<typeof pairRunOptions>

/** A trainer that samples. */
export interface OnlineTrainer {
  readonly description: string
  readonly recipe: OnlineRecipe
  /** Which of the recipe's methods it is. */
  readonly method?: string
  /** It compares pairs, and takes a judge of them. */
  readonly comparesPairs?: boolean
  /** It has a teacher, which is never the model itself, and needs no rewards. */
  readonly distils?: boolean
  /** It needs no rewards. */
  readonly unrewarded?: boolean
  /** It acts in the environment of its tasks, asked or not. */
  readonly acts?: boolean
  /** It has no reference, whatever its `beta`. */
  readonly untied?: boolean
}

const gradient = (method: string, description: string): OnlineTrainer => ({ description, recipe: 'grpo', method })

/** Online trainers by name. */
export const onlineTrainers: Readonly<Record<string, OnlineTrainer>> = {
  grpo: gradient('grpo', 'samples and rewards: group-relative advantages (2402.03300)'),
  rloo: gradient('rloo', 'samples and rewards: leave-one-out advantages, one ratio per sample (2402.14740)'),
  reinforce: gradient('reinforce', 'samples and rewards: advantage times log-prob, baseline of the batch'),
  drGrpo: gradient('drGrpo', 'samples and rewards: GRPO over a constant length (2503.20783)'),
  dapo: gradient('dapo', 'samples and rewards: GRPO over tokens, dynamic sampling (2503.14476)'),
  gspo: gradient('gspo', 'samples and rewards: GRPO with one ratio per sample (2507.18071)'),
  cispo: gradient('cispo', 'samples and rewards: clipped weights, unclipped gradients (2506.13585)'),
  sapo: gradient('sapo', 'samples and rewards: a soft gate in place of the clip (2511.20347)'),
  gmpo: gradient('gmpo', 'samples and rewards: geometric mean of clipped ratios (2507.20673)'),
  vespo: gradient('vespo', 'samples and rewards: soft weights of whole samples (2602.10693)'),
  onlineDpo: {
    description: 'samples and rewards: DPO on the best and the worst sample (2402.04792)',
    recipe: 'onlineDpo',
    comparesPairs: true,
  },
  onlineSimpo: {
    description: 'samples and rewards: SimPO with a likelihood term on the best and the worst sample (2411.00816)',
    recipe: 'onlineSimpo',
    untied: true,
  },
  onlineXpo: {
    description: 'samples and rewards: DPO against the reference’s samples, with a bonus for exploring (2405.21046)',
    recipe: 'onlineXpo',
    comparesPairs: true,
  },
  onlineNashMd: {
    description: 'samples and rewards: win against the mixture of policy and reference (Nash-MD, 2312.00886)',
    recipe: 'onlineNashMd',
    comparesPairs: true,
  },
  onlineGkd: {
    description: 'samples and a teacher: distillation on the student’s own samples (GKD, 2306.13649)',
    recipe: 'onlineGkd',
    distils: true,
  },
  bestOfN: {
    description: 'samples and rewards: fine-tuning on the best samples (RAFT, 2304.06767)',
    recipe: 'bestOfN',
  },
  bstar: {
    description:
      'samples and rewards: fine-tuning on right samples, explored as a balance score says (B-STaR, 2412.17256)',
    recipe: 'bstar',
  },
  still: {
    description: 'samples and rewards: the base model trained anew on all that was solved so far (STILL-2, 2412.09413)',
    recipe: 'still',
  },
  mctsDpo: {
    description: 'samples and rewards: DPO on steps that a tree search compares (MCTS-DPO, 2405.00451)',
    recipe: 'mctsDpo',
  },
  restMcts: {
    description: 'samples and rewards: fine-tuning on what a search finds, guided by a model of values (2406.03816)',
    recipe: 'restMcts',
  },
  alphaLlm: {
    description: 'samples and rewards: fine-tuning on the best answers of a search of adaptive width (2404.12253)',
    recipe: 'alphaLlm',
  },
  agentR: {
    description: 'an environment: episodes that turn back at the first error (Agent-R, 2501.11425)',
    recipe: 'agentR',
    unrewarded: true,
    acts: true,
  },
  qwenMath: {
    description: 'samples and rewards: GRPO on a checker and a reward model that is fitted between rounds (2409.12122)',
    recipe: 'qwenMath',
  },
  sharpening: {
    description: 'samples alone: fine-tuning on those that the model itself thinks best (2412.01951)',
    recipe: 'sharpening',
    unrewarded: true,
  },
  rise: {
    description: 'samples and rewards: answers after answers, weighted by their rewards (RISE, 2407.18219)',
    recipe: 'rise',
  },
  scl: {
    description: 'samples and rewards: DPO on what a review of the answer has turned (2410.04055)',
    recipe: 'scl',
  },
  cct: {
    description: 'samples and rewards: keep to right answers, mend wrong ones (confidence and critique, 2412.19513)',
    recipe: 'cct',
  },
  ledex: {
    description: 'samples and rewards: explanations of wrong answers and refined ones, paid apart (LeDex, 2405.18649)',
    recipe: 'ledex',
  },
  pit: {
    description: 'samples and rewards: better answers than those that are shown (PIT, 2310.00898)',
    recipe: 'pit',
  },
  selfRationalization: {
    description: 'samples and labels: a judge trained on its better and worse judgements (2410.05495)',
    recipe: 'selfRationalization',
    unrewarded: true,
  },
  ilf: {
    description: 'samples and rewards: drafts refined by feedback on them, learned without it (ILF, 2303.16755)',
    recipe: 'ilf',
  },
  critiqueInLoop: {
    description: 'samples and rewards: critiques of wrong answers, the base trained anew on what is right (2411.16579)',
    recipe: 'critiqueInLoop',
  },
  smart: {
    description: 'samples and rewards: the strategy that works is learned to come first (SMART, 2410.16128)',
    recipe: 'smart',
  },
  autoCei: {
    description: 'samples and rewards: answers that may be refusals, worth more after more work (Auto-CEI, 2410.07627)',
    recipe: 'autoCei',
  },
  upo: {
    description: 'samples, rewards and an estimator: DPO on pairs that it is sure of (UPO, 2409.11212)',
    recipe: 'upo',
    comparesPairs: true,
  },
  score: {
    description: 'samples and rewards: two attempts, the second corrects the first (2409.12917)',
    recipe: 'score',
  },
}

function schemaOf({ recipe, method }: OnlineTrainer): z.ZodObject {
  const { method: _, ...shape } = onlineOptions[recipe].shape as z.ZodRawShape
  return method === undefined ? onlineOptions[recipe] : z.strictObject(shape)
}

const runSchemaOf = ({ comparesPairs }: OnlineTrainer) => (comparesPairs === true ? pairRunOptions : onlineRunOptions)

/** The settings of an online trainer. */
export const onlineCatalogue = (trainer: string): Catalogue => {
  const { method } = onlineTrainers[trainer]
  const catalogue = catalogueOf([
    { name: '', title: 'Model, prompts, rewards and output', schema: runSchemaOf(onlineTrainers[trainer]) },
    { name: '', title: `Settings of ${trainer}`, schema: schemaOf(onlineTrainers[trainer]) },
    loraGroup,
  ])
  return method === undefined ? catalogue : { ...catalogue, fixed: { method } }
}

/** An online run as it was asked for. */
export interface OnlineSettings {
  readonly run: OnlineRunOptions
  /** For the recipe: its settings and where each came from. */
  readonly sources: readonly Source[]
  readonly values: Readonly<Record<string, unknown>>
  /** Settings of a fresh adapter; none: all weights are trained. */
  readonly lora: LoraSettings | undefined
  /** Every setting by its name. */
  readonly all: Resolved<Readonly<Record<string, unknown>>>
}

/**
 * Puts defaults and what was given together.
 *
 * @param given in the order of their precedence, the last one wins
 * @throws WhetstoneError E_CONFIG naming the setting, where it came from, what was expected and what came
 */
export function resolveOnline(trainer: string, catalogue: Catalogue, given: readonly Given[]): OnlineSettings {
  const [runGroup, own] = catalogue.groups
  const { recipe, method } = onlineTrainers[trainer]
  const fixed: Source[] = method === undefined ? [] : [{ origin: `trainer ${trainer}`, values: { method } }]
  const sources = [...fixed, ...sourcesOf(given, own)]
  const what = resolveConfig<z.ZodRawShape>(
    runSchemaOf(onlineTrainers[trainer]),
    sourcesOf(given, runGroup),
  ) as Resolved<OnlineRunOptions>
  const lora = resolveLora(what.values, given)
  const settings = resolveConfig<z.ZodRawShape>(onlineOptions[recipe], sources)
  return {
    run: what.values,
    sources,
    values: settings.values,
    lora: lora?.values,
    all: joinResolved([['', what], ['', settings], ...(lora === undefined ? [] : ([['lora.', lora]] as const))]),
  }
}
