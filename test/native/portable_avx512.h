// The AVX-512 instructions that the kernels use, as functions over AVX2: for builds with WS_PORTABLE_SIMD, which run the
// levels avx512, avx512bf16 and amx on machines that lack them. Included before everything else (CMakeLists.txt), so that
// kernel files stay as they are. Bits are the instructions' own (Intel's SDM); time is not. A vector is two halves;
// masked accesses touch no memory of lanes that are off.
#pragma once
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>
#include <cstring>

namespace portable {

struct Wide {
  __m256i low, high;
};

static inline __m256 floats(__m256i x) { return _mm256_castsi256_ps(x); }
static inline __m256i bits(__m256 x) { return _mm256_castps_si256(x); }
static inline Wide wide(__m256 low, __m256 high) { return {bits(low), bits(high)}; }
template <class F>
static inline Wide each(F f, Wide a) { return {f(a.low), f(a.high)}; }
template <class F>
static inline Wide each(F f, Wide a, Wide b) { return {f(a.low, b.low), f(a.high, b.high)}; }
template <class F>
static inline Wide each_ps(F f, Wide a, Wide b) {
  return wide(f(floats(a.low), floats(b.low)), f(floats(a.high), floats(b.high)));
}
static inline __m256i and256(__m256i a, __m256i b) { return _mm256_and_si256(a, b); }
static inline __m256i or256(__m256i a, __m256i b) { return _mm256_or_si256(a, b); }
static inline __m256i ones(int x) { return _mm256_set1_epi32(x); }

template <int Table>
static inline Wide xor_of_three(Wide a, Wide b, Wide c) {
  static_assert(Table == 0x96);
  const auto differ = [](__m256i x, __m256i y) { return _mm256_xor_si256(x, y); };
  return each(differ, each(differ, a, b), c);
}

// Memory and masks ----------------------------------------------------------------------------------------------------

static inline const __m256i* at(const void* p, int byte = 0) {
  return reinterpret_cast<const __m256i*>(static_cast<const char*>(p) + byte);
}
static inline Wide loadu(const void* p) { return {_mm256_loadu_si256(at(p)), _mm256_loadu_si256(at(p, 32))}; }
static inline void storeu(void* p, Wide a) {
  _mm256_storeu_si256(const_cast<__m256i*>(at(p)), a.low);
  _mm256_storeu_si256(const_cast<__m256i*>(at(p, 32)), a.high);
}
/// All bits of the 32-bit lanes whose bits of k are set.
static inline __m256i lanes(unsigned k) {
  const __m256i one = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(and256(ones(static_cast<int>(k & 255)), one), one);
}
static inline Wide blend(Wide off, unsigned k, Wide on) {
  return {_mm256_blendv_epi8(off.low, on.low, lanes(k)), _mm256_blendv_epi8(off.high, on.high, lanes(k >> 8))};
}
static inline Wide maskz_loadu_ps(unsigned k, const float* p) {
  return wide(_mm256_maskload_ps(p, lanes(k)), _mm256_maskload_ps(p + 8, lanes(k >> 8)));
}
static inline void mask_storeu_ps(float* p, unsigned k, Wide a) {
  _mm256_maskstore_ps(p, lanes(k), floats(a.low));
  _mm256_maskstore_ps(p + 8, lanes(k >> 8), floats(a.high));
}
template <class Result, int Words>
static inline Result maskz_loadu_epi16(uint32_t k, const void* p) {
  uint16_t some[Words] = {};
  for (int i = 0; i < Words; ++i) {
    if (k >> i & 1) std::memcpy(some + i, static_cast<const char*>(p) + 2 * i, 2);
  }
  Result out;
  std::memcpy(&out, some, sizeof out);
  return out;
}
static inline void mask_storeu_epi16(void* p, unsigned k, __m256i a) {
  uint16_t all[16];
  std::memcpy(all, &a, sizeof all);
  for (int i = 0; i < 16; ++i) {
    if (k >> i & 1) std::memcpy(static_cast<char*>(p) + 2 * i, all + i, 2);
  }
}

// Numbers -------------------------------------------------------------------------------------------------------------

static inline Wide fmadd(Wide a, Wide b, Wide c) {
  return wide(_mm256_fmadd_ps(floats(a.low), floats(b.low), floats(c.low)),
              _mm256_fmadd_ps(floats(a.high), floats(b.high), floats(c.high)));
}
static inline Wide sqrt(Wide a) { return wide(_mm256_sqrt_ps(floats(a.low)), _mm256_sqrt_ps(floats(a.high))); }
template <int Mode>
static inline Wide roundscale(Wide a) {
  static_assert(Mode == (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  return wide(_mm256_round_ps(floats(a.low), Mode), _mm256_round_ps(floats(a.high), Mode));
}
static inline Wide cvtps_epi32(Wide a) { return {_mm256_cvtps_epi32(floats(a.low)), _mm256_cvtps_epi32(floats(a.high))}; }
/// x - floor(x), 0 of infinities.
template <int Mode>
static inline Wide reduce(Wide a) {
  static_assert(Mode == 9);
  const auto half = [](__m256i any) {
    const __m256 big = _mm256_set1_ps(1e30f), low = _mm256_max_ps(_mm256_set1_ps(-1e30f), floats(any));
    const __m256 x = _mm256_min_ps(big, low);
    return bits(_mm256_sub_ps(x, _mm256_floor_ps(x)));
  };
  return each(half, a);
}
/// a 2^floor(n): two factors, exact unless the result is denormal, for results below 2^254.
static inline Wide scalef(Wide a, Wide n) {
  const auto half = [](__m256i x, __m256i power) {
    const __m256 low = _mm256_max_ps(_mm256_set1_ps(-252), floats(power)), all = _mm256_min_ps(_mm256_set1_ps(254), low);
    const __m256i whole = _mm256_cvtps_epi32(_mm256_floor_ps(all)), first = _mm256_srai_epi32(whole, 1);
    const auto power2 = [](__m256i e) { return floats(_mm256_slli_epi32(_mm256_add_epi32(e, ones(127)), 23)); };
    return bits(_mm256_mul_ps(_mm256_mul_ps(floats(x), power2(first)), power2(_mm256_sub_epi32(whole, first))));
  };
  return each(half, a, n);
}
template <int Predicate>
static inline __mmask16 cmp_ps_mask(Wide a, Wide b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(floats(a.low), floats(b.low), Predicate));
  return static_cast<__mmask16>(low | _mm256_movemask_ps(_mm256_cmp_ps(floats(a.high), floats(b.high), Predicate)) << 8);
}
/// Denormal numbers keep nothing but their sign.
static inline __m256i flush(__m256i x) {
  const __m256i tiny = _mm256_cmpeq_epi32(and256(x, ones(0x7f800000)), ones(0));
  return _mm256_blendv_epi8(x, and256(x, ones(INT32_MIN)), tiny);
}
template <int Classes>
static inline __mmask16 fpclass_ps_mask(Wide a) {
  static_assert(Classes == 0x20, "denormal numbers");
  const auto half = [](__m256i x) { return 255 & ~_mm256_movemask_ps(floats(_mm256_cmpeq_epi32(x, flush(x)))); };
  return static_cast<__mmask16>(half(a.low) | half(a.high) << 8);
}

// Words of 16 bits ----------------------------------------------------------------------------------------------------

static inline Wide widen_words(__m256i h) {
  return {_mm256_cvtepu16_epi32(_mm256_castsi256_si128(h)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1))};
}
static inline Wide widen_bytes(__m128i b) {
  return {_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_srli_si128(b, 8))};
}
/// Lanes of b by the lower four bits of those of order.
static inline Wide pick_lanes(Wide order, Wide b) {
  const auto half = [&](__m256i i) {
    const __m256 low = _mm256_permutevar8x32_ps(floats(b.low), i), high = _mm256_permutevar8x32_ps(floats(b.high), i);
    return bits(_mm256_blendv_ps(low, high, floats(_mm256_slli_epi32(i, 28))));
  };
  return {half(order.low), half(order.high)};
}
/// The lower halves of the lanes.
static inline __m256i narrow_words(Wide a) {
  const __m256i both = _mm256_packus_epi32(and256(a.low, ones(0xffff)), and256(a.high, ones(0xffff)));
  return _mm256_permute4x64_epi64(both, 0xd8);
}
/// The lower halves of lanes of 64 bits.
static inline __m256i narrow_lanes(Wide a) {
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
  const __m256i low = _mm256_permutevar8x32_epi32(a.low, order), high = _mm256_permutevar8x32_epi32(a.high, order);
  return _mm256_blend_epi32(low, high, 0xf0);
}
/// To bf16, to nearest even, denormal numbers to zero, NaN quiet.
static inline __m256i round_words(Wide a) {
  const auto half = [](__m256i any) {
    const __m256i x = flush(any), odd = and256(_mm256_srli_epi32(x, 16), ones(1));
    const __m256i rounded = _mm256_add_epi32(x, _mm256_add_epi32(odd, ones(0x7fff)));
    const __m256i nan = bits(_mm256_cmp_ps(floats(x), floats(x), _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, or256(x, ones(0x400000)), nan), 16);
  };
  return narrow_words(each(half, a));
}
/// Odd halves first, then even ones; operands and results without denormal numbers.
static inline Wide dot_words(Wide c, Wide a, Wide b) {
  const auto step = [](__m256i x, __m256i y, __m256i sum) {
    return flush(bits(_mm256_fmadd_ps(floats(flush(x)), floats(flush(y)), floats(sum))));
  };
  const auto half = [&](__m256i x, __m256i y, __m256i sum) {
    const __m256i upper = ones(static_cast<int>(0xffff0000u));
    const __m256i odd = step(and256(x, upper), and256(y, upper), flush(sum));
    return step(_mm256_slli_epi32(x, 16), _mm256_slli_epi32(y, 16), odd);
  };
  return {half(a.low, b.low, c.low), half(a.high, b.high, c.high)};
}
static inline Wide pick_words(Wide order, Wide first, Wide second) {
  uint16_t from[64], index[32], to[32];
  storeu(from, first);
  storeu(from + 32, second);
  storeu(index, order);
  for (int i = 0; i < 32; ++i) to[i] = from[index[i] & 63];
  return loadu(to);
}

