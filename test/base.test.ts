// Random numbers against Random123's answers and big-integer arithmetic, statistics against published values. The metrics
// log and progress are in events.test.ts.

import t from 'tap'
import {
  createRandom,
  deriveKey,
  fillNormal,
  type Key,
  permutation,
  philox,
  uniform,
  type Words,
} from '../ts/src/base/rng.js'
import {
  mean,
  median,
  passAtK,
  percentile,
  proportionDifference,
  proportionInterval,
  proportionZ,
  quantile,
  variance,
} from '../ts/src/base/stats.js'
import { atOnce, inTurns } from '../ts/src/base/turns.js'
import { randomOf } from './support.js'

// Random numbers -------------------------------------------------------------------------------------------------------

const hex = (words: readonly number[]): string => words.map((word) => word.toString(16).padStart(8, '0')).join(' ')

/** Philox4x32-10 over big integers, written from the paper. */
function philoxReference(counter: Words, key: Key): number[] {
  const low = (x: bigint): bigint => x & 0xffffffffn
  let [c0, c1, c2, c3] = counter.map(BigInt)
  let [k0, k1] = key.map(BigInt)
  for (let round = 0; round < 10; round++) {
    const a = 0xd2511f53n * c0
    const b = 0xcd9e8d57n * c2
    ;[c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, low(b), (a >> 32n) ^ c3 ^ k1, low(a)]
    ;[k0, k1] = [low(k0 + 0x9e3779b9n), low(k1 + 0xbb67ae85n)]
  }
  return [c0, c1, c2, c3].map(Number)
}

t.test('philox gives the known answers of Random123', async (t) => {
  const ones = 0xffffffff
  t.equal(hex(philox([0, 0, 0, 0], [0, 0])), '6627e8d5 e169c58d bc57ac4c 9b00dbd8')
  t.equal(hex(philox([ones, ones, ones, ones], [ones, ones])), '408f276d 41c83b0e a20bc7c6 6d5451fd')
  const pi: Words = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]
  t.equal(hex(philox(pi, [0xa4093822, 0x299f31d0])), 'd16cfe09 94fdcceb 5001e420 24126ea1')
})

t.test('philox equals big-integer arithmetic', async (t) => {
  const random = randomOf('philox')
  const edges = [0, 1, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffff0000, 0xffffffff]
  const word = () => (random.integer(3) === 0 ? edges[random.integer(edges.length)] : random.integer(2 ** 32))
  const faults = Array.from({ length: 3000 }, () => {
    const counter: Words = [word(), word(), word(), word()]
    const key: Key = [word(), word()]
    return hex(philox(counter, key)) === hex(philoxReference(counter, key)) ? [] : [{ counter, key }]
  }).flat()
  t.same(faults, [])
})

t.test('keys differ by every part of their name and never change', async (t) => {
  t.same(deriveKey(7, 'a', 3), [108980733, 2985416183], 'committed: weights and samples of old runs depend on it')
  const names: (string | number)[][] = [[], ['a'], ['a', 1], ['a', '1'], [1, 'a'], ['a1'], ['a,1'], ['a","1'], ['']]
  const keys = names.flatMap((name) => [1, 2].map((seed) => deriveKey(seed, ...name).join()))
  t.equal(new Set(keys).size, keys.length)
  t.throws(() => deriveKey(Number.NaN), { code: 'E_CONFIG' })
  t.throws(() => deriveKey(1, Number.POSITIVE_INFINITY), { code: 'E_CONFIG' })
})

t.test('uniform numbers are a function of key, index and stream', async (t) => {
  const key: Key = [5, 6]
  const [a, b] = philox([9, 1, 3, 0], key)
  t.equal(uniform(key, 2 ** 32 + 9, 3), ((a >>> 5) * 2 ** 26 + (b >>> 6)) / 2 ** 53)
  t.not(uniform(key, 9, 3), uniform(key, 2 ** 32 + 9, 3), 'the high word of the index counts')
  t.not(uniform(key, 9, 3), uniform(key, 9, 4))
  const drawn = Array.from({ length: 20_000 }, (_, i) => uniform(key, i))
  t.ok(drawn.every((u) => u >= 0 && u < 1))
  // 4.5 standard deviations of the mean of n uniform numbers
  t.ok(Math.abs(mean(drawn) - 0.5) < 4.5 * Math.sqrt(1 / 12 / drawn.length))
  t.ok(Math.abs(variance(drawn) - 1 / 12) < 0.003)
})

