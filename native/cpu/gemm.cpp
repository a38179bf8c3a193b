// The matrix product of gemm.h. Work is a grid of tiles of C; a task packs a block of A (and its panels of B, unless
// they were packed once for all or can be read in place) and runs the register tile over it.
//
// FLOPs 2 m n k; about 80-90 % of the peak of multiply-adds once n >= 128. Error of an element: k roundings of one
// chain. What must stay: an element of C is ONE chain acc = fma(a[k], b[k], acc), k ascending, from zero (or from C).
// Blocks of k and passes keep the f32 partial exactly and never cut a step. So bits depend neither on m, n, tile
// position, packing nor threads. Products of bf16 at WS_LEVEL 5 have an order of their own: gemm_amx.h.
#include "gemm.h"

#include "gemm_pack.h"
#include "gemm_thin.h"
#include "gemm_tile.h"
#if WS_LEVEL >= 5
#include "gemm_amx.h"
#endif

namespace ws::WS_NS {
namespace {

// Steps of a block: a panel of B and MR x KC units of A stay in the first-level cache.
constexpr int64_t KC = WS_LEVEL == 2 ? 256 : 512;
constexpr int64_t MC = 192, NC = 256;  // largest tile of a task; its blocks of A and B share the second-level cache
constexpr int64_t wide_NC = 1024;      // the same when B is packed for all: its panels then pass through the cache
constexpr int64_t most_shared = 1 << 24;  // units of B that are packed for all
constexpr int64_t pass_units = 1 << 20;   // the same in one of several passes: they are multiplied while in the cache
constexpr int64_t least_pass = 1024;      // steps, so that C is not read and written again too often
constexpr int64_t thin_bytes = 1 << 17;   // of B that a task with few rows of A reads

// Forms ---------------------------------------------------------------------------------------------------------------

/// How operands of two types are packed and multiplied: by panels of B that are packed, by its rows, or by its columns
/// for few rows of A.
struct Form {
  int per;  // elements of a step
  Pack pack_a, pack_b;
  Multiply packed, rows;
  Thin thin;
};

template <class A, class B>
constexpr Form singles = {1, pack<Singles<A>>, pack<Singles<B>>, multiply<Singles<float>>, multiply<Singles<B>>,
                          multiply_thin<Singles<B>>};
#if WS_LEVEL == 4
constexpr Form pairs_form = {2, pack<Pairs>, pack<Pairs>, multiply<Singles<Pair, Pair>>, multiply<Pairs>,
                             multiply_thin<Pairs>};
#endif

constexpr int most_per = WS_LEVEL == 4 ? 2 : 1;

Form form_of(DType a, DType b) {
  if (a == DType::f32) return b == DType::f32 ? singles<float, float> : singles<float, bf16>;
#if WS_LEVEL == 4
  if (b == DType::bf16) return pairs_form;
#endif
  return b == DType::f32 ? singles<bf16, float> : singles<bf16, bf16>;
}

Lines rows_of(const Matrix& a, int64_t row, int64_t m, int64_t k) {
  const int64_t offset = (row * a.row_stride + k * a.column_stride) * element_bytes(a.dtype);
  return {static_cast<const char*>(a.data) + offset, a.row_stride, a.column_stride, m - row};
}

Lines columns_of(const Matrix& b, int64_t column, int64_t n, int64_t k) {
  const int64_t offset = (k * b.row_stride + column * b.column_stride) * element_bytes(b.dtype);
  return {static_cast<const char*>(b.data) + offset, b.column_stride, b.row_stride, n - column};
}

// The grid ------------------------------------------------------------------------------------------------------------

/// How a shape is cut; its k counts steps. Depends on the shape, and on whether C is f32, alone.
struct Plan {
  int64_t mc, nc;              // rows and columns of a task's tile
  int64_t m_tiles, n_tiles;
  int64_t pass;                // steps that all tiles take before they go on
  bool shared_b;               // B is packed once a pass, before the tiles
  int64_t shared_floats;       // for B
  int64_t a_floats, b_floats, c_floats;  // of each worker: blocks of A and B, partials of a bf16 result
  int64_t worker_floats() const { return a_floats + b_floats + c_floats; }
};

/// Tiles that are worth having: a task lasts some microseconds at least and, when there is much work, not much more
/// than a millisecond. A multiply-add costs 1, packing an element of B about 8.
int64_t tiles_wanted(GemmShape s, bool cheap) {
  const double work = static_cast<double>(s.m + 8) * static_cast<double>(s.n) * static_cast<double>(s.k);
  const double most = work / (1 << 19), least = work / (1 << 27), enough = cheap ? 16 : 4;
  if (most < enough) return most < 1 ? 1 : static_cast<int64_t>(most);
  return static_cast<int64_t>(least < enough ? enough : least > 256 ? 256 : least);
}

/// Long sums may be taken in passes when C is f32 and keeps them in between; then B of a pass is packed, not all of it.
Plan plan_of(GemmShape s, bool passes) {
  const int64_t width = round_up(s.n, NR);
  Plan p;
  p.pass = passes && s.m > MC ? smaller(s.k, larger(least_pass, pass_units / (width * KC) * KC)) : s.k;
  p.shared_b = s.m > MC && width * p.pass <= most_shared;
  s.k = p.pass;
  const int64_t wanted = tiles_wanted(s, p.shared_b || s.m <= MR);
  p.mc = smaller(MC, round_up(s.m, MR));
  p.nc = smaller(p.shared_b ? wide_NC : NC, round_up(s.n, NR));
  for (;;) {
    p.m_tiles = (s.m + p.mc - 1) / p.mc;
    p.n_tiles = (s.n + p.nc - 1) / p.nc;
    if (p.m_tiles * p.n_tiles >= wanted) break;
    const bool tall = p.mc > 48, wide = p.nc > 64;
    // Cutting rows is free when B is packed already; else each cut packs B, or A, once more.
    if (tall && (p.shared_b || p.mc > p.nc)) p.mc = round_up(p.mc / 2, MR);
    else if (wide) p.nc = round_up(p.nc / 2, NR);
    else break;
  }
  p.mc = round_up((s.m + p.m_tiles - 1) / p.m_tiles, MR);
  p.nc = round_up((s.n + p.n_tiles - 1) / p.n_tiles, NR);
  p.m_tiles = (s.m + p.mc - 1) / p.mc;
  p.n_tiles = (s.n + p.nc - 1) / p.nc;
  const int64_t kc = smaller(s.k, KC);
  p.shared_floats = p.shared_b ? width * p.pass + 16 : 0;
  p.a_floats = round_up(p.mc * kc + W, 16);
  p.b_floats = p.shared_b ? 0 : round_up(p.nc * kc + W, 16);
  p.c_floats = round_up(p.mc * p.nc, 16);
  return p;
}

/// One call, as its tasks see it.
struct Product {
  GemmShape s;  // k counts elements
  int64_t steps;
  Matrix a, b;
  Result c;
  bool accumulate;
  Form form;
  Plan plan;
  float* shared;  // packed panels of B: panel p starts at p * NR * (end - begin)
  float* workers;
  int64_t begin, end;  // steps of the pass
};

/// The part of a product that one task computes at one block of k.
struct Block {
  int64_t row, rows, column, columns;
  int64_t step, steps;
  int64_t k, elements;  // the same, in elements
  float *packed_a, *packed_b, *partials;
};

int vectors_of(int64_t columns) { return columns > W ? NV : 1; }

/// Where a task finds its panels of B: packed for all, packed for it, or in rows of the matrix (read in place).
enum class Source { shared, packed, rows };

Source source_of(const Product& g) {
  if (g.plan.shared_b) return Source::shared;
  if (g.b.column_stride == 1) return Source::rows;
  return Source::packed;
}

/// Sets b and b_stride of the tile for the panel at `column`; gives the loop that reads it.
Multiply choose_panel(const Product& g, const Block& block, Source source, int64_t column, Tile& tile) {
  const int64_t width = vectors_of(g.s.n - column) * W;
  const Lines lines = columns_of(g.b, column, g.s.n, block.k);
  tile.b_stride = width;
  if (source == Source::shared) {
    tile.b = g.shared + column * (g.end - g.begin) + (block.step - g.begin) * width;
    return g.form.packed;
  }
  if (source == Source::rows && lines.count >= width) {
    tile.b = lines.data;
    tile.b_stride = lines.stride;
    return g.form.rows;
  }
  float* panel = block.packed_b + (column - block.column) * block.steps;
  if (source == Source::rows) g.form.pack_b(lines, {lines.count, NR, W, block.elements, block.steps, panel, false});
  tile.b = panel;
  return g.form.packed;
}

void multiply_panel(const Product& g, const Block& block, Source source, int64_t column) {
  Tile t;
  const Multiply multiply_some = choose_panel(g, block, source, column, t);
  const bool f32 = g.c.dtype == DType::f32, ends = block.step + block.steps == g.steps;
  const int vectors = vectors_of(g.s.n - column);
  t.last = static_cast<int>(smaller(W, g.s.n - column - (vectors - 1) * W));
  t.steps = block.steps;
  t.missing = static_cast<int>(block.steps * g.form.per - block.elements);
  t.c_stride = f32 ? g.c.stride : g.plan.nc;
  t.rounded_stride = g.c.stride;
  const bool start = block.step == 0 && !g.accumulate;
  for (int64_t row = 0; row < block.rows; row += MR) {
    t.rows = static_cast<int>(smaller(MR, block.rows - row));
    t.a = block.packed_a + row * block.steps;
    t.c = f32 ? static_cast<float*>(g.c.data) + (block.row + row) * g.c.stride + column
              : block.partials + row * g.plan.nc + column - block.column;
    t.from = start ? nullptr : t.c;
    t.rounded = f32 || !ends ? nullptr : static_cast<bf16*>(g.c.data) + (block.row + row) * g.c.stride + column;
    multiply_some(vectors, t);
  }
}

void multiply_block(const Product& g, const Block& block, Source source) {
  const Lines rows = rows_of(g.a, block.row, g.s.m, block.k);
  g.form.pack_a(rows, {block.rows, MR, row_step, block.elements, block.steps, block.packed_a, true});
  if (source == Source::packed) {
    const Lines columns = columns_of(g.b, block.column, g.s.n, block.k);
    g.form.pack_b(columns, {block.columns, NR, W, block.elements, block.steps, block.packed_b, false});
  }
  for (int64_t column = 0; column < block.columns; column += NR) {
    multiply_panel(g, block, source, block.column + column);
  }
}

void multiply_task(const Product& g, int64_t task, int worker) {
  const Plan& p = g.plan;
  float* scratch = g.workers + worker * p.worker_floats();
  Block block;
  block.row = task % p.m_tiles * p.mc;
  block.rows = smaller(p.mc, g.s.m - block.row);
  block.column = task / p.m_tiles * p.nc;
  block.columns = smaller(p.nc, g.s.n - block.column);
  block.packed_a = scratch;
  block.packed_b = scratch + p.a_floats;
  block.partials = block.packed_b + p.b_floats;
  const Source source = source_of(g);
  for (block.step = g.begin; block.step < g.end; block.step += KC) {
    block.steps = smaller(KC, g.end - block.step);
    block.k = block.step * g.form.per;
    block.elements = smaller(block.steps * g.form.per, g.s.k - block.k);
    multiply_block(g, block, source);
  }
}

/// Packs B of a pass, some panels a task.
void pack_shared(Runtime& rt, const Product& g) {
  const int64_t steps = g.end - g.begin, each = NR * (1 + (1 << 16) / (NR * steps)), k = g.begin * g.form.per;
  const int64_t elements = smaller(steps * g.form.per, g.s.k - k);
  parallel_for(rt, (g.s.n + each - 1) / each, [&](int64_t task, int) {
    const int64_t column = task * each;
    float* to = g.shared + column * steps;
    g.form.pack_b(columns_of(g.b, column, g.s.n, k), {smaller(each, g.s.n - column), NR, W, elements, steps, to, false});
  });
}

// Few rows ------------------------------------------------------------------------------------------------------------

/// The columns [column, column + NR) of a thin product.
void multiply_thin_tile(const Product& g, int64_t column, int64_t next) {
  const int64_t line_bytes = g.b.column_stride * element_bytes(g.b.dtype);
  ThinTile t;
  t.a = g.shared;
  t.b = static_cast<const char*>(g.b.data) + column * line_bytes;
  t.b_stride = g.b.column_stride;
  t.elements = g.s.k;
  t.rows = static_cast<int>(g.s.m);
  t.vectors = vectors_of(g.s.n - column);
  t.last = static_cast<int>(smaller(W, g.s.n - column - (t.vectors - 1) * W));
  t.from_c = g.accumulate;
  t.c_stride = g.c.stride;
  t.c = g.c.dtype == DType::f32 ? static_cast<float*>(g.c.data) + column : nullptr;
  t.rounded = g.c.dtype == DType::f32 ? nullptr : static_cast<bf16*>(g.c.data) + column;
  t.next = next + NR <= g.s.n ? static_cast<const char*>(g.b.data) + next * line_bytes : nullptr;
  g.form.thin(t);
}

/// Asks for columns before anybody reads them. Not for long ones: those would be asked for too long before they are read.
[[gnu::always_inline]] inline void ask_for_columns(const Product& g, int64_t column) {
  const int64_t line_bytes = g.b.column_stride * element_bytes(g.b.dtype), bytes = smaller(NR, g.s.n - column) * line_bytes;
  const char* from = static_cast<const char*>(g.b.data) + column * line_bytes;
  if (bytes <= thin_bytes) prefetch_lines(from, 0, static_cast<int>(bytes / 64));
}

/// A task reads about 128 KB of B. Its last columns ask for those that this worker will likely read then; for those that a
/// worker begins with it asks at once.
void multiply_thin_rows(Runtime& rt, const Product& g) {
  g.form.pack_a(rows_of(g.a, 0, g.s.m, 0), {g.s.m, row_group, 1, g.s.k, g.steps, g.shared, true});
  const int64_t each = NR * (1 + thin_bytes / (NR * g.s.k * element_bytes(g.b.dtype)));
  parallel_for(rt, (g.s.n + each - 1) / each, [&](int64_t task, int) {
    const int64_t end = smaller((task + 1) * each, g.s.n);
    if (task < rt.threads()) ask_for_columns(g, task * each);
    for (int64_t column = task * each; column < end; column += NR) {
      multiply_thin_tile(g, column, column + NR < end ? column + NR : (task + rt.threads()) * each);
    }
  });
}

void clear(const Result& c, GemmShape s) {
  const int64_t size = element_bytes(c.dtype);
  for (int64_t row = 0; row < s.m; ++row) {
    std::memset(static_cast<char*>(c.data) + row * c.stride * size, 0, static_cast<size_t>(s.n * size));
  }
}

}  // namespace

int64_t gemm_scratch_bytes(const Runtime& rt, GemmShape shape) {
  if (shape.m <= 0 || shape.n <= 0 || shape.k <= 0) return 64;
  // Types are not known here: steps of one element, or of two where the level has them.
  int64_t most = shape.m <= thin_rows ? shape.m * shape.k + 16 : 0;
  for (int per = 1; per <= most_per; ++per) {
    for (int passes = 0; passes < 2; ++passes) {
      const Plan p = plan_of({shape.m, shape.n, (shape.k + per - 1) / per}, passes == 1);
      most = larger(most, p.shared_floats + rt.threads() * p.worker_floats());
    }
  }
#if WS_LEVEL >= 5
  return larger(4 * most, tile_scratch_bytes(rt, shape));
#else
  return 4 * most;
#endif
}

void gemm(Runtime& rt, GemmShape shape, Matrix a, Matrix b, Result c, bool accumulate, void* scratch) {
  if (shape.m <= 0 || shape.n <= 0) return;
  if (shape.k <= 0) {
    if (!accumulate) clear(c, shape);
    return;
  }
#if WS_LEVEL >= 5
  if (a.dtype == DType::bf16 && b.dtype == DType::bf16) {
    return multiply_by_tiles(rt, shape, a, b, c, accumulate, scratch);
  }
#endif
  const Form form = form_of(a.dtype, b.dtype);
  const int64_t steps = (shape.k + form.per - 1) / form.per;
  const Plan plan = plan_of({shape.m, shape.n, steps}, c.dtype == DType::f32);
  Product g = {shape, steps, a, b, c, accumulate, form, plan, static_cast<float*>(scratch), nullptr, 0, 0};
  if (shape.m <= thin_rows && b.row_stride == 1) return multiply_thin_rows(rt, g);
  g.workers = g.shared + plan.shared_floats;
  for (; g.begin < steps; g.begin = g.end) {
    g.end = smaller(g.begin + plan.pass, steps);
    if (plan.shared_b) pack_shared(rt, g);
    parallel_for(rt, plan.m_tiles * plan.n_tiles, [&](int64_t task, int worker) { multiply_task(g, task, worker); });
  }
}

}  // namespace ws::WS_NS
