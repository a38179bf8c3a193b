// Rotary positions and the paged cache of keys and values: against plain loops, on any number of threads, and what must
// be refused. That attention reads the cache rightly is tested in attention_test.cpp.
#include <algorithm>

#include "check.h"

using namespace check;

namespace {

void test_rope(const Level& level) {
  for (const DType type : {DType::f32, DType::bf16}) {
    for (const auto& [dim, half] :
         {std::pair<int64_t, int64_t>{64, 32}, {24, 12}, {80, 16}, {72, 36}, {8, 4}, {9, 4}, {16, 0}}) {
      Random random(static_cast<uint64_t>(dim));
      const int64_t n = 7, heads = 3, places = 50;
      const Tensor x = random_tensor(random, type, {n, heads, dim});
      Tensor cosines(DType::f32, {places, half}), sines(DType::f32, {places, half}), positions(DType::i32, {n});
      for (int64_t i = 0; i < places * half; ++i) {
        const double angle = static_cast<double>(i / half) *
                             std::pow(10000.0, -static_cast<double>(i % half) / static_cast<double>(half));
        cosines.set(i, std::cos(angle));
        sines.set(i, std::sin(angle));
      }
      for (int64_t i = 0; i < n; ++i) positions.set(i, static_cast<double>(random.below(places)));
      Tensor y(type, x.shape), back(type, x.shape);
      SerialRuntime rt;
      CHECK_OK(level.kernel(make_call(rt, {x.view(), cosines.view(), sines.view(), positions.view(), y.view()}, {0})));
      CHECK_OK(
          level.kernel(make_call(rt, {y.view(), cosines.view(), sines.view(), positions.view(), back.view()}, {1})));
      std::vector<double> expected, original;
      for (int64_t i = 0; i < x.size(); ++i) {
        const int64_t d = i % dim, row = i - d, place = static_cast<int64_t>(positions.at(i / (dim * heads))) * half;
        const int64_t j = d % std::max<int64_t>(half, 1);
        double value = x.at(i);
        if (d < half) value = x.at(row + j) * cosines.at(place + j) - x.at(row + half + j) * sines.at(place + j);
        else if (d < 2 * half) value = x.at(i) * cosines.at(place + j) + x.at(row + j) * sines.at(place + j);
        expected.push_back(value);
        original.push_back(x.at(i));
      }
      const bool f32 = type == DType::f32;
      CHECK_CLOSE(y, expected, unit(type), f32 ? 1e-6 : 1e-6);
      CHECK_CLOSE(back, original, f32 ? 1e-6 : 0.02, f32 ? 1e-6 : 0.02);
      CHECK(same_on_threads(level.kernel,
                            make_call(rt, {x.view(), cosines.view(), sines.view(), positions.view(), y.view()}, {0}), y,
                            y));
      positions.set(3, static_cast<double>(places));
      CHECK_CODE(level.kernel(make_call(rt, {x.view(), cosines.view(), sines.view(), positions.view(), y.view()}, {0})),
                 shape);
      positions.set(3, -1);
      CHECK_CODE(level.kernel(make_call(rt, {x.view(), cosines.view(), sines.view(), positions.view(), y.view()}, {0})),
                 shape);
    }
  }
}

void test_cache(Kernel write, Kernel copy) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Random random(3);
    struct {
      Tensor keys, values;
    } cache = {Tensor(type, {4, 2, 5, 32}).fill(-7), Tensor(type, {4, 2, 32, 5}).fill(-7)};
    const Tensor k = random_tensor(random, type, {3, 2, 5}), v = random_tensor(random, type, {3, 2, 5});
    SerialRuntime rt;
    const Tensor slots = integers({2 * 32 + 31, -1, 5});
    CHECK_OK(write(make_call(rt, {cache.keys.view(), cache.values.view(), k.view(), v.view(), slots.view()})));
    const Tensor from = integers({2, 0}), to = integers({1, 3});
    CHECK_OK(copy(make_call(rt, {cache.keys.view(), cache.values.view(), from.view(), to.view()})));
    bool good = true;
    for (int64_t block = 0; block < 4; ++block)
      for (int64_t head = 0; head < 2; ++head)
        for (int64_t d = 0; d < 5; ++d)
          for (int64_t lane = 0; lane < 32; ++lane) {
            const int token = (block == 1 || block == 2) && lane == 31  ? 0
                              : (block == 0 || block == 3) && lane == 5 ? 2
                                                                        : -1;
            const int64_t at = (token * 2 + head) * 5 + d, slab = (block * 2 + head) * 160;
            good = good && cache.keys.at(slab + d * 32 + lane) == (token < 0 ? -7 : k.at(at));
            good = good && cache.values.at(slab + lane * 5 + d) == (token < 0 ? -7 : v.at(at));
          }
    CHECK(good);
    const Tensor far = integers({1, 2, 128}), short_slots = integers({1}), bad = integers({4, 0}),
                 minus = integers({0, -1});
    CHECK_CODE(write(make_call(rt, {cache.keys.view(), cache.values.view(), k.view(), v.view(), far.view()})), shape);
    CHECK_CODE(write(make_call(rt, {cache.keys.view(), cache.values.view(), k.view(), v.view(), short_slots.view()})),
               shape);
    CHECK_CODE(write(make_call(rt, {cache.values.view(), cache.keys.view(), k.view(), v.view(), slots.view()})), shape);
    CHECK_CODE(copy(make_call(rt, {cache.keys.view(), cache.values.view(), bad.view(), to.view()})), shape);
    CHECK_CODE(copy(make_call(rt, {cache.keys.view(), cache.values.view(), from.view(), minus.view()})), shape);
    CHECK_CODE(copy(make_call(rt, {cache.keys.view(), cache.values.view(), from.view(), short_slots.view()})), shape);
  }
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(rope), test_rope);
  if (has_v2()) test_cache(v2::cache_write, v2::cache_copy);
  if (has_avx2()) test_cache(avx2::cache_write, avx2::cache_copy);
  if (has_avx512()) test_cache(avx512::cache_write, avx512::cache_copy);
  if (has_avx512bf16()) test_cache(avx512bf16::cache_write, avx512bf16::cache_copy);
  if (has_amx()) test_cache(amx::cache_write, amx::cache_copy);
  return report();
}
