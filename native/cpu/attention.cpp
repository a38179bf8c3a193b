// Attention forward over packed tokens, decode over the paged cache, and the cache itself. The backward pass is in
// attention_backward.cpp; what the three share, and the order of arithmetic, is in attention.h.
#include "attention.h"

namespace ws::WS_NS {
namespace {

// Forward ------------------------------------------------------------------------------------------------------------

/// Query rows (tokens x heads of a group) of one task: their state stays in the second-level cache.
int64_t chunk_tokens(const Heads& h) {
  const int64_t rows = h.padded <= 64 ? 192 : h.padded <= 128 ? 128 : 64;
  return at_least(1, rows / h.group);
}

template <class T>
struct Forward {
  Heads h;
  const T *q, *k, *v;
  T* o;
  float* lse;
  Segment* segments;
  int64_t count, chunk;
  float* scratch;
  int64_t worker_floats;
};

/// The scratch of one worker; rows = chunk * group.
struct ForwardScratch {
  float *keys, *values, *q, *o, *top, *sum;
};

int64_t forward_floats(const Heads& h, int64_t rows) {
  return round_up(key_block * (h.dim + h.padded) + 2 * rows * h.padded + 2 * rows, 16);
}

ForwardScratch split_scratch(float* at, const Heads& h, int64_t rows) {
  ForwardScratch s;
  s.keys = at;
  s.values = s.keys + key_block * h.dim;
  s.q = s.values + key_block * h.padded;
  s.o = s.q + rows * h.padded;
  s.top = s.o + rows * h.padded;
  s.sum = s.top + rows;
  return s;
}

/// At most tile_rows rows of a chunk against one block.
template <class T>
void forward_tile(const Forward<T>& f, const ForwardScratch& s, const Segment& segment, const RowSpan& span) {
  RowTile t;
  int64_t begin = 0;
  t.rows = visible_rows(f.h, segment, span, begin, t.low, t.high);
  if (t.rows == 0) return;
  t.q = s.q + begin * f.h.padded;
  t.o = s.o + begin * f.h.padded;
  t.top = s.top + begin;
  t.sum = s.sum + begin;
  attend(f.h, t, static_cast<const float*>(s.keys), Values<float>{s.values, f.h.padded, f.h.padded});
}

template <class T>
void forward_begin(const Forward<T>& f, const ForwardScratch& s, int64_t token, int64_t rows, int64_t head) {
  const Heads& h = f.h;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row_index(h, token, row, head);
    load_row(f.q + at * h.dim, h.dim, h.scale, s.q + row * h.padded);
    s.top[row] = -__builtin_inff();
    s.sum[row] = 0.0f;
  }
  clear_floats(s.o, rows * h.padded);
}

template <class T>
void forward_end(const Forward<T>& f, const ForwardScratch& s, int64_t token, int64_t rows, int64_t head) {
  const Heads& h = f.h;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row_index(h, token, row, head);
    store_row(s.o + row * h.padded, h.dim, 1.0f / s.sum[row], f.o + at * h.dim);
    f.lse[at] = static_cast<float>(static_cast<double>(s.top[row]) + std::log(static_cast<double>(s.sum[row])));
  }
}

/// One chunk of queries of one segment and one key/value head.
template <class T>
void forward_task(const Forward<T>& f, const Segment& segment, int64_t chunk, int64_t head, float* scratch) {
  const Heads& h = f.h;
  const ForwardScratch s = split_scratch(scratch, h, f.chunk * h.group);
  const int64_t token = segment.start + chunk * f.chunk, end = at_most(segment.end, token + f.chunk);
  const int64_t rows = (end - token) * h.group, high = segment.high(end - 1);
  forward_begin(f, s, token, rows, head);
  const int64_t stride = h.kv_heads * h.dim, offset = head * h.dim;
  for (int64_t block = segment.low(token, h.window) / key_block; block * key_block < high; ++block) {
    int64_t tokens[key_block];
    block_tokens(segment, block, high, tokens);
    gather_across(f.k + offset, stride, tokens, h.dim, s.keys);
    gather_along(f.v + offset, stride, tokens, h, s.values);
    for (int64_t row = 0; row < rows; row += tile_rows) {
      forward_tile(f, s, segment, {token, row, at_most(rows, row + tile_rows), block});
    }
  }
  forward_end(f, s, token, rows, head);
}

