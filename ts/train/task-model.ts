// A fresh small model for a task: a Hugging Face folder with config.json, random weights and a character tokenizer
// over the task's alphabet.

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { attempt, ensureDirectory, exists, writeAtomic } from '../src/io/files.js'
import { writeSafetensors } from '../src/io/safetensors.js'
import { decoderConfig } from '../src/models/config.js'
import { createDecoder, decoderSpecs } from '../src/models/decoder.js'
import { initializeDecoder, smallLlamaConfig } from '../src/models/init.js'
import { getDevice } from '../src/native/device.js'
import { createFlat, disposeFlat } from '../src/nn/parameters.js'
import { characterTokenizer } from '../src/tokenizer/character.js'
import { entriesOf } from './state.js'
import type { TaskSource } from './tasks/index.js'

/** Shape of the model. */
export interface TaskModelOptions {
  readonly seed: number
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly intermediateSize: number
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/**
 * Writes the folder unless it is there. Equal settings give equal bytes.
 *
 * @param again whether one that is there is replaced
 */
export async function makeTaskModel(
  directory: string,
  source: TaskSource,
  options: TaskModelOptions,
  again = false,
): Promise<void> {
  const weights = join(directory, 'model.safetensors')
  if (!again && (await exists(weights))) return
  await ensureDirectory(directory)
  // They come last: where they are, the folder is whole.
  await attempt('remove', weights, () => rm(weights, { force: true }))
  const tokenizer = characterTokenizer(source.characters)
  const raw = smallLlamaConfig({
    ...options,
    vocabSize: tokenizer.vocabSize,
    maxPositions: 512,
    eosTokenId: tokenizer.eosId,
    padTokenId: tokenizer.padId,
  })
  await writeAtomic(join(directory, 'config.json'), json(raw))
  await writeAtomic(join(directory, 'tokenizer.json'), json(tokenizer.tokenizerJson))
  await writeAtomic(join(directory, 'tokenizer_config.json'), json(tokenizer.tokenizerConfigJson))
  const config = decoderConfig(raw)
  const device = getDevice()
  const decoder = createDecoder(config, device, createFlat(device, decoderSpecs(config), 'f32'))
  initializeDecoder(decoder, options.seed)
  await writeSafetensors(weights, await entriesOf(decoder.parameters))
  disposeFlat(decoder.parameters)
}
