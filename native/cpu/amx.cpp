// The self-check of the level with tiles: products through the instructions against the model of amx.h, bit for bit.
// The level is offered only where it passes (device.cpp asks once), because its kernels rest on what is checked here:
// layouts of tiles, tails by configuration, rounding, denormal numbers, sums that start from memory (rows of any stride) and
// go on over several products, in the tile or through memory. Empty at the other levels.
#include "../core/op.h"

#if WS_LEVEL >= 5
#include "amx.h"

namespace ws::WS_NS {
namespace {

constexpr int trials = 24;

constexpr int groups = 3, room = 21;  // products that one sum takes; numbers from row to row of c
constexpr int64_t c_stride = 4 * room;

/// Products of tiles one after the other: c += a[g] b[g], rows x 16 numbers, of `pairs` pairs.
struct Trial {
  TileShapes shapes;
  uint32_t a[groups][16][16], b[groups][16][16], c[16][room];
};

uint32_t scramble(uint32_t x) {
  x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu;
  return x ^ x >> 16;
}

/// bf16 of either sign with exponents in [least, least + 15].
uint32_t element(uint32_t random, uint32_t least) {
  return (random & 0x807fu) | (least + (random >> 8 & 15u)) << 7;
}

/// The first trials have numbers near one; the later ones reach denormal operands, products and sums.
void fill(Trial& t, uint32_t trial) {
  const uint32_t least = trial < trials / 2 ? 120 : trial % 2 != 0 ? 56 : 0, other = least == 0 ? 120 : least;
  for (uint32_t i = 0; i < groups * 256; ++i) {
    const uint32_t x = scramble(trial * 1024 + i), y = scramble(x + 1), z = scramble(y + 1);
    const uint32_t g = i / 256, row = i / 16 % 16, column = i % 16;
    t.a[g][row][column] = element(x, least) << 16 | element(y, least);
    t.b[g][row][column] = element(z, other) << 16 | element(scramble(z + 1), other);
    if (g == 0) t.c[row][column] = trial % 3 == 0 ? 0 : element(scramble(z + 2), least) << 16 | (z & 0xffffu);
  }
  const auto rows = static_cast<uint8_t>(1 + trial * 5 % 16), pairs = static_cast<uint8_t>(16 - trial % 4 * 5);
  t.shapes = TileShapes();
  const uint8_t lines[] = {rows, rows, pairs};
  const uint16_t bytes[] = {64, static_cast<uint16_t>(4 * pairs), 64};
  for (int tile = 0; tile < 3; ++tile) {
    t.shapes.rows[tile] = lines[tile];
    t.shapes.row_bytes[tile] = bytes[tile];
  }
}

template <Reading reading>
bool agrees(const Trial& t, const uint32_t (&wanted)[16][room]) {
  TileModel<reading> model;
  uint32_t got[16][room] = {};
  model.configure(t.shapes);
  model.load_tile(0, t.c, c_stride);
  for (int g = 0; g < groups; ++g) {
    model.load_tile(1, t.a[g], 64);
    model.load_tile(2, t.b[g], 64);
    model.multiply(0, 1, 2);
  }
  model.store_tile(0, got, c_stride);
  return std::memcmp(got, wanted, sizeof got) == 0;
}

/// The last product's sum comes from memory.
void multiply(const Trial& t, uint32_t (&out)[16][room]) {
  std::memset(out, 0, sizeof out);
  WS_TILE_FENCE();
  WS_TILE_SHAPES(t.shapes);
  WS_TILE_LOAD(0, t.c, c_stride);
  for (int g = 0; g < groups; ++g) {
    if (g + 1 == groups) {
      WS_TILE_STORE(0, out, c_stride);
      WS_TILE_ZERO(0);
      WS_TILE_FENCE();
      WS_TILE_LOAD(0, out, c_stride);
    }
    WS_TILE_LOAD(1, t.a[g], 64);
    WS_TILE_LOAD(2, t.b[g], 64);
    WS_TILE_MULTIPLY(0, 1, 2);
  }
  WS_TILE_STORE(0, out, c_stride);
  WS_TILE_RELEASE();
}

}  // namespace

/// Null when the instructions do, bit for bit, what one of Intel's two descriptions says; else what is wrong.
const char* check_tiles() {
  bool manual = true, guide = true;
  for (uint32_t trial = 0; trial < trials; ++trial) {
    Trial t;
    uint32_t out[16][room];
    fill(t, trial);
    multiply(t, out);
    manual = manual && agrees<Reading::manual>(t, out);
    guide = guide && agrees<Reading::guide>(t, out);
  }
  return manual || guide ? nullptr : "its tile products differ from Intel's description";
}

}  // namespace ws::WS_NS

#endif
