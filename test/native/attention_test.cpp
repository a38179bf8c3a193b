// Attention forward, backward and decode: against double references element by element,
// equal bits alone, packed, decoded and on any number of threads, and what must be refused.
#include <algorithm>

#include "check.h"

using namespace check;

namespace {

// Layouts of a packed batch ------------------------------------------------------------------------------------------

/// Tokens of one segment; prefix: how many tokens of segment `root` it shares (0: none).
struct Part {
  int length;
  int root = -1;
  int prefix = 0;
};

struct Layout {
  std::vector<Part> parts;
  std::vector<int> starts;
  std::vector<int32_t> visibility;
  int64_t tokens = 0;

  explicit Layout(std::vector<Part> list) : parts(std::move(list)) {
    for (const Part& p : parts) {
      const int start = static_cast<int>(tokens);
      const int p0 = p.prefix > 0 ? starts[static_cast<size_t>(p.root)] : start;
      for (int i = 0; i < p.length; ++i)
        for (const int x : {start, p.prefix > 0 ? p0 : 0, p.prefix > 0 ? p0 + p.prefix : 0}) visibility.push_back(x);
      starts.push_back(start);
      tokens += p.length;
    }
  }

  Tensor tensor() const {
    Tensor t(DType::i32, {tokens, 3});
    if (tokens > 0) std::memcpy(t.bytes.data(), visibility.data(), t.bytes.size());
    return t;
  }

  /// Tokens that the query sees, in logical order.
  std::vector<int64_t> seen(int64_t query, int64_t window) const {
    const int32_t* v = &visibility[static_cast<size_t>(query) * 3];
    std::vector<int64_t> keys;
    for (int64_t j = v[1]; j < v[2]; ++j) keys.push_back(j);
    for (int64_t j = v[0]; j <= query; ++j) keys.push_back(j);
    const auto size = static_cast<int64_t>(keys.size());
    if (window > 0 && size > window) keys.erase(keys.begin(), keys.begin() + (size - window));
    return keys;
  }
};

Layout packed(const std::vector<Part>& parts) { return Layout(parts); }

struct Setting {
  int64_t heads, kv_heads, dim;
  double window = 0, softcap = 0;
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(dim)); }
};

struct Batch {
  Layout layout;
  Setting set;
  Tensor q, k, v, vis, dout;
  Batch(Layout l, Setting s, DType type, uint64_t seed) : layout(std::move(l)), set(s) {
    Random random(seed);
    const int64_t n = layout.tokens;
    q = random_tensor(random, type, {n, s.heads, s.dim}, s.softcap > 0 ? 3.0 : 1.0);
    k = random_tensor(random, type, {n, s.kv_heads, s.dim});
    v = random_tensor(random, type, {n, s.kv_heads, s.dim});
    dout = random_tensor(random, type, {n, s.heads, s.dim});
    vis = layout.tensor();
  }
};

struct Forward {
  Tensor o, lse;
  explicit Forward(const Batch& b) : o(b.q.dtype, b.q.shape), lse(DType::f32, {b.layout.tokens, b.set.heads}) {}
  Call call(Runtime& rt, const Batch& b) const {
    return make_call(rt, {b.q.view(), b.k.view(), b.v.view(), b.vis.view(), o.view(), lse.view()},
                     {b.set.scale(), b.set.window, b.set.softcap});
  }
};

struct Backward {
  Tensor dq, dk, dv;
  explicit Backward(const Batch& b) : dq(b.q.dtype, b.q.shape), dk(b.q.dtype, b.k.shape), dv(b.q.dtype, b.k.shape) {}
  Call call(Runtime& rt, const Batch& b, const Forward& f) const {
    return make_call(rt,
                     {b.dout.view(), f.o.view(), f.lse.view(), b.q.view(), b.k.view(), b.v.view(), b.vis.view(),
                      dq.view(), dk.view(), dv.view()},
                     {b.set.scale(), b.set.window, b.set.softcap});
  }
};

// References ---------------------------------------------------------------------------------------------------------

