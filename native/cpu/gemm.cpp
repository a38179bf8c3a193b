// The matrix product of gemm.h. Work is a grid of tiles of C; a task packs a block of A (and its panels of B, unless
// they were packed once for all) to f32 and runs the register tile over it. MR x NR is the register tile: MR rows of A
// are broadcast against NV vectors of B.
//
// FLOPs 2 m n k; about 80-90 % of the FMA peak once n >= 128. Error of an element: k roundings of one chain.
// What must stay: an element of C is ONE chain acc = fma(a[k], b[k], acc), k ascending, from zero (or from C). Blocks
// of k keep the f32 partial exactly. So bits depend neither on m, n, tile position, packing nor threads. A tile's
// unused lanes hold copies of neighbours; they are computed and never stored.
#include "gemm.h"

namespace ws::WS_NS {
namespace {

#if WS_LEVEL == 3
constexpr int MR = 12;
#elif WS_LEVEL == 2
constexpr int MR = 6;
#else
constexpr int MR = 4;
#endif
constexpr int NV = 2;
constexpr int NR = NV * W;
constexpr int few = 4;                 // rows up to which transposing B on the way beats packing it
constexpr int64_t KC = 512;            // steps of a block: MR x KC floats of A stay in the first-level cache
constexpr int64_t MC = 192, NC = 256;  // largest tile of a task; its blocks of A and B share the second-level cache

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The register tile ---------------------------------------------------------------------------------------------------

struct Tile {
  const float* a;     // packed: a[k * rows + row]
  const void* b;      // b[k * b_stride + column]
  int64_t b_stride;
  int64_t k;
  const float* from;  // where the chains start, laid out as c; null: zero
  float* c;
  int64_t c_stride;
  int last;           // columns of the last vector, 1 .. W
};

template <int R, int N, class T>
void multiply_tile(const Tile& t) {
  V acc[R][N];
  WS_UNROLL
  for (int r = 0; r < R; ++r) {
    WS_UNROLL
    for (int v = 0; v < N; ++v) {
      if (!t.from) acc[r][v] = zero();
      else if (v + 1 < N || t.last == W) acc[r][v] = load(t.from + r * t.c_stride + v * W);
      else acc[r][v] = load_n(t.from + r * t.c_stride + v * W, t.last);
    }
  }
  const float* a = t.a;
  const T* b = static_cast<const T*>(t.b);
  for (int64_t k = 0; k < t.k; ++k) {
    V column[N];
    WS_UNROLL
    for (int v = 0; v < N; ++v) column[v] = load(b + v * W);
    WS_UNROLL
    for (int r = 0; r < R; ++r) {
      const V x = set1(a[r]);
      WS_UNROLL
      for (int v = 0; v < N; ++v) acc[r][v] = fma(x, column[v], acc[r][v]);
    }
    a += R;
    b += t.b_stride;
  }
  WS_UNROLL
  for (int r = 0; r < R; ++r) {
    WS_UNROLL
    for (int v = 0; v < N; ++v) {
      if (v + 1 < N || t.last == W) store(t.c + r * t.c_stride + v * W, acc[r][v]);
      else store_n(t.c + r * t.c_stride + v * W, acc[r][v], t.last);
    }
  }
}

template <int R, int N, class T>
void multiply_rows(int rows, const Tile& t) {
  if (rows == R) return multiply_tile<R, N, T>(t);
  if constexpr (R > 1) multiply_rows<R - 1, N, T>(rows, t);
}

/// rows in 1 .. MR, vectors in 1 .. NV.
template <class T>
void multiply(int rows, int vectors, const Tile& t) {
  if (vectors == NV) multiply_rows<MR, NV, T>(rows, t);
  else multiply_rows<MR, 1, T>(rows, t);
}
static_assert(NV == 2, "multiply() knows tiles of one and two vectors");

/// The same for a B whose columns are contiguous in memory (column c at b + c * b_stride): W columns by W steps are
/// transposed in registers and used at once. For few rows, where packing would cost more than multiplying.
template <int R, class T>
void multiply_lines_tile(const Tile& t, int vectors) {
  const T* line[NV][W];
  V acc[R][NV];
  for (int v = 0; v < vectors; ++v) {
    for (int i = 0; i < W; ++i) {
      const bool exists = v + 1 < vectors || i < t.last;
      line[v][i] = static_cast<const T*>(t.b) + (v * W + (exists ? i : 0)) * t.b_stride;
    }
    const int n = v + 1 < vectors ? W : t.last;
    for (int r = 0; r < R; ++r) acc[r][v] = t.from ? load_n(t.from + r * t.c_stride + v * W, n) : zero();
  }
  for (int64_t k = 0; k < t.k; k += W) {
    const int n = static_cast<int>(smaller(W, t.k - k));
    for (int v = 0; v < vectors; ++v) {
      V column[W];
      if (n == W) {
        WS_UNROLL
        for (int i = 0; i < W; ++i) column[i] = load(line[v][i] + k);
      } else {
        for (int i = 0; i < W; ++i) column[i] = load_n(line[v][i] + k, n);
      }
      transpose(column);
      const float* a = t.a + k * R;
      if (n == W) {
        WS_UNROLL
        for (int j = 0; j < W; ++j) {
          WS_UNROLL
          for (int r = 0; r < R; ++r) acc[r][v] = fma(set1(a[j * R + r]), column[j], acc[r][v]);
        }
      } else {
        for (int j = 0; j < n; ++j) {
          for (int r = 0; r < R; ++r) acc[r][v] = fma(set1(a[j * R + r]), column[j], acc[r][v]);
        }
      }
    }
  }
  for (int v = 0; v < vectors; ++v) {
    for (int r = 0; r < R; ++r) store_n(t.c + r * t.c_stride + v * W, acc[r][v], v + 1 < vectors ? W : t.last);
  }
}

/// rows in 1 .. few.
template <class T>
void multiply_lines(int rows, int vectors, const Tile& t) {
  if (rows == 1) multiply_lines_tile<1, T>(t, vectors);
  else if (rows == 2) multiply_lines_tile<2, T>(t, vectors);
  else if (rows == 3) multiply_lines_tile<3, T>(t, vectors);
  else multiply_lines_tile<4, T>(t, vectors);
}
static_assert(few == 4 && few <= MR, "multiply_lines() knows up to four rows");

using Multiply = void (*)(int rows, int vectors, const Tile& t);

// Packing -------------------------------------------------------------------------------------------------------------

/// `count` lines of a matrix beside one another: line i at step k is data[i * line_stride + k * step_stride].
struct Lines {
  const void* data;
  DType dtype;
  int64_t line_stride, step_stride;
  int64_t count;  // lines that exist from here on, at least 1; more than are wanted is fine
};

Lines rows_of(const Matrix& a, int64_t row, int64_t m, int64_t k) {
  const int64_t offset = (row * a.row_stride + k * a.column_stride) * element_bytes(a.dtype);
  return {static_cast<const char*>(a.data) + offset, a.dtype, a.row_stride, a.column_stride, m - row};
}

Lines columns_of(const Matrix& b, int64_t column, int64_t n, int64_t k) {
  const int64_t offset = (k * b.row_stride + column * b.column_stride) * element_bytes(b.dtype);
  return {static_cast<const char*>(b.data) + offset, b.dtype, b.column_stride, b.row_stride, n - column};
}

/// What is packed: `lines` lines in strips of `strip` (the last one of width round_up(rest, quantum)), `steps` steps.
/// Strip s starts at to + s * strip * steps and holds to[step * width + line].
struct Packing {
  int64_t lines, strip, quantum, steps;
  float* to;
  int64_t width(int64_t first) const { return round_up(smaller(strip, lines - first), quantum); }
};

/// Steps are contiguous: blocks of W lines by W steps are transposed in registers.
template <class T>
void pack_transposed(const Lines& from, const Packing& p, int64_t first) {
  const T* data = static_cast<const T*>(from.data);
  const int64_t width = p.width(first);
  for (int64_t at = 0; at < width; at += W) {
    const T* line[W];
    for (int i = 0; i < W; ++i) line[i] = data + smaller(first + at + i, from.count - 1) * from.line_stride;
    for (int64_t k = 0; k < p.steps; k += W) {
      const int n = static_cast<int>(smaller(W, p.steps - k));
      V r[W];
      if (n == W) {
        WS_UNROLL
        for (int i = 0; i < W; ++i) r[i] = load(line[i] + k);
      } else {
        for (int i = 0; i < W; ++i) r[i] = load_n(line[i] + k, n);
      }
      transpose(r);
      float* out = p.to + first * p.steps + k * width + at;
      if (n == W) {
        WS_UNROLL
        for (int j = 0; j < W; ++j) store(out + j * width, r[j]);
      } else {
        for (int j = 0; j < n; ++j) store(out + j * width, r[j]);
      }
    }
  }
}

/// Lines are contiguous: vectors of one strip are copied, steps [begin, end). A whole vector may reach into the next
/// step, which is written later; the last step may not, the next strip is there already.
template <class T>
void pack_copied(const Lines& from, const Packing& p, int64_t first, int64_t begin, int64_t end) {
  const int64_t width = p.width(first), whole = end == p.steps ? end - 1 : end;
  for (int64_t at = 0; at < width; at += W) {
    const T* in = static_cast<const T*>(from.data) + first + at;
    float* out = p.to + first * p.steps + at;
    const int n = static_cast<int>(smaller(W, from.count - first - at));
    if (n == W) {
      for (int64_t k = begin; k < whole; ++k) store(out + k * width, load(in + k * from.step_stride));
    } else {
      for (int64_t k = begin; k < whole; ++k) store(out + k * width, load_n(in + k * from.step_stride, n));
    }
    if (whole == end) continue;
    store_n(out + whole * width, load_n(in + whole * from.step_stride, n), static_cast<int>(smaller(W, width - at)));
  }
}

template <class T>
void pack_any(const Lines& from, const Packing& p, int64_t first) {
  const T* data = static_cast<const T*>(from.data);
  const int64_t width = p.width(first);
  float* out = p.to + first * p.steps;
  for (int64_t k = 0; k < p.steps; ++k) {
    for (int64_t i = 0; i < width; ++i) {
      const int64_t line = smaller(first + i, from.count - 1);
      out[k * width + i] = to_float(data[line * from.line_stride + k * from.step_stride]);
    }
  }
}

template <class T>
void pack_as(const Lines& from, const Packing& p) {
  if (from.step_stride == 1) {
    for (int64_t first = 0; first < p.lines; first += p.strip) pack_transposed<T>(from, p, first);
  } else if (from.line_stride == 1) {
    // A few steps of all strips at a time: memory is read along its rows.
    for (int64_t k = 0; k < p.steps; k += 8) {
      for (int64_t first = 0; first < p.lines; first += p.strip) {
        pack_copied<T>(from, p, first, k, smaller(k + 8, p.steps));
      }
    }
  } else {
    for (int64_t first = 0; first < p.lines; first += p.strip) pack_any<T>(from, p, first);
  }
}

/// Packs to f32. Writes up to W floats past the end.
void pack(const Lines& from, const Packing& p) {
  if (from.dtype == DType::f32) pack_as<float>(from, p);
  else pack_as<bf16>(from, p);
}

// The grid ------------------------------------------------------------------------------------------------------------

/// How a shape is cut. Depends on the shape alone.
struct Plan {
  int64_t mc, nc;              // rows and columns of a task's tile
  int64_t m_tiles, n_tiles;
  bool shared_b;               // B is packed once, before the tiles
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

Plan plan_of(GemmShape s) {
  const int64_t panels = round_up(s.n, NR) * s.k;
  Plan p;
  // Steps beyond a thousand are tokens of a weight gradient; there B is read in place.
  p.shared_b = s.m > MC && s.k <= 1024 && panels <= (1 << 20);
  const int64_t wanted = tiles_wanted(s, p.shared_b || s.m <= MR);
  p.mc = smaller(MC, round_up(s.m, MR));
  p.nc = smaller(NC, round_up(s.n, NR));
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
  p.shared_floats = p.shared_b ? panels + 16 : 0;
  p.a_floats = round_up(p.mc * kc + W, 16);
  p.b_floats = p.shared_b ? 0 : round_up(p.nc * kc + W, 16);
  p.c_floats = round_up(p.mc * p.nc, 16);
  return p;
}

/// One call, as its tasks see it.
struct Product {
  GemmShape s;
  Matrix a, b;
  Result c;
  bool accumulate;
  Plan plan;
  float* shared;  // packed panels of B: panel p starts at p * NR * k
  float* workers;
};

/// The part of a product that one task computes at one block of k.
struct Block {
  int64_t row, rows, column, columns;
  int64_t k, steps;
  float *packed_a, *packed_b, *partials;
};

int vectors_of(int64_t columns) { return columns > W ? NV : 1; }

/// Where a task finds its panels of B: packed for all, packed for it, in rows of the matrix (read in place), or in
/// columns of it (transposed on the way, for few rows).
enum class Source { shared, packed, in_place, lines };

Source source_of(const Product& g, const Block& block) {
  if (g.plan.shared_b) return Source::shared;
  if (block.rows <= few && g.b.row_stride == 1) return Source::lines;
  if (g.b.column_stride == 1) return Source::in_place;
  return Source::packed;
}

/// Sets b and b_stride of the tile for the panel at `column`; gives the loop that reads it.
Multiply choose_panel(const Product& g, const Block& block, Source source, int64_t column, Tile& tile) {
  const int64_t width = vectors_of(g.s.n - column) * W;
  const Lines lines = columns_of(g.b, column, g.s.n, block.k);
  const bool f32 = g.b.dtype == DType::f32;
  tile.b_stride = width;
  if (source == Source::shared) {
    tile.b = g.shared + column * g.s.k + block.k * width;
    return multiply<float>;
  }
  if (source == Source::lines) {
    tile.b = lines.data;
    tile.b_stride = lines.line_stride;
    return f32 ? multiply_lines<float> : multiply_lines<bf16>;
  }
  if (source == Source::in_place && lines.count >= width) {
    tile.b = lines.data;
    tile.b_stride = lines.step_stride;
    return f32 ? multiply<float> : multiply<bf16>;
  }
  float* panel = block.packed_b + (column - block.column) * block.steps;
  if (source == Source::in_place) pack(lines, {lines.count, NR, W, block.steps, panel});
  tile.b = panel;
  return multiply<float>;
}

/// Rounds finished partials to the bf16 result.
void store_bf16(const Product& g, const Tile& t, int64_t row, int rows, int64_t column) {
  bf16* out = static_cast<bf16*>(g.c.data) + row * g.c.stride + column;
  const bool two = g.s.n - column > W;
  for (int r = 0; r < rows; ++r, out += g.c.stride) {
    const float* in = t.c + r * t.c_stride;
    if (two) store(out, load(in));
    const int64_t done = two ? W : 0;
    if (t.last == W) store(out + done, load(in + done));
    else store_n(out + done, load_n(in + done, t.last), t.last);
  }
}

void multiply_panel(const Product& g, const Block& block, Source source, int64_t column) {
  Tile t;
  const Multiply multiply_some = choose_panel(g, block, source, column, t);
  const bool f32 = g.c.dtype == DType::f32, ends = block.k + block.steps == g.s.k;
  const int vectors = vectors_of(g.s.n - column);
  t.last = static_cast<int>(smaller(W, g.s.n - column - (vectors - 1) * W));
  t.k = block.steps;
  t.c_stride = f32 ? g.c.stride : g.plan.nc;
  const bool start = block.k == 0 && !g.accumulate;
  for (int64_t row = 0; row < block.rows; row += MR) {
    const int rows = static_cast<int>(smaller(MR, block.rows - row));
    t.a = block.packed_a + row * block.steps;
    t.c = f32 ? static_cast<float*>(g.c.data) + (block.row + row) * g.c.stride + column
              : block.partials + row * g.plan.nc + column - block.column;
    t.from = start ? nullptr : t.c;
    multiply_some(rows, vectors, t);
    if (!f32 && ends) store_bf16(g, t, block.row + row, rows, column);
  }
}

void multiply_block(const Product& g, const Block& block) {
  pack(rows_of(g.a, block.row, g.s.m, block.k), {block.rows, MR, 1, block.steps, block.packed_a});
  const Source source = source_of(g, block);
  if (source == Source::packed) {
    pack(columns_of(g.b, block.column, g.s.n, block.k), {block.columns, NR, W, block.steps, block.packed_b});
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
  for (block.k = 0; block.k < g.s.k; block.k += KC) {
    block.steps = smaller(KC, g.s.k - block.k);
    multiply_block(g, block);
  }
}

/// Packs all of B, some panels a task.
void pack_shared(Runtime& rt, const Product& g) {
  const int64_t each = NR * (1 + (1 << 16) / (NR * g.s.k));
  parallel_for(rt, (g.s.n + each - 1) / each, [&](int64_t task, int) {
    const int64_t column = task * each;
    pack(columns_of(g.b, column, g.s.n, 0), {smaller(each, g.s.n - column), NR, W, g.s.k, g.shared + column * g.s.k});
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
  const Plan p = plan_of(shape);
  return 4 * (p.shared_floats + rt.threads() * p.worker_floats());
}

void gemm(Runtime& rt, GemmShape shape, Matrix a, Matrix b, Result c, bool accumulate, void* scratch) {
  if (shape.m <= 0 || shape.n <= 0) return;
  if (shape.k <= 0) {
    if (!accumulate) clear(c, shape);
    return;
  }
  Product g = {shape, a, b, c, accumulate, plan_of(shape), static_cast<float*>(scratch), nullptr};
  g.workers = g.shared + g.plan.shared_floats;
  if (g.plan.shared_b) pack_shared(rt, g);
  parallel_for(rt, g.plan.m_tiles * g.plan.n_tiles,
               [&](int64_t task, int worker) { multiply_task(g, task, worker); });
}

}  // namespace ws::WS_NS
