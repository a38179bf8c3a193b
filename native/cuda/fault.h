// What kernels report: something wrong in data that the host cannot see, such as an id outside of a table. The device reads
// it whenever the queue waits for results; the first one stays until then.
#pragma once
#include <cstdint>

namespace ws::cuda {

/// index: value is not in [0, limit); count: not in [1, limit]; visibility: token `at`, whose segment starts at
/// `value`, breaks rule `limit` (attention.h)
enum class FaultKind : int32_t { none = 0, index = 1, count = 2, visibility = 3 };

struct Fault {
  int32_t kind;
  int32_t op, operand;   // enum class Op; the operand's place in the signature
  int32_t at;            // which of its elements
  int32_t value, limit;
};

}  // namespace ws::cuda