struct Reference {
  std::vector<double> o, lse, dq, dk, dv;
};

double unrounded(double x) { return x; }
double rounded(double x) { return to_float(to_bf16(static_cast<float>(x))); }

/// `store` is what happens to numbers that a plain implementation keeps in tensors.
Reference reference(const Batch& b, double (*store)(double) = unrounded) {
  const Setting& s = b.set;
  const int64_t n = b.layout.tokens, group = s.heads / s.kv_heads, d = s.dim;
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
      for (size_t j = 0; j < keys.size(); ++j) {
        for (int64_t x = 0; x < d; ++x) z[j] += b.q.at(row + x) * b.k.at(at(j) + x);
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
      for (size_t j = 0; j < keys.size(); ++j)
        for (int64_t x = 0; x < d; ++x)
          r.o[static_cast<size_t>(row + x)] += store(std::exp(z[j] - lse)) * b.v.at(at(j) + x);
      for (int64_t x = 0; x < d; ++x) r.o[static_cast<size_t>(row + x)] = store(r.o[static_cast<size_t>(row + x)]);
      for (int64_t x = 0; x < d; ++x) delta += b.dout.at(row + x) * r.o[static_cast<size_t>(row + x)];
      for (size_t j = 0; j < keys.size(); ++j) {
        const double p = store(std::exp(z[j] - lse));
        double dp = 0;
        for (int64_t x = 0; x < d; ++x) dp += b.dout.at(row + x) * b.v.at(at(j) + x);
        const double ds = store(p * (store(dp) - delta) * slope[j]) * s.scale();
        for (int64_t x = 0; x < d; ++x) {
          r.dq[static_cast<size_t>(row + x)] += ds * b.k.at(at(j) + x);
          r.dk[static_cast<size_t>(at(j) + x)] += ds * b.q.at(row + x);
          r.dv[static_cast<size_t>(at(j) + x)] += p * b.dout.at(row + x);
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

const std::vector<Part> mixed = {{5}, {37}, {1}, {40, 1, 37}, {3, 1, 20}, {64}, {70, 5, 33}, {2, 0, 5}};

void against_reference(const Level& forward, Kernel backward, const Batch& b) {
  SerialRuntime rt;
  const bool exact = b.q.dtype == DType::f32;
  Forward f(b);
  Backward g(b);
  CHECK_OK(forward.kernel(f.call(rt, b)));
  CHECK_OK(backward(g.call(rt, b, f)));
  const Reference r = reference(b);
  // bf16: the outputs round once, and o rounded enters the gradient through delta. Where products of bf16 pairs exist,
  // probabilities round too.
  const bool pairs = std::strcmp(forward.name, "avx512bf16") == 0;
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

std::vector<double> numbers(const Tensor& t) {
  std::vector<double> x;
  for (int64_t i = 0; i < t.size(); ++i) x.push_back(t.at(i));
  return x;
}

/// bf16 results are off by at most twice what plain bf16 tensors of scores, probabilities and their gradients make it.
void against_plain(const Level& forward, Kernel backward, const Batch& b) {
  SerialRuntime rt;
  Forward f(b);
  Backward g(b);
  CHECK_OK(forward.kernel(f.call(rt, b)));
  CHECK_OK(backward(g.call(rt, b, f)));
  const Reference exact = reference(b), plain = reference(b, rounded);
  CHECK(error_of(numbers(f.o), exact.o) <= 2 * error_of(plain.o, exact.o));
  CHECK(error_of(numbers(g.dq), exact.dq) <= 2 * error_of(plain.dq, exact.dq));
  CHECK(error_of(numbers(g.dk), exact.dk) <= 2 * error_of(plain.dk, exact.dk));
  CHECK(error_of(numbers(g.dv), exact.dv) <= 2 * error_of(plain.dv, exact.dv));
}

void test_values(const Level& forward, Kernel backward) {
  uint64_t seed = 1;
  for (const int64_t dim : {8, 16, 24, 32, 64, 72, 80, 96, 128, 256}) {
    against_reference(forward, backward, Batch(packed(mixed), {4, 2, dim}, DType::f32, ++seed));
    against_reference(forward, backward, Batch(packed(mixed), {2, 1, dim}, DType::bf16, ++seed));
  }
  for (const double window : {1.0, 5.0, 32.0, 33.0, 64.0}) {
    against_reference(forward, backward, Batch(packed(mixed), {3, 3, 16, window}, DType::f32, ++seed));
    against_reference(forward, backward, Batch(packed({{300}, {9}}), {6, 2, 24, window, 20.0}, DType::f32, ++seed));
  }
  against_reference(forward, backward, Batch(packed(mixed), {6, 2, 40, 0, 5.0}, DType::f32, ++seed));
  against_reference(forward, backward, Batch(packed(mixed), {9, 3, 64, 0, 30.0}, DType::bf16, ++seed));
  against_reference(forward, backward, Batch(packed({{450}}), {9, 3, 64}, DType::f32, ++seed));
  for (const int64_t dim : {64, 80, 128}) {
    against_plain(forward, backward, Batch(packed({{200}, {90, 0, 70}}), {4, 2, dim}, DType::bf16, ++seed));
  }
  against_plain(forward, backward, Batch(packed({{200}}), {3, 3, 96, 50, 4}, DType::bf16, ++seed));
  against_reference(forward, backward, Batch(packed({{5}}), {40, 1, 20}, DType::f32, ++seed));
  against_reference(forward, backward, Batch(packed({{31}, {32}, {33}}), {1, 1, 1}, DType::f32, ++seed));
}

Tensor take(const Tensor& t, const std::vector<int64_t>& rows) {
  std::vector<int64_t> shape = t.shape;
  shape[0] = static_cast<int64_t>(rows.size());
  Tensor out(t.dtype, shape);
  const size_t bytes = t.bytes.size() / static_cast<size_t>(t.shape[0]);
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(&out.bytes[i * bytes], &t.bytes[static_cast<size_t>(rows[i]) * bytes], bytes);
  return out;
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

// Decode -------------------------------------------------------------------------------------------------------------

struct Cache {
  Tensor keys, values;
  Cache(int64_t blocks, const Setting& s, DType type)
      : keys(type, {blocks, s.kv_heads, s.dim, 32}), values(type, {blocks, s.kv_heads, 32, s.dim}) {
    // What was never written must never matter.
    std::memset(keys.bytes.data(), 0xff, keys.bytes.size());
    std::memset(values.bytes.data(), 0xff, values.bytes.size());
  }
};

struct Kernels {
  Kernel forward, decode, write;
};

/// Every token of every segment as if it were the newest: the bits of the packed forward pass.
void test_decode(const Kernels& kernels, const Batch& b) {
  SerialRuntime rt;
  Forward f(b);
  CHECK_OK(kernels.forward(f.call(rt, b)));
  Random random(9);
  const int64_t tokens = b.layout.tokens;
  for (const Part& part : b.layout.parts) {
    const auto index = static_cast<size_t>(&part - b.layout.parts.data());
    const int64_t length = part.prefix + part.length, blocks = (length + 31) / 32;
    const int64_t last = b.layout.starts[index] + part.length - 1;
    const std::vector<int64_t> keys = b.layout.seen(last, 0);
    // Blocks in a shuffled order, among others that hold NaN.
    std::vector<int32_t> table;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>((i * 7 + 3) % (blocks + 9)));
    std::vector<int32_t> unique = table;
    std::sort(unique.begin(), unique.end());
    if (std::unique(unique.begin(), unique.end()) != unique.end()) {
      for (int64_t i = 0; i < blocks; ++i) table[static_cast<size_t>(i)] = static_cast<int32_t>(blocks + 8 - i);
    }
    Cache cache(blocks + 9, b.set, b.q.dtype);
    for (int64_t at = part.prefix; at < length; ++at) {
      std::vector<int32_t> slots;
      std::vector<int64_t> rows;
      for (int64_t t = at == part.prefix ? 0 : at; t <= at; ++t) {
        rows.push_back(keys[static_cast<size_t>(t)]);
        slots.push_back(table[static_cast<size_t>(t / 32)] * 32 + static_cast<int32_t>(t % 32));
      }
      const Tensor k = take(b.k, rows), v = take(b.v, rows), slot = integers(slots);
      CHECK_OK(kernels.write(make_call(rt, {cache.keys.view(), cache.values.view(), k.view(), v.view(), slot.view()})));
      const int64_t token = b.layout.starts[index] + at - part.prefix;
      // Twice in one call: the neighbour must not matter.
      const Tensor q = take(b.q, {token, tokens - 1, token});
      Tensor tables(DType::i32, {3, blocks});
      for (int64_t i = 0; i < 3 * blocks; ++i) tables.set(i, table[static_cast<size_t>(i % blocks)]);
      const Tensor lengths = integers({static_cast<int32_t>(at + 1), 1, static_cast<int32_t>(at + 1)});
      if (at > 0 && b.set.window > 0) tables.set(2 * blocks, at + 1 - b.set.window >= 32 ? -1 : tables.at(2 * blocks));
      Tensor o(b.q.dtype, q.shape);
      if (b.set.window > 0) tables.set(blocks, table[0]);
      CHECK_OK(kernels.decode(
          make_call(rt, {q.view(), cache.keys.view(), cache.values.view(), tables.view(), lengths.view(), o.view()},
                    {b.set.scale(), b.set.window, b.set.softcap})));
      const Tensor expected = take(f.o, {token});
      CHECK_SAME(take(o, {0}), expected);
      CHECK_SAME(take(o, {2}), expected);
    }
  }
}

void test_decode_threads(const Kernels& kernels) {
  Random random(4);
  const Setting s{8, 4, 40};
  Tensor keys = random_tensor(random, DType::f32, {6, 4, 40, 32}),
         values = random_tensor(random, DType::f32, {6, 4, 32, 40});
  const Tensor q = random_tensor(random, DType::f32, {3, 8, 40});
  Tensor table(DType::i32, {3, 3}), o(DType::f32, {3, 8, 40});
  for (int i = 0; i < 9; ++i) table.set(i, i % 6);
  const Tensor lengths = integers({96, 1, 40});
  SerialRuntime rt;
  CHECK(same_on_threads(
      kernels.decode,
      make_call(rt, {q.view(), keys.view(), values.view(), table.view(), lengths.view(), o.view()}, {s.scale(), 0, 0}),
      o, o));
}

/// Sequences that hold their first pages in common, read at once, have the bits that each has alone.
void test_decode_shared(Kernel decode, DType type) {
  for (const Setting& set : {Setting{4, 2, 24}, Setting{3, 3, 64}, Setting{20, 1, 16}, Setting{4, 2, 40, 50}}) {
    Random random(11);
    const int64_t sequences = 21, width = 9, blocks = 60;
    const Tensor q = random_tensor(random, type, {sequences, set.heads, set.dim});
    const Tensor keys = random_tensor(random, type, {blocks, set.kv_heads, set.dim, 32});
    const Tensor values = random_tensor(random, type, {blocks, set.kv_heads, 32, set.dim});
    Tensor table(DType::i32, {sequences, width});
    std::vector<int32_t> lengths;
    for (int64_t i = 0; i < sequences; ++i) {
      lengths.push_back(static_cast<int32_t>(1 + random.below(width * 32)));
      const int64_t common = i % 5 == 4 ? 1 : 5;
      for (int64_t j = 0; j < width; ++j) table.set(i * width + j, j < common ? j : 10 + (i * 7 + j * 3) % 50);
    }
    Tensor o(type, q.shape);
    SerialRuntime rt;
    const Tensor all = integers(lengths);
    const Call call = make_call(rt, {q.view(), keys.view(), values.view(), table.view(), all.view(), o.view()},
                                {set.scale(), set.window, set.softcap});
    CHECK_OK(decode(call));
    for (int64_t i = 0; i < sequences; ++i) {
      const Tensor one = take(q, {i}), pages = take(table, {i}), length = take(all, {i});
      Tensor alone(type, one.shape);
      CHECK_OK(decode(make_call(rt, {one.view(), keys.view(), values.view(), pages.view(), length.view(), alone.view()},
                                {set.scale(), set.window, set.softcap})));
      CHECK_SAME(take(o, {i}), alone);
    }
    CHECK(same_on_threads(decode, call, o, o));
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

void test_decode_refusals(Kernel decode) {
  SerialRuntime rt;
  const Tensor q(DType::f32, {2, 4, 8}), keys(DType::f32, {3, 2, 8, 32}), values(DType::f32, {3, 2, 32, 8}), o = q;
  Tensor table(DType::i32, {2, 2});
  const auto run = [&](std::vector<int32_t> lengths) {
    const Tensor l = integers(lengths);
    return decode(make_call(rt, {q.view(), keys.view(), values.view(), table.view(), l.view(), o.view()}, {1, 0, 0}));
  };
  CHECK_OK(run({64, 1}));
  CHECK_CODE(run({65, 1}), shape);
  CHECK_CODE(run({0, 1}), shape);
  CHECK_CODE(run({-5, 1}), shape);
  CHECK_CODE(run({5}), shape);
  table.set(1, 3);
  CHECK_CODE(run({64, 1}), shape);
  CHECK_OK(run({32, 1}));
  table.set(1, -1);
  CHECK_CODE(run({33, 1}), shape);
}

void test_edges(const Level& forward, Kernel backward, Kernel decode, DType type) {
  SerialRuntime rt;
  const Batch none(packed({}), {4, 2, 8}, DType::f32, 1);
  Forward f(none);
  CHECK_OK(forward.kernel(f.call(rt, none)));
  CHECK_OK(backward(Backward(none).call(rt, none, f)));
  const Tensor q(DType::f32, {0, 4, 8}), keys(DType::f32, {0, 2, 8, 32}), values(DType::f32, {0, 2, 32, 8});
  const Tensor table(DType::i32, {0, 0}), lengths(DType::i32, {0});
  CHECK_OK(
      decode(make_call(rt, {q.view(), keys.view(), values.view(), table.view(), lengths.view(), q.view()}, {1, 0, 0})));

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
  Kernel backward, decode, write;
};

const Set sets[] = {
    {{"v2", true, v2::attention}, v2::attention_backward, v2::attention_decode, v2::cache_write},
    {{"avx2", has_avx2(), avx2::attention}, avx2::attention_backward, avx2::attention_decode, avx2::cache_write},
    {{"avx512", has_avx512(), avx512::attention},
     avx512::attention_backward,
     avx512::attention_decode,
     avx512::cache_write},
    {{"avx512bf16", has_avx512bf16(), avx512bf16::attention},
     avx512bf16::attention_backward,
     avx512bf16::attention_decode,
     avx512bf16::cache_write},
};

void test_level(const Set& s) {
  const Kernels kernels{s.attention.kernel, s.decode, s.write};
  test_values(s.attention, s.backward);
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const Setting& set : {Setting{4, 2, 24}, Setting{2, 2, 16, 20, 3}, Setting{9, 1, 64}}) {
      const Batch all(packed(mixed), set, type, 21);
      for (const size_t root : {size_t{0}, size_t{1}, size_t{2}, size_t{5}})
        test_alone(s.attention, s.backward, all, root);
      test_shared(s.attention, set, type);
      test_decode(kernels, all);
    }
  }
  test_threads(s.attention, s.backward);
  test_decode_threads(kernels);
  for (const DType type : {DType::f32, DType::bf16}) test_decode_shared(s.decode, type);
  test_refusals(s.attention, s.backward);
  test_decode_refusals(s.decode);
  for (const DType type : {DType::f32, DType::bf16}) test_edges(s.attention, s.backward, s.decode, type);
}

}  // namespace

int main() {
  test_reference();
  for (const Set& s : sets)
    if (s.attention.available) test_level(s);
  return report();
}
