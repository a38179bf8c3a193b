// `node scripts/pack-gpu.mjs [OUT.tar.gz]`: packs what a checkout lacks on a machine that has a GPU and its driver, but no
// npm, no compiler and no network: Node itself, dist/, the addon, what both import, and tap as one file. There:
//
//   tar xzf OUT.tar.gz        # in the root of the checkout
//   build/node dist/test/gpu/main.js --json gpu-test.json
//   build/node dist/bench/gpu.js --json gpu-bench.json

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { compileTypeScript, ensureAddon } from './build.mjs'
import { findAddon, root, run, secondsSince } from './common.mjs'

/** What tap shows React elements with comes by `require`; our tests have none. */
const withoutReact = {
  name: 'without-react',
  setup: ({ onLoad }) =>
    onLoad({ filter: /tcompare.*react-element-to-jsx-string\.js$/ }, () => ({
      contents: 'export default () => ""',
    })),
}

/** tap with all that it needs, in the place of the package. */
async function packTap(folder) {
  const { build } = await import('esbuild')
  mkdirSync(folder, { recursive: true })
  // Its parts look for files and modules beside themselves.
  const banner =
    'import { createRequire as requireFrom } from "node:module"; const require = requireFrom(import.meta.url);'
  await build({
    stdin: { contents: "export * from 'tap'; export { default } from 'tap'", resolveDir: root },
    bundle: true,
    platform: 'node',
    format: 'esm',
    banner: { js: banner },
    outfile: join(folder, 'index.js'),
    plugins: [withoutReact],
    logLevel: 'error',
  })
  writeFileSync(join(folder, 'package.json'), '{ "name": "tap", "type": "module", "exports": "./index.js" }\n')
}

/** Folder of an installed package, whose exports need not tell. */
const packageFolder = (name) => join(root, 'node_modules', name)

async function pack(out) {
  const start = performance.now()
  const folder = mkdtempSync(join(tmpdir(), 'whetstone-gpu-'))
  const put = (from, to) => cpSync(from, join(folder, to), { recursive: true, dereference: true })
  try {
    const addon = findAddon()
    put(process.execPath, 'build/node')
    put(addon, 'build/Release/whetstone.node')
    put(join(dirname(addon), 'sources.sha256'), 'build/Release/sources.sha256')
    put(join(root, 'dist'), 'dist')
    const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    for (const name of Object.keys(dependencies)) put(packageFolder(name), `node_modules/${name}`)
    await packTap(join(folder, 'node_modules/tap'))
    const { code, output } = await run('tar', ['--create', '--gzip', '--file', out, '--directory', folder, '.'])
    if (code !== 0) console.error(output)
    else console.log(`${out}: ${(statSync(out).size / 2 ** 20).toFixed(1)} MiB in ${secondsSince(start)}`)
    return code
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const ready = (await compileTypeScript()) && (await ensureAddon())
process.exitCode = ready ? await pack(resolve(process.argv[2] ?? join(root, 'build/gpu.tar.gz'))) : 1
