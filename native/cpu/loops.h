// What the memory-bound kernels share: loops over vectors with masked tails, tasks cut by shape, sums of a row by a fixed
// tree, sums of columns in row order. No arithmetic of any op.
#pragma once
#include "../core/op.h"
#include "../core/shapes.h"
#include "softmax.h"

namespace ws::WS_NS {

// Loops ---------------------------------------------------------------------------------------------------------------

/// How many lanes a step of for_vectors() touches: all of them, or the first n.
struct Full {};
struct Part {
  int n;
};

template <class T>
static inline V load(const T* p, Full) {
  return load(p);
}
template <class T>
static inline V load(const T* p, Part part) {
  return load_n(p, part.n);
}
template <class T>
static inline void store(T* p, V a, Full) {
  store(p, a);
}
template <class T>
static inline void store(T* p, V a, Part part) {
  store_n(p, a, part.n);
}

/// f(i, lanes) for [begin, end) in steps of W; lanes is Full, or Part for the last step.
template <class F>
static inline void for_vectors(int64_t begin, int64_t end, F&& f) {
  int64_t i = begin;
  for (; i + W <= end; i += W) f(i, Full{});
  if (i < end) f(i, Part{static_cast<int>(end - i)});
}

/// f(i, width, lanes) for [begin, end): four vectors a step, then one. For long chains of arithmetic, with f a template
/// over the number of vectors: width is Width<4> or Width<1>.
template <int N>
struct Width {
  static constexpr int count = N;
};
template <class F>
static inline void for_blocks(int64_t begin, int64_t end, F&& f) {
  int64_t i = begin;
  for (; i + 4 * W <= end; i += 4 * W) f(i, Width<4>{}, Full{});
  for_vectors(i, end, [&](int64_t at, auto lanes) { f(at, Width<1>{}, lanes); });
}

constexpr int64_t span_elements = 1 << 14;  // of a task; tens of kilobytes per operand

/// f(begin, end) for consecutive spans of [0, count), in parallel.
template <class F>
static inline void for_spans(Runtime& rt, int64_t count, F&& f) {
  const int64_t spans = (count + span_elements - 1) / span_elements;
  parallel_for(rt, spans, [&](int64_t task, int) {
    const int64_t begin = task * span_elements;
    f(begin, begin + span_elements < count ? begin + span_elements : count);
  });
}

/// f(row) for every row of `width` elements, in parallel by groups of rows.
template <class F>
static inline void for_rows(Runtime& rt, int64_t rows, int64_t width, F&& f) {
  const int64_t each = width >= span_elements ? 1 : span_elements / (width < 1 ? 1 : width);
  parallel_for(rt, (rows + each - 1) / each, [&](int64_t task, int) {
    const int64_t end = (task + 1) * each < rows ? (task + 1) * each : rows;
    for (int64_t row = task * each; row < end; ++row) f(row);
  });
}

// Sums ----------------------------------------------------------------------------------------------------------------

/// Lanes from n on become zero.
static inline V keep(V a, Full) { return a; }
static inline V keep(V a, Part part) {
  float lanes[W];
  store(lanes, a);
  return load_n(lanes, part.n);
}

/// Sum of f(i, lanes) over [0, count): four running vectors, then a tree. The order depends on count alone.
template <class F>
static inline float row_sum(int64_t count, F&& f) {
  V s[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * W <= count; i += 4 * W) {
    WS_UNROLL
    for (int v = 0; v < 4; ++v) s[v] = add(s[v], f(i + v * W, Full{}));
  }
  for (; i + W <= count; i += W) s[1] = add(s[1], f(i, Full{}));
  if (i < count) {
    const Part part = {static_cast<int>(count - i)};
    s[2] = add(s[2], keep(f(i, part), part));
  }
  return sum_lanes(add(add(s[0], s[1]), add(s[2], s[3])));
}

/// acc[column] = f(acc, row, column, lanes) for rows [begin, end) in order, starting from the values in acc.
template <class F>
static inline void chain_rows(float* acc, int64_t column, int64_t last, int64_t begin, int64_t end, const F& f) {
  for (; column + 4 * W <= last; column += 4 * W) {
    V s[4];
    WS_EACH(4) s[i] = load(acc + column + i * W);
    for (int64_t row = begin; row < end; ++row) WS_EACH(4) s[i] = f(s[i], row, column + i * W, Full{});
    WS_EACH(4) store(acc + column + i * W, s[i]);
  }
  for_vectors(column, last, [&](int64_t i, auto lanes) {
    V s = load(acc + i, lanes);
    for (int64_t row = begin; row < end; ++row) s = f(s, row, i, lanes);
    store(acc + i, s, lanes);
  });
}

/// The same for all rows. Parallel over groups of columns; one column is one chain, so rows in two calls give the bits of
/// one call. Many columns are taken a few rows at a time and asked for ahead: the processor foresees no such strides.
/// fetch(row, column) asks for 4 W columns of a row.
template <class F, class Fetch>
static inline void column_chains(Runtime& rt, int64_t rows, int64_t columns, float* acc, F&& f, Fetch&& fetch) {
  constexpr int64_t few = 4;
  const bool wide = columns >= 2048;
  const int64_t each = wide ? 1024 : 64;  // multiples of 4 W
  parallel_for(rt, (columns + each - 1) / each, [&](int64_t task, int) {
    const int64_t first = task * each, last = first + each < columns ? first + each : columns;
    if (!wide) return chain_rows(acc, first, last, 0, rows, f);
    for (int64_t row = 0; row < rows; row += few) {
      const int64_t end = row + few < rows ? row + few : rows;
      for (int64_t column = first; column < last; column += 4 * W) {
        for (int64_t ahead = row + few; ahead < end + few && ahead < rows; ++ahead) fetch(ahead, column);
        chain_rows(acc, column, column + 4 * W < last ? column + 4 * W : last, row, end, f);
      }
    }
  });
}

/// Asks for 4 W elements.
template <class T>
[[gnu::always_inline]] static inline void prefetch_block(const T* p) {
  for (int64_t i = 0; i < 4 * W * static_cast<int64_t>(sizeof(T)); i += 64) {
    __builtin_prefetch(reinterpret_cast<const char*>(p) + i);
  }
}

}  // namespace ws::WS_NS
