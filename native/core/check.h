// Status of a call and the macros that read as sentences. Kernels never throw: they return a Status, the
// queue keeps the first bad one, and the binding turns it into a WhetstoneError.
#pragma once
#include <cstdarg>
#include <cstdio>

#include "view.h"

namespace ws {

/// The codes that native code can report; names equal those of ts/src/base/errors.ts without `E_`.
enum class Code : int32_t { ok, shape, dtype, device, no_kernel, oom, device_lost, nonfinite, config, internal };

struct Status {
  Code code = Code::ok;
  char text[220] = {0};
  const char* op = nullptr;  // whose fault it is, when that is found later than it ran
  bool ok() const { return code == Code::ok; }
};

__attribute__((format(printf, 2, 3))) static inline Status fail(Code code, const char* format, ...) {
  Status s;
  s.code = code;
  va_list args;
  va_start(args, format);
  std::vsnprintf(s.text, sizeof s.text, format, args);
  va_end(args);
  return s;
}

static inline const char* code_name(Code code) {
  static const char* const names[] = {"OK",  "E_SHAPE",       "E_DTYPE",     "E_DEVICE", "E_NO_KERNEL",
                                      "E_OOM", "E_DEVICE_LOST", "E_NONFINITE", "E_CONFIG", "E_INTERNAL"};
  return names[static_cast<int32_t>(code)];
}

}  // namespace ws

/// Returns from the kernel with a status unless the condition holds.
#define WS_CHECK(condition, code, ...) \
  do {                                 \
    if (!(condition)) return ::ws::fail(::ws::Code::code, __VA_ARGS__); \
  } while (0)

/// Two lengths must agree; says both.
#define WS_SAME(a, b, what)                                                                     \
  WS_CHECK((a) == (b), shape, "%s: expected %lld, got %lld", what, static_cast<long long>(b), \
           static_cast<long long>(a))
