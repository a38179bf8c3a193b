// The divergence of the whole vocabulary between the policy's head and a prior's, at each token, beside the target's
// log-prob: KL in either direction and the generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649), forward and
// backward. p: policy, q: prior, b: weight of the prior in M = (1-b) p + b q; gradients by the policy's z.
//   0  KL(q || p)                          p - q
//   1  KL(p || q)                          p (log p - log q - KL)
//   2  b KL(q || M) + (1-b) KL(p || M)     (1-b) p (log p - log M - KL(p || M))
// 0 and 1 are read in one pass over the tiles. 2 needs both log-sum-exps first: each chunk of tokens is passed twice,
// 4 N C V FLOPs per head forward.
#include "head_tile.h"

namespace ws::WS_NS {
namespace {

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
    const V term = mul(exp_low(sub(a, t)), difference);
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
  WS_CHECK(c.p[2] == 0 || c.p[2] == 1 || c.p[2] == 2, config,
           "direction: expected 0, KL(q||p), 1, KL(p||q), or 2, Jensen-Shannon, got %g", c.p[2]);
  if (c.p[2] == 2) {
    WS_CHECK(c.p[3] > 0 && c.p[3] < 1, config, "mixture: expected a number between 0 and 1, got %g", c.p[3]);
  } else {
    WS_CHECK(c.p[3] == 0, config, "mixture: expected 0 for this direction, got %g", c.p[3]);
  }
  return {};
}

// Jensen-Shannon -----------------------------------------------------------------------------------------------------

/// log(1 + u) for u from -1 + 1e-16 to 1e16, to a few ulp also near 0; w = 1 + u, which the caller may know better. Halves the
/// logarithm six times, sqrt(1 + u) - 1 = u / (1 + sqrt(1 + u)), then 2 atanh(u / (2 + u)).
V log_1p(V u, V w) {
  const V one = set1(1.0f);
  for (int i = 0; i < 6; ++i) {
    w = sqrt(w);
    u = div(u, add(one, w));
  }
  const V s = div(u, add(set1(2.0f), u)), square = mul(s, s);
  V y = set1(1.0f / 11);
  y = fma(y, square, set1(1.0f / 9));
  y = fma(y, square, set1(1.0f / 7));
  y = fma(y, square, set1(1.0f / 5));
  y = fma(y, square, set1(1.0f / 3));
  y = fma(y, square, one);
  return mul(mul(s, y), set1(128.0f));
}

/// log p - log M and log q - log M.
struct LogRatios {
  V p, q;
};

/// With a = |log q - log p|, g the weight of the greater of p and q and s that of the smaller, in M:
///   log greater - log M = -log(1 + s (exp(-a) - 1)) >= 0,   log smaller - log M = -log(1 + g (exp(a) - 1)) <= 0,
/// and the two are a apart. The one nearer to 0 is computed so, the other by adding or subtracting a: nothing overflows,
/// a small weight costs no digits, and equal distributions give exact zeros.
LogRatios ratios_to_mixture(V log_p, V log_q, V p_weight, V q_weight) {
  const V one = set1(1.0f), d = sub(log_q, log_p), a = max(d, sub(zero(), d));
  const V g = select_less(zero(), d, q_weight, p_weight), s = select_less(zero(), d, p_weight, q_weight);
  const V e = exp_low(sub(zero(), a));
  const V fall = mul(tanh(mul(a, set1(0.5f))), add(one, e));  // 1 - exp(-a)
  const V rise = mul(g, div(fall, e));
  const V drop = mul(s, fall), rest = fma(s, e, g);                 // rest = 1 - drop
  const V nearness = mul(rise, rest);                               // below drop: the smaller is nearer
  const V u = select_less(nearness, drop, rise, sub(zero(), drop));
  const V w = select_less(nearness, drop, add(one, rise), rest);
  const V ratio = sub(zero(), log_1p(u, w));
  const V greater = select_less(nearness, drop, add(ratio, a), ratio);
  const V smaller = select_less(nearness, drop, ratio, sub(ratio, a));
  return {select_less(zero(), d, smaller, greater), select_less(zero(), d, greater, smaller)};
}

/// Both heads of a row, then the two sums of the second pass.
struct MixtureRow {
  RowStatistics p, q;
  double value, centre;  // b KL(q||M) + (1-b) KL(p||M); KL(p||M)
};

/// Adds the terms of n <= fold_width words. A term of the value is never much below 0: only its own rounding is lost.
void fold_mixture(MixtureRow& row, const float* z, const float* qz, int64_t n, double mixture) {
  const V p_top = set1(row.p.top), p_log = set1(static_cast<float>(std::log(row.p.sum)));
  const V q_top = set1(row.q.top), q_log = set1(static_cast<float>(std::log(row.q.sum)));
  const V p_weight = set1(static_cast<float>(1 - mixture)), q_weight = set1(static_cast<float>(mixture));
  V value = zero(), centre = zero();
  for_vectors(0, n, [&](int64_t i, auto lanes) {
    const V log_p = sub(sub(load(z + i, lanes), p_top), p_log), log_q = sub(sub(load(qz + i, lanes), q_top), q_log);
    const LogRatios ratio = ratios_to_mixture(log_p, log_q, p_weight, q_weight);
    const V p_term = mul(exp_low(log_p), ratio.p), q_term = mul(exp_low(log_q), ratio.q);
    const int count = static_cast<int>(smaller(W, n - i));
    value = add(value, in_range(fma(q_weight, q_term, mul(p_weight, p_term)), zero(), 0, 0, count));
    centre = add(centre, in_range(p_term, zero(), 0, 0, count));
  });
  row.value += static_cast<double>(sum_lanes(value));
  row.centre += static_cast<double>(sum_lanes(centre));
}

/// The results of a row, in the order of the op's outputs.
void write_row(const Call& c, int64_t i, const RowStatistics& p, const RowStatistics& q, double kl, double centre) {
  c.t[5].as<float>()[i] = log_prob(p, p.target);
  c.t[6].as<float>()[i] = static_cast<float>(kl);
  c.t[7].as<float>()[i] = log_sum(p);
  c.t[8].as<float>()[i] = log_sum(q);
  c.t[9].as<float>()[i] = static_cast<float>(centre);
}

/// head_kl of direction 2, once its operands were checked and it has scratch.
void jensen_shannon(const Call& c, const Head& s, const HeadScratch& k) {
  MixtureRow* rows = static_cast<MixtureRow*>(k.rows);
  // body(row, z, qz, tile, r) for the rows of each tile of a chunk, with both logits.
  const auto each_row = [&](int64_t chunk, auto body) {
    each_tile_of(s, chunk, k.z, [&](const LogitTile& t) {
      LogitTile prior = t;
      prior.z = k.qz;
      raw_logits(*c.rt, c.t[0], c.t[1], t, k.product);
      raw_logits(*c.rt, c.t[2], c.t[3], prior, k.product);
      for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
        float *z = t.z + r * t.stride, *qz = prior.z + r * t.stride;
        transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
        transform_logits(qz, t.words, s.inverse_temperature, s.softcap, qz);
        body(t, r, z, qz);
      });
    });
  };
  for (int64_t chunk = 0; chunk < s.tokens; chunk += s.rows) {
    each_row(chunk, [&](const LogitTile& t, int64_t r, const float* z, const float* qz) {
      MixtureRow& row = rows[r];
      if (t.word == 0) row = {empty_row(), empty_row(), 0.0, 0.0};
      fold_all(row.p, z, t.words);
      fold_all(row.q, qz, t.words);
      const int64_t place = place_of(c.t[4], t, r);
      if (place >= 0) row.p.target = z[place];
    });
    each_row(chunk, [&](const LogitTile& t, int64_t r, const float* z, const float* qz) {
      MixtureRow& row = rows[r];
      for (int64_t i = 0; i < t.words; i += fold_width)
        fold_mixture(row, z + i, qz + i, smaller(fold_width, t.words - i), c.p[3]);
      if (is_last(s, t)) write_row(c, t.row + r, row.p, row.q, row.value, row.centre);
    });
  }
}

}  // namespace

