// The built-in tasks: splits that cannot overlap, draws that are a function of (seed, split, index), answers that are
// right by independent arithmetic, checkers that accept every right completion and nothing else.

import { createHash } from 'node:crypto'
import t from 'tap'
import type { Random } from '../ts/src/base/rng.js'
import { arithmetic } from '../ts/train/tasks/arithmetic.js'
import { countdown, solve } from '../ts/train/tasks/countdown.js'
import { parseExpression } from '../ts/train/tasks/expression.js'
import { createTask, type Split, type Task, type TaskSource, taskNames } from '../ts/train/tasks/index.js'
import { randomOf } from './support.js'

const splits: readonly Split[] = ['warmup', 'train', 'heldOut']

/** Settings that between them reach every branch. */
const sources: Readonly<Record<string, () => TaskSource>> = {
  'addition of 3 digits': () => arithmetic({ seed: 1, difficulty: 3 }),
  'addition of 7 digits': () => arithmetic({ seed: 2, difficulty: 7 }),
  'addition without scratch': () => arithmetic({ seed: 1, difficulty: 3, scratch: false }),
  products: () => arithmetic({ seed: 1, difficulty: 3, operations: ['*'] }),
  'products of 7 and 3 digits': () => arithmetic({ seed: 1, difficulty: 7, operations: ['*'], factorDigits: 3 }),
  'sums and products': () => arithmetic({ seed: 3, difficulty: 4, operations: ['+', '*'] }),
  'products without scratch': () => arithmetic({ seed: 3, difficulty: 4, operations: ['*'], scratch: false }),
  'three numbers': () => countdown({ seed: 1, difficulty: 3 }),
  'three numbers, solved': () => countdown({ seed: 1, difficulty: 3, solutions: 'first' }),
  'four numbers': () => countdown({ seed: 1, difficulty: 4 }),
  'six large numbers': () => countdown({ seed: 1, difficulty: 6, largestNumber: 100, largestTarget: 999 }),
  'two numbers, sums': () => countdown({ seed: 1, difficulty: 2, operations: ['+'], largestNumber: 50 }),
}

const overSources = (test: (source: TaskSource, name: string) => void): void => {
  for (const [name, make] of Object.entries(sources)) test(make(), name)
}

const canonicalOf = (task: Task): string => task.id.slice(task.id.lastIndexOf('/') + 1)

t.test('splits are disjoint over 20,000 tasks, for any seeds and settings', async (t) => {
  const families: Readonly<Record<string, (seed: number, other: boolean) => TaskSource>> = {
    arithmetic: (seed, other) => arithmetic({ seed, difficulty: 3, scratch: !other }),
    countdown: (seed, other) => countdown({ seed, difficulty: 4, solutions: 'drawn', largestTarget: other ? 60 : 99 }),
  }
  for (const [name, make] of Object.entries(families)) {
    const owner = new Map<string, Split>()
    let drawn = 0
    const shared: string[] = []
    for (const [seed, other] of [
      [1, false],
      [2, true],
    ] as const)
      for (const split of splits)
        for (const task of make(seed, other)[split]({ warmup: 2000, train: 6000, heldOut: 2000 }[split])) {
          drawn++
          const before = owner.get(canonicalOf(task)) ?? split
          if (before !== split) shared.push(task.id)
          owner.set(canonicalOf(task), split)
        }
    t.equal(drawn, 20_000)
    t.same(shared, [], name)
  }
})

t.test('a problem is the same in any order of its operands', async (t) => {
  const ids = splits.flatMap((split) =>
    arithmetic({ seed: 5, difficulty: 2 })
      [split](300)
      .map((task) => task.prompt),
  )
  const unordered = ids.map((prompt) => prompt.slice(0, -1).split('+').sort().join('+'))
  t.equal(new Set(unordered).size, unordered.length, '3+5 and 5+3 are one problem, in one split, once')
})

t.test('a problem has one split at every difficulty', async (t) => {
  const owner = new Map<string, Split>()
  for (const difficulty of [1, 2, 3])
    for (const split of splits)
      for (const task of arithmetic({ seed: difficulty, difficulty })[split](8)) owner.set(canonicalOf(task), split)
  for (const split of splits)
    for (const task of arithmetic({ seed: 9, difficulty: 2 })[split](300))
      t.equal(owner.get(canonicalOf(task)) ?? split, split, task.id)
})

