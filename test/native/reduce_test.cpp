// column_sum, add_norm, all_finite: exact chains, fixed trees, thread independence, non-finite inputs.
#include "check.h"

using namespace check;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};

void check_columns(const Level& level) {
  Random random(8);
  SerialRuntime rt;
  for (const int64_t rows : {0, 1, 3, 200})
    for (const int64_t width : {1, 5, 16, 33, 64, 100, 200})
      for (const DType type : types) {
        const Tensor dy = random_tensor(random, type, {rows, width});
        const Tensor before = random_tensor(random, DType::f32, {width});
        Tensor wanted = before, db = before;
        for (int64_t i = 0; i < dy.size(); ++i) wanted.as<float>()[i % width] += static_cast<float>(dy.at(i));
        const Call call = make_call(rt, {db.view(), dy.view()});
        CHECK_OK(level.kernel(call));
        CHECK_SAME(db, wanted);
        CHECK(same_on_threads(level.kernel, call, db, before));
        if (rows < 2) continue;
        Tensor parts = before;
        CHECK_OK(level.kernel(make_call(rt, {parts.view(), dy.rows(0, rows / 2)})));
        CHECK_OK(level.kernel(make_call(rt, {parts.view(), dy.rows(rows / 2, rows - rows / 2)})));
        CHECK_SAME(parts, wanted);
      }
  CHECK_CODE(level.kernel(make_call(rt, {Tensor(DType::f32, {3}).view(), Tensor(DType::f32, {3, 4}).view()})), shape);
}

void check_squares(const Level& level) {
  Random random(9);
  SerialRuntime rt;
  for (const int64_t n : {0, 1, 15, 16, 17, 4095, 4096, 4097, 100001}) {
    const Tensor x = random_tensor(random, DType::f32, {n});
    Tensor acc = Tensor(DType::f32, {1}).fill(2.5);
    double wanted = 2.5 * 2.5;
    for (int64_t i = 0; i < n; ++i) wanted += x.at(i) * x.at(i);
    const Call call = make_call(rt, {acc.view(), x.view()});
    CHECK_OK(level.kernel(call));
    CHECK_CLOSE(acc, {std::sqrt(wanted)}, unit(DType::f32), 0);
    CHECK(same_on_threads(level.kernel, call, acc, Tensor(DType::f32, {1}).fill(2.5)));
  }
  Tensor acc(DType::f32, {1}), x(DType::f32, {5000});
  for (const double size : {1e-40, 1e-30, 1e25, 4e36}) {
    acc.fill(0);
    x.fill(size);
    CHECK_OK(level.kernel(make_call(rt, {acc.view(), x.view()})));
    CHECK_CLOSE(acc, {std::sqrt(5000.0) * x.at(0)}, unit(DType::f32), 1e-45);
  }
  x.fill(3e38);
  CHECK_OK(level.kernel(make_call(rt, {acc.view(), x.view()})));
  CHECK(std::isinf(acc.at(0)));
  acc.fill(0);
  x.set(4999, NAN);
  CHECK_OK(level.kernel(make_call(rt, {acc.view(), x.view()})));
  CHECK(std::isnan(acc.at(0)));
  CHECK_CODE(level.kernel(make_call(rt, {Tensor(DType::f32, {2}).view(), x.view()})), shape);
  rt.short_of_memory = true;
  CHECK_CODE(level.kernel(make_call(rt, {acc.view(), x.view()})), oom);
}

void check_finite(const Level& level) {
  const int64_t n = 40003;
  for (const int64_t at : {int64_t{0}, int64_t{16384}, n - 1})
    for (const double bad : {0.0, HUGE_VAL, -HUGE_VAL, std::nan(""), 3.4e38}) {
      ThreadedRuntime rt(3);
      Tensor x = Tensor(DType::f32, {n}).fill(1), ok = integers({1});
      x.set(at, bad);
      CHECK_OK(level.kernel(make_call(rt, {ok.view(), x.view()})));
      CHECK(ok.at(0) == (std::isfinite(bad) ? 1 : 0));
      x.set(at, 1);
      ok = integers({0});
      CHECK_OK(level.kernel(make_call(rt, {ok.view(), x.view()})));
      CHECK(ok.at(0) == 0);
    }
  SerialRuntime rt;
  Tensor ok = integers({1});
  CHECK_OK(level.kernel(make_call(rt, {ok.view(), Tensor(DType::f32, {0}).view()})));
  CHECK(ok.at(0) == 1);
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(column_sum), check_columns);
  for_levels(WS_LEVELS(add_norm), check_squares);
  for_levels(WS_LEVELS(all_finite), check_finite);
  return report();
}
