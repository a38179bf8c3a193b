// The vector layer of one instruction set: rounding to bf16, tails, transposition, sums and exp against scalar code.
// Compiled once per instruction set with the flags of the kernel files (WS_LEVEL, WS_NS).
#include "check.h"

#include "../../native/cpu/simd.h"

using namespace check;
namespace simd = ws::WS_NS;
using simd::V;
using simd::W;

namespace {

float first_lane(V a) {
  float x[W];
  simd::store(x, a);
  return x[0];
}

float from_bits(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

bool same_number(float a, float b) { return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }

/// Every bf16 widens exactly; rounding agrees with the scalar code around every bf16, ties and NaN included.
void check_bf16() {
  bool widened = true, rounded = true;
  for (uint32_t high = 0; high < 0x10000; ++high) {
    bf16 in[W], out[W];
    for (auto& x : in) x.bits = static_cast<uint16_t>(high);
    widened = widened && same_number(first_lane(simd::load(in)), from_bits(high << 16));
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float f = from_bits(high << 16 | low);
      simd::store(out, simd::set1(f));
      rounded = rounded && out[W - 1].bits == to_bf16(f).bits;
    }
  }
  CHECK(widened);
  CHECK(rounded);
}

template <class T>
void check_tails() {
  for (int n = 0; n <= W; ++n) {
    std::vector<T> in(static_cast<size_t>(n)), out(static_cast<size_t>(n) + 1);
    for (int i = 0; i < n; ++i) {
      if constexpr (sizeof(T) == 4) in[static_cast<size_t>(i)] = static_cast<float>(i + 1);
      else in[static_cast<size_t>(i)] = to_bf16(static_cast<float>(i + 1));
    }
    float lanes[W];
    const V v = simd::load_n(in.data(), n);
    simd::store(lanes, v);
    for (int i = 0; i < W; ++i) CHECK(lanes[i] == (i < n ? static_cast<float>(i + 1) : 0.0f));
    simd::store_n(out.data(), v, n);
    for (int i = 0; i < n; ++i) CHECK(to_float(out[static_cast<size_t>(i)]) == static_cast<float>(i + 1));
    CHECK(to_float(out[static_cast<size_t>(n)]) == 0.0f);
  }
}

void check_look_up() {
  float table[16];
  for (int i = 0; i < 16; ++i) table[i] = static_cast<float>(100 + i);
  for (int shift = 0; shift < 16; ++shift) {
    uint8_t at[16];
    for (int i = 0; i < 16; ++i) at[i] = static_cast<uint8_t>((5 * i + shift) & 15);
    float found[W];
    simd::store(found, simd::look_up(table, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
    for (int i = 0; i < W; ++i) CHECK(found[i] == table[at[i]]);
  }
}

void check_transpose() {
  V r[W];
  for (int i = 0; i < W; ++i) {
    float row[W];
    for (int j = 0; j < W; ++j) row[j] = static_cast<float>(100 * i + j);
    r[i] = simd::load(row);
  }
  simd::transpose(r);
  const auto check = [&](const V* columns) {
    for (int i = 0; i < W; ++i) {
      float row[W];
      simd::store(row, columns[i]);
      for (int j = 0; j < W; ++j) CHECK(row[j] == static_cast<float>(100 * j + i));
    }
  };
  check(r);
  float lines[W][W];
  for (int i = 0; i < W; ++i) {
    for (int j = 0; j < W; ++j) lines[i][j] = static_cast<float>(100 * i + j);
  }
  V columns[W];
  simd::load_transposed([&](int i) { return lines[i]; }, columns);
  check(columns);
}

void check_sums() {
  float x[W], largest = -1e30f;
  double sum = 0;
  Random random(3);
  for (float& f : x) {
    f = static_cast<float>(random.normal());
    sum += f;
    largest = f > largest ? f : largest;
  }
  CHECK(std::fabs(simd::hsum(simd::load(x)) - sum) < 1e-5);
  CHECK(simd::hmax(simd::load(x)) == largest);
}

void check_arithmetic() {
  const V a = simd::set1(3.5f), b = simd::set1(-2.0f), nan = simd::set1(std::nanf(""));
  CHECK(first_lane(simd::fma(a, b, a)) == -3.5f);
  CHECK(first_lane(simd::max(a, b)) == 3.5f);
  CHECK(first_lane(simd::min(a, b)) == -2.0f);
  CHECK(std::isnan(first_lane(simd::max(a, nan))));
  CHECK(first_lane(simd::max(nan, a)) == 3.5f);
  CHECK(first_lane(simd::round(simd::set1(2.5f))) == 2.0f);
  CHECK(first_lane(simd::pow2(simd::set1(-126.0f))) == 0x1p-126f);
  CHECK(first_lane(simd::pow2(simd::set1(127.0f))) == 0x1p127f);
  CHECK(first_lane(simd::scale2(simd::set1(0.75f), simd::set1(128.0f))) == 0x1.8p127f);
  CHECK(first_lane(simd::scale2(simd::set1(1.5f), simd::set1(-126.0f))) == 0x1.8p-126f);
  CHECK(first_lane(simd::scale2(simd::set1(1.5f), simd::set1(-125.0f))) == 0x1.8p-125f);
  CHECK(std::isinf(first_lane(simd::scale2(simd::set1(1.0f), simd::set1(128.0f)))));
  CHECK(first_lane(simd::select_less(b, a, a, b)) == 3.5f);
  CHECK(first_lane(simd::select_less(nan, a, a, b)) == -2.0f);
}

/// Errors in units of the last place of the result.
void check_exp() {
  double worst = 0;
  for (double x = -87.3; x < 88.7; x += 0.000917) {
    const float f = static_cast<float>(x);
    const double exact = std::exp(static_cast<double>(f));
    const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
    worst = std::fmax(worst, std::fabs(simd::exp1(f) - exact) / ulp);
  }
  CHECK_SAYING(worst < 1.5, "exp is within 1.5 ulp, found " + std::to_string(worst));
  CHECK(simd::exp1(0.0f) == 1.0f);
  CHECK(simd::exp1(-INFINITY) == 0.0f);
  CHECK(simd::exp1(-200.0f) == 0.0f);
  CHECK(std::isinf(simd::exp1(INFINITY)) && std::isinf(simd::exp1(88.73f)));
  CHECK(std::isfinite(simd::exp1(88.72f)));
  CHECK(std::isnan(simd::exp1(std::nanf(""))));
}

}  // namespace

int main() {
  if (!has_level(WS_LEVEL)) return report();
  check_bf16();
  check_tails<float>();
  check_tails<bf16>();
  check_look_up();
  check_transpose();
  check_sums();
  check_arithmetic();
  check_exp();
  return report();
}
