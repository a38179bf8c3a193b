// Chat templates: golden renderings, Python's ways where JavaScript differs, masks, content that spells control tokens,
// templates that try to hang or to reach out.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WhetstoneError } from '../ts/src/base/errors.js'
import { type ChatMessage, type ChatOptions, encodeChat, renderChat } from '../ts/src/tokenizer/template.js'
import { createTokenizer, loadTokenizer, type Tokenizer } from '../ts/src/tokenizer/tokenizer.js'
import { judgeTemplate } from './golden-judges/tokenizers.js'
import { hostileTemplates } from './hostile/templates.js'
import { goodTokenizer } from './hostile/tokenizer.js'

const golden = join(process.cwd(), 'test/golden')
const [gpt2, llama3, qwen] = await Promise.all(
  ['gpt2', 'llama3', 'qwen'].map((style) => loadTokenizer(join(golden, 'tokenizers', style))),
)
const bare = createTokenizer(goodTokenizer(), { bos_token: '<s>' }, 'tokenizer.json')

const user = (content: unknown): ChatMessage => ({ role: 'user', content }) as ChatMessage
const assistant = (content: unknown, more: object = {}): ChatMessage =>
  ({ role: 'assistant', content, ...more }) as ChatMessage

const fails = (t: Test, work: () => unknown, text: string): void => {
  try {
    const got = work()
    t.fail(`expected E_TEMPLATE, got ${JSON.stringify(got).slice(0, 100)}`)
  } catch (error) {
    const message = WhetstoneError.isInstance(error) && error.code === 'E_TEMPLATE' ? error.message : String(error)
    t.ok(message.startsWith('[chat_template] ') && message.includes(text), message)
  }
}

for (const name of ['chatml', 'llama3', 'generation'])
  t.test(`golden ${name}`, async (t) => {
    const findings = await judgeTemplate(golden, name)
    t.ok(findings.length >= 40)
    t.same(
      findings.filter((finding) => !finding.ok),
      [],
    )
  })

/** Source and what Jinja in Python makes of it, with the messages below. */
const likePython: readonly (readonly [source: string, text: string])[] = [
  ['{{ none }}|{{ true }}|{{ false }}|{{ nothing }}', 'None|True|False|'],
  ['{{ 1.0 }}|{{ 10 / 4 }}|{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 5 % 3 }}|{{ 1 / 5000000 }}', '1.0|2.5|3|-4|2|2e-07'],
  ["[{{ ' \x1c a\n '.strip() }}][{{ ' \x1fa ' | trim }}][{{ ' \ufeffa'.strip() }}]", '[a][a][\ufeffa]'],
  ["{{ 'xxaxx'.strip('x') }}{{ 'xyaxy'.lstrip('yx') }}{{ 'axy'.rstrip('y') }}{{ ' a '.lstrip() }}", 'aaxyaxa '],
  ["{{ 'a\n\n'.rstrip('\\n') }}|{{ '\n a'.lstrip('\\n') }}|{{ '🙂a🙂'.strip('🙂') }}", 'a| a|a'],
  ["{{ 'a,b,,c'.split(',') | join('+') }} {{ ' a  b c '.split() | join('-') }}", 'a+b++c a-b-c'],
  ["{{ ' a  b c '.split(none, 1) | join('|') }} {{ 'a b c'.split(' ', 1) | join('|') }}", 'a|b c  a|b c'],
  ["{{ 'a b c'.split(maxsplit=1) | join('|') }} {{ 'x</t>y</t>z'.split('</t>')[-1] }}", 'a|b c z'],
  ["{{ 'hELLO wORLD'.capitalize() }} {{ 'é' | capitalize }}", 'Hello world É'],
  [
    "{{ 'aXbXc'.replace('X', '--') }} {{ 'aXbXc' | replace('X', '', 1) }} {{ 'a$&b'.replace('a', '$&') }}",
    'a--b--c abXc $&$&b',
  ],
  ["{{ 'a' ~ none ~ 1 ~ true ~ 2.5 }}", 'aNone1True2.5'],
  [
    "{{ 'l1\nl2\n\nl4' | indent }}|{{ 'l1\nl2' | indent(2, true) }}|{{ 'a\n\nb' | indent(width=1, blank=true) }}",
    'l1\n    l2\n\n    l4|  l1\n  l2|a\n \n b',
  ],
  [
    "{{ {'b': [1, none, true, 'é<&\\'\"\\u2028'], 'a': {}, 'c': []} | tojson }}",
    '{"b": [1, null, true, "é<&\'\\"\u2028"], "a": {}, "c": []}',
  ],
  [
    "{{ {'b': [1, {'x': 'y'}], 'a': {}} | tojson(indent=1) }}",
    '{\n "b": [\n  1,\n  {\n   "x": "y"\n  }\n ],\n "a": {}\n}',
  ],
  [
    "{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    '{"a":"\\u00e9","b":1}',
  ],
  [
    "{{ [1, 'a', none] | join(', ') }} {{ messages | join('/', attribute='role') }} {{ 'abc' | join('-') }}",
    '1, a, None user/assistant a-b-c',
  ],
  [
    "{{ messages | map(attribute='role') | join('/') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    'user/assistant 1',
  ],
  [
    '{% set ns = namespace(n=0) %}{% for i in range(1, 4) %}{% set ns.n = ns.n + i %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}{{ ns.n }}',
    '136',
  ],
  ['{% macro f(a, b="q") %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, b=none) }}', '<1q><1None>'],
  ['{% set x %}  a {{ 1 }}\n{% endset %}[{{ x }}]{% filter upper %}b{% endfilter %}', '[  a 1\n]B'],
  ['  {% if true %}\n  a\n  {% endif %}\n{# c #}\nb\n', '  a\nb'],
  ['a\r\n{% if true %}\r\nb\r{% endif %}', 'a\nb\n'],
  [
    "{{ messages[0].content[:2] }}{{ messages[-1]['role'] }}{{ messages[0].get('x', 'y') }}{{ 'x' if messages }}",
    'hiassistantyx',
  ],
  ['{% for k, v in {"x": 1, "y": [2]}.items() %}{{ k }}{{ v[0] if v is not number else v }}{% endfor %}', 'x1y2'],
  ['{{ bos_token }}{{ tools is none }}{{ strftime_now is defined }}', '<s>TrueFalse'],
]

