// Matrix products as entries of ops ask for them: matmul.cu has the kernels and chooses among them. Included by kernel
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
