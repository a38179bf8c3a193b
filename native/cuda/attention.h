// What attention forward, decode and backward share on a GPU: rows of a tile in shared memory, the two products, the
// online softmax over one block of keys, who sees whom. Included by kernel files only.
//
// A warp has 16 rows, a strip. It meets 32 others (keys, or in backward queries) at a time: 16 x 32 numbers in the layout
// of mma fragments, for bf16 and f32 alike, so that all but the two products is written once. Number [j][e] of a lane is
// row lane / 4 + 8 (e / 2), column 8 j + 2 (lane % 4) + e % 2; a strip of sums has the same layout, with more columns.
//
// The order of arithmetic, which training and decode must have in common bit for bit: keys are taken in blocks of 32
// LOGICAL positions (the shared prefix first, then the own segment), in order; a score is one sum over D, 16 at a time
// by mma (bf16) or one by one (f32); a lane adds its eight probabilities of a block, four lanes are added at the end;
// the output is a chain over blocks, 16 keys at a time (bf16) or one by one (f32). A row's bits depend on no other row.
#pragma once
#include "vectors.h"

namespace ws::cuda {

using f32 = float;  // for the names of kernels

constexpr int key_block = 32;
constexpr int strip = 16;
constexpr float log2_e = 1.44269504088896341f, ln_2 = 0.693147180559945309f;

/// Sizes and parameters of a call. `group` query heads share a key/value head; at most `rows` of them are in one tile.
struct Heads {
  int32_t tokens, heads, kv_heads, group, dim, window;
  float scale;
  float inner, outer;  // a score of products s, times log2 e: s inner, or with a cap outer tanh(s inner)
};

WS_DEVICE int at_most(int a, int b) { return a < b ? a : b; }
WS_DEVICE int at_least(int a, int b) { return a > b ? a : b; }

// Rows in shared memory ----------------------------------------------------------------------------------------------

/// Bytes from row to row: an odd number of 16-byte pieces, so that eight rows read together lie in different banks.
template <class T, int columns>
constexpr int pitch = columns * static_cast<int>(sizeof(T)) + 16;

/// 16 bytes from global memory, of which `left` elements exist; zeros for the others, and without `from` for all.
template <class T>
WS_DEVICE void copy_piece(char* to, const T* from, int left) {
  constexpr int all = 16 / static_cast<int>(sizeof(T));
  if (from == nullptr || left <= 0) {
    *reinterpret_cast<Quad*>(to) = {0, 0, 0, 0};
  } else if (aligned(from)) {
    copy_async(to, from, at_most(left, all) * static_cast<int>(sizeof(T)));
  } else {
    for (int i = 0; i < all; ++i) reinterpret_cast<T*>(to)[i] = i < left ? from[i] : T{};
  }
}

/// `rows` rows of `columns` elements, of which `dim` exist; row_of gives where each is, or null. All `threads` come.
template <class T, int columns, int threads, class F>
WS_DEVICE void stage_rows(char* to, int rows, int dim, F row_of) {
  constexpr int piece = 16 / static_cast<int>(sizeof(T)), pieces = columns / piece;
  WS_UNROLL_BY(1)  // copies do not wait, and addresses take registers
  for (int at = thread(); at < rows * pieces; at += threads) {
    const int row = at / pieces, column = at % pieces * piece;
    const T* from = row_of(row);
    copy_piece(to + row * pitch<T, columns> + column * static_cast<int>(sizeof(T)),
               from == nullptr ? from : from + column, dim - column);
  }
}

/// Sums of a strip times `factor`, one per row, to shared memory. The warp's rows from `to` on.
template <class T, int columns, int n>
WS_DEVICE void park(char* to, int first_column, const float (&sums)[n][4], const float (&factor)[2]) {
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int half = 0; half < 2; ++half) {
      T* at = reinterpret_cast<T*>(to + (lane() / 4 + 8 * half) * pitch<T, columns>) + first_column + 8 * j + lane() % 4 * 2;
      at[0] = rounded<T>(sums[j][2 * half] * factor[half]);
      at[1] = rounded<T>(sums[j][2 * half + 1] * factor[half]);
    }
  }
}

/// What is parked to global memory, `dim` elements a row; thread `own` of `threads`.
template <class T, int columns, class F>
WS_DEVICE void unpark(const char* from, int rows, int dim, int own, int threads, F row_of) {
  constexpr int piece = 16 / static_cast<int>(sizeof(T)), pieces = columns / piece;
  WS_UNROLL_BY(2)
  for (int at = own; at < rows * pieces; at += threads) {
    const int row = at / pieces, column = at % pieces * piece, left = dim - column;
    const char* place = from + row * pitch<T, columns> + column * static_cast<int>(sizeof(T));
    T* to = row_of(row) + column;
    if (left >= piece && aligned(to)) {
      *reinterpret_cast<Quad*>(to) = *reinterpret_cast<const Quad*>(place);
    } else {
      for (int i = 0; i < at_most(left, piece); ++i) to[i] = reinterpret_cast<const T*>(place)[i];
    }
  }
}

// Products -----------------------------------------------------------------------------------------------------------

