// Rows of logits on the GPU: sums of a row's groups of words become the statistics of the row, and what needs two heads at
// once is computed from tiles of logits in memory. Formulas, and why they are computed so: native/cpu/head.h,
// head_terms.cpp, head_kl.cpp. Sums inside a group or tile are f32 over fixed strides and fixed trees, sums over them f64.
// Included by head.cu and sample.cu only.
#pragma once
#include "vectors.h"

namespace ws::cuda {

constexpr int row_threads = 128, row_warps = row_threads / warp_size;
constexpr int64_t group_words = 128;  // of the vocabulary, whose sums the tiles give

/// A row's logits in a group of words: their maximum, and the sum of exp(z - top).
struct Partial {
  float top, sum;
};
/// Sums of exp(z - top) (z - top), of exp(z - top)^2, of z - top.
struct PartialTerms {
  float weighted, squares, logits;
};

/// Softmax statistics of a row: sum of exp(z - top).
struct RowStatistics {
  double sum;
  float top;
};

enum class Fold : int32_t { logprobs, terms, forward_kl, reverse_kl, mixture };

constexpr float infinity = __builtin_inff();

WS_DEVICE float capped(float x, float softcap) {
  return softcap > 0 ? softcap * hyperbolic_tangent(x / softcap) : x;
}

WS_DEVICE float log_prob(const RowStatistics& s, float target) {
  return static_cast<float>((static_cast<double>(target) - static_cast<double>(s.top)) - log(s.sum));
}
WS_DEVICE float log_sum(const RowStatistics& s) {
  return static_cast<float>(static_cast<double>(s.top) + log(s.sum));
}

// Rows from groups ------------------------------------------------------------------------------------------------------

WS_DEVICE double lanes_sum(double v) {
  for (int mask = 16; mask > 0; mask >>= 1) v += shuffle_xor(v, mask);
  return v;
}

/// exp(top - whole), where a group's maximum may be -inf.
WS_DEVICE double group_factor(float top, float whole) {
  return top == whole ? 1.0 : static_cast<double>(exponential(top - whole));
}

/// The statistics of a row from those of its groups, by a warp: a lane has every 32nd of them.
WS_DEVICE RowStatistics merge_groups(const Partial* p, int64_t groups) {
  float top = -infinity;
  for (int64_t g = lane(); g < groups; g += warp_size) top = larger(top, p[g].top);
  top = warp_max(top);
  double sum = 0;
  for (int64_t g = lane(); g < groups; g += warp_size)
    sum += static_cast<double>(p[g].sum) * group_factor(p[g].top, top);
  return {lanes_sum(sum), top};
}

struct RowTerms {
  double weighted, squares, logits;
};

/// Their sums relative to the row's maximum; of logits as they are.
WS_DEVICE RowTerms merge_terms(const Partial* p, const PartialTerms* t, const RowStatistics& row, int64_t groups,
                               int64_t vocabulary) {
  RowTerms sums = {};
  const float whole = row.top == -infinity ? 0.0f : row.top;
  for (int64_t g = lane(); g < groups; g += warp_size) {
    const float top = p[g].top == -infinity ? 0.0f : p[g].top;
    const double factor = group_factor(p[g].top, row.top), moved = static_cast<double>(top) - static_cast<double>(whole);
    const int64_t left = vocabulary - g * group_words, words = left < group_words ? left : group_words;
    sums.weighted += factor * (static_cast<double>(t[g].weighted) + moved * static_cast<double>(p[g].sum));
    sums.squares += factor * factor * static_cast<double>(t[g].squares);
    sums.logits += static_cast<double>(t[g].logits) + static_cast<double>(words) * static_cast<double>(top);
  }
  return {lanes_sum(sums.weighted), lanes_sum(sums.squares), lanes_sum(sums.logits)};
}

/// KL: sum of exp(za - top) ((za - a0) - (zb - b0)) over the words so far, a0 and b0 the maxima of the first tile.
struct CrossState {
  double cross;
  float top, a0, b0;
};

/// Row r is row r of what these point to; groups in the vocabulary.
struct MergeArguments {
  const Partial *p, *q;  // [rows, groups]
  const PartialTerms* terms;
  const CrossState* cross;
  const float* targets_logits;
  const int32_t* targets;
  RowStatistics *p_rows, *q_rows;  // Jensen-Shannon: for its second pass
  float* out[6];                   // of the op, in its order
  Fault* fault;
  int64_t rows, first, groups, vocabulary;  // first: the token of row 0
  Fold what;
  int32_t op, targets_operand;
};

/// KL(p || q) when reverse, else KL(q || p); a is the distribution that weighs.
WS_DEVICE float kl_of(const CrossState& s, const RowStatistics& a, const RowStatistics& b) {
  const double log_a = (static_cast<double>(a.top) - static_cast<double>(s.a0)) + log(a.sum);
  const double log_b = (static_cast<double>(b.top) - static_cast<double>(s.b0)) + log(b.sum);
  return static_cast<float>(s.cross / a.sum - log_a + log_b);
}

WS_DEVICE void write_terms(const MergeArguments& a, const RowStatistics& p, const RowTerms& s, int64_t row) {
  const double log_total = log(p.sum), mean = s.logits / static_cast<double>(a.vocabulary);
  a.out[1][row] = static_cast<float>(log_total - s.weighted / p.sum);
  a.out[2][row] = static_cast<float>((mean - static_cast<double>(p.top)) - log_total);
  a.out[3][row] = static_cast<float>(log(s.squares) - 2 * log_total);
  a.out[4][row] = log_sum(p);
  a.out[5][row] = log_prob(p, p.top);
}

WS_DEVICE void write_divergence(const MergeArguments& a, const RowStatistics& p, const RowStatistics& q, int64_t row) {
  a.out[2][row] = log_sum(p);
  a.out[3][row] = log_sum(q);
  if (a.what == Fold::mixture) {
    a.p_rows[row] = p, a.q_rows[row] = q;
    return;
  }
  const bool reverse = a.what == Fold::reverse_kl;
  const float kl = kl_of(a.cross[row], reverse ? p : q, reverse ? q : p);
  a.out[1][row] = kl;
  a.out[4][row] = reverse ? kl : 0.0f;
}

/// A warp ends a row.
WS_DEVICE void merge_row(const MergeArguments& a) {
  const int64_t row = static_cast<int64_t>(block().x) * row_warps + warp();
  if (row >= a.rows) return;
  const Partial* groups = a.p + row * a.groups;
  const RowStatistics p = merge_groups(groups, a.groups);
  RowStatistics q = {};
  RowTerms terms = {};
  if (a.what == Fold::terms)
    terms = merge_terms(groups, a.terms + row * a.groups, p, a.groups, a.vocabulary);
  if (a.q != nullptr) q = merge_groups(a.q + row * a.groups, a.groups);
  if (lane() != 0) return;
  check_index(a.fault, static_cast<Op>(a.op), a.targets_operand, a.first + row, a.targets[row], a.vocabulary);
  a.out[0][row] = log_prob(p, a.targets_logits[row]);
  if (a.what == Fold::logprobs) a.out[1][row] = log_sum(p);
  else if (a.what == Fold::terms) write_terms(a, p, terms, row);
  else write_divergence(a, p, q, row);
}

// Two heads at once: a block has a row of a tile of both capped logits ----------------------------------------------------

/// Row r is row r of what these point to.
struct PairArguments {
  const float *z, *qz;   // [rows, stride]
  const Partial *p, *q;  // [rows, groups]: the tile's first group
  CrossState* cross;
  const RowStatistics *p_rows, *q_rows;
  double* sums;          // Jensen-Shannon: [rows, 2], the value and the centre so far
  float *value, *centre;
  int64_t stride, word, words, vocabulary, groups;
  float inverse_temperature, mixture;
  Fold what;
};

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

template <class F>
WS_DEVICE void over_words(int64_t words, F f) {
  for (int64_t i = thread(); i < words; i += row_threads) f(i);
}

WS_DEVICE float tile_top(const Partial* groups, int64_t words) {
  float top = -infinity;
  over_words((words + group_words - 1) / group_words, [&](int64_t g) { top = larger(top, groups[g].top); });
  return row_max(top);
}

/// A KL's tile: a is the distribution that weighs.
WS_DEVICE void cross_tile(const PairArguments& a) {
  const int64_t row = block().x;
  const bool reverse = a.what == Fold::reverse_kl;
  const float *za = (reverse ? a.z : a.qz) + row * a.stride, *zb = (reverse ? a.qz : a.z) + row * a.stride;
  const float a_top = tile_top((reverse ? a.p : a.q) + row * a.groups, a.words);
  const float b_top = tile_top((reverse ? a.q : a.p) + row * a.groups, a.words);
  const CrossState old = a.word == 0 ? CrossState{0, -infinity, a_top, b_top} : a.cross[row];
  const float top = larger(old.top, a_top);
  float sum = 0;
  over_words(a.words, [&](int64_t i) {
    const float x = za[i] * a.inverse_temperature, y = zb[i] * a.inverse_temperature;
    sum += exponential(x - top) * ((x - old.a0) - (y - old.b0));
  });
  const double total = old.cross * group_factor(old.top, top) + row_sum(sum);
  if (thread() == 0) a.cross[row] = {total, top, old.a0, old.b0};
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

/// Jensen-Shannon's tile, once both log-sum-exps are known.
WS_DEVICE void mixture_tile(const PairArguments& a) {
  const int64_t row = block().x;
  const float *z = a.z + row * a.stride, *qz = a.qz + row * a.stride;
  const RowStatistics p = a.p_rows[row], q = a.q_rows[row];
  const float p_log = static_cast<float>(log(p.sum)), q_log = static_cast<float>(log(q.sum));
  const float p_weight = 1.0f - a.mixture, q_weight = a.mixture;
  float value = 0, centre = 0;
  over_words(a.words, [&](int64_t i) {
    const float log_p = z[i] * a.inverse_temperature - p.top - p_log;
    const float log_q = qz[i] * a.inverse_temperature - q.top - q_log;
    const LogRatios ratio = ratios_to_mixture(log_p, log_q, p_weight, q_weight);
    const float p_term = exponential(log_p) * ratio.p, q_term = exponential(log_q) * ratio.q;
    value += fused(q_weight, q_term, p_weight * p_term);
    centre += p_term;
  });
  double sums[2] = {row_sum(value), row_sum(centre)};
  if (thread() != 0) return;
  double* old = a.sums + 2 * row;
  for (int i = 0; i < 2; ++i) old[i] = sums[i] += a.word == 0 ? 0.0 : old[i];
  if (a.word + a.words < a.vocabulary) return;
  a.value[row] = static_cast<float>(sums[0]);
  a.centre[row] = static_cast<float>(sums[1]);
}

/// Row r is row r of what these point to.
struct PairGradientArguments {
  const float *z, *qz;  // [rows, stride]
  void* dz;             // [rows, stride] of the type of the products
  const int32_t* targets;
  const float *dlogps, *dkl, *centre, *lse, *qlse;
  int64_t stride, word, words;
  float softcap, inverse_temperature, mixture;
  Fold what;
};

/// Gradient of a divergence by one of the policy's logits.
WS_DEVICE float divergence_slope(const PairGradientArguments& a, float log_p, float log_q, float centre) {
  const float p = exponential(log_p);
  if (a.what == Fold::forward_kl) return p - exponential(log_q);
  if (a.what == Fold::reverse_kl) return p * ((log_p - log_q) - centre);
  return (1.0f - a.mixture) * p * (ratios_to_mixture(log_p, log_q, 1.0f - a.mixture, a.mixture).p - centre);
}

template <class T>
WS_DEVICE void pair_gradient_tile(const PairGradientArguments& a) {
  const int64_t row = block().x, place = a.targets[row] - a.word;
  const float *z = a.z + row * a.stride, *qz = a.qz + row * a.stride, by_logp = a.dlogps[row], by_kl = a.dkl[row];
  const bool idle = by_logp == 0.0f && by_kl == 0.0f;  // its gradient is exactly 0
  T* dz = static_cast<T*>(a.dz) + row * a.stride;
  over_words(a.words, [&](int64_t i) {
    const float log_p = z[i] * a.inverse_temperature - a.lse[row], log_q = qz[i] * a.inverse_temperature - a.qlse[row];
    const float t = a.softcap > 0 ? z[i] / a.softcap : 0.0f, hit = i == place ? 1.0f : 0.0f;
    const float slope = divergence_slope(a, log_p, log_q, a.centre[row]);
    const float by_logit = fused(by_kl, slope, by_logp * (hit - exponential(log_p)));
    dz[i] = rounded<T>(idle ? 0.0f : by_logit * a.inverse_temperature * (1.0f - t * t));
  });
}

}  // namespace ws::cuda
