// Attention on sm_90a, for bf16: what forward and decode share. Four warps bring keys and values into a ring of parts of
// shared memory, by tile loads (TMA) or by copies; warpgroups of 64 query rows multiply them (wgmma), with the products of
// the next block's keys under way while this one's probabilities are made and the last one's values are multiplied.
//
// The order of arithmetic, which training and decode have in common bit for bit: as in attention.h, splits too, but keys
// are taken in blocks of 64 LOGICAL positions, of which a lane adds sixteen probabilities. Included by kernel files only.
#pragma once
#include "attention.h"

namespace ws::cuda {

/// Maps of keys and values, if they have any.
struct KeyMaps {
  TensorMap k, v;
  int32_t tiled;
};

}  // namespace ws::cuda

#if WS_HOPPER

namespace ws::cuda {

constexpr int wide_block = 64;                       // keys of a block
constexpr int group_rows = 64, group_threads = 128;  // of a warpgroup

/// A block whose first warpgroup loads and whose other `groups` multiply. A part is 64 rows of D elements as boxes (see
/// tensor_map.h): keys or values of a block, in turn. Behind the parts lie the groups' own areas, gates, flags, and two
/// numbers for each row of a stage. Up to `travelling` parts are copied at once.
template <int D, int group_count, int stage_count, bool queries_held = D <= 128, int own_areas = 1,
          int most_travelling = 2 * stage_count - 2>
struct WideTile {
  static constexpr bool whole_boxes = D % box_elements == 0;
  static constexpr int size = D, groups = group_count, rows = groups * group_rows, threads = (groups + 1) * group_threads;
  static constexpr bool held = queries_held;  // queries stay in registers
  static constexpr int stages = stage_count, parts = 2 * stages, travelling = most_travelling;
  static constexpr int part_bytes = (D + box_elements - 1) / box_elements * box_bytes;
  static constexpr int own = own_areas, areas = parts * part_bytes, gates = areas + groups * own * part_bytes;
  static constexpr int flags = gates + 2 * parts * static_cast<int>(sizeof(Gate)), pairs = flags + groups * 4 * 4;
  static constexpr int shared_bytes = pairs, shared_bytes_with_pairs = pairs + stages * group_rows * 8;
};

/// Where a piece of 16 bytes of a row is in boxes.
WS_DEVICE char* in_boxes(char* boxes, int row, int piece) {
  return boxes + piece / 8 * box_bytes + row * 128 + ((piece ^ row) & 7) * 16;
}
WS_DEVICE const char* in_boxes(const char* boxes, int row, int piece) {
  return in_boxes(const_cast<char*>(boxes), row, piece);
}

template <int n>
WS_DEVICE float (&flat(float (&s)[n][4]))[4 * n] {
  return reinterpret_cast<float(&)[4 * n]>(s);
}

/// Warpgroups of rows count from 0. A barrier of one, and of all.
WS_DEVICE int own_group() { return warp() / 4 - 1; }
WS_DEVICE void group_barrier() { barrier(warp() / 4, group_threads); }
template <class S>
WS_DEVICE void rows_barrier() {
  barrier(S::groups + 1, S::groups * group_threads);
}

// The ring -----------------------------------------------------------------------------------------------------------

/// A part in turn; its parity changes with every round.
template <class S>
struct Part {
  int at, parity;
  WS_DEVICE void step(int by) {
    at += by;
    if (at >= S::parts) at -= S::parts, parity ^= 1;
  }
  WS_DEVICE char* memory() const { return shared() + at * S::part_bytes; }
  WS_DEVICE Gate* full() const { return reinterpret_cast<Gate*>(shared() + S::gates) + at; }
  WS_DEVICE Gate* empty() const { return full() + S::parts; }
};

/// By all threads of a block, before they part.
template <class S>
WS_DEVICE void open_ring() {
  if (thread() == 0) {
    for (Part<S> part = {0, 0}; part.parity == 0; part.step(1))
      open_gate(part.full(), 4), open_gate(part.empty(), 4 * S::groups);
    show_gates();
  }
  barrier();
}

/// What the loading warps do. A part that is copied is told of when later ones are on their way: at most so many that
/// nobody waits for a part that is untold before giving back the one that is waited for.
template <class S>
struct Loader {
  Part<S> next = {0, 0}, late = {0, 0};
  int untold = 0;