/// The 16 rows of a strip as the left side of products; with `held` bf16 fragments stay in registers.
template <class T, int columns, bool held>
struct Left {
  const char* rows;
  WS_DEVICE void read(const char* from) { rows = from; }
  WS_DEVICE void fragment(int step, uint32_t (&a)[4]) const {
    load_matrix4(a, rows + lane() % 16 * pitch<T, columns> + (2 * step + lane() / 16) * 16);
  }
};
template <int columns>
struct Left<bf16, columns, true> {
  uint32_t at[columns / 16][4];
  WS_DEVICE void read(const char* from) {
    const Left<bf16, columns, false> rows = {from};
    WS_UNROLL
    for (int step = 0; step < columns / 16; ++step) rows.fragment(step, at[step]);
  }
  WS_DEVICE void fragment(int step, uint32_t (&a)[4]) const {
    WS_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = at[step][i];
  }
};

WS_DEVICE void multiply_pair(float (&c)[4], const uint32_t (&a)[2][4], const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  multiply16x8x16(c, a[0], first);
  multiply16x8x16(c, a[1], second);
}

WS_DEVICE void clear(float (&s)[4][4]) {
  WS_UNROLL
  for (int j = 0; j < 4; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) s[j][e] = 0.0f;
  }
}

/// s = left times the transpose of 32 rows, both along `columns`.
template <int columns, bool held>
WS_DEVICE void multiply_rows(const Left<bf16, columns, held>& left, const char* right, float (&s)[4][4]) {
  clear(s);
  WS_UNROLL_BY((held ? columns / 32 : 1))  // fragments in registers want constant steps
  for (int step = 0; step < columns / 32; ++step) {
    uint32_t a[2][4];
    left.fragment(2 * step, a[0]);
    left.fragment(2 * step + 1, a[1]);
    WS_UNROLL
    for (int j = 0; j < 4; ++j) {
      uint32_t b[4];
      load_matrix4(b, right + (8 * j + lane() % 8) * pitch<bf16, columns> + (4 * step + lane() / 8) * 16);
      multiply_pair(s[j], a, b);
    }
  }
}

struct alignas(16) Four {
  float at[4];
};
struct alignas(8) Two {
  float at[2];
};

WS_DEVICE Four four_of(const char* p) { return *reinterpret_cast<const Four*>(p); }
WS_DEVICE Two two_of(const char* p) { return *reinterpret_cast<const Two*>(p); }

template <int columns, bool held>
WS_DEVICE void multiply_rows(const Left<float, columns, held>& left, const char* right, float (&s)[4][4]) {
  constexpr int row = pitch<float, columns>;
  const char* own = left.rows + lane() / 4 * row;
  clear(s);
  for (int d = 0; d < columns; d += 4) {
    const Four a[2] = {four_of(own + 4 * d), four_of(own + 8 * row + 4 * d)};
    WS_UNROLL
    for (int j = 0; j < 4; ++j) {
      WS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const Four b = four_of(right + (8 * j + lane() % 4 * 2 + e) * row + 4 * d);
        WS_UNROLL
        for (int i = 0; i < 4; ++i) {
          s[j][e] = fused(a[0].at[i], b.at[i], s[j][e]);
          s[j][2 + e] = fused(a[1].at[i], b.at[i], s[j][2 + e]);
        }
      }
    }
  }
}

/// Numbers of a block that rows lane / 4 and lane / 4 + 8 see: columns [low, high).
struct Seen {
  int low[2], high[2];
  WS_DEVICE bool sees(int half, int column) const { return column >= low[half] && column < high[half]; }
  WS_DEVICE bool all() const { return low[0] <= 0 && low[1] <= 0 && high[0] >= key_block && high[1] >= key_block; }
};

/// Left side of a product from 16 x 32 numbers, rounded.
WS_DEVICE void pack_left(const float (&s)[4][4], uint32_t (&a)[2][4]) {
  WS_UNROLL
  for (int step = 0; step < 2; ++step) {
    WS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float(&from)[4] = s[2 * step + i / 2];
      a[step][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
  }
}

WS_DEVICE bool finite_bits(uint32_t half) { return (half & 0x7f80u) != 0x7f80u; }

/// f(row of `right`, numbers of this lane's two rows there) for each of 32, by shuffles.
template <class F>
WS_DEVICE void each_row(const float (&s)[4][4], F f) {
  WS_UNROLL
  for (int j = 0; j < 4; ++j) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      WS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int from = (lane() & ~3) | quarter;
        const float upper = shuffle(s[j][e], from), lower = shuffle(s[j][2 + e], from);
        f(8 * j + 2 * quarter + e, upper, lower);
      }
    }
  }
}

/// Zeros for infinities and NaN; true when there were any.
WS_DEVICE bool clean(uint32_t (&b)[4]) {
  bool found = false;
  WS_UNROLL
  for (int r = 0; r < 4; ++r) {
    const uint32_t keep = (finite_bits(b[r]) ? 0xffffu : 0u) | (finite_bits(b[r] >> 16) ? 0xffff0000u : 0u);
    found = found || keep != 0xffffffffu;
    b[r] &= keep;
  }
  return found;
}

