// What attention forward, decode and backward share: the operands' sizes, the segments of a packed batch, gathering
// a block of keys, and the online softmax over one block of keys. Included by kernel files only.
//
// The order of arithmetic, which decode and training must have in common bit for bit:
//   keys are taken in blocks of 32 LOGICAL positions (the shared prefix first, then the own segment), in order;
//   a row skips a block in which it sees nothing; a score is one chain over D; the probabilities of a block are
//   summed lane by lane, then by halving; the output is one chain over the visible keys of the block, in order.
#pragma once
#include <cmath>

#include "loops.h"
#include "softmax.h"
#include "tile.h"

namespace ws::WS_NS {

constexpr int key_block = 32;
/// Floats for one number per row of a tile, in whole vectors.
constexpr int row_floats = (tile_rows + W - 1) / W * W;

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

/// Sizes and parameters of a call. `group` query heads share a key/value head; rows in scratch have `padded` floats.
struct Heads {
  int64_t tokens, heads, kv_heads, group, dim, padded;
  float scale, softcap;
  int64_t window;
};

/// Shape of q [N,H,D] for keys of `kv_heads` heads of size `dim`; parameters scale, window, softcap.
static inline Status read_sizes(const Call& c, const View& q, int64_t kv_heads, int64_t dim, Heads& h) {
  WS_CHECK(q.rank == 3, shape, "q: expected [tokens, heads, size], got %s", shape_text(q).text);
  h = {q.dims[0], q.dims[1], kv_heads, 0, q.dims[2], 0, static_cast<float>(c.p[0]), static_cast<float>(c.p[2]), 0};
  WS_CHECK(h.heads > 0 && h.dim > 0, shape, "q: heads and size must be at least 1, got %s", shape_text(q).text);
  WS_CHECK(kv_heads > 0 && h.heads % kv_heads == 0, shape, "q has %lld heads, not a multiple of the %lld key heads",
           static_cast<long long>(h.heads), static_cast<long long>(kv_heads));
  WS_SAME(dim, h.dim, "head size of the keys");
  WS_CHECK(__builtin_isfinite(c.p[0]), config, "scale: expected a finite number, got %g", c.p[0]);
  WS_CHECK(c.p[1] >= 0 && c.p[1] <= 2147483647.0 && c.p[1] == std::floor(c.p[1]), config,
           "window: expected a whole number from 0 (none), got %g", c.p[1]);
  WS_CHECK(c.p[2] >= 0 && __builtin_isfinite(c.p[2]), config, "softcap: expected 0 (none) or more, got %g", c.p[2]);
  h.window = static_cast<int64_t>(c.p[1]);
  h.group = h.heads / kv_heads;
  h.padded = round_up(h.dim, W);
  return {};
}

/// The same for packed keys k [N,G,D].
static inline Status read_heads(const Call& c, const View& q, const View& k, Heads& h) {
  WS_CHECK(k.rank == 3, shape, "k: expected [tokens, heads, size], got %s", shape_text(k).text);
  WS_TRY(read_sizes(c, q, k.dims[1], k.dims[2], h));
  WS_SAME(k.dims[0], h.tokens, "tokens of k");
  return {};
}

// Segments -----------------------------------------------------------------------------------------------------------

/// Tokens [start, end) that attend to themselves causally and to the prefix [p0, p1), which begins a segment `root`
/// that has no prefix. A segment without prefix is its own root.
struct Segment {
  int64_t start, end, p0, p1;
  int64_t root;
  int64_t next;        // the next segment with the same root, or -1
  int64_t first_task;  // for whoever cuts the segments into tasks

