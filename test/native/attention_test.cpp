// Attention forward and backward: against double references element by element, equal bits alone, packed and on any
// number of threads, and what must be refused. Decoding is in attention_decode_test.cpp.
#include <algorithm>

#include "attention_batch.h"

using namespace check;

namespace {

// References ---------------------------------------------------------------------------------------------------------

struct Reference {
  std::vector<double> o, lse, dq, dk, dv;
};

std::vector<double> numbers(const Tensor& t) {
  std::vector<double> x;
  for (int64_t i = 0; i < t.size(); ++i) x.push_back(t.at(i));
  return x;
}

double unrounded(double x) { return x; }
double rounded(double x) { return to_float(to_bf16(static_cast<float>(x))); }

/// `store` is what happens to numbers that a plain implementation keeps in tensors.
Reference reference(const Batch& b, double (*store)(double) = unrounded) {
  const Setting& s = b.set;
  const int64_t n = b.layout.tokens, group = s.heads / s.kv_heads, d = s.dim;
  const std::vector<double> all_q = numbers(b.q), all_k = numbers(b.k), all_v = numbers(b.v), all_dout = numbers(b.dout);
  Reference r;
  r.o.assign(static_cast<size_t>(n * s.heads * d), 0);
  r.dq = r.o;
  r.lse.assign(static_cast<size_t>(n * s.heads), 0);
  r.dk.assign(static_cast<size_t>(n * s.kv_heads * d), 0);
  r.dv = r.dk;
  for (int64_t i = 0; i < n; ++i) {
    const std::vector<int64_t> keys = b.layout.seen(i, static_cast<int64_t>(s.window));
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t row = (i * s.heads + h) * d;
      std::vector<double> z(keys.size()), slope(keys.size(), 1.0);
      double top = -1e300, sum = 0, delta = 0;
      const auto at = [&](size_t j) { return (keys[j] * s.kv_heads + h / group) * d; };
      const double *q = &all_q[static_cast<size_t>(row)], *dout = &all_dout[static_cast<size_t>(row)];
      for (size_t j = 0; j < keys.size(); ++j) {
        const double* k = &all_k[static_cast<size_t>(at(j))];
        for (int64_t x = 0; x < d; ++x) z[j] += q[x] * k[x];
        z[j] = store(store(z[j]) * s.scale());
        if (s.softcap > 0) {
          const double t = std::tanh(z[j] / s.softcap);
          z[j] = s.softcap * t;
          slope[j] = 1 - t * t;
        }
        top = std::max(top, z[j]);
      }
      for (const double x : z) sum += std::exp(x - top);
      const double lse = top + std::log(sum);
      r.lse[static_cast<size_t>(i * s.heads + h)] = lse;
      for (size_t j = 0; j < keys.size(); ++j) {
        const double p = store(std::exp(z[j] - lse));
        const double* v = &all_v[static_cast<size_t>(at(j))];
        for (int64_t x = 0; x < d; ++x) r.o[static_cast<size_t>(row + x)] += p * v[x];
      }
      for (int64_t x = 0; x < d; ++x) r.o[static_cast<size_t>(row + x)] = store(r.o[static_cast<size_t>(row + x)]);
      for (int64_t x = 0; x < d; ++x) delta += dout[x] * r.o[static_cast<size_t>(row + x)];
      for (size_t j = 0; j < keys.size(); ++j) {
        const double p = store(std::exp(z[j] - lse));
        double dp = 0;
        const double *k = &all_k[static_cast<size_t>(at(j))], *v = &all_v[static_cast<size_t>(at(j))];
        for (int64_t x = 0; x < d; ++x) dp += dout[x] * v[x];
        const double ds = store(p * (store(dp) - delta) * slope[j]) * s.scale();
        for (int64_t x = 0; x < d; ++x) {
          r.dq[static_cast<size_t>(row + x)] += ds * k[x];
          r.dk[static_cast<size_t>(at(j) + x)] += ds * q[x];
          r.dv[static_cast<size_t>(at(j) + x)] += p * dout[x];
        }
      }
    }
  }
  for (std::vector<double>* x : {&r.dq, &r.dk, &r.dv})
    for (double& v : *x) v = store(v);
  return r;
}

/// Largest size, at least 1: what cancels to nothing has the rounding errors of what it cancelled from.
double largest(const std::vector<double>& x) {
  double m = 1;
  for (const double v : x) m = std::max(m, std::fabs(v));
  return m;
}

// Suites -------------------------------------------------------------------------------------------------------------

