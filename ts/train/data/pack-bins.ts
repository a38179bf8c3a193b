// Lengths -> bins of a capacity, for packing: best-fit decreasing, as TRL's `bfd`. Deterministic, and near-linear in the
// number of rows. What goes into a bin together still does not see each other: the rows stay segments of their own.

/** First index of an ascending list whose value is at least `value`. */
function lowerBound(list: readonly number[], value: number): number {
  let [low, high] = [0, list.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (list[middle] < value) low = middle + 1
    else high = middle
  }
  return low
}

/** Bins by the room left in them; the smallest room that suffices is found by a binary search. */
function createShelf() {
  /** Distinct rooms, ascending. */
  const rooms: number[] = []
  const binsByRoom = new Map<number, number[]>()
  return {
    put(bin: number, room: number): void {
      const bins = binsByRoom.get(room)
      if (bins !== undefined) return void bins.splice(lowerBound(bins, bin), 0, bin)
      binsByRoom.set(room, [bin])
      rooms.splice(lowerBound(rooms, room), 0, room)
    },
    /** Takes the earliest of the fullest bins that have room for `length`. */
    take(length: number): { bin: number; room: number } | undefined {
      const at = lowerBound(rooms, length)
      if (at === rooms.length) return undefined
      const room = rooms[at]
      const bins = binsByRoom.get(room) ?? []
      const [bin] = bins.splice(0, 1)
      if (bins.length === 0) {
        binsByRoom.delete(room)
        rooms.splice(at, 1)
      }
      return { bin, room }
    },
  }
}

/**
 * Lays lengths into bins of at most `capacity`: best-fit decreasing, ties to the earlier row and the earlier bin. A
 * length above the capacity gets a bin of its own.
 *
 * @returns bins of row indices, each in ascending order, bins by their first row
 */
export function packBins(lengths: readonly number[], capacity: number): number[][] {
  const bins: number[][] = []
  const shelf = createShelf()
  const order = lengths.map((_, row) => row).sort((a, b) => lengths[b] - lengths[a] || a - b)
  for (const row of order) {
    const { bin, room } = shelf.take(lengths[row]) ?? { bin: bins.push([]) - 1, room: capacity }
    bins[bin].push(row)
    if (room > lengths[row]) shelf.put(bin, room - lengths[row])
  }
  return bins.map((rows) => rows.sort((a, b) => a - b)).sort((a, b) => a[0] - b[0])
}
