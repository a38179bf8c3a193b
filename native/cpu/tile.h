// Products of small matrices that already lie in the first cache level, for kernels that work tile by tile
// (attention). No packing, no threads: gemm.h is the one for large products. Included by kernel files only.
//
// What must stay: an element of C is one chain acc = fma(A[row, k], B[k, column], acc) with k ascending in [k0, k1),
// so that its bits do not depend on the other rows and columns of the tile.
#pragma once
#include "simd.h"

namespace ws::WS_NS {

/// Rows that the register tile holds at once: tile_rows x 2 vectors.
constexpr int tile_rows = W == 8 ? 6 : 8;

/// C[rows, columns] (+)= A[rows, k0..k1) B[k0..k1), columns]. Rows of C have room for whole vectors.
template <class T>
struct TileProduct {
  const float* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int rows;
  int64_t columns;
  int64_t k0, k1;
  bool accumulate;
};

/// Across: A is stored with k as its slow index. Tail: the last vector of B has only `last` elements.
template <int R, int N, bool Across, bool Tail, class T>
static inline void tile_block(const TileProduct<T>& t, int row, int64_t column, int last) {
  float* c = t.c + row * t.c_stride + column;
  V acc[R][N];
  WS_UNROLL
  for (int r = 0; r < R; ++r) {
    WS_UNROLL
    for (int v = 0; v < N; ++v) acc[r][v] = t.accumulate ? load(c + r * t.c_stride + v * W) : zero();
  }
  const float* a = t.a + (Across ? row + t.k0 * t.a_stride : row * t.a_stride + t.k0);
  const T* b = t.b + t.k0 * t.b_stride + column;
  const int64_t row_step = Across ? 1 : t.a_stride, k_step = Across ? t.a_stride : 1;
  for (int64_t k = t.k0; k < t.k1; ++k) {
    V x[N];
    WS_UNROLL
    for (int v = 0; v < N; ++v) x[v] = Tail ? load_n(b + v * W, last) : load(b + v * W);
    WS_UNROLL
    for (int r = 0; r < R; ++r) {
      const V factor = set1(a[r * row_step]);
      WS_UNROLL
      for (int v = 0; v < N; ++v) acc[r][v] = fma(factor, x[v], acc[r][v]);
    }
    a += k_step;
    b += t.b_stride;
  }
  WS_UNROLL
  for (int r = 0; r < R; ++r) {
    WS_UNROLL
    for (int v = 0; v < N; ++v) store(c + r * t.c_stride + v * W, acc[r][v]);
  }
}

template <int R, bool Across, class T>
static inline void tile_columns(const TileProduct<T>& t, int row) {
  int64_t column = 0;
  for (; column + 2 * W <= t.columns; column += 2 * W) tile_block<R, 2, Across, false>(t, row, column, W);
  if (column + W <= t.columns) {
    tile_block<R, 1, Across, false>(t, row, column, W);
    column += W;
  }
  if (column < t.columns) tile_block<R, 1, Across, true>(t, row, column, static_cast<int>(t.columns - column));
}

template <bool Across, class T>
static inline void tile_product(const TileProduct<T>& t) {
  int row = 0;
  for (; row + tile_rows <= t.rows; row += tile_rows) tile_columns<tile_rows, Across>(t, row);
  if (row + 4 <= t.rows) {
    tile_columns<4, Across>(t, row);
    row += 4;
  }
  if (row + 2 <= t.rows) {
    tile_columns<2, Across>(t, row);
    row += 2;
  }
  if (row < t.rows) tile_columns<1, Across>(t, row);
}

}  // namespace ws::WS_NS
