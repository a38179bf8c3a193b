// Tiles: the matrix registers of AMX (WS_LEVEL 5), and a model of them in plain C++ for the machines that lack them.
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

/// Eight tiles and what instructions do with them.
template <Reading reading>
struct TileModel {
  TileShapes shapes;
  uint32_t tiles[8][16][16];

  static float number(uint32_t bits) {
    if ((bits & 0x7f800000u) == 0) bits &= 0x80000000u;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  static float flush(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return number(bits);
  }
  static float step(uint32_t a, uint32_t b, float c) { return flush(__builtin_fmaf(number(a), number(b), c)); }

  void configure(const TileShapes& wanted) {
    shapes = wanted;
    std::memset(tiles, 0, sizeof tiles);
  }
  void zero(int t) { std::memset(tiles[t], 0, sizeof tiles[t]); }
  void load(int t, const void* from, int64_t stride) {
    zero(t);
    for (int row = 0; row < shapes.rows[t]; ++row) {
      std::memcpy(tiles[t][row], static_cast<const char*>(from) + row * stride, shapes.row_bytes[t]);
    }
  }
  void store(int t, void* to, int64_t stride) const {
    for (int row = 0; row < shapes.rows[t]; ++row) {
      std::memcpy(static_cast<char*>(to) + row * stride, tiles[t][row], shapes.row_bytes[t]);
    }
  }
  void multiply(int c, int a, int b) {
    const int columns = shapes.row_bytes[c] / 4, pairs = shapes.row_bytes[a] / 4;
    for (int row = 0; row < shapes.rows[c]; ++row) {
      float start[16], even[16], odd[16];
      for (int n = 0; n < columns; ++n) {
        start[n] = number(tiles[c][row][n]);
        even[n] = odd[n] = 0;
      }
      for (int k = 0; k < pairs; ++k) {
        const uint32_t first = tiles[a][row][k] << 16, second = tiles[a][row][k] & 0xffff0000u;
        for (int n = 0; n < columns; ++n) {
          const uint32_t other = tiles[b][k][n];
          if (reading == Reading::manual) {
            even[n] = step(first, other << 16, even[n]);
            odd[n] = step(second, other & 0xffff0000u, odd[n]);
          } else {
            start[n] = step(second, other & 0xffff0000u, step(first, other << 16, start[n]));
          }
        }
      }
      for (int n = 0; n < columns; ++n) {
        const float sum = reading == Reading::manual ? flush(start[n] + flush(even[n] + odd[n])) : start[n];
        std::memcpy(&tiles[c][row][n], &sum, 4);
      }
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
#define WS_TILE_ZERO(t) ::ws::WS_NS::tile_model.zero(t)
#define WS_TILE_LOAD(t, from, stride) ::ws::WS_NS::tile_model.load(t, from, stride)
#define WS_TILE_STORE(t, to, stride) ::ws::WS_NS::tile_model.store(t, to, stride)
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
