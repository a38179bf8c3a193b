// Made by test/settings.test.ts from the schemas of settings (WHETSTONE_UPDATE_SNAPSHOTS=1). Do not edit.

import type { OnlineInput } from './settings.gen.js'

/** Settings of policy gradients. */
export type GrpoInput = OnlineInput & {
  /** Objective, advantages and defaults. Default `grpo`. */
  readonly method?: 'grpo' | 'rloo' | 'reinforce' | 'drGrpo' | 'dapo' | 'gspo' | 'cispo' | 'sapo' | 'gmpo' | 'vespo' | undefined
  /** Weight of the KL estimate; 0: no reference is needed. From 0, default `0`. */
  readonly beta?: number | undefined
  /** clip: largest ratio of the unclipped branch. Above 0. */
  readonly delta?: number | undefined
  /** clip: bound of the loss where the advantage is negative. Above 1. */
  readonly dualClip?: number | undefined
  /** Estimate of the KL (kl.ts); TRL multiplies k3 with the ratio: rhoK3. Default `k3`. */
  readonly klEstimator?: 'k3' | 'k1' | 'k2' | 'rhoK3' | 'k3StraightThrough' | undefined
  /** Weight of the entropy, which is a bonus. From 0, default `0`. */
  readonly entropyCoef?: number | undefined
  /** Drop sequences with A < 0 and mean(old - l) above this. */
  readonly offPolicyMaskThreshold?: number | undefined
  /** sapo: temperature for positive advantages. Above 0, default `1`. */
  readonly sapoTemperaturePos?: number | undefined
  /** sapo: temperature for the others. Above 0, default `1.05`. */
  readonly sapoTemperatureNeg?: number | undefined
  /** vespo: power of the ratio where the advantage is not negative. From 0, default `2`. */
  readonly vespoKPos?: number | undefined
  /** vespo: decay with the ratio there. Above 0, default `3`. */
  readonly vespoLambdaPos?: number | undefined
  /** vespo: power of the ratio where the advantage is negative. From 0, default `3`. */
  readonly vespoKNeg?: number | undefined
  /** vespo: decay with the ratio there. Above 0, default `2`. */
  readonly vespoLambdaNeg?: number | undefined
  /** Train this share of the tokens, those of the highest entropy in the step (2506.01939). From 0 to 1, default `1`. */
  readonly topEntropyQuantile?: number | undefined
  /** Clip below 1 - epsilon; default the method’s. Above 0. */
  readonly epsilon?: number | undefined
  /** Clip above 1 + epsilonHigh; cispo: the cap. Above 0. */
  readonly epsilonHigh?: number | undefined
  /** Ratio of what to what. */
  readonly importanceSamplingLevel?: 'token' | 'sequence' | 'sequenceSum' | undefined
  /** From tokens to one loss; default the method’s. */
  readonly lossType?: 'grpo' | 'bnpo' | 'dapo' | 'drGrpo' | 'luspo' | undefined
  /** Divide advantages by the deviation of group, batch, or nothing. */
  readonly scaleRewards?: 'group' | 'batch' | 'none' | undefined
  /** Normalise the sum of the rewards, or each of them before they are summed (GDPO, 2601.05242). Default `sumThenNormalize`. */
  readonly multiObjectiveAggregation?: 'sumThenNormalize' | 'normalizeThenSum' | undefined
  /** Bounds of the summed reward. */
  readonly rewardClipRange?: number[] | undefined
  /** Normalise advantages over the round. Default `false`. */
  readonly normalizeAdvantages?: boolean | undefined
  /** Replace prompts whose samples tie; default: dapo. */
  readonly dynamicSampling?: boolean | undefined
  /** Dynamic sampling: rounds of prompts that a round may try. From 1, default `4`. */
  readonly maxResamples?: number | undefined
  /** Do not train samples that were cut off; default: dapo. */
  readonly maskTruncatedCompletions?: boolean | undefined
  /** Tokens before maxCompletionLength that are punished; 0: none. From 0, default `0`. */
  readonly softPunishCache?: number | undefined
}

