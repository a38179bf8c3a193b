// RMSNorm and LayerNorm over the last dimension, gradients of input and weight. The bias gradient of LayerNorm is
// column_sum. Computed in f32 whatever the type, rounded once; statistics rstd (and mean) are f32, one per row.
// Bound by memory: forward reads x once from memory (twice from cache) and writes y. Error: some ulp of the result
// type. What must stay: a row's sums have one order that depends on C alone (row_sum); the weight gradient of a column
// is one chain over rows starting from the value in dw, so micro-batches add up to the bits of one batch.
#include "loops.h"

namespace ws::WS_NS {
namespace {

/// x [...,C] and the operands that must agree with it.
Status check_rows(const View& x, const char* name, const View& w, const char* w_name) {
  WS_CHECK(x.rank >= 1 && x.last() > 0, shape, "%s: expected a last dimension of at least 1, got shape %s", name,
           shape_text(x).text);
  return vector_of(w, w_name, x.last());
}

/// One number per row of x; its shape may be that of x without the last dimension, or flat.
Status check_statistic(const View& s, const char* name, const View& x) {
  WS_CHECK(s.size() == x.rows(), shape, "%s: expected %lld elements, one per row of %s, got shape %s", name,
           static_cast<long long>(x.rows()), shape_text(x).text, shape_text(s).text);
  return {};
}

template <class T>
float mean_square(const T* x, int64_t width) {
  const float sum = row_sum(width, [=](int64_t i, auto lanes) {
    const V v = load(x + i, lanes);
    return mul(v, v);
  });
  return sum / static_cast<float>(width);
}

template <class T>
void rms_rows(const Call& c) {
  const View& x = c.t[0];
  const int64_t width = x.last();
  const T* w = c.t[1].as<T>();
  const float eps = static_cast<float>(c.p[0]);
  const V offset = set1(static_cast<float>(c.p[1]));
  for_rows(*c.rt, x.rows(), width, [&](int64_t row) {
    const T* in = x.as<T>() + row * width;
    T* out = c.t[2].as<T>() + row * width;
    const float rstd = 1.0f / __builtin_sqrtf(mean_square(in, width) + eps);
    c.t[3].as<float>()[row] = rstd;
    for_vectors(0, width, [=](int64_t i, auto lanes) {
      const V gain = add(load(w + i, lanes), offset);
      store(out + i, mul(mul(load(in + i, lanes), set1(rstd)), gain), lanes);
    });
  });
}

template <class T>
void rms_gradients(const Call& c) {
  const View &dy = c.t[0], &x = c.t[1];
  const int64_t width = x.last();
  const T* w = c.t[2].as<T>();
  const V offset = set1(static_cast<float>(c.p[0]));
  for_rows(*c.rt, x.rows(), width, [&](int64_t row) {
    const T *d = dy.as<T>() + row * width, *in = x.as<T>() + row * width;
    T* out = c.t[4].as<T>() + row * width;
    const V rstd = set1(c.t[3].as<float>()[row]);
    const auto gained = [=](int64_t i, auto lanes) {
      return mul(load(d + i, lanes), add(load(w + i, lanes), offset));
    };
    const auto normed = [=](int64_t i, auto lanes) { return mul(load(in + i, lanes), rstd); };
    const float dot = row_sum(width, [=](int64_t i, auto lanes) { return mul(gained(i, lanes), normed(i, lanes)); });
    const V mean = set1(dot / static_cast<float>(width));
    for_vectors(0, width, [=](int64_t i, auto lanes) {
      store(out + i, mul(rstd, sub(gained(i, lanes), mul(normed(i, lanes), mean))), lanes);
    });
  });
}

template <class T>
void layer_rows(const Call& c) {
  const View& x = c.t[0];
  const int64_t width = x.last();
  const T *w = c.t[1].as<T>(), *b = c.t[2].as<T>();
  const float eps = static_cast<float>(c.p[0]);
  for_rows(*c.rt, x.rows(), width, [&](int64_t row) {
    const T* in = x.as<T>() + row * width;
    T* out = c.t[3].as<T>() + row * width;
    const float sum = row_sum(width, [=](int64_t i, auto lanes) { return load(in + i, lanes); });
    const float mean = sum / static_cast<float>(width);
    const float squares = row_sum(width, [=](int64_t i, auto lanes) {
      const V v = sub(load(in + i, lanes), set1(mean));
      return mul(v, v);
    });
    const float rstd = 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + eps);
    c.t[4].as<float>()[row] = mean;
    c.t[5].as<float>()[row] = rstd;
    for_vectors(0, width, [=](int64_t i, auto lanes) {
      const V normed = mul(sub(load(in + i, lanes), set1(mean)), set1(rstd));
      store(out + i, fma(normed, load(w + i, lanes), load(b + i, lanes)), lanes);
    });
  });
}

template <class T>
void layer_gradients(const Call& c) {
  const View &dy = c.t[0], &x = c.t[1];
  const int64_t width = x.last();
  const T* w = c.t[2].as<T>();
  for_rows(*c.rt, x.rows(), width, [&](int64_t row) {
    const T *d = dy.as<T>() + row * width, *in = x.as<T>() + row * width;
    T* out = c.t[5].as<T>() + row * width;
    const V mean = set1(c.t[3].as<float>()[row]), rstd = set1(c.t[4].as<float>()[row]);
    const auto gained = [=](int64_t i, auto lanes) { return mul(load(d + i, lanes), load(w + i, lanes)); };
    const auto normed = [=](int64_t i, auto lanes) { return mul(sub(load(in + i, lanes), mean), rstd); };
    const float sum = row_sum(width, gained);
    const float dot = row_sum(width, [=](int64_t i, auto lanes) { return mul(gained(i, lanes), normed(i, lanes)); });
    const V even = set1(sum / static_cast<float>(width)), along = set1(dot / static_cast<float>(width));
    for_vectors(0, width, [=](int64_t i, auto lanes) {
      const V left = sub(sub(gained(i, lanes), even), mul(normed(i, lanes), along));
      store(out + i, mul(rstd, left), lanes);
    });
  });
}

/// dw += sum over rows of dy (x - mean) rstd; mean absent (null) means zero.
template <class T>
void weight_gradients(Runtime& rt, const View& dw, const View& dy, const View& x, const float* mean,
                      const float* rstd) {
  const T *d = dy.as<T>(), *in = x.as<T>();
  const int64_t width = x.last();
  const auto add_row = [=](V sum, int64_t row, int64_t column, auto lanes) {
    V v = load(in + row * width + column, lanes);
    if (mean) v = sub(v, set1(mean[row]));
    return fma(load(d + row * width + column, lanes), mul(v, set1(rstd[row])), sum);
  };
  column_chains(rt, x.rows(), width, dw.as<float>(), add_row, [=](int64_t row, int64_t column) {
    prefetch_block(in + row * width + column);
    prefetch_block(d + row * width + column);
  });
}

}  // namespace

