// RMSNorm and LayerNorm with gradients against f64; a row alone and in a batch; micro-batches; extremes.
#include "check.h"

using namespace check;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr int64_t widths[] = {1, 3, 16, 17, 64, 100, 576};

/// One layer's tensors with f64 statistics, for x of shape [3, 5, C].
struct Norm {
  int64_t rows = 15, width;
  double eps = 1e-5, offset = 0;
  bool centered;
  Tensor x, w, b, dy, mean, rstd;

  Norm(DType type, int64_t c, bool layer_norm, double add_to_w) : width(c), offset(add_to_w), centered(layer_norm) {
    Random random(static_cast<uint64_t>(c) + 11);
    x = random_tensor(random, type, {3, 5, c}, 2.0);
    if (centered)
      for (int64_t i = 0; i < x.size(); ++i) x.set(i, x.at(i) + 3);
    w = random_tensor(random, type, {c});
    b = random_tensor(random, type, {c});
    dy = random_tensor(random, type, {3, 5, c});
    mean = Tensor(DType::f32, {3, 5});
    rstd = Tensor(DType::f32, {3, 5});
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < c; ++i) sum += centered ? x.at(r * c + i) : 0;
      const double middle = sum / static_cast<double>(c);
      for (int64_t i = 0; i < c; ++i) squares += std::pow(x.at(r * c + i) - middle, 2);
      mean.set(r, middle);
      rstd.set(r, 1 / std::sqrt(squares / static_cast<double>(c) + eps));
    }
  }
  double normed(int64_t i) const { return (x.at(i) - mean.at(i / width)) * rstd.at(i / width); }
  double gained(int64_t i) const { return dy.at(i) * (w.at(i % width) + offset); }

  std::vector<double> y() const {
    std::vector<double> out;
    for (int64_t i = 0; i < x.size(); ++i)
      out.push_back(normed(i) * (w.at(i % width) + offset) + (centered ? b.at(i % width) : 0));
    return out;
  }
  std::vector<double> dx() const {
    std::vector<double> out;
    for (int64_t r = 0; r < rows; ++r) {
      double even = 0, along = 0;
      for (int64_t i = r * width; i < (r + 1) * width; ++i) even += gained(i), along += gained(i) * normed(i);
      if (!centered) even = 0;
      for (int64_t i = r * width; i < (r + 1) * width; ++i) {
        const double c = static_cast<double>(width);
        out.push_back(rstd.at(r) * (gained(i) - even / c - normed(i) * along / c));
      }
    }
    return out;
  }
  std::vector<double> dw(const Tensor& before) const {
    std::vector<double> out;
    for (int64_t c = 0; c < width; ++c) {
      double sum = before.at(c);
      for (int64_t r = 0; r < rows; ++r) sum += dy.at(r * width + c) * normed(r * width + c);
      out.push_back(sum);
    }
    return out;
  }
};

double relative(DType type) { return type == DType::f32 ? 1e-5 : unit(type) / 2 + 1e-5; }

void check_rms(const Level& level) {
  for (const DType type : types)
    for (const int64_t c : widths)
      for (const double offset : {0.0, 1.0}) {
        SerialRuntime rt;
        const Norm n(type, c, false, offset);
        Tensor y(type, {3, 5, c}), rstd(DType::f32, {3, 5}), alone(type, {1, 5, c}), alone_rstd(DType::f32, {1, 5});
        const Call call = make_call(rt, {n.x.view(), n.w.view(), y.view(), rstd.view()}, {n.eps, offset});
        CHECK_OK(level.kernel(call));
        CHECK_CLOSE(y, n.y(), relative(type), 1e-6);
        for (int64_t r = 0; r < n.rows; ++r) CHECK(std::fabs(rstd.at(r) / n.rstd.at(r) - 1) < 1e-6);
        CHECK(same_on_threads(level.kernel, call, y, Tensor(y)));
        CHECK_OK(level.kernel(
            make_call(rt, {n.x.rows(2, 1), n.w.view(), alone.view(), alone_rstd.view()}, {n.eps, offset})));
        CHECK(same_bytes(alone.view(), y.rows(2, 1)) && same_bytes(alone_rstd.view(), rstd.rows(2, 1)));
      }
}

void check_rms_dx(const Level& level) {
  for (const DType type : types)
    for (const int64_t c : widths)
      for (const double offset : {0.0, 1.0}) {
        SerialRuntime rt;
        const Norm n(type, c, false, offset);
        Tensor dx(type, {3, 5, c});
        const Call call = make_call(rt, {n.dy.view(), n.x.view(), n.w.view(), n.rstd.view(), dx.view()}, {offset});
        CHECK_OK(level.kernel(call));
        CHECK_CLOSE(dx, n.dx(), relative(type), c == 1 ? 1e-4 : 5e-6);
        CHECK(same_on_threads(level.kernel, call, dx, Tensor(dx)));
      }
}

