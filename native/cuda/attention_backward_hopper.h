// Gradient of attention on sm_90a, for bf16, in the two kernels of attention_backward.cu with the parts of
// attention_hopper.h. dQ: rows are queries, and blocks of keys and values pass by. dK and dV: rows are 64 keys, and the
// queries that see them pass by in chunks of 64 rows (tokens x heads of a group), counted from their segment's first; one
// warpgroup makes dV, the other dK, for which it takes the products of do and values too. Included by kernel files only.
#pragma once
#include "attention_gradients.h"
#include "attention_hopper.h"

namespace ws::cuda {

struct TiledGradients {
  KeyMaps maps;
  AttentionGradients a;
};

template <int D>
constexpr int gradient_columns = D <= 128 ? D : D / 2;  // of dK and dV that a block makes

#if WS_HOPPER

/// The areas of a group are queries and do.
template <int D>
using WideQueries = WideTile<D, D <= 128 ? 2 : 1, (D <= 64 ? 6 : D <= 128 ? 4 : 2), false, 2>;

/// The first group's area is keys, the second's values; parts are queries and do, with lse log2 e and delta of their rows.
template <int D>
using WideKeys = WideTile<D, 2, (D <= 64 ? 6 : D <= 128 ? 4 : 2), false>;

// dQ -----------------------------------------------------------------------------------------------------------------

/// A group's rows of one segment in the tile.
template <int D>
WS_DEVICE void add_keys(const AttentionGradients& a, const Segment& segment, const QueryRows& q,
                        Parts<WideQueries<D>>& parts) {
  using S = WideQueries<D>;
  const Heads& h = a.h;
  const GroupRows rows = packed_rows(segment, q, h.window);
  const int first = own_group() * group_rows, begin = segment.low(q.token, h.window) / wide_block;
  const int end = (segment.high(q.token_of(q.rows - 1)) + wide_block - 1) / wide_block;
  if (rows.begin == rows.end) return pass_blocks<S, Asked::keys>(rows, begin, end, parts);
  const auto offset_of = [&](int row) { return query_offset(q, h, first + row); };
  stage_strip<S>(static_cast<const bf16*>(a.q), h.dim, offset_of, own_area<S>(0));
  stage_strip<S>(static_cast<const bf16*>(a.dout), h.dim, offset_of, own_area<S>(1));
  await_strips<S>();
  Queries<D, false> queries, douts;
  queries.read(own_area<S>(0));
  douts.read(own_area<S>(1));
  const int own = first + warp() % 4 * strip;
  Two row[2];  // lse log2 e and delta of this lane's rows
  for (int half = 0; half < 2; ++half) {
    const int64_t at = q.index(at_most(own + lane() / 4 + 8 * half, q.rows - 1), h.heads);
    row[half] = {{a.lse[at] * log2_e, a.delta[at]}};
  }
  pass_blocks<S, Asked::keys>(rows, begin, rows.begin, parts);
  float sums[D / 8][4] = {};
  for (int block = rows.begin; block < rows.end; ++block) {
    float s[8][4], ds[8][4];
    uint32_t p[4][4];
    char* keys = parts.keys.memory();
    wait(parts.keys.full(), parts.keys.parity);
    start_scores<false>(queries, keys, s);
    wait(parts.values.full(), parts.values.parity);
    start_scores<false>(douts, parts.values.memory(), ds);
    group_wait<0>(flat(s), flat(ds));
    parts.release(parts.values);
    const bool mixed = rows.mixed(block);
    const Seen seen = rows.seen(block);
    differentiate(h, s, ds, mixed, seen, [&](int, int e) { return row[e / 2]; });
    pack_block(ds, p);
    if (mixed && is_strange<S>(keys)) {
      add_strange_part(p, keys, seen, sums);
      clean_part<S>(keys);
    }
    start_output<D>(p, keys, sums);
    group_wait<0>(flat(sums));
    parts.release(parts.keys);
  }
  const float factor[2] = {h.scale, h.scale};
  free_strips<S>();
  store_strip<S>(sums, factor, rows.here, h.dim, [&](int i) {
    return static_cast<bf16*>(a.dq) + q.index(own + i, h.heads) * h.dim;
  });
  pass_blocks<S, Asked::keys>(rows, rows.end, end, parts);
}

/// f(segment, its rows in the tile, key/value head) for every segment of a tile of query rows.
template <class F>
WS_DEVICE void each_planned(const AttentionGradients& a, int rows, F f) {
  const int tokens = at_least(1, rows / a.members);
  const int first = (blocks().x - 1 - block().x) * tokens, end = at_most(a.h.tokens, first + tokens);
  const int kv_head = block().y / a.parts, member = block().y % a.parts * a.members;
  const int members = at_most(a.members, a.h.group - member);
  for (int token = first; token < end;) {
    const Planned& own = a.plan.segments[a.plan.segment_of[token]];
    const int stop = at_most(end, own.end);
    const QueryRows q = {token, kv_head * a.h.group + member, members, (stop - token) * members};
    f(own.segment, q, kv_head);
    token = stop;
  }
}

/// Grid: as of attend_tokens().
template <int D>
WS_DEVICE void backward_queries_widely(const TiledGradients& t) {
  using S = WideQueries<D>;
  const AttentionGradients& a = t.a;
  if (*a.plan.good == 0) return;
  open_ring<S>();
  if (warp() < 4) {
    if constexpr (S::groups == 2) fewer_registers<56>();
    Loader<S> loader;
    each_planned(a, S::rows, [&](const Segment& segment, const QueryRows& q, int kv_head) {
      load_blocks(t.maps, keys_of(a.h, a.k, a.v, kv_head, segment, q), segment, a.h.dim, loader);
    });
    loader.finish();
  } else {
    if constexpr (S::groups == 2) more_registers<224>();
    Parts<S> parts;
    each_planned(a, S::rows, [&](const Segment& segment, const QueryRows& q, int) {
      add_keys<D>(a, segment, q, parts);
    });
  }
}

// dK, dV -------------------------------------------------------------------------------------------------------------

/// Rows of queries and of do in chunks.
template <class S>
WS_DEVICE void load_chunks(const AttentionGradients& a, const QuerySpan& m, Loader<S>& loader) {
  for (int base = m.begin / group_rows * group_rows; base < m.end; base += group_rows) {
    const int stage = loader.next.at / 2;
    for (int which = 0; which < 2; ++which) {
      loader.copy([&](char* to) {
        stage_pieces<bf16, S::size, group_threads, 1>(
            {static_cast<const bf16*>(which == 0 ? a.q : a.dout)}, thread(), group_rows, a.h.dim,
            [&](int row) { return query_offset(m.q, a.h, base + row); },
            [=](int, int row, int piece) { return in_boxes(to, row, piece); });
        if (which != 0 || thread() >= group_rows) return;
        Two pair = {{0.0f, 0.0f}};
        if (base + thread() < m.q.rows) {
          const int64_t at = m.q.index(base + thread(), a.h.heads);
          pair = {{a.lse[at] * log2_e, a.delta[at]}};
        }
        reinterpret_cast<Two*>(shared() + S::pairs)[stage * group_rows + thread()] = pair;
      });
    }
  }
}

/// Products of keys with queries become probabilities, 0 where nothing is seen, whatever lse is there.
template <int n, class F>
WS_DEVICE void soften_products(const Heads& h, float (&s)[n][4], bool mixed, const Seen& seen, F of) {
  score(h, s);
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) {
      const bool hidden = mixed && !seen.sees(e / 2, 8 * j + lane() % 4 * 2 + e % 2);
      s[j][e] = hidden ? 0.0f : fast_exp2(s[j][e] - of(j, e).at[0]);
    }
  }
}