t.test('streams', async (t) => {
  const draw = (key: Key) => {
    const random = createRandom(key)
    return [random.next(), random.integer(10), random.normal(), ...random.shuffle([1, 2, 3, 4])]
  }
  t.same(draw([1, 2]), draw([1, 2]), 'equal keys, equal numbers')
  t.notSame(draw([1, 2]), draw([2, 1]))
  const pinned = createRandom(deriveKey(7, 'a', 3))
  t.same([pinned.next(), pinned.next(), pinned.integer(1000)], [0.39237507290651596, 0.5693972891480218, 278])

  const random = randomOf('streams')
  const counts = new Array<number>(7).fill(0)
  for (let i = 0; i < 70_000; i++) counts[random.integer(7)]++
  const chi = counts.reduce((sum, count) => sum + (count - 10_000) ** 2 / 10_000, 0)
  t.ok(chi < 27.9, `chi squared of seven cells: ${chi.toFixed(1)} (27.9 is its 99.99% point)`)
  t.equal(random.integer(1), 0)
  for (const n of [0, -1, 1.5, Number.NaN, 2 ** 32 + 1]) t.throws(() => random.integer(n), { code: 'E_CONFIG' })

  const normals = Array.from({ length: 40_000 }, () => random.normal())
  t.ok(Math.abs(mean(normals)) < 4.5 / Math.sqrt(normals.length))
  t.ok(Math.abs(variance(normals) - 1) < 0.04)
  t.ok(normals.every(Number.isFinite))
})

t.test('normal values of a key', async (t) => {
  const drawn = (count: number, key: Key = [3, 4], deviation = 1) => {
    const values = new Float32Array(count)
    fillNormal(values, deviation, key)
    return values
  }
  const values = drawn(200_000)
  const moment = (power: number) => mean(Array.from(values, (value) => value ** power))
  // Deviations of the mean of z, z^2, z^3 and z^4 over n draws: sqrt of 1, 2, 15 and 96 over n.
  const wanted = [0, 1, 0, 3]
  const spreads = [1, 2, 15, 96].map((square) => Math.sqrt(square / values.length))
  for (const [i, expected] of wanted.entries())
    t.ok(Math.abs(moment(i + 1) - expected) < 4.5 * spreads[i], `moment ${i + 1}: ${moment(i + 1)}`)
  const neighbours = mean(Array.from(values.subarray(1), (value, i) => value * values[i]))
  t.ok(Math.abs(neighbours) < 4.5 / Math.sqrt(values.length), `neighbours are independent: ${neighbours}`)
  const beyond = values.filter((value) => Math.abs(value) > 3).length
  t.ok(Math.abs(beyond - 540) < 4.5 * Math.sqrt(540), `${beyond} of 200,000 beyond three deviations (540 expected)`)

  for (const count of [0, 1, 2, 3, 5, 1001]) t.same(drawn(count), values.subarray(0, count), `the first ${count}`)
  t.notSame(drawn(4, [4, 3]), drawn(4), 'another key, other numbers')
  const scaled = drawn(100, [3, 4], 0.25)
  t.ok(
    scaled.every((value, i) => value === 0.25 * values[i]),
    'a deviation that is a power of two scales exactly',
  )
  t.same(
    Array.from(drawn(3, [7, 1], 0.02)),
    [0.028398025780916214, -0.005654709413647652, 0.005149818491190672],
    'committed: weights of a seed depend on it',
  )
})

t.test('permutations', async (t) => {
  t.same(permutation(8, deriveKey(7, 'a', 3)), [7, 0, 4, 2, 3, 6, 5, 1], 'committed: the order of rows depends on it')
  t.same(permutation(0, [1, 1]), [])
  const orders = Array.from({ length: 6000 }, (_, i) => permutation(3, deriveKey(i, 'order')).join(''))
  const counts = ['012', '021', '102', '120', '201', '210'].map((o) => orders.filter((order) => order === o).length)
  t.ok(
    counts.every((count) => Math.abs(count - 1000) < 150),
    `six orders, equally likely: ${counts}`,
  )
})

// Statistics -----------------------------------------------------------------------------------------------------------

const rounded = (values: readonly number[]): string[] => values.map((value) => (value + 0).toFixed(4))

