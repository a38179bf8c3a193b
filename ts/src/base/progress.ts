// One live line on a terminal; off a terminal one plain line every few seconds. Writes to stderr, so that stdout stays
// free for results. A closed pipe ends the output, not the run.

/** Shows progress. */
export interface Progress {
  /** Replaces the live line; off a terminal prints it at most every few seconds. */
  update(line: string): void
  /** Prints a line that stays. */
  note(line: string): void
  /** Ends the live line. */
  end(): void
}

const plainEveryMs = 5000

/** What progress is written to: process.stderr in practice. */
export interface ProgressStream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

/** Progress on a stream; `quiet` writes nothing. */
export function createProgress(stream: ProgressStream, quiet = false, now: () => number = Date.now): Progress {
  const live = stream.isTTY === true
  let shown = false
  let lastPlain = Number.NEGATIVE_INFINITY
  const write = (text: string) => {
    if (!quiet) stream.write(text)
  }
  const clear = () => {
    if (shown) write('\r\u001b[2K')
    shown = false
  }
  return {
    update: (line) => {
      if (live) {
        write(`\r\u001b[2K${line.slice(0, (stream.columns ?? 100) - 1)}`)
        shown = true
      } else if (now() - lastPlain >= plainEveryMs) {
        lastPlain = now()
        write(`${line}\n`)
      }
    },
    note: (line) => {
      clear()
      write(`${line}\n`)
    },
    end: clear,
  }
}

/** Seconds as `42 s`, `3 min 5 s` or `2 h 4 min`. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`
}

/** Bytes with a binary unit: `12.3 MiB`. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  const power = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10))
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`
}
