// Files in and out: names, atomic writes, strict JSON, safetensors. The tables of bad input are in hostile/.

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, renameSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { compareUint8Arrays } from 'typed-array-utils'
import { type ErrorCode, WhetstoneError } from '../ts/src/base/errors.js'
import {
  bf16FromF32,
  bf16FromFloat,
  f32FromBf16,
  f32FromF16,
  floatFromBf16,
  floatFromF16,
  toDeviceType,
} from '../ts/src/io/dtype.js'
import {
  attempt,
  ensureDirectory,
  exists,
  faults,
  fileSize,
  hashFile,
  insideFolder,
  readBytes,
  syncDirectory,
  writeAtomic,
  writeSynced,
} from '../ts/src/io/files.js'
import { decodeUtf8, loneSurrogate, parseJson, readJson, readJsonLines, readJsonObject } from '../ts/src/io/json.js'
import { openSafetensors, openWeights, safetensorsChunks, writeSafetensors } from '../ts/src/io/safetensors.js'
import { hostileJson, hostileLines } from './hostile/json.js'
import { fileOf, hostileFiles } from './hostile/safetensors.js'

const root = t.testdir({})
let folders = 0
/** A fresh folder with files. */
const folder = (files: Readonly<Record<string, string | Uint8Array>> = {}): string => {
  const path = join(root, `f${folders++}`)
  mkdirSync(path)
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content)
  return path
}

/** The error of a call that must fail. */
async function failure(work: () => unknown): Promise<WhetstoneError> {
  try {
    await work()
  } catch (error) {
    if (WhetstoneError.isInstance(error)) return error
    throw error
  }
  throw new Error('expected an error, got none')
}

const fails = async (t: Test, code: ErrorCode, work: () => unknown, text = ''): Promise<void> => {
  const error = await failure(work)
  t.equal(error.code, code, `${code}: ${error.message}`)
  t.ok(error.message.includes(text), `says '${text}'`)
}

const bytesOf = (...values: number[]): Uint8Array => Uint8Array.from(values)
const floats = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer)

t.test('files', async (t) => {
  t.test('a missing file is named with the operation', async (t) => {
    const path = join(folder(), 'nothing')
    const error = await failure(() => readBytes(path))
    t.equal(error.code, 'E_IO')
    t.match(error.message, `[${path}] cannot open: the file or folder does not exist (ENOENT)`)
    t.match(error.details, { operation: 'open', path, code: 'ENOENT' })
    t.notOk(await exists(path))
    t.notOk(await exists(join(path, 'below')))
  })
  t.test('only regular files are read, and a pipe does not block', async (t) => {
    const path = folder()
    execFileSync('mkfifo', [join(path, 'pipe')])
    for (const odd of [path, join(path, 'pipe'), '/dev/null'])
      for (const read of [readBytes, fileSize, hashFile, openSafetensors]) await fails(t, 'E_PATH', () => read(odd))
  })
  t.test('limits', async (t) => {
    const path = join(folder({ a: 'hello' }), 'a')
    t.equal((await readBytes(path, 5)).byteLength, 5)
    await fails(t, 'E_LIMIT', () => readBytes(path, 4))
  })
  t.test('hashes', async (t) => {
    const data = new Uint8Array(9_000_001).map((_, i) => i % 251)
    const path = join(folder({ big: data }), 'big')
    t.equal(await hashFile(path), createHash('sha256').update(data).digest('hex'))
  })
  t.test('names that stay in their folder', async (t) => {
    const path = folder({ 'model-00001.safetensors': 'x', 'a..b': 'x' })
    for (const name of ['model-00001.safetensors', 'a..b']) t.equal(await insideFolder(path, name), join(path, name))
  })
})

