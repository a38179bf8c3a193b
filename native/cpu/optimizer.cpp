// AdamW (Loshchilov and Hutter, 1711.05101) over a flat group, with clipping by the global norm and a flag that
// makes the step do nothing. Formula, in the order of operations of torch.optim.AdamW:
//   g = g min(1, maxNorm / (norm + 1e-6))       w = w (1 - lr decay)
//   m = m + (1 - beta1) (g - m)                              v = beta2 v + ((1 - beta2) g) g
//   w = w + (-lr / c1) m / (sqrt(v) / sqrt(c2) + eps)        c1 = 1 - beta1^step, c2 = 1 - beta2^step
// Scalars are computed in f64 and rounded once. 28 bytes per parameter (30 with the bf16 copy; 24 where w is bf16 alone),
// bound by memory. An element depends on nothing but its own values, so any cut into tasks gives the same bits. Whether the
// results are finite is seen here, where they are at hand: another pass over them would take half as long as the step.
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

/// Zero as long as all numbers that it saw were finite, then NaN.
struct Watch {
  V sum = zero();
  template <class Lanes>
  void see(V x, Lanes lanes) {
    sum = fma(keep(x, lanes), zero(), sum);
  }
  bool finite() const { return sum_lanes(sum) == 0; }
};

/// The weights behind the step; the moments are stored.
template <class Lanes>
V stepped(const Moments& a, const Step& s, V w, int64_t i, Lanes lanes, Watch& watch) {
  const V g = mul(load(a.g + i, lanes), s.clip);
  const V m0 = load(a.m + i, lanes);
  const V m = fma(s.take_g, sub(g, m0), m0);
  const V v = add(mul(load(a.v + i, lanes), s.keep_v), mul(mul(s.take_square, g), g));
  const V denominator = add(div(sqrt(v), s.root), s.eps);
  store(a.m + i, m, lanes);
  store(a.v + i, v, lanes);
  watch.see(m, lanes);
  watch.see(v, lanes);
  return add(mul(w, s.keep_w), div(mul(s.size, m), denominator));
}

/// Are all results finite?
bool update(float* w, bf16* copy, const Moments& a, const Step& s, int64_t begin, int64_t end) {
  Watch watch;
  for_vectors(begin, end, [&](int64_t i, auto lanes) {
    const V next = stepped(a, s, load(w + i, lanes), i, lanes, watch);
    watch.see(next, lanes);
    store(w + i, next, lanes);
    if (copy) store(copy + i, next, lanes);
  });
  return watch.finite();
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
bool update_bf16(bf16* w, const int32_t* key, const Moments& a, const Step& s, int64_t begin, int64_t end) {
  Watch watch;
  for (int64_t first = begin; first < end; first += drawn) {
    uint32_t words[group_columns], ordered[group_columns];
    uint16_t random[drawn];
    float next[drawn];  // rounded in a loop of its own: chains of divisions stay short enough to overlap
    random_columns(key, 0, first / 2, words);
    by_counter(words, ordered);
    std::memcpy(random, ordered, sizeof random);
    const int64_t last = first + drawn < end ? first + drawn : end;
    for_vectors(first, last, [&](int64_t i, auto lanes) {
      store(next + (i - first), stepped(a, s, load(w + i, lanes), i, lanes, watch));
    });
    for_vectors(first, last, [&](int64_t i, auto lanes) {
      const V rounded = round_at_random(load(next + (i - first)), random + (i - first));
      watch.see(rounded, lanes);
      store(w + i, rounded, lanes);
    });
  }
  return watch.finite();
}
static_assert(span_elements % drawn == 0, "tasks begin with the first word of a counter");

/// What follows the tensors that a step changes.
struct Rest {
  View finite, g, norm, ok;
};

/// Operands of both ops: w, m, v first, `changed` tensors in all; then the rest.
Status check(const Call& c, int changed, Rest& rest) {
  static const char* const names[] = {"w", "m", "v", "copy"};
  for (int i = 1; i < changed; ++i) {
    if (c.t[i].present()) WS_TRY(same_shape(c.t[i], names[i], c.t[0], names[0]));
  }
  rest = {c.t[changed], c.t[changed + 1], c.t[changed + 2], c.t[changed + 3]};
  WS_TRY(single(rest.finite, "finite"));
  WS_TRY(same_shape(rest.g, "g", c.t[0], names[0]));
  WS_TRY(single(rest.norm, "norm"));
  WS_TRY(single(rest.ok, "ok"));
  WS_CHECK(c.p[step_number] >= 1, config, "step: expected at least 1, got %g", c.p[step_number]);
  return {};
}

/// step(begin, end) for all elements; `finite` becomes 0 where it says that a result is not.
template <class F>
void step_all(const Call& c, const View& finite, F step) {
  int32_t* flag = finite.as<int32_t>();
  for_spans(*c.rt, c.t[0].size(), [&](int64_t begin, int64_t end) {
    if (!step(begin, end)) __atomic_store_n(flag, 0, __ATOMIC_RELAXED);
  });
}

}  // namespace

/// One step of a group. norm and ok are single numbers on the device, so that nothing waits for them; with
/// ok = 0 no byte of w, m, v or copy changes. step counts from 1.
Status adamw(const Call& c) {
  Rest rest;
  WS_TRY(check(c, 4, rest));
  if (*rest.ok.as<int32_t>() == 0) return {};
  float* w = c.t[0].as<float>();
  bf16* copy = c.t[3].present() ? c.t[3].as<bf16>() : nullptr;
  const Moments moments = {c.t[1].as<float>(), c.t[2].as<float>(), rest.g.as<float>()};
  const Step step = step_of(c.p, *rest.norm.as<float>());
  step_all(c, rest.finite, [&](int64_t begin, int64_t end) { return update(w, copy, moments, step, begin, end); });
  return {};
}

/// The same where w is bf16 and has no copy in f32: the random numbers are those of ops.def.
Status adamw_stochastic(const Call& c) {
  Rest rest;
  WS_TRY(check(c, 3, rest));
  const View& key = c.t[7];
  WS_TRY(vector_of(key, "key", 4));
  if (*rest.ok.as<int32_t>() == 0) return {};
  bf16* w = c.t[0].as<bf16>();
  const Moments moments = {c.t[1].as<float>(), c.t[2].as<float>(), rest.g.as<float>()};
  const Step step = step_of(c.p, *rest.norm.as<float>());
  step_all(c, rest.finite, [&](int64_t begin, int64_t end) {
    return update_bf16(w, key.as<int32_t>(), moments, step, begin, end);
  });
  return {};
}

}  // namespace ws::WS_NS
