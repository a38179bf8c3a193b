// `npm run test:gpu [-- --json FILE] [-- --device cpu]`: makes sure that the addon and dist/ fit the sources, then runs
// test/gpu/main.ts. Without a GPU that can be used it says why and ends with code 77.

import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { compileTypeScript, ensureAddon } from './build.mjs'
import { root } from './common.mjs'

const ready = (await ensureAddon()) && (await compileTypeScript())
const run = () =>
  spawnSync(process.execPath, [join(root, 'dist/test/gpu/main.js'), ...process.argv.slice(2)], {
    cwd: root,
    stdio: 'inherit',
  })
process.exitCode = ready ? (run().status ?? 1) : 1
