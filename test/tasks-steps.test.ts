// Tasks whose steps can be checked, and programs that are checked by running them: splits, worked answers, bounds, and what the
// checkers say of right and wrong completions.

import t from 'tap'
import { chains } from '../ts/train/tasks/chains.js'
import { grid } from '../ts/train/tasks/grid.js'
import { createTask, type Split, type TaskSource } from '../ts/train/tasks/index.js'
import { programs, run } from '../ts/train/tasks/programs.js'
import { sorting } from '../ts/train/tasks/sorting.js'

const splits: readonly Split[] = ['warmup', 'train', 'heldOut']
const sources: readonly (readonly [(seed: number) => TaskSource, count: number])[] = [
  [(seed) => chains({ seed }), 500],
  [(seed) => chains({ seed, difficulty: 20, modulus: 97 }), 200],
  [(seed) => chains({ seed, difficulty: 2, scratch: false }), 200],
  [(seed) => sorting({ seed }), 400],
  [(seed) => sorting({ seed, difficulty: 9 }), 200],
  [(seed) => programs({ seed }), 200],
  [(seed) => programs({ seed, difficulty: 11, examples: 6 }), 200],
  [(seed) => grid({ seed }), 400],
  [(seed) => grid({ seed, difficulty: 9 }), 100],
]

t.test('splits, worked answers, characters and lengths', async (t) => {
  for (const [make, count] of sources) {
    const owner = new Map<string, Split>()
    for (const seed of [1, 2])
      for (const split of splits) {
        const source = make(seed)
        const tasks = source[split](count / 4)
        t.same(make(seed)[split](10), tasks.slice(0, 10), 'a function of seed, split and index')
        for (const task of tasks) {
          const canonical = task.id.slice(task.id.lastIndexOf('/') + 1)
          if ((owner.get(canonical) ?? split) !== split) t.fail(`${task.id} is in two splits`)
          owner.set(canonical, split)
          const verdict = source.check(task, task.answer)
          const isFit =
            task.prompt.length <= source.maxPromptTokens &&
            task.answer.length < source.maxNewTokens &&
            [...task.prompt, ...task.answer].every((c) => source.characters.includes(c))
          if (!verdict.correct || verdict.score !== 1 || 'firstError' in verdict || !isFit)
            t.fail(`${task.id} ${task.answer}`)
        }
      }
    t.ok(owner.size > count / 2, `${make(1).name}: ${owner.size} problems`)
  }
})

const judge = (source: TaskSource, prompt: string) => (completion: string) =>
  source.check({ id: '', prompt, answer: '' }, completion)

t.test('chains: the last number counts, steps are told', async (t) => {
  const check = judge(chains({ seed: 1 }), '7+3*4-5=')
  t.same(check('0,0,5>5'), { correct: true, score: 1 })
  t.same(check('0,1,5>5'), { correct: true, score: 1, firstError: 1 }, 'right by luck')
  t.same(check('0,0,4>4'), { correct: false, reason: 'expected 5', score: 2 / 3, firstError: 2 })
  t.same(check('0,0,5>4'), { correct: false, reason: 'expected 5', score: 3 / 4 }, 'steps are right, the answer is not')
  t.same(check('0,0,5,5>5'), { correct: true, score: 1, firstError: 3 })
  t.match(check('0,0>5'), { correct: true, firstError: 2 })
  for (const text of ['5', '0,0,5>', '0,0,5>05', ' 0,0,5>5', '0,0,5>5 ', '0;0;5>5', '', '>5'])
    t.match(check(text), { correct: false }, text)
  const negative = judge(chains({ seed: 1, modulus: 7 }), '2-5*3=')
  t.ok(negative('4,5>5').correct, 'values are never below 0')
  const plain = judge(chains({ seed: 1, scratch: false }), '7+3*4-5=')
  t.same(plain('5'), { correct: true, score: 1 })
  t.same(plain('6'), { correct: false, reason: 'expected 5', score: 0 })
})

t.test('sorting: any row of swaps that ends sorted', async (t) => {
  const check = judge(sorting({ seed: 1 }), '3142=')
  t.same(check('1342,1324,1234'), { correct: true, score: 1 })
  t.ok(check('3124,1324,1234').correct, 'another order')
  t.ok(check('3412,3142,1342,1324,1234').correct, 'a detour')
  t.same(check('1342,1324'), { correct: false, reason: 'not sorted', score: 2 / 3 })
  t.same(check('1342,1234'), { correct: false, reason: 'no swap of neighbours', score: 1 / 3, firstError: 1 })
  t.same(check('1234'), { correct: false, reason: 'no swap of neighbours', score: 0, firstError: 0 })
  t.same(check('3412'), { correct: false, reason: 'not sorted', score: 0 }, 'farther away than before')
  t.same(check('1342,1324,1234,1234'), { correct: false, reason: 'no swap of neighbours', score: 2 / 3, firstError: 3 })
  for (const text of ['', '134', '1342,', '1342 1324', '1342,13245'])
    t.match(check(text), { reason: 'malformed' }, text)
})

t.test('programs: whatever maps the examples', async (t) => {
  t.equal(run('x3*1+', 5), 16)
  t.equal(run('xd*', 4), 16, 'd pushes the top again')
  t.equal(run('2xs-', 7), 5, 's swaps: 7 - 2')
  t.same(
    ['', '+', 'x+', 'xx', 'x?', 'd', 's', '99*9*9*'].map((program) => run(program, 1)),
    Array(8).fill(undefined),
  )
  const check = judge(programs({ seed: 1 }), '2>7;3>10;5>16=')
  for (const text of ['x3*1+', '1x3*+', 'xdd++1+', 'x1+3*2-']) t.same(check(text), { correct: true, score: 1 }, text)
  t.same(check('x5+'), { correct: false, reason: '3 gives 8, expected 10', score: 1 / 3 })
  t.same(check('x+'), { correct: false, reason: '2 gives nothing, expected 7', score: 0 })
  t.match(check('x3*1+ '), { correct: false })
})

t.test('settings', async (t) => {
  for (const [name, options] of [
    ['chains', { difficulty: 0 }],
    ['chains', { modulus: 1 }],
    ['sorting', { difficulty: 10 }],
    ['sorting', { scratch: true }],
    ['programs', { difficulty: 4 }],
    ['programs', { examples: 1 }],
  ] as const)
    t.throws(
      () => createTask(name, { seed: 1, ...options }),
      { code: 'E_CONFIG' },
      `${name} ${JSON.stringify(options)}`,
    )
  t.throws(() => chains({ seed: 1, difficulty: 1, modulus: 2 }).train(1000), { code: 'E_CONFIG', message: /different/ })
})
