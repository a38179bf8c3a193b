// The public API: re-exports, nothing else.

export type * from '../loss/define.js'
export {
  type AlignedTerms,
  advantages,
  type BcoConfig,
  bco,
  type CopgConfig,
  type CpoConfig,
  cispo,
  copg,
  countStep,
  cpo,
  type DistillConfig,
  type DpoConfig,
  dapo,
  distill,
  dpo,
  drGrpo,
  gae,
  gapReward,
  gkd,
  gmpo,
  grpo,
  gspo,
  type KtoConfig,
  kto,
  type LogRatioConfig,
  listwiseReward,
  logRatio,
  maskSequence,
  type NashMdConfig,
  nashMd,
  type ObjectiveMaker,
  type OrpoConfig,
  objectives,
  orpo,
  type PointwiseRewardConfig,
  type PolicyGradientConfig,
  pairReward,
  pointwiseReward,
  ppo,
  processReward,
  type RewardConfig,
  reinforce,
  reward,
  rloo,
  type SftConfig,
  type SimpoConfig,
  type SrpoConfig,
  type SuperHfConfig,
  sapo,
  score,
  sft,
  simpo,
  slic,
  srpo,
  superhf,
  vespo,
  type XpoConfig,
  xpo,
} from '../loss/index.js'
export {
  type Answer,
  type AnswerMethod,
  type AnswerOptions,
  type AnswerSampling,
  type Answers,
  answer,
  answering,
  type BestOfOptions,
  type ChecklistItem,
  type HypothesisOptions,
  type IdSamplingOptions,
  type MagicoreOptions,
  type TickOptions,
  type VoteOptions,
} from '../train/answering/index.js'
export { type EncodedData, encodeExamples, encodeFor, rowKindOf } from '../train/data/encode.js'
export type { EncodeOptions } from '../train/data/encode-options.js'
export type { EncodedExample, EncodedSequence } from '../train/data/example.js'
export { type Preview, preview } from '../train/data/preview.js'
export { previewText } from '../train/data/preview-text.js'
export { type EncodedPrompt, encodePrompts } from '../train/data/prompts.js'
export { type DataSource, type PlacedRow, type RowKinds, readData } from '../train/data/rows.js'
export { revisionPrompt } from '../train/data/srpo.js'
export { type EstimateOptions, estimateMemory, type MemoryEstimate } from '../train/estimate.js'
export type { LossEvaluation } from '../train/evaluate.js'
export { type EvaluateOptions, evaluateLoss } from '../train/evaluate-loss.js'
export type { Emit, Run, StepEvent, TrainEvent } from '../train/events.js'
export { type ImproveResult, improve } from '../train/improve.js'
export { bandit, bayesian, type ProcessOptions } from '../train/loop/bandit.js'
export { type CalibrationOptions, calibrationError, rankCorrelation } from '../train/loop/calibration.js'
export { chain, type Turn } from '../train/loop/chain.js'
export { credit } from '../train/loop/credit.js'
export { balancedSet, criticise, criticStatistics } from '../train/loop/critic.js'
export { type EpisodeOptions, sampleEpisodes } from '../train/loop/episodes.js'
export { pairExamples, policyExamples, type ToExamples } from '../train/loop/examples.js'
export { type Explore, type ExploreContext, type SampleGroupOptions, sampleGroup } from '../train/loop/explore.js'
export type { FeedbackFunction } from '../train/loop/feedback.js'
export { type IterateOptions, iterate, type UpdateOptions } from '../train/loop/iterate.js'
export {
  type JudgedSample,
  type JudgeOptions,
  type JudgeRewardOptions,
  judge,
  judgeReward,
} from '../train/loop/judge.js'
export { type JudgeDraws, judgeByReward, type PairInput, type PairJudge } from '../train/loop/judges.js'
export {
  type CurvePoint,
  fitLearningCurve,
  type LearningCurve,
  type StopDecision,
  type StopOptions,
  stopRule,
} from '../train/loop/learning-curve.js'
export type { RoundStatistics } from '../train/loop/metrics.js'
export {
  type AcceptOptions,
  acceptTask,
  type EvolveOptions,
  evolve,
  type Member,
  type Successor,
} from '../train/loop/population.js'
export type { PromptRow, PromptSource } from '../train/loop/prompts.js'
export {
  type ProtocolOptions,
  type ProtocolResult,
  type ProtocolRow,
  protocol,
  type TaskMatrix,
  taskMatrix,
} from '../train/loop/protocol.js'
export {
  type CosineScaledOptions,
  cosineScaledReward,
  type RepetitionPenaltyOptions,
  repetitionPenaltyReward,
  softOverlongReward,
  thinkFormatReward,
} from '../train/loop/ready-rewards.js'
export { type ReviseOptions, revise } from '../train/loop/revise.js'
export {
  gapRewardModel,
  type PairModelOptions,
  pairJudge,
  type RewardModelOptions,
  rewardModel,
} from '../train/loop/reward-model.js'
export {
  type NamedReward,
  nameRewards,
  type RewardFunction,
  type RewardInput,
  scoreRewards,
  scoreTurns,
} from '../train/loop/rewards.js'
export type { RolloutLimits } from '../train/loop/rollouts.js'
export { type Score, type Shaped, shape, verify } from '../train/loop/score.js'
export { type PickOptions, pick, type Select } from '../train/loop/select.js'
export { meteor } from '../train/loop/similarity.js'
export { byTask, completionOf, type Segment, type Trace } from '../train/loop/trace.js'
export { type Climb, hillClimb, type Tuned } from '../train/loop/tuner.js'
export { drawScores, type Uncertainty, uncertainty } from '../train/loop/uncertainty.js'
export { type Question, type VerdictOptions, verdict } from '../train/loop/verdict.js'
export type { PhaseResult } from '../train/loop.js'
export { type MergeOptions, type MergeResult, merge } from '../train/merge.js'
export type { AdamWConfig } from '../train/optimizer.js'
export {
  type AgentROptions,
  type AlphaLlmOptions,
  type AutoCeiOptions,
  type BestOfNOptions,
  type BstarOptions,
  type CctOptions,
  type CritiqueInLoopOptions,
  type GrpoOptions,
  type IlfOptions,
  type LedexOptions,
  type MctsDpoOptions,
  type OnlineDpoOptions,
  type OnlineGkdOptions,
  type OnlineNashMdOptions,
  type OnlineSimpoOptions,
  type OnlineXpoOptions,
  onlineOptions,
  type PitOptions,
  type QwenMathOptions,
  type RestMctsOptions,
  type RiseOptions,
  recipes,
  type SclOptions,
  type ScoreOptions,
  type SelfRationalizationOptions,
  type SharpeningOptions,
  type SmartOptions,
  type StillOptions,
  type UpoOptions,
} from '../train/recipes/index.js'
export type { ReferenceSync } from '../train/reference-sync.js'
export { writeReport } from '../train/report/report.js'
export type { LrSchedulerType, Schedule } from '../train/schedule.js'
export {
  createTask,
  type Env,
  type EnvStep,
  type Task,
  type TaskSource,
  tasks,
  type Verdict,
} from '../train/tasks/index.js'
export { type TrainOptions, type TrainResult, train } from '../train/train.js'
export { type ErrorCode, errorCodes, WhetstoneError } from './base/errors.js'
export {
  type Completion,
  type GenerateOptions,
  type LanguageModel,
  loadModel,
  type ModelOptions,
  type Prompt,
} from './generate/language-model.js'
export type { LogitMixture } from './generate/request.js'
export { withAdapter, withoutAdapter } from './models/adapter.js'
export type { Decoder } from './models/decoder.js'
export { saveAdapter } from './models/peft.js'
export { type Device, type DeviceOptions, getDevice, memory } from './native/device.js'
export { doctor, formatDoctor } from './native/doctor.js'
export type { LoraConfig } from './nn/lora.js'
export type { ChatMessage } from './tokenizer/template.js'
export { loadTokenizer, type Tokenizer, type TokenizerOptions } from './tokenizer/tokenizer.js'
