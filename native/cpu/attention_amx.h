// The products of attention by tiles (amx.h): bf16 at WS_LEVEL 5. Included by attention_tile.h only. The operands are
// those of its register tile: A has 16 pairs of a row side by side (a_step 1), B 16 pairs of a column one below the other,
// so both are tiles as they lie in packed memory. A register block is 2 x 2 tiles of 16 x 16 sums: four loads of 8
// cycles for four products of 16.
//
// What must stay: an element of C adds one tile instruction per group of 32 elements, in order, the last group filled
// up with zeros. A product with zeros leaves every sum as it is (but for the sign of a zero) when what it is multiplied
// with is finite, so groups that are all hidden may be skipped or not.
#pragma once
#include "amx.h"

namespace ws::WS_NS {

/// Tiles of a thread for one task. `rows`: of A and C, at most 16; fewer than 16 only for one tile of rows.
class TileTask {
 public:
  explicit TileTask(int rows = 16) { expect(rows); }
  ~TileTask() { WS_TILE_RELEASE(); }
  TileTask(const TileTask&) = delete;
  TileTask& operator=(const TileTask&) = delete;

  void expect(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    TileShapes shapes;
    for (int t = 0; t < 8; ++t) {
      shapes.rows[t] = static_cast<uint8_t>(t < 6 ? rows : 16);
      shapes.row_bytes[t] = 64;
    }
    WS_TILE_SHAPES(shapes);
  }

 private:
  int rows_ = 0;
};

/// Addresses and strides in bytes of one register block; groups of 32 elements.
struct TileBlock {
  const char *a, *b;
  char* c;
  int64_t a_row, b_row, c_row;  // from row to row of a tile
  int64_t b_group;              // A's next group lies 64 bytes on
  int64_t groups;
};

/// L x R tiles. Tiles 0 to 3 are C, 4 and 5 A, 6 and 7 B. Second tiles of B and C lie 64 bytes on.
template <bool Zero, int L, int R>
[[gnu::noinline]] static void multiply_block(const TileBlock& t) {
  WS_TILE_FENCE();
  char* const below = t.c + 16 * t.c_row;
  if constexpr (Zero) {
    WS_TILE_ZERO(0);
    if constexpr (R > 1) WS_TILE_ZERO(1);
    if constexpr (L > 1) WS_TILE_ZERO(2);
    if constexpr (L > 1 && R > 1) WS_TILE_ZERO(3);
  } else {
    WS_TILE_LOAD(0, t.c, t.c_row);
    if constexpr (R > 1) WS_TILE_LOAD(1, t.c + 64, t.c_row);
    if constexpr (L > 1) WS_TILE_LOAD(2, below, t.c_row);
    if constexpr (L > 1 && R > 1) WS_TILE_LOAD(3, below + 64, t.c_row);
  }
  const char *a = t.a, *b = t.b;
  for (int64_t g = t.groups; g > 0; --g, a += 64, b += t.b_group) {
    WS_TILE_LOAD(4, a, t.a_row);
    WS_TILE_LOAD(6, b, t.b_row);
    WS_TILE_MULTIPLY(0, 4, 6);
    if constexpr (R > 1) {
      WS_TILE_LOAD(7, b + 64, t.b_row);
      WS_TILE_MULTIPLY(1, 4, 7);
    }
    if constexpr (L > 1) {
      WS_TILE_LOAD(5, a + 16 * t.a_row, t.a_row);
      WS_TILE_MULTIPLY(2, 5, 6);
    }
    if constexpr (L > 1 && R > 1) WS_TILE_MULTIPLY(3, 5, 7);
  }
  WS_TILE_STORE(0, t.c, t.c_row);
  if constexpr (R > 1) WS_TILE_STORE(1, t.c + 64, t.c_row);
  if constexpr (L > 1) WS_TILE_STORE(2, below, t.c_row);
  if constexpr (L > 1 && R > 1) WS_TILE_STORE(3, below + 64, t.c_row);
}

/// C (+)= A B for `rows` rows and `columns` columns, both multiples of 16, but for rows of a TileTask with fewer.
template <bool Zero>
static inline void multiply_blocks(TileBlock t, int64_t rows, int64_t columns) {
  for (; columns > 0; columns -= 32, t.b += 128, t.c += 128) {
    TileBlock at = t;
    for (int64_t left = rows; left > 0; left -= 32, at.a += 32 * t.a_row, at.c += 32 * t.c_row) {
      if (left > 16) columns > 16 ? multiply_block<Zero, 2, 2>(at) : multiply_block<Zero, 2, 1>(at);
      else columns > 16 ? multiply_block<Zero, 1, 2>(at) : multiply_block<Zero, 1, 1>(at);
    }
  }
}

/// 2^x to 1.5e-7 for x below 127, N vectors side by side. NaN stays NaN, -inf gives 0. Ten instructions'
/// worth of work where exp2() has fourteen: the scaling takes the floor itself, and a polynomial of degree 5 over [0, 1]
/// (the minimax of the relative error, 7.5e-8) does for what is rounded to bf16 or summed.
template <int N>
static inline void exp2_scores(V (&x)[N]) {
  V r[N], y[N];
  WS_EACH(N) r[i] = {_mm512_reduce_ps(x[i].v, 9)};  // x - floor(x), 0 of an infinity
  WS_EACH(N) y[i] = fma(set1(1.87757669e-3f), r[i], set1(8.98933969e-3f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(5.58263175e-2f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(2.40153611e-1f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(6.93153083e-1f));
  WS_EACH(N) y[i] = fma(y[i], r[i], set1(9.99999940e-1f));
  WS_EACH(N) x[i] = {_mm512_scalef_ps(y[i].v, x[i].v)};
}

}  // namespace ws::WS_NS
