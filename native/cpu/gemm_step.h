// What one step of a product's inner sum is, and how vectors of steps are read from matrices: Singles is one element of
// each operand and a fused multiply-add; Pairs (WS_LEVEL 4: AVX512-BF16) is two elements and one VDPBF16PS.
// Included by gemm.cpp only. A unit is what packed memory holds for a step: four bytes either way.
//
// VDPBF16PS is two fused multiply-adds one after the other, first of the odd halves, then of the even ones, each
// rounded to nearest even (Intel SDM; gemm_test compares it). With the earlier element in the odd half that is the
// chain c = fma(a[k], b[k], c) two steps at a time, with the same bits. One difference: whatever MXCSR says, denormal
// operands count as zero and denormal results become zero, so everything below 1.2e-38 is lost.
//
// The second element that an odd length lacks is (-0) (+0), a's and b's: that leaves every c as it is, also c = -0.
#pragma once
#include "simd.h"

namespace ws::WS_NS {

static inline V multiply_add(float, V a, V b, V c) { return fma(a, b, c); }
static inline void store_rounded(float, bf16* p, V sums) { store(p, sums); }

/// Steps of one element of type T. Vectors hold W lines at one step (across) or W steps of one line (along).
template <class T, class U = float>
struct Singles {
  using Element = T;
  using Unit = U;
  static constexpr int per = 1;  // elements of a step
  static V along(const T* p) { return load(p); }
  static V along(const T* p, int64_t n) { return load_n(p, static_cast<int>(n)); }
  static V across(const T* p, int64_t, bool) { return load(p); }
  static V across(const T* p, int64_t, bool, int n) { return load_n(p, n); }
  static float unit(const T* p, int64_t, bool) { return to_float(*p); }
  template <int N>
  static void columns(const T* p, int64_t, bool, V (&x)[N]) {
    WS_EACH(N) x[i] = load(p + i * W);
  }
};

#if WS_LEVEL >= 4

/// Two elements of a line in packed memory. A vector of them is a V that is only moved, and multiplied below.
struct Pair {
  bf16 low, high;
};

static inline V multiply_add(Pair, V a, V b, V c) { return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)}; }

/// The bits of store(), which differs for denormal numbers only; sums of pairs are none.
static inline void store_rounded(Pair, bf16* p, V sums) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(sums.v));
}

static inline V pairs(__m512i bits) { return {_mm512_castsi512_ps(bits)}; }
static inline V load(const Pair* p) { return pairs(_mm512_loadu_si512(p)); }
static inline V set1(Pair p) {
  int32_t bits;
  std::memcpy(&bits, &p, 4);
  return pairs(_mm512_set1_epi32(bits));
}

static inline const __m256i* words(const bf16* p) { return reinterpret_cast<const __m256i*>(p); }

/// Steps of two elements that are `next` apart; `both`: the second one exists, else it is zero. Earlier: the half of
/// the four bytes that has the earlier element, 1 for VDPBF16PS, 0 for tiles, which take pairs as they are in memory.
template <int Earlier>
struct PairsOf {
  using Element = bf16;
  using Unit = Pair;
  static constexpr int per = 2;
  static V turned(__m512i x) { return pairs(Earlier == 1 ? _mm512_rol_epi32(x, 16) : x); }
  static V turned(V x) { return turned(_mm512_castps_si512(x.v)); }
  static V join(__m256i first, __m256i second) {
    const __m256i high = Earlier == 1 ? first : second, low = Earlier == 1 ? second : first;
    return pairs(_mm512_or_si512(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16), _mm512_cvtepu16_epi32(low)));
  }
  static V along(const bf16* p) { return turned(_mm512_loadu_si512(p)); }
  static V along(const bf16* p, int64_t n) {
    const __mmask32 some = static_cast<__mmask32>((uint64_t{1} << n) - 1);
    return turned(_mm512_maskz_loadu_epi16(some, p));
  }
  static V across(const bf16* p, int64_t next, bool both) {
    return join(_mm256_loadu_si256(words(p)), both ? _mm256_loadu_si256(words(p + next)) : _mm256_setzero_si256());
  }
  static V across(const bf16* p, int64_t next, bool both, int n) {
    const __m256i second = both ? _mm256_maskz_loadu_epi16(lanes(n), p + next) : _mm256_setzero_si256();
    return join(_mm256_maskz_loadu_epi16(lanes(n), p), second);
  }
  static Pair unit(const bf16* p, int64_t next, bool both) {
    const bf16 other = both ? p[next] : bf16{0};
    return Earlier == 1 ? Pair{other, p[0]} : Pair{p[0], other};
  }
  static void columns(const bf16* p, int64_t next, bool both, V (&x)[1]) { x[0] = across(p, next, both); }
  static void columns(const bf16* p, int64_t next, bool both, V (&x)[2]) {
    // Words 0-15 and 16-31 of both rows in turn, b's word below a's.
    const __m512i low = _mm512_set_epi32(0x000f002f, 0x000e002e, 0x000d002d, 0x000c002c, 0x000b002b, 0x000a002a,
                                         0x00090029, 0x00080028, 0x00070027, 0x00060026, 0x00050025, 0x00040024,
                                         0x00030023, 0x00020022, 0x00010021, 0x00000020);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    const __m512i first = _mm512_loadu_si512(p), second = both ? _mm512_loadu_si512(p + next) : _mm512_setzero_si512();
    const __m512i a = Earlier == 1 ? first : second, b = Earlier == 1 ? second : first;
    x[0] = pairs(_mm512_permutex2var_epi16(a, low, b));
    x[1] = pairs(_mm512_permutex2var_epi16(a, high, b));
  }
};
using Pairs = PairsOf<1>;
using PairsInOrder = PairsOf<0>;

#endif

}  // namespace ws::WS_NS
