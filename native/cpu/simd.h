// One vector of floats at the width of the instruction set that a kernel file is compiled for. WS_LEVEL and WS_NS
// come from the build: 1 = x86-64-v2 (4 lanes, no FMA), 2 = AVX2+FMA (8), 3 = AVX-512 (16), 4 = 3 and AVX512-BF16,
// 5 = 4 and AMX. Tails use masked loads, never scalar code, so that an element's bits do not depend on where it lies.
// Horizontal sums have a fixed tree.
#pragma once

// GCC 12 believes that the intrinsics' "undefined" operands are a mistake (GCC bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "../core/view.h"

/// Unrolls the next loop fully, so that its arrays of vectors live in registers.
#if defined(__clang__)
#define WS_UNROLL _Pragma("unroll")
#define WS_UNROLL_BY_4 _Pragma("unroll 4")
#else
#define WS_UNROLL _Pragma("GCC unroll 32")
#define WS_UNROLL_BY_4 _Pragma("GCC unroll 4")
#endif
/// The same step for i in [0, count), side by side.
#define WS_EACH(count) WS_UNROLL for (int i = 0; i < (count); ++i)

namespace ws::WS_NS {

#if WS_LEVEL >= 3

constexpr int W = 16;
struct V {
  __m512 v;
};
static inline V set1(float x) { return {_mm512_set1_ps(x)}; }
static inline V zero() { return {_mm512_setzero_ps()}; }
static inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
static inline void stream(float* p, V a) { _mm512_stream_ps(p, a.v); }  // past the caches; p is aligned
static inline __mmask16 lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
/// First n lanes from memory, the rest zero; 0 <= n <= W.
static inline V load_n(const float* p, int n) { return {_mm512_maskz_loadu_ps(lanes(n), p)}; }
static inline void store_n(float* p, V a, int n) { _mm512_mask_storeu_ps(p, lanes(n), a.v); }
static inline V widen(__m256i h) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))}; }
static inline V load(const bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline V load_n(const bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(lanes(n), p)); }
/// Without the instruction: it has no denormal numbers.
static inline __m256i narrow_any(V a) {
  const __m512i u = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i some = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(some, 16));
}
#if WS_LEVEL >= 4
static inline __m256i narrow(V a) {
  if (__builtin_expect(_mm512_fpclass_ps_mask(a.v, 0x20), 0)) return narrow_any(a);
  return (__m256i)_mm512_cvtneps_pbh(a.v);
}
#else
static inline __m256i narrow(V a) { return narrow_any(a); }
#endif
static inline void store(bf16* p, V a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(a)); }
static inline void store_n(bf16* p, V a, int n) { _mm256_mask_storeu_epi16(p, lanes(n), narrow(a)); }
static inline V add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline V sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline V mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline V div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline V sqrt(V a) { return {_mm512_sqrt_ps(a.v)}; }
/// Returns b when either is NaN, as the instruction does.
static inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline V round(V a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
/// 2^n for integral n in [-126, 127].
static inline V pow2(V n) {
  const __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
}
/// a 2^n for integral n in [-126, 128], exact; overflows to infinity.
static inline V scale2(V a, V n) { return {_mm512_scalef_ps(a.v, n.v)}; }
/// a where x < y, else b.
static inline V select_less(V x, V y, V a, V b) {
  return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(x.v, y.v, _CMP_LT_OQ), a.v)};
}
/// Of pairs of bf16: the first ones as floats, and the second ones.
static inline V low_halves(V a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 16))}; }
static inline V high_halves(V a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(-65536)))};
}
/// The float that is n[lane] steps further from 0.
static inline V add_steps(V a, const uint16_t* n) {
  const __m512i steps = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(n)));
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), steps))};
}
/// Entries of a table of 16 by the numbers 0 .. 15 in the first W bytes.
static inline V look_up(const float* table, __m128i at) {
  return {_mm512_permutexvar_ps(_mm512_cvtepu8_epi32(at), _mm512_loadu_ps(table))};
}
/// The first half of the lanes from p, the second from q.
static inline V load_halves(const float* p, const float* q) {
  const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i both = _mm512_inserti64x4(low, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q)), 1);
  return {_mm512_castsi512_ps(both)};
}
/// Of 16 lines, r[i] has the first halves of lines p and p + 4, r[i + 8] the second ones, p = i + i / 4 * 4 for i < 8.
/// r becomes their transpose: lane j of r[i] is element i of line j.
static inline void transpose_halves(V* r) {
  __m512 t[16], u[16];
  WS_UNROLL
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i].v, r[i + 1].v);
    t[i + 1] = _mm512_unpackhi_ps(r[i].v, r[i + 1].v);
  }
  WS_UNROLL
  for (int i = 0; i < 16; i += 4) {
    u[i] = _mm512_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm512_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm512_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  // u[8 h + 4 g + c], 128-bit lane l: lines 8g + 4 (l / 2) and three more of column 8h + 4 (l % 2) + c.
  WS_UNROLL
  for (int h = 0; h < 16; h += 8) {
    WS_UNROLL
    for (int c = h; c < h + 4; ++c) {
      r[c].v = _mm512_shuffle_f32x4(u[c], u[c + 4], 0x88);
      r[c + 4].v = _mm512_shuffle_f32x4(u[c], u[c + 4], 0xdd);
    }
  }
}
/// r becomes its transpose: lane j of r[i] and lane i of r[j] change places.
static inline void transpose(V* r) {
  V halves[16];
  WS_EACH(8) {
    const int p = i + i / 4 * 4;
    halves[i].v = _mm512_shuffle_f32x4(r[p].v, r[p + 4].v, 0x44);
    halves[i + 8].v = _mm512_shuffle_f32x4(r[p].v, r[p + 4].v, 0xee);
  }
  transpose_halves(halves);
  WS_EACH(16) r[i] = halves[i];
}
/// r[i] becomes element i of 16 lines of 16, of which line j begins at at(j): a quarter fewer shuffles than for registers,
/// because halves come together as they are read.
template <class At>
[[gnu::always_inline]] static inline void load_transposed(At at, V* r) {
  WS_EACH(8) {
    const int p = i + i / 4 * 4;
    r[i] = load_halves(at(p), at(p + 4));
    r[i + 8] = load_halves(at(p) + 8, at(p + 4) + 8);
  }
  transpose_halves(r);
}