t.test('names that leave their folder or are no plain files', async (t) => {
  const path = folder({ inside: 'x' })
  const outside = folder({ secret: 'x' })
  mkdirSync(join(path, 'below'))
  symlinkSync(join(outside, 'secret'), join(path, 'link'))
  symlinkSync(outside, join(path, 'linked'))
  symlinkSync(join(path, 'inside'), join(path, 'alias'))
  execFileSync('mkfifo', [join(path, 'pipe')])
  const names = [
    '..',
    '.',
    '',
    '../secret',
    '/etc/passwd',
    'a/../../b',
    '..\\secret',
    'C:\\x',
    'C:x',
    '%2e%2e%2fsecret',
  ]
  const more = [
    '.hidden',
    'x\0y',
    'in\u0455ide',
    'a b',
    'x'.repeat(256),
    'inside/',
    'linked/secret',
    'link',
    'linked',
    'below',
    'pipe',
  ]
  for (const name of [...names, ...more]) await fails(t, 'E_PATH', () => insideFolder(path, name))
  await fails(t, 'E_PATH', () => insideFolder(path, 3 as unknown as string))
  await fails(t, 'E_IO', () => insideFolder(path, 'absent'))
  t.equal(await insideFolder(path, 'alias'), join(path, 'inside'), 'a link that stays inside')
  const hub = folder()
  for (const name of ['blobs', 'snapshots', 'snapshots/c0ffee']) mkdirSync(join(hub, name))
  writeFileSync(join(hub, 'blobs/b10b'), 'x')
  symlinkSync('../../blobs/b10b', join(hub, 'snapshots/c0ffee/model.bin'))
  t.equal(await insideFolder(join(hub, 'snapshots/c0ffee'), 'model.bin'), join(hub, 'blobs/b10b'), "the hub's cache")
})

t.test('folders that are made', async (t) => {
  const made = folder({ old: 'file' })
  for (const again of ['a/b', 'a/b', 'a/../c']) await ensureDirectory(join(made, again))
  t.same(readdirSync(made).sort(), ['a', 'c', 'old'])
  await fails(t, 'E_IO', () => ensureDirectory(join(made, 'old')), 'a file or a link has its name (EEXIST)')
  if (process.platform === 'linux') await fails(t, 'E_IO', () => ensureDirectory('/proc/new/below'), '(ENOENT)')
})
t.test('writes', async (t) => {
  async function* pieces() {
    yield 'é'
    yield bytesOf(1, 2)
  }
  const path = folder({ old: 'before' })
  const written = await writeSynced(join(path, 'new'), pieces())
  t.same(written, { bytes: 4, sha256: await hashFile(join(path, 'new')) })
  await fails(t, 'E_IO', () => writeSynced(join(path, 'new'), ['x']), 'it exists already')
  await writeAtomic(join(path, 'old'), 'after')
  t.equal(readFileSync(join(path, 'old'), 'utf8'), 'after')
  await syncDirectory(path)
  await fails(t, 'E_IO', () => syncDirectory(join(path, 'absent')))
  t.test('the disk fills, or an operation fails: the old file stands and nothing is left over', async (t) => {
    const seen: string[] = []
    faults.before = (operation) => void seen.push(operation)
    await writeAtomic(join(path, 'old'), ['a', 'b'])
    t.same(seen, ['create', 'write', 'write', 'sync', 'close', 'rename', 'sync the folder'])
    for (let broken = 0; broken < seen.length - 1; broken++) {
      let count = 0
      faults.before = () => {
        if (count++ === broken) throw Object.assign(new Error('full'), { code: 'ENOSPC' })
      }
      await fails(
        t,
        'E_IO',
        () => writeAtomic(join(path, 'old'), ['c', 'd']),
        `cannot ${seen[broken]}: the disk is full`,
      )
      t.equal(readFileSync(join(path, 'old'), 'utf8'), 'ab')
      t.same(readdirSync(path).sort(), ['new', 'old'])
    }
    faults.before = undefined
  })
  t.test('errors of a source pass through as they are', async (t) => {
    const source = function* () {
      yield 'x'
      throw new WhetstoneError('E_ABORTED', 'source', 'stopped')
    }
    await fails(t, 'E_ABORTED', () => writeAtomic(join(path, 'old'), source()))
    t.same(readdirSync(path).sort(), ['new', 'old'])
    await fails(t, 'E_IO', () => attempt('do', 'x', () => Promise.reject(new Error('odd'))), 'cannot do (odd)')
  })
})

