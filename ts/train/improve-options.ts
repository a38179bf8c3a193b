// Settings of the main job, with presets that make each task a matter of minutes on two cores.

import * as z from 'zod'
import { optimizerShape } from './config/options.js'
import { taskNames } from './tasks/index.js'

const count = (least = 0) => z.int().min(least)

/** Settings of `whetstone improve`. */
export const improveOptions = z.strictObject({
  task: z
    .enum(taskNames as [string, ...string[]])
    .default('arithmetic')
    .describe('what the model learns'),
  difficulty: count(1).default(3).describe('size of the task: digits, numbers, operations or instructions'),
  seed: count().default(1).describe('key of every random choice'),
  hiddenSize: count(16).default(128).describe('channels of the model'),
  layers: count(1).default(4).describe('layers of the model'),
  heads: count(1).default(4).describe('attention heads'),
  intermediateSize: count(16).default(384).describe('inner size of the MLP'),
  sftTasks: count(1).default(1000).describe('solved tasks of the warm-up'),
  sftSteps: count(1).default(400).describe('optimizer steps of the warm-up'),
  sftLearningRate: z.number().min(0).default(2e-3).describe('peak learning rate of the warm-up'),
  rounds: count(1).default(6).describe('rounds of self-training'),
  tasksPerRound: count(1).default(1024).describe('new tasks in each round'),
  numGenerations: count(1).default(4).describe('samples per task'),
  temperature: z.number().positive().default(0.9).describe('sampling temperature'),
  topP: z.number().positive().max(1).default(1).describe('nucleus mass'),
  perTask: count(1).default(1).describe('best samples to keep per task'),
  kappa: z.number().min(0).default(0.05).describe('weight of KL(prior || policy)'),
  stepsPerRound: count(1).default(60).describe('optimizer steps in each round'),
  batchSize: count(1).default(64).describe('rows per optimizer step'),
  ...optimizerShape,
  learningRate: z.number().min(0).default(1e-3).describe('peak learning rate of rounds and control'),
  lrSchedulerType: optimizerShape.lrSchedulerType.default('cosine'),
  warmupSteps: count().default(20).describe('optimizer steps from rate 0 to the peak, in each phase'),
  weightDecay: z.number().min(0).default(0.1).describe('decoupled weight decay, on matrices only'),
  heldOut: count(100).default(1024).describe('held-out tasks of the three evaluations'),
  evalTasks: count(1).default(256).describe('held-out tasks of the evaluation behind each round'),
  samples: count().default(8).describe('samples to show per evaluation'),
})

/** Resolved settings of the main job. */
export type ImproveOptions = z.output<typeof improveOptions>

/** Settings that suit each task: a warm-up that leaves room to grow, and minutes on two cores. */
export const taskPresets: Readonly<Record<string, Partial<ImproveOptions>>> = {
  arithmetic: { difficulty: 3, sftTasks: 220, sftSteps: 250, rounds: 8, tasksPerRound: 512, stepsPerRound: 50 },
  countdown: {
    difficulty: 3,
    sftTasks: 1500,
    sftSteps: 500,
    rounds: 6,
    tasksPerRound: 900,
    numGenerations: 8,
    stepsPerRound: 80,
  },
  chains: { difficulty: 4, sftTasks: 1500, sftSteps: 300, rounds: 6, tasksPerRound: 512, stepsPerRound: 50 },
  sorting: { difficulty: 5, sftTasks: 1500, sftSteps: 500, rounds: 6, tasksPerRound: 512, stepsPerRound: 50 },
  programs: {
    difficulty: 7,
    sftTasks: 1200,
    sftSteps: 600,
    rounds: 6,
    tasksPerRound: 256,
    numGenerations: 16,
    stepsPerRound: 20,
    heldOut: 256,
  },
}
