// The fused head: log-probs, KL to a prior and their gradients against double references element by element, equal
// bits alone, in a batch, in two halves and on any number of threads, and what must be refused.
#include <algorithm>

#include "check.h"

using namespace check;

namespace {

struct Setting {
  int64_t tokens, channels, vocabulary;
  double softcap = 0, temperature = 1;
  int64_t prior_channels = 0;  // 0: as many as the policy has
  double direction = 0;
};

struct Problem {
  Setting set;
  Tensor h, w, qh, qw, targets, dlogps, dkl;
  Problem(const Setting& s, DType type, uint64_t seed) : set(s) {
    Random random(seed);
    const int64_t other = s.prior_channels > 0 ? s.prior_channels : s.channels;
    const double size = 2.0 / std::sqrt(static_cast<double>(s.channels)),
                 q_size = 2.0 / std::sqrt(static_cast<double>(other));
    h = random_tensor(random, type, {s.tokens, s.channels});
    w = random_tensor(random, type, {s.vocabulary, s.channels}, size);
    qh = random_tensor(random, type, {s.tokens, other});
    qw = random_tensor(random, type, {s.vocabulary, other}, q_size);
    targets = Tensor(DType::i32, {s.tokens});
    for (int64_t i = 0; i < s.tokens; ++i) targets.set(i, static_cast<double>(random.below(s.vocabulary)));
    dlogps = random_tensor(random, DType::f32, {s.tokens});
    dkl = random_tensor(random, DType::f32, {s.tokens});
  }
};

Tensor row_tensor(const Problem& p) { return Tensor(DType::f32, {p.set.tokens}); }

struct Outputs {
  Tensor logps, kl, lse, qlse, centre, dh, dw;
  explicit Outputs(const Problem& p)
      : logps(row_tensor(p)), kl(logps), lse(logps), qlse(logps), centre(logps), dh(p.h.dtype, p.h.shape),
        dw(DType::f32, p.w.shape) {}
};

struct Kernels {
  Kernel logps, logps_backward, kl, kl_backward;
  bool rounds = false;  // gradients of bf16 logits to bf16
  int64_t alignment = 1;  // where tokens of bf16 may be cut
};

Call logps_call(Runtime& rt, const Problem& p, const Outputs& o) {
  return make_call(rt, {p.h.view(), p.w.view(), p.targets.view(), o.logps.view(), o.lse.view()},
                   {p.set.softcap, p.set.temperature});
}

Call backward_call(Runtime& rt, const Problem& p, const Outputs& o, bool frozen = false) {
  return make_call(rt,
                   {frozen ? absent() : o.dw.view(), p.dlogps.view(), p.h.view(), p.w.view(), p.targets.view(),
                    o.lse.view(), o.dh.view()},
                   {p.set.softcap, p.set.temperature});
}

Call kl_call(Runtime& rt, const Problem& p, const Outputs& o) {
  return make_call(rt,
                   {p.h.view(), p.w.view(), p.qh.view(), p.qw.view(), p.targets.view(), o.logps.view(), o.kl.view(),
                    o.lse.view(), o.qlse.view(), o.centre.view()},
                   {p.set.softcap, p.set.temperature, p.set.direction, 0});
}

Call kl_backward_call(Runtime& rt, const Problem& p, const Outputs& o, bool frozen = false) {
  return make_call(rt,
                   {frozen ? absent() : o.dw.view(), p.dlogps.view(), p.dkl.view(), p.h.view(), p.w.view(), p.qh.view(),
                    p.qw.view(), p.targets.view(), o.centre.view(), o.lse.view(), o.qlse.view(), o.dh.view()},
                   {p.set.softcap, p.set.temperature, p.set.direction, 0});
}

// References ---------------------------------------------------------------------------------------------------------

using Numbers = std::vector<double>;

struct Row {
  Numbers z, slope;
  double lse = 0;
};

Row row_of(const Setting& s, const Tensor& h, const Tensor& w, int64_t i) {
  const int64_t channels = h.shape[1];
  Row r;
  for (int64_t v = 0; v < s.vocabulary; ++v) {
    double x = 0;
    for (int64_t c = 0; c < channels; ++c) x += h.at(i * channels + c) * w.at(v * channels + c);
    const double t = s.softcap > 0 ? std::tanh(x / s.softcap) : 0;
    r.z.push_back((s.softcap > 0 ? s.softcap * t : x) / s.temperature);
    r.slope.push_back((1 - t * t) / s.temperature);
  }
  const double top = *std::max_element(r.z.begin(), r.z.end());
  double sum = 0;
  for (const double z : r.z) sum += std::exp(z - top);
  r.lse = top + std::log(sum);
  return r;
}

struct Reference {
  Numbers logps, lse, kl, qlse, dh, dw;
};

/// Everything at once; the gradients are those of sum(dlogps logps) + with_kl sum(dkl kl).
Reference reference(const Problem& p, bool with_kl) {
  const Setting& s = p.set;
  Reference r;
  r.dh.assign(static_cast<size_t>(s.tokens * s.channels), 0);
  r.dw.assign(static_cast<size_t>(s.vocabulary * s.channels), 0);
  for (int64_t i = 0; i < s.tokens; ++i) {
    const Row a = row_of(s, p.h, p.w, i), b = row_of(s, p.qh, p.qw, i);
    const auto target = static_cast<size_t>(p.targets.at(i));
    double kl = 0;
    for (size_t v = 0; v < a.z.size(); ++v) {
      const double lp = a.z[v] - a.lse, lq = b.z[v] - b.lse;
      kl += s.direction == 0 ? std::exp(lq) * (lq - lp) : std::exp(lp) * (lp - lq);
    }
    r.logps.push_back(a.z[target] - a.lse);
    r.lse.push_back(a.lse);
    r.qlse.push_back(b.lse);
    r.kl.push_back(kl);
    for (size_t v = 0; v < a.z.size(); ++v) {
      const double lp = a.z[v] - a.lse, lq = b.z[v] - b.lse, prob = std::exp(lp);
      double g = p.dlogps.at(i) * ((v == target ? 1.0 : 0.0) - prob);
      if (with_kl) g += p.dkl.at(i) * (s.direction == 0 ? prob - std::exp(lq) : prob * (lp - lq - kl));
      g *= a.slope[v];
      for (int64_t c = 0; c < s.channels; ++c) {
        const int64_t at = static_cast<int64_t>(v) * s.channels + c;
        r.dh[static_cast<size_t>(i * s.channels + c)] += g * p.w.at(at);
        r.dw[static_cast<size_t>(at)] += g * p.h.at(i * s.channels + c);
      }
    }
  }
  return r;
}

double largest(const Numbers& x) {
  double m = 1e-3;
  for (const double v : x) m = std::max(m, std::fabs(v));
  return m;
}

/// The references' gradients against central differences of their own values.
void test_reference() {
  for (const double direction : {0.0, 1.0}) {
    Problem p({3, 4, 5, 3.0, 0.7, 2, direction}, DType::f32, 11);
    const Reference r = reference(p, true);
    const auto loss = [&](const Problem& x) {
      const Reference y = reference(x, true);
      double sum = 0;
      for (size_t i = 0; i < y.logps.size(); ++i)
        sum += y.logps[i] * p.dlogps.at(static_cast<int64_t>(i)) + y.kl[i] * p.dkl.at(static_cast<int64_t>(i));
      return sum;
    };
    const auto agree = [&](Tensor Problem::* field, const Numbers& gradient) {
      for (int64_t i = 0; i < (p.*field).size(); ++i) {
        Problem up = p, down = p;
        (up.*field).set(i, (p.*field).at(i) + 1e-3);
        (down.*field).set(i, (p.*field).at(i) - 1e-3);
        const double step = (up.*field).at(i) - (down.*field).at(i);
        CHECK(std::fabs((loss(up) - loss(down)) / step - gradient[static_cast<size_t>(i)]) < 1e-4);
      }
    };
    agree(&Problem::h, r.dh);
    agree(&Problem::w, r.dw);
  }
}

// Suites -------------------------------------------------------------------------------------------------------------

void against_reference(const Kernels& k, const Setting& s, DType type, uint64_t seed) {
  const Problem p(s, type, seed);
  Outputs o(p), plain(p);
  SerialRuntime rt;
  const bool f32 = type == DType::f32;
  const double fine = 1e-5, round = f32 ? 1e-5 : 4e-3, sum = !f32 && k.rounds ? 1e-2 : fine;
  CHECK_OK(k.logps(logps_call(rt, p, plain)));
  CHECK_OK(k.logps_backward(backward_call(rt, p, plain)));
  CHECK_OK(k.kl(kl_call(rt, p, o)));
  CHECK_OK(k.kl_backward(kl_backward_call(rt, p, o)));
  const Reference a = reference(p, false), b = reference(p, true);
  CHECK_CLOSE(plain.logps, a.logps, 2e-6, 4e-6);
  CHECK_CLOSE(plain.lse, a.lse, 2e-6, 4e-6);
  CHECK_CLOSE(plain.dh, a.dh, round, sum * largest(a.dh));
  CHECK_CLOSE(plain.dw, a.dw, fine, sum * largest(a.dw));
  CHECK_SAME(o.logps, plain.logps);
  CHECK_SAME(o.lse, plain.lse);
  CHECK_CLOSE(o.kl, b.kl, 4e-6, 4e-6);
  CHECK_CLOSE(o.qlse, b.qlse, 2e-6, 4e-6);
  CHECK_CLOSE(o.dh, b.dh, round, sum * largest(b.dh));
  CHECK_CLOSE(o.dw, b.dw, fine, sum * largest(b.dw));
}

void test_values(const Kernels& k) {
  uint64_t seed = 1;
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const double direction : {0.0, 1.0}) {
      against_reference(k, {5, 7, 3, 0, 1, 0, direction}, type, ++seed);
      against_reference(k, {9, 16, 1, 0, 1, 0, direction}, type, ++seed);
      against_reference(k, {33, 24, 64, 0, 1, 40, direction}, type, ++seed);
      against_reference(k, {64, 40, 517, 0, 0.6, 8, direction}, type, ++seed);
      against_reference(k, {20, 33, 400, 3, 1.7, 17, direction}, type, ++seed);
      against_reference(k, {3, 128, 2049, 30, 1, 0, direction}, type, ++seed);
      against_reference(k, {1, 1, 1025, 0, 1, 3, direction}, type, ++seed);
    }
  }
  // More than one chunk of tokens, and of the vocabulary.
  against_reference(k, {1100, 4, 1030, 0, 1, 0, 0}, DType::f32, ++seed);
  against_reference(k, {4100, 3, 9, 0, 1, 0, 1}, DType::bf16, ++seed);
}

