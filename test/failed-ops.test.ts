// What a failed op leaves behind: everything that depends on what it did not write fails with it, by whichever tensor, and
// nothing else does.

import t from 'tap'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { openDevice } from '../ts/src/native/device.js'
import { adamw, add, addNorm, copy, fill, gatherRows, scale, zeros } from '../ts/src/ops/index.js'
import { Scope } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'

const device = openDevice({ device: 'cpu', threads: 2 })
t.teardown(() => device.close())

const numbers = (...values: number[]): Tensor => tensor(device, Float32Array.from(values))

t.test('a failed op fails what depends on it, and nothing else', async (t) => {
  const scope = new Scope()
  const { table, bad, next, last, fine } = scope.run(() => {
    const table = tensor(
      device,
      Float32Array.from({ length: 6 }, (_, i) => i),
      [3, 2],
    )
    const bad = gatherRows(table, tensor(device, Int32Array.of(1, 7)))
    const next = scale(bad, 2)
    const last = add(next, next)
    return { table, bad, next, last, fine: scale(table, 2) }
  })
  for (const [name, x] of Object.entries({ bad, next, last })) {
    const error = await x.data().then(
      () => undefined,
      (e) => e,
    )
    t.ok(WhetstoneError.isInstance(error), name)
    t.match(error, { code: 'E_SHAPE', where: 'gather_rows', message: /^\[gather_rows\] ids\[1\].*7/ }, name)
  }
  t.same(Array.from(await fine.data()), [0, 2, 4, 6, 8, 10])
  t.same(Array.from(await table.data()), [0, 1, 2, 3, 4, 5])
  fill(bad, 5)
  t.same(Array.from(await bad.data()), [5, 5, 5, 5], 'overwriting cures')
  scope.dispose()
})

t.test('what a failed op left unwritten is told by every tensor that looks at it, until it is written', async (t) => {
  const scope = new Scope()
  const spoil = (x: Tensor) =>
    scope.run(() => copy(x, gatherRows(zeros(device, [1, x.size]), tensor(device, Int32Array.of(9)))))
  const state = async (x: Tensor) =>
    x.data().then(
      () => 'fine',
      (error) => error.code,
    )
  const states = async (...tensors: Tensor[]) => Promise.all(tensors.map(state))
  const { whole, early, middle, late, again, none } = scope.run(() => {
    const whole = zeros(device, [12])
    const [early, middle, late] = [0, 4, 8].map((at) => whole.view([4], at))
    return { whole, early, middle, late, again: whole.view([2, 2], 4), none: whole.view([0], 5) }
  })
  spoil(middle)
  const seen = await states(
    whole,
    early,
    middle,
    late,
    again,
    none,
    scope.run(() => whole.view([1], 7)),
  )
  t.same(seen, ['E_SHAPE', 'fine', 'E_SHAPE', 'fine', 'E_SHAPE', 'fine', 'E_SHAPE'])
  fill(early, 1)
  t.same(await states(whole, middle), ['E_SHAPE', 'E_SHAPE'], 'another part was written')
  scope.run(() => whole.view([2], 4)).write(new Float32Array(2))
  t.same(await states(whole, middle), ['E_SHAPE', 'E_SHAPE'], 'half of it was written')
  const sum = scope.run(() => numbers(0))
  addNorm(sum, whole)
  t.equal(await state(sum), 'E_SHAPE', 'an op that reads all of it')
  fill(again, 2)
  t.same(await states(whole, middle, again), ['fine', 'fine', 'fine'], 'written by another view')
  t.same(Array.from(await whole.data()), [1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0])
  for (const part of [early, late]) spoil(part)
  fill(whole, 3)
  t.same(await states(whole, early, middle, late), ['fine', 'fine', 'fine', 'fine'], 'all of it was written')
  scope.dispose()
})

t.test('accumulating a failed gradient poisons the sum, but the optimizer keeps the weights', async (t) => {
  const scope = new Scope()
  await scope
    .run(() => {
      const bad = gatherRows(zeros(device, [1, 4]), tensor(device, Int32Array.of(9)))
      const sum = numbers(0)
      addNorm(sum, bad)
      const [w, m, v, g] = [numbers(1, 2, 3, 4), numbers(0, 0, 0, 0), numbers(0, 0, 0, 0), numbers(1, 1, 1, 1)]
      const [ok, finite] = [tensor(device, Int32Array.of(1)), tensor(device, Int32Array.of(1))]
      const options = { learningRate: 1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0, step: 1, maxNorm: 1 }
      adamw({ w, m, v, finite, g, norm: sum, ok }, options)
      const [sumRead, wRead] = [sum.data(), w.data()]
      return { check: Promise.allSettled([sumRead, wRead]) }
    })
    .check.then(([sum, w]) => {
      t.match(sum, { status: 'rejected', reason: { where: 'gather_rows' } })
      t.match(w, { status: 'fulfilled' })
      t.same(w.status === 'fulfilled' && Array.from(w.value), [1, 2, 3, 4], 'the weights are whole')
    })
  scope.dispose()
})
