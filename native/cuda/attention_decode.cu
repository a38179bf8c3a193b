// The paged key/value cache on the GPU, and attention of one new token per sequence over it: the bits that attention.cu
// gives for that token, by the same functions (attention.h). Semantics: native/cpu/attention.cpp.
//
// Decode: four warps have one key/value head of one sequence, its query heads as the rows of one strip. The warps share
// the scores of several blocks of keys; then each folds all of them, and makes a quarter of the output's columns.
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
  int32_t table_width, cache_blocks, parts;  // parts: strips that the heads of a group need
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

/// The sequence's length, if it and the blocks of [low, length) are good; else 0, after a report.
WS_DEVICE int checked_length(const DecodeArguments& a, int sequence) {
  const int length = a.lengths[sequence];
  const int64_t most = static_cast<int64_t>(a.table_width) * key_block;
  if (length < 1 || length > most) {
    report(a.fault, {static_cast<int32_t>(FaultKind::count), static_cast<int32_t>(Op::attention_decode), 4, sequence,
                     length, static_cast<int32_t>(most < 0x7fffffff ? most : 0x7fffffff)});
    return 0;
  }
  const int low = a.h.window > 0 ? at_least(0, length - a.h.window) : 0;
  bool good = true;
  for (int block = low / key_block + lane(); block * key_block < length; block += warp_size) {
    const int64_t at = static_cast<int64_t>(sequence) * a.table_width + block;
    good = check_index(a.fault, Op::attention_decode, 3, at, a.table[at], a.cache_blocks) && good;
  }
  return ballot(!good) == 0 ? length : 0;
}

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

