// The fused language-model head: log-probs of targets and the full-vocabulary KL to a prior, forward and backward.
// Logits exist as one tile of at most 2^20 numbers: a product fills it (gemm.h, parallel inside), then its rows are
// folded or turned into gradients in parallel. Shared with the sampler: head.h.
//
// z = softcap(h w^T) / temperature, p = softmax(z). FLOPs 2 N C V per head forward, 6 N C V backward (4 with a frozen
// head); w is read once per 1024 tokens.
#include "head.h"

namespace ws::WS_NS {
namespace {

constexpr int64_t tile_logits = 1 << 20;
constexpr int64_t widest_tile = 1024;  // a multiple of fold_width
static_assert(widest_tile % fold_width == 0, "tiles must not cut what is folded at once");

/// Cuts tokens x vocabulary into tiles.
void cut(Head& s) {
  s.columns = smaller(s.vocabulary, widest_tile);
  s.stride = larger(16, (s.columns + 15) / 16 * 16);
  s.rows = larger(1, smaller(s.tokens, smaller(4096, tile_logits / s.stride)));
}

/// Checks h, w, targets and the parameters softcap, temperature.
Status read_head(const Call& c, const View& h, const View& w, const View& targets, Head& s) {
  WS_TRY(check_head(h, w, "h", "w"));
  WS_TRY(check_softcap(c.p[0]));
  WS_CHECK(c.p[1] > 0 && __builtin_isfinite(c.p[1]), config, "temperature: expected more than 0, got %g", c.p[1]);
  s = {h.dims[0], h.dims[1], w.dims[0], static_cast<float>(c.p[0]), static_cast<float>(1.0 / c.p[1]), 0, 0, 0};
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
void each_size(const Head& s, F body) {
  const int64_t rows[2] = {s.rows, s.tokens % s.rows};
  const int64_t words[2] = {s.columns, s.columns > 0 ? s.vocabulary % s.columns : 0};
  for (int i = 0; i < 4; ++i)
    if (rows[i / 2] > 0 && words[i % 2] > 0) body(rows[i / 2], words[i % 2]);
}

/// The largest scratch of the products of a call.
int64_t product_scratch(const Runtime& rt, const Head& s, int64_t other_channels, bool backward) {
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

/// Calls body(tile) for each tile: token chunks outside, vocabulary inside, both from the first. The order of the sums.
template <class F>
void each_tile(const Head& s, float* z, F body) {
  for (int64_t row = 0; row < s.tokens; row += s.rows) {
    for (int64_t word = 0; word < s.vocabulary; word += s.columns) {
      body(LogitTile{row, smaller(s.rows, s.tokens - row), word, smaller(s.columns, s.vocabulary - word), z, s.stride});
    }
  }
}

/// The target's place in the tile, or -1.
int64_t place_of(const View& targets, const LogitTile& t, int64_t r) {
  const int64_t place = targets.as<int32_t>()[t.row + r] - t.word;
  return place >= 0 && place < t.words ? place : -1;
}

bool is_last(const Head& s, const LogitTile& t) { return t.word + t.words == s.vocabulary; }

// Gradients of a row of logits ---------------------------------------------------------------------------------------

/// The factor between dz and the gradient of the raw product: the slopes of cap and temperature.
V chain(const Head& s, V z, V gradient) {
  const V g = mul(gradient, set1(s.inverse_temperature));
  return s.softcap > 0 ? mul(g, soft_cap_slope(z, set1(1.0f / (s.softcap * s.inverse_temperature)))) : g;
}

/// Replaces the logits of a row by their gradients. gradient(z, place, lanes, onehot) gives dL/dz of some lanes; the
/// target's lane is computed a second time, with onehot = 1, from the logit that it had.
template <class F>
void gradient_row(const Head& s, float* z, int64_t n, int64_t target, F gradient) {
  const float logit = target >= 0 ? z[target] : 0.0f;
  for_vectors(0, n, [&](int64_t i, auto lanes) {
    const V x = load(z + i, lanes);
    store(z + i, chain(s, x, gradient(x, i, lanes, zero())), lanes);
  });
  if (target < 0) return;
  const V x = set1(logit);
  store(z + target, chain(s, x, gradient(x, target, Part{1}, set1(1.0f))), Part{1});
}

/// The operands of the products that end the backward pass of a tile: dh += dz w and dw += dz^T h.
struct HeadGradient {
  const View *h, *w, *dw;
  View dh;
  float* sums;  // f32 rows of dh of one chunk; null when dh is f32 itself
};

void add_gradients(Runtime& rt, const Head& s, const LogitTile& t, const HeadGradient& g, void* scratch) {
  const int64_t size = element_bytes(g.w->dtype), channels = s.channels;
  const Matrix w = {g.w->as<char>() + t.word * channels * size, g.w->dtype, channels, 1};
  float* dh = g.sums != nullptr ? g.sums : g.dh.as<float>() + t.row * channels;
  gemm(rt, {t.rows, channels, t.words}, {t.z, DType::f32, t.stride, 1}, w, {dh, DType::f32, channels}, t.word > 0,
       scratch);
  if (g.sums != nullptr && is_last(s, t)) {
    for_rows(rt, t.rows, channels, [&](int64_t r) {
      const float* from = dh + r * channels;
      bf16* to = g.dh.as<bf16>() + (t.row + r) * channels;
      for_vectors(0, channels, [&](int64_t i, auto lanes) { store(to + i, load(from + i, lanes), lanes); });
    });
  }
  if (!g.dw->present()) return;
  const Matrix h = {g.h->as<char>() + t.row * channels * size, g.h->dtype, channels, 1};
  gemm(rt, {t.words, channels, t.rows}, {t.z, DType::f32, 1, t.stride}, h,
       {g.dw->as<float>() + t.word * channels, DType::f32, channels}, true, scratch);
}

Status check_gradient(const View& dw, const View& dh, const Head& s) {
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

Status take_scratch(const Call& c, const Head& s, const HeadNeeds& needs, HeadScratch& out) {
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

// KL -----------------------------------------------------------------------------------------------------------------

/// Running statistics of both heads of a row and of the cross term of KL(a || b):
/// cross = sum exp(za - top_a) ((za - a0) - (zb - b0)), a0 and b0 constants near the maxima, so that a common offset
/// of the logits and the cancellation in log a - log b cost nothing.
struct KlRow {
  RowStatistics p, q;
  double cross;
  float p0, q0;
};

/// sum exp(za - top) ((za - a0) - (zb - b0)).
float cross_of(const float* za, const float* zb, int64_t n, float top, float a0, float b0) {
  const V t = set1(top), a_shift = set1(a0), b_shift = set1(b0);
  V sum = zero();
  for (int64_t i = 0; i < n; i += W) {
    const int left = static_cast<int>(smaller(W, n - i));
    const V a = left == W ? load(za + i) : load_last(za + i, left);
    const V b = left == W ? load(zb + i) : load_n(zb + i, left);
    const V difference = sub(sub(a, a_shift), sub(b, b_shift));
    const V term = mul(exp(sub(a, t)), difference);
    sum = add(sum, left == W ? term : in_range(term, zero(), 0, 0, left));
  }
  return sum_lanes(sum);
}

void fold_pair(KlRow& row, const float* z, const float* qz, int64_t n, bool first, bool reverse) {
  const float p_factor = fold(row.p, z, n), q_factor = fold(row.q, qz, n);
  if (first) {
    row.p0 = row.p.top;
    row.q0 = row.q.top;
  }
  const double factor = static_cast<double>(reverse ? p_factor : q_factor);
  const float part =
      reverse ? cross_of(z, qz, n, row.p.top, row.p0, row.q0) : cross_of(qz, z, n, row.q.top, row.q0, row.p0);
  row.cross = row.cross * factor + static_cast<double>(part);
}

/// KL(p || q) when reverse, else KL(q || p).
float kl_of(const KlRow& r, bool reverse) {
  const double p = (static_cast<double>(r.p.top) - static_cast<double>(r.p0)) + std::log(r.p.sum);
  const double q = (static_cast<double>(r.q.top) - static_cast<double>(r.q0)) + std::log(r.q.sum);
  return static_cast<float>(reverse ? r.cross / r.p.sum - p + q : r.cross / r.q.sum - q + p);
}

/// The prior's operands, after read_head() accepted the policy's.
Status read_prior(const Call& c, const View& qh, const View& qw, const Head& s) {
  WS_TRY(check_head(qh, qw, "qh", "qw"));
  WS_SAME(qh.dims[0], s.tokens, "tokens of qh");
  WS_SAME(qw.dims[0], s.vocabulary, "vocabulary of qw");
  WS_CHECK(c.p[2] == 0 || c.p[2] == 1, config, "direction: expected 0, KL(q||p), or 1, KL(p||q), got %g", c.p[2]);
  return {};
}

}  // namespace

/// logps = z[target] - lse and lse = log sum exp z. h [N,C], w [V,C], targets, logps, lse [N].
/// Tolerance against f64: 2e-6 + rounding of a chain over C. A row's bits do not depend on N; head_sample relies on it.
Status head_logprobs(const Call& c) {
  const View &h = c.t[0], &w = c.t[1], &targets = c.t[2];
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  WS_TRY(vector_of(c.t[3], "logps", s.tokens));
  WS_TRY(vector_of(c.t[4], "lse", s.tokens));
  if (s.tokens == 0) return {};
  WS_TRY(take_scratch(c, s, {1, sizeof(RowStatistics), 0, false, false}, k));
  RowStatistics* rows = static_cast<RowStatistics*>(k.rows);
  each_tile(s, k.z, [&](const LogitTile& t) {
    raw_logits(*c.rt, h, w, t, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float* z = t.z + r * t.stride;
      RowStatistics& row = rows[r];
      if (t.word == 0) row = empty_row();
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      fold_all(row, z, t.words);
      const int64_t place = place_of(targets, t, r);
      if (place >= 0) row.target = z[place];
      if (!is_last(s, t)) return;
      c.t[3].as<float>()[t.row + r] = log_prob(row, row.target);
      c.t[4].as<float>()[t.row + r] = log_sum(row);
    });
  });
  return {};
}

/// dz = dlogps (onehot(target) - p), through cap and temperature; dh = dz w, dw += dz^T h. z is computed again.
/// dw [V,C] may be absent. What must stay: dw is one chain over tokens in order that begins at its old value, so two
/// half batches give the bits of one; dh is one chain over the vocabulary in order, rounded once.
Status head_logprobs_backward(const Call& c) {
  const View &dw = c.t[0], &dlogps = c.t[1], &h = c.t[2], &w = c.t[3], &targets = c.t[4], &lse = c.t[5], &dh = c.t[6];
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  WS_TRY(vector_of(dlogps, "dlogps", s.tokens));
  WS_TRY(vector_of(lse, "lse", s.tokens));
  WS_TRY(check_gradient(dw, dh, s));
  if (s.tokens == 0) return {};
  WS_TRY(take_scratch(c, s, {1, 0, 0, true, dh.dtype != DType::f32}, k));
  const HeadGradient g = {&h, &w, &dw, dh, k.sums};
  each_tile(s, k.z, [&](const LogitTile& t) {
    raw_logits(*c.rt, h, w, t, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float* z = t.z + r * t.stride;
      const float weight = dlogps.as<float>()[t.row + r];
      if (weight == 0.0f) {
        std::memset(z, 0, static_cast<size_t>(t.words) * sizeof(float));
        return;
      }
      const V top = set1(lse.as<float>()[t.row + r]), factor = set1(weight);
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      gradient_row(s, z, t.words, place_of(targets, t, r),
                   [&](V x, int64_t, auto, V hit) { return mul(factor, sub(hit, exp(sub(x, top)))); });
    });
    add_gradients(*c.rt, s, t, g, k.product);
  });
  return {};
}

/// head_logprobs and, per token, the KL over the whole vocabulary to the prior q = softmax of (qh, qw) under the same
/// cap and temperature: direction 0 KL(q||p), 1 KL(p||q). qh [N,C'], qw [V,C'], any C'. kl may be
/// below 0 by a rounding.
Status head_kl(const Call& c) {
  const View &h = c.t[0], &w = c.t[1], &qh = c.t[2], &qw = c.t[3], &targets = c.t[4];
  const char* const names[] = {"logps", "kl", "lse", "qlse"};
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  WS_TRY(read_prior(c, qh, qw, s));
  for (int i = 0; i < 4; ++i) WS_TRY(vector_of(c.t[5 + i], names[i], s.tokens));
  if (s.tokens == 0) return {};
  WS_TRY(take_scratch(c, s, {2, sizeof(KlRow), qh.dims[1], false, false}, k));
  KlRow* rows = static_cast<KlRow*>(k.rows);
  const bool reverse = c.p[2] == 1;
  each_tile(s, k.z, [&](const LogitTile& t) {
    LogitTile prior = t;
    prior.z = k.qz;
    raw_logits(*c.rt, h, w, t, k.product);
    raw_logits(*c.rt, qh, qw, prior, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float *z = t.z + r * t.stride, *qz = prior.z + r * t.stride;
      KlRow& row = rows[r];
      if (t.word == 0) row = {empty_row(), empty_row(), 0.0, 0.0f, 0.0f};
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      transform_logits(qz, t.words, s.inverse_temperature, s.softcap, qz);
      for (int64_t i = 0; i < t.words; i += fold_width) {
        fold_pair(row, z + i, qz + i, smaller(fold_width, t.words - i), t.word + i == 0, reverse);
      }
      const int64_t place = place_of(targets, t, r);
      if (place >= 0) row.p.target = z[place];
      if (!is_last(s, t)) return;
      c.t[5].as<float>()[t.row + r] = log_prob(row.p, row.p.target);
      c.t[6].as<float>()[t.row + r] = kl_of(row, reverse);
      c.t[7].as<float>()[t.row + r] = log_sum(row.p);
      c.t[8].as<float>()[t.row + r] = log_sum(row.q);
    });
  });
  return {};
}

/// dz = dlogps (onehot(target) - p) + dkl * (p - q for direction 0, p (log p - log q - kl) for 1), then as in
/// head_logprobs_backward. The prior gets no gradient.
Status head_kl_backward(const Call& c) {
  const View &dw = c.t[0], &dlogps = c.t[1], &dkl = c.t[2], &h = c.t[3], &w = c.t[4], &qh = c.t[5], &qw = c.t[6];
  const View &targets = c.t[7], &dh = c.t[11];
  const char* const names[] = {"kl", "lse", "qlse"};
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  WS_TRY(read_prior(c, qh, qw, s));
  WS_TRY(vector_of(dlogps, "dlogps", s.tokens));
  WS_TRY(vector_of(dkl, "dkl", s.tokens));
  for (int i = 0; i < 3; ++i) WS_TRY(vector_of(c.t[8 + i], names[i], s.tokens));
  WS_TRY(check_gradient(dw, dh, s));
  if (s.tokens == 0) return {};
  WS_TRY(take_scratch(c, s, {2, 0, qh.dims[1], true, dh.dtype != DType::f32}, k));
  const HeadGradient g = {&h, &w, &dw, dh, k.sums};
  const bool reverse = c.p[2] == 1;
  each_tile(s, k.z, [&](const LogitTile& t) {
    LogitTile prior = t;
    prior.z = k.qz;
    raw_logits(*c.rt, h, w, t, k.product);
    raw_logits(*c.rt, qh, qw, prior, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float *z = t.z + r * t.stride, *qz = prior.z + r * t.stride;
      const int64_t i = t.row + r;
      const V weight = set1(dlogps.as<float>()[i]), kl_weight = set1(dkl.as<float>()[i]),
              kl = set1(c.t[8].as<float>()[i]);
      const V top = set1(c.t[9].as<float>()[i]), q_top = set1(c.t[10].as<float>()[i]);
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      transform_logits(qz, t.words, s.inverse_temperature, s.softcap, qz);
      gradient_row(s, z, t.words, place_of(targets, t, r), [&](V x, int64_t at, auto lanes, V hit) {
        const V log_p = sub(x, top), log_q = sub(load(qz + at, lanes), q_top), p = exp(log_p);
        const V direct = reverse ? mul(p, sub(sub(log_p, log_q), kl)) : sub(p, exp(log_q));
        return fma(kl_weight, direct, mul(weight, sub(hit, p)));
      });
    });
    add_gradients(*c.rt, s, t, g, k.product);
  });
  return {};
}

}  // namespace ws::WS_NS
