// The matrix product for few rows and a B whose columns are contiguous in memory: a linear layer when text is sampled.
// It waits for memory, so B is read once, from front to back, while the next lines are asked for: W columns by W steps
// are transposed in registers and used at once for all rows. Included by gemm.cpp only. Nothing but A is packed.
// What must stay: gemm.h's one chain per element; a vector's unused lanes are computed and never stored.
#pragma once
#include "gemm_pack.h"
#include "gemm_tile.h"

namespace ws::WS_NS {
namespace {

// Up to here packing B would cost more than the registers that transposing takes: measured on AVX2 and AVX-512.
constexpr int thin_rows = WS_LEVEL <= 2 ? 7 : 24;
constexpr int row_group = 4;   // rows whose sums are in registers at once

/// NR columns of a thin product.
struct ThinTile {
  const void* a;     // packed units, in strips of row_group rows
  const void* b;     // column j begins at b + j * b_stride
  int64_t b_stride;
  int64_t elements;  // of a column
  int rows;
  int vectors, last; // of columns; columns of the last vector, 1 .. W
  float* c;          // where the chains start when `from_c`
  bool from_c;
  int64_t c_stride;  // of c and rounded
  bf16* rounded;     // where the sums go instead, rounded; null: to c
  const char* next;  // columns to ask for meanwhile; null: none
};

/// Cache lines of one vector's columns in one turn.
constexpr int turn_lines = W * W * 4 / 64;

/// Where the next columns' share of this turn and vector is; null: nothing to ask for.
template <class S>
[[gnu::always_inline]] inline const char* next_lines(const ThinTile& t, int v, int64_t k) {
  return t.next ? t.next + (k / turn_elements<S> * NV + v) * turn_lines * 64 : nullptr;
}

/// Asks for cache lines [first, end) from there. A few at a time, between the arithmetic: when all slots for misses are
/// taken, one more request holds up what comes after it. Always inline: GCC 12 takes a function that only prefetches
/// for one without effect.
[[gnu::always_inline]] inline void prefetch_lines(const char* from, int first, int end) {
  for (int i = first; from && i < end; ++i) __builtin_prefetch(from + i * 64, 0, 2);
}

/// A turn of vector v of the columns from element k on.
template <class S>
[[gnu::always_inline]] inline Turn<S> read_columns(const ThinTile& t, int v, int64_t k) {
  const auto* b = static_cast<const typename S::Element*>(t.b) + v * W * t.b_stride + k;
  return read_turn<S>([&](int i) { return b + i * t.b_stride; }, v + 1 < t.vectors ? W : t.last, t.elements - k);
}

template <class S>
[[gnu::always_inline]] inline int steps_from(const ThinTile& t, int64_t k) {
  return static_cast<int>(smaller(Turn<S>::steps, (t.elements - k + S::per - 1) / S::per));
}

/// Adds `steps` steps to the chains of R rows.
template <int R, class S, class Unit>
[[gnu::always_inline]] inline void add_steps(const Unit* a, const Turn<S>& turn, int steps, V (&sum)[R]) {
  if (steps == Turn<S>::steps) {
    WS_UNROLL
    for (int j = 0; j < Turn<S>::steps; ++j) {
      const V column = turn.step(j);
      WS_UNROLL
      for (int r = 0; r < R; ++r) sum[r] = multiply_add(Unit(), set1(a[j * R + r]), column, sum[r]);
    }
  } else {
    for (int j = 0; j < steps; ++j) {
      for (int r = 0; r < R; ++r) sum[r] = multiply_add(Unit(), set1(a[j * R + r]), turn.step(j), sum[r]);
    }
  }
}

static inline V first_sum(const ThinTile& t, int row, int v) {
  if (!t.from_c) return zero();
  return load_n(t.c + row * t.c_stride + v * W, v + 1 < t.vectors ? W : t.last);
}

static inline void last_sum(const ThinTile& t, int row, int v, V sum) {
  const int n = v + 1 < t.vectors ? W : t.last;
  if (t.rounded) store_n(t.rounded + row * t.c_stride + v * W, sum, n);
  else store_n(t.c + row * t.c_stride + v * W, sum, n);
}

/// R rows, whose sums stay in registers.
template <int R, class S>
void multiply_few(const ThinTile& tile) {
  const ThinTile t = tile;
  V sum[NV][R];
  for (int v = 0; v < NV; ++v) {
    for (int r = 0; r < R; ++r) sum[v][r] = v < t.vectors ? first_sum(t, r, v) : zero();
  }
  const auto* a = static_cast<const typename S::Unit*>(t.a);
  for (int64_t k = 0; k < t.elements; k += turn_elements<S>, a += Turn<S>::steps * R) {
    const int steps = steps_from<S>(t, k);
    WS_UNROLL
    for (int v = 0; v < NV; ++v) {
      if (v >= t.vectors) break;
      prefetch_lines(next_lines<S>(t, v, k), 0, turn_lines);
      add_steps<R>(a, read_columns<S>(t, v, k), steps, sum[v]);
    }
  }
  for (int v = 0; v < t.vectors; ++v) {
    for (int r = 0; r < R; ++r) last_sum(t, r, v, sum[v][r]);
  }
}

/// R rows of many, whose sums lie in memory between turns.
template <int R, class S, class Unit>
[[gnu::always_inline]] inline void add_rows(const Unit* a, const Turn<S>& turn, int steps, float* sums) {
  V sum[R];
  WS_EACH(R) sum[i] = load(sums + i * W);
  add_steps<R>(a, turn, steps, sum);
  WS_EACH(R) store(sums + i * W, sum[i]);
}

/// Up to thin_rows rows.
template <class S>
void multiply_many(const ThinTile& tile) {
  const ThinTile t = tile;
  const int rest = t.rows % row_group, whole = t.rows - rest;
  const int64_t length = (t.elements + S::per - 1) / S::per;
  const int share = turn_lines * row_group / t.rows;  // of the lines to ask for, for each group
  alignas(64) float sums[NV][thin_rows * W];
  for (int v = 0; v < t.vectors; ++v) {
    for (int r = 0; r < t.rows; ++r) store(sums[v] + r * W, first_sum(t, r, v));
  }
  for (int64_t k = 0; k < t.elements; k += turn_elements<S>) {
    const int steps = steps_from<S>(t, k);
    for (int v = 0; v < t.vectors; ++v) {
      const Turn<S> turn = read_columns<S>(t, v, k);
      const auto* a = static_cast<const typename S::Unit*>(t.a) + k / S::per * row_group;
      float* sum = sums[v];
      const char* next = next_lines<S>(t, v, k);
      int line = 0;
      for (int row = 0; row < whole; row += row_group, a += row_group * length, sum += row_group * W, line += share) {
        prefetch_lines(next, line, line + share);
        add_rows<row_group>(a, turn, steps, sum);
      }
      prefetch_lines(next, line, turn_lines);
      a -= k / S::per * (row_group - rest);
      if (rest == 3) add_rows<3>(a, turn, steps, sum);
      else if (rest == 2) add_rows<2>(a, turn, steps, sum);
      else if (rest == 1) add_rows<1>(a, turn, steps, sum);
    }
  }
  for (int v = 0; v < t.vectors; ++v) {
    for (int r = 0; r < t.rows; ++r) last_sum(t, r, v, load(sums[v] + r * W));
  }
}

template <class S>
void multiply_thin(const ThinTile& t) {
  if (t.rows == 1) multiply_few<1, S>(t);
  else if (t.rows == 2) multiply_few<2, S>(t);
  else if (t.rows == 3) multiply_few<3, S>(t);
  else if (t.rows == 4) multiply_few<4, S>(t);
  else multiply_many<S>(t);
}

using Thin = void (*)(const ThinTile& t);

}  // namespace
}  // namespace ws::WS_NS
