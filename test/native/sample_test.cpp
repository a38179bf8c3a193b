// The random generator and sampling from the head: exact sets of survivors, the drawn ids against a double-precision
// inverse CDF, log-probs that are the trainer's bit for bit, edges that were bugs elsewhere, and what must be refused.
#include <algorithm>

#include "../../native/core/rng.h"
#include "check.h"

using namespace check;

namespace {

struct Options {
  double softcap = 0, temperature = 1, top_k = 0, top_p = 1, min_p = 0, penalty = 1;
};

struct Result {
  Tensor ids, logps, sampled;
  explicit Result(int64_t rows) : ids(DType::i32, {rows}), logps(DType::f32, {rows}), sampled(DType::f32, {rows}) {}
};

struct Kernels {
  Kernel sample, logps;
};

Call sample_call(Runtime& rt, const Tensor& h, const Tensor& w, const Tensor& keys, const Result& r, const Options& o,
                 const View& seen = absent()) {
  return make_call(rt, {h.view(), w.view(), keys.view(), seen, r.ids.view(), r.logps.view(), r.sampled.view()},
                   {o.softcap, o.temperature, o.top_k, o.top_p, o.min_p, o.penalty});
}

Tensor make_keys(int64_t rows, int32_t seed, int32_t first = 0) {
  Tensor keys(DType::i32, {rows, 4});
  for (int64_t i = 0; i < rows; ++i) {
    keys.as<int32_t>()[4 * i] = seed;
    keys.as<int32_t>()[4 * i + 1] = -seed;
    keys.as<int32_t>()[4 * i + 2] = 7;
    keys.as<int32_t>()[4 * i + 3] = first + static_cast<int32_t>(i);
  }
  return keys;
}

/// Rows that all have these logits exactly: one channel, h = 1.
struct Logits {
  Tensor h, w;
  Logits(const std::vector<float>& logits, int64_t rows)
      : h(DType::f32, {rows, 1}), w(DType::f32, {static_cast<int64_t>(logits.size()), 1}) {
    h.fill(1);
    for (size_t i = 0; i < logits.size(); ++i) w.set(static_cast<int64_t>(i), logits[i]);
  }
};

void test_generator() {
  const Random4 zeros = philox({{0, 0, 0, 0}}, 0, 0);
  CHECK(zeros.x[0] == 0x6627e8d5u && zeros.x[1] == 0xe169c58du && zeros.x[2] == 0xbc57ac4cu &&
        zeros.x[3] == 0x9b00dbd8u);
  const uint32_t all = 0xffffffffu;
  const Random4 ones = philox({{all, all, all, all}}, all, all);
  CHECK(ones.x[0] == 0x408f276du && ones.x[1] == 0x41c83b0eu && ones.x[2] == 0xa20bc7c6u && ones.x[3] == 0x6d5451fdu);
  const Random4 pi = philox({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0xa4093822u, 0x299f31d0u);
  CHECK(pi.x[0] == 0xd16cfe09u && pi.x[1] == 0x94fdcceb && pi.x[2] == 0x5001e420u && pi.x[3] == 0x24126ea1u);
  const Random4 named = random4(1, 2, 3, (uint64_t{5} << 32) | 4), spelt = philox({{4, 5, 3, 0}}, 1, 2);
  CHECK(std::memcmp(&named, &spelt, sizeof named) == 0);
  CHECK(uniform53({{0, 0, 0, 0}}) == 0.0 && uniform53({{all, all, 0, 0}}) == 1.0 - 0x1p-53);
  double sum = 0, squares = 0;
  for (int i = 0; i < 20000; ++i) {
    const double u = uniform53(random4(9, 9, 1, static_cast<uint64_t>(i)));
    sum += u;
    squares += u * u;
  }
  CHECK(std::fabs(sum / 20000 - 0.5) < 0.01 && std::fabs(squares / 20000 - 1.0 / 3) < 0.01);
}

// The reference ------------------------------------------------------------------------------------------------------

/// Probabilities after temperature, top-k, top-p and min-p; zero for what was cut. Close calls of top-p, where rounding
/// decides, are the caller's to avoid.
std::vector<double> distribution(const std::vector<float>& logits, const Options& o) {
  const size_t n = logits.size();
  std::vector<double> z(n), p(n, 0.0);
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) {
    const double x = logits[i];
    z[i] = (o.softcap > 0 ? o.softcap * std::tanh(x / o.softcap) : x) / o.temperature;
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  if (o.top_k > 0 && o.top_k < static_cast<double>(n)) order.resize(static_cast<size_t>(o.top_k));
  double total = 0, mass = 0;
  for (const size_t i : order) total += std::exp(z[i] - z[order[0]]);
  size_t kept = 0;
  while (kept < order.size() && (kept == 0 || mass < o.top_p * total)) mass += std::exp(z[order[kept++]] - z[order[0]]);
  if (o.top_p < 1) order.resize(kept);
  while (std::exp(z[order.back()] - z[order[0]]) < o.min_p) order.pop_back();
  total = 0;
  for (const size_t i : order) total += std::exp(z[i] - z[order[0]]);
  for (const size_t i : order) p[i] = std::exp(z[i] - z[order[0]]) / total;
  return p;
}

/// Draws `rows` times and compares every id with the inverse CDF of the reference, and both log-probs.
void against_reference(const Kernels& k, const std::vector<float>& logits, const Options& o, int32_t seed,
                       int64_t rows = 300) {
  const Logits row(logits, rows);
  const Tensor keys = make_keys(rows, seed);
  Result r(rows);
  SerialRuntime rt;
  CHECK_OK(k.sample(sample_call(rt, row.h, row.w, keys, r, o)));
  const std::vector<double> p = distribution(logits, o), all = distribution(logits, {o.softcap, 1, 0, 1, 0});
  int64_t wrong = 0, far = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* key = keys.as<int32_t>() + 4 * i;
    const double u = uniform53(random4(static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1]),
                                       static_cast<uint32_t>(key[2]), static_cast<uint32_t>(key[3])));
    const int32_t id = r.ids.as<int32_t>()[i];
    if (id < 0 || id >= static_cast<int32_t>(p.size()) || p[static_cast<size_t>(id)] == 0) {
      ++wrong;
      continue;
    }
    double before = 0;
    for (int32_t v = 0; v < id; ++v) before += p[static_cast<size_t>(v)];
    const auto at = static_cast<size_t>(id);
    if (u < before - 1e-5 || u > before + p[at] + 1e-5) ++wrong;
    if (std::fabs(r.sampled.at(i) - std::log(p[at])) > 1e-5 * (1 + std::fabs(std::log(p[at])))) ++far;
    if (std::fabs(r.logps.at(i) - std::log(all[at])) > 1e-5 * (1 + std::fabs(std::log(all[at])))) ++far;
  }
  CHECK_SAYING(wrong == 0, std::to_string(wrong) + " ids differ from the inverse CDF");
  CHECK_SAYING(far == 0, std::to_string(far) + " log-probs are off");
}

