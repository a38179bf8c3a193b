// Checks of shapes that say both shapes, for kernels of every device.
#pragma once
#include "check.h"

/// Returns from the kernel when the status is bad.
#define WS_TRY(expression)                     \
  do {                                         \
    const ::ws::Status status_ = (expression); \
    if (!status_.ok()) return status_;         \
  } while (0)

namespace ws {

struct ShapeText {
  char text[96];
};

static inline ShapeText shape_text(const View& v) {
  ShapeText s;
  int used = std::snprintf(s.text, sizeof s.text, "[");
  for (int i = 0; i < v.rank; ++i) {
    const size_t at = static_cast<size_t>(used);
    used += std::snprintf(s.text + at, sizeof s.text - at, "%s%lld", i ? "," : "", static_cast<long long>(v.dims[i]));
  }
  std::snprintf(s.text + used, sizeof s.text - static_cast<size_t>(used), "]");
  return s;
}

static inline Status same_shape(const View& a, const char* a_name, const View& b, const char* b_name) {
  bool same = a.rank == b.rank;
  for (int i = 0; same && i < a.rank; ++i) same = a.dims[i] == b.dims[i];
  WS_CHECK(same, shape, "%s: expected shape %s as %s has, got %s", a_name, shape_text(b).text, b_name,
           shape_text(a).text);
  return {};
}

/// v must hold `count` elements in one dimension.
static inline Status vector_of(const View& v, const char* name, int64_t count) {
  WS_CHECK(v.rank == 1 && v.dims[0] == count, shape, "%s: expected shape [%lld], got %s", name,
           static_cast<long long>(count), shape_text(v).text);
  return {};
}

/// v must be one number: shape [] or [1].
static inline Status single(const View& v, const char* name) {
  WS_CHECK(v.size() == 1, shape, "%s: expected one element, got shape %s", name, shape_text(v).text);
  return {};
}

}  // namespace ws
