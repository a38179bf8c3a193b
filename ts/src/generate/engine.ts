// Batched sampling: prompts are prefilled in packed form, then all running samples advance one token per step. Rows
// join as others finish. A sample's tokens depend on the prompt, the settings and its own key alone: not on the
// batch, the order or the thread count. Yields token ids and log-probs; text is language-model.ts's business.
// With a second model, both read every sequence in lock-step, each with keys and values of its own in blocks of the same
// numbers, and tokens are drawn from the mixture of both.
// A sample may have several turns: what is put behind a turn is read in one step, as many rows of decoding as it has tokens,
// over the keys and values that are there.

import { WhetstoneError } from '../base/errors.js'
import { deriveKey } from '../base/rng.js'
import { settled } from '../models/adapter.js'
import { type Decoder, forward, headWeight, joinedParts } from '../models/decoder.js'
import { packSequences } from '../models/pack.js'
import type { Device } from '../native/device.js'
import { attention, attentionDecode, gatherRows, headSample, headSampleMixture, KEY_BLOCK } from '../ops/index.js'
import { Scope } from '../tensor/scope.js'
import { type Tensor, tensor } from '../tensor/tensor.js'
import {
  blocksFor,
  type Cache,
  copyBlocks,
  createCache,
  disposeCache,
  growCache,
  slotOf,
  storeKeys,
  takeBlocks,
} from './cache.js'
import { checkReply, checkRequest, type GenerationRequest, modelsOf, type TokenSample } from './request.js'

interface Row extends TokenSample {
  ids: number[]
  logps: number[]
  samplingLogps: number[]
  readonly prompt: number
  readonly sample: number
  readonly key: readonly [number, number]
  /** Blocks in logical order; the first `shared` belong to the group. */
  readonly blocks: number[]
  readonly group: Group
  /** The ids of prompt and sample, each once, ascending; kept for the penalty alone. */
  readonly seen: number[]
  /** Tokens in the sequence so far, prompt included. */
  length: number
  /** The last tokens of the sequence, which no model has read: one, and what is put behind a turn. */
  unread: readonly number[]
  /** Tokens drawn so far, of all turns. */
  drawn: number
}

/** The samples of one prompt and the blocks that they share. */
interface Group {
  readonly shared: number[]
  running: number
}

/** A model with its keys and values. */
interface Reader {
  readonly model: Decoder
  readonly cache: Cache
}

interface Engine {
  /** Those that logits are made of: the model, the reference, or both in this order. */
  readonly readers: readonly Reader[]
  readonly device: Device
  readonly request: GenerationRequest
  /** The first reader's; its free blocks are those of all. */
  readonly cache: Cache
  readonly results: TokenSample[][]
  readonly rows: Row[]
}

/** Blocks of one prompt with its samples: [shared, own blocks per sample]. */
function blockNeed(promptLength: number, r: GenerationRequest): [number, number] {
  const shared = Math.floor(promptLength / KEY_BLOCK)
  return [shared, blocksFor(promptLength + r.maxNewTokens) - shared]
}

const groupBlocks = (promptLength: number, r: GenerationRequest): number => {
  const [shared, own] = blockNeed(promptLength, r)
  return shared + own * r.numGenerations
}

/**
 * Samples `numGenerations` completions of each prompt.
 *
 * @returns per prompt its samples, in order
 * @throws WhetstoneError E_CONFIG for bad settings, E_NONFINITE when the model gives NaN, E_ABORTED by the signal
 */
