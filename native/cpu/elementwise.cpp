// Elementwise kernels: sums, scaling, gated and plain activations with their gradients. No reductions here.
// Bound by memory: one read per input, one write per output. Computed in f32, rounded once when the result is bf16;
// an activation is within some 4 ulp of f32. Tails run the same vector code, so bits do not depend on position.
#include "loops.h"
#include "random.h"

namespace ws::WS_NS {
namespace {

// Activations, for N vectors side by side -----------------------------------------------------------------------------

/// z becomes 1 / (1 + e^-z); 0 and 1 at the infinities.
template <int N>
void sigmoid(V (&z)[N]) {
  WS_EACH(N) z[i] = sub(zero(), z[i]);
  exp(z);
  WS_EACH(N) z[i] = div(set1(1.0f), add(set1(1.0f), z[i]));
}

struct Silu {
  /// x becomes x sigmoid(x).
  template <int N>
  static void value(V (&x)[N]) {
    V s[N];
    WS_EACH(N) s[i] = x[i];
    sigmoid(s);
    WS_EACH(N) x[i] = mul(x[i], s[i]);
  }
  /// x becomes its value; slope is s (1 + x (1 - s)). Beyond 100, s is 0 or 1, and infinity times 0 must not arise.
  template <int N>
  static void curve(V (&x)[N], V (&slope)[N]) {
    V bounded[N], s[N];
    WS_EACH(N) s[i] = bounded[i] = min(set1(100.0f), max(set1(-100.0f), x[i]));
    sigmoid(s);
    WS_EACH(N) x[i] = mul(x[i], s[i]);
    WS_EACH(N) slope[i] = mul(s[i], fma(bounded[i], sub(set1(1.0f), s[i]), set1(1.0f)));
  }
};

/// x sigmoid(2 u) = x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3).
struct Gelu {
  static constexpr float a = 1.5957691216057308f;    // 2 sqrt(2 / pi)
  static constexpr float b = 0.071354816272600370f;  // a * 0.044715
  template <int N>
  static void value(V (&x)[N]) {
    V s[N];
    WS_EACH(N) s[i] = mul(x[i], fma(mul(x[i], x[i]), set1(b), set1(a)));
    sigmoid(s);
    WS_EACH(N) x[i] = mul(x[i], s[i]);
  }
  /// Slope s + x s (1 - s) (2 u)'. Beyond 30, s is 0 or 1.
  template <int N>
  static void curve(V (&x)[N], V (&slope)[N]) {
    V bounded[N], s[N], inner[N];
    WS_EACH(N) bounded[i] = min(set1(30.0f), max(set1(-30.0f), x[i]));
    WS_EACH(N) s[i] = mul(bounded[i], fma(mul(bounded[i], bounded[i]), set1(b), set1(a)));
    WS_EACH(N) inner[i] = fma(mul(bounded[i], bounded[i]), set1(3.0f * b), set1(a));
    sigmoid(s);
    WS_EACH(N) x[i] = mul(x[i], s[i]);
    WS_EACH(N) slope[i] = fma(mul(mul(bounded[i], s[i]), sub(set1(1.0f), s[i])), inner[i], s[i]);
  }
};

template <class T, int N, class Lanes>
void load_block(const T* p, V (&x)[N], Lanes lanes) {
  WS_EACH(N) x[i] = load(p + i * W, lanes);
}
template <class T, int N, class Lanes>
void store_block(T* p, const V (&x)[N], Lanes lanes) {
  WS_EACH(N) store(p + i * W, x[i], lanes);
}

// Loops ---------------------------------------------------------------------------------------------------------------

/// y = f(x).
template <class T, class F>
void map(Runtime& rt, const View& x, const View& y, F f) {
  const T* in = x.as<T>();
  T* out = y.as<T>();
  for_spans(rt, x.size(), [=](int64_t begin, int64_t end) {
    for_vectors(begin, end, [=](int64_t i, auto lanes) { store(out + i, f(load(in + i, lanes)), lanes); });
  });
}

/// y = f(a, b).
template <class T, class F>
void map(Runtime& rt, const View& a, const View& b, const View& y, F f) {
  const T *left = a.as<T>(), *right = b.as<T>();
  T* out = y.as<T>();
  for_spans(rt, a.size(), [=](int64_t begin, int64_t end) {
    for_vectors(begin, end, [=](int64_t i, auto lanes) {
      store(out + i, f(load(left + i, lanes), load(right + i, lanes)), lanes);
    });
  });
}

/// y = act(x), or act(x) up when up is given.
template <class T, class Activation>
void activate(Runtime& rt, const View& x, const T* up, const View& y) {
  const T* in = x.as<T>();
  T* out = y.as<T>();
  for_spans(rt, x.size(), [=](int64_t begin, int64_t end) {
    for_blocks(begin, end, [=](int64_t at, auto width, auto lanes) {
      V v[width.count];
      load_block(in + at, v, lanes);
      Activation::value(v);
      if (up) WS_EACH(width.count) v[i] = mul(v[i], load(up + at + i * W, lanes));
      store_block(out + at, v, lanes);
    });
  });
}

/// dx = dy act'(x), and with up: dgate = dy up act'(gate), dup = dy act(gate).
template <class T, class Activation>
void activation_gradients(Runtime& rt, const View& dy, const View& x, const T* up, const View& dx, T* dup) {
  const T *d = dy.as<T>(), *in = x.as<T>();
  T* out = dx.as<T>();
  for_spans(rt, x.size(), [=](int64_t begin, int64_t end) {
    for_blocks(begin, end, [=](int64_t at, auto width, auto lanes) {
      V v[width.count], slope[width.count], g[width.count];
      load_block(in + at, v, lanes);
      load_block(d + at, g, lanes);
      Activation::curve(v, slope);
      if (up) {
        WS_EACH(width.count) store(dup + at + i * W, mul(g[i], v[i]), lanes);
        WS_EACH(width.count) g[i] = mul(g[i], load(up + at + i * W, lanes));
      }
      WS_EACH(width.count) store(out + at + i * W, mul(g[i], slope[i]), lanes);
    });
  });
}

template <class F>
Status map_any(const Call& c, F f) {
  if (c.t[0].dtype == DType::f32) map<float>(*c.rt, c.t[0], c.t[1], f);
  else map<bf16>(*c.rt, c.t[0], c.t[1], f);
  return {};
}

template <class F>
Status map_two(const Call& c, F f) {
  if (c.t[0].dtype == DType::f32) map<float>(*c.rt, c.t[0], c.t[1], c.t[2], f);
  else map<bf16>(*c.rt, c.t[0], c.t[1], c.t[2], f);
  return {};
}

template <class T>
void bias_rows(Runtime& rt, const View& x, const View& b, const View& y) {
  const int64_t width = x.last();
  const T* bias = b.as<T>();
  for_rows(rt, x.rows(), width, [&](int64_t row) {
    const T* in = x.as<T>() + row * width;
    T* out = y.as<T>() + row * width;
    for_vectors(0, width, [=](int64_t i, auto lanes) {
      store(out + i, add(load(in + i, lanes), load(bias + i, lanes)), lanes);
    });
  });
}

template <class T>
void gated(const Call& c) {
  const T* up = c.t[1].as<T>();
  if (c.p[0] == 0) activate<T, Silu>(*c.rt, c.t[0], up, c.t[2]);
  else activate<T, Gelu>(*c.rt, c.t[0], up, c.t[2]);
}

template <class T>
void gated_gradients(const Call& c) {
  const View &dy = c.t[0], &gate = c.t[1], &dgate = c.t[3];
  const T* up = c.t[2].as<T>();
  T* dup = c.t[4].as<T>();
  if (c.p[0] == 0) activation_gradients<T, Silu>(*c.rt, dy, gate, up, dgate, dup);
  else activation_gradients<T, Gelu>(*c.rt, dy, gate, up, dgate, dup);
}

template <class T>
void scaled_columns(Runtime& rt, const View& x, const float* g, const View& y) {
  const int64_t width = x.last();
  for_rows(rt, x.rows(), width, [&](int64_t row) {
    const T* in = x.as<T>() + row * width;
    T* out = y.as<T>() + row * width;
    for_vectors(0, width, [=](int64_t i, auto lanes) {
      store(out + i, mul(load(in + i, lanes), load(g + i, lanes)), lanes);
    });
  });
}

template <class T>
void column_products(Runtime& rt, const View& dg, const View& dy, const View& x) {
  const T *d = dy.as<T>(), *in = x.as<T>();
  const int64_t width = x.last();
  const auto add_row = [=](V sum, int64_t row, int64_t column, auto lanes) {
    return fma(load(d + row * width + column, lanes), load(in + row * width + column, lanes), sum);
  };
  column_chains(rt, x.rows(), width, dg.as<float>(), add_row, [=](int64_t row, int64_t column) {
    prefetch_block(d + row * width + column);
    prefetch_block(in + row * width + column);
  });
}

// Random numbers ------------------------------------------------------------------------------------------------------

/// y = f(x, r, row), r the vector of number(word) of each element.
template <class T, class Number, class F>
void random_map(const Call& c, const View& y, double site, Number number, F f) {
  const View& x = c.t[0];
  const int64_t width = x.last();
  for_rows(*c.rt, x.rows(), width, [&](int64_t row) {
    const int32_t* key = c.t[1].as<int32_t>() + row * 4;
    const T* in = x.as<T>() + row * width;
    T* out = y.as<T>() + row * width;
    for (int64_t first = 0; first < width; first += group_columns) {
      uint32_t words[group_columns];
      float r[group_columns];
      random_columns(key, static_cast<uint32_t>(site), first, words);
      for (int j = 0; j < group_columns; ++j) r[j] = number(words[j]);
      const int64_t end = first + group_columns < width ? first + group_columns : width;
      for_vectors(first, end, [&](int64_t i, auto lanes) {
        store(out + i, f(load(in + i, lanes), load(r + (i - first), lanes), row), lanes);
      });
    }
  });
}

template <class T>
void dropped(const Call& c) {
  const uint32_t threshold = static_cast<uint32_t>(c.p[0] * 0x1p32);
  const float kept = static_cast<float>(1.0 / (1.0 - c.p[0]));
  random_map<T>(
      c, c.t[2], c.p[1], [=](uint32_t word) { return kept * static_cast<float>(static_cast<int>(word >= threshold)); },
      [](V x, V r, int64_t) { return mul(x, r); });
}

template <class T>
void noisy(const Call& c) {
  const float* scale = c.t[2].as<float>();
  random_map<T>(
      c, c.t[3], c.p[0], [](uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-23f - 1.0f; },
      [=](V x, V r, int64_t row) { return fma(set1(scale[row]), r, x); });
}

Status check_random(const View& x, const View& keys, double site) {
  WS_CHECK(x.rank == 2, shape, "x: expected shape [N, C], got %s", shape_text(x).text);
  WS_CHECK(keys.rank == 2 && keys.dims[0] == x.dims[0] && keys.dims[1] == 4, shape,
           "keys: expected shape [%lld, 4], got %s", static_cast<long long>(x.dims[0]), shape_text(keys).text);
  WS_CHECK(site >= 0 && site <= 4294967295.0, config, "site: expected a whole number below 2^32, got %g", site);
  return {};
}

Status check_activation(double id) {
  WS_CHECK(id == 0 || id == 1, config, "activation: expected 0 (silu) or 1 (gelu_tanh), got %g", id);
  return {};
}

}  // namespace

/// y = a + b, equal shapes.
Status add(const Call& c) {
  WS_TRY(same_shape(c.t[1], "b", c.t[0], "a"));
  WS_TRY(same_shape(c.t[2], "y", c.t[0], "a"));
  return map_two(c, [](V a, V b) { return add(a, b); });
}

/// y = x + b for every row: x [N,C], b [C].
Status add_bias(const Call& c) {
  const View &x = c.t[0], &b = c.t[1], &y = c.t[2];
  WS_CHECK(x.rank >= 1, shape, "x: expected at least one dimension");
  WS_TRY(vector_of(b, "b", x.last()));
  WS_TRY(same_shape(y, "y", x, "x"));
  if (x.dtype == DType::f32) bias_rows<float>(*c.rt, x, b, y);
  else bias_rows<bf16>(*c.rt, x, b, y);
  return {};
}

/// y = factor x.
Status scale(const Call& c) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  const V factor = set1(static_cast<float>(c.p[0]));
  return map_any(c, [factor](V x) { return mul(factor, x); });
}