t.test('draws are a function of seed, split and index', async (t) => {
  overSources((source, name) => {
    const again = sources[name]()
    const late = splits.map((split) => again[split](40)).reverse()
    const early = [...splits].reverse().map((split) => [source[split](7), source[split](40)])
    t.same(
      early.map(([, forty]) => forty),
      late,
      `${name}: whatever was drawn before`,
    )
    t.same(
      early.map(([seven]) => seven),
      late.map((tasks) => tasks.slice(0, 7)),
      `${name}: lists begin with shorter ones`,
    )
    const ids = late.flat().map((task) => task.id)
    t.equal(new Set(ids).size, ids.length, `${name}: each once`)
  })
  t.notSame(arithmetic({ seed: 1 }).train(5), arithmetic({ seed: 2 }).train(5))
})

/** Presets were tuned, and results reported, on these very tasks. */
t.test('the tasks of the presets stay what they are', async (t) => {
  const committed = {
    arithmetic: { 2: '057a60abde695ed5', 3: 'e1177119be5c6ccb' },
    countdown: { 3: '5954c974e8aa3aad', 4: 'b9246773fdafba72' },
  }
  for (const [name, hashes] of Object.entries(committed))
    for (const [difficulty, expected] of Object.entries(hashes)) {
      const source = createTask(name, { seed: 1, difficulty: Number(difficulty) })
      const all = JSON.stringify(splits.map((split) => source[split](200)))
      t.equal(createHash('sha256').update(all).digest('hex').slice(0, 16), expected, `${name} ${difficulty}`)
    }
  const [source] = [createTask('arithmetic', { seed: 1, difficulty: 3 })]
  t.same([source.characters, source.maxNewTokens], ['0123456789+=,>', 22], 'so do alphabet and length')
})

t.test('every worked solution is accepted and fits alphabet and lengths', async (t) => {
  overSources((source, name) => {
    const all = splits.flatMap((split) => source[split](250))
    const wrong = all.filter((task) => !source.check(task, task.answer).correct)
    t.same(wrong, [], `${name}: accepted`)
    const text = new Set(all.flatMap(({ prompt, answer }) => [...prompt, ...answer]))
    t.same(
      [...text].filter((c) => !source.characters.includes(c)),
      [],
      `${name}: alphabet`,
    )
    t.equal(new Set(source.characters).size, source.characters.length, `${name}: no character twice`)
    const longest = (lengths: number[]): number => Math.max(...lengths)
    t.ok(longest(all.map(({ prompt }) => prompt.length)) <= source.maxPromptTokens, `${name}: prompts`)
    t.ok(longest(all.map(({ answer }) => answer.length + 1)) <= source.maxNewTokens, `${name}: answers with their end`)
  })
})

t.test('the longest answers fit', async (t) => {
  for (let difficulty = 1; difficulty <= 7; difficulty++)
    for (let factorDigits = 1; factorDigits <= 3; factorDigits++) {
      const source = arithmetic({ seed: 1, difficulty, factorDigits, operations: ['*'] })
      const second = Math.min(difficulty, factorDigits)
      // columns of all partial products and of all sums, at most one digit longer; result; mark; end token
      const columns = difficulty * second + (difficulty + 1) * (second - 1)
      const most = 5 * columns + difficulty + second + 1
      if (source.maxNewTokens < most) t.fail(`${difficulty} x ${factorDigits}: ${source.maxNewTokens} < ${most}`)
    }
  const source = arithmetic({ seed: 1, difficulty: 2, operations: ['*'] })
  t.ok(source.maxPromptTokens + source.maxNewTokens <= 48, 'two by two digits stay within 48 tokens')
})

// Arithmetic -----------------------------------------------------------------------------------------------------------

/** The result that the columns of an addition say, and whether each column is right. */
function readColumns(columns: string): { value: bigint; right: boolean } {
  let [carry, value, right] = [0, 0n, true]
  columns.split(',').forEach((column, place) => {
    const [p, q, digit, next] = [...column].map(Number)
    right &&= column.length === 4 && p + q + carry === digit + 10 * next
    carry = next
    value += BigInt(digit) * 10n ** BigInt(place)
  })
  return { value: value + BigInt(carry) * 10n ** BigInt(columns.split(',').length), right }
}

