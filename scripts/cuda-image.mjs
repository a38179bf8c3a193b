// Compiles the CUDA kernels into one image: for each target all of native/cuda/*.cu as one translation unit, then a
// compressed fatbin. What ptxas reports is held against native/cuda/ptxas.json: a kernel may not spill, may not have its
// wgmma serialised, and may not use more registers than the table says; --update writes the table anew. The table belongs
// to one version of nvcc: with another one the same findings are only printed.
//
//   node scripts/cuda-image.mjs OUT.fatbin [--update] [--nvcc FILE]

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { inParallel, root, run, secondsSince } from './common.mjs'

/** PTX of the oldest target serves GPUs that come later. */
const targets = [
  { name: 'sm_80', arch: 'compute_80', image: 'kind=elf,sm=80' },
  { name: 'sm_90a', arch: 'compute_90a', image: 'kind=elf,sm=90a' },
]
const tableFile = join(root, 'native/cuda/ptxas.json')
const flags = ['-std=c++20', '-O3', '--fmad=false', '--diag-suppress=177']

/** Kernels with their registers and spilled bytes, from what ptxas prints. */
function reportOf(text) {
  const kernels = {}
  let name
  for (const line of text.split('\n')) {
    name = /Compiling entry function '([^']+)'/.exec(line)?.[1] ?? name
    const spill = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line)
    const used = /Used (\d+) registers/.exec(line)
    if (spill !== null) kernels[name] = { ...kernels[name], spilledBytes: Number(spill[1]) + Number(spill[2]) }
    if (used !== null) kernels[name] = { ...kernels[name], registers: Number(used[1]) }
  }
  return kernels
}

/** What is wrong with a target's report, as sentences. */
function faultsOf(target, text, allowed) {
  const faults = /wgmma.*serializ/i.test(text) ? [`${target}: ptxas serialises wgmma instructions`] : []
  for (const [name, { registers, spilledBytes }] of Object.entries(reportOf(text))) {
    const most = allowed?.[name]
    if (spilledBytes > 0) faults.push(`${target}: ${name} spills ${spilledBytes} bytes`)
    if (most === undefined) faults.push(`${target}: ${name} is not in native/cuda/ptxas.json`)
    else if (registers > most) faults.push(`${target}: ${name} uses ${registers} registers, the table allows ${most}`)
  }
  return faults
}

/** A target's PTX, then its machine code. */
async function compile({ name, arch }, source, folder) {
  const ptx = join(folder, `${arch}.ptx`)
  const file = join(folder, `${name}.cubin`)
  const front = await run('nvcc', [...flags, `-arch=${arch}`, '-ptx', '-o', ptx, source])
  if (front.code !== 0) return { ...front, name }
  return { ...(await run('ptxas', ['-O3', '-v', `-arch=${name}`, '-o', file, ptx])), name, file }
}

function writeSource(folder) {
  mkdirSync(folder, { recursive: true })
  const { cuda } = JSON.parse(readFileSync(join(root, 'native/sources.json'), 'utf8'))
  const source = join(folder, 'kernels.cu')
  writeFileSync(source, cuda.map((file) => `#include "${join(root, file)}"\n`).join(''))
  return source
}

/** Version of nvcc as it prints it, V13.0.88. */
const compilerVersion = async () => /V\d+\.\d+\.\d+/.exec((await run('nvcc', ['--version'])).output)?.[0] ?? 'unknown'

/** What is wrong, and whether that fails the build. */
function check(compiled, update, nvcc) {
  if (update) {
    const targets = Object.fromEntries(
      compiled.map(({ name, output }) => [
        name,
        Object.fromEntries(Object.entries(reportOf(output)).map(([kernel, { registers }]) => [kernel, registers])),
      ]),
    )
    writeFileSync(tableFile, `${JSON.stringify({ nvcc, ...targets }, null, 2)}\n`)
  }
  const table = JSON.parse(readFileSync(tableFile, 'utf8'))
  const faults = compiled.flatMap(({ name, output }) => faultsOf(name, output, table[name]))
  return { faults, fatal: faults.length > 0 && table.nvcc === nvcc }
}

/** @returns the exit code */
async function build(out, update) {
  const start = performance.now()
  const folder = dirname(out)
  const source = writeSource(folder)
  const compiled = await inParallel(
    targets.map((target) => () => compile(target, source, folder)),
    2,
  )
  const failed = compiled.filter(({ code }) => code !== 0)
  for (const { name, output } of failed) console.error(`cuda: ${name} does not compile:\n${output}`)
  if (failed.length > 0) return 1
  const { faults, fatal } = check(compiled, update, await compilerVersion())
  for (const fault of faults) console.error(`cuda: ${fault}`)
  if (fatal) return 1
  const images = [
    ...targets.map(({ image }, i) => `--image3=${image},file=${compiled[i].file}`),
    `--image3=kind=ptx,sm=80,file=${join(folder, 'compute_80.ptx')}`,
  ]
  const { code, output } = await run('fatbinary', ['--64', `--create=${out}`, '--compress-mode=size', ...images])
  if (code !== 0) console.error(output)
  else console.log(`cuda: ${readFileSync(out).length} bytes of kernels in ${secondsSince(start)}`)
  return code
}

const options = { update: { type: 'boolean', default: false }, nvcc: { type: 'string' } }
const { values, positionals } = parseArgs({ options, allowPositionals: true })
if (positionals.length !== 1) {
  console.error('usage: node scripts/cuda-image.mjs OUT.fatbin [--update] [--nvcc FILE]')
  process.exitCode = 2
} else {
  // ptxas and fatbinary lie beside it.
  if (values.nvcc) process.env.PATH = [dirname(values.nvcc), process.env.PATH].join(delimiter)
  process.exitCode = await build(positionals[0], values.update)
}
