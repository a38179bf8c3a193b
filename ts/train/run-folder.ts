// A run's folder: a lock, the resolved configuration with the origin of every value, metrics.jsonl with one event per
// line, and what the run itself puts there. Resuming appends to the log; a folder in use, or a finished one that was
// not asked to resume, is refused rather than overwritten.

import { appendFile, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../src/base/errors.js'
import { attempt, ensureDirectory, exists, readBytes, writeAtomic } from '../src/io/files.js'
import { decodeUtf8, parseJson, readJsonObject } from '../src/io/json.js'
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

/** A line of metrics.jsonl. */
export type LoggedEvent = TrainEvent & { readonly time: string }

/**
 * Opens a run folder, new or to resume.
 *
 * @param warn told when an event could not be logged: the run goes on, its log has a gap
 * @throws WhetstoneError E_CONFIG when it is in use, holds a run that was not asked to resume, or none that was;
 *   E_MISMATCH when the settings differ from the run's
 */
export async function openRun(
  path: string,
  config: Resolved<Readonly<Record<string, unknown>>>,
  resume: boolean,
  warn: (message: string) => void,
): Promise<RunFolder> {
  if (resume && !(await exists(join(path, 'config.json')))) refuseResume(path)
  await ensureDirectory(path)
  const unlock = await lockRun(path)
  try {
    await settleConfig(path, config, resume)
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

async function settleConfig(
  path: string,
  { values, origins }: Resolved<Readonly<Record<string, unknown>>>,
  resume: boolean,
): Promise<void> {
  const file = join(path, 'config.json')
  const known = await exists(file)
  if (known && !resume)
    throw new WhetstoneError(
      'E_CONFIG',
      path,
      'the folder already holds a run: add --resume to go on with it, or choose another --output',
    )
  if (!known) {
    const table = Object.fromEntries(
      Object.entries(values).map(([key, value]) => [key, { value, origin: origins[key] }]),
    )
    await writeAtomic(file, `${JSON.stringify(table, null, 2)}\n`)
    return
  }
  const stored = (await readJsonObject(file)) as Record<string, { value: unknown }>
  for (const [key, value] of Object.entries(values))
    if (JSON.stringify(stored[key]?.value) !== JSON.stringify(value))
      throw new WhetstoneError(
        'E_MISMATCH',
        key,
        `the run was started with ${JSON.stringify(stored[key]?.value)}, now ${JSON.stringify(value)}: resume with the same settings`,
      )
}

/** Events of a run in order; a last line that was cut off by a kill is left out. */
export async function readMetrics(path: string): Promise<LoggedEvent[]> {
  const file = join(path, 'metrics.jsonl')
  const lines = decodeUtf8(await readBytes(file), file).split('\n')
  lines.pop()
  return lines.map((line, i) => parseJson(line, `${file}:${i + 1}`) as LoggedEvent)
}
