// Tensors, scopes and the tape: who frees what, what a failure leaves behind, what gradients reach. The arithmetic of
// ops is tested in ops.test.ts, the addon's own behaviour in native.test.ts.

import t from 'tap'
import { checkpoint, Tape } from '../ts/src/autograd/tape.js'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { type Device, openDevice } from '../ts/src/native/device.js'
import { adamw, add, addNorm, fill, gelu, linear, reshape, rmsNorm, scale, zeros } from '../ts/src/ops/index.js'
import { keep, Scope, tidy } from '../ts/src/tensor/scope.js'
import { type Tensor, tensor } from '../ts/src/tensor/tensor.js'

const device = openDevice({ device: 'cpu', threads: 2 })
t.teardown(() => device.close())

const numbers = (...values: number[]): Tensor => tensor(device, Float32Array.from(values))
const settled = async (d: Device): Promise<number> => {
  await d.sync()
  return d.memory().liveBytes
}

t.test('scopes', async (t) => {
  t.test('a tensor dies with its scope, unless kept', async (t) => {
    const scope = new Scope()
    const [dies, lives] = scope.run(() => [numbers(1), keep(numbers(2))])
    t.notOk(dies.disposed)
    scope.dispose()
    t.ok(dies.disposed)
    t.same(Array.from(await lives.data()), [2])
    lives.dispose()
    t.ok(lives.disposed)
  })

  t.test('tidy hands its result to the scope outside', async (t) => {
    const inner: Tensor[] = []
    const outer = new Scope()
    const result = outer.run(() =>
      tidy(() => {
        inner.push(numbers(1), numbers(2))
        return { sum: [add(inner[0], inner[1])], nothing: undefined }
      }),
    )
    t.same(
      inner.map((x) => x.disposed),
      [true, true],
    )
    t.same(Array.from(await result.sum[0].data()), [3])
    outer.dispose()
    t.ok(result.sum[0].disposed, 'the outer scope had it')
  })

  t.test('what throws inside frees too', async (t) => {
    const made: Tensor[] = []
    t.throws(() =>
      tidy(() => {
        made.push(numbers(1))
        throw new Error('inside')
      }),
    )
    t.ok(made[0].disposed)
    const loose = numbers(3)
    t.notOk(loose.disposed, 'the scope outside is open again')
    loose.dispose()
  })
})

t.test('what scopes refuse and allow', async (t) => {
  t.test('a promise is refused: scopes are synchronous', async (t) => {
    const scope = new Scope()
    t.throws(() => scope.run(async () => 1), { code: 'E_INTERNAL', message: /promise/ })
  })

  t.test('a scope may be entered again, and disposed twice', async (t) => {
    using scope = new Scope()
    const a = scope.run(() => numbers(1))
    const b = scope.run(() => numbers(2))
    scope.dispose()
    scope.dispose()
    t.ok(a.disposed && b.disposed)
  })

  t.test('a hold outlives the owner; disposing twice ends one hold', async (t) => {
    const x = numbers(1).retain()
    x.dispose()
    x.dispose()
    t.notOk(x.disposed)
    t.same(Array.from(await x.data()), [1])
    x.release()
    t.ok(x.disposed)
    x.release()
    t.throws(() => x.retain(), { code: 'E_DISPOSED' })
  })
})

t.test('a disposed tensor refuses everything', async (t) => {
  const x = tensor(device, new Float32Array(6), [2, 3])
  const other = tensor(device, new Float32Array(6), [2, 3])
  x.dispose()
  const expected = { code: 'E_DISPOSED', message: '[2, 3]' }
  await t.rejects(x.data(), expected)
  await t.rejects(x.bits(), expected)
  t.throws(() => x.write(new Float32Array(6)), expected)
  t.throws(() => x.view([6]), expected)
  t.throws(() => add(other, x), { ...expected, message: '[add]' })
  t.throws(() => add(other, x), WhetstoneError)
  other.dispose()
})

