// A tensor as kernels see it: a pointer, an element type and a contiguous shape. No ownership, no strides:
// every tensor of the package is contiguous, and a view is a range of rows. Also the two-byte float.
// Everything here is `static inline` or a plain struct, because kernel files are compiled once per
// instruction set and may share no linkable code (kernels.md 11.4).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ws {

enum class DType : int32_t { f32 = 0, bf16 = 1, i32 = 2, u8 = 3 };

static inline int64_t element_bytes(DType d) {
  return d == DType::f32 || d == DType::i32 ? 4 : d == DType::bf16 ? 2 : 1;
}

static inline const char* dtype_name(DType d) {
  static const char* const names[] = {"f32", "bf16", "i32", "u8"};
  return names[static_cast<int32_t>(d)];
}

constexpr int max_rank = 4;

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  int32_t rank = -1;  // -1: the operand is absent
  int64_t dims[max_rank] = {0, 0, 0, 0};

  bool present() const { return rank >= 0; }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  int64_t bytes() const { return size() * element_bytes(dtype); }
  /// Length of the last dimension; 1 for a scalar.
  int64_t last() const { return rank == 0 ? 1 : dims[rank - 1]; }
  /// Number of rows when all dimensions but the last are joined.
  int64_t rows() const {
    int64_t n = 1;
    for (int i = 0; i + 1 < rank; ++i) n *= dims[i];
    return n;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// bfloat16: the upper half of a float, rounded to nearest even; NaN stays a quiet NaN.
struct bf16 {
  uint16_t bits;
};

static inline float to_float(bf16 x) {
  const uint32_t u = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
static inline float to_float(float x) { return x; }

static inline bf16 to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x0040u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

}  // namespace ws
