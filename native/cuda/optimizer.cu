// AdamW on the GPU over a flat group: formula, order of operations and bits of native/cpu/optimizer.cpp. The norm and the
// flag are read on the device, so that nothing waits for them. 28 bytes per parameter, 24 where weights are bf16 alone; bound
// by memory.
#include <cmath>

#include "../core/rng.h"
#include "vectors.h"

namespace ws::cuda {
namespace {

struct StepArguments {
  float *m, *v;
  const float *g, *norm;
  int32_t* finite;
  const int32_t* ok;
  int64_t size;
  float max_norm, keep_w, take_g, keep_v, take_square, step_size, root_c2, eps;
};

struct AdamwArguments {
  float* w;
  bf16* copy;  // may be null
  StepArguments step;
};

struct StochasticArguments {
  bf16* w;
  const int32_t* key;
  StepArguments step;
};

WS_DEVICE float clip_factor(const StepArguments& a) {
  if (!(a.max_norm > 0)) return 1.0f;
  const float factor = a.max_norm / (*a.norm + 1e-6f);
  return factor > 1.0f ? 1.0f : factor;
}

/// Are the numbers of a span that exist all finite?
WS_DEVICE bool are_finite(const Span& s, const float (&x)[span]) {
  bool finite = true;
  for (int i = 0; i < span; ++i) finite = finite && (i >= s.n || is_finite(x[i]));
  return finite;
}

/// New weights and moments of a span; the moments are stored. Are these finite?
WS_DEVICE bool take_step(const StepArguments& a, const Span& s, float (&w)[span]) {
  const float clip = clip_factor(a);
  float m[span], v[span], g[span];
  load(a.m + s.at, s.n, m);
  load(a.v + s.at, s.n, v);
  load(a.g + s.at, s.n, g);
  for (int i = 0; i < span; ++i) {
    const float clipped = g[i] * clip;
    m[i] = fused(a.take_g, clipped - m[i], m[i]);
    v[i] = v[i] * a.keep_v + a.take_square * clipped * clipped;
    w[i] = w[i] * a.keep_w + a.step_size * m[i] / (root(v[i]) / a.root_c2 + a.eps);
  }
  store(a.m + s.at, s.n, m);
  store(a.v + s.at, s.n, v);
  return are_finite(s, m) && are_finite(s, v);
}

WS_KERNEL(adamw_step, map_threads, AdamwArguments, a) {
  const Span s = flat_span(a.step.size);
  if (s.n <= 0 || *a.step.ok == 0) return;
  float w[span];
  load(a.w + s.at, s.n, w);
  const bool finite = take_step(a.step, s, w);
  if (!finite || !are_finite(s, w)) lower_flag(a.step.finite);
  store(a.w + s.at, s.n, w);
  if (a.copy != nullptr) store(a.copy + s.at, s.n, w);
}

/// A bf16 next to x: the upper one with the probability that the lower half of the bits is of a step. NaN and infinity stay.
WS_DEVICE float round_at_random(float x, uint32_t random16) {
  return is_finite(x) ? as_float((as_bits(x) + random16) & 0xffff0000u) : x;
}

/// The weights of a thread are those of one counter.
WS_KERNEL(adamw_stochastic_step, map_threads, StochasticArguments, a) {
  const Span s = flat_span(a.step.size);
  if (s.n <= 0 || *a.step.ok == 0) return;
  float w[span];
  load(a.w + s.at, s.n, w);
  const bool finite = take_step(a.step, s, w);
  const auto word = [&](int i) { return static_cast<uint32_t>(a.key[i]); };
  const Random4 words = philox({{word(3), static_cast<uint32_t>(s.at / span), word(2), 0u}}, word(0), word(1));
  for (int i = 0; i < span; ++i) w[i] = round_at_random(w[i], words.x[i / 2] >> (i % 2 * 16) & 0xffffu);
  if (!finite || !are_finite(s, w)) lower_flag(a.step.finite);
  store(a.w + s.at, s.n, w);
}

}  // namespace

#if WS_HOST

namespace {

/// Checks what both ops have: w, m, v first, `changed` tensors in all; then finite, g, norm and ok.
Status step_of(const Call& c, int changed, StepArguments& a) {
  static const char* const names[] = {"w", "m", "v", "copy"};
  enum { learning_rate, beta1, beta2, epsilon, weight_decay, step_number, max_norm };
  for (int i = 1; i < changed; ++i)
    if (c.t[i].present()) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  const View *rest = c.t + changed, &finite = rest[0], &g = rest[1], &norm = rest[2], &ok = rest[3];
  WS_TRY(single(finite, "finite"));
  WS_TRY(same_shape(g, "g", c.t[0], names[0]));
  WS_TRY(single(norm, "norm"));
  WS_TRY(single(ok, "ok"));
  const double* p = c.p;
  WS_CHECK(p[step_number] >= 1, config, "step: expected at least 1, got %g", p[step_number]);
  const double c1 = 1.0 - std::pow(p[beta1], p[step_number]), c2 = 1.0 - std::pow(p[beta2], p[step_number]);
  const auto f = [](double x) { return static_cast<float>(x); };
  a = {c.t[1].as<float>(),
       c.t[2].as<float>(),
       g.as<float>(),
       norm.as<float>(),
       finite.as<int32_t>(),
       ok.as<int32_t>(),
       c.t[0].size(),
       f(p[max_norm]),
       f(1.0 - p[learning_rate] * p[weight_decay]),
       f(1.0 - p[beta1]),
       f(p[beta2]),
       f(1.0 - p[beta2]),
       f(-p[learning_rate] / c1),
       f(std::sqrt(c2)),
       f(p[epsilon])};
  return {};
}

Extent grid_of(const View& w) { return {blocks_for(w.size(), map_threads * span), 1, 1}; }

}  // namespace

Status adamw(const Call& c, Launcher& on) {
  AdamwArguments a = {c.t[0].as<float>(), c.t[3].present() ? c.t[3].as<bf16>() : nullptr, {}};
  WS_TRY(step_of(c, 4, a.step));
  return start(on, adamw_step, grid_of(c.t[0]), 0, a);
}

Status adamw_stochastic(const Call& c, Launcher& on) {
  StochasticArguments a = {c.t[0].as<bf16>(), c.t[7].as<int32_t>(), {}};
  WS_TRY(step_of(c, 3, a.step));
  WS_TRY(vector_of(c.t[7], "key", 4));
  return start(on, adamw_stochastic_step, grid_of(c.t[0]), 0, a);
}

#endif

}  // namespace ws::cuda