  WS_DEVICE void tell() {
    async_fence();
    warp_barrier();
    if (lane() == 0) arrive(late.full());
    late.step(1);
    --untold;
  }
  WS_DEVICE void finish() {
    copy_wait<0>();
    while (untold > 0) tell();
  }
  /// f(memory) copies a part, with all four warps.
  template <class F>
  WS_DEVICE void copy(F f) {
    wait(next.empty(), next.parity ^ 1);
    f(next.memory());
    copy_commit();
    next.step(1);
    if (++untold <= S::travelling) return;
    copy_wait<S::travelling>();
    tell();
  }
  /// A part by tile loads: the 64 lines from `line` on, from column `column` on.
  WS_DEVICE void tiles(const TensorMap& map, int column, int line) {
    finish();
    wait(next.empty(), next.parity ^ 1);
    if (thread() == 0) {
      expect(next.full(), S::part_bytes);
      for (int i = 0; i < S::size / box_elements; ++i)
        load_tile(next.memory() + i * box_bytes, &map, column + i * box_elements, line, next.full());
    } else if (lane() == 0) {
      arrive(next.full());
    }
    next.step(1);
    late.step(1);
  }
};

/// What the multiplying warps know of the ring.
template <class S>
struct Parts {
  Part<S> keys = {0, 0}, values = {1, 0};

