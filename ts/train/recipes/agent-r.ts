// Agent-R (Yuan et al. 2025, arXiv 2501.11425; code bytedance/Agent-R): an agent learns to notice its first mistake in the middle of an
// episode, and to go on rightly. Each round searches a tree of actions for each task (UCB1, c = 0.25, every simulation to the
// end of an episode, no rollouts), pairs ends with good >= alpha and good - bad > beta, finds the first error of the bad one,
// and trains the likelihood of splices and of good episodes; alpha rises by the round.
//   splice = bad steps up to the first error (no loss), a word of revision, the good way (loss on both)
// The first error is the actor's own: shown the episode up to a step, which of good, bad and uncertain is most probable. `exactVerdicts`
// asks the environment instead, which is ground truth.
// Ours differs: the way back is part of the splice, an undo for each bad step, and all of it is played in the world, so that a splice is
// an episode that could happen (theirs goes on from where the two part although the world has moved on). So the world needs an
// undo. Errors are looked for behind the parting alone; where there is none the cut is at the end. `good >= alpha`, as
// an alpha of 1 would keep nothing else; of equals the search takes the first, not a random one; a few pairs of a prompt are
// drawn, where the paper takes all; no chats are mixed in. alpha, beta, 8 simulations and 3 rounds are recalled. Evaluations also begin with random actions.

import * as z from 'zod'
import { sft } from '../../loss/index.js'
import { WhetstoneError } from '../../src/base/errors.js'
import { mean } from '../../src/base/stats.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { AgentRInput } from '../config/recipes.gen.js'
import type { Run } from '../events.js'
import { randomBeginning, sampleRecovery } from '../loop/episodes.js'
import { completionExamples } from '../loop/examples.js'
import { type OnlineMethod, type OnlineOptions, settingsFrom, startOnline } from '../loop/online.js'
import { actionsOf, onlineShape } from '../loop/online-shape.js'
import { isTaskSource } from '../loop/prompts.js'
import { pick } from '../loop/select.js'
import { errorByEnv, errorByVerdict, searchSplices } from '../loop/splices.js'
import { byTask, type Trace } from '../loop/trace.js'
import type { PhaseResult } from '../loop.js'
import type { Env } from '../tasks/task.js'

/** Settings of Agent-R. */
export const agentROptions = z.strictObject({
  ...onlineShape,
  learningRate: onlineShape.learningRate.default(2e-5),
  rounds: onlineShape.rounds.default(3),
  numGenerations: onlineShape.numGenerations.default(4).describe('actions tried at a state; equal ones count once'),
  maxCompletionLength: onlineShape.maxCompletionLength.default(64).describe('most new tokens of an action'),
  simulations: z.int().min(1).default(8).describe('episodes of a search'),
  explorationWeight: z.number().min(0).default(0.25).describe('c of UCB1'),
  alphas: z.array(z.number()).min(1).default([0.5, 0.7, 1]).describe('least value of a good episode, round by round'),
  beta: z.number().min(0).default(0.2).describe('a bad episode is worse by more than it'),
  splicesPerPrompt: z.int().min(0).default(2).describe('pairs of a prompt that are spliced'),
  goodPerPrompt: z.int().min(0).default(1).describe('good episodes of a prompt to train on as they are'),
  revisions: z.array(z.string().min(1)).min(1).default(['!=']).describe('actions that say that one turns back'),
  question: z.string().min(1).default('?').describe('what the actor is asked behind each step'),
  good: z.string().min(1).default('+').describe('its answer to a good step'),
  bad: z.string().min(1).default('-').describe('to a bad one'),
  uncertain: z.string().min(1).default('~').describe('where it cannot tell: counts as good'),
  exactVerdicts: z.boolean().default(false).describe('the environment says which steps are errors: ground truth'),
  beginningSteps: z.int().min(1).default(3).describe('evaluations: random actions before the policy has to recover'),
})

type Settings = z.output<typeof agentROptions>

/** What a run of Agent-R takes; the environment is that of the prompts unless another is given. */
export type AgentROptions = OnlineOptions & AgentRInput

/** Splices, and the best good episodes of each task. */
export const agentRSelect =
  (goodPerPrompt: number) =>
  (traces: readonly Trace[]): Trace[] => [
    ...traces.filter(({ scores }) => scores.splice === 1),
    ...pick({ by: 'value', perTask: goodPerPrompt })(traces.filter(({ scores }) => scores.good === 1)),
  ]

function statistics(traces: readonly Trace[]): Record<string, number> {
  const groups = byTask(traces)
  const spliced = traces.filter(({ scores }) => scores.splice === 1)
  return {
    ...(traces.some(({ scores }) => scores.value !== undefined) && {
      'search/found': mean(groups.map((group) => Number(group.some(({ scores }) => scores.value > 0)))),
      splices: spliced.length / groups.length,
      'splices/errors': mean(spliced.map(({ scores }) => scores.errors)),
    }),
  }
}

function methodOf(values: Settings, policy: LanguageModel, env: Env): OnlineMethod {
  const { alphas, promptsPerRound, splicesPerPrompt, goodPerPrompt, beginningSteps, seed } = values
  const acting = { env, sampling: actionsOf(values), maxSteps: values.maxEpisodeSteps }
  return {
    objective: sft(),
    unrewarded: true,
    acts: true,
    explore: () =>
      searchSplices({
        ...{ ...acting, simulations: values.simulations, weight: values.explorationWeight },
        alpha: (round) => alphas[Math.min(round, alphas.length) - 1],
        ...{ beta: values.beta, splicesPerTask: splicesPerPrompt, revisions: values.revisions },
        isError: values.exactVerdicts ? errorByEnv(env) : errorByVerdict(policy, values),
      }),
    exploreHeldOut: sampleRecovery({ ...acting, beginning: randomBeginning(env, beginningSteps, seed) }),
    score: () => async (traces) => [...traces],
    statistics,
    select: () => agentRSelect(goodPerPrompt),
    toExamples: completionExamples,
    examplesPerRound: promptsPerRound * (splicesPerPrompt + goodPerPrompt),
  }
}

/** What is given, or the world of the prompts. */
function envOf({ prompts, env, rewardFuncs }: AgentROptions): Env {
  const make = env ?? (isTaskSource(prompts) ? prompts.env : undefined)
  if (make === undefined)
    throw new WhetstoneError('E_CONFIG', 'env', 'expected one, or tasks that have one, such as createTask("grid")')
  if (rewardFuncs !== undefined)
    throw new WhetstoneError('E_CONFIG', 'rewardFuncs', 'expected none: rewards are those of the environment')
  return make()
}

/** Trains a policy to turn back at its first error; see {@link startOnline}. */
export const agentR = (options: AgentROptions): Run<PhaseResult> =>
  startOnline(
    options,
    (sources) => settingsFrom(agentROptions, sources),
    (values) => methodOf(values, options.policy, envOf(options)),
  )
