// The paged key/value cache on the GPU, and attention of one new token per sequence over it: the bits that attention.cu
// gives for that token, by the same functions (attention.h). Semantics: native/cpu/attention.cpp.
//
// Decode: four warps have one key/value head of one sequence, its query heads as the rows of one strip. The warps share
// the scores of several blocks of keys; then each folds all of them, and makes a quarter of the output's columns. A long
// sequence has its splits (attention.h) in different blocks, whose states another kernel joins. Consecutive sequences with
// the same keys in a split, as samples of one prompt have, are rows of one strip for it, and these keys are read once.
#include "attention_hopper.h"

namespace ws::cuda {
namespace {

// Cache --------------------------------------------------------------------------------------------------------------

constexpr int cache_threads = 128;

struct CacheWriteArguments {
  void *keys, *values;
  const void *k, *v;
  const int32_t* slots;
  int64_t tokens, known, kv_heads, dim;  // `known` slots exist
  Fault* fault;
};

/// A warp has a token and a key/value head. Of tokens with one slot the last one writes.
template <class T>
WS_DEVICE void write_slots(const CacheWriteArguments& a) {
  const int64_t token = static_cast<int64_t>(block().x) * 4 + warp(), head = block().y;
  if (token >= a.tokens) return;
  const int32_t slot = a.slots[token];
  if (slot < 0 || !check_index(a.fault, Op::cache_write, 4, token, slot, a.known)) return;
  for (int64_t at = token + 1; at < a.tokens; at += warp_size) {
    const int64_t other = at + lane();
    if (ballot(other < a.tokens && a.slots[other] == slot) != 0) return;
  }
  const int64_t slab = (slot / key_block * a.kv_heads + head) * a.dim * key_block, place = slot % key_block;
  const T *k = static_cast<const T*>(a.k) + (token * a.kv_heads + head) * a.dim;
  const T *v = static_cast<const T*>(a.v) + (token * a.kv_heads + head) * a.dim;
  T *keys = static_cast<T*>(a.keys) + slab + place, *values = static_cast<T*>(a.values) + slab + place * a.dim;
  for (int64_t d = lane(); d < a.dim; d += warp_size) {
    keys[d * key_block] = k[d];
    values[d] = v[d];
  }
}
WS_KERNEL_FOR_BOTH(cache_write, cache_threads, CacheWriteArguments, a, write_slots)

struct CacheCopyArguments {
  void *keys, *values;
  const int32_t *from, *to;
  int64_t pairs, blocks, slab;  // a slab: elements of one head in one block
  Fault* fault;
};

/// A thread has the same few elements of every block, and takes the pairs in order. Grid: parts of a slab, heads.
template <class T>
WS_DEVICE void copy_blocks(const CacheCopyArguments& a) {
  const int64_t at = (static_cast<int64_t>(block().x) * cache_threads + thread()) * span, left = a.slab - at;
  const int n = static_cast<int>(left < span ? left : span);
  if (n <= 0) return;
  for (int64_t i = 0; i < a.pairs; ++i) {
    const int32_t from = a.from[i], to = a.to[i];
    if (!check_index(a.fault, Op::cache_copy, 2, i, from, a.blocks)) return;
    if (!check_index(a.fault, Op::cache_copy, 3, i, to, a.blocks)) return;
    if (from == to) continue;
    const int64_t source = (static_cast<int64_t>(from) * blocks().y + block().y) * a.slab + at;
    const int64_t target = (static_cast<int64_t>(to) * blocks().y + block().y) * a.slab + at;
    for (int which = 0; which < 2; ++which) {
      void* cache = which == 0 ? a.keys : a.values;
      const T* x = static_cast<const T*>(cache) + source;
      T* y = static_cast<T*>(cache) + target;
      if (n == span && aligned(x) && aligned(y)) {
        for (int j = 0; j < static_cast<int>(sizeof(T)) / 2; ++j)
          reinterpret_cast<Quad*>(y)[j] = reinterpret_cast<const Quad*>(x)[j];
      } else {
        for (int j = 0; j < n; ++j) y[j] = x[j];
      }
    }
  }
}
WS_KERNEL(cache_copy_f32, cache_threads, CacheCopyArguments, a) { copy_blocks<uint32_t>(a); }
WS_KERNEL(cache_copy_bf16, cache_threads, CacheCopyArguments, a) { copy_blocks<uint16_t>(a); }

// Decode -------------------------------------------------------------------------------------------------------------

struct DecodeArguments {
  const void *q, *keys, *values;
  const int32_t *table, *lengths;
  void* o;
  Heads h;
  int32_t table_width, cache_blocks, parts;  // parts: tiles that the heads of a group need
  int32_t splits, columns;                   // splits that a sequence may have; columns of the kernels, at least dim
  float* states;                             // with several splits: [tokens, heads, splits, columns + 2]
  Fault* fault;
};

template <class T, int D>
struct DecodeTile {
  static constexpr int warps = 4, threads = warps * warp_size;
  static constexpr int keys_bytes = D * pitch<T, key_block>, block_bytes = keys_bytes + key_block * pitch<T, D>;
  static constexpr int size = static_cast<int>(sizeof(T)) * D;  // bytes of a row
  static constexpr int step = size <= 128 ? 4 : size <= 256 ? 2 : 1;  // blocks that are met at once
  static constexpr int stages = size <= 512 ? 2 : 1;
  static constexpr int scores_bytes = step * 4 * warp_size * 16;
  static constexpr int shared_bytes = strip * pitch<T, D> + scores_bytes + stages * step * block_bytes;
  static constexpr int columns = D / warps;  // of a warp's output
};

/// Products of the strip with eight keys that lie across: key j is columns of `right`. As multiply_rows().
template <int D, bool held>
WS_DEVICE void multiply_keys(const Left<bf16, D, held>& left, const char* right, int j, float (&s)[4]) {
  WS_UNROLL
  for (int e = 0; e < 4; ++e) s[e] = 0.0f;
  WS_UNROLL
  for (int step = 0; step < D / 32; ++step) {
    uint32_t a[2][4], b[4];
    left.fragment(2 * step, a[0]);
    left.fragment(2 * step + 1, a[1]);
    load_matrix4_transposed(b, right + (32 * step + lane()) * pitch<bf16, key_block> + 16 * j);
    multiply_pair(s, a, b);
  }
}

template <int D, bool held>
WS_DEVICE void multiply_keys(const Left<float, D, held>& left, const char* right, int j, float (&s)[4]) {
  const char* own = left.rows + lane() / 4 * pitch<float, D>;
  WS_UNROLL
  for (int e = 0; e < 4; ++e) s[e] = 0.0f;
  for (int d = 0; d < D; d += 4) {
    const Four a[2] = {four_of(own + 4 * d), four_of(own + 8 * pitch<float, D> + 4 * d)};
    WS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const Two b = two_of(right + (d + i) * pitch<float, key_block> + (8 * j + lane() % 4 * 2) * 4);
      WS_UNROLL
      for (int e = 0; e < 4; ++e) s[e] = fused(a[e / 2].at[i], b.at[e % 2], s[e]);
    }
  }
}

// What a block has to do ---------------------------------------------------------------------------------------------

/// Query rows (their `token` is a sequence) and the positions [low, high) that all of them see, in the split from `base`
/// on, by the table of the first of them. No rows: nothing.
struct DecodeTask {
  QueryRows q;
  int base, low, high;
};

/// The sequence's length, or 0 after a report.
WS_DEVICE int checked_length(const DecodeArguments& a, int sequence) {
  const int length = a.lengths[sequence], most = a.table_width * key_block;
  if (length >= 1 && length <= most) return length;
  report(a.fault, {static_cast<int32_t>(FaultKind::count), static_cast<int32_t>(Op::attention_decode), 4, sequence,
                   length, most});
  return 0;
}

/// Are the blocks of positions [low, high) in the cache? Reports those that are not. A whole warp asks.
WS_DEVICE bool check_blocks(const DecodeArguments& a, int sequence, int low, int high) {
  const int block = low / key_block + lane();
  const int64_t at = static_cast<int64_t>(sequence) * a.table_width + block;
  const bool good = block * key_block >= high ||
                    check_index(a.fault, Op::attention_decode, 3, at, a.table[at], a.cache_blocks);
  return ballot(!good) == 0;
}

/// The first position that a sequence's new token sees.
WS_DEVICE int first_seen(const Heads& h, int length) { return h.window > 0 ? at_least(0, length - h.window) : 0; }

/// The number of sequences from this one on whose tables and new tokens have the whole split from `base` on in common, so
/// that a tile of `rows` rows has them all; 0: an earlier sequence has this one in its tile. A whole warp asks.
template <int rows>
WS_DEVICE int sharers(const DecodeArguments& a, int sequence, int base) {
  static_assert(split_keys == warp_size * key_block);  // a lane has an entry of the table
  const int most = rows / a.h.group;
  if (most < 2) return 1;
  const int32_t* entries = a.table + base / key_block + lane();
  const int32_t own = entries[static_cast<int64_t>(sequence) * a.table_width];
  const auto same = [&](int other) {
    const int length = a.lengths[other];
    return length >= base + split_keys && first_seen(a.h, length) <= base &&
           entries[static_cast<int64_t>(other) * a.table_width] == own;
  };
  if (sequence % most > 0 && ballot(!same(sequence - 1)) == 0) return 0;
  const int end = at_most(sequence - sequence % most + most, blocks().x);
  int stop = end;
  WS_UNROLL_BY(8)
  for (int other = end - 1; other > sequence; --other)
    if (!same(other)) stop = other;
  for (int mask = 16; mask > 0; mask >>= 1) stop = at_most(stop, shuffle_xor(stop, mask));
  return stop - sequence;
}

/// Grid: sequences; key/value heads x parts of their groups; splits, from the first that a sequence sees.
template <int rows>
WS_DEVICE DecodeTask own_task(const DecodeArguments& a) {
  const Heads& h = a.h;
  const int sequence = block().x, kv_head = block().y / a.parts, member = block().y % a.parts * rows;
  const int length = checked_length(a, sequence), seen = first_seen(h, length);
  const int members = at_most(rows, h.group - member), base = split_of(seen) + block().z * split_keys;
  DecodeTask task = {{sequence, kv_head * h.group + member, members, 0}, base, at_least(seen, base),
                     at_most(length, base + split_keys)};
  if (base >= length || !check_blocks(a, sequence, task.low, task.high)) return task;
  task.q.rows = members * (task.high - task.low == split_keys ? sharers<rows>(a, sequence, base) : 1);
  return task;
}

/// What a row knows of a split, the `split`th that it sees: output, maximum, sum.
WS_DEVICE float* state_of(const DecodeArguments& a, int64_t row, int split) {
  return a.states + (row * a.splits + split) * (a.columns + 2);
}

/// The state of a warp's 16 rows from `first` on, of which this lane has columns of n fragments from `column` on.
template <int n>
WS_DEVICE void keep_state(const DecodeArguments& a, const DecodeTask& task, int first, int column, const Running& r,
                          const float (&o)[n][4]) {
  WS_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = first + lane() / 4 + 8 * half;
    if (row >= task.q.rows) continue;
    const int seen = first_seen(a.h, a.lengths[task.q.token_of(row)]);
    float* state = state_of(a, task.q.index(row, a.h.heads), (task.base - split_of(seen)) / split_keys);
    float* to = state + column + lane() % 4 * 2;
    WS_UNROLL
    for (int j = 0; j < n; ++j) *reinterpret_cast<Two*>(to + 8 * j) = {{o[j][2 * half], o[j][2 * half + 1]}};
    if (column + lane() % 4 == 0) *reinterpret_cast<Two*>(state + a.columns) = {{r.top[half], r.sum[half]}};
  }
}