  WS_DEVICE void release(Part<S>& part) {
    if (lane() == 0) arrive(part.empty());
    part.step(2);
  }
};

/// Keys and values of the blocks that a tile's rows of one segment see. A block whose visible positions are tokens in a
/// row comes by tile loads, with whatever lies around them; others by copies, with zeros.
template <class S>
WS_DEVICE void load_blocks(const KeyMaps& maps, const PackedKeys& keys, const Segment& segment, int dim,
                           Loader<S>& loader) {
  for (int base = keys.low / wide_block * wide_block; base < keys.high; base += wide_block) {
    const int first = at_least(base, keys.low), last = at_most(base + wide_block, keys.high) - 1;
    const bool tiled = S::whole_boxes && maps.tiled != 0 && segment.token(last) - segment.token(first) == last - first;
    for (int which = 0; which < 2; ++which) {
      if (tiled) {
        loader.tiles(which == 0 ? maps.k : maps.v, keys.offset, segment.token(first) - (first - base));
        continue;
      }
      const bf16* from = static_cast<const bf16*>(which == 0 ? keys.k : keys.v) + keys.offset;
      loader.copy([&](char* to) {
        stage_pieces<bf16, S::size, group_threads, 1>({from}, thread(), wide_block, dim, [&](int row) {
          const int position = base + row;
          const bool seen = position >= keys.low && position < keys.high;
          return seen ? static_cast<int64_t>(segment.token(position)) * keys.stride : int64_t{-1};
        }, [=](int, int row, int piece) { return in_boxes(to, row, piece); });
      });
    }
  }
}

// Rows ---------------------------------------------------------------------------------------------------------------

/// What the rows of a warpgroup see, as logical positions; rows behind the last one repeat it, and are not stored.
struct GroupRows {
  int here;               // rows of this warp
  int low[2], high[2];    // of this lane's two rows
  int begin, end;         // blocks that any row meets
  int low_all, high_all;  // what all rows of the tile see
  WS_DEVICE bool mixed(int block) const {
    return block * wide_block < low_all || (block + 1) * wide_block > high_all;
  }
  WS_DEVICE Seen seen(int block) const {
    const int base = block * wide_block;
    return {{low[0] - base, low[1] - base}, {high[0] - base, high[1] - base}};
  }
};

/// A group's rows of a tile of packed tokens; none: it meets no block.
WS_DEVICE GroupRows packed_rows(const Segment& segment, const QueryRows& q, int window) {
  GroupRows rows = {};
  rows.low_all = segment.low(q.token_of(q.rows - 1), window);
  rows.high_all = segment.high(q.token);
  const int first = own_group() * group_rows, last = at_most(first + group_rows, q.rows) - 1;
  if (first > last) return rows;
  rows.here = at_most(strip, at_least(0, q.rows - first - warp() % 4 * strip));
  for (int half = 0; half < 2; ++half) {
    const int query = q.token_of(at_most(first + warp() % 4 * strip + lane() / 4 + 8 * half, last));
    rows.low[half] = segment.low(query, window);
    rows.high[half] = segment.high(query);
  }
  rows.begin = segment.low(q.token_of(first), window) / wide_block;
  rows.end = (segment.high(q.token_of(last)) + wide_block - 1) / wide_block;
  return rows;
}

/// The group's 64 query rows in its area, or as fragments.
template <int D, bool held>
struct Queries {
  uint64_t panel;  // of the first step
  WS_DEVICE void read(const char* area) { panel = Panel<false>::at(area, 0); }
  template <bool across>
  WS_DEVICE void multiply(int step, uint64_t keys, float (&s)[32]) const {
    const uint32_t offset = (step / 4 * box_bytes + step % 4 * 32) >> 4, low = static_cast<uint32_t>(panel);
    const uint64_t own = (panel & ~uint64_t{0xffffffff}) | (computed_anew(low) + offset);
    group_multiply<64, false, across>(s, own, keys, step > 0);
  }
};
template <int D>
struct Queries<D, true> {
  uint32_t at[D / 16][4];
  WS_DEVICE void read(const char* from) {
    WS_UNROLL
    for (int step = 0; step < D / 16; ++step)
      load_matrix4(at[step], in_boxes(from, warp() % 4 * strip + lane() % 16, 2 * step + lane() / 16));
  }
  template <bool across>
  WS_DEVICE void multiply(int step, uint64_t keys, float (&s)[32]) const {
    group_multiply<64, across>(s, at[step], keys, step > 0);
  }
};

template <class S>
WS_DEVICE char* own_area(int which = 0) {
  return shared() + S::areas + (own_group() * S::own + which) * S::part_bytes;
}

/// Rows to an area, each warp its own, and then from there to registers or for wgmma to read.
template <class S, class F>
WS_DEVICE void stage_strip(const bf16* from, int dim, F offset_of, char* area) {
  const int first = warp() % 4 * strip;
  stage_pieces<bf16, S::size, warp_size, 4>({from}, lane(), strip, dim, [&](int row) { return offset_of(first + row); },
                                            [&](int, int row, int piece) { return in_boxes(area, first + row, piece); });
  copy_commit();
}
template <class S>
WS_DEVICE void await_strips() {
  copy_wait<0>();
  if constexpr (S::held) {
    warp_barrier();
  } else {
    async_fence();
    group_barrier();
  }
}

/// Before an area is written anew: its rows have been read.
template <class S>
WS_DEVICE void free_strips() {
  if constexpr (S::held) warp_barrier();
  else group_barrier();
}

/// The warp's rows of n x 8 columns, times a factor each, by way of the group's area, which nobody reads any more. The next
/// segment's queries need no wait: sizes are powers of two, so that a lane brings the pieces that it has read here.
template <class S, int n, class F>
WS_DEVICE void store_strip(const float (&o)[n][4], const float (&factor)[2], int here, int dim, F row_of) {
  char* area = own_area<S>();
  const int first = warp() % 4 * strip;
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int half = 0; half < 2; ++half) {
      char* at = in_boxes(area, first + lane() / 4 + 8 * half, j) + lane() % 4 * 4;
      *reinterpret_cast<uint32_t*>(at) = pack_bf16(o[j][2 * half] * factor[half], o[j][2 * half + 1] * factor[half]);
    }
  }
  warp_barrier();
  store_pieces<bf16, n>(here, dim, lane(), warp_size,
                        [&](int row, int piece) { return in_boxes(area, first + row, piece); }, row_of);
}

// Products -----------------------------------------------------------------------------------------------------------

/// Starts s = queries x keys; keys lie along D, or across it.
template <bool across, int D, bool held>
WS_DEVICE void start_scores(const Queries<D, held>& queries, const char* keys, float (&s)[8][4]) {
  group_fence();
  WS_UNROLL
  for (int step = 0; step < D / 16; ++step) {
    const uint64_t panel =
        across ? Panel<true>::at(keys, step) : Panel<false>::at(keys + step / 4 * box_bytes, step % 4);
    queries.template multiply<across>(step, panel, flat(s));
  }
  group_commit();
}

