// AdamW on the GPU over a flat group: formula, order of operations and bits of native/cpu/optimizer.cpp. The norm and the
// flag are read on the device, so that nothing waits for them. 28 bytes per parameter, bound by memory.
#include <cmath>

#include "vectors.h"

namespace ws::cuda {
namespace {

struct AdamwArguments {
  float *w, *m, *v;
  bf16* copy;  // may be null
  const float *g, *norm;
  const int32_t* ok;
  int64_t size;
  float max_norm, keep_w, take_g, keep_v, take_square, step_size, root_c2, eps;
};

WS_DEVICE float clip_factor(const AdamwArguments& a) {
  if (!(a.max_norm > 0)) return 1.0f;
  const float factor = a.max_norm / (*a.norm + 1e-6f);
  return factor > 1.0f ? 1.0f : factor;
}

WS_KERNEL(adamw_step, map_threads, AdamwArguments, a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0 || *a.ok == 0) return;
  const float clip = clip_factor(a);
  float w[span], m[span], v[span], g[span];
  load(a.w + s.at, s.n, w);
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
  store(a.w + s.at, s.n, w);
  if (a.copy != nullptr) store(a.copy + s.at, s.n, w);
}

}  // namespace

#if WS_HOST

Status adamw(const Call& c, Launcher& on) {
  static const char* const names[] = {"w", "m", "v", "copy", "g"};
  enum { learning_rate, beta1, beta2, epsilon, weight_decay, step_number, max_norm };
  for (int i = 1; i < 5; ++i)
    if (c.t[i].present()) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  WS_TRY(single(c.t[5], "norm"));
  WS_TRY(single(c.t[6], "ok"));
  const double* p = c.p;
  WS_CHECK(p[step_number] >= 1, config, "step: expected at least 1, got %g", p[step_number]);
  const double c1 = 1.0 - std::pow(p[beta1], p[step_number]), c2 = 1.0 - std::pow(p[beta2], p[step_number]);
  const auto f = [](double x) { return static_cast<float>(x); };
  const AdamwArguments a = {c.t[0].as<float>(), c.t[1].as<float>(), c.t[2].as<float>(),
                            c.t[3].present() ? c.t[3].as<bf16>() : nullptr, c.t[4].as<float>(), c.t[5].as<float>(),
                            c.t[6].as<int32_t>(), c.t[0].size(), f(p[max_norm]),
                            f(1.0 - p[learning_rate] * p[weight_decay]), f(1.0 - p[beta1]), f(p[beta2]),
                            f(1.0 - p[beta2]), f(-p[learning_rate] / c1), f(std::sqrt(c2)), f(p[epsilon])};
  return start(on, adamw_step, {blocks_for(a.size, map_threads * span), 1, 1}, 0, a);
}

#endif

}  // namespace ws::cuda