std::vector<float> random_logits(int64_t n, double deviation, uint64_t seed) {
  Random random(seed);
  std::vector<float> x;
  for (int64_t i = 0; i < n; ++i) x.push_back(static_cast<float>(deviation * random.normal()));
  return x;
}

void test_distributions(const Kernels& k) {
  const Options settings[] = {
      {},  {0, 0.7},  {0, 1.5, 5},  {0, 1, 0, 0.8},  {0, 1, 0, 1, 0.1}, {0, 0.9, 20, 0.7, 0.05}, {5, 1.3, 7, 0.9, 0.02},
      {5}, {0, 1, 1}, {0, 1, 0, 0}, {0, 1, 0, 1, 1}, {0, 1, 1e9, 0.5}};
  for (const int64_t n : {1, 2, 7, 64, 513, 1500, 5000}) {
    int32_t seed = static_cast<int32_t>(n);
    for (const Options& o : settings)
      against_reference(k, random_logits(n, 2.5, static_cast<uint64_t>(n)), o, ++seed, n > 1000 ? 60 : 300);
  }
  against_reference(k, random_logits(300, 40, 5), {0, 1, 0, 0.999}, 1);  // most masses are zero in f32
  against_reference(k, random_logits(40, 3, 5), {0, 1, 0, 0.9}, 2, 2000);
}

