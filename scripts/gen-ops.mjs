// Makes ts/src/native/ops.gen.ts from native/ops.def. With --check it only compares, for the tests.
import { readFileSync, writeFileSync } from 'node:fs'

const source = new URL('../native/ops.def', import.meta.url)
const target = new URL('../ts/src/native/ops.gen.ts', import.meta.url)

const operand = (word, output) => {
  const [, mark, name, optional, type] = /^([&=~]?)(\w+)(\??):(\w+)$/.exec(word)
  return { name, type, role: output ? 'output' : mark === '' ? 'input' : 'inPlace', optional: optional === '?' }
}

const ops = [...readFileSync(source, 'utf8').matchAll(/^OP\((\w+), (\w+), "([^"]*)", "([^"]*)"\)/gm)].map(
  ([, family, name, signature, parameters], id) => {
    const [inputs, outputs = ''] = signature.split('>')
    const words = (text, output) =>
      text
        .trim()
        .split(/\s+/)
        .filter(Boolean)
        .map((word) => operand(word, output))
    return {
      id,
      name,
      family,
      signature,
      operands: [...words(inputs, false), ...words(outputs, true)],
      parameters: parameters.split(' ').filter(Boolean),
    }
  },
)

const text = `// Made by scripts/gen-ops.mjs from native/ops.def. Do not edit.

export const opTable = {
${ops.map((op) => `  ${op.name}: ${JSON.stringify(op)},`).join('\n')}
} as const

/** The name of an op of native/ops.def. */
export type OpName = keyof typeof opTable
`

if (process.argv.includes('--check')) {
  if (readFileSync(target, 'utf8') !== text) {
    console.error('ts/src/native/ops.gen.ts does not fit native/ops.def: run node scripts/gen-ops.mjs')
    process.exitCode = 1
  }
} else {
  writeFileSync(target, text)
}