t.test('scratch steps of additions are right, column by column', async (t) => {
  const faults = splits
    .flatMap((split) => sources['addition of 7 digits']()[split](400))
    .filter(({ prompt, answer }) => {
      const [columns, result] = answer.split('>')
      const [a, b] = prompt.slice(0, -1).split('+').map(BigInt)
      const { value, right } = readColumns(columns)
      return !right || value !== a + b || result !== String(a + b)
    })
  t.same(faults, [])
})

t.test('scratch steps of products are right: partial products, then running sums', async (t) => {
  const faults = splits
    .flatMap((split) => sources['products of 7 and 3 digits']()[split](400))
    .filter(({ prompt, answer }) => {
      const [work, result] = answer.split('>')
      const [a, b] = prompt.slice(0, -1).split('*').map(BigInt)
      const groups = work.split(';')
      let running = 0n
      const right = [...String(b)].reverse().every((digit, place) => {
        const partial = groups.shift() ?? ''
        const shown = [...partial.matchAll(/(\d)(\d)(\d)(\d)/g)].map(([, p, q]) => [p, q])
        const places = 10n ** BigInt(place)
        const fits =
          shown.map(([p]) => p).join('') === [...String(a)].reverse().join('') && shown.every(([, q]) => q === digit)
        const upper = running / places
        running += a * BigInt(digit) * places
        if (place === 0) return fits
        const sum = readColumns(groups.shift() ?? '')
        return fits && sum.right && sum.value === upper + a * BigInt(digit)
      })
      return !right || groups.length > 0 || running !== a * b || result !== String(a * b)
    })
  t.same(faults, [])
  const worked = arithmetic({ seed: 1, difficulty: 2, operations: ['*'] })
  const task = { id: '', prompt: '47*36=', answer: '' }
  t.ok(worked.check(task, '7624,4682;7312,4341;8190,2460,0110>1692').correct)
})

t.test('only the exact number behind the mark is right', async (t) => {
  const { check } = arithmetic({ seed: 1, difficulty: 3 })
  const task = { id: '', prompt: '347+85=', answer: '7521,4831,3040>432' }
  t.same(check(task, '7521,4831,3040>432'), { correct: true, score: 1 })
  for (const right of ['0>432', '9999,1>432'])
    t.same(check(task, right), { correct: true, score: 1, firstError: 0 }, right)
  const malformed = ['', '432', '>432', '7521>', '7521>432 ', ' 7521>432', '7521>432\n', '7521>4>432', '7521>+432']
  const others = ['7521>432.0', '7521>4e2', '7521>0x1b0', '7521>٤٣٢', '7521>432,', '7521>-432', 'a>432', '7521>4 32']
  for (const text of [...malformed, ...others])
    t.same(check(task, text), { correct: false, reason: 'malformed', score: 0 }, text)
  const close = ['431', '433', '0432', '4320', '43', '1432', '342', '432432', '9'.repeat(400)]
  for (const number of close) t.match(check(task, `7521>${number}`), { correct: false, reason: 'expected 432' }, number)
  const steps = (text: string) => [check(task, text).score, check(task, text).firstError]
  t.same(steps('7521,4831,3040>433'), [3 / 4, undefined], 'columns are right, the number is not')
  t.same(steps('7521,4831>433'), [2 / 4, 2], 'a column is missing')
  t.same(steps('7521;4831,3040>433'), [1 / 4, 1], 'in another group')
  t.same(steps('7521,4831,3040,0>433'), [3 / 4, 3], 'one too many')
  const bare = arithmetic({ seed: 1, difficulty: 3, scratch: false }).check
  t.ok(bare(task, '432').correct)
  for (const text of ['7521>432', '0432', '433', '', '432\n']) t.notOk(bare(task, text).correct, text)
  const product = arithmetic({ seed: 1, difficulty: 3, operations: ['+', '*'] }).check
  t.ok(product({ ...task, prompt: '347*85=' }, '1;2>29495').correct)
  t.notOk(product({ ...task, prompt: '347*85=' }, '1;2>432').correct)
})

