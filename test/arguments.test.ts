// Public functions called from plain JavaScript: each argument of a call that works, and each of its options, is replaced
// in turn by values of other kinds. What comes out is a WhetstoneError that says what was expected and what came, or a
// result where the value is a fair one: those are listed in arguments-table.ts. Nothing else, and nothing hangs.

import { rmSync } from 'node:fs'
import t from 'tap'
import * as api from '../ts/src/index.js'
import { table } from './arguments-table.js'
import { decoder, type Entry, loop, model, policy, rows } from './support-arguments.js'

t.setTimeout(280_000)

/** What plain JavaScript may pass by mistake. */
const wrong: Readonly<Record<string, unknown>> = {
  undefined,
  null: null,
  object: {},
  list: [],
  number: 7,
  nan: Number.NaN,
  text: 'x',
  true: true,
  function: () => undefined,
}

/** What comes of a call, in a word; a hang is `hangs`. */
async function outcome(call: Entry['call'], args: readonly unknown[]): Promise<string> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<string>((done) => {
    timer = setTimeout(() => done('hangs'), 20_000)
  })
  const work = async (): Promise<string> => {
    try {
      await call(...(args as never[]))
      return 'fair'
    } catch (error) {
      if (api.WhetstoneError.isInstance(error) && error.code === 'E_ABORTED') return 'fair'
      if (!api.WhetstoneError.isInstance(error)) return `throws ${String(error)}`
      const told =
        error.where !== '' && error.code in api.errorCodes && !/undefined is not|Cannot read/.test(error.message)
      if (!told || error.code === 'E_INTERNAL') return `says ${error.code} ${error.message}`
      return 'refused'
    }
  }
  return Promise.race([work(), late]).finally(() => {
    clearTimeout(timer)
    rmSync('x', { recursive: true, force: true })
  })
}

/** Arguments with one place replaced. */
function replaced(args: readonly unknown[], place: string, value: unknown): unknown[] {
  const [index, member] = place.split('.')
  return args.map((arg, i) => {
    if (i !== Number(index)) return arg
    return member === undefined ? value : { ...(arg as object), [member]: value }
  })
}

/** Every place that is replaced, with the kinds that are fair there. */
function* placesOf({ args, fair = {}, options = {} }: Entry): Generator<[place: string, fair: string]> {
  for (const i of args.keys()) {
    yield [`${i}`, fair[i] ?? '']
    for (const [name, kinds] of Object.entries(options[i] ?? {}))
      yield [`${i}.${name.replace('!', '')}`, name.endsWith('!') ? kinds : `undefined ${kinds}`]
  }
}

for (const [name, entry] of Object.entries(table))
  t.test(name, async (t) => {
    t.equal(await outcome(entry.call, entry.args), 'fair', 'the call of the table works')
    const failures: string[] = []
    for (const [place, fair] of placesOf(entry))
      for (const [kind, value] of Object.entries(wrong)) {
        const found = await outcome(entry.call, replaced(entry.args, place, value))
        if (found !== (fair.split(' ').includes(kind) ? 'fair' : 'refused'))
          failures.push(`${place} = ${kind}: ${found}`)
      }
    t.same(failures, [])
  })

t.test('options that nobody knows are refused', async (t) => {
  const failures: string[] = []
  for (const [name, { call, args, options = {}, open = [] }] of Object.entries(table))
    for (const i of Object.keys(options).map(Number)) {
      if (open.includes(i)) continue
      const given = args.with(i, { ...(args[i] as object), alien: undefined })
      const error: unknown = await new Promise((done) => {
        Promise.resolve()
          .then(() => call(...(given as never[])))
          .then(() => done(undefined), done)
      })
      const told = api.WhetstoneError.isInstance(error) && error.code === 'E_CONFIG' && error.where.endsWith('alien')
      if (!told || !/^\[.*\] unknown option.*; expected one of \w+/.test(error.message))
        failures.push(`${name} ${i}: ${String(error)}`)
    }
  t.same(failures, [])
})

t.test('options inside options', async (t) => {
  const { update } = loop
  const cases: [where: string, options: object][] = [
    ['iterate.limits.shard', { limits: { shard: 4 } }],
    ['iterate.update.optimizer.lr', { update: { ...update, optimizer: { ...update.optimizer, lr: 1 } } }],
    ['iterate.update.schedule.warmup', { update: { ...update, schedule: { ...update.schedule, warmup: 1 } } }],
    ['iterate.update.referenceSync.every', { update: { ...update, referenceSync: { every: 1 } } }],
  ]
  for (const [where, options] of cases) {
    const call = api.iterate({ ...loop, ...options } as never)
    await t.rejects(call, { code: 'E_CONFIG', where, message: /unknown option; expected one of/ })
  }
})