t.test("Wilson's interval: the values of Newcombe 1998", async (t) => {
  const cases: [number, number, string, string][] = [
    [81, 263, '0.2553', '0.3662'],
    [15, 148, '0.0624', '0.1605'],
    [0, 20, '0.0000', '0.1611'],
    [1, 29, '0.0061', '0.1718'],
  ]
  for (const [successes, total, low, high] of cases) {
    const interval = proportionInterval(successes, total)
    t.same(rounded([interval.low, interval.high]), [low, high], `${successes} of ${total}`)
    t.equal(interval.accuracy, successes / total)
  }
  t.same(proportionInterval(0, 0), { accuracy: 0, low: 0, high: 1 })
  for (let n = 1; n < 60; n++) {
    if (proportionInterval(0, n).low !== 0 || proportionInterval(n, n).high !== 1) t.fail(`ends of ${n} are not exact`)
  }
  const bad: [number, number][] = [
    [-1, 2],
    [3, 2],
    [0.5, 2],
    [Number.NaN, 2],
    [0, -1],
  ]
  for (const [k, n] of bad) t.throws(() => proportionInterval(k, n), { code: 'E_CONFIG' })
})

t.test("differences: the values of Newcombe's method 10", async (t) => {
  const cases: [number, number, number, number, string, string][] = [
    [56, 70, 48, 80, '0.0524', '0.3339'],
    [9, 10, 3, 10, '0.1705', '0.8090'],
    [5, 56, 0, 29, '-0.0381', '0.1926'],
    [0, 10, 0, 10, '-0.2775', '0.2775'],
  ]
  for (const [k, n, l, m, low, high] of cases) {
    const found = proportionDifference({ correct: k, total: n }, { correct: l, total: m })
    t.same(rounded([found.low, found.high]), [low, high], `${k}/${n} - ${l}/${m}`)
  }
  t.throws(() => proportionDifference({ correct: 3, total: 2 }, { correct: 0, total: 1 }), { code: 'E_CONFIG' })
})

t.test('the pooled test', async (t) => {
  // shares 0.8 and 0.6, pooled 104/150: 0.2 / sqrt(0.693333 0.306667 (1/70 + 1/80))
  t.equal(proportionZ({ correct: 56, total: 70 }, { correct: 48, total: 80 }).toFixed(4), '2.6502')
  t.equal(proportionZ({ correct: 5, total: 5 }, { correct: 7, total: 7 }), 0)
  t.throws(() => proportionZ({ correct: 0, total: 0 }, { correct: 1, total: 2 }), { code: 'E_CONFIG' })
})

t.test('summaries', async (t) => {
  t.equal(mean([]), 0)
  t.equal(mean([1, 2, 6]), 3)
  t.equal(variance([1, 2, 6]), 7)
  t.equal(variance([4]), 0)
  t.equal(median([9, 1, 5]), 5)
  t.equal(median([4, 1, 3, 2]), 2.5)
  t.equal(quantile([10, 20, 30], 0.75), 25)
  t.equal(percentile([10, 20, 30], 75), 25)
  t.same([percentile([3, 1, 2], 0), percentile([3, 1, 2], 100)], [1, 3])
  t.ok(Number.isNaN(median([])))
})

/** Share of the k-subsets of n samples, the first `correct` of them right, that hold a right one: by counting them all. */
function passByCounting(n: number, correct: number, k: number): number {
  let [hits, all] = [0, 0]
  for (let set = 0; set < 2 ** n; set++) {
    const members = Array.from({ length: n }, (_, i) => i).filter((i) => (set >> i) & 1)
    if (members.length !== k) continue
    all++
    if (members.some((i) => i < correct)) hits++
  }
  return hits / all
}

t.test('pass@k', async (t) => {
  for (const [n, k] of [
    [1, 1],
    [5, 1],
    [6, 3],
    [7, 7],
  ])
    for (let correct = 0; correct <= n; correct++) {
      const difference = Math.abs(passAtK(n, correct, k) - passByCounting(n, correct, k))
      t.ok(difference < 1e-12, `${correct} of ${n}, k ${k}`)
    }
  t.throws(() => passAtK(2, 0, 5), { code: 'E_CONFIG' }, 'two samples cannot tell pass@5')
  t.throws(() => passAtK(2, 3, 1), { code: 'E_CONFIG' })
  t.throws(() => passAtK(2, 1, 0), { code: 'E_CONFIG' })
})

t.test('work in turns', async (t) => {
  function* work(parts: number): Generator<void, number> {
    for (let part = 0; part < parts; part++) {
      const end = performance.now() + 30
      while (performance.now() < end);
      yield
    }
    return parts
  }
  let timers = 0
  const timer = setInterval(() => timers++, 1)
  t.equal(await inTurns(work(8), () => undefined), 8)
  t.ok(timers >= 3, `others had ${timers} turns`)
  const few = timers
  t.equal(atOnce(work(3)), 3)
  t.equal(timers, few)
  const enough = new Error('enough')
  const check = () => {
    if (timers > few) throw enough
  }
  await t.rejects(inTurns(work(1000), check), enough)
  clearInterval(timer)
})
