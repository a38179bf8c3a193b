// AdamW (Loshchilov and Hutter, 1711.05101) over a flat group, with clipping by the global norm and a flag that
// makes the step do nothing. Formula, in the order of operations of torch.optim.AdamW:
//   g = g min(1, maxNorm / (norm + 1e-6))       w = w (1 - lr decay)
//   m = m + (1 - beta1) (g - m)                              v = beta2 v + ((1 - beta2) g) g
//   w = w + (-lr / c1) m / (sqrt(v) / sqrt(c2) + eps)        c1 = 1 - beta1^step, c2 = 1 - beta2^step
// Scalars are computed in f64 and rounded once. 28 bytes per parameter (30 with the bf16 copy; 24 where w is bf16 alone),
// bound by memory. An element depends on nothing but its own values, so any cut into tasks gives the same bits.
#include <cmath>

#include "loops.h"
#include "random.h"

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

struct Moments {
  float *m, *v;
  const float* g;
};

/// The weights behind the step; the moments are stored.
template <class Lanes>
V stepped(const Moments& a, const Step& s, V w, int64_t i, Lanes lanes) {
  const V g = mul(load(a.g + i, lanes), s.clip);
  const V m0 = load(a.m + i, lanes);
  const V m = fma(s.take_g, sub(g, m0), m0);
  const V v = add(mul(load(a.v + i, lanes), s.keep_v), mul(mul(s.take_square, g), g));
  const V denominator = add(div(sqrt(v), s.root), s.eps);
  store(a.m + i, m, lanes);
  store(a.v + i, v, lanes);
  return add(mul(w, s.keep_w), div(mul(s.size, m), denominator));
}

void update(float* w, bf16* copy, const Moments& a, const Step& s, int64_t begin, int64_t end) {
  for_vectors(begin, end, [&](int64_t i, auto lanes) {
    const V next = stepped(a, s, load(w + i, lanes), i, lanes);
    store(w + i, next, lanes);
    if (copy) store(copy + i, next, lanes);
  });
}

// Stochastic rounding -------------------------------------------------------------------------------------------------

constexpr int drawn = 2 * group_columns;  // weights that random_columns() serves: 16 bits each

/// Rounds to bf16: of the two next to x, the upper one with the probability that the lower half of the bits is of a step.
/// NaN and infinity stay.
V round_at_random(V x, const uint16_t* random) {
  const V size = max(x, sub(zero(), x));
  return select_less(size, set1(INFINITY), high_halves(add_steps(x, random)), x);
}

/// begin is a multiple of `drawn`.
void update_bf16(bf16* w, const int32_t* key, const Moments& a, const Step& s, int64_t begin, int64_t end) {
  for (int64_t first = begin; first < end; first += drawn) {
    uint32_t words[group_columns], ordered[group_columns];
    uint16_t random[drawn];
    float next[drawn];  // rounded in a loop of its own: chains of divisions stay short enough to overlap
    random_columns(key, 0, first / 2, words);
    by_counter(words, ordered);
    std::memcpy(random, ordered, sizeof random);
    const int64_t last = first + drawn < end ? first + drawn : end;
    for_vectors(first, last, [&](int64_t i, auto lanes) {
      store(next + (i - first), stepped(a, s, load(w + i, lanes), i, lanes));
    });
    for_vectors(first, last, [&](int64_t i, auto lanes) {
      store(w + i, round_at_random(load(next + (i - first)), random + (i - first)), lanes);
    });
  }
}
static_assert(span_elements % drawn == 0, "tasks begin with the first word of a counter");

/// Operands of both ops: w, m, v first; g, norm, ok and what follows from `gradient` on.
Status check(const Call& c, int gradient) {
  static const char* const names[] = {"w", "m", "v", "copy"};
  for (int i = 1; i < gradient; ++i) {
    if (c.t[i].present()) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  }
  WS_TRY(same_shape(c.t[gradient], "g", c.t[0], names[0]));
  WS_TRY(single(c.t[gradient + 1], "norm"));
  WS_TRY(single(c.t[gradient + 2], "ok"));
  WS_CHECK(c.p[step_number] >= 1, config, "step: expected at least 1, got %g", c.p[step_number]);
  return {};
}

}  // namespace

/// One step of a group. norm and ok are single numbers on the device, so that nothing waits for them; with
/// ok = 0 no byte of w, m, v or copy changes. step counts from 1.
Status adamw(const Call& c) {
  WS_TRY(check(c, 4));
  if (*c.t[6].as<int32_t>() == 0) return {};
  float* w = c.t[0].as<float>();
  bf16* copy = c.t[3].present() ? c.t[3].as<bf16>() : nullptr;
  const Moments moments = {c.t[1].as<float>(), c.t[2].as<float>(), c.t[4].as<float>()};
  const Step step = step_of(c.p, *c.t[5].as<float>());
  for_spans(*c.rt, c.t[0].size(), [&](int64_t begin, int64_t end) { update(w, copy, moments, step, begin, end); });
  return {};
}

/// The same where w is bf16 and has no copy in f32: the random numbers are those of ops.def.
Status adamw_stochastic(const Call& c) {
  WS_TRY(check(c, 3));
  WS_TRY(vector_of(c.t[6], "key", 4));
  if (*c.t[5].as<int32_t>() == 0) return {};
  bf16* w = c.t[0].as<bf16>();
  const int32_t* key = c.t[6].as<int32_t>();
  const Moments moments = {c.t[1].as<float>(), c.t[2].as<float>(), c.t[3].as<float>()};
  const Step step = step_of(c.p, *c.t[4].as<float>());
  for_spans(*c.rt, c.t[0].size(), [&](int64_t begin, int64_t end) { update_bf16(w, key, moments, step, begin, end); });
  return {};
}

}  // namespace ws::WS_NS