#elif WS_LEVEL == 2

constexpr int W = 8;
struct V {
  __m256 v;
};
static inline V set1(float x) { return {_mm256_set1_ps(x)}; }
static inline V zero() { return {_mm256_setzero_ps()}; }
static inline V load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, V a) { _mm256_storeu_ps(p, a.v); }
static inline void stream(float* p, V a) { _mm256_stream_ps(p, a.v); }  // past the caches; p is aligned
static inline __m256i lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline V load_n(const float* p, int n) { return {_mm256_maskload_ps(p, lanes(n))}; }
static inline void store_n(float* p, V a, int n) { _mm256_maskstore_ps(p, lanes(n), a.v); }
static inline V widen(__m128i h) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))}; }
static inline V load(const bf16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline V load_n(const bf16* p, int n) {
  uint16_t part[8] = {0};
  for (int i = 0; i < n; ++i) part[i] = p[i].bits;
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(part)));
}
static inline __m128i narrow(V a) {
  const __m256i u = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i r = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m256i packed = _mm256_packus_epi32(r, r);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}
static inline void store(bf16* p, V a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(a)); }
static inline void store_n(bf16* p, V a, int n) {
  uint16_t part[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(part), narrow(a));
  for (int i = 0; i < n; ++i) p[i].bits = part[i];
}
static inline V add(V a, V b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline V sub(V a, V b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline V mul(V a, V b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline V div(V a, V b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline V sqrt(V a) { return {_mm256_sqrt_ps(a.v)}; }
static inline V max(V a, V b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline V min(V a, V b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline V round(V a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline V pow2(V n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(e, 23))};
}
static inline V scale2(V a, V n) {
  // Two factors, because n may be 128.
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  const __m256i first = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return {_mm256_mul_ps(_mm256_mul_ps(a.v, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second))};
}
static inline V select_less(V x, V y, V a, V b) {
  return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(x.v, y.v, _CMP_LT_OQ))};
}
static inline V low_halves(V a) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.v), 16))}; }
static inline V high_halves(V a) {
  return {_mm256_and_ps(a.v, _mm256_castsi256_ps(_mm256_set1_epi32(-65536)))};
}
static inline V add_steps(V a, const uint16_t* n) {
  const __m256i steps = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(n)));
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), steps))};
}
static inline V look_up(const float* table, __m128i at) {
  const __m256i i = _mm256_cvtepu8_epi32(at);
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
  return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)))};
}
static inline V load_halves(const float* p, const float* q) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1)};
}
/// As above: of 8 lines, r[i] has the first halves of lines i and i + 4, r[i + 4] the second ones.
static inline void transpose_halves(V* r) {
  WS_UNROLL
  for (int h = 0; h < 8; h += 4) {
    const __m256 a = _mm256_unpacklo_ps(r[h].v, r[h + 1].v), b = _mm256_unpackhi_ps(r[h].v, r[h + 1].v);
    const __m256 c = _mm256_unpacklo_ps(r[h + 2].v, r[h + 3].v), d = _mm256_unpackhi_ps(r[h + 2].v, r[h + 3].v);
    r[h].v = _mm256_shuffle_ps(a, c, 0x44);
    r[h + 1].v = _mm256_shuffle_ps(a, c, 0xee);
    r[h + 2].v = _mm256_shuffle_ps(b, d, 0x44);
    r[h + 3].v = _mm256_shuffle_ps(b, d, 0xee);
  }
}
static inline void transpose(V* r) {
  V halves[8];
  WS_EACH(4) {
    halves[i].v = _mm256_permute2f128_ps(r[i].v, r[i + 4].v, 0x20);
    halves[i + 4].v = _mm256_permute2f128_ps(r[i].v, r[i + 4].v, 0x31);
  }
  transpose_halves(halves);
  WS_EACH(8) r[i] = halves[i];
}
template <class At>
[[gnu::always_inline]] static inline void load_transposed(At at, V* r) {
  WS_EACH(4) {
    r[i] = load_halves(at(i), at(i + 4));
    r[i + 4] = load_halves(at(i) + 4, at(i + 4) + 4);
  }
  transpose_halves(r);
}