/// y = x rstd (w + offset), rstd = 1 / sqrt(mean(x^2) + eps). x [...,C], w [C]; offset is 1 for Gemma, else 0.
Status rms_norm(const Call& c) {
  const View& x = c.t[0];
  WS_TRY(check_rows(x, "x", c.t[1], "w"));
  WS_TRY(same_shape(c.t[2], "y", x, "x"));
  WS_TRY(check_statistic(c.t[3], "rstd", x));
  x.dtype == DType::f32 ? rms_rows<float>(c) : rms_rows<bf16>(c);
  return {};
}

/// With g = dy (w + offset) and n = x rstd: dx = rstd (g - n mean(g n)).
Status rms_norm_dx(const Call& c) {
  const View& x = c.t[1];
  WS_TRY(check_rows(x, "x", c.t[2], "w"));
  WS_TRY(same_shape(c.t[0], "dy", x, "x"));
  WS_TRY(check_statistic(c.t[3], "rstd", x));
  WS_TRY(same_shape(c.t[4], "dx", x, "x"));
  x.dtype == DType::f32 ? rms_gradients<float>(c) : rms_gradients<bf16>(c);
  return {};
}

/// dw += sum over rows of dy x rstd, in row order. dw [C] f32.
Status rms_norm_dw(const Call& c) {
  const View &dw = c.t[0], &dy = c.t[1], &x = c.t[2];
  WS_TRY(check_rows(x, "x", dw, "dw"));
  WS_TRY(same_shape(dy, "dy", x, "x"));
  WS_TRY(check_statistic(c.t[3], "rstd", x));
  const float* rstd = c.t[3].as<float>();
  if (x.dtype == DType::f32) weight_gradients<float>(*c.rt, dw, dy, x, nullptr, rstd);
  else weight_gradients<bf16>(*c.rt, dw, dy, x, nullptr, rstd);
  return {};
}

/// y = (x - mean) rstd w + b, rstd = 1 / sqrt(mean((x - mean)^2) + eps); two passes, no cancellation.
Status layer_norm(const Call& c) {
  const View& x = c.t[0];
  WS_TRY(check_rows(x, "x", c.t[1], "w"));
  WS_TRY(vector_of(c.t[2], "b", x.last()));
  WS_TRY(same_shape(c.t[3], "y", x, "x"));
  WS_TRY(check_statistic(c.t[4], "mean", x));
  WS_TRY(check_statistic(c.t[5], "rstd", x));
  x.dtype == DType::f32 ? layer_rows<float>(c) : layer_rows<bf16>(c);
  return {};
}

/// With g = dy w and n = (x - mean) rstd: dx = rstd (g - mean(g) - n mean(g n)).
Status layer_norm_dx(const Call& c) {
  const View& x = c.t[1];
  WS_TRY(check_rows(x, "x", c.t[2], "w"));
  WS_TRY(same_shape(c.t[0], "dy", x, "x"));
  WS_TRY(check_statistic(c.t[3], "mean", x));
  WS_TRY(check_statistic(c.t[4], "rstd", x));
  WS_TRY(same_shape(c.t[5], "dx", x, "x"));
  x.dtype == DType::f32 ? layer_gradients<float>(c) : layer_gradients<bf16>(c);
  return {};
}

/// dw += sum over rows of dy (x - mean) rstd, in row order. dw [C] f32.
Status layer_norm_dw(const Call& c) {
  const View &dw = c.t[0], &dy = c.t[1], &x = c.t[2];
  WS_TRY(check_rows(x, "x", dw, "dw"));
  WS_TRY(same_shape(dy, "dy", x, "x"));
  WS_TRY(check_statistic(c.t[3], "mean", x));
  WS_TRY(check_statistic(c.t[4], "rstd", x));
  const float *mean = c.t[3].as<float>(), *rstd = c.t[4].as<float>();
  if (x.dtype == DType::f32) weight_gradients<float>(*c.rt, dw, dy, x, mean, rstd);
  else weight_gradients<bf16>(*c.rt, dw, dy, x, mean, rstd);
  return {};
}

}  // namespace ws::WS_NS