/// Starts o += probabilities x values.
template <int D>
WS_DEVICE void start_output(uint32_t (&p)[4][4], const char* values, float (&o)[D / 8][4]) {
  if constexpr (D <= 128) group_fence(flat(o), p);
  else group_fence(flat(o));  // no register is left to name the fragments; ptxas would warn if they came late
  WS_UNROLL
  for (int step = 0; step < 4; ++step) group_multiply<D, true>(flat(o), p[step], Panel<true>::at(values, step), true);
  group_commit();
}

/// Probabilities of a block, rounded, as fragments.
WS_DEVICE void pack_block(const float (&s)[8][4], uint32_t (&p)[4][4]) {
  WS_UNROLL
  for (int step = 0; step < 4; ++step) {
    WS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float(&from)[4] = s[2 * step + i / 2];
      p[step][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
  }
}

// Infinities and NaN -------------------------------------------------------------------------------------------------

/// Some bit of 0x80008000 is set when one of the two numbers is not finite.
WS_DEVICE uint32_t odd_bits(uint32_t pair) { return (pair & 0x7f807f80u) + 0x00800080u; }

/// f(piece) for the pieces of a part, which the groups share.
template <class S, class F>
WS_DEVICE void each_piece_of(char* part, F f) {
  each_piece<1, S::size / 8, S::groups * group_threads>(thread() - group_threads, wide_block, [&](int row, int piece) {
    f(*reinterpret_cast<Quad*>(in_boxes(part, row, piece)));
  });
}

/// Does a part have numbers that are not finite? All groups ask, and hear the same.
template <class S>
WS_DEVICE bool is_strange(char* part) {
  uint32_t odd = 0;
  each_piece_of<S>(part, [&](const Quad& q) { odd |= odd_bits(q.x) | odd_bits(q.y) | odd_bits(q.z) | odd_bits(q.w); });
  const bool found = ballot((odd & 0x80008000u) != 0) != 0;
  int* flags = reinterpret_cast<int*>(shared() + S::flags);
  rows_barrier<S>();  // those of the last part have been read
  if (lane() == 0) flags[warp() - 4] = found;
  async_fence();  // a tile load may write where these reads were
  rows_barrier<S>();
  bool any = false;
  for (int i = 0; i < 4 * S::groups; ++i) any = any || flags[i] != 0;
  return any;
}

/// Zeros for infinities and NaN.
template <class S>
WS_DEVICE void clean_part(char* part) {
  rows_barrier<S>();  // they have been read by all
  each_piece_of<S>(part, [](Quad& q) {
    uint32_t b[4] = {q.x, q.y, q.z, q.w};
    clean(b);
    q = {b[0], b[1], b[2], b[3]};
  });
  async_fence();
  rows_barrier<S>();
}

/// p[i / 4][i % 4] for an i that is known at run time only.
WS_DEVICE uint32_t fragment_at(const uint32_t (&p)[4][4], int i) {
  uint32_t x = 0;
  WS_UNROLL
  for (int at = 0; at < 16; ++at) x = at == i ? p[at / 4][at % 4] : x;
  return x;
}

/// What is left out of a clean part: infinities and NaN reach those rows alone that see them.
template <int n>
WS_DEVICE void add_strange_part(const uint32_t (&p)[4][4], const char* part, const Seen& seen, float (&o)[n][4]) {
  WS_UNROLL_BY(1)
  for (int row = 0; row < wide_block; ++row) {
    const int from = (lane() & ~3) | (row % 8 / 2), at = row / 16 * 4 + row % 16 / 8 * 2;
    const uint32_t pairs[2] = {shuffle(fragment_at(p, at), from), shuffle(fragment_at(p, at + 1), from)};
    const float weight[2] = {row % 2 == 0 ? low_bf16(pairs[0]) : high_bf16(pairs[0]),
                             row % 2 == 0 ? low_bf16(pairs[1]) : high_bf16(pairs[1])};
    const bool sees[2] = {seen.sees(0, row), seen.sees(1, row)};
    WS_UNROLL
    for (int j = 0; j < n; ++j) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(in_boxes(part, row, j) + lane() % 4 * 4);
      const float x[2] = {low_bf16(pair), high_bf16(pair)};
      WS_UNROLL
      for (int e = 0; e < 4; ++e)
        if (sees[e / 2] && !finite_bits(e % 2 == 0 ? pair : pair >> 16)) o[j][e] += weight[e / 2] * x[e % 2];
    }
  }
}

