// What attention forward, decode and backward share on a GPU: the walk over blocks of keys, the online softmax, who
// sees whom, and the checks of their entries. Products are in attention_tile.h. Included by kernel files only.
//
// The order of arithmetic of mma.sync, which training and decode must have in common bit for bit: keys are taken in blocks of 32
// LOGICAL positions (the shared prefix first, then the own segment), in order; a score is one sum over D, 16 at a time
// by mma (bf16) or one by one (f32); a lane adds its eight probabilities of a block, four lanes are added at the end;
// the output is a chain over blocks, 16 keys at a time (bf16) or one by one (f32). With every 1024 positions maximum, sum
// and output begin anew, and are joined to those of the positions before. A row's bits depend on no other row.
#pragma once
#include "attention_tile.h"

namespace ws::cuda {

constexpr float log2_e = 1.44269504088896341f, ln_2 = 0.693147180559945309f;

/// Sizes and parameters of a call. `group` query heads share a key/value head; at most `rows` of them are in one tile.
struct Heads {
  int32_t tokens, heads, kv_heads, group, dim, window;
  float scale;
  float inner, outer;  // a score of products s, times log2 e: s inner, or with a cap outer tanh(s inner)
};

/// f(block, its stage) for the blocks [begin, end), while later ones travel. `fetch` puts a block into a stage.
template <int stages, class Fetch, class F>
WS_DEVICE void walk(int begin, int end, char* memory, int stage_bytes, Fetch fetch, F f) {
  const auto ahead = [&](int block) {
    if (block < end) fetch(block, memory + (block - begin) % stages * stage_bytes);
    copy_commit();
  };
  for (int s = 0; s + 1 < stages; ++s) ahead(begin + s);
  for (int block = begin; block < end; ++block) {
    if constexpr (stages == 1) {
      barrier();  // the block before has been read by all
      ahead(block);
      copy_wait<0>();
      barrier();
    } else {
      copy_wait<stages - 2>();
      barrier();  // this stage is there for all, and the one before it has been read by all
      ahead(block + stages - 1);
    }
    f(block, memory + (block - begin) % stages * stage_bytes);
  }
}

// The online softmax -------------------------------------------------------------------------------------------------

/// Products become scores, in powers of two.
template <int n>
WS_DEVICE void score(const Heads& h, float (&s)[n][4]) {
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) s[j][e] *= h.inner;
  }
  if (h.outer == 0) return;
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) s[j][e] = h.outer * hyperbolic_tangent(s[j][e]);
  }
}

/// Running maximum and sum of a lane's two rows; the sum is of this lane's columns.
struct Running {
  float top[2], sum[2];
};

WS_DEVICE Running nothing_yet() {
  const float none = as_float(0xff800000u);
  return {{none, none}, {0.0f, 0.0f}};
}

/// Scores that a row does not see become minus infinity.
template <int n>
WS_DEVICE void hide(float (&s)[n][4], const Seen& seen) {
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e)
      if (!seen.sees(e / 2, 8 * j + lane() % 4 * 2 + e % 2)) s[j][e] = as_float(0xff800000u);
  }
}

/// Scores of a block become probabilities relative to the new maximum; earlier output is to be multiplied by factor.
template <int n>
WS_DEVICE void fold(float (&s)[n][4], Running& r, float (&factor)[2]) {
  const float none = as_float(0xff800000u);
  float top[2] = {none, none};
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) top[e / 2] = larger(top[e / 2], s[j][e]);
  }
  WS_UNROLL
  for (int half = 0; half < 2; ++half) {
    float& now = top[half];
    now = larger(now, shuffle_xor(now, 1));
    now = larger(now, shuffle_xor(now, 2));
    now = larger(now, r.top[half]);
    const float zero_point = now == none ? 0.0f : now;  // a row that has seen nothing yet
    factor[half] = fast_exp2(r.top[half] - zero_point);
    r.top[half] = now;
    float sum = 0.0f;
    WS_UNROLL
    for (int j = 0; j < n; ++j) {
      WS_UNROLL
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        s[j][e] = fast_exp2(s[j][e] - zero_point);
        sum += s[j][e];
      }
    }
    r.sum[half] = fused(r.sum[half], factor[half], sum);
  }
}

/// Earlier output, relative to the new maximum.
template <int n>
WS_DEVICE void rescale(float (&sums)[n][4], const float (&factor)[2]) {
  if (ballot(factor[0] != 1.0f || factor[1] != 1.0f) == 0) return;
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) sums[j][e] *= factor[e / 2];
  }
}

/// Sums of whole rows from those of lanes.
WS_DEVICE void complete(Running& r) {
  WS_UNROLL
  for (int half = 0; half < 2; ++half) {
    r.sum[half] += shuffle_xor(r.sum[half], 1);
    r.sum[half] += shuffle_xor(r.sum[half], 2);
  }
}

