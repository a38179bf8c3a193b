// The small matrix products of attention: a register tile over operands that a task packed into its caches, and the
// packing. Vectors run over rows of queries (scores, outputs) or over channels (gradients of keys), never along the inner sum.
// Included by attention's kernel files only.
//
// What must stay: an element of C is one chain c = multiply_add(a[k], b[k], c), k ascending, whatever tile it lies in;
// for bf16 on WS_LEVEL 4 a step is the pair of gemm_step.h, else one element. bf16 on WS_LEVEL 5 goes by the tiles of
// attention_amx.h, whose link is a group of 32 elements, counted from the start of the operands.
#pragma once
#include <type_traits>

#include "gemm_step.h"
#if WS_LEVEL >= 5
#include "attention_amx.h"
#endif

namespace ws::WS_NS {

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

/// The register tile: tile_m x tile_n vectors.
constexpr int tile_m = WS_LEVEL >= 3 ? 8 : 4;
constexpr int tile_n = WS_LEVEL >= 2 ? 3 : 2;

/// How matrices of T are multiplied: Source reads them, Unit (four bytes) is what packed memory holds for a step.
template <class T>
struct Steps {
  using Source = Singles<T>;
  using Unit = float;
  static constexpr int per = 1;                // elements of a step
  static constexpr int group = 1;              // steps that are added at once
  static constexpr int keys = tile_m;          // keys are worked on in multiples of this
  static constexpr int columns = tile_n * W;   // of a tile of query rows
};
#if WS_LEVEL == 4
template <>
struct Steps<bf16> : Steps<float> {
  using Source = Pairs;
  using Unit = Pair;
  static constexpr int per = 2;
};
#elif WS_LEVEL == 5
template <>
struct Steps<bf16> {
  using Source = PairsInOrder;
  using Unit = Pair;
  static constexpr int per = 2, group = 16, keys = 32, columns = 32;
};
#endif
template <class T>
constexpr bool by_tiles = Steps<T>::group > 1;

/// What a task that multiplies matrices of T holds while it runs.
struct NoTiles {
  explicit NoTiles(int = 16) {}
  void expect(int) {}
};
#if WS_LEVEL >= 5
template <class T>
using TilesFor = std::conditional_t<by_tiles<T>, TileTask, NoTiles>;
#else
template <class T>
using TilesFor = NoTiles;
#endif

template <class T>
static inline int64_t steps_for(int64_t elements) {
  return round_up((elements + Steps<T>::per - 1) / Steps<T>::per, Steps<T>::group);
}

/// Where the chains of a product start: at zero, at C, or at C times a factor per column.
enum class Start { zero, sum, scaled };

/// C[m][n] from a[m * a_row + k * a_step] and b[k * b_step + n], all counted in units.
struct Operands {
  const void* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_step;
  float* c;
  int64_t c_row;
  int64_t steps;
  const float* factors;  // for Start::scaled
};

/// Along: rows of a are apart and steps neighbours; else rows are neighbours. Not inlined: it wants all registers.
template <class Unit, Start start, int N, bool Along>
[[gnu::noinline]] static void register_tile(const Operands& operands) {
  const Operands t = operands;
  V acc[tile_m][N];
  WS_UNROLL
  for (int m = 0; m < tile_m; ++m) {
    WS_EACH(N) acc[m][i] = start == Start::zero ? zero() : load(t.c + m * t.c_row + i * W);
  }
  if (start == Start::scaled) {
    WS_UNROLL
    for (int m = 0; m < tile_m; ++m) WS_EACH(N) acc[m][i] = mul(acc[m][i], load(t.factors + i * W));
  }
  const Unit* a = static_cast<const Unit*>(t.a);
  const Unit* b = reinterpret_cast<const Unit*>(t.b);
  const int64_t row = Along ? t.a_row : 1, row3 = 3 * row;
  WS_UNROLL_BY_4
  for (int64_t k = t.steps; k > 0; --k) {
    V x[N];
    WS_EACH(N) x[i] = load(b + i * W);
    WS_UNROLL
    for (int m = 0; m < tile_m; m += 4) {
      const Unit* four = m ? a + 4 * row : a;
      const Unit* rows[4] = {four, four + row, four + 2 * row, four + row3};
      WS_UNROLL
      for (int r = 0; r < 4; ++r) {
        const V factor = set1(*rows[r]);
        WS_EACH(N) acc[m + r][i] = multiply_add(Unit(), factor, x[i], acc[m + r][i]);
      }
    }
    a += Along ? 1 : t.a_step;
    b += t.b_step;
  }
  WS_UNROLL
  for (int m = 0; m < tile_m; ++m) WS_EACH(N) store(t.c + m * t.c_row + i * W, acc[m][i]);
}
static_assert(tile_m % 4 == 0);

template <class Unit, Start start, int N, bool Along>
static inline void tile_rows_of(Operands t, int64_t rows) {
  for (int64_t m = 0; m < rows; m += tile_m) {
    register_tile<Unit, start, N, Along>(t);
    t.a = static_cast<const Unit*>(t.a) + tile_m * t.a_row;
    t.c += tile_m * t.c_row;
  }
}

/// C of `rows` rows (a multiple of tile_m) and `vectors` vectors. Along: a_step is 1; else a_row is.
template <class Unit, Start start, bool Along>
  requires(WS_LEVEL < 5 || std::is_same_v<Unit, float>)
static inline void product(Operands t, int64_t rows, int64_t vectors) {
  while (vectors > 0) {
    // Four vectors are two and two: a tile of one vector is slow.
    const int n = vectors >= tile_n && vectors != 4 ? tile_n : vectors >= 2 ? 2 : 1;
    if (n == 1) tile_rows_of<Unit, start, 1, Along>(t, rows);
    else if (n == 2) tile_rows_of<Unit, start, 2, Along>(t, rows);
    else tile_rows_of<Unit, start, tile_n, Along>(t, rows);
    vectors -= n;
    t.b += n * W;
    t.c += n * W;
    t.factors += start == Start::scaled ? n * W : 0;
  }
}

#if WS_LEVEL >= 5
/// C times a factor per column, unless all factors are one.
static inline void scale_columns(const Operands& t, int64_t rows, int64_t vectors) {
  for (int64_t i = 0; i < W * vectors; i += W) {
    const V factor = load(t.factors + i);
    if (_mm512_cmp_ps_mask(factor.v, set1(1.0f).v, _CMP_NEQ_UQ) == 0) continue;
    for (int64_t m = 0; m < rows; m += 8) {
      float* at = t.c + m * t.c_row + i;
      WS_UNROLL
      for (int r = 0; r < 8; ++r, at += t.c_row) store(at, mul(load(at), factor));
    }
  }
}

/// The same by tiles; the task holds a TileTask. rows and 16 * vectors are multiples of 16, t.steps of 16.
template <class Unit, Start start, bool Along>
  requires std::is_same_v<Unit, Pair>
static inline void product(Operands t, int64_t rows, int64_t vectors) {
  static_assert(Along, "rows of A are tiles");
  if constexpr (start == Start::scaled) scale_columns(t, rows, vectors);
  const TileBlock block = {static_cast<const char*>(t.a), reinterpret_cast<const char*>(t.b),
                           reinterpret_cast<char*>(t.c),  4 * t.a_row,
                           4 * t.b_step,                  4 * t.c_row,
                           64 * t.b_step,                 t.steps / 16};
  multiply_blocks<start == Start::zero>(block, rows, 16 * vectors);
}
#endif

// Packing -------------------------------------------------------------------------------------------------------------

/// to[step] = the steps of one row, zeros up to whole vectors; a row that does not exist (null) is zero.
template <class T>
static inline void pack_row(const T* x, int64_t dim, float* to) {
  constexpr int64_t whole = W * Steps<T>::per;
  int64_t d = 0;
  for (; d + whole <= dim && x; d += whole, to += W) store(to, Steps<T>::Source::along(x + d));
  for (; d < dim; d += whole, to += W) store(to, x ? Steps<T>::Source::along(x + d, at_most(whole, dim - d)) : zero());
}

/// to[step * stride + i] = step of row i, for the W rows x[i] (null: zero). Steps beyond dim are zero.
template <class T>
static inline void pack_columns(const T* const* x, int64_t dim, int64_t stride, float* to) {
  constexpr int64_t per = Steps<T>::per, whole = W * per;
  const int64_t steps = steps_for<T>(dim);
  for (int64_t step = 0; step < steps; step += W) {
    const int64_t d = step * per;
    V r[W];
    for (int i = 0; i < W; ++i) {
      if (!x[i]) r[i] = zero();
      else r[i] = d + whole <= dim ? Steps<T>::Source::along(x[i] + d) : Steps<T>::Source::along(x[i] + d, dim - d);
    }
    transpose(r);
    for (int64_t j = 0; j < at_most(W, steps - step); ++j) store(to + (step + j) * stride, r[j]);
  }
}

/// to[channel] = the step that rows x and y (its successor; both may be null) make together, `padded` channels.
template <class T>
static inline void pack_together(const T* x, const T* y, int64_t dim, int64_t padded, float* to) {
  const int64_t next = y ? y - x : 0;
  for (int64_t d = 0; d < padded; d += W) {
    const int64_t n = at_most(W, dim - d);
    V r = zero();
    if (x && n == W) r = Steps<T>::Source::across(x + d, next, y != nullptr);
    else if (x && n > 0) r = Steps<T>::Source::across(x + d, next, y != nullptr, static_cast<int>(n));
    store(to + d, r);
  }
}

/// to[channel * stride + i / per], for W steps of keys i: the rows x[i] (null: zero) as columns, `padded` channels.
template <class T>
static inline void pack_across(const T* const* x, int64_t dim, int64_t padded, int64_t stride, float* to) {
  constexpr int per = Steps<T>::per;
  for (int64_t d = 0; d < padded; d += W) {
    const int n = static_cast<int>(at_most(W, dim - d));
    V r[W];
    for (int i = 0; i < W; ++i) {
      const T *first = x[per * i], *last = x[per * i + per - 1];
      const int64_t next = last ? last - first : 0;
      if (!first) r[i] = zero();
      else if (n == W) r[i] = Steps<T>::Source::across(first + d, next, last != nullptr);
      else r[i] = Steps<T>::Source::across(first + d, next, last != nullptr, n);
    }
    transpose(r);
    for (int i = 0; i < W; ++i) store(to + (d + i) * stride, r[i]);
  }
}

// Rounding to steps ---------------------------------------------------------------------------------------------------

/// The step that the columns x (earlier) and y make together.
static inline V together(float, V x, V) { return x; }
/// The steps that neighbouring columns of x make, the earlier with the later.
static inline void store_steps(float, float* to, V x) { store(to, x); }
#if WS_LEVEL >= 4
/// 32 numbers rounded to bf16, x before y.
static inline __m512i round_two(V x, V y) { return (__m512i)_mm512_cvtne2ps_pbh(y.v, x.v); }
static inline V together(Pair, V x, V y) {
  // Words of x and y in turn, those of x in the half of the earlier element.
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return pairs(_mm512_permutexvar_epi16(order, WS_LEVEL == 4 ? round_two(y, x) : round_two(x, y)));
}
static inline void store_steps(Pair, float* to, V x) {
  const __m256i row = (__m256i)_mm512_cvtneps_pbh(x.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), WS_LEVEL == 4 ? _mm256_rol_epi32(row, 16) : row);
}
#endif

}  // namespace ws::WS_NS
