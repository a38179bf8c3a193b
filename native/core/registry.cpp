// The op table made from ops.def, and the check of a call's operands against an op's signature.
#include <string_view>

#include "op.h"

namespace ws {

const OpInfo op_table[op_count] = {
#define OP(family, name, signature, parameters) {#name, #family, signature, parameters},
#include "../ops.def"
#undef OP
};

namespace {

/// The next blank-separated word of text, removed from its front; empty at the end.
std::string_view next_word(std::string_view& text) {
  const size_t begin = text.find_first_not_of(' ');
  if (begin == std::string_view::npos) return text = {};
  const size_t end = text.find(' ', begin);
  const std::string_view word = text.substr(begin, end == std::string_view::npos ? end : end - begin);
  text = end == std::string_view::npos ? std::string_view{} : text.substr(end);
  return word;
}

bool is_float(DType d) { return d == DType::f32 || d == DType::bf16; }

/// Does the operand's type fit `type` of the signature? `shared` is the T of the call once it is known.
bool type_fits(std::string_view type, DType d, int& shared) {
  if (type == "F") return is_float(d);
  if (type == "T") {
    if (shared < 0) shared = static_cast<int>(d);
    return is_float(d) && shared == static_cast<int>(d);
  }
  return type == dtype_name(d);
}

}  // namespace

Status check_call(Op op, const Call& call) {
  const OpInfo& info = op_table[static_cast<int>(op)];
  std::string_view rest = info.signature;
  int operand = 0, shared = -1;
  for (std::string_view word = next_word(rest); !word.empty(); word = next_word(rest)) {
    if (word == ">") continue;
    WS_CHECK(operand < call.operands, internal, "expected operands %s, got %d", info.signature, call.operands);
    const size_t colon = word.find(':');
    const bool optional = word[colon - 1] == '?';
    const View& t = call.t[operand++];
    if (!t.present() && optional) continue;
    WS_CHECK(t.present(), internal, "operand %d (%.*s) is missing", operand - 1, static_cast<int>(word.size()),
             word.data());
    WS_CHECK(type_fits(word.substr(colon + 1), t.dtype, shared), dtype, "operand %.*s cannot be %s",
             static_cast<int>(word.size()), word.data(), dtype_name(t.dtype));
  }
  WS_CHECK(operand == call.operands, internal, "expected operands %s, got %d", info.signature, call.operands);
  std::string_view names = info.parameters;
  int expected = 0;
  while (!next_word(names).empty()) ++expected;
  WS_CHECK(expected == call.parameters, internal, "expected parameters (%s), got %d", info.parameters,
           call.parameters);
  return {};
}

}  // namespace ws