#else

constexpr int W = 4;
struct V {
  __m128 v;
};
static inline V set1(float x) { return {_mm_set1_ps(x)}; }
static inline V zero() { return {_mm_setzero_ps()}; }
static inline V load(const float* p) { return {_mm_loadu_ps(p)}; }
static inline void store(float* p, V a) { _mm_storeu_ps(p, a.v); }
static inline void stream(float* p, V a) { _mm_stream_ps(p, a.v); }  // past the caches; p is aligned
static inline V load_n(const float* p, int n) {
  float part[4] = {0, 0, 0, 0};
  for (int i = 0; i < n; ++i) part[i] = p[i];
  return load(part);
}
static inline void store_n(float* p, V a, int n) {
  float part[4];
  store(part, a);
  for (int i = 0; i < n; ++i) p[i] = part[i];
}
static inline V widen(__m128i h) { return {_mm_castsi128_ps(_mm_slli_epi32(_mm_cvtepu16_epi32(h), 16))}; }
static inline V load(const bf16* p) { return widen(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
static inline V load_n(const bf16* p, int n) {
  uint16_t part[8] = {0};
  for (int i = 0; i < n; ++i) part[i] = p[i].bits;
  return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(part)));
}
static inline __m128i narrow(V a) {
  const __m128i u = _mm_castps_si128(a.v);
  const __m128i odd = _mm_and_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(1));
  const __m128i rounded = _mm_srli_epi32(_mm_add_epi32(u, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff))), 16);
  const __m128i quiet = _mm_or_si128(_mm_srli_epi32(u, 16), _mm_set1_epi32(0x40));
  const __m128i r = _mm_blendv_epi8(rounded, quiet, _mm_castps_si128(_mm_cmpunord_ps(a.v, a.v)));
  return _mm_packus_epi32(r, r);
}
static inline void store(bf16* p, V a) { _mm_storel_epi64(reinterpret_cast<__m128i*>(p), narrow(a)); }
static inline void store_n(bf16* p, V a, int n) {
  uint16_t part[8];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(part), narrow(a));
  for (int i = 0; i < n; ++i) p[i].bits = part[i];
}
static inline V add(V a, V b) { return {_mm_add_ps(a.v, b.v)}; }
static inline V sub(V a, V b) { return {_mm_sub_ps(a.v, b.v)}; }
static inline V mul(V a, V b) { return {_mm_mul_ps(a.v, b.v)}; }
static inline V div(V a, V b) { return {_mm_div_ps(a.v, b.v)}; }
static inline V fma(V a, V b, V c) { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }
static inline V sqrt(V a) { return {_mm_sqrt_ps(a.v)}; }
static inline V max(V a, V b) { return {_mm_max_ps(a.v, b.v)}; }
static inline V min(V a, V b) { return {_mm_min_ps(a.v, b.v)}; }
static inline V round(V a) { return {_mm_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
static inline V pow2(V n) {
  const __m128i e = _mm_add_epi32(_mm_cvtps_epi32(n.v), _mm_set1_epi32(127));
  return {_mm_castsi128_ps(_mm_slli_epi32(e, 23))};
}
static inline V scale2(V a, V n) {
  const __m128i whole = _mm_cvtps_epi32(n.v), half = _mm_srai_epi32(whole, 1), bias = _mm_set1_epi32(127);
  const __m128i first = _mm_slli_epi32(_mm_add_epi32(half, bias), 23);
  const __m128i second = _mm_slli_epi32(_mm_add_epi32(_mm_sub_epi32(whole, half), bias), 23);
  return {_mm_mul_ps(_mm_mul_ps(a.v, _mm_castsi128_ps(first)), _mm_castsi128_ps(second))};
}
static inline V select_less(V x, V y, V a, V b) { return {_mm_blendv_ps(b.v, a.v, _mm_cmplt_ps(x.v, y.v))}; }
static inline V low_halves(V a) { return {_mm_castsi128_ps(_mm_slli_epi32(_mm_castps_si128(a.v), 16))}; }
static inline V high_halves(V a) {
  return {_mm_and_ps(a.v, _mm_castsi128_ps(_mm_set1_epi32(-65536)))};
}
static inline V add_steps(V a, const uint16_t* n) {
  const __m128i steps = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(n)));
  return {_mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(a.v), steps))};
}
static inline V look_up(const float* table, __m128i at) {
  const uint32_t i = static_cast<uint32_t>(_mm_cvtsi128_si32(at));
  return {_mm_setr_ps(table[i & 255], table[i >> 8 & 255], table[i >> 16 & 255], table[i >> 24])};
}
static inline void transpose(V* r) { _MM_TRANSPOSE4_PS(r[0].v, r[1].v, r[2].v, r[3].v); }
template <class At>
static inline void load_transposed(At at, V* r) {
  WS_EACH(4) r[i] = load(at(i));
  transpose(r);
}

