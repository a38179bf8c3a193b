// Loads a module and all that it imports inside a context of `vm`, as test runners do, and runs a program there. Prints
// what the program returns. Started by vm.test.ts with --experimental-vm-modules; arguments: entry file, model folder, run
// folder.

import { readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import vm from 'node:vm'

const [entry, folder, output] = process.argv.slice(2)

/** What a runner gives to a context: what Node adds to the language. */
const given = Object.getOwnPropertyNames(globalThis)
  .filter((name) => !vm.runInNewContext(`Object.getOwnPropertyNames(globalThis)`).includes(name))
  .filter((name) => !['global', 'globalThis', 'crypto', 'navigator'].includes(name))
const context = vm.createContext(
  Object.fromEntries(given.map((name) => [name, (globalThis as Record<string, unknown>)[name]])),
)
const inContext = (code: string): unknown => vm.runInContext(code, context)

const modules = new Map<string, Promise<vm.Module>>()

const isOwn = (specifier: string): boolean => /^(\.|\/|file:)/.test(specifier)

/** A module of Node or of another package, from outside of the context. */
async function foreign(specifier: string): Promise<vm.Module> {
  const outside = (await import(specifier)) as Record<string, unknown>
  const names = Object.keys(outside)
  return new vm.SyntheticModule(
    names,
    function () {
      for (const name of names) this.setExport(name, outside[name])
    },
    { context, identifier: specifier },
  )
}

function own(file: string): vm.Module {
  const url = pathToFileURL(file).href
  return new vm.SourceTextModule(readFileSync(file, 'utf8'), {
    context,
    identifier: url,
    initializeImportMeta: (meta) => Object.assign(meta, { url, dirname: dirname(file), filename: file }),
    importModuleDynamically: (async (specifier: string, from: vm.Module) => {
      const module = await moduleOf(specifier, from)
      if (module.status === 'unlinked') await module.link(moduleOf)
      if (module.status === 'linked') await module.evaluate()
      return module
    }) as never,
  })
}

function moduleOf(specifier: string, from?: vm.Module): Promise<vm.Module> {
  const name = isOwn(specifier)
    ? resolve(from === undefined ? '.' : dirname(fileURLToPath(from.identifier)), specifier)
    : specifier
  const found = modules.get(name) ?? (isOwn(specifier) ? Promise.resolve(own(name)) : foreign(name))
  modules.set(name, found)
  return found
}

const module = await moduleOf(resolve(entry))
const lacked = inContext('[Symbol.dispose, Symbol.asyncDispose].every((one) => one === undefined)')
await module.link(moduleOf)
await module.evaluate()
Object.assign(context, { whetstone: module.namespace, folder, output })
const result = await (inContext(`(async () => {
  const { getDevice, loadModel, sft, train, memory, WhetstoneError } = whetstone
  const model = await loadModel(folder)
  const [{ ids }] = await model.generate('Hello', { maxNewTokens: 4, temperature: 0, stopIds: [] })
  const run = train({ policy: model, objective: sft(), data: [{ text: 'Hello there' }], maxSteps: 1, output })
  const events = []
  for await (const event of run) events.push(event.type)
  const { metrics, checkpoint } = await run.result
  const refused = await loadModel('no-such-folder').catch((error) => error)
  model[Symbol.dispose]()
  const trained = await loadModel(checkpoint)
  trained.dispose()
  await getDevice().sync()
  return {
    ids: ids.length, events, loss: metrics.loss, refused: WhetstoneError.isInstance(refused) && refused.code,
    liveBytes: memory().liveBytes, symbols: [typeof Symbol.dispose, typeof Symbol.asyncDispose],
  }
})()`) as Promise<object>)
console.log(JSON.stringify({ lacked, ...result }))