/// y = act(gate) up.
Status glu(const Call& c) {
  WS_TRY(check_activation(c.p[0]));
  WS_TRY(same_shape(c.t[1], "up", c.t[0], "gate"));
  WS_TRY(same_shape(c.t[2], "y", c.t[0], "gate"));
  c.t[0].dtype == DType::f32 ? gated<float>(c) : gated<bf16>(c);
  return {};
}

/// dgate = dy up act'(gate), dup = dy act(gate).
Status glu_backward(const Call& c) {
  static const char* const names[] = {"dy", "gate", "up", "dgate", "dup"};
  WS_TRY(check_activation(c.p[0]));
  for (int i = 1; i < 5; ++i) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  c.t[0].dtype == DType::f32 ? gated_gradients<float>(c) : gated_gradients<bf16>(c);
  return {};
}

/// y = gelu(x), tanh form.
Status gelu(const Call& c) {
  const View &x = c.t[0], &y = c.t[1];
  WS_TRY(same_shape(y, "y", x, "x"));
  if (x.dtype == DType::f32) activate<float, Gelu>(*c.rt, x, nullptr, y);
  else activate<bf16, Gelu>(*c.rt, x, nullptr, y);
  return {};
}

/// dx = dy gelu'(x).
Status gelu_backward(const Call& c) {
  const View &dy = c.t[0], &x = c.t[1], &dx = c.t[2];
  WS_TRY(same_shape(x, "x", dy, "dy"));
  WS_TRY(same_shape(dx, "dx", dy, "dy"));
  if (x.dtype == DType::f32) activation_gradients<float, Gelu>(*c.rt, dy, x, nullptr, dx, nullptr);
  else activation_gradients<bf16, Gelu>(*c.rt, dy, x, nullptr, dx, nullptr);
  return {};
}

