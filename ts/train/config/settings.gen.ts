// Made by test/settings.test.ts from the schemas of settings (WHETSTONE_UPDATE_SNAPSHOTS=1). Do not edit.

/** Settings of `train` as a caller gives them. */
export type TrainingInput = {
  /** Peak learning rate. From 0, default `2e-5`. */
  readonly learningRate?: number | undefined
  /** Shape of the rate behind the warm-up. Default `linear`. */
  readonly lrSchedulerType?: 'constant' | 'constantWithWarmup' | 'linear' | 'cosine' | 'cosineWithRestarts' | 'cosineWithMinLr' | 'polynomial' | 'inverseSqrt' | undefined
  /** Of some shapes: numCycles, power, lrEnd, minLr, minLrRate, timescale. Default `{}`. */
  readonly lrSchedulerKwargs?: { readonly numCycles?: number | undefined; readonly power?: number | undefined; readonly lrEnd?: number | undefined; readonly minLr?: number | undefined; readonly minLrRate?: number | undefined; readonly timescale?: number | undefined } | undefined
  /** Optimizer steps from rate 0 to the peak; below 1: a share of all steps. From 0, default `0`. */
  readonly warmupSteps?: number | undefined
  /** The same share, under its older name. From 0 to 1, default `0`. */
  readonly warmupRatio?: number | undefined
  /** Decay of the first moment. From 0 below 1, default `0.9`. */
  readonly adamBeta1?: number | undefined
  /** Decay of the second moment. From 0 below 1, default `0.999`. */
  readonly adamBeta2?: number | undefined
  /** Added to the root of the second moment. Above 0, default `1e-8`. */
  readonly adamEpsilon?: number | undefined
  /** Decoupled weight decay, on matrices only. From 0, default `0`. */
  readonly weightDecay?: number | undefined
  /** Clip the gradient norm to this; 0 switches clipping off. From 0, default `1`. */
  readonly maxGradNorm?: number | undefined
  /** bf16 weights without f32 masters, rounded at random: 4 bytes per weight less. Default `false`. */
  readonly stochasticRounding?: boolean | undefined
  /** Rows (or packed bins) per micro-batch. From 1, default `8`. */
  readonly perDeviceTrainBatchSize?: number | undefined
  /** Micro-batches per optimizer step. From 1, default `1`. */
  readonly gradientAccumulationSteps?: number | undefined
  /** Passes over the rows; ignored when maxSteps is set. Above 0, default `3`. */
  readonly numTrainEpochs?: number | undefined
  /** Optimizer steps; -1: by numTrainEpochs. From -1, default `-1`. */
  readonly maxSteps?: number | undefined
  /** Fill micro-batches with bins of maxLength tokens; rows never see each other. Default `false`. */
  readonly packing?: boolean | undefined
  /** New row order in every epoch. Default `true`. */
  readonly shuffle?: boolean | undefined
  /** Tokens per sequence; longer ones are cut, and counted. From 2, default `1024`. */
  readonly maxLength?: number | undefined
  /** Which end of a sequence beyond maxLength stays. Default `keepStart`. */
  readonly truncationMode?: 'keepStart' | 'keepEnd' | undefined
  /** Tokens of a prompt: its last ones stay; unset: no limit. From 1. */
  readonly maxPromptLength?: number | undefined
  /** Prompt + completion rows: train the completion only. Default `true`. */
  readonly completionOnlyLoss?: boolean | undefined
  /** Message rows: train assistant turns only (TRL: false). Default `true`. */
  readonly assistantOnlyLoss?: boolean | undefined
  /** What is done with rows that train no token within maxLength. Default `refuse`. */
  readonly untrainedRows?: 'refuse' | 'skip' | undefined
  /** What text that spells a special token becomes: text, or for trusted data (as in TRL) the token. Default `text`. */
  readonly specialTokens?: 'text' | 'parse' | undefined
  /** Process rewards: text behind each step. Default `\n`. */
  readonly stepSeparator?: string | undefined
  /** Process rewards: only the last label counts. Default `false`. */
  readonly trainOnLastStepOnly?: boolean | undefined
  /** SRPO: prompt that shows an answer to a text prompt; has {prompt} and {answer}. Default `{prompt}\n\nAn answer:\n{answer}\n\nA better answer:\n`. */
  readonly revisionText?: string | undefined
  /** SRPO: what the user says behind an answer in a conversation. Default `Give a better answer.`. */
  readonly revisionRequest?: string | undefined
  /** Divides the logits of policy and reference before their log-probs. Above 0, default `1`. */
  readonly temperature?: number | undefined
  /** NEFTune: size of uniform noise on the embeddings; 0: none (2310.05914). From 0, default `0`. */
  readonly neftuneNoiseAlpha?: number | undefined
  /** Sequences of one example go through the model behind one copy of their prompt: same bits, less work. Default `true`. */
  readonly sharePrompts?: boolean | undefined
  /** Run the reference once over all rows before the first step, then free it. Default `false`. */
  readonly precomputeRefLogProbs?: boolean | undefined
  /** Move the reference towards the policy as training goes on (TR-DPO, 2404.09656). Default `false`. */
  readonly syncRefModel?: boolean | undefined
  /** Share of the policy in what the reference becomes; 1 replaces it. From 0 to 1, default `0.6`. */
  readonly refModelMixupAlpha?: number | undefined
  /** Optimizer steps from one move of the reference to the next. From 1, default `512`. */
  readonly refModelSyncSteps?: number | undefined
  /** Recompute each layer in backward: less memory, same bits (TRL: true). Default `false`. */
  readonly gradientCheckpointing?: boolean | undefined
  /** Key of every random choice. From 0, default `42`. */
  readonly seed?: number | undefined
  /** Optimizer steps between step events, whose loss and statistics are means over them (TRL: 10). From 1, default `1`. */
  readonly loggingSteps?: number | undefined
  /** When to evaluate: never, every evalSteps, or behind each epoch (TRL: no). Default `steps`. */
  readonly evalStrategy?: 'no' | 'steps' | 'epoch' | undefined
  /** Optimizer steps between evaluations; 0: only at the end. From 0, default `0`. */
  readonly evalSteps?: number | undefined
  /** Rows of the data to hold out for evaluation, when there is no evalData. From 0, default `0`. */
  readonly evalRows?: number | undefined
  /** Rows per micro-batch of an evaluation; default that of training (TRL: 8). From 1. */
  readonly perDeviceEvalBatchSize?: number | undefined
  /** When to save besides the end: never, every saveSteps, behind each epoch, or whenever metricForBestModel improves. Default `steps`. */
  readonly saveStrategy?: 'no' | 'steps' | 'epoch' | 'best' | undefined
  /** Optimizer steps between checkpoints; 0: only at the end. From 0, default `500`. */
  readonly saveSteps?: number | undefined
  /** Checkpoints to keep; 0: all (TRL: all). Default `2`. */
  readonly saveTotalLimit?: number | null | undefined
  /** Leave the optimizer out of checkpoints: smaller, but the run cannot be resumed. Default `false`. */
  readonly saveOnlyModel?: boolean | undefined
  /** Keep the checkpoint with the best evaluation, and end with its weights. Default `false`. */
  readonly loadBestModelAtEnd?: boolean | undefined
  /** Number of the evaluation that tells the best. Default `loss`. */
  readonly metricForBestModel?: string | undefined
  /** Default true unless the name of the metric ends in loss. */
  readonly greaterIsBetter?: boolean | undefined
  /** Stop behind that many evaluations without a better one. From 1. */
  readonly earlyStoppingPatience?: number | undefined
  /** How much better it must be to count as such. From 0, default `0`. */
  readonly earlyStoppingThreshold?: number | undefined
  /** What a step with NaN or Inf does; skip allows 3 in a row. Default `stop`. */
  readonly nonFinite?: 'stop' | 'skip' | undefined
}

