// The symbols that `using` stands on. Node 20 defines them itself, outside of the language: contexts of `vm`, in which
// test runners load modules, lack them there. Whoever names them imports this file, which runs first. The fallback is the
// one of Babel and esbuild, so that objects of code that came before serve too. Imports nothing.

for (const name of ['dispose', 'asyncDispose'] as const)
  if (Symbol[name] === undefined) Object.defineProperty(Symbol, name, { value: Symbol.for(`Symbol.${name}`) })