// Changes of place ----------------------------------------------------------------------------------------------------

/// Of four lanes of 128 bits each: two of a, two of b.
template <int Choice>
static inline Wide shuffle_lanes(Wide a, Wide b) {
  __m128i from[8], to[4];
  storeu(from, a);
  storeu(from + 4, b);
  for (int i = 0; i < 4; ++i) to[i] = from[(Choice >> 2 * i & 3) + (i < 2 ? 0 : 4)];
  return loadu(to);
}
template <int Lane>
static inline Wide insert_lane(Wide a, __m128i b) {
  if (Lane < 2) return {_mm256_inserti128_si256(a.low, b, Lane % 2), a.high};
  return {a.low, _mm256_inserti128_si256(a.high, b, Lane % 2)};
}
template <int Half>
static inline Wide insert_half(Wide a, __m256i b) { return Half == 0 ? Wide{b, a.high} : Wide{a.low, b}; }
template <class... T>
static inline Wide words_of(T... from_last) {
  const uint16_t reversed[] = {static_cast<uint16_t>(from_last)...};
  uint16_t all[32];
  for (int i = 0; i < 32; ++i) all[i] = reversed[31 - i];
  return loadu(all);
}
template <class... T>
static inline Wide numbers_of(T... from_last) {
  const int32_t reversed[] = {static_cast<int32_t>(from_last)...};
  int32_t all[16];
  for (int i = 0; i < 16; ++i) all[i] = reversed[15 - i];
  return loadu(all);
}

}  // namespace portable

