// What several suites share: the golden model folders, temporary folders, copies of models with changes, live bytes.

import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { createRandom, deriveKey, type Random } from '../ts/src/base/rng.js'
import { readJsonObject } from '../ts/src/io/json.js'
import { openSafetensors, type TensorEntry, writeSafetensors } from '../ts/src/io/safetensors.js'
import { type Device, getDevice } from '../ts/src/native/device.js'

/** Folder of a committed golden model. */
export const golden = (name: string): string => join('test', 'golden', 'models', name)

/** A folder that goes away with the test. */
export async function temporaryFolder(t: Pick<Test, 'teardown'>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'whetstone-test-'))
  t.teardown(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Bytes in use by tensors once the queue is empty. */
export async function liveBytes(device: Device = getDevice()): Promise<number> {
  await device.sync()
  return device.memory().liveBytes
}

/** Every tensor of a safetensors file. */
export async function entriesOfFile(path: string): Promise<TensorEntry[]> {
  const file = await openSafetensors(path)
  const entries = [...file.tensors].map(async ([name, { dtype, shape }]) => ({
    name,
    dtype,
    shape,
    data: await file.read(name),
  }))
  return Promise.all(entries).finally(() => file.close())
}

type Changes = (entries: readonly TensorEntry[]) => readonly TensorEntry[]

/** A copy of a golden model with other weights or another config.json; returns its folder. */
export async function changedModel(
  folder: string,
  name: string,
  changes: { weights?: Changes; config?: Readonly<Record<string, unknown>> },
): Promise<string> {
  await rm(folder, { recursive: true, force: true })
  await cp(golden(name), folder, { recursive: true, filter: (path) => !/reference\.|README/.test(path) })
  if (changes.weights !== undefined) {
    const entries = await entriesOfFile(join(golden(name), 'model.safetensors'))
    await writeSafetensors(join(folder, 'model.safetensors'), changes.weights(entries))
  }
  if (changes.config !== undefined) {
    const config = { ...(await readJsonObject(join(golden(name), 'config.json'))), ...changes.config }
    await writeFile(join(folder, 'config.json'), JSON.stringify(config))
  }
  return folder
}

/** Random numbers that depend on the name alone. */
export const randomOf = (name: string): Random => createRandom(deriveKey(7, 'test', name))

/** Random token ids. */
export const randomIds = (name: string, length: number, vocabSize: number): number[] => {
  const random = randomOf(name)
  return Array.from({ length }, () => random.integer(vocabSize))
}

/** Are all bytes of two typed arrays equal? Quick, where a comparison with a diff is not. */
export const sameBytes = (a: ArrayBufferView, b: ArrayBufferView): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength))

/** The 32-bit words of f32 values: equal words are equal bits, NaN and the sign of zero included. */
export const wordsOf = (values: ArrayLike<number>): number[] =>
  Array.from(new Uint32Array(Float32Array.from(values).buffer))