// Splits -------------------------------------------------------------------------------------------------------------

/// Logical positions of a split: at its multiples maximum, sum and output of a row begin anew, so that several blocks of
/// threads can have the splits of one sequence when decoding.
constexpr int split_keys = 1024;

/// Where the split of a position begins.
WS_DEVICE int split_of(int position) { return position / split_keys * split_keys; }

/// How much the outputs of a row over some keys and over later ones count in their sum.
struct Joint {
  float first, second;
  WS_DEVICE float operator()(float a, float b) const { return fused(a, first, b * second); }
};

/// Maximum and sum of a row over some keys, complete, become those with later keys. Where one side has seen nothing, all
/// its numbers are +0, which count as -1 times: the other side's stay as they are to the bit, -0 too.
WS_DEVICE Joint join(float& top, float& sum, float later_top, float later_sum) {
  const float highest = larger(top, later_top);
  const Joint joint = {sum == 0 ? -1.0f : fast_exp2(top - highest),
                       later_sum == 0 ? -1.0f : fast_exp2(later_top - highest)};
  top = highest;
  sum = joint(sum, later_sum);
  return joint;
}

/// A lane's two rows over the splits so far, in local memory: output as in fragments, then maxima and sums.
template <int n>
struct Whole {
  Quad o[n], r;
};

/// f(j) for the fragments of output that exist, a few at a time: all at once would take the registers that memory spares.
template <int n, class F>
WS_DEVICE void each_fragment(int dim, F f) {
  constexpr int some = 4;
  WS_UNROLL
  for (int j = 0; j < n; j += some) {
    if (8 * j >= dim) continue;
    WS_UNROLL
    for (int i = 0; i < some; ++i) f(j + i);
  }
}

/// The state over a split, complete, is joined to that over the splits before it; put(j, sums) takes the new output.
template <int n, class F>
WS_DEVICE void join_split(const Whole<n>& whole, int dim, Running& r, const float (&o)[n][4], F put) {
  const Quad before = taken(&whole.r);
  float top[2] = {as_float(before.x), as_float(before.y)}, sum[2] = {as_float(before.z), as_float(before.w)};
  const Joint joints[2] = {join(top[0], sum[0], r.top[0], r.sum[0]), join(top[1], sum[1], r.top[1], r.sum[1])};
  r = {{top[0], top[1]}, {sum[0], sum[1]}};
  each_fragment<n>(dim, [&](int j) {
    const Quad earlier = taken(&whole.o[j]);
    put(j, {{joints[0](as_float(earlier.x), o[j][0]), joints[0](as_float(earlier.y), o[j][1]),
             joints[1](as_float(earlier.z), o[j][2]), joints[1](as_float(earlier.w), o[j][3])}});
  });
}

/// After a split that others follow: its state goes to `whole`. A new one is to begin, with an output of zeros.
template <int n>
WS_DEVICE void end_split(Whole<n>& whole, int dim, bool first, Running& r, const float (&o)[n][4]) {
  complete(r);
  const auto put = [&](int j, const Four& sums) {
    put_aside(&whole.o[j], {as_bits(sums.at[0]), as_bits(sums.at[1]), as_bits(sums.at[2]), as_bits(sums.at[3])});
  };
  if (first) each_fragment<n>(dim, [&](int j) { put(j, {{o[j][0], o[j][1], o[j][2], o[j][3]}}); });
  else join_split(whole, dim, r, o, put);
  put_aside(&whole.r, {as_bits(r.top[0]), as_bits(r.top[1]), as_bits(r.sum[0]), as_bits(r.sum[1])});
  r = nothing_yet();
}

/// After the last split: its state becomes that over all.
template <int n>
WS_DEVICE void end_splits(const Whole<n>& whole, int dim, bool only, Running& r, float (&o)[n][4]) {
  complete(r);
  if (only) return;
  join_split(whole, dim, r, o, [&](int j, const Four& sums) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) o[j][e] = sums.at[e];
  });
}

// Visibility ---------------------------------------------------------------------------------------------------------

/// Where a segment and its prefix are: logical positions are prefix [p0, p1) first, then tokens from `start` on.
struct Segment {
  int start, p0, p1;
  WS_DEVICE int prefix() const { return p1 - p0; }
  WS_DEVICE int token(int position) const { return position < prefix() ? p0 + position : start + position - prefix(); }
  /// Logical positions that a query sees: [low, high).
  WS_DEVICE int high(int query) const { return prefix() + query - start + 1; }
  WS_DEVICE int low(int query, int window) const { return window > 0 ? at_least(0, high(query) - window) : 0; }
};

WS_DEVICE Segment segment_at(const int32_t* visibility, int token) {
  const int32_t* v = visibility + 3 * static_cast<int64_t>(token);
  return {v[0], v[1], v[2]};
}

