// The products and exponentials of attention, of one instruction set: their order of arithmetic to the bit, and their error.
// Compiled once per instruction set with the flags of the kernel files (WS_LEVEL, WS_NS).
#include "check.h"

#include "../../native/cpu/attention.h"

using namespace check;
namespace kernels = ws::WS_NS;
using kernels::Steps;
using kernels::V;
using kernels::W;

namespace {

float multiply_add(float a, float b, float c) { return WS_LEVEL == 1 ? a * b + c : std::fma(a, b, c); }

/// The inner product of rows as the kernels' contract has it: one chain, or for tiles a link for 32 elements.
template <class T>
float chain(const T* a, const T* b, int64_t n) {
  float sum = 0;
  if (!kernels::by_tiles<T>) {
    for (int64_t i = 0; i < n; ++i) sum = multiply_add(to_float(a[i]), to_float(b[i]), sum);
    return sum;
  }
  for (int64_t first = 0; first < n; first += 32) {
    float part[2] = {0, 0};
    for (int64_t i = first; i < std::min(n, first + 32); ++i) {
      part[i % 2] = multiply_add(to_float(a[i]), to_float(b[i]), part[i % 2]);
    }
    sum += part[0] + part[1];
  }
  return sum;
}

constexpr int keys = 64;

/// Scores of a block: rows of keys along, rows of queries as columns.
template <class T>
void check_scores(int64_t dim) {
  constexpr int columns = Steps<T>::columns;
  Random random(static_cast<uint64_t>(dim));
  constexpr DType type = sizeof(T) == 4 ? DType::f32 : DType::bf16;
  const Tensor k = random_tensor(random, type, {keys, dim}), q = random_tensor(random, type, {columns, dim});
  const int64_t steps = kernels::steps_for<T>(dim), row = kernels::round_up(steps, W);
  std::vector<float> a(static_cast<size_t>(keys * row)), b(static_cast<size_t>(steps * columns)), c(keys * columns);
  for (int j = 0; j < keys; ++j) kernels::pack_row(k.as<T>() + j * dim, dim, &a[static_cast<size_t>(j * row)]);
  for (int i = 0; i < columns; i += W) {
    const T* rows[W];
    for (int r = 0; r < W; ++r) rows[r] = q.as<T>() + (i + r) * dim;
    kernels::pack_columns(rows, dim, columns, b.data() + i);
  }
  const kernels::TilesFor<T> tiles;
  using Unit = typename Steps<T>::Unit;
  const kernels::Operands t = {a.data(), row, 1, b.data(), columns, c.data(), columns, steps, nullptr};
  kernels::product<Unit, kernels::Start::zero, true>(t, keys, columns / W);
  bool same = true;
  for (int j = 0; j < keys; ++j) {
    for (int i = 0; i < columns; ++i) {
      same = same && c[static_cast<size_t>(j * columns + i)] == chain(k.as<T>() + j * dim, q.as<T>() + i * dim, dim);
    }
  }
  CHECK_SAYING(same, "scores have the order of the contract at D = " + std::to_string(dim));
}

/// Rows of keys and their steps are the same numbers in other places; a block has keys that do not exist.
template <class T>
void check_steps(int64_t dim) {
  constexpr int per = Steps<T>::per;
  Random random(7);
  constexpr DType type = sizeof(T) == 4 ? DType::f32 : DType::bf16;
  const Tensor x = random_tensor(random, type, {keys, dim});
  kernels::Heads h = {};
  h.dim = dim;
  h.padded = kernels::round_up(dim, W);
  const int exist = 39;
  const T* rows[keys];
  for (int j = 0; j < keys; ++j) rows[j] = j < exist ? x.as<T>() + j * dim : nullptr;
  std::vector<float> packed(static_cast<size_t>(keys / per * h.padded), NAN);
  kernels::pack_steps<T>(h, rows, keys, packed.data());
  bool same = true;
  for (int j = 0; j < keys; ++j) {
    for (int64_t d = 0; d < h.padded; ++d) {
      const int64_t at = kernels::by_tiles<T> ? d * (keys / per) + j / per : j / per * h.padded + d;
      T got;
      const int half = per == 1 ? 0 : kernels::by_tiles<T> ? j % 2 : 1 - j % 2;
      std::memcpy(&got, reinterpret_cast<const char*>(&packed[static_cast<size_t>(at)]) + half * 2, sizeof got);
      const double number = per == 1 ? static_cast<double>(packed[static_cast<size_t>(at)]) : to_float(got);
      same = same && number == (j < exist && d < dim ? x.at(j * dim + d) : 0);
    }
  }
  CHECK_SAYING(same, "keys as steps at D = " + std::to_string(dim));
}

template <class T>
float power(float x) {
  V four[4] = {kernels::set1(x), kernels::set1(0), kernels::set1(x), kernels::set1(x)};
  kernels::exponential<T>(four);
  float lanes[W];
  kernels::store(lanes, four[2]);
  return lanes[W - 1];
}

template <class T>
void check_exponential() {
  double worst = 0;
  for (double x = -124; x < 1; x += 0.000917) {
    const auto f = static_cast<float>(x);
    worst = std::fmax(worst, std::fabs(power<T>(f) / std::exp2(static_cast<double>(f)) - 1));
  }
  CHECK_SAYING(worst < 2e-7, "2^x is off by at most 2e-7, found " + std::to_string(worst * 1e7) + "e-7");
  CHECK(power<T>(-1e30f) <= 0x1p-125f && power<T>(-INFINITY) <= 0x1p-125f && power<T>(-INFINITY) >= 0);
  CHECK(std::isnan(power<T>(std::nanf(""))));
  CHECK(std::fabs(power<T>(-1e-9f) - 1) < 2e-7);
}

template <class T>
void check_type() {
  for (const int64_t dim : {1, 5, 16, 32, 33, 64, 80, 128}) {
    check_scores<T>(dim);
    check_steps<T>(dim);
  }
  check_exponential<T>();
}

/// Not in main(), whose beginning would then have instructions that this processor may lack.
[[gnu::noinline]] void check_all() {
  check_type<float>();
  check_type<bf16>();
}

}  // namespace

int main() {
  if (has_level(WS_LEVEL)) check_all();
  return report();
}