constexpr int join_threads = 64;

/// The states of a row, in order, become its output. Grid: rows; parts of their columns.
template <class T>
WS_DEVICE void join_states(const DecodeArguments& a) {
  const int64_t row = block().x, d = static_cast<int64_t>(block().y) * join_threads + thread();
  const int length = checked_length(a, static_cast<int>(row / a.h.heads)), first = split_of(first_seen(a.h, length));
  if (d >= a.h.dim || length == 0) return;
  Running r = nothing_yet();
  float o = 0.0f;
  WS_UNROLL_BY(8)
  for (int split = 0; split < (length - first + split_keys - 1) / split_keys; ++split) {
    const float* state = state_of(a, row, split);
    const Joint joint = join(r.top[0], r.sum[0], state[a.columns], state[a.columns + 1]);
    o = joint(o, state[d]);
  }
  static_cast<T*>(a.o)[row * a.h.dim + d] = rounded<T>(o * (1.0f / r.sum[0]));
}
WS_KERNEL_FOR_BOTH(attention_join, join_threads, DecodeArguments, a, join_states)

/// Puts a block's keys and values into a stage: keys as they lie; of the values those of lanes [low, high), else zeros.
template <class T, int D>
WS_DEVICE void stage_block(const DecodeArguments& a, int64_t slab, int low, int high, char* to) {
  using S = DecodeTile<T, D>;
  const T* keys = static_cast<const T*>(a.keys) + slab;
  const T* values = static_cast<const T*>(a.values) + slab;
  const int dim = a.h.dim;
  stage_rows<T, key_block, S::threads>({keys}, to, 0, D, key_block, [=](int d) {
    return d < dim ? int64_t{d} * key_block : -1;
  });
  stage_rows<T, D, S::threads>({values}, to + S::keys_bytes, 0, key_block, dim, [=](int j) {
    return j >= low && j < high ? int64_t{j} * dim : -1;
  });
}