/// Which rule of a visibility a token breaks; none: 0. The rules are those of native/cpu/attention.h.
WS_DEVICE int broken_rule(const int32_t* visibility, int token) {
  const Segment own = segment_at(visibility, token);
  if (own.start == token) {
    if (own.p0 < 0 || own.p0 > own.p1 || own.p1 > own.start) return 1;
  } else {
    if (token == 0) return 2;
    const Segment before = segment_at(visibility, token - 1);
    if (own.start != before.start || own.start < 0 || own.start > token) return 2;
    if (own.p0 != before.p0 || own.p1 != before.p1) return 3;
    if (own.p0 < 0 || own.p0 > own.p1 || own.p1 > own.start) return 1;
  }
  if (own.p0 == own.p1) return 0;
  const Segment root = segment_at(visibility, own.p0), last = segment_at(visibility, own.p1 - 1);
  return root.start == own.p0 && root.p0 == root.p1 && last.start == own.p0 ? 0 : 4;
}

/// Reports tokens of [first, end) that break a rule. True when all is well; the same in all warps.
WS_DEVICE bool check_visibility(Fault* fault, Op op, int operand, const int32_t* visibility, int first, int end) {
  bool good = true;
  for (int at = first; at < end; at += warp_size) {
    const int token = at + lane(), rule = token < end ? broken_rule(visibility, token) : 0;
    if (rule != 0) {
      const Segment own = segment_at(visibility, token);
      report(fault, {static_cast<int32_t>(FaultKind::visibility), static_cast<int32_t>(op), operand, token, own.start,
                     rule});
    }
    good = ballot(rule != 0) == 0 && good;
  }
  return good;
}

/// One past the last token before `end` that is in the segment of `token`. A whole warp asks.
WS_DEVICE int run_end(const int32_t* visibility, int token, int end) {
  const int start = visibility[3 * static_cast<int64_t>(token)];
  int stop = end;
  for (int at = token + lane(); at < end && stop == end; at += warp_size)
    if (visibility[3 * static_cast<int64_t>(at)] != start) stop = at;
  for (int mask = 16; mask > 0; mask >>= 1) stop = at_most(stop, shuffle_xor(stop, mask));
  return stop;
}

// Query rows ---------------------------------------------------------------------------------------------------------

/// Rows of a tile: tokens from `token` on, each with `members` heads from `head` on.
struct QueryRows {
  int token, head, members, rows;
  WS_DEVICE int token_of(int row) const { return token + row / members; }
  /// Row of q, o and lse as [N H].
  WS_DEVICE int64_t index(int row, int heads) const {
    return static_cast<int64_t>(token_of(row)) * heads + head + row % members;
  }
};

/// Where a row begins in a [N H D] tensor; negative behind the last one.
WS_DEVICE int64_t query_offset(const QueryRows& q, const Heads& h, int row) {
  return row < q.rows ? q.index(row, h.heads) * h.dim : -1;
}

/// What the warp's 16 rows of a tile see; rows behind the last one repeat it, and are not stored.
struct Strip {
  int first, low[2], high[2];  // of this lane's two rows
  int warp_low, warp_high;     // of any row
  WS_DEVICE bool meets(int block) const {
    return block * key_block < warp_high && (block + 1) * key_block > warp_low;
  }
  WS_DEVICE Seen seen(int block) const {
    const int base = block * key_block;
    return {{low[0] - base, low[1] - base}, {high[0] - base, high[1] - base}};
  }
};

WS_DEVICE Strip own_strip(const Segment& segment, const QueryRows& q, int window) {
  Strip s = {};
  s.first = warp() * strip;
  const int last = q.rows - 1;
  if (s.first > last) return s;  // meets nothing
  for (int half = 0; half < 2; ++half) {
    const int query = q.token_of(at_most(s.first + lane() / 4 + 8 * half, last));
    s.low[half] = segment.low(query, window);
    s.high[half] = segment.high(query);
  }
  s.warp_low = segment.low(q.token_of(s.first), window);
  s.warp_high = segment.high(q.token_of(at_most(s.first + strip - 1, last)));
  return s;
}

/// Packed keys and values of one key/value head, and the logical positions [low, high) of a segment that a tile sees.
struct PackedKeys {
  const void *k, *v;
  int stride, offset, low, high;
  WS_DEVICE int begin() const { return low / key_block; }
  WS_DEVICE int end() const { return (high + key_block - 1) / key_block; }
};

WS_DEVICE PackedKeys keys_of(const Heads& h, const void* k, const void* v, int kv_head, const Segment& segment,
                             const QueryRows& q) {
  return {k, v, h.kv_heads * h.dim, kv_head * h.dim, segment.low(q.token, h.window),
          segment.high(q.token_of(q.rows - 1))};
}