/** Settings of online DPO. */
export type OnlineDpoInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `2`. */
  readonly numGenerations?: number | undefined
  /** Sampling temperature. Above 0, default `0.9`. */
  readonly temperature?: number | undefined
  /** Strength of the tie to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
  /** As in DPO; ipo of TRL’s OnlineDPOConfig is ipoSum. Default `sigmoid`. */
  readonly lossType?: 'sigmoid' | 'hinge' | 'ipo' | 'ipoSum' | 'robust' | 'exoPair' | undefined
  /** Share of wrong labels. From 0 below 0.5, default `0`. */
  readonly labelSmoothing?: number | undefined
}

/** Settings of XPO. */
export type OnlineXpoInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'maxCompletionLength' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Pairs per prompt: samples of the policy, and of the rival. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** Most new tokens of a sample. From 1, default `64`. */
  readonly maxCompletionLength?: number | undefined
  /** Sampling temperature. Above 0, default `0.9`. */
  readonly temperature?: number | undefined
  /** Strength of the tie to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
  /** Weight of the exploration bonus. From 0, default `1e-5`. */
  readonly alpha?: number | undefined
  /** Link of the margin. Default `sigmoid`. */
  readonly lossType?: 'sigmoid' | 'ipo' | undefined
}

/** Settings of Nash-MD. */
export type OnlineNashMdInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'maxCompletionLength' | 'temperature' | 'repetitionPenalty'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Pairs per prompt: samples of the policy, and of the rival. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** Most new tokens of a sample. From 1, default `64`. */
  readonly maxCompletionLength?: number | undefined
  /** Sampling temperature. Above 0, default `0.9`. */
  readonly temperature?: number | undefined
  /** 1: tokens of the mixture are drawn without a penalty. From 1 to 1, default `1`. */
  readonly repetitionPenalty?: number | undefined
  /** Weight of the KL to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
  /** Share of the reference in the mixture’s logits. From 0 to 1, default `0.5`. */
  readonly mixtureCoef?: number | undefined
}

/** Settings of on-policy distillation. */
export type OnlineGkdInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'maxCompletionLength' | 'temperature'> & {
  /** Peak learning rate. From 0, default `2e-5`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt; the data has one completion. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** Most new tokens of a sample. From 1, default `128`. */
  readonly maxCompletionLength?: number | undefined
  /** Sampling temperature. Above 0, default `0.9`. */
  readonly temperature?: number | undefined
  /** Share of rounds on the student’s own samples. From 0 to 1, default `0.5`. */
  readonly lmbda?: number | undefined
  /** Other rounds: samples of the teacher, in place of the data. Default `false`. */
  readonly seqKd?: boolean | undefined
  /** Weight of the teacher in the mixture; 0 and 1 are the two KLs. From 0 to 1, default `0.5`. */
  readonly beta?: number | undefined
}

/** Settings of best-of-n fine-tuning. */
export type BestOfNInput = Omit<OnlineInput, 'learningRate'> & {
  /** Peak learning rate. From 0, default `2e-5`. */
  readonly learningRate?: number | undefined
  /** Best samples of a prompt to train on. From 1, default `1`. */
  readonly perPrompt?: number | undefined
  /** Least reward of a sample to be trained on; default none. */
  readonly threshold?: number | undefined
  /** Weight of KL(reference || policy); 0: no reference is needed. From 0, default `0`. */
  readonly kappa?: number | undefined
}

/** Settings of iterative SimPO. */
export type OnlineSimpoInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `3`. */
  readonly numGenerations?: number | undefined
  /** Sampling temperature. Above 0, default `0.4`. */
  readonly temperature?: number | undefined
  /** Scale of the mean log-probs. Above 0, default `2`. */
  readonly beta?: number | undefined
  /** Margin that the chosen side must win by. Default `1`. */
  readonly gamma?: number | undefined
  /** Share of wrong labels. From 0 below 0.5, default `0`. */
  readonly labelSmoothing?: number | undefined
  /** Weight of the NLL of the chosen side. From 0, default `1`. */
  readonly sftWeight?: number | undefined
}

