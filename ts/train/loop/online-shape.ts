// Settings that every online method has, under TRL's names, and what sampling makes of them.

import * as z from 'zod'
import { WhetstoneError } from '../../src/base/errors.js'
import {
  disableDropout,
  optimizerShape,
  referenceSyncShape,
  saveTotalLimit,
  stochasticRounding,
} from '../config/options.js'
import { harmlessText, reservedVariables } from '../data/fields.js'
import type { SampleGroupOptions } from './explore.js'

/** Variables of chat templates, as rows may have them. */
const templateVariables = z.record(
  z.string().refine((name) => !reservedVariables.includes(name), 'expected a variable of the template alone'),
  z.union([z.boolean(), z.number(), z.string().regex(harmlessText)]),
)

const count = (least = 0) => z.int().min(least)

/** Settings that every online method has. */
export const onlineShape = {
  ...optimizerShape,
  stochasticRounding,
  ...referenceSyncShape,
  learningRate: optimizerShape.learningRate.default(1e-6),
  rounds: count(1).default(100).describe('rounds of sampling and training'),
  promptsPerRound: count(1).default(8).describe('prompts of a round; each is sampled numGenerations times'),
  trainTasks: count(1).optional().describe('task sources: how many of their tasks to use; default all new ones'),
  numGenerations: count(2).default(8).describe('samples per prompt'),
  maxCompletionLength: count(1).default(256).describe('most new tokens of a sample (TRL: 512)'),
  temperature: z.number().positive().default(1).describe('sampling temperature'),
  topP: z.number().positive().max(1).default(1).describe('sampling: smallest set of tokens with this mass'),
  topK: count().default(0).describe('sampling: most probable tokens to choose from; 0: all'),
  minP: z.number().min(0).max(1).default(0).describe('sampling: least share of the largest probability'),
  repetitionPenalty: z
    .number()
    .min(1e-6)
    .max(1e6)
    .default(1)
    .describe('sampling: above 1 against tokens of the prompt and of the sample so far; training is without it'),
  stopStrings: z
    .array(z.string().min(1))
    .optional()
    .describe('texts that end a sample; rewards see what is before them. As JSON they keep blanks and commas'),
  maxEpisodeSteps: count(1).default(20).describe('environments: most actions of an episode, each a completion'),
  stopIds: z.array(count()).optional().describe('tokens that end a sample; default the end tokens of the model'),
  chatTemplateKwargs: templateVariables
    .optional()
    .describe('variables of the chat template, such as enable_thinking; those of a row go before'),
  maxRows: count(1).default(256).describe('most samples in flight at once: memory, never results'),
  rewardWeights: z.array(z.number()).optional().describe('weight of each reward function; default 1'),
  missingEosPenalty: z.number().positive().optional().describe('taken from the reward of samples that were cut off'),
  perDeviceTrainBatchSize: count(1).default(8).describe('examples per micro-batch'),
  gradientAccumulationSteps: count(1).default(1).describe('micro-batches per optimizer step'),
  numIterations: count(1).default(1).describe('passes over the samples of a round'),
  disableDropout,
  gradientCheckpointing: z.boolean().default(false).describe('recompute layers in backward: less memory, same bits'),
  saveRounds: count(1).default(1).describe('rounds between checkpoints'),
  saveTotalLimit,
  evalRounds: count().default(0).describe('rounds between evaluations on held-out prompts; 0: only at the end'),
  evalTasks: count(1)
    .optional()
    .describe('task sources: how many of their held-out tasks to evaluate on; default none'),
  numGenerationsEval: count(1).optional().describe('samples per prompt of an evaluation; default numGenerations'),
  samples: count().default(2).describe('samples to show per round'),
  seed: count().default(42).describe('key of every random choice'),
}

type Values = z.output<z.ZodObject<typeof onlineShape>>

/** Resolved settings of an online method; one may choose its temperature itself. */
export type OnlineValues = Omit<Values, 'temperature'> & Partial<Pick<Values, 'temperature'>>

/** How samples are drawn. */
export const samplingOf = (values: OnlineValues): SampleGroupOptions => ({
  numGenerations: values.numGenerations,
  maxNewTokens: values.maxCompletionLength,
  temperature: values.temperature,
  topP: values.topP,
  topK: values.topK,
  minP: values.minP,
  repetitionPenalty: values.repetitionPenalty,
  stopStrings: values.stopStrings,
  stopIds: values.stopIds,
  maxRows: values.maxRows,
})

/**
 * How actions are drawn in an environment, which says itself where they end.
 *
 * @throws WhetstoneError E_CONFIG for stop strings
 */
export function actionsOf(values: OnlineValues): Omit<SampleGroupOptions, 'stopStrings'> {
  const { stopStrings, ...sampling } = samplingOf(values)
  if (stopStrings === undefined) return sampling
  throw new WhetstoneError('E_CONFIG', 'stopStrings', 'expected none in an environment: its actionEnd ends actions')
}

/** True when sampling changes the distribution by its temperature alone: its log-probs are then those of a trainer at it. */
export const isUntruncated = ({ topP, topK, minP, repetitionPenalty }: OnlineValues): boolean =>
  topP === 1 && topK === 0 && minP === 0 && repetitionPenalty === 1
