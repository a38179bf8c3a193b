// Settings: spellings, config files with lines, precedence and origins, and what refusals say.

import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import * as z from 'zod'
import { objectives } from '../ts/loss/index.js'
import { elsewhere, renamed } from '../ts/src/base/foreign-names.js'
import { didYouMean, nearestName, plainName } from '../ts/src/base/spelling.js'
import { type Options, readFlags } from '../ts/train/cli/flags.js'
import { catalogueOf, spellWords } from '../ts/train/config/catalogue.js'
import { trainerDefaults } from '../ts/train/config/defaults.js'
import { type Given, readConfigFile } from '../ts/train/config/file.js'
import { onlineCatalogue, onlineTrainers, resolveOnline } from '../ts/train/config/online-settings.js'
import { trainingOptions } from '../ts/train/config/options.js'
import { commandLine, describeConfig, resolveConfig } from '../ts/train/config/resolve.js'
import { resolveRun, rowTrainers, runCatalogue } from '../ts/train/config/run-settings.js'
import { temporaryFolder } from './support.js'

const folder = await temporaryFolder(t)

async function fileOf(name: string, text: string): Promise<string> {
  await writeFile(join(folder, name), text)
  return join(folder, name)
}

const typed = (values: Readonly<Record<string, unknown>>, objective = 'dpo'): Given[] =>
  Object.entries(values).map(([name, value]) => {
    const setting = runCatalogue(objective).find(name)
    if (setting === undefined) throw new Error(`no setting ${name}`)
    return { setting, value, origin: commandLine }
  })

const resolved = (objective: string, given: Readonly<Record<string, unknown>>, file: readonly Given[] = []) =>
  resolveRun(objective, runCatalogue(objective), [...file, ...typed({ model: 'm', ...given }, objective)])

t.test('names have one meaning in every spelling', async (t) => {
  for (const name of ['learningRate', 'learning_rate', 'learning-rate', 'LEARNING_RATE', 'LearningRate'])
    t.equal(plainName(name), 'learningrate', name)
  t.equal(nearestName('learing_rate', ['loggingSteps', 'learningRate', 'beta']), 'learningRate')
  t.equal(nearestName('x', []), undefined)
  t.equal(nearestName('dop', ['sft', 'dpo']), 'dpo', 'letters that changed places are one fault')
  t.equal(nearestName('gamma', ['beta', 'alpha', 'kappa']), undefined, 'far off is no suggestion')
  const { find } = runCatalogue('dpo')
  t.equal(find('per_device_train_batch_size')?.path, 'perDeviceTrainBatchSize')
  t.equal(find('beta')?.path, 'dpo.beta')
  t.equal(find('dpo.beta')?.path, 'dpo.beta')
  t.equal(find('output_dir')?.path, 'output')
  t.equal(find('model_name_or_path')?.path, 'model')
  t.equal(find('use_peft')?.path, 'lora')
  t.equal(find('lora_r')?.path, 'lora.r')
  t.equal(find('lora_target_modules')?.path, 'lora.targetModules')
  t.equal(find('kappa'), undefined, 'a setting of another objective')
  const simpo = runCatalogue('simpo')
  t.equal(simpo.find('simpo_gamma')?.path, 'simpo.gamma')
  t.equal(simpo.find('cpo_alpha')?.path, 'simpo.sftWeight')
  t.equal(runCatalogue('cpo').find('cpo_alpha')?.path, 'cpo.cpoAlpha', 'where it has that name')
  t.equal(find('simpo_gamma'), undefined)
  t.equal(runCatalogue('gkd').find('teacher_model_name_or_path')?.path, 'reference')
  const online = (trainer: string, name: string) => onlineCatalogue(trainer).find(name)?.path
  t.equal(online('onlineDpo', 'max_new_tokens'), 'maxCompletionLength')
  for (const [name, path] of [
    ['lmbda', 'lmbda'],
    ['seq_kd', 'seqKd'],
    ['max_new_tokens', 'maxCompletionLength'],
    ['teacher_model_name_or_path', 'reference'],
  ])
    t.equal(online('onlineGkd', name), path)
  t.equal(online('onlineNashMd', 'mixture_coef'), 'mixtureCoef')
  t.equal(online('onlineNashMd', 'missing_eos_penalty'), 'missingEosPenalty')
  t.equal(online('onlineXpo', 'reward_model_path'), 'rewards')
  t.equal(online('onlineXpo', 'judge'), 'judge')
  t.equal(online('grpo', 'judge'), undefined, 'no pairs, no judge')
})

