// Moving elements: fill, copies that convert between f32 and bf16, gathering rows by id, and its gradient.
// All are bound by memory: bytes read plus bytes written. Conversion to bf16 rounds to nearest even; every other
// result is exact, except the sums of scatter_add_rows, which are chains in token order.
#include "loops.h"

namespace ws::WS_NS {
namespace {

template <class From, class To>
void convert(Runtime& rt, const View& from, const View& to) {
  const From* in = from.as<From>();
  To* out = to.as<To>();
  for_spans(rt, to.size(), [=](int64_t begin, int64_t end) {
    for_vectors(begin, end, [=](int64_t i, auto lanes) { store(out + i, load(in + i, lanes), lanes); });
  });
}

void copy_bytes(Runtime& rt, const View& from, const View& to) {
  const int64_t size = element_bytes(to.dtype);
  for_spans(rt, to.size(), [&](int64_t begin, int64_t end) {
    const size_t bytes = static_cast<size_t>((end - begin) * size);
    std::memcpy(to.as<char>() + begin * size, from.as<char>() + begin * size, bytes);
  });
}

Status convert_any(Runtime& rt, const View& from, const View& to) {
  if (from.dtype == to.dtype) copy_bytes(rt, from, to);
  else if (to.dtype == DType::f32) convert<bf16, float>(rt, from, to);
  else convert<float, bf16>(rt, from, to);
  return {};
}

/// A table's rows: [R, ...] has R rows of the product of the other dimensions.
struct Rows {
  int64_t count, width;
};

Rows rows_of(const View& v) {
  Rows r = {v.dims[0], 1};
  for (int i = 1; i < v.rank; ++i) r.width *= v.dims[i];
  return r;
}

/// Table and batch must have rows of the same shape, the batch one row per id, and ids must point into the table.
Status check_rows(const View& table, const View& ids, const View& batch, const char* table_name,
                  const char* batch_name) {
  WS_CHECK(table.rank >= 1 && batch.rank >= 1, shape, "%s, %s: expected rows, got shapes %s, %s", table_name,
           batch_name, shape_text(table).text, shape_text(batch).text);
  WS_CHECK(ids.rank == 1, shape, "ids: expected rank 1, got shape %s", shape_text(ids).text);
  bool same = table.rank == batch.rank;
  for (int i = 1; same && i < table.rank; ++i) same = table.dims[i] == batch.dims[i];
  WS_CHECK(same, shape, "%s: expected rows as in %s %s, got shape %s", batch_name, table_name, shape_text(table).text,
           shape_text(batch).text);
  WS_CHECK(batch.dims[0] == ids.dims[0], shape, "%s: expected %lld rows, one per id, got %lld", batch_name,
           static_cast<long long>(ids.dims[0]), static_cast<long long>(batch.dims[0]));
  const int32_t* id = ids.as<int32_t>();
  for (int64_t n = 0; n < ids.dims[0]; ++n) {
    WS_CHECK(id[n] >= 0 && id[n] < table.dims[0], shape, "ids[%lld]: expected an id in [0, %lld), got %d",
             static_cast<long long>(n), static_cast<long long>(table.dims[0]), id[n]);
  }
  return {};
}

/// Tokens by id, those of one id in order: radix sort by bytes, stable. `other` has room for as many; gives the one of
/// the two that holds the result.
int32_t* sort_tokens(const int32_t* ids, int64_t count, int64_t most, int32_t* order, int32_t* other) {
  for (int64_t n = 0; n < count; ++n) order[n] = static_cast<int32_t>(n);
  for (int shift = 0; shift < 32 && most >> shift > 0; shift += 8) {
    int64_t first[257] = {0};
    for (int64_t n = 0; n < count; ++n) ++first[((ids[n] >> shift) & 255) + 1];
    for (int i = 0; i < 256; ++i) first[i + 1] += first[i];
    for (int64_t n = 0; n < count; ++n) other[first[(ids[order[n]] >> shift) & 255]++] = order[n];
    int32_t* const sorted = other;
    other = order;
    order = sorted;
  }
  return order;
}

/// One id's tokens, order[begin, end), added to columns [column, last) of its row.
template <class T>
void add_tokens(float* row, const T* in, int64_t width, const int32_t* begin, const int32_t* end, int64_t column,
                int64_t last) {
  for (; column + 4 * W <= last; column += 4 * W) {
    V s[4];
    WS_EACH(4) s[i] = load(row + column + i * W);
    for (const int32_t* n = begin; n < end; ++n) WS_EACH(4) s[i] = add(s[i], load(in + *n * width + column + i * W));
    WS_EACH(4) store(row + column + i * W, s[i]);
  }
  for_vectors(column, last, [&](int64_t i, auto lanes) {
    V s = load(row + i, lanes);
    for (const int32_t* n = begin; n < end; ++n) s = add(s, load(in + *n * width + i, lanes));
    store(row + i, s, lanes);
  });
}

/// A task has a span of the sorted tokens and some columns; an id belongs to the span in which its tokens begin.
template <class T>
Status scatter_add(Runtime& rt, const View& dx, const int32_t* ids, const View& dy) {
  constexpr int64_t span = 64, columns = 256;  // columns: a multiple of 4 W
  const Rows tokens = rows_of(dy);
  const int64_t count = tokens.count, width = tokens.width;
  if (count == 0 || width == 0) return {};
  WS_CHECK(count < (int64_t{1} << 31), shape, "ids: expected fewer than 2^31, got %lld", static_cast<long long>(count));
  int32_t* scratch = static_cast<int32_t*>(rt.scratch(count * 8));
  WS_CHECK(scratch, oom, "no memory to sort %lld ids", static_cast<long long>(count));
  const int32_t* order = sort_tokens(ids, count, dx.dims[0] - 1, scratch, scratch + count);
  const int64_t spans = (count + span - 1) / span, parts = (width + columns - 1) / columns;
  parallel_for(rt, spans * parts, [&](int64_t task, int) {
    const int64_t column = task / spans * columns, last = column + columns < width ? column + columns : width;
    const int64_t end = (task % spans + 1) * span < count ? (task % spans + 1) * span : count;
    int64_t at = task % spans * span;
    while (at > 0 && at < end && ids[order[at]] == ids[order[at - 1]]) ++at;
    while (at < end) {
      const int64_t first = at;
      while (at < count && ids[order[at]] == ids[order[first]]) ++at;
      add_tokens(dx.as<float>() + ids[order[first]] * width, dy.as<T>(), width, order + first, order + at, column, last);
    }
  });
  return {};
}

constexpr int64_t uncached_elements = 1 << 23;

}  // namespace

/// Every element of x becomes value. 4 bytes per element: what no cache holds is written without being read first.
Status fill(const Call& c) {
  const View& x = c.t[0];
  float* out = x.as<float>();
  const V value = set1(static_cast<float>(c.p[0]));
  const bool streamed = x.size() >= uncached_elements && reinterpret_cast<uintptr_t>(out) % sizeof(V) == 0;
  for_spans(*c.rt, x.size(), [=](int64_t begin, int64_t end) {
    int64_t i = begin;
    for (; streamed && i + W <= end; i += W) stream(out + i, value);
    if (streamed) _mm_sfence();
    for_vectors(i, end, [=](int64_t at, auto lanes) { store(out + at, value, lanes); });
  });
  return {};
}

/// to = from, element by element; shapes may differ, sizes may not.
Status copy(const Call& c) {
  const View &to = c.t[0], &from = c.t[1];
  WS_CHECK(to.size() == from.size(), shape, "from: expected %lld elements as in to %s, got shape %s",
           static_cast<long long>(to.size()), shape_text(to).text, shape_text(from).text);
  return convert_any(*c.rt, from, to);
}

/// y = x in f32, exact.
Status cast_f32(const Call& c) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  return convert_any(*c.rt, c.t[0], c.t[1]);
}

