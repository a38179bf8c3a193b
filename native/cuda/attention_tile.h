// A strip of attention on a GPU: rows of a tile in shared memory and the two products over them, for every pass.
// Included by kernel files only.
//
// A warp has 16 rows, a strip. It meets 32 others (keys, or in backward queries) at a time: 16 x 32 numbers in the
// layout of mma fragments, for bf16 and f32 alike, so that all but the two products is written once. Number [j][e] of a
// lane is row lane / 4 + 8 (e / 2), column 8 j + 2 (lane % 4) + e % 2; a strip of sums is alike, with more columns.
#pragma once
#include "vectors.h"

namespace ws::cuda {

using f32 = float;  // for the names of kernels

constexpr int key_block = 32;
constexpr int strip = 16;

WS_DEVICE int at_most(int a, int b) { return a < b ? a : b; }
WS_DEVICE int at_least(int a, int b) { return a > b ? a : b; }
WS_DEVICE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

// Rows in shared memory ----------------------------------------------------------------------------------------------

/// Bytes from row to row: an odd number of 16-byte pieces, so that eight rows read together lie in different banks.
template <class T, int columns>
constexpr int pitch = columns * static_cast<int>(sizeof(T)) + 16;

/// f(row, column) for the pieces of 16 bytes of `rows` rows; a thread, `own` of `threads`, stays in its column. All come.
template <int unroll, int pieces, int threads, class F>
WS_DEVICE void each_piece(int own, int rows, F f) {
  constexpr int wide = pieces <= 4 ? 4 : pieces <= 8 ? 8 : pieces <= 16 ? 16 : pieces <= 32 ? 32 : 64;
  constexpr int across = wide < threads ? wide : threads;
  static_assert(pieces <= wide && threads % across == 0);
  for (int column = own % across; column < pieces; column += across) {
    WS_UNROLL_BY(unroll)
    for (int row = own / across; row < rows; row += threads / across) f(row, column);
  }
}

/// `rows` rows of `columns` elements, of which `dim` exist, from each of n tensors to the places that
/// place(tensor, row, piece) tells. offset_of gives where a row begins in all of them, a multiple of dim; negative: zeros.
template <class T, int columns, int threads, int unroll, int n, class F, class Place>
WS_DEVICE void stage_pieces(const T* const (&from)[n], int own, int rows, int dim, F offset_of, Place place) {
  constexpr int size = static_cast<int>(sizeof(T)), piece = 16 / size, pieces = columns / piece;
  bool fits = dim % piece == 0;
  for (int i = 0; i < n; ++i) fits = fits && aligned(from[i]);
  if (fits) {
    each_piece<unroll, pieces, threads>(own, rows, [&](int row, int column) {
      const int64_t offset = offset_of(row);
      const int bytes = offset >= 0 && column * piece < dim ? 16 : 0;
      WS_UNROLL
      for (int i = 0; i < n; ++i)
        copy_async(place(i, row, column), from[i] + (bytes > 0 ? offset + column * piece : 0), bytes);
    });
    return;
  }
  each_piece<1, pieces, threads>(own, rows, [&](int row, int column) {
    const int64_t offset = offset_of(row);
    for (int i = 0; i < n * piece; ++i) {
      const int tensor = i / piece, at = column * piece + i % piece;
      T* to = reinterpret_cast<T*>(place(tensor, row, column)) + i % piece;
      *to = offset >= 0 && at < dim ? from[tensor][offset + at] : T{};
    }
  });
}

/// The same by all threads, rows a pitch apart, the parts of the n tensors part_bytes.
template <class T, int columns, int threads, int n, class F>
WS_DEVICE void stage_rows(const T* const (&from)[n], char* to, int part_bytes, int rows, int dim, F offset_of) {
  stage_pieces<T, columns, threads, 4>(from, thread(), rows, dim, offset_of, [=](int tensor, int row, int piece) {
    return to + tensor * part_bytes + row * pitch<T, columns> + piece * 16;
  });
}

/// Sums of a strip times `factor`, one per row, to shared memory. The warp's rows from `to` on.
template <class T, int columns, int n>
WS_DEVICE void park(char* to, int first_column, const float (&sums)[n][4], const float (&factor)[2]) {
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int half = 0; half < 2; ++half) {
      T* at = reinterpret_cast<T*>(to + (lane() / 4 + 8 * half) * pitch<T, columns>);
      at += first_column + 8 * j + lane() % 4 * 2;
      at[0] = rounded<T>(sums[j][2 * half] * factor[half]);
      at[1] = rounded<T>(sums[j][2 * half + 1] * factor[half]);
    }
  }
}

