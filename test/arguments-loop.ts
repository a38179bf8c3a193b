// The part of arguments-table.ts that is about self-training: parts of the loop, the loop, recipes.

import * as api from '../ts/src/index.js'
import {
  context,
  type Entry,
  frozen,
  loop,
  policy,
  reward,
  rows,
  scorer,
  source,
  task,
  trace,
} from './support-arguments.js'

/** A recipe in one short round, with the members that it needs itself. */
const recipeOf = (
  run: (options: never) => { readonly result: Promise<unknown> },
  more: object = {},
  needed: readonly string[] = ['policy', 'prompts', 'rewardFuncs'],
): Entry => ({
  call: (options) => run(begunOnly(options) as never).result,
  args: [{ policy, prompts: [{ prompt: '2 + 2 =', completion: '4' }], rewardFuncs: [reward], ...short, ...more }],
  options: { 0: { ...Object.fromEntries(needed.map((name) => [`${name}!`, ''])), rounds: 'number' } },
})
/** Members that all recipes have: the same code looks at them, which is tried through one. */
const shared = {
  ...Object.fromEntries(
    ['topP', 'rewardWeights', 'reference', 'judge', 'env', 'evalData', 'signal', 'record'].map((name) => [name, '']),
  ),
  ...{ stopStrings: 'list', stopIds: 'list', maxRows: 'number', output: 'text', resume: 'true' },
  ...{ monitor: 'function', sources: 'list' },
}
/** Without settings, or without `rounds`, a recipe has its hundred rounds: that it begins has to do. */
const begunOnly = (options: { readonly sources?: unknown; readonly rounds?: unknown }): object => {
  const isLong =
    typeof options === 'object' && options && (Array.isArray(options.sources) || options.rounds === undefined)
  return isLong ? { ...options, signal: AbortSignal.timeout(200) } : options
}
const short = { rounds: 1, promptsPerRound: 1, numGenerations: 2, maxCompletionLength: 2, learningRate: 0 }

/** A score head behind an adapter with dropout. */
const unsure = { ...scorer, decoder: api.withAdapter(scorer.decoder, { r: 2, loraDropout: 0.5 }) }
/** Draws that are all even. */
const halves = async ({ completions }: api.PairInput, { passes }: api.JudgeDraws) =>
  completions.map(() => Array<number>(passes).fill(0.5))
const estimator = Object.assign(() => [], { sample: halves })
const points = [1, 2, 3, 4].map((size) => ({ size, accuracy: 1 - 1 / size }))
const rooms = api.createTask('grid', { seed: 1 })
const named = api.nameRewards([reward as never])
const judging = { maxNewTokens: 2, seed: 1, template: () => 'x', parse: () => 1 }
const judgingOptions = {
  ...{ 'maxNewTokens!': 'number', 'seed!': 'number', 'template!': 'function', 'parse!': 'function' },
  ...{ samples: 'number', reduction: '', as: 'text', temperature: 'number', stopStrings: 'list' },
}
const wrongTrace = { ...trace, sample: 1, scores: { reward: 0 } }
const group = { numGenerations: 1, maxNewTokens: 2 }

const scored = api.scoreRewards(named)

/** A method of answering. */
const methodOf = (
  call: (options: never) => unknown,
  own: object = {},
  options: Readonly<Record<string, string>> = {},
): Entry => ({
  call,
  args: [{ ...group, ...own }],
  options: {
    0: {
      'numGenerations!': 'number',
      'maxNewTokens!': 'number',
      temperature: 'number',
      stopIds: 'list',
      stopStrings: 'list',
      maxRows: 'number',
      ...options,
    },
  },
})