t.test('JSON', async (t) => {
  for (const [name, text, expected] of hostileJson) {
    const parse = () => parseJson(typeof text === 'string' ? text : decodeUtf8(text, 'f.json'), 'f.json')
    if ('value' in expected) {
      t.same(parse(), expected.value, name)
      continue
    }
    const [code, line, column] = expected
    const error = await failure(parse)
    t.equal(error.code, code, `${name}: ${error.message}`)
    t.match(error.message, '[f.json] ')
    if (line !== undefined) t.match(error.details, { line, column }, name)
  }
  const own = parseJson('{"__proto__": {"x": 1}}', 'f') as Record<string, unknown>
  t.equal(own.x, undefined, 'a key __proto__ is a key')
  const path = folder({ 'a.json': '{"a": 1}', 'b.json': '[1]', 'c.json': '{"a": 1, "a": 2}' })
  t.same(await readJsonObject(join(path, 'a.json')), { a: 1 })
  await fails(t, 'E_FORMAT', () => readJsonObject(join(path, 'b.json')), 'expected a JSON object')
  await fails(t, 'E_LIMIT', () => readJson(join(path, 'a.json'), 7))
  await fails(t, 'E_FORMAT', () => readJson(join(path, 'c.json')), `[${join(path, 'c.json')}] expected JSON; column 10`)
  t.same(['', 'a🙂b', '\ud83d', 'ab\ude42', '\ud83d\ud83d\ude42'].map(loneSurrogate), [-1, -1, 0, 2, 0])
})

t.test('JSON lines', async (t) => {
  for (const [name, text, lines, fault] of hostileLines) {
    const path = join(folder({ 'rows.jsonl': text }), 'rows.jsonl')
    const seen: number[] = []
    const read = async () => {
      for await (const { line, byteOffset } of readJsonLines(path)) {
        seen.push(line)
        const before = Buffer.from(text as string)
          .subarray(0, byteOffset)
          .toString()
        t.equal(before.split('\n').length, line, `${name}: byte offset`)
      }
    }
    if (fault === undefined) await read()
    else {
      const error = await failure(read)
      t.equal(error.code, fault[0], `${name}: ${error.message}`)
      t.match(error.message, `[${path}:${fault[1]}] `)
    }
    t.same(seen, lines, name)
  }
  t.test('lines across pieces of the file, and the line limit', async (t) => {
    const rows = Array.from({ length: 3000 }, (_, i) => JSON.stringify({ i, text: 'é'.repeat((i * 7919) % 4000) }))
    const path = join(folder({ 'rows.jsonl': rows.join('\n') }), 'rows.jsonl')
    let at = 0
    for await (const { value, line, byteOffset } of readJsonLines(path)) {
      if (JSON.stringify(value) !== rows[line - 1] || byteOffset !== at) t.fail(`row ${line}`)
      at += Buffer.byteLength(rows[line - 1]) + 1
    }
    t.equal(at, Buffer.byteLength(rows.join('\n')) + 1)
    const wide = join(folder({ 'rows.jsonl': `1\n"${'x'.repeat(17 * 2 ** 20)}"\n` }), 'rows.jsonl')
    const read = async (lineLimitBytes?: number) => {
      for await (const row of readJsonLines(wide, { lineLimitBytes })) t.ok(row.line <= 2)
    }
    await fails(t, 'E_LIMIT', () => read(), `${wide}:2] expected a line of at most 16777216 bytes`)
    await read(32 * 2 ** 20)
  })
})

t.test('hostile safetensors', async (t) => {
  for (const { name, bytes, expected } of hostileFiles) {
    const path = join(folder({ 'x.safetensors': bytes }), 'x.safetensors')
    if (expected === 'legal') {
      const file = await openSafetensors(path)
      for (const tensor of file.tensors.keys()) t.ok((await file.read(tensor)).byteLength < 10, name)
      await file.close()
      t.pass(name)
    } else {
      const error = await failure(() => openSafetensors(path))
      t.equal(error.code, expected, `${name}: ${error.message}`)
      t.match(error.message, `[${path}] `)
    }
  }
})