/// Numbers the tasks (chunks x key/value heads) of the segments; gives their count.
int64_t number_tasks(Segment* list, int64_t count, int64_t chunk, int64_t kv_heads) {
  int64_t tasks = 0;
  for (int64_t s = 0; s < count; ++s) {
    list[s].first_task = tasks;
    tasks += (list[s].length() + chunk - 1) / chunk * kv_heads;
  }
  return tasks;
}

const Segment& segment_of_task(const Segment* list, int64_t count, int64_t task) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (list[middle].first_task <= task) low = middle;
    else high = middle;
  }
  return list[low];
}

template <class T>
Status run_forward(const Call& c, const Heads& h, int64_t count) {
  Forward<T> f = {};
  f.h = h;
  f.count = count;
  f.q = c.t[0].as<T>();
  f.k = c.t[1].as<T>();
  f.v = c.t[2].as<T>();
  f.o = c.t[4].as<T>();
  f.lse = c.t[5].as<float>();
  f.chunk = chunk_tokens(f.h);
  f.worker_floats = forward_floats(f.h, f.chunk * f.h.group);
  const int64_t list_bytes = round_up(f.count * static_cast<int64_t>(sizeof(Segment)), 64);
  char* scratch = static_cast<char*>(c.rt->scratch(list_bytes + c.rt->threads() * f.worker_floats * 4));
  WS_CHECK(scratch != nullptr, oom, "no memory for %lld bytes of scratch",
           static_cast<long long>(list_bytes + c.rt->threads() * f.worker_floats * 4));
  f.segments = reinterpret_cast<Segment*>(scratch);
  f.scratch = reinterpret_cast<float*>(scratch + list_bytes);
  WS_TRY(read_segments(c.t[3], f.h.tokens, f.segments, f.count));
  const int64_t tasks = number_tasks(f.segments, f.count, f.chunk, f.h.kv_heads);
  // From the end, because late chunks of a long segment are the most work.
  parallel_for(*c.rt, tasks, [&](int64_t task, int worker) {
    const Segment& segment = segment_of_task(f.segments, f.count, tasks - 1 - task);
    const int64_t local = tasks - 1 - task - segment.first_task;
    forward_task(f, segment, local / f.h.kv_heads, local % f.h.kv_heads, f.scratch + worker * f.worker_floats);
  });
  return {};
}

// Decode -------------------------------------------------------------------------------------------------------------

struct Decode {
  Heads h;
  const int32_t *table, *lengths;
  int64_t table_width;
  float* scratch;
  int64_t worker_floats;
};

/// The rows of one sequence and key/value head, at most tile_rows of them: a row's block range is that of its token.
template <class T>
void decode_rows(const Call& c, const Decode& d, int64_t sequence, int64_t head, int64_t first, float* scratch) {
  const Heads& h = d.h;
  const int64_t length = d.lengths[sequence], low = h.window > 0 ? at_least(0, length - h.window) : 0;
  RowTile t;
  t.rows = static_cast<int>(at_most(tile_rows, h.group - first));
  t.q = scratch;
  t.o = scratch + tile_rows * h.padded;
  t.top = t.o + tile_rows * h.padded;
  t.sum = t.top + tile_rows;
  const int64_t at = (sequence * h.heads + head * h.group + first) * h.dim;
  for (int r = 0; r < t.rows; ++r) {
    load_row(c.t[0].as<T>() + at + r * h.dim, h.dim, h.scale, scratch + r * h.padded);
    t.top[r] = -__builtin_inff();
    t.sum[r] = 0.0f;
  }
  clear_floats(t.o, tile_rows * h.padded);
  for (int64_t block = low / key_block; block * key_block < length; ++block) {
    for (int r = 0; r < t.rows; ++r) {
      t.low[r] = static_cast<int>(at_least(0, low - block * key_block));
      t.high[r] = static_cast<int>(at_most(key_block, length - block * key_block));
    }
    const int64_t slab = (d.table[sequence * d.table_width + block] * h.kv_heads + head) * h.dim * key_block;
    attend(h, t, c.t[1].as<T>() + slab, Values<T>{c.t[2].as<T>() + slab, h.dim, h.dim});
  }
  for (int r = 0; r < t.rows; ++r)
    store_row(t.o + r * h.padded, h.dim, 1.0f / t.sum[r], c.t[5].as<T>() + at + r * h.dim);
}