  int64_t prefix() const { return p1 - p0; }
  int64_t length() const { return end - start; }
  /// Token at a logical position.
  int64_t token(int64_t position) const { return position < prefix() ? p0 + position : start + position - prefix(); }
  /// Logical positions that a query sees: [low, high).
  int64_t high(int64_t query) const { return prefix() + query - start + 1; }
  int64_t low(int64_t query, int64_t window) const { return window > 0 ? at_least(0, high(query) - window) : 0; }
};

static inline Status bad_visibility(int64_t token, const int32_t* v, const char* why) {
  return fail(Code::shape, "visibility of token %lld is (%d, %d, %d): %s", static_cast<long long>(token), v[0], v[1],
              v[2], why);
}

/// Checks everything but the prefixes' roots; counts the segments.
static inline Status count_segments(const View& visibility, int64_t tokens, int64_t& count) {
  WS_CHECK(visibility.rank == 2 && visibility.dims[0] == tokens && visibility.dims[1] == 3, shape,
           "visibility: expected [%lld, 3]", static_cast<long long>(tokens));
  const int32_t* v = visibility.as<int32_t>();
  count = 0;
  for (int64_t i = 0; i < tokens; ++i, v += 3) {
    if (v[0] == i) {
      ++count;
      if (v[1] < 0 || v[1] > v[2] || v[2] > v[0]) return bad_visibility(i, v, "the prefix must lie before the segment");
    } else if (i == 0 || v[0] != v[-3]) {
      return bad_visibility(i, v, "a segment must begin at its first token and be contiguous");
    } else if (v[1] != v[-2] || v[2] != v[-1]) {
      return bad_visibility(i, v, "all tokens of a segment must have the same prefix");
    }
  }
  return {};
}

/// Index of the segment that begins at `start`, or -1.
static inline int64_t find_segment(const Segment* list, int64_t count, int64_t start) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (list[middle].start < start) low = middle + 1;
    else high = middle;
  }
  return low < count && list[low].start == start ? low : -1;
}

/// Fills list[count] from a visibility that count_segments() accepted.
static inline Status read_segments(const View& visibility, int64_t tokens, Segment* list, int64_t count) {
  const int32_t* v = visibility.as<int32_t>();
  int64_t n = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    if (v[3 * i] == i) list[n++] = {i, i, v[3 * i + 1], v[3 * i + 2], 0, -1, 0};
    list[n - 1].end = i + 1;
  }
  for (int64_t s = 0; s < count; ++s) {
    Segment& own = list[s];
    own.root = own.prefix() == 0 ? s : find_segment(list, s, own.p0);
    const bool good =
        own.root >= 0 && (own.root == s || (list[own.root].prefix() == 0 && own.p1 <= list[own.root].end));
    if (!good) {
      return bad_visibility(own.start, v + 3 * own.start,
                            "the prefix must begin an earlier segment that has no prefix itself, and end in it");
    }
  }
  for (int64_t s = count - 1; s >= 0; --s) {
    if (list[s].root == s) continue;
    Segment& root = list[list[s].root];
    list[s].next = root.next;
    root.next = s;
  }
  return {};
}

/// Row of q, o and lse (as [N * H]) that row `row` of a task is: tokens from `token` on, each with the heads of the
/// group of key/value head `head`.
static inline int64_t row_index(const Heads& h, int64_t token, int64_t row, int64_t head) {
  return (token + row / h.group) * h.heads + head * h.group + row % h.group;
}

/// Rows [first, last) of a task whose row 0 belongs to `token`, and the block that they are about to meet.
struct RowSpan {
  int64_t token, first, last, block;
};

/// Finds the rows of a span that see something of the block, and which lanes of it: row begin + r sees
/// [low[r], high[r]). They are consecutive, and both bounds rise with the row. Gives their number.
static inline int visible_rows(const Heads& h, const Segment& segment, const RowSpan& s, int64_t& begin, int* low,
                               int* high) {
  int64_t query = s.token + s.first / h.group, member = s.first % h.group;
  int rows = 0;
  begin = s.first;
  for (int64_t row = s.first; row < s.last; ++row) {
    const int64_t from = segment.low(query, h.window) - s.block * key_block;
    const int64_t to = segment.high(query) - s.block * key_block;
    if (to <= 0) begin = row + 1;
    if (to > 0 && from < key_block) {
      low[rows] = static_cast<int>(at_least(0, from));
      high[rows++] = static_cast<int>(at_most(key_block, to));
    }
    if (++member == h.group) {
      member = 0;
      ++query;
    }
  }
  return rows;
}