/// head_logprobs and, per token, the KL over the whole vocabulary to the prior q = softmax of (qh, qw) under the same
/// cap and temperature; direction and mixture as in the table above. qh [N,C'], qw [V,C'], any C'. kl may be below 0 by
/// a rounding. centre is what backward subtracts: 0, KL(p||q), KL(p||M).
Status head_kl(const Call& c) {
  const View &h = c.t[0], &w = c.t[1], &qh = c.t[2], &qw = c.t[3], &targets = c.t[4];
  const char* const names[] = {"logps", "kl", "lse", "qlse", "centre"};
  Head s = {};
  HeadScratch k = {};
  WS_TRY(read_head(c, h, w, targets, s));
  WS_TRY(read_prior(c, qh, qw, s));
  for (int i = 0; i < 5; ++i) WS_TRY(vector_of(c.t[5 + i], names[i], s.tokens));
  if (s.tokens == 0) return {};
  const bool mixed = c.p[2] == 2;
  const int64_t row_bytes = static_cast<int64_t>(mixed ? sizeof(MixtureRow) : sizeof(KlRow));
  WS_TRY(take_scratch(c, s, {2, row_bytes, qh.dims[1], false, false}, k));
  if (mixed) {
    jensen_shannon(c, s, k);
    return {};
  }
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
      const double kl = static_cast<double>(kl_of(row, reverse));
      write_row(c, t.row + r, row.p, row.q, kl, reverse ? kl : 0.0);
    });
  });
  return {};
}