void check_layer(const Level& level) {
  for (const DType type : types)
    for (const int64_t c : widths) {
      SerialRuntime rt;
      const Norm n(type, c, true, 0);
      Tensor y(type, {3, 5, c}), mean(DType::f32, {3, 5}), rstd(DType::f32, {3, 5});
      const Call call =
          make_call(rt, {n.x.view(), n.w.view(), n.b.view(), y.view(), mean.view(), rstd.view()}, {n.eps});
      CHECK_OK(level.kernel(call));
      CHECK_CLOSE(y, n.y(), relative(type), 1e-5);
      for (int64_t r = 0; r < n.rows; ++r) {
        CHECK(std::fabs(mean.at(r) - n.mean.at(r)) < 1e-5);
        CHECK(std::fabs(rstd.at(r) / n.rstd.at(r) - 1) < 1e-5);
      }
      CHECK(same_on_threads(level.kernel, call, y, Tensor(y)));
    }
}

void check_layer_dx(const Level& level) {
  for (const DType type : types)
    for (const int64_t c : widths) {
      SerialRuntime rt;
      const Norm n(type, c, true, 0);
      Tensor dx(type, {3, 5, c});
      const Call call =
          make_call(rt, {n.dy.view(), n.x.view(), n.w.view(), n.mean.view(), n.rstd.view(), dx.view()});
      CHECK_OK(level.kernel(call));
      CHECK_CLOSE(dx, n.dx(), relative(type), 1e-5);
      CHECK(same_on_threads(level.kernel, call, dx, Tensor(dx)));
    }
}

void check_dw(const Level& level, bool centered) {
  for (const DType type : types)
    for (const int64_t c : widths) {
      SerialRuntime rt;
      const Norm n(type, c, centered, 0);
      Random random(5);
      const Tensor before = random_tensor(random, DType::f32, {c});
      Tensor dw = before, parts = before;
      const auto call = [&](Tensor& to, int64_t first, int64_t count) {
        const View dy = n.dy.rows(first, count), x = n.x.rows(first, count), rstd = n.rstd.rows(first, count);
        if (centered) return make_call(rt, {to.view(), dy, x, n.mean.rows(first, count), rstd});
        return make_call(rt, {to.view(), dy, x, rstd});
      };
      CHECK_OK(level.kernel(call(dw, 0, 3)));
      CHECK_CLOSE(dw, n.dw(before), 1e-5, 1e-5);
      CHECK_OK(level.kernel(call(parts, 0, 1)));
      CHECK_OK(level.kernel(call(parts, 1, 2)));
      CHECK_SAME(parts, dw);
      CHECK(same_on_threads(level.kernel, call(dw, 0, 3), dw, before));
    }
}

/// Zero rows, a zero row, a row with NaN beside others, numbers whose squares are large, wrong shapes.
void check_edges(const Level& level) {
  SerialRuntime rt;
  const auto rms = [&](const Tensor& x, const Tensor& w, const Tensor& y, const Tensor& rstd) {
    return level.kernel(make_call(rt, {x.view(), w.view(), y.view(), rstd.view()}, {1e-6, 0}));
  };
  const Tensor w = Tensor(DType::f32, {20}).fill(1);
  CHECK_OK(rms(Tensor(DType::f32, {0, 20}), w, Tensor(DType::f32, {0, 20}), Tensor(DType::f32, {0})));
  Tensor x(DType::f32, {3, 20}), y(DType::f32, {3, 20}), rstd(DType::f32, {3});
  for (int64_t i = 20; i < 40; ++i) x.set(i, 1e18);
  x.set(45, NAN);
  CHECK_OK(rms(x, w, y, rstd));
  for (int64_t i = 0; i < 20; ++i) {
    CHECK(y.at(i) == 0 && std::fabs(y.at(20 + i) - 1) < 1e-6 && std::isnan(y.at(40 + i)));
  }
  CHECK_CODE(rms(x, Tensor(DType::f32, {19}), y, rstd), shape);
  CHECK_CODE(rms(x, w, Tensor(DType::f32, {20, 3}), rstd), shape);
  CHECK_CODE(rms(x, w, y, Tensor(DType::f32, {4})), shape);
  CHECK_CODE(rms(Tensor(DType::f32, {3, 0}), Tensor(DType::f32, {0}), Tensor(DType::f32, {3, 0}), rstd), shape);
}

}  // namespace

int main() {
  for_levels(WS_LEVELS(rms_norm), [](const Level& level) { check_rms(level), check_edges(level); });
  for_levels(WS_LEVELS(rms_norm_dx), check_rms_dx);
  for_levels(WS_LEVELS(rms_norm_dw), [](const Level& level) { check_dw(level, false); });
  for_levels(WS_LEVELS(layer_norm), check_layer);
  for_levels(WS_LEVELS(layer_norm_dx), check_layer_dx);
  for_levels(WS_LEVELS(layer_norm_dw), [](const Level& level) { check_dw(level, true); });
  return report();
}
