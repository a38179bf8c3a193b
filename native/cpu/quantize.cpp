// Four-bit weights: NF4 (core/nf4.h) there and back, and the eight-bit absmax of its blocks. Every number is a function of
// its block alone, by single operations that round once, so that all levels and GPUs give the same bits. Bound by memory:
// 4.5 bits per element on one side, the elements on the other.
#include "../core/nf4.h"
#include "loops.h"

namespace ws::WS_NS {
namespace {

static_assert(span_elements % nf4_block == 0 && span_elements % blockwise_block == 0 && nf4_block % (4 * W) == 0);

/// Codes and absmax must be those of `count` elements.
Status check_blocks(const View& codes, const View& absmax, int64_t count) {
  WS_TRY(vector_of(codes, "codes", (count + 1) / 2));
  return vector_of(absmax, "absmax", (count + nf4_block - 1) / nf4_block);
}

/// f(first element, elements) of every block, in parallel.
template <class F>
void for_each_block(Runtime& rt, int64_t count, int64_t size, F&& f) {
  for_spans(rt, count, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += size) f(at, end - at < size ? end - at : size);
  });
}

/// The number of thresholds that each element of a block exceeds when it is divided by `absmax`, and the block's codes.
void write_codes(const float* x, float absmax, uint8_t* codes) {
  const V divisor = set1(absmax > 0 ? absmax : 1.0f), one = set1(1.0f);
  float exceeded[nf4_block];
  for (int64_t at = 0; at < nf4_block; at += 4 * W) {
    V q[4], count[4];
    WS_EACH(4) q[i] = div(load(x + at + i * W), divisor);
    WS_EACH(4) count[i] = zero();
    for (int level = 0; level < 15; ++level) {
      const V threshold = set1(nf4_threshold(level));
      WS_EACH(4) count[i] = add(count[i], select_less(threshold, q[i], one, zero()));
    }
    WS_EACH(4) store(exceeded + at + i * W, count[i]);
  }
  for (int64_t i = 0; i < nf4_block / 2; ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(exceeded[2 * i] * 16.0f + exceeded[2 * i + 1]));
}

template <class T>
void quantize(Runtime& rt, const View& from, const View& codes, const View& absmax) {
  const T* in = from.as<T>();
  for_each_block(rt, from.size(), nf4_block, [=](int64_t begin, int64_t count) {
    float x[nf4_block] = {0};
    V top = zero();
    for_vectors(0, count, [&](int64_t i, auto lanes) {
      const V v = load(in + begin + i, lanes);
      store(x + i, v, lanes);
      top = max(max(v, sub(zero(), v)), top);
    });
    const float largest = absmax.as<float>()[begin / nf4_block] = hmax(top);
    uint8_t pairs[nf4_block / 2];
    write_codes(x, largest, pairs);
    std::memcpy(codes.as<uint8_t>() + begin / 2, pairs, static_cast<size_t>((count + 1) / 2));
  });
}

/// The codes of W elements as bytes.
__m128i split(const uint8_t* codes) {
  uint64_t bytes = 0;
  std::memcpy(&bytes, codes, W / 2);
  const __m128i pairs = _mm_cvtsi64_si128(static_cast<int64_t>(bytes)), mask = _mm_set1_epi8(15);
  return _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(pairs, 4), mask), _mm_and_si128(pairs, mask));
}

template <class T>
void dequantize(Runtime& rt, const View& to, const View& codes, const View& absmax) {
  T* out = to.as<T>();
  for_each_block(rt, to.size(), nf4_block, [=](int64_t begin, int64_t count) {
    const V scale = set1(absmax.as<float>()[begin / nf4_block]);
    const uint8_t* in = codes.as<uint8_t>() + begin / 2;
    uint8_t last[nf4_block / 2] = {0};
    if (count < nf4_block) {
      std::memcpy(last, in, static_cast<size_t>((count + 1) / 2));
      in = last;
    }
    for_vectors(0, count, [&](int64_t i, auto lanes) {
      store(out + begin + i, mul(look_up(nf4_levels, split(in + i / 2)), scale), lanes);
    });
  });
}

}  // namespace

/// absmax[b] = the largest |x| of block b; codes: the levels nearest to x / absmax. x must be finite. Exact but for ties,
/// which go to the lower level. Size of F + 9/16 bytes per element.
Status quantize_nf4(const Call& c) {
  const View &codes = c.t[0], &absmax = c.t[1], &x = c.t[2];
  WS_TRY(check_blocks(codes, absmax, x.size()));
  if (x.dtype == DType::f32) quantize<float>(*c.rt, x, codes, absmax);
  else quantize<bf16>(*c.rt, x, codes, absmax);
  return {};
}

/// w[i] = level(codes[i]) absmax[i / 64], one product, rounded to f32 and then to the type of w.
Status dequantize_nf4(const Call& c) {
  const View &w = c.t[0], &codes = c.t[1], &absmax = c.t[2];
  WS_TRY(check_blocks(codes, absmax, w.size()));
  if (w.dtype == DType::f32) dequantize<float>(*c.rt, w, codes, absmax);
  else dequantize<bf16>(*c.rt, w, codes, absmax);
  return {};
}

/// y[i] = map[codes[i]] absmax[i / 256] + offset: a product and a sum, each rounded.
Status dequantize_blockwise(const Call& c) {
  const View &y = c.t[0], &codes = c.t[1], &map = c.t[2], &absmax = c.t[3], &offset = c.t[4];
  WS_TRY(vector_of(codes, "codes", y.size()));
  WS_TRY(vector_of(map, "map", 256));
  WS_TRY(vector_of(absmax, "absmax", (y.size() + blockwise_block - 1) / blockwise_block));
  WS_TRY(single(offset, "offset"));
  const float start = *offset.as<float>();
  for_each_block(*c.rt, y.size(), blockwise_block, [&](int64_t begin, int64_t count) {
    const float scale = absmax.as<float>()[begin / blockwise_block];
    for (int64_t i = begin; i < begin + count; ++i)
      y.as<float>()[i] = map.as<float>()[codes.as<uint8_t>()[i]] * scale + start;
  });
  return {};
}

}  // namespace ws::WS_NS
