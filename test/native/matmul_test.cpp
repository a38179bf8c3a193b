// The three products of a linear layer through the op table: values against f64, shapes, a row alone and in a batch,
// gradient accumulation over micro-batches. gemm_test.cpp compares bits with plain chains.
#include "check.h"

using namespace check;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};

struct Layer {
  int64_t n, c, o;
  Tensor x, w, dy;
  Layer(DType type, int64_t tokens, int64_t in, int64_t out) : n(tokens), c(in), o(out) {
    Random random(static_cast<uint64_t>(tokens + in + out));
    x = random_tensor(random, type, {n, c});
    w = random_tensor(random, type, {o, c}, 0.1);
    dy = random_tensor(random, type, {n, o});
  }
};

/// Largest error of a chain of `length` roundings of products of this size, plus the rounding of the result.
void check_sum(const Tensor& got, int64_t at, double wanted, double magnitude, int64_t length) {
  const double bound = magnitude * static_cast<double>(length + 2) * 0x1p-24 + std::fabs(wanted) * unit(got.dtype) / 2;
  CHECK(std::fabs(got.at(at) - wanted) <= bound + 1e-30);
}

const Layer layers(DType type, int which) {
  static const int64_t shapes[][3] = {{1, 64, 128}, {5, 3, 7}, {37, 130, 65}, {200, 48, 20}, {3, 600, 40}};
  return Layer(type, shapes[which][0], shapes[which][1], shapes[which][2]);
}

void check_forward(const Level& level) {
  for (const DType type : types)
    for (int which = 0; which < 5; ++which) {
      SerialRuntime rt;
      const Layer l = layers(type, which);
      Tensor y(type, {l.n, l.o}), alone(type, {1, l.o});
      const Call call = make_call(rt, {l.x.view(), l.w.view(), y.view()});
      CHECK_OK(level.kernel(call));
      for (int64_t i = 0; i < y.size(); ++i) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < l.c; ++k) {
          const double term = l.x.at(i / l.o * l.c + k) * l.w.at(i % l.o * l.c + k);
          sum += term, size += std::fabs(term);
        }
        check_sum(y, i, sum, size, l.c);
      }
      CHECK(same_on_threads(level.kernel, call, y, Tensor(y)));
      for (const int64_t row : {int64_t{0}, l.n / 2, l.n - 1}) {
        CHECK_OK(level.kernel(make_call(rt, {l.x.rows(row, 1), l.w.view(), alone.view()})));
        CHECK(same_bytes(alone.view(), y.rows(row, 1)));
      }
    }
}

void check_dx(const Level& level) {
  for (const DType type : types)
    for (int which = 0; which < 5; ++which) {
      SerialRuntime rt;
      const Layer l = layers(type, which);
      Tensor dx(type, {l.n, l.c});
      const Call call = make_call(rt, {l.dy.view(), l.w.view(), dx.view()});
      CHECK_OK(level.kernel(call));
      for (int64_t i = 0; i < dx.size(); ++i) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < l.o; ++k) {
          const double term = l.dy.at(i / l.c * l.o + k) * l.w.at(k * l.c + i % l.c);
          sum += term, size += std::fabs(term);
        }
        check_sum(dx, i, sum, size, l.o);
      }
      CHECK(same_on_threads(level.kernel, call, dx, Tensor(dx)));
    }
}

void check_dw(const Level& level) {
  for (const DType type : types)
    for (int which = 0; which < 5; ++which) {
      SerialRuntime rt;
      const Layer l = layers(type, which);
      Random random(77);
      const Tensor before = random_tensor(random, DType::f32, {l.o, l.c});
      Tensor dw = before, parts = before;
      const Call call = make_call(rt, {dw.view(), l.dy.view(), l.x.view()});
      CHECK_OK(level.kernel(call));
      for (int64_t i = 0; i < dw.size(); ++i) {
        double sum = before.at(i), size = std::fabs(sum);
        for (int64_t k = 0; k < l.n; ++k) {
          const double term = l.dy.at(k * l.o + i / l.c) * l.x.at(k * l.c + i % l.c);
          sum += term, size += std::fabs(term);
        }
        check_sum(dw, i, sum, size, l.n);
      }
      // Tiles take 32 tokens at a time.
      const int64_t alignment = std::string(level.name) == "amx" && type == DType::bf16 ? 32 : 1;
      const int64_t half = l.n / 3 / alignment * alignment;
      CHECK_OK(level.kernel(make_call(rt, {parts.view(), l.dy.rows(0, half), l.x.rows(0, half)})));
      CHECK_OK(level.kernel(make_call(rt, {parts.view(), l.dy.rows(half, l.n - half), l.x.rows(half, l.n - half)})));
      CHECK_SAME(parts, dw);
      CHECK(same_on_threads(level.kernel, call, dw, before));
    }
}

void check_refusals(const Level& level, bool forward) {
  SerialRuntime rt;
  const Tensor w(DType::f32, {5, 3});
  const auto call = [&](std::vector<int64_t> first, std::vector<int64_t> last) {
    return level.kernel(make_call(rt, {Tensor(DType::f32, first).view(), w.view(), Tensor(DType::f32, last).view()}));
  };
  const int64_t in = forward ? 3 : 5, out = forward ? 5 : 3;
  CHECK_OK(call({4, in}, {4, out}));
  CHECK_OK(call({2, 2, in}, {2, 2, out}));
  CHECK_OK(call({0, in}, {0, out}));
  CHECK_CODE(call({4, in + 1}, {4, out}), shape);
  CHECK_CODE(call({4, in}, {4, out + 1}), shape);
  CHECK_CODE(call({4, in}, {3, out}), shape);
  CHECK_CODE(call({4, in}, {}), shape);
  rt.short_of_memory = true;
  CHECK_CODE(call({4, in}, {4, out}), oom);
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(linear), [](const Level& level) { check_forward(level), check_refusals(level, true); });
  for_levels(WS_LEVELS(linear_dx), [](const Level& level) { check_dx(level), check_refusals(level, false); });
  for_levels(WS_LEVELS(linear_dw), check_dw);
  return report();
}
