// The matrix product by tiles (amx.h): bf16 x bf16 at WS_LEVEL 5. Included by gemm.cpp only. Lines of the left operand
// are in tiles as they are in memory, lines of the right one are packed in pairs across. A register block is 2 x 2
// tiles of 16 x 16 sums. A block of k has 512 elements, so that a strip of 32 left lines (32 KB) stays in the
// first-level cache while the panels of the right operand pass through; sums wait in memory between blocks of k.
//
// What must stay: a sum is taken over groups of 32 elements from k = 0, the last one filled up with zeros, one tile
// instruction each, in order. So its bits depend on k alone: not on m, n, its place, which operand is the left one
// (products commute), packing or threads. Unlike the chains of gemm_tile.h it cannot be cut between any two elements:
// products that accumulate over calls do not come here.
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
  float* sums;       // 16 x 16 of each tile: left 0 right 0, left 0 right 1, left 1 right 0, left 1 right 1
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
    WS_TILE_LOAD(0, t.sums, 64);
    if constexpr (R > 1) WS_TILE_LOAD(1, t.sums + 256, 64);
    if constexpr (L > 1) WS_TILE_LOAD(2, t.sums + 512, 64);
    if constexpr (L > 1 && R > 1) WS_TILE_LOAD(3, t.sums + 768, 64);
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
  WS_TILE_STORE(0, t.sums, 64);
  if constexpr (R > 1) WS_TILE_STORE(1, t.sums + 256, 64);
  if constexpr (L > 1) WS_TILE_STORE(2, t.sums + 512, 64);
  if constexpr (L > 1 && R > 1) WS_TILE_STORE(3, t.sums + 768, 64);
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

