// The register tiles of the matrix product: MR x NR elements of C stay in registers while k runs. Included by gemm.cpp
// only. What must stay: gemm.h's one chain per element; a tile's unused lanes are computed and never stored.
#pragma once
#include "gemm_step.h"

namespace ws::WS_NS {
namespace {

#if WS_LEVEL >= 3
constexpr int MR = 12;
#elif WS_LEVEL == 2
constexpr int MR = 6;
#else
constexpr int MR = 4;
#endif
constexpr int NV = 2;
constexpr int NR = NV * W;
// Heights that tiles have are its multiples: fewer functions to compile than one for every number of rows. The last rows
// of a matrix take the next one, whose further rows are copies of the last.
constexpr int row_step = MR >= 6 ? MR / 3 : MR / 2;

struct Tile {
  const void* a;      // packed units: a[step * R + row], R: rows rounded up to row_step
  const void* b;
  int64_t b_stride;   // elements from row to row of b
  int rows;           // of C, 1 .. R
  int64_t steps;
  int missing;        // elements that the last step lacks
  const float* from;  // where the chains start, laid out as c; null: zero
  float* c;
  int64_t c_stride;
  bf16* rounded;      // where finished chains go instead of c, rounded; null: to c
  int64_t rounded_stride;
  int last;           // columns of the last vector, 1 .. W
};

/// Puts the sums of a tile where they belong. N vectors a row, of the last one t.last columns.
template <int R, int N, class Unit>
[[gnu::always_inline]] inline void store_sums(const Tile& t, const V (&acc)[R][N]) {
  WS_UNROLL
  for (int r = 0; r < R; ++r) {
    if (r == t.rows) break;
    float* c = t.c + r * t.c_stride;
    bf16* rounded = t.rounded + r * t.rounded_stride;
    if (t.rounded && t.last == W) {
      WS_EACH(N) store_rounded(Unit(), rounded + i * W, acc[r][i]);
    } else if (t.rounded) {
      WS_EACH(N) store_n(rounded + i * W, acc[r][i], i + 1 < N ? W : t.last);
    } else if (t.last == W) {
      WS_EACH(N) store(c + i * W, acc[r][i]);
    } else {
      WS_EACH(N) store_n(c + i * W, acc[r][i], i + 1 < N ? W : t.last);
    }
  }
}

/// Asks for lines of sums: of this tile, which are about to be stored, when chains start at zero; else of the next one
/// below, which begins by reading them. Stores, too, wait for their lines one after the other.
template <int R>
[[gnu::always_inline]] inline void ask_for_sums(const Tile& t) {
  const int64_t first = t.from ? R : 0;
  WS_UNROLL
  for (int r = 0; r < R; ++r) {
    if (t.rounded) __builtin_prefetch(t.rounded + r * t.rounded_stride, 1);
    __builtin_prefetch(t.c + (first + r) * t.c_stride, 1);
  }
}

/// R rows of A are broadcast against N vectors of B, whose rows are read by S.
template <int R, int N, class S>
void multiply_tile(const Tile& tile) {
  const Tile t = tile;  // of our own: no store can change it
  V acc[R][N];
  WS_UNROLL
  for (int r = 0; r < R; ++r) WS_EACH(N) acc[r][i] = zero();
  if (t.from) {
    WS_UNROLL
    for (int r = 0; r < R; ++r) {
      if (r == t.rows) break;
      WS_EACH(N) acc[r][i] = load_n(t.from + r * t.c_stride + i * W, i + 1 < N ? W : t.last);
    }
  }
  ask_for_sums<R>(t);
  const typename S::Unit* a = static_cast<const typename S::Unit*>(t.a);
  const typename S::Element* b = static_cast<const typename S::Element*>(t.b);
  const auto step = [&](bool both) {
    V column[N];
    S::columns(b, t.b_stride, both, column);
    WS_UNROLL
    for (int r = 0; r < R; ++r) {
      const V x = set1(a[r]);
      WS_EACH(N) acc[r][i] = multiply_add(typename S::Unit(), x, column[i], acc[r][i]);
    }
    a += R;
    b += S::per * t.b_stride;
  };
  const bool short_end = S::per > 1 && t.missing > 0;
  WS_UNROLL_BY_4  // what counts the steps takes room from the arithmetic where two threads share a core
  for (int64_t k = t.steps - short_end; k > 0; --k) step(true);
  if (short_end) step(false);
  store_sums<R, N, typename S::Unit>(t, acc);
}

template <int R, int N, class S>
void multiply_rows(const Tile& t) {
  if constexpr (R > row_step) {
    if (t.rows <= R - row_step) return multiply_rows<R - row_step, N, S>(t);
  }
  multiply_tile<R, N, S>(t);
}

/// vectors in 1 .. NV.
template <class S>
void multiply(int vectors, const Tile& t) {
  if (vectors == NV) multiply_rows<MR, NV, S>(t);
  else multiply_rows<MR, 1, S>(t);
}
static_assert(NV == 2, "multiply() knows tiles of one and two vectors");

using Multiply = void (*)(int vectors, const Tile& t);

}  // namespace
}  // namespace ws::WS_NS
