// fill, copy, casts, gather_rows, scatter_add_rows: exact results, tails, empty tensors, bad ids.
#include "check.h"

using namespace check;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr int64_t sizes[] = {0, 1, 3, 15, 16, 17, 63, 1000, 16384, 40001};

void check_fill(const Level& level) {
  SerialRuntime rt;
  for (const int64_t n : sizes) {
    Tensor x(DType::f32, {n});
    CHECK_OK(level.kernel(make_call(rt, {x.view()}, {-2.5})));
    CHECK_SAME(x, Tensor(DType::f32, {n}).fill(-2.5));
  }
}

void check_copy(const Level& level) {
  Random random(1);
  for (const int64_t n : sizes)
    for (const DType from : types)
      for (const DType to : types) {
        ThreadedRuntime rt(3);
        const Tensor x = random_tensor(random, from, {n});
        Tensor y(to, {n}), wanted(to, {n});
        for (int64_t i = 0; i < n; ++i) wanted.set(i, x.at(i));
        CHECK_OK(level.kernel(make_call(rt, {y.view(), x.view()})));
        CHECK_SAME(y, wanted);
      }
  SerialRuntime rt;
  CHECK_CODE(level.kernel(make_call(rt, {Tensor(DType::f32, {6}).view(), Tensor(DType::f32, {5}).view()})), shape);
  CHECK_OK(level.kernel(make_call(rt, {Tensor(DType::f32, {6}).view(), Tensor(DType::f32, {2, 3}).view()})));
}

void check_cast(const Level& level, DType to) {
  Random random(2);
  SerialRuntime rt;
  for (const int64_t n : sizes)
    for (const DType from : types) {
      Tensor x = random_tensor(random, from, {n}), y(to, {n}), wanted(to, {n});
      if (n > 3) x.set(1, NAN), x.set(2, INFINITY), x.set(3, -0.0);
      for (int64_t i = 0; i < n; ++i) wanted.set(i, x.at(i));
      CHECK_OK(level.kernel(make_call(rt, {x.view(), y.view()})));
      CHECK_SAME(y, wanted);
    }
  CHECK_CODE(level.kernel(make_call(rt, {Tensor(DType::f32, {2, 3}).view(), Tensor(to, {3, 2}).view()})), shape);
}

std::vector<int32_t> random_ids(Random& random, int64_t count, int64_t below) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(random.below(below)));
  return ids;
}

void check_gather(const Level& level) {
  Random random(3);
  for (const int64_t width : {1, 7, 64, 129})
    for (const DType type : types) {
      ThreadedRuntime rt(3);
      const std::vector<int32_t> ids = random_ids(random, 300, 11);
      const Tensor x = random_tensor(random, type, {11, width});
      Tensor y(type, {300, width}), wanted(type, {300, width});
      for (int64_t n = 0; n < 300; ++n)
        for (int64_t i = 0; i < width; ++i) wanted.set(n * width + i, x.at(ids[static_cast<size_t>(n)] * width + i));
      CHECK_OK(level.kernel(make_call(rt, {x.view(), integers(ids).view(), y.view()})));
      CHECK_SAME(y, wanted);
    }
}

void check_bad_rows(const Level& level) {
  SerialRuntime rt;
  const Tensor table(DType::f32, {4, 3});
  const auto call = [&](const Tensor& ids, const Tensor& batch) {
    return level.kernel(make_call(rt, {table.view(), ids.view(), batch.view()}));
  };
  CHECK_CODE(call(integers({0, 4}), Tensor(DType::f32, {2, 3})), shape);
  CHECK_CODE(call(integers({0, -1}), Tensor(DType::f32, {2, 3})), shape);
  CHECK_CODE(call(integers({0, 1}), Tensor(DType::f32, {2, 4})), shape);
  CHECK_CODE(call(integers({0, 1}), Tensor(DType::f32, {3, 3})), shape);
  CHECK_CODE(call(integers({0, 1}), Tensor(DType::f32, {6})), shape);
  CHECK_OK(call(integers({}), Tensor(DType::f32, {0, 3})));
}

void check_scatter(const Level& level) {
  Random random(4);
  for (const int64_t width : {1, 7, 64, 129, 200})
    for (const DType type : types) {
      const int64_t count = 500;
      const std::vector<int32_t> ids = random_ids(random, count, 9);
      const Tensor dy = random_tensor(random, type, {count, width});
      const Tensor before = random_tensor(random, DType::f32, {9, width});
      Tensor wanted = before, dx = before, parts = before;
      for (int64_t n = 0; n < count; ++n)
        for (int64_t i = 0; i < width; ++i) {
          const int64_t at = ids[static_cast<size_t>(n)] * width + i;
          wanted.as<float>()[at] += static_cast<float>(dy.at(n * width + i));
        }
      SerialRuntime rt;
      const Tensor all = integers(ids);
      CHECK_OK(level.kernel(make_call(rt, {dx.view(), all.view(), dy.view()})));
      CHECK_SAME(dx, wanted);
      CHECK_OK(level.kernel(make_call(rt, {parts.view(), all.rows(0, 201), dy.rows(0, 201)})));
      CHECK_OK(level.kernel(make_call(rt, {parts.view(), all.rows(201, 299), dy.rows(201, 299)})));
      CHECK_SAME(parts, wanted);
      CHECK(same_on_threads(level.kernel, make_call(rt, {dx.view(), all.view(), dy.view()}), dx, before));
    }
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(fill), check_fill);
  for_levels(WS_LEVELS(copy), check_copy);
  for_levels(WS_LEVELS(cast_f32), [](const Level& level) { check_cast(level, DType::f32); });
  for_levels(WS_LEVELS(cast_bf16), [](const Level& level) { check_cast(level, DType::bf16); });
  for_levels(WS_LEVELS(gather_rows), [](const Level& level) { check_gather(level), check_bad_rows(level); });
  for_levels(WS_LEVELS(scatter_add_rows), [](const Level& level) { check_scatter(level), check_bad_rows(level); });
  return report();
}
