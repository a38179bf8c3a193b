// What the kernels of the head share: cutting tokens x vocabulary into tiles, scratch, gradients of a row of logits and
// the products that end a backward pass. Logits exist as one tile of at most 2^20 numbers per model: a product fills it
// (gemm.h, parallel inside), then its rows are folded or turned into gradients in parallel.
// Included by kernel files only; lives in their namespace. Not here: what is also the sampler's (head.h).
#pragma once
#include "head.h"

namespace ws::WS_NS {

constexpr int64_t tile_logits = 1 << 20;
constexpr int64_t widest_tile = 1024;  // a multiple of fold_width
static_assert(widest_tile % fold_width == 0, "tiles must not cut what is folded at once");

/// Cuts tokens x vocabulary into tiles, of rows and columns that products by tiles may be cut at (gemm.h).
static inline void cut(Head& s) {
  s.columns = smaller(s.vocabulary, widest_tile);
  s.stride = larger(16, (s.columns + 15) / 16 * 16);
  s.rows = larger(1, smaller(s.tokens, smaller(4096, tile_logits / s.stride / 32 * 32)));
}

/// Gradients of logits are rounded to bf16 where bf16 products are faster than those of f32 and bf16.
static inline bool has_rounded_gradients(DType weights) { return WS_LEVEL >= 4 && weights == DType::bf16; }

/// Checks h, w, targets and the parameters softcap, temperature.
static inline Status read_head(const Call& c, const View& h, const View& w, const View& targets, Head& s) {
  WS_TRY(check_head(h, w, "h", "w"));
  WS_TRY(check_softcap(c.p[0]));
  WS_CHECK(c.p[1] > 0 && __builtin_isfinite(c.p[1]), config, "temperature: expected more than 0, got %g", c.p[1]);
  s = {h.dims[0], h.dims[1], w.dims[0], static_cast<float>(c.p[0]), static_cast<float>(1.0 / c.p[1]), 0, 0, 0,
       has_rounded_gradients(w.dtype)};
  WS_TRY(vector_of(targets, "targets", s.tokens));
  for (int64_t i = 0; i < s.tokens; ++i) {
    const int64_t target = targets.as<int32_t>()[i];
    WS_CHECK(target >= 0 && target < s.vocabulary, shape, "targets[%lld]: expected 0 to %lld, got %lld",
             static_cast<long long>(i), static_cast<long long>(s.vocabulary - 1), static_cast<long long>(target));
  }
  cut(s);
  return {};
}

/// Calls body(rows, words) for each size of tile that occurs.
template <class F>
static inline void each_size(const Head& s, F body) {
  const int64_t rows[2] = {s.rows, s.tokens % s.rows};
  const int64_t words[2] = {s.columns, s.columns > 0 ? s.vocabulary % s.columns : 0};
  for (int i = 0; i < 4; ++i)
    if (rows[i / 2] > 0 && words[i % 2] > 0) body(rows[i / 2], words[i % 2]);
}

/// The largest scratch of the products of a call.
static inline int64_t product_scratch(const Runtime& rt, const Head& s, int64_t other_channels, bool backward) {
  int64_t most = 64;
  each_size(s, [&](int64_t rows, int64_t words) {
    most = larger(most, gemm_scratch_bytes(rt, {rows, words, s.channels}));
    if (other_channels > 0) most = larger(most, gemm_scratch_bytes(rt, {rows, words, other_channels}));
    if (!backward) return;
    most = larger(most, gemm_scratch_bytes(rt, {rows, s.channels, words}));
    most = larger(most, gemm_scratch_bytes(rt, {words, s.channels, rows}));
  });
  return lines_of(most);
}

/// Calls body(tile) for the tiles of the chunk of tokens that begins at `row`, the first words first.
template <class F>
static inline void each_tile_of(const Head& s, int64_t row, float* z, F body) {
  for (int64_t word = 0; word < s.vocabulary; word += s.columns)
    body(LogitTile{row, smaller(s.rows, s.tokens - row), word, smaller(s.columns, s.vocabulary - word), z, s.stride});
}

/// Calls body(tile) for each tile: token chunks outside, vocabulary inside, both from the first. The order of the sums.
template <class F>
static inline void each_tile(const Head& s, float* z, F body) {
  for (int64_t row = 0; row < s.tokens; row += s.rows) each_tile_of(s, row, z, body);
}

/// The target's place in the tile, or -1.
static inline int64_t place_of(const View& targets, const LogitTile& t, int64_t r) {
  const int64_t place = targets.as<int32_t>()[t.row + r] - t.word;
  return place >= 0 && place < t.words ? place : -1;
}

static inline bool is_last(const Head& s, const LogitTile& t) { return t.word + t.words == s.vocabulary; }

// Gradients of a row of logits ---------------------------------------------------------------------------------------

/// The factor between dz and the gradient of the raw product: the slopes of cap and temperature.
static inline V chain(const Head& s, V z, V gradient) {
  const V g = mul(gradient, set1(s.inverse_temperature));
  return s.softcap > 0 ? mul(g, soft_cap_slope(z, set1(1.0f / (s.softcap * s.inverse_temperature)))) : g;
}

/// Rounds n numbers in place: they then fill the first half of their room.
static inline void round_row(float* z, int64_t n) {
  bf16* to = reinterpret_cast<bf16*>(z);
  for_vectors(0, n, [&](int64_t i, auto lanes) { store(to + i, load(z + i, lanes), lanes); });
}

/// Replaces the logits of a row by their gradients. gradient(z, place, lanes, onehot) gives dL/dz of some lanes; the
/// target's lane is computed a second time, with onehot = 1, from the logit that it had.
template <class F>
static inline void gradient_row(const Head& s, float* z, int64_t n, int64_t target, F gradient) {
  const float logit = target >= 0 ? z[target] : 0.0f;
  for_vectors(0, n, [&](int64_t i, auto lanes) {
    const V x = load(z + i, lanes);
    store(z + i, chain(s, x, gradient(x, i, lanes, zero())), lanes);
  });
  if (target >= 0) {
    const V x = set1(logit);
    store(z + target, chain(s, x, gradient(x, target, Part{1}, set1(1.0f))), Part{1});
  }
  if (s.rounded) round_row(z, n);
}

/// The operands of the products that end the backward pass of a tile: dh += dz w and dw += dz^T h.
struct HeadGradient {
  const View *h, *w, *dw;
  View dh;
  float* sums;  // f32 rows of dh of one chunk; null when dh is f32 itself
};

static inline void add_gradients(Runtime& rt, const Head& s, const LogitTile& t, const HeadGradient& g, void* scratch) {
  const int64_t size = element_bytes(g.w->dtype), channels = s.channels;
  const Matrix w = {g.w->as<char>() + t.word * channels * size, g.w->dtype, channels, 1};
  float* dh = g.sums != nullptr ? g.sums : g.dh.as<float>() + t.row * channels;
  const DType type = s.rounded ? DType::bf16 : DType::f32;
  const int64_t stride = s.rounded ? 2 * t.stride : t.stride;
  gemm(rt, {t.rows, channels, t.words}, {t.z, type, stride, 1}, w, {dh, DType::f32, channels}, t.word > 0, scratch);
  if (g.sums != nullptr && is_last(s, t)) {
    for_rows(rt, t.rows, channels, [&](int64_t r) {
      const float* from = dh + r * channels;
      bf16* to = g.dh.as<bf16>() + (t.row + r) * channels;
      for_vectors(0, channels, [&](int64_t i, auto lanes) { store(to + i, load(from + i, lanes), lanes); });
    });
  }
  if (!g.dw->present()) return;
  const Matrix h = {g.h->as<char>() + t.row * channels * size, g.h->dtype, channels, 1};
  gemm(rt, {t.words, channels, t.rows}, {t.z, type, 1, stride}, h,
       {g.dw->as<float>() + t.word * channels, DType::f32, channels}, true, scratch);
}

static inline Status check_gradient(const View& dw, const View& dh, const Head& s) {
  if (dw.present()) {
    WS_CHECK(dw.rank == 2 && dw.dims[0] == s.vocabulary && dw.dims[1] == s.channels, shape, "dw: expected [%lld, %lld]",
             static_cast<long long>(s.vocabulary), static_cast<long long>(s.channels));
  }
  WS_CHECK(dh.rank == 2 && dh.dims[0] == s.tokens && dh.dims[1] == s.channels, shape, "dh: expected [%lld, %lld]",
           static_cast<long long>(s.tokens), static_cast<long long>(s.channels));
  return {};
}

/// The parts of a call's scratch.
struct HeadScratch {
  float *z, *qz;  // tiles of logits
  void* rows;     // statistics of the rows of a chunk
  float* sums;    // dh of a chunk
  void* product;  // for gemm
};

/// What a kernel wants beyond the products' own scratch.
struct HeadNeeds {
  int tiles;               // of logits
  int64_t row_bytes;       // of statistics
  int64_t other_channels;  // of the prior; 0: there is none
  bool backward;
  bool sums;  // dh is not f32
};

static inline Status take_scratch(const Call& c, const Head& s, const HeadNeeds& needs, HeadScratch& out) {
  const int tiles = needs.tiles;
  const int64_t tile = lines_of(s.rows * s.stride * 4), rows = lines_of(s.rows * needs.row_bytes);
  const int64_t sum_bytes = needs.sums ? lines_of(s.rows * s.channels * 4) : 0;
  const int64_t bytes =
      tiles * tile + rows + sum_bytes + product_scratch(*c.rt, s, needs.other_channels, needs.backward);
  char* at = static_cast<char*>(c.rt->scratch(bytes));
  WS_CHECK(at != nullptr, oom, "no memory for %lld bytes of scratch", static_cast<long long>(bytes));
  out.z = reinterpret_cast<float*>(at);
  out.qz = tiles > 1 ? reinterpret_cast<float*>(at + tile) : nullptr;
  at += tiles * tile;
  out.rows = at;
  out.sums = needs.sums ? reinterpret_cast<float*>(at + rows) : nullptr;
  out.product = at + rows + sum_bytes;
  return {};
}

}  // namespace ws::WS_NS
