// Packed batches for the tests of attention: layouts of segments with shared prefixes, random operands, calls.
#pragma once
#include "check.h"

namespace check {

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

inline Layout packed(const std::vector<Part>& parts) { return Layout(parts); }

struct Setting {
  int64_t heads, kv_heads, dim;
  double window = 0, softcap = 0;
  double factor = 1;  // of the usual scale
  double scale() const { return factor / std::sqrt(static_cast<double>(dim)); }
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

/// Segments of many lengths, some of which share a prefix.
inline const std::vector<Part> mixed = {{5}, {37}, {1}, {40, 1, 37}, {3, 1, 20}, {64}, {70, 5, 33}, {2, 0, 5}};

/// Some tokens of an operand.
inline Tensor take(const Tensor& t, const std::vector<int64_t>& rows) {
  std::vector<int64_t> shape = t.shape;
  shape[0] = static_cast<int64_t>(rows.size());
  Tensor out(t.dtype, shape);
  const size_t bytes = t.bytes.size() / static_cast<size_t>(t.shape[0]);
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(&out.bytes[i * bytes], &t.bytes[static_cast<size_t>(rows[i]) * bytes], bytes);
  return out;
}

}  // namespace check
