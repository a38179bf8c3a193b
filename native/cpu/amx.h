// Tiles: the matrix registers of AMX (WS_LEVEL 5), and a model of them in vectors for the machines that lack them.
// Kernels use the macros WS_TILE_*: the instructions, or the model where the build says WS_TILE_MODEL. Tile numbers are
// literals because instructions name their registers. Included by kernel files only.
//
// TDPBF16PS adds to c[m][n] the products of 16 pairs of bf16. Intel's manual (SDM volume 2) and its intrinsics guide
// describe it differently; the model does either:
//   manual: even = sum of a[2k] b[2k], odd = sum of a[2k+1] b[2k+1], both chains of fused multiply-adds from zero, then
//           c = c + (even + odd)
//   guide:  c = fma(a[2k], b[2k], c), then c = fma(a[2k+1], b[2k+1], c), for every k
// Each step is rounded to nearest even; denormal operands count as zero, denormal results become zero, whatever MXCSR
// says. amx.cpp finds out which of the two a processor does.
#pragma once
#include "simd.h"

namespace ws::WS_NS {

/// The operand of LDTILECFG: bytes of a row and rows of each tile; both zero for a tile that is not used.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {0};
  uint16_t row_bytes[16] = {0};
  uint8_t rows[16] = {0};
};

enum class Reading { manual, guide };

/// Denormal numbers are zero, with their sign.
static inline V flush(V x) {
  const V size = max(x, sub(zero(), x));
  return select_less(size, set1(__FLT_MIN__), mul(x, zero()), x);
}

/// Eight tiles and what instructions do with them.
template <Reading reading>
struct TileModel {
  TileShapes shapes;
  float tiles[8][16][16];

  void configure(const TileShapes& wanted) {
    shapes = wanted;
    std::memset(tiles, 0, sizeof tiles);
  }
  void zero_tile(int t) { std::memset(tiles[t], 0, sizeof tiles[t]); }
  void load_tile(int t, const void* from, int64_t stride) {
    zero_tile(t);
    for (int row = 0; row < shapes.rows[t]; ++row) {
      std::memcpy(tiles[t][row], static_cast<const char*>(from) + row * stride, shapes.row_bytes[t]);
    }
  }
  void store_tile(int t, void* to, int64_t stride) const {
    for (int row = 0; row < shapes.rows[t]; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride, tiles[t][row], shapes.row_bytes[t]);
    }
  }
  void multiply(int c, int a, int b) {
    const int columns = shapes.row_bytes[c] / 4, pairs = shapes.row_bytes[a] / 4;
    for (int row = 0; row < shapes.rows[c]; ++row)
      for (int n = 0; n < columns; n += W) {
        float* sums = tiles[c][row] + n;
        V sum = flush(load(sums)), even = zero(), odd = zero();
        for (int k = 0; k < pairs; ++k) {
          const V x = set1(tiles[a][row][k]), y = load(tiles[b][k] + n);
          const V x0 = flush(low_halves(x)), x1 = flush(high_halves(x));
          const V y0 = flush(low_halves(y)), y1 = flush(high_halves(y));
          if (reading == Reading::manual) {
            even = flush(fma(x0, y0, even));
            odd = flush(fma(x1, y1, odd));
          } else {
            sum = flush(fma(x1, y1, flush(fma(x0, y0, sum))));
          }
        }
        if (reading == Reading::manual) sum = flush(add(sum, flush(add(even, odd))));
        store_n(sums, sum, columns - n < W ? columns - n : W);
      }
  }
};

}  // namespace ws::WS_NS

#if defined(WS_TILE_MODEL)

namespace ws::WS_NS {
inline thread_local TileModel<Reading::manual> tile_model;
}
#define WS_TILE_SHAPES(shapes) ::ws::WS_NS::tile_model.configure(shapes)
#define WS_TILE_RELEASE() static_cast<void>(0)
#define WS_TILE_ZERO(t) ::ws::WS_NS::tile_model.zero_tile(t)
#define WS_TILE_LOAD(t, from, stride) ::ws::WS_NS::tile_model.load_tile(t, from, stride)
#define WS_TILE_STORE(t, to, stride) ::ws::WS_NS::tile_model.store_tile(t, to, stride)
#define WS_TILE_MULTIPLY(c, a, b) ::ws::WS_NS::tile_model.multiply(c, a, b)
#define WS_TILE_FENCE()

#elif WS_LEVEL >= 5

/// GCC's intrinsic says that it reads eight bytes; all of them must be there.
#define WS_TILE_SHAPES(shapes)                              \
  do {                                                      \
    __asm__ volatile("" : : "r"(&(shapes)) : "memory");     \
    _tile_loadconfig(&(shapes));                            \
  } while (0)
#define WS_TILE_RELEASE() _tile_release()
#define WS_TILE_ZERO(t) _tile_zero(t)
#define WS_TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define WS_TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define WS_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)
/// Between writing memory and loading tiles from it: GCC's tile loads do not say that they read memory.
#define WS_TILE_FENCE() __asm__ volatile("" ::: "memory")

#endif