/// Grid: sequences; key/value heads x parts of their groups.
template <class T, int D>
WS_DEVICE void decode_sequence(const DecodeArguments& a) {
  using S = DecodeTile<T, D>;
  const Heads& h = a.h;
  const int sequence = block().x, kv_head = block().y / a.parts, member = block().y % a.parts * strip;
  const int rows = at_most(strip, h.group - member), length = checked_length(a, sequence);
  if (length == 0) return;
  const int low = h.window > 0 ? at_least(0, length - h.window) : 0;
  const int begin = low / key_block, end = (length + key_block - 1) / key_block;
  const int64_t first_row = static_cast<int64_t>(sequence) * h.heads + kv_head * h.group + member;
  char *scores = shared() + strip * pitch<T, D>, *stages = scores + S::scores_bytes;
  stage_rows<T, D, S::threads>({static_cast<const T*>(a.q)}, shared(), 0, strip, h.dim, [&](int row) {
    return row < rows ? (first_row + row) * h.dim : -1;
  });
  copy_commit();

  const auto place = [&](int i, int block) {  // of block `block` of step i
    return stages + (i % S::stages * S::step + block) * S::block_bytes;
  };
  const auto fetch = [&](int i) {
    for (int b = 0; b < S::step; ++b) {
      const int block = begin + i * S::step + b, base = block * key_block;
      if (block >= end) break;
      const int64_t id = a.table[static_cast<int64_t>(sequence) * a.table_width + block];
      stage_block<T, D>(a, (id * h.kv_heads + kv_head) * h.dim * key_block, low - base, length - base, place(i, b));
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
      const Seen seen = {{low - base, low - base}, {length - base, length - base}};
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
  const float factor[2] = {1.0f / running.sum[0], 1.0f / running.sum[1]};
  // The queries have been read by all: before the scores were.
  park<T, D>(shared(), warp() * S::columns, sums, factor);
  barrier();
  unpark<T, D, D>(shared(), rows, h.dim, thread(), S::threads, [&](int row) {
    return static_cast<T*>(a.o) + (first_row + row) * h.dim;
  });
}

#define DECODE(T, D)                                                                                   \
  WS_KERNEL_RESIDENT(attention_decode_##T##_##D, (DecodeTile<T, D>::threads), 1, DecodeArguments, a) { \
    decode_sequence<T, D>(a);                                                                          \
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

/// Blocks [low, high) of 64 positions of a sequence, each two of the cache: keys as they lie, side by side; of the values
/// those of positions that are seen, else zeros.
template <int D>
WS_DEVICE void load_cache(const DecodeArguments& a, int sequence, int kv_head, int low, int high) {
  const int dim = a.h.dim;
  const int64_t slab = static_cast<int64_t>(dim) * key_block;
  const int32_t* table = a.table + static_cast<int64_t>(sequence) * a.table_width;
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

/// Up to 64 query heads that see positions [low, high).
template <int D>
WS_DEVICE void attend_cache(const DecodeArguments& a, int64_t first_row, int here, int low, int high) {
  using S = WideDecode<D>;
  const Heads& h = a.h;
  GroupRows rows = {at_most(strip, at_least(0, here - warp() % 4 * strip)), {low, low}, {high, high}, low / wide_block,
                    (high + wide_block - 1) / wide_block, low, high};
  stage_strip<S>(static_cast<const bf16*>(a.q), h.dim,
                 [&](int row) { return row < here ? (first_row + row) * h.dim : int64_t{-1}; }, own_area<S>());
  await_strips<S>();
  Queries<D, S::held> queries;
  queries.read(own_area<S>());
  Parts<S> parts;
  Running running = nothing_yet();
  float o[D / 8][4] = {};
  attend_blocks<S, true, false>(h, rows, parts, queries, running, o);
  complete(running);
  const float factor[2] = {1.0f / running.sum[0], 1.0f / running.sum[1]};
  const int64_t own = first_row + warp() % 4 * strip;
  free_strips<S>();
  store_strip<S>(o, factor, rows.here, h.dim,
                 [&](int row) { return static_cast<bf16*>(a.o) + (own + row) * h.dim; });
}

/// Grid: as of decode_sequence().
template <int D>
WS_DEVICE void decode_widely(const DecodeArguments& a) {
  using S = WideDecode<D>;
  const Heads& h = a.h;
  const int sequence = block().x, kv_head = block().y / a.parts, member = block().y % a.parts * group_rows;
  const int here = at_most(group_rows, h.group - member), length = checked_length(a, sequence);
  if (length == 0) return;
  const int low = h.window > 0 ? at_least(0, length - h.window) : 0;
  open_ring<S>();
  if (warp() < 4) {
    if constexpr (wide_resident<D> == 2) fewer_registers<56>();
    load_cache<D>(a, sequence, kv_head, low, length);
  } else {
    if constexpr (wide_resident<D> == 2) more_registers<200>();
    attend_cache<D>(a, static_cast<int64_t>(sequence) * h.heads + kv_head * h.group + member, here, low, length);
  }
}

#define DECODE(D)                                                                                               \
  WS_KERNEL_RESIDENT(attention_decode_wide_##D, WideDecode<D>::threads, wide_resident<D>, DecodeArguments, a) { \
    decode_widely<D>(a);                                                                                        \
  }
DECODE(64)
DECODE(96)
DECODE(128)
DECODE(256)
#undef DECODE

#endif

}  // namespace

#if WS_HOST

namespace {

#define DECODE(T, D) {&attention_decode_##T##_##D, DecodeTile<T, D>::shared_bytes, strip}
const SizedKernel decode_kernels[2][head_sizes] = {
    {DECODE(f32, 64), DECODE(f32, 96), DECODE(f32, 128), DECODE(f32, 256)},
    {DECODE(bf16, 64), DECODE(bf16, 96), DECODE(bf16, 128), DECODE(bf16, 256)}};
#undef DECODE
#define DECODE(D) {&attention_decode_wide_##D, WideDecode<D>::shared_bytes, group_rows}
const SizedKernel wide_decode_kernels[head_sizes] = {DECODE(64), DECODE(96), DECODE(128), DECODE(256)};
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
  WS_CHECK(table.dims[1] < 0x7fffffff / key_block && keys.dims[0] < 0x7fffffff, shape, "table: too many blocks: %s",
           shape_text(table).text);
  const bool half = q.dtype == DType::bf16;
  const int size = head_size_index(h.dim);
  const SizedKernel& kernel = half && on.hopper() ? wide_decode_kernels[size] : decode_kernels[half][size];
  const int parts = (h.group + kernel.rows - 1) / kernel.rows;
  const DecodeArguments a = {q.data, keys.data, c.t[2].data, table.as<int32_t>(), lengths.as<int32_t>(), c.t[5].data,
                             h, static_cast<int32_t>(table.dims[1]), static_cast<int32_t>(keys.dims[0]), parts,
                             on.fault()};
  const Extent grid = {static_cast<uint32_t>(h.tokens), static_cast<uint32_t>(h.kv_heads * parts), 1};
  return start(on, *kernel.kernel, grid, kernel.shared_bytes, a);
}

#endif

}  // namespace ws::cuda