/** Options of functions that are no settings of a run. */
const apiNames = [
  ...['policy', 'objective', 'prompts', 'rewardFuncs', 'resume', 'device', 'scoreLabels'],
  ...['maxNewTokens', 'stopIds', 'stopStrings', 'onText'],
]

t.test('a name that nobody knows: what was meant, or what does it here, or nothing', async (t) => {
  const hint = (name: string, objective = 'dpo') =>
    didYouMean(
      name,
      runCatalogue(objective).settings.map(({ shortest }) => shortest),
      '--',
    )
  const meant = {
    lerningRate: 'learningRate',
    epochs: 'numTrainEpochs',
    num_epochs: 'numTrainEpochs',
    batch_size: 'perDeviceTrainBatchSize',
    lr: 'learningRate',
    bf16: 'dtype',
    fp16: 'dtype',
    torch_dtype: 'dtype',
    bnb_4bit_compute_dtype: 'dtype',
    use_bnb_nested_quant: 'bnb4bitUseDoubleQuant',
    peft: 'lora',
    peft_config: 'lora',
    ref_model: 'reference',
    teacher_model: 'reference',
    train_dataset: 'data',
    save_strategy: 'saveStrategy',
    warmup_ratio: 'warmupRatio',
    max_seq_length: 'maxLength',
  }
  for (const [name, here] of Object.entries(meant)) t.equal(hint(name), `; did you mean '--${here}'?`, name)
  t.match(hint('load_in_8bit'), /^; there are no weights in eight bits/)
  t.match(hint('bnb_4bit_quant_type'), /NF4/)
  t.match(hint('report_to'), /metrics\.jsonl/)
  t.match(hint('dataset_text_field'), /the field is 'text'/)
  t.match(hint('padding_free'), /nothing is padded/)
  for (const name of ['kapow', 'x', 'toString', 'json5', 'gammas']) t.equal(hint(name), '', name)
  const known = new Set(
    [
      ...Object.keys(objectives).flatMap((name) => (rowTrainers.includes(name) ? [runCatalogue(name)] : [])),
      ...Object.keys(onlineTrainers).map(onlineCatalogue),
    ]
      .flatMap(({ settings }) => settings.map(({ key }) => key))
      .concat(apiNames),
  )
  const gone = Object.entries(renamed).flatMap(([name, here]) =>
    here.filter((one) => !known.has(one)).map((one) => [name, one]),
  )
  t.same(gone, [], 'the table names options that there are')
  for (const name of [...Object.keys(renamed), ...Object.keys(elsewhere)]) t.equal(name, plainName(name))
})

t.test('a name that two settings have means the one at the top level', async (t) => {
  const inner = z.strictObject({ seed: z.int().default(1).describe('own'), depth: z.int().default(2) })
  const { find } = catalogueOf([
    { name: '', title: 'Top', schema: z.strictObject({ seed: z.int().default(0) }) },
    { name: 'own', title: 'Own', schema: inner },
    { name: 'other', title: 'Other', schema: z.strictObject({ width: z.int(), depth: z.int() }), prefixed: true },
  ])
  t.equal(find('seed')?.path, 'seed')
  t.equal(find('own.seed')?.shortest, 'own.seed')
  t.equal(find('own_seed')?.path, 'own.seed')
  t.equal(find('depth'), undefined, 'nobody knows which')
  t.equal(find('width')?.shortest, 'other.width')
  t.equal(find('own.seed')?.field.fallback, 1)
  t.equal(find('own.seed')?.field.description, 'own')
})

t.test('words have one meaning in every spelling', async (t) => {
  const field = runCatalogue('dpo').find('lossType')?.field
  if (field === undefined) throw new Error('lossType is a setting of dpo')
  t.equal(spellWords(field, 'exo_pair'), 'exoPair')
  t.same(spellWords(field, ['sigmoid', 'bco_pair']), ['sigmoid', 'bcoPair'])
  t.equal(spellWords(field, 'nothing'), 'nothing', 'the schema refuses it')
})

/** Objectives over samples that no recipe has: with a critic, with lists of answers, against a mixture of policies. */
const withoutTrainer = ['ppo', 'listwiseReward', 'nashMd']

t.test('every objective is a trainer with settings that are described', async (t) => {
  for (const [name, maker] of Object.entries(objectives)) {
    if (rowTrainers.includes(name)) t.ok(trainerDefaults[name].description, `${name} is described`)
    else t.ok(onlineTrainers[name] ?? withoutTrainer.includes(name), `${name} is a trainer on samples`)
    const own = runCatalogue(name).settings.filter(({ group }) => group.name === name)
    t.same(
      own.map(({ key }) => key),
      Object.keys(maker.settings.shape),
      `settings of ${name}`,
    )
    for (const { path, field } of own) t.ok(field.description, `${path} is described`)
  }
  for (const { path, field } of runCatalogue('sft').settings) t.ok(field.description, `${path} is described`)
  for (const [name, { defaults, loraDefaults }] of Object.entries(trainerDefaults)) {
    t.doesNotThrow(() => trainingOptions.parse(defaults), `defaults of ${name}`)
    t.doesNotThrow(() => trainingOptions.parse(loraDefaults), `LoRA defaults of ${name}`)
  }
})