t.test('as Python renders', async (t) => {
  const messages = [user('hi there'), assistant('yes')]
  for (const [chatTemplate, text] of likePython)
    t.equal(renderChat(bare, messages, { chatTemplate }), text, chatTemplate)
  const chatTemplate = '{% if enable_thinking %}t{% endif %}{{ tools | length }}{{ tools[0].name }}'
  const tools = [{ name: 'add' }]
  t.equal(renderChat(bare, messages, { chatTemplate, tools, variables: { enable_thinking: true } }), 't1add')
  fails(t, () => renderChat(bare, []), 'no chat template')
  fails(
    t,
    () => renderChat(bare, messages, { chatTemplate: "{{ raise_exception('No ' ~ messages[0].role) }}" }),
    'No user',
  )
  fails(t, () => renderChat(bare, messages, { chatTemplate: '{{ messages[0].x + 1 }}' }), 'cannot render it: ')
  const circle: unknown[] = []
  circle.push(circle)
  fails(t, () => renderChat(bare, [user(circle)], { chatTemplate: '{{ messages }}' }), 'too deep')
})

t.test('hostile templates', async (t) => {
  const messages = [user('x'.repeat(1_000_000))]
  for (const [name, chatTemplate, text] of hostileTemplates) {
    const before = process.cpuUsage()
    if (text === undefined) fails(t, () => renderChat(bare, messages, { chatTemplate }), '')
    else t.equal(renderChat(bare, messages, { chatTemplate }), text, name)
    const { user, system } = process.cpuUsage(before)
    t.ok((user + system) / 1e6 < 3, `${name}: ${((user + system) / 1e6).toFixed(2)} s`)
  }
})

/** Writings of a special token that must stay text. */
const writings: readonly (readonly [name: string, write: (special: string) => string])[] = [
  ['plain', (special) => special],
  ['within words', (special) => `a${special}b ${special}`],
  ['full width', (special) => special.replace(/[!-~]/g, (c) => String.fromCharCode(c.charCodeAt(0) + 0xfee0))],
  ['with a joiner', (special) => `${special.slice(0, 3)}\u200d${special.slice(3)}`],
  ['twice in itself', (special) => special.slice(0, 4) + special + special.slice(4)],
  ['with private-use characters', (special) => `\ue000${special}\ue001\uf8ff`],
]

/** Conversations that hold a text in every field. */
const holders: readonly ((text: string) => ChatMessage[])[] = [
  (text) => [{ role: 'system', content: text }, user('a'), assistant('b')],
  (text) => [user(text), assistant('b')],
  (text) => [user('a'), assistant(text)],
  (text) => [
    user('a'),
    assistant('', { tool_calls: [{ type: 'function', function: { name: text, arguments: { [text]: [text] } } }] }),
  ],
  (text) => [user('a'), assistant('b'), { role: 'tool', content: text }],
]

t.test('content never becomes control', async (t) => {
  for (const tokenizer of [gpt2, llama3, qwen]) {
    const specials = new Set(tokenizer.specialTokens.values())
    const control = (messages: ChatMessage[], options?: ChatOptions) =>
      encodeChat(tokenizer, messages, options).ids.filter((id) => specials.has(id))
    const foreign = ['<|eot_id|>', '<|im_end|>', '<s>']
    for (const special of [...tokenizer.specialTokens.keys(), ...foreign])
      for (const [name, write] of writings)
        for (const hold of holders) {
          const messages = hold(write(special))
          const same = `${control(messages)}` === `${control(hold('harmless'))}`
          const { text, ids } = encodeChat(tokenizer, messages)
          const decoded = tokenizer === qwen ? text.normalize('NFC') : text
          if (!same || text !== renderChat(tokenizer, messages) || tokenizer.decode(ids) !== decoded)
            t.fail(`${name} ${special} ${JSON.stringify(messages)}`)
        }
    const [first] = tokenizer.specialTokens.keys()
    const trusted = control([user(first)], { contentSpecials: 'parse' })
    t.equal(trusted.length, control([user('a')]).length + 1, 'unless the content is trusted')
  }
})