// Countdown ------------------------------------------------------------------------------------------------------------

/** A random expression and its value, made together. */
function randomTree(random: Random, depth: number): { text: string; value: number; numbers: number[]; rank: number } {
  if (depth === 0 || random.integer(4) === 0) {
    const n = random.integer(30)
    return { text: `${n}`, value: n, numbers: [n], rank: 3 }
  }
  const [a, b] = [randomTree(random, depth - 1), randomTree(random, depth - 1)]
  const sign = '+-*'[random.integer(3)]
  const rank = sign === '*' ? 2 : 1
  const wrapped = (text: string, needed: boolean): string => (needed || random.integer(5) === 0 ? `(${text})` : text)
  const value = { '+': a.value + b.value, '-': a.value - b.value, '*': a.value * b.value }[sign] ?? Number.NaN
  const right = sign === '+' ? b.rank < rank : b.rank <= rank && !(sign === '*' && b.rank === 2)
  return {
    text: `${wrapped(a.text, a.rank < rank)}${sign}${wrapped(b.text, right)}`,
    value,
    numbers: [...a.numbers, ...b.numbers],
    rank,
  }
}

t.test('expressions: values and numbers', async (t) => {
  const random = randomOf('expressions')
  const faults = Array.from({ length: 4000 }, () => randomTree(random, 3)).filter(({ text, value, numbers }) => {
    const read = parseExpression(text)
    return !Object.is(read?.value, value) && read?.value !== value ? true : `${read?.numbers}` !== `${numbers}`
  })
  t.same(faults, [])
  t.same(parseExpression('2+3*4-5'), { value: 9, numbers: [2, 3, 4, 5] }, 'products first')
  t.same(parseExpression('10-3-2'), { value: 5, numbers: [10, 3, 2] }, 'from the left')
  t.same(parseExpression('((7))'), { value: 7, numbers: [7] })
})

t.test('expressions: what is malformed', async (t) => {
  const signs = ['', '+', '1+', '+1', '-1', '1--1', '1+-1', '1**2', '1*/2', '6/2', '1.5', '1e3', '0x10', '007', '1_0']
  const shapes = ['()', '(1', '1)', '(1)(2)', '2(3)', '(1)2', ')1(', '1 +2', '1+2 ', '1+2\n', '1;2', '٣+1', '1=1', 'a']
  const sizes = ['1234567', '(((((((((((((((((1)))))))))))))))))', '999999*999999*999999', '('.repeat(100_000)]
  for (const text of [...signs, ...shapes, ...sizes]) t.equal(parseExpression(text), undefined, text.slice(0, 40))
  t.equal(
    parseExpression('999999*999999*999999-999999*999999*999999'),
    undefined,
    'not exact on the way, though the end would be 0',
  )
  t.equal(parseExpression(`${'('.repeat(16)}1${')'.repeat(16)}`)?.value, 1, 'sixteen deep is the limit')
})

t.test('each number exactly once, and the target', async (t) => {
  const { check } = countdown({ seed: 1, difficulty: 3 })
  const task = { id: '', prompt: '3,7,12:33=', answer: '3*7+12' }
  for (const right of ['3*7+12', '12+7*3', '(3*7)+12', '12+(7*3)', '((12+(3)*7))'])
    t.same(check(task, right), { correct: true }, right)
  const reason = (text: string) => check(task, text).reason
  t.equal(reason('3*7+12='), 'malformed')
  t.equal(reason('3*7+12\n'), 'malformed')
  t.equal(reason(''), 'malformed')
  for (const text of ['33', '3*11', '3*7+12+0', '3*7+12-12+12', '7+12', '3*7+6*2', '21+12', '37-4'])
    t.equal(reason(text), 'other numbers', text)
  t.equal(reason('3+7+12'), 'gives 22')
  t.equal(reason('3-7-12'), 'gives -16')
  const twins = { id: '', prompt: '5,5,6:35=', answer: '5*6+5' }
  t.ok(check(twins, '5+5*6').correct)
  t.equal(check(twins, '5*6+6').reason, 'other numbers', 'a number twice is used twice')
  t.equal(check(twins, '5+30').reason, 'other numbers')
})

