// Gradient of attention, without atomics: one kernel walks the keys of a tile of queries and makes dQ, one walks the
// queries of a tile of keys and makes dK and dV. Both form the probabilities anew from lse. Formulas and the order of
// sums over queries (own segment, then those that share it as prefix): native/cpu/attention_backward.cpp.
//
// Queries are met 32 rows (tokens x heads of a group) at a time, counted from their segment's first: a gradient does
// not depend on where in the batch a segment lies. delta = sum(do o) per row and a plan of the segments come first.
#include "attention_backward_hopper.h"

namespace ws::cuda {
namespace {

// Plan ---------------------------------------------------------------------------------------------------------------

constexpr int plan_threads = 1024, plan_warps = plan_threads / warp_size;

struct PlanArguments {
  const int32_t* visibility;
  Plan plan;
  int32_t tokens;
  Fault* fault;
};

WS_DEVICE int bits_set(uint32_t x) {
  x -= (x >> 1) & 0x55555555u;
  x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
  return static_cast<int>((((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24);
}

/// Lists the segments in order; returns how many there are. One block.
WS_DEVICE int list_segments(const PlanArguments& a) {
  int* counts = reinterpret_cast<int*>(shared());
  int count = 0;
  for (int base = 0; base < a.tokens; base += plan_threads) {
    const int token = base + thread();
    const Segment own = token < a.tokens ? segment_at(a.visibility, token) : Segment{-1, 0, 0};
    const bool begins = own.start == token;
    const uint32_t bits = ballot(begins);
    if (lane() == 0) counts[warp()] = bits_set(bits);
    barrier();
    int index = count + bits_set(bits & ((1u << lane()) - 1));
    for (int w = 0; w < plan_warps; ++w) {
      index += w < warp() ? counts[w] : 0;
      count += counts[w];
    }
    if (begins) a.plan.segments[index] = {own, a.tokens, -1};
    if (token < a.tokens) a.plan.segment_of[token] = begins ? index : index - 1;
    barrier();
  }
  return count;
}

WS_KERNEL(attention_plan, plan_threads, PlanArguments, a) {
  bool good = true;
  for (int base = warp() * warp_size; base < a.tokens; base += plan_threads)
    good = check_visibility(a.fault, Op::attention_backward, 6, a.visibility, base,
                            at_most(base + warp_size, a.tokens)) && good;
  int* goods = reinterpret_cast<int*>(shared()) + plan_warps;  // behind the counts of list_segments()
  if (lane() == 0) goods[warp()] = good;
  barrier();
  for (int w = 0; w < plan_warps; ++w) good = goods[w] != 0 && good;
  if (thread() == 0) *a.plan.good = good;
  if (!good) return;
  const int count = list_segments(a);
  Planned* list = a.plan.segments;
  for (int i = thread(); i < count; i += plan_threads) {
    if (i + 1 < count) list[i].end = list[i + 1].segment.start;
    const int root = list[i].segment.p0;
    if (list[i].segment.prefix() == 0) continue;
    int before = i - 1;
    while (list[before].segment.start != root &&
           (list[before].segment.prefix() == 0 || list[before].segment.p0 != root))
      --before;
    list[before].next = i;
  }
}

// delta --------------------------------------------------------------------------------------------------------------

constexpr int delta_rows = 4;  // of a block, a warp each

template <class T>
WS_DEVICE void row_deltas(const AttentionGradients& a) {
  const int64_t row = static_cast<int64_t>(block().x) * delta_rows + warp();
  if (row >= static_cast<int64_t>(a.h.tokens) * a.h.heads) return;
  const T *dout = static_cast<const T*>(a.dout) + row * a.h.dim, *out = static_cast<const T*>(a.out) + row * a.h.dim;
  float sum = 0.0f;
  const int at = lane() * span;
  if (at < a.h.dim) {
    float x[span], y[span];
    load(dout + at, a.h.dim - at, x);
    load(out + at, a.h.dim - at, y);
    for (int i = 0; i < span; ++i) sum = fused(x[i], y[i], sum);
  }
  sum = warp_sum(sum);
  if (lane() == 0) a.delta[row] = sum;
}
WS_KERNEL_FOR_BOTH(attention_delta, delta_rows * warp_size, AttentionGradients, a, row_deltas)

// Both kernels -------------------------------------------------------------------------------------------------------

/// A tile is two blocks of rows that stay (queries and do, or keys and values), a stage 32 rows of the other two.
template <class T, int D>
struct BackwardTile {
  static constexpr int size = static_cast<int>(sizeof(T)) * D;  // bytes of a row
  static constexpr int warps = size <= 512 ? 4 : 1;
  static constexpr int stages = size <= 256 ? 3 : 1;
  static constexpr bool held = D <= 64;  // of keys and values, for dK and dV
  static constexpr int resident = size <= 128 ? 3 : 2;  // blocks of a multiprocessor, for registers of dQ
  static constexpr int rows = warps * strip, threads = warps * warp_size;
  static constexpr int tile_bytes = rows * pitch<T, D>, part_bytes = key_block * pitch<T, D>;
  static constexpr int shared_bytes = 2 * tile_bytes + stages * 2 * part_bytes;
  static constexpr int columns = D <= 128 ? D : D / 2;  // of dK and dV that a block makes
};

// dQ -----------------------------------------------------------------------------------------------------------------

template <class T, int D>
WS_DEVICE void query_gradients(const AttentionGradients& a, const Segment& segment, const QueryRows& q, int kv_head) {
  using S = BackwardTile<T, D>;
  const Heads& h = a.h;
  char *own_rows = shared() + warp() * strip * pitch<T, D>, *stages = shared() + 2 * S::tile_bytes;
  stage_rows<T, D, S::threads>({static_cast<const T*>(a.q), static_cast<const T*>(a.dout)}, shared(), S::tile_bytes,
                               S::rows, h.dim, [&](int row) { return query_offset(q, h, row); });
  copy_commit();
  const PackedKeys keys = keys_of(h, a.k, a.v, kv_head, segment, q);
  const Strip own = own_strip(segment, q, h.window);
  Two row[2];  // lse log2 e and delta of this lane's rows
  for (int half = 0; half < 2; ++half) {
    const int64_t at = q.index(at_most(own.first + lane() / 4 + 8 * half, q.rows - 1), h.heads);
    row[half] = {{a.lse[at] * log2_e, a.delta[at]}};
  }
  Left<T, D, false> left = {}, dout = {};
  float sums[D / 8][4] = {};
  bool loaded = false;
  const auto fetch = [&](int block, char* stage) {
    stage_keys<T, D, S::threads>(keys, segment, h.dim, block, stage);
  };
  walk<S::stages>(keys.begin(), keys.end(), stages, 2 * S::part_bytes, fetch, [&](int block, const char* stage) {
    if (!loaded) {
      left.read(own_rows);
      dout.read(own_rows + S::tile_bytes);
      loaded = true;
    }
    if (!own.meets(block)) return;
    const Seen seen = own.seen(block);
    float s[4][4], ds[4][4];
    multiply_rows(left, stage, s);
    multiply_rows(dout, stage + S::part_bytes, ds);
    const bool mixed = seen.mixed();
    differentiate(h, s, ds, mixed, seen, [&](int, int e) { return row[e / 2]; });
    multiply_across<D>(T{}, ds, stage, mixed, seen, sums);
  });
  const int here = at_most(strip, q.rows - own.first);
  if (here > 0) {
    const float factor[2] = {h.scale, h.scale};
    warp_barrier();
    park<T, D>(own_rows, 0, sums, factor);
    warp_barrier();
    unpark<T, D, D>(own_rows, here, h.dim, lane(), warp_size, [&](int i) {
      return static_cast<T*>(a.dq) + q.index(own.first + i, h.heads) * h.dim;
    });
  }
  barrier();  // before the next segment's rows
}

/// Grid: as of attend_tokens().
template <class T, int D>
WS_DEVICE void backward_queries(const AttentionGradients& a) {
  if (*a.plan.good == 0) return;
  const int tokens = at_least(1, BackwardTile<T, D>::rows / a.members);
  const int first = (blocks().x - 1 - block().x) * tokens, end = at_most(a.h.tokens, first + tokens);
  const int kv_head = block().y / a.parts, member = block().y % a.parts * a.members;
  const int members = at_most(a.members, a.h.group - member);
  for (int token = first; token < end;) {
    const Planned& own = a.plan.segments[a.plan.segment_of[token]];
    const int stop = at_most(end, own.end);
    const QueryRows q = {token, kv_head * a.h.group + member, members, (stop - token) * members};
    query_gradients<T, D>(a, own.segment, q, kv_head);
    token = stop;
  }
}

// dK, dV -------------------------------------------------------------------------------------------------------------

template <class T, int D>
struct KeySums {
  static constexpr int n = BackwardTile<T, D>::columns / 8;
  float dk[n][4], dv[n][4];
};

/// Adds what the queries of one segment give to the keys of the tile.
template <class T, int D>
WS_DEVICE void add_segment(const AttentionGradients& a, const Planned& own, const KeyTile& tile, bool shared_keys,
                           KeySums<T, D>& sums) {
  using S = BackwardTile<T, D>;
  const Heads& h = a.h;
  const QuerySpan m = span_of(h, own, tile, shared_keys);
  if (m.begin >= m.end) return;
  const Seen all = rows_that_see(h, own, tile, shared_keys, tile.first + warp() * strip);
  const int first_column = block().z * S::columns * static_cast<int>(sizeof(T));
  char *own_rows = shared() + warp() * strip * pitch<T, D>, *stages = shared() + 2 * S::tile_bytes;
  Left<T, D, S::held> keys = {}, values = {};
  keys.read(own_rows);
  values.read(own_rows + S::tile_bytes);
  const auto fetch = [&](int chunk, char* stage) {
    stage_rows<T, D, S::threads>({static_cast<const T*>(a.q), static_cast<const T*>(a.dout)}, stage, S::part_bytes,
                                 key_block, h.dim,
                                 [&](int row) { return query_offset(m.q, h, chunk * key_block + row); });
  };
  const int chunks = (m.end + key_block - 1) / key_block;
  walk<S::stages>(m.begin / key_block, chunks, stages, 2 * S::part_bytes, fetch, [&](int chunk, const char* stage) {
    const int base = chunk * key_block, row = base + lane();
    const Seen seen = {{all.low[0] - base, all.low[1] - base}, {all.high[0] - base, all.high[1] - base}};
    bool any = false;
    for (int half = 0; half < 2; ++half)
      any = any || at_least(0, seen.low[half]) < at_most(key_block, seen.high[half]);
    if (ballot(any) == 0) return;
    Two mine = {{0.0f, 0.0f}};  // lse log2 e and delta of the lane's row
    if (row < m.q.rows) {
      const int64_t at = m.q.index(row, h.heads);
      mine = {{a.lse[at] * log2_e, a.delta[at]}};
    }
    float s[4][4], ds[4][4];
    multiply_rows(keys, stage, s);
    multiply_rows(values, stage + S::part_bytes, ds);
    Two rows[4][2];
    WS_UNROLL
    for (int j = 0; j < 4; ++j) {
      WS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int from = 8 * j + lane() % 4 * 2 + e;
        rows[j][e] = {{shuffle(mine.at[0], from), shuffle(mine.at[1], from)}};
      }
    }
    const bool mixed = seen.mixed();
    differentiate(h, s, ds, mixed, seen, [&](int j, int e) { return rows[j][e % 2]; });
    multiply_across<D>(T{}, s, stage + S::part_bytes + first_column, mixed, seen, sums.dv);
    multiply_across<D>(T{}, ds, stage + first_column, mixed, seen, sums.dk);
  });
  barrier();  // before the next segment's rows, or before own rows become those of the gradients
}

template <class T, int D>
WS_DEVICE void key_gradients(const AttentionGradients& a, int index, const KeyTile& tile) {
  using S = BackwardTile<T, D>;
  const Heads& h = a.h;
  const int first_column = block().z * S::columns;
  stage_rows<T, D, S::threads>({static_cast<const T*>(a.k), static_cast<const T*>(a.v)}, shared(), S::tile_bytes, S::rows,
                               h.dim, [&](int row) {
    const int64_t key = tile.first + row;
    return key < tile.end ? (key * h.kv_heads + tile.kv_head) * h.dim : -1;
  });
  copy_commit();
  copy_wait<0>();
  barrier();
  KeySums<T, D> sums = {};
  each_viewer(a, index, tile,
              [&](const Planned& own, bool shared_keys) { add_segment(a, own, tile, shared_keys, sums); });
  char* own_rows = shared() + warp() * strip * pitch<T, D>;
  const int first = tile.first + warp() * strip, here = at_most(strip, tile.end - first);
  const float scale[2] = {h.scale, h.scale}, one[2] = {1.0f, 1.0f};
  park<T, D>(own_rows, first_column, sums.dk, scale);
  park<T, D>(own_rows + S::tile_bytes, first_column, sums.dv, one);
  warp_barrier();
  for (int which = 0; which < 2; ++which) {
    const char* from = own_rows + which * S::tile_bytes + first_column * static_cast<int>(sizeof(T));
    unpark<T, D, S::columns>(from, here, h.dim - first_column, lane(), warp_size, [&](int row) {
      const int64_t key = first + row;
      return static_cast<T*>(which == 0 ? a.dk : a.dv) + (key * h.kv_heads + tile.kv_head) * h.dim + first_column;
    });
  }
  barrier();  // before the next tile
}

/// Grid: tiles of tokens, key/value heads, parts of the columns.
template <class T, int D>
WS_DEVICE void backward_keys(const AttentionGradients& a) {
  if (*a.plan.good == 0) return;
  const int first = block().x * BackwardTile<T, D>::rows, end = at_most(a.h.tokens, first + BackwardTile<T, D>::rows);
  for (int token = first; token < end;) {
    const int index = a.plan.segment_of[token], stop = at_most(end, a.plan.segments[index].end);
    key_gradients<T, D>(a, index, {token, stop, block().y});
    token = stop;
  }
}

#define BACKWARD(T, D)                                                                                      \
  WS_KERNEL_RESIDENT(attention_dq_##T##_##D, (BackwardTile<T, D>::threads), (BackwardTile<T, D>::resident), \
                     AttentionGradients, a) {                                                               \
    backward_queries<T, D>(a);                                                                              \
  }                                                                                                         \
  WS_KERNEL_RESIDENT(attention_dkv_##T##_##D, (BackwardTile<T, D>::threads), 2, AttentionGradients, a) {    \
    backward_keys<T, D>(a);                                                                                 \
  }
BACKWARD(bf16, 64)
BACKWARD(bf16, 96)
BACKWARD(bf16, 128)
BACKWARD(bf16, 256)
BACKWARD(f32, 64)
BACKWARD(f32, 96)
BACKWARD(f32, 128)
BACKWARD(f32, 256)
#undef BACKWARD

#if WS_HOPPER
#define BACKWARD(D)                                                                        \
  WS_KERNEL(attention_dq_wide_##D, WideQueries<D>::threads, TiledGradients, a) {           \
    backward_queries_widely<D>(a);                                                         \
  }                                                                                        \
  WS_KERNEL(attention_dkv_wide_##D, WideKeys<D>::threads, AttentionGradients, a) {         \
    backward_keys_widely<D>(a);                                                            \
  }
BACKWARD(64)
BACKWARD(128)
BACKWARD(256)
#undef BACKWARD
#endif

}  // namespace

#if WS_HOST

namespace {

struct BackwardKernels {
  SizedKernel queries, keys;
  int column_parts;
};

#define BACKWARD(T, D)                                                                                             \
  {{&attention_dq_##T##_##D, BackwardTile<T, D>::shared_bytes, BackwardTile<T, D>::rows},                          \
   {&attention_dkv_##T##_##D, BackwardTile<T, D>::shared_bytes, BackwardTile<T, D>::rows},                         \
   D / BackwardTile<T, D>::columns}
#define WIDE(D)                                                                            \
  {{&attention_dq_wide_##D, WideQueries<D>::shared_bytes, WideQueries<D>::rows},           \
   {&attention_dkv_wide_##D, WideKeys<D>::shared_bytes_with_pairs, group_rows},            \
   D / gradient_columns<D>}
const BackwardKernels backward_kernels[3][head_sizes] = {
    {BACKWARD(f32, 64), BACKWARD(f32, 96), BACKWARD(f32, 128), BACKWARD(f32, 256)},
    {BACKWARD(bf16, 64), BACKWARD(bf16, 96), BACKWARD(bf16, 128), BACKWARD(bf16, 256)},
    {WIDE(64), {}, WIDE(128), WIDE(256)}};
#undef BACKWARD
#undef WIDE

/// Room for the plan and the deltas.
Status take_scratch(Launcher& on, const Heads& h, Plan& plan, float*& delta) {
  const int64_t plan_bytes = 512 + h.tokens * static_cast<int64_t>(sizeof(Planned) + sizeof(int32_t));
  const int64_t delta_bytes = static_cast<int64_t>(h.tokens) * h.heads * 4;
  char* memory = static_cast<char*>(on.scratch(plan_bytes));
  delta = static_cast<float*>(on.scratch(delta_bytes));
  WS_CHECK(memory != nullptr && delta != nullptr, oom, "no memory for %lld bytes of scratch",
           static_cast<long long>(plan_bytes + delta_bytes));
  plan.good = reinterpret_cast<int32_t*>(memory);
  plan.segment_of = reinterpret_cast<int32_t*>(memory + 512);
  plan.segments = reinterpret_cast<Planned*>(plan.segment_of + h.tokens);
  return {};
}

}  // namespace

Status attention_backward(const Call& c, Launcher& on) {
  const View &q = c.t[3], &k = c.t[4];
  Heads h = {};
  WS_TRY(read_heads(c, q, k, c.t[6], h));
  WS_TRY(same_shape(c.t[5], "v", k, "k"));
  WS_TRY(same_shape(c.t[0], "do", q, "q"));
  WS_TRY(same_shape(c.t[1], "o", q, "q"));
  WS_TRY(same_shape(c.t[7], "dq", q, "q"));
  WS_TRY(same_shape(c.t[8], "dk", k, "k"));
  WS_TRY(same_shape(c.t[9], "dv", k, "k"));
  WS_TRY(check_lse(c.t[2], h));
  if (h.tokens == 0) return {};
  const bool two_bytes = q.dtype == DType::bf16;
  const bool wide = two_bytes && on.hopper();
  const BackwardKernels& kernels = backward_kernels[two_bytes + wide][head_size_index(h.dim, wide)];
  const int rows = kernels.queries.rows, members = h.group < rows ? h.group : rows;
  const int parts = (h.group + members - 1) / members;
  AttentionGradients a = {c.t[0].data, c.t[1].data, q.data, k.data, c.t[5].data, c.t[2].as<float>(), nullptr,
                         c.t[6].as<int32_t>(), c.t[7].data, c.t[8].data, c.t[9].data, h, members, parts, {}};
  WS_TRY(take_scratch(on, h, a.plan, a.delta));
  const PlanArguments plan = {a.visibility, a.plan, h.tokens, on.fault()};
  WS_TRY(start(on, attention_plan, {1, 1, 1}, 2 * plan_warps * 4, plan));
  const uint32_t delta_blocks = blocks_for(static_cast<int64_t>(h.tokens) * h.heads, delta_rows);
  WS_TRY(start(on, two_bytes ? attention_delta_bf16 : attention_delta_f32, {delta_blocks, 1, 1}, 0, a));
  const Extent queries = {blocks_for(h.tokens, rows / members), static_cast<uint32_t>(h.kv_heads * parts), 1};
  TiledGradients t = {{}, a};
  if (wide) WS_TRY(map_keys(k, c.t[5], on, t.maps));
  WS_TRY(wide ? start(on, *kernels.queries.kernel, queries, kernels.queries.shared_bytes, t)
              : start(on, *kernels.queries.kernel, queries, kernels.queries.shared_bytes, a));
  const Extent keys = {blocks_for(h.tokens, kernels.keys.rows), static_cast<uint32_t>(h.kv_heads),
                       static_cast<uint32_t>(kernels.column_parts)};
  return start(on, *kernels.keys.kernel, keys, kernels.keys.shared_bytes, a);
}

#endif

}  // namespace ws::cuda
