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

/// A pair in memory: both at once where `paired`, else the first `count`.
WS_DEVICE void load_pair(const float* p, int count, bool paired, float& x, float& y) {
  if (paired) {
    const Duo two = *reinterpret_cast<const Duo*>(p);
    x = as_float(two.x), y = as_float(two.y);
  } else {
    x = p[0], y = count > 1 ? p[1] : 0.0f;
  }
}
WS_DEVICE void store_pair(float* p, int count, bool paired, float x, float y) {
  if (paired) {
    *reinterpret_cast<Duo*>(p) = {as_bits(x), as_bits(y)};
  } else {
    p[0] = x;
    if (count > 1) p[1] = y;
  }
}
WS_DEVICE void store_pair(bf16* p, int count, bool paired, float x, float y) {
  if (paired) {
    *reinterpret_cast<uint32_t*>(p) = pack_bf16(x, y);
  } else {
    p[0] = round_bf16(x);
    if (count > 1) p[1] = round_bf16(y);
  }
}

/// f(p, count, paired, x, y) for the pairs inside C, with their place in memory. Whole tiles have no edges to test.
template <class S, class Out, class F>
WS_DEVICE void each_pair_in(Out* c, int64_t stride, const Corner& at, S& sums, F f) {
  const bool paired = at.left + S::columns <= at.columns && stride % 2 == 0 &&
                      reinterpret_cast<uintptr_t>(c) % (2 * sizeof(Out)) == 0;
  WS_UNROLL
  for (int i = 0; i < S::rows; ++i) {
    const int64_t row = at.top + S::row(i);
    if (row >= at.rows) continue;
    Out* const line = c + row * stride + at.left;
    WS_UNROLL
    for (int s = 0; s < S::strips; ++s) {
      WS_UNROLL
      for (int k = 0; k < strip_sums; k += 2) {
        const int64_t column = S::column(s, k), left = at.columns - at.left - column;
        if (paired) f(line + column, 2, true, sums.at(i, s, k), sums.at(i, s, k + 1));
        else if (left > 0) f(line + column, left > 1 ? 2 : 1, false, sums.at(i, s, k), sums.at(i, s, k + 1));
      }
    }
  }
}

template <class S, class Out>
WS_DEVICE void store_sums(Out* c, int64_t stride, const Corner& at, S& sums) {
  each_pair_in(c, stride, at, sums,
               [](Out* p, int count, bool paired, float x, float y) { store_pair(p, count, paired, x, y); });
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
