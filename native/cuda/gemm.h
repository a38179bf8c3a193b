// THE matrix product of the GPU kernels: a block of 256 threads makes 128 x 128 elements of C[m][n] = sum over k of
// A(m, k) B(n, k). bf16 by mma.sync over ldmatrix and three stages of cp.async; f32 by fused multiply-adds. Included by
// kernel files only.
//
// A thread holds 64 sums in the layout of mma fragments, for both types, so that what follows a product is written once
// (epilogues, product.h). An element's sum runs over k in one order, 16 at a time (bf16) or one by one (f32: the CPU's
// bits), whatever the matrix around it is: equal bits alone and in a batch. Operands lie along k ("rows") or across it
// ("columns").
#pragma once
#include "product.h"
#include "vectors.h"

namespace ws::cuda {

constexpr int tile = 128;          // rows and columns of a block's part of C
constexpr int gemm_threads = 256;  // 8 warps: 2 along m, 4 along n; 64 x 32 elements each
constexpr int stages = 3;

WS_DEVICE int part_row() { return warp() / 4 * 64 + lane() / 4; }
WS_DEVICE int part_column() { return warp() % 4 * strip_columns + lane() % 4 * 2; }

/// Sums of a thread: c[i][j][e] is row 16 i + 8 (e / 2) + lane / 4, column 8 j + 2 (lane % 4) + e % 2 of its warp's part.
/// Four warps share the rows of a tile, each has a strip.
struct TileSums {
  static constexpr int rows = 8, strips = 1, columns = tile;
  float c[4][4][4] = {};

  static WS_DEVICE int row(int i) { return part_row() + i * 8; }
  static WS_DEVICE int column(int, int k) { return quad_column(warp() % 4, k); }
  WS_DEVICE float& at(int i, int, int k) { return c[i / 2][k / 2][i % 2 * 2 + k % 2]; }
};

template <class Tail>
struct TileArguments {
  Operand a, b;
  Tail tail;
};

/// How tiles of a type lie in shared memory. A stage is one step of k for one operand.
template <class T>
struct Staged;

/// 16-byte pieces, whose place in a row is mixed with the row's number: rows of eight pieces that ldmatrix reads together
/// then lie in different banks. Along k: 128 rows of 64 elements; across: 64 rows of 128.
template <>
struct Staged<bf16> {
  static constexpr int depth = 64, per_piece = 8, bytes = tile * depth * 2;
  template <bool across>
  static WS_DEVICE int offset(int row, int piece) {
    return across ? row * 256 + ((piece & 8) | ((piece & 7) ^ (row & 7))) * 16 : row * 128 + (piece ^ (row & 7)) * 16;
  }
};

/// Rows are 16 bytes longer than their elements. Along k: 128 rows of 16 elements; across: 16 rows of 128.
template <>
struct Staged<float> {
  static constexpr int depth = 16, per_piece = 4, bytes = tile * (depth + 4) * 4;
  template <bool across>
  static WS_DEVICE int offset(int row, int piece) {
    return row * (across ? tile + 4 : depth + 4) * 4 + piece * 16;
  }
};

template <class T>
constexpr int gemm_shared_bytes = stages * 2 * Staged<T>::bytes;

/// Lines [first, first + 128) and elements [k, k + depth) of an operand into a stage; zeros where it ends. Whole pieces
/// travel asynchronously when rows are 16-byte aligned; others are copied element by element.
template <class T, bool across>
WS_DEVICE void stage_operand(const Operand& o, int64_t first, int64_t k, char* to) {
  using S = Staged<T>;
  constexpr int columns = across ? tile : S::depth, pieces = columns / S::per_piece;
  constexpr int rows = across ? S::depth : tile;
  const int64_t row_begin = across ? k : first, rows_exist = across ? o.depth : o.lines;
  const int64_t column_begin = across ? first : k, columns_exist = across ? o.lines : o.depth;
  const T* data = static_cast<const T*>(o.data);
  const bool whole = aligned(data) && o.stride % S::per_piece == 0;
  WS_UNROLL
  for (int at = 0; at < rows * pieces; at += gemm_threads) {
    const int row = (at + thread()) / pieces, piece = (at + thread()) % pieces;
    const int64_t left = columns_exist - column_begin - piece * S::per_piece;
    const bool inside = row_begin + row < rows_exist && left > 0;
    const T* from = inside ? data + (row_begin + row) * o.stride + column_begin + piece * S::per_piece : data;
    char* place = to + S::template offset<across>(row, piece);
    const int n = inside ? static_cast<int>(left < S::per_piece ? left : S::per_piece) : 0;
    if (whole) {
      copy_async(place, from, n * static_cast<int>(sizeof(T)));
    } else {
      for (int i = 0; i < S::per_piece; ++i) reinterpret_cast<T*>(place)[i] = i < n ? from[i] : T{};
    }
  }
}

/// Fragment of 16 rows of A from `line` on, elements [16 step, 16 step + 16).
template <bool across>
WS_DEVICE void load_left(uint32_t (&a)[4], const char* from, int line, int step) {
  const int matrix = lane() / 8, row = lane() % 8;
  if constexpr (across) {
    const int k = step * 16 + matrix / 2 * 8 + row;
    load_matrix4_transposed(a, from + Staged<bf16>::offset<true>(k, (line + matrix % 2 * 8) / 8));
  } else {
    load_matrix4(a, from + Staged<bf16>::offset<false>(line + matrix % 2 * 8 + row, step * 2 + matrix / 2));
  }
}

/// Fragments of 16 columns of B from `line` on: those of the first eight, then of the others.
template <bool across>
WS_DEVICE void load_right(uint32_t (&b)[4], const char* from, int line, int step) {
  const int matrix = lane() / 8, row = lane() % 8;
  if constexpr (across) {
    const int k = step * 16 + matrix % 2 * 8 + row;
    load_matrix4_transposed(b, from + Staged<bf16>::offset<true>(k, (line + matrix / 2 * 8) / 8));
  } else {
    load_matrix4(b, from + Staged<bf16>::offset<false>(line + matrix / 2 * 8 + row, step * 2 + matrix % 2));
  }
}

template <bool a_across, bool b_across>
WS_DEVICE void multiply_stage(bf16, const char* a, const char* b, TileSums& sums) {
  const int top = warp() / 4 * 64, left = warp() % 4 * 32;
  WS_UNROLL
  for (int step = 0; step < Staged<bf16>::depth / 16; ++step) {
    uint32_t rows[4][4], columns[2][4];
    WS_UNROLL
    for (int i = 0; i < 4; ++i) load_left<a_across>(rows[i], a, top + 16 * i, step);
    WS_UNROLL
    for (int j = 0; j < 2; ++j) load_right<b_across>(columns[j], b, left + 16 * j, step);
    WS_UNROLL
    for (int i = 0; i < 4; ++i) {
      WS_UNROLL
      for (int j = 0; j < 4; ++j) {
        const uint32_t column[2] = {columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]};
        multiply16x8x16(sums.c[i][j], rows[i], column);
      }
    }
  }
}