t.test('values come back as they were written', async (t) => {
  const arrays = [
    Float32Array.of(0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 1e-45),
    Uint16Array.of(0, 0x8000, 0x3fc0, 0x7fc1, 0x7f80, 1),
    Int32Array.of(0, -1, 2147483647, -2147483648),
    Uint8Array.of(0, 1, 255),
    new Float32Array(0),
  ]
  for (const array of arrays) {
    const x = tensor(device, array)
    const back = await x.bits()
    t.equal(back.constructor, array.constructor)
    t.same(Buffer.from(back.buffer), Buffer.from(array.buffer))
    x.dispose()
  }
  const bf16 = tensor(device, arrays[1] as Uint16Array)
  t.same(Array.from(await bf16.data()), [0, -0, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** -133])
  bf16.dispose()
})

t.test('shapes and arrays that do not fit are refused', async (t) => {
  const x = tensor(device, new Float32Array(6), [2, 3])
  t.throws(() => x.write(new Float32Array(5)), { code: 'E_SHAPE', message: '6' })
  t.throws(() => x.write(new Int32Array(6)), { code: 'E_SHAPE', message: 'Float32Array' })
  t.throws(() => tensor(device, new Float32Array(5), [2, 3]), { code: 'E_SHAPE' })
  t.throws(() => tensor(device, new Float64Array(5) as unknown as Float32Array), {
    code: 'E_DTYPE',
    message: 'Float64',
  })
  t.throws(() => reshape(x, [7]), { code: 'E_SHAPE' })
  const scalar = tensor(device, Float32Array.of(4), [])
  t.same(Array.from(await scalar.data()), [4])
  t.equal(scalar.size, 1)
  x.dispose()
  scalar.dispose()
})

t.test('the array of a write may be reused at once', async (t) => {
  const array = Float32Array.of(1, 2, 3)
  const x = tensor(device, array)
  array.fill(9)
  t.same(Array.from(await x.data()), [1, 2, 3])
  x.dispose()
})

t.test('views', async (t) => {
  const x = tensor(
    device,
    Float32Array.from({ length: 12 }, (_, i) => i),
    [3, 4],
  )
  const row = x.view([4], 4)
  const cell = row.view([1], 2)
  t.same(Array.from(await row.data()), [4, 5, 6, 7])
  t.same(Array.from(await cell.data()), [6])
  fill(row, -1)
  t.same(Array.from(await x.data()), [0, 1, 2, 3, -1, -1, -1, -1, 8, 9, 10, 11], 'memory is shared')
  t.throws(() => x.view([4], 9), { code: 'E_SHAPE' })
  t.throws(() => x.view([4], -1), { code: 'E_SHAPE' })
  t.throws(() => row.view([5]), { code: 'E_SHAPE' })
  x.dispose()
  t.same(Array.from(await cell.data()), [-1], 'a view outlives its source')
  row.dispose()
  cell.dispose()
})

/** A step of training of a small network: everything that it makes is freed by the time it ends. */
function trainingStep(
  parameters: readonly Tensor[],
  gradients: readonly Tensor[],
  moments: readonly Tensor[],
  step: number,
) {
  const [ok, finite] = [tensor(device, Int32Array.of(1)), tensor(device, Int32Array.of(1))]
  const norm = zeros(device, [1])
  for (const g of gradients) fill(g, 0)
  const tape = new Tape(new Map(parameters.map((w, i) => [w, gradients[i]])))
  const x = tensor(
    device,
    Float32Array.from({ length: 32 }, (_, i) => Math.sin(i + step)),
    [4, 8],
  )
  const y = tape.record(() => checkpoint((h) => linear(gelu(linear(h, parameters[0])), parameters[1]), scale(x, 0.5)))
  tape.backward([[y, y]])
  for (const g of gradients) addNorm(norm, g)
  const options = { learningRate: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, step, maxNorm: 1 }
  parameters.forEach((w, i) => {
    adamw({ w, m: moments[2 * i], v: moments[2 * i + 1], finite, g: gradients[i], norm, ok }, options)
  })
  return norm
}

