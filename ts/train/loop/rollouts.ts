// Attempts on disk: append-only shards keyed by (round, first task), each written whole by one rename. A killed round
// goes on where it was with the same samples; no sample is made twice and none is missing.

import { dirname, join } from 'node:path'
import { WhetstoneError } from '../../src/base/errors.js'
import { ensureDirectory, exists, writeAtomic } from '../../src/io/files.js'
import { readJsonObject } from '../../src/io/json.js'
import type { Task } from '../tasks/index.js'
import type { Trace } from './trace.js'

/** Tasks per shard unless a recipe says otherwise: what a kill can cost. */
export const tasksPerShard = 64

type StoredTrace = Omit<Trace, 'task'> & { readonly task: string }

/** A shard on disk: its tasks in order, and what was attempted at them. */
interface Shard {
  readonly tasks: readonly string[]
  readonly traces: readonly StoredTrace[]
}

/** Where shards lie, and whether those of an earlier process may be read. */
export interface RolloutStore {
  readonly directory: string
  readonly resume: boolean
}

type Attempt = (tasks: readonly Task[]) => Promise<Trace[]>

/** How far a round goes. */
export interface RolloutLimits {
  /** Tasks per shard; default {@link tasksPerShard}. */
  readonly shardSize?: number
  /** Asked behind each shard: true leaves the tasks that remain untried. A pure function of the traces. */
  readonly enough?: (traces: readonly Trace[]) => boolean
}

const shardPath = (directory: string, round: number, shard: number): string =>
  join(directory, `round-${String(round).padStart(3, '0')}`, `samples-${String(shard).padStart(4, '0')}.json`)

/**
 * The scored attempts of a round: read from its shards where they exist, made by `attempt` and saved where not.
 *
 * @param store undefined keeps everything in memory
 * @throws WhetstoneError E_MISMATCH when a shard was made for other tasks, E_CONFIG when it is of an earlier run that is
 *   not resumed, E_FORMAT
 */
export async function rollouts(
  store: RolloutStore | undefined,
  round: number,
  tasks: readonly Task[],
  attempt: Attempt,
  { shardSize = tasksPerShard, enough = () => false }: RolloutLimits = {},
): Promise<Trace[]> {
  const traces: Trace[] = []
  for (let shard = 0; shard * shardSize < tasks.length && !(shard > 0 && enough(traces)); shard++) {
    const part = tasks.slice(shard * shardSize, (shard + 1) * shardSize)
    const path = store && shardPath(store.directory, round, shard)
    traces.push(
      ...(path === undefined ? await attempt(part) : await stored(path, store?.resume === true, part, attempt)),
    )
  }
  return traces
}

async function stored(path: string, resume: boolean, tasks: readonly Task[], attempt: Attempt): Promise<Trace[]> {
  if (await exists(path)) {
    if (resume) return restore(path, tasks)
    throw new WhetstoneError('E_CONFIG', path, 'holds samples of an earlier run: resume it or use another folder')
  }
  const traces = await attempt(tasks)
  await ensureDirectory(dirname(path))
  const shard: Shard = {
    tasks: tasks.map((task) => task.id),
    traces: traces.map((trace) => ({ ...trace, task: trace.task.id })),
  }
  await writeAtomic(path, `${JSON.stringify(shard)}\n`)
  return traces
}

async function restore(path: string, tasks: readonly Task[]): Promise<Trace[]> {
  const { tasks: ids, traces } = (await readJsonObject(path)) as Partial<Record<keyof Shard, unknown>>
  if (!Array.isArray(ids) || !Array.isArray(traces))
    throw new WhetstoneError('E_FORMAT', path, 'expected a list of tasks and a list of traces')
  const other = tasks.findIndex((task, i) => task.id !== ids[i])
  if (other >= 0 || ids.length !== tasks.length)
    throw new WhetstoneError(
      'E_MISMATCH',
      path,
      `expected samples of task '${tasks[other]?.id ?? 'none'}', got '${ids[Math.max(other, 0)]}': the run was started with other tasks`,
    )
  const byId = new Map(tasks.map((task) => [task.id, task]))
  return (traces as StoredTrace[]).map((row) => {
    const task = byId.get(row.task)
    if (task === undefined)
      throw new WhetstoneError('E_FORMAT', path, `holds a sample of task '${row.task}', which is not its own`)
    return { ...row, task }
  })
}