template <class T, int D>
WS_DEVICE void decode_rows(const DecodeArguments& a) {
  using S = DecodeTile<T, D>;
  const Heads& h = a.h;
  const DecodeTask task = own_task<strip>(a);
  const QueryRows& q = task.q;
  if (q.rows == 0) return;
  const int low = task.low, high = task.high, begin = low / key_block, end = (high + key_block - 1) / key_block;
  char *scores = shared() + strip * pitch<T, D>, *stages = scores + S::scores_bytes;
  stage_rows<T, D, S::threads>({static_cast<const T*>(a.q)}, shared(), 0, strip, h.dim,
                               [&](int row) { return query_offset(q, h, row); });
  copy_commit();

  const auto place = [&](int i, int block) {  // of block `block` of step i
    return stages + (i % S::stages * S::step + block) * S::block_bytes;
  };
  const auto fetch = [&](int i) {
    for (int b = 0; b < S::step; ++b) {
      const int block = begin + i * S::step + b, base = block * key_block;
      if (block >= end) break;
      const int64_t id = a.table[static_cast<int64_t>(q.token) * a.table_width + block];
      stage_block<T, D>(a, (id * h.kv_heads + q.head / h.group) * h.dim * key_block, low - base, high - base,
                        place(i, b));
    }
    copy_commit();
  };
  Left<T, D, true> left = {};
  Running running = nothing_yet();
  float sums[S::columns / 8][4] = {};
  const int steps = (end - begin + S::step - 1) / S::step;
  const int values_offset = S::keys_bytes + warp() * S::columns * static_cast<int>(sizeof(T));
  if (S::stages > 1) fetch(0);
  for (int i = 0; i < steps; ++i) {
    if (S::stages == 1) {
      barrier();  // the step before has been read by all
      fetch(i);
    }
    copy_wait<0>();
    barrier();
    if (S::stages > 1 && i + 1 < steps) fetch(i + 1);
    if (i == 0) left.read(shared());
    const int here = at_most(S::step, end - begin - i * S::step);
    for (int b = 0; b < here; ++b) {
      Four s;
      multiply_keys(left, place(i, b), warp(), s.at);
      reinterpret_cast<Four*>(scores)[(b * 4 + warp()) * warp_size + lane()] = s;
    }
    barrier();
    for (int b = 0; b < here; ++b) {
      const int base = (begin + i * S::step + b) * key_block;
      const Seen seen = {{low - base, low - base}, {high - base, high - base}};
      float s[4][4], factor[2];
      WS_UNROLL
      for (int j = 0; j < 4; ++j) {
        const Four part = reinterpret_cast<const Four*>(scores)[(b * 4 + j) * warp_size + lane()];
        WS_UNROLL
        for (int e = 0; e < 4; ++e) s[j][e] = part.at[e];
      }
      score(h, s);
      if (seen.mixed()) hide(s, seen);
      fold(s, running, factor);
      rescale(sums, factor);
      multiply_across<D>(T{}, s, place(i, b) + values_offset, false, seen, sums);
    }
  }
  complete(running);
  if (a.splits > 1) return keep_state(a, task, 0, warp() * S::columns, running, sums);
  const float factor[2] = {1.0f / running.sum[0], 1.0f / running.sum[1]};
  // The queries have been read by all: before the scores were.
  park<T, D>(shared(), warp() * S::columns, sums, factor);
  barrier();
  unpark<T, D, D>(shared(), q.rows, h.dim, thread(), S::threads, [&](int row) {
    return static_cast<T*>(a.o) + q.index(row, h.heads) * h.dim;
  });
}

