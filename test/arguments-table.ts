// Public functions with a call that works, and which values of other kinds are fair in each place.

import { rmSync } from 'node:fs'
import * as api from '../ts/src/index.js'
import { controlTable } from './arguments-control.js'
import { loopTable } from './arguments-loop.js'
import {
  adapted,
  decoder,
  type Entry,
  emit,
  finished,
  fresh,
  model,
  pairs,
  placed,
  policy,
  rows,
  saved,
  scorer,
  sequence,
  source,
  task,
  tokenizer,
} from './support-arguments.js'

/** A device is open: one with other options is refused. */
const deviceOptions = { device: '', threads: '', isa: '', memoryLimitBytes: '' }
const sampling = {
  maxNewTokens: 'number',
  temperature: 'number',
  topK: 'number',
  topP: '',
  minP: '',
  stopIds: 'list',
  stopStrings: 'list',
  maxRows: 'number',
}

/** Every public function, and the functions that those give. */
export const table: Readonly<Record<string, Entry>> = {
  ...loopTable,
  ...controlTable,
  loadModel: {
    call: async (...args) => (await api.loadModel(...(args as unknown as [string]))).dispose(),
    args: [model, { device: 'cpu' }],
    fair: { 1: 'undefined object' },
    options: {
      1: {
        ...deviceOptions,
        dtype: '',
        scoreLabels: 'number',
        seed: 'number',
        warn: 'function',
        adapter: '',
        lora: 'object',
      },
    },
  },
  'model.logProbs': { call: policy.logProbs, args: [[1, 2]] },
  'model.logits': { call: policy.logits, args: [[1, 2]] },
  'model.scores': { call: scorer.scores, args: [[[1, 2]], [[1]]], fair: { 1: 'undefined' } },
  'model.generate': {
    call: policy.generate,
    args: ['2', { maxNewTokens: 2 }],
    fair: { 0: 'text list', 1: 'undefined object' },
    options: {
      1: {
        ...sampling,
        numGenerations: 'number',
        seed: 'number',
        promptKeys: '',
        signal: '',
        onText: 'function',
        mixture: '',
      },
    },
  },
  loadTokenizer: { call: api.loadTokenizer, args: [model] },
  'tokenizer.encode': {
    call: tokenizer.encode,
    args: ['a', {}],
    fair: { 0: 'text', 1: 'undefined object' },
    options: { 1: { addSpecialTokens: 'true', specialTokens: '' } },
  },
  'tokenizer.encodeSpans': { call: tokenizer.encodeSpans, args: ['a', () => true], fair: { 0: 'text', 1: 'function' } },
  'tokenizer.decode': {
    call: tokenizer.decode,
    args: [[1], {}],
    fair: { 0: 'list', 1: 'undefined object' },
    options: { 1: { skipSpecialTokens: 'true' } },
  },
  'tokenizer.createDecoder': {
    call: tokenizer.createDecoder,
    args: [{}],
    fair: { 0: 'undefined object' },
    options: { 0: { skipSpecialTokens: 'true' } },
  },
  'tokenizer.applyChatTemplate': {
    call: tokenizer.applyChatTemplate,
    args: [[{ role: 'user', content: 'a' }], { addGenerationPrompt: true }],
    fair: { 0: 'list', 1: 'undefined object' },
    options: {
      1: {
        addGenerationPrompt: 'true',
        contentSpecials: '',
        returnAssistantTokensMask: 'true',
        tools: 'list',
        variables: 'object',
        chatTemplate: 'text',
      },
    },
  },
  getDevice: {
    call: api.getDevice,
    args: [{ device: 'cpu' }],
    fair: { 0: 'undefined object' },
    options: { 0: deviceOptions },
  },
  formatDoctor: { call: api.formatDoctor, args: [api.doctor()] },
  withAdapter: {
    call: (...args) => api.withAdapter(...(args as unknown as Parameters<typeof api.withAdapter>)),
    args: [decoder, { r: 2 }, 1],
    fair: { 1: 'undefined object', 2: 'undefined number' },
    options: {
      1: {
        r: 'number',
        loraAlpha: 'number',
        loraDropout: '',
        targetModules: '',
        useRslora: 'true',
        useDora: 'true',
        initLoraWeights: 'true',
        rankPattern: 'object',
        alphaPattern: 'object',
        modulesToSave: 'list',
      },
    },
  },
  withoutAdapter: { call: api.withoutAdapter, args: [adapted] },
  saveAdapter: { call: api.saveAdapter, args: [adapted, fresh(), model], fair: { 1: 'text', 2: 'text' } },
  readData: { call: api.readData, args: [rows, 'completion', 2], fair: { 2: 'undefined number' } },
  rowKindOf: { call: api.rowKindOf, args: [api.dpo()] },
  encodeFor: {
    call: api.encodeFor,
    args: [api.sft(), tokenizer, placed, { maxLength: 9 }],
    fair: { 2: 'list', 3: 'undefined object' },
    options: { 3: { maxLength: 'number', specialTokens: '' } },
  },
  encodeExamples: {
    call: api.encodeExamples,
    args: [tokenizer, placed, { rows: 'completion' }, { maxLength: 9 }, 'name'],
    fair: { 1: 'list', 3: 'undefined object', 4: 'undefined text' },
    options: { 2: { 'rows!': '' } },
    open: [2],
  },
  encodePrompts: {
    call: api.encodePrompts,
    args: [tokenizer, placed, { maxLength: 9 }],
    fair: { 1: 'list', 2: 'undefined object' },
    options: { 2: { maxLength: 'number', specialTokens: '' } },
  },
  preview: {
    call: api.preview,
    args: [tokenizer, api.sft(), placed, { maxLength: 9 }, 1],
    fair: { 2: 'list', 3: 'undefined object', 4: 'undefined number' },
    options: { 3: { maxLength: 'number', specialTokens: '' } },
  },
  previewText: {
    call: api.previewText,
    args: [api.preview(tokenizer, api.sft(), placed), { colours: true }],
    fair: { 1: 'undefined object' },
    options: { 1: { colours: 'true' } },
  },
  revisionPrompt: {
    call: api.revisionPrompt,
    args: ['a', 'b', { text: '{prompt} {answer}', request: '?' }],
    fair: { 0: 'text', 1: 'text', 2: 'undefined' },
    options: { 2: { 'text!': 'text', 'request!': 'text' } },
  },
  revise: {
    call: api.revise,
    args: [policy, '2', { revisions: 1, maxNewTokens: 2 }],
    fair: { 1: 'text' },
    options: { 2: { 'revisions!': 'number', template: '', seed: 'number' } },
  },
  estimateMemory: {
    call: api.estimateMemory,
    args: [{ model, objective: api.sft(), training: { maxLength: 16 } }],
    options: {
      0: {
        'model!': '',
        'objective!': '',
        'training!': 'object',
        dtype: '',
        reference: 'text',
        data: '',
        limit: 'number',
        lora: 'object',
        adapter: '',
      },
    },
  },
  train: {
    call: (options: api.TrainOptions) => api.train(options).result,
    args: [{ policy, objective: api.sft(), data: rows, maxSteps: 1 }],
    options: {
      0: {
        'policy!': '',
        'objective!': '',
        'data!': '',
        limit: 'number',
        evalData: '',
        reference: '',
        output: 'text',
        resume: 'true',
        signal: '',
        sources: 'list',
        record: '',
        learningRate: 'number',
        packing: 'true',
      },
    },
  },
  'train dpo': {
    call: (options: api.TrainOptions) => api.train(options).result,
    args: [{ policy, objective: api.dpo(), data: pairs, maxSteps: 1 }],
    options: { 0: { reference: '' } },
  },
  improve: {
    call: api.improve,
    args: [
      { values: { rounds: 1, layers: 1 }, origins: {} },
      { output: fresh(), resume: false, emit, signal: AbortSignal.abort() },
    ],
    options: {
      0: { 'values!': 'object', 'origins!': 'object' },
      // Without its signal the job would run to its end.
      1: { 'output!': 'text', 'resume!': 'true', 'emit!': 'function' },
    },
    open: [0],
  },
  merge: {
    call: async (options) => {
      // The folder is given back, so that each call finds it free.
      await api.merge(options)
      rmSync((options as { output: string }).output, { recursive: true })
    },
    args: [{ model: saved, output: fresh() }],
    options: { 0: { 'model!': '', 'output!': 'text', adapter: '', dtype: '', ...deviceOptions } },
  },
  writeReport: { call: api.writeReport, args: [finished] },
  createTask: {
    call: api.createTask,
    args: ['countdown', { seed: 1 }],
    options: { 1: { 'seed!': 'number', difficulty: '', operations: '' } },
  },
  'tasks.arithmetic': {
    call: api.tasks.arithmetic,
    args: [{ seed: 1 }],
    options: { 0: { 'seed!': 'number', difficulty: 'number', scratch: 'true' } },
  },
  'source.train': { call: source.train, args: [1], fair: { 0: 'number' } },
  'source.check': { call: source.check, args: [task, 'x'], fair: { 1: 'text' } },
  countStep: { call: api.countStep, args: [[{ role: 'completion', example: 0, tokens: 1 }]], fair: { 0: 'list' } },
  maskSequence: {
    call: api.maskSequence,
    args: [[0, 1], { logps: [-1] }, { role: 'completion', example: 0 }],
    options: { 1: { 'logps!': '', reference: '' }, 2: { 'role!': 'text', 'example!': 'number', scores: 'object' } },
  },
  gae: {
    call: api.gae,
    args: [[1], [0], { gamma: 1 }],
    fair: { 2: 'undefined object' },
    options: { 2: { gamma: 'number', lambda: 'number' } },
  },
  ...Object.fromEntries(
    Object.entries(api.advantages).map(([name, call]) => [
      `advantages.${name}`,
      name === 'batchMean'
        ? { call, args: [[[1, 2]]], fair: { 0: 'list' } }
        : { call, args: [[[1, 2]], 1e-4], fair: { 0: 'list', 1: 'undefined number' } },
    ]),
  ),
  ...Object.fromEntries(
    Object.entries(api.objectives).map(([name, call]) => [
      name,
      name === 'drGrpo'
        ? { call, args: [{ maxCompletionLength: 8 }] }
        : { call, args: [{}], fair: { 0: 'undefined object' } },
    ]),
  ),
  'objective.evaluate': {
    call: api.sft().evaluate,
    args: [{ sequences: [sequence], step: { tokens: 1, examples: 1 } }],
    options: { 0: { 'sequences!': 'list', 'step!': '', history: 'object' } },
    open: [0],
  },
}
