// Gradient of attention. A task owns one key/value head of one root segment and of all segments that share it as
// prefix, so that no two tasks add to one number: no atomics, and no dependence on what else is in the batch.
// The forward pass and what both share are in attention.cpp and attention.h.
#include "attention.h"

namespace ws::WS_NS {
namespace {

/// Query rows whose probabilities are kept at once: keys and values gather their gradients from this many rows.
constexpr int query_tile = 32;

template <class T>
struct Backward {
  Heads h;
  const T *dout, *out, *q, *k, *v;
  const float* lse;
  T *dq, *dk, *dv;
  const Segment* segments;
  int64_t chunk;         // tokens whose rows are packed at once
  int64_t longest;       // logical positions of the longest segment, in whole blocks
  int64_t longest_root;  // the same of the longest shared root; 0 when nothing is shared
};

/// The scratch of one worker; rows = chunk * group.
struct BackwardScratch {
  float *keys_across, *values_across, *keys_along;
  float *q, *dout, *dq, *lse, *delta;  // rows of the chunk
  float *dk, *dv;                      // by logical position of the segment
  float *root_dk, *root_dv;            // by token of the shared root
};

/// Floats of one worker. With `at`, also hands out the parts.
template <class T>
int64_t lay_out(const Backward<T>& b, float* at, BackwardScratch* s) {
  const int64_t rows = b.chunk * b.h.group, padded = b.h.padded;
  const int64_t across = key_block * round_up(b.h.dim, W);
  const int64_t sizes[12] = {across,
                             across,
                             key_block * padded,
                             rows * padded,
                             rows * padded,
                             rows * padded,
                             round_up(rows, 16),
                             round_up(rows, 16),
                             b.longest * padded,
                             b.longest * padded,
                             b.longest_root * padded,
                             b.longest_root * padded};
  float** const parts[12] = {&s->keys_across, &s->values_across, &s->keys_along, &s->q,  &s->dout,    &s->dq,
                             &s->lse,         &s->delta,         &s->dk,         &s->dv, &s->root_dk, &s->root_dv};
  int64_t used = 0;
  for (int i = 0; i < 12; ++i) {
    if (at != nullptr) *parts[i] = at + used;
    used += sizes[i];
  }
  return round_up(used, 16);
}

/// One row's scores (p) and gradients of its probabilities (ds), before row_gradient().
struct RowGradient {
  float *p, *ds;
  float lse, delta;
  int low, high;
};

/// Scores become probabilities, and gradients of the probabilities become gradients of the scaled scores:
/// p = exp(s - lse), ds = p (dp - delta) [times the cap's slope]; 0 outside [low, high).
void row_gradient(const Heads& h, const RowGradient& r) {
  const V top = set1(r.lse), mean = set1(r.delta), none = zero();
  const V cap = set1(h.softcap), inverse = set1(h.softcap > 0 ? 1.0f / h.softcap : 0.0f);
  int v = 0;
  for (; v < r.high; v += W) {
    V s = load(r.p + v), slope = set1(1.0f);
    if (h.softcap > 0) {
      s = soft_cap(s, cap, inverse);
      slope = soft_cap_slope(s, inverse);
    }
    const V e = exp(sub(s, top));
    const V g = mul(mul(e, sub(load(r.ds + v), mean)), slope);
    store(r.p + v, in_range(e, none, v, r.low, r.high));
    store(r.ds + v, in_range(g, none, v, r.low, r.high));
  }
  for (; v < key_block; v += W) {
    store(r.p + v, none);
    store(r.ds + v, none);
  }
}

/// Query rows of a chunk against one block of keys; lanes [low, high) of each are visible, both rising with the row.
struct QueryTile {
  float p[query_tile * key_block], ds[query_tile * key_block];
  int low[query_tile], high[query_tile];
  int rows;
  int64_t first;  // row of the chunk
};

/// p, ds and dq of the rows.
void query_side(const Heads& h, const BackwardScratch& s, QueryTile& t) {
  for (int r = 0; r < t.rows; r += tile_rows) {
    const int rows = static_cast<int>(at_most(tile_rows, t.rows - r));
    const int low = t.low[r], high = t.high[r + rows - 1];
    const int64_t columns = round_up(high, W), at = (t.first + r) * h.padded;
    float *p = t.p + r * key_block, *ds = t.ds + r * key_block;
    tile_product<false>(
        TileProduct<float>{s.q + at, h.padded, s.keys_across, key_block, p, key_block, rows, columns, 0, h.dim, false});
    tile_product<false>(TileProduct<float>{s.dout + at, h.padded, s.values_across, key_block, ds, key_block, rows,
                                           columns, 0, h.dim, false});
    for (int i = 0; i < rows; ++i) {
      const int64_t row = t.first + r + i;
      row_gradient(h, {p + i * key_block, ds + i * key_block, s.lse[row], s.delta[row], t.low[r + i], t.high[r + i]});
    }
    tile_product<false>(TileProduct<float>{ds, key_block, s.keys_along, h.padded, s.dq + at, h.padded, rows, h.padded,
                                           low, high, true});
  }
}

/// dk and dv of the block's keys: each is a chain over the rows that see it, in order.
void key_side(const Heads& h, const BackwardScratch& s, const QueryTile& t, float* dk, float* dv) {
  int begin = 0, end = 0;
  for (int j = 0; j < key_block; j += tile_rows) {
    const int keys = static_cast<int>(at_most(tile_rows, key_block - j));
    while (begin < t.rows && t.high[begin] <= j) ++begin;
    while (end < t.rows && t.low[end] < j + keys) ++end;
    if (begin >= end) continue;
    const int64_t at = t.first * h.padded;
    tile_product<true>(TileProduct<float>{t.p + j, key_block, s.dout + at, h.padded, dv + j * h.padded, h.padded, keys,
                                          h.padded, begin, end, true});
    tile_product<true>(TileProduct<float>{t.ds + j, key_block, s.q + at, h.padded, dk + j * h.padded, h.padded, keys,
                                          h.padded, begin, end, true});
  }
}

float dot(const float* a, const float* b, int64_t padded) {
  V sum = zero();
  for (int64_t d = 0; d < padded; d += W) sum = fma(load(a + d), load(b + d), sum);
  return sum_lanes(sum);
}

template <class T>
void begin_chunk(const Backward<T>& b, const BackwardScratch& s, int64_t token, int64_t rows, int64_t head) {
  const Heads& h = b.h;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row_index(h, token, row, head);
    float *dout = s.dout + row * h.padded, *dq = s.dq + row * h.padded;
    load_row(b.q + at * h.dim, h.dim, h.scale, s.q + row * h.padded);
    load_row(b.dout + at * h.dim, h.dim, 1.0f, dout);
    load_row(b.out + at * h.dim, h.dim, 1.0f, dq);
    s.delta[row] = dot(dout, dq, h.padded);
    s.lse[row] = b.lse[at];
    clear_floats(dq, h.padded);
  }
}

template <class T>
void end_chunk(const Backward<T>& b, const BackwardScratch& s, int64_t token, int64_t rows, int64_t head) {
  const Heads& h = b.h;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row_index(h, token, row, head);
    store_row(s.dq + row * h.padded, h.dim, h.scale, b.dq + at * h.dim);
  }
}

