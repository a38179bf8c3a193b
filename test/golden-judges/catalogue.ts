// What lies in a golden folder and who judges it: one rule per kind of entry. Every file must belong to a rule; a path
// without one becomes an entry that fails, so that no reference is passed over in silence.

import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { messageOf, WhetstoneError } from '../../ts/src/base/errors.js'
import { judgeDpoTrace } from './dpo.js'
import type { Finding } from './finding.js'
import { judgeLosses } from './losses.js'
import { judgeModel } from './models.js'
import { judgeTraceRows } from './rows.js'
import { judgeTemplate, judgeTokenizer } from './tokenizers.js'
import { judgeFullTraining, judgeLoraTraining, judgeSftTrace } from './train.js'

/** Something to judge: all files of one rule with one name. */
export interface GoldenEntry {
  readonly name: string
  readonly judge: () => Promise<Finding[]>
}

interface Rule {
  /** Paths below the golden folder; the first group is the entry's own name. */
  readonly files: RegExp
  /** Name of the entry, and its judge; absent for files that accompany the references. */
  readonly entry?: (name: string) => string
  readonly judge?: (root: string, name: string) => Promise<Finding[]>
}

const rules: readonly Rule[] = [
  { files: /^(?:manifest|shapes|text|objectives)\.json$|^(?:make|losses)\.py$|^(?:[^/]+\/)?README\.md$/ },
  {
    files: /^tokenizers\/([^/]+)\/(?:tokenizer|tokenizer_config|special_tokens_map|cases)\.json$/,
    entry: (name) => `tokenizers/${name}`,
    judge: (root, name) => judgeTokenizer(join(root, 'tokenizers', name), `tokenizers/${name}`),
  },
  {
    files: /^templates\/([^/]+)\/(?:template\.jinja|cases\.json)$/,
    entry: (name) => `templates/${name}`,
    judge: judgeTemplate,
  },
  {
    files:
      /^models\/([^/]+)\/(?:(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map|reference)\.json|chat_template\.jinja|reference\.safetensors|model(?:-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json)$/,
    entry: (name) => `models/${name}`,
    judge: (root, name) => judgeModel(join(root, 'models', name), `models/${name}`),
  },
  {
    files: /^train\/([^/]+)\/(?:data|full)\.json$/,
    entry: (name) => `train/${name}/full`,
    judge: judgeFullTraining,
  },
  {
    files: /^train\/([^/]+)\/(?:lora\.json|lora_(?:start|end)\/adapter_(?:config\.json|model\.safetensors))$/,
    entry: (name) => `train/${name}/lora`,
    judge: judgeLoraTraining,
  },
  { files: /^traces\/(dpo)\.json$/, entry: () => 'traces/dpo.json', judge: judgeDpoTrace },
  {
    files: /^losses\/(pairs|unpaired|reward|vocab|policy|srpo|advantages)\.json$/,
    entry: (name) => `losses/${name}.json`,
    judge: judgeLosses,
  },
  { files: /^traces\/(sft)\.json$/, entry: () => 'traces/sft.json', judge: judgeSftTrace },
  {
    files: /^traces\/(sft|dpo)\.jsonl$/,
    entry: (name) => `traces/${name}.jsonl`,
    judge: judgeTraceRows,
  },
]

/** Every file below a folder, and every empty folder (with a slash), as paths relative to it. */
async function pathsBelow(root: string, prefix = ''): Promise<string[]> {
  const names = (await readdir(join(root, prefix))).sort()
  const nested = names.map(async (name) => {
    const path = prefix + name
    return (await stat(join(root, path))).isDirectory() ? pathsBelow(root, `${path}/`) : [path]
  })
  return names.length === 0 ? [prefix] : (await Promise.all(nested)).flat()
}

const unjudged = (name: string, reason = ''): Finding[] => [
  { entry: name, ok: false, detail: `no judge for ${name}${reason}` },
]

/** A judge that throws is a finding, not the end of the others. */
async function findingsOf(name: string, judge: () => Promise<Finding[]>): Promise<Finding[]> {
  try {
    return await judge()
  } catch (error) {
    const unknownFamily = WhetstoneError.isInstance(error) && error.where === 'config.json: model_type'
    if (unknownFamily) return unjudged(name, `: ${error.message}`)
    return [{ entry: name, ok: false, detail: `the judge threw: ${messageOf(error)}` }]
  }
}

/** All entries of a golden folder in order; what no rule knows is an entry that fails. */
export async function catalogue(root: string): Promise<GoldenEntry[]> {
  const entries = new Map<string, GoldenEntry>()
  for (const path of await pathsBelow(root)) {
    const rule = rules.find(({ files }) => files.test(path))
    const { entry, judge } = rule ?? {}
    if (rule !== undefined && (entry === undefined || judge === undefined)) continue
    const own = rule?.files.exec(path)?.[1] ?? path
    const name = entry?.(own) ?? path
    const work = judge === undefined ? async () => unjudged(name) : () => judge(root, own)
    if (!entries.has(name)) entries.set(name, { name, judge: () => findingsOf(name, work) })
  }
  return [...entries.values()]
}
