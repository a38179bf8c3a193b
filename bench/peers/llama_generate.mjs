// llama.cpp behind node-llama-cpp, which brings its own binaries: one sequence, sampled at temperature 1 over the whole
// vocabulary. Talks as serve.py does: one line of JSON each way. WHETSTONE_LLAMA_CPP names a folder whose node_modules
// has the package; else it is looked for from the present folder.

import { createRequire } from 'node:module'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`)

const find = createRequire(join(process.env.WHETSTONE_LLAMA_CPP ?? process.cwd(), 'package.json'))
let library
try {
  library = await import(pathToFileURL(find.resolve('node-llama-cpp')).href)
} catch {
  say({ missing: 'node-llama-cpp' })
  process.exit(0)
}
say({ version: `(node-llama-cpp ${await library.getModuleVersion()})` })

let model
let context
let run

async function prepare({ weights, threads, promptTokens, newTokens, prompts, numGenerations }) {
  await context?.dispose()
  await model?.dispose()
  run = undefined
  if (prompts * numGenerations !== 1) return { unsupported: true }
  const llama = await library.getLlama({ gpu: false, build: 'never', maxThreads: threads, logLevel: 'error' })
  model = await llama.loadModel({ modelPath: weights, gpuLayers: 0 })
  context = await model.createContext({ contextSize: promptTokens + newTokens + 8, threads, sequences: 1 })
  const sequence = context.getSequence()
  const prompt = Array.from({ length: promptTokens }, (_, i) => 3 + ((i * 7919) % 40000))
  run = async () => {
    await sequence.clearHistory()
    let left = newTokens
    for await (const _ of sequence.evaluate(prompt, { temperature: 1, topK: 0, topP: 1, yieldEogToken: true }))
      if (--left === 0) break
  }
  return {}
}

for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line)
  if (message.run === undefined) {
    say(await prepare(message))
    continue
  }
  const start = performance.now()
  for (let i = 0; i < message.run; i++) await run()
  say({ seconds: (performance.now() - start) / 1000 / message.run })
}
process.exit(0)
