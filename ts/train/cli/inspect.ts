// Commands that look and change nothing: `whetstone doctor`, `whetstone report`.

import { doctor, formatDoctor } from '../../src/native/doctor.js'
import { writeReport } from '../report/report.js'
import { type AddCommand, print } from './common.js'
import type { Options } from './flags.js'

/** Adds `doctor`: what this machine has. */
export const doctorCommand: AddCommand = (program) => {
  program
    .command('doctor')
    .description('what this machine has and what was chosen, with reasons')
    .option('--json', 'as JSON')
    .action((options: Options) => {
      const report = doctor()
      print(options.json === true ? JSON.stringify(report) : formatDoctor(report))
    })
}

/** Adds `report`: a run's report.html. */
export const reportCommand: AddCommand = (program) => {
  program
    .command('report <folder>')
    .description('write report.html of a run')
    .action(async (folder: string) => print(await writeReport(folder)))
}