t.test('online trainers: settings of the recipe, with the method in the name', async (t) => {
  for (const name of Object.keys(onlineTrainers))
    for (const { path, field } of onlineCatalogue(name).settings) t.ok(field.description, `${path} is described`)
  const catalogue = onlineCatalogue('dapo')
  t.equal(catalogue.find('method'), undefined, 'the name says it')
  t.equal(onlineCatalogue('bestOfN').find('learning_rate')?.field.fallback, 2e-5)
  const given = Object.entries({ model: 'm', tasks: 'arithmetic', num_generations: 4 }).map(([name, value]) => {
    const setting = catalogue.find(name)
    if (setting === undefined) throw new Error(`no setting ${name}`)
    return { setting, value, origin: commandLine }
  })
  const { run, values, all } = resolveOnline('dapo', catalogue, given)
  t.same(run, { model: 'm', tasks: 'arithmetic' })
  t.match(values, { method: 'dapo', numGenerations: 4, learningRate: 1e-6 })
  t.match(all.origins, { method: 'trainer dapo', numGenerations: 'command line', learningRate: 'default' })
  const [, , generations] = given
  t.throws(() => resolveOnline('dapo', catalogue, [...given, { ...generations, value: 1 }]), {
    where: '--numGenerations',
    message: />=2, got 1/,
  })
})

t.test('defaults of policy gradients are those of each', async (t) => {
  const fallback = (objective: string, name: string) => runCatalogue(objective).find(name)?.field.fallback
  t.equal(fallback('grpo', 'aggregation'), 'sequenceMean')
  t.equal(fallback('dapo', 'aggregation'), 'tokenMean')
  t.equal(fallback('dapo', 'epsilonHigh'), 0.28)
  t.equal(fallback('gspo', 'epsilon'), 3e-4)
  t.equal(objectives.gspo().config.epsilon, 3e-4)
})

t.test('the command line beats the file beats the objective beats the rest', async (t) => {
  const path = await fileOf('a.yaml', 'num_train_epochs: 2\nlearning_rate: 3e-6\nbeta: 0.3\nseed: 7\n')
  const file = await readConfigFile(path, runCatalogue('dpo'))
  const { training, objective, all } = resolved('dpo', { seed: 8 }, file)
  t.equal(training.seed, 8)
  t.equal(training.learningRate, 3e-6)
  t.equal(objective.config.beta, 0.3)
  t.match(all.origins, {
    seed: 'command line',
    learningRate: `${path}:2`,
    numTrainEpochs: `${path}:1`,
    'dpo.beta': `${path}:3`,
    maxLength: 'default',
    'dpo.lossType': 'default',
  })
  const plain = resolved('dpo', {})
  t.equal(plain.training.learningRate, 1e-6)
  t.equal(plain.all.origins.learningRate, 'default of dpo')
  t.equal(resolved('sft', {}).training.learningRate, 2e-5)
  t.match(describeConfig(plain.all), /^learningRate += 1e-6 {2}\(default of dpo\)$/m)
})

t.test('LoRA: asked for by name or by any of its settings', async (t) => {
  t.equal(resolved('dpo', {}).lora, undefined)
  const { lora, training, all } = resolved('dpo', { lora: true })
  t.match(lora, { r: 16, targetModules: 'all-linear' })
  t.equal(training.learningRate, 1e-5)
  t.equal(all.origins.learningRate, 'default of dpo with LoRA')
  t.match(resolved('dpo', { 'lora.r': 4, lora_alpha: 8 }).lora, { r: 4, loraAlpha: 8 })
  t.match(resolved('dpo', { lora_target_modules: 'q_proj,v_proj' }).lora, { targetModules: ['q_proj', 'v_proj'] })
  const whole = ['embed_tokens', 'lm_head']
  for (const given of [{ lora_modules_to_save: whole.join(',') }, { 'lora.modulesToSave': whole }])
    t.match(resolved('dpo', given).lora, { r: 16, modulesToSave: whole })
  t.equal(resolved('dpo', { adapter: 'a' }).training.learningRate, 1e-5, 'an adapter to go on with')
  const refused = (given: Readonly<Record<string, unknown>>, where: string) =>
    t.throws(() => resolved('dpo', given), { code: 'E_CONFIG', where }, JSON.stringify(given))
  refused({ adapter: 'a', 'lora.r': 4 }, '--lora')
  refused({ adapter: 'a', lora: true }, '--lora')
  refused({ lora: false, 'lora.r': 4 }, '--lora')
  refused({ 'lora.r': 0 }, '--lora.r')
})

