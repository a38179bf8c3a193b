// Four-bit weights on the GPU: NF4 there and back, and the eight-bit absmax of its blocks. Bound by memory. Semantics:
// native/cpu/quantize.cpp; results have its bits.
#include "../core/nf4.h"
#include "vectors.h"

namespace ws::cuda {
namespace {

constexpr int block_lanes = static_cast<int>(nf4_block) / span;  // threads that share a block of NF4

/// The kernels' constants come with their arguments: that is where threads read one element by its index for nothing.
struct Nf4Arguments {
  const void* from;
  void* to;
  uint8_t* codes;
  float* absmax;
  int64_t size;
  float numbers[16];  // levels, or thresholds
};

/// Codes of eight elements, `n` of them there: four bytes, at once where addresses allow it.
WS_DEVICE void store_codes(uint8_t* to, int n, uint32_t codes) {
  if (n >= span && reinterpret_cast<uintptr_t>(to) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(to) = codes;
    return;
  }
  for (int i = 0; i < span / 2; ++i)
    if (2 * i < n) to[i] = static_cast<uint8_t>(codes >> (8 * i));
}
WS_DEVICE uint32_t load_codes(const uint8_t* from, int n) {
  if (n >= span && reinterpret_cast<uintptr_t>(from) % 4 == 0) return *reinterpret_cast<const uint32_t*>(from);
  uint32_t codes = 0;
  for (int i = 0; i < span / 2; ++i)
    if (2 * i < n) codes |= static_cast<uint32_t>(from[i]) << (8 * i);
  return codes;
}

template <class T>
WS_DEVICE void quantize(const Nf4Arguments& a) {
  const Span s = flat_span(a.size);
  const int n = s.n < 0 ? 0 : s.n;
  float x[span], top = 0;
  load(static_cast<const T*>(a.from) + (n > 0 ? s.at : 0), n, x);
  for (int i = 0; i < span; ++i) top = larger(top, larger(x[i], -x[i]));
  for (int mask = block_lanes / 2; mask > 0; mask >>= 1) top = larger(top, shuffle_xor(top, mask));
  if (n == 0) return;
  if (thread() % block_lanes == 0) a.absmax[s.at / nf4_block] = top;
  const float divisor = top > 0 ? top : 1.0f;
  uint32_t codes = 0;
  for (int i = 0; i < span; ++i) {
    const float q = x[i] / divisor;
    uint32_t code = 0;
    WS_UNROLL
    for (int level = 0; level < 15; ++level) code += q > a.numbers[level] ? 1 : 0;
    codes |= code << (8 * (i / 2) + 4 * (1 - i % 2));
  }
  store_codes(a.codes + s.at / 2, n, codes);
}
WS_KERNEL_FOR_BOTH(quantize_nf4, map_threads, Nf4Arguments, a, quantize)

template <class T>
WS_DEVICE void dequantize(const Nf4Arguments& a) {
  float* levels = reinterpret_cast<float*>(shared());
  if (thread() < 16) levels[thread()] = a.numbers[thread()];
  barrier();
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  const uint32_t codes = load_codes(a.codes + s.at / 2, s.n);
  const float scale = a.absmax[s.at / nf4_block];
  float x[span];
  for (int i = 0; i < span; ++i) x[i] = levels[codes >> (8 * (i / 2) + 4 * (1 - i % 2)) & 15] * scale;
  store(static_cast<T*>(a.to) + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(dequantize_nf4, map_threads, Nf4Arguments, a, dequantize)

struct BlockwiseArguments {
  const uint8_t* codes;
  const float *map, *absmax, *offset;
  float* y;
  int64_t size;
};

WS_KERNEL(dequantize_blockwise_f32, map_threads, BlockwiseArguments, a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  const float scale = a.absmax[s.at / blockwise_block], offset = *a.offset;
  float x[span];
  for (int i = 0; i < span; ++i) x[i] = i < s.n ? a.map[a.codes[s.at + i]] * scale + offset : 0.0f;
  store(a.y + s.at, s.n, x);
}

}  // namespace

#if WS_HOST

namespace {

Status check_blocks(const View& codes, const View& absmax, int64_t count) {
  WS_TRY(vector_of(codes, "codes", (count + 1) / 2));
  return vector_of(absmax, "absmax", (count + nf4_block - 1) / nf4_block);
}

}  // namespace

Status quantize_nf4(const Call& c, Launcher& on) {
  const View &codes = c.t[0], &absmax = c.t[1], &x = c.t[2];
  WS_TRY(check_blocks(codes, absmax, x.size()));
  Nf4Arguments a = {x.data, nullptr, codes.as<uint8_t>(), absmax.as<float>(), x.size(), {}};
  for (int i = 0; i < 15; ++i) a.numbers[i] = nf4_threshold(i);
  const Extent grid = {blocks_for(a.size, map_threads * span), 1, 1};
  return start(on, x.dtype == DType::f32 ? quantize_nf4_f32 : quantize_nf4_bf16, grid, 0, a);
}

Status dequantize_nf4(const Call& c, Launcher& on) {
  const View &w = c.t[0], &codes = c.t[1], &absmax = c.t[2];
  WS_TRY(check_blocks(codes, absmax, w.size()));
  Nf4Arguments a = {nullptr, w.data, codes.as<uint8_t>(), absmax.as<float>(), w.size(), {}};
  for (int i = 0; i < 16; ++i) a.numbers[i] = nf4_levels[i];
  const Extent grid = {blocks_for(a.size, map_threads * span), 1, 1};
  return start(on, w.dtype == DType::f32 ? dequantize_nf4_f32 : dequantize_nf4_bf16, grid, sizeof a.numbers, a);
}

Status dequantize_blockwise(const Call& c, Launcher& on) {
  const View &y = c.t[0], &codes = c.t[1], &map = c.t[2], &absmax = c.t[3], &offset = c.t[4];
  WS_TRY(vector_of(codes, "codes", y.size()));
  WS_TRY(vector_of(map, "map", 256));
  WS_TRY(vector_of(absmax, "absmax", (y.size() + blockwise_block - 1) / blockwise_block));
  WS_TRY(single(offset, "offset"));
  const BlockwiseArguments a = {codes.as<uint8_t>(),   map.as<float>(), absmax.as<float>(),
                                offset.as<float>(), y.as<float>(),   y.size()};
  return start(on, dequantize_blockwise_f32, {blocks_for(a.size, map_threads * span), 1, 1}, 0, a);
}

#endif

}  // namespace ws::cuda
