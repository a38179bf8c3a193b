// What attention forward, decode and backward share: the operands' sizes, the segments of a packed batch, and the order
// of arithmetic, which decode and training have in common bit for bit:
//   keys are taken in blocks of 64 LOGICAL positions (the shared prefix first, then the own segment), in order;
//   a score is one chain over D, x = score * scale (or the capped score) is an exponent of e, taken as one of two;
//   the probabilities of a block are summed over positions equal modulo 16, ascending, then by halving;
//   the output is one chain over the keys of the block, continued from the earlier output times the factor that the new
//   maximum asks for. From WS_LEVEL 4 on probabilities of bf16 operands are rounded to bf16 for this chain, not for the sum.
// bf16 on WS_LEVEL 5 goes by tiles, and a link of the chains over D and over keys is then a tile instruction for 32
// elements (attention_amx.h): 32 channels from 0, the last ones filled up with zeros, or 32 keys, half a block.
// A hidden key has probability 0, which leaves every chain as it is: so it may be skipped or not, but its value must be
// finite. Exact zeros of the output are made positive, because their sign may depend on hidden keys.
#pragma once
#include <cmath>

#include "attention_tile.h"
#include "loops.h"
#include "softmax.h"

namespace ws::WS_NS {

/// Keys of the cache's pages, and of the blocks in which the softmax takes them.
constexpr int page_keys = 32, key_block = 64;

/// Sizes and parameters of a call. `group` query heads share a key/value head; `padded` is dim in whole vectors.
struct Heads {
  int64_t tokens, heads, kv_heads, group, dim, padded;
  float scale, softcap;
  int64_t window;
  /// What a score, capped if there is a cap, is multiplied by on its way to an exponent of two.
  float exponent() const { return (softcap > 0 ? 1.0f : scale) * 1.44269504088896341f; }
  /// The same above zero, for scores that were multiplied by sign(): their maximum can be taken first.
  float size() const { return exponent() == 0 ? 1.0f : std::fabs(exponent()); }
  float sign() const { return exponent() > 0 ? 1.0f : exponent() < 0 ? -1.0f : 0.0f; }
};

/// What happens to scores on their way to the softmax, if anything does: the cap, and for tiles the sign.
template <class T>
struct Preparation {
  V cap, inverse, sign;
  bool capped, any;
  explicit Preparation(const Heads& h)
      : cap(set1(h.softcap)), inverse(set1(h.softcap > 0 ? h.scale / h.softcap : 0)), sign(set1(h.sign())),
        capped(h.softcap > 0), any(capped || (by_tiles<T> && h.sign() < 1)) {}
  V operator()(V x) const { return capped ? soft_cap(x, cap, inverse) : mul(x, sign); }
};

/// 2^x for N vectors of scores of T that were multiplied by the exponent and moved below about zero.
template <class T, int N>
static inline void exponential(V (&x)[N]) {
#if WS_LEVEL >= 5
  if constexpr (by_tiles<T>) return exp2_scores(x);
#endif
  exp2(x);
}

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
  int64_t chunks(int64_t tokens) const { return (length() + tokens - 1) / tokens; }
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

/// Query rows (tokens x heads of a group) that are packed at once: their state stays in the second-level cache.
static inline int64_t chunk_tokens(const Heads& h) { return at_least(1, (h.padded <= 128 ? 192 : 96) / h.group); }

/// Numbers tasks: parts(segment) of each segment, each for every key/value head. Gives their count.
template <class F>
static inline int64_t number_tasks(Segment* list, int64_t count, int64_t kv_heads, F&& parts) {
  int64_t tasks = 0;
  for (int64_t s = 0; s < count; ++s) {
    list[s].first_task = tasks;
    tasks += parts(list[s]) * kv_heads;
  }
  return tasks;
}

static inline const Segment& segment_of_task(const Segment* list, int64_t count, int64_t task) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (list[middle].first_task <= task) low = middle;
    else high = middle;
  }
  return list[low];
}

/// Row of q, o and lse (as [N * H]) that row `row` of a task is: tokens from `token` on, each with the heads of the
/// group of key/value head `head`.
static inline int64_t row_index(const Heads& h, int64_t token, int64_t row, int64_t head) {
  return (token + row / h.group) * h.heads + head * h.group + row % h.group;
}

/// Calls body(block) for the key blocks that some token of [token, end) sees.
template <class F>
static inline void for_blocks(const Heads& h, const Segment& segment, int64_t token, int64_t end, F&& body) {
  const int64_t high = segment.high(end - 1);
  for (int64_t block = segment.low(token, h.window) / key_block; block * key_block < high; ++block) body(block);
}

