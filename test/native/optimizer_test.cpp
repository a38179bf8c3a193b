// adamw against the same steps in f64; clipping, the bf16 copy, a step that must change nothing. adamw_stochastic against
// the f32 step and the random bits that ops.def promises, bit for bit. Both say whether what they wrote is finite.
#include "../../native/core/rng.h"
#include "check.h"

using namespace check;

namespace {

struct Settings {
  double learning_rate = 1e-2, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, max_norm = 0;
};

/// A group, with its f64 twin.
struct Group {
  int64_t count;
  Tensor w, m, v, copy, g, finite = integers({1});
  std::vector<double> exact_w, exact_m, exact_v;

  explicit Group(int64_t n) : count(n) {
    Random random(21);
    w = random_tensor(random, DType::f32, {n});
    m = Tensor(DType::f32, {n});
    v = Tensor(DType::f32, {n});
    copy = Tensor(DType::bf16, {n});
    g = random_tensor(random, DType::f32, {n});
    for (int64_t i = 0; i < n; ++i) exact_w.push_back(w.at(i));
    exact_m.assign(static_cast<size_t>(n), 0);
    exact_v.assign(static_cast<size_t>(n), 0);
  }
  double norm() const {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += g.at(i) * g.at(i);
    return std::sqrt(sum);
  }
  void exact_step(const Settings& s, double step) {
    double clip = s.max_norm > 0 ? s.max_norm / (norm() + 1e-6) : 1;
    clip = clip > 1 ? 1 : clip;
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      const double d = g.at(static_cast<int64_t>(i)) * clip;
      exact_m[i] = s.beta1 * exact_m[i] + (1 - s.beta1) * d;
      exact_v[i] = s.beta2 * exact_v[i] + (1 - s.beta2) * d * d;
      const double mean = exact_m[i] / (1 - std::pow(s.beta1, step));
      const double square = exact_v[i] / (1 - std::pow(s.beta2, step));
      exact_w[i] -= s.learning_rate * s.weight_decay * exact_w[i];
      exact_w[i] -= s.learning_rate * mean / (std::sqrt(square) + s.eps);
    }
  }
};

Status run(Kernel kernel, Runtime& rt, Group& a, const Settings& s, double step, int ok = 1, bool copy = true) {
  const Tensor norm = Tensor(DType::f32, {1}).fill(a.norm()), flag = integers({ok});
  return kernel(make_call(
      rt,
      {a.w.view(), a.m.view(), a.v.view(), copy ? a.copy.view() : absent(), a.finite.view(), a.g.view(), norm.view(),
       flag.view()},
      {s.learning_rate, s.beta1, s.beta2, s.eps, s.weight_decay, step, s.max_norm}));
}

void check_steps(const Level& level) {
  for (const double max_norm : {0.0, 1.0, 1e6})
    for (const int64_t n : {1, 17, 1003}) {
      SerialRuntime rt;
      Settings s;
      s.max_norm = max_norm;
      Group a(n);
      Random random(4);
      for (int step = 1; step <= 20; ++step) {
        CHECK_OK(run(level.kernel, rt, a, s, step));
        a.exact_step(s, step);
        a.g.normal(random);
      }
      CHECK_CLOSE(a.w, a.exact_w, 1e-5, 1e-6);
      CHECK_CLOSE(a.m, a.exact_m, 1e-5, 1e-7);
      CHECK_CLOSE(a.v, a.exact_v, 1e-5, 1e-9);
      Tensor wanted(DType::bf16, {n});
      for (int64_t i = 0; i < n; ++i) wanted.set(i, a.w.at(i));
      CHECK_SAME(a.copy, wanted);
    }
}

/// The first step moves every weight by the learning rate, whatever the gradient's size; the last steps count exactly.
void check_bias_correction(const Level& level) {
  SerialRuntime rt;
  Settings s;
  s.weight_decay = 0;
  Group a(100);
  const Tensor before = a.w;
  CHECK_OK(run(level.kernel, rt, a, s, 1));
  for (int64_t i = 0; i < 100; ++i) CHECK(std::fabs(std::fabs(a.w.at(i) - before.at(i)) - 1e-2) < 1e-6);
}

