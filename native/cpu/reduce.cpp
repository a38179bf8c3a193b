// Reductions: column sums (bias gradients), sum of squares (gradient norm), test for non-finite numbers.
// Bound by memory: every input is read once. Orders are fixed: a column is one chain in row order; squares are summed
// in f64 by chunks of 4096 elements, and the chunks in order. Bits do not depend on threads.
#include <cmath>

#include "loops.h"

namespace ws::WS_NS {
namespace {

template <class T>
void add_columns(Runtime& rt, const View& db, const View& dy) {
  const T* in = dy.as<T>();
  const int64_t width = dy.last();
  const auto add_row = [=](V sum, int64_t row, int64_t column, auto lanes) {
    return add(sum, load(in + row * width + column, lanes));
  };
  column_chains(rt, dy.rows(), width, db.as<float>(), add_row,
                [=](int64_t row, int64_t column) { prefetch_block(in + row * width + column); });
}

constexpr int64_t chunk = 4096;

/// Sixteen interleaved f64 sums, then a tree: the same on every instruction set.
double squares_of(const float* x, int64_t count) {
  double sums[16] = {0};
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int j = 0; j < 16; ++j) sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  }
  for (int j = 0; i + j < count; ++j) sums[j] += static_cast<double>(x[i + j]) * static_cast<double>(x[i + j]);
  for (int half = 8; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
  }
  return sums[0];
}

/// Is an exponent all ones: infinite or NaN? `infinity` has the exponent's bits of T.
template <class T, class Bits>
bool finite(const T* x, int64_t count, Bits infinity) {
  Bits found = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, x + i, sizeof bits);
    found |= static_cast<Bits>((bits & infinity) == infinity);
  }
  return found == 0;
}

template <class T, class Bits>
void lower_flag(const Call& c, Bits infinity) {
  int32_t* flag = c.t[0].as<int32_t>();
  const T* in = c.t[1].as<T>();
  for_spans(*c.rt, c.t[1].size(), [=](int64_t begin, int64_t end) {
    if (!finite(in + begin, end - begin, infinity)) __atomic_store_n(flag, 0, __ATOMIC_RELAXED);
  });
}

}  // namespace

/// db[c] += sum over rows of dy[row, c]: dy [N,C], db [C] f32. One chain per column, starting from db.
Status column_sum(const Call& c) {
  const View &db = c.t[0], &dy = c.t[1];
  WS_CHECK(dy.rank >= 1, shape, "dy: expected at least one dimension");
  WS_TRY(vector_of(db, "db", dy.last()));
  if (dy.dtype == DType::f32) add_columns<float>(*c.rt, db, dy);
  else add_columns<bf16>(*c.rt, db, dy);
  return {};
}

/// acc = sqrt(acc^2 + sum of x^2), acc one f32. Squares are f64, so that no norm that f32 can hold overflows or vanishes
/// on the way; one rounding to f32 per call.
Status add_norm(const Call& c) {
  const View &acc = c.t[0], &x = c.t[1];
  WS_TRY(single(acc, "acc"));
  const int64_t count = x.size(), chunks = (count + chunk - 1) / chunk, each = span_elements / chunk;
  if (count == 0) return {};
  double* partial = static_cast<double*>(c.rt->scratch(chunks * 8));
  WS_CHECK(partial, oom, "no memory for %lld partial sums", static_cast<long long>(chunks));
  const float* in = x.as<float>();
  parallel_for(*c.rt, (chunks + each - 1) / each, [=](int64_t task, int) {
    for (int64_t i = task * each; i < chunks && i < (task + 1) * each; ++i) {
      const int64_t first = i * chunk;
      partial[i] = squares_of(in + first, count - first < chunk ? count - first : chunk);
    }
  });
  double total = 0;
  for (int64_t i = 0; i < chunks; ++i) total += partial[i];
  float* out = acc.as<float>();
  *out = static_cast<float>(std::sqrt(static_cast<double>(*out) * static_cast<double>(*out) + total));
  return {};
}

/// ok becomes 0 when an element of x is NaN or infinite, and is left alone otherwise.
Status all_finite(const Call& c) {
  WS_TRY(single(c.t[0], "ok"));
  if (c.t[1].dtype == DType::f32) lower_flag<float>(c, uint32_t{0x7f800000});
  else lower_flag<bf16>(c, uint16_t{0x7f80});
  return {};
}

}  // namespace ws::WS_NS