/** Settings of B-STaR. */
export type BstarInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-6`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `64`. */
  readonly numGenerations?: number | undefined
  /** Sampling temperatures to choose from. Default `[0.5,0.6,0.7,0.8,0.9,1,1.1,1.2]`. */
  readonly temperatures?: number[] | undefined
  /** Rewards to choose from: samples above one are selected. Default `[-1,-0.9,-0.8,-0.7,-0.6,-0.5,-0.4,-0.30000000000000004,-0.19999999999999996,-0.09999999999999998,0,0.10000000000000009,0.19999999999999996,0.30000000000000004,0.3999999999999999,0.5,0.6000000000000001,0.7,0.8,0.8999999999999999,1]`. */
  readonly thresholds?: number[] | undefined
  /** Prompts of a round that the temperature is chosen on. From 1, default `16`. */
  readonly balancePrompts?: number | undefined
  /** Prompts without an exact checker: least reward of a right sample. Default `1`. */
  readonly rightAt?: number | undefined
  /** Different right samples wanted of a prompt: n* of the paper. From 1, default `6`. */
  readonly wantedPerPrompt?: number | undefined
}

/** Settings of exploring and self-improving. */
export type StillInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `1e-5`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `20`. */
  readonly numGenerations?: number | undefined
  /** Least reward of a right sample. Default `1`. */
  readonly right?: number | undefined
  /** Leave out prompts all of whose samples are right. Default `true`. */
  readonly skipSolved?: boolean | undefined
  /** Which right samples of a prompt come first. Default `longest`. */
  readonly rankBy?: 'random' | 'shortest' | 'longest' | 'likely' | 'unlikely' | undefined
  /** Right samples of a prompt to train on. From 1, default `1`. */
  readonly perPrompt?: number | undefined
  /** Leave out samples that were cut off. Default `true`. */
  readonly maskTruncatedCompletions?: boolean | undefined
  /** Where the update of a round starts. Default `base`. */
  readonly startFrom?: 'base' | 'current' | undefined
  /** Train on all rounds so far, or on the last. Default `accumulate`. */
  readonly pool?: 'accumulate' | 'replace' | undefined
}

/** Settings of step-level preferences from tree search. */
export type MctsDpoInput = Omit<OnlineInput, 'numGenerations'> & {
  /** Steps tried at a node; equal ones count once. From 2, default `2`. */
  readonly numGenerations?: number | undefined
  /** Text that ends a step, part of it. Default `\n`. */
  readonly stepEnd?: string | undefined
  /** Most steps of an answer; the last one runs to its end. From 1, default `4`. */
  readonly maxSteps?: number | undefined
  /** Simulations before each move. From 1, default `8`. */
  readonly simulations?: number | undefined
  /** Simulations before the first move; default four times as many. From 1. */
  readonly firstSimulations?: number | undefined
  /** Weight of prior and visits against values. From 0, default `1`. */
  readonly explorationWeight?: number | undefined
  /** Strength of the tie to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
  /** Label smoothing of a pair by the visits of its steps. Default `true`. */
  readonly visitSmoothing?: boolean | undefined
}

/** Settings of search with a value model. */
export type RestMctsInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `2e-5`. */
  readonly learningRate?: number | undefined
  /** Steps tried at a node; equal ones count once. From 2, default `3`. */
  readonly numGenerations?: number | undefined
  /** Passes of the companion over the samples of all rounds so far. From 1, default `2`. */
  readonly companionEpochs?: number | undefined
  /** Examples per optimizer step of the companion. From 1, default `8`. */
  readonly companionBatchSize?: number | undefined
  /** Peak rate of the companion; it falls to 0. Above 0, default `2e-5`. */
  readonly companionLearningRate?: number | undefined
  /** Text that ends a step, part of it. Default `\n`. */
  readonly stepEnd?: string | undefined
  /** Most steps of an answer; the last one runs to its end. From 1, default `6`. */
  readonly maxSteps?: number | undefined
  /** Nodes of a tree that are expanded. From 1, default `16`. */
  readonly simulations?: number | undefined
  /** c: weight of visits against values. From 0, default `0.5`. */
  readonly explorationWeight?: number | undefined
  /** Steps of a rollout from the best new child; 0: none. From 0, default `1`. */
  readonly rolloutSteps?: number | undefined
  /** Part of a value that its rollout decides. From 0 to 1, default `0.5`. */
  readonly rolloutShare?: number | undefined
  /** Leave out answers that were cut off. Default `true`. */
  readonly maskTruncatedCompletions?: boolean | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** Right answers of a prompt to train on. From 1, default `2`. */
  readonly perPrompt?: number | undefined
}

/** Settings of search with adaptive widths. */
export type AlphaLlmInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `5e-6`. */
  readonly learningRate?: number | undefined
  /** Steps drawn when a node is expanded. From 2, default `2`. */
  readonly numGenerations?: number | undefined
  /** Passes of the companion over the samples of all rounds so far. From 1, default `2`. */
  readonly companionEpochs?: number | undefined
  /** Examples per optimizer step of the companion. From 1, default `8`. */
  readonly companionBatchSize?: number | undefined
  /** Peak rate of the companion; it falls to 0. Above 0, default `2e-5`. */
  readonly companionLearningRate?: number | undefined
  /** Text that ends a step, part of it. Default `\n`. */
  readonly stepEnd?: string | undefined
  /** Most steps of an answer; the last one runs to its end. From 1, default `6`. */
  readonly maxSteps?: number | undefined
  /** Expansions of a tree. From 1, default `16`. */
  readonly simulations?: number | undefined
  /** c: weight of visits against values. From 0, default `1`. */
  readonly explorationWeight?: number | undefined
  /** Children that a difference of 1 in value adds to a node. From 0, default `8`. */
  readonly widthScale?: number | undefined
  /** Least children of a node. From 1, default `2`. */
  readonly leastWidth?: number | undefined
  /** Most children of a node. From 1, default `10`. */
  readonly mostWidth?: number | undefined
  /** Steps that differ in so few characters are one. From 0, default `0`. */
  readonly mergeDistance?: number | undefined
  /** Whole answers drawn behind each new node; 0: none. From 0, default `1`. */
  readonly rolloutAnswers?: number | undefined
  /** Part of a value that these decide. From 0 to 1, default `0.5`. */
  readonly rolloutShare?: number | undefined
  /** Leave out answers that were cut off. Default `true`. */
  readonly maskTruncatedCompletions?: boolean | undefined
  /** Least reward of a right answer, for statistics. Default `1`. */
  readonly right?: number | undefined
  /** Least value of an answer to be trained on. Default `0.5`. */
  readonly threshold?: number | undefined
}

/** Settings of Agent-R. */
export type AgentRInput = Omit<OnlineInput, 'learningRate' | 'rounds' | 'numGenerations' | 'maxCompletionLength'> & {
  /** Peak learning rate. From 0, default `2e-5`. */
  readonly learningRate?: number | undefined
  /** Rounds of sampling and training. From 1, default `3`. */
  readonly rounds?: number | undefined
  /** Actions tried at a state; equal ones count once. From 2, default `4`. */
  readonly numGenerations?: number | undefined
  /** Most new tokens of an action. From 1, default `64`. */
  readonly maxCompletionLength?: number | undefined
  /** Episodes of a search. From 1, default `8`. */
  readonly simulations?: number | undefined
  /** C of UCB1. From 0, default `0.25`. */
  readonly explorationWeight?: number | undefined
  /** Least value of a good episode, round by round. Default `[0.5,0.7,1]`. */
  readonly alphas?: number[] | undefined
  /** A bad episode is worse by more than it. From 0, default `0.2`. */
  readonly beta?: number | undefined
  /** Pairs of a prompt that are spliced. From 0, default `2`. */
  readonly splicesPerPrompt?: number | undefined
  /** Good episodes of a prompt to train on as they are. From 0, default `1`. */
  readonly goodPerPrompt?: number | undefined
  /** Actions that say that one turns back. Default `["!="]`. */
  readonly revisions?: string[] | undefined
  /** What the actor is asked behind each step. Default `?`. */
  readonly question?: string | undefined
  /** Its answer to a good step. Default `+`. */
  readonly good?: string | undefined
  /** To a bad one. Default `-`. */
  readonly bad?: string | undefined
  /** Where it cannot tell: counts as good. Default `~`. */
  readonly uncertain?: string | undefined
  /** The environment says which steps are errors: ground truth. Default `false`. */
  readonly exactVerdicts?: boolean | undefined
  /** evaluations: random actions before the policy has to recover. From 1, default `3`. */
  readonly beginningSteps?: number | undefined
}

/** Settings of GRPO on a checker and a fitted reward model. */
export type QwenMathInput = Omit<OnlineInput, 'learningRate'> & {
  /** Peak learning rate. From 0, default `1e-5`. */
  readonly learningRate?: number | undefined
  /** Passes of the companion over the samples of all rounds so far. From 1, default `2`. */
  readonly companionEpochs?: number | undefined
  /** Examples per optimizer step of the companion. From 1, default `8`. */
  readonly companionBatchSize?: number | undefined
  /** Peak rate of the companion; it falls to 0. Above 0, default `2e-5`. */
  readonly companionLearningRate?: number | undefined
  /** Scale of the reward model within right and within wrong answers. From 0, default `0.5`. */
  readonly alpha?: number | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** Prompts to train on: least share of right answers. From 0 to 1, default `0.25`. */
  readonly leastRight?: number | undefined
  /** Prompts to train on: largest share of right answers. From 0 to 1, default `0.625`. */
  readonly mostRight?: number | undefined
  /** Times promptsPerRound: prompts that a round may try. From 1, default `4`. */
  readonly maxResamples?: number | undefined
  /** Weight of KL(policy || reference). From 0, default `0.001`. */
  readonly beta?: number | undefined
  /** Ratios are clipped at 1 - epsilon and 1 + epsilon. Above 0, default `0.2`. */
  readonly epsilon?: number | undefined
}

/** Settings of sharpening. */
export type SharpeningInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `2e-5`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `16`. */
  readonly numGenerations?: number | undefined
  /** Train the best sample, or regress on differences of pairs. Default `sft`. */
  readonly form?: 'sft' | 'rlhf' | undefined
  /** What the base makes of a sample: log-prob, log-prob per token, votes for its final answer. Default `logps`. */
  readonly selfReward?: 'logps' | 'meanLogps' | 'majority' | undefined
  /** Regular expression of the final answer: the last match, or its first group; default the whole sample. */
  readonly answerPattern?: string | undefined
  /** Leave out samples that were cut off. Default `true`. */
  readonly maskTruncatedCompletions?: boolean | undefined
  /** rlhf: strength of the tie to the base. Above 0, default `1`. */
  readonly beta?: number | undefined
}

/** Settings of RISE. */
export type RiseInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `1e-5`. */
  readonly learningRate?: number | undefined
  /** First answers per prompt. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** Answers of an attempt. From 2, default `2`. */
  readonly turns?: number | undefined
  /** Samples of a later answer, the best of which is kept. From 1, default `16`. */
  readonly branches?: number | undefined
  /** Temperature of the weights exp(reward / tau). Above 0, default `0.4`. */
  readonly tau?: number | undefined
  /** Which answers are trained. Default `all`. */
  readonly criterion?: 'all' | 'better' | 'best' | 'success' | undefined
  /** End an attempt at reward 1 and more: the loop knows the truth. Default `false`. */
  readonly stopAtSuccess?: boolean | undefined
  /** What is put between the answers; of conversations the user’s next message. Default `\nYour answer is incorrect. Try again.\n`. */
  readonly instruction?: string | undefined
}

/** Settings of self-correction learning. */
export type SclInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-5`. */
  readonly learningRate?: number | undefined
  /** Attempts per prompt, each with its review. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** Sampling temperature. Above 0, default `0.7`. */
  readonly temperature?: number | undefined
  /** Strength of the tie to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
  /** Weight of the NLL of the chosen answer. From 0, default `0.1`. */
  readonly sftWeight?: number | undefined
  /** What is put between the answers; of conversations the user’s next message. Default `\nReview the answer above for mistakes, then answer the question again.\n`. */
  readonly instruction?: string | undefined
}