void check_skip(const Level& level) {
  SerialRuntime rt;
  Group a(50);
  CHECK_OK(run(level.kernel, rt, a, {}, 1));
  const Group before = a;
  a.g.fill(NAN);
  CHECK_OK(run(level.kernel, rt, a, {}, 2, 0));
  CHECK_SAME(a.w, before.w);
  CHECK_SAME(a.m, before.m);
  CHECK_SAME(a.v, before.v);
  CHECK_SAME(a.copy, before.copy);
  CHECK(a.finite.at(0) == 1);
}

/// One number that is not finite, anywhere, lowers the flag; the lanes behind the last weight do not.
void check_finite(const Level& level) {
  SerialRuntime serial;
  ThreadedRuntime threads(3);
  Settings s;
  for (const int64_t n : {1, 17, 40001})
    for (Runtime* rt : {static_cast<Runtime*>(&serial), static_cast<Runtime*>(&threads)}) {
      Group sound(n);
      s.eps = 0;
      CHECK_OK(run(level.kernel, *rt, sound, s, 1));
      CHECK(sound.finite.at(0) == 1);
      for (const int64_t at : {int64_t{0}, n / 2, n - 1})
        for (const double value : {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY)})
          for (Tensor Group::*of : {&Group::w, &Group::m, &Group::v}) {
            Group a(n);
            (a.*of).set(at, value);
            CHECK_OK(run(level.kernel, *rt, a, {}, 1));
            CHECK(a.finite.at(0) == 0);
          }
    }
}

void check_cuts(const Level& level) {
  SerialRuntime rt;
  Group whole(40000), first(40000), other(40000);
  Settings s;
  s.max_norm = 1;
  CHECK_OK(run(level.kernel, rt, whole, s, 3));
  ThreadedRuntime threads(3);
  CHECK_OK(run(level.kernel, threads, first, s, 3));
  CHECK_SAME(whole.w, first.w);
  CHECK_OK(run(level.kernel, rt, other, s, 3, 1, false));
  CHECK_SAME(whole.w, other.w);
  CHECK_SAME(other.copy, Tensor(DType::bf16, {40000}));
}

void check_refusals(const Level& level) {
  SerialRuntime rt;
  Group a(5), empty(0);
  CHECK_CODE(run(level.kernel, rt, a, {}, 0), config);
  a.g = Tensor(DType::f32, {6});
  CHECK_CODE(run(level.kernel, rt, a, {}, 1), shape);
  CHECK_OK(run(level.kernel, rt, empty, {}, 1));
}

/// The step where weights are bf16 alone.
Status run_bf16(Kernel kernel, Runtime& rt, Group& a, const Tensor& w, const Tensor& key, const Settings& s, double step,
                int ok = 1) {
  const Tensor norm = Tensor(DType::f32, {1}).fill(a.norm()), flag = integers({ok});
  return kernel(make_call(rt,
                          {w.view(), a.m.view(), a.v.view(), a.finite.view(), a.g.view(), norm.view(), flag.view(),
                           key.view()},
                          {s.learning_rate, s.beta1, s.beta2, s.eps, s.weight_decay, step, s.max_norm}));
}

Tensor bf16_of(const Tensor& w) {
  Tensor rounded(DType::bf16, {w.size()});
  for (int64_t i = 0; i < w.size(); ++i) rounded.set(i, w.at(i));
  return rounded;
}

/// What ops.def says, for one weight.
double round_at_random(float x, const std::vector<int32_t>& key, int64_t i) {
  const auto word = [&](int at) { return static_cast<uint32_t>(key[static_cast<size_t>(at)]); };
  const Random4 words = philox({{word(3), static_cast<uint32_t>(i / 8), word(2), 0u}}, word(0), word(1));
  const uint32_t random = words.x[i / 2 % 4] >> (16 * (i % 2)) & 0xffffu;
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = (bits + random) & 0xffff0000u;
  std::memcpy(&x, &bits, 4);
  return x;
}

