// The matrix product that every CPU kernel shares: C (+)= A B with f32 accumulation. One element of C is one
// chain of fused multiply-adds along K, in order (of bf16 at WS_LEVEL 5: of sums over groups of 32 of K, gemm_amx.h), so
// its bits depend on K alone: not on M, N, threads or neighbours.
// Kernels vectorise across N, never across K. Included by kernel files only; lives in their namespace.
#pragma once
#include "../core/op.h"
#include "simd.h"

namespace ws::WS_NS {

/// A matrix operand: element (row, column) is data[row * row_stride + column * column_stride].
struct Matrix {
  const void* data;
  DType dtype;
  int64_t row_stride, column_stride;
};

/// A row-major result with `stride` elements between rows.
struct Result {
  void* data;
  DType dtype;  // f32 or bf16
  int64_t stride;
};

struct GemmShape {
  int64_t m, n, k;
};

/// Bytes of scratch that gemm() needs for the shape; give it a 64-byte aligned block of that size.
int64_t gemm_scratch_bytes(const Runtime& rt, GemmShape shape);

/// C = A B, or C += A B when accumulate (the chain then starts from C's value; C must be f32). Calls over parts of K are one
/// call over K, at WS_LEVEL 5 where bf16 is cut at multiples of 32.
/// a is [m,k], b is [k,n]. k = 0 gives zeros (or leaves C).
void gemm(Runtime& rt, GemmShape shape, Matrix a, Matrix b, Result c, bool accumulate, void* scratch);

}  // namespace ws::WS_NS
