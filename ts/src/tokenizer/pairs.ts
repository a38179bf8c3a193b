// Byte-pair merging over token ids: the pair that stands earliest in the list of merges is joined first, the leftmost
// of equals first. Flat arrays and no recursion, so a word of millions of symbols takes time and memory in proportion.

/** Rank and result of a pair, found by hashing; 3 to 4 words per merge. */
export interface PairTable {
  /** Position of the pair in the list of merges, or -1. */
  rankOf(left: number, right: number): number
  /** Token that the merge of this rank gives. */
  readonly merged: Int32Array
}

const empty = -1

/** Builds the table; a pair that comes twice has the later rank. */
export function createPairTable(
  merges: readonly (readonly [left: number, right: number, merged: number])[],
): PairTable {
  const size = 2 ** Math.max(4, Math.ceil(Math.log2(merges.length * 2 + 1)))
  const [lefts, rights, ranks] = [new Int32Array(size).fill(empty), new Int32Array(size), new Int32Array(size)]
  const slotOf = (left: number, right: number): number => {
    let slot = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0
    slot = (slot ^ (slot >>> 15)) & (size - 1)
    while (lefts[slot] !== empty && (lefts[slot] !== left || rights[slot] !== right)) slot = (slot + 1) & (size - 1)
    return slot
  }
  merges.forEach(([left, right], rank) => {
    const slot = slotOf(left, right)
    lefts[slot] = left
    rights[slot] = right
    ranks[slot] = rank
  })
  const rankOf = (left: number, right: number): number => {
    const slot = slotOf(left, right)
    return lefts[slot] === empty ? -1 : ranks[slot]
  }
  return { rankOf, merged: Int32Array.from(merges, ([, , merged]) => merged) }
}

/** What merging leaves: tokens, and the index of the first symbol of each. */
export interface Merged {
  readonly ids: ArrayLike<number>
  readonly firsts: ArrayLike<number>
}

/** Words up to this length are searched anew for every merge; beyond it a heap keeps the candidates. */
const shortWord = 24

/** Merges symbols until no pair is left that the table knows. */
export const mergePairs = (symbols: Int32Array, table: PairTable): Merged =>
  symbols.length <= shortWord ? mergeShort(symbols, table) : mergeLong(symbols, table)

function mergeShort(symbols: Int32Array, table: PairTable): Merged {
  const ids = Array.from(symbols)
  const firsts = ids.map((_, i) => i)
  for (;;) {
    let [best, place] = [-1, -1]
    for (let i = 0; i + 1 < ids.length; i++) {
      const rank = table.rankOf(ids[i], ids[i + 1])
      if (rank >= 0 && (best < 0 || rank < best)) {
        best = rank
        place = i
      }
    }
    if (best < 0) return { ids, firsts }
    ids[place] = table.merged[best]
    ids.splice(place + 1, 1)
    firsts.splice(place + 1, 1)
  }
}

/** A binary heap of numbers, smallest first. */
interface Heap {
  push(key: number): void
  /** The smallest, or -1. */
  pop(): number
}

function createHeap(capacity: number): Heap {
  let keys = new Float64Array(capacity)
  let count = 0
  const pop = (): number => {
    if (count === 0) return -1
    const top = keys[0]
    const last = keys[--count]
    let at = 0
    for (let child = 1; child < count; child = 2 * at + 1) {
      if (child + 1 < count && keys[child + 1] < keys[child]) child++
      if (keys[child] >= last) break
      keys[at] = keys[child]
      at = child
    }
    keys[at] = last
    return top
  }
  const push = (key: number) => {
    if (count === keys.length) {
      const larger = new Float64Array(2 * count)
      larger.set(keys)
      keys = larger
    }
    let at = count++
    for (let parent = (at - 1) >> 1; at > 0 && keys[parent] > key; parent = (at - 1) >> 1) {
      keys[at] = keys[parent]
      at = parent
    }
    keys[at] = key
  }
  return { push, pop }
}

/** Keys order by rank, then by place: rank * 2^32 + place, exact below 2^53. */
const placeSpan = 2 ** 32

/** The list of symbols of a long word while it shrinks. */
interface Links {
  readonly ids: Int32Array
  /** Neighbours by place, -1 at the ends. */
  readonly next: Int32Array
  readonly previous: Int32Array
  /** Rank of the pair that begins at a place, -1 for none; a candidate of another rank is out of date. */
  readonly ranks: Int32Array
}

function linkSymbols(symbols: Int32Array): Links {
  const count = symbols.length
  const [next, previous] = [new Int32Array(count), new Int32Array(count)]
  for (let i = 0; i < count; i++) {
    next[i] = i + 1
    previous[i] = i - 1
  }
  next[count - 1] = -1
  return { ids: symbols.slice(), next, previous, ranks: new Int32Array(count).fill(-1) }
}

/** What is left, moved to the front in place: the k-th survivor never stands before k. */
function collect({ ids, next }: Links): Merged {
  let count = 0
  for (let i = 0; i >= 0; count++) {
    const after = next[i]
    ids[count] = ids[i]
    next[count] = i
    i = after
  }
  return { ids: ids.subarray(0, count), firsts: next.subarray(0, count) }
}

function mergeLong(symbols: Int32Array, table: PairTable): Merged {
  const links = linkSymbols(symbols)
  const { ids, next, previous, ranks } = links
  const heap = createHeap(1024)
  const offer = (place: number) => {
    const rank = next[place] < 0 ? -1 : table.rankOf(ids[place], ids[next[place]])
    ranks[place] = rank
    if (rank >= 0) heap.push(rank * placeSpan + place)
  }
  for (let i = 0; i + 1 < symbols.length; i++) offer(i)
  for (let key = heap.pop(); key >= 0; key = heap.pop()) {
    const rank = Math.floor(key / placeSpan)
    const place = key - rank * placeSpan
    if (ranks[place] !== rank) continue
    const right = next[place]
    ids[place] = table.merged[rank]
    ranks[right] = -1
    next[place] = next[right]
    if (next[place] >= 0) previous[next[place]] = place
    offer(place)
    if (previous[place] >= 0) offer(previous[place])
  }
  return collect(links)
}
