// The part of arguments-table.ts that is about the control of loops.

import * as api from '../ts/src/index.js'
import { type Entry, trace } from './support-arguments.js'

/** Public functions that choose settings, compare runs and make scores. */
export const controlTable: Readonly<Record<string, Entry>> = {
  shape: { call: api.shape, args: [() => 1, 'x'], fair: { 0: 'function', 1: 'undefined text' } },
  'shape()': { call: api.shape(() => 1), args: [[trace]], fair: { 0: 'list' } },
  hillClimb: {
    call: (...args) => Promise.resolve(api.hillClimb(...(args as unknown as Parameters<typeof api.hillClimb>))),
    args: [[{ setting: 1, value: 0 }], { start: 1, step: 1 }],
    fair: { 0: 'list' },
    options: { 1: { 'start!': 'number', 'step!': 'number' } },
  },
  bandit: {
    call: (...args) => Promise.resolve(api.bandit(...(args as unknown as Parameters<typeof api.bandit>))),
    args: [[{ setting: 1, value: 0 }], [1, 2]],
    fair: { 0: 'list' },
  },
  bayesian: {
    call: (...args) => Promise.resolve(api.bayesian(...(args as unknown as Parameters<typeof api.bayesian>))),
    args: [[], [[0.5]], {}],
    fair: { 0: 'list', 2: 'undefined object' },
    options: { 2: { lengthScale: 'number', noise: 'number' } },
  },
  protocol: {
    call: (options) => api.protocol(options as never),
    args: [{ run: async () => 1, settings: [1], tuning: ['a'], evaluation: ['b'], seeds: [1] }],
    options: {
      0: { 'run!': '', 'settings!': '', 'tuning!': '', 'evaluation!': '', 'seeds!': '' },
    },
  },
  taskMatrix: { call: (rows) => Promise.resolve(api.taskMatrix(rows as never)), args: [[[1]]] },
  evolve: {
    call: (...args) => Promise.resolve(api.evolve(...(args as unknown as Parameters<typeof api.evolve>))),
    args: [[{ settings: 1, scores: [1] }], { seed: 1, generation: 1, mutate: (x: unknown) => x }],
    options: { 1: { 'seed!': 'number', 'generation!': 'number', 'mutate!': 'function', percentiles: '' } },
  },
  acceptTask: {
    call: (...args) => Promise.resolve(api.acceptTask(...(args as unknown as Parameters<typeof api.acceptTask>))),
    args: [[1], [0], { solvedAt: 1, mostSolved: 1, margin: 0, leastBetter: 0, mostControl: 1 }],
    options: {
      2: {
        'solvedAt!': 'number',
        'mostSolved!': 'number',
        'margin!': 'number',
        'leastBetter!': 'number',
        'mostControl!': 'number',
      },
    },
  },
}
