// Rotary positions, and attention forward over packed tokens. The backward pass is in attention_backward.cu, decode and
// the paged cache in attention_decode.cu; what they share, and the order of arithmetic, is in attention.h.
// Semantics: native/cpu/attention.cpp.
#include "attention_hopper.h"

namespace ws::cuda {
namespace {

// Rope ---------------------------------------------------------------------------------------------------------------

constexpr int rope_threads = 128;

struct RopeArguments {
  const void* x;
  const float *cosines, *sines;
  const int32_t* positions;
  void* y;
  int64_t heads, dim, half, known;  // `known` positions have angles
  float sign;
  Fault* fault;
};

/// Eight pairs (j, j + half) of a row.
template <class T>
WS_DEVICE void rotate(const RopeArguments& a, const T* x, T* y, int64_t place, int64_t j) {
  const int64_t left = a.half - j;
  const int n = static_cast<int>(left < span ? left : span);
  float u[span], v[span], cosine[span], sine[span], first[span], second[span];
  load(x + j, n, u);
  load(x + j + a.half, n, v);
  load(a.cosines + place + j, n, cosine);
  load(a.sines + place + j, n, sine);
  for (int i = 0; i < span; ++i) {
    first[i] = u[i] * cosine[i] - v[i] * (sine[i] * a.sign);
    second[i] = v[i] * cosine[i] + u[i] * (sine[i] * a.sign);
  }
  store(y + j, n, first);
  store(y + j + a.half, n, second);
}

/// A block has a token: the pairs of all its heads, then the elements that stay.
template <class T>
WS_DEVICE void rope_token(const RopeArguments& a) {
  const int64_t token = block().x;
  const int32_t position = a.positions[token];
  if (!check_index(a.fault, Op::rope, 3, token, position, a.known)) return;
  const T* x = static_cast<const T*>(a.x) + token * a.heads * a.dim;
  T* y = static_cast<T*>(a.y) + token * a.heads * a.dim;
  const int turned = static_cast<int>((a.half + span - 1) / span), rest = static_cast<int>(a.dim - 2 * a.half);
  for (int at = thread(); at < a.heads * turned; at += rope_threads) {
    const int64_t row = at / turned * a.dim;
    rotate(a, x + row, y + row, position * a.half, at % turned * span);
  }
  for (int at = thread(); at < a.heads * rest; at += rope_threads) {
    const int64_t place = at / rest * a.dim + 2 * a.half + at % rest;
    y[place] = x[place];
  }
}
WS_KERNEL_FOR_BOTH(rope, rope_threads, RopeArguments, a, rope_token)

// Forward ------------------------------------------------------------------------------------------------------------

struct AttentionArguments {
  const void *q, *k, *v;
  const int32_t* visibility;
  void* o;
  float* lse;
  Heads h;
  int32_t members, parts;  // query heads of a group in one tile, tiles that a group needs
  Fault* fault;
};

/// Warps of a block, stages of keys and values in shared memory: within the 99 KiB that every GPU from sm_80 on has.
template <class T, int D>
struct ForwardTile {
  static constexpr int size = static_cast<int>(sizeof(T)) * D;  // bytes of a row
  static constexpr int warps = size <= 512 ? 4 : 2;
  static constexpr int stages = size <= 256 ? 3 : size <= 512 ? 2 : 1;
  static constexpr bool held = D <= 128;
  static constexpr int resident = size <= 128 ? 3 : 2;  // blocks of a multiprocessor, for registers
  static constexpr int rows = warps * strip, threads = warps * warp_size;
  static constexpr int keys_bytes = key_block * pitch<T, D>, stage_bytes = 2 * keys_bytes;
  static constexpr int shared_bytes = rows * pitch<T, D> + stages * stage_bytes;
};

/// The rows of one segment in a tile.
template <class T, int D>
WS_DEVICE void attend_rows(const AttentionArguments& a, const Segment& segment, const QueryRows& q, int kv_head) {
  using S = ForwardTile<T, D>;
  const Heads& h = a.h;
  char *own_rows = shared() + warp() * strip * pitch<T, D>, *stages = shared() + S::rows * pitch<T, D>;
  stage_rows<T, D, S::threads>({static_cast<const T*>(a.q)}, shared(), 0, S::rows, h.dim,
                               [&](int row) { return query_offset(q, h, row); });
  copy_commit();
  const PackedKeys keys = keys_of(h, a.k, a.v, kv_head, segment, q);
  const Strip own = own_strip(segment, q, h.window);
  Left<T, D, S::held> left = {};
  Running running = nothing_yet();
  float sums[D / 8][4] = {};
  Whole<D / 8> whole;
  bool loaded = false;
  const auto fetch = [&](int block, char* stage) {
    stage_keys<T, D, S::threads>(keys, segment, h.dim, block, stage);
  };
  walk<S::stages>(keys.begin(), keys.end(), stages, S::stage_bytes, fetch, [&](int block, const char* stage) {
    if (!loaded) left.read(own_rows);
    loaded = true;
    const int base = block * key_block;
    if (base % split_keys == 0 && base > keys.low) {
      end_split(whole, h.dim, base - split_keys <= keys.low, running, sums);
      clear(sums);
    }
    if (!own.meets(block)) return;
    const Seen seen = own.seen(block);
    const bool mixed = seen.mixed();
    float s[4][4], factor[2];
    multiply_rows(left, stage, s);
    score(h, s);
    if (mixed) hide(s, seen);
    fold(s, running, factor);
    rescale(sums, factor);
    multiply_across<D>(T{}, s, stage + S::keys_bytes, mixed, seen, sums);
  });
  end_splits(whole, h.dim, split_of(keys.high - 1) <= keys.low, running, sums);
  const int here = at_most(strip, q.rows - own.first);
  if (here > 0) {
    const float factor[2] = {1.0f / running.sum[0], 1.0f / running.sum[1]};
    warp_barrier();  // the queries were read before end_splits()
    park<T, D>(own_rows, 0, sums, factor);
    warp_barrier();
    unpark<T, D, D>(own_rows, here, h.dim, lane(), warp_size, [&](int row) {
      return static_cast<T*>(a.o) + q.index(own.first + row, h.heads) * h.dim;
    });
    for (int half = 0; half < 2; ++half) {
      const int row = own.first + lane() / 4 + 8 * half;
      if (lane() % 4 == 0 && row < q.rows)
        a.lse[q.index(row, h.heads)] = running.top[half] * ln_2 + logarithm(running.sum[half]);
    }
  }
  barrier();  // before the next segment's rows
}

/// Tokens of a tile of `rows` rows; those of this block, the last first (late ones have the most keys).
struct TileTokens {
  int first, end;
};
WS_DEVICE TileTokens tile_tokens(const AttentionArguments& a, int rows) {
  const int tokens = at_least(1, rows / a.members), first = (blocks().x - 1 - block().x) * tokens;
  return {first, at_most(a.h.tokens, first + tokens)};
}

/// f(segment, its rows in the tile, key/value head) for every segment of the tile.
template <class F>
WS_DEVICE void each_segment(const AttentionArguments& a, const TileTokens& tile, F f) {
  const int kv_head = block().y / a.parts, member = block().y % a.parts * a.members;
  const int members = at_most(a.members, a.h.group - member);
  for (int token = tile.first; token < tile.end;) {
    const int stop = run_end(a.visibility, token, tile.end);
    const QueryRows q = {token, kv_head * a.h.group + member, members, (stop - token) * members};
    f(segment_at(a.visibility, token), q, kv_head);
    token += static_cast<int>(computed_anew(q.rows)) / members;  // to `stop`, without a register for it
  }
}

/// Grid: tiles of tokens; key/value heads x parts of their groups.
template <class T, int D>
WS_DEVICE void attend_tokens(const AttentionArguments& a) {
  const TileTokens tile = tile_tokens(a, ForwardTile<T, D>::rows);
  if (!check_visibility(a.fault, Op::attention, 3, a.visibility, tile.first, tile.end)) return;
  each_segment(a, tile, [&](const Segment& segment, const QueryRows& q, int kv_head) {
    attend_rows<T, D>(a, segment, q, kv_head);
  });
}

#define FORWARD(T, D)                                                                                  \
  WS_KERNEL_RESIDENT(attention_##T##_##D, (ForwardTile<T, D>::threads), (ForwardTile<T, D>::resident), \
                     AttentionArguments, a) {                                                          \
    attend_tokens<T, D>(a);                                                                            \
  }
FORWARD(bf16, 64)
FORWARD(bf16, 96)
FORWARD(bf16, 128)
FORWARD(bf16, 256)
FORWARD(f32, 64)
FORWARD(f32, 96)
FORWARD(f32, 128)
FORWARD(f32, 256)
#undef FORWARD

// Forward on sm_90a ----------------------------------------------------------------------------------------------------

struct TiledAttentionArguments {
  KeyMaps maps;
  AttentionArguments a;
};

constexpr int wide_groups = 2;

template <int D>
constexpr int wide_stages = D <= 64 ? 6 : D <= 128 ? 4 : 2;

#if WS_HOPPER

template <int D>
using WideForward = WideTile<D, wide_groups, wide_stages<D>>;

/// A group's rows of one segment in the tile.
template <int D>
WS_DEVICE void attend_group(const AttentionArguments& a, const Segment& segment, const QueryRows& q,
                            Parts<WideForward<D>>& parts) {
  using S = WideForward<D>;
  const Heads& h = a.h;
  GroupRows rows = packed_rows(segment, q, h.window);
  const int first = own_group() * group_rows;
  const int begin = segment.low(q.token, h.window) / wide_block;
  const int end = (segment.high(q.token_of(q.rows - 1)) + wide_block - 1) / wide_block;
  if (rows.begin == rows.end) return pass_blocks<S, Asked::values>(rows, begin, end, parts);
  stage_strip<S>(static_cast<const bf16*>(a.q), h.dim, [&](int row) { return query_offset(q, h, first + row); },
                 own_area<S>());
  await_strips<S>();
  Queries<D, S::held> queries;
  queries.read(own_area<S>());
  pass_blocks<S, Asked::values>(rows, begin, rows.begin, parts);
  Running running = nothing_yet();
  float o[D / 8][4];
  Whole<D / 8> whole;
  const int last = rows.end;
  bool fresh = true;
  for (;; rows.begin = rows.end, fresh = false) {
    rows.end = at_most(last, (split_of(rows.begin * wide_block) + split_keys) / wide_block);
    clear(o);
    attend_blocks<S, false, true>(h, rows, parts, queries, running, o);
    if (rows.end == last) break;
    end_split(whole, h.dim, fresh, running, o);
  }
  end_splits(whole, h.dim, fresh, running, o);
  const float factor[2] = {1.0f / running.sum[0], 1.0f / running.sum[1]};
  const int own = first + warp() % 4 * strip, here = at_most(strip, at_least(0, q.rows - own));
  free_strips<S>();
  store_strip<S>(o, factor, here, h.dim, [&](int row) {
    return static_cast<bf16*>(a.o) + q.index(own + row, h.heads) * h.dim;
  });
  for (int half = 0; half < 2; ++half) {
    const int row = lane() / 4 + 8 * half;
    if (lane() % 4 == 0 && row < here)
      a.lse[q.index(own + row, h.heads)] = running.top[half] * ln_2 + logarithm(running.sum[half]);
  }
  pass_blocks<S, Asked::values>(rows, rows.end, end, parts);
}

/// Grid: as of attend_tokens().
template <int D>
WS_DEVICE void attend_widely(const TiledAttentionArguments& t) {
  using S = WideForward<D>;
  const TileTokens tile = tile_tokens(t.a, S::rows);
  if (!check_visibility(t.a.fault, Op::attention, 3, t.a.visibility, tile.first, tile.end)) return;
  open_ring<S>();
  // Both roles compute their tile anew: kept from above it would take a register that loaders do not have.
  if (warp() < 4) {
    fewer_registers<56>();
    Loader<S> loader;
    each_segment(t.a, tile_tokens(t.a, S::rows), [&](const Segment& segment, const QueryRows& q, int kv_head) {
      load_blocks(t.maps, keys_of(t.a.h, t.a.k, t.a.v, kv_head, segment, q), segment, t.a.h.dim, loader);
    });
    loader.finish();
  } else {
    more_registers<224>();
    Parts<S> parts;
    each_segment(t.a, tile_tokens(t.a, S::rows), [&](const Segment& segment, const QueryRows& q, int) {
      attend_group<D>(t.a, segment, q, parts);
    });
  }
}

#define FORWARD(D) \
  WS_KERNEL(attention_wide_##D, WideForward<D>::threads, TiledAttentionArguments, a) { attend_widely<D>(a); }
FORWARD(64)
FORWARD(128)
FORWARD(256)
#undef FORWARD

#endif

}  // namespace

#if WS_HOST

namespace {

#define FORWARD(T, D) {&attention_##T##_##D, ForwardTile<T, D>::shared_bytes, ForwardTile<T, D>::rows}
const SizedKernel forward_kernels[2][head_sizes] = {
    {FORWARD(f32, 64), FORWARD(f32, 96), FORWARD(f32, 128), FORWARD(f32, 256)},
    {FORWARD(bf16, 64), FORWARD(bf16, 96), FORWARD(bf16, 128), FORWARD(bf16, 256)}};
#undef FORWARD
#define FORWARD(D) {&attention_wide_##D, WideForward<D>::shared_bytes, WideForward<D>::rows}
const SizedKernel wide_kernels[head_sizes] = {FORWARD(64), {}, FORWARD(128), FORWARD(256)};
#undef FORWARD

}  // namespace

Status rope(const Call& c, Launcher& on) {
  const View &x = c.t[0], &cosines = c.t[1], &positions = c.t[3];
  WS_CHECK(x.rank == 3, shape, "x: expected [tokens, heads, size], got %s", shape_text(x).text);
  WS_TRY(same_shape(c.t[4], "y", x, "x"));
  WS_CHECK(cosines.rank == 2 && 2 * cosines.dims[1] <= x.dims[2], shape,
           "cos: expected [positions, at most %lld], got %s", static_cast<long long>(x.dims[2] / 2),
           shape_text(cosines).text);
  WS_TRY(same_shape(c.t[2], "sin", cosines, "cos"));
  WS_TRY(vector_of(positions, "positions", x.dims[0]));
  WS_CHECK(x.dims[1] * x.dims[2] < 0x7fffffff - rope_threads, shape, "x: rows are too long: %s", shape_text(x).text);
  const RopeArguments a = {x.data, cosines.as<float>(), c.t[2].as<float>(), positions.as<int32_t>(), c.t[4].data,
                           x.dims[1], x.dims[2], cosines.dims[1], cosines.dims[0], c.p[0] != 0 ? -1.0f : 1.0f,
                           on.fault()};
  return start(on, x.dtype == DType::f32 ? rope_f32 : rope_bf16, {blocks_for(x.dims[0], 1), 1, 1}, 0, a);
}

Status attention(const Call& c, Launcher& on) {
  const View &q = c.t[0], &k = c.t[1], &v = c.t[2], &lse = c.t[5];
  Heads h = {};
  WS_TRY(read_heads(c, q, k, c.t[3], h));
  WS_TRY(same_shape(v, "v", k, "k"));
  WS_TRY(same_shape(c.t[4], "o", q, "q"));
  WS_TRY(check_lse(lse, h));
  const bool wide = on.hopper() && q.dtype == DType::bf16;
  const int size = head_size_index(h.dim, wide);
  const SizedKernel& kernel = wide ? wide_kernels[size] : forward_kernels[q.dtype == DType::bf16][size];
  const int members = h.group < kernel.rows ? h.group : kernel.rows, parts = (h.group + members - 1) / members;
  const AttentionArguments a = {q.data, k.data, v.data, c.t[3].as<int32_t>(), c.t[4].data, lse.as<float>(), h, members,
                              parts, on.fault()};
  const int tokens = kernel.rows / members;
  const Extent grid = {blocks_for(h.tokens, tokens), static_cast<uint32_t>(h.kv_heads * parts), 1};
  if (!wide) return start(on, *kernel.kernel, grid, kernel.shared_bytes, a);
  TiledAttentionArguments t = {{}, a};
  WS_TRY(map_keys(k, v, on, t.maps));
  return start(on, *kernel.kernel, grid, kernel.shared_bytes, t);
}

#endif

}  // namespace ws::cuda
