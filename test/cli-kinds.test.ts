// The command line with every trainer on rows, as child processes: train from a config file and flags, what the run
// folder says, --resume, preview, estimate, errors in rows. Kills and what one does with a result: cli-runs.test.ts; trainers on
// samples: cli-samples.test.ts; flags, spellings and refusals: cli.test.ts.

import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { rowTrainers } from '../ts/train/config/run-settings.js'
import { rowKindOf } from '../ts/train/data/encode.js'
import { commandLine, inPairs, words } from './support-cli.js'
import { makeObjective, putRows, rowsOf } from './support-kinds.js'

t.setTimeout(120_000)
const { folder, run, settingsOf, eventsOf } = await commandLine(t)

/** Those that look at their rows and models in different ways. */
const looked = ['sft', 'listwiseReward', 'dpo', 'kto', 'srpo', 'superhf', 'gkd', 'reward', 'processReward']

t.test('every trainer on rows', async (t) => {
  await inPairs(rowTrainers, async (name) => {
    const own = ['--config', 'run.yaml', '--data', `${rowKindOf(makeObjective(name))}.jsonl`]
    const teacher = name === 'gkd' || name === 'distill' ? ['--reference', 'teacher'] : []
    const command = ['train', name, ...own, ...teacher, '--seed', '7', '--output', name]
    const { code, out, err } = await run(...command)
    t.equal(code, 0, `${name}: ${err}`)
    t.match(out, new RegExp(`^loss -?\\d.*checkpoint: ${name}/checkpoints/step-0+4$`, 'm'))
    const settings = await settingsOf(name)
    t.match(settings, {
      model: { value: 'base', origin: 'run.yaml:1' },
      maxSteps: { value: 4, origin: 'run.yaml:3' },
      seed: { value: 7, origin: 'command line' },
      adamBeta1: { origin: 'default' },
    })
    t.ok(Object.keys(settings).length > 30, 'every setting')
    const events = await eventsOf(name)
    t.same(
      events.filter(({ type }) => type === 'step').map(({ step }) => step),
      [1, 2, 3, 4],
    )
    t.same((await readdir(join(folder, name, 'checkpoints'))).sort(), ['step-00000002', 'step-00000004'])
    if (!looked.includes(name)) return
    t.match((await run(...command, '--resume')).err, 'finished already')

    const shown = await run('preview', '--objective', name, ...own, '--json')
    t.equal(shown.code, 0, shown.err)
    t.match(JSON.parse(shown.out), { objective: `${name}.v1`, summary: { rows: 8, examples: 8 }, errors: [] })
    const estimate = JSON.parse((await run('estimate', name, ...own, ...teacher, '--json')).out)
    const last = Math.max(...events.flatMap(({ memoryBytes }) => (typeof memoryBytes === 'number' ? memoryBytes : [])))
    t.ok(Math.abs(estimate.peakBytes / last - 1) < 0.15, `${name}: ${estimate.peakBytes} predicted for ${last}`)
  })
})

t.test('errors in rows name file and line, with --limit too', async (t) => {
  await putRows(folder, 'bad.jsonl', [...rowsOf.preference.slice(0, 2), { prompt: 'x', chosen: 'y', rejected: 5 }])
  const command = (name: string, limit: number) =>
    run(...words(`train dpo --config run.yaml --data bad.jsonl --limit ${limit} --output ${name}`))
  const { code, err } = await command('bad', 3)
  t.equal(code, 1)
  t.match(err, /^E_FORMAT \[bad\.jsonl:3\] /m)
  const fine = await command('fine', 2)
  t.equal(fine.code, 0, fine.err)
  t.match(fine.err, '2 rows; 4 optimizer steps')
  t.match(await settingsOf('fine'), { limit: { value: 2, origin: 'command line' } })
  await putRows(folder, 'long.jsonl', [rowsOf.completion[0], { prompt: 'x'.repeat(2000), completion: 'y' }])
  const odd = await run(...words('train sft --config run.yaml --data long.jsonl --limit 2 --output odd'))
  t.equal(odd.code, 1)
  t.match(odd.err, /^E_FORMAT \[long\.jsonl:2\] .*maxLength/m, 'what encoding finds, too')
})