#endif

/// Sum of the lanes by halving: lane i with lane i + W/2, and so on.
static inline float hsum(V a) {
  float x[W];
  store(x, a);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

static inline float hmax(V a) {
  float x[W];
  store(x, a);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
}

/// exp() of N vectors; with `low`, of numbers up to 88 only, for which 2^n is one factor.
template <bool low, int N>
static inline void exp_lanes(V (&x)[N]) {
  const V least = set1(-87.33654f);
  V n[N], r[N], y[N];
  WS_EACH(N) r[i] = max(least, x[i]);
  if constexpr (!low) WS_EACH(N) r[i] = min(set1(89.0f), r[i]);
  WS_EACH(N) n[i] = round(mul(r[i], set1(1.44269504088896341f)));
  WS_EACH(N) r[i] = fma(n[i], set1(-0.693359375f), r[i]);
  WS_EACH(N) r[i] = fma(n[i], set1(2.12194440e-4f), r[i]);
  WS_EACH(N) y[i] = fma(set1(1.9875691500e-4f), r[i], set1(1.3981999507e-3f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(8.3334519073e-3f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(4.1665795894e-2f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(1.6666665459e-1f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(5.0000001201e-1f));
  WS_EACH(N) y[i] = add(fma(mul(r[i], r[i]), y[i], r[i]), set1(1.0f));
  WS_EACH(N) y[i] = low && WS_LEVEL < 3 ? mul(y[i], pow2(n[i])) : scale2(y[i], n[i]);
  WS_EACH(N) x[i] = select_less(x[i], least, zero(), y[i]);
}

/// exp(x) to about 1 ulp, for N vectors side by side (the chain is long, four fill the processor): x = n ln 2 + r,
/// degree-6 polynomial in r. Below -87.3 (and for -inf) the result is 0, from 88.73 it is +inf; NaN stays NaN. There
/// are no denormal results. A lane's bits do not depend on N.
template <int N>
static inline void exp(V (&x)[N]) {
  exp_lanes<false>(x);
}

/// The same bits in less time for x up to 88: what is a softmax's, relative to its top, or a log-probability.
template <int N>
static inline void exp_low(V (&x)[N]) {
  exp_lanes<true>(x);
}

static inline V exp(V x) {
  V one[1] = {x};
  exp(one);
  return one[0];
}

static inline V exp_low(V x) {
  V one[1] = {x};
  exp_low(one);
  return one[0];
}

/// The same arithmetic for one number, so that scalar and vector code agree.
static inline float exp1(float x) {
  float y[W];
  store(y, exp(set1(x)));
  return y[0];
}

}  // namespace ws::WS_NS