/// Rows of `pieces` pieces of 16 bytes at place(row, piece) to global memory; of their elements `dim` exist. Thread `own`
/// of `threads`.
template <class T, int pieces, class Place, class F>
WS_DEVICE void store_pieces(int rows, int dim, int own, int threads, Place place, F row_of) {
  constexpr int piece = 16 / static_cast<int>(sizeof(T));
  WS_UNROLL_BY(2)
  for (int at = own; at < rows * pieces; at += threads) {
    const int row = at / pieces, column = at % pieces * piece, left = dim - column;
    const char* from = place(row, at % pieces);
    T* to = row_of(row) + column;
    if (left >= piece && aligned(to)) {
      *reinterpret_cast<Quad*>(to) = *reinterpret_cast<const Quad*>(from);
    } else {
      for (int i = 0; i < at_most(left, piece); ++i) to[i] = reinterpret_cast<const T*>(from)[i];
    }
  }
}

/// What is parked to global memory: `width` columns from `from` on, of which `dim` exist; thread `own` of `threads`.
template <class T, int columns, int width, class F>
WS_DEVICE void unpark(const char* from, int rows, int dim, int own, int threads, F row_of) {
  store_pieces<T, width * static_cast<int>(sizeof(T)) / 16>(
      rows, dim, own, threads, [=](int row, int piece) { return from + row * pitch<T, columns> + piece * 16; }, row_of);
}

// Products -----------------------------------------------------------------------------------------------------------

/// The 16 rows of a strip as the left side of products; with `held` bf16 fragments stay in registers.
template <class T, int columns, bool held>
struct Left {
  const char* rows;
  WS_DEVICE void read(const char* from) { rows = from; }
  WS_DEVICE void fragment(int step, uint32_t (&a)[4]) const {
    load_matrix4(a, rows + lane() % 16 * pitch<T, columns> + (2 * step + lane() / 16) * 16);
  }
};
template <int columns>
struct Left<bf16, columns, true> {
  uint32_t at[columns / 16][4];
  WS_DEVICE void read(const char* from) {
    const Left<bf16, columns, false> rows = {from};
    WS_UNROLL
    for (int step = 0; step < columns / 16; ++step) rows.fragment(step, at[step]);
  }
  WS_DEVICE void fragment(int step, uint32_t (&a)[4]) const {
    WS_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = at[step][i];
  }
};

WS_DEVICE void multiply_pair(float (&c)[4], const uint32_t (&a)[2][4], const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  multiply16x8x16(c, a[0], first);
  multiply16x8x16(c, a[1], second);
}

template <int n>
WS_DEVICE void clear(float (&s)[n][4]) {
  WS_UNROLL
  for (int j = 0; j < n; ++j) {
    WS_UNROLL
    for (int e = 0; e < 4; ++e) s[j][e] = 0.0f;
  }
}

/// s = left times the transpose of 32 rows, both along `columns`.
template <int columns, bool held>
WS_DEVICE void multiply_rows(const Left<bf16, columns, held>& left, const char* right, float (&s)[4][4]) {
  clear(s);
  WS_UNROLL_BY((held ? columns / 32 : 1))  // fragments in registers want constant steps
  for (int step = 0; step < columns / 32; ++step) {
    uint32_t a[2][4];
    left.fragment(2 * step, a[0]);
    left.fragment(2 * step + 1, a[1]);
    WS_UNROLL
    for (int j = 0; j < 4; ++j) {
      uint32_t b[4];
      load_matrix4(b, right + (8 * j + lane() % 8) * pitch<bf16, columns> + (4 * step + lane() / 8) * 16);
      multiply_pair(s[j], a, b);
    }
  }
}

struct alignas(16) Four {
  float at[4];
};
struct alignas(8) Two {
  float at[2];
};

WS_DEVICE Four four_of(const char* p) { return *reinterpret_cast<const Four*>(p); }
WS_DEVICE Two two_of(const char* p) { return *reinterpret_cast<const Two*>(p); }

template <int columns, bool held>
WS_DEVICE void multiply_rows(const Left<float, columns, held>& left, const char* right, float (&s)[4][4]) {
  constexpr int row = pitch<float, columns>;
  const char* own = left.rows + lane() / 4 * row;
  clear(s);
  WS_UNROLL_BY(2)
  for (int d = 0; d < columns; d += 4) {
    const Four a[2] = {four_of(own + 4 * d), four_of(own + 8 * row + 4 * d)};
    WS_UNROLL
    for (int j = 0; j < 4; ++j) {
      WS_UNROLL
      for (int e = 0; e < 2; ++e) {
        const Four b = four_of(right + (8 * j + lane() % 4 * 2 + e) * row + 4 * d);
        WS_UNROLL
        for (int i = 0; i < 4; ++i) {
          s[j][e] = fused(a[0].at[i], b.at[i], s[j][e]);
          s[j][2 + e] = fused(a[1].at[i], b.at[i], s[j][2 + e]);
        }
      }
    }
  }
}

