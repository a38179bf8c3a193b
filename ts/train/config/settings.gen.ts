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
  /** Sequences of one example go through the model behind one copy of their prompt: the same log-probs, less work; gradients of the prompt are summed before they are rounded. Default `true`. */
  readonly sharePrompts?: boolean | undefined
  /** Run the reference once over all rows before the first step, then free it. Default `false`. */
  readonly precomputeRefLogProbs?: boolean | undefined
  /** Move the reference towards the policy as training goes on (TR-DPO, 2404.09656). Default `false`. */
  readonly syncRefModel?: boolean | undefined
  /** Share of the policy in what the reference becomes; 1 replaces it. From 0 to 1, default `0.6`. */
  readonly refModelMixupAlpha?: number | undefined
  /** Optimizer steps from one move of the reference to the next. From 1, default `512`. */
  readonly refModelSyncSteps?: number | undefined
  /** No dropout of an adapter; default true but where rows are learnt by heart alone (sft). */
  readonly disableDropout?: boolean | undefined
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
  /** environments: most actions of an episode, each a completion. From 1, default `20`. */
  readonly maxEpisodeSteps?: number | undefined
  /** Tokens that end a sample; default the end tokens of the model. */
  readonly stopIds?: number[] | undefined
  /** Variables of the chat template, such as enable_thinking; those of a row go before. */
  readonly chatTemplateKwargs?: Readonly<Record<string, boolean | number | string>> | undefined
  /** Most samples in flight at once: memory, never results. From 1, default `256`. */
  readonly maxRows?: number | undefined
  /** Weight of each reward function; default 1. */
  readonly rewardWeights?: number[] | undefined
  /** Taken from the reward of samples that were cut off. Above 0. */
  readonly missingEosPenalty?: number | undefined
  /** Examples per micro-batch. From 1, default `8`. */
  readonly perDeviceTrainBatchSize?: number | undefined
  /** Micro-batches per optimizer step. From 1, default `1`. */
  readonly gradientAccumulationSteps?: number | undefined
  /** Passes over the samples of a round. From 1, default `1`. */
  readonly numIterations?: number | undefined
  /** No dropout of an adapter; default true but where rows are learnt by heart alone (sft). */
  readonly disableDropout?: boolean | undefined
  /** Recompute layers in backward: less memory, same bits. Default `false`. */
  readonly gradientCheckpointing?: boolean | undefined
  /** Rounds between checkpoints. From 1, default `1`. */
  readonly saveRounds?: number | undefined
  /** Checkpoints to keep; 0: all (TRL: all). Default `2`. */
  readonly saveTotalLimit?: number | null | undefined
  /** Rounds between evaluations on held-out prompts; 0: only at the end. From 0, default `0`. */
  readonly evalRounds?: number | undefined
  /** Task sources: how many of their held-out tasks to evaluate on; default none. From 1. */
  readonly evalTasks?: number | undefined
  /** Samples per prompt of an evaluation; default numGenerations. From 1. */
  readonly numGenerationsEval?: number | undefined
  /** Samples to show per round. From 0, default `2`. */
  readonly samples?: number | undefined
  /** Key of every random choice. From 0, default `42`. */
  readonly seed?: number | undefined
}