Problem slice(const Problem& p, int64_t first, int64_t count) {
  Problem s = p;
  s.set.tokens = count;
  for (Tensor Problem::* field : {&Problem::h, &Problem::qh, &Problem::targets, &Problem::dlogps, &Problem::dkl}) {
    const Tensor& t = p.*field;
    std::vector<int64_t> shape = t.shape;
    shape[0] = count;
    Tensor part(t.dtype, shape);
    if (count > 0) std::memcpy(part.bytes.data(), t.rows(first, count).data, part.bytes.size());
    s.*field = part;
  }
  return s;
}

bool same_rows(const Tensor& whole, int64_t first, const Tensor& part) {
  return same_bytes(whole.rows(first, part.shape[0]), part.view());
}

/// Rows alone and parts of a batch have the bits of the batch; two halves leave the same bits in dw.
void test_batches(const Kernels& k, const Setting& set, DType type) {
  const Problem p(set, type, 3);
  SerialRuntime rt;
  Outputs all(p), all_kl(p);
  Random random(6);
  all.dw.normal(random);
  all_kl.dw = all.dw;
  const Tensor before = all.dw;
  CHECK_OK(k.logps(logps_call(rt, p, all)));
  CHECK_OK(k.logps_backward(backward_call(rt, p, all)));
  CHECK_OK(k.kl(kl_call(rt, p, all_kl)));
  CHECK_OK(k.kl_backward(kl_backward_call(rt, p, all_kl)));
  CHECK(!same_bits(all.dw, before));

  Tensor dw = before, dw_kl = before;
  const int64_t alignment = type == DType::bf16 ? k.alignment : 1;
  const int64_t middle = std::min(set.tokens, (set.tokens / 2 + alignment) / alignment * alignment);
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, middle}, {middle, set.tokens - middle}}) {
    const Problem part = slice(p, first, count);
    Outputs o(part);
    o.dw = dw;
    CHECK_OK(k.logps(logps_call(rt, part, o)));
    CHECK_OK(k.logps_backward(backward_call(rt, part, o)));
    dw = o.dw;
    CHECK(same_rows(all.logps, first, o.logps) && same_rows(all.lse, first, o.lse) && same_rows(all.dh, first, o.dh));
    o.dw = dw_kl;
    CHECK_OK(k.kl(kl_call(rt, part, o)));
    CHECK_OK(k.kl_backward(kl_backward_call(rt, part, o)));
    dw_kl = o.dw;
    CHECK(same_rows(all_kl.kl, first, o.kl) && same_rows(all_kl.qlse, first, o.qlse) &&
          same_rows(all_kl.dh, first, o.dh));
  }
  CHECK_SAME(dw, all.dw);
  CHECK_SAME(dw_kl, all_kl.dw);

  for (const int64_t i : {int64_t{0}, set.tokens / 2, set.tokens - 1}) {
    const Problem one = slice(p, i, 1);
    Outputs o(one);
    CHECK_OK(k.logps(logps_call(rt, one, o)));
    CHECK_OK(k.logps_backward(backward_call(rt, one, o, true)));
    CHECK(same_rows(all.logps, i, o.logps) && same_rows(all.lse, i, o.lse) && same_rows(all.dh, i, o.dh));
    CHECK_OK(k.kl(kl_call(rt, one, o)));
    CHECK_OK(k.kl_backward(kl_backward_call(rt, one, o, true)));
    CHECK(same_rows(all_kl.kl, i, o.kl) && same_rows(all_kl.dh, i, o.dh));
  }

  CHECK(same_on_threads(k.logps, logps_call(rt, p, all), all.logps, all.logps));
  CHECK(same_on_threads(k.logps_backward, backward_call(rt, p, all), all.dw, before));
  CHECK(same_on_threads(k.logps_backward, backward_call(rt, p, all), all.dh, all.dh));
  CHECK(same_on_threads(k.kl, kl_call(rt, p, all_kl), all_kl.kl, all_kl.kl));
  CHECK(same_on_threads(k.kl_backward, kl_backward_call(rt, p, all_kl), all_kl.dw, before));
  CHECK(same_on_threads(k.kl_backward, kl_backward_call(rt, p, all_kl), all_kl.dh, all_kl.dh));
}