export async function sample(m: Decoder, request: GenerationRequest): Promise<TokenSample[][]> {
  checkRequest(m, request)
  const groupsAtOnce = Math.min(
    request.prompts.length,
    Math.max(1, Math.floor(request.maxRows / request.numGenerations)),
  )
  using scope = new Scope()
  // Not the longest prompt's need: one token below a block's end shares less and needs more.
  const blocks =
    groupsAtOnce * request.prompts.reduce((most, prompt) => Math.max(most, groupBlocks(prompt.length, request)), 0)
  const readers = openReaders(
    modelsOf(m, request).map((model) => scope.run(() => settled(model))),
    blocks,
  )
  const engine: Engine = {
    readers,
    device: m.device,
    request,
    cache: readers[0].cache,
    results: request.prompts.map(() => []),
    rows: [],
  }
  try {
    let next = 0
    while (next < request.prompts.length || engine.rows.length > 0) {
      if (request.signal?.aborted) throw new WhetstoneError('E_ABORTED', 'generate', 'stopped by its signal')
      const admitted = admit(engine, next)
      if (admitted > next) await prefill(engine, next, admitted)
      else await decode(engine)
      next = admitted
    }
    return engine.results.map((samples) => samples.map(plain))
  } finally {
    for (const { cache } of readers) disposeCache(cache)
  }
}

/** A cache for each model; none stays behind when there is no memory for all. */
function openReaders(models: readonly Decoder[], blocks: number): Reader[] {
  const readers: Reader[] = []
  try {
    for (const model of models) readers.push({ model, cache: createCache(model, blocks) })
    return readers
  } catch (error) {
    for (const { cache } of readers) disposeCache(cache)
    throw error
  }
}

const plain = ({ ids, logps, samplingLogps, finishReason }: TokenSample): TokenSample => ({
  ids,
  logps,
  samplingLogps,
  finishReason,
})

/** How far the prompts fit now: by rows and by blocks. */
function admit({ request, rows, cache }: Engine, next: number): number {
  let room = Math.max(request.maxRows - rows.length, rows.length === 0 ? request.numGenerations : 0)
  let blocks = cache.free.length
  let end = next
  while (end < request.prompts.length && room >= request.numGenerations) {
    blocks -= groupBlocks(request.prompts[end].length, request)
    if (blocks < 0) break
    room -= request.numGenerations
    end++
  }
  return end
}

/** Runs prompts `from .. to` through the model, fills their blocks and draws each sample's first token. */
async function prefill(engine: Engine, from: number, to: number): Promise<void> {
  const { device, request, readers } = engine
  const prompts = request.prompts.slice(from, to)
  const started = prompts.map((prompt, i) => startRows(engine, from + i, prompt.length))
  const rows = started.flat()
  await takeStep(engine, rows, () => {
    const packed = packSequences(prompts)
    const slots = Int32Array.from(packed.positions, (position, i) =>
      slotOf(promptBlocks(started, packed.starts, i), position),
    )
    const slotTensor = tensor(device, slots)
    const visibility = tensor(device, packed.visibility, [packed.ids.length, 3])
    const input = {
      ids: tensor(device, packed.ids),
      positions: tensor(device, packed.positions),
      length: Math.max(...prompts.map((prompt) => prompt.length)),
    }
    const copies = started.flatMap((group, i) => partialCopies(group, prompts[i].length))
    const last = tensor(
      device,
      Int32Array.from(rows, (row) => packed.ends[row.prompt - from] - 1),
    )
    const hidden = readers.map(({ model, cache }) => {
      const all = forward(model, {
        ...input,
        parts: joinedParts(model, packed.ids.length),
        attend: (layer, q, k, v, settings) => {
          storeKeys(cache, layer, k, v, slotTensor)
          return attention(q, k, v, visibility, settings)
        },
      })
      copyBlocks(model, cache, copies)
      return gatherRows(all, last)
    })
    return drawTokens(engine, rows, hidden)
  })
}

/** The first sample's blocks hold the prompt itself; `i` is a packed token. */
function promptBlocks(started: readonly Row[][], starts: Int32Array, i: number): readonly number[] {
  let group = 0
  let high = started.length - 1
  while (group < high) {
    const middle = (group + high + 1) >> 1
    if (starts[middle] <= i) group = middle
    else high = middle - 1
  }
  return started[group][0].blocks
}

