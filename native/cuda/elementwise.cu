// Elementwise ops on the GPU: sums, scaling, gated and plain activations with their gradients, dropout, noise. Semantics
// and formulas: native/cpu/elementwise.cpp. Computed in f32, rounded once. Bound by memory: one read per input, one write
// per output, 16 bytes at a time. Random numbers have the bits of the CPU's.
#include "../core/rng.h"
#include "vectors.h"

namespace ws::cuda {
namespace {

/// Operands of a flat loop; which ones exist is the kernel's matter.
struct MapArguments {
  const void *a, *b, *c;
  void *y, *z;
  int64_t size;
  float factor;
  int32_t activation;  // 0 silu, 1 gelu_tanh
};

WS_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
/// NaN stays NaN, which the processor's maximum would not do.
WS_DEVICE float bounded(float x, float most) { return x != x ? x : smaller(most, larger(-most, x)); }

/// Value and slope of an activation.
struct Curve {
  float value, slope;
};

/// x s and s (1 + x (1 - s)), s = sigmoid(x). Beyond 100, s is 0 or 1, and infinity times 0 must not arise.
WS_DEVICE Curve silu(float x) {
  const float s = sigmoid(bounded(x, 100.0f));
  return {x * s, s * fused(bounded(x, 100.0f), 1.0f - s, 1.0f)};
}

constexpr float gelu_a = 1.5957691216057308f;    // 2 sqrt(2 / pi)
constexpr float gelu_b = 0.071354816272600370f;  // gelu_a * 0.044715

/// x sigmoid(2 u) = x (1 + tanh u) / 2, and s + x s (1 - s) (2 u)'. Beyond 30, s is 0 or 1.
WS_DEVICE Curve gelu_tanh(float x) {
  const float u = bounded(x, 30.0f), square = u * u;
  const float s = sigmoid(u * fused(square, gelu_b, gelu_a));
  return {x * s, fused(u * s * (1.0f - s), fused(square, 3.0f * gelu_b, gelu_a), s)};
}

WS_DEVICE Curve curve(int activation, float x) { return activation == 0 ? silu(x) : gelu_tanh(x); }

template <class T>
WS_DEVICE void add_two(const MapArguments& a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  float x[span], y[span];
  load(static_cast<const T*>(a.a) + s.at, s.n, x);
  load(static_cast<const T*>(a.b) + s.at, s.n, y);
  for (int i = 0; i < span; ++i) x[i] += y[i];
  store(static_cast<T*>(a.y) + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(add, map_threads, MapArguments, a, add_two)

template <class T>
WS_DEVICE void scale_one(const MapArguments& a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  float x[span];
  load(static_cast<const T*>(a.a) + s.at, s.n, x);
  for (int i = 0; i < span; ++i) x[i] *= a.factor;
  store(static_cast<T*>(a.y) + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(scale, map_threads, MapArguments, a, scale_one)

/// y = act(a), times b when it is there.
template <class T>
WS_DEVICE void activate(const MapArguments& a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  float x[span], up[span];
  load(static_cast<const T*>(a.a) + s.at, s.n, x);
  if (a.b != nullptr) load(static_cast<const T*>(a.b) + s.at, s.n, up);
  for (int i = 0; i < span; ++i) {
    x[i] = curve(a.activation, x[i]).value;
    if (a.b != nullptr) x[i] *= up[i];
  }
  store(static_cast<T*>(a.y) + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(activate, map_threads, MapArguments, a, activate)

/// y = dy act'(x), and with up: y = dy up act'(gate), z = dy act(gate). a: dy, b: x or gate, c: up.
template <class T>
WS_DEVICE void activation_gradients(const MapArguments& a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  float d[span], x[span], up[span], out[span];
  load(static_cast<const T*>(a.a) + s.at, s.n, d);
  load(static_cast<const T*>(a.b) + s.at, s.n, x);
  if (a.c != nullptr) load(static_cast<const T*>(a.c) + s.at, s.n, up);
  for (int i = 0; i < span; ++i) {
    const Curve y = curve(a.activation, x[i]);
    out[i] = d[i] * y.value;
    x[i] = (a.c != nullptr ? d[i] * up[i] : d[i]) * y.slope;
  }
  store(static_cast<T*>(a.y) + s.at, s.n, x);
  if (a.c != nullptr) store(static_cast<T*>(a.z) + s.at, s.n, out);
}
WS_KERNEL_FOR_BOTH(activation_gradients, map_threads, MapArguments, a, activation_gradients)

// Rows ------------------------------------------------------------------------------------------------------------------

struct ColumnArguments {
  const void *x, *row;  // [rows, width] and [width]
  void* y;
  int64_t rows, width;
  uint32_t parts;  // of a row, each a block's
};

/// Part of a row that this thread works on. One row may be a whole matrix, more than grids have in y.
struct RowPart {
  int64_t row;  // its first element
  Span s;
};
WS_DEVICE RowPart row_part(const ColumnArguments& a) {
  const uint32_t row = block().x / a.parts, part = block().x % a.parts;
  const int64_t at = (static_cast<int64_t>(part) * map_threads + thread()) * span, left = a.width - at;
  return {row * a.width, {at, static_cast<int>(left < span ? left : span)}};
}

template <class T>
WS_DEVICE void add_row(const ColumnArguments& a) {
  const auto [row, s] = row_part(a);
  if (s.n <= 0) return;
  float x[span], b[span];
  load(static_cast<const T*>(a.x) + row + s.at, s.n, x);
  load(static_cast<const T*>(a.row) + s.at, s.n, b);
  for (int i = 0; i < span; ++i) x[i] += b[i];
  store(static_cast<T*>(a.y) + row + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(add_bias, map_threads, ColumnArguments, a, add_row)

template <class T>
WS_DEVICE void scale_row(const ColumnArguments& a) {
  const auto [row, s] = row_part(a);
  if (s.n <= 0) return;
  float x[span], g[span];
  load(static_cast<const T*>(a.x) + row + s.at, s.n, x);
  load(static_cast<const float*>(a.row) + s.at, s.n, g);
  for (int i = 0; i < span; ++i) x[i] *= g[i];
  store(static_cast<T*>(a.y) + row + s.at, s.n, x);
}
WS_KERNEL_FOR_BOTH(scale_columns, map_threads, ColumnArguments, a, scale_row)

struct ProductArguments {
  const void *dy, *x;
  float* dg;
  int64_t rows, width;
};

template <class T>
WS_DEVICE void column_products(const ProductArguments& a) {
  const T *d = static_cast<const T*>(a.dy), *x = static_cast<const T*>(a.x);
  column_chain(a.dg, a.rows, a.width, [=](int64_t row, int64_t column, float sum) {
    return fused(value(d[row * a.width + column]), value(x[row * a.width + column]), sum);
  });
}
WS_KERNEL_FOR_BOTH(scale_columns_dg, chain_threads, ProductArguments, a, column_products)

// Random numbers --------------------------------------------------------------------------------------------------------

struct RandomArguments {
  const void* x;
  const int32_t* keys;  // [rows, 4]
  const float* scale;   // of noise, per row; null: dropout
  void* y;
  int64_t width;
  uint32_t site, threshold;
  float kept;
};

/// The word of a column: 64 columns share 16 counters, whose four words are those of columns 16 apart; as on the CPU.
WS_DEVICE uint32_t random_word(const int32_t* key, uint32_t site, int64_t column) {
  const uint32_t group = static_cast<uint32_t>(column / 64), in_group = static_cast<uint32_t>(column % 64);
  const Random4 counter = {{static_cast<uint32_t>(key[3]), group * 16 + in_group % 16, static_cast<uint32_t>(key[2]),
                            site}};
  const Random4 words = philox(counter, static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1]));
  const uint32_t which = in_group / 16;
  return which == 0 ? words.x[0] : which == 1 ? words.x[1] : which == 2 ? words.x[2] : words.x[3];
}

template <class T>
WS_DEVICE void random_row(const RandomArguments& a) {
  const int64_t row = block().x, column = static_cast<int64_t>(block().y) * map_threads + thread();
  if (column >= a.width) return;
  const uint32_t word = random_word(a.keys + row * 4, a.site, column);
  const float x = value(static_cast<const T*>(a.x)[row * a.width + column]);
  const float y = a.scale == nullptr
                      ? x * (word >= a.threshold ? a.kept : 0.0f)
                      : fused(a.scale[row], static_cast<float>(word >> 8) * 0x1p-23f - 1.0f, x);
  static_cast<T*>(a.y)[row * a.width + column] = rounded<T>(y);
}
WS_KERNEL_FOR_BOTH(random_row, map_threads, RandomArguments, a, random_row)

}  // namespace

#if WS_HOST

namespace {

Extent flat(int64_t size) { return {blocks_for(size, map_threads * span), 1, 1}; }

Status check_activation(double id) {
  WS_CHECK(id == 0 || id == 1, config, "activation: expected 0 (silu) or 1 (gelu_tanh), got %g", id);
  return {};
}

bool is_f32(const Call& c, int operand = 0) { return c.t[operand].dtype == DType::f32; }

Status random_rows(const Call& c, Launcher& on, const View& y, RandomArguments a) {
  const View &x = c.t[0], &keys = c.t[1];
  WS_CHECK(x.rank == 2, shape, "x: expected shape [N, C], got %s", shape_text(x).text);
  WS_CHECK(keys.rank == 2 && keys.dims[0] == x.dims[0] && keys.dims[1] == 4, shape,
           "keys: expected shape [%lld, 4], got %s", static_cast<long long>(x.dims[0]), shape_text(keys).text);
  WS_TRY(same_shape(y, "y", x, "x"));
  a.x = x.data;
  a.keys = keys.as<int32_t>();
  a.y = y.data;
  a.width = x.last();
  const Extent grid = {static_cast<uint32_t>(x.dims[0]), blocks_for(a.width, map_threads), 1};
  return start(on, is_f32(c) ? random_row_f32 : random_row_bf16, grid, 0, a);
}

Status check_site(double site) {
  WS_CHECK(site >= 0 && site <= 4294967295.0, config, "site: expected a whole number below 2^32, got %g", site);
  return {};
}

Status columns(const Call& c, Launcher& on, const HostKernel& kernel) {
  const View& x = c.t[0];
  WS_CHECK(x.rank >= 1, shape, "x: expected at least one dimension");
  WS_TRY(vector_of(c.t[1], "row", x.last()));
  WS_TRY(same_shape(c.t[2], "y", x, "x"));
  const uint32_t parts = blocks_for(x.last(), map_threads * span);
  const ColumnArguments a = {x.data, c.t[1].data, c.t[2].data, x.rows(), x.last(), parts};
  WS_CHECK(a.rows * parts < int64_t{1} << 31, shape, "x: too many rows, got %s", shape_text(x).text);
  return start(on, kernel, {static_cast<uint32_t>(a.rows * parts), 1, 1}, 0, a);
}

}  // namespace

Status add(const Call& c, Launcher& on) {
  WS_TRY(same_shape(c.t[1], "b", c.t[0], "a"));
  WS_TRY(same_shape(c.t[2], "y", c.t[0], "a"));
  const MapArguments a = {c.t[0].data, c.t[1].data, nullptr, c.t[2].data, nullptr, c.t[0].size(), 0, 0};
  return start(on, is_f32(c) ? add_f32 : add_bf16, flat(a.size), 0, a);
}

Status add_bias(const Call& c, Launcher& on) { return columns(c, on, is_f32(c) ? add_bias_f32 : add_bias_bf16); }

Status scale(const Call& c, Launcher& on) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  const MapArguments a = {c.t[0].data, nullptr, nullptr, c.t[1].data, nullptr, c.t[0].size(),
                          static_cast<float>(c.p[0]), 0};
  return start(on, is_f32(c) ? scale_f32 : scale_bf16, flat(a.size), 0, a);
}

Status glu(const Call& c, Launcher& on) {
  WS_TRY(check_activation(c.p[0]));
  WS_TRY(same_shape(c.t[1], "up", c.t[0], "gate"));
  WS_TRY(same_shape(c.t[2], "y", c.t[0], "gate"));
  const MapArguments a = {c.t[0].data, c.t[1].data, nullptr, c.t[2].data, nullptr, c.t[0].size(), 0,
                          static_cast<int32_t>(c.p[0])};
  return start(on, is_f32(c) ? activate_f32 : activate_bf16, flat(a.size), 0, a);
}

Status glu_backward(const Call& c, Launcher& on) {
  static const char* const names[] = {"dy", "gate", "up", "dgate", "dup"};
  WS_TRY(check_activation(c.p[0]));
  for (int i = 1; i < 5; ++i) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  const MapArguments a = {c.t[0].data, c.t[1].data, c.t[2].data, c.t[3].data, c.t[4].data, c.t[0].size(), 0,
                          static_cast<int32_t>(c.p[0])};
  return start(on, is_f32(c) ? activation_gradients_f32 : activation_gradients_bf16, flat(a.size), 0, a);
}

Status gelu(const Call& c, Launcher& on) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  const MapArguments a = {c.t[0].data, nullptr, nullptr, c.t[1].data, nullptr, c.t[0].size(), 0, 1};
  return start(on, is_f32(c) ? activate_f32 : activate_bf16, flat(a.size), 0, a);
}

Status gelu_backward(const Call& c, Launcher& on) {
  WS_TRY(same_shape(c.t[1], "x", c.t[0], "dy"));
  WS_TRY(same_shape(c.t[2], "dx", c.t[0], "dy"));
  const MapArguments a = {c.t[0].data, c.t[1].data, nullptr, c.t[2].data, nullptr, c.t[0].size(), 0, 1};
  return start(on, is_f32(c) ? activation_gradients_f32 : activation_gradients_bf16, flat(a.size), 0, a);
}

Status scale_columns(const Call& c, Launcher& on) {
  return columns(c, on, is_f32(c) ? scale_columns_f32 : scale_columns_bf16);
}

Status scale_columns_dg(const Call& c, Launcher& on) {
  const View &dg = c.t[0], &dy = c.t[1], &x = c.t[2];
  WS_CHECK(x.rank >= 1, shape, "x: expected at least one dimension");
  WS_TRY(vector_of(dg, "dg", x.last()));
  WS_TRY(same_shape(dy, "dy", x, "x"));
  const ProductArguments a = {dy.data, x.data, dg.as<float>(), x.rows(), x.last()};
  return start(on, is_f32(c, 1) ? scale_columns_dg_f32 : scale_columns_dg_bf16,
               {blocks_for(a.width, chain_threads), 1, 1}, 0, a);
}

Status dropout(const Call& c, Launcher& on) {
  WS_TRY(check_site(c.p[1]));
  WS_CHECK(c.p[0] >= 0 && c.p[0] < 1, config, "probability: expected a number in [0, 1), got %g", c.p[0]);
  RandomArguments a = {};
  a.site = static_cast<uint32_t>(c.p[1]);
  a.threshold = static_cast<uint32_t>(c.p[0] * 0x1p32);
  a.kept = static_cast<float>(1.0 / (1.0 - c.p[0]));
  return random_rows(c, on, c.t[2], a);
}

Status add_noise(const Call& c, Launcher& on) {
  WS_TRY(check_site(c.p[0]));
  WS_TRY(vector_of(c.t[2], "scale", c.t[0].dims[0]));
  RandomArguments a = {};
  a.site = static_cast<uint32_t>(c.p[0]);
  a.scale = c.t[2].as<float>();
  return random_rows(c, on, c.t[3], a);
}

#endif

}  // namespace ws::cuda