/// dq of the tokens [token, end) and their part of dk and dv.
template <class T>
void run_chunk(const Backward<T>& b, const BackwardScratch& s, const Segment& segment, int64_t token, int64_t end,
               int64_t head) {
  const Heads& h = b.h;
  const int64_t rows = (end - token) * h.group, high = segment.high(end - 1);
  const int64_t stride = h.kv_heads * h.dim, offset = head * h.dim;
  begin_chunk(b, s, token, rows, head);
  for (int64_t block = segment.low(token, h.window) / key_block; block * key_block < high; ++block) {
    int64_t tokens[key_block];
    block_tokens(segment, block, high, tokens);
    gather_across(b.k + offset, stride, tokens, h.dim, s.keys_across);
    gather_across(b.v + offset, stride, tokens, h.dim, s.values_across);
    gather_along(b.k + offset, stride, tokens, h, s.keys_along);
    const int64_t at = block * key_block * h.padded;
    for (int64_t row = 0; row < rows; row += query_tile) {
      QueryTile t;
      const RowSpan span = {token, row, at_most(rows, row + query_tile), block};
      t.rows = visible_rows(h, segment, span, t.first, t.low, t.high);
      if (t.rows == 0) continue;
      query_side(h, s, t);
      key_side(h, s, t, s.dk + at, s.dv + at);
    }
  }
  end_chunk(b, s, token, rows, head);
}

/// Writes finished rows of dk and dv to the tokens from `start` on.
template <class T>
void store_keys(const Backward<T>& b, const float* dk, const float* dv, int64_t start, int64_t count, int64_t head) {
  const Heads& h = b.h;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = ((start + i) * h.kv_heads + head) * h.dim;
    store_row(dk + i * h.padded, h.dim, 1.0f, b.dk + at);
    store_row(dv + i * h.padded, h.dim, 1.0f, b.dv + at);
  }
}

void add_floats(float* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(to + i, add(load(to + i), load(from + i)));
}

/// All queries of a segment. dk and dv are left in s.dk and s.dv.
template <class T>
void run_segment(const Backward<T>& b, const BackwardScratch& s, const Segment& segment, int64_t head) {
  const int64_t floats = round_up(segment.prefix() + segment.length(), key_block) * b.h.padded;
  clear_floats(s.dk, floats);
  clear_floats(s.dv, floats);
  for (int64_t token = segment.start; token < segment.end; token += b.chunk) {
    run_chunk(b, s, segment, token, at_most(segment.end, token + b.chunk), head);
  }
}