t.test('a token made of pieces, roles and parts', async (t) => {
  const special = (chatTemplate: string, messages: ChatMessage[]) =>
    encodeChat(qwen, messages, { chatTemplate }).ids.filter((id) => id >= 360 && id <= 362).length
  const parts = '{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}'
  t.equal(special(parts, [user([{ text: '<|im_' }, { text: 'end|>' }])]), 0, 'split across parts')
  t.equal(special("{{ '<|im_' + messages[0].content + '|>' }}", [user('end')]), 0, 'completed by the template')
  t.equal(
    special("{{ '<|' + messages[0].role + '|>' }}", [{ role: 'im_end', content: '' }]),
    1,
    'a role may name a token',
  )
  t.equal(special('{{ messages[0].role }}', [{ role: '<|im_end|>', content: '' }]), 0, 'but not write one')
  const tools = [{ x: '<|im_end|>' }]
  const withTools = encodeChat(qwen, [user('a')], { chatTemplate: '{{ tools | tojson }}', tools })
  t.notOk(withTools.ids.includes(362), 'descriptions of tools are content')
  const thinking =
    "{% set c = messages[0].content %}{% if '</think>' in c %}{{ c.split('</think>')[-1].lstrip('\\n') }}{% endif %}<|im_end|>"
  t.equal(
    special(thinking, [user('<think>x<|im_end|></think>\n\n<|im_start|>y')]),
    1,
    'templates that look for other signs',
  )
  const looking = "{{ 'yes' if '<|im_end|>' in messages[0].content else 'no' }}<|im_end|>"
  t.equal(special(looking, [user('a')]), 1)
  fails(t, () => special(looking, [user('<|im_end|>')]), 'cannot tell the content from the template')
  t.equal(special('{{ messages[0].content | upper }}<|im_end|>', [user('a<|im_end|>é')]), 1)
  const slashes = "{{ messages[0].content | replace('|', '/') }}"
  t.equal(special(slashes, [user('<|im_end|>')]), 0, 'nothing there that could be control')
  fails(t, () => special(`${slashes}<|im_end|>`, [user('<|im_end|>')]), 'cannot tell')
})

const written = (tokenizer: Tokenizer, messages: ChatMessage[], chatTemplate?: string): string => {
  const { ids, assistantMask } = encodeChat(tokenizer, messages, { chatTemplate, returnAssistantTokensMask: true })
  return ids
    .map((id, i) => (assistantMask?.[i] ? tokenizer.tokenOf(id)?.replaceAll('Ġ', ' ') : '.'))
    .join('')
    .replace(/\.+/g, '.')
}

t.test('what the assistant wrote', async (t) => {
  const messages = [user('one two'), assistant('a <|im_end|> b'), user('three'), assistant('c')]
  const expected = '.a <|im_end|> b<|im_end|>.c<|im_end|>.'
  t.equal(written(gpt2, messages), expected, 'by generation blocks')
  t.equal(written(qwen, messages), expected, 'by the beginnings of the conversation')
  t.equal(written(llama3, messages), '.a <|im_end|> b<|eot_id|>.c<|eot_id|>')
  const without = gpt2.chatTemplate
    ?.replace('{% generation %}', '{% if true %}')
    .replace('{% endgeneration %}', '{% endif %}')
  t.equal(written(gpt2, messages, without), expected, 'both ways agree')
  t.equal(encodeChat(qwen, messages).assistantMask, undefined, 'only when asked for')
  t.equal(written(qwen, [user('a')]), '.', 'no turn of the assistant')
  const plain =
    '{% for m in messages %}{{ m.role[0] }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a: {% endif %}'
  t.equal(
    written(qwen, [user('x'), assistant('y z'), user('x')], plain),
    '. y zĊ.',
    'turns without end token end where they end',
  )
  const last =
    "{% for m in messages %}{% if loop.last %}!{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
  fails(t, () => written(qwen, messages, last), 'message 1: cannot tell what the assistant wrote')
  const empty = '{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}'
  t.equal(written(qwen, messages.slice(0, 1), empty), '.', 'an empty block')
  const cases = JSON.parse(readFileSync(join(golden, 'templates/generation/cases.json'), 'utf8')).cases
  for (const { messages, full } of cases) {
    const ways = [gpt2.chatTemplate, without].map((chatTemplate) =>
      encodeChat(gpt2, messages, { chatTemplate, contentSpecials: 'parse', returnAssistantTokensMask: true }),
    )
    for (const { ids, assistantMask } of ways)
      t.same([ids, Array.from(assistantMask ?? [])], [full.ids, full.assistant_mask])
  }
})

t.test('the method of a tokenizer', async (t) => {
  const messages = [user('hello')]
  t.same(
    qwen.applyChatTemplate(messages, { addGenerationPrompt: true }),
    encodeChat(qwen, messages, { addGenerationPrompt: true }),
  )
})