/// Adds what the queries of one segment give to the keys of the tile: dK, or else dV. Keys of a prefix that end inside the
/// tile are followed by others, which nobody in the segment sees.
template <int D, bool to_keys>
WS_DEVICE void add_queries(const AttentionGradients& a, const Planned& own, const KeyTile& tile, bool shared_keys,
                           Parts<WideKeys<D>>& parts, float (&sums)[gradient_columns<D> / 8][4]) {
  using S = WideKeys<D>;
  const Heads& h = a.h;
  const QuerySpan m = span_of(h, own, tile, shared_keys);
  const Seen all = rows_that_see(h, own, tile, shared_keys, tile.first + warp() % 4 * strip);
  const int origin = shared_keys ? own.segment.p1 : own.segment.start, length = own.end - own.segment.start;
  const int seen_end = shared_keys ? at_most(tile.end, own.segment.p1) : tile.end;
  const int window = h.window > 0 ? at_most(h.window, h.tokens) : h.tokens;
  const int low_all = at_least(0, seen_end - 1 - origin) * h.group;  // what all keys are seen by
  const int high_all = seen_end < tile.end ? 0 : at_least(0, at_most(length, tile.first - origin + window)) * h.group;
  Queries<D, false> keys, values;
  keys.read(shared() + S::areas);
  values.read(shared() + S::areas + S::part_bytes);
  const int first_box = block().z * (gradient_columns<D> / box_elements) * box_bytes;
  for (int base = m.begin / group_rows * group_rows; base < m.end; base += group_rows) {
    float s[8][4], ds[8][4];
    uint32_t p[4][4];
    char *queries = parts.keys.memory(), *douts = parts.values.memory();
    const char* pairs = shared() + S::pairs + parts.keys.at / 2 * group_rows * 8 + lane() % 4 * 16;
    const auto of = [&](int j, int e) { return two_of(pairs + j * 64 + e % 2 * 8); };
    const Seen seen = {{all.low[0] - base, all.low[1] - base}, {all.high[0] - base, all.high[1] - base}};
    const bool mixed = base < low_all || base + group_rows > high_all;
    wait(parts.keys.full(), parts.keys.parity);
    start_scores<false>(keys, queries, s);
    wait(parts.values.full(), parts.values.parity);
    if constexpr (to_keys) {
      start_scores<false>(values, douts, ds);
      group_wait<0>(flat(s), flat(ds));
      differentiate(h, s, ds, mixed, seen, of);
      pack_block(ds, p);
    } else {
      group_wait<0>(flat(s));
      soften_products(h, s, mixed, seen, of);
      pack_block(s, p);
    }
    if (mixed) {
      for (int which = 0; which < 2; ++which) {
        char* part = which == 0 ? queries : douts;
        if (!is_strange<S>(part)) continue;
        if (to_keys == (which == 0)) add_strange_part(p, part + first_box, seen, sums);
        clean_part<S>(part);
      }
    }
    start_output<gradient_columns<D>>(p, (to_keys ? queries : douts) + first_box, sums);
    group_wait<0>(flat(sums));
    parts.release(parts.keys);
    parts.release(parts.values);
  }
}