#define __m512 portable::Wide
#define __m512i portable::Wide
#define __m512bh portable::Wide

#define WS_ON_HALVES(instruction) [](__m256i x, __m256i y) { return instruction(x, y); }
#define WS_ON_FLOATS(instruction) [](__m256 x, __m256 y) { return instruction(x, y); }

#define _mm512_loadu_ps portable::loadu
#define _mm512_loadu_si512 portable::loadu
#define _mm512_storeu_ps portable::storeu
#define _mm512_maskz_loadu_ps portable::maskz_loadu_ps
#define _mm512_mask_storeu_ps portable::mask_storeu_ps
#define _mm512_maskz_loadu_epi16 portable::maskz_loadu_epi16<portable::Wide, 32>
#define _mm256_maskz_loadu_epi16 portable::maskz_loadu_epi16<__m256i, 16>
#define _mm256_mask_storeu_epi16 portable::mask_storeu_epi16

#define _mm512_setzero_ps() (portable::Wide{_mm256_setzero_si256(), _mm256_setzero_si256()})
#define _mm512_setzero_si512 _mm512_setzero_ps
#define _mm512_set1_ps(x) (portable::wide(_mm256_set1_ps(x), _mm256_set1_ps(x)))
#define _mm512_set1_epi16(x) (portable::Wide{_mm256_set1_epi16(x), _mm256_set1_epi16(x)})
#define _mm512_set1_epi32(x) (portable::Wide{_mm256_set1_epi32(x), _mm256_set1_epi32(x)})
#define _mm512_set1_epi64(x) (portable::Wide{_mm256_set1_epi64x(x), _mm256_set1_epi64x(x)})
#define _mm512_set_epi16 portable::words_of
#define _mm512_set_epi32 portable::numbers_of
#define _mm512_castsi512_ps(a) (a)
#define _mm512_castps_si512(a) (a)
#define _mm512_castps512_ps256(a) portable::floats((a).low)
#define _mm512_extractf32x8_ps(a, half) portable::floats((half) == 1 ? (a).high : (a).low)

