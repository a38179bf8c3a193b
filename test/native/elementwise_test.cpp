// Elementwise kernels against f64 formulas, element by element; tails, extremes, NaN, thread independence.
#include "check.h"

using namespace check;

namespace {

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr int64_t sizes[] = {0, 1, 5, 16, 31, 100, 20000};

using Formula = std::function<double(const std::vector<double>&)>;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double silu(double x) { return x * sigmoid(x); }
double silu_slope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
double gelu_inner(double x) { return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(gelu_inner(x))); }
double gelu_slope(double x) {
  const double t = std::tanh(gelu_inner(x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

/// Every element computed in a call of its own has the bits that it has among others.
void check_alone(Kernel kernel, const Call& whole, size_t inputs, const std::vector<Tensor>& t) {
  for (int64_t i = 0; i < t[0].size(); ++i) {
    std::vector<Tensor> single;
    Call call = whole;
    for (size_t k = 0; k < t.size(); ++k) {
      single.push_back(Tensor(t[k].dtype, {1}).fill(t[k].at(i)));
      call.t[k] = single[k].view();
    }
    CHECK_OK(kernel(call));
    for (size_t k = inputs; k < t.size(); ++k) CHECK(same_bytes(single[k].view(), t[k].rows(i, 1)));
  }
}

/// Inputs of the given count, then outputs with one formula each; compares every output with its formula, and elements
/// computed one by one with those of the whole, bit for bit.
void check_formulas(Kernel kernel, size_t inputs, const std::vector<Formula>& formulas,
                    const std::vector<double>& parameters) {
  Random random(5);
  for (const int64_t n : sizes)
    for (const DType type : types) {
      SerialRuntime rt;
      std::vector<Tensor> t;
      Call call = make_call(rt, {});
      for (size_t i = 0; i < inputs; ++i) t.push_back(random_tensor(random, type, {n}, 3.0));
      for (size_t i = 0; i < formulas.size(); ++i) t.push_back(Tensor(type, {n}));
      for (const Tensor& x : t) call.t[call.operands++] = x.view();
      for (const double p : parameters) call.p[call.parameters++] = p;
      CHECK_OK(kernel(call));
      for (size_t o = 0; o < formulas.size(); ++o) {
        std::vector<double> wanted;
        for (int64_t i = 0; i < n; ++i) {
          std::vector<double> in;
          for (size_t k = 0; k < inputs; ++k) in.push_back(t[k].at(i));
          wanted.push_back(formulas[o](in));
        }
        CHECK_CLOSE(t[inputs + o], wanted, 16 * unit(DType::f32) + unit(type) / 2, 2e-6);
        CHECK(same_on_threads(kernel, call, t[inputs + o], Tensor(t[inputs + o])));
      }
      if (n <= 100) check_alone(kernel, call, inputs, t);
    }
}

void check_add_bias(const Level& level) {
  Random random(6);
  SerialRuntime rt;
  for (const int64_t width : {1, 16, 37})
    for (const DType type : types) {
      const Tensor x = random_tensor(random, type, {29, width}), b = random_tensor(random, type, {width});
      Tensor y(type, {29, width});
      std::vector<double> wanted;
      for (int64_t i = 0; i < x.size(); ++i) wanted.push_back(x.at(i) + b.at(i % width));
      const Call call = make_call(rt, {x.view(), b.view(), y.view()});
      CHECK_OK(level.kernel(call));
      CHECK_CLOSE(y, wanted, unit(type) / 2, 0);
      CHECK(same_on_threads(level.kernel, call, y, Tensor(y)));
    }
  const Tensor x(DType::f32, {4, 3});
  CHECK_CODE(level.kernel(make_call(rt, {x.view(), Tensor(DType::f32, {4}).view(), x.view()})), shape);
  CHECK_CODE(level.kernel(make_call(rt, {x.view(), Tensor(DType::f32, {3}).view(), Tensor(DType::f32, {3, 4}).view()})),
             shape);
}

/// Kernels of equal shapes refuse others, whichever operand differs.
void check_shapes(Kernel kernel, int operands, std::initializer_list<double> parameters) {
  SerialRuntime rt;
  for (int odd = 0; odd < operands; ++odd) {
    const Tensor even(DType::f32, {2, 3}), other(DType::f32, {3, 2});
    Call call = make_call(rt, {}, parameters);
    for (int i = 0; i < operands; ++i) call.t[call.operands++] = i == odd ? other.view() : even.view();
    CHECK_CODE(kernel(call), shape);
  }
}

double once(Kernel kernel, std::initializer_list<double> inputs, int outputs, int which, double parameter) {
  SerialRuntime rt;
  std::vector<Tensor> t;
  for (const double x : inputs) t.push_back(Tensor(DType::f32, {1}).fill(x));
  for (int i = 0; i < outputs; ++i) t.push_back(Tensor(DType::f32, {1}));
  Call call = make_call(rt, {}, {parameter});
  for (const Tensor& x : t) call.t[call.operands++] = x.view();
  CHECK_OK(kernel(call));
  return t[inputs.size() + static_cast<size_t>(which)].at(0);
}

/// Far tails are exact, gradients there are finite, NaN stays NaN.
void check_extremes() {
  for_levels(WS_LEVELS(glu), [](const Level& level) {
    for (const double act : {0.0, 1.0}) {
      CHECK(once(level.kernel, {1e30, 1}, 1, 0, act) == static_cast<double>(1e30f));
      CHECK(once(level.kernel, {-1e30, 1}, 1, 0, act) == 0);
      CHECK(std::isnan(once(level.kernel, {NAN, 1}, 1, 0, act)));
      CHECK(std::isnan(once(level.kernel, {1, NAN}, 1, 0, act)));
    }
    SerialRuntime rt;
    const Tensor x(DType::f32, {1});
    CHECK_CODE(level.kernel(make_call(rt, {x.view(), x.view(), x.view()}, {2})), config);
  });
  for_levels(WS_LEVELS(glu_backward), [](const Level& level) {
    for (const double act : {0.0, 1.0}) {
      CHECK(once(level.kernel, {1, 1e30, 1}, 2, 0, act) == 1);
      CHECK(std::fabs(once(level.kernel, {1, -1e30, 1}, 2, 0, act)) < 1e-40);
      CHECK(std::isnan(once(level.kernel, {1, NAN, 1}, 2, 0, act)));
    }
  });
}

}  // namespace

int main() {
  using In = const std::vector<double>&;
  for_levels(WS_LEVELS(add), [](const Level& level) {
    check_formulas(level.kernel, 2, {[](In x) { return x[0] + x[1]; }}, {});
    check_shapes(level.kernel, 3, {});
  });
  for_levels(WS_LEVELS(add_bias), check_add_bias);
  for_levels(WS_LEVELS(scale), [](const Level& level) {
    check_formulas(level.kernel, 1, {[](In x) { return x[0] * -0.75; }}, {-0.75});
    check_shapes(level.kernel, 2, {1});
  });
  for_levels(WS_LEVELS(glu), [](const Level& level) {
    check_formulas(level.kernel, 2, {[](In x) { return silu(x[0]) * x[1]; }}, {0});
    check_formulas(level.kernel, 2, {[](In x) { return gelu_tanh(x[0]) * x[1]; }}, {1});
    check_shapes(level.kernel, 3, {0});
  });
  for_levels(WS_LEVELS(glu_backward), [](const Level& level) {
    check_formulas(level.kernel, 3,
                   {[](In x) { return x[0] * x[2] * silu_slope(x[1]); }, [](In x) { return x[0] * silu(x[1]); }}, {0});
    check_formulas(level.kernel, 3,
                   {[](In x) { return x[0] * x[2] * gelu_slope(x[1]); }, [](In x) { return x[0] * gelu_tanh(x[1]); }},
                   {1});
    check_shapes(level.kernel, 5, {1});
  });
  for_levels(WS_LEVELS(gelu), [](const Level& level) {
    check_formulas(level.kernel, 1, {[](In x) { return gelu_tanh(x[0]); }}, {});
    check_shapes(level.kernel, 2, {});
  });
  for_levels(WS_LEVELS(gelu_backward), [](const Level& level) {
    check_formulas(level.kernel, 2, {[](In x) { return x[0] * gelu_slope(x[1]); }}, {});
    check_shapes(level.kernel, 3, {});
  });
  check_extremes();
  return report();
}