/** Settings of confidence and critique training. */
export type CctInput = Omit<OnlineInput, 'learningRate'> & {
  /** Peak learning rate. From 0, default `5e-5`. */
  readonly learningRate?: number | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** Share of items whose first answer is right. From 0 to 1, default `0.4`. */
  readonly confidenceShare?: number | undefined
  /** Train right answers to the bare prompt, too. Default `true`. */
  readonly withFirst?: boolean | undefined
  /** What is put between the answers; of conversations the user’s next message. Default `\nAnswer the question again.\n`. */
  readonly instruction?: string | undefined
}

/** Settings of critique in the loop. */
export type CritiqueInLoopInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-6`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `5`. */
  readonly numGenerations?: number | undefined
  /** Sampling temperature. Above 0, default `0.7`. */
  readonly temperature?: number | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** Right first answers of a prompt to train on. From 1, default `5`. */
  readonly perPrompt?: number | undefined
  /** Right refined answers of a prompt to train on. From 0, default `1`. */
  readonly refinedPerPrompt?: number | undefined
  /** Critiques of a wrong answer. From 1, default `1`. */
  readonly critiques?: number | undefined
  /** Refined answers behind a critique. From 1, default `1`. */
  readonly refinements?: number | undefined
  /** Train right refined answers behind their critique, too. Default `false`. */
  readonly withRefinement?: boolean | undefined
  /** Train critiques that help, too. Default `false`. */
  readonly withCritique?: boolean | undefined
  /** Least share of right refinements of such a critique. From 0 to 1, default `0.3`. */
  readonly keepCritiqueAt?: number | undefined
  /** Where the update of a round starts. Default `base`. */
  readonly startFrom?: 'base' | 'current' | undefined
  /** Train on all rounds so far, or on the last. Default `replace`. */
  readonly pool?: 'accumulate' | 'replace' | undefined
  /** What is put behind a wrong answer; of conversations the user’s next message. Default `\nGo through the answer above step by step and say which step is wrong and why.\n`. */
  readonly critiqueRequest?: string | undefined
  /** What is put behind a critique; of conversations the user’s next message. Default `\nAnswer the question again, minding the critique.\n`. */
  readonly refineRequest?: string | undefined
}

/** Settings of SMART. */
export type SmartInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `1e-5`. */
  readonly learningRate?: number | undefined
  /** Attempts per prompt, each with its changes of strategy. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** What an answer by each strategy begins with. As JSON they keep blanks and commas. Default `["Step by step:","Subproblems:","Program:"]`. */
  readonly strategies?: string[] | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** What is put behind a wrong answer; of conversations the user’s next message. Default `\nThis is wrong. Try another way.\n`. */
  readonly retry?: string | undefined
}

/** Settings of Auto-CEI. */
export type AutoCeiInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `3e-4`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `16`. */
  readonly numGenerations?: number | undefined
  /** What a refusal ends with. Default `I don’t know.`. */
  readonly refusal?: string | undefined
  /** What ends a step of an answer. Default `\n`. */
  readonly stepEnd?: string | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** Weight of answering at all beside being right. From 0 to 1, default `0.2`. */
  readonly lambda?: number | undefined
  /** Rounds at each value of c1. From 1, default `3`. */
  readonly roundsPerTrial?: number | undefined
}

/** Settings of imitation learning from language feedback. */
export type IlfInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'topP'> & {
  /** Peak learning rate. From 0, default `1e-5`. */
  readonly learningRate?: number | undefined
  /** Drafts per prompt. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** sampling: smallest set of tokens with this mass. Above 0 to 1, default `0.95`. */
  readonly topP?: number | undefined
  /** Samples behind the feedback on a draft. From 1, default `5`. */
  readonly refinements?: number | undefined
  /** Which refinement is kept. Default `verdict`. */
  readonly selectBy?: 'verdict' | 'reward' | 'random' | undefined
  /** verdict: what is asked behind a refinement; of conversations the user’s next message. Default `["\nDoes the new text incorporate the feedback? Answer Yes or No.\n"]`. */
  readonly questions?: string[] | undefined
  /** verdict: the answer that speaks for it. Default `Yes`. */
  readonly yes?: string | undefined
  /** verdict: the answer against it. Default `No`. */
  readonly no?: string | undefined
  /** How the feedback is put behind a draft. Default `\nFeedback: {feedback}\nRevised:\n`. */
  readonly refineRequest?: string | undefined
  /** Train drafts without feedback as they are. Default `true`. */
  readonly keepDrafts?: boolean | undefined
}

/** Settings of UPO. */
export type UpoInput = Omit<OnlineInput, 'learningRate' | 'syncRefModel' | 'refModelMixupAlpha' | 'refModelSyncSteps' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `5e-6`. */
  readonly learningRate?: number | undefined
  /** Move the reference towards the policy as training goes on (TR-DPO, 2404.09656). Default `true`. */
  readonly syncRefModel?: boolean | undefined
  /** Share of the policy in what the reference becomes; 1 replaces it. From 0 to 1, default `1`. */
  readonly refModelMixupAlpha?: number | undefined
  /** Steps from one move of the reference to the next; default a round. From 1. */
  readonly refModelSyncSteps?: number | undefined
  /** Samples per prompt. From 2, default `4`. */
  readonly numGenerations?: number | undefined
  /** Draws of the estimator for each pair. From 2, default `10`. */
  readonly passes?: number | undefined
  /** Share of the pairs to train on that are drawn as 1 - B: sure ones. From 0 to 1, default `0.5`. */
  readonly easyShare?: number | undefined
  /** Share of the pairs that are drawn as B: unsure ones. From 0 to 1, default `0.1`. */
  readonly hardShare?: number | undefined
  /** Most pairs of a prompt to train on. From 1, default `1`. */
  readonly perPrompt?: number | undefined
  /** Strength of the tie to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
  /** Weight of the NLL per token of the chosen side. From 0, default `1`. */
  readonly rpoAlpha?: number | undefined
}

/** Settings of PIT. */
export type PitInput = OnlineInput & {
  /** Weight of the KL estimate; 0: no reference is needed. From 0, default `0.05`. */
  readonly beta?: number | undefined
  /** Without a writer: columns that answers to show are drawn from. Default `["rejected","chosen"]`. */
  readonly shownColumns?: string[] | undefined
  /** How text shows an answer: {prompt}, {answer}. Default `{prompt}\n\nAn answer:\n{answer}\n\nA better answer:\n`. */
  readonly revisionText?: string | undefined
  /** What the user says behind an answer. Default `Give a better answer.`. */
  readonly revisionRequest?: string | undefined
}

/** Settings of Self-Rationalization. */
export type SelfRationalizationInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `10`. */
  readonly numGenerations?: number | undefined
  /** Regular expression of the grade: the last match, or its first group, a number. Default `(-?\d+(?:\.\d+)?)\s*$`. */
  readonly gradePattern?: string | undefined
  /** Column with the right grade. Default `label`. */
  readonly labelColumn?: string | undefined
  /** Which judgements are right. Default `label`. */
  readonly pairBy?: 'label' | 'majority' | undefined
  /** Least distance of a rejected grade. Above 0, default `2`. */
  readonly margin?: number | undefined
  /** Strength of the tie to the reference. Above 0, default `0.1`. */
  readonly beta?: number | undefined
}

/** Settings of LeDex. */
export type LedexInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'temperature'> & {
  /** Peak learning rate. From 0, default `2e-6`. */
  readonly learningRate?: number | undefined
  /** First answers per prompt. From 1, default `1`. */
  readonly numGenerations?: number | undefined
  /** Sampling temperature. Above 0, default `0.8`. */
  readonly temperature?: number | undefined
  /** Explanations of a wrong answer, each with a refined answer. From 2, default `10`. */
  readonly explanations?: number | undefined
  /** Least reward of a right answer. Default `1`. */
  readonly right?: number | undefined
  /** Discount of a reward for each token before it. From 0 to 1, default `0.99`. */
  readonly gamma?: number | undefined
  /** Weight of the KL to the reference. From 0, default `0.05`. */
  readonly beta?: number | undefined
  /** Put behind an answer. Default `\nThis is wrong. {feedback}\nWhat is wrong:\n`. */
  readonly explainRequest?: string | undefined
  /** Put behind an explanation. Default `\nThe corrected answer:\n`. */
  readonly refineRequest?: string | undefined
}

/** Settings of SCoRe. */
export type ScoreInput = Omit<OnlineInput, 'learningRate' | 'numGenerations'> & {
  /** Peak learning rate. From 0, default `5e-6`. */
  readonly learningRate?: number | undefined
  /** Samples per prompt. From 2, default `4`. */
  readonly numGenerations?: number | undefined
  /** Rounds that reward the second attempt alone. From 0, default `50`. */
  readonly stageOneRounds?: number | undefined
  /** Bonus for what the second attempt gains. From 0, default `10`. */
  readonly alpha?: number | undefined
  /** Weight of the KL to the reference. From 0, default `0.01`. */
  readonly beta1?: number | undefined
  /** The same on first attempts in the first stage. From 0, default `0.1`. */
  readonly beta2?: number | undefined
  /** What is put between the attempts; of conversations the user’s next message. Default `\nThere might be an error in the solution above. Check it, and write a correct solution.\n`. */
  readonly instruction?: string | undefined
}
