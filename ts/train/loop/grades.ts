// Grades: judgements that end with a number, held against labels and against each other.

import { mean } from '../../src/base/stats.js'
import { type AnswerOf, consistencyOf } from './answers.js'
import { calibrationError } from './calibration.js'
import { byTask, type Trace, withScores } from './trace.js'

/** Adds the scores `grade`, of judgements that end by themselves and can be read, and `label`, where the row has one. */
export const graded =
  (read: AnswerOf, labelColumn: string) =>
  (traces: readonly Trace[]): Trace[] =>
    traces.map((trace) => {
      const { task, finishReason } = trace
      const [said, label] = [finishReason === 'stop' ? read(trace) : undefined, task.row?.[labelColumn]]
      const numbers = { grade: Number(said ?? Number.NaN), label: Number(label ?? Number.NaN) }
      return withScores(
        trace,
        Object.fromEntries(Object.entries(numbers).filter(([, value]) => Number.isFinite(value))),
      )
    })

/** The most frequent grade of a task, of equals the first; undefined where none can be read. */
export function majorityGrade(group: readonly Trace[]): number | undefined {
  const grades = group.map(({ scores }) => scores.grade)
  const { votes, majority } = consistencyOf(grades.map((grade) => (grade === undefined ? undefined : String(grade))))
  return majority === 0 ? undefined : grades[votes.indexOf(majority)]
}

/** How grades agree with labels, and with each other. */
export function judgementStatistics(traces: readonly Trace[]): Record<string, number> {
  const known = traces.filter(({ scores }) => scores.grade !== undefined && scores.label !== undefined)
  const groups = byTask(known).map((group) => {
    const { votes } = consistencyOf(group.map(({ scores }) => String(scores.grade)))
    return group.map(({ scores: { grade, label } }, i) => ({ share: votes[i], right: Number(grade === label) }))
  })
  const all = groups.flat()
  return {
    'grades/read': mean(traces.map(({ scores }) => Number(scores.grade !== undefined))),
    ...(known.length > 0 && {
      'grades/mae': mean(known.map(({ scores }) => Math.abs(scores.grade - scores.label))),
      'grades/right': mean(all.map(({ right }) => right)),
      'grades/calibration_error': calibrationError(
        all.map(({ share }) => share),
        all.map(({ right }) => right),
      ),
    }),
  }
}