/** Every expression without parentheses over the numbers. */
function allExpressions(numbers: readonly number[]): string[] {
  if (numbers.length === 1) return [`${numbers[0]}`]
  return numbers.flatMap((n, i) =>
    allExpressions(numbers.filter((_, j) => j !== i)).flatMap((rest) => ['+', '-', '*'].map((sign) => n + sign + rest)),
  )
}

t.test('the solver finds a solution exactly when there is one', async (t) => {
  const faults: string[] = []
  let [solved, unsolved] = [0, 0]
  for (let a = 1; a <= 6; a++)
    for (let b = a; b <= 6; b++)
      for (let c = b; c <= 6; c += 2) {
        const values = new Set(allExpressions([a, b, c]).map((text) => parseExpression(text)?.value))
        for (let target = 1; target <= 40; target++) {
          const found = solve([a, b, c], target)
          if (found === undefined ? values.has(target) : parseExpression(found)?.value !== target)
            faults.push(`${a},${b},${c}:${target} ${found}`)
          if (found === undefined) unsolved++
          else solved++
        }
      }
  t.same(faults, [])
  t.ok(solved > 150 && unsolved > 150, `${solved} solved, ${unsolved} without a solution`)
  t.equal(solve([3, 7, 12], 33), '3*7+12', 'the first in order')
  t.equal(solve([3, 7, 12], 33, ['+', '-']), undefined)
  const { train } = countdown({ seed: 1, difficulty: 3, solutions: 'first' })
  const drawn = countdown({ seed: 1, difficulty: 3 }).train(50)
  t.same(
    train(50).map(({ prompt }) => prompt),
    drawn.map(({ prompt }) => prompt),
    'the same problems with other solutions',
  )
})

// Refusals -------------------------------------------------------------------------------------------------------------

t.test('unknown tasks and settings are refused', async (t) => {
  t.same(taskNames, ['arithmetic', 'countdown', 'chains', 'sorting', 'programs', 'edits', 'grading', 'grid'])
  for (const name of ['chess', '', 'toString', '__proto__', 'constructor'])
    t.throws(() => createTask(name, { seed: 1, difficulty: 3 }), { code: 'E_CONFIG' }, name)
  const refused: [string, Record<string, unknown>][] = [
    ['arithmetic', { difficulty: 0 }],
    ['arithmetic', { difficulty: 8 }],
    ['arithmetic', { difficulty: 2.5 }],
    ['arithmetic', { difficulty: Number.NaN }],
    ['arithmetic', { operations: [] }],
    ['arithmetic', { operations: ['-'] }],
    ['arithmetic', { factorDigits: 4 }],
    ['arithmetic', { scratch: 'yes' }],
    ['arithmetic', { largestNumber: 9 }],
    ['arithmetic', { seed: 0.5 }],
    ['countdown', { difficulty: 1 }],
    ['countdown', { difficulty: 7 }],
    ['countdown', { operations: ['/'] }],
    ['countdown', { scratch: true }],
    ['countdown', { solutions: 'best' }],
    ['countdown', { largestTarget: 0 }],
  ]
  for (const [name, options] of refused)
    t.throws(() => createTask(name, { seed: 1, ...options }), { code: 'E_CONFIG' }, JSON.stringify([name, options]))
})

t.test('a split that is used up says so, and still gives what it has', async (t) => {
  const source = arithmetic({ seed: 1, difficulty: 1 })
  t.throws(() => source.train(1000), { code: 'E_CONFIG', where: 'arithmetic', message: /ask for fewer/ })
  // 55 unordered pairs of digits, each in one split; the refusal tells how many are left
  const counts = splits.map((split) => {
    let count = 0
    t.throws(() => source[split](56), { code: 'E_CONFIG' })
    try {
      source[split](56)
    } catch (error) {
      count = Number(/there are about (\d+)/.exec(String(error))?.[1])
    }
    return source[split](count).length
  })
  t.equal(
    counts.reduce((sum, count) => sum + count),
    55,
    `${counts}`,
  )
  const never = countdown({ seed: 1, difficulty: 6, largestNumber: 100, largestTarget: 1, operations: ['*'] })
  t.throws(() => never.train(1), { code: 'E_CONFIG', message: /raise largestTarget/ }, 'no endless search')
})
