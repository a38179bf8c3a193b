// What every softmax in the CPU kernels shares: reductions over the lanes of a vector, tanh and the logit cap.
// Included by kernel files only; lives in their namespace.
#pragma once
#include "simd.h"

namespace ws::WS_NS {

#if WS_LEVEL == 1
static inline __m128 quarter_sum(V a) { return a.v; }
static inline __m128 quarter_max(V a) { return a.v; }
#else
static inline __m128 half_sum(__m256 a) { return _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }
static inline __m128 half_max(__m256 a) { return _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)); }
#if WS_LEVEL == 2
static inline __m128 quarter_sum(V a) { return half_sum(a.v); }
static inline __m128 quarter_max(V a) { return half_max(a.v); }
#else
static inline __m128 quarter_sum(V a) {
  return half_sum(_mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)));
}
static inline __m128 quarter_max(V a) {
  return half_max(_mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)));
}
#endif
#endif

/// Sum of the lanes by halving; the tree, and so the bits, of hsum().
static inline float sum_lanes(V a) {
  const __m128 x = quarter_sum(a);
  const __m128 y = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}

/// Largest lane; which number comes of lanes with NaN is not defined.
static inline float max_lanes(V a) {
  const __m128 x = quarter_max(a);
  const __m128 y = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

/// Vector of the numbers first, first + 1, ...; first + W <= 32.
static inline V lane_numbers(int first) {
  static const float numbers[32] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                    16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
  return load(numbers + first);
}

/// x in the lanes [low, high), `other` elsewhere; x holds lanes first, first + 1, ...
static inline V in_range(V x, V other, int first, int low, int high) {
  if (low <= first && high >= first + W) return x;
  const V lane = lane_numbers(first);
  const V below = select_less(lane, set1(static_cast<float>(high)), x, other);
  return select_less(lane, set1(static_cast<float>(low)), other, below);
}

/// 2^x to about 1 ulp, for N vectors side by side: x = n + r with |r| <= 1/2, a polynomial in r. From -125 down the
/// result is 2^-125, from 128 up something huge; NaN stays NaN, 2^0 is 1. A lane's bits do not depend on N.
template <int N>
static inline void exp2(V (&x)[N]) {
  V n[N], y[N];
  WS_EACH(N) x[i] = min(set1(127.4f), max(set1(-125.0f), x[i]));
  WS_EACH(N) n[i] = round(x[i]);
  WS_EACH(N) x[i] = sub(x[i], n[i]);
  WS_EACH(N) y[i] = fma(set1(1.535336196e-4f), x[i], set1(1.339887385e-3f));
  WS_EACH(N) y[i] = fma(y[i], x[i], set1(9.618436918e-3f));
  WS_EACH(N) y[i] = fma(y[i], x[i], set1(5.550332367e-2f));
  WS_EACH(N) y[i] = fma(y[i], x[i], set1(2.402264774e-1f));
  WS_EACH(N) y[i] = fma(y[i], x[i], set1(6.931471825e-1f));
  WS_EACH(N) y[i] = fma(y[i], x[i], set1(1.0f));
#if WS_LEVEL >= 3
  WS_EACH(N) x[i] = scale2(y[i], n[i]);
#else
  WS_EACH(N) x[i] = mul(y[i], pow2(n[i]));
#endif
}

/// tanh(x) to about 2 ulp: a polynomial (Cephes tanhf) below 0.625, else 1 - 2 / (exp(2|x|) + 1). NaN stays NaN.
static inline V tanh(V x) {
  const V size = max(x, sub(zero(), x));
  const V z = mul(x, x);
  V y = set1(-5.70498872745e-3f);
  y = fma(y, z, set1(2.06390887954e-2f));
  y = fma(y, z, set1(-5.37397155531e-2f));
  y = fma(y, z, set1(1.33314422036e-1f));
  y = fma(y, z, set1(-3.33332819422e-1f));
  const V near = fma(mul(y, z), x, x);
  const V far = sub(set1(1.0f), div(set1(2.0f), add(exp(add(size, size)), set1(1.0f))));
  return select_less(size, set1(0.625f), near, select_less(x, zero(), sub(zero(), far), far));
}

/// The logit cap c tanh(x / c).
static inline V soft_cap(V x, V cap, V inverse_cap) { return mul(cap, tanh(mul(x, inverse_cap))); }

/// Its derivative, from the capped value: 1 - (y / c)^2.
static inline V soft_cap_slope(V y, V inverse_cap) {
  const V t = mul(y, inverse_cap);
  return sub(set1(1.0f), mul(t, t));
}

}  // namespace ws::WS_NS