/// y = x g for every row: x [...,C], g [C] f32.
Status scale_columns(const Call& c) {
  const View &x = c.t[0], &g = c.t[1], &y = c.t[2];
  WS_CHECK(x.rank >= 1, shape, "x: expected at least one dimension");
  WS_TRY(vector_of(g, "g", x.last()));
  WS_TRY(same_shape(y, "y", x, "x"));
  if (x.dtype == DType::f32) scaled_columns<float>(*c.rt, x, g.as<float>(), y);
  else scaled_columns<bf16>(*c.rt, x, g.as<float>(), y);
  return {};
}

/// dg[c] += sum over rows of dy[row, c] x[row, c], one chain per column, starting from dg.
Status scale_columns_dg(const Call& c) {
  const View &dg = c.t[0], &dy = c.t[1], &x = c.t[2];
  WS_CHECK(x.rank >= 1, shape, "x: expected at least one dimension");
  WS_TRY(vector_of(dg, "dg", x.last()));
  WS_TRY(same_shape(dy, "dy", x, "x"));
  if (x.dtype == DType::f32) column_products<float>(*c.rt, dg, dy, x);
  else column_products<bf16>(*c.rt, dg, dy, x);
  return {};
}

/// y = x / (1 - p) with probability 1 - p, else 0.
Status dropout(const Call& c) {
  WS_TRY(check_random(c.t[0], c.t[1], c.p[1]));
  WS_CHECK(c.p[0] >= 0 && c.p[0] < 1, config, "probability: expected a number in [0, 1), got %g", c.p[0]);
  WS_TRY(same_shape(c.t[2], "y", c.t[0], "x"));
  c.t[0].dtype == DType::f32 ? dropped<float>(c) : dropped<bf16>(c);
  return {};
}

/// y = x + scale u, u uniform in [-1, 1) with 24 bits.
Status add_noise(const Call& c) {
  WS_TRY(check_random(c.t[0], c.t[1], c.p[0]));
  WS_TRY(vector_of(c.t[2], "scale", c.t[0].dims[0]));
  WS_TRY(same_shape(c.t[3], "y", c.t[0], "x"));
  c.t[0].dtype == DType::f32 ? noisy<float>(c) : noisy<bf16>(c);
  return {};
}

}  // namespace ws::WS_NS