template <bool a_across, bool b_across>
WS_DEVICE void multiply_stage(float, const char* a, const char* b, TileSums& sums) {
  const auto element = [](const char* from, int line, int k, bool across) {
    constexpr int along_row = Staged<float>::depth + 4, across_row = tile + 4;
    return reinterpret_cast<const float*>(from)[across ? k * across_row + line : line * along_row + k];
  };
  float c[8][8];  // the same sums by row and column, which a host's compiler turns into vectors
  const auto each = [&](auto move) {
    WS_UNROLL
    for (int i = 0; i < 64; ++i) move(c[i / 8][i % 8], sums.c[i / 16][i % 8 / 2][i / 8 % 2 * 2 + i % 2]);
  };
  each([](float& to, float from) { to = from; });
  const int top = part_row(), left = part_column();
  for (int k = 0; k < Staged<float>::depth; ++k) {
    float rows[8], columns[8];
    WS_UNROLL
    for (int i = 0; i < 8; ++i) rows[i] = element(a, top + 8 * i, k, a_across);
    WS_UNROLL
    for (int j = 0; j < 8; ++j) columns[j] = element(b, left + j / 2 * 8 + j % 2, k, b_across);
    WS_UNROLL
    for (int i = 0; i < 8; ++i) {
      WS_UNROLL
      for (int j = 0; j < 8; ++j) c[i][j] = fused(rows[i], columns[j], c[i][j]);
    }
  }
  each([](float from, float& to) { to = from; });
}

/// Continues the sums of the tile whose first row is a_first and first column b_first over all of k. All threads of the
/// block come; shared memory is free again when they have all passed a barrier.
template <class T, bool a_across, bool b_across>
WS_DEVICE void multiply_tile(const Operand& a, int64_t a_first, const Operand& b, int64_t b_first, TileSums& sums) {
  using S = Staged<T>;
  const int64_t steps = (a.depth + S::depth - 1) / S::depth;
  const auto fetch = [&](int64_t step) {
    if (step < steps) {
      char* to = shared() + step % stages * 2 * S::bytes;
      stage_operand<T, a_across>(a, a_first, step * S::depth, to);
      stage_operand<T, b_across>(b, b_first, step * S::depth, to + S::bytes);
    }
    copy_commit();
  };
  for (int s = 0; s + 1 < stages; ++s) fetch(s);
  for (int64_t step = 0; step < steps; ++step) {
    copy_wait<stages - 2>();
    barrier();  // this stage is there for all, and the one before it has been read by all
    fetch(step + stages - 1);
    const char* from = shared() + step % stages * 2 * S::bytes;
    multiply_stage<a_across, b_across>(T{}, from, from + S::bytes, sums);
  }
}

/// A kernel: this loop with an epilogue.
template <class T, bool a_across, bool b_across, class Epilogue>
WS_DEVICE void tile_product(const TileArguments<typename Epilogue::Tail>& g) {
  const Corner at = {static_cast<int64_t>(block().x) * tile, static_cast<int64_t>(block().y) * tile, g.a.lines, g.b.lines};
  TileSums sums;
  Epilogue::begin(sums, g.tail, at);
  multiply_tile<T, a_across, b_across>(g.a, at.top, g.b, at.left, sums);
  Epilogue::template end<T>(sums, g.tail, at);
}

}  // namespace ws::cuda