#define DECODE(T, D)                                                                                   \
  WS_KERNEL_RESIDENT(attention_decode_##T##_##D, (DecodeTile<T, D>::threads), 1, DecodeArguments, a) { \
    decode_rows<T, D>(a);                                                                              \
  }
DECODE(bf16, 64)
DECODE(bf16, 96)
DECODE(bf16, 128)
DECODE(bf16, 256)
DECODE(f32, 64)
DECODE(f32, 96)
DECODE(f32, 128)
DECODE(f32, 256)
#undef DECODE

// Decode on sm_90a -----------------------------------------------------------------------------------------------------

#if WS_HOPPER

template <int D>
using WideDecode = WideTile<D, 1, (D <= 64 ? 5 : 3)>;
template <int D>
constexpr int wide_resident = D <= 128 ? 2 : 1;

/// The task's blocks of 64 positions, each two of the cache: keys as they lie, side by side; of the values those of
/// positions that are seen, else zeros.
template <int D>
WS_DEVICE void load_cache(const DecodeArguments& a, const DecodeTask& task) {
  const int dim = a.h.dim, kv_head = task.q.head / a.h.group, low = task.low, high = task.high;
  const int64_t slab = static_cast<int64_t>(dim) * key_block;
  const int32_t* table = a.table + static_cast<int64_t>(task.q.token) * a.table_width;
  const auto id_of = [&](int position) {
    return position < high && position + key_block > low ? table[position / key_block] : -1;
  };
  Loader<WideDecode<D>> loader;
  int base = low / wide_block * wide_block, ids[2] = {id_of(base), id_of(base + key_block)};
  for (; base < high; base += wide_block) {
    const int64_t at[2] = {(int64_t{ids[0]} * a.h.kv_heads + kv_head) * slab,
                           (int64_t{ids[1]} * a.h.kv_heads + kv_head) * slab};
    const bool there[2] = {ids[0] >= 0, ids[1] >= 0};
    for (int half = 0; half < 2; ++half) ids[half] = id_of(base + wide_block + half * key_block);
    loader.copy([&](char* to) {
      for (int half = 0; half < 2; ++half) {
        if (!there[half]) continue;
        stage_pieces<bf16, key_block, group_threads, 2>(
            {static_cast<const bf16*>(a.keys) + at[half]}, thread(), D, key_block,
            [=](int d) { return d < dim ? int64_t{d} * key_block : -1; },
            [=](int, int d, int piece) { return to + d * 128 + (((half * 4 + piece) ^ d) & 7) * 16; });
      }
    });
    loader.copy([&](char* to) {
      for (int half = 0; half < 2; ++half) {
        const int first = base + half * key_block;
        stage_pieces<bf16, D, group_threads, 2>(
            {static_cast<const bf16*>(a.values) + (there[half] ? at[half] : 0)}, thread(), key_block, dim,
            [=](int j) { return first + j >= low && first + j < high ? int64_t{j} * dim : -1; },
            [=](int, int j, int piece) { return in_boxes(to, half * key_block + j, piece); });
      }
    });
  }
  loader.finish();
}