/// Rows of x for the keys of a block, null from `high` on; gives how many are worth packing, a multiple of Steps::keys.
/// x has `stride` elements from token to token.
template <class T>
static inline int block_rows(const Segment& s, int64_t block, int64_t high, const T* x, int64_t stride,
                             const T** rows) {
  const int count = static_cast<int>(round_up(at_most(key_block, high - block * key_block), Steps<T>::keys));
  for (int j = 0; j < count; ++j) {
    const int64_t position = block * key_block + j;
    rows[j] = position < high ? x + s.token(position) * stride : nullptr;
  }
  return count;
}

/// Steps of a block's keys.
template <class T>
constexpr int64_t block_steps = key_block / Steps<T>::per;

/// Packs rows of keys as steps of keys: [step][channel], or for tiles [channel][step], a whole block per channel.
template <class T>
static inline void pack_steps(const Heads& h, const T* const* rows, int keys, float* to) {
  constexpr int per = Steps<T>::per;
  for (int j = 0; j < keys; j += by_tiles<T> ? W * per : per) {
    if constexpr (by_tiles<T>) pack_across<T>(rows + j, h.dim, h.padded, block_steps<T>, to + j / per);
    else pack_together<T>(rows[j], per > 1 ? rows[j + 1] : nullptr, h.dim, h.padded, to + j / per * h.padded);
  }
}

// A tile of query rows ------------------------------------------------------------------------------------------------

/// Rows of a tile: one in each lane of its vectors.
template <class T>
constexpr int row_tile = Steps<T>::columns;

/// Up to row_tile query rows against one block of keys. A row sees the keys [low, high) of the block. [first, limit)
/// are the keys that are worked on, multiples of Steps::keys. Not hidden: they are whole quarters, seen by all rows.
template <class T>
struct Sight {
  int rows = 0, vectors = 0;
  int first = 0, limit = 0;
  bool hidden = false;
  float low[row_tile<T>] = {0}, high[row_tile<T>] = {0};
};

/// Rows [first, last) of a task whose row 0 belongs to `token`.
struct RowSpan {
  int64_t token, first, last;
};

/// What the rows of a tile see of a block. limit is 0 when that is nothing.
template <class T>
static inline Sight<T> look(const Heads& h, const Segment& segment, const RowSpan& s, int64_t block) {
  constexpr int unit = Steps<T>::keys;
  Sight<T> v;
  const int64_t start = block * key_block;
  const int64_t top = s.token + s.first / h.group, bottom = s.token + (s.last - 1) / h.group;
  const int64_t first = at_least(0, segment.low(top, h.window) - start);
  const int64_t limit = at_most(key_block, segment.high(bottom) - start);
  if (first >= limit) return v;
  v.rows = static_cast<int>(s.last - s.first);
  v.vectors = (v.rows + W - 1) / W;
  v.first = static_cast<int>(first / unit * unit);
  v.limit = static_cast<int>(round_up(limit, unit));
  const bool quarters = v.first == 0 && v.limit % 16 == 0;
  v.hidden = !quarters || segment.low(bottom, h.window) > start || segment.high(top) < start + v.limit;
  for (int r = 0; r < v.rows && v.hidden; ++r) {
    const int64_t query = s.token + (s.first + r) / h.group;
    v.low[r] = static_cast<float>(at_most(key_block, at_least(0, segment.low(query, h.window) - start)));
    v.high[r] = static_cast<float>(at_most(key_block, at_least(0, segment.high(query) - start)));
  }
  return v;
}

/// Writes a tile, rows as columns of x, times a factor for each of its vectors: factor(i) for rows i .. i + W - 1.
/// to(row) is where a row of the task goes. Exact zeros come out positive.
template <class T, class F, class G>
static inline void store_columns(const Heads& h, const float* x, const RowSpan& s, F&& factor, G&& to) {
  for (int i = 0; s.first + i < s.last; i += W) {
    const int rows = static_cast<int>(at_most(W, s.last - s.first - i));
    T* lines[W];
    for (int r = 0; r < rows; ++r) lines[r] = to(s.first + i + r);
    const V f = factor(i);
    for (int64_t d = 0; d < h.dim; d += W) {
      V y[W];
      WS_UNROLL
      for (int j = 0; j < W; ++j) y[j] = add(mul(load(x + (d + j) * row_tile<T> + i), f), zero());
      transpose(y);
      const int n = static_cast<int>(at_most(W, h.dim - d));
      for (int r = 0; r < rows; ++r) {
        if (n == W) store(lines[r] + d, y[r]);
        else store_n(lines[r] + d, y[r], n);
      }
    }
  }
}

/// x where the row sees key j, else `other`.
static inline V if_seen(int j, V low, V high, V x, V other) {
  const V key = set1(static_cast<float>(j));
  return select_less(key, low, other, select_less(key, high, x, other));
}

}  // namespace ws::WS_NS