/// Numbers of a block that rows lane / 4 and lane / 4 + 8 see: columns [low, high).
struct Seen {
  int low[2], high[2];
  WS_DEVICE bool sees(int half, int column) const { return column >= low[half] && column < high[half]; }
  /// Does a row of the warp see only some of the columns?
  WS_DEVICE bool mixed() const {
    return ballot(low[0] > 0 || low[1] > 0 || high[0] < key_block || high[1] < key_block) != 0;
  }
};

/// Left side of a product from 16 x 32 numbers, rounded.
WS_DEVICE void pack_left(const float (&s)[4][4], uint32_t (&a)[2][4]) {
  WS_UNROLL
  for (int step = 0; step < 2; ++step) {
    WS_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float(&from)[4] = s[2 * step + i / 2];
      a[step][i] = pack_bf16(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
  }
}

WS_DEVICE bool finite_bits(uint32_t half) { return (half & 0x7f80u) != 0x7f80u; }

/// Zeros for infinities and NaN; true when there were any.
WS_DEVICE bool clean(uint32_t (&b)[4]) {
  bool found = false;
  WS_UNROLL
  for (int r = 0; r < 4; ++r) {
    const uint32_t keep = (finite_bits(b[r]) ? 0xffffu : 0u) | (finite_bits(b[r] >> 16) ? 0xffff0000u : 0u);
    found = found || keep != 0xffffffffu;
    b[r] &= keep;
  }
  return found;
}

/// s[j][e] for a j that is known at run time only.
WS_DEVICE float number_at(const float (&s)[4][4], int j, int e) {
  float x = 0.0f;
  WS_UNROLL
  for (int i = 0; i < 4; ++i) {
    const float other = e == 0 ? s[i][0] : e == 1 ? s[i][1] : e == 2 ? s[i][2] : s[i][3];
    x = j == i ? other : x;
  }
  return x;
}

/// f(row of `right`, numbers of this lane's two rows there) for each of 32, by shuffles. Rolled up: f is long.
template <class F>
WS_DEVICE void each_row(const float (&s)[4][4], F f) {
  WS_UNROLL_BY(1)
  for (int row = 0; row < key_block; ++row) {
    const int from = (lane() & ~3) | (row % 8 / 2);
    const float upper = shuffle(number_at(s, row / 8, row % 2), from);
    f(row, upper, shuffle(number_at(s, row / 8, row % 2 + 2), from));
  }
}

/// What multiply_across() has left out: infinities and NaN reach those rows alone that see them. Rare, hence small.
template <int columns, int n>
WS_DEVICE void add_strange(const float (&s)[4][4], const char* right, const Seen& seen, float (&sums)[n][4]) {
  each_row(s, [&](int row, float upper, float lower) {
    const float p[2] = {upper, lower};
    const bool sees[2] = {seen.sees(0, row), seen.sees(1, row)};
    const char* place = right + row * pitch<bf16, columns> + lane() % 4 * 4;
    WS_UNROLL
    for (int i = 0; i < n; ++i) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(place + 16 * i);
      const float x[2] = {low_bf16(pair), high_bf16(pair)};
      WS_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (sees[e / 2] && !finite_bits(e % 2 == 0 ? pair : pair >> 16)) sums[i][e] += p[e / 2] * x[e % 2];
      }
    }
  });
}

/// sums += s times 32 rows from `right` on, n x 8 columns. Rows that see only some of them add only those: a number
/// that is hidden from a row has s = 0 there, and what it is, even NaN, does not matter. Not `mixed`: all that is
/// hidden from one row is hidden from all, and zero.
template <int columns, int n>
WS_DEVICE void multiply_across(bf16, const float (&s)[4][4], const char* right, bool mixed, const Seen& seen,
                               float (&sums)[n][4]) {
  uint32_t a[2][4];
  pack_left(s, a);
  const char* row = right + lane() * pitch<bf16, columns>;
  bool strange = false;
  WS_UNROLL
  for (int i = 0; i < n; ++i) {
    uint32_t b[4];
    load_matrix4_transposed(b, row + 16 * i);
    if (mixed) strange = clean(b) || strange;
    multiply_pair(sums[i], a, b);
  }
  if (mixed && ballot(strange) != 0) add_strange<columns>(s, right, seen, sums);
}

template <int columns, int n>
WS_DEVICE void multiply_across(float, const float (&s)[4][4], const char* right, bool, const Seen& seen,
                               float (&sums)[n][4]) {
  each_row(s, [&](int row, float upper, float lower) {
    const float p[2] = {upper, lower};
    const bool sees[2] = {seen.sees(0, row), seen.sees(1, row)};
    WS_UNROLL
    for (int i = 0; i < n; ++i) {
      const Two x = two_of(right + row * pitch<float, columns> + (8 * i + lane() % 4 * 2) * 4);
      WS_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (sees[e / 2]) sums[i][e] = fused(p[e / 2], x.at[e % 2], sums[i][e]);
      }
    }
  });
}

}  // namespace ws::cuda