template <int D>
WS_DEVICE void attend_cache(const DecodeArguments& a, const DecodeTask& task) {
  using S = WideDecode<D>;
  const Heads& h = a.h;
  const QueryRows& q = task.q;
  const int own = warp() % 4 * strip, low = task.low, high = task.high;
  const GroupRows rows = {at_most(strip, at_least(0, q.rows - own)), {low, low}, {high, high}, low / wide_block,
                          (high + wide_block - 1) / wide_block, low, high};
  stage_strip<S>(static_cast<const bf16*>(a.q), h.dim, [&](int row) { return query_offset(q, h, row); }, own_area<S>());
  await_strips<S>();
  Queries<D, S::held> queries;
  queries.read(own_area<S>());
  Parts<S> parts;
  Running running = nothing_yet();
  float o[D / 8][4] = {};
  attend_blocks<S, true, false>(h, rows, parts, queries, running, o);
  complete(running);
  if (a.splits > 1) return keep_state(a, task, own, 0, running, o);
  const float factor[2] = {1.0f / running.sum[0], 1.0f / running.sum[1]};
  free_strips<S>();
  store_strip<S>(o, factor, rows.here, h.dim,
                 [&](int row) { return static_cast<bf16*>(a.o) + q.index(own + row, h.heads) * h.dim; });
}