/// A root and, in order, the segments that share it.
template <class T>
void run_group(const Backward<T>& b, BackwardScratch s, const Segment& root, int64_t head) {
  if (root.next < 0) {
    run_segment(b, s, root, head);
    store_keys(b, s.dk, s.dv, root.start, root.length(), head);
    return;
  }
  BackwardScratch shared = s;
  shared.dk = s.root_dk;
  shared.dv = s.root_dv;
  run_segment(b, shared, root, head);
  for (int64_t i = root.next; i >= 0; i = b.segments[i].next) {
    const Segment& segment = b.segments[i];
    const int64_t prefix = segment.prefix() * b.h.padded;
    run_segment(b, s, segment, head);
    add_floats(shared.dk, s.dk, prefix);
    add_floats(shared.dv, s.dv, prefix);
    store_keys(b, s.dk + prefix, s.dv + prefix, segment.start, segment.length(), head);
  }
  store_keys(b, shared.dk, shared.dv, root.start, root.length(), head);
}

/// Lists the roots and finds how much scratch the longest segments need.
template <class T>
int64_t find_roots(Backward<T>& b, int64_t count, int64_t* roots) {
  int64_t n = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Segment& s = b.segments[i];
    b.longest = at_least(b.longest, round_up(s.prefix() + s.length(), key_block));
    if (s.root == i) roots[n++] = i;
    if (s.root == i && s.next >= 0) b.longest_root = at_least(b.longest_root, round_up(s.length(), key_block));
  }
  return n;
}

template <class T>
Status run_backward(const Call& c, const Heads& h, int64_t count) {
  Backward<T> b{h,
                c.t[0].as<T>(),
                c.t[1].as<T>(),
                c.t[3].as<T>(),
                c.t[4].as<T>(),
                c.t[5].as<T>(),
                c.t[2].as<float>(),
                c.t[7].as<T>(),
                c.t[8].as<T>(),
                c.t[9].as<T>(),
                nullptr,
                at_least(1, (h.padded <= 64 ? 192 : 96) / h.group),
                0,
                0};
  // Twice: the second block, which replaces the first, is sized by what the list of segments says.
  const int64_t list_bytes = round_up(count * static_cast<int64_t>(sizeof(Segment) + sizeof(int64_t)), 64);
  int64_t bytes = at_least(64, list_bytes), groups = 0, floats = 0;
  char* scratch = nullptr;
  for (int pass = 0; pass < 2; ++pass) {
    scratch = static_cast<char*>(c.rt->scratch(bytes));
    WS_CHECK(scratch != nullptr, oom, "no memory for %lld bytes of scratch", static_cast<long long>(bytes));
    Segment* list = reinterpret_cast<Segment*>(scratch);
    WS_TRY(read_segments(c.t[6], h.tokens, list, count));
    b.segments = list;
    groups = find_roots(b, count, reinterpret_cast<int64_t*>(list + count));
    BackwardScratch sizes;
    floats = lay_out<T>(b, nullptr, &sizes);
    bytes = list_bytes + floats * 4 * c.rt->threads();
  }
  const int64_t* roots = reinterpret_cast<const int64_t*>(b.segments + count);
  float* workers = reinterpret_cast<float*>(scratch + list_bytes);
  parallel_for(*c.rt, groups * h.kv_heads, [&](int64_t task, int worker) {
    BackwardScratch s;
    lay_out<T>(b, workers + worker * floats, &s);
    run_group(b, s, b.segments[roots[task / h.kv_heads]], task % h.kv_heads);
  });
  return {};
}

}  // namespace

/// dq, dk, dv of attention(). With s the scaled and capped scores: p = exp(s - lse), dp = do v^T, delta = sum(do o),
/// ds = p (dp - delta) (1 - (s / c)^2); dv = p^T do, dk = scale ds^T q, dq = scale ds k. f32 sums, one rounding.
/// FLOPs 10 D per visible pair and head; scratch per worker: about 2 D floats per position of the longest segment,
/// twice that when prefixes are shared. Tolerance against f64: 1e-5 of the largest gradient (f32).
/// What must stay: sums over queries in order of the segment's tokens, sharers in order after the root.
Status attention_backward(const Call& c) {
  const View &lse = c.t[2], &q = c.t[3], &k = c.t[4];
  Heads h = {};
  WS_TRY(read_heads(c, q, k, h));
  WS_TRY(same_shape(c.t[5], "v", k, "k"));
  WS_TRY(same_shape(c.t[0], "do", q, "q"));
  WS_TRY(same_shape(c.t[1], "o", q, "q"));
  WS_TRY(same_shape(c.t[7], "dq", q, "q"));
  WS_TRY(same_shape(c.t[8], "dk", k, "k"));
  WS_TRY(same_shape(c.t[9], "dv", k, "k"));
  WS_CHECK(lse.rank == 2 && lse.dims[0] == h.tokens && lse.dims[1] == h.heads, shape, "lse: expected [%lld, %lld]",
           static_cast<long long>(h.tokens), static_cast<long long>(h.heads));
  int64_t count = 0;
  WS_TRY(count_segments(c.t[6], h.tokens, count));
  return q.dtype == DType::f32 ? run_backward<float>(c, h, count) : run_backward<bf16>(c, h, count);
}

}  // namespace ws::WS_NS
