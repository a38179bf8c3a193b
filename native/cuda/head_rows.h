// Rows of logits on the GPU: statistics folded tile by tile, and gradients. A block has a row; a tile of logits is in
// memory as f32. Formulas, and why they are computed so: native/cpu/head.h, head_terms.cpp, head_kl.cpp; sums inside a
// tile are f32 over fixed strides and a fixed tree, sums over tiles f64. Included by head.cu only.
#pragma once
#include "vectors.h"

namespace ws::cuda {

constexpr int row_threads = 128;
constexpr int64_t tile_words = 8192;  // of the vocabulary; part of the order of arithmetic

/// Running softmax statistics of a row: sum of exp(z - top), and the target's logit once it was seen.
struct RowStatistics {
  double sum;
  float top, target;
};

/// What a row's kernels keep from tile to tile.
struct RowState {
  RowStatistics p, q;
  double weighted, squares, logits;  // terms: sums of exp(z - top) (z - top), of exp(z - top)^2, of z
  double cross;                      // KL: sum of exp(za - top_a) ((za - a0) - (zb - b0))
  double value, centre;              // Jensen-Shannon
  float p0, q0;
};

enum class Fold : int32_t { logprobs, terms, forward_kl, reverse_kl, both, mixture };

struct FoldArguments {
  float *z, *qz;  // [rows, stride]; raw logits, which become transformed ones
  RowState* states;
  const int32_t* targets;
  float* out[5];  // of the op, in its order
  Fault* fault;
  int64_t row, stride, word, words, vocabulary;
  float softcap, inverse_temperature, mixture;
  Fold what;
  int32_t op, targets_operand;
};

constexpr float infinity = __builtin_inff();

/// The sum of what the threads bring, in all of them; f64 over the warps.
WS_DEVICE double row_sum(float v) {
  double* parts = reinterpret_cast<double*>(shared());
  const float part = warp_sum(v);
  barrier();
  if (lane() == 0) parts[warp()] = static_cast<double>(part);
  barrier();
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}
WS_DEVICE float row_max(float v) {
  float* parts = reinterpret_cast<float*>(shared());
  const float part = warp_max(v);
  barrier();
  if (lane() == 0) parts[warp()] = part;
  barrier();
  return larger(larger(parts[0], parts[1]), larger(parts[2], parts[3]));
}

WS_DEVICE float capped(float x, float softcap) {
  return softcap > 0 ? softcap * hyperbolic_tangent(x / softcap) : x;
}

template <class F>
WS_DEVICE void over_words(int64_t words, F f) {
  for (int64_t i = thread(); i < words; i += row_threads) f(i);
}

/// Transforms a row's tile in place and folds it in; gives what earlier sums must be multiplied by.
WS_DEVICE float fold_row(RowStatistics& s, float* z, const FoldArguments& a) {
  float top = -infinity;
  over_words(a.words, [&](int64_t i) {
    z[i] = capped(z[i], a.softcap) * a.inverse_temperature;
    top = larger(top, z[i]);
  });
  top = row_max(top);
  const float now = larger(s.top, top), shift = now == -infinity ? 0.0f : now;
  const float factor = s.top == now ? 1.0f : exponential(s.top - now);
  float sum = 0;
  over_words(a.words, [&](int64_t i) { sum += exponential(z[i] - shift); });
  s.sum = s.sum * static_cast<double>(factor) + row_sum(sum);
  s.top = now;
  return factor;
}

WS_DEVICE void fold_terms(RowState& row, float* z, const FoldArguments& a) {
  const RowStatistics before = row.p;
  const double factor = static_cast<double>(fold_row(row.p, z, a));
  const float top = row.p.top == -infinity ? 0.0f : row.p.top;
  float weighted = 0, squares = 0, logits = 0;
  over_words(a.words, [&](int64_t i) {
    const float x = z[i] - top, e = exponential(x);
    weighted = fused(e, larger(-1e30f, x), weighted);  // 0 (-inf) of words that cannot occur must not be NaN
    squares = fused(e, e, squares);
    logits += x;
  });
  if (before.sum > 0) {
    const double moved = static_cast<double>(before.top) - static_cast<double>(top);
    row.weighted = factor * (row.weighted + moved * before.sum);
    row.squares *= factor * factor;
  }
  row.weighted += row_sum(weighted);
  row.squares += row_sum(squares);
  row.logits += row_sum(logits) + static_cast<double>(a.words) * static_cast<double>(top);
}

/// One direction of the KL: of (za, a) from (zb, b).
WS_DEVICE double cross_of(const float* za, const float* zb, float top, float a0, float b0, int64_t words) {
  float sum = 0;
  over_words(words, [&](int64_t i) { sum += exponential(za[i] - top) * ((za[i] - a0) - (zb[i] - b0)); });
  return row_sum(sum);
}

WS_DEVICE void fold_kl(RowState& row, float* z, float* qz, const FoldArguments& a) {
  const bool reverse = a.what == Fold::reverse_kl;
  const float p_factor = fold_row(row.p, z, a), q_factor = fold_row(row.q, qz, a);
  if (a.word == 0) row.p0 = row.p.top, row.q0 = row.q.top;
  const double part = reverse ? cross_of(z, qz, row.p.top, row.p0, row.q0, a.words)
                              : cross_of(qz, z, row.q.top, row.q0, row.p0, a.words);
  row.cross = row.cross * static_cast<double>(reverse ? p_factor : q_factor) + part;
}

/// log p - log M and log q - log M.
struct LogRatios {
  float p, q;
};

/// log(1 + u), where w is 1 + u and better known near 0.
WS_DEVICE float log_1p(float u, float w) { return u > -0.5f ? logarithm_1p(u) : logarithm(w); }

/// As in head_kl.cpp: the ratio nearer to 0 is computed, the other one is a = |log q - log p| away.
WS_DEVICE LogRatios ratios_to_mixture(float log_p, float log_q, float p_weight, float q_weight) {
  const float d = log_q - log_p, a = larger(d, -d);
  const float g = 0 < d ? q_weight : p_weight, s = 0 < d ? p_weight : q_weight;
  const float e = exponential(-a), fall = hyperbolic_tangent(a * 0.5f) * (1.0f + e);
  const float rise = g * (fall / e), drop = s * fall, rest = fused(s, e, g);
  const bool smaller_is_nearer = rise * rest < drop;
  const float ratio = smaller_is_nearer ? -log_1p(rise, 1.0f + rise) : -log_1p(-drop, rest);
  const float of_greater = smaller_is_nearer ? ratio + a : ratio, of_smaller = smaller_is_nearer ? ratio : ratio - a;
  return 0 < d ? LogRatios{of_smaller, of_greater} : LogRatios{of_greater, of_smaller};
}

/// The second pass of Jensen-Shannon, once both log-sum-exps are known.
WS_DEVICE void fold_mixture(RowState& row, const float* z, const float* qz, const FoldArguments& a) {
  const float p_log = static_cast<float>(log(row.p.sum)), q_log = static_cast<float>(log(row.q.sum));
  const float p_weight = 1.0f - a.mixture, q_weight = a.mixture;
  float value = 0, centre = 0;
  over_words(a.words, [&](int64_t i) {
    const float x = capped(z[i], a.softcap) * a.inverse_temperature;
    const float qx = capped(qz[i], a.softcap) * a.inverse_temperature;
    const float log_p = x - row.p.top - p_log, log_q = qx - row.q.top - q_log;
    const LogRatios ratio = ratios_to_mixture(log_p, log_q, p_weight, q_weight);
    const float p_term = exponential(log_p) * ratio.p, q_term = exponential(log_q) * ratio.q;
    value += fused(q_weight, q_term, p_weight * p_term);
    centre += p_term;
  });
  row.value += row_sum(value);
  row.centre += row_sum(centre);
}

WS_DEVICE float log_prob(const RowStatistics& s) {
  return static_cast<float>((static_cast<double>(s.target) - static_cast<double>(s.top)) - log(s.sum));
}
WS_DEVICE float log_sum(const RowStatistics& s) {
  return static_cast<float>(static_cast<double>(s.top) + log(s.sum));
}

/// KL(p || q) when reverse, else KL(q || p).
WS_DEVICE float kl_of(const RowState& r, bool reverse) {
  const double p = (static_cast<double>(r.p.top) - static_cast<double>(r.p0)) + log(r.p.sum);
  const double q = (static_cast<double>(r.q.top) - static_cast<double>(r.q0)) + log(r.q.sum);
  return static_cast<float>(reverse ? r.cross / r.p.sum - p + q : r.cross / r.q.sum - q + p);
}

/// The results of a row behind its last tile.
WS_DEVICE void write_row(const FoldArguments& a, const RowState& s, int64_t token) {
  a.out[0][token] = log_prob(s.p);
  if (a.what == Fold::logprobs) {
    a.out[1][token] = log_sum(s.p);
  } else if (a.what == Fold::terms) {
    const double log_total = log(s.p.sum), mean = s.logits / static_cast<double>(a.vocabulary);
    a.out[1][token] = static_cast<float>(log_total - s.weighted / s.p.sum);
    a.out[2][token] = static_cast<float>((mean - static_cast<double>(s.p.top)) - log_total);
    a.out[3][token] = static_cast<float>(log(s.squares) - 2 * log_total);
    a.out[4][token] = log_sum(s.p);
  } else {
    const bool mixed = a.what == Fold::mixture, reverse = a.what == Fold::reverse_kl;
    const float kl = mixed ? static_cast<float>(s.value) : kl_of(s, reverse);
    a.out[1][token] = kl;
    a.out[2][token] = log_sum(s.p);
    a.out[3][token] = log_sum(s.q);
    a.out[4][token] = mixed ? static_cast<float>(s.centre) : reverse ? kl : 0.0f;
  }
}

/// A block folds a tile of its row in.
WS_DEVICE void fold_tile(const FoldArguments& a) {
  const int64_t row = block().x, token = a.row + row;
  float *z = a.z + row * a.stride, *qz = a.qz == nullptr ? nullptr : a.qz + row * a.stride;
  RowState s = {};
  s.p.top = s.q.top = -infinity;
  const bool first = a.word == 0 && a.what != Fold::mixture;
  if (!first) s = a.states[row];
  const int32_t target = a.targets[token];
  if (thread() == 0 && a.word == 0)
    check_index(a.fault, static_cast<Op>(a.op), a.targets_operand, token, target, a.vocabulary);
  if (a.what == Fold::logprobs) fold_row(s.p, z, a);
  else if (a.what == Fold::terms) fold_terms(s, z, a);
  else if (a.what == Fold::both) fold_row(s.p, z, a), fold_row(s.q, qz, a);
  else if (a.what == Fold::mixture) fold_mixture(s, z, qz, a);
  else fold_kl(s, z, qz, a);
  if (thread() != 0) return;
  const int64_t place = target - a.word;
  if (a.what != Fold::mixture && place >= 0 && place < a.words) s.p.target = z[place];
  a.states[row] = s;
  if (a.word + a.words == a.vocabulary && a.what != Fold::both) write_row(a, s, token);
}

// Gradients -------------------------------------------------------------------------------------------------------------

struct GradientRowArguments {
  const float *z, *qz;  // raw logits [rows, stride]
  void* dz;             // [rows, stride] of the type of the products
  const int32_t* targets;
  // Per token, those that the op has: weights of the results, and what forward found.
  const float *dlogps, *dentropy, *dmean, *dkl, *entropy, *centre, *lse, *qlse;
  int64_t row, stride, word, words, vocabulary;
  float softcap, inverse_temperature, mixture;
  Fold what;
};

/// Gradient of a row's results by one transformed logit.
WS_DEVICE float logit_gradient(const GradientRowArguments& a, int64_t token, float x, float qx, float hit) {
  const float log_p = x - a.lse[token], p = exponential(log_p), by_logp = a.dlogps[token] * (hit - p);
  if (a.what == Fold::logprobs) return by_logp;
  if (a.what == Fold::terms) {
    const float share = 1.0f / static_cast<float>(a.vocabulary);
    const float both = fused(a.dmean[token], share - p, by_logp);
    return fused(-a.dentropy[token], p * (log_p + a.entropy[token]), both);
  }
  const float log_q = qx - a.qlse[token];
  float slope = p - exponential(log_q);
  if (a.what == Fold::reverse_kl) slope = p * ((log_p - log_q) - a.centre[token]);
  if (a.what == Fold::mixture)
    slope = (1.0f - a.mixture) * p *
            (ratios_to_mixture(log_p, log_q, 1.0f - a.mixture, a.mixture).p - a.centre[token]);
  return fused(a.dkl[token], slope, by_logp);
}

/// True where all weights of a token are 0: its gradient is exactly 0.
WS_DEVICE bool is_idle(const GradientRowArguments& a, int64_t token) {
  if (a.dlogps[token] != 0.0f) return false;
  if (a.what == Fold::logprobs) return true;
  return a.what == Fold::terms ? a.dentropy[token] == 0.0f && a.dmean[token] == 0.0f : a.dkl[token] == 0.0f;
}

template <class T>
WS_DEVICE void gradient_tile(const GradientRowArguments& a) {
  const int64_t row = block().x, token = a.row + row, place = a.targets[token] - a.word;
  const bool idle = is_idle(a, token);
  T* dz = static_cast<T*>(a.dz) + row * a.stride;
  over_words(a.words, [&](int64_t i) {
    float gradient = 0;
    if (!idle) {
      const float raw = capped(a.z[row * a.stride + i], a.softcap);
      const float qx = a.qz == nullptr ? 0.0f : capped(a.qz[row * a.stride + i], a.softcap) * a.inverse_temperature;
      const float t = a.softcap > 0 ? raw / a.softcap : 0.0f;
      gradient = logit_gradient(a, token, raw * a.inverse_temperature, qx, i == place ? 1.0f : 0.0f) *
                 a.inverse_temperature * (1.0f - t * t);
    }
    dz[i] = rounded<T>(gradient);
  });
}

}  // namespace ws::cuda
