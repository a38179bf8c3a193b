// The public API: re-exports, nothing else.

export type { Evaluation, Objective, ObjectiveBatch, SequenceTerms } from '../loss/define.js'
export { objectives } from '../loss/index.js'
export { sft } from '../loss/sft.js'
export { superhf } from '../loss/superhf.js'
export type { Run, TrainEvent } from '../train/events.js'
export { type ImproveResult, improve } from '../train/improve.js'
export { sampleGroup } from '../train/loop/explore.js'
export { type IterateOptions, iterate } from '../train/loop/iterate.js'
export { verify } from '../train/loop/score.js'
export { pick } from '../train/loop/select.js'
export type { Trace } from '../train/loop/trace.js'
export { type MergeOptions, type MergeResult, merge } from '../train/merge.js'
export { recipes } from '../train/recipes/index.js'
export { writeReport } from '../train/report/report.js'
export { createTask, type Task, type TaskSource, tasks, type Verdict } from '../train/tasks/index.js'
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
export { saveAdapter } from './models/peft.js'
export { type Device, type DeviceOptions, getDevice, memory } from './native/device.js'
export { doctor, formatDoctor } from './native/doctor.js'
export type { LoraConfig } from './nn/lora.js'
export type { ChatMessage } from './tokenizer/template.js'
export { loadTokenizer, type Tokenizer } from './tokenizer/tokenizer.js'