t.test('flags: text becomes what the setting holds', async (t) => {
  const catalogue = runCatalogue('dpo')
  const read = (options: Options) =>
    Object.fromEntries(readFlags(catalogue, options).map(({ setting, value }) => [setting.path, value]))
  t.same(read({ lossType: 'sigmoid,bco_pair', lossWeights: '1, 0.5' }), {
    'dpo.lossType': ['sigmoid', 'bcoPair'],
    'dpo.lossWeights': [1, 0.5],
  })
  t.same(read({ lossType: '["exoPair"]', lossWeights: '2' }), { 'dpo.lossType': ['exoPair'], 'dpo.lossWeights': [2] })
  t.same(
    read({ lossType: 'ipo', maxSteps: '1e3', packing: true, shuffle: 'false', 'lora.rankPattern': '{"q_proj": 2}' }),
    {
      'dpo.lossType': 'ipo',
      maxSteps: 1000,
      packing: true,
      shuffle: false,
      'lora.rankPattern': { q_proj: 2 },
    },
  )
  t.same(read({ model: '12', learningRate: 'fast', packing: 'maybe' }), {
    model: '12',
    learningRate: 'fast',
    packing: 'maybe',
  })
  t.throws(() => read({ lossWeights: '[1,' }), { code: 'E_FORMAT', where: '--lossWeights' })
})

t.test('files: groups, JSON, nothing', async (t) => {
  const read = async (name: string, text: string) =>
    (await readConfigFile(await fileOf(name, text), runCatalogue('dpo'))).map(({ setting, value, origin }) => [
      setting.path,
      value,
      origin.slice(folder.length + 1),
    ])
  t.same(await read('b.yaml', '# only a comment\n'), [])
  t.same(await read('c.yaml', 'DPO:\n  loss_type: [sigmoid, bco_pair]\n  beta: 0.2\npacking: yes\n'), [
    ['dpo.lossType', ['sigmoid', 'bcoPair'], 'c.yaml:2'],
    ['dpo.beta', 0.2, 'c.yaml:3'],
    ['packing', 'yes', 'c.yaml:4'],
  ])
  t.same(await read('d.json', '{"dpo": {"beta": 0.2}, "max_steps": 3}'), [
    ['dpo.beta', 0.2, 'd.json'],
    ['maxSteps', 3, 'd.json'],
  ])
})

t.test('files: refusals name file and line', async (t) => {
  const refused = async (name: string, text: string, expected: { code: string; message: RegExp }, line?: number) => {
    const path = await fileOf(name, text)
    const where = line === undefined ? path : `${path}:${line}`
    await t.rejects(readConfigFile(path, runCatalogue('dpo')), { ...expected, where }, JSON.stringify(text))
  }
  await refused('e.yaml', 'seed: 1\nlearing_rate: 2\n', { code: 'E_CONFIG', message: /'learningRate'/ }, 2)
  await refused('e.yaml', '\n\ndpo:\n  bta: 2\n', { code: 'E_CONFIG', message: /'dpo.bta'; did you mean 'beta'/ }, 4)
  await refused('e.yaml', 'kto:\n  beta: 2\n', { code: 'E_CONFIG', message: /unknown setting 'kto'/ }, 1)
  await refused('e.yaml', 'beta: 1\ndpo:\n  beta: 2\n', { code: 'E_CONFIG', message: /given before, at .*:1/ }, 3)
  await refused('e.yaml', 'seed: 1\nSEED: 2\n', { code: 'E_CONFIG', message: /given before/ }, 2)
  await refused('e.yaml', 'seed: 1\nseed: 2\n', { code: 'E_FORMAT', message: /unique/ }, 2)
  await refused('e.yaml', 'a: 1\nb: [1,\n', { code: 'E_FORMAT', message: /no YAML/ }, 3)
  await refused('e.yaml', '- 1\n- 2\n', { code: 'E_FORMAT', message: /name: value/ })
  await refused('e.json', '{"seed": 1,}', { code: 'E_FORMAT', message: /JSON/i })
  await refused('e.json', '[1]', { code: 'E_FORMAT', message: /object/ })
  await refused('e.json', '{"sed": 1}', { code: 'E_CONFIG', message: /'seed'/ })
  await t.rejects(readConfigFile(join(folder, 'none.yaml'), runCatalogue('dpo')), { code: 'E_IO' })
  const wide = (name: string, of: string) => `${name}: &${name} [${Array(9).fill(`*${of}`).join(', ')}]\n`
  const bomb = `lossWeights: &a [1, 1]\n${wide('b', 'a')}${wide('c', 'b')}${wide('d', 'c')}`
  await refused('f.yaml', bomb, { code: 'E_FORMAT', message: /alias/i }, 4)
  await refused('f.yaml', 'seed: *x\n', { code: 'E_FORMAT', message: /no YAML/ }, 1)
})

