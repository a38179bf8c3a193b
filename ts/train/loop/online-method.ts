// What an online method is: an objective, and how it explores, scores and selects. The run around it is online.ts.

import type { Objective } from '../../loss/define.js'
import type { LanguageModel } from '../../src/generate/language-model.js'
import type { Decoder } from '../../src/models/decoder.js'
import type { Task } from '../tasks/task.js'
import type { CompanionFit } from './companion.js'
import type { ToExamples } from './examples.js'
import type { Explore, SampleGroupOptions } from './explore.js'
import type { PairJudge } from './judges.js'
import type { RoundStatistics } from './metrics.js'
import type { NamedReward, RewardFunction } from './rewards.js'
import type { Score } from './score.js'
import type { Select } from './select.js'
import type { Trace } from './trace.js'

/** What a method scores samples with. */
export interface ScoreParts {
  /** The rewards of the run. */
  readonly rewards: Score
  readonly judge: PairJudge | undefined
  readonly reference: Decoder | undefined
  /** The model of the method's `companion`. */
  readonly companion: LanguageModel | undefined
}

/** What a method makes of the shared parts. */
export interface OnlineMethod {
  /** None: rounds are made and reported, nothing is trained. */
  readonly objective?: Objective
  /** What of the samples is trained, and with which advantage; default all of them. */
  readonly select?: (rewards: readonly NamedReward[]) => Select
  /** Examples of a round; default one of each of `numGenerations` samples of its prompts. */
  readonly examplesPerRound?: number
  /** Models that it samples from besides the policy: a run goes on with the same ones. */
  readonly models?: readonly Decoder[]
  /** A second model that is fitted between rounds. */
  readonly companion?: CompanionFit
  /** Log-probs that samples keep, as in {@link SampleGroupOptions}. */
  readonly logps?: SampleGroupOptions['logps']
  /** It acts in environments by an `explore` of its own. */
  readonly acts?: boolean
  /**
   * Default `numGenerations` samples of each prompt, or episodes in an environment. It may look at rewards, and at the companion,
   * while it explores.
   */
  readonly explore?: (rewards: Score, companion: LanguageModel | undefined) => Explore
  /** Further reward functions, weight 1. */
  readonly rewards?: readonly RewardFunction[]
  /** Rewards are numbers to look at: there may be none. */
  readonly unrewarded?: boolean
  /** It compares pairs, and takes a judge of them. */
  readonly comparesPairs?: boolean
  /** Refuses tasks that the method cannot work with. */
  readonly checkTasks?: (tasks: readonly Task[]) => void
  /** How an evaluation samples; default as a round. */
  readonly exploreHeldOut?: Explore
  /** How samples are scored; default by the rewards. */
  readonly score?: (parts: ScoreParts) => Score
  /** The reference is looked at in scoring, whatever the objective needs. */
  readonly needsReference?: boolean
  /** Further numbers of a round. */
  readonly statistics?: RoundStatistics
  /** Divides the logits in training; default 1. */
  readonly temperature?: number
  /** As in `iterate`. */
  readonly toExamples?: ToExamples
  readonly startFrom?: 'current' | 'base'
  readonly pool?: 'replace' | 'accumulate'
  /** Dynamic sampling: prompts that a round may try, and when it has enough. */
  readonly promptsTried?: number
  readonly enough?: (traces: readonly Trace[]) => boolean
}
