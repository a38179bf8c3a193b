// Decoding over the paged cache, and the cache itself. The forward pass is in attention.cpp; the order of arithmetic,
// which gives both the same bits, is in attention.h. Here vectors run over keys (scores) and channels (outputs), as
// these lie in the cache: keys [blocks,G,D,32], values [blocks,G,32,D].
#include "attention.h"

namespace ws::WS_NS {
namespace {

// Decode -----------------------------------------------------------------------------------------------------------

struct Decode {
  Heads h;
  const void *keys, *values;
  const int32_t *table, *lengths;
  int64_t table_width;
  float* scratch;
  int64_t worker_floats;

  /// First key that the sequence's new token sees.
  int64_t first_key(int64_t sequence) const { return h.window > 0 ? at_least(0, lengths[sequence] - h.window) : 0; }
};

/// Query rows that go through a page together; a group of sequences has at most so many.
constexpr int most_rows = 16;

/// Rows of one key/value head with their running softmax: q[step][row], or for tiles q[row][step]; o[row][padded].
struct Rows {
  float *q, *o, *top, *sum;
  int count;
};

/// What the rows see of a block: keys [low, high) of its two pages, null where nothing is seen of one.
template <class T>
struct Block {
  const T *keys[2], *values[2];
  int low, high;
};

/// The scratch of one worker, in floats.
struct Scratch {
  Rows rows;
  float *scores, *steps;  // [row][64] and the probabilities of it in steps of keys
  float* spare;           // values of two pages, hidden ones zeroed
  float *keys, *values;   // for tiles: a block as [step of channels][64] and [step of keys][padded]
};

/// Number of floats. With `at`, also hands out the parts.
template <class T>
int64_t lay_out(const Heads& h, float* at, Scratch& s) {
  constexpr int64_t rows = most_rows + W;  // whole vectors may be written from any row on
  const int64_t keys = by_tiles<T> ? steps_for<T>(h.dim) * key_block : 0;
  const int64_t values = by_tiles<T> ? block_steps<T> * h.padded : 0;
  const struct {
    float** part;
    int64_t size;
  } parts[] = {{&s.rows.q, most_rows * h.padded}, {&s.rows.o, rows * h.padded}, {&s.rows.top, rows},
               {&s.rows.sum, rows},               {&s.scores, rows * key_block}, {&s.steps, rows * key_block},
               {&s.spare, key_block * h.dim + W}, {&s.keys, keys},               {&s.values, values}};
  int64_t used = 0;
  for (const auto& p : parts) {
    if (at) *p.part = at + used;
    used += round_up(p.size, 16);
  }
  return used;
}

/// scores[m][key] of M rows and the keys of P pages, which are consecutive.
template <int M, int P, class T>
void score_pages(const Rows& rows, int row, int64_t dim, const T* const* keys, float* scores) {
  using Step = Steps<T>;
  using Unit = typename Step::Unit;
  for (int column = 0; column < page_keys; column += 2 * W) {
    const Unit* q = reinterpret_cast<const Unit*>(rows.q) + row;
    V acc[M][P][2];
    WS_UNROLL
    for (int m = 0; m < M; ++m) WS_EACH(P) acc[m][i][0] = acc[m][i][1] = zero();
    for (int64_t d = 0; d < dim; d += Step::per, q += most_rows) {
      V x[P][2];
      WS_EACH(P) Step::Source::columns(keys[i] + d * page_keys + column, page_keys, d + Step::per <= dim, x[i]);
      WS_UNROLL
      for (int m = 0; m < M; ++m) {
        const V factor = set1(q[m]);
        WS_UNROLL
        for (int n = 0; n < 2 * P; ++n) {
          acc[m][n / 2][n % 2] = multiply_add(Unit(), factor, x[n / 2][n % 2], acc[m][n / 2][n % 2]);
        }
      }
    }
    WS_UNROLL
    for (int m = 0; m < M; ++m) {
      float* to = scores + (row + m) * key_block + column;
      WS_UNROLL
      for (int n = 0; n < 2 * P; ++n) store(to + n / 2 * page_keys + n % 2 * W, acc[m][n / 2][n % 2]);
    }
  }
}

/// N vectors of steps of values.
template <class T, int N>
void channels(const T* values, int64_t dim, V (&x)[N]) {
  for (int i = 0; i < N; i += N % 2 ? 1 : 2) {
    V part[N % 2 ? 1 : 2];
    Steps<T>::Source::columns(values + i * W, dim, true, part);
    x[i] = part[0];
    if (N % 2 == 0) x[i + 1] = part[N % 2 ? 0 : 1];
  }
}

/// N vectors of outputs of M rows: o = o * factor + P V over a block's pages. Not whole: one vector, the row's last.
template <int M, int N, bool Whole, class T>
void add_page_values(const Heads& h, const Scratch& s, int row, const Block<T>& b, const float* factors, int64_t d) {
  using Step = Steps<T>;
  constexpr int page_steps = page_keys / Step::per;
  const auto* p = reinterpret_cast<const typename Step::Unit*>(s.steps + row * key_block);
  float* o = s.rows.o + row * h.padded + d;
  V acc[M][N];
  WS_UNROLL
  for (int m = 0; m < M; ++m) WS_EACH(N) acc[m][i] = mul(load(o + m * h.padded + i * W), set1(factors[row + m]));
  for (int page = 0; page < 2; ++page) {
    if (!b.values[page]) continue;
    const T* values = b.values[page] + d;
    for (int k = 0; k < page_steps; ++k, values += Step::per * h.dim) {
      V x[N];
      if (Whole) channels<T>(values, h.dim, x);
      else x[0] = Step::Source::across(values, h.dim, true, static_cast<int>(h.dim - d));
      WS_UNROLL
      for (int m = 0; m < M; ++m) {
        const V factor = set1(p[m * key_block + page * page_steps + k]);
        WS_EACH(N) acc[m][i] = multiply_add(typename Step::Unit(), x[i], factor, acc[m][i]);
      }
    }
  }
  WS_UNROLL
  for (int m = 0; m < M; ++m) WS_EACH(N) store(o + m * h.padded + i * W, acc[m][i]);
}

template <int M, class T>
void add_rows_values(const Heads& h, const Scratch& s, int row, const Block<T>& b, const float* factors) {
  int64_t d = 0;
  for (; d + 4 * W <= h.dim; d += 4 * W) add_page_values<M, 4, true>(h, s, row, b, factors, d);
  for (; d + 2 * W <= h.dim; d += 2 * W) add_page_values<M, 2, true>(h, s, row, b, factors, d);
  for (; d + W <= h.dim; d += W) add_page_values<M, 1, true>(h, s, row, b, factors, d);
  if (d < h.dim) add_page_values<M, 1, false>(h, s, row, b, factors, d);
}

/// A number that a template sees.
template <int M>
struct Count {
  static constexpr int value = M;
};

/// Calls body(row, Count<M>) for rows four at a time, then for the rest.
template <class F>
void by_rows(int count, F&& body) {
  int row = 0;
  for (; row + 4 <= count; row += 4) body(row, Count<4>());
  if (row + 3 == count) return body(row, Count<3>());
  if (row + 2 == count) return body(row, Count<2>());
  if (row + 1 == count) return body(row, Count<1>());
}

/// Probabilities of a row as steps.
void round_row(float, const float* p, float* to) {
  for (int v = 0; v < key_block; v += W) store(to + v, load(p + v));
}
#if WS_LEVEL >= 4
void round_row(Pair, const float* p, float* to) {
  for (int v = 0; v < key_block; v += 2 * W, to += W) {
    const __m512i row = round_two(load(p + v), load(p + v + W));
    store(to, pairs(WS_LEVEL == 4 ? _mm512_rol_epi32(row, 16) : row));
  }
}
#endif

/// p[64] of a row relative to `top`, in place of the scores; gives their sum, in the order of attention.h.
template <class T>
float exponentials(float* scores, V exponent, float top, const Block<T>& b) {
  const V minus = set1(-top);
  V sums[16 / W];
  for (int v = 0; v < key_block; v += 4 * W) {
    V p[4];
    WS_EACH(4) p[i] = fma(load(scores + v + i * W), exponent, minus);
    exponential<T>(p);
    WS_EACH(4) {
      const int first = v + i * W;
      p[i] = in_range(p[i], zero(), 0, b.low - first, b.high - first);
      store(scores + first, p[i]);
      V& sum = sums[first % 16 / W];
      sum = first < 16 ? p[i] : add(sum, p[i]);
    }
  }
  for (int half = 8 / W; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] = add(sums[i], sums[i + half]);
  return sum_lanes(sums[0]);
}

/// Folds the scores of a block into the rows' maxima and sums; leaves the probabilities in s.steps.
template <class T>
void fold(const Heads& h, const Scratch& s, const Rows& rows, const Block<T>& b, float* factors) {
  float change[most_rows], sums[most_rows];
  const V nothing = set1(-__builtin_inff()), exponent = set1(by_tiles<T> ? h.size() : h.exponent());
  for (int r = 0; r < rows.count; ++r) {
    V top = nothing;
    for (int v = 0; v < key_block; v += W) {
      const V score = load(s.scores + r * key_block + v), x = by_tiles<T> ? score : mul(score, exponent);
      top = max(top, in_range(x, nothing, 0, b.low - v, b.high - v));
    }
    if (by_tiles<T>) top = mul(top, exponent);
    const float largest = max_lanes(top), now = rows.top[r] > largest ? rows.top[r] : largest;
    change[r] = rows.top[r] - now;
    rows.top[r] = now;
    sums[r] = exponentials(s.scores + r * key_block, exponent, now, b);
    round_row(typename Steps<T>::Unit(), s.scores + r * key_block, s.steps + r * key_block);
  }
  for (int r = 0; r < rows.count; r += W) {
    const int n = static_cast<int>(at_most(W, rows.count - r));
    V factor[1] = {load_n(change + r, n)};
    exp2(factor);
    store(factors + r, factor[0]);
    store_n(rows.sum + r, fma(load_n(rows.sum + r, n), factor[0], load_n(sums + r, n)), n);
  }
}

#if WS_LEVEL >= 5
/// to[step][key of 64] from keys [dim][32], zeros up to whole groups of steps.
void pack_key_page(const bf16* keys, int64_t dim, float* to) {
  const int64_t steps = steps_for<bf16>(dim);
  for (int64_t step = 0, d = 0; step < steps; ++step, d += 2, to += key_block) {
    V x[2] = {zero(), zero()};
    if (d < dim) PairsInOrder::columns(keys + d * page_keys, page_keys, d + 1 < dim, x);
    store(to, x[0]);
    store(to + W, x[1]);
  }
}

/// to[step][padded] from values [32][dim].
void pack_value_page(const bf16* values, int64_t dim, int64_t padded, float* to) {
  for (int key = 0; key < page_keys; key += 2, values += 2 * dim, to += padded) {
    int64_t d = 0;
    for (; d + 2 * W <= dim; d += 2 * W) {
      V x[2];
      PairsInOrder::columns(values + d, dim, true, x);
      store(to + d, x[0]);
      store(to + d + W, x[1]);
    }
    if (d < dim) pack_together(values + d, values + d + dim, dim - d, padded - d, to + d);
  }
}

/// scores[row][64] of the pages that are seen: a tile has the rows and 32 channels of q, or 32 channels and 16 keys.
void score_block(const Heads& h, const Scratch& s, const Rows& rows, const Block<bf16>& b) {
  const int64_t steps = steps_for<bf16>(h.dim);
  for (int page = 0; page < 2; ++page) {
    if (!b.keys[page]) continue;
    float *keys = s.keys + page * page_keys, *scores = s.scores + page * page_keys;
    pack_key_page(b.keys[page], h.dim, keys);
    const Operands t = {rows.q, steps, 1, keys, key_block, scores, key_block, steps, nullptr};
    product<Pair, Start::zero, true>(t, rows.count, page_keys / W);
  }
}

/// o = o * factor + P V: a tile has the rows and 32 keys of P, or 32 keys and 16 channels.
void add_values(const Heads& h, const Scratch& s, const Rows& rows, const Block<bf16>& b, const float* factors) {
  constexpr int64_t page_steps = page_keys / 2;
  for (int r = 0; r < rows.count; ++r) {
    float* o = rows.o + r * h.padded;
    if (factors[r] == 1.0f) continue;
    for (int64_t d = 0; d < h.padded; d += W) store(o + d, mul(load(o + d), set1(factors[r])));
  }
  int64_t first = 1, limit = 0;
  for (int page = 0; page < 2; ++page) {
    if (!b.values[page]) continue;
    pack_value_page(b.values[page], h.dim, h.padded, s.values + page * page_steps * h.padded);
    first = at_most(first, page);
    limit = page + 1;
  }
  const int64_t at = first * page_steps;
  product<Pair, Start::sum, true>({s.steps + at, key_block, 1, s.values + at * h.padded, h.padded, rows.o, h.padded,
                                   limit * page_steps - at, nullptr},
                                  rows.count, h.padded / W);
}
#endif

template <class T>
void score_block(const Heads& h, const Scratch& s, const Rows& rows, const Block<T>& b) {
  // With few registers one page at a time.
  const bool both = WS_LEVEL >= 3 && b.keys[0] && b.keys[1];
  by_rows(rows.count, [&](int row, auto m) {
    constexpr int M = decltype(m)::value;
    if (both) return score_pages<M, 2>(rows, row, h.dim, b.keys, s.scores);
    for (int page = 0; page < 2; ++page) {
      if (b.keys[page]) score_pages<M, 1>(rows, row, h.dim, b.keys + page, s.scores + page * page_keys);
    }
  });
}

template <class T>
void add_values(const Heads& h, const Scratch& s, const Rows& rows, const Block<T>& b, const float* factors) {
  by_rows(rows.count, [&](int row, auto m) { add_rows_values<decltype(m)::value>(h, s, row, b, factors); });
}

/// Attends the rows to one block of keys.
template <class T>
void attend(const Heads& h, Scratch s, const Rows& rows, const Block<T>& b) {
  float factors[most_rows];
  s.rows = rows;
  score_block(h, s, rows, b);
  const Preparation<T> prepared(h);
  for (int i = 0; prepared.any && i < rows.count * key_block; i += W) {
    store(s.scores + i, prepared(load(s.scores + i)));
  }
  fold(h, s, rows, b, factors);
  add_values(h, s, rows, b, factors);
}

/// to = o / sum; exact zeros are positive.
template <class T>
void store_output(const Heads& h, const float* o, float sum, T* to) {
  const V inverse = set1(1.0f / sum);
  for_vectors(0, h.dim, [&](int64_t d, auto lanes) { store(to + d, add(mul(load(o + d), inverse), zero()), lanes); });
}

/// Copies a page's values with all but [low, high) zeroed: what a page holds beyond its sequence may be anything.
template <class T>
const T* seen_values(const T* values, int64_t dim, int64_t low, int64_t high, T* to) {
  low = at_least(0, low);
  high = at_most(page_keys, high);
  const auto bytes = [&](int64_t rows) { return static_cast<size_t>(rows * dim) * sizeof(T); };
  std::memset(static_cast<void*>(to), 0, bytes(low));
  std::memcpy(to + low * dim, values + low * dim, bytes(high - low));
  std::memset(static_cast<void*>(to + high * dim), 0, bytes(page_keys - high));
  return to;
}

/// Attends a sequence's rows (or, of a block that several sequences have in common, the rows of all) to one block.
template <class T>
void decode_block(const Decode& d, const Scratch& s, const Rows& rows, int64_t sequence, int64_t head, int64_t block) {
  const Heads& h = d.h;
  const int64_t start = block * key_block, slab = h.dim * page_keys;
  const int64_t low = at_least(0, d.first_key(sequence) - start), high = d.lengths[sequence] - start;
  Block<T> b = {{}, {}, static_cast<int>(low), static_cast<int>(at_most(key_block, high))};
  for (int page = 0; page < 2; ++page) {
    const int64_t first = page * page_keys;
    if (first >= high || first + page_keys <= low) continue;
    const int32_t place = d.table[sequence * d.table_width + start / page_keys + page];
    const int64_t at = (place * h.kv_heads + head) * slab;
    b.keys[page] = static_cast<const T*>(d.keys) + at;
    b.values[page] = static_cast<const T*>(d.values) + at;
    if (low > first || high < first + page_keys) {
      T* spare = reinterpret_cast<T*>(s.spare) + page * slab;
      b.values[page] = seen_values(b.values[page], h.dim, low - first, high - first, spare);
    }
  }
  attend(h, s, rows, b);
}

/// Rows [first, first + count) of the group of `head` of sequences [begin, end).
struct Cluster {
  int64_t begin, end, head, first, count;
};

/// Blocks at the start that all sequences of a cluster see whole and hold in the same pages.
int64_t common_blocks(const Decode& d, const Cluster& k) {
  if (d.h.window > 0 || k.end - k.begin < 2) return 0;
  int64_t pages = d.table_width;
  for (int64_t i = k.begin; i < k.end; ++i) {
    const int32_t *own = d.table + i * d.table_width, *other = d.table + k.begin * d.table_width;
    int64_t same = 0;
    while (same < at_most(pages, d.lengths[i] / page_keys) && own[same] == other[same]) ++same;
    pages = same;
  }
  return pages * page_keys / key_block;
}

/// Packs the query rows q(0), q(1), ...
template <class T, class F>
void pack_queries(const Heads& h, const Rows& rows, F&& q) {
  for (int first = 0; first < (by_tiles<T> ? rows.count : most_rows); first += by_tiles<T> ? 1 : W) {
    if constexpr (by_tiles<T>) {
      pack_row(q(first), h.dim, rows.q + first * steps_for<T>(h.dim));
    } else {
      const T* x[W];
      for (int r = 0; r < W; ++r) x[r] = first + r < rows.count ? q(first + r) : nullptr;
      pack_columns(x, h.dim, most_rows, rows.q + first);
    }
  }
}

/// Blocks that sequences share are read once for all of them; a row's order of blocks is that of its own sequence.
template <class T>
void decode_cluster(const Call& c, const Decode& d, const Cluster& k, float* scratch) {
  const Heads& h = d.h;
  Scratch s;
  lay_out<T>(h, scratch, s);
  Rows all = s.rows;
  all.count = static_cast<int>((k.end - k.begin) * k.count);
  const auto place = [&](int r) {
    return ((k.begin + r / k.count) * h.heads + k.head * h.group + k.first + r % k.count) * h.dim;
  };
  pack_queries<T>(h, all, [&](int r) { return c.t[0].as<T>() + place(r); });
  for (int first = 0; first < most_rows; first += W) {
    store(all.top + first, set1(-__builtin_inff()));
    store(all.sum + first, zero());
  }
  std::memset(all.o, 0, static_cast<size_t>(all.count * h.padded) * sizeof(float));
  TilesFor<T> tiles(all.count);
  const int64_t common = common_blocks(d, k);
  for (int64_t block = 0; block < common; ++block) decode_block<T>(d, s, all, k.begin, k.head, block);
  tiles.expect(static_cast<int>(k.count));
  for (int64_t i = k.begin; i < k.end; ++i) {
    const int64_t row = (i - k.begin) * k.count, q_row = by_tiles<T> ? steps_for<T>(h.dim) : 1;
    const Rows own = {all.q + row * q_row, all.o + row * h.padded, all.top + row, all.sum + row, static_cast<int>(k.count)};
    for (int64_t block = at_least(common, d.first_key(i) / key_block); block * key_block < d.lengths[i]; ++block) {
      decode_block<T>(d, s, own, i, k.head, block);
    }
  }
  for (int r = 0; r < all.count; ++r) store_output(h, all.o + r * h.padded, all.sum[r], c.t[5].as<T>() + place(r));
}

template <class T>
void run_decode(const Call& c, const Decode& d) {
  const Heads& h = d.h;
  // As many sequences at a time as fit, but enough tasks for all threads.
  const int64_t enough = d.h.tokens * h.kv_heads / (4 * c.rt->threads());
  const int64_t together = at_least(1, at_most(most_rows / h.group, enough));
  const int64_t clusters = (h.tokens + together - 1) / together;
  parallel_for(*c.rt, clusters * h.kv_heads, [&](int64_t task, int worker) {
    const int64_t begin = task / h.kv_heads * together, end = at_most(h.tokens, begin + together);
    for (int64_t first = 0; first < h.group; first += most_rows) {
      const Cluster k = {begin, end, task % h.kv_heads, first, at_most(most_rows, h.group - first)};
      decode_cluster<T>(c, d, k, d.scratch + worker * d.worker_floats);
    }
  });
}
/// keys [blocks,G,D,32] and values [blocks,G,32,D].
Status check_cache(const View& keys, const View& values) {
  WS_CHECK(keys.rank == 4 && keys.dims[3] == page_keys, shape, "keys: expected [blocks, heads, size, %d]", page_keys);
  WS_CHECK(values.rank == 4 && values.dims[0] == keys.dims[0] && values.dims[1] == keys.dims[1] &&
               values.dims[2] == page_keys && values.dims[3] == keys.dims[2],
           shape, "values: expected [%lld, %lld, %d, %lld]", static_cast<long long>(keys.dims[0]),
           static_cast<long long>(keys.dims[1]), page_keys, static_cast<long long>(keys.dims[2]));
  return {};
}

/// Lengths fit the table, and every block that will be read exists.
Status check_table(const Call& c, const Decode& d) {
  const int64_t blocks = c.t[1].dims[0];
  for (int64_t b = 0; b < d.h.tokens; ++b) {
    const int64_t length = d.lengths[b];
    WS_CHECK(length >= 1 && length <= d.table_width * page_keys, shape,
             "lengths[%lld]: expected 1 to %lld keys, got %lld", static_cast<long long>(b),
             static_cast<long long>(d.table_width * page_keys), static_cast<long long>(length));
    for (int64_t i = d.first_key(b) / page_keys; i * page_keys < length; ++i) {
      const int64_t block = d.table[b * d.table_width + i];
      WS_CHECK(block >= 0 && block < blocks, shape, "table[%lld][%lld]: expected a block below %lld, got %lld",
               static_cast<long long>(b), static_cast<long long>(i), static_cast<long long>(blocks),
               static_cast<long long>(block));
    }
  }
  return {};
}

// The cache ----------------------------------------------------------------------------------------------------------

template <class T>
void run_write(const Call& c) {
  const int64_t tokens = c.t[2].dims[0], kv_heads = c.t[0].dims[1], dim = c.t[0].dims[2];
  // A head is one task, so that the last of two tokens with one slot wins.
  parallel_for(*c.rt, kv_heads, [&](int64_t head, int) {
    for (int64_t i = 0; i < tokens; ++i) {
      const int64_t slot = c.t[4].as<int32_t>()[i], at = (i * kv_heads + head) * dim;
      if (slot < 0) continue;
      const int64_t slab = (slot / page_keys * kv_heads + head) * dim * page_keys, lane = slot % page_keys;
      for (int64_t d = 0; d < dim; ++d) c.t[0].as<T>()[slab + d * page_keys + lane] = c.t[2].as<T>()[at + d];
      std::memcpy(c.t[1].as<T>() + slab + lane * dim, c.t[3].as<T>() + at, static_cast<size_t>(dim) * sizeof(T));
    }
  });
}

}  // namespace

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
  d.keys = keys.data;
  d.values = c.t[2].data;
  Scratch sizes;
  d.worker_floats = q.dtype == DType::f32 ? lay_out<float>(d.h, nullptr, sizes) : lay_out<bf16>(d.h, nullptr, sizes);
  d.scratch = static_cast<float*>(c.rt->scratch(c.rt->threads() * d.worker_floats * 4));
  WS_CHECK(d.scratch != nullptr, oom, "no memory for scratch");
  if (q.dtype == DType::f32) run_decode<float>(c, d);
  else run_decode<bf16>(c, d);
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
    WS_CHECK(slot < keys.dims[0] * page_keys, shape, "slots[%lld]: expected a slot below %lld, got %lld",
             static_cast<long long>(i), static_cast<long long>(keys.dims[0] * page_keys), static_cast<long long>(slot));
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
  const int64_t slab = keys.dims[2] * page_keys * element_bytes(keys.dtype);
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