/// A group's gradient of a tile's keys.
template <int D, bool to_keys>
WS_DEVICE void key_gradients_widely(const AttentionGradients& a, int index, const KeyTile& tile,
                                    Parts<WideKeys<D>>& parts) {
  using S = WideKeys<D>;
  const Heads& h = a.h;
  stage_strip<S>(static_cast<const bf16*>(to_keys ? a.v : a.k), h.dim, [&](int row) {
    const int64_t key = tile.first + row;
    return key < tile.end ? (key * h.kv_heads + tile.kv_head) * h.dim : int64_t{-1};
  }, own_area<S>());
  copy_wait<0>();
  async_fence();
  rows_barrier<S>();
  float sums[gradient_columns<D> / 8][4] = {};
  each_viewer(a, index, tile, [&](const Planned& own, bool shared_keys) {
    add_queries<D, to_keys>(a, own, tile, shared_keys, parts, sums);
  });
  rows_barrier<S>();  // keys and values have been read by all
  const float factor[2] = {to_keys ? h.scale : 1.0f, to_keys ? h.scale : 1.0f};
  const int first = tile.first + warp() % 4 * strip, column = block().z * gradient_columns<D>;
  store_strip<S>(sums, factor, at_most(strip, tile.end - first), h.dim - column, [&](int row) {
    const int64_t key = first + row;
    return static_cast<bf16*>(to_keys ? a.dk : a.dv) + (key * h.kv_heads + tile.kv_head) * h.dim + column;
  });
}

/// Grid: tiles of 64 tokens, key/value heads, parts of the columns.
template <int D>
WS_DEVICE void backward_keys_widely(const AttentionGradients& a) {
  using S = WideKeys<D>;
  if (*a.plan.good == 0) return;
  const int first = block().x * group_rows, end = at_most(a.h.tokens, first + group_rows);
  const auto each_tile = [&](auto f) {
    for (int token = first; token < end;) {
      const int index = a.plan.segment_of[token], stop = at_most(end, a.plan.segments[index].end);
      f(index, KeyTile{token, stop, block().y});
      token = stop;
    }
  };
  open_ring<S>();
  if (warp() < 4) {
    fewer_registers<56>();
    Loader<S> loader;
    each_tile([&](int index, const KeyTile& tile) {
      each_viewer(a, index, tile, [&](const Planned& own, bool shared_keys) {
        load_chunks(a, span_of(a.h, own, tile, shared_keys), loader);
      });
    });
    loader.finish();
    return;
  }
  more_registers<224>();
  Parts<S> parts;
  if (own_group() == 0)
    each_tile([&](int index, const KeyTile& tile) { key_gradients_widely<D, false>(a, index, tile, parts); });
  else each_tile([&](int index, const KeyTile& tile) { key_gradients_widely<D, true>(a, index, tile, parts); });
}

#endif

}  // namespace ws::cuda