/** Settings that all online methods share. */
export type OnlineInput = {
  /** Peak learning rate. From 0, default `1e-6`. */
  readonly learningRate?: number | undefined
  /** Shape of the rate behind the warm-up. Default `linear`. */
  readonly lrSchedulerType?: 'constant' | 'constantWithWarmup' | 'linear' | 'cosine' | 'cosineWithRestarts' | 'cosineWithMinLr' | 'polynomial' | 'inverseSqrt' | undefined
  /** Of some shapes: numCycles, power, lrEnd, minLr, minLrRate, timescale. Default `{}`. */
  readonly lrSchedulerKwargs?: { readonly numCycles?: number | undefined; readonly power?: number | undefined; readonly lrEnd?: number | undefined; readonly minLr?: number | undefined; readonly minLrRate?: number | undefined; readonly timescale?: number | undefined } | undefined
  /** Optimizer steps from rate 0 to the peak; below 1: a share of all steps. From 0, default `0`. */
  readonly warmupSteps?: number | undefined
  /** The same share, under its older name. From 0 to 1, default `0`. */
  readonly warmupRatio?: number | undefined
  /** Decay of the first moment. From 0 below 1, default `0.9`. */
  readonly adamBeta1?: number | undefined
  /** Decay of the second moment. From 0 below 1, default `0.999`. */
  readonly adamBeta2?: number | undefined
  /** Added to the root of the second moment. Above 0, default `1e-8`. */
  readonly adamEpsilon?: number | undefined
  /** Decoupled weight decay, on matrices only. From 0, default `0`. */
  readonly weightDecay?: number | undefined
  /** Clip the gradient norm to this; 0 switches clipping off. From 0, default `1`. */
  readonly maxGradNorm?: number | undefined
  /** bf16 weights without f32 masters, rounded at random: 4 bytes per weight less. Default `false`. */
  readonly stochasticRounding?: boolean | undefined
  /** Move the reference towards the policy as training goes on (TR-DPO, 2404.09656). Default `false`. */
  readonly syncRefModel?: boolean | undefined
  /** Share of the policy in what the reference becomes; 1 replaces it. From 0 to 1, default `0.6`. */
  readonly refModelMixupAlpha?: number | undefined
  /** Optimizer steps from one move of the reference to the next. From 1, default `512`. */
  readonly refModelSyncSteps?: number | undefined
  /** Rounds of sampling and training. From 1, default `100`. */
  readonly rounds?: number | undefined
  /** Prompts of a round; each is sampled numGenerations times. From 1, default `8`. */
  readonly promptsPerRound?: number | undefined
  /** Task sources: how many of their tasks to use; default all new ones. From 1. */
  readonly trainTasks?: number | undefined
  /** Samples per prompt. From 2, default `8`. */
  readonly numGenerations?: number | undefined
  /** Most new tokens of a sample (TRL: 512). From 1, default `256`. */
  readonly maxCompletionLength?: number | undefined
  /** Sampling temperature. Above 0, default `1`. */
  readonly temperature?: number | undefined
  /** sampling: smallest set of tokens with this mass. Above 0 to 1, default `1`. */
  readonly topP?: number | undefined
  /** sampling: most probable tokens to choose from; 0: all. From 0, default `0`. */
  readonly topK?: number | undefined
  /** sampling: least share of the largest probability. From 0 to 1, default `0`. */
  readonly minP?: number | undefined
  /** sampling: above 1 against tokens of the prompt and of the sample so far; training is without it. From 0.000001 to 1000000, default `1`. */
  readonly repetitionPenalty?: number | undefined
  /** Texts that end a sample; rewards see what is before them. As JSON they keep blanks and commas. */
  readonly stopStrings?: string[] | undefined
  /** Tokens that end a sample; default the end tokens of the model. */
  readonly stopIds?: number[] | undefined
  /** Most samples in flight at once: memory, never results. From 1, default `256`. */
  readonly maxRows?: number | undefined
  /** Weight of each reward function; default 1. */
  readonly rewardWeights?: number[] | undefined
  /** Examples per micro-batch. From 1, default `8`. */
  readonly perDeviceTrainBatchSize?: number | undefined
  /** Micro-batches per optimizer step. From 1, default `1`. */
  readonly gradientAccumulationSteps?: number | undefined
  /** Passes over the samples of a round. From 1, default `1`. */
  readonly numIterations?: number | undefined
  /** Recompute layers in backward: less memory, same bits. Default `false`. */
  readonly gradientCheckpointing?: boolean | undefined
  /** Rounds between checkpoints. From 1, default `1`. */
  readonly saveRounds?: number | undefined
  /** Checkpoints to keep; 0: all (TRL: all). Default `2`. */
  readonly saveTotalLimit?: number | null | undefined
  /** Samples to show per round. From 0, default `2`. */
  readonly samples?: number | undefined
  /** Key of every random choice. From 0, default `42`. */
  readonly seed?: number | undefined
}

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
  /** As in DPO. Default `sigmoid`. */
  readonly lossType?: 'sigmoid' | 'hinge' | 'ipo' | 'ipoSum' | 'robust' | 'exoPair' | undefined
  /** Share of wrong labels. From 0 below 0.5, default `0`. */
  readonly labelSmoothing?: number | undefined
}

/** Settings of XPO. */
export type OnlineXpoInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'maxCompletionLength' | 'temperature'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Pairs per prompt: samples of the policy, and of the reference. From 1, default `1`. */
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
  /** Taken from the reward of samples that were cut off. Above 0. */
  readonly missingEosPenalty?: number | undefined
}

/** Settings of Nash-MD. */
export type OnlineNashMdInput = Omit<OnlineInput, 'learningRate' | 'numGenerations' | 'maxCompletionLength' | 'temperature' | 'repetitionPenalty'> & {
  /** Peak learning rate. From 0, default `5e-7`. */
  readonly learningRate?: number | undefined
  /** Pairs per prompt: samples of the policy, and of the mixture. From 1, default `1`. */
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
  /** Taken from the reward of samples that were cut off. Above 0. */
  readonly missingEosPenalty?: number | undefined
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
