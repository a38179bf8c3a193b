// The op table and check_call(): every op of ops.def accepts the operands of its own signature, and a call with a
// missing, surplus or mistyped operand or a wrong number of parameters is refused with a code and a text.
#include <string_view>

#include "check.h"

using namespace check;

namespace {

struct Operand {
  std::string type;
  bool optional;
};

/// The operands of a signature, parsed apart from the code under test: words that hold a colon.
std::vector<Operand> operands_of(std::string_view signature) {
  std::vector<Operand> list;
  while (!signature.empty()) {
    const size_t end = std::min(signature.find(' '), signature.size());
    const std::string_view word = signature.substr(0, end);
    signature.remove_prefix(std::min(end + 1, signature.size()));
    const size_t colon = word.find(':');
    if (colon != std::string_view::npos)
      list.push_back({std::string(word.substr(colon + 1)), word[colon - 1] == '?'});
  }
  return list;
}

int count_words(std::string_view text) {
  int words = 0;
  for (size_t i = 0; i < text.size(); ++i) words += text[i] != ' ' && (i == 0 || text[i - 1] == ' ');
  return words;
}

DType type_of(const std::string& name, DType shared) {
  if (name == "T" || name == "F") return shared;
  return name == "f32" ? DType::f32 : name == "bf16" ? DType::bf16 : name == "i32" ? DType::i32 : DType::u8;
}

View scalar(DType dtype) {
  View v;
  v.dtype = dtype;
  v.rank = 0;
  return v;
}

/// A call that fits the signature, with `shared` for T and F. Shapes and memory are the kernel's business.
Call fitting_call(const OpInfo& info, DType shared) {
  Call call;
  for (const Operand& operand : operands_of(info.signature)) call.t[call.operands++] = scalar(type_of(operand.type, shared));
  call.parameters = count_words(info.parameters);
  return call;
}

void check_counts(Op op, const Call& good) {
  Call call = good;
  --call.operands;
  CHECK_CODE(check_call(op, call), internal);
  call = good;
  call.t[call.operands++] = scalar(DType::f32);
  CHECK_CODE(check_call(op, call), internal);
  call = good;
  ++call.parameters;
  CHECK_CODE(check_call(op, call), internal);
  call = good;
  call.operands = 0;
  CHECK_CODE(check_call(op, call), internal);
}

void check_operands(Op op, const Call& good, DType shared) {
  const std::vector<Operand> operands = operands_of(op_table[static_cast<int>(op)].signature);
  for (size_t i = 0; i < operands.size(); ++i) {
    Call call = good;
    call.t[i] = absent();
    if (operands[i].optional) CHECK_OK(check_call(op, call));
    else CHECK_CODE(check_call(op, call), internal);
    for (const DType dtype : {DType::f32, DType::bf16, DType::i32, DType::u8}) {
      const bool either = operands[i].type == "F" && (dtype == DType::f32 || dtype == DType::bf16);
      if (either || dtype == type_of(operands[i].type, shared)) continue;
      const int64_t same_letter = std::count_if(operands.begin(), operands.end(), [](const Operand& o) { return o.type == "T"; });
      if (operands[i].type == "T" && same_letter == 1 && (dtype == DType::f32 || dtype == DType::bf16)) continue;
      call = good;
      call.t[i] = scalar(dtype);
      CHECK_CODE(check_call(op, call), dtype);
    }
  }
}

void check_table() {
  CHECK(op_count > 30);
  for (int i = 0; i < op_count; ++i) {
    const OpInfo& info = op_table[i];
    const Op op = static_cast<Op>(i);
    CHECK(info.name[0] != 0 && info.family[0] != 0);
    CHECK(operands_of(info.signature).size() <= static_cast<size_t>(max_operands));
    CHECK(count_words(info.parameters) <= max_parameters);
    for (const DType shared : {DType::f32, DType::bf16}) {
      const Call good = fitting_call(info, shared);
      CHECK_OK(check_call(op, good));
      check_operands(op, good, shared);
      check_counts(op, good);
    }
  }
}

/// The text names what is wrong.
void check_texts() {
  Call call = fitting_call(op_table[static_cast<int>(Op::add)], DType::f32);
  call.t[1] = scalar(DType::i32);
  const Status mistyped = check_call(Op::add, call);
  CHECK(std::strstr(mistyped.text, "b:T") != nullptr && std::strstr(mistyped.text, "i32") != nullptr);
  call.t[1] = absent();
  CHECK(std::strstr(check_call(Op::add, call).text, "b:T") != nullptr);
  call = fitting_call(op_table[static_cast<int>(Op::scale)], DType::f32);
  call.parameters = 0;
  CHECK(std::strstr(check_call(Op::scale, call).text, "factor") != nullptr);
}

/// A status text is cut, never overrun.
void check_long_text() {
  const std::string text(1000, 'x');
  const Status status = fail(Code::shape, "%s", text.c_str());
  CHECK(std::strlen(status.text) == sizeof status.text - 1);
  CHECK(std::string(code_name(Code::shape)) == "E_SHAPE");
  CHECK(std::string(code_name(Code::internal)) == "E_INTERNAL");
}

}  // namespace

int main() {
  check_table();
  check_texts();
  check_long_text();
  return report();
}
