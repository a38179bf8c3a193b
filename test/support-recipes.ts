// Tiny runs of the online recipes: a model of two letters learns to write one of them. Run as a program it kills itself
// in the middle of a round: `node support-recipes.js RECIPE BASE FOLDER STEP`. Distillation has a teacher that writes that letter.

import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { sft } from '../ts/loss/index.js'
import { type LanguageModel, loadModel, type ModelOptions } from '../ts/src/generate/language-model.js'
import type { Run, TrainEvent } from '../ts/train/events.js'
import type { PairInput, PairJudge } from '../ts/train/loop/judges.js'
import type { RewardFunction } from '../ts/train/loop/rewards.js'
import type { Trace } from '../ts/train/loop/trace.js'
import type { PhaseResult } from '../ts/train/loop.js'
import { recipes } from '../ts/train/recipes/index.js'
import { makeTaskModel } from '../ts/train/task-model.js'
import { train } from '../ts/train/train.js'

/** Prompts of the runs, with a column that a reward may look at, and completions for distillation. */
export const prompts = ['a=', 'b=', 'aa=', 'ab=', 'ba=', 'bb='].map((prompt) => ({
  prompt,
  wanted: 'b',
  completion: 'bbbb',
}))

/** Writes the two-letter model. */
export const makeTwoLetters = (folder: string): Promise<void> =>
  makeTaskModel(folder, { characters: 'ab=' } as never, {
    seed: 7,
    hiddenSize: 16,
    layers: 1,
    heads: 2,
    intermediateSize: 32,
  })

/** Run that trained the teacher of a base. */
const teacherOf = (base: string): string => `${base}-teacher`

/** Writes beside the two-letter model one that has learned the completions of the prompts. */
export async function makeTeacher(base: string): Promise<void> {
  using policy = await loadModel(base)
  const settings = { learningRate: 2e-2, maxSteps: 40, lrSchedulerType: 'constant' } as const
  await train({ policy, objective: sft(), data: prompts, output: teacherOf(base), ...settings }).result
}

/** Share of a completion that is the wanted letter; an empty completion has none. */
export const share: RewardFunction = function share({ completions, rows }) {
  return completions.map((text, i) => [...text].filter((c) => c === rows[i].wanted).length / Math.max(4, text.length))
}

/** The same, later: asynchronous rewards are awaited. */
export const later: RewardFunction = async (input) => {
  await new Promise((resolve) => setTimeout(resolve, 1))
  return share(input)
}

const wanted = (text: string): number => [...text].filter((c) => c === 'b').length

/** An estimator that counts the letter as well, and is less sure of one draw in four. */
export const estimator: PairJudge = Object.assign(
  function counts({ completions }: PairInput) {
    return completions.map(([a, b]) => 1 / (1 + Math.exp(wanted(b) - wanted(a))))
  },
  {
    sample: async ({ completions }: PairInput, { passes }: { readonly passes: number }) =>
      completions.map(([a, b]) =>
        Array.from(
          { length: passes },
          (_, t) => 1 / (1 + Math.exp((wanted(b) - wanted(a)) * (t % 4 === 0 ? 0.25 : 1))),
        ),
      ),
  },
)

const shared = {
  learningRate: 1e-2,
  lrSchedulerType: 'constant',
  rounds: 12,
  promptsPerRound: 4,
  maxCompletionLength: 4,
  seed: 3,
  rewardFuncs: [share],
  prompts,
} as const

