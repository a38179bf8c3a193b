// RMSNorm and LayerNorm on the GPU, gradients of input and weight. Formulas: native/cpu/norm.cpp. In f32 whatever the type,
// rounded once. A warp has a row: 32 x 8 elements at a time, one sum per lane, then a fixed tree, so a row's bits depend
// on its length alone. The row is read twice or three times, from caches after the first. Weight gradients are chains.
#include "vectors.h"

namespace ws::cuda {
namespace {

constexpr int norm_rows = 4;  // of a block, a warp each
constexpr int norm_threads = norm_rows * warp_size;

struct NormArguments {
  const void *x, *w, *b;
  void* y;
  float *mean, *rstd;
  int64_t rows, width;
  float eps, offset;
};

WS_DEVICE int64_t own_row() { return static_cast<int64_t>(block().x) * norm_rows + warp(); }

/// f(column, n) for the parts of a row that this lane works on.
template <class F>
WS_DEVICE void over_row(int64_t width, F f) {
  for (int64_t at = lane() * span; at < width; at += warp_size * span) {
    const int64_t left = width - at;
    f(at, static_cast<int>(left < span ? left : span));
  }
}

template <class T>
WS_DEVICE void rms_rows(const NormArguments& a) {
  const int64_t row = own_row();
  if (row >= a.rows) return;
  const T *in = static_cast<const T*>(a.x) + row * a.width, *w = static_cast<const T*>(a.w);
  T* out = static_cast<T*>(a.y) + row * a.width;
  float squares = 0;
  over_row(a.width, [&](int64_t at, int n) {
    float x[span];
    load(in + at, n, x);
    for (int i = 0; i < span; ++i) squares += x[i] * x[i];
  });
  const float rstd = 1.0f / root(warp_sum(squares) / static_cast<float>(a.width) + a.eps);
  if (lane() == 0) a.rstd[row] = rstd;
  over_row(a.width, [&](int64_t at, int n) {
    float x[span], g[span];
    load(in + at, n, x);
    load(w + at, n, g);
    for (int i = 0; i < span; ++i) x[i] = x[i] * rstd * (g[i] + a.offset);
    store(out + at, n, x);
  });
}
WS_KERNEL_FOR_BOTH(rms_rows, norm_threads, NormArguments, a, rms_rows)

template <class T>
WS_DEVICE void layer_rows(const NormArguments& a) {
  const int64_t row = own_row();
  if (row >= a.rows) return;
  const T* in = static_cast<const T*>(a.x) + row * a.width;
  T* out = static_cast<T*>(a.y) + row * a.width;
  const float width = static_cast<float>(a.width);
  float sum = 0, squares = 0;
  over_row(a.width, [&](int64_t at, int n) {
    float x[span];
    load(in + at, n, x);
    for (int i = 0; i < span; ++i) sum += x[i];
  });
  const float mean = warp_sum(sum) / width;
  over_row(a.width, [&](int64_t at, int n) {
    float x[span];
    load(in + at, n, x);
    for (int i = 0; i < span; ++i) squares += i < n ? (x[i] - mean) * (x[i] - mean) : 0.0f;
  });
  const float rstd = 1.0f / root(warp_sum(squares) / width + a.eps);
  if (lane() == 0) a.mean[row] = mean, a.rstd[row] = rstd;
  over_row(a.width, [&](int64_t at, int n) {
    float x[span], w[span], b[span];
    load(in + at, n, x);
    load(static_cast<const T*>(a.w) + at, n, w);
    load(static_cast<const T*>(a.b) + at, n, b);
    for (int i = 0; i < span; ++i) x[i] = fused((x[i] - mean) * rstd, w[i], b[i]);
    store(out + at, n, x);
  });
}
WS_KERNEL_FOR_BOTH(layer_rows, norm_threads, NormArguments, a, layer_rows)

struct GradientArguments {
  const void *dy, *x, *w;
  const float *mean, *rstd;  // mean null: RMSNorm
  void* dx;
  float* dw;
  int64_t rows, width;
  float offset;
};

/// With g = dy (w + offset) and n = (x - mean) rstd: dx = rstd (g - n mean(g n)), and for LayerNorm less mean(g) too.
template <class T>
WS_DEVICE void row_gradients(const GradientArguments& a) {
  const int64_t row = own_row();
  if (row >= a.rows) return;
  const T *dy = static_cast<const T*>(a.dy) + row * a.width, *in = static_cast<const T*>(a.x) + row * a.width;
  T* out = static_cast<T*>(a.dx) + row * a.width;
  const float mean = a.mean == nullptr ? 0.0f : a.mean[row], rstd = a.rstd[row];
  const auto read = [&](int64_t at, int n, float (&g)[span], float (&x)[span]) {
    float w[span];
    load(dy + at, n, g);
    load(in + at, n, x);
    load(static_cast<const T*>(a.w) + at, n, w);
    for (int i = 0; i < span; ++i) {
      g[i] = i < n ? g[i] * (w[i] + a.offset) : 0.0f;
      x[i] = (x[i] - mean) * rstd;
    }
  };
  float sum = 0, dot = 0;
  over_row(a.width, [&](int64_t at, int n) {
    float g[span], x[span];
    read(at, n, g, x);
    for (int i = 0; i < span; ++i) sum += g[i], dot += g[i] * x[i];
  });
  const float width = static_cast<float>(a.width), along = warp_sum(dot) / width;
  const float even = a.mean == nullptr ? 0.0f : warp_sum(sum) / width;
  over_row(a.width, [&](int64_t at, int n) {
    float g[span], x[span];
    read(at, n, g, x);
    for (int i = 0; i < span; ++i) x[i] = rstd * (g[i] - even - x[i] * along);
    store(out + at, n, x);
  });
}
WS_KERNEL_FOR_BOTH(norm_dx, norm_threads, GradientArguments, a, row_gradients)

template <class T>
WS_DEVICE void weight_chains(const GradientArguments& a) {
  const T *d = static_cast<const T*>(a.dy), *in = static_cast<const T*>(a.x);
  column_chain(a.dw, a.rows, a.width, [=](int64_t row, int64_t column, float sum) {
    const float x = value(in[row * a.width + column]) - (a.mean == nullptr ? 0.0f : a.mean[row]);
    return fused(value(d[row * a.width + column]), x * a.rstd[row], sum);
  });
}
WS_KERNEL_FOR_BOTH(norm_dw, chain_threads, GradientArguments, a, weight_chains)

}  // namespace

#if WS_HOST

namespace {

bool is_f32(const View& v) { return v.dtype == DType::f32; }

Status check_rows(const View& x, const View& w) {
  WS_CHECK(x.rank >= 1 && x.last() > 0, shape, "x: expected a last dimension of at least 1, got shape %s",
           shape_text(x).text);
  return vector_of(w, "w", x.last());
}

Status check_statistic(const View& s, const View& x) {
  WS_CHECK(s.size() == x.rows(), shape, "expected %lld statistics, one per row, got shape %s",
           static_cast<long long>(x.rows()), shape_text(s).text);
  return {};
}

Extent rows_grid(int64_t rows) { return {blocks_for(rows, norm_rows), 1, 1}; }
Extent chain_grid(int64_t width) { return {blocks_for(width, chain_threads), 1, 1}; }

/// Gradient of the input, of the weight when w is absent.
Status check_gradients(const View& dy, const View& x, const View& vector, const View& mean, const View& rstd) {
  WS_TRY(check_rows(x, vector));
  WS_TRY(same_shape(dy, "dy", x, "x"));
  if (mean.present()) WS_TRY(check_statistic(mean, x));
  return check_statistic(rstd, x);
}

}  // namespace

Status rms_norm(const Call& c, Launcher& on) {
  const View& x = c.t[0];
  WS_TRY(check_rows(x, c.t[1]));
  WS_TRY(same_shape(c.t[2], "y", x, "x"));
  WS_TRY(check_statistic(c.t[3], x));
  const NormArguments a = {x.data, c.t[1].data, nullptr, c.t[2].data, nullptr, c.t[3].as<float>(), x.rows(), x.last(),
                           static_cast<float>(c.p[0]), static_cast<float>(c.p[1])};
  return start(on, is_f32(x) ? rms_rows_f32 : rms_rows_bf16, rows_grid(a.rows), 0, a);
}

Status rms_norm_dx(const Call& c, Launcher& on) {
  const View& x = c.t[1];
  WS_TRY(check_gradients(c.t[0], x, c.t[2], View{}, c.t[3]));
  WS_TRY(same_shape(c.t[4], "dx", x, "x"));
  const GradientArguments a = {c.t[0].data, x.data, c.t[2].data, nullptr, c.t[3].as<float>(), c.t[4].data, nullptr,
                               x.rows(), x.last(), static_cast<float>(c.p[0])};
  return start(on, is_f32(x) ? norm_dx_f32 : norm_dx_bf16, rows_grid(a.rows), 0, a);
}

Status rms_norm_dw(const Call& c, Launcher& on) {
  const View& x = c.t[2];
  WS_TRY(check_gradients(c.t[1], x, c.t[0], View{}, c.t[3]));
  const GradientArguments a = {c.t[1].data, x.data, nullptr, nullptr, c.t[3].as<float>(), nullptr,
                               c.t[0].as<float>(), x.rows(), x.last(), 0};
  return start(on, is_f32(x) ? norm_dw_f32 : norm_dw_bf16, chain_grid(a.width), 0, a);
}

Status layer_norm(const Call& c, Launcher& on) {
  const View& x = c.t[0];
  WS_TRY(check_rows(x, c.t[1]));
  WS_TRY(vector_of(c.t[2], "b", x.last()));
  WS_TRY(same_shape(c.t[3], "y", x, "x"));
  WS_TRY(check_statistic(c.t[4], x));
  WS_TRY(check_statistic(c.t[5], x));
  const NormArguments a = {x.data, c.t[1].data, c.t[2].data, c.t[3].data, c.t[4].as<float>(), c.t[5].as<float>(),
                           x.rows(), x.last(), static_cast<float>(c.p[0]), 0};
  return start(on, is_f32(x) ? layer_rows_f32 : layer_rows_bf16, rows_grid(a.rows), 0, a);
}

Status layer_norm_dx(const Call& c, Launcher& on) {
  const View& x = c.t[1];
  WS_TRY(check_gradients(c.t[0], x, c.t[2], c.t[3], c.t[4]));
  WS_TRY(same_shape(c.t[5], "dx", x, "x"));
  const GradientArguments a = {c.t[0].data, x.data, c.t[2].data, c.t[3].as<float>(), c.t[4].as<float>(), c.t[5].data,
                               nullptr, x.rows(), x.last(), 0};
  return start(on, is_f32(x) ? norm_dx_f32 : norm_dx_bf16, rows_grid(a.rows), 0, a);
}

Status layer_norm_dw(const Call& c, Launcher& on) {
  const View& x = c.t[2];
  WS_TRY(check_gradients(c.t[1], x, c.t[0], c.t[3], c.t[4]));
  const GradientArguments a = {c.t[1].data, x.data, nullptr, c.t[3].as<float>(), c.t[4].as<float>(), nullptr,
                               c.t[0].as<float>(), x.rows(), x.last(), 0};
  return start(on, is_f32(x) ? norm_dw_f32 : norm_dw_bf16, chain_grid(a.width), 0, a);
}

#endif

}  // namespace ws::cuda
