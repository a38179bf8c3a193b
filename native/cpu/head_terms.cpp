// Statistics of the whole vocabulary at each token, beside the target's log-prob: entropy, mean log-prob and the log of
// the sum of squared probabilities, forward and backward. The logits and the log-sum-exp have the bits of head.cpp.
//
// With t the maximum, S = sum exp(z - t), log p = z - t - log S:
//   entropy     -sum p log p = log S - sum exp(z - t) (z - t) / S     gradient by z: -p (log p + entropy)
//   meanlogps   sum log p / V = sum z / V - t - log S                 1/V - p
//   logsquares  log sum p^2 = log sum exp(2 (z - t)) - 2 log S        (not given)
//   toplogps    log p of the most probable token = -log S             (none: it tells whether the target is that token)
#include "head_tile.h"

namespace ws::WS_NS {
namespace {

/// Running statistics of a row; sums of up to fold_width numbers are f32, all others f64.
struct TermsRow {
  RowStatistics p;
  double weighted;  // sum exp(z - top) (z - top)
  double squares;   // sum exp(z - top)^2
  double logits;    // sum z
};

struct Partial {
  float sum, weighted, squares, logits;
};

/// Sums over lanes. exp(z - top) goes to `even` and `odd` in turn, as in sum_of(), whose bits it has.
struct Sums {
  V even, odd, weighted, squares, logits;
};

/// Adds the lanes of x = z - top and of e = exp(x); `sum` is s.even or s.odd.
void add_lanes(Sums& s, V& sum, V x, V e) {
  // exp is 0 far above this bound; it keeps 0 (-inf) of words that cannot occur from becoming NaN.
  const V least = set1(-1e30f);
  sum = add(sum, e);
  s.weighted = fma(e, max(least, x), s.weighted);
  s.squares = fma(e, e, s.squares);
}

/// Adds the N vectors of logits at z.
template <int N>
void add_vectors(Sums& s, const float* z, V top) {
  V x[N], e[N];
  WS_EACH(N) x[i] = e[i] = sub(load(z + i * W), top);
  exp_low(e);
  WS_EACH(N) {
    add_lanes(s, i % 2 == 0 ? s.even : s.odd, x[i], e[i]);
    s.logits = add(s.logits, x[i]);
  }
}

/// The sums of n <= fold_width logits, relative to `top`.
Partial partial_of(const float* z, int64_t n, float top) {
  const V t = set1(top);
  Sums s = {zero(), zero(), zero(), zero(), zero()};
  int64_t at = 0;
  for (; at + 4 * W <= n; at += 4 * W) add_vectors<4>(s, z + at, t);
  for (; at + 2 * W <= n; at += 2 * W) add_vectors<2>(s, z + at, t);
  if (at + W <= n) {
    add_vectors<1>(s, z + at, t);
    at += W;
  }
  if (at < n) {
    const int left = static_cast<int>(n - at);
    const V x = sub(load_last(z + at, left), t);
    add_lanes(s, s.odd, x, exp_low(x));
    s.logits = add(s.logits, in_range(x, zero(), 0, 0, left));
  }
  return {sum_lanes(add(s.even, s.odd)), sum_lanes(s.weighted), sum_lanes(s.squares), sum_lanes(s.logits)};
}

void fold_terms(TermsRow& row, const float* z, int64_t n) {
  const RowStatistics before = row.p;
  const double factor = static_cast<double>(raise(row.p, z, n));
  const float top = shift_of(row.p);
  const Partial part = partial_of(z, n, top);
  row.p.sum = row.p.sum * factor + static_cast<double>(part.sum);
  if (before.sum > 0) {
    const double moved = static_cast<double>(before.top) - static_cast<double>(top);
    row.weighted = factor * (row.weighted + moved * before.sum);
    row.squares *= factor * factor;
  }
  row.weighted += static_cast<double>(part.weighted);
  row.squares += static_cast<double>(part.squares);
  row.logits += static_cast<double>(part.logits) + static_cast<double>(n) * static_cast<double>(top);
}

}  // namespace

/// logps and lse as head_logprobs, bit for bit; entropy, meanlogps, logsquares, toplogps [N] of the tempered softmax.
/// logps = toplogps, bit for bit, where no logit is above the target's. Absolute tolerance against f64: 2e-6 + rounding of a
/// chain over C. entropy may be below 0 by a rounding.
Status head_terms(const Call& c) {
  const View &h = c.t[0], &w = c.t[1], &targets = c.t[2];
  const char* const names[] = {"logps", "entropy", "meanlogps", "logsquares", "lse", "toplogps"};
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  for (int i = 0; i < 6; ++i) WS_TRY(vector_of(c.t[3 + i], names[i], s.tokens));
  if (s.tokens == 0) return {};
  WS_TRY(take_scratch(c, s, {1, sizeof(TermsRow), 0, false, false}, k));
  TermsRow* rows = static_cast<TermsRow*>(k.rows);
  each_tile(s, k.z, [&](const LogitTile& t) {
    raw_logits(*c.rt, h, w, t, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float* z = t.z + r * t.stride;
      TermsRow& row = rows[r];
      if (t.word == 0) row = {empty_row(), 0.0, 0.0, 0.0};
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      for (int64_t i = 0; i < t.words; i += fold_width) fold_terms(row, z + i, smaller(fold_width, t.words - i));
      const int64_t place = place_of(targets, t, r);
      if (place >= 0) row.p.target = z[place];
      if (!is_last(s, t)) return;
      const double log_total = std::log(row.p.sum), mean = row.logits / static_cast<double>(s.vocabulary);
      c.t[3].as<float>()[t.row + r] = log_prob(row.p, row.p.target);
      c.t[4].as<float>()[t.row + r] = static_cast<float>(log_total - row.weighted / row.p.sum);
      c.t[5].as<float>()[t.row + r] = static_cast<float>((mean - static_cast<double>(row.p.top)) - log_total);
      c.t[6].as<float>()[t.row + r] = static_cast<float>(std::log(row.squares) - 2 * log_total);
      c.t[7].as<float>()[t.row + r] = log_sum(row.p);
      c.t[8].as<float>()[t.row + r] = log_prob(row.p, row.p.top);
    });
  });
  return {};
}