t.test('safetensors', async (t) => {
  const entries = [
    { name: 'b', dtype: 'BF16', shape: [3], data: bytesOf(1, 2, 3, 4, 5, 6) },
    { name: '10', dtype: 'F32', shape: [2, 1], data: floats(1.5, -2) },
    { name: 'empty', dtype: 'I64', shape: [0, 7], data: bytesOf() },
    { name: '__proto', dtype: 'BOOL', shape: [], data: bytesOf(1) },
    { name: '2', dtype: 'F64', shape: [1], data: new Uint8Array(Float64Array.of(Math.PI).buffer) },
  ]
  const path = join(folder(), 'x.safetensors')
  await writeSafetensors(path, entries, { format: 'pt' })
  const bytes = readFileSync(path)
  t.ok(compareUint8Arrays(bytes, Buffer.concat(safetensorsChunks(entries, { format: 'pt' }))), 'the same bytes again')
  t.equal(Number(bytes.readBigUint64LE()) % 8, 0, 'data begins at a multiple of 8')
  const file = await openSafetensors(path)
  t.same([...file.tensors.keys()].sort(), ['10', '2', '__proto', 'b', 'empty'])
  t.same([...file.metadata], [['format', 'pt']])
  for (const { name, dtype, shape, data } of entries) {
    const info = file.tensors.get(name)
    t.match(info, { dtype, shape })
    t.equal(
      (info?.begin ?? 1) %
        (data.byteLength /
          Math.max(
            1,
            shape.reduce((a, b) => a * b, 1),
          ) || 1),
      0,
      'aligned',
    )
    const read = await file.read(name)
    t.same(read, data)
    t.equal(read.byteOffset, 0, 'in a buffer of its own')
  }
  await fails(t, 'E_MISMATCH', () => file.read('absent'), "there is no tensor 'absent'")
  t.test('a file that is replaced or cut off while it is open', async (t) => {
    writeFileSync(`${path}.new`, fileOf('{}'))
    renameSync(`${path}.new`, path)
    t.same(await file.read('b'), entries[0].data, 'the open file is still the old one')
    await file.close()
    await writeSafetensors(path, entries)
    const cut = await openSafetensors(path)
    truncateSync(path, bytes.byteLength - 100)
    await fails(t, 'E_TORN', () => cut.read('2'), 'cut off or replaced')
    await cut.close()
  })
  t.test('entries that do not fit are refused before anything is written', async (t) => {
    const good = entries[1]
    await fails(t, 'E_MISMATCH', () => writeSafetensors(path, [good, good]), 'the name is taken')
    await fails(t, 'E_MISMATCH', () => writeSafetensors(path, [{ ...good, shape: [3] }]), 'needs 12 bytes, got 8')
    await fails(t, 'E_MISMATCH', () => writeSafetensors(path, [{ ...good, dtype: 'F8' }]), 'unknown dtype')
    await fails(t, 'E_MISMATCH', () => writeSafetensors(path, [{ ...good, name: '__metadata__' }]))
  })
})

