// Moving elements on the GPU: fill, copies that convert, gathering rows by id, and its gradient. Bound by memory.
// Semantics: native/cpu/layout.cpp; results have its bits.
#include "vectors.h"

namespace ws::cuda {
namespace {

struct FillArguments {
  float* x;
  int64_t size;
  float value;
};

WS_KERNEL(fill_f32, map_threads, FillArguments, a) {
  const Span s = flat_span(a.size);
  float x[span];
  for (int i = 0; i < span; ++i) x[i] = a.value;
  store(a.x + s.at, s.n, x);
}

struct ConvertArguments {
  const void* from;
  void* to;
  int64_t size;
};

template <class From, class To>
WS_DEVICE void convert(const ConvertArguments& a) {
  const Span s = flat_span(a.size);
  if (s.n <= 0) return;
  float x[span];
  load(static_cast<const From*>(a.from) + s.at, s.n, x);
  store(static_cast<To*>(a.to) + s.at, s.n, x);
}

WS_KERNEL(convert_f32_f32, map_threads, ConvertArguments, a) { convert<float, float>(a); }
WS_KERNEL(convert_bf16_f32, map_threads, ConvertArguments, a) { convert<bf16, float>(a); }
WS_KERNEL(convert_f32_bf16, map_threads, ConvertArguments, a) { convert<float, bf16>(a); }

/// Two-byte elements as they are: a conversion would change the bits of NaN.
WS_KERNEL(copy_words, map_threads, ConvertArguments, a) {
  const Span s = flat_span(a.size);
  const uint16_t* from = static_cast<const uint16_t*>(a.from) + s.at;
  uint16_t* to = static_cast<uint16_t*>(a.to) + s.at;
  if (s.n == span && aligned(from) && aligned(to)) {
    *reinterpret_cast<Quad*>(to) = *reinterpret_cast<const Quad*>(from);
    return;
  }
  for (int i = 0; i < s.n; ++i) to[i] = from[i];
}

struct RowArguments {
  const void* from;  // gather: table; scatter: dy
  const int32_t* ids;
  void* to;          // gather: batch; scatter: table of sums
  int64_t tokens, table_rows, width;
  Fault* fault;
};

/// A warp copies `span` x 32 elements of one row. Grid: parts of a row, tokens by four.
template <class T>
WS_DEVICE void gather(const RowArguments& a) {
  const int64_t token = static_cast<int64_t>(block().x) * 4 + warp();
  const int64_t column = (static_cast<int64_t>(block().y) * warp_size + lane()) * span;
  if (token >= a.tokens) return;
  const int32_t id = a.ids[token];
  if (!check_index(a.fault, Op::gather_rows, 1, token, id, a.table_rows) || column >= a.width) return;
  const int64_t left = a.width - column;
  const int n = static_cast<int>(left < span ? left : span);
  const T* from = static_cast<const T*>(a.from) + id * a.width + column;
  T* to = static_cast<T*>(a.to) + token * a.width + column;
  if (n == span && aligned(from) && aligned(to)) {
    for (int i = 0; i < static_cast<int>(sizeof(T)) / 2; ++i)
      reinterpret_cast<Quad*>(to)[i] = reinterpret_cast<const Quad*>(from)[i];
    return;
  }
  for (int i = 0; i < n; ++i) to[i] = from[i];
}
WS_KERNEL_FOR_BOTH(gather_rows, 128, RowArguments, a, gather)

/// The warp of an id's first token adds the rows of all its tokens, in token order: a chain per element, no atomics.
template <class T>
WS_DEVICE void scatter(const RowArguments& a) {
  const int64_t token = block().x;
  const int32_t id = a.ids[token];
  if (!check_index(a.fault, Op::scatter_add_rows, 1, token, id, a.table_rows)) return;
  for (int64_t at = 0; at < token; at += warp_size) {
    const int64_t other = at + lane();
    if (ballot(other < token && a.ids[other] == id) != 0) return;
  }
  const int64_t column = (static_cast<int64_t>(block().y) * warp_size + lane()) * span, left = a.width - column;
  const int n = static_cast<int>(left < 0 ? 0 : left < span ? left : span);
  float* to = static_cast<float*>(a.to) + id * a.width + column;
  float sum[span];
  load(to, n, sum);
  for (int64_t at = token; at < a.tokens; at += warp_size) {
    const int64_t other = at + lane();
    uint32_t found = ballot(other < a.tokens && a.ids[other] == id);
    for (int i = 0; i < warp_size; ++i, found >>= 1) {
      if ((found & 1) == 0) continue;
      float x[span];
      load(static_cast<const T*>(a.from) + (at + i) * a.width + column, n, x);
      for (int j = 0; j < span; ++j) sum[j] += x[j];
    }
  }
  store(to, n, sum);
}
WS_KERNEL_FOR_BOTH(scatter_add_rows, warp_size, RowArguments, a, scatter)

}  // namespace

#if WS_HOST

namespace {

Status convert_any(Launcher& on, const View& from, const View& to) {
  const ConvertArguments a = {from.data, to.data, to.size()};
  const Extent grid = {blocks_for(a.size, map_threads * span), 1, 1};
  if (from.dtype != to.dtype) return start(on, to.dtype == DType::f32 ? convert_bf16_f32 : convert_f32_bf16, grid, 0, a);
  return start(on, to.dtype == DType::f32 ? convert_f32_f32 : copy_words, grid, 0, a);
}

Status check_rows(const View& table, const View& ids, const View& batch) {
  WS_CHECK(table.rank >= 1 && batch.rank == table.rank && ids.rank == 1, shape,
           "expected a table, ids and rows, got shapes %s, %s, %s", shape_text(table).text, shape_text(ids).text,
           shape_text(batch).text);
  for (int i = 1; i < table.rank; ++i) WS_SAME(batch.dims[i], table.dims[i], "width of a row");
  WS_SAME(batch.dims[0], ids.dims[0], "rows, one per id");
  return {};
}

RowArguments rows_of(Launcher& on, const View& table, const View& ids) {
  int64_t width = 1;
  for (int i = 1; i < table.rank; ++i) width *= table.dims[i];
  return {nullptr, ids.as<int32_t>(), nullptr, ids.dims[0], table.dims[0], width, on.fault()};
}

}  // namespace

Status fill(const Call& c, Launcher& on) {
  const FillArguments a = {c.t[0].as<float>(), c.t[0].size(), static_cast<float>(c.p[0])};
  return start(on, fill_f32, {blocks_for(a.size, map_threads * span), 1, 1}, 0, a);
}

Status copy(const Call& c, Launcher& on) {
  WS_SAME(c.t[1].size(), c.t[0].size(), "elements of from");
  return convert_any(on, c.t[1], c.t[0]);
}

Status cast_f32(const Call& c, Launcher& on) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  return convert_any(on, c.t[0], c.t[1]);
}

Status cast_bf16(const Call& c, Launcher& on) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  return convert_any(on, c.t[0], c.t[1]);
}

Status gather_rows(const Call& c, Launcher& on) {
  WS_TRY(check_rows(c.t[0], c.t[1], c.t[2]));
  RowArguments a = rows_of(on, c.t[0], c.t[1]);
  a.from = c.t[0].data;
  a.to = c.t[2].data;
  const Extent grid = {blocks_for(a.tokens, 4), blocks_for(a.width, warp_size * span), 1};
  return start(on, c.t[0].dtype == DType::f32 ? gather_rows_f32 : gather_rows_bf16, grid, 0, a);
}

Status scatter_add_rows(const Call& c, Launcher& on) {
  WS_TRY(check_rows(c.t[0], c.t[1], c.t[2]));
  RowArguments a = rows_of(on, c.t[0], c.t[1]);
  a.from = c.t[2].data;
  a.to = c.t[0].data;
  const Extent grid = {static_cast<uint32_t>(a.tokens), blocks_for(a.width, warp_size * span), 1};
  return start(on, c.t[2].dtype == DType::f32 ? scatter_add_rows_f32 : scatter_add_rows_bf16, grid, 0, a);
}

#endif

}  // namespace ws::cuda