/// dz = dlogps (onehot(target) - p) + dmeanlogps (1/V - p) - dentropy p (log p + entropy), then as in
/// head_logprobs_backward, whose bits it has where the other two weights are 0.
Status head_terms_backward(const Call& c) {
  const View &dw = c.t[0], &dlogps = c.t[1], &dentropy = c.t[2], &dmean = c.t[3], &h = c.t[4], &w = c.t[5];
  const View &targets = c.t[6], &entropy = c.t[7], &lse = c.t[8], &dh = c.t[9];
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  WS_TRY(vector_of(dlogps, "dlogps", s.tokens));
  WS_TRY(vector_of(dentropy, "dentropy", s.tokens));
  WS_TRY(vector_of(dmean, "dmeanlogps", s.tokens));
  WS_TRY(vector_of(entropy, "entropy", s.tokens));
  WS_TRY(vector_of(lse, "lse", s.tokens));
  WS_TRY(check_gradient(dw, dh, s));
  if (s.tokens == 0) return {};
  WS_TRY(take_scratch(c, s, {1, 0, 0, true, dh.dtype != DType::f32}, k));
  const HeadGradient g = {&h, &w, &dw, dh, k.sums};
  const V share = set1(1.0f / static_cast<float>(s.vocabulary));
  each_tile(s, k.z, [&](const LogitTile& t) {
    raw_logits(*c.rt, h, w, t, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float* z = t.z + r * t.stride;
      const int64_t i = t.row + r;
      const float by_logp = dlogps.as<float>()[i], by_entropy = dentropy.as<float>()[i], by_mean = dmean.as<float>()[i];
      if (by_logp == 0.0f && by_entropy == 0.0f && by_mean == 0.0f) {
        std::memset(z, 0, static_cast<size_t>(t.words) * sizeof(float));
        return;
      }
      const V top = set1(lse.as<float>()[i]), middle = set1(entropy.as<float>()[i]);
      const V target_weight = set1(by_logp), mean_weight = set1(by_mean), entropy_weight = set1(-by_entropy);
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      gradient_row(s, z, t.words, place_of(targets, t, r), [&](V x, int64_t, auto, V hit) {
        const V log_p = sub(x, top), p = exp_low(log_p);
        const V both = fma(mean_weight, sub(share, p), mul(target_weight, sub(hit, p)));
        return fma(entropy_weight, mul(p, add(log_p, middle)), both);
      });
    });
    add_gradients(*c.rt, s, t, g, k.product);
  });
  return {};
}

}  // namespace ws::WS_NS
