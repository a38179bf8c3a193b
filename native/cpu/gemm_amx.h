// The matrix product by tiles (amx.h): bf16 x bf16 at WS_LEVEL 5. Included by gemm.cpp only. Lines of the left operand
// are in tiles as they are in memory, lines of the right one are packed in pairs across. A register block is 2 x 2
// tiles of 16 x 16 sums. A block of k has 512 elements, so that a strip of 32 left lines (32 KB) stays in the
// first-level cache while the panels of the right operand pass through; sums wait in memory between blocks of k.
//
// What must stay: a sum starts from zero, or from C, and is taken over groups of 32 elements from k = 0, the last one
// filled up with zeros, one tile instruction each, in order. So its bits depend on k alone: not on m, n, its place, which
// operand is the left one (products commute), packing or threads. Unlike the chains of gemm_tile.h it cannot be cut between
// any two elements: calls that accumulate are one call where they are cut at multiples of 32 (Device::token_alignment).
#pragma once
#include "amx.h"
#include "gemm_pack.h"

namespace ws::WS_NS {
namespace {

constexpr int64_t group = 32, group_steps = 16;  // elements and pairs of one tile instruction
constexpr int64_t block_groups = 16;             // of a block of k
constexpr int64_t strip = 32;                    // lines of a register block, of either operand
constexpr int64_t sums_of_strip = strip * strip;
constexpr int64_t few_lines = 96;  // rows of A up to which B is the left operand, read in place

// The register block --------------------------------------------------------------------------------------------------

/// Strides in bytes.
struct TileRun {
  const char *left, *right;
  int64_t left_line, left_group, left_tile;  // from line to line, group to group, first tile of 16 lines to second
  int64_t right_step, right_group;           // from pair to pair; the second tile of 16 lines begins 64 bytes on
  int64_t groups;
  float* sums;       // 16 x 16 of the first tile of lines of each operand
  int64_t sum_row;   // from row to row
  int64_t sum_left, sum_right;  // floats to the sums of the second tile of the left, of the right operand
  bool start;        // from zero, not from the sums
  const char* next;  // what the next run reads in place, 1 KB of each of 32 lines; null: nothing to ask for
};

/// Asks for all that the next run reads of two lines: a long piece of one line comes faster than a bit of each.
[[gnu::always_inline]] inline void prefetch_next(const TileRun& t, int64_t turn) {
  for (int64_t line = 2 * turn; line < 2 * turn + 2; ++line) {
    for (int64_t i = 0; i < block_groups; ++i) __builtin_prefetch(t.next + line * t.left_line + 64 * i, 0, 2);
  }
}

/// L and R tiles of lines.
template <int L, int R>
void multiply_tiles(const TileRun& t) {
  WS_TILE_FENCE();
  if (t.start) {
    WS_TILE_ZERO(0);
    if constexpr (R > 1) WS_TILE_ZERO(1);
    if constexpr (L > 1) WS_TILE_ZERO(2);
    if constexpr (L > 1 && R > 1) WS_TILE_ZERO(3);
  } else {
    WS_TILE_LOAD(0, t.sums, t.sum_row);
    if constexpr (R > 1) WS_TILE_LOAD(1, t.sums + t.sum_right, t.sum_row);
    if constexpr (L > 1) WS_TILE_LOAD(2, t.sums + t.sum_left, t.sum_row);
    if constexpr (L > 1 && R > 1) WS_TILE_LOAD(3, t.sums + t.sum_left + t.sum_right, t.sum_row);
  }
  const char *left = t.left, *right = t.right;
  for (int64_t g = 0; g < t.groups; ++g, left += t.left_group, right += t.right_group) {
    WS_TILE_LOAD(4, left, t.left_line);
    WS_TILE_LOAD(6, right, t.right_step);
    WS_TILE_MULTIPLY(0, 4, 6);
    if constexpr (R > 1) {
      WS_TILE_LOAD(7, right + 64, t.right_step);
      WS_TILE_MULTIPLY(1, 4, 7);
    }
    if constexpr (L > 1) {
      WS_TILE_LOAD(5, left + t.left_tile, t.left_line);
      WS_TILE_MULTIPLY(2, 5, 6);
    }
    if constexpr (L > 1 && R > 1) WS_TILE_MULTIPLY(3, 5, 7);
    if (t.next) prefetch_next(t, g);
  }
  WS_TILE_STORE(0, t.sums, t.sum_row);
  if constexpr (R > 1) WS_TILE_STORE(1, t.sums + t.sum_right, t.sum_row);
  if constexpr (L > 1) WS_TILE_STORE(2, t.sums + t.sum_left, t.sum_row);
  if constexpr (L > 1 && R > 1) WS_TILE_STORE(3, t.sums + t.sum_left + t.sum_right, t.sum_row);
}

void multiply_strip(const TileRun& t, int64_t left_lines, int64_t right_lines) {
  if (left_lines > 16) {
    if (right_lines > 16) multiply_tiles<2, 2>(t);
    else multiply_tiles<2, 1>(t);
  } else {
    if (right_lines > 16) multiply_tiles<1, 2>(t);
    else multiply_tiles<1, 1>(t);
  }
}

/// Tiles of a thread, configured from its first strip to the end of its task. Rows follow the left lines that exist,
/// which makes short strips faster and keeps reads in place inside the matrix.
class TileState {
 public:
  ~TileState() {
    if (lines_ > 0) WS_TILE_RELEASE();
  }
  void expect(int64_t lines) {
    if (lines == lines_) return;
    lines_ = lines;
    const auto first = static_cast<uint8_t>(smaller(lines, 16)), second = static_cast<uint8_t>(lines - first);
    const uint8_t rows[] = {first, first, second, second, first, second, 16, 16};
    TileShapes shapes;
    for (int t = 0; t < 8; ++t) {
      shapes.rows[t] = rows[t];
      shapes.row_bytes[t] = rows[t] > 0 ? 64 : 0;
    }
    WS_TILE_SHAPES(shapes);
  }