/// Up to 16 lines of one group as they lie in a tile; elements and lines that do not exist are zero.
void pack_left_tile(const Lines& from, int64_t lines, int64_t elements, float* to) {
  V r[16];
  const auto* data = static_cast<const bf16*>(from.data);
  if (from.line_stride == 1 && from.stride != 1) {
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

/// Lines in strips of 16, of each strip one tile after the other along k.
void pack_left(const Lines& from, int64_t lines, int64_t elements, float* to) {
  const int64_t groups = (elements + group - 1) / group;
  for (int64_t line = 0; line < lines; line += 16) {
    for (int64_t g = 0; g < groups; ++g, to += 256) {
      const auto* at = static_cast<const bf16*>(from.data) + line * from.line_stride + g * group * from.stride;
      const Lines some = {at, from.line_stride, from.stride, lines - line};
      pack_left_tile(some, smaller(16, lines - line), smaller(group, elements - g * group), to);
    }
  }
}

// The grid ------------------------------------------------------------------------------------------------------------

/// How a product by tiles is cut. Depends on the shape, and on whether B's columns can be read in place.
struct TilePlan {
  bool swapped;  // B's columns are the left lines
  bool shared;   // the right operand is packed once, before the tasks
  int64_t left, right, groups;  // lines of each operand; groups of k
  int64_t lc, rc;               // lines of a task
  int64_t l_tasks, r_tasks;
  int64_t shared_floats, left_floats, right_floats, sums_floats;  // the first for all, the others of each worker
  int64_t worker_floats() const { return left_floats + right_floats + sums_floats; }
  int64_t block_lines() const { return swapped ? strip : lc; }
};

TilePlan tile_plan_of(GemmShape s, bool columns_in_place) {
  TilePlan p;
  p.swapped = columns_in_place && s.m <= few_lines;
  p.left = p.swapped ? s.n : s.m;
  p.right = p.swapped ? s.m : s.n;
  p.groups = (s.k + group - 1) / group;
  const int64_t panels = round_up(p.right, 16) * p.groups * group_steps;
  p.shared = p.swapped || (s.m > 256 && panels <= 1 << 24);
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
  p.shared_floats = p.shared ? panels + 16 : 0;
  p.left_floats = p.block_lines() * steps;
  p.right_floats = p.shared ? 0 : p.rc * steps + 16;
  p.sums_floats = p.block_lines() * p.rc;
  return p;
}

/// One call by tiles, as its tasks see it.
struct TileWork {
  GemmShape s;
  Lines left, right;  // all lines, from k = 0
  Result c;
  TilePlan plan;
  float *shared, *workers;
};

Lines part_of(const Lines& all, int64_t line, int64_t k) {
  return {static_cast<const bf16*>(all.data) + line * all.line_stride + k * all.stride, all.line_stride, all.stride,
          all.count - line};
}

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

/// Rounds or copies the sums of one strip by one panel to C.
void store_strip(const TileWork& g, const float* sums, int64_t line, int64_t column) {
  for (int tile = 0; tile < 4; ++tile) {
    const int64_t l = line + 16 * (tile / 2), r = column + 16 * (tile % 2);
    const int64_t lines = smaller(16, g.plan.left - l), columns = smaller(16, g.plan.right - r);
    if (lines <= 0 || columns <= 0) continue;
    V v[16];
    for (int i = 0; i < 16; ++i) v[i] = i < lines ? load(sums + tile * 256 + i * 16) : zero();
    if (g.plan.swapped) transpose(v);
    const int64_t row = g.plan.swapped ? r : l, rows = g.plan.swapped ? columns : lines;
    const int64_t at = row * g.c.stride + (g.plan.swapped ? l : r);
    const int n = static_cast<int>(g.plan.swapped ? lines : columns);
    for (int i = 0; i < rows; ++i) {
      if (g.c.dtype == DType::f32) store_n(static_cast<float*>(g.c.data) + at + i * g.c.stride, v[i], n);
      else store_n(static_cast<bf16*>(g.c.data) + at + i * g.c.stride, v[i], n);
    }
  }
}

/// Where the run after this one reads its left lines in place; null when it does not, or not whole blocks.
const char* next_in_place(const TileWork& g, const TileBlock& b) {
  int64_t line = b.line, k = (b.first + b.groups) * group;
  if (k + block_groups * group > g.s.k) line += strip, k = 0;
  if (b.groups < block_groups || line + strip > g.plan.left || g.s.k < block_groups * group) return nullptr;
  return reinterpret_cast<const char*>(static_cast<const bf16*>(g.left.data) + line * g.left.line_stride + k);
}

void multiply_tile_block(const TileWork& g, const TileBlock& b, TileState& tiles) {
  const int64_t line_bytes = 2 * g.left.line_stride;
  TileRun t;
  t.groups = b.groups;
  t.start = b.first == 0;
  t.left_line = b.in_place ? line_bytes : 64;
  t.left_group = b.in_place ? 64 : 1024;
  t.left_tile = b.in_place ? 16 * line_bytes : b.groups * 1024;
  t.sums = b.sums;
  for (int64_t line = 0; line < b.lines; line += strip) {
    const int64_t lines = smaller(strip, b.lines - line);
    tiles.expect(lines);
    t.left = b.in_place ? static_cast<const char*>(g.left.data) + (b.line + line) * line_bytes + b.first * 64
                        : reinterpret_cast<const char*>(b.left + line * b.groups * group_steps);
    for (int64_t column = 0; column < b.columns; column += strip, t.sums += sums_of_strip) {
      const int64_t columns = smaller(strip, b.columns - column), width = round_up(columns, 16);
      const int64_t shared_at = (b.column + column) * g.plan.groups * group_steps + b.first * group_steps * width;
      const float* panel = g.plan.shared ? g.shared + shared_at : b.right + column * b.groups * group_steps;
      t.right = reinterpret_cast<const char*>(panel);
      t.right_step = 4 * width;
      t.right_group = group_steps * t.right_step;
      t.next = b.in_place && column + strip >= b.columns ? next_in_place(g, b) : nullptr;
      multiply_strip(t, lines, columns);
      if (b.first + b.groups == g.plan.groups) store_strip(g, t.sums, b.line + line, b.column + column);
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
    if (!b.in_place) pack_left(part_of(g.left, b.line, k), b.lines, elements, b.left);
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
  const TilePlan packed = tile_plan_of(s, false), in_place = tile_plan_of(s, true);
  return 4 * larger(packed.shared_floats + rt.threads() * packed.worker_floats(),
                    in_place.shared_floats + rt.threads() * in_place.worker_floats());
}

void multiply_by_tiles(Runtime& rt, GemmShape s, const Matrix& a, const Matrix& b, const Result& c, void* scratch) {
  const Lines rows = {a.data, a.row_stride, a.column_stride, s.m};
  const Lines columns = {b.data, b.column_stride, b.row_stride, s.n};
  const TilePlan plan = tile_plan_of(s, b.row_stride == 1);
  TileWork g = {s, plan.swapped ? columns : rows, plan.swapped ? rows : columns, c, plan, nullptr, nullptr};
  g.shared = static_cast<float*>(scratch);
  g.workers = g.shared + plan.shared_floats;
  if (plan.shared) {
    const int64_t steps = plan.groups * group_steps, each = strip * (1 + (1 << 16) / (strip * steps));
    parallel_for(rt, (plan.right + each - 1) / each, [&](int64_t task, int) {
      const int64_t line = task * each;
      pack_right(g, line, smaller(each, plan.right - line), 0, plan.groups, g.shared + line * steps);
    });
  }
  parallel_for(rt, plan.l_tasks * plan.r_tasks,
               [&](int64_t task, int worker) { multiply_tile_task(g, task, worker); });
}

}  // namespace
}  // namespace ws::WS_NS
