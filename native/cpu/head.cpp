// The fused language-model head: log-probs of targets, forward and backward. Other statistics of the vocabulary are in
// head_terms.cpp, divergences from a prior in head_kl.cpp; tiles in head_tile.h.
//
// z = softcap(h w^T) / temperature, p = softmax(z). FLOPs 2 N C V per head forward, 6 N C V backward (4 with a frozen
// head); w is read once per 1024 tokens.
#include "head_tile.h"

namespace ws::WS_NS {

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
/// dw [V,C] may be absent. What must stay: dw is one sum over tokens in order that begins at its old value, so two half
/// batches give the bits of one (where Device::token_alignment allows the cut); dh is one over the vocabulary in order,
/// rounded once.
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
                   [&](V x, int64_t, auto, V hit) { return mul(factor, sub(hit, exp_low(sub(x, top)))); });
    });
    add_gradients(*c.rt, s, t, g, k.product);
  });
  return {};
}

}  // namespace ws::WS_NS