template <class T>
void run_decode(const Call& c, const Decode& d) {
  parallel_for(*c.rt, d.h.tokens * d.h.kv_heads, [&](int64_t task, int worker) {
    const int64_t sequence = task / d.h.kv_heads, head = task % d.h.kv_heads;
    for (int64_t first = 0; first < d.h.group; first += tile_rows) {
      decode_rows<T>(c, d, sequence, head, first, d.scratch + worker * d.worker_floats);
    }
  });
}

/// keys [blocks,G,D,32] and values [blocks,G,32,D].
Status check_cache(const View& keys, const View& values) {
  WS_CHECK(keys.rank == 4 && keys.dims[3] == key_block, shape, "keys: expected [blocks, heads, size, %d]", key_block);
  WS_CHECK(values.rank == 4 && values.dims[0] == keys.dims[0] && values.dims[1] == keys.dims[1] &&
               values.dims[2] == key_block && values.dims[3] == keys.dims[2],
           shape, "values: expected [%lld, %lld, %d, %lld]", static_cast<long long>(keys.dims[0]),
           static_cast<long long>(keys.dims[1]), key_block, static_cast<long long>(keys.dims[2]));
  return {};
}

/// Lengths fit the table, and every block that will be read exists.
Status check_table(const Call& c, const Decode& d) {
  const int64_t blocks = c.t[1].dims[0];
  for (int64_t b = 0; b < d.h.tokens; ++b) {
    const int64_t length = d.lengths[b];
    WS_CHECK(length >= 1 && length <= d.table_width * key_block, shape,
             "lengths[%lld]: expected 1 to %lld keys, got %lld", static_cast<long long>(b),
             static_cast<long long>(d.table_width * key_block), static_cast<long long>(length));
    const int64_t low = d.h.window > 0 ? at_least(0, length - d.h.window) : 0;
    for (int64_t i = low / key_block; i * key_block < length; ++i) {
      const int64_t block = d.table[b * d.table_width + i];
      WS_CHECK(block >= 0 && block < blocks, shape, "table[%lld][%lld]: expected a block below %lld, got %lld",
               static_cast<long long>(b), static_cast<long long>(i), static_cast<long long>(blocks),
               static_cast<long long>(block));
    }
  }
  return {};
}

// Rope and cache -----------------------------------------------------------------------------------------------------

/// The angles of one token.
struct Rotation {
  const float *cosines, *sines;
  int64_t half;
  V sign;
};

/// One head's row: the first 2 * half elements are rotated, the rest is copied.
template <class T>
void rotate_row(const Rotation& r, const T* x, int64_t dim, T* y) {
  for_vectors(0, r.half, [&](int64_t j, auto lanes) {
    const V a = load(x + j, lanes), b = load(x + j + r.half, lanes);
    const V cosine = load(r.cosines + j, lanes), sine = mul(load(r.sines + j, lanes), r.sign);
    store(y + j, sub(mul(a, cosine), mul(b, sine)), lanes);
    store(y + j + r.half, add(mul(b, cosine), mul(a, sine)), lanes);
  });
  if (dim > 2 * r.half) std::memcpy(y + 2 * r.half, x + 2 * r.half, static_cast<size_t>(dim - 2 * r.half) * sizeof(T));
}

template <class T>
void run_rope(const Call& c, float sign) {
  const View& x = c.t[0];
  const int64_t heads = x.dims[1], dim = x.dims[2], half = c.t[1].dims[1];
  for_rows(*c.rt, x.dims[0], heads * dim, [&](int64_t i) {
    const int64_t place = c.t[3].as<int32_t>()[i] * half;
    const Rotation r = {c.t[1].as<float>() + place, c.t[2].as<float>() + place, half, set1(sign)};
    for (int64_t row = i * heads; row < (i + 1) * heads; ++row) {
      rotate_row(r, x.as<T>() + row * dim, dim, c.t[4].as<T>() + row * dim);
    }
  });
}