void check_stochastic(const Level& level, Kernel exact) {
  const std::vector<int32_t> numbers = {-7, 123456789, 5, -1};
  const Tensor key = integers(numbers);
  Settings s;
  s.max_norm = 1;
  for (const int64_t n : {1, 17, 127, 1003, 40001}) {
    SerialRuntime rt;
    ThreadedRuntime threads(3);
    Group f32(n), a(n), b(n);
    const Tensor w = bf16_of(f32.w), again = w;
    for (int64_t i = 0; i < n; ++i) f32.w.set(i, w.at(i));
    Tensor wanted(DType::bf16, {n});
    CHECK_OK(run(exact, rt, f32, s, 3, 1, false));
    for (int64_t i = 0; i < n; ++i) wanted.set(i, round_at_random(static_cast<float>(f32.w.at(i)), numbers, i));
    CHECK_OK(run_bf16(level.kernel, rt, a, w, key, s, 3));
    CHECK_SAME(w, wanted);
    CHECK_SAME(a.m, f32.m);
    CHECK_SAME(a.v, f32.v);
    CHECK_OK(run_bf16(level.kernel, threads, b, again, key, s, 3));
    CHECK_SAME(again, wanted);
  }
}

/// No gradient and no decay, or the flag down: every weight stays. Infinity stays infinity, and NaN NaN.
void check_stochastic_rest(const Level& level) {
  SerialRuntime rt;
  Settings s;
  s.weight_decay = 0;
  Group a(300);
  const Tensor key = integers({1, 2, 3, 4}), w = bf16_of(a.w), before = w;
  a.g.fill(NAN);
  CHECK_OK(run_bf16(level.kernel, rt, a, w, key, s, 1, 0));
  CHECK_SAME(w, before);
  a.g.fill(0);
  CHECK_OK(run_bf16(level.kernel, rt, a, w, key, s, 1));
  CHECK_SAME(w, before);
  CHECK(a.finite.at(0) == 1);
  Tensor strange = w;
  for (int64_t i = 0; i < 300; ++i) strange.set(i, i % 3 == 0 ? INFINITY : i % 3 == 1 ? -INFINITY : NAN);
  CHECK_OK(run_bf16(level.kernel, rt, a, strange, key, s, 1));
  for (int64_t i = 0; i < 300; ++i)
    CHECK(i % 3 == 2 ? std::isnan(strange.at(i)) : strange.at(i) == (i % 3 == 0 ? INFINITY : -INFINITY));
  CHECK(a.finite.at(0) == 0);
  CHECK_CODE(run_bf16(level.kernel, rt, a, w, key, s, 0), config);
  CHECK_CODE(run_bf16(level.kernel, rt, a, w, integers({1, 2, 3}), s, 1), shape);
  a.g = Tensor(DType::f32, {301});
  CHECK_CODE(run_bf16(level.kernel, rt, a, w, key, s, 1), shape);
  Group empty(0);
  CHECK_OK(run_bf16(level.kernel, rt, empty, bf16_of(empty.w), key, s, 1));
}

Kernel kernel_at(const Level& level, std::initializer_list<Level> of) {
  for (const Level& other : of)
    if (std::strcmp(other.name, level.name) == 0) return other.kernel;
  return nullptr;
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(adamw), [](const Level& level) {
    check_steps(level);
    check_bias_correction(level);
    check_skip(level);
    check_finite(level);
    check_cuts(level);
    check_refusals(level);
  });
  for_levels(WS_LEVELS(adamw_stochastic), [](const Level& level) {
    check_stochastic(level, kernel_at(level, WS_LEVELS(adamw)));
    check_stochastic_rest(level);
  });
  return report();
}