/// Logits that are exact in f32, with an offset of 1e4 that must cost nothing.
void test_offset(const Kernels& k) {
  for (const double offset : {0.0, 1e4, -1e4}) {
    Problem p({6, 2, 700, 0, 1, 2, 0}, DType::f32, 5);
    Random random(8);
    for (int64_t i = 0; i < p.set.tokens; ++i) {
      p.h.set(2 * i, offset == 0 ? 0 : 1);
      p.h.set(2 * i + 1, static_cast<double>(random.below(9) - 4) / 4);
    }
    for (int64_t v = 0; v < p.set.vocabulary; ++v) {
      p.w.set(2 * v, offset);
      p.w.set(2 * v + 1, static_cast<double>(random.below(17) - 8) / 2);
    }
    p.qh = p.h;
    p.qw = p.w;
    for (int64_t v = 0; v < p.set.vocabulary; ++v) p.qw.set(2 * v, 0);
    for (const double direction : {0.0, 1.0}) {
      p.set.direction = direction;
      p.qw.set(1, p.w.at(1));
      Outputs o(p);
      SerialRuntime rt;
      const Reference r = reference(p, true);
      CHECK_OK(k.logps(logps_call(rt, p, o)));
      CHECK_CLOSE(o.logps, r.logps, 5e-7, 5e-7);
      CHECK_OK(k.kl(kl_call(rt, p, o)));
      CHECK_CLOSE(o.logps, r.logps, 5e-7, 5e-7);
      // The same distribution: the offset is all that differs.
      CHECK_CLOSE(o.kl, Numbers(6, 0.0), 0, 5e-7);
      p.qw.set(1, 30);
      CHECK_OK(k.kl(kl_call(rt, p, o)));
      CHECK_CLOSE(o.kl, reference(p, true).kl, 1e-6, 1e-6);
    }
  }
}

