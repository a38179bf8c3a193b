// gemm() of one instruction set against its contract: every element is one chain of multiply-adds along k (of bf16 at
// WS_LEVEL 5 one of sums over 32 elements), so the expected bits are those of a plain loop, whatever the shape, strides, types or threads. Compiled once per
// instruction set with the flags of the kernel files (WS_LEVEL, WS_NS).
#include "check.h"

#include "../../native/cpu/gemm.h"
#if WS_LEVEL >= 5
#include "../../native/cpu/amx.h"

namespace ws::WS_NS {
const char* check_tiles();
}
#endif

using namespace check;
using namespace ws::WS_NS;

namespace {

/// What VDPBF16PS and tiles make of denormal numbers.
[[maybe_unused]] float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

float step(float a, float b, float c, [[maybe_unused]] bool pairs) {
#if WS_LEVEL == 1
  return a * b + c;
#else
  if (pairs) return flush(__builtin_fmaf(flush(a), flush(b), flush(c)));
  return __builtin_fmaf(a, b, c);
#endif
}

/// One sum by tiles: groups of 32 elements, the last one filled up with zeros; even and odd elements apart.
[[maybe_unused]] float tile_sum(float sum, const float* a, const float* b, int64_t k) {
  for (int64_t first = 0; first < k; first += 32) {
    float parts[2] = {0, 0};
    for (int64_t i = 0; i < 32; ++i) {
      const bool exists = first + i < k;
      const float x = exists ? flush(a[first + i]) : 0.0f, y = exists ? flush(b[first + i]) : 0.0f;
      parts[i % 2] = flush(__builtin_fmaf(x, y, parts[i % 2]));
    }
    sum = flush(flush(sum) + flush(parts[0] + parts[1]));
  }
  return sum;
}

enum class Order { rows, columns, spread };

/// A tensor and the matrix that it is: rows x columns in some memory order.
struct Operand {
  Tensor tensor;
  Matrix matrix;
  float at(int64_t row, int64_t column) const {
    return static_cast<float>(tensor.at(row * matrix.row_stride + column * matrix.column_stride));
  }
};

Operand operand(Random& random, DType dtype, int64_t rows, int64_t columns, Order order) {
  int64_t row = columns, column = 1, size = rows * columns;
  if (order == Order::columns) row = 1, column = rows;
  if (order == Order::spread) row = 2 * columns + 3, column = 2, size = rows * row;
  Operand o{random_tensor(random, dtype, {size}), {}};
  o.matrix = {o.tensor.bytes.data(), dtype, row, column};
  return o;
}

struct Case {
  GemmShape s;
  Order a, b;
  DType a_type, b_type, c_type;
  bool accumulate;
};

std::string describe(const Case& c) {
  char text[160];
  std::snprintf(text, sizeof text, "m %lld n %lld k %lld orders %d %d types %s %s > %s accumulate %d",
                static_cast<long long>(c.s.m), static_cast<long long>(c.s.n), static_cast<long long>(c.s.k),
                static_cast<int>(c.a), static_cast<int>(c.b), dtype_name(c.a_type), dtype_name(c.b_type),
                dtype_name(c.c_type), c.accumulate);
  return text;
}

Tensor expected(const Case& c, const Operand& a, const Operand& b, const Tensor& before, int64_t stride) {
  Tensor out = before;
  const bool halves = c.a_type == DType::bf16 && c.b_type == DType::bf16, pairs = WS_LEVEL == 4 && halves;
  const bool tiles = WS_LEVEL == 5 && halves;
  std::vector<float> row(static_cast<size_t>(c.s.k)), column(static_cast<size_t>(c.s.n * c.s.k));
  for (int64_t j = 0; j < c.s.n; ++j)
    for (int64_t k = 0; k < c.s.k; ++k) column[static_cast<size_t>(j * c.s.k + k)] = b.at(k, j);
  for (int64_t i = 0; i < c.s.m; ++i) {
    for (int64_t k = 0; k < c.s.k; ++k) row[static_cast<size_t>(k)] = a.at(i, k);
    for (int64_t j = 0; j < c.s.n; ++j) {
      float sum = c.accumulate ? static_cast<float>(before.at(i * stride + j)) : 0.0f;
      if (tiles) sum = tile_sum(sum, row.data(), column.data() + j * c.s.k, c.s.k);
      for (int64_t k = 0; k < c.s.k && !tiles; ++k)
        sum = step(row[static_cast<size_t>(k)], column[static_cast<size_t>(j * c.s.k + k)], sum, pairs);
      out.set(i * stride + j, sum);
    }
  }
  return out;
}

void run(Runtime& rt, const Case& c, const Operand& a, const Operand& b, Tensor& out, int64_t stride) {
  void* scratch = rt.scratch(gemm_scratch_bytes(rt, c.s));
  gemm(rt, c.s, a.matrix, b.matrix, {out.bytes.data(), out.dtype, stride}, c.accumulate, scratch);
}

void check_case(const Case& c, bool threads) {
  Random random(static_cast<uint64_t>(c.s.m * 1000003 + c.s.n * 1009 + c.s.k));
  const Operand a = operand(random, c.a_type, c.s.m, c.s.k, c.a);
  const Operand b = operand(random, c.b_type, c.s.k, c.s.n, c.b);
  const int64_t stride = c.s.n + 5;
  const Tensor before = random_tensor(random, c.c_type, {c.s.m * stride});
  const Tensor wanted = expected(c, a, b, before, stride);
  SerialRuntime serial;
  Tensor out = before;
  run(serial, c, a, b, out, stride);
  CHECK_SAYING(same_bits(out, wanted), describe(c));
  for (const int n : {2, 3, 8}) {
    if (!threads) break;
    ThreadedRuntime rt(n);
    out = before;
    run(rt, c, a, b, out, stride);
    CHECK_SAYING(same_bits(out, wanted), describe(c));
  }
}

constexpr DType types[] = {DType::f32, DType::bf16};
constexpr Order orders[] = {Order::rows, Order::columns, Order::spread};

/// Every size around the edges of vectors, register tiles and blocks of k.
void check_sizes() {
  for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25})
    for (const int64_t n : {1, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 65})
      for (const int64_t k : {1, 2, 7, 8, 15, 16, 17, 33})
        for (const DType type : types)
          for (const Order b : {Order::rows, Order::columns})
            check_case({{m, n, k}, Order::rows, b, type, type, type, false}, false);
}