/** Settings of each recipe that make it learn within a second or two. */
export const settings = {
  grpo: { ...shared, numGenerations: 8, perDeviceTrainBatchSize: 8, gradientAccumulationSteps: 2 },
  onlineDpo: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 2, temperature: 1 },
  onlineXpo: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 8, temperature: 1 },
  onlineNashMd: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 8, temperature: 1, beta: 0.01 },
  onlineGkd: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 8, temperature: 1, lmbda: 0.7 },
  bestOfN: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 2 },
  onlineSimpo: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 2, temperature: 1 },
  bstar: {
    ...shared,
    numGenerations: 8,
    perDeviceTrainBatchSize: 4,
    temperatures: [0.8, 1.2],
    balancePrompts: 2,
    rightAt: 0.5,
    wantedPerPrompt: 2,
  },
  mctsDpo: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 6, stepEnd: 'b', maxSteps: 3, simulations: 2 },
  still: {
    ...shared,
    numGenerations: 8,
    perDeviceTrainBatchSize: 8,
    perPrompt: 4,
    right: 0.25,
    skipSolved: false,
    maskTruncatedCompletions: false,
  },
  sharpening: { ...shared, numGenerations: 8, perDeviceTrainBatchSize: 2, selfReward: 'meanLogps' },
  rise: { ...shared, numGenerations: 1, branches: 4, perDeviceTrainBatchSize: 4, instruction: '=' },
  scl: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 8, temperature: 1, instruction: '=' },
  cct: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 16, right: 0.5, instruction: '=' },
  critiqueInLoop: {
    ...shared,
    numGenerations: 4,
    perDeviceTrainBatchSize: 4,
    temperature: 1,
    right: 0.25,
    startFrom: 'current',
    critiqueRequest: '=',
    refineRequest: '=',
    perPrompt: 1,
  },
  smart: {
    ...shared,
    numGenerations: 4,
    perDeviceTrainBatchSize: 8,
    right: 0.5,
    strategies: ['a', 'b'],
    retry: '=',
  },
  autoCei: {
    ...shared,
    learningRate: 1e-2,
    numGenerations: 4,
    perDeviceTrainBatchSize: 16,
    refusal: 'a',
    stepEnd: 'b',
    right: 0.25,
    roundsPerTrial: 2,
  },
  ilf: {
    ...shared,
    numGenerations: 4,
    perDeviceTrainBatchSize: 8,
    refinements: 3,
    selectBy: 'reward',
    questions: ['='],
    yes: 'b',
    no: 'a',
    refineRequest: '=',
    feedback: ({ segments }: Trace) => (segments[1].text === 'bbbb' ? undefined : 'a'),
  },
  upo: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 2, judge: estimator, easyShare: 1, learningRate: 2e-2 },
  pit: {
    ...shared,
    numGenerations: 8,
    perDeviceTrainBatchSize: 16,
    beta: 0.001,
    shownColumns: ['wanted'],
    revisionText: '{prompt}{answer}=',
  },
  ledex: {
    ...shared,
    numGenerations: 2,
    perDeviceTrainBatchSize: 16,
    temperature: 1,
    explanations: 4,
    beta: 0.001,
    right: 1,
    explainRequest: '=',
    refineRequest: '=',
  },
  score: { ...shared, numGenerations: 4, perDeviceTrainBatchSize: 8, stageOneRounds: 3, alpha: 1, instruction: '=' },
} as const

export type RecipeName = keyof typeof settings

/** How a run differs from the usual one. */
export interface RecipeRun {
  readonly base: string
  readonly load?: ModelOptions
  readonly options?: Readonly<Record<string, unknown>>
  readonly onEvent?: (event: TrainEvent, policy: LanguageModel) => void
  /** Called with what was trained. */
  readonly behind?: (policy: LanguageModel) => Promise<void>
}

/** What a run gives. */
export interface RecipeOutcome extends PhaseResult {
  readonly hash: string
  readonly events: readonly TrainEvent[]
  /** Mean reward by round; of distillation by those on the student's own samples, of a search over all that was tried. */
  readonly rewards: readonly number[]
}

/** Runs a recipe; equal settings give equal bits. */
export async function runRecipe(
  name: RecipeName,
  { base, load, options, onEvent, behind }: RecipeRun,
): Promise<RecipeOutcome> {
  using policy = await loadModel(base, load)
  using prior = await loadModel(name === 'onlineGkd' ? teacherOf(base) : base)
  const recipe = recipes[name] as (options: unknown) => Run<PhaseResult>
  const run = recipe({ policy, reference: prior.decoder, ...settings[name], ...options })
  const events: TrainEvent[] = []
  const following = (async () => {
    for await (const event of run) {
      events.push(event)
      onEvent?.(event, policy)
    }
  })()
  const result = await Promise.all([run.result, following]).then(([first]) => first)
  await behind?.(policy)
  const hash = createHash('sha256')
  for (const flat of Object.values(policy.decoder.parameters.flat)) hash.update((await flat.bits()) as Float32Array)
  const rewards = events.flatMap((event) =>
    event.type === 'round' && event.values.onPolicy !== 0 ? (event.values['search/tried'] ?? event.values.reward) : [],
  )
  return { ...result, hash: hash.digest('hex'), events, rewards }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , name, base, output, step] = process.argv
  let calls = 0
  const killing: RewardFunction = function share_(input) {
    // Rewards are asked once per round: in the round behind `step` calls the run dies.
    if (calls++ === Number(step)) process.kill(process.pid, 'SIGKILL')
    return share(input)
  }
  Object.defineProperty(killing, 'name', { value: 'share' })
  await runRecipe(name as RecipeName, { base, options: { output, rewardFuncs: [killing] } })
}
