// A run's folder: a lock, the resolved configuration with the origin of every value, metrics.jsonl with one event per
// line, and what the run itself puts there. Resuming appends to the log; a folder in use, or one with work that was not
// asked to resume, is refused rather than overwritten. A run that ended before its first step does not keep its folder.

import { appendFile, readdir, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { shownValue } from '../src/base/arguments.js'
import { messageOf, WhetstoneError } from '../src/base/errors.js'
import { attempt, ensureDirectory, exists, readBytes, writeAtomic } from '../src/io/files.js'
import { decodeUtf8, parseJson, readJsonObject } from '../src/io/json.js'
import { checkpointFolders, isRunConfig } from '../src/io/model-folder.js'
import { lockRun } from './checkpoint/lock.js'
import type { Resolved } from './config/resolve.js'
import type { TrainEvent } from './events.js'

/** An open run folder. */
export interface RunFolder {
  readonly path: string
  /** Appends an event to metrics.jsonl, in order. A line that the system does not take is left out whole, and told. */
  log(event: TrainEvent): void
  /** Waits for the log and gives the lock back. */
  close(): Promise<void>
}

/** Settings in which a resumed run may differ from the one that it goes on with. */
export interface Changes {
  readonly allowed: readonly string[]
  /** What to do about others, by name; default to resume with the same. */
  readonly advice: Readonly<Record<string, string>>
}

/** A line of metrics.jsonl. */
export type LoggedEvent = TrainEvent & { readonly time: string }

/**
 * Opens a run folder, new or to resume.
 *
 * @param config settings to keep, or to resume with
 * @param warn told when a run that has made nothing is started again, and when an event could not be logged: the run goes
 *   on, its log has a gap
 * @param changes default none
 * @throws WhetstoneError E_CONFIG when it is in use, holds a run that has made a step, samples or a checkpoint and was not
 *   asked to resume, none that was, or something else than a run; E_TORN when it has lost its checkpoints; E_MISMATCH when the
 *   settings differ from those of a run to resume
 */
export async function openRun(
  path: string,
  config: Resolved<Readonly<Record<string, unknown>>>,
  resume: boolean,
  warn: (message: string) => void,
  changes: Changes = { allowed: [], advice: {} },
): Promise<RunFolder> {
  if (resume && !(await exists(join(path, 'config.json')))) refuseResume(path)
  await ensureDirectory(path)
  const unlock = await lockRun(path)
  try {
    await settleConfig(path, config, resume, warn, changes)
    await cutTornLine(join(path, 'metrics.jsonl'))
  } catch (error) {
    await unlock()
    throw error
  }
  const append = createLog(join(path, 'metrics.jsonl'), warn)
  let writing: Promise<void> = Promise.resolve()
  return {
    path,
    log: (event) => {
      const line = `${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`
      writing = writing.then(() => append(line))
    },
    close: async () => {
      await writing.finally(unlock)
    },
  }
}

/** To go on never means to begin: a mistyped folder would become a second run. */
function refuseResume(path: string): never {
  const text =
    'there is no run in the folder to go on with: leave out --resume to start one, or name the folder of a run'
  throw new WhetstoneError('E_CONFIG', path, text)
}

/** Appends whole lines to a file. Never rejects: a full disk costs lines of the log, not the run. */
function createLog(file: string, warn: (message: string) => void): (line: string) => Promise<void> {
  let told = false
  return async (line) => {
    try {
      await attempt('append to', file, () => appendFile(file, line))
    } catch (error) {
      if (!told) warn(`an event was not logged, and others may be missing too: ${messageOf(error)}`)
      told = true
      // Else the next line would join what was written of this one.
      await cutTornLine(file).catch(() => undefined)
    }
  }
}

/** Cuts off a last line that a kill left unfinished, so that the next event begins a line of its own. */
async function cutTornLine(file: string): Promise<void> {
  if (!(await exists(file))) return
  const bytes = await readBytes(file)
  const whole = bytes.lastIndexOf(0x0a) + 1
  if (whole < bytes.length) await attempt('cut', file, () => truncate(file, whole))
}

type AnyResolved = Resolved<Readonly<Record<string, unknown>>>

async function settleConfig(
  path: string,
  config: AnyResolved,
  resume: boolean,
  warn: (message: string) => void,
  changes: Changes,
): Promise<void> {
  const file = join(path, 'config.json')
  if (!(await exists(file))) return writeConfig(file, config)
  const stored = await readJsonObject(file)
  if (!isRunConfig(stored))
    throw new WhetstoneError('E_CONFIG', path, 'the folder holds something else than a run: choose another --output')
  const found = await workIn(path)
  if (resume) {
    await changeSettings(file, stored as StoredConfig, config, changes, found)
    return found === 'a checkpoint' ? undefined : refuseLost(path)
  }
  if (found !== undefined) refuseStarted(path, found)
  warn('the folder holds a run that ended before its first step; it is started again')
  // Reports take the beginning of a log for the run's.
  const log = join(path, 'metrics.jsonl')
  await attempt('remove', log, () => rm(log, { force: true }))
  await writeConfig(file, config)
}

async function writeConfig(file: string, { values, origins }: AnyResolved): Promise<void> {
  const table = Object.fromEntries(Object.entries(values).map(([key, value]) => [key, { value, origin: origins[key] }]))
  await writeAtomic(file, `${JSON.stringify(table, null, 2)}\n`)
}

type StoredConfig = Readonly<Record<string, { readonly value: unknown }>>

/** Settings of a resumed run: those that it was started with, and what may be changed. */
async function changeSettings(
  file: string,
  stored: StoredConfig,
  config: AnyResolved,
  { allowed, advice }: Changes,
  found: Work | undefined,
): Promise<void> {
  const again = found === undefined ? ', or start it again without --resume: it has made no step' : ''
  const changed = Object.entries(config.values).filter(
    ([key, value]) => JSON.stringify(stored[key]?.value) !== JSON.stringify(value),
  )
  const refused = changed.find(([key]) => !allowed.includes(key))
  if (refused !== undefined) {
    const [key, value] = refused
    throw new WhetstoneError(
      'E_MISMATCH',
      key,
      `the run was started with ${shownValue(stored[key]?.value)}, now ${shownValue(value)}: ${advice[key] ?? 'resume with the same settings'}${again}`,
    )
  }
  if (changed.length > 0) await writeConfig(file, config)
}

/** What a run has done. */
type Work = 'a checkpoint' | 'samples' | 'a step'

/** Folders of a run where work lies: of `train`, of rounds, and of the phases of `improve`. */
const workFolders = [...checkpointFolders, 'rounds', 'warmup', 'control']

/**
 * What starting again would lose or mix up; undefined when the run ended before its first step. What else it may have left
 * stays: log-probs of a reference are found by their contents, and the start model of `improve` is made again.
 */
async function workIn(path: string): Promise<Work | undefined> {
  for (const folder of workFolders) {
    const directory = join(path, folder)
    if (!(await exists(directory))) continue
    const names = await attempt('list', directory, () => readdir(directory))
    if (names.some((name) => /^(\.bad-)?step-/.test(name))) return 'a checkpoint'
    if (names.some((name) => /^round-/.test(name))) return 'samples'
  }
  if (!(await exists(join(path, 'metrics.jsonl')))) return undefined
  return (await readMetrics(path)).some(({ type }) => type === 'step') ? 'a step' : undefined
}

function refuseStarted(path: string, found: Work): never {
  const others = 'choose another --output'
  // They were paid for, and those of other settings must not be taken for the new run's.
  const advice = found === 'samples' ? `${others}, or remove ${join(path, 'rounds')} to start again` : others
  const text = `the folder already holds a run, which has made ${found}: add --resume to go on with it, or ${advice}`
  throw new WhetstoneError('E_CONFIG', path, text)
}

/** A run whose checkpoints are gone must not begin at step 0 again, as one may that was killed before its first. */
async function refuseLost(path: string): Promise<void> {
  if (!(await exists(join(path, 'metrics.jsonl')))) return
  const lost = (await readMetrics(path)).findLast((event) => event.type === 'checkpoint')
  if (lost?.type !== 'checkpoint') return
  const text = `the log tells of a checkpoint of step ${lost.step}, but there is none: put it back, or choose another output to start afresh`
  throw new WhetstoneError('E_TORN', path, text)
}

/** Events of a run in order; a last line that was cut off by a kill is left out. */
export async function readMetrics(path: string): Promise<LoggedEvent[]> {
  const file = join(path, 'metrics.jsonl')
  const lines = decodeUtf8(await readBytes(file), file).split('\n')
  lines.pop()
  return lines.map((line, i) => parseJson(line, `${file}:${i + 1}`) as LoggedEvent)
}