void check_orders_and_types() {
  for (const GemmShape s : {GemmShape{1, 40, 300}, {13, 37, 19}, {200, 70, 40}, {50, 33, 513}})
    for (const Order a : orders)
      for (const Order b : orders)
        for (const DType at : types)
          for (const DType bt : types)
            for (const DType ct : types)
              for (const bool accumulate : {false, true})
                if (!accumulate || ct == DType::f32) check_case({s, a, b, at, bt, ct, accumulate}, false);
}

void check_threads() {
  for (const GemmShape s : {GemmShape{1, 700, 300}, {64, 512, 128}, {400, 200, 300}, {130, 1100, 64}, {97, 193, 600}})
    for (const Order b : {Order::rows, Order::columns})
      for (const DType type : types) check_case({s, Order::rows, b, type, type, type, false}, true);
  for (const DType type : types)
    check_case({{140, 270, 777}, Order::columns, Order::rows, type, type, DType::f32, true}, true);
}

/// Several blocks of k and several tiles each way; B packed by every task, read in place, packed once for all; sums that
/// wait in C between passes.
void check_large() {
  check_case({{250, 1600, 1400}, Order::rows, Order::columns, DType::bf16, DType::bf16, DType::bf16, false}, false);
  check_case({{200, 610, 1801}, Order::columns, Order::rows, DType::bf16, DType::bf16, DType::f32, true}, true);
  check_case({{210, 1100, 1031}, Order::rows, Order::columns, DType::f32, DType::f32, DType::f32, false}, true);
  for (const DType type : types) {
    check_case({{250, 70, 1100}, Order::columns, Order::rows, type, type, DType::f32, true}, true);
    check_case({{300, 610, 1090}, Order::columns, Order::rows, type, type, DType::f32, true}, true);
    check_case({{70, 1300, 45}, Order::columns, Order::rows, type, type, DType::f32, true}, true);
    check_case({{400, 45, 1030}, Order::rows, Order::columns, type, type, type, false}, true);
    check_case({{410, 301, 530}, Order::rows, Order::rows, type, type, type, false}, true);
    check_case({{3, 130, 1100}, Order::rows, Order::columns, type, type, type, false}, true);
  }
}