t.test('other names of options are told', async (t) => {
  const generate = (options: object) => policy.generate('2', options)
  const load = (options: object) => api.loadModel(model, options)
  const grpo = (options: object) => api.recipes.grpo({ policy, prompts: [], ...options }).result
  const train = (options: object) => api.train({ policy, objective: api.sft(), data: rows, ...options }).result
  const cases: [call: (options: object) => Promise<unknown>, options: object, where: string, message: RegExp][] = [
    [load, { dtyp: 'bf16' }, 'loadModel.dtyp', /expected one of device, .*did you mean 'dtype'/],
    [load, { bf16: true }, 'loadModel.bf16', /did you mean 'dtype'/],
    [load, { loadIn8bit: true }, 'loadModel.loadIn8bit', /no weights in eight bits/],
    [load, { use_bnb_nested_quant: true }, 'loadModel.use_bnb_nested_quant', /did you mean 'bnb4bitUseDoubleQuant'/],
    [load, { quantizationConfig: {} }, 'loadModel.quantizationConfig', /loadIn4bit: true/],
    [load, { device_map: 'auto' }, 'loadModel.device_map', /did you mean 'device'/],
    [load, { lora: { lora_alpha: 8 } }, 'lora.lora_alpha', /did you mean 'loraAlpha'/],
    [load, { lora: { modules_to_save: ['wte'] } }, 'lora.modules_to_save', /did you mean 'modulesToSave'/],
    [load, { lora: { modulesToSave: 'lm_head' } }, 'lora.modulesToSave', /list/],
    [generate, { max_new_tokens: 6 }, 'generate.max_new_tokens', /did you mean 'maxNewTokens'/],
    [generate, { maxLength: 6 }, 'generate.maxLength', /did you mean 'maxNewTokens'/],
    [generate, { doSample: false }, 'generate.doSample', /temperature: 0 takes the most probable token/],
    [generate, { numBeams: 2 }, 'generate.numBeams', /there is none/],
    [generate, { noRepeatNgramSize: 3 }, 'generate.noRepeatNgramSize', /there is none.*repetitionPenalty/],
    [generate, { repetition_penalty: 1.1 }, 'generate.repetition_penalty', /did you mean 'repetitionPenalty'/],
    [(options) => api.merge(options as api.MergeOptions), { model, output: 'x', dtyp: 'f32' }, 'merge.dtyp', /'dtype'/],
    [train, { refrence: decoder }, 'refrence', /did you mean 'reference'/],
    [train, { reference: Promise.resolve(decoder) }, 'train.reference', /got a promise \(is `await` missing\?\)/],
    [
      train,
      { output: new URL('file:///x') },
      'train.output',
      /expected a path, or nothing, got an object of class URL/,
    ],
    [async () => api.createTask('countdown', {} as never), {}, 'createTask.seed', /a number, got nothing/],
    [
      train,
      { lora: { r: 8 } },
      'lora',
      /an adapter is given where the model is loaded: lora: \{ r: 16 \} of loadModel/,
    ],
    [train, { chatTemplatePath: 'x' }, 'chatTemplatePath', /where the model is loaded/],
    [train, { bf16: true }, 'bf16', /where the model is loaded: dtype/],
    [grpo, { rewardFunctions: [] }, 'rewardFunctions', /did you mean 'rewardFuncs'/],
    [grpo, { max_new_tokens: 8 }, 'max_new_tokens', /did you mean 'maxCompletionLength'/],
  ]
  for (const [call, options, where, message] of cases)
    await t.rejects(call(options), { code: 'E_CONFIG', where, message }, JSON.stringify(Object.keys(options)))
})

t.test('the device that is open has its options', async (t) => {
  const { memory } = api
  const { threads } = policy.device
  t.equal(api.getDevice({ threads, memoryLimitBytes: memory().limitBytes, isa: policy.device.level }), policy.device)
  const cases: [options: api.DeviceOptions, where: string][] = [
    [{ threads: threads + 1 }, 'threads'],
    [{ memoryLimitBytes: 1e12 }, 'memoryLimitBytes'],
    [{ isa: 'v0' }, 'isa'],
  ]
  for (const [options, where] of cases) {
    const error = { code: 'E_DEVICE', where, message: /the process already uses .*, got/ }
    t.throws(() => api.getDevice(options), error)
    await t.rejects(api.loadModel(model, options), error)
  }
})

t.test('the table has every public function', async (t) => {
  const called = new Set(Object.keys(table).map((name) => name.split(/[ .(]/)[0]))
  const without = ['WhetstoneError', 'doctor', 'memory']
  const missing = Object.entries(api).filter(
    ([name, value]) => typeof value === 'function' && !called.has(name) && !without.includes(name),
  )
  t.same(
    missing.map(([name]) => name),
    [],
  )
})
