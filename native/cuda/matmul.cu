// The products of a linear layer on the GPU, all by gemm.h: y = x w^T, dx = dy w, dw += dy^T x. x [N,C], w [O,C], y [N,O].
// Each element is one sum over C, over O, or over tokens starting from the value in dw. In f32 these are the CPU's bits;
// in bf16 tokens are summed 16 at a time, so micro-batches add up to the bits of one batch where they are cut at
// multiples of 16 tokens.
#include "gemm.h"

namespace ws::cuda {
namespace {

struct LinearArguments {
  Operand a, b;
  void* c;  // [a.lines, b.lines]
};

/// Two neighbours of a row at once, where that is allowed.
template <class T>
WS_DEVICE void store_tile(Sums& sums, T* c, int64_t top, int64_t left, int64_t rows, int64_t columns) {
  each(sums, [&](int row, int column, float& sum) {
    if (top + row < rows && left + column < columns) c[(top + row) * columns + left + column] = rounded<T>(sum);
  });
}

template <class T, bool a_across, bool b_across>
WS_DEVICE void product(const LinearArguments& g) {
  const int64_t top = static_cast<int64_t>(block().x) * tile, left = static_cast<int64_t>(block().y) * tile;
  Sums sums;
  clear(sums);
  multiply_tile<T, a_across, b_across>(g.a, top, g.b, left, sums);
  store_tile(sums, static_cast<T*>(g.c), top, left, g.a.lines, g.b.lines);
}

/// c += a b, c in f32.
template <class T>
WS_DEVICE void weight_product(const LinearArguments& g) {
  const int64_t top = static_cast<int64_t>(block().x) * tile, left = static_cast<int64_t>(block().y) * tile;
  float* c = static_cast<float*>(g.c);
  Sums sums;
  each(sums, [&](int row, int column, float& sum) {
    const bool inside = top + row < g.a.lines && left + column < g.b.lines;
    sum = inside ? c[(top + row) * g.b.lines + left + column] : 0.0f;
  });
  multiply_tile<T, true, true>(g.a, top, g.b, left, sums);
  store_tile(sums, c, top, left, g.a.lines, g.b.lines);
}

WS_KERNEL(linear_f32, gemm_threads, LinearArguments, a) { product<float, false, false>(a); }
WS_KERNEL(linear_bf16, gemm_threads, LinearArguments, a) { product<bf16, false, false>(a); }
WS_KERNEL(linear_dx_f32, gemm_threads, LinearArguments, a) { product<float, false, true>(a); }
WS_KERNEL(linear_dx_bf16, gemm_threads, LinearArguments, a) { product<bf16, false, true>(a); }
WS_KERNEL(linear_dw_f32, gemm_threads, LinearArguments, a) { weight_product<float>(a); }
WS_KERNEL(linear_dw_bf16, gemm_threads, LinearArguments, a) { weight_product<bf16>(a); }

}  // namespace

#if WS_HOST

namespace {

Status check_linear(const View& x, const View& w, const View& y) {
  WS_CHECK(x.rank == 2 && w.rank == 2 && y.rank == 2, shape, "expected matrices, got shapes %s, %s, %s",
           shape_text(x).text, shape_text(w).text, shape_text(y).text);
  WS_SAME(w.dims[1], x.dims[1], "columns of w");
  WS_SAME(y.dims[0], x.dims[0], "rows of y");
  WS_SAME(y.dims[1], w.dims[0], "columns of y");
  return {};
}

Status run(Launcher& on, DType type, const HostKernel& f32, const HostKernel& bf16, const LinearArguments& a) {
  const Extent grid = {blocks_for(a.a.lines, tile), blocks_for(a.b.lines, tile), 1};
  if (type == DType::f32) return start(on, f32, grid, gemm_shared_bytes<float>, a);
  return start(on, bf16, grid, gemm_shared_bytes<ws::bf16>, a);
}

}  // namespace

Status linear(const Call& c, Launcher& on) {
  const View &x = c.t[0], &w = c.t[1], &y = c.t[2];
  WS_TRY(check_linear(x, w, y));
  const int64_t n = x.dims[0], width = x.dims[1], out = w.dims[0];
  return run(on, x.dtype, linear_f32, linear_bf16, {{x.data, n, width, width}, {w.data, out, width, width}, y.data});
}

Status linear_dx(const Call& c, Launcher& on) {
  const View &dy = c.t[0], &w = c.t[1], &dx = c.t[2];
  WS_TRY(check_linear(dx, w, dy));
  const int64_t n = dx.dims[0], width = dx.dims[1], out = w.dims[0];
  return run(on, dx.dtype, linear_dx_f32, linear_dx_bf16, {{dy.data, n, out, out}, {w.data, width, out, width}, dx.data});
}

Status linear_dw(const Call& c, Launcher& on) {
  const View &dw = c.t[0], &dy = c.t[1], &x = c.t[2];
  WS_TRY(check_linear(x, dw, dy));
  const int64_t n = x.dims[0], width = x.dims[1], out = dw.dims[0];
  return run(on, x.dtype, linear_dw_f32, linear_dw_bf16, {{dy.data, out, n, out}, {x.data, width, n, width}, dw.data});
}

#endif

}  // namespace ws::cuda