t.test('folders of weights', async (t) => {
  const shard = (name: string, value: number) =>
    Buffer.concat(safetensorsChunks([{ name, dtype: 'F32', shape: [1], data: floats(value) }]))
  const index = (map: unknown) => JSON.stringify({ metadata: { total_size: 8 }, weight_map: map })
  const files = { 'a.safetensors': shard('x', 1), 'b.safetensors': shard('y', 2) }
  const open = (map: unknown, more: Readonly<Record<string, Uint8Array>> = {}) =>
    openWeights(folder({ ...files, ...more, 'model.safetensors.index.json': index(map) }))
  const joined = await open({ x: 'a.safetensors', y: 'b.safetensors' })
  t.same([...joined.tensors.keys()], ['x', 'y'])
  t.same(await joined.read('y'), floats(2))
  await fails(t, 'E_MISMATCH', () => joined.read('z'))
  await joined.close()
  const single = await openWeights(folder({ 'model.safetensors': shard('s', 3), 'model.safetensors.index.json': '{' }))
  t.same(await single.read('s'), floats(3), 'one file goes before an index')
  await single.close()
  const adapter = await openWeights(folder({ 'adapter_model.safetensors': shard('l', 4) }), 'adapter_model')
  t.same(await adapter.read('l'), floats(4))
  await adapter.close()
  await fails(t, 'E_IO', () => openWeights(folder()), 'model.safetensors')
  await fails(
    t,
    'E_MISMATCH',
    () => open({ x: 'a.safetensors', z: 'a.safetensors' }),
    "'z' is missing from its shard a",
  )
  await fails(t, 'E_MISMATCH', () => open({ x: 'b.safetensors' }), "holds 'y', which the index does not name")
  await fails(t, 'E_MISMATCH', () => open({ x: 'b.safetensors', y: 'a.safetensors' }), 'which the index places in')
  await fails(t, 'E_PATH', () => open({ x: '../a.safetensors' }))
  await fails(t, 'E_PATH', () => open({ x: 'a.safetensors', y: 'A.safetensors' }), 'case alone')
  await fails(t, 'E_IO', () => open({ x: 'c.safetensors' }), 'c.safetensors')
  await fails(t, 'E_TORN', () => open({ x: 'c.safetensors' }, { 'c.safetensors': bytesOf(1) }), 'c.safetensors')
  for (const map of [undefined, null, [], { x: 1 }]) await fails(t, 'E_FORMAT', () => open(map), 'expected weight_map')
})

t.test('element types', async (t) => {
  const halves = Uint16Array.from({ length: 65536 }, (_, i) => i)
  t.same(
    bf16FromF32(f32FromBf16(halves)).filter((half, i) => half !== i && !Number.isNaN(floatFromBf16(i))),
    [],
  )
  const ties = [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -20, 3.4e38, -0, Number.NaN, Number.NEGATIVE_INFINITY]
  t.same(ties.map(bf16FromFloat), [0x3f80, 0x3f82, 0x3f81, 0x7f80, 0x8000, 0x7fc0, 0xff80], 'ties go to even')
  t.same([...bf16FromF32(Float32Array.from(ties))], ties.map(bf16FromFloat))
  t.ok(Number.isNaN(floatFromBf16(bf16FromFloat(Number.NaN))), 'a NaN with low bits alone stays NaN')
  const known: [number, number][] = [
    [0x3c00, 1],
    [0xc000, -2],
    [0x7bff, 65504],
    [0x0001, 2 ** -24],
    [0x0400, 2 ** -14],
    [0x8000, -0],
    [0x7c00, Number.POSITIVE_INFINITY],
    [0x3555, 0.333251953125],
  ]
  for (const [half, value] of known) t.equal(floatFromF16(half), value)
  t.same(
    f32FromF16(Uint16Array.from(known, ([half]) => half)),
    Float32Array.from(known, ([, value]) => value),
  )
  t.ok(Number.isNaN(floatFromF16(0x7e00)))
  const two = Float32Array.of(1.5, -2)
  const stored: Readonly<Record<string, Uint8Array>> = {
    F32: floats(1.5, -2),
    F64: new Uint8Array(Float64Array.from(two).buffer),
    BF16: new Uint8Array(bf16FromF32(two).buffer),
    F16: new Uint8Array(Uint16Array.of(0x3e00, 0xc000).buffer),
  }
  for (const [type, bytes] of Object.entries(stored)) {
    t.same(toDeviceType(bytes, type, 'f32', 'w'), two, `${type} to f32`)
    t.same(toDeviceType(bytes, type, 'bf16', 'w'), bf16FromF32(two), `${type} to bf16`)
  }
  for (const type of ['I64', 'constructor', ''])
    await fails(t, 'E_DTYPE', () => toDeviceType(bytesOf(), type, 'f32', 'w'))
})
