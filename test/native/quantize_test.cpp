// quantize_nf4, dequantize_nf4, dequantize_blockwise: codes and numbers bit for bit against scalar code, blocks that end
// early, thread independence, shapes.
#include "../../native/core/nf4.h"
#include "check.h"

using namespace check;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr int64_t sizes[] = {0, 1, 2, 63, 64, 65, 200, 16384 + 77, 40000};

Tensor room(DType type, int64_t n, int64_t each) { return Tensor(type, {(n + each - 1) / each}).fill(7); }

/// The code of element i.
int code_at(const Tensor& codes, int64_t i) { return static_cast<int>(codes.at(i / 2)) >> (i % 2 == 0 ? 4 : 0) & 15; }

int nearest(float x) {
  int code = 0;
  while (code < 15 && x > nf4_threshold(code)) ++code;
  return code;
}

void check_quantize(const Level& level) {
  Random random(11);
  SerialRuntime rt;
  for (const int64_t n : sizes)
    for (const DType type : types) {
      Tensor x = random_tensor(random, type, {n}, 0.02);
      for (int64_t i = 64; i < n && i < 128; ++i) x.set(i, 0);
      Tensor codes = room(DType::u8, n, 2), absmax = room(DType::f32, n, nf4_block);
      const Tensor before = codes;
      const Call call = make_call(rt, {codes.view(), absmax.view(), x.view()});
      CHECK_OK(level.kernel(call));
      bool right = true;
      for (int64_t i = 0; i < n; ++i) {
        float most = 0;
        for (int64_t j = i / 64 * 64; j < n && j < i / 64 * 64 + 64; ++j)
          most = std::max(most, static_cast<float>(std::fabs(x.at(j))));
        right = right && static_cast<float>(absmax.at(i / 64)) == most &&
                code_at(codes, i) == (most > 0 ? nearest(static_cast<float>(x.at(i)) / most) : 7);
      }
      CHECK(right);
      CHECK(same_on_threads(level.kernel, call, codes, before));
    }
  const View x = Tensor(DType::f32, {130}).view(), codes = Tensor(DType::u8, {65}).view();
  CHECK_CODE(level.kernel(make_call(rt, {codes, Tensor(DType::f32, {2}).view(), x})), shape);
  CHECK_CODE(level.kernel(make_call(rt, {Tensor(DType::u8, {64}).view(), Tensor(DType::f32, {3}).view(), x})), shape);
}

void check_dequantize(const Level& level) {
  Random random(12);
  SerialRuntime rt;
  for (const int64_t n : sizes)
    for (const DType type : types) {
      Tensor codes = room(DType::u8, n, 2), w(type, {n});
      for (int64_t i = 0; i < codes.size(); ++i) codes.set(i, static_cast<double>(random.below(256)));
      const Tensor absmax = random_tensor(random, DType::f32, {(n + 63) / 64});
      Tensor wanted = w;
      for (int64_t i = 0; i < n; ++i) wanted.set(i, nf4_levels[code_at(codes, i)] * static_cast<float>(absmax.at(i / 64)));
      const Call call = make_call(rt, {w.view(), codes.view(), absmax.view()});
      CHECK_OK(level.kernel(call));
      CHECK_SAME(w, wanted);
      CHECK(same_on_threads(level.kernel, call, w, Tensor(type, {n})));
    }
  const View w = Tensor(DType::f32, {2, 64}).view(), codes = Tensor(DType::u8, {64}).view();
  CHECK_CODE(level.kernel(make_call(rt, {w, codes, Tensor(DType::f32, {1}).view()})), shape);
  CHECK_CODE(level.kernel(make_call(rt, {w, Tensor(DType::u8, {2, 32}).view(), Tensor(DType::f32, {2}).view()})), shape);
}

void check_blockwise(const Level& level) {
  Random random(13);
  SerialRuntime rt;
  const Tensor map = random_tensor(random, DType::f32, {256}), offset = random_tensor(random, DType::f32, {1});
  for (const int64_t n : sizes) {
    Tensor codes(DType::u8, {n}), y(DType::f32, {n});
    for (int64_t i = 0; i < n; ++i) codes.set(i, static_cast<double>(random.below(256)));
    const Tensor absmax = random_tensor(random, DType::f32, {(n + 255) / 256});
    Tensor wanted = y;
    for (int64_t i = 0; i < n; ++i) {
      const float product = static_cast<float>(map.at(static_cast<int64_t>(codes.at(i))) * absmax.at(i / 256));
      wanted.set(i, product + static_cast<float>(offset.at(0)));
    }
    const Call call = make_call(rt, {y.view(), codes.view(), map.view(), absmax.view(), offset.view()});
    CHECK_OK(level.kernel(call));
    CHECK_SAME(y, wanted);
    CHECK(same_on_threads(level.kernel, call, y, Tensor(DType::f32, {n})));
  }
  const View y = Tensor(DType::f32, {300}).view(), codes = Tensor(DType::u8, {300}).view();
  const View one = Tensor(DType::f32, {1}).view(), two = Tensor(DType::f32, {2}).view();
  CHECK_CODE(level.kernel(make_call(rt, {y, codes, map.view(), one, one})), shape);
  CHECK_CODE(level.kernel(make_call(rt, {y, codes, two, two, one})), shape);
  CHECK_CODE(level.kernel(make_call(rt, {y, codes, map.view(), two, two})), shape);
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(quantize_nf4), check_quantize);
  for_levels(WS_LEVELS(dequantize_nf4), check_dequantize);
  for_levels(WS_LEVELS(dequantize_blockwise), check_blockwise);
  return report();
}
