// The small matrix products of attention: a register tile over operands that a task packed into its caches, and the
// packing. Vectors run over rows of queries (scores, outputs) or over channels (gradients of keys), never along the inner sum.
// Included by attention's kernel files only.
//
// What must stay: an element of C is one chain c = multiply_add(a[k], b[k], c), k ascending, whatever tile it lies in;
// for bf16 on WS_LEVEL 4 a step is the pair of gemm_step.h, else one element.
#pragma once
#include "gemm_step.h"

namespace ws::WS_NS {

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

/// How matrices of T are multiplied: Source reads them, Unit (four bytes) is what packed memory holds for a step.
template <class T>
struct Steps {
  using Source = Singles<T>;
  using Unit = float;
  static constexpr int per = 1;
};
#if WS_LEVEL == 4
template <>
struct Steps<bf16> {
  using Source = Pairs;
  using Unit = Pair;
  static constexpr int per = 2;
};
#endif

template <class T>
static inline int64_t steps_for(int64_t elements) {
  return (elements + Steps<T>::per - 1) / Steps<T>::per;
}

/// The register tile: tile_m x tile_n vectors.
constexpr int tile_m = WS_LEVEL >= 3 ? 8 : 4;
constexpr int tile_n = WS_LEVEL >= 2 ? 3 : 2;
constexpr int tile_columns = tile_n * W;

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

// Packing -------------------------------------------------------------------------------------------------------------

/// to[step] = the steps of one row, zeros up to whole vectors; a row that does not exist (null) is zero.
template <class T>
static inline void pack_row(const T* x, int64_t dim, float* to) {
  constexpr int64_t whole = W * Steps<T>::per;
  int64_t d = 0;
  for (; d + whole <= dim && x; d += whole, to += W) store(to, Steps<T>::Source::along(x + d));
  for (; d < dim; d += whole, to += W) store(to, x ? Steps<T>::Source::along(x + d, at_most(whole, dim - d)) : zero());
}

/// to[step * stride + i] = step of row i, for the W rows x[i] (null: zero).
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

// Rounding to steps ---------------------------------------------------------------------------------------------------

/// The step that the columns x (earlier) and y make together.
static inline V together(float, V x, V) { return x; }
/// The steps that neighbouring columns of x make, the earlier with the later.
static inline void store_steps(float, float* to, V x) { store(to, x); }
#if WS_LEVEL == 4
static inline V together(Pair, V x, V y) {
  const __m512i order = _mm512_set_epi16(15, 31, 14, 30, 13, 29, 12, 28, 11, 27, 10, 26, 9, 25, 8, 24, 7, 23, 6, 22, 5,
                                         21, 4, 20, 3, 19, 2, 18, 1, 17, 0, 16);
  return pairs(_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(y.v, x.v)));
}
static inline void store_steps(Pair, float* to, V x) {
  const __m256i row = (__m256i)_mm512_cvtneps_pbh(x.v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_rol_epi32(row, 16));
}
#endif

}  // namespace ws::WS_NS
