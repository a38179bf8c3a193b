// Gradient of attention, without atomics: a sum has one owner and one order, however the work is cut. With enough
// independent heads and sequences a task owns one key/value head of a root segment and of all segments that share it
// (five products); else tasks own queries or keys alone and compute the scores twice (seven products), with the same
// bits. The forward pass is in attention.cpp, what both share in attention.h.
#include "attention.h"

namespace ws::WS_NS {
namespace {

/// Key blocks of a task that owns keys alone.
constexpr int64_t piece_blocks = 4;

template <class T>
struct Backward {
  Heads h;
  const T *dout, *out, *q, *k, *v;
  const float* lse;
  T *dq, *dk, *dv;
  Segment* segments;
  int64_t count, chunk;
  int64_t longest, longest_root;  // blocks of the largest buffers of dk and dv, own and root's
};

/// The scratch of one worker. A block's keys and values packed by key (steps along channels), the keys also by channel
/// (steps along keys); tiles of query rows, where rows are columns, and the same rows as steps along rows.
struct Scratch {
  float *keys, *values, *key_steps;
  float *q, *dout, *q_rows, *dout_rows, *dq, *lse, *delta;
  float *p, *ds;                  // a tile's scores and gradients of probabilities, [key][row]
  float *p_rows, *ds_rows;        // probabilities and gradients of scores, [key][step of rows]
  float* ds_steps;                // the latter as [step of keys][row]
  float *dk, *dv;                 // by logical position, from the first block of a sweep
  float *root_dk, *root_dv;       // the same for the root of the segments that are swept
  int64_t key_row, q_tile, row_tile_floats, dq_tile;
};

/// Number of floats. With `at`, also hands out the parts.
template <class T>
int64_t lay_out(const Backward<T>& b, float* at, Scratch& s) {
  const Heads& h = b.h;
  constexpr int64_t per = Steps<T>::per, area = key_block * row_tile<T>;
  const int64_t tiles = (b.chunk * h.group + row_tile<T> - 1) / row_tile<T>;
  s.key_row = round_up(steps_for<T>(h.dim), W);
  s.q_tile = steps_for<T>(h.dim) * row_tile<T>;
  s.row_tile_floats = row_tile<T> / per * h.padded;
  s.dq_tile = h.padded * row_tile<T>;
  const int64_t keys = b.longest * key_block * h.padded, root_keys = b.longest_root * key_block * h.padded;
  // One-element steps need no copies: p_rows is p, ds_rows and ds_steps are ds.
  const int64_t rounded = per > 1 ? area / per : 0;
  const struct {
    float** part;
    int64_t size;
  } parts[] = {{&s.keys, key_block * s.key_row},
               {&s.values, key_block * s.key_row},
               {&s.key_steps, key_block / per * h.padded},
               {&s.q, tiles * s.q_tile},
               {&s.dout, tiles * s.q_tile},
               {&s.q_rows, tiles * s.row_tile_floats},
               {&s.dout_rows, tiles * s.row_tile_floats},
               {&s.dq, tiles * s.dq_tile},
               {&s.lse, tiles * row_tile<T>},
               {&s.delta, tiles * row_tile<T>},
               {&s.p, area},
               {&s.ds, area},
               {&s.p_rows, rounded},
               {&s.ds_rows, rounded},
               {&s.ds_steps, rounded},
               {&s.dk, keys},
               {&s.dv, keys},
               {&s.root_dk, root_keys},
               {&s.root_dv, root_keys}};
  int64_t used = 0;
  for (const auto& p : parts) {
    if (at) *p.part = at + used;
    used += round_up(p.size, 16);
  }
  if (per == 1) {
    s.p_rows = s.p;
    s.ds_rows = s.ds_steps = s.ds;
  }
  return used;
}

// A tile against a block ----------------------------------------------------------------------------------------------

/// One vector of rows of a tile: key j at p + j * row_tile.
struct Column {
  V exponent, minus_lse, delta, low, high;
  V cap, inverse_cap;  // inverse: of the scores before the scale, then of the capped ones
  V slope_cap;
};

/// What a tile keeps per row.
struct TileRows {
  const float *q, *dout, *q_rows, *dout_rows, *lse, *delta;
  float* dq;
};

/// p = 2^(score * exponent - lse), ds = p (dp - delta) [times the cap's slope] of the keys [first, limit); 0 where
/// hidden.
template <class T, bool Capped>
void column_gradient(const Scratch& s, const Sight<T>& v, const Column& c, int i) {
  using Unit = typename Steps<T>::Unit;
  constexpr int per = Steps<T>::per, stride = row_tile<T>, row_steps = stride / per;
  for (int j = v.first; j < v.limit; j += 4) {
    V x[4], ds[4];
    const auto at = [&](int n) { return (j + n) * stride + i; };
    WS_UNROLL
    for (int n = 0; n < 4; ++n) {
      x[n] = load(s.p + at(n));
      ds[n] = sub(load(s.ds + at(n)), c.delta);
      if (!Capped) continue;
      x[n] = soft_cap(x[n], c.cap, c.inverse_cap);
      ds[n] = mul(ds[n], soft_cap_slope(x[n], c.slope_cap));
    }
    WS_UNROLL
    for (int n = 0; n < 4; ++n) x[n] = fma(x[n], c.exponent, c.minus_lse);
    exponential<T>(x);
    WS_UNROLL
    for (int n = 0; n < 4; ++n) {
      ds[n] = mul(x[n], ds[n]);
      if (v.hidden) {
        x[n] = if_seen(j + n, c.low, c.high, x[n], zero());
        ds[n] = if_seen(j + n, c.low, c.high, ds[n], zero());
      }
      store_steps(Unit(), s.p_rows + (j + n) * row_steps + i / per, x[n]);
      store_steps(Unit(), s.ds_rows + (j + n) * row_steps + i / per, ds[n]);
    }
    if (per == 1) continue;
    WS_UNROLL
    for (int n = 0; n < 4; n += 2) store(s.ds_steps + (j + n) / 2 * stride + i, together(Unit(), ds[n], ds[n + 1]));
  }
}

template <class T>
void tile_gradients(const Heads& h, const Scratch& s, const Sight<T>& v, const TileRows& t) {
  const bool capped = h.softcap > 0;
  Column c;
  c.exponent = set1(h.exponent());
  c.cap = set1(h.softcap);
  c.inverse_cap = set1(capped ? h.scale / h.softcap : 0.0f);
  c.slope_cap = set1(capped ? 1.0f / h.softcap : 0.0f);
  for (int i = 0; i < v.vectors * W; i += W) {
    c.minus_lse = sub(zero(), load(t.lse + i));
    c.delta = load(t.delta + i);
    c.low = load(v.low + i);
    c.high = load(v.high + i);
    if (capped) column_gradient<T, true>(s, v, c, i);
    else column_gradient<T, false>(s, v, c, i);
  }
}

/// Which sums a sweep is for.
struct Wanted {
  bool dq, keys;
};

template <class T>
void backward_tile(const Heads& h, const Scratch& s, const Sight<T>& v, const TileRows& t, int64_t key, Wanted wanted) {
  using Unit = typename Steps<T>::Unit;
  constexpr int64_t per = Steps<T>::per, stride = row_tile<T>, row_steps = stride / per;
  const int64_t keys = v.limit - v.first, steps = steps_for<T>(h.dim);
  const auto scores = [&](const float* a, const float* b, float* c) {
    product<Unit, Start::zero, true>(
        {a + v.first * s.key_row, s.key_row, 1, b, stride, c + v.first * stride, stride, steps, nullptr}, keys,
        v.vectors);
  };
  scores(s.keys, t.q, s.p);
  scores(s.values, t.dout, s.ds);
  tile_gradients<T>(h, s, v, t);
  if (wanted.dq) {
    constexpr int64_t row = by_tiles<T> ? block_steps<T> : 1, unit = by_tiles<T> ? W : tile_m;
    const int64_t first = v.first / per, step = by_tiles<T> ? 1 : h.padded;
    product<Unit, Start::sum, by_tiles<T>>({s.key_steps + first * step, row, step, s.ds_steps + first * stride, stride,
                                            t.dq, stride, keys / per, nullptr},
                                           round_up(h.dim, unit), v.vectors);
  }
  if (!wanted.keys) return;
  const auto sum_rows = [&](const float* a, const float* b, float* c) {
    product<Unit, Start::sum, true>({a + v.first * row_steps, row_steps, 1, b, h.padded,
                                     c + (key + v.first) * h.padded, h.padded, steps_for<T>(v.rows), nullptr},
                                    keys, h.padded / W);
  };
  sum_rows(s.p_rows, t.dout_rows, s.dv);
  sum_rows(s.ds_rows, t.q_rows, s.dk);
}

// Sweeps --------------------------------------------------------------------------------------------------------------

template <class T>
float dot(const T* a, const T* b, int64_t dim) {
  V sum = zero();
  for_vectors(0, dim, [&](int64_t d, auto lanes) { sum = fma(load(a + d, lanes), load(b + d, lanes), sum); });
  return sum_lanes(sum);
}

template <class T>
TileRows tile_of(const Scratch& s, int64_t tile) {
  const int64_t row = tile * row_tile<T>, steps = tile * s.row_tile_floats;
  return {s.q + tile * s.q_tile, s.dout + tile * s.q_tile, s.q_rows + steps, s.dout_rows + steps,
          s.lse + row,           s.delta + row,            s.dq + tile * s.dq_tile};
}

/// Packs the query rows of a tile.
template <class T>
void begin_tile(const Backward<T>& b, const Scratch& s, const RowSpan& span, int64_t tile, int64_t head) {
  constexpr int per = Steps<T>::per;
  const Heads& h = b.h;
  constexpr int stride = row_tile<T>;
  const T *q[stride], *dout[stride], *out[stride];
  const int rows = static_cast<int>(round_up(span.last - span.first, by_tiles<T> ? stride : W));
  for (int r = 0; r < rows; ++r) {
    const bool exists = span.first + r < span.last;
    const int64_t row = exists ? row_index(h, span.token, span.first + r, head) : 0;
    q[r] = exists ? b.q + row * h.dim : nullptr;
    dout[r] = exists ? b.dout + row * h.dim : nullptr;
    out[r] = b.out + row * h.dim;
    s.lse[tile * stride + r] = exists ? b.lse[row] * 1.44269504088896341f : 0.0f;
    // Rows are far apart: the processor does not foresee them.
    for (int64_t d = 0; exists && d < h.dim; d += 64 / static_cast<int64_t>(sizeof(T))) {
      __builtin_prefetch(dout[r] + d);
      __builtin_prefetch(out[r] + d);
      __builtin_prefetch(q[r] + d);
    }
  }
  for (int r = 0; r < rows; ++r) s.delta[tile * stride + r] = dout[r] ? dot(dout[r], out[r], h.dim) : 0.0f;
  for (int r = 0; r < rows; r += W) {
    pack_columns(q + r, h.dim, stride, s.q + tile * s.q_tile + r);
    pack_columns(dout + r, h.dim, stride, s.dout + tile * s.q_tile + r);
  }
  for (int r = 0; r < rows; r += per) {
    const int64_t at = tile * s.row_tile_floats + r / per * h.padded;
    pack_together<T>(q[r], per > 1 ? q[r + 1] : nullptr, h.dim, h.padded, s.q_rows + at);
    pack_together<T>(dout[r], per > 1 ? dout[r + 1] : nullptr, h.dim, h.padded, s.dout_rows + at);
  }
  std::memset(s.dq + tile * s.dq_tile, 0, static_cast<size_t>(s.dq_tile) * sizeof(float));
}

template <class T>
void end_tile(const Backward<T>& b, const Scratch& s, const RowSpan& span, int64_t tile, int64_t head) {
  const Heads& h = b.h;
  store_columns<T>(h, s.dq + tile * s.dq_tile, span, [&](int) { return set1(h.scale); }, [&](int64_t row) {
    return b.dq + row_index(h, span.token, row, head) * h.dim;
  });
}

template <class T>
void pack_block(const Backward<T>& b, const Scratch& s, const Segment& segment, int64_t block, int64_t high,
                int64_t head) {
  const Heads& h = b.h;
  const int64_t stride = h.kv_heads * h.dim;
  const T *keys[key_block], *values[key_block];
  const int count = block_rows(segment, block, high, b.k + head * h.dim, stride, keys);
  block_rows(segment, block, high, b.v + head * h.dim, stride, values);
  for (int j = 0; j < count; ++j) {
    pack_row(keys[j], h.dim, s.keys + j * s.key_row);
    pack_row(values[j], h.dim, s.values + j * s.key_row);
  }
  pack_steps(h, keys, count, s.key_steps);
}

/// Queries [token, end) of a segment against its key blocks [begin, limit).
struct Sweep {
  int64_t token, end;
  int64_t begin, limit;
  Wanted wanted;
};

/// dq of at most a chunk of queries, and their part of dk and dv.
template <class T>
void sweep_chunk(const Backward<T>& b, const Scratch& s, const Segment& segment, int64_t head, const Sweep& w) {
  const Heads& h = b.h;
  const int64_t rows = (w.end - w.token) * h.group, high = segment.high(w.end - 1);
  const int64_t first = at_least(w.begin, segment.low(w.token, h.window) / key_block);
  const int64_t last = at_most(w.limit, (high + key_block - 1) / key_block);
  if (first >= last && !w.wanted.dq) return;
  const auto for_tiles = [&](auto&& body) {
    for (int64_t row = 0; row < rows; row += row_tile<T>) {
      body(RowSpan{w.token, row, at_most(rows, row + row_tile<T>)}, row / row_tile<T>);
    }
  };
  for_tiles([&](const RowSpan& span, int64_t tile) { begin_tile(b, s, span, tile, head); });
  for (int64_t block = first; block < last; ++block) {
    pack_block(b, s, segment, block, high, head);
    for_tiles([&](const RowSpan& span, int64_t tile) {
      Sight<T> v = look<T>(h, segment, span, block);
      if (by_tiles<T>) v.vectors = row_tile<T> / W;  // probabilities of all rows are multiplied
      if (v.limit > 0) backward_tile<T>(h, s, v, tile_of<T>(s, tile), (block - w.begin) * key_block, w.wanted);
    });
  }
  if (w.wanted.dq) for_tiles([&](const RowSpan& span, int64_t tile) { end_tile(b, s, span, tile, head); });
}

int64_t blocks_of(const Segment& s) { return (s.prefix() + s.length() + key_block - 1) / key_block; }

/// All queries of a segment against its key blocks [begin, limit), whose dk and dv are left in s.dk and s.dv.
template <class T>
void sweep(const Backward<T>& b, const Scratch& s, const Segment& segment, int64_t head, Sweep w) {
  const auto bytes = static_cast<size_t>((w.limit - w.begin) * key_block * b.h.padded) * sizeof(float);
  std::memset(s.dk, 0, bytes);
  std::memset(s.dv, 0, bytes);
  for (w.token = segment.start; w.token < segment.end; w.token = w.end) {
    w.end = at_most(segment.end, w.token + b.chunk);
    sweep_chunk(b, s, segment, head, w);
  }
}

void add_floats(float* to, const float* from, int64_t n) {
  for (int64_t i = 0; i < n; i += W) store(to + i, add(load(to + i), load(from + i)));
}

/// Writes the segment's own keys among the logical positions [begin, limit); dk and dv start at `begin`.
template <class T>
void store_keys(const Backward<T>& b, const Scratch& s, const Segment& segment, int64_t begin, int64_t limit,
                int64_t head) {
  const Heads& h = b.h;
  for (int64_t i = at_least(begin, segment.prefix()); i < at_most(limit, segment.prefix() + segment.length()); ++i) {
    const int64_t at = (segment.token(i) * h.kv_heads + head) * h.dim;
    const float *dk = s.dk + (i - begin) * h.padded, *dv = s.dv + (i - begin) * h.padded;
    for_vectors(0, h.dim, [&](int64_t d, auto lanes) {
      store(b.dk + at + d, mul(load(dk + d), set1(h.scale)), lanes);
      store(b.dv + at + d, load(dv + d), lanes);
    });
  }
}

/// The scratch with the root's buffers in the place of dk and dv.
Scratch for_root(Scratch s) {
  s.dk = s.root_dk;
  s.dv = s.root_dv;
  return s;
}

// Tasks ---------------------------------------------------------------------------------------------------------------

/// A root and, in order, the segments that share it: dq, dk and dv of their tokens.
template <class T>
void run_group(const Backward<T>& b, const Scratch& s, const Segment& root, int64_t head) {
  const Scratch own = root.next < 0 ? s : for_root(s);
  const auto everything = [](const Segment& x) { return Sweep{0, 0, 0, blocks_of(x), {true, true}}; };
  sweep(b, own, root, head, everything(root));
  for (int64_t i = root.next; i >= 0; i = b.segments[i].next) {
    const Segment& segment = b.segments[i];
    const int64_t prefix = segment.prefix() * b.h.padded;
    sweep(b, s, segment, head, everything(segment));
    add_floats(own.dk, s.dk, prefix);
    add_floats(own.dv, s.dv, prefix);
    store_keys(b, s, segment, 0, segment.prefix() + segment.length(), head);
  }
  store_keys(b, own, root, 0, root.length(), head);
}

/// First block of a segment's own keys, and the number of pieces of them.
int64_t own_block(const Segment& s) { return s.prefix() / key_block; }
int64_t pieces_of(const Segment& s) { return (blocks_of(s) - own_block(s) + piece_blocks - 1) / piece_blocks; }

/// dk and dv of one piece of a segment's own keys.
template <class T>
void run_piece(const Backward<T>& b, const Scratch& s, const Segment& segment, int64_t piece, int64_t head) {
  const int64_t begin = own_block(segment) + piece * piece_blocks;
  const int64_t limit = at_most(blocks_of(segment), begin + piece_blocks), first = begin * key_block;
  const Scratch own = segment.next < 0 || segment.prefix() > 0 ? s : for_root(s);
  sweep(b, own, segment, head, {0, 0, begin, limit, {false, true}});
  if (segment.prefix() == 0) {
    for (int64_t i = segment.next; i >= 0; i = b.segments[i].next) {
      const Segment& sharer = b.segments[i];
      if (sharer.prefix() <= first) continue;
      const int64_t shared = at_most(limit, (sharer.prefix() + key_block - 1) / key_block);
      sweep(b, s, sharer, head, {0, 0, begin, shared, {false, true}});
      const int64_t floats = (at_most(shared * key_block, sharer.prefix()) - first) * b.h.padded;
      add_floats(own.dk, s.dk, floats);
      add_floats(own.dv, s.dv, floats);
    }
  }
  store_keys(b, own, segment, first, limit * key_block, head);
}

/// Whether tasks that own whole groups keep the threads busy enough: they do five products where others do seven.
template <class T>
bool by_groups(const Backward<T>& b, int threads) {
  double total = 0, most = 0;
  int64_t groups = 0;
  for (int64_t r = 0; r < b.count; ++r) {
    if (b.segments[r].root != r) continue;
    double work = 0;
    for (int64_t i = r; i >= 0; i = b.segments[i].next) {
      const auto length = static_cast<double>(b.segments[i].length());
      work += length * (static_cast<double>(b.segments[i].prefix()) + length / 2);
    }
    total += work;
    most = work > most ? work : most;
    ++groups;
  }
  const auto heads = static_cast<double>(b.h.kv_heads), workers = static_cast<double>(threads);
  const double rounds = std::ceil(static_cast<double>(groups) * heads / workers) * most;
  const double greedy = total * heads / workers + most * (1 - 1 / workers);
  return 5 * (rounds < greedy ? rounds : greedy) <= 7 * total * heads / workers;
}

/// How the work is cut: which does not change a bit.
struct Plan {
  bool groups;
  int64_t roots;
};

/// Lists the roots and sizes the buffers of dk and dv.
template <class T>
Plan make_plan(Backward<T>& b, int64_t* roots, int threads) {
  Plan plan = {by_groups(b, threads), 0};
  b.longest = b.longest_root = plan.groups ? 0 : piece_blocks;
  for (int64_t i = 0; i < b.count; ++i) {
    const Segment& s = b.segments[i];
    if (s.root == i) roots[plan.roots++] = i;
    if (!plan.groups) continue;
    b.longest = at_least(b.longest, blocks_of(s));
    if (s.root == i && s.next >= 0) b.longest_root = at_least(b.longest_root, blocks_of(s));
  }
  return plan;
}

template <class T>
void run_pieces(const Backward<T>& b, Runtime& rt, float* workers, int64_t floats) {
  const int64_t heads = b.h.kv_heads;
  const auto run = [&](int64_t tasks, auto&& body) {
    parallel_for(rt, tasks, [&](int64_t task, int worker) {
      Scratch s;
      lay_out(b, workers + worker * floats, s);
      const TilesFor<T> tiles;
      const Segment& segment = segment_of_task(b.segments, b.count, task);
      const int64_t local = task - segment.first_task;
      body(s, segment, local / heads, local % heads);
    });
  };
  const auto chunks = [&](const Segment& s) { return s.chunks(b.chunk); };
  run(number_tasks(b.segments, b.count, heads, chunks),
      [&](const Scratch& s, const Segment& segment, int64_t chunk, int64_t head) {
        // From the end, because late chunks of a long segment are the most work.
        const int64_t token = segment.start + (segment.chunks(b.chunk) - 1 - chunk) * b.chunk;
        const int64_t end = at_most(segment.end, token + b.chunk);
        sweep_chunk(b, s, segment, head, {token, end, 0, blocks_of(segment), {true, false}});
      });
  run(number_tasks(b.segments, b.count, heads, pieces_of),
      [&](const Scratch& s, const Segment& segment, int64_t piece, int64_t head) {
        run_piece(b, s, segment, piece, head);
      });
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
                count,
                chunk_tokens(h),
                0,
                0};
  // Twice: the second block, which replaces the first, is sized by what the list of segments says.
  const int64_t list_bytes = round_up(count * static_cast<int64_t>(sizeof(Segment) + sizeof(int64_t)), 64);
  int64_t bytes = at_least(64, list_bytes), floats = 0, *roots = nullptr;
  Plan plan = {};
  char* scratch = nullptr;
  for (int pass = 0; pass < 2; ++pass) {
    scratch = static_cast<char*>(c.rt->scratch(bytes));
    WS_CHECK(scratch != nullptr, oom, "no memory for %lld bytes of scratch", static_cast<long long>(bytes));
    b.segments = reinterpret_cast<Segment*>(scratch);
    WS_TRY(read_segments(c.t[6], h.tokens, b.segments, count));
    roots = reinterpret_cast<int64_t*>(b.segments + count);
    plan = make_plan(b, roots, c.rt->threads());
    Scratch sizes;
    floats = lay_out<T>(b, nullptr, sizes);
    bytes = list_bytes + floats * 4 * c.rt->threads();
  }
  float* workers = reinterpret_cast<float*>(scratch + list_bytes);
  if (!plan.groups) {
    run_pieces(b, *c.rt, workers, floats);
    return {};
  }
  parallel_for(*c.rt, plan.roots * h.kv_heads, [&](int64_t task, int worker) {
    Scratch s;
    lay_out(b, workers + worker * floats, s);
    const TilesFor<T> tiles;
    run_group(b, s, b.segments[roots[task / h.kv_heads]], task % h.kv_heads);
  });
  return {};
}

}  // namespace

/// dq, dk, dv of attention(). With s the scaled and capped scores: p = exp(s - lse), dp = do v^T, delta = sum(do o),
/// ds = p (dp - delta) (1 - (s / c)^2); dv = p^T do, dk = scale ds^T q, dq = scale ds k. f32 sums, one rounding.
/// FLOPs 10 D per visible pair and head, 14 D when tasks are few. Scratch per worker: about 2 D floats per position of
/// the longest segment, twice that when prefixes are shared; nothing of the kind when tasks are few.
/// Tolerance against f64: 1e-5 of the largest gradient (f32); from WS_LEVEL 4 on p and ds of bf16 operands are rounded
/// to bf16. What must stay: dq sums blocks of keys in order, dk and dv query rows in order of the segment's tokens (by
/// tiles 32 at a time, from the first of a chunk), sharers in order after the root; a hidden pair counts as zero.
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