/// y = x rounded to bf16.
Status cast_bf16(const Call& c) {
  WS_TRY(same_shape(c.t[1], "y", c.t[0], "x"));
  return convert_any(*c.rt, c.t[0], c.t[1]);
}

/// y[n] = x[ids[n]]: x [R,C], ids [N], y [N,C]. Exact. Every id is checked before anything is written.
Status gather_rows(const Call& c) {
  const View &x = c.t[0], &ids = c.t[1], &y = c.t[2];
  WS_TRY(check_rows(x, ids, y, "x", "y"));
  const Rows out = rows_of(y);
  const int64_t bytes = out.width * element_bytes(x.dtype);
  const int32_t* id = ids.as<int32_t>();
  if (bytes == 0) return {};
  for_rows(*c.rt, out.count, out.width, [&](int64_t n) {
    std::memcpy(y.as<char>() + n * bytes, x.as<char>() + id[n] * bytes, static_cast<size_t>(bytes));
  });
  return {};
}

/// dx[ids[n]] += dy[n], n ascending: dx [R,C] f32, ids [N], dy [N,C]. Equal ids add in token order, so two calls with
/// half of the tokens give the bits of one. 8 + size of T bytes per element of dy; parallel over ids and columns.
Status scatter_add_rows(const Call& c) {
  const View &dx = c.t[0], &ids = c.t[1], &dy = c.t[2];
  WS_TRY(check_rows(dx, ids, dy, "dx", "dy"));
  const int32_t* id = ids.as<int32_t>();
  return dy.dtype == DType::f32 ? scatter_add<float>(*c.rt, dx, id, dy) : scatter_add<bf16>(*c.rt, dx, id, dy);
}

}  // namespace ws::WS_NS