/// dz = dlogps (onehot(target) - p) + dkl * (the gradient in the table above, with centre for its divergence), then as
/// in head_logprobs_backward. The prior gets no gradient.
Status head_kl_backward(const Call& c) {
  const View &dw = c.t[0], &dlogps = c.t[1], &dkl = c.t[2], &h = c.t[3], &w = c.t[4], &qh = c.t[5], &qw = c.t[6];
  const View &targets = c.t[7], &dh = c.t[11];
  const char* const names[] = {"centre", "lse", "qlse"};
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
  const bool reverse = c.p[2] == 1, mixed = c.p[2] == 2;
  const V q_weight = set1(static_cast<float>(c.p[3])), p_weight = set1(static_cast<float>(1 - c.p[3]));
  each_tile(s, k.z, [&](const LogitTile& t) {
    LogitTile prior = t;
    prior.z = k.qz;
    raw_logits(*c.rt, h, w, t, k.product);
    raw_logits(*c.rt, qh, qw, prior, k.product);
    for_rows(*c.rt, t.rows, t.stride, [&](int64_t r) {
      float *z = t.z + r * t.stride, *qz = prior.z + r * t.stride;
      const int64_t i = t.row + r;
      const V weight = set1(dlogps.as<float>()[i]), kl_weight = set1(dkl.as<float>()[i]);
      const V centre = set1(c.t[8].as<float>()[i]);
      const V top = set1(c.t[9].as<float>()[i]), q_top = set1(c.t[10].as<float>()[i]);
      transform_logits(z, t.words, s.inverse_temperature, s.softcap, z);
      transform_logits(qz, t.words, s.inverse_temperature, s.softcap, qz);
      gradient_row(s, z, t.words, place_of(targets, t, r), [&](V x, int64_t at, auto lanes, V hit) {
        const V log_p = sub(x, top), log_q = sub(load(qz + at, lanes), q_top), p = exp_low(log_p);
        V slope;
        if (mixed) {
          slope = mul(mul(p_weight, p), sub(ratios_to_mixture(log_p, log_q, p_weight, q_weight).p, centre));
        } else {
          slope = reverse ? mul(p, sub(sub(log_p, log_q), centre)) : sub(p, exp_low(log_q));
        }
        return fma(kl_weight, slope, mul(weight, sub(hit, p)));
      });
    });
    add_gradients(*c.rt, s, t, g, k.product);
  });
  return {};
}

}  // namespace ws::WS_NS
