// Small byte-pair tokenizers of every component that files may name, and what the tokenizers library (0.23.2) makes of
// texts with them. Kept apart from the golden data because these are about components, not about models.

/** Components of a file; the model's vocabulary and merges are the same for all (see `fileOf`). */
export interface Components {
  readonly normalizer?: object
  readonly preTokenizer?: object
  readonly decoder?: object
  readonly postProcessor?: object
  /** Flags of the model. */
  readonly model?: object
  /** The vocabulary ends with `<0x00>` to `<0xFF>`. */
  readonly byteTokens?: boolean
  readonly more?: readonly string[]
  /** Added tokens beside `<s>` and `</s>`. */
  readonly added?: readonly object[]
}

/** Ids, or `=` for the same as the ids before. */
type Ids = readonly number[] | '='

/** Text; ids with special tokens read; without; with the frame; decoded; decoded without special tokens. */
export type ComponentCase = readonly [
  text: string,
  ids: readonly number[],
  plain: Ids,
  framed: Ids,
  decoded: string,
  skipped: string,
]

const characters = [...'abcde\u00e9A1 -\u2581.']
const pieces = ['ab', '\u2581a', '\u2581ab', 'cd', '--', 'bc', '11', '\u0120']
const merges = ['a b', '\u2581 ab', '\u2581 a', 'c d', 'b c', '- -', '1 1']
const byteTokens = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }

/** The contents of a tokenizer.json. */
export function fileOf(parts: Components): Record<string, unknown> {
  const tokens = [
    '<unk>',
    '<s>',
    '</s>',
    ...characters,
    ...pieces,
    ...(parts.byteTokens ? byteTokens : (parts.more ?? [])),
  ]
  return {
    version: '1.0',
    added_tokens: [{ ...flags, id: 1, content: '<s>' }, { ...flags, id: 2, content: '</s>' }, ...(parts.added ?? [])],
    normalizer: parts.normalizer ?? null,
    pre_tokenizer: parts.preTokenizer ?? null,
    post_processor: parts.postProcessor ?? null,
    decoder: parts.decoder ?? null,
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      ...parts.model,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  }
}

