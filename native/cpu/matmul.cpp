// The three products of a linear layer, as calls of the shared gemm(): forward, gradient of the input, gradient of
// the weight. Shapes are checked here; strides say which operand is transposed.
// x [N,C], w [O,C], y [N,O]; leading dimensions of x and y may be several, they are joined.
// FLOPs 2 N C O each. Inner sums have one order: over C, over O, over tokens (gemm.h), so a row of y has the same bits
// alone or in a batch, and dw of two calls is dw of one call, cut where Device::token_alignment allows.
#include "gemm.h"

namespace ws::WS_NS {
namespace {

Matrix plain(const View& t) { return {t.data, t.dtype, t.last(), 1}; }
Matrix transposed(const View& t) { return {t.data, t.dtype, 1, t.last()}; }

Status check_layer(const View& x, const View& w, const View& y, const char* x_name, const char* y_name) {
  WS_CHECK(w.rank == 2, shape, "w: expected rank 2, got %d", w.rank);
  WS_CHECK(x.rank >= 1 && y.rank >= 1, shape, "%s and %s: expected at least one dimension, got ranks %d and %d", x_name,
           y_name, x.rank, y.rank);
  WS_CHECK(x.last() == w.dims[1], shape, "%s: expected last dimension %lld as w has, got %lld", x_name,
           static_cast<long long>(w.dims[1]), static_cast<long long>(x.last()));
  WS_CHECK(y.last() == w.dims[0], shape, "%s: expected last dimension %lld as w has rows, got %lld", y_name,
           static_cast<long long>(w.dims[0]), static_cast<long long>(y.last()));
  WS_CHECK(x.rows() == y.rows(), shape, "%s: expected %lld rows as %s has, got %lld", y_name,
           static_cast<long long>(x.rows()), x_name, static_cast<long long>(y.rows()));
  return {};
}

Status multiply(Runtime& rt, GemmShape shape, Matrix a, Matrix b, const View& c, bool accumulate) {
  const int64_t bytes = gemm_scratch_bytes(rt, shape);
  void* scratch = rt.scratch(bytes);
  WS_CHECK(scratch, oom, "no memory for %lld bytes of scratch", static_cast<long long>(bytes));
  gemm(rt, shape, a, b, {c.data, c.dtype, c.last()}, accumulate, scratch);
  return {};
}

}  // namespace

/// y = x w^T.
Status linear(const Call& c) {
  const View &x = c.t[0], &w = c.t[1], &y = c.t[2];
  const Status s = check_layer(x, w, y, "x", "y");
  if (!s.ok()) return s;
  return multiply(*c.rt, {x.rows(), w.dims[0], w.dims[1]}, plain(x), transposed(w), y, false);
}

/// dx = dy w.
Status linear_dx(const Call& c) {
  const View &dy = c.t[0], &w = c.t[1], &dx = c.t[2];
  const Status s = check_layer(dx, w, dy, "dx", "dy");
  if (!s.ok()) return s;
  return multiply(*c.rt, {dy.rows(), w.dims[1], w.dims[0]}, plain(dy), plain(w), dx, false);
}

/// dw += dy^T x.
Status linear_dw(const Call& c) {
  const View &dw = c.t[0], &dy = c.t[1], &x = c.t[2];
  const Status s = check_layer(x, dw, dy, "x", "dy");
  if (!s.ok()) return s;
  return multiply(*c.rt, {dw.dims[0], dw.dims[1], x.rows()}, transposed(dy), plain(x), dw, true);
}

}  // namespace ws::WS_NS
