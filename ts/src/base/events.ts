// The metrics log of a run: one JSON object per line, only ever appended. Each line is handed to the operating system
// before `log` returns, so a killed process loses nothing that was logged; at worst its last line is torn, which readers
// pass over and the next writer cuts off. Resuming cuts the log back to the step of the checkpoint. How lines are parsed
// is the caller's (ts/src/io/json.ts); what the records mean too (ts/train).

import { closeSync, fsyncSync, ftruncateSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs'
import { messageOf, WhetstoneError } from './errors.js'

/** A log that is open for writing. */
export interface MetricsLog {
  /**
   * Appends a record as one line. NaN and infinities become null: JSON has no word for them.
   *
   * @throws WhetstoneError E_IO; what was written of the line is taken back
   */
  log(record: object): void
  /** Waits for the disk and closes the file. */
  close(): void
}

/** Turns a line into a value; `where` is `file:line`, for its errors. `parseJson` of ts/src/io/json.ts. */
export type ParseLine = (text: string, where: string) => unknown

/** Where the log goes on. */
export interface MetricsOptions {
  /** Cut the log before the first record whose `step` is larger: what follows belongs to steps that will be redone. */
  readonly keepUntilStep?: number
  /** Look for that record among those of this `phase` only: each phase counts its own steps. */
  readonly phase?: string
}

/** A record and its place. */
export interface MetricsLine {
  readonly value: unknown
  /** 1-based line of the file. */
  readonly line: number
  /** Byte of the file where the line begins. */
  readonly byteOffset: number
}

const newline = 0x0a

/** Runs a file operation; E_IO names it and the path. */
function attempt<R>(operation: string, path: string, work: () => R): R {
  try {
    return work()
  } catch (cause) {
    if (WhetstoneError.isInstance(cause)) throw cause
    throw new WhetstoneError('E_IO', path, `cannot ${operation} (${messageOf(cause)})`, { cause })
  }
}

function* linesOf(bytes: Uint8Array, path: string, parse: ParseLine): Generator<MetricsLine> {
  let byteOffset = 0
  for (let end = bytes.indexOf(newline), line = 1; end >= 0; end = bytes.indexOf(newline, byteOffset), line++) {
    const where = `${path}:${line}`
    yield { value: parse(decode(bytes.subarray(byteOffset, end), where), where), line, byteOffset }
    byteOffset = end + 1
  }
}

function decode(bytes: Uint8Array, where: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new WhetstoneError('E_FORMAT', where, 'expected UTF-8 text: the line is damaged, remove it', { cause })
  }
}

/**
 * The records of a log in order. A last line without its newline is torn and left out.
 *
 * @throws WhetstoneError E_IO, E_FORMAT for a damaged line, and what `parse` throws
 */
export const readMetrics = (path: string, parse: ParseLine): MetricsLine[] => [
  ...linesOf(
    attempt('read', path, () => readFileSync(path)),
    path,
    parse,
  ),
]

const isFuture = (value: unknown, { keepUntilStep, phase }: MetricsOptions): boolean => {
  const record = value as { step?: unknown; phase?: unknown } | null
  if (keepUntilStep === undefined || typeof record?.step !== 'number' || record.step <= keepUntilStep) return false
  return phase === undefined || record.phase === phase
}

/** How many bytes of the log stand: whole lines, up to the first that will be redone. */
function keptBytes(bytes: Uint8Array, path: string, parse: ParseLine, options: MetricsOptions): number {
  if (options.keepUntilStep !== undefined)
    for (const { value, byteOffset } of linesOf(bytes, path, parse)) if (isFuture(value, options)) return byteOffset
  return bytes.lastIndexOf(newline) + 1
}

function existingBytes(path: string): Uint8Array {
  try {
    return readFileSync(path)
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return new Uint8Array(0)
    throw error
  }
}

/**
 * Opens a log to append, new or to go on: a torn last line is cut off, and records past `keepUntilStep` too. One writer
 * at a time; the run's lock sees to that.
 *
 * @throws WhetstoneError E_IO; E_FORMAT for a damaged line before the cut; what `parse` throws
 */
export function openMetrics(path: string, parse: ParseLine, options: MetricsOptions = {}): MetricsLog {
  const old = attempt('read', path, () => existingBytes(path))
  let size = keptBytes(old, path, parse, options)
  if (size < old.byteLength) attempt('cut back', path, () => truncateSync(path, size))
  const file = attempt('open', path, () => openSync(path, 'a'))
  const append = (bytes: Uint8Array): void => {
    for (let done = 0; done < bytes.byteLength; ) done += writeSync(file, bytes, done)
  }
  return {
    log: (record) => {
      const bytes = new TextEncoder().encode(`${JSON.stringify(record)}\n`)
      try {
        attempt('append to', path, () => append(bytes))
      } catch (error) {
        // Else the next line would join the torn one.
        attempt('take back half a line', path, () => ftruncateSync(file, size))
        throw error
      }
      size += bytes.byteLength
    },
    close: () => {
      try {
        attempt('sync', path, () => fsyncSync(file))
      } finally {
        attempt('close', path, () => closeSync(file))
      }
    },
  }
}