/// bf16 of any bits whose exponents lie in [first, last].
void fill_bits(Random& random, Tensor& t, int64_t first, int64_t last) {
  for (int64_t i = 0; i < t.size(); ++i) {
    const int64_t exponent = first + random.below(last - first + 1);
    t.as<bf16>()[i].bits = static_cast<uint16_t>(random.below(2) << 15 | exponent << 7 | random.below(128));
  }
}

/// Products whose sums are denormal, overflow, or are NaN (of any payload).
void check_extremes() {
  const struct {
    int64_t first, last;
  } exponents[] = {{50, 75}, {0, 100}, {180, 230}, {0, 255}};
  for (const auto& range : exponents)
    for (const GemmShape s : {GemmShape{1, 40, 9}, {3, 33, 64}, {30, 70, 35}, {250, 33, 1100}})
      for (const Order order : orders)
        for (const DType type : types) {
          const Case c = {s, order, order, DType::bf16, DType::bf16, type, type == DType::f32};
          Random random(static_cast<uint64_t>(s.m + range.last));
          Operand a = operand(random, DType::bf16, s.m, s.k, order), b = operand(random, DType::bf16, s.k, s.n, order);
          fill_bits(random, a.tensor, range.first, range.last);
          fill_bits(random, b.tensor, range.first, range.last);
          const Tensor before = random_tensor(random, type, {s.m * s.n}, range.last < 128 ? 1e-38 : 1.0);
          Tensor wanted = expected(c, a, b, before, s.n), out = before;
          SerialRuntime rt;
          run(rt, c, a, b, out, s.n);
          for (Tensor* t : {&wanted, &out})
            for (int64_t i = 0; i < t->size(); ++i)
              if (std::isnan(t->at(i))) t->set(i, NAN);
          CHECK_SAYING(same_bits(out, wanted), describe(c));
        }
}

/// Where a sum of bf16 products may be cut.
constexpr int64_t alignment = WS_LEVEL == 5 ? 32 : 1;

/// Calls over parts of k, wherever it may be cut, are one call over k.
void check_chain(int64_t k, int64_t wanted, int64_t first, int64_t last) {
  const int64_t half = wanted / alignment * alignment;
  Random random(7);
  const int64_t m = 33, n = 47;
  Operand a = operand(random, DType::bf16, m, k, Order::columns);
  Operand b = operand(random, DType::bf16, k, n, Order::rows);
  fill_bits(random, a.tensor, first, last);
  fill_bits(random, b.tensor, first, last);
  Tensor whole = random_tensor(random, DType::f32, {m * n}, last < 128 ? 1e-38 : 1.0);
  for (int64_t i = 0; i < n; ++i) whole.set(i, -0.0);
  Tensor parts = whole;
  SerialRuntime rt;
  const auto product = [&](Tensor& c, int64_t from, int64_t steps) {
    Matrix at = a.matrix, bt = b.matrix;
    at.data = a.tensor.as<bf16>() + from * at.column_stride;
    bt.data = b.tensor.as<bf16>() + from * bt.row_stride;
    const GemmShape s = {m, n, steps};
    gemm(rt, s, at, bt, {c.bytes.data(), DType::f32, n}, true, rt.scratch(gemm_scratch_bytes(rt, s)));
  };
  product(whole, 0, k);
  product(parts, 0, half);
  product(parts, half, k - half);
  CHECK_SAME(whole, parts);
}

