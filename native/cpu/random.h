// Philox 4x32-10 (core/rng.h) for many counters side by side. A word lies in the lower half of a 64-bit lane: that is all
// that a product reads, so the upper half may hold anything and nothing is moved between rounds.
// Included by kernel files only; lives in their namespace.
#pragma once
#include "simd.h"

namespace ws::WS_NS {

#if WS_LEVEL >= 3
using Words = __m512i;
static inline Words words1(uint64_t x) { return _mm512_set1_epi64(static_cast<int64_t>(x)); }
static inline Words load_words(const uint64_t* p) { return _mm512_loadu_si512(p); }
static inline Words add_words(Words a, Words b) { return _mm512_add_epi64(a, b); }
/// The products of the lower halves.
static inline Words multiply_words(Words a, Words b) { return _mm512_mul_epu32(a, b); }
/// The upper half of a, exclusive or b, exclusive or c.
static inline Words mix_words(Words a, Words b, Words c) {
  return _mm512_ternarylogic_epi64(_mm512_srli_epi64(a, 32), b, c, 0x96);
}
/// The lower halves.
static inline void store_words(uint32_t* p, Words a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(a));
}
#elif WS_LEVEL == 2
using Words = __m256i;
static inline Words words1(uint64_t x) { return _mm256_set1_epi64x(static_cast<int64_t>(x)); }
static inline Words load_words(const uint64_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
static inline Words add_words(Words a, Words b) { return _mm256_add_epi64(a, b); }
static inline Words multiply_words(Words a, Words b) { return _mm256_mul_epu32(a, b); }
static inline Words mix_words(Words a, Words b, Words c) {
  return _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(a, 32), b), c);
}
static inline void store_words(uint32_t* p, Words a) {
  const __m256i low = _mm256_permutevar8x32_epi32(a, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(low));
}
#else
using Words = __m128i;
static inline Words words1(uint64_t x) { return _mm_set1_epi64x(static_cast<int64_t>(x)); }
static inline Words load_words(const uint64_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
static inline Words add_words(Words a, Words b) { return _mm_add_epi64(a, b); }
static inline Words multiply_words(Words a, Words b) { return _mm_mul_epu32(a, b); }
static inline Words mix_words(Words a, Words b, Words c) {
  return _mm_xor_si128(_mm_xor_si128(_mm_srli_epi64(a, 32), b), c);
}
static inline void store_words(uint32_t* p, Words a) {
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi32(a, 0x88));
}
#endif

constexpr int counters = 16;
constexpr int group_columns = 4 * counters;  // a counter gives four words, for columns 16 apart

/// Random words of columns [column, column + 64), column a multiple of 64: word w of counter j is that of column
/// column + 16 w + j. Counter: (index, column / 4 + j, stream, site).
static inline void random_columns(const int32_t* key, uint32_t site, int64_t column, uint32_t (&words)[group_columns]) {
  static const uint64_t first[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  constexpr int lanes = sizeof(Words) / 8, parts = counters / lanes;
  const auto word = [](int32_t x) { return words1(static_cast<uint32_t>(x)); };
  constexpr int together = 2;  // so that the words stay in registers
  for (int part = 0; part < parts; part += together) {
    Words x[4][together];
    for (int i = 0; i < together; ++i) {
      const uint32_t at = static_cast<uint32_t>(column / 4) + static_cast<uint32_t>((part + i) * lanes);
      x[0][i] = word(key[3]);
      x[1][i] = add_words(load_words(first), words1(at));
      x[2][i] = word(key[2]);
      x[3][i] = words1(site);
    }
    uint32_t key0 = static_cast<uint32_t>(key[0]), key1 = static_cast<uint32_t>(key[1]);
    WS_UNROLL
    for (int round = 0; round < 10; ++round) {
      const Words k0 = words1(key0), k1 = words1(key1);
      WS_EACH(together) {
        const Words a = multiply_words(x[0][i], words1(0xD2511F53u)), b = multiply_words(x[2][i], words1(0xCD9E8D57u));
        x[0][i] = mix_words(b, x[1][i], k0);
        x[1][i] = b;
        x[2][i] = mix_words(a, x[3][i], k1);
        x[3][i] = a;
      }
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    for (int w = 0; w < 4; ++w)
      WS_EACH(together) store_words(words + w * counters + (part + i) * lanes, x[w][i]);
  }
}

/// The same words counter by counter, four of each.
static inline void by_counter(const uint32_t (&words)[group_columns], uint32_t (&ordered)[group_columns]) {
  const auto load4 = [&](int i) { return _mm_loadu_ps(reinterpret_cast<const float*>(words + i)); };
  for (int j = 0; j < counters; j += 4) {
    __m128 a = load4(j), b = load4(counters + j), c = load4(2 * counters + j), d = load4(3 * counters + j);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    const __m128 rows[4] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) _mm_storeu_ps(reinterpret_cast<float*>(ordered + 4 * (j + i)), rows[i]);
  }
}

}  // namespace ws::WS_NS