t.test('live bytes after step 5 are live bytes after step 500', async (t) => {
  const shapes = [
    [16, 8],
    [8, 16],
  ]
  const make = () => shapes.map((shape) => keep(zeros(device, shape)))
  const [parameters, gradients, first, second] = [make(), make(), make(), make()]
  parameters.forEach((w, i) => {
    w.write(Float32Array.from({ length: w.size }, (_, j) => Math.sin(j * (i + 1))))
  })
  const norms: number[] = []
  let early = 0
  for (let step = 1; step <= 500; step++) {
    const norm = tidy(() => trainingStep(parameters, gradients, [first[0], second[0], first[1], second[1]], step))
    if (step % 100 === 1) norms.push((await norm.data())[0])
    norm.dispose()
    if (step === 5) early = await settled(device)
  }
  t.equal(await settled(device), early)
  t.ok(
    norms.every((norm) => norm > 0 && Number.isFinite(norm)),
    `gradient norms ${norms}`,
  )
  for (const x of [...parameters, ...gradients, ...first, ...second]) x.dispose()
})

t.test('checkpoint gives the bits of the plain tape', async (t) => {
  const run = async (wrap: typeof checkpoint) => {
    const scope = new Scope()
    const reads = scope.run(() => {
      const make = (length: number, shape: number[]) =>
        tensor(
          device,
          Float32Array.from({ length }, (_, i) => Math.cos(3 * i + length)),
          shape,
        )
      const [w, gain, x] = [make(64, [8, 8]), make(8, [8]), make(40, [5, 8])]
      const [dw, dgain] = [zeros(device, [8, 8]), zeros(device, [8])]
      const tape = new Tape(
        new Map([
          [w, dw],
          [gain, dgain],
        ]),
      )
      tape.watch(x)
      const block = (h: Tensor) => add(h, gelu(linear(rmsNorm(h, gain, { eps: 1e-5 }), w)))
      const y = tape.record(() => wrap(block, wrap(block, x)))
      tape.backward([[y, y]])
      const dx = tape.gradientOf(x) as Tensor
      const bits = [y, dw, dgain, dx].map((g) => g.bits())
      dx.release()
      return bits
    })
    scope.dispose()
    return Promise.all(reads)
  }
  const before = await settled(device)
  const plain = await run((block, x) => block(x))
  const again = await run(checkpoint)
  t.same(again, plain)
  t.equal(await settled(device), before, 'the tapes hold nothing')
})

t.test('the tape', async (t) => {
  t.test('a tensor used twice gathers both gradients', async (t) => {
    const [x, one] = [numbers(2, 3), numbers(1, 1)]
    const tape = new Tape()
    tape.watch(x)
    const y = tape.record(() => add(add(x, x), scale(x, 3)))
    tape.backward([[y, one]])
    const dx = tape.gradientOf(x) as Tensor
    t.same(Array.from(await dx.data()), [5, 5])
    t.same(Array.from(await one.data()), [1, 1], 'a shared gradient is not added to')
    t.equal(tape.gradientOf(x), undefined, 'handed over once')
    dx.release()
    for (const z of [x, one, y]) z.dispose()
  })

  t.test('views and reshapes pass gradients', async (t) => {
    const x = tensor(device, Float32Array.of(1, 2, 3, 4), [2, 2])
    const tape = new Tape()
    tape.watch(x)
    const y = tape.record(() => scale(reshape(x, [4]), 2))
    tape.backward([[y, y]])
    const dx = tape.gradientOf(x) as Tensor
    t.same(dx.shape, [2, 2])
    t.same(Array.from(await dx.data()), [4, 8, 12, 16])
    dx.release()
    for (const z of [x, y]) z.dispose()
  })

  t.test('a gradient of another shape is refused; nothing is recorded without a tape', async (t) => {
    const [x, g] = [numbers(1, 2), numbers(1)]
    const tape = new Tape()
    tape.watch(x)
    const y = tape.record(() => scale(x, 2))
    t.throws(() => tape.backward([[y, g]]), { code: 'E_SHAPE', where: 'backward' })
    tape.dispose()
    const before = await settled(device)
    const loose = scale(x, 3)
    loose.dispose()
    t.equal(await settled(device), before)
    for (const z of [x, g, y]) z.dispose()
  })

  t.test('a forward pass without backward lets go', async (t) => {
    const before = await settled(device)
    const scope = new Scope()
    const tape = new Tape()
    scope.run(() => {
      const x = numbers(1, 2, 3)
      tape.watch(x)
      tape.record(() => gelu(gelu(x)))
    })
    scope.dispose()
    t.ok((await settled(device)) > before, 'saved tensors are held')
    tape.dispose()
    t.equal(await settled(device), before)
  })
})