template <int D>
WS_DEVICE void decode_widely(const DecodeArguments& a) {
  using S = WideDecode<D>;
  const DecodeTask task = own_task<group_rows>(a);
  if (task.q.rows == 0) return;
  open_ring<S>();
  if (warp() < 4) {
    if constexpr (wide_resident<D> == 2) fewer_registers<56>();
    load_cache<D>(a, task);
  } else {
    if constexpr (wide_resident<D> == 2) more_registers<200>();
    attend_cache<D>(a, task);
  }
}

#define DECODE(D)                                                                                               \
  WS_KERNEL_RESIDENT(attention_decode_wide_##D, WideDecode<D>::threads, wide_resident<D>, DecodeArguments, a) { \
    decode_widely<D>(a);                                                                                        \
  }
DECODE(64)
DECODE(128)
DECODE(256)
#undef DECODE

#endif

}  // namespace

#if WS_HOST

namespace {

constexpr int columns_of[head_sizes] = {64, 96, 128, 256};

/// Splits that a sequence with a table of `width` blocks may see, at least 1.
int64_t most_splits(int64_t width, int64_t window) {
  const int64_t all = at_least(int64_t{1}, (width * key_block + split_keys - 1) / split_keys);
  const int64_t in_window = (window + split_keys - 2) / split_keys + 1;  // that begins anywhere
  return window > 0 && in_window < all ? in_window : all;
}

#define DECODE(T, D) {&attention_decode_##T##_##D, DecodeTile<T, D>::shared_bytes, strip}
const SizedKernel decode_kernels[2][head_sizes] = {
    {DECODE(f32, 64), DECODE(f32, 96), DECODE(f32, 128), DECODE(f32, 256)},
    {DECODE(bf16, 64), DECODE(bf16, 96), DECODE(bf16, 128), DECODE(bf16, 256)}};
#undef DECODE
#define DECODE(D) {&attention_decode_wide_##D, WideDecode<D>::shared_bytes, group_rows}
const SizedKernel wide_decode_kernels[head_sizes] = {DECODE(64), {}, DECODE(128), DECODE(256)};
#undef DECODE

/// keys [blocks,G,D,32] and values [blocks,G,32,D].
Status check_cache(const View& keys, const View& values) {
  WS_CHECK(keys.rank == 4 && keys.dims[3] == key_block, shape, "keys: expected [blocks, heads, size, %d]", key_block);
  WS_CHECK(values.rank == 4 && values.dims[0] == keys.dims[0] && values.dims[1] == keys.dims[1] &&
               values.dims[2] == key_block && values.dims[3] == keys.dims[2],
           shape, "values: expected [%lld, %lld, %d, %lld]", static_cast<long long>(keys.dims[0]),
           static_cast<long long>(keys.dims[1]), key_block, static_cast<long long>(keys.dims[2]));
  WS_CHECK(keys.dims[1] <= most_heads, shape, "keys: expected at most %d heads, got %lld", most_heads,
           static_cast<long long>(keys.dims[1]));
  return {};
}

}  // namespace