/// Few rows, whose other operand is read in place where it can be, alone and among others.
void check_few() {
  for (const GemmShape s : {GemmShape{1, 40, 512}, {5, 70, 1500}, {16, 600, 544}, {33, 90, 1031}, {96, 130, 1056}})
    for (const Order b : {Order::rows, Order::columns})
      for (const DType type : types) check_case({s, Order::rows, b, DType::bf16, DType::bf16, type, false}, true);
  for (const int64_t m : {3, 5, 6, 15, 23, 24, 25})
    for (const Order a : orders)
      for (const DType type : types) check_case({{m, 75, 145}, a, Order::columns, type, type, DType::f32, true}, false);
}

#if WS_LEVEL >= 5

/// The model of tiles against the guide's order, which is one chain, and the self-check against the model.
void check_model() {
  Random random(11);
  Tensor a(DType::bf16, {16, 32}), b(DType::bf16, {16, 32});
  for (const auto& range : {std::pair<int64_t, int64_t>{100, 140}, {40, 80}, {0, 100}}) {
    fill_bits(random, a, range.first, range.second);
    fill_bits(random, b, range.first, range.second);
    TileModel<Reading::guide> model;
    TileShapes shapes;
    for (int t = 0; t < 3; ++t) shapes.rows[t] = 16, shapes.row_bytes[t] = 64;
    model.configure(shapes);
    model.zero_tile(0);
    model.load_tile(1, a.bytes.data(), 64);
    model.load_tile(2, b.bytes.data(), 64);
    model.multiply(0, 1, 2);
    float got[16][16];
    model.store_tile(0, got, 64);
    for (int64_t m = 0; m < 16; ++m)
      for (int64_t n = 0; n < 16; ++n) {
        float sum = 0;
        for (int64_t k = 0; k < 32; ++k) {
          const float x = flush(static_cast<float>(a.at(m * 32 + k)));
          sum = flush(__builtin_fmaf(x, flush(static_cast<float>(b.at(k / 2 * 32 + 2 * n + k % 2))), sum));
        }
        CHECK(std::memcmp(&sum, &got[m][n], 4) == 0);
      }
  }
  CHECK(check_tiles() == nullptr);
}

#endif

void check_empty() {
  for (const DType type : types) {
    check_case({{0, 5, 3}, Order::rows, Order::rows, type, type, type, false}, true);
    check_case({{5, 0, 3}, Order::rows, Order::rows, type, type, type, false}, true);
    check_case({{5, 3, 0}, Order::rows, Order::rows, type, type, type, false}, true);
  }
  check_case({{5, 3, 0}, Order::rows, Order::rows, DType::f32, DType::f32, DType::f32, true}, true);
}

/// A NaN stays in its own row or column.
void check_nan() {
  Random random(9);
  const int64_t m = 14, n = 35, k = 20;
  Operand a = operand(random, DType::f32, m, k, Order::rows), b = operand(random, DType::f32, k, n, Order::columns);
  a.tensor.set(3 * k + 2, std::nan(""));
  b.tensor.set(34 * k + 5, INFINITY);
  Tensor c(DType::f32, {m * n});
  SerialRuntime rt;
  run(rt, {{m, n, k}, Order::rows, Order::columns, DType::f32, DType::f32, DType::f32, false}, a, b, c, n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) CHECK(std::isfinite(c.at(i * n + j)) == (i != 3 && j != 34));
}

}  // namespace

int main() {
  if (!has_level(WS_LEVEL)) return report();
  check_sizes();
  check_orders_and_types();
  check_threads();
  check_large();
  check_few();
#if WS_LEVEL >= 5
  check_model();
#endif
  check_extremes();
  for (const int64_t half : {1, 2, 32, 311, 599}) {
    check_chain(600, half, 115, 130);
    check_chain(600, half, 50, 75);
  }
  check_chain(1, 0, 115, 130);
  check_chain(3, 1, 50, 64);
  check_empty();
  check_nan();
  return report();
}