/// Keys of a block, then its values, into a stage.
template <class T, int D, int threads>
WS_DEVICE void stage_keys(const PackedKeys& keys, const Segment& segment, int dim, int block, char* stage) {
  const T* const from[2] = {static_cast<const T*>(keys.k) + keys.offset, static_cast<const T*>(keys.v) + keys.offset};
  stage_rows<T, D, threads>(from, stage, key_block * pitch<T, D>, key_block, dim, [&](int row) {
    const int position = block * key_block + row;
    const bool seen = position >= keys.low && position < keys.high;
    return seen ? static_cast<int64_t>(segment.token(position)) * keys.stride : int64_t{-1};
  });
}

}  // namespace ws::cuda

#if WS_HOST

#include <cmath>

namespace ws::cuda {

constexpr int most_heads = 65535;  // blocks of a grid in y
constexpr int head_sizes = 4;  // sizes that kernels are made for: 64, 96, 128, 256; others are filled up with zeros

/// Index of the smallest of them that holds dim. wgmma leaves out 96: it would end inside a box of 64 columns, which no layout of
/// the manual does.
static inline int head_size_index(int dim, bool wide) {
  return dim <= 64 ? 0 : dim <= 96 && !wide ? 1 : dim <= 128 ? 2 : 3;
}

/// One of a family's kernels: with its dynamic shared memory and the rows of its tiles.
struct SizedKernel {
  const HostKernel* kernel;
  uint32_t shared_bytes;
  int rows;
};

/// Shape of q [N,H,D] for keys of `kv_heads` heads of size `dim`; parameters scale, window, softcap.
static inline Status read_sizes(const Call& c, const View& q, int64_t kv_heads, int64_t dim, Heads& h) {
  WS_CHECK(q.rank == 3, shape, "q: expected [tokens, heads, size], got %s", shape_text(q).text);
  WS_CHECK(q.dims[1] > 0 && q.dims[2] > 0, shape, "q: heads and size must be at least 1, got %s", shape_text(q).text);
  WS_CHECK(kv_heads > 0 && q.dims[1] % kv_heads == 0, shape, "q has %lld heads, not a multiple of the %lld key heads",
           static_cast<long long>(q.dims[1]), static_cast<long long>(kv_heads));
  WS_SAME(dim, q.dims[2], "head size of the keys");
  WS_CHECK(dim <= 256, shape, "q: head sizes above 256 have no CUDA kernel, got %lld", static_cast<long long>(dim));
  WS_CHECK(q.dims[1] <= most_heads && q.dims[0] * q.dims[1] < 0x7fffffff, shape,
           "q: expected at most %d heads and less than 2^31 rows, got %s", most_heads, shape_text(q).text);
  WS_CHECK(__builtin_isfinite(c.p[0]), config, "scale: expected a finite number, got %g", c.p[0]);
  WS_CHECK(c.p[1] >= 0 && c.p[1] <= 2147483647.0 && c.p[1] == std::floor(c.p[1]), config,
           "window: expected a whole number from 0 (none), got %g", c.p[1]);
  WS_CHECK(c.p[2] >= 0 && __builtin_isfinite(c.p[2]), config, "softcap: expected 0 (none) or more, got %g", c.p[2]);
  const float scale = static_cast<float>(c.p[0]), cap = static_cast<float>(c.p[2]);
  h = {static_cast<int32_t>(q.dims[0]), static_cast<int32_t>(q.dims[1]), static_cast<int32_t>(kv_heads),
       static_cast<int32_t>(q.dims[1] / kv_heads), static_cast<int32_t>(dim), static_cast<int32_t>(c.p[1]), scale,
       cap > 0 ? scale / cap : scale * log2_e, cap * log2_e};
  return {};
}

/// The same for packed keys k [N,G,D], with visibility [N,3].
static inline Status read_heads(const Call& c, const View& q, const View& k, const View& visibility, Heads& h) {
  WS_CHECK(k.rank == 3, shape, "k: expected [tokens, heads, size], got %s", shape_text(k).text);
  WS_TRY(read_sizes(c, q, k.dims[1], k.dims[2], h));
  WS_SAME(k.dims[0], h.tokens, "tokens of k");
  WS_CHECK(visibility.rank == 2 && visibility.dims[0] == h.tokens && visibility.dims[1] == 3, shape,
           "visibility: expected [%d, 3]", h.tokens);
  return {};
}

static inline Status check_lse(const View& lse, const Heads& h) {
  WS_CHECK(lse.rank == 2 && lse.dims[0] == h.tokens && lse.dims[1] == h.heads, shape, "lse: expected [%d, %d]",
           h.tokens, h.heads);
  return {};
}

}  // namespace ws::cuda

#endif