/** Every component with its cases. */
// biome-ignore format: one case per line reads as a table
export const componentCases: readonly (readonly [name: string, parts: Components, cases: readonly ComponentCase[]])[] = [
  ["Llama 2: prefix and marks by the normaliser, bytes as fallback", {"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"\u2581"},{"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"postProcessor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]},"</s>":{"id":"</s>","ids":[2],"tokens":["</s>"]}}},"model":{"byte_fallback":true},"byteTokens":true}, [
    ["ab ab",[17,17],"=",[1,17,17,2],"ab ab","="],
    ["  ab",[13,13,17],"=",[1,13,13,17,2],"  ab","="],
    ["a \u00e9\u4e2db",[16,13,8,251,207,196,4],"=",[1,16,13,8,251,207,196,4,2],"a \u00e9\u4e2db","="],
    ["<s>ab</s> ab",[1,17,2,13,17],[13,83,138,85,15,83,70,138,85,17],[1,1,17,2,13,17,2],"<s> ab</s>  ab","ab  ab"],
    ["\u4e2d\u4e2dx",[13,251,207,196,251,207,196,143],"=",[1,13,251,207,196,251,207,196,143,2],"\u4e2d\u4e2dx","="],
    ["",[],"=",[1,2],"","="],
    ["a--b---",[16,19,4,19,12],"=",[1,16,19,4,19,12,2],"a--b---","="],
    ["11 1 11",[13,21,13,10,13,21],"=",[1,13,21,13,10,13,21,2],"11 1 11","="],
    ["cdcd abc",[13,18,18,17,5],"=",[1,13,18,18,17,5,2],"cdcd abc","="],
    ["A.",[13,9,14],"=",[1,13,9,14,2],"A.","="],
  ]],
  ["Metaspace always", {"preTokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true},"decoder":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"always","split":true},"model":{"byte_fallback":true},"byteTokens":true}, [
    ["ab ab",[17,17],"=","=","ab ab","="],
    ["  ab",[13,17],"=","="," ab","="],
    ["a \u00e9\u4e2db",[16,13,8,251,207,196,4],"=","=","a \u00e9<0xE4><0xB8><0xAD>b","="],
    ["<s>ab</s> ab",[1,17,2,17],[13,83,138,85,15,83,70,138,85,17],"=","<s> ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[13,251,207,196,251,207,196,143],"=","=","<0xE4><0xB8><0xAD><0xE4><0xB8><0xAD><0x78>","="],
    ["",[],"=","=","","="],
    ["a--b---",[16,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[13,21,13,10,13,21],"=","=","11 1 11","="],
    ["cdcd abc",[13,18,18,17,5],"=","=","cdcd abc","="],
    ["A.",[13,9,14],"=","=","A.","="],
  ]],
  ["Metaspace first", {"preTokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first","split":true},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"byte_fallback":true},"byteTokens":true}, [
    ["ab ab",[17,17],"=","=","ab ab","="],
    ["  ab",[13,17],"=","="," ab","="],
    ["a \u00e9\u4e2db",[16,13,8,251,207,196,4],"=","=","a \u00e9\u4e2db","="],
    ["<s>ab</s> ab",[1,15,2,17],[13,83,138,85,15,83,70,138,85,17],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[13,251,207,196,251,207,196,143],"=","=","\u4e2d\u4e2dx","="],
    ["",[],"=","=","","="],
    ["a--b---",[16,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[13,21,13,10,13,21],"=","=","11 1 11","="],
    ["cdcd abc",[13,18,18,17,5],"=","=","cdcd abc","="],
    ["A.",[13,9,14],"=","=","A.","="],
  ]],
  ["Metaspace never, not split", {"preTokenizer":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"never","split":false},"decoder":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"never","split":true},"model":{"byte_fallback":true},"byteTokens":true}, [
    ["ab ab",[15,17],"=","=","ab ab","="],
    ["  ab",[13,17],"=","=","  ab","="],
    ["a \u00e9\u4e2db",[3,13,8,251,207,196,4],"=","=","a \u00e9<0xE4><0xB8><0xAD>b","="],
    ["<s>ab</s> ab",[1,15,2,17],[83,138,85,15,83,70,138,85,17],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[251,207,196,251,207,196,143],"=","=","<0xE4><0xB8><0xAD><0xE4><0xB8><0xAD><0x78>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[21,13,10,13,21],"=","=","11 1 11","="],
    ["cdcd abc",[18,18,17,5],"=","=","cdcd abc","="],
    ["A.",[9,14],"=","=","A.","="],
  ]],
  ["Gemma: marks by the normaliser, split before", {"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"\u2581"},"preTokenizer":{"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":false},"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"\u2581"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"}]},"model":{"byte_fallback":true},"byteTokens":true}, [
    ["ab ab",[15,17],"=","=","ab ab","="],
    ["  ab",[13,17],"=","=","  ab","="],
    ["a \u00e9\u4e2db",[3,13,8,251,207,196,4],"=","=","a \u00e9\u4e2db","="],
    ["<s>ab</s> ab",[1,15,2,17],[83,138,85,15,83,70,138,85,17],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[251,207,196,251,207,196,143],"=","=","\u4e2d\u4e2dx","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[21,13,10,13,21],"=","=","11 1 11","="],
    ["cdcd abc",[18,18,17,5],"=","=","cdcd abc","="],
    ["A.",[9,14],"=","=","A.","="],
  ]],
  ["unknown characters, one token each", {"decoder":{"type":"Fuse"}}, [
    ["ab ab",[15,11,15],"=","=","ab ab","="],
    ["  ab",[11,11,15],"=","=","  ab","="],
    ["a \u00e9\u4e2db",[3,11,8,0,4],"=","=","a \u00e9<unk>b","="],
    ["<s>ab</s> ab",[1,15,2,11,15],[0,0,0,15,0,0,0,0,11,15],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[0,0,0],"=","=","<unk><unk><unk>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[21,11,10,11,21],"=","=","11 1 11","="],
    ["cdcd abc",[18,18,11,15,5],"=","=","cdcd abc","="],
    ["A.",[9,14],"=","=","A.","="],
  ]],
  ["unknown characters, fused", {"decoder":{"type":"Fuse"},"model":{"fuse_unk":true}}, [
    ["ab ab",[15,11,15],"=","=","ab ab","="],
    ["  ab",[11,11,15],"=","=","  ab","="],
    ["a \u00e9\u4e2db",[3,11,8,0,4],"=","=","a \u00e9<unk>b","="],
    ["<s>ab</s> ab",[1,15,2,11,15],[0,15,0,11,15],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[0],"=","=","<unk>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[21,11,10,11,21],"=","=","11 1 11","="],
    ["cdcd abc",[18,18,11,15,5],"=","=","cdcd abc","="],
    ["A.",[9,14],"=","=","A.","="],
  ]],
  ["no decoder", {}, [
    ["ab ab",[15,11,15],"=","=","ab   ab","="],
    ["  ab",[11,11,15],"=","=","    ab","="],
    ["a \u00e9\u4e2db",[3,11,8,0,4],"=","=","a   \u00e9 <unk> b","="],
    ["<s>ab</s> ab",[1,15,2,11,15],[0,0,0,15,0,0,0,0,11,15],"=","<s> ab </s>   ab","ab   ab"],
    ["\u4e2d\u4e2dx",[0,0,0],"=","=","<unk> <unk> <unk>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a -- b -- -","="],
    ["11 1 11",[21,11,10,11,21],"=","=","11   1   11","="],
    ["cdcd abc",[18,18,11,15,5],"=","=","cd cd   ab c","="],
    ["A.",[9,14],"=","=","A .","="],
  ]],
  ["whole words first", {"preTokenizer":{"type":"WhitespaceSplit"},"decoder":{"type":"Fuse"},"model":{"ignore_merges":true},"more":["abc"]}, [
    ["ab ab",[15,15],"=","=","abab","="],
    ["  ab",[15],"=","=","ab","="],
    ["a \u00e9\u4e2db",[3,8,0,4],"=","=","a\u00e9<unk>b","="],
    ["<s>ab</s> ab",[1,15,2,15],[0,0,0,15,0,0,0,0,15],"=","<s>ab</s>ab","abab"],
    ["\u4e2d\u4e2dx",[0,0,0],"=","=","<unk><unk><unk>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[21,10,21],"=","=","11111","="],
    ["cdcd abc",[18,18,23],"=","=","cdcdabc","="],
    ["A.",[9,14],"=","=","A.","="],
    ["abc abcd",[23,15,18],"=","=","abcabcd","="],
  ]],
  ["digits, one by one", {"preTokenizer":{"type":"Digits","individual_digits":true},"decoder":{"type":"Fuse"}}, [
    ["ab ab",[15,11,15],"=","=","ab ab","="],
    ["  ab",[11,11,15],"=","=","  ab","="],
    ["a \u00e9\u4e2db",[3,11,8,0,4],"=","=","a \u00e9<unk>b","="],
    ["<s>ab</s> ab",[1,15,2,11,15],[0,0,0,15,0,0,0,0,11,15],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[0,0,0],"=","=","<unk><unk><unk>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[10,10,11,10,11,10,10],"=","=","11 1 11","="],
    ["cdcd abc",[18,18,11,15,5],"=","=","cdcd abc","="],
    ["A.",[9,14],"=","=","A.","="],
  ]],
  ["digits in runs", {"preTokenizer":{"type":"Digits","individual_digits":false},"decoder":{"type":"Fuse"}}, [
    ["ab ab",[15,11,15],"=","=","ab ab","="],
    ["  ab",[11,11,15],"=","=","  ab","="],
    ["a \u00e9\u4e2db",[3,11,8,0,4],"=","=","a \u00e9<unk>b","="],
    ["<s>ab</s> ab",[1,15,2,11,15],[0,0,0,15,0,0,0,0,11,15],"=","<s>ab</s> ab","ab ab"],
    ["\u4e2d\u4e2dx",[0,0,0],"=","=","<unk><unk><unk>","="],
    ["",[],"=","=","","="],
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["11 1 11",[21,11,10,11,21],"=","=","11 1 11","="],
    ["cdcd abc",[18,18,11,15,5],"=","=","cdcd abc","="],
    ["A.",[9,14],"=","=","A.","="],
  ]],
  ["split Removed", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"Removed","invert":false},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,4],"=","=","ab","="],
    ["-ab-",[15],"=","=","ab","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[],"=","=","","="],
  ]],
  ["split Removed inverted", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"Removed","invert":true},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[12,12,12,12,12],"=","=","-----","="],
    ["-ab-",[12,12],"=","=","--","="],
    ["ab",[],"=","=","","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split Isolated", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"Isolated","invert":false},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,12,12,4,12,12,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split Isolated inverted", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"Isolated","invert":true},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,12,12,4,12,12,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split MergedWithPrevious", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"MergedWithPrevious","invert":false},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,12,12,4,12,12,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split MergedWithPrevious inverted", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"MergedWithPrevious","invert":true},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,12,12,4,12,12,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split MergedWithNext", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"MergedWithNext","invert":false},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,12,12,4,12,12,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split MergedWithNext inverted", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"MergedWithNext","invert":true},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,12,12,4,12,12,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[12,12],"=","=","--","="],
  ]],
  ["split Contiguous", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"Contiguous","invert":false},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[19],"=","=","--","="],
  ]],
  ["split Contiguous inverted", {"preTokenizer":{"type":"Split","pattern":{"String":"-"},"behavior":"Contiguous","invert":true},"decoder":{"type":"Fuse"}}, [
    ["a--b---",[3,19,4,19,12],"=","=","a--b---","="],
    ["-ab-",[12,15,12],"=","=","-ab-","="],
    ["ab",[15],"=","=","ab","="],
    ["--",[19],"=","=","--","="],
  ]],
  ["lower case and NFKC", {"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Lowercase"}]},"decoder":{"type":"Fuse"}}, [
    ["A\ufb00",[3,0,0],"=","=","a<unk><unk>","="],
    ["\u00c9\u2460",[8,10],"=","=","\u00e91","="],
    ["\uff21\uff22",[15],"=","=","ab","="],
    ["E\u0301",[8],"=","=","\u00e9","="],
  ]],
  ["NFD", {"normalizer":{"type":"NFD"},"decoder":{"type":"Fuse"}}, [
    ["\u00e9",[7,0],"=","=","e<unk>","="],
    ["\uac01",[0,0,0],"=","=","<unk><unk><unk>","="],
  ]],
  ["strip and spaces to one", {"normalizer":{"type":"Sequence","normalizers":[{"type":"Strip","strip_left":true,"strip_right":true},{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}]},"decoder":{"type":"Fuse"}}, [
    ["  a   b ",[3,11,4],"=","=","a b","="],
    [" \u3000ab\n",[15],"=","=","ab","="],
  ]],
  ["added tokens: longest first, words alone, space taken in", {"decoder":{"type":"Fuse"},"added":[{"id":23,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false,"content":"<x>"},{"id":24,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":false,"content":"<x><y>"},{"id":15,"single_word":true,"lstrip":false,"rstrip":false,"normalized":false,"special":false,"content":"ab"},{"id":25,"single_word":false,"lstrip":true,"rstrip":false,"normalized":false,"special":true,"content":"<l>"},{"id":26,"single_word":false,"lstrip":false,"rstrip":true,"normalized":false,"special":true,"content":"<r>"},{"id":27,"single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false,"content":"A."}]}, [
    ["<x><y><x>",[24,23],"=","=","<x><y><x>","="],
    ["ab abc cab ab",[15,11,15,5,11,5,15,11,15],"=","=","ab abc cab ab","="],
    ["a <l> b",[3,25,11,4],[3,11,0,0,0,11,4],"=","a<l> b","a b"],
    ["a <r> b",[3,11,26,4],[3,11,0,0,0,11,4],"=","a <r>b","a b"],
    ["a  <l><r>  b",[3,25,26,4],[3,11,11,0,0,0,0,0,0,11,11,4],"=","a<l><r>b","ab"],
    ["<r> <l>",[26,25],[0,0,0,11,0,0,0],"=","<r><l>",""],
    ["A.A",[27,9],"=","=","A.A","="],
    ["<x><s><x>",[23,1,23],[23,0,0,0,23],"=","<x><s><x>","<x><x>"],
  ]],
  ["normalised added tokens", {"normalizer":{"type":"Lowercase"},"decoder":{"type":"Fuse"},"added":[{"id":23,"single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":false,"content":"AB"},{"id":24,"single_word":false,"lstrip":false,"rstrip":false,"normalized":true,"special":true,"content":"<CD>"}]}, [
    ["ab AB aB",[23,11,23,11,23],"=","=","AB AB AB","="],
    ["<cd>",[24],[0,18,0],"=","<CD>",""],
    ["<CD>a",[24,3],[0,18,0,3],"=","<CD>a","a"],
  ]],
  ["strip of each token", {"decoder":{"type":"Sequence","decoders":[{"type":"Strip","content":"-","start":0,"stop":1}]}}, [
    ["a--b---",[3,19,4,19,12],"=","=","a-b-","="],
    ["-",[12],"=","=","","="],
    ["---",[19,12],"=","=","-","="],
  ]],
  ["frame of BERT", {"decoder":{"type":"Fuse"},"postProcessor":{"type":"BertProcessing","sep":["</s>",2],"cls":["<s>",1]}}, [
    ["ab",[15],"=",[1,15,2],"ab","="],
  ]],
  ["frames in a row", {"decoder":{"type":"Fuse"},"postProcessor":{"type":"Sequence","processors":[{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true},{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"</s>","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]},"</s>":{"id":"</s>","ids":[2],"tokens":["</s>"]}}}]}}, [
    ["ab",[15],"=",[1,15,2],"ab","="],
  ]],
]