template <class T>
void run_write(const Call& c) {
  const int64_t tokens = c.t[2].dims[0], kv_heads = c.t[0].dims[1], dim = c.t[0].dims[2];
  // A head is one task, so that the last of two tokens with one slot wins.
  parallel_for(*c.rt, kv_heads, [&](int64_t head, int) {
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t slot = c.t[4].as<int32_t>()[i], at = (i * kv_heads + head) * dim;
      if (slot < 0) continue;
      const int64_t slab = (slot / key_block * kv_heads + head) * dim * key_block, lane = slot % key_block;
      for (int64_t d = 0; d < dim; ++d) c.t[0].as<T>()[slab + d * key_block + lane] = c.t[2].as<T>()[at + d];
      std::memcpy(c.t[1].as<T>() + slab + lane * dim, c.t[3].as<T>() + at, static_cast<size_t>(dim) * sizeof(T));
    }
  });
}

}  // namespace

/// o = softmax(mask(softcap(scale q k^T))) v and lse, its natural log-sum-exp. q [N,H,D], k and v [N,G,D],
/// visibility [N,3], o [N,H,D], lse [N,H].
/// FLOPs 4 D per visible pair and head; bytes: each operand once, keys and values once more per chunk of queries.
/// Tolerance against f64: 1e-6 (f32) or one rounding of o (bf16) relative to max |v|. Keep the order of attention.h:
/// attention_decode and a later packing must give the same bits.
Status attention(const Call& c) {
  const View &q = c.t[0], &k = c.t[1], &v = c.t[2], &lse = c.t[5];
  Heads h = {};
  WS_TRY(read_heads(c, q, k, h));
  WS_TRY(same_shape(v, "v", k, "k"));
  WS_TRY(same_shape(c.t[4], "o", q, "q"));
  WS_CHECK(lse.rank == 2 && lse.dims[0] == h.tokens && lse.dims[1] == h.heads, shape, "lse: expected [%lld, %lld]",
           static_cast<long long>(h.tokens), static_cast<long long>(h.heads));
  int64_t count = 0;
  WS_TRY(count_segments(c.t[3], h.tokens, count));
  return q.dtype == DType::f32 ? run_forward<float>(c, h, count) : run_forward<bf16>(c, h, count);
}

/// Attention of one new token per sequence: q [B,H,D] against the first lengths[b] keys of the sequence's blocks
/// table[b]. Gives the bits that attention() gives for that token. Bytes: the visible cache once.
Status attention_decode(const Call& c) {
  const View &q = c.t[0], &keys = c.t[1], &table = c.t[3], &lengths = c.t[4];
  WS_TRY(check_cache(keys, c.t[2]));
  Decode d = {};
  WS_TRY(read_sizes(c, q, keys.dims[1], keys.dims[2], d.h));
  WS_CHECK(table.rank == 2 && table.dims[0] == d.h.tokens, shape, "table: expected [%lld, blocks], got %s",
           static_cast<long long>(d.h.tokens), shape_text(table).text);
  WS_TRY(vector_of(lengths, "lengths", d.h.tokens));
  WS_TRY(same_shape(c.t[5], "o", q, "q"));
  d.table = table.as<int32_t>();
  d.lengths = lengths.as<int32_t>();
  d.table_width = table.dims[1];
  WS_TRY(check_table(c, d));
  d.worker_floats = round_up(2 * tile_rows * d.h.padded + 2 * tile_rows, 16);
  d.scratch = static_cast<float*>(c.rt->scratch(c.rt->threads() * d.worker_floats * 4));
  WS_CHECK(d.scratch != nullptr, oom, "no memory for scratch");
  if (q.dtype == DType::f32) run_decode<float>(c, d);
  else run_decode<bf16>(c, d);
  return {};
}

