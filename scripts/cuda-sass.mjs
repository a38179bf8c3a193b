// What the kernels of a cubin spend instructions on, from its machine code: a stand-in for a profile where there is no GPU.
// For each kernel with tensor-core work the loop that has most of it: its instructions, those of the tensor cores, and how
// many cycles these take at their full rate. A scheduler issues one instruction a cycle, so `issue` (instructions per cycle
// of tensor work) must stay below 1 for the tensor cores to be what limits; instructions of every branch count, those of
// masked edges too, so it is an upper bound. Latencies and memory are not in it. Needs nvdisasm on PATH.
//
//   node scripts/cuda-sass.mjs build/cuda/sm_90a.cubin [NAME ...]

import { run } from './common.mjs'

/** Cycles of a multiprocessor's quarter at the dense rate: 256 multiply-adds each on sm_80, 512 by wgmma on sm_90. */
function tensorCycles(name) {
  if (name.startsWith('HMMA.16816')) return (16 * 8 * 16) / 256
  const shape = /^HGMMA\.(\d+)x(\d+)x(\d+)/.exec(name)
  return shape === null ? 0 : (Number(shape[1]) * Number(shape[2]) * Number(shape[3])) / 4 / 512
}

/** Kernels as lists of instructions and of loops, [first, last] by index. */
function kernelsOf(text) {
  const kernels = []
  let kernel
  for (const line of text.split('\n')) {
    const start = /^\.text\.(\w+):/.exec(line)?.[1]
    if (start !== undefined) {
      kernel = { name: start, instructions: [], labels: new Map(), loops: [] }
      kernels.push(kernel)
    }
    if (kernel === undefined) continue
    const label = /^(\.L_x_\d+):/.exec(line)?.[1]
    if (label !== undefined) kernel.labels.set(label, kernel.instructions.length)
    const name = /^\s+\/\*[0-9a-f]+\*\/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)/.exec(line)?.[1]
    if (name === undefined) continue
    const target = name.startsWith('BRA') ? /`\((\.L_x_\d+)\)/.exec(line)?.[1] : undefined
    const first = target === undefined ? undefined : kernel.labels.get(target)
    if (first !== undefined) kernel.loops.push([first, kernel.instructions.length])
    if (name !== 'NOP') kernel.instructions.push(name)
  }
  return kernels
}

const count = (names, ...families) => names.filter((name) => families.includes(name.split('.')[0])).length

/** The loop densest in tensor work among those with at least a quarter of the most: the inner one, not what is around it. */
function mainLoop({ name, instructions, loops }) {
  const rows = loops.map(([first, last]) => {
    const body = instructions.slice(first, last + 1)
    return { name, body, cycles: body.reduce((sum, each) => sum + tensorCycles(each), 0) }
  })
  const most = Math.max(...rows.map(({ cycles }) => cycles))
  return rows
    .filter(({ cycles }) => 4 * cycles >= most)
    .sort((a, b) => a.body.length / a.cycles - b.body.length / b.cycles)[0]
}

const columns = [
  ['kernel', ({ name }) => name],
  ['loop', ({ body }) => body.length],
  ['tensor', ({ body }) => count(body, 'HMMA', 'HGMMA')],
  ['cycles', ({ cycles }) => cycles],
  ['issue', ({ body, cycles }) => (body.length / cycles).toFixed(2)],
  ['ldmatrix', ({ body }) => count(body, 'LDSM')],
  ['lds+sts', ({ body }) => count(body, 'LDS', 'STS')],
  ['copies', ({ body }) => count(body, 'LDGSTS', 'UTMALDG')],
  ['exp', ({ body }) => body.filter((name) => name.startsWith('MUFU.EX2')).length],
  ['local', ({ body }) => count(body, 'LDL', 'STL')],
]

async function main([file, ...wanted]) {
  if (file === undefined) {
    console.error('usage: node scripts/cuda-sass.mjs FILE.cubin [NAME ...]')
    return 2
  }
  const { code, stdout, output } = await run('nvdisasm', [file])
  if (code !== 0) {
    console.error(output)
    return 1
  }
  const rows = kernelsOf(stdout)
    .filter(({ name }) => wanted.length === 0 || wanted.includes(name))
    .flatMap((kernel) => mainLoop(kernel) ?? [])
    .filter(({ cycles }) => cycles > 0)
  for (const row of [Object.fromEntries(columns.map(([title]) => [title, title])), ...rows])
    console.log(columns.map(([title, of], i) => String(row[title] ?? of(row)).padEnd(i === 0 ? 36 : 9)).join(''))
  return 0
}

process.exitCode = await main(process.argv.slice(2))
