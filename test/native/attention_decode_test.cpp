// Attention over the paged cache: the bits of the packed forward pass, alone and with pages in common, on any number of
// threads, and what must be refused.
#include <algorithm>

#include "attention_batch.h"

using namespace check;

namespace {

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

// Refusals -----------------------------------------------------------------------------------------------------------

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

void test_empty(Kernel decode) {
  SerialRuntime rt;
  const Tensor q(DType::f32, {0, 4, 8}), keys(DType::f32, {0, 2, 8, 32}), values(DType::f32, {0, 2, 32, 8});
  const Tensor table(DType::i32, {0, 0}), lengths(DType::i32, {0});
  CHECK_OK(
      decode(make_call(rt, {q.view(), keys.view(), values.view(), table.view(), lengths.view(), q.view()}, {1, 0, 0})));
}

struct Set {
  bool available;
  Kernels kernels;
};

const Set sets[] = {
    {has_v2(), {v2::attention, v2::attention_decode, v2::cache_write}},
    {has_avx2(), {avx2::attention, avx2::attention_decode, avx2::cache_write}},
    {has_avx512(), {avx512::attention, avx512::attention_decode, avx512::cache_write}},
    {has_avx512bf16(), {avx512bf16::attention, avx512bf16::attention_decode, avx512bf16::cache_write}},
    {has_amx(), {amx::attention, amx::attention_decode, amx::cache_write}},
};

void test_level(const Kernels& kernels) {
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const Setting& set : {Setting{4, 2, 24}, Setting{2, 2, 16, 20, 3}, Setting{9, 1, 64}}) {
      test_decode(kernels, Batch(packed(mixed), set, type, 21));
    }
    for (const int64_t dim : {5, 80, 96, 128, 256}) {
      test_decode(kernels, Batch(packed({{70}, {40, 0, 33}}), {5, 1, dim}, type, 22));
    }
    test_decode(kernels, Batch(packed({{70}, {40, 0, 33}}), {4, 2, 40, 0, 0, -1}, type, 22));
    test_decode(kernels, Batch(packed({{70}, {40, 0, 33}}), {4, 2, 40, 0, 0, 0}, type, 22));
    for (const double tiny : {1e-37, 1e-38, 1e-40}) {
      Batch b(packed({{70}, {40, 0, 33}}), {4, 2, 40}, type, 22);
      for (int64_t i = 0; i < b.v.size(); ++i) b.v.set(i, b.v.at(i) * tiny);
      test_decode(kernels, b);
    }
    test_decode_shared(kernels.decode, type);
  }
  test_decode_threads(kernels);
  test_decode_refusals(kernels.decode);
  test_empty(kernels.decode);
}

}  // namespace

int main() {
  for (const Set& s : sets)
    if (s.available) test_level(s.kernels);
  return report();
}