/** Copies of the prompt's last, partly filled block from the first sample to the others. */
function partialCopies(rows: readonly Row[], promptLength: number): (readonly [number, number])[] {
  if (promptLength % KEY_BLOCK === 0) return []
  const block = Math.floor(promptLength / KEY_BLOCK)
  return rows.slice(1).map((row) => [rows[0].blocks[block], row.blocks[block]] as const)
}

function startRows(engine: Engine, prompt: number, promptLength: number): Row[] {
  const { request, cache, rows, results } = engine
  const [sharedCount, own] = blockNeed(promptLength, request)
  const group: Group = { shared: takeBlocks(cache, sharedCount), running: request.numGenerations }
  const name = request.promptKeys?.[prompt] ?? prompt
  const seen = penalizes(request) ? [...new Set(request.prompts[prompt])].sort((a, b) => a - b) : []
  const started = Array.from(
    { length: request.numGenerations },
    (_, i): Row => ({
      ids: [],
      logps: [],
      samplingLogps: [],
      finishReason: 'length',
      prompt,
      sample: i,
      key: deriveKey(request.seed, 'sample', name, i),
      blocks: [...group.shared, ...takeBlocks(cache, own)],
      group,
      seen: [...seen],
      length: promptLength,
      unread: [],
      drawn: 0,
    }),
  )
  results[prompt] = started
  rows.push(...started)
  return started
}

/** Advances every running row by one token, behind what it has not read. */
async function decode(engine: Engine): Promise<void> {
  const { device, readers, rows } = engine
  const running = [...rows]
  await takeStep(engine, running, () => {
    const tokens = running.flatMap((row) =>
      row.unread.map((id, i) => ({ id, row, position: row.length - row.unread.length + i })),
    )
    const numbers = (of: (token: (typeof tokens)[number]) => number) => tensor(device, Int32Array.from(tokens, of))
    const slots = numbers(({ row, position }) => slotOf(row.blocks, position))
    const lengths = numbers(({ position }) => position + 1)
    const table = blockTable(
      engine,
      tokens.map(({ row }) => row),
    )
    const input = {
      ids: numbers(({ id }) => id),
      positions: numbers(({ position }) => position),
      length: running.reduce((most, { length }) => Math.max(most, length), 1),
    }
    const ends = tokens.flatMap(({ row, position }, i) => (position === row.length - 1 ? [i] : []))
    const hidden = readers.map(({ model, cache }) => {
      const all = forward(model, {
        ...input,
        parts: joinedParts(model, tokens.length),
        attend: (layer, q, k, v, settings) => {
          storeKeys(cache, layer, k, v, slots)
          return attentionDecode(q, cache.keys[layer], cache.values[layer], table, lengths, settings)
        },
      })
      return tokens.length === running.length ? all : gatherRows(all, tensor(device, Int32Array.from(ends)))
    })
    return drawTokens(engine, running, hidden)
  })
}

/** Block ids by row; unused places repeat the row's first block, which no kernel reads there. */
function blockTable({ device }: Engine, rows: readonly Row[]): Tensor {
  const width = rows.reduce((most, { blocks }) => Math.max(most, blocks.length), 0)
  const table = new Int32Array(rows.length * width)
  rows.forEach((row, i) => {
    table.fill(row.blocks[0], i * width, (i + 1) * width)
    table.set(row.blocks, i * width)
  })
  return tensor(device, table, [rows.length, width])
}

const penalizes = ({ repetitionPenalty = 1 }: GenerationRequest): boolean => repetitionPenalty !== 1

/** Adds an id to ascending ones, once. */
function addSeen(seen: number[], id: number): void {
  let [low, high] = [0, seen.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (seen[middle] < id) low = middle + 1
    else high = middle
  }
  if (seen[low] !== id) seen.splice(low, 0, id)
}

/** The seen ids of the rows, each behind as many -1 as the longest needs. */
function seenTable({ device }: Engine, rows: readonly Row[]): Tensor {
  const width = rows.reduce((most, { seen }) => Math.max(most, seen.length), 0)
  const table = new Int32Array(rows.length * width).fill(-1)
  rows.forEach(({ seen }, i) => {
    table.set(seen, (i + 1) * width - seen.length)
  })
  return tensor(device, table, [rows.length, width])
}