/// A prior equal to the policy: KL and its gradient vanish.
void test_equal_prior(const Kernels& k) {
  for (const double direction : {0.0, 1.0}) {
    Problem p({8, 24, 1500, 0, 1, 24, direction}, DType::f32, 5);
    p.qh = p.h;
    p.qw = p.w;
    p.dlogps.fill(0);
    Outputs o(p);
    SerialRuntime rt;
    CHECK_OK(k.kl(kl_call(rt, p, o)));
    CHECK_CLOSE(o.kl, Numbers(8, 0.0), 0, 0);
    CHECK_OK(k.kl_backward(kl_backward_call(rt, p, o)));
    CHECK_CLOSE(o.dh, Numbers(static_cast<size_t>(o.dh.size()), 0.0), 0, 0);
  }
}

/// Rows without weight get exact zeros and change no other bit of dw; a NaN stays in its row of dh.
void test_zero_rows(const Kernels& k) {
  Problem p({40, 24, 1300}, DType::f32, 9);
  for (int64_t i = 0; i < 40; i += 2) p.dlogps.set(i, 0);
  SerialRuntime rt;
  Outputs o(p);
  CHECK_OK(k.logps(logps_call(rt, p, o)));
  CHECK_OK(k.logps_backward(backward_call(rt, p, o)));
  bool zero = true;
  for (int64_t i = 0; i < 40; i += 2)
    for (int64_t c = 0; c < 24; ++c) zero = zero && o.dh.at(i * 24 + c) == 0;
  CHECK(zero);
  Problem compact = slice(p, 0, 20);
  for (int64_t i = 0; i < 20; ++i) {
    for (int64_t c = 0; c < 24; ++c) compact.h.set(i * 24 + c, p.h.at((2 * i + 1) * 24 + c));
    compact.targets.set(i, p.targets.at(2 * i + 1));
    compact.dlogps.set(i, p.dlogps.at(2 * i + 1));
  }
  Outputs few(compact);
  CHECK_OK(k.logps(logps_call(rt, compact, few)));
  CHECK_OK(k.logps_backward(backward_call(rt, compact, few)));
  CHECK_SAME(few.dw, o.dw);

  Problem bad = p;
  bad.h.set(3 * 24 + 5, std::nan(""));
  Outputs n(bad);
  CHECK_OK(k.logps(logps_call(rt, bad, n)));
  CHECK_OK(k.logps_backward(backward_call(rt, bad, n, true)));
  CHECK(std::isnan(n.logps.at(3)) && std::isnan(n.lse.at(3)) && std::isnan(n.dh.at(3 * 24)));
  CHECK(n.logps.at(2) == o.logps.at(2) && n.logps.at(4) == o.logps.at(4) && n.dh.at(5 * 24) == o.dh.at(5 * 24));
}