/// A batch and what is right for it, which serves all instruction sets.
struct Known {
  Batch batch;
  Reference exact;
  explicit Known(Batch b) : batch(std::move(b)), exact(reference(batch)) {}
};

void against_reference(const Level& forward, Kernel backward, const Known& known) {
  const Batch& b = known.batch;
  const Reference& r = known.exact;
  SerialRuntime rt;
  const bool exact = b.q.dtype == DType::f32;
  Forward f(b);
  Backward g(b);
  CHECK_OK(forward.kernel(f.call(rt, b)));
  CHECK_OK(backward(g.call(rt, b, f)));
  // bf16: the outputs round once, and o rounded enters the gradient through delta. Where products of bf16 pairs exist,
  // probabilities round too.
  const bool pairs = std::strcmp(forward.name, "avx512bf16") == 0 || std::strcmp(forward.name, "amx") == 0;
  const double relative = exact ? 1e-5 : 4e-3, deep = exact ? 1e-5 : 4e-3;
  const double small = exact ? 3e-6 : pairs ? deep : 1e-5;
  CHECK_CLOSE(f.o, r.o, relative, small * largest(r.o));
  CHECK_CLOSE(f.lse, r.lse, 2e-6, 2e-6);
  CHECK_CLOSE(g.dq, r.dq, relative, deep * largest(r.dq));
  CHECK_CLOSE(g.dk, r.dk, relative, deep * largest(r.dk));
  CHECK_CLOSE(g.dv, r.dv, relative, small * largest(r.dv));
}

/// Root of the mean square of what x is off.
double error_of(const std::vector<double>& x, const std::vector<double>& expected) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - expected[i]) * (x[i] - expected[i]);
  return std::sqrt(sum / static_cast<double>(x.size()));
}

/// bf16 results are off by at most twice what plain bf16 tensors of scores, probabilities and their gradients make it.
void against_plain(const Level& forward, Kernel backward, const Known& known) {
  const Batch& b = known.batch;
  SerialRuntime rt;
  Forward f(b);
  Backward g(b);
  CHECK_OK(forward.kernel(f.call(rt, b)));
  CHECK_OK(backward(g.call(rt, b, f)));
  const Reference &exact = known.exact, plain = reference(b, rounded);
  CHECK(error_of(numbers(f.o), exact.o) <= 2 * error_of(plain.o, exact.o));
  CHECK(error_of(numbers(g.dq), exact.dq) <= 2 * error_of(plain.dq, exact.dq));
  CHECK(error_of(numbers(g.dk), exact.dk) <= 2 * error_of(plain.dk, exact.dk));
  CHECK(error_of(numbers(g.dv), exact.dv) <= 2 * error_of(plain.dv, exact.dv));
}

std::vector<Known> known_batches() {
  std::vector<Known> list;
  const auto add = [&](const std::vector<Part>& parts, const Setting& set, DType type) {
    list.emplace_back(Batch(packed(parts), set, type, list.size() + 2));
  };
  for (const int64_t dim : {8, 16, 24, 32, 64, 72, 80, 96, 128, 256}) {
    add(mixed, {4, 2, dim}, DType::f32);
    add(mixed, {2, 1, dim}, DType::bf16);
  }
  for (const double window : {1.0, 5.0, 32.0, 33.0, 64.0}) {
    add(mixed, {3, 3, 16, window}, DType::f32);
    add({{300}, {9}}, {6, 2, 24, window, 20.0}, DType::f32);
  }
  add(mixed, {6, 2, 40, 0, 5.0}, DType::f32);
  add(mixed, {9, 3, 64, 0, 30.0}, DType::bf16);
  add({{450}}, {9, 3, 64}, DType::f32);
  add({{5}}, {40, 1, 20}, DType::f32);
  add({{31}, {32}, {33}}, {1, 1, 1}, DType::f32);
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const double factor : {-1.0, 0.0}) add(mixed, {4, 2, 40, 0, 0, factor}, type);
    add(mixed, {4, 1, 24, 40, 5, -1}, type);
    add({{300}, {9}}, {6, 2, 33, 70}, type);
  }
  return list;
}

std::vector<Known> known_bf16() {
  std::vector<Known> list;
  for (const int64_t dim : {64, 80, 128}) {
    list.emplace_back(Batch(packed({{200}, {90, 0, 70}}), {4, 2, dim}, DType::bf16, 3));
  }
  list.emplace_back(Batch(packed({{200}}), {3, 3, 96, 50, 4}, DType::bf16, 4));
  return list;
}

