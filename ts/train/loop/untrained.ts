// Rounds that train nothing: methods of inference and evaluation have all of the loop but its update. Of such a run a file says
// how many rounds are done and with which settings; samples are in the shards of `rollouts`, as in any other.

import { join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { ensureDirectory, exists, writeAtomic } from '../../src/io/files.js'
import { isJsonObject, readJsonObject } from '../../src/io/json.js'
import { checkSameConfig } from '../checkpoint/compare.js'
import { type PhaseResult, unlessAborted } from '../loop.js'

/** A run without an update. */
export interface Untrained {
  readonly rounds: number
  /** Everything that decides the samples, as far as it is data. */
  readonly fingerprint: Readonly<Record<string, unknown>>
  /** Folder of the run; none: nothing is saved. */
  readonly output: string | undefined
  readonly resume: boolean
  readonly signal: AbortSignal | undefined
  /** Makes a round (1-based) and reports it. */
  readonly round: (number: number) => Promise<void>
}

/**
 * Runs the rounds that remain, to the last one or to the signal. A `step` of the result is a round.
 *
 * @throws WhetstoneError E_MISMATCH (resumed with other settings or another policy), E_FORMAT, and what a round throws
 */
export async function runUntrained({ rounds, output, resume, signal, ...run }: Untrained): Promise<PhaseResult> {
  const file = output && join(output, 'rounds.json')
  const first = file !== undefined && resume ? await roundsDone(file, run.fingerprint) : 0
  let done = first
  while (done < rounds) {
    const made = await unlessAborted(signal, () => run.round(done + 1).then(() => true))
    if (made === undefined) break
    done++
    if (output === undefined || file === undefined) continue
    await ensureDirectory(output)
    await writeAtomic(file, `${JSON.stringify({ rounds: done, fingerprint: run.fingerprint })}\n`)
  }
  return { step: done, stepsDone: done - first, stopped: done < rounds, last: undefined, checkpoint: undefined }
}

async function roundsDone(file: string, now: Readonly<Record<string, unknown>>): Promise<number> {
  if (!(await exists(file))) return 0
  const { rounds, fingerprint } = await readJsonObject(file)
  if (!Number.isInteger(rounds) || !isJsonObject(fingerprint))
    throw new WhetstoneError('E_FORMAT', file, 'expected the number of rounds that are done, and their settings')
  checkSameConfig(fingerprint, now)
  return rounds as number
}