Status cache_write(const Call& c, Launcher& on) {
  const View &keys = c.t[0], &k = c.t[2], &slots = c.t[4];
  WS_TRY(check_cache(keys, c.t[1]));
  WS_CHECK(k.rank == 3 && k.dims[1] == keys.dims[1] && k.dims[2] == keys.dims[2], shape,
           "k: expected [tokens, %lld, %lld], got %s", static_cast<long long>(keys.dims[1]),
           static_cast<long long>(keys.dims[2]), shape_text(k).text);
  WS_TRY(same_shape(c.t[3], "v", k, "k"));
  WS_TRY(vector_of(slots, "slots", k.dims[0]));
  const CacheWriteArguments a = {keys.data, c.t[1].data, k.data, c.t[3].data, slots.as<int32_t>(), k.dims[0],
                            keys.dims[0] * key_block, k.dims[1], k.dims[2], on.fault()};
  const Extent grid = {blocks_for(a.tokens, 4), static_cast<uint32_t>(a.kv_heads), 1};
  return start(on, keys.dtype == DType::f32 ? cache_write_f32 : cache_write_bf16, grid, 0, a);
}

Status cache_copy(const Call& c, Launcher& on) {
  const View &keys = c.t[0], &from = c.t[2], &to = c.t[3];
  WS_TRY(check_cache(keys, c.t[1]));
  WS_CHECK(from.rank == 1, shape, "from: expected [pairs], got %s", shape_text(from).text);
  WS_TRY(vector_of(to, "to", from.dims[0]));
  if (from.dims[0] == 0) return {};
  const CacheCopyArguments a = {keys.data, c.t[1].data, from.as<int32_t>(), to.as<int32_t>(), from.dims[0],
                                keys.dims[0], keys.dims[2] * key_block, on.fault()};
  const Extent grid = {blocks_for(a.slab, cache_threads * span), static_cast<uint32_t>(keys.dims[1]), 1};
  return start(on, keys.dtype == DType::f32 ? cache_copy_f32 : cache_copy_bf16, grid, 0, a);
}

Status attention_decode(const Call& c, Launcher& on) {
  const View &q = c.t[0], &keys = c.t[1], &table = c.t[3], &lengths = c.t[4];
  WS_TRY(check_cache(keys, c.t[2]));
  Heads h = {};
  WS_TRY(read_sizes(c, q, keys.dims[1], keys.dims[2], h));
  WS_CHECK(table.rank == 2 && table.dims[0] == h.tokens, shape, "table: expected [%d, blocks], got %s", h.tokens,
           shape_text(table).text);
  WS_TRY(vector_of(lengths, "lengths", h.tokens));
  WS_TRY(same_shape(c.t[5], "o", q, "q"));
  WS_CHECK(table.dims[1] <= most_heads * int64_t{split_keys / key_block} && keys.dims[0] < 0x7fffffff, shape,
           "table: too many blocks: %s", shape_text(table).text);
  const bool half = q.dtype == DType::bf16;
  const bool wide = half && on.hopper();
  const int size = head_size_index(h.dim, wide);
  const SizedKernel& kernel = wide ? wide_decode_kernels[size] : decode_kernels[half][size];
  const int parts = (h.group + kernel.rows - 1) / kernel.rows;
  const int64_t rows = static_cast<int64_t>(h.tokens) * h.heads, splits = most_splits(table.dims[1], h.window);
  float* states = nullptr;
  if (splits > 1 && rows > 0) {
    const int64_t bytes = rows * splits * (columns_of[size] + 2) * 4;
    states = static_cast<float*>(on.scratch(bytes));
    WS_CHECK(states != nullptr, oom, "no memory for %lld bytes of attention", static_cast<long long>(bytes));
  }
  const DecodeArguments a = {q.data, keys.data, c.t[2].data, table.as<int32_t>(), lengths.as<int32_t>(), c.t[5].data,
                             h, static_cast<int32_t>(table.dims[1]), static_cast<int32_t>(keys.dims[0]), parts,
                             static_cast<int32_t>(splits), columns_of[size], states, on.fault()};
  const Extent grid = {static_cast<uint32_t>(h.tokens), static_cast<uint32_t>(h.kv_heads * parts),
                       static_cast<uint32_t>(splits)};
  WS_TRY(start(on, *kernel.kernel, grid, kernel.shared_bytes, a));
  if (splits == 1) return {};
  return start(on, half ? attention_join_bf16 : attention_join_f32,
               {static_cast<uint32_t>(rows), blocks_for(h.dim, join_threads), 1}, 0, a);
}

#endif

}  // namespace ws::cuda