void test_refusals(const Kernels& k) {
  const Problem good({4, 8, 10, 0, 1, 3, 0}, DType::f32, 1);
  SerialRuntime rt;
  const auto refused = [&](const Problem& p, Code code) {
    Outputs o(p);
    CHECK(k.logps(logps_call(rt, p, o)).code == code);
    CHECK(k.logps_backward(backward_call(rt, p, o)).code == code);
    CHECK(k.kl(kl_call(rt, p, o)).code == code);
    CHECK(k.kl_backward(kl_backward_call(rt, p, o)).code == code);
  };
  refused(good, Code::ok);
  for (const double target : {-1.0, 10.0, 2147483647.0}) {
    Problem p = good;
    p.targets.set(2, target);
    refused(p, Code::shape);
  }
  for (const double temperature : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    Problem p = good;
    p.set.temperature = temperature;
    refused(p, Code::config);
  }
  Problem capped = good;
  capped.set.softcap = -1;
  refused(capped, Code::config);
  Problem shorter = good;
  shorter.targets = Tensor(DType::i32, {3});
  refused(shorter, Code::shape);
  Problem wide = good;
  wide.w = Tensor(DType::f32, {10, 9});
  refused(wide, Code::shape);

  Outputs o(good);
  Problem direction = good;
  direction.set.direction = 0.5;
  CHECK_CODE(k.kl(kl_call(rt, direction, o)), config);
  Problem prior = good;
  prior.qw = Tensor(DType::f32, {11, 3});
  CHECK_CODE(k.kl(kl_call(rt, prior, o)), shape);
  prior.qw = Tensor(DType::f32, {10, 4});
  CHECK_CODE(k.kl(kl_call(rt, prior, o)), shape);
  o.dw = Tensor(DType::f32, {10, 7});
  CHECK_CODE(k.logps_backward(backward_call(rt, good, o)), shape);
  CHECK_CODE(k.kl_backward(kl_backward_call(rt, good, o)), shape);
  SerialRuntime poor;
  poor.short_of_memory = true;
  CHECK_CODE(k.logps(logps_call(poor, good, o)), oom);

  const Problem none({0, 8, 10}, DType::f32, 1);
  refused(none, Code::ok);
}

}  // namespace