/// s[j][e] for a j that is known at run time only.
WS_DEVICE float number_at(const float (&s)[4][4], int j, int e) {
  float x = 0.0f;
  WS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float other = e == 0 ? s[i][0] : e == 1 ? s[i][1] : e == 2 ? s[i][2] : s[i][3];
    x = j == i ? other : x;
  }
  return x;
}

/// What multiply_across() has left out: infinities and NaN reach those rows alone that see them. Rare, hence small.
template <int columns, int n>
WS_DEVICE void add_strange(const float (&s)[4][4], const char* right, const Seen& seen, float (&sums)[n][4]) {
  WS_UNROLL_BY(1)
  for (int row = 0; row < key_block; ++row) {
    const int from = (lane() & ~3) | (row % 8 / 2);
    const float p[2] = {shuffle(number_at(s, row / 8, row % 2), from), shuffle(number_at(s, row / 8, row % 2 + 2), from)};
    const bool sees[2] = {seen.sees(0, row), seen.sees(1, row)};
    const char* place = right + row * pitch<bf16, columns> + lane() % 4 * 4;
    WS_UNROLL
    for (int i = 0; i < n; ++i) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(place + 16 * i);
      const float x[2] = {low_bf16(pair), high_bf16(pair)};
      WS_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (sees[e / 2] && !finite_bits(e % 2 == 0 ? pair : pair >> 16)) sums[i][e] += p[e / 2] * x[e % 2];
      }
    }
  }
}

/// sums += s times 32 rows from `right` on, n x 8 columns. Rows that see only some of them add only those: a number that
/// is hidden from a row has s = 0 there, and what it is, even NaN, does not matter. Without `mixed` all that is hidden
/// from one row is hidden from all, and zero.
template <int columns, bool mixed, int n>
WS_DEVICE void multiply_across(bf16, const float (&s)[4][4], const char* right, const Seen& seen, float (&sums)[n][4]) {
  uint32_t a[2][4];
  pack_left(s, a);
  const char* row = right + lane() * pitch<bf16, columns>;
  const bool some = mixed && ballot(!seen.all()) != 0;
  bool strange = false;
  WS_UNROLL
  for (int i = 0; i < n; ++i) {
    uint32_t b[4];
    load_matrix4_transposed(b, row + 16 * i);
    if (some) strange = clean(b) || strange;
    multiply_pair(sums[i], a, b);
  }
  if (some && ballot(strange) != 0) add_strange<columns>(s, right, seen, sums);
}

template <int columns, bool mixed, int n>
WS_DEVICE void multiply_across(float, const float (&s)[4][4], const char* right, const Seen& seen, float (&sums)[n][4]) {
  each_row(s, [&](int row, float upper, float lower) {
    const float p[2] = {upper, lower};
    const bool sees[2] = {seen.sees(0, row), seen.sees(1, row)};
    WS_UNROLL
    for (int i = 0; i < n; ++i) {
      const Two x = two_of(right + row * pitch<float, columns> + (8 * i + lane() % 4 * 2) * 4);
      WS_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (sees[e / 2]) sums[i][e] = fused(p[e / 2], x.at[e % 2], sums[i][e]);
      }
    }
  });
}

// The online softmax -------------------------------------------------------------------------------------------------

/// Products become scores, in powers of two.
WS_DEVICE float score(const Heads& h, float product) {
  return h.outer > 0 ? h.outer * hyperbolic_tangent(product * h.inner) : product * h.inner;
}

/// Running maximum and sum of a lane's two rows; the sum is of this lane's columns.
struct Running {
  float top[2], sum[2];
};

WS_DEVICE Running nothing_yet() {
  const float none = as_float(0xff800000u);
  return {{none, none}, {0.0f, 0.0f}};
}

/// Products of a block become probabilities relative to the new maximum; factor is what earlier output is multiplied by.
WS_DEVICE void fold(const Heads& h, float (&s)[4][4], const Seen& seen, Running& r, float (&factor)[2]) {
  const float none = as_float(0xff800000u);
  float top[2] = {none, none};
  WS_UNROLL
  for (int j = 0; j < 4; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) {
      const bool sees = seen.sees(e / 2, 8 * j + lane() % 4 * 2 + e % 2);
      s[j][e] = sees ? score(h, s[j][e]) : none;
      top[e / 2] = larger(top[e / 2], s[j][e]);
    }
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
    for (int j = 0; j < 4; ++j) {
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
      report(fault, {static_cast<int32_t>(FaultKind::visibility), static_cast<int32_t>(op), operand, token, own.start, rule});
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

}  // namespace ws::cuda

#if WS_HOST

#include <cmath>

namespace ws::cuda {

constexpr int head_sizes = 4;  // sizes that kernels are made for: 64, 96, 128, 256; others are filled up with zeros

/// Index of the smallest of them that holds dim.
static inline int head_size_index(int dim) { return dim <= 64 ? 0 : dim <= 96 ? 1 : dim <= 128 ? 2 : 3; }

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
  WS_CHECK(q.dims[0] < 0x7fffffff && q.dims[1] < 0x7fffffff, shape, "q: too many rows: %s", shape_text(q).text);
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
