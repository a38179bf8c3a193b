// Reductions on the GPU: column sums, sum of squares, test for non-finite numbers. Orders are fixed: a column is one chain
// in row order; squares are summed in f64 by chunks of 4096 elements in a fixed tree, and the chunks in another.
#include "vectors.h"

namespace ws::cuda {
namespace {

struct SumArguments {
  const void* dy;
  float* db;
  int64_t rows, width;
};

template <class T>
WS_DEVICE void sum_columns(const SumArguments& a) {
  const T* in = static_cast<const T*>(a.dy);
  column_chain(a.db, a.rows, a.width,
               [=](int64_t row, int64_t column, float sum) { return sum + value(in[row * a.width + column]); });
}
WS_KERNEL_FOR_BOTH(column_sum, chain_threads, SumArguments, a, sum_columns)

constexpr int reduce_threads = 256;
constexpr int64_t chunk = 4096;

/// Sum of what the threads of a block bring, in thread 0: a fixed tree.
WS_DEVICE double block_sum(double v) {
  double* sums = reinterpret_cast<double*>(shared());
  sums[thread()] = v;
  for (int half = reduce_threads / 2; half > 0; half /= 2) {
    barrier();
    if (thread() < half) sums[thread()] += sums[thread() + half];
  }
  return thread() == 0 ? sums[0] : 0.0;
}

struct SquareArguments {
  const float* x;
  double* partial;  // one per chunk
  float* acc;
  int64_t size, chunks;
};

WS_KERNEL(square_chunks, reduce_threads, SquareArguments, a) {
  const int64_t first = static_cast<int64_t>(block().x) * chunk;
  double sum = 0;
  for (int64_t i = first + thread(); i < first + chunk && i < a.size; i += reduce_threads) {
    const double x = static_cast<double>(a.x[i]);
    sum += x * x;
  }
  const double total = block_sum(sum);
  if (thread() == 0) a.partial[block().x] = total;
}

WS_KERNEL(square_total, reduce_threads, SquareArguments, a) {
  double sum = 0;
  for (int64_t i = thread(); i < a.chunks; i += reduce_threads) sum += a.partial[i];
  const double total = block_sum(sum);
  if (thread() == 0) {
    const double before = static_cast<double>(*a.acc);
    *a.acc = static_cast<float>(root(before * before + total));
  }
}

struct FiniteArguments {
  const void* x;
  int32_t* ok;
  int64_t size;
};

template <class T>
WS_DEVICE void find_nonfinite(const FiniteArguments& a) {
  const Span s = flat_span(a.size);
  float x[span];
  bool found = false;
  if (s.n > 0) load(static_cast<const T*>(a.x) + s.at, s.n, x);
  for (int i = 0; i < span; ++i)
    if (i < s.n) found |= !is_finite(x[i]);
  if (found) lower_flag(a.ok);
}
WS_KERNEL_FOR_BOTH(find_nonfinite, map_threads, FiniteArguments, a, find_nonfinite)

}  // namespace

#if WS_HOST

Status column_sum(const Call& c, Launcher& on) {
  const View &db = c.t[0], &dy = c.t[1];
  WS_CHECK(dy.rank >= 1, shape, "dy: expected at least one dimension");
  WS_TRY(vector_of(db, "db", dy.last()));
  const SumArguments a = {dy.data, db.as<float>(), dy.rows(), dy.last()};
  return start(on, dy.dtype == DType::f32 ? column_sum_f32 : column_sum_bf16, {blocks_for(a.width, chain_threads), 1, 1},
               0, a);
}

Status add_norm(const Call& c, Launcher& on) {
  WS_TRY(single(c.t[0], "acc"));
  SquareArguments a = {c.t[1].as<float>(), nullptr, c.t[0].as<float>(), c.t[1].size(), 0};
  a.chunks = (a.size + chunk - 1) / chunk;
  if (a.chunks == 0) return {};
  a.partial = static_cast<double*>(on.scratch(a.chunks * 8));
  WS_CHECK(a.partial, oom, "no memory for %lld partial sums", static_cast<long long>(a.chunks));
  WS_TRY(start(on, square_chunks, {static_cast<uint32_t>(a.chunks), 1, 1}, reduce_threads * 8, a));
  return start(on, square_total, {1, 1, 1}, reduce_threads * 8, a);
}

Status all_finite(const Call& c, Launcher& on) {
  WS_TRY(single(c.t[0], "ok"));
  const View& x = c.t[1];
  const FiniteArguments a = {x.data, c.t[0].as<int32_t>(), x.size()};
  return start(on, x.dtype == DType::f32 ? find_nonfinite_f32 : find_nonfinite_bf16,
               {blocks_for(a.size, map_threads * span), 1, 1}, 0, a);
}

#endif

}  // namespace ws::cuda