int main() {
  test_reference();
  const struct {
    bool available;
    Kernels kernels;
  } levels[] = {
      {has_v2(), {v2::head_logprobs, v2::head_logprobs_backward, v2::head_kl, v2::head_kl_backward}},
      {has_avx2(), {avx2::head_logprobs, avx2::head_logprobs_backward, avx2::head_kl, avx2::head_kl_backward}},
      {has_avx512(),
       {avx512::head_logprobs, avx512::head_logprobs_backward, avx512::head_kl, avx512::head_kl_backward}},
      {has_avx512bf16(),
       {avx512bf16::head_logprobs, avx512bf16::head_logprobs_backward, avx512bf16::head_kl,
        avx512bf16::head_kl_backward, true}},
      {has_amx(), {amx::head_logprobs, amx::head_logprobs_backward, amx::head_kl, amx::head_kl_backward, true, 32}},
  };
  for (const auto& level : levels) {
    if (!level.available) continue;
    test_values(level.kernels);
    for (const DType type : {DType::f32, DType::bf16}) {
      test_batches(level.kernels, {37, 40, 70, 5, 0.8, 24, 1}, type);
      test_batches(level.kernels, {30, 16, 1600, 0, 1, 16, 0}, type);
      test_batches(level.kernels, {1101, 8, 1025, 0, 1, 8, 1}, type);
    }
    test_offset(level.kernels);
    test_equal_prior(level.kernels);
    test_zero_rows(level.kernels);
    test_refusals(level.kernels);
  }
  return report();
}