#define _mm512_add_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_add_ps), a, b)
#define _mm512_sub_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_sub_ps), a, b)
#define _mm512_mul_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_mul_ps), a, b)
#define _mm512_div_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_div_ps), a, b)
#define _mm512_max_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_max_ps), a, b)
#define _mm512_min_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_min_ps), a, b)
#define _mm512_fmadd_ps portable::fmadd
#define _mm512_sqrt_ps portable::sqrt
#define _mm512_roundscale_ps(a, mode) portable::roundscale<mode>(a)
#define _mm512_reduce_ps(a, mode) portable::reduce<mode>(a)
#define _mm512_scalef_ps portable::scalef
#define _mm512_cvtps_epi32 portable::cvtps_epi32
#define _mm512_cmp_ps_mask(a, b, predicate) portable::cmp_ps_mask<predicate>(a, b)
#define _mm512_fpclass_ps_mask(a, classes) portable::fpclass_ps_mask<classes>(a)
#define _mm512_mask_mov_ps portable::blend
#define _mm512_mask_or_epi32(off, k, a, b) portable::blend(off, k, _mm512_or_si512(a, b))

#define _mm512_and_si512(a, b) portable::each(portable::and256, a, b)
#define _mm512_or_si512(a, b) portable::each(portable::or256, a, b)
#define _mm512_add_epi16(a, b) portable::each(WS_ON_HALVES(_mm256_add_epi16), a, b)
#define _mm512_add_epi32(a, b) portable::each(WS_ON_HALVES(_mm256_add_epi32), a, b)
#define _mm512_add_epi64(a, b) portable::each(WS_ON_HALVES(_mm256_add_epi64), a, b)
#define _mm512_mul_epu32(a, b) portable::each(WS_ON_HALVES(_mm256_mul_epu32), a, b)
#define _mm512_slli_epi32(a, n) portable::each([](__m256i x) { return _mm256_slli_epi32(x, n); }, a)
#define _mm512_srli_epi32(a, n) portable::each([](__m256i x) { return _mm256_srli_epi32(x, n); }, a)
#define _mm512_srli_epi64(a, n) portable::each([](__m256i x) { return _mm256_srli_epi64(x, n); }, a)
#define _mm256_rol_epi32(a, n) portable::or256(_mm256_slli_epi32(a, n), _mm256_srli_epi32(a, 32 - (n)))
#define _mm512_rol_epi32(a, n) _mm512_or_si512(_mm512_slli_epi32(a, n), _mm512_srli_epi32(a, 32 - (n)))
#define _mm512_ternarylogic_epi64(a, b, c, table) portable::xor_of_three<table>(a, b, c)

#define _mm512_cvtepu16_epi32 portable::widen_words
#define _mm512_cvtepu8_epi32 portable::widen_bytes
#define _mm512_permutexvar_ps portable::pick_lanes
#define _mm512_cvtepi32_epi16 portable::narrow_words
#define _mm512_cvtepi64_epi32 portable::narrow_lanes
#define _mm512_cvtneps_pbh portable::round_words
#define _mm512_cvtne2ps_pbh(high, low) (portable::Wide{portable::round_words(low), portable::round_words(high)})
#define _mm512_dpbf16_ps portable::dot_words
#define _mm512_permutex2var_epi16(a, order, b) portable::pick_words(order, a, b)
#define _mm512_permutexvar_epi16(order, a) portable::pick_words(order, a, a)

#define _mm512_unpacklo_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_unpacklo_ps), a, b)
#define _mm512_unpackhi_ps(a, b) portable::each_ps(WS_ON_FLOATS(_mm256_unpackhi_ps), a, b)
#define _mm512_unpacklo_epi16(a, b) portable::each(WS_ON_HALVES(_mm256_unpacklo_epi16), a, b)
#define _mm512_unpackhi_epi16(a, b) portable::each(WS_ON_HALVES(_mm256_unpackhi_epi16), a, b)
#define _mm512_unpacklo_epi32(a, b) portable::each(WS_ON_HALVES(_mm256_unpacklo_epi32), a, b)
#define _mm512_unpackhi_epi32(a, b) portable::each(WS_ON_HALVES(_mm256_unpackhi_epi32), a, b)
#define _mm512_unpacklo_epi64(a, b) portable::each(WS_ON_HALVES(_mm256_unpacklo_epi64), a, b)
#define _mm512_unpackhi_epi64(a, b) portable::each(WS_ON_HALVES(_mm256_unpackhi_epi64), a, b)
#define _mm512_castsi128_si512(a) (portable::Wide{_mm256_castsi128_si256(a), _mm256_setzero_si256()})
#define _mm512_castsi256_si512(a) (portable::Wide{a, _mm256_setzero_si256()})
#define _mm512_inserti64x4(a, b, half) portable::insert_half<half>(a, b)
#define _mm512_inserti32x4(a, b, lane) portable::insert_lane<lane>(a, b)
#define _mm512_shuffle_ps(a, b, choice) \
  portable::each_ps([](__m256 x, __m256 y) { return _mm256_shuffle_ps(x, y, choice); }, a, b)
#define _mm512_shuffle_f32x4(a, b, choice) portable::shuffle_lanes<choice>(a, b)