/// The set of ids that occur in many draws from a flat set of survivors.
std::vector<int32_t> seen_ids(const Kernels& k, const std::vector<float>& logits, const Options& o) {
  const int64_t rows = 600;
  const Logits row(logits, rows);
  Result r(rows);
  SerialRuntime rt;
  CHECK_OK(k.sample(sample_call(rt, row.h, row.w, make_keys(rows, 3), r, o)));
  std::vector<int32_t> ids(r.ids.as<int32_t>(), r.ids.as<int32_t>() + rows);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

/// Ties at the boundary go to the lower index, and never let more than k through.
void test_ties(const Kernels& k) {
  using Ids = std::vector<int32_t>;
  const std::vector<float> tied = {1, 3, 2, 3, 2, 2, -5, 2};
  CHECK(seen_ids(k, tied, {0, 1, 1}) == Ids({1}));
  CHECK(seen_ids(k, tied, {0, 1, 2}) == Ids({1, 3}));
  CHECK(seen_ids(k, tied, {0, 1, 3}) == Ids({1, 2, 3}));
  CHECK(seen_ids(k, tied, {0, 1, 4}) == Ids({1, 2, 3, 4}));
  CHECK(seen_ids(k, tied, {0, 1, 6}) == Ids({1, 2, 3, 4, 5, 7}));
  const std::vector<float> flat(8, 0.25f);
  CHECK(seen_ids(k, flat, {0, 1, 0, 0.5}) == Ids({0, 1, 2, 3}));
  CHECK(seen_ids(k, flat, {0, 1, 0, 0.51}) == Ids({0, 1, 2, 3, 4}));
  CHECK(seen_ids(k, flat, {0, 1, 0, 0.125}) == Ids({0}));
  CHECK(seen_ids(k, flat, {0, 1, 4, 0.5}) == Ids({0, 1}));  // top-p is a share of what top-k left
  CHECK(seen_ids(k, flat, {0, 1, 0, 1, 1}) == Ids({0, 1, 2, 3, 4, 5, 6, 7}));
  CHECK(seen_ids(k, {0.0f, -0.0f, -1}, {0, 1, 1}) == Ids({0}));
  CHECK(seen_ids(k, {-1, -0.0f, 0.0f}, {0, 1, 1}) == Ids({1}));
  CHECK(seen_ids(k, {-1, -0.0f, 0.0f}, {0, 0}) == Ids({1}));
  CHECK(seen_ids(k, tied, {0, 0}) == Ids({1}));
  std::vector<float> many(5000, -1.0f);
  for (const size_t i : {size_t{4097}, size_t{12}, size_t{2500}, size_t{4999}}) many[i] = 1.0f;
  CHECK(seen_ids(k, many, {0, 1, 3}) == Ids({12, 2500, 4097}));
  CHECK(seen_ids(k, many, {0, 1, 0, 1, 0.5}) == Ids({12, 2500, 4097, 4999}));
  // Equal halves: more than the first half of equal masses is never kept.
  const std::vector<float> wide(6000, 0.5f);
  const Ids half = seen_ids(k, wide, {0, 1, 0, 0.01});
  CHECK(half.back() < 60 && half.size() == 60);
}

void test_edges(const Kernels& k) {
  SerialRuntime rt;
  const float inf = HUGE_VALF, nan = std::nanf("");
  for (const Options& o : {Options{}, Options{0, 0}, Options{0, 1, 3, 0.9, 0.1}, Options{0, 0.5}}) {
    for (const std::vector<float>& bad :
         {std::vector<float>{0, nan, 1}, {nan, nan, nan}, {0, inf, 1}, {-inf, -inf, -inf}}) {
      const Logits row(bad, 2);
      Result r(2);
      CHECK_OK(k.sample(sample_call(rt, row.h, row.w, make_keys(2, 1), r, o)));
      CHECK(r.ids.at(0) == -1 && r.ids.at(1) == -1 && std::isnan(r.logps.at(0)) && std::isnan(r.sampled.at(1)));
    }
    // Impossible tokens are never drawn, whatever surrounds them.
    std::vector<float> masked(1200, -inf);
    masked[1100] = 2;
    masked[1101] = 1;
    const Logits row(masked, 50);
    Result r(50);
    CHECK_OK(k.sample(sample_call(rt, row.h, row.w, make_keys(50, 1), r, o)));
    bool good = true;
    for (int64_t i = 0; i < 50; ++i)
      good = good && (r.ids.at(i) == 1100 || r.ids.at(i) == 1101) && r.logps.at(i) < 0 && r.logps.at(i) > -2;
    CHECK(good);
  }
  // The best token has log-prob of the untruncated model under argmax, and certainty under its own distribution.
  const Logits two({0, 0}, 1);
  Result r(1);
  CHECK_OK(k.sample(sample_call(rt, two.h, two.w, make_keys(1, 1), r, {0, 0})));
  CHECK(r.ids.at(0) == 0 && std::fabs(r.logps.at(0) + std::log(2.0)) < 1e-6 && r.sampled.at(0) == 0);
  const Tensor none(DType::f32, {0, 1});
  CHECK_OK(k.sample(sample_call(rt, none, two.w, Tensor(DType::i32, {0, 4}), Result(0), {})));
}

/// The sampler's log-probs are the trainer's, bit for bit; rows do not depend on their neighbours or on threads.
void test_bits(const Kernels& k, int64_t rows, int64_t channels, int64_t vocabulary, DType type) {
  Random random(2);
  const Tensor h = random_tensor(random, type, {rows, channels});
  const Tensor w = random_tensor(random, type, {vocabulary, channels}, 2.0 / std::sqrt(static_cast<double>(channels)));
  const Tensor keys = make_keys(rows, 12);
  SerialRuntime rt;
  for (const Options& o : {Options{}, Options{0, 0.7}, Options{4, 1.4}, Options{0, 1, 10, 0.9, 0.01}, Options{3, 0}}) {
    Result r(rows), trained(rows), tempered(rows);
    CHECK_OK(k.sample(sample_call(rt, h, w, keys, r, o)));
    Tensor lse(DType::f32, {rows});
    CHECK_OK(
        k.logps(make_call(rt, {h.view(), w.view(), r.ids.view(), trained.logps.view(), lse.view()}, {o.softcap, 1})));
    CHECK_SAME(r.logps, trained.logps);
    if (o.temperature > 0 && o.top_k == 0) {
      CHECK_OK(k.logps(make_call(rt, {h.view(), w.view(), r.ids.view(), tempered.logps.view(), lse.view()},
                                 {o.softcap, o.temperature})));
      CHECK_SAME(r.sampled, tempered.logps);
    }
    CHECK(same_on_threads(k.sample, sample_call(rt, h, w, keys, r, o), r.ids, r.ids));
    CHECK(same_on_threads(k.sample, sample_call(rt, h, w, keys, r, o), r.sampled, r.sampled));
    for (const int64_t i : {int64_t{0}, rows - 1}) {
      Result one(1);
      CHECK_OK(k.sample(make_call(
          rt,
          {h.rows(i, 1), w.view(), keys.rows(i, 1), absent(), one.ids.view(), one.logps.view(), one.sampled.view()},
          {o.softcap, o.temperature, o.top_k, o.top_p, o.min_p, o.penalty})));
      CHECK(one.ids.at(0) == r.ids.at(i) && same_bytes(one.logps.view(), r.logps.rows(i, 1)) &&
            same_bytes(one.sampled.view(), r.sampled.rows(i, 1)));
    }
  }
}

/// A penalty is the model with these logits changed, but for the log-probs of the model itself.
void test_penalty(const Kernels& k) {
  SerialRuntime rt;
  const int64_t rows = 40;
  for (const int64_t n : {7, 1500, 5000}) {
    const std::vector<float> logits = random_logits(n, 2.5, 11);
    const int32_t far = static_cast<int32_t>(n) - 1;
    Tensor seen(DType::i32, {rows, 4});
    for (int64_t i = 0; i < rows; ++i) {
      const int32_t ids[] = {-1, 0, 3, far};
      for (int64_t j = 0; j < 4; ++j) seen.as<int32_t>()[4 * i + j] = ids[j];
    }
    for (const Options& o : {Options{0, 1, 0, 1, 0, 1.7}, Options{0, 0.8, 5, 0.9, 0.01, 0.3}, Options{0, 0, 0, 1, 0, 9}}) {
      std::vector<float> changed = logits;
      const auto penalty = static_cast<float>(o.penalty);
      for (const int32_t id : {0, 3, far}) {
        float& x = changed[static_cast<size_t>(id)];
        x = x < 0 ? x * penalty : x / penalty;
      }
      const Logits row(logits, rows), other(changed, rows);
      const Tensor keys = make_keys(rows, 5);
      Result r(rows), want(rows);
      CHECK_OK(k.sample(sample_call(rt, row.h, row.w, keys, r, o, seen.view())));
      Options plain = o;
      plain.penalty = 1;
      CHECK_OK(k.sample(sample_call(rt, other.h, other.w, keys, want, plain)));
      CHECK_SAME(r.ids, want.ids);
      CHECK_SAME(r.sampled, want.sampled);
      Tensor logps(DType::f32, {rows}), lse(DType::f32, {rows});
      CHECK_OK(k.logps(make_call(rt, {row.h.view(), row.w.view(), r.ids.view(), logps.view(), lse.view()}, {0, 1})));
      CHECK_SAME(r.logps, logps);
      // Without effect: a penalty of 1, and no ids.
      CHECK_OK(k.sample(sample_call(rt, row.h, row.w, keys, r, plain, seen.view())));
      CHECK_OK(k.sample(sample_call(rt, row.h, row.w, keys, want, o)));
      CHECK_SAME(r.ids, want.ids);
      CHECK_SAME(r.sampled, want.sampled);
    }
  }
  const Logits row({1, 2, 3}, 1);
  const std::vector<std::vector<int32_t>> wrong = {{0, 3}, {-2, 0}, {1, 1}, {2, 1}, {0, -1}};
  for (const std::vector<int32_t>& ids : wrong) {
    Tensor seen(DType::i32, {1, 2});
    for (size_t j = 0; j < 2; ++j) seen.as<int32_t>()[j] = ids[j];
    Result r(1);
    CHECK_CODE(k.sample(sample_call(rt, row.h, row.w, make_keys(1, 1), r, {0, 1, 0, 1, 0, 2}, seen.view())), shape);
  }
  const Tensor two(DType::i32, {2, 1}), line(DType::i32, {1});
  for (const Tensor* seen : {&two, &line})
    CHECK_CODE(k.sample(sample_call(rt, row.h, row.w, make_keys(1, 1), Result(1), {}, seen->view())), shape);
}

void test_refusals(const Kernels& k) {
  const Logits row({1, 2, 3}, 2);
  SerialRuntime rt;
  const auto config = [&](const Options& o) {
    CHECK_CODE(k.sample(sample_call(rt, row.h, row.w, make_keys(2, 1), Result(2), o)), config);
  };
  const double nan = std::nan("");
  for (const double t : {-1.0, 1e-9, HUGE_VAL, nan}) config({0, t});
  for (const double top_k : {-1.0, 1.5, nan}) config({0, 1, top_k});
  for (const double p : {-0.1, 1.1, nan}) config({0, 1, 0, p});
  for (const double p : {-0.1, 1.1, nan}) config({0, 1, 0, 1, p});
  for (const double cap : {-0.1, HUGE_VAL, nan}) config({cap});
  for (const double penalty : {-1.0, 0.0, 1e7, HUGE_VAL, nan}) config({0, 1, 0, 1, 0, penalty});
  CHECK_CODE(k.sample(sample_call(rt, row.h, row.w, make_keys(3, 1), Result(2), {})), shape);
  CHECK_CODE(k.sample(sample_call(rt, row.h, row.w, make_keys(2, 1), Result(3), {})), shape);
  CHECK_CODE(k.sample(sample_call(rt, row.h, Tensor(DType::f32, {3, 2}), make_keys(2, 1), Result(2), {})), shape);
  CHECK_CODE(k.sample(sample_call(rt, row.h, Tensor(DType::f32, {0, 1}), make_keys(2, 1), Result(2), {})), shape);
  SerialRuntime poor;
  poor.short_of_memory = true;
  CHECK_CODE(k.sample(sample_call(poor, row.h, row.w, make_keys(2, 1), Result(2), {})), oom);
}

}  // namespace

int main() {
  test_generator();
  const struct {
    bool available;
    Kernels kernels;
  } levels[] = {
      {has_v2(), {v2::head_sample, v2::head_logprobs}},
      {has_avx2(), {avx2::head_sample, avx2::head_logprobs}},
      {has_avx512(), {avx512::head_sample, avx512::head_logprobs}},
      {has_avx512bf16(), {avx512bf16::head_sample, avx512bf16::head_logprobs}},
      {has_amx(), {amx::head_sample, amx::head_logprobs}},
  };
  for (const auto& level : levels) {
    if (!level.available) continue;
    test_distributions(level.kernels);
    test_ties(level.kernels);
    test_edges(level.kernels);
    for (const DType type : {DType::f32, DType::bf16}) {
      test_bits(level.kernels, 9, 24, 70, type);
      test_bits(level.kernels, 300, 8, 1600, type);
      test_bits(level.kernels, 3, 40, 5003, type);
    }
    test_penalty(level.kernels);
    test_refusals(level.kernels);
  }
  return report();
}