/// Rotary positions, half-split layout: with h = columns of cos, y[j] = x[j] cos_j - x[j+h] sin_j and
/// y[j+h] = x[j+h] cos_j + x[j] sin_j for j < h; elements from 2h on are copied. x [N,H,D], cos and sin [P,h],
/// positions [N]. inverse negates the sines: the transpose of the rotation, hence the gradient.
Status rope(const Call& c) {
  const View &x = c.t[0], &cosines = c.t[1], &positions = c.t[3];
  WS_CHECK(x.rank == 3, shape, "x: expected [tokens, heads, size], got %s", shape_text(x).text);
  WS_TRY(same_shape(c.t[4], "y", x, "x"));
  WS_CHECK(cosines.rank == 2 && 2 * cosines.dims[1] <= x.dims[2], shape,
           "cos: expected [positions, at most %lld], got %s", static_cast<long long>(x.dims[2] / 2),
           shape_text(cosines).text);
  WS_TRY(same_shape(c.t[2], "sin", cosines, "cos"));
  WS_TRY(vector_of(positions, "positions", x.dims[0]));
  for (int64_t i = 0; i < x.dims[0]; ++i) {
    const int64_t position = positions.as<int32_t>()[i];
    WS_CHECK(position >= 0 && position < cosines.dims[0], shape, "positions[%lld]: expected 0 to %lld, got %lld",
             static_cast<long long>(i), static_cast<long long>(cosines.dims[0] - 1), static_cast<long long>(position));
  }
  const float sign = c.p[0] != 0 ? -1.0f : 1.0f;
  if (x.dtype == DType::f32) run_rope<float>(c, sign);
  else run_rope<bf16>(c, sign);
  return {};
}

/// Puts keys and values of N tokens into their slots of the cache; a negative slot is skipped.
Status cache_write(const Call& c) {
  const View &keys = c.t[0], &k = c.t[2], &slots = c.t[4];
  WS_TRY(check_cache(keys, c.t[1]));
  WS_CHECK(k.rank == 3 && k.dims[1] == keys.dims[1] && k.dims[2] == keys.dims[2], shape,
           "k: expected [tokens, %lld, %lld], got %s", static_cast<long long>(keys.dims[1]),
           static_cast<long long>(keys.dims[2]), shape_text(k).text);
  WS_TRY(same_shape(c.t[3], "v", k, "k"));
  WS_TRY(vector_of(slots, "slots", k.dims[0]));
  for (int64_t i = 0; i < k.dims[0]; ++i) {
    const int64_t slot = slots.as<int32_t>()[i];
    WS_CHECK(slot < keys.dims[0] * key_block, shape, "slots[%lld]: expected a slot below %lld, got %lld",
             static_cast<long long>(i), static_cast<long long>(keys.dims[0] * key_block), static_cast<long long>(slot));
  }
  if (keys.dtype == DType::f32) run_write<float>(c);
  else run_write<bf16>(c);
  return {};
}

/// Copies whole blocks, pair by pair in order.
Status cache_copy(const Call& c) {
  const View &keys = c.t[0], &values = c.t[1], &from = c.t[2], &to = c.t[3];
  WS_TRY(check_cache(keys, values));
  WS_CHECK(from.rank == 1, shape, "from: expected [pairs], got %s", shape_text(from).text);
  WS_TRY(vector_of(to, "to", from.dims[0]));
  for (int64_t i = 0; i < from.dims[0]; ++i) {
    const int64_t a = from.as<int32_t>()[i], b = to.as<int32_t>()[i];
    WS_CHECK(a >= 0 && a < keys.dims[0] && b >= 0 && b < keys.dims[0], shape,
             "pair %lld: expected blocks below %lld, got %lld and %lld", static_cast<long long>(i),
             static_cast<long long>(keys.dims[0]), static_cast<long long>(a), static_cast<long long>(b));
  }
  const int64_t slab = keys.dims[2] * key_block * element_bytes(keys.dtype);
  parallel_for(*c.rt, keys.dims[1], [&](int64_t head, int) {
    for (int64_t i = 0; i < from.dims[0]; ++i) {
      const int64_t a = (from.as<int32_t>()[i] * keys.dims[1] + head) * slab;
      const int64_t b = (to.as<int32_t>()[i] * keys.dims[1] + head) * slab;
      if (a == b) continue;
      std::memcpy(keys.as<char>() + b, keys.as<char>() + a, static_cast<size_t>(slab));
      std::memcpy(values.as<char>() + b, values.as<char>() + a, static_cast<size_t>(slab));
    }
  });
  return {};
}

}  // namespace ws::WS_NS