type Draw = ReturnType<typeof headSample>

/** Draws one token per row from the hidden states of each reader, [rows, C]. */
function drawTokens(engine: Engine, rows: readonly Row[], hidden: readonly Tensor[]): Draw {
  const { readers, device, request } = engine
  const words = new Int32Array(rows.length * 4)
  rows.forEach((row, i) => {
    words.set([row.key[0] | 0, row.key[1] | 0, 0, row.drawn], i * 4)
  })
  const keys = tensor(device, words, [rows.length, 4])
  const [{ model }, other] = readers
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty, mixture } = request
  const settings = { temperature, topK, topP, minP, softcap: model.config.logitSoftcap }
  if (other === undefined || mixture === undefined) {
    const penalty = penalizes(request) ? { repetitionPenalty, seen: seenTable(engine, rows) } : {}
    return headSample(hidden[0], headWeight(model), keys, { ...settings, ...penalty })
  }
  return headSampleMixture(hidden[0], headWeight(model), hidden[1], headWeight(other.model), keys, {
    ...settings,
    mixture: mixture.mixtureCoef,
  })
}

/** Runs `work`, waits for the tokens that it draws, gives them to their rows and lets finished rows go. */
async function takeStep(engine: Engine, rows: readonly Row[], work: () => Draw): Promise<void> {
  using scope = new Scope()
  const draw = scope.run(work)
  const [ids, logps, sampled] = await Promise.all([draw.ids.data(), draw.logps.data(), draw.samplingLogps.data()])
  rows.forEach((row, i) => {
    if (ids[i] < 0)
      throw new WhetstoneError(
        'E_NONFINITE',
        'generate',
        `the logits of prompt ${row.prompt} are not numbers: the model is damaged`,
      )
    row.ids.push(ids[i])
    row.logps.push(logps[i])
    row.samplingLogps.push(sampled[i])
    row.length++
    row.drawn++
    row.unread = [ids[i]]
    if (penalizes(engine.request)) addSeen(row.seen, ids[i])
  })
  for (const [i, row] of rows.entries())
    if (isFinished(engine, row, ids[i]) && !(await goesOn(engine, row))) finishRow(engine, row)
}

/** Asks what comes behind a turn that has ended, and begins the next one; false: the sample is done. */
async function goesOn(engine: Engine, row: Row): Promise<boolean> {
  const { readers, cache, request } = engine
  const reply = await request.reply?.(row.prompt, row.sample, plain(row))
  if (reply === undefined) return false
  checkReply(readers[0].model, request, row.length, reply)
  Object.assign(row, { ids: [], logps: [], samplingLogps: [], finishReason: 'length' })
  row.unread = [...row.unread, ...reply]
  row.length += reply.length
  if (penalizes(request)) for (const id of reply) addSeen(row.seen, id)
  const missing = blocksFor(row.length + request.maxNewTokens) - row.blocks.length
  if (missing > cache.free.length)
    for (const { cache: one } of readers) growCache(one, Math.max(missing, row.blocks.length * engine.rows.length))
  if (missing > 0) row.blocks.push(...takeBlocks(cache, missing))
  return true
}

function isFinished({ request }: Engine, row: Row, id: number): boolean {
  const asked = request.onToken?.(row.prompt, row.sample, id) === true
  const stopped = asked || request.stopIds.has(id)
  if (stopped) row.finishReason = 'stop'
  return stopped || row.ids.length >= request.maxNewTokens
}

function finishRow({ rows, cache }: Engine, row: Row): void {
  rows.splice(rows.indexOf(row), 1)
  cache.free.push(...row.blocks.slice(row.group.shared.length))
  row.group.running--
  if (row.group.running === 0) cache.free.push(...row.group.shared)
}
