// AdamW (Loshchilov and Hutter, 1711.05101) over a flat group, with clipping by the global norm and a flag that
// makes the step do nothing. Formula, in the order of operations of torch.optim.AdamW:
//   g = g min(1, maxNorm / (norm + 1e-6))       w = w (1 - lr decay)
//   m = m + (1 - beta1) (g - m)                              v = beta2 v + ((1 - beta2) g) g
//   w = w + (-lr / c1) m / (sqrt(v) / sqrt(c2) + eps)        c1 = 1 - beta1^step, c2 = 1 - beta2^step
// Scalars are computed in f64 and rounded once. 28 bytes per parameter (30 with the bf16 copy), bound by memory.
// An element depends on nothing but its own values, so any cut into tasks gives the same bits.
#include <cmath>

#include "loops.h"

namespace ws::WS_NS {
namespace {

struct Step {
  V clip, keep_w, take_g, keep_v, take_square, size, root, eps;
};

/// Parameters in the order of ops.def.
enum { learning_rate, beta1, beta2, epsilon, weight_decay, step_number, max_norm };

float clip_factor(double limit, float norm) {
  if (!(limit > 0)) return 1.0f;
  const float factor = static_cast<float>(limit) / (norm + 1e-6f);
  return factor > 1.0f ? 1.0f : factor;
}

V rounded(double x) { return set1(static_cast<float>(x)); }

Step step_of(const double* p, float norm) {
  const double c1 = 1.0 - std::pow(p[beta1], p[step_number]), c2 = 1.0 - std::pow(p[beta2], p[step_number]);
  return {set1(clip_factor(p[max_norm], norm)),
          rounded(1.0 - p[learning_rate] * p[weight_decay]),
          rounded(1.0 - p[beta1]),
          rounded(p[beta2]),
          rounded(1.0 - p[beta2]),
          rounded(-p[learning_rate] / c1),
          rounded(std::sqrt(c2)),
          rounded(p[epsilon])};
}

struct Group {
  float *w, *m, *v;
  bf16* copy;
  const float* g;
};

void update(const Group& a, const Step& s, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t i, auto lanes) {
    const V g = mul(load(a.g + i, lanes), s.clip);
    const V m0 = load(a.m + i, lanes);
    const V m = fma(s.take_g, sub(g, m0), m0);
    const V v = add(mul(load(a.v + i, lanes), s.keep_v), mul(mul(s.take_square, g), g));
    const V denominator = add(div(sqrt(v), s.root), s.eps);
    const V w = add(mul(load(a.w + i, lanes), s.keep_w), div(mul(s.size, m), denominator));
    store(a.m + i, m, lanes);
    store(a.v + i, v, lanes);
    store(a.w + i, w, lanes);
    if (a.copy) store(a.copy + i, w, lanes);
  });
}

}  // namespace

/// One step of a group. norm and ok are single numbers on the device, so that nothing waits for them; with
/// ok = 0 no byte of w, m, v or copy changes. step counts from 1.
Status adamw(const Call& c) {
  static const char* const names[] = {"w", "m", "v", "copy", "g"};
  for (int i = 1; i < 5; ++i) {
    if (c.t[i].present()) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  }
  WS_TRY(single(c.t[5], "norm"));
  WS_TRY(single(c.t[6], "ok"));
  WS_CHECK(c.p[step_number] >= 1, config, "step: expected at least 1, got %g", c.p[step_number]);
  if (*c.t[6].as<int32_t>() == 0) return {};
  const Group group = {c.t[0].as<float>(), c.t[1].as<float>(), c.t[2].as<float>(),
                       c.t[3].present() ? c.t[3].as<bf16>() : nullptr, c.t[4].as<float>()};
  const Step step = step_of(c.p, *c.t[5].as<float>());
  for_spans(*c.rt, c.t[0].size(), [&](int64_t begin, int64_t end) { update(group, step, begin, end); });
  return {};
}

}  // namespace ws::WS_NS
