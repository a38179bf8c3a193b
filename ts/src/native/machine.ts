// Which processors this process may use, as Linux tells: affinity, cores, and the quota of the cgroup. The same facts
// that native/cpu/device.cpp reads for its default; here they are read to be told. Elsewhere the answers are empty.

import { readFileSync } from 'node:fs'

function read(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return null
  }
}

/** Numbers of a list such as `0-3,8`. */
export function parseCpuList(list: string): number[] {
  return list
    .split(',')
    .filter((part) => /^\d+(-\d+)?$/.test(part))
    .flatMap((part) => {
      const [first, last = first] = part.split('-').map(Number)
      return Array.from({ length: last - first + 1 }, (_, i) => first + i)
    })
}

/** Hardware threads that the affinity mask allows; empty when the system does not tell. */
export function allowedCpus(): number[] {
  const line = read('/proc/self/status')?.match(/^Cpus_allowed_list:\s*(\S+)$/m)
  return line ? parseCpuList(line[1]) : []
}

/** How many cores these hardware threads belong to. */
export function physicalCores(cpus: readonly number[]): number {
  const firstSibling = (cpu: number): string =>
    read(`/sys/devices/system/cpu/cpu${cpu}/topology/thread_siblings_list`)?.match(/^\d+/)?.[0] ?? String(cpu)
  return new Set(cpus.map(firstSibling)).size
}

/** CPUs that the cgroup's quota pays for, rounded up; null when there is none. */
export function quotaCpus(): number | null {
  const [quota, period] = (
    read('/sys/fs/cgroup/cpu.max')?.split(/\s+/) ?? [
      read('/sys/fs/cgroup/cpu/cpu.cfs_quota_us'),
      read('/sys/fs/cgroup/cpu/cpu.cfs_period_us'),
    ]
  ).map(Number)
  return quota > 0 && period > 0 ? Math.ceil(quota / period) : null
}
