// The models of a run, loaded as its settings say: the policy with its adapter or score head, and the reference.

import { type LanguageModel, loadModel } from '../../src/generate/language-model.js'
import type { LoraConfig } from '../../src/nn/lora.js'
import { quantizationOf, type RunOptions } from '../config/run-settings.js'

/** What is loaded. */
export interface ModelSettings {
  readonly run: Pick<
    RunOptions,
    'model' | 'adapter' | 'reference' | 'dtype' | 'loadIn4bit' | 'bnb4bitUseDoubleQuant' | 'chatTemplatePath'
  >
  /** A fresh adapter on the policy. */
  readonly lora: LoraConfig | undefined
  /** Numbers of a score head, in place of the language model's. */
  readonly scoreLabels?: number
  readonly seed: number
  readonly warn: (message: string) => void
}

/**
 * The policy.
 *
 * @throws WhetstoneError as `loadModel`
 */
export const loadPolicy = ({ run, lora, scoreLabels, seed, warn }: ModelSettings): Promise<LanguageModel> =>
  loadModel(run.model, {
    dtype: run.dtype,
    ...quantizationOf(run),
    adapter: run.adapter,
    chatTemplatePath: run.chatTemplatePath,
    ...{ lora, scoreLabels, seed, warn },
  })

/** The reference, when the settings name one, in the policy's type and bits: some objectives put both through one operation. */
export const loadReference = async (
  { run }: ModelSettings,
  { decoder }: LanguageModel,
): Promise<LanguageModel | undefined> =>
  run.reference === undefined
    ? undefined
    : loadModel(run.reference, { dtype: decoder.parameters.dtype, ...quantizationOf(run) })
