// The ops of ops.def as numbers.
#pragma once
#include <cstdint>

namespace ws {

enum class Op : int32_t {
#define OP(family, name, signature, parameters) name,
#include "../ops.def"
#undef OP
  count
};

constexpr int op_count = static_cast<int>(Op::count);

}  // namespace ws
