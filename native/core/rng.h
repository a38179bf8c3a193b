// The counter-based random generator of the package: Philox4x32-10 (Salmon et al. 2011, the constants of Random123).
// A number is a pure function of (seed, stream, index); there is no state. TypeScript and CUDA have the same
// function (ts/src/base/rng.ts); all three must give the same bits.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define WS_ANYWHERE __host__ __device__
#else
#define WS_ANYWHERE
#endif

namespace ws {

struct Random4 {
  uint32_t x[4];
};

/// Ten rounds over a counter of four words with a key of two. Known answer: all zeros give
/// 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
WS_ANYWHERE static inline Random4 philox(Random4 counter, uint32_t key0, uint32_t key1) {
  Random4 c = counter;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c.x[0];
    const uint64_t b = static_cast<uint64_t>(0xCD9E8D57u) * c.x[2];
    c = {{static_cast<uint32_t>(b >> 32) ^ c.x[1] ^ key0, static_cast<uint32_t>(b),
          static_cast<uint32_t>(a >> 32) ^ c.x[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

/// Four random words: key = seed, counter = (index low, index high, stream, 0).
WS_ANYWHERE static inline Random4 random4(uint32_t seed_low, uint32_t seed_high, uint32_t stream, uint64_t index) {
  const Random4 counter = {{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream, 0u}};
  return philox(counter, seed_low, seed_high);
}

/// A number in [0, 1) of 53 random bits, from the first two words.
WS_ANYWHERE static inline double uniform53(Random4 r) {
  const uint64_t bits = (static_cast<uint64_t>(r.x[0] >> 5) << 26) | (r.x[1] >> 6);
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace ws
