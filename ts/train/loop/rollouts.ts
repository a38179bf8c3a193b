// Attempts on disk: append-only shards keyed by (round, first task), each written whole by one rename. A killed round
// goes on where it was with the same samples; no sample is made twice and none is missing.

import { join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { ensureDirectory, exists, writeAtomic } from '../../src/io/files.js'
import { readJson } from '../../src/io/json.js'
import type { Task } from '../tasks/index.js'
import type { Trace } from './trace.js'

/** Tasks per shard: what a kill can cost. */
export const tasksPerShard = 64

type StoredTrace = Omit<Trace, 'task'> & { readonly task: string }

const shardPath = (directory: string, round: number, shard: number): string =>
  join(directory, `round-${String(round).padStart(3, '0')}`, `samples-${String(shard).padStart(4, '0')}.json`)

/**
 * The scored attempts of a round: read from its shards where they exist, made by `attempt` and saved where not.
 *
 * @param directory run folder of the loop; undefined keeps everything in memory
 * @throws WhetstoneError E_MISMATCH when a shard was made for other tasks
 */
export async function rollouts(
  directory: string | undefined,
  round: number,
  tasks: readonly Task[],
  attempt: (tasks: readonly Task[]) => Promise<Trace[]>,
): Promise<Trace[]> {
  const traces: Trace[] = []
  for (let shard = 0; shard * tasksPerShard < tasks.length; shard++) {
    const part = tasks.slice(shard * tasksPerShard, (shard + 1) * tasksPerShard)
    traces.push(
      ...(directory === undefined ? await attempt(part) : await stored(directory, round, shard, part, attempt)),
    )
  }
  return traces
}

async function stored(
  directory: string,
  round: number,
  shard: number,
  tasks: readonly Task[],
  attempt: (tasks: readonly Task[]) => Promise<Trace[]>,
): Promise<Trace[]> {
  const path = shardPath(directory, round, shard)
  if (await exists(path)) return restore(path, tasks)
  const traces = await attempt(tasks)
  await ensureDirectory(join(path, '..'))
  const rows: StoredTrace[] = traces.map((trace) => ({ ...trace, task: trace.task.id }))
  await writeAtomic(path, `${JSON.stringify(rows)}\n`)
  return traces
}

async function restore(path: string, tasks: readonly Task[]): Promise<Trace[]> {
  const byId = new Map(tasks.map((task) => [task.id, task]))
  const rows = (await readJson(path)) as StoredTrace[]
  return rows.map((row) => {
    const task = byId.get(row.task)
    if (task === undefined)
      throw new WhetstoneError(
        'E_MISMATCH',
        path,
        `holds a sample of task '${row.task}', which this round does not have: the run was started with other tasks`,
      )
    return { ...row, task }
  })
}