 private:
  int64_t lines_ = 0;
};

// Packing the left operand --------------------------------------------------------------------------------------------

Lines part_of(const Lines& all, int64_t line, int64_t k) {
  return {static_cast<const bf16*>(all.data) + line * all.line_stride + k * all.stride, all.line_stride, all.stride,
          all.count - line};
}

bool lie_across(const Lines& lines) { return lines.line_stride == 1 && lines.stride != 1; }

/// 16 whole lines of one group that lie across: 32 rows of memory by 16 columns become 16 rows of 32. A vector has row i of
/// each eight, 8 columns of it, in its lanes of 128 bits; inside these, words, pairs and fours are interleaved. Half of the
/// shuffles that pairs of rows and a transposition of 32-bit units need: this is what packing costs.
void transpose_group(const bf16* at, int64_t stride, float* to) {
  const auto row = [&](int64_t i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + i * stride)); };
  for (int half = 0; half < 2; ++half, at += 8) {
    __m512i r[8], pairs_of[8], fours[8];
    WS_EACH(8) {
      r[i] = _mm512_inserti32x4(_mm512_castsi128_si512(row(i)), row(i + 8), 1);
      r[i] = _mm512_inserti32x4(_mm512_inserti32x4(r[i], row(i + 16), 2), row(i + 24), 3);
    }
    // pairs_of[2 i + h]: rows 2 i and 2 i + 1, columns 4 h .. 4 h + 3.
    WS_EACH(4) {
      pairs_of[2 * i] = _mm512_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
      pairs_of[2 * i + 1] = _mm512_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    // fours[4 q + c]: rows 4 q .. 4 q + 3, columns 2 c and 2 c + 1.
    WS_EACH(4) {
      const int q = i / 2, h = i % 2;
      fours[4 * q + 2 * h] = _mm512_unpacklo_epi32(pairs_of[4 * q + h], pairs_of[4 * q + 2 + h]);
      fours[4 * q + 2 * h + 1] = _mm512_unpackhi_epi32(pairs_of[4 * q + h], pairs_of[4 * q + 2 + h]);
    }
    WS_EACH(4) {
      store(to + 16 * (8 * half + 2 * i), pairs(_mm512_unpacklo_epi64(fours[i], fours[4 + i])));
      store(to + 16 * (8 * half + 2 * i + 1), pairs(_mm512_unpackhi_epi64(fours[i], fours[4 + i])));
    }
  }
}

/// Up to 16 lines of one group as they lie in a tile; elements and lines that do not exist are zero.
void pack_left_tile(const Lines& from, int64_t lines, int64_t elements, float* to) {
  V r[16];
  const auto* data = static_cast<const bf16*>(from.data);
  if (lie_across(from) && lines == 16 && elements == group) return transpose_group(data, from.stride, to);
  if (lie_across(from)) {
    for (int step = 0; step < 16; ++step) {
      const bf16* at = data + 2 * step * from.stride;
      const bool exists = 2 * step < elements, both = 2 * step + 1 < elements;
      r[step] = exists ? PairsInOrder::across(at, from.stride, both, static_cast<int>(lines)) : zero();
    }
    transpose(r);
    for (int line = 0; line < 16; ++line) store(to + 16 * line, r[line]);
    return;
  }
  for (int64_t line = 0; line < 16; ++line) {
    bf16 some[group] = {};
    const bf16* at = data + line * from.line_stride;
    if (line < lines && from.stride == 1) {
      store(to + 16 * line, PairsInOrder::along(at, elements));
      continue;
    }
    for (int64_t k = 0; line < lines && k < elements; ++k) some[k] = at[k * from.stride];
    std::memcpy(to + 16 * line, some, sizeof some);
  }
}

/// Lines in strips of 16, of each strip one tile after the other along k. Lines that lie across are read a group at a
/// time over all strips: along the rows of memory.
void pack_left(const Lines& from, int64_t lines, int64_t elements, float* to) {
  const int64_t groups = (elements + group - 1) / group;
  const auto pack_one = [&](int64_t line, int64_t g) {
    const Lines some = part_of(from, line, g * group);
    const int64_t exist = smaller(16, lines - line), along = smaller(group, elements - g * group);
    pack_left_tile(some, exist, along, to + (line * groups + g * 16) * group_steps);
  };
  if (lie_across(from)) {
    for (int64_t g = 0; g < groups; ++g) {
      prefetch<PairsInOrder>(from, {lines, 16, 16, elements, 0, to, true}, (g + 1) * group, (g + 2) * group);
      for (int64_t line = 0; line < lines; line += 16) pack_one(line, g);
    }
  } else {
    for (int64_t line = 0; line < lines; line += 16) {
      for (int64_t g = 0; g < groups; ++g) pack_one(line, g);
    }
  }
}

// The grid ------------------------------------------------------------------------------------------------------------

constexpr int64_t most_packed = 1 << 24;  // units of an operand that are packed for all

/// How a product by tiles is cut. Depends on the shape, on whether B's columns can be read in place, and on whether A's
/// rows lie across: its packing is then a transposition, which costs about as much as its product with 50 columns.
struct TilePlan {
  bool swapped;      // B's columns are the left lines
  bool shared;       // the right operand is packed once, before the tasks
  bool shared_left;  // and the left one
  int64_t left, right, groups;  // lines of each operand; groups of k
  int64_t lc, rc;               // lines of a task
  int64_t l_tasks, r_tasks;
  int64_t shared_floats, shared_left_floats;           // for all
  int64_t left_floats, right_floats, sums_floats;      // of each worker
  int64_t worker_floats() const { return left_floats + right_floats + sums_floats; }
  int64_t block_lines() const { return swapped ? strip : lc; }
};

TilePlan tile_plan_of(GemmShape s, bool columns_in_place, bool rows_across) {
  TilePlan p;
  p.swapped = columns_in_place && s.m <= few_lines;
  p.left = p.swapped ? s.n : s.m;
  p.right = p.swapped ? s.m : s.n;
  p.groups = (s.k + group - 1) / group;
  const int64_t panels = round_up(p.right, 16) * p.groups * group_steps;
  p.shared = p.swapped || ((s.m > 256 || rows_across) && panels <= most_packed);
  p.lc = smaller(p.swapped ? 512 : 256, round_up(p.left, strip));
  p.rc = smaller(p.shared ? 512 : 256, round_up(p.right, strip));
  const double work = static_cast<double>(s.m + 8) * static_cast<double>(s.n) * static_cast<double>(s.k) / (1 << 22);
  const int64_t wanted = work < 1 ? 1 : work > 64 ? 64 : static_cast<int64_t>(work);
  for (;;) {
    p.l_tasks = (p.left + p.lc - 1) / p.lc;
    p.r_tasks = (p.right + p.rc - 1) / p.rc;
    if (p.l_tasks * p.r_tasks >= wanted) break;
    if (p.lc > strip && (p.shared || p.lc >= p.rc)) p.lc = round_up(p.lc / 2, strip);
    else if (p.rc > 2 * strip && !p.swapped) p.rc = round_up(p.rc / 2, strip);
    else break;
  }
  const int64_t steps = smaller(p.groups, block_groups) * group_steps;
  const int64_t left_units = round_up(p.left, 16) * p.groups * group_steps;
  p.shared_left = rows_across && !p.swapped && p.r_tasks > 1 && left_units <= most_packed;
  p.shared_floats = p.shared ? panels + 16 : 0;
  p.shared_left_floats = p.shared_left ? left_units : 0;
  p.left_floats = p.shared_left ? 0 : p.block_lines() * steps;
  p.right_floats = p.shared ? 0 : p.rc * steps + 16;
  p.sums_floats = p.block_lines() * p.rc;
  return p;
}

/// One call by tiles, as its tasks see it.
struct TileWork {
  GemmShape s;
  Lines left, right;  // all lines, from k = 0
  Result c;
  bool accumulate;
  TilePlan plan;
  float *shared_left, *shared, *workers;
};

/// The part of a product that is computed between two visits of its sums.
struct TileBlock {
  int64_t line, lines;          // of the left operand
  int64_t column, columns;      // lines of the right one
  int64_t first, groups;        // of k
  bool in_place;                // left lines are read where they are
  float *left, *right, *sums;
};

void pack_right(const TileWork& g, int64_t line, int64_t lines, int64_t first, int64_t groups, float* to) {
  const int64_t k = first * group, elements = smaller(groups * group, g.s.k - k);
  pack<PairsInOrder>(part_of(g.right, line, k), {lines, strip, 16, elements, groups * group_steps, to, false});
}

/// Where the sums of a tile of a strip lie in C: rows, and n elements of each.
struct Place {
  int64_t at, rows;
  int n;
};

/// f(first sum, place) for the tiles of the strip by panel whose first lines are `line` and `column`.
template <class F>
void each_tile_in_c(const TileWork& g, float* sums, int64_t line, int64_t column, F f) {
  for (int tile = 0; tile < 4; ++tile) {
    const int64_t l = line + 16 * (tile / 2), r = column + 16 * (tile % 2);
    const int64_t lines = smaller(16, g.plan.left - l), columns = smaller(16, g.plan.right - r);
    if (lines <= 0 || columns <= 0) continue;
    if (g.plan.swapped) f(sums + tile * 256, Place{r * g.c.stride + l, columns, static_cast<int>(lines)});
    else f(sums + tile * 256, Place{l * g.c.stride + r, lines, static_cast<int>(columns)});
  }
}

/// Rounds or copies the sums of one strip by one panel to C.
void store_strip(const TileWork& g, float* sums, int64_t line, int64_t column) {
  each_tile_in_c(g, sums, line, column, [&](const float* from, const Place& p) {
    V v[16];
    for (int i = 0; i < 16; ++i) v[i] = load(from + i * 16);
    if (g.plan.swapped) transpose(v);
    for (int i = 0; i < p.rows; ++i) {
      const int64_t at = p.at + i * g.c.stride;
      if (g.c.dtype == DType::f32) store_n(static_cast<float*>(g.c.data) + at, v[i], p.n);
      else store_n(static_cast<bf16*>(g.c.data) + at, v[i], p.n);
    }
  });
}

/// The other way, for sums that continue from C.
void load_strip(const TileWork& g, float* sums, int64_t line, int64_t column) {
  each_tile_in_c(g, sums, line, column, [&](float* to, const Place& p) {
    const float* from = static_cast<const float*>(g.c.data) + p.at;
    V v[16];
    for (int i = 0; i < 16; ++i) v[i] = i < p.rows ? load_n(from + i * g.c.stride, p.n) : zero();
    if (g.plan.swapped) transpose(v);
    for (int i = 0; i < 16; ++i) store(to + i * 16, v[i]);
  });
}

/// Where the run after this one reads its left lines in place; null when it does not, or not whole blocks.
const char* next_in_place(const TileWork& g, const TileBlock& b) {
  int64_t line = b.line, k = (b.first + b.groups) * group;
  if (k + block_groups * group > g.s.k) line += strip, k = 0;
  if (b.groups < block_groups || line + strip > g.plan.left || g.s.k < block_groups * group) return nullptr;
  return reinterpret_cast<const char*>(static_cast<const bf16*>(g.left.data) + line * g.left.line_stride + k);
}

/// Where a strip finds its left lines, and how they lie there.
void choose_left(const TileWork& g, const TileBlock& b, int64_t line, TileRun& t) {
  const int64_t line_bytes = 2 * g.left.line_stride, groups = g.plan.shared_left ? g.plan.groups : b.groups;
  t.left_line = b.in_place ? line_bytes : 64;
  t.left_group = b.in_place ? 64 : 1024;
  t.left_tile = b.in_place ? 16 * line_bytes : groups * 1024;
  if (b.in_place) {
    t.left = static_cast<const char*>(g.left.data) + (b.line + line) * line_bytes + b.first * 64;
  } else {
    const float* packed = g.plan.shared_left ? g.shared_left + (b.line * groups + b.first * 16) * group_steps : b.left;
    t.left = reinterpret_cast<const char*>(packed + line * groups * group_steps);
  }
}

/// Where the sums of a strip by a panel wait between blocks of k: in C, if whole tiles of f32 lie there, else in `buffer`.
/// True for C.
bool choose_sums(const TileWork& g, int64_t line, int64_t column, int64_t columns, float* buffer, TileRun& t) {
  const bool in_c = !g.plan.swapped && g.c.dtype == DType::f32 && columns % 16 == 0;
  t.sums = in_c ? static_cast<float*>(g.c.data) + line * g.c.stride + column : buffer;
  t.sum_row = in_c ? 4 * g.c.stride : 64;
  t.sum_left = in_c ? 16 * g.c.stride : 512;
  t.sum_right = in_c ? 16 : 256;
  return in_c;
}

void multiply_tile_block(const TileWork& g, const TileBlock& b, TileState& tiles) {
  TileRun t;
  t.groups = b.groups;
  t.start = b.first == 0 && !g.accumulate;
  float* buffer = b.sums;
  for (int64_t line = 0; line < b.lines; line += strip) {
    const int64_t lines = smaller(strip, b.lines - line);
    tiles.expect(lines);
    choose_left(g, b, line, t);
    for (int64_t column = 0; column < b.columns; column += strip, buffer += sums_of_strip) {
      const int64_t columns = smaller(strip, b.columns - column), width = round_up(columns, 16);
      const int64_t shared_at = (b.column + column) * g.plan.groups * group_steps + b.first * group_steps * width;
      const float* panel = g.plan.shared ? g.shared + shared_at : b.right + column * b.groups * group_steps;
      t.right = reinterpret_cast<const char*>(panel);
      t.right_step = 4 * width;
      t.right_group = group_steps * t.right_step;
      t.next = b.in_place && column + strip >= b.columns ? next_in_place(g, b) : nullptr;
      const bool in_c = choose_sums(g, b.line + line, b.column + column, columns, buffer, t);
      if (!in_c && g.accumulate && b.first == 0) load_strip(g, buffer, b.line + line, b.column + column);
      multiply_strip(t, lines, columns);
      if (!in_c && b.first + b.groups == g.plan.groups) store_strip(g, buffer, b.line + line, b.column + column);
    }
  }
}

/// All of k for the left lines of a block.
void multiply_left_block(const TileWork& g, TileBlock b, TileState& tiles) {
  const bool direct = g.plan.swapped && g.left.stride == 1;
  const int64_t whole = g.s.k / group;
  for (b.first = 0; b.first < g.plan.groups; b.first += b.groups) {
    b.in_place = direct && b.first < whole;
    b.groups = smaller(block_groups, (b.in_place ? whole : g.plan.groups) - b.first);
    const int64_t k = b.first * group, elements = smaller(b.groups * group, g.s.k - k);
    if (!b.in_place && !g.plan.shared_left) pack_left(part_of(g.left, b.line, k), b.lines, elements, b.left);
    if (!g.plan.shared) pack_right(g, b.column, b.columns, b.first, b.groups, b.right);
    multiply_tile_block(g, b, tiles);
  }
}

void multiply_tile_task(const TileWork& g, int64_t task, int worker) {
  const TilePlan& p = g.plan;
  const int64_t line = task % p.l_tasks * p.lc, end = smaller(line + p.lc, p.left);
  TileBlock b;
  b.column = task / p.l_tasks * p.rc;
  b.columns = smaller(p.rc, p.right - b.column);
  b.left = g.workers + worker * p.worker_floats();
  b.right = b.left + p.left_floats;
  b.sums = b.right + p.right_floats;
  TileState tiles;
  for (b.line = line; b.line < end; b.line += b.lines) {
    b.lines = smaller(p.block_lines(), end - b.line);
    multiply_left_block(g, b, tiles);
  }
}

int64_t tile_scratch_bytes(const Runtime& rt, GemmShape s) {
  constexpr bool either[] = {false, true};
  int64_t most = 0;
  for (const bool in_place : either) {
    for (const bool across : either) {
      const TilePlan p = tile_plan_of(s, in_place, across);
      most = larger(most, p.shared_floats + p.shared_left_floats + rt.threads() * p.worker_floats());
    }
  }
  return 4 * most;
}

/// Packs the operands that are packed for all, some lines a task.
void pack_for_all(Runtime& rt, const TileWork& g) {
  const int64_t steps = g.plan.groups * group_steps, each = strip * (1 + (1 << 16) / (strip * steps));
  const int64_t lefts = g.plan.shared_left ? (g.plan.left + each - 1) / each : 0;
  const int64_t rights = g.plan.shared ? (g.plan.right + each - 1) / each : 0;
  parallel_for(rt, lefts + rights, [&](int64_t task, int) {
    if (task < lefts) {
      const int64_t line = task * each;
      pack_left(part_of(g.left, line, 0), smaller(each, g.plan.left - line), g.s.k, g.shared_left + line * steps);
    } else {
      const int64_t line = (task - lefts) * each;
      pack_right(g, line, smaller(each, g.plan.right - line), 0, g.plan.groups, g.shared + line * steps);
    }
  });
}

void multiply_by_tiles(Runtime& rt, GemmShape s, const Matrix& a, const Matrix& b, const Result& c, bool accumulate,
                       void* scratch) {
  const Lines rows = {a.data, a.row_stride, a.column_stride, s.m};
  const Lines columns = {b.data, b.column_stride, b.row_stride, s.n};
  const TilePlan plan = tile_plan_of(s, b.row_stride == 1, lie_across(rows));
  TileWork g = {s, plan.swapped ? columns : rows, plan.swapped ? rows : columns, c, accumulate, plan, nullptr, nullptr,
                nullptr};
  g.shared_left = static_cast<float*>(scratch);
  g.shared = g.shared_left + plan.shared_left_floats;
  g.workers = g.shared + plan.shared_floats;
  pack_for_all(rt, g);
  parallel_for(rt, plan.l_tasks * plan.r_tasks,
               [&](int64_t task, int worker) { multiply_tile_task(g, task, worker); });
}

}  // namespace
}  // namespace ws::WS_NS
