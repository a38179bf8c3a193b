// The settings of an adapter for the command line and config files, `lora.*`: PEFT's names in camelCase, our defaults
// (nn/lora.ts, where their meaning and their checks are).

import * as z from 'zod'
import { type LoraConfig, loraDefaults } from '../../src/nn/lora.js'

/** Names with commas between them are a list; anything else is a pattern, or `all-linear`. */
const namesOrPattern = (given: string | readonly string[]): string | readonly string[] =>
  typeof given === 'string' && /^[\w.]+(,[\w.]+)*$/.test(given) ? given.split(',') : given

const targets = z.union([z.literal('all-linear'), z.string().min(1), z.array(z.string().min(1)).min(1)])
const names = z.union([z.string().min(1), z.array(z.string().min(1))])
const perModule = z.record(z.string(), z.number().positive())

/** Settings of a fresh adapter. */
export const loraOptions = z.strictObject({
  r: z.int().min(1).default(loraDefaults.r).describe('rank of the trained additions'),
  loraAlpha: z.number().positive().default(loraDefaults.loraAlpha).describe('scale: the additions count alpha / r'),
  loraDropout: z
    .number()
    .min(0)
    .lt(1)
    .default(loraDefaults.loraDropout)
    .describe('share of inputs dropped in training'),
  targetModules: targets
    .transform(namesOrPattern)
    .default(loraDefaults.targetModules)
    .describe('linear layers that are adapted: names, or one pattern that matches whole names'),
  useRslora: z.boolean().default(loraDefaults.useRslora).describe('scale by alpha / sqrt(r) (rank-stabilised)'),
  useDora: z.boolean().default(loraDefaults.useDora).describe('train the length of each row of the weights too (DoRA)'),
  initLoraWeights: z
    .boolean()
    .default(loraDefaults.initLoraWeights)
    .describe('begin as the base model does; false: begin with random additions'),
  rankPattern: perModule.default({}).describe('other ranks, by name of module'),
  alphaPattern: perModule.default({}).describe('other alphas, by name of module'),
  modulesToSave: names
    .transform((given) => (typeof given === 'string' ? given.split(',') : given))
    .default([])
    .describe('modules that are trained whole beside the additions: embed_tokens, lm_head, norms'),
} satisfies { [K in keyof LoraConfig]: z.ZodType<LoraConfig[K]> })
