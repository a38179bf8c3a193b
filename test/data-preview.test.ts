// Previews: the tokens as the model sees them, what is trained, what is wrong, and text that cannot harm a terminal.

import t from 'tap'
import { dpo, grpo, kto, sft } from '../ts/loss/index.js'
import { preview } from '../ts/train/data/preview.js'
import { previewText } from '../ts/train/data/preview-text.js'
import { bos, bot, eos, llama, placed, refuses, user } from './support-data.js'

const colour = /\p{Cc}\[[\d;]*m/gu
const harmful = /[^\P{C}\n]|[\p{Zl}\p{Zp}]/u

const pairs = [
  { prompt: 'Say it:', chosen: ' yes', rejected: ' \u{1f600}', margin: 2 },
  { prompt: 'x'.repeat(90), chosen: ' yes', rejected: ' no' },
  { prompt: 'Do:', chosen: ` ${'y'.repeat(90)}`, rejected: ' no' },
]

t.test('what the model will see', async (t) => {
  const shown = preview(llama, dpo(), placed('preference', pairs), { maxLength: 40 }, 2)
  t.equal(shown.objective, 'dpo.v1')
  t.strictSame(
    shown.examples.map(({ where, found }) => [where, found]),
    [
      ['rows:1', []],
      ['rows:2', ['overlong']],
    ],
  )
  const [chosen, rejected] = shown.examples[0].sequences
  t.strictSame([chosen.role, rejected.role], ['chosen', 'rejected'])
  t.strictSame(chosen.scores, { margin: 2 })
  const text = (tokens: typeof chosen.tokens) => tokens.map((token) => token.text).join('')
  t.equal(text(chosen.tokens), `${llama.bosToken}Say it: yes${llama.eosToken}`)
  t.equal(text(rejected.tokens), `${llama.bosToken}Say it: \u{1f600}${llama.eosToken}`, 'characters of several tokens')
  t.equal(text(chosen.tokens.filter(({ trained }) => trained)), ` yes${llama.eosToken}`)
  t.equal(chosen.trainedTokens, chosen.tokens.filter(({ trained }) => trained).length)
  t.strictSame(
    chosen.tokens.filter(({ special }) => special).map(({ id }) => id),
    [bos, eos],
  )
  t.equal(shown.summary.examples, 2)
})

t.test('what is wrong is counted over all rows', async (t) => {
  const { errors, warnings } = preview(llama, dpo(), placed('preference', pairs), { maxLength: 40 }, 0)
  t.equal(errors.length, 1)
  t.match(errors[0], /^1 of 3 rows are too long .*\(rows:2\)$/)
  t.equal(warnings.length, 1)
  t.match(warnings[0], /^1 of 3 rows were cut .*\(rows:3\)$/)
  const talks = [{ messages: [user('a')] }, { messages: [user('a'), bot('b')] }]
  const { errors: none, examples } = preview(llama, sft(), placed('completion', talks))
  t.match(none.join(), /^1 of 2 rows train no token and are left out \(rows:1\)$/)
  t.strictSame(examples[0].found, ['untrained'], 'a row that a run would refuse is shown')
  const endless = { ...llama, eosId: undefined, eosToken: undefined }
  const { errors: ends } = preview(endless, sft(), placed('completion', [{ text: 'a b' }]))
  t.match(ends.join(), /^1 of 1 rows do not end with a special token/)
  refuses(t, () => preview(llama, grpo(), []), 'E_CONFIG', 'samples of the policy')
})

t.test('as text', async (t) => {
  const shown = preview(llama, dpo(), placed('preference', pairs.slice(0, 1)))
  const text = previewText(shown)
  t.equal(
    text,
    [
      `dpo.v1: 1 rows, 1 examples, 2 sequences, ${shown.summary.tokens} tokens, ${shown.summary.trainedTokens} trained`,
      'marks: ⟦trained⟧',
      '',
      'rows:1',
      `  chosen: ${shown.examples[0].sequences[0].tokens.length} tokens, ${shown.examples[0].sequences[0].trainedTokens} trained, margin 2`,
      '<|begin_of_text|>Say it:⟦ yes<|eot_id|>⟧',
      '',
      `  rejected: ${shown.examples[0].sequences[1].tokens.length} tokens, ${shown.examples[0].sequences[1].trainedTokens} trained, margin 2`,
      '<|begin_of_text|>Say it:⟦ \u{1f600}<|eot_id|>⟧',
      '',
    ].join('\n'),
  )
  const coloured = previewText(shown, { colours: true })
  t.ok(coloured.includes('\u001b[34m<|begin_of_text|>\u001b[0m'), 'special')
  t.ok(coloured.includes('\u001b[1;36m<|eot_id|>\u001b[0m'), 'special and trained')
  const plain = coloured.replaceAll(colour, '')
  const marks = /[⟦⟧]/g
  t.equal(
    plain.split('\n').slice(3).join('\n'),
    text.split('\n').slice(3).join('\n').replace(marks, ''),
    'the same text',
  )
})

t.test('data moves no cursor and forges no mark', async (t) => {
  const hostile = 'a\u001b[2J\r\u0007\u009b\u202e\u200b\u2028⟦b⟧\nc'
  const rows = [hostile, 'other'].map((prompt) => ({ prompt, completion: ` ${hostile}`, label: true }))
  const text = previewText(preview(llama, kto(), placed('unpaired', rows)))
  t.notOk(harmful.test(text), 'no control character is left')
  t.ok(text.includes('a\\u{1b}[2J\\u{d}\\u{7}\\u{9b}\\u{202e}\\u{200b}\\u{2028}\\u{27e6}b\\u{27e7}⏎\nc'), text)
  const named = placed('completion', [{ text: 'a' }]).map((row) => ({ ...row, where: 'x\u001b[2J:1' }))
  t.notOk(previewText(preview(llama, sft(), named)).includes('\u001b'), 'nor in names of files')
})