/// A root with its sharers, taken out of the batch, gives the bits that it had in it.
void test_alone(const Level& forward, Kernel backward, const Batch& all, size_t root) {
  const Layout& layout = all.layout;
  std::vector<int64_t> rows;
  std::vector<Part> parts;
  for (size_t p = 0; p < layout.parts.size(); ++p) {
    const Part& part = layout.parts[p];
    if (p != root && !(part.prefix > 0 && part.root == static_cast<int>(root))) continue;
    for (int i = 0; i < part.length; ++i) rows.push_back(layout.starts[p] + i);
    parts.push_back({part.length, 0, part.prefix});
  }
  Batch one(packed(parts), all.set, all.q.dtype, 0);
  one.q = take(all.q, rows);
  one.k = take(all.k, rows);
  one.v = take(all.v, rows);
  one.dout = take(all.dout, rows);
  SerialRuntime rt;
  Forward f(all), g(one);
  Backward fb(all), gb(one);
  CHECK_OK(forward.kernel(f.call(rt, all)));
  CHECK_OK(forward.kernel(g.call(rt, one)));
  CHECK_SAME(take(f.o, rows), g.o);
  CHECK_SAME(take(f.lse, rows), g.lse);
  CHECK_OK(backward(fb.call(rt, all, f)));
  CHECK_OK(backward(gb.call(rt, one, g)));
  CHECK_SAME(take(fb.dq, rows), gb.dq);
  CHECK_SAME(take(fb.dk, rows), gb.dk);
  CHECK_SAME(take(fb.dv, rows), gb.dv);
}

/// A continuation after a shared prefix has the bits of the same tokens written out as one segment.
void test_shared(const Level& forward, const Setting& set, DType type) {
  for (const int prefix : {1, 31, 32, 45, 64}) {
    Batch joined(packed({{prefix + 40}}), set, type, 77);
    Batch split(packed({{prefix}, {40, 0, prefix}}), set, type, 77);
    SerialRuntime rt;
    Forward f(joined), g(split);
    CHECK_OK(forward.kernel(f.call(rt, joined)));
    CHECK_OK(forward.kernel(g.call(rt, split)));
    CHECK_SAME(f.o, g.o);
    CHECK_SAME(f.lse, g.lse);
  }
}

void test_threads(const Level& forward, Kernel backward) {
  for (const double window : {0.0, 90.0}) {
    for (const DType type : {DType::f32, DType::bf16}) {
      // Few long groups: on one thread a task owns a group, on many it owns queries or keys.
      Batch b(packed({{600}, {5}, {40, 0, 77}, {64}, {33, 0, 600}, {350, 0, 290}}), {6, 2, 24, window, 8}, type, 5);
      SerialRuntime rt;
      Forward f(b);
      Backward g(b);
      CHECK_OK(forward.kernel(f.call(rt, b)));
      CHECK(same_on_threads(forward.kernel, f.call(rt, b), f.o, f.o));
      CHECK(same_on_threads(forward.kernel, f.call(rt, b), f.lse, f.lse));
      CHECK(same_on_threads(backward, g.call(rt, b, f), g.dq, g.dq));
      CHECK(same_on_threads(backward, g.call(rt, b, f), g.dk, g.dk));
      CHECK(same_on_threads(backward, g.call(rt, b, f), g.dv, g.dv));
    }
  }
}

// Refusals and edges -------------------------------------------------------------------------------------------------