// The walk -----------------------------------------------------------------------------------------------------------

/// Blocks of the tile that the group's rows do not meet. Other groups may ask of their keys or values. Keys are given back
/// before anybody asks of values: who asks may wait for the next block's keys first, which may need this place.
enum class Asked { keys, values };
template <class S, Asked asked>
WS_DEVICE void pass_blocks(const GroupRows& rows, int first, int end, Parts<S>& parts) {
  for (int block = first; block < end; ++block) {
    const auto pass = [&](Part<S>& part, bool asked_of) {
      wait(part.full(), part.parity);
      if (asked_of && rows.mixed(block) && is_strange<S>(part.memory())) clean_part<S>(part.memory());
      parts.release(part);
    };
    pass(parts.keys, asked == Asked::keys);
    pass(parts.values, asked == Asked::values);
  }
}

/// The blocks that the group's rows meet. `careful`: values that are hidden from a row may be anything, else they are
/// zeros.
template <class S, bool across, bool careful>
WS_DEVICE void attend_blocks(const Heads& h, const GroupRows& rows, Parts<S>& parts,
                             const Queries<S::size, S::held>& queries, Running& r, float (&o)[S::size / 8][4]) {
  float s[8][4], factor[2];
  uint32_t p[4][4];
  const auto start_keys = [&] {
    wait(parts.keys.full(), parts.keys.parity);
    start_scores<across>(queries, parts.keys.memory(), s);
  };
  const auto soften = [&](int block) {
    score(h, s);
    if (rows.mixed(block)) hide(s, rows.seen(block));
    fold(s, r, factor);
  };
  const auto multiply_values = [&](int block) {
    wait(parts.values.full(), parts.values.parity);
    char* values = parts.values.memory();
    if constexpr (careful) {
      if (rows.mixed(block) && is_strange<S>(values)) {
        add_strange_part(p, values, rows.seen(block), o);
        clean_part<S>(values);
      }
    }
    start_output<S::size>(p, values, o);
  };
  const auto next_scores = [&](int block) {
    start_keys();
    group_wait<0>(flat(s));
    parts.release(parts.keys);
    soften(block);
  };
  const auto finish_values = [&] {
    group_wait<0>(flat(o));
    parts.release(parts.values);
  };
  if constexpr (S::held) {
    next_scores(rows.begin);
    pack_block(s, p);
    for (int block = rows.begin + 1; block < rows.end; ++block) {
      start_keys();
      multiply_values(block - 1);
      group_wait<1>(flat(s));
      parts.release(parts.keys);
      soften(block);
      finish_values();
      rescale(o, factor);
      pack_block(s, p);
    }
    multiply_values(rows.end - 1);
    finish_values();
  } else {  // one after the other: there are no registers for scores beside probabilities
    for (int block = rows.begin; block < rows.end; ++block) {
      next_scores(block);
      rescale(o, factor);
      pack_block(s, p);
      multiply_values(block);
      finish_values();
    }
  }
}

}  // namespace ws::cuda

#endif

#if WS_HOST

namespace ws::cuda {

/// Maps of keys and values, where rows are whole boxes and lie as a map can say.
static inline Status map_keys(const View& k, const View& v, Launcher& on, KeyMaps& maps) {
  const int64_t tokens = k.dims[0], width = k.dims[1] * k.dims[2];
  const bool boxes = k.dims[2] == 64 || k.dims[2] == 128 || k.dims[2] == 256;
  if (tokens == 0 || !boxes || !aligned(k.data) || !aligned(v.data)) return {};
  maps.tiled = 1;
  WS_TRY(on.map_tiles({k.data, tokens, width, width}, maps.k));
  return on.map_tiles({v.data, tokens, width, width}, maps.v);
}

}  // namespace ws::cuda

#endif
