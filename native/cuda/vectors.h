// What the memory-bound kernels share: eight elements at a time, 16 bytes a load where addresses allow it; the parts of
// grids; chains down columns. Included by kernel files only.
#pragma once
#include "simt.h"
#if WS_HOST
#include "../core/shapes.h"
#endif

namespace ws::cuda {

constexpr int span = 8;            // elements of a thread
constexpr int map_threads = 256;

WS_DEVICE bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

WS_DEVICE void unpack(const Quad& q, float* x) {
  x[0] = low_bf16(q.x), x[1] = high_bf16(q.x), x[2] = low_bf16(q.y), x[3] = high_bf16(q.y);
  x[4] = low_bf16(q.z), x[5] = high_bf16(q.z), x[6] = low_bf16(q.w), x[7] = high_bf16(q.w);
}

/// The first n of eight elements; zeros for the others.
WS_DEVICE void load(const bf16* p, int n, float (&x)[span]) {
  if (n >= span && aligned(p)) return unpack(*reinterpret_cast<const Quad*>(p), x);
  for (int i = 0; i < span; ++i) x[i] = i < n ? value(p[i]) : 0.0f;
}
WS_DEVICE void load(const float* p, int n, float (&x)[span]) {
  if (n >= span && aligned(p)) {
    for (int half = 0; half < 2; ++half) {
      const Quad q = reinterpret_cast<const Quad*>(p)[half];
      x[4 * half] = as_float(q.x), x[4 * half + 1] = as_float(q.y);
      x[4 * half + 2] = as_float(q.z), x[4 * half + 3] = as_float(q.w);
    }
    return;
  }
  for (int i = 0; i < span; ++i) x[i] = i < n ? p[i] : 0.0f;
}
WS_DEVICE void store(bf16* p, int n, const float (&x)[span]) {
  if (n >= span && aligned(p)) {
    *reinterpret_cast<Quad*>(p) = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                                   pack_bf16(x[6], x[7])};
    return;
  }
  for (int i = 0; i < span; ++i)
    if (i < n) p[i] = round_bf16(x[i]);
}
WS_DEVICE void store(float* p, int n, const float (&x)[span]) {
  if (n >= span && aligned(p)) {
    for (int half = 0; half < 2; ++half)
      reinterpret_cast<Quad*>(p)[half] = {as_bits(x[4 * half]), as_bits(x[4 * half + 1]), as_bits(x[4 * half + 2]),
                                          as_bits(x[4 * half + 3])};
    return;
  }
  for (int i = 0; i < span; ++i)
    if (i < n) p[i] = x[i];
}

WS_DEVICE bool is_finite(float x) { return (as_bits(x) & 0x7f800000u) != 0x7f800000u; }

/// A flag [1] becomes 0, whoever of the threads says so.
WS_DEVICE void lower_flag(int32_t* flag) { exchange(flag, 0); }

/// Elements of a flat loop that this thread works on: from `at`, `n` of them, at most `span`; none when n <= 0.
struct Span {
  int64_t at;
  int n;
};
WS_DEVICE Span flat_span(int64_t size) {
  const int64_t at = (static_cast<int64_t>(block().x) * map_threads + thread()) * span;
  const int64_t left = size - at;
  return {at, static_cast<int>(left < span ? left : span)};
}

/// Sums of columns are chains over rows, starting from what is in memory: micro-batches add up to the bits of one
/// batch. One thread has one column; f(row, column, sum) gives the next sum.
constexpr int chain_threads = 64;
template <class F>
WS_DEVICE void column_chain(float* sums, int64_t rows, int64_t width, F f) {
  const int64_t column = static_cast<int64_t>(block().x) * chain_threads + thread();
  if (column >= width) return;
  float sum = sums[column];
  WS_UNROLL_BY(16)
  for (int64_t row = 0; row < rows; ++row) sum = f(row, column, sum);
  sums[column] = sum;
}

}  // namespace ws::cuda

/// A kernel for either element type: the body is a call of a template.
#define WS_KERNEL_FOR_BOTH(name, threads, Arguments, a, f)        \
  WS_KERNEL(name##_f32, threads, Arguments, a) { f<float>(a); }   \
  WS_KERNEL(name##_bf16, threads, Arguments, a) { f<ws::bf16>(a); }