// A block of keys ----------------------------------------------------------------------------------------------------

/// Tokens of the block's 32 lanes; -1 from `high` on.
static inline void block_tokens(const Segment& s, int64_t block, int64_t high, int64_t* tokens) {
  for (int j = 0; j < key_block; ++j) {
    const int64_t position = block * key_block + j;
    tokens[j] = position < high ? s.token(position) : -1;
  }
}

/// to[d * 32 + lane] = x[tokens[lane]][d]; lanes without a token are zero. x has `stride` elements from token to token.
template <class T>
static inline void gather_across(const T* x, int64_t stride, const int64_t* tokens, int64_t dim, float* to) {
  for (int lane = 0; lane < key_block; lane += W) {
    for (int64_t d = 0; d < dim; d += W) {
      const int n = static_cast<int>(at_most(W, dim - d));
      V r[W];
      WS_UNROLL
      for (int i = 0; i < W; ++i) {
        const int64_t token = tokens[lane + i];
        r[i] = token < 0 ? zero() : n == W ? load(x + token * stride + d) : load_n(x + token * stride + d, n);
      }
      transpose(r);
      float* out = to + d * key_block + lane;
      if (n == W) {
        WS_UNROLL
        for (int i = 0; i < W; ++i) store(out + i * key_block, r[i]);
      } else {
        for (int i = 0; i < n; ++i) store(out + i * key_block, r[i]);
      }
    }
  }
}

/// One row to f32, times a factor, with zeros up to whole vectors.
template <class T>
static inline void load_row(const T* x, int64_t dim, float factor, float* to) {
  const V f = set1(factor);
  for_vectors(0, dim, [&](int64_t d, auto lanes) { store(to + d, mul(load(x + d, lanes), f)); });
}

template <class T>
static inline void store_row(const float* x, int64_t dim, float factor, T* to) {
  const V f = set1(factor);
  for_vectors(0, dim, [&](int64_t d, auto lanes) { store(to + d, mul(load(x + d), f), lanes); });
}

static inline void clear_floats(float* x, int64_t n) { std::memset(x, 0, static_cast<size_t>(n) * sizeof(float)); }

/// to[lane * padded + d] = x[tokens[lane]][d], zeros elsewhere.
template <class T>
static inline void gather_along(const T* x, int64_t stride, const int64_t* tokens, const Heads& h, float* to) {
  for (int j = 0; j < key_block; ++j, to += h.padded) {
    if (tokens[j] < 0) clear_floats(to, h.padded);
    else load_row(x + tokens[j] * stride, h.dim, 1.0f, to);
  }
}

// The online softmax -------------------------------------------------------------------------------------------------

/// Up to tile_rows query rows of one key/value head with their running softmax; each sees at least one lane of the
/// block: lanes [low, high). q is scaled already. Rows of q and o have `padded` floats.
struct RowTile {
  const float* q;
  float *o, *top, *sum;
  int rows;
  int low[tile_rows], high[tile_rows];
};

static inline void cap_scores(float* scores, int rows, int vectors, float softcap) {
  const V cap = set1(softcap), inverse = set1(1.0f / softcap);
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) {
      float* at = scores + r * key_block + v * W;
      store(at, soft_cap(load(at), cap, inverse));
    }
  }
}