void test_refusals(const Level& forward, Kernel backward) {
  SerialRuntime rt;
  const Setting s{4, 2, 8};
  const Batch good(packed({{3}, {4, 0, 3}, {2}}), s, DType::f32, 1);
  Forward f(good);
  CHECK_OK(forward.kernel(f.call(rt, good)));
  const auto refused = [&](std::vector<int32_t> visibility) {
    Batch b = good;
    std::memcpy(b.vis.bytes.data(), visibility.data(), b.vis.bytes.size());
    CHECK_CODE(forward.kernel(f.call(rt, b)), shape);
    CHECK_CODE(backward(Backward(b).call(rt, b, f)), shape);
  };
  // (start, prefix begin, prefix end) of nine tokens: 3, then 4 that share the first 3, then 2.
  const std::vector<int32_t> fine = good.layout.visibility;
  const auto changed = [&](size_t token, int32_t start, int32_t begin, int32_t end, size_t until) {
    std::vector<int32_t> v = fine;
    for (size_t i = token; i < until; ++i) {
      v[3 * i] = start;
      v[3 * i + 1] = begin;
      v[3 * i + 2] = end;
    }
    return v;
  };
  refused(changed(0, 1, 0, 0, 1));   // starts after itself
  refused(changed(0, -1, 0, 0, 1));  // negative
  refused(changed(2, 1, 0, 0, 3));   // start is no segment's start
  refused(changed(5, 0, 0, 0, 6));   // returns to an earlier segment
  refused(changed(5, 3, 0, 2, 6));   // prefix changes inside a segment
  refused(changed(3, 3, -1, 2, 7));  // negative prefix
  refused(changed(3, 3, 2, 1, 7));   // prefix ends before it begins
  refused(changed(3, 3, 0, 4, 7));   // prefix reaches into its own segment
  refused(changed(3, 3, 1, 3, 7));   // prefix begins inside a segment
  refused(changed(7, 7, 0, 5, 9));   // prefix spans two segments
  refused(changed(7, 7, 3, 5, 9));   // prefix of a segment that has a prefix
  refused(changed(8, 2147483647, 0, 0, 9));

  const auto fails = [&](Setting set, Code code) {
    Batch b = good;
    b.set = set;
    const Status a = forward.kernel(f.call(rt, b)), g = backward(Backward(b).call(rt, b, f));
    CHECK(a.code == code && g.code == code);
  };
  fails({4, 2, 8, -1, 0}, Code::config);
  fails({4, 2, 8, 1.5, 0}, Code::config);
  fails({4, 2, 8, 0, -2}, Code::config);
  fails({4, 2, 8, 0, std::nan("")}, Code::config);
  fails({4, 2, 8, std::nan(""), 0}, Code::config);
  Batch odd = good;
  odd.k = Tensor(DType::f32, {9, 3, 8});
  odd.v = odd.k;
  CHECK_CODE(forward.kernel(f.call(rt, odd)), shape);
  Batch shorter = good;
  shorter.v = Tensor(DType::f32, {8, 2, 8});
  CHECK_CODE(forward.kernel(f.call(rt, shorter)), shape);
  Batch narrow = good;
  narrow.k = Tensor(DType::f32, {9, 2, 7});
  CHECK_CODE(forward.kernel(f.call(rt, narrow)), shape);
  SerialRuntime poor;
  poor.short_of_memory = true;
  CHECK_CODE(forward.kernel(f.call(poor, good)), oom);
  CHECK_CODE(backward(Backward(good).call(poor, good, f)), oom);
}

void test_edges(const Level& forward, Kernel backward, DType type) {
  SerialRuntime rt;
  const Batch none(packed({}), {4, 2, 8}, DType::f32, 1);
  Forward f(none);
  CHECK_OK(forward.kernel(f.call(rt, none)));
  CHECK_OK(backward(Backward(none).call(rt, none, f)));

  // A NaN reaches the tokens that see it and no others; huge scores neither overflow nor lose the maximum.
  Batch b(packed({{40}, {10, 0, 20}, {6}}), {2, 1, 16}, type, 8);
  Batch clean = b;
  b.k.set(25 * 16, std::nan(""));
  b.v.set(25 * 16, std::nan(""));
  Forward bad(b), fine(clean);
  CHECK_OK(forward.kernel(bad.call(rt, b)));
  CHECK_OK(forward.kernel(fine.call(rt, clean)));
  std::vector<int64_t> others, hit;
  for (int64_t i = 0; i < b.layout.tokens; ++i) (i >= 25 && i < 40 ? hit : others).push_back(i);
  CHECK_SAME(take(bad.o, others), take(fine.o, others));
  const Tensor poisoned = take(bad.o, hit);
  bool all = true;
  for (int64_t i = 0; i < poisoned.size(); ++i) all = all && std::isnan(poisoned.at(i));
  CHECK(all);
  Backward g(b);
  CHECK_OK(backward(g.call(rt, b, bad)));

  // The same where hidden keys share tiles with seen ones; the values alone have an infinity.
  for (const int64_t place : {63, 100, 129}) {
    Batch endless(packed({{150}, {60, 0, 120}}), {4, 2, 40}, type, 8);
    const Batch finite = endless;
    endless.v.set((place * 2 + 1) * 40 + 7, -HUGE_VAL);
    Forward one(endless), other(finite);
    CHECK_OK(forward.kernel(one.call(rt, endless)));
    CHECK_OK(forward.kernel(other.call(rt, finite)));
    std::vector<int64_t> before;
    for (int64_t i = 0; i < 210; ++i)
      if (i < place || (i >= 150 && place >= 120)) before.push_back(i);
    CHECK_SAME(take(one.o, before), take(other.o, before));
    CHECK(one.o.at((place * 4 + 2) * 40 + 7) == -HUGE_VAL);
    CHECK_SAME(one.lse, other.lse);
  }

  // What the window has left behind is never read, not even with weight zero.
  Batch passed_by(packed({{45}}), {3, 1, 20, 6}, type, 8);
  Batch whole = passed_by;
  for (int64_t d = 0; d < 20; ++d) passed_by.v.set(10 * 20 + d, HUGE_VAL);
  Forward some(passed_by), full(whole);
  CHECK_OK(forward.kernel(some.call(rt, passed_by)));
  CHECK_OK(forward.kernel(full.call(rt, whole)));
  std::vector<int64_t> spared;
  for (int64_t i = 0; i < 45; ++i)
    if (i < 10 || i >= 16) spared.push_back(i);
  CHECK_SAME(take(some.o, spared), take(full.o, spared));
  CHECK(std::isinf(some.o.at(15 * 60)) && std::isfinite(some.o.at(16 * 60)));

  Batch large(packed({{50}}), {1, 1, 8}, type, 2);
  for (int64_t i = 0; i < large.q.size(); ++i) large.q.set(i, large.q.at(i) * 3e3);
  Forward far(large);
  CHECK_OK(forward.kernel(far.call(rt, large)));
  // Scores of 1e4 carry a rounding of 1e-3, and so do the probabilities.
  CHECK_CLOSE(far.o, reference(large).o, 8e-3, 8e-3);
}

