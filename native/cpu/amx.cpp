// The self-check of the level with tiles: one product through the instructions against the model of amx.h, bit for bit.
// The level is offered only where it passes (device.cpp asks once), because its kernels rest on what is checked here:
// layouts of tiles, tails by configuration, rounding, denormal numbers. Empty at the other levels.
#include "../core/op.h"

#if WS_LEVEL >= 5
#include "amx.h"

namespace ws::WS_NS {
namespace {

constexpr int trials = 24;

/// One product of tiles: c += a b, rows x 16 numbers, of `pairs` pairs.
struct Trial {
  TileShapes shapes;
  uint32_t a[16][16], b[16][16], c[16][16];
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
  for (uint32_t i = 0; i < 256; ++i) {
    const uint32_t x = scramble(trial * 1024 + i), y = scramble(x + 1), z = scramble(y + 1);
    t.a[i / 16][i % 16] = element(x, least) << 16 | element(y, least);
    t.b[i / 16][i % 16] = element(z, other) << 16 | element(scramble(z + 1), other);
    t.c[i / 16][i % 16] = trial % 3 == 0 ? 0 : element(scramble(z + 2), least) << 16 | (z & 0xffffu);
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
bool agrees(const Trial& t, const uint32_t (&wanted)[16][16]) {
  TileModel<reading> model;
  uint32_t got[16][16] = {};
  model.configure(t.shapes);
  model.load(0, t.c, 64);
  model.load(1, t.a, 64);
  model.load(2, t.b, 64);
  model.multiply(0, 1, 2);
  model.store(0, got, 64);
  return std::memcmp(got, wanted, sizeof got) == 0;
}

void multiply(const Trial& t, uint32_t (&out)[16][16]) {
  std::memset(out, 0, sizeof out);
  WS_TILE_SHAPES(t.shapes);
  WS_TILE_LOAD(0, t.c, 64);
  WS_TILE_LOAD(1, t.a, 64);
  WS_TILE_LOAD(2, t.b, 64);
  WS_TILE_MULTIPLY(0, 1, 2);
  WS_TILE_STORE(0, out, 64);
  WS_TILE_RELEASE();
}

}  // namespace

/// Null when the instructions do, bit for bit, what one of Intel's two descriptions says; else what is wrong.
const char* check_tiles() {
  bool manual = true, guide = true;
  for (uint32_t trial = 0; trial < trials; ++trial) {
    Trial t;
    uint32_t out[16][16];
    fill(t, trial);
    multiply(t, out);
    manual = manual && agrees<Reading::manual>(t, out);
    guide = guide && agrees<Reading::guide>(t, out);
  }
  return manual || guide ? nullptr : "its tile products differ from Intel's description";
}

}  // namespace ws::WS_NS

#endif
