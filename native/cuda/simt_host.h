// simt.h on the host: declarations of the emulator's functions (emulator.cpp) and what needs no emulation. Included by
// simt.h only. Each function that waits knows the line that called it, for reports and for mutation tests.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#ifndef WS_EMULATED
#include "entry.h"
#endif

#define WS_DEVICE inline
#define WS_UNROLL
#define WS_UNROLL_BY(n)

/// In the emulator's library a kernel is its body, found by name; in the addon it is what its op's entry launches, and
/// the body is compiled away.
#ifdef WS_EMULATED
#define WS_KERNEL(name, threads, Arguments, a)                                                              \
  static void name(const Arguments& a);                                                                     \
  static const Emulated name##_emulated(                                                                    \
      #name, threads, [](const void* arguments) { name(*static_cast<const Arguments*>(arguments)); }); \
  static void name([[maybe_unused]] const Arguments& a)
#else
#define WS_KERNEL(name, threads, Arguments, a)                                       \
  [[maybe_unused]] static const HostKernel name = {{#name}, threads, sizeof(Arguments)}; \
  [[maybe_unused]] static void name##_body([[maybe_unused]] const Arguments& a)
#endif
#define WS_KERNEL_RESIDENT(name, threads, resident, Arguments, a) WS_KERNEL(name, threads, Arguments, a)

namespace ws::cuda {

/// Tells the emulator of a kernel.
struct Emulated {
  Emulated(const char* name, uint32_t threads, void (*body)(const void*));
};

struct Place {
  int32_t x, y, z;
};

/// Where a wait is in the sources.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

int thread();
Place block();
Place blocks();
int block_threads();
char* shared();

void barrier(Site site = Site::here());
void barrier(int id, int threads, Site site = Site::here());
void warp_barrier(Site site = Site::here());

namespace emulator {

/// Each lane gives a word and a lane to read from; all 32 must come to the same line.
uint32_t exchange(uint32_t word, int from, Site site);
uint32_t vote(bool b, Site site);
void load_matrix4(uint32_t* r, const void* row, bool transposed, Site site);
void multiply(float* c, const uint32_t* a, const uint32_t* b, Site site);
void wait_for_copies(int left, Site site);

}  // namespace emulator

template <class T>
inline T shuffle(T v, int from, Site site = Site::here()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) {
    return std::bit_cast<T>(emulator::exchange(std::bit_cast<uint32_t>(v), from, site));
  } else {
    const uint64_t word = std::bit_cast<uint64_t>(v);
    const uint64_t low = emulator::exchange(static_cast<uint32_t>(word), from, site);
    return std::bit_cast<T>(low | static_cast<uint64_t>(emulator::exchange(word >> 32, from, site)) << 32);
  }
}
template <class T>
inline T shuffle_xor(T v, int mask, Site site = Site::here()) {
  return shuffle(v, (thread() & 31) ^ mask, site);
}
inline uint32_t ballot(bool b, Site site = Site::here()) { return emulator::vote(b, site); }

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t as_bits(float x) { return std::bit_cast<uint32_t>(x); }
inline uint32_t computed_anew(uint32_t x) { return x; }
inline void put_aside(Quad* p, const Quad& q) { *p = q; }
inline Quad taken(const Quad* p) { return *p; }
/// As cvt.rn.bf16.f32: every NaN becomes 7fff.
inline bf16 round_bf16(float x) { return x == x ? to_bf16(x) : bf16{0x7fff}; }
inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline float larger(float a, float b) { return std::fmax(a, b); }
inline float smaller(float a, float b) { return std::fmin(a, b); }
inline float root(float x) { return std::sqrt(x); }
inline double root(double x) { return std::sqrt(x); }
inline float exponential(float x) { return std::exp(x); }
inline float logarithm(float x) { return std::log(x); }
inline float logarithm_1p(float x) { return std::log1p(x); }
inline float hyperbolic_tangent(float x) { return std::tanh(x); }
inline float fast_exp2(float x) { return std::exp2(x); }

inline void load_matrix4(uint32_t (&r)[4], const void* row, Site site = Site::here()) {
  emulator::load_matrix4(r, row, false, site);
}
inline void load_matrix4_transposed(uint32_t (&r)[4], const void* row, Site site = Site::here()) {
  emulator::load_matrix4(r, row, true, site);
}
inline void multiply16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
  emulator::multiply(c, a, b, site);
}

void copy_async(void* to, const void* from, int bytes = 16);
void copy_commit();
template <int left>
inline void copy_wait(Site site = Site::here()) {
  emulator::wait_for_copies(left, site);
}

// sm_90a -----------------------------------------------------------------------------------------------------------------

uint32_t shared_address(const void* p);
void open_gate(Gate* gate, int arrivals);
void show_gates();
void arrive(Gate* gate);
void expect(Gate* gate, int bytes);
void wait(Gate* gate, int parity, Site site = Site::here());
void load_tile(void* to, const TensorMap* map, int x, int y, Gate* gate);

namespace emulator {

/// Fragments of A, or its panel when there are none.
struct Left {
  uint64_t panel;
  const uint32_t* fragments;
  bool across;
};
void group_multiply(float* c, int columns, const Left& a, uint64_t b, bool b_across, bool add, Site site);
void group_wait(int left, Site site);

}  // namespace emulator

void group_fence(Site site = Site::here());
template <int n>
void group_fence(float (&)[n], Site site = Site::here()) {
  group_fence(site);
}
template <int n, int steps>
void group_fence(float (&)[n], uint32_t (&)[steps][4], Site site = Site::here()) {
  group_fence(site);
}
void group_commit(Site site = Site::here());
template <int columns, bool a_across, bool b_across>
inline void group_multiply(float (&c)[columns / 2], uint64_t a, uint64_t b, bool add, Site site = Site::here()) {
  emulator::group_multiply(c, columns, {a, nullptr, a_across}, b, b_across, add, site);
}
template <int columns, bool b_across>
inline void group_multiply(float (&c)[columns / 2], const uint32_t (&a)[4], uint64_t b, bool add,
                           Site site = Site::here()) {
  emulator::group_multiply(c, columns, {0, a, false}, b, b_across, add, site);
}
template <int left>
inline void group_wait(Site site = Site::here()) {
  emulator::group_wait(left, site);
}
template <int left, int n>
inline void group_wait(float (&)[n], Site site = Site::here()) {
  emulator::group_wait(left, site);
}
template <int left, int n>
inline void group_wait(float (&)[n], float (&)[n], Site site = Site::here()) {
  emulator::group_wait(left, site);
}
void async_fence();
template <int n>
inline void more_registers() {
  static_assert(n % 8 == 0 && n >= 24 && n <= 256);
}
template <int n>
inline void fewer_registers() {
  static_assert(n % 8 == 0 && n >= 24 && n <= 256);
}

int32_t atomic_add(int32_t* p, int32_t v);
uint32_t atomic_add(uint32_t* p, uint32_t v);
uint64_t atomic_add(uint64_t* p, uint64_t v);
uint32_t atomic_max(uint32_t* p, uint32_t v);
int32_t exchange(int32_t* p, int32_t v);
int32_t compare_and_swap(int32_t* p, int32_t expected, int32_t v);

}  // namespace ws::cuda