/** Public functions of the loop, and the functions that those give. */
export const loopTable: Readonly<Record<string, Entry>> = {
  iterate: {
    call: api.iterate,
    args: [loop],
    options: {
      0: {
        'policy!': '',
        'tasks!': '',
        'explore!': '',
        'score!': '',
        'select!': '',
        update: '',
        'rounds!': 'number',
        'seed!': 'number',
        'emit!': 'function',
        reference: '',
        limits: 'object',
        statistics: 'function',
        samples: 'number',
        roundsPerEpoch: 'number',
        output: 'text',
        resume: 'true',
        saveRounds: 'number',
        saveTotalLimit: 'number',
        monitor: 'function',
        fingerprint: 'object',
        signal: '',
      },
    },
  },
  'iterate.update': {
    call: (update: (typeof loop)['update']) => api.iterate({ ...loop, update }),
    args: [loop.update],
    fair: { 0: 'undefined' },
    options: {
      0: {
        'objective!': '',
        optimizer: 'object',
        'schedule!': '',
        'stepsPerRound!': 'number',
        'batchSize!': 'number',
        perDeviceTrainBatchSize: 'number',
        temperature: 'number',
        gradientCheckpointing: 'true',
        toExamples: '',
        numIterations: '',
      },
    },
  },
  answer: {
    call: api.answer,
    args: [{ policy, prompts: [{ prompt: '2 + 2 =' }], method: api.answering.vote(group), seed: 1 }],
    options: { 0: { 'policy!': '', 'prompts!': '', tasks: 'number', 'method!': '', 'seed!': 'number', signal: '' } },
  },
  'answering.vote': methodOf(api.answering.vote),
  'answering.bestOf': methodOf(api.answering.bestOf, { score: scored }, { 'score!': 'function' }),
  'answering.idSampling': methodOf(
    api.answering.idSampling,
    { firstBudget: 1 },
    { 'firstBudget!': 'number', growth: 'number', trigger: 'text', atEnd: '', answerFrom: '', score: 'function' },
  ),
  'answering.magicore': methodOf(
    api.answering.magicore,
    { score: scored },
    { 'score!': 'function', stepScores: 'function', rounds: 'number', route: '', review: 'function', refine: 'text' },
  ),
  'answering.tick': methodOf(
    api.answering.tick,
    { checklist: [{ question: 'Is it?', check: reward }] },
    { 'checklist!': '', judge: '', refinements: 'number', yesAt: 'number', feedback: 'function' },
  ),
  'answering.hypothesis': methodOf(
    api.answering.hypothesis,
    { score: scored, feedback: () => '' },
    { 'score!': 'function', 'feedback!': 'function', rounds: 'number' },
  ),
  ...Object.fromEntries(
    (['bestOfN', 'onlineDpo', 'onlineSimpo', 'onlineXpo', 'onlineNashMd', 'scl', 'score'] as const).map((name) => [
      `recipes.${name}`,
      recipeOf(api.recipes[name]),
    ]),
  ),
  'recipes.grpo': {
    ...recipeOf(api.recipes.grpo),
    options: { 0: { ...recipeOf(api.recipes.grpo).options?.[0], ...shared } },
  },
  'recipes.upo': recipeOf(api.recipes.upo, { judge: estimator }, ['policy', 'prompts', 'rewardFuncs', 'judge']),
  uncertainty: { call: api.uncertainty, args: [[0.5]] },
  drawScores: {
    call: api.drawScores,
    args: [unsure, [[1, 2]], { passes: 2, seed: 1 }],
    fair: { 1: 'list' },
    options: { 2: { 'passes!': 'number', 'seed!': 'number' } },
  },
  'recipes.onlineGkd': recipeOf(api.recipes.onlineGkd, { reference: frozen.decoder }, [
    'policy',
    'prompts',
    'reference',
  ]),
  'recipes.bstar': recipeOf(api.recipes.bstar, { temperatures: [1], thresholds: [-1], rightAt: -1 }),
  'recipes.still': recipeOf(api.recipes.still, { right: -1, skipSolved: false, maskTruncatedCompletions: false }),
  'recipes.mctsDpo': recipeOf(api.recipes.mctsDpo, { simulations: 1 }),
  'recipes.restMcts': recipeOf(api.recipes.restMcts, { simulations: 1, right: -1, maskTruncatedCompletions: false }),
  'recipes.alphaLlm': recipeOf(api.recipes.alphaLlm, {
    simulations: 1,
    threshold: -1,
    maskTruncatedCompletions: false,
  }),
  'recipes.agentR': recipeOf(
    api.recipes.agentR,
    { prompts: rooms, rewardFuncs: undefined, maxEpisodeSteps: 2, simulations: 1, alphas: [0] },
    ['policy', 'prompts'],
  ),
  'recipes.qwenMath': recipeOf(api.recipes.qwenMath, { right: -1, mostRight: 1 }),
  'recipes.sharpening': recipeOf(api.recipes.sharpening, { maskTruncatedCompletions: false }, ['policy', 'prompts']),
  'recipes.rise': recipeOf(api.recipes.rise, { branches: 2 }),
  'recipes.cct': recipeOf(api.recipes.cct, { right: -1 }),
  'recipes.critiqueInLoop': recipeOf(api.recipes.critiqueInLoop, { right: -1 }),
  'recipes.smart': recipeOf(api.recipes.smart, { right: -1, strategies: ['a', 'b'] }),
  'recipes.autoCei': recipeOf(api.recipes.autoCei, { right: -1 }),
  'recipes.ilf': recipeOf(api.recipes.ilf, { questions: ['='], yes: 'a', no: 'b', refineRequest: '=' }),
  'recipes.pit': recipeOf(api.recipes.pit, { prompts: [{ prompt: '2 + 2 =', rejected: '5', chosen: '4' }] }),
  'recipes.selfRationalization': recipeOf(
    api.recipes.selfRationalization,
    { prompts: [{ prompt: '2 + 2 =', label: 4 }] },
    ['policy', 'prompts'],
  ),
  'recipes.ledex': recipeOf(api.recipes.ledex, { explanations: 2 }),
  'recipes.superhf': {
    call: (...args) => {
      const [from, options, rest] = args as unknown as Parameters<typeof api.recipes.superhf>
      return api.recipes.superhf(from, options, typeof rest === 'object' && rest ? { ...loop, ...rest } : rest)
    },
    args: [
      source,
      { ...group, temperature: 1, topP: 1, perTask: 1, kappa: 0 },
      { signal: AbortSignal.abort(), reference: frozen.decoder },
    ],
    fair: { 2: '' },
    options: { 1: { 'numGenerations!': 'number', 'temperature!': 'number', 'kappa!': 'number' } },
  },
  sampleEpisodes: {
    call: api.sampleEpisodes,
    args: [{ env: rooms.env?.(), sampling: group, maxSteps: 1 }],
    options: { 0: { 'env!': '', 'sampling!': '', 'maxSteps!': 'number', beginning: 'function' } },
  },
  sampleGroup: {
    call: api.sampleGroup,
    args: [group],
    options: {
      0: {
        'numGenerations!': 'number',
        'maxNewTokens!': 'number',
        temperature: 'number',
        stopIds: 'list',
        stopStrings: 'list',
        maxRows: 'number',
        logps: '',
        mixtureCoef: 'number',
      },
    },
  },
  byTask: { call: api.byTask, args: [[trace]], fair: { 0: 'list' } },
  completionOf: { call: api.completionOf, args: [trace] },
  credit: {
    call: api.credit,
    args: [api.advantages.grpo, 'reward', 'advantage'],
    fair: { 0: 'function', 1: 'undefined text', 2: 'undefined text' },
  },
  'credit()': {
    call: api.credit(api.advantages.grpo),
    args: [[trace, { ...trace, sample: 1 }]],
    fair: { 0: 'list' },
  },
  policyExamples: {
    call: (traces) => api.policyExamples(traces, 1),
    args: [[{ ...trace, scores: { advantage: 1 } }]],
    fair: { 0: 'list' },
  },
  pairExamples: { call: api.pairExamples, args: ['reward'], fair: { 0: 'undefined text' } },
  'pairExamples()': {
    call: (traces) => api.pairExamples()(traces, 1),
    args: [[trace, { ...trace, sample: 1 }]],
    fair: { 0: 'list' },
  },
  nameRewards: { call: api.nameRewards, args: [[reward], [1]], fair: { 1: 'undefined' } },
  scoreRewards: { call: api.scoreRewards, args: [named], fair: { 0: 'list' } },
  'scoreRewards()': { call: api.scoreRewards(named), args: [[trace]], fair: { 0: 'list' } },
  evaluateLoss: {
    call: api.evaluateLoss,
    args: [{ policy, objective: api.sft(), data: rows }],
    options: {
      0: {
        'policy!': '',
        'objective!': '',
        'data!': '',
        limit: 'number',
        reference: '',
        temperature: 'number',
        perDeviceEvalBatchSize: 'number',
        sharePrompts: 'true',
        maxLength: 'number',
      },
    },
  },
  rewardModel: {
    call: (...args) => Promise.resolve(api.rewardModel(...(args as unknown as Parameters<typeof api.rewardModel>))),
    args: [scorer, { name: 'x' }],
    fair: { 1: 'undefined object' },
    options: { 1: { name: 'text', specialTokens: '' } },
  },
  pairJudge: {
    call: (...args) => Promise.resolve(api.pairJudge(...(args as unknown as Parameters<typeof api.pairJudge>))),
    args: [scorer, { name: 'x' }],
    fair: { 1: 'undefined object' },
    options: { 1: { name: 'text', specialTokens: '', revisionText: '', revisionRequest: 'text' } },
  },
  gapRewardModel: {
    call: (...args) =>
      Promise.resolve(api.gapRewardModel(...(args as unknown as Parameters<typeof api.gapRewardModel>))),
    args: [scorer, { name: 'x' }],
    fair: { 1: 'undefined object' },
    options: { 1: { name: 'text', specialTokens: '', revisionText: '', revisionRequest: 'text' } },
  },
  meteor: { call: api.meteor, args: ['a b', 'b'], fair: { 0: 'text', 1: 'text' } },
  calibrationError: {
    call: api.calibrationError,
    args: [[0.5], [1], { bins: 2 }],
    fair: { 2: 'undefined object' },
    options: { 2: { bins: 'number', binning: '' } },
  },
  rankCorrelation: { call: api.rankCorrelation, args: [[1], [2]] },
  fitLearningCurve: { call: api.fitLearningCurve, args: [points] },
  stopRule: {
    call: api.stopRule,
    args: [points, { tolerance: 0.1 }],
    fair: { 0: 'list' },
    options: { 1: { 'tolerance!': 'number', slope: 'number', lookAhead: 'number', ceiling: 'number' } },
  },
  judgeByReward: { call: api.judgeByReward, args: [reward], fair: { 0: 'function' } },
  thinkFormatReward: {
    call: api.thinkFormatReward,
    args: [{ completions: ['a'] }],
    options: { 0: { 'completions!': 'list' } },
    open: [0],
  },
  repetitionPenaltyReward: {
    call: api.repetitionPenaltyReward,
    args: [{ ngramSize: 2 }],
    fair: { 0: 'undefined object' },
    options: { 0: { ngramSize: 'number', maxPenalty: '' } },
  },
  softOverlongReward: { call: api.softOverlongReward, args: [8, 2], fair: { 0: 'number', 1: 'number' } },
  cosineScaledReward: {
    call: api.cosineScaledReward,
    args: [reward, { maxLength: 4 }],
    fair: { 0: 'function' },
    options: {
      1: {
        'maxLength!': 'number',
        minValueCorrect: 'number',
        maxValueCorrect: 'number',
        minValueWrong: 'number',
        maxValueWrong: 'number',
      },
    },
  },
  'sampleGroup()': {
    call: api.sampleGroup(group),
    args: [context, [task]],
    fair: { 1: 'list' },
    options: { 0: { 'policy!': '', 'seed!': 'number', 'round!': 'number', signal: '' } },
    open: [0],
  },
  chain: { call: api.chain, args: [group, [{ maxNewTokens: 2, inject: () => 'x' }]], fair: { 1: 'list' } },
  'chain()': {
    call: api.chain(group, [{ maxNewTokens: 2, inject: () => 'x' }]),
    args: [context, [task]],
    fair: { 1: 'list' },
  },
  verdict: {
    call: api.verdict,
    args: [policy, { question: '?' }],
    options: { 1: { 'question!': 'text function', yes: 'text', no: 'text', as: 'text' } },
  },
  'verdict()': { call: api.verdict(policy as never, { question: '?' }), args: [[trace]], fair: { 0: 'list' } },
  judge: { call: api.judge, args: [policy, judging], options: { 1: judgingOptions } },
  'judge()': { call: api.judge(policy as never, judging), args: [[trace]], fair: { 0: 'list' } },
  judgeReward: {
    call: api.judgeReward,
    args: [policy, judging],
    options: { 1: { ...judgingOptions, unread: 'number' } },
  },
  balancedSet: { call: api.balancedSet, args: [[trace, wrongTrace], 2, 1], fair: { 2: 'number' } },
  criticise: { call: api.criticise, args: [[trace], []], fair: { 0: 'list', 1: 'list' } },
  criticStatistics: { call: api.criticStatistics, args: [[trace]], fair: { 0: 'list' } },
  scoreTurns: { call: api.scoreTurns, args: [loop.score], fair: { 0: 'function' } },
  'scoreTurns()': { call: api.scoreTurns(loop.score as never), args: [[trace]], fair: { 0: 'list' } },
  verify: { call: api.verify, args: [source.check], fair: { 0: 'function' } },
  'verify()': { call: api.verify(source.check), args: [[trace]], fair: { 0: 'list' } },
  pick: {
    call: api.pick,
    args: [{ by: 'reward' }],
    fair: { 0: 'undefined object' },
    options: { 0: { by: 'text', threshold: 'number', perTask: 'number', distinct: 'true' } },
  },
  'pick()': { call: api.pick(), args: [[trace]], fair: { 0: 'list' } },
}
