// String edits and grades: splits, worked answers, bounds, and what the checkers say.

import t from 'tap'
import { edits } from '../ts/train/tasks/edits.js'
import { grading } from '../ts/train/tasks/grading.js'
import { createTask, type Split, type TaskSource } from '../ts/train/tasks/index.js'

const splits: readonly Split[] = ['warmup', 'train', 'heldOut']
const sources: readonly ((seed: number) => TaskSource)[] = [
  (seed) => edits({ seed }),
  (seed) => edits({ seed, difficulty: 10, letters: 3 }),
  (seed) => edits({ seed, difficulty: 1, scratch: false }),
  (seed) => grading({ seed }),
  (seed) => grading({ seed, difficulty: 7 }),
  (seed) => grading({ seed, difficulty: 1, scratch: false }),
]

t.test('splits, worked answers, characters and lengths', async (t) => {
  for (const make of sources) {
    const owner = new Map<string, Split>()
    for (const seed of [1, 2])
      for (const split of splits) {
        const source = make(seed)
        const tasks = source[split](150)
        t.same(make(seed)[split](10), tasks.slice(0, 10), 'a function of seed, split and index')
        for (const task of tasks) {
          if ((owner.get(task.prompt) ?? split) !== split) t.fail(`${task.id} is in two splits`)
          owner.set(task.prompt, split)
          const verdict = source.check(task, task.answer)
          const isFit =
            task.prompt.length <= source.maxPromptTokens &&
            task.answer.length < source.maxNewTokens &&
            [...task.prompt, ...task.answer].every((c) => source.characters.includes(c))
          if (!verdict.correct || verdict.score !== 1 || 'firstError' in verdict || !isFit)
            t.fail(`${task.id} ${task.answer}`)
        }
      }
    t.ok(owner.size > 600, `${make(1).name}: ${owner.size} problems`)
  }
})

const judge = (source: TaskSource, prompt: string) => (completion: string) =>
  source.check({ id: '', prompt, answer: '' }, completion)

t.test('edits: the last string counts, steps are told', async (t) => {
  const check = judge(edits({ seed: 1 }), 'abca:RSabM=')
  t.same(check('acba,bcbb,cbbb'), { correct: true, score: 1 })
  t.same(check('abca,bcbb,cbbb'), { correct: true, score: 1, firstError: 0 }, 'right by luck')
  t.same(check('cbbb'), { correct: true, score: 1, firstError: 0 })
  t.same(check('acba,bcbb,cbbb,cbbb'), { correct: true, score: 1, firstError: 3 })
  t.same(check('acba,bcbb'), { correct: false, reason: 'expected cbbb', score: 1 / 2, firstError: 2 })
  t.same(check('acba,bcbb,cb'), { correct: false, reason: 'expected cbbb', score: 1 / 2, firstError: 2 })
  for (const text of ['', 'acba,', ',cbbb', 'acba,bcbb,cbbb ', 'acba;cbbb', 'acba,bcbb,cbbf', 'CBBB'])
    t.same(check(text), { correct: false, reason: 'malformed', score: 0 }, text)
  t.ok(judge(edits({ seed: 1 }), 'abab:DaTbSbc=')('bb,bbbb,cccc').correct, 'deletes, doubles, puts c for b')
  const plain = judge(edits({ seed: 1, scratch: false }), 'abca:R=')
  t.same(plain('acba'), { correct: true, score: 1 })
  t.same(plain('acbb'), { correct: false, reason: 'expected acba', score: 3 / 4 })
  t.match(plain('acba,acba'), { reason: 'malformed' })
})

t.test('edits: every instruction changes the string and leaves some of it', async (t) => {
  for (const { prompt, answer } of edits({ seed: 3, difficulty: 6, letters: 3 }).train(300)) {
    const states = [prompt.slice(0, prompt.indexOf(':')), ...answer.split(',')]
    if (states.length !== 7 || states.some((state, i) => state === states[i - 1] || state.length > 6)) t.fail(prompt)
  }
})

t.test('grading: the grade counts, ticks are told', async (t) => {
  const check = judge(grading({ seed: 1 }), '347+85=0442:')
  t.same(check('ynyy>4'), { correct: true, score: 1 })
  t.same(check('yyyy>4'), { correct: true, score: 1, firstError: 1 }, 'right by luck')
  t.same(check('yny>4'), { correct: true, score: 1, firstError: 3 })
  t.same(check('ynyyy>4'), { correct: true, score: 1, firstError: 4 })
  t.same(check('ynyy>5'), { correct: false, reason: 'expected 4', score: 3 / 4 }, 'ticks are right, the grade is not')
  t.same(check('nnnn>1'), { correct: false, reason: 'expected 4', score: 1 / 4, firstError: 0 })
  for (const text of ['4', 'ynyy>', 'ynyy>6', 'ynyy>0', 'ynyy>44', 'ynyy>4 ', '>4', ''])
    t.same(check(text), { correct: false, reason: 'malformed', score: 0 }, text)
  const grades = ['0432', '0431', '0321', '1321', '1543'].map((candidate) =>
    [1, 2, 3, 4, 5].find(
      (grade) => judge(grading({ seed: 1, scratch: false }), `347+85=${candidate}:`)(`${grade}`).correct,
    ),
  )
  t.same(grades, [5, 4, 2, 1, 1], 'one more than the count of right digits')
  const narrow = judge(grading({ seed: 1, difficulty: 1, scratch: false }), '3+5=18:')
  t.same(narrow('3'), { correct: true, score: 1 }, 'half of two digits')
  const counts = new Map<string, number>()
  for (const { answer } of grading({ seed: 1 }).train(2000))
    counts.set(answer.slice(-1), (counts.get(answer.slice(-1)) ?? 0) + 1)
  for (const grade of '12345')
    t.ok(Math.abs((counts.get(grade) ?? 0) - 400) < 100, `grade ${grade}: ${counts.get(grade)}`)
})

t.test('settings', async (t) => {
  for (const [name, options] of [
    ['edits', { difficulty: 0 }],
    ['edits', { letters: 2 }],
    ['edits', { modulus: 5 }],
    ['grading', { difficulty: 8 }],
    ['grading', { scratch: 1 }],
  ] as const)
    t.throws(
      () => createTask(name, { seed: 1, ...options }),
      { code: 'E_CONFIG' },
      `${name} ${JSON.stringify(options)}`,
    )
})
