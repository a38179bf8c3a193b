// Matrix products as entries of ops ask for them, and what the kernels that make them share: gemm.h multiplies on every
// GPU, gemm_hopper.h on sm_90a. A kernel is one of these loops with an epilogue: what the sums of a tile begin with, and
// what becomes of them. matmul.cu has those that store C, head.cu those of the language-model head. Included by kernel
// files only.
#pragma once
#include "simt.h"

namespace ws::cuda {

/// An operand: `lines` lines (rows of C for A, columns for B) of `depth` elements along k. Element k of line i is
/// data[i * stride + k], or with `across` data[k * stride + i].
struct Operand {
  const void* data;
  int64_t lines, depth, stride;
};

/// What happens to C: it becomes the product, the product is added to it, or the sums continue from it.
enum class Into : int32_t { fresh, added, continued };

/// A tile in C: its first row and column, and the size of C.
struct Corner {
  int64_t top, left, rows, columns;
};

// A thread's sums lie in S::rows rows, in each of them in S::strips strips of 32 columns: eight sums of a strip, which are
// columns column(s, 0 .. 7) of the tile. Four neighbouring lanes, a quad, share a row. Both layouts are of this kind.
constexpr int strip_columns = 32, strip_sums = 8;
WS_DEVICE int quad_column(int strip, int k) { return strip * strip_columns + k / 2 * 8 + lane() % 4 * 2 + k % 2; }

/// f(row, column, x, y) for pairs of neighbours among a thread's sums, counted in the tile.
template <class S, class F>
WS_DEVICE void each_pair(S& sums, F f) {
  WS_UNROLL
  for (int i = 0; i < S::rows; ++i) {
    WS_UNROLL
    for (int s = 0; s < S::strips; ++s) {
      WS_UNROLL
      for (int k = 0; k < strip_sums; k += 2) f(S::row(i), S::column(s, k), sums.at(i, s, k), sums.at(i, s, k + 1));
    }
  }
}

/// The same for pairs inside C, with rows and columns of C.
template <class S, class F>
WS_DEVICE void each_pair_inside(S& sums, const Corner& at, F f) {
  each_pair(sums, [&](int row, int column, float& x, float& y) {
    if (at.top + row < at.rows && at.left + column < at.columns) f(at.top + row, at.left + column, x, y);
  });
}

WS_DEVICE void store_pair(bf16* p, float x, float y, bool both) {
  if (both && reinterpret_cast<uintptr_t>(p) % 4 == 0) {
    *reinterpret_cast<uint32_t*>(p) = pack_bf16(x, y);
    return;
  }
  p[0] = round_bf16(x);
  if (both) p[1] = round_bf16(y);
}
WS_DEVICE void store_pair(float* p, float x, float y, bool both) {
  if (both && reinterpret_cast<uintptr_t>(p) % 8 == 0) {
    *reinterpret_cast<Duo*>(p) = {as_bits(x), as_bits(y)};
    return;
  }
  p[0] = x;
  if (both) p[1] = y;
}

#if WS_HOST

/// C[m][n] = sum over k of A(m, k) B(n, k). Operands are of one type, C of that or f32, [a.lines, b.lines].
struct Product {
  DType type, c_type;
  bool a_across, b_across;
  Into into;
  Operand a, b;
  void* c;
  int64_t c_stride;
};

/// One order of k per element, whatever the matrix around it is. Which kernel does it depends on the type, on depths and
/// strides alone.
Status multiply(const Product& p, Launcher& on);

#endif

}  // namespace ws::cuda