/// Folds the scores into the running maximum and sum, and leaves the probabilities (relative to the new maximum) in
/// their place. factor[r] is what the earlier output must be multiplied by.
static inline void fold_scores(float* scores, const RowTile& t, float* factor) {
  const V nothing = set1(-__builtin_inff());
  float change[row_floats] = {0};
  for (int r = 0; r < t.rows; ++r) {
    V top = nothing;
    for (int v = 0; v < t.high[r]; v += W) {
      const V x = in_range(load(scores + r * key_block + v), nothing, v, t.low[r], t.high[r]);
      store(scores + r * key_block + v, x);
      top = max(top, x);
    }
    const float largest = max_lanes(top);
    const float now = t.top[r] > largest ? t.top[r] : largest;
    change[r] = t.top[r] - now;
    t.top[r] = now;
  }
  for (int r = 0; r < t.rows; r += W) store(factor + r, exp(load(change + r)));
  for (int r = 0; r < t.rows; ++r) {
    const V now = set1(t.top[r]);
    V sum = zero();
    for (int v = 0; v < t.high[r]; v += W) {
      const V p = exp(sub(load(scores + r * key_block + v), now));
      store(scores + r * key_block + v, p);
      sum = add(sum, p);
    }
    t.sum[r] = t.sum[r] * factor[r] + sum_lanes(sum);
  }
}

/// One row's chain over the keys [k0, k1).
template <class T>
static inline void add_row_values(TileProduct<T> p, int r, int k0, int k1) {
  if (k0 >= k1) return;
  p.a += r * key_block;
  p.c += r * p.c_stride;
  p.rows = 1;
  p.k0 = k0;
  p.k1 = k1;
  tile_product<false>(p);
}

/// o = o * factor + P V. The keys that all rows see go through the register tile; what only some rows see (the edge
/// of the causal triangle or of the window) comes before and after it, row by row, so that a hidden key is never read.
template <class T>
static inline void add_values(const RowTile& t, TileProduct<T> p, const float* factor) {
  int k0 = 0, k1 = key_block;
  for (int r = 0; r < t.rows; ++r) {
    if (t.low[r] > k0) k0 = t.low[r];
    if (t.high[r] < k1) k1 = t.high[r];
    if (factor[r] == 1.0f) continue;
    const V f = set1(factor[r]);
    float* o = t.o + r * p.c_stride;
    for (int64_t d = 0; d < p.columns; d += W) store(o + d, mul(load(o + d), f));
  }
  if (k0 >= k1) {
    for (int r = 0; r < t.rows; ++r) add_row_values(p, r, t.low[r], t.high[r]);
    return;
  }
  for (int r = 0; r < t.rows; ++r) add_row_values(p, r, t.low[r], k0);
  p.k0 = k0;
  p.k1 = k1;
  tile_product<false>(p);
  for (int r = 0; r < t.rows; ++r) add_row_values(p, r, k1, t.high[r]);
}

/// Values of a block: value(lane, d) = data[lane * stride + d], `columns` of them readable.
template <class T>
struct Values {
  const T* data;
  int64_t stride, columns;
};

/// Attends the rows to one block of keys, stored across: key(lane, d) = keys[d * 32 + lane].
template <class T>
static inline void attend(const Heads& h, const RowTile& t, const T* keys, Values<T> values) {
  float scores[tile_rows * key_block];
  float factor[row_floats];
  int high = 0;
  for (int r = 0; r < t.rows; ++r) high = t.high[r] > high ? t.high[r] : high;
  const int vectors = (high + W - 1) / W;
  tile_product<false>(
      TileProduct<T>{t.q, h.padded, keys, key_block, scores, key_block, t.rows, vectors * W, 0, h.dim, false});
  if (h.softcap > 0) cap_scores(scores, t.rows, vectors, h.softcap);
  fold_scores(scores, t, factor);
  add_values(
      t,
      TileProduct<T>{scores, key_block, values.data, values.stride, t.o, h.padded, t.rows, values.columns, 0, 0, true},
      factor);
}

}  // namespace ws::WS_NS
