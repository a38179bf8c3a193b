// What the kernels of a cubin spend instructions on, from its machine code: a stand-in for a profile where there is no GPU.
// For each kernel with tensor-core work the loop that has most of it: its instructions, those on the shortest way through it
// that does all the tensor work (`path`: no masked edges, loops inside once), and the cycles that the tensor cores take at
// their full rate. A scheduler issues one instruction a cycle, so `issue`, path / cycles, must stay below 1 for the tensor
// cores to be what limits. Latencies and memory are not in it. Needs nvdisasm on PATH.
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
    const [, guard, name] = /^\s+\/\*[0-9a-f]+\*\/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)/.exec(line) ?? []
    if (name === undefined || name === 'NOP') continue
    const jump = /^(BRA|BREAK|EXIT)/.test(name) ? /`\((\.L_x_\d+)\)/.exec(line)?.[1] : undefined
    const first = jump === undefined ? undefined : kernel.labels.get(jump)
    if (first !== undefined && name.startsWith('BRA')) kernel.loops.push([first, kernel.instructions.length])
    const ends = guard === undefined && /^(BRA|EXIT)$/.test(name) && !/BRA\S* !?U?P/.test(line)
    kernel.instructions.push({ name, target: name.startsWith('BRA') ? jump : undefined, ends })
  }
  return kernels
}

const count = (names, ...families) => names.filter((name) => families.includes(name.split('.')[0])).length

/** The shortest of the ways through [first, last] that do most tensor work; jumps back are not taken. */
function shortestPath({ instructions, labels }, [first, last]) {
  const best = new Array(last + 1).fill(undefined)
  const reach = (at, way) => {
    if (at > last) return
    const old = best[at]
    if (old === undefined || way.cycles > old.cycles || (way.cycles === old.cycles && way.length < old.length))
      best[at] = way
  }
  reach(first, { cycles: 0, length: 0 })
  for (let at = first; at < last; at++) {
    if (best[at] === undefined) continue
    const { name, target, ends } = instructions[at]
    const way = { cycles: best[at].cycles + tensorCycles(name), length: best[at].length + 1 }
    if (!ends) reach(at + 1, way)
    if (target !== undefined && labels.get(target) > at) reach(labels.get(target), way)
  }
  return { cycles: best[last]?.cycles ?? Number.NaN, path: (best[last]?.length ?? Number.NaN) + 1 }
}

/** The loop densest in tensor work among those with at least a quarter of the most: the inner one, not what is around it. */
function mainLoop(kernel) {
  const rows = kernel.loops.map((loop) => {
    const body = kernel.instructions.slice(loop[0], loop[1] + 1).map(({ name }) => name)
    const work = body.reduce((sum, each) => sum + tensorCycles(each), 0)
    return { name: kernel.name, body, work, ...shortestPath(kernel, loop) }
  })
  const most = Math.max(...rows.map(({ work }) => work))
  return rows.filter(({ work }) => 4 * work >= most).sort((a, b) => a.path / a.cycles - b.path / b.cycles)[0]
}

const columns = [
  ['kernel', ({ name }) => name],
  ['loop', ({ body }) => body.length],
  ['tensor', ({ body }) => count(body, 'HMMA', 'HGMMA')],
  ['cycles', ({ cycles }) => cycles],
  ['path', ({ path }) => path],
  ['issue', ({ path, cycles }) => (path / cycles).toFixed(2)],
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
