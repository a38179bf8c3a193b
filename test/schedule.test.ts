// Learning rates: every schedule beside what Transformers 5.18 gives for it (`get_scheduler` over eleven steps with a peak of
// 1e-3), warm-ups as shares, and what is refused.

import t from 'tap'
import {
  checkSchedule,
  dependsOnTotal,
  type LrSchedulerKwargs,
  type LrSchedulerType,
  learningRateAt,
  lrSchedulerTypes,
  type Schedule,
} from '../ts/train/schedule.js'

type Row = readonly [type: LrSchedulerType, warmupSteps: number, kwargs: LrSchedulerKwargs, rates: readonly number[]]

const totalSteps = 11
const transformers: readonly Row[] = [
  ['constant', 0, {}, [0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001]],
  [
    'constantWithWarmup',
    3,
    {},
    [0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.001],
  ],
  [
    'linear',
    3,
    {},
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.000875, 0.00075, 0.000625, 0.0005, 0.000375, 0.00025,
      0.000125,
    ],
  ],
  [
    'cosine',
    3,
    {},
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.0009619397662556434, 0.0008535533905932737,
      0.000691341716182545, 0.0005, 0.0003086582838174551, 0.00014644660940672628, 3.806023374435663e-5,
    ],
  ],
  [
    'cosine',
    3,
    { numCycles: 1.5 },
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.000691341716182545, 0.00014644660940672628,
      3.806023374435658e-5, 0.0004999999999999999, 0.0009619397662556432, 0.0008535533905932738, 0.00030865828381745506,
    ],
  ],
  [
    'cosineWithRestarts',
    3,
    { numCycles: 3 },
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.000691341716182545, 0.00014644660940672628,
      0.0009619397662556434, 0.0005, 3.806023374435663e-5, 0.0008535533905932737, 0.0003086582838174551,
    ],
  ],
  [
    'cosineWithRestarts',
    2,
    {},
    [
      0.0, 0.0005, 0.001, 0.0009698463103929542, 0.000883022221559489, 0.00075, 0.0005868240888334653,
      0.00041317591116653486, 0.0002500000000000001, 0.00011697777844051105, 3.0153689607045842e-5,
    ],
  ],
  [
    'polynomial',
    3,
    {},
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.0008750124999999999, 0.000750025,
      0.0006250374999999999, 0.0005000499999999999, 0.0003750625, 0.000250075, 0.0001250875,
    ],
  ],
  [
    'polynomial',
    3,
    { power: 2.0, lrEnd: 1e-5 },
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.00076796875, 0.000566875, 0.00039671875, 0.0002575,
      0.00014921875, 7.1875e-5, 2.546875e-5,
    ],
  ],
  [
    'inverseSqrt',
    3,
    {},
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.0008660254037844387, 0.0007745966692414834,
      0.0007071067811865475, 0.000654653670707977, 0.0006123724356957945, 0.0005773502691896259, 0.0005477225575051661,
    ],
  ],
  [
    'inverseSqrt',
    0,
    {},
    [
      0.001, 0.0009999500037496877, 0.0009999000149975006, 0.0009998500337415647, 0.0009998000599800072,
      0.0009997500937109546, 0.0009997001349325355, 0.0009996501836428782, 0.000999600239840112, 0.0009995503035223668,
      0.0009995003746877732,
    ],
  ],
  [
    'inverseSqrt',
    3,
    { timescale: 5 },
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.000912870929175277, 0.0008451542547285166,
      0.0007905694150420947, 0.00074535599249993, 0.0007071067811865475, 0.0006741998624632421, 0.0006454972243679028,
    ],
  ],
  [
    'cosineWithMinLr',
    3,
    { minLr: 0.0001 },
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.000965745789630079, 0.0008681980515339464,
      0.0007222075445642904, 0.00055, 0.0003777924554357096, 0.00023180194846605365, 0.00013425421036992097,
    ],
  ],
  [
    'cosineWithMinLr',
    3,
    { minLrRate: 0.1, numCycles: 1.0 },
    [
      0.0, 0.0003333333333333333, 0.0006666666666666666, 0.001, 0.0008681980515339464, 0.00055, 0.00023180194846605365,
      0.0001, 0.00023180194846605357, 0.0005499999999999999, 0.0008681980515339464,
    ],
  ],
]

const scheduleOf = (given: Partial<Schedule>): Schedule => ({
  learningRate: 1e-3,
  lrSchedulerType: 'linear',
  warmupSteps: 0,
  totalSteps,
  ...given,
})

