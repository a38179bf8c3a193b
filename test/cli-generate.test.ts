// `whetstone generate` as a child process: where the prompt comes from, what ends a text, chat, streams, and options that
// cannot be meant together.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import t from 'tap'
import { loadModel, type Prompt } from '../ts/src/generate/language-model.js'
import { golden, temporaryFolder } from './support.js'

t.setTimeout(120_000)
const folder = await temporaryFolder(t)
const program = resolve('dist', 'bundle', 'cli.js')
const model = resolve(golden('smollm'))

const generate = (input: string | undefined, ...args: string[]) =>
  spawnSync(process.execPath, [program, 'generate', '--model', model, ...args], {
    cwd: folder,
    encoding: 'utf8',
    input,
  })

const greedy = ['--temperature', '0', '--maxNewTokens', '12']

const loaded = await loadModel(model)
t.teardown(() => loaded.dispose())
const textOf = async (prompt: Prompt, stopStrings: string[] = []) =>
  (await loaded.generate(prompt, { temperature: 0, maxNewTokens: 12, stopStrings }))[0].text

t.test('a prompt that is typed, piped or in a file', async (t) => {
  const prompt = 'Once upon\na time'
  await writeFile(join(folder, 'prompt.txt'), `${prompt}\n`)
  await writeFile(join(folder, 'bad.txt'), Uint8Array.of(0x61, 0xff))
  const expected = `${await textOf(prompt)}\n`
  t.equal(generate(undefined, '--prompt', prompt, ...greedy).stdout, expected)
  t.equal(generate(`${prompt}\n`, '--prompt', '-', ...greedy).stdout, expected)
  t.equal(generate(`${prompt}\n`, '--promptFile', '-', ...greedy).stdout, expected)
  t.equal(generate(undefined, '--prompt-file', 'prompt.txt', ...greedy).stdout, expected)
  t.match(generate(undefined, '--promptFile', 'none.txt'), { status: 74, stderr: /^E_IO \[none\.txt\]/ })
  t.match(generate(undefined, '--promptFile', 'bad.txt'), { status: 1, stderr: /^E_FORMAT \[bad\.txt/ })
})

t.test('texts that end it, a system message, and streams', async (t) => {
  const prompt = 'Once upon a time'
  const text = await textOf(prompt)
  const stop = [...text].slice(3, 5).join('')
  const args = ['--prompt', prompt, ...greedy, '--stop', 'no such text', '--stop', stop]
  const { stdout } = generate(undefined, ...args)
  t.equal(stdout, `${await textOf(prompt, [stop])}\n`)
  t.ok(stdout.length < text.length)
  const [{ finishReason }] = JSON.parse(generate(undefined, ...args, '--json').stdout) as { finishReason: string }[]
  t.equal(finishReason, 'stop')
  const turns = [
    { role: 'system', content: 'Be brief.' },
    { role: 'user', content: prompt },
  ]
  const chat = ['--prompt', prompt, '--chat', ...greedy]
  t.equal(generate(undefined, ...chat, '--system', 'Be brief.').stdout, `${await textOf(turns)}\n`)
  await writeFile(join(folder, 'chat.jinja'), '{% for m in messages %}[{{ m.content }}]{% endfor %}')
  t.equal(generate(undefined, ...chat, '--chat-template-path', 'chat.jinja').stdout, `${await textOf(`[${prompt}]`)}\n`)
  t.equal(generate(undefined, '--prompt', prompt, ...greedy, '--stream').stdout, `${text}\n`)
  t.equal(generate(undefined, '--prompt', prompt, ...greedy, '--no-stream').stdout, `${text}\n`)
})

t.test('what cannot be meant is refused', async (t) => {
  const cases: [args: string[], where: string][] = [
    [[], '--prompt'],
    [['--prompt', 'a', '--promptFile', 'b'], '--promptFile'],
    [['--prompt', 'a', '--system', 'b'], '--system'],
    [['--prompt', 'a', '--stream', '--json'], '--stream'],
    [['--prompt', 'a', '--stream', '--numGenerations', '2'], '--stream'],
    [['--prompt', 'a', '--stream=maybe'], '--stream'],
    [['--prompt', 'a', '--numGenerations', '2', '--temperature', '0'], '--numGenerations'],
    [['--prompt', 'a', '--stop', ''], '--stop'],
  ]
  for (const [args, where] of cases) {
    const { status, stdout, stderr } = generate(undefined, ...args)
    t.equal(status, 1, args.join(' '))
    t.equal(stdout === '', !args.includes('--json'), 'nothing but what --json says')
    t.ok(stderr.startsWith(`E_CONFIG [${where}] `), stderr)
  }
})

t.test('a signal ends it with the code of the signal', async (t) => {
  const args = ['generate', '--model', model, '--prompt', 'a', '--stream', '--maxNewTokens', '100000', '--threads', '1']
  for (const [signal, expected] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    let err = ''
    child.stderr.on('data', (piece) => (err += piece))
    child.stdout.once('data', () => child.kill(signal))
    child.stdout.resume()
    const [code] = (await once(child, 'close')) as [number | null]
    t.equal(code, expected, err)
    t.notMatch(err, 'E_ABORTED')
  }
})