/// The hand-derived reference against central differences of its own forward pass.
void test_reference() {
  Batch b(packed({{6}, {3, 0, 4}}), {2, 1, 3, 4, 2.0}, DType::f32, 3);
  const Reference r = reference(b);
  const auto loss = [&](const Batch& x) {
    const Reference y = reference(x);
    double sum = 0;
    for (size_t i = 0; i < y.o.size(); ++i) sum += y.o[i] * b.dout.at(static_cast<int64_t>(i));
    return sum;
  };
  const auto agree = [&](Tensor Batch::* field, const std::vector<double>& gradient) {
    double worst = 0;
    for (int64_t i = 0; i < (b.*field).size(); ++i) {
      Batch up = b, down = b;
      (up.*field).set(i, (b.*field).at(i) + 1e-3);
      (down.*field).set(i, (b.*field).at(i) - 1e-3);
      const double step = (up.*field).at(i) - (down.*field).at(i);
      worst = std::max(worst, std::fabs((loss(up) - loss(down)) / step - gradient[static_cast<size_t>(i)]));
    }
    CHECK(worst < 1e-4);
  };
  agree(&Batch::q, r.dq);
  agree(&Batch::k, r.dk);
  agree(&Batch::v, r.dv);
}

struct Set {
  Level attention;
  Kernel backward;
};

const Set sets[] = {
    {{"v2", has_v2(), v2::attention}, v2::attention_backward},
    {{"avx2", has_avx2(), avx2::attention}, avx2::attention_backward},
    {{"avx512", has_avx512(), avx512::attention}, avx512::attention_backward},
    {{"avx512bf16", has_avx512bf16(), avx512bf16::attention}, avx512bf16::attention_backward},
    {{"amx", has_amx(), amx::attention}, amx::attention_backward},
};

void test_level(const Set& s) {
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const Setting& set : {Setting{4, 2, 24}, Setting{2, 2, 16, 20, 3}, Setting{9, 1, 64}}) {
      const Batch all(packed(mixed), set, type, 21);
      for (const size_t root : {size_t{0}, size_t{1}, size_t{2}, size_t{5}})
        test_alone(s.attention, s.backward, all, root);
      test_shared(s.attention, set, type);
    }
    test_edges(s.attention, s.backward, type);
  }
  test_refusals(s.attention, s.backward);
}

}  // namespace

/// `threads`: only what runs on several.
int main(int count, char** words) {
  for (const Set& s : sets)
    if (s.attention.available) test_threads(s.attention, s.backward);
  if (count > 1 && std::strcmp(words[1], "threads") == 0) return report();
  test_reference();
  const std::vector<Known> batches = known_batches(), halves = known_bf16();
  for (const Set& s : sets) {
    if (!s.attention.available) continue;
    for (const Known& known : batches) against_reference(s.attention, s.backward, known);
    for (const Known& known : halves) against_plain(s.attention, s.backward, known);
    test_level(s);
  }
  return report();
}