t.test('values: refusals name the setting, what was expected, what came and from where', async (t) => {
  const refused = (given: Readonly<Record<string, unknown>>, where: string, message: RegExp) =>
    t.throws(() => resolved('dpo', given), { code: 'E_CONFIG', where, message }, JSON.stringify(given))
  refused({ learningRate: 'fast' }, '--learningRate', /expected number, got "fast" \(from command line\)/)
  refused({ learningRate: -1 }, '--learningRate', />=0.*got -1/)
  refused({ lrSchedulerType: 'steps' }, '--lrSchedulerType', /"cosine".*got "steps"/)
  refused({ beta: 0 }, '--beta', />0.*got 0/)
  refused({ lossWeights: [1, 'x'] }, '--lossWeights', /at 1: expected number, got \[1,"x"\]/)
  refused({ lossType: 'ddpo' }, '--lossType', /expected one of "sigmoid"\|.*"ipo".*, or array, got "ddpo"/)
  refused(
    { lossType: ['sigmoid', 'ddpo'] },
    '--lossType',
    /at 1: expected one of "sigmoid"\|.*, got \["sigmoid","ddpo"\]/,
  )
  refused({ beta: Number.NaN }, '--beta', /expected number, got NaN/)
  refused({ lossWeights: [Number.NaN] }, '--lossWeights', /at 0: expected number, got \["NaN"\]/)
  refused({ maxSteps: 1.5 }, '--maxSteps', /got 1.5/)
  t.throws(() => resolveRun('dpo', runCatalogue('dpo'), []), { code: 'E_CONFIG', where: '--model', message: /none/ })
  t.throws(() => runCatalogue('dpq'), { code: 'E_CONFIG', message: /did you mean 'dpo'/ })
  const schema = z.strictObject({ seed: z.int() })
  const source = { origin: 'argument', values: { sede: 1 } }
  t.throws(() => resolveConfig(schema, [source]), { where: 'sede', message: /did you mean 'seed'/ })
})

t.test('config.json of a run gives the same settings again, for every trainer', async (t) => {
  const kept = ({ values, origins }: ReturnType<typeof resolved>['all']) =>
    JSON.stringify(
      Object.fromEntries(Object.keys(origins).map((key) => [key, { value: values[key], origin: origins[key] }])),
    )
  for (const name of rowTrainers) {
    const { all } = resolved(name, { learningRate: 3e-4, 'lora.r': 4, limit: 7 })
    const path = await fileOf('config.json', kept(all))
    const again = resolveRun(name, runCatalogue(name), await readConfigFile(path, runCatalogue(name)))
    t.same(JSON.parse(JSON.stringify(again.all.values)), JSON.parse(JSON.stringify(all.values)), name)
    t.equal(again.all.origins.learningRate, path)
  }
  for (const name of Object.keys(onlineTrainers)) {
    const catalogue = onlineCatalogue(name)
    const given = Object.entries({ model: 'm', learningRate: 3e-4 }).map(([key, value]) => ({
      setting: catalogue.find(key)!,
      value,
      origin: commandLine,
    }))
    const { all } = resolveOnline(name, catalogue, given)
    const path = await fileOf('online.json', kept(all))
    const again = resolveOnline(name, catalogue, await readConfigFile(path, catalogue))
    t.same(JSON.parse(JSON.stringify(again.all.values)), JSON.parse(JSON.stringify(all.values)), name)
  }
  const other = await fileOf('other.json', JSON.stringify({ method: { value: 'rloo', origin: 'trainer rloo' } }))
  await t.rejects(readConfigFile(other, onlineCatalogue('grpo')), {
    code: 'E_CONFIG',
    where: other,
    message: /expected 'method' to be "grpo", as the command says, got "rloo"/,
  })
  const plain = await fileOf('plain.json', JSON.stringify({ seed: 3, lora: { r: 2 } }))
  t.equal((await readConfigFile(plain, runCatalogue('sft'))).length, 2, 'plain settings are as they were')
})