t.test('rates are those of Transformers', async (t) => {
  for (const [lrSchedulerType, warmupSteps, lrSchedulerKwargs, rates] of transformers) {
    const schedule = scheduleOf({ lrSchedulerType, warmupSteps, lrSchedulerKwargs })
    checkSchedule(schedule)
    const off = rates.map((rate, step) => Math.abs(learningRateAt(schedule, step) - rate))
    t.ok(
      Math.max(...off) < 1e-17,
      `${lrSchedulerType} ${JSON.stringify(lrSchedulerKwargs)}: off by ${Math.max(...off)}`,
    )
  }
  const seen = new Set(transformers.map(([type]) => type))
  t.same(
    lrSchedulerTypes.filter((type) => !seen.has(type)),
    [],
    'every schedule is among them',
  )
  const end = (lrSchedulerType: LrSchedulerType, lrSchedulerKwargs?: LrSchedulerKwargs) =>
    learningRateAt(scheduleOf({ lrSchedulerType, lrSchedulerKwargs, warmupSteps: 3 }), totalSteps)
  t.equal(end('cosineWithRestarts', { numCycles: 3 }), 0, 'the last wave ends at 0')
  t.equal(end('polynomial'), 1e-7)
  t.equal(end('cosineWithMinLr', { minLr: 1e-4 }), 1e-4)
})

t.test('the warm-up as a share of all steps, rounded up', async (t) => {
  const rates = (given: Partial<Schedule>) =>
    Array.from({ length: totalSteps }, (_, step) => learningRateAt(scheduleOf(given), step))
  for (const [share, steps] of [
    [0.1, 2],
    [0.25, 3],
    [1e-9, 1],
    [0.99, 11],
  ]) {
    const wanted = rates({ warmupSteps: steps })
    t.same(rates({ warmupSteps: share }), wanted, `${share} of ${totalSteps}`)
    t.same(rates({ warmupSteps: 0, warmupRatio: share }), wanted, 'under its older name')
  }
  t.same(rates({ warmupSteps: 0, warmupRatio: 0 }), rates({}))
})

t.test('which rates depend on the number of steps', async (t) => {
  const endless = lrSchedulerTypes.filter(
    (lrSchedulerType) => !dependsOnTotal(scheduleOf({ lrSchedulerType, warmupSteps: 4 })),
  )
  t.same(endless, ['constant', 'constantWithWarmup', 'inverseSqrt'])
  for (const lrSchedulerType of endless) {
    for (let step = 0; step < totalSteps; step++) {
      const [short, long] = [totalSteps, 99].map((total) =>
        learningRateAt(scheduleOf({ lrSchedulerType, warmupSteps: 4, totalSteps: total }), step),
      )
      t.equal(short, long, `${lrSchedulerType}: step ${step}`)
    }
    t.ok(dependsOnTotal(scheduleOf({ lrSchedulerType, warmupSteps: 0.1 })), 'a share of them does')
    t.ok(dependsOnTotal(scheduleOf({ lrSchedulerType, warmupRatio: 0.1 })))
  }
})

t.test('what no schedule can be made of', async (t) => {
  const refused: readonly (readonly [given: Partial<Schedule>, where: string, message: RegExp])[] = [
    [{ warmupSteps: 2.5 }, 'warmupSteps', /whole steps.*2\.5/],
    [{ warmupSteps: 2, warmupRatio: 0.1 }, 'warmupRatio', /without warmupSteps, got 0\.1 and 2/],
    [{ lrSchedulerKwargs: { power: 2 } }, 'lrSchedulerKwargs.power', /nothing with lrSchedulerType linear/],
    [
      { lrSchedulerType: 'polynomial', lrSchedulerKwargs: { minLr: 1 } },
      'lrSchedulerKwargs.minLr',
      /power, lrEnd with lrSchedulerType polynomial/,
    ],
    [{ lrSchedulerType: 'polynomial', learningRate: 1e-7 }, 'lrSchedulerKwargs.lrEnd', /less than .* 1e-7/],
    [{ lrSchedulerType: 'cosineWithMinLr' }, 'lrSchedulerKwargs', /either minLr or minLrRate, got neither/],
    [
      { lrSchedulerType: 'cosineWithMinLr', lrSchedulerKwargs: { minLr: 1e-4, minLrRate: 0.1 } },
      'lrSchedulerKwargs',
      /got both/,
    ],
    [{ lrSchedulerType: 'steps' as never }, 'lrSchedulerType', /one of constant, .*got steps/],
  ]
  for (const [given, where, message] of refused) {
    t.throws(() => checkSchedule(scheduleOf(given)), { code: 'E_CONFIG', where, message }, where)
  }
  t.throws(() => learningRateAt(scheduleOf({ learningRate: Number.NaN }), 3), {
    code: 'E_CONFIG',
    where: 'learningRate',
  })
})
