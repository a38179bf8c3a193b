// The package inside a context of `vm`, where Jest and vitest's vmThreads load it. There Node 20 lacks Symbol.dispose.

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { root } from './layers-scan.js'
import { golden, temporaryFolder } from './support.js'

/** What the program of vm-child.ts saw with an entry of the package. */
function runIn(entry: string, output: string) {
  const child = join(import.meta.dirname, 'vm-child.js')
  const flags = ['--experimental-vm-modules', '--no-warnings']
  const args = [...flags, child, entry, golden('llama'), output]
  return JSON.parse(execFileSync(process.execPath, args, { cwd: root, encoding: 'utf8' }))
}

for (const entry of ['dist/bundle/index.js', 'dist/ts/src/index.js'])
  t.test(`${entry} loads, samples and trains in a context without Symbol.dispose`, async (t) => {
    const { lacked, loss, events, ...seen } = runIn(entry, join(await temporaryFolder(t), 'run'))
    if (process.version.startsWith('v20.')) t.ok(lacked, 'the context had no such symbols')
    t.ok(loss > 0, `loss ${loss}`)
    t.ok(events.includes('step') && events.includes('end'))
    t.same(seen, { ids: 4, refused: 'E_IO', liveBytes: 0, symbols: ['symbol', 'symbol'] })
  })
