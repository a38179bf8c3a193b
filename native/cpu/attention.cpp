// Attention forward over packed tokens, and rotary positions. Decoding over the paged cache is in attention_decode.cpp,
// the backward pass in attention_backward.cpp; the order of arithmetic is in attention.h.
#include "attention.h"

namespace ws::WS_NS {
namespace {

constexpr float nothing = -__builtin_inff();

template <class T>
struct Forward {
  Heads h;
  const T *q, *k, *v;
  T* o;
  float* lse;
  Segment* segments;
  int64_t count, chunk;
  float* scratch;
  int64_t worker_floats;
};

/// Scores of so many tiles are computed before an earlier one is folded, so that its products by tiles run beside the
/// vectors' arithmetic.
template <class T>
constexpr int64_t ahead = by_tiles<T> ? 1 : 0;

/// The scratch of one worker, in floats. Tiles of the chunk one after the other; in a tile, rows are the columns.
struct Scratch {
  float *keys, *values;      // a block, packed
  float *spare, *spare_o;    // for values that are not finite
  float *q, *o, *top, *sum;
  float *scores, *steps;     // scores of 1 + ahead tiles
  int64_t key_row, q_tile, o_tile;
  bool finite;  // all values of the block are
};

/// Number of floats for chunks of `rows`. With `at`, also hands out the parts.
template <class T>
int64_t lay_out(const Heads& h, int64_t rows, float* at, Scratch& s) {
  const int64_t steps = steps_for<T>(h.dim), tiles = (rows + row_tile<T> - 1) / row_tile<T>;
  s.key_row = round_up(steps, W);
  s.q_tile = steps * row_tile<T>;
  s.o_tile = h.padded * row_tile<T>;
  const int64_t values = key_block / Steps<T>::per * h.padded;
  const struct {
    float** part;
    int64_t size;
  } parts[] = {{&s.keys, key_block * s.key_row}, {&s.values, values},
               {&s.spare, values},               {&s.spare_o, h.padded * W},
               {&s.q, tiles * s.q_tile},         {&s.o, tiles * s.o_tile},
               {&s.top, tiles * row_tile<T>},    {&s.sum, tiles * row_tile<T>},
               {&s.scores, (1 + ahead<T>) * key_block * row_tile<T>},
               {&s.steps, key_block * row_tile<T>}};
  int64_t used = 0;
  for (const auto& p : parts) {
    if (at) *p.part = at + used;
    used += round_up(p.size, 16);
  }
  return used;
}

// Softmax -------------------------------------------------------------------------------------------------------------

template <class T>
void prepare_scores(float* scores, const Sight<T>& v, const Preparation<T>& prepared) {
  for (int j = v.first; j < v.limit; ++j) {
    for (int i = 0; i < v.vectors; ++i) {
      float* at = scores + j * row_tile<T> + i * W;
      store(at, prepared(load(at)));
    }
  }
}

/// One vector of rows of a tile. The score of key j is at scores + j * row_tile; step k of the probabilities goes to
/// steps + k * row_tile.
struct Rows {
  float *scores, *steps;
  V low, high, exponent;
};

template <class T, bool Hidden>
V largest(const Rows& r, int first, int limit, V top) {
  const V none = set1(nothing), start = by_tiles<T> ? none : top;
  V tops[4] = {start, start, start, start};
  for (int j = first; j < limit; j += 4) {
    WS_EACH(4) {
      const V score = load(r.scores + (j + i) * row_tile<T>), x = by_tiles<T> ? score : mul(score, r.exponent);
      tops[i] = max(tops[i], Hidden ? if_seen(j + i, r.low, r.high, x, none) : x);
    }
  }
  const V all = max(max(tops[0], tops[1]), max(tops[2], tops[3]));
  return by_tiles<T> ? max(top, mul(all, r.exponent)) : all;
}

/// Leaves 2^(score * exponent - top) in r.steps, for the keys of Q quarters of the block; gives their sum: over keys
/// equal modulo 16, ascending, then by halving.
template <class T, int Q, bool Hidden>
V quarters(const Rows& r, V top) {
  constexpr int per = Steps<T>::per;
  const V minus = sub(zero(), top);
  V sums[16];
  for (int j = 0; j < 16; j += per) {
    V p[per * Q];  // key j + e of quarter i is p[e * Q + i]
    const auto key = [&](int n) { return j + n / Q + 16 * (n % Q); };
    WS_EACH(per * Q) p[i] = fma(load(r.scores + key(i) * row_tile<T>), r.exponent, minus);
    exp2(p);
    if (Hidden) WS_EACH(per * Q) p[i] = if_seen(key(i), r.low, r.high, p[i], zero());
    WS_EACH(Q) {
      const V step = together(typename Steps<T>::Unit(), p[i], p[(per - 1) * Q + i]);
      store(r.steps + (j + 16 * i) / per * row_tile<T>, step);
    }
    WS_EACH(per * Q) sums[j + i / Q] = i % Q ? add(sums[j + i / Q], p[i]) : p[i];
  }
  for (int half = 8; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) sums[j] = add(sums[j], sums[j + half]);
  return sums[0];
}

/// The same for tiles, Q even: with four chains at a time registers suffice.
template <class T, int Q, bool Hidden>
V halves(const Rows& r, V top) {
  const V minus = sub(zero(), top);
  V sums[16];
  for (int j = 0; j < 16; j += 2) {
    V two[2] = {zero(), zero()};
    WS_UNROLL
    for (int half = 0; half < 16 * Q; half += 32) {
      V p[4];  // key j + e of the half's quarter i is p[2 * i + e]
      const auto key = [&](int n) { return half + 16 * (n / 2) + j + n % 2; };
      WS_EACH(4) p[i] = fma(load(r.scores + key(i) * row_tile<T>), r.exponent, minus);
      exponential<T>(p);
      if (Hidden) WS_EACH(4) p[i] = if_seen(key(i), r.low, r.high, p[i], zero());
      WS_EACH(2) {
        store(r.steps + key(2 * i) / 2 * row_tile<T>, together(typename Steps<T>::Unit(), p[2 * i], p[2 * i + 1]));
      }
      WS_EACH(4) two[i % 2] = half + i < 2 ? p[i] : add(two[i % 2], p[i]);
    }
    WS_EACH(2) sums[j + i] = two[i];
  }
  for (int half = 8; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) sums[j] = add(sums[j], sums[j + half]);
  return sums[0];
}

template <class T, bool Hidden>
V exponentials(const Rows& r, int limit, V top) {
  if constexpr (by_tiles<T>) return limit <= 32 ? halves<T, 2, Hidden>(r, top) : halves<T, 4, Hidden>(r, top);
  if (limit <= 16) return quarters<T, 1, Hidden>(r, top);
  if (limit <= 32) return quarters<T, 2, Hidden>(r, top);
  if (limit <= 48) return quarters<T, 3, Hidden>(r, top);
  return quarters<T, 4, Hidden>(r, top);
}

/// Folds a tile's scores into its running maximum and sum; leaves the probabilities, in steps of keys, in s.steps, and
/// in `factors` what the earlier output is multiplied by.
template <class T>
void fold(const Heads& h, const Scratch& s, const Sight<T>& v, float* tops, float* sums, float* factors) {
  for (int i = 0; i < v.vectors * W; i += W) {
    const Rows r = {s.scores + i, s.steps + i, load(v.low + i), load(v.high + i),
                    set1(by_tiles<T> ? h.size() : h.exponent())};
    const V before = load(tops + i);
    const V top = v.hidden ? largest<T, true>(r, v.first, v.limit, before)
                           : largest<T, false>(r, v.first, v.limit, before);
    // A row that has seen nothing yet keeps -inf, and computes with a finite number in its place.
    const V base = select_less(top, set1(-3e38f), zero(), top);
    V factor[1] = {sub(before, base)};
    exp2(factor);
    const V sum = v.hidden ? exponentials<T, true>(r, v.limit, base) : exponentials<T, false>(r, v.limit, base);
    store(tops + i, top);
    store(factors + i, factor[0]);
    store(sums + i, fma(load(sums + i), factor[0], sum));
  }
}

// A tile against a block ----------------------------------------------------------------------------------------------

/// o += P V. A step of keys is a row of packed values [step][channel], or for tiles a column of [channel][step].
template <class T>
Operands value_product(const Heads& h, const Scratch& s, const Sight<T>& v, const float* values, float* o) {
  constexpr int64_t row = by_tiles<T> ? block_steps<T> : 1;
  const int64_t step = by_tiles<T> ? 1 : h.padded, first = v.first / Steps<T>::per, limit = v.limit / Steps<T>::per;
  const float* steps = s.steps + first * row_tile<T>;
  return {values + first * step, row, step, steps, row_tile<T>, o, row_tile<T>, limit - first, nullptr};
}

template <class T, Start start>
void add_values(const Heads& h, const Operands& t, int64_t vectors) {
  constexpr int unit = by_tiles<T> ? W : tile_m;
  product<typename Steps<T>::Unit, start, by_tiles<T>>(t, round_up(h.dim, unit), vectors);
}

/// Zeroes the later or the earlier key in `n` steps, `stride` apart; with one key in a step, that one.
void hide_key(float, float* steps, int64_t n, int64_t stride, bool) {
  for (int64_t i = 0; i < n; ++i) steps[i * stride] = 0;
}
#if WS_LEVEL >= 4
void hide_key(Pair, float* steps, int64_t n, int64_t stride, bool later) {
  for (int64_t i = 0; i < n; ++i) {
    Pair pair;
    std::memcpy(&pair, steps + i * stride, sizeof pair);
    (later == (WS_LEVEL == 4) ? pair.low : pair.high) = bf16{0};
    std::memcpy(steps + i * stride, &pair, sizeof pair);
  }
}
#endif

/// The product with the values for a block with values that are not finite: row by row, hidden ones zeroed.
template <class T>
void add_seen_values(const Heads& h, const Scratch& s, const Sight<T>& v, float* o, const float* factors) {
  constexpr int per = Steps<T>::per;
  constexpr int64_t stride = row_tile<T>;
  for (int r = 0; r < v.rows; ++r) {
    const int column = r / W * W;
    Operands t = value_product<T>(h, s, v, s.spare, s.spare_o);
    std::memcpy(s.spare, s.values, static_cast<size_t>(block_steps<T> * h.padded) * sizeof(float));
    for (int j = v.first; j < v.limit; ++j) {
      const bool seen = j >= static_cast<int>(v.low[r]) && j < static_cast<int>(v.high[r]);
      float* steps = s.spare + j / per * t.a_step;
      if (!seen) hide_key(typename Steps<T>::Unit(), steps, h.padded, t.a_row, j % per != 0);
    }
    for (int64_t d = 0; d < h.padded; ++d) store(s.spare_o + d * W, load(o + d * stride + column));
    t.b += column;
    t.c_row = W;
    t.factors = factors + column;
    add_values<T, Start::scaled>(h, t, 1);
    for (int64_t d = 0; d < h.padded; ++d) o[d * stride + r] = s.spare_o[d * W + r - column];
  }
}

/// A tile that is worked on: what it sees of the block, and its scores.
template <class T>
struct Turn {
  Sight<T> v;
  int64_t tile = 0;
  float* scores = nullptr;
};

template <class T>
void score_tile(const Heads& h, const Scratch& s, const Turn<T>& t) {
  constexpr int64_t stride = row_tile<T>;
  const int64_t first = t.v.first, keys = t.v.limit - first;
  product<typename Steps<T>::Unit, Start::zero, true>(
      {s.keys + first * s.key_row, s.key_row, 1, s.q + t.tile * s.q_tile, stride, t.scores + first * stride, stride,
       steps_for<T>(h.dim), nullptr},
      keys, t.v.vectors);
}

template <class T>
void finish_tile(const Heads& h, Scratch s, const Turn<T>& turn) {
  const Sight<T>& v = turn.v;
  const int64_t row = turn.tile * row_tile<T>;
  float factors[row_tile<T>];
  s.scores = turn.scores;
  const Preparation<T> prepared(h);
  if (prepared.any) prepare_scores(s.scores, v, prepared);
  fold<T>(h, s, v, s.top + row, s.sum + row, factors);
  float* o = s.o + turn.tile * s.o_tile;
  if (v.hidden && !s.finite) return add_seen_values<T>(h, s, v, o, factors);
  Operands t = value_product<T>(h, s, v, s.values, o);
  t.factors = factors;
  add_values<T, Start::scaled>(h, t, v.vectors);
}

// A chunk of queries --------------------------------------------------------------------------------------------------

/// Packs a tile's queries and clears its state.
template <class T>
void begin_tile(const Forward<T>& f, const Scratch& s, const RowSpan& span, int64_t tile, int64_t head) {
  const Heads& h = f.h;
  for (int i = 0; span.first + i < span.last; i += W) {
    const T* rows[W];
    for (int r = 0; r < W; ++r) {
      const int64_t row = span.first + i + r;
      rows[r] = row < span.last ? f.q + row_index(h, span.token, row, head) * h.dim : nullptr;
    }
    pack_columns(rows, h.dim, row_tile<T>, s.q + tile * s.q_tile + i);
    store(s.top + tile * row_tile<T> + i, set1(nothing));
    store(s.sum + tile * row_tile<T> + i, zero());
  }
  std::memset(s.o + tile * s.o_tile, 0, static_cast<size_t>(s.o_tile) * sizeof(float));
}

/// Divides by the sums and writes the rows of a tile.
template <class T>
void end_tile(const Forward<T>& f, const Scratch& s, const RowSpan& span, int64_t tile, int64_t head) {
  const Heads& h = f.h;
  const float *top = s.top + tile * row_tile<T>, *sum = s.sum + tile * row_tile<T>, *o = s.o + tile * s.o_tile;
  const auto inverse = [&](int i) { return div(set1(1.0f), load(sum + i)); };
  store_columns<T>(h, o, span, inverse, [&](int64_t row) { return f.o + row_index(h, span.token, row, head) * h.dim; });
  for (int64_t r = 0; r < span.last - span.first; ++r) {
    f.lse[row_index(h, span.token, span.first + r, head)] =
        static_cast<float>(static_cast<double>(top[r]) * M_LN2 + std::log(static_cast<double>(sum[r])));
  }
}

/// Packs the values of a block's keys and tells whether they are finite.
template <class T>
bool pack_values(const Heads& h, const T* const* rows, int keys, float* to) {
  using Unit = typename Steps<T>::Unit;
  constexpr int per = Steps<T>::per;
  pack_steps(h, rows, keys, to);
  const int64_t row = by_tiles<T> ? block_steps<T> : h.padded, used = by_tiles<T> ? keys / per : h.padded;
  const int64_t count = by_tiles<T> ? h.padded : keys / per;
  V nought[2] = {zero(), zero()};
  for (int64_t i = 0; i < count; ++i, to += row) {
    for (int64_t x = 0; x < used; x += W) {
      V& sum = nought[x / W % 2];
      sum = multiply_add(Unit(), load(reinterpret_cast<const Unit*>(to + x)), zero(), sum);
    }
  }
  return sum_lanes(add(nought[0], nought[1])) == 0.0f;
}

/// Packs the keys and values of a block.
template <class T>
void pack_block(const Forward<T>& f, Scratch& s, const Segment& segment, int64_t block, int64_t high, int64_t head) {
  const Heads& h = f.h;
  const int64_t stride = h.kv_heads * h.dim;
  const T* rows[key_block];
  const int keys = block_rows(segment, block, high, f.k + head * h.dim, stride, rows);
  for (int j = 0; j < keys; ++j) pack_row(rows[j], h.dim, s.keys + j * s.key_row);
  block_rows(segment, block, high, f.v + head * h.dim, stride, rows);
  s.finite = pack_values(h, rows, keys, s.values);
}

/// One chunk of queries of one segment and one key/value head.
template <class T>
void forward_task(const Forward<T>& f, const Segment& segment, int64_t chunk, int64_t head, float* scratch) {
  const Heads& h = f.h;
  Scratch s;
  lay_out<T>(h, f.chunk * h.group, scratch, s);
  const TilesFor<T> tiles;
  const int64_t token = segment.start + chunk * f.chunk, end = at_most(segment.end, token + f.chunk);
  const int64_t rows = (end - token) * h.group;
  const auto for_tiles = [&](auto&& body) {
    for (int64_t row = 0; row < rows; row += row_tile<T>) {
      body(RowSpan{token, row, at_most(rows, row + row_tile<T>)}, row / row_tile<T>);
    }
  };
  for_tiles([&](const RowSpan& span, int64_t tile) { begin_tile(f, s, span, tile, head); });
  for_blocks(h, segment, token, end, [&](int64_t block) {
    pack_block(f, s, segment, block, segment.high(end - 1), head);
    Turn<T> turns[1 + ahead<T>];
    int64_t scored = 0, finished = 0;
    const auto turn = [&](int64_t i) -> Turn<T>& { return turns[i % (1 + ahead<T>)]; };
    for_tiles([&](const RowSpan& span, int64_t tile) {
      Turn<T>& t = turn(scored);
      t = {look<T>(h, segment, span, block), tile, s.scores + scored % (1 + ahead<T>) * key_block * row_tile<T>};
      if (t.v.limit == 0) return;
      score_tile(h, s, t);
      if (++scored - finished > ahead<T>) finish_tile(h, s, turn(finished++));
    });
    while (finished < scored) finish_tile(h, s, turn(finished++));
  });
  for_tiles([&](const RowSpan& span, int64_t tile) { end_tile(f, s, span, tile, head); });
}

template <class T>
Status run_forward(const Call& c, const Heads& h, int64_t count) {
  Forward<T> f = {};
  f.h = h;
  f.count = count;
  f.q = c.t[0].as<T>();
  f.k = c.t[1].as<T>();
  f.v = c.t[2].as<T>();
  f.o = c.t[4].as<T>();
  f.lse = c.t[5].as<float>();
  // Packing values for tiles costs more: more rows share it.
  f.chunk = chunk_tokens(f.h) * (by_tiles<T> ? 2 : 1);
  Scratch sizes;
  f.worker_floats = lay_out<T>(f.h, f.chunk * f.h.group, nullptr, sizes);
  const int64_t list_bytes = round_up(f.count * static_cast<int64_t>(sizeof(Segment)), 64);
  char* scratch = static_cast<char*>(c.rt->scratch(list_bytes + c.rt->threads() * f.worker_floats * 4));
  WS_CHECK(scratch != nullptr, oom, "no memory for %lld bytes of scratch",
           static_cast<long long>(list_bytes + c.rt->threads() * f.worker_floats * 4));
  f.segments = reinterpret_cast<Segment*>(scratch);
  f.scratch = reinterpret_cast<float*>(scratch + list_bytes);
  WS_TRY(read_segments(c.t[3], f.h.tokens, f.segments, f.count));
  const auto chunks = [&](const Segment& s) { return s.chunks(f.chunk); };
  const int64_t tasks = number_tasks(f.segments, f.count, f.h.kv_heads, chunks);
  // From the end, because late chunks of a long segment are the most work.
  parallel_for(*c.rt, tasks, [&](int64_t task, int worker) {
    const Segment& segment = segment_of_task(f.segments, f.count, tasks - 1 - task);
    const int64_t local = tasks - 1 - task - segment.first_task;
    forward_task(f, segment, local / f.h.kv_heads, local % f.h.kv_heads, f.scratch + worker * f.worker_floats);
  });
  return {};
}

// Rope ---------------------------------------------------------------------------------------------------------------

/// The angles of one token.
struct Rotation {
  const float *cosines, *sines;
  int64_t half;
  V sign;
};

/// One head's row: the first 2 * half elements are rotated, the rest is copied.
template <class T>
void rotate_row(const Rotation& r, const T* x, int64_t dim, T* y) {
  for_vectors(0, r.half, [&](int64_t j, auto lanes) {
    const V a = load(x + j, lanes), b = load(x + j + r.half, lanes);
    const V cosine = load(r.cosines + j, lanes), sine = mul(load(r.sines + j, lanes), r.sign);
    store(y + j, sub(mul(a, cosine), mul(b, sine)), lanes);
    store(y + j + r.half, add(mul(b, cosine), mul(a, sine)), lanes);
  });
  if (dim > 2 * r.half) std::memcpy(y + 2 * r.half, x + 2 * r.half, static_cast<size_t>(dim - 2 * r.half) * sizeof(T));
}

template <class T>
void run_rope(const Call& c, float sign) {
  const View& x = c.t[0];
  const int64_t heads = x.dims[1], dim = x.dims[2], half = c.t[1].dims[1];
  for_rows(*c.rt, x.dims[0], heads * dim, [&](int64_t i) {
    const int64_t place = c.t[3].as<int32_t>()[i] * half;
    const Rotation r = {c.t[1].as<float>() + place, c.t[2].as<float>() + place, half, set1(sign)};
    for (int64_t row = i * heads; row < (i + 1) * heads; ++row) {
      rotate_row(r, x.as<T>() + row * dim, dim, c.t[4].as<T>() + row * dim);
    }
  });
}

}  // namespace

/// o = softmax(mask(softcap(scale q k^T))) v and lse, its natural log-sum-exp. q [N,H,D], k and v [N,G,D],
/// visibility [N,3], o [N,H,D], lse [N,H].
/// FLOPs 4 D per visible pair and head; bytes: each operand once, keys and values once more per chunk of queries.
/// Tolerance against f64: 1e-6 (f32) or one rounding of o (bf16) relative to max |v|. Keep the order of attention.h:
/// attention_decode and a later packing must give the same bits.
Status attention(const Call& c) {
  const View &q = c.t[0], &k = c.t[1], &v = c.t[2], &lse = c.t[5];
  Heads h = {};
  WS_TRY(read_heads(c, q, k, h));
  WS_TRY(same_shape(v, "v", k, "k"));
  WS_TRY(same_shape(c.t[4], "o", q, "q"));
  WS_CHECK(lse.rank == 2 && lse.dims[0] == h.tokens && lse.dims[1] == h.heads, shape, "lse: expected [%lld, %lld]",
           static_cast<long long>(h.tokens), static_cast<long long>(h.heads));
  int64_t count = 0;
  WS_TRY(count_segments(c.t[3], h.tokens, count));
  return q.dtype == DType::f32 ? run_forward<float>(c, h, count) : run_forward<bf16>(c, h, count);
}

/// Rotary positions, half-split layout: with h = columns of cos, y[j] = x[j] cos_j - x[j+h] sin_j and
/// y[j+h] = x[j+h] cos_j + x[j] sin_j for j < h; elements from 2h on are copied. x [N,H,D], cos and sin [P,h],
/// positions [N]. inverse negates the sines: the transpose of the rotation, hence the gradient.
Status rope(const Call& c) {
  const View &x = c.t[0], &cosines = c.t[1], &positions = c.t[3];
  WS_CHECK(x.rank == 3, shape, "x: expected [tokens, heads, size], got %s", shape_text(x).text);
  WS_TRY(same_shape(c.t[4], "y", x, "x"));
  WS_CHECK(cosines.rank == 2 && 2 * cosines.dims[1] <= x.dims[2], shape,
           "cos: expected [positions, at most %lld], got %s", static_cast<long long>(x.dims[2] / 2),
           shape_text(cosines).text);
  WS_TRY(same_shape(c.t[2], "sin", cosines, "cos"));
  WS_TRY(vector_of(positions, "positions", x.dims[0]));
  for (int64_t i = 0; i < x.dims[0]; ++i) {
    const int64_t position = positions.as<int32_t>()[i];
    WS_CHECK(position >= 0 && position < cosines.dims[0], shape, "positions[%lld]: expected 0 to %lld, got %lld",
             static_cast<long long>(i), static_cast<long long>(cosines.dims[0] - 1), static_cast<long long>(position));
  }
  const float sign = c.p[0] != 0 ? -1.0f : 1.0f;
  if (x.dtype == DType::f32) run_rope<float>(c, sign);
  else run_rope<bf16>(c, sign);
  return {};
}

}  // namespace ws::WS_NS
