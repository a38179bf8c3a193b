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
constexpr int few = 4;  // rows up to which transposing B on the way beats packing it

struct Tile {
  const void* a;      // packed units: a[step * rows + row]
  const void* b;
  int64_t b_stride;   // elements from row to row of b, or from column to column for multiply_lines
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

/// MR rows of A are broadcast against N vectors of B, whose rows are read by S.
template <int R, int N, class S>
void multiply_tile(const Tile& tile) {
  const Tile t = tile;  // of our own: no store can change it
  V acc[R][N];
  WS_UNROLL
  for (int r = 0; r < R; ++r) WS_EACH(N) acc[r][i] = zero();
  if (t.from) {
    WS_UNROLL
    for (int r = 0; r < R; ++r) {
      WS_EACH(N) acc[r][i] = load_n(t.from + r * t.c_stride + i * W, i + 1 < N ? W : t.last);
    }
  }
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
  for (int64_t k = t.steps - short_end; k > 0; --k) step(true);
  if (short_end) step(false);
  store_sums<R, N, typename S::Unit>(t, acc);
}

template <int R, int N, class S>
void multiply_rows(int rows, const Tile& t) {
  if (rows == R) return multiply_tile<R, N, S>(t);
  if constexpr (R > 1) multiply_rows<R - 1, N, S>(rows, t);
}

/// rows in 1 .. MR, vectors in 1 .. NV.
template <class S>
void multiply(int rows, int vectors, const Tile& t) {
  if (vectors == NV) multiply_rows<MR, NV, S>(rows, t);
  else multiply_rows<MR, 1, S>(rows, t);
}
static_assert(NV == 2, "multiply() knows tiles of one and two vectors");

/// Asks for what multiply_lines() reads in a later turn: of its NR lines, or of those of the next tile. Memory answers
/// faster when it is asked for a kilobyte of one line than for a piece of every line. Always inline: GCC 12 takes a
/// function that only prefetches for one without effect.
template <class S>
[[gnu::always_inline]] inline void prefetch_lines(const Tile& t, int64_t k, int64_t elements) {
  constexpr int64_t turn = W * S::per, run = 16, line = 64 / sizeof(typename S::Element);
  const int64_t at = k / turn % run, next = k + (run - at) * turn;
  const bool same = next < elements;
  const auto* from = static_cast<const typename S::Element*>(t.b) + (same ? next : NR * t.b_stride);
  for (int64_t i = at * NR / run; i < (at + 1) * NR / run; ++i) {
    for (int64_t j = 0; j < run * turn; j += line) __builtin_prefetch(from + i * t.b_stride + j, 0, 2);
  }
}

/// The same for a B whose columns are contiguous in memory (column c at b + c * b_stride): W columns by W steps are
/// transposed in registers and used at once. For few rows, where packing would cost more than multiplying.
template <int R, class S>
void multiply_lines_tile(const Tile& t, int vectors) {
  using Unit = typename S::Unit;
  const typename S::Element* line[NV][W];
  V acc[R][NV];
  for (int v = 0; v < vectors; ++v) {
    for (int i = 0; i < W; ++i) {
      const bool exists = v + 1 < vectors || i < t.last;
      line[v][i] = static_cast<const typename S::Element*>(t.b) + (v * W + (exists ? i : 0)) * t.b_stride;
    }
    const int n = v + 1 < vectors ? W : t.last;
    for (int r = 0; r < R; ++r) acc[r][v] = t.from ? load_n(t.from + r * t.c_stride + v * W, n) : zero();
  }
  const Unit* a = static_cast<const Unit*>(t.a);
  constexpr int64_t whole = S::per * W;
  const int64_t elements = t.steps * S::per - t.missing;
  for (int64_t k = 0; k < elements; k += whole, a += W * R) {
    const int64_t left = elements - k;
    prefetch_lines<S>(t, k, elements);
    for (int v = 0; v < vectors; ++v) {
      V column[W];
      if (left >= whole) {
        WS_EACH(W) column[i] = S::along(line[v][i] + k);
      } else {
        for (int i = 0; i < W; ++i) column[i] = S::along(line[v][i] + k, left);
      }
      transpose(column);
      if (left >= whole) {
        WS_UNROLL
        for (int j = 0; j < W; ++j) {
          WS_UNROLL
          for (int r = 0; r < R; ++r) acc[r][v] = multiply_add(Unit(), set1(a[j * R + r]), column[j], acc[r][v]);
        }
      } else {
        for (int j = 0; j * S::per < left; ++j) {
          for (int r = 0; r < R; ++r) acc[r][v] = multiply_add(Unit(), set1(a[j * R + r]), column[j], acc[r][v]);
        }
      }
    }
  }
  for (int v = 0; v < vectors; ++v) {
    const int n = v + 1 < vectors ? W : t.last;
    for (int r = 0; r < R; ++r) {
      if (t.rounded) store_n(t.rounded + r * t.rounded_stride + v * W, acc[r][v], n);
      else store_n(t.c + r * t.c_stride + v * W, acc[r][v], n);
    }
  }
}

/// rows in 1 .. few.
template <class S>
void multiply_lines(int rows, int vectors, const Tile& t) {
  if (rows == 1) multiply_lines_tile<1, S>(t, vectors);
  else if (rows == 2) multiply_lines_tile<2, S>(t, vectors);
  else if (rows == 3) multiply_lines_tile<3, S>(t, vectors);
  else multiply_lines_tile<4, S>(t, vectors);
}
static_assert(few == 4 && few <= MR, "multiply_lines() knows up to four rows");

using Multiply = void (*)(int rows, int vectors, const Tile& t);

}  // namespace
}  // namespace ws::WS_NS
